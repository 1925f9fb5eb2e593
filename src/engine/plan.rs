//! The planner: determines the rows of each sequence in the next step.
//!
//! It is a pure function of the demands of the sequences. Rules:
//! 1. every sequence that decodes gets its row;
//! 2. three prompts are under way, the oldest ones. They take turns for one row, whatever it costs: every second one is the
//!    oldest's;
//! 3. they share what the [`Budget`] leaves beside that, rows or time: half is the oldest's, of the other two the one with less left
//!    gets the rest but for an eighth, which is the third one's;
//! 4. what is over goes to the prompts in order of arrival;
//! 5. a part of a prompt ends at a multiple of 16 positions, the tiles of attention and of the head, where that costs it a
//!    sixteenth of its rows at most;
//! 6. nothing gets more rows than it waits for.
//!
//! So the oldest prompt gets half of the rows and each of the three a row in four steps, while a short question does not wait for
//! all of a long document.

use super::cost::{StepCost, StepWork};

/// Prompts that are under way at a time.
const UNDER_WAY: usize = 3;

/// Rows of prompts in a step that others decode in, unless asked otherwise: a decode step of a large model takes the time in
/// which the weights are read, in which about so many rows more are computed at a small price.
const PROMPT_ROWS_BESIDE_DECODING: u32 = 32;

/// Rows that attention and the head compute at once.
const TILE: u32 = 16;

/// What a sequence waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it is free, or its client does not read.
    Nothing,
    /// The row of its latest token.
    Decode {
        /// Tokens before it.
        position: u32,
    },
    /// So many rows of its prompt.
    Prompt {
        /// At least 1.
        rows: u32,
        /// Rising numbers: the order in which requests came.
        arrival: u64,
        /// Tokens before them.
        position: u32,
        /// Whether logits are wanted after each of them.
        scored: bool,
    },
}

impl Demand {
    /// Rows, logits and keys of so many of its rows.
    fn work(self, rows: u32) -> StepWork {
        let (position, logits) = match self {
            Demand::Nothing => (0, 0),
            Demand::Decode { position } => (position, rows),
            Demand::Prompt { position, scored: true, .. } => (position, rows),
            Demand::Prompt { position, rows: all, .. } => (position, u32::from(rows == all)),
        };
        let (position, many) = (u64::from(position), u64::from(rows));
        let keys = many.saturating_mul(position).saturating_add(many * (many + 1) / 2);
        StepWork { passes: 0, rows, logits, keys }
    }
}

/// What a step with these rows has to do.
pub fn work(chunk: u32, demands: &[Demand], rows: &[u32]) -> StepWork {
    let parts = demands.iter().zip(rows).map(|(demand, &rows)| demand.work(rows));
    let sum = parts.fold(StepWork::default(), |sum, part| StepWork {
        passes: 0,
        rows: sum.rows.saturating_add(part.rows),
        logits: sum.logits.saturating_add(part.logits),
        keys: sum.keys.saturating_add(part.keys),
    });
    StepWork { passes: sum.rows.div_ceil(chunk.max(1)), ..sum }
}

/// The time that a step may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeBudget {
    /// In seconds.
    pub seconds: f64,
    /// What steps are expected to cost.
    pub cost: StepCost,
}

impl TimeBudget {
    /// Rows of a prompt that take so many seconds, of which each has one key more than the one before.
    fn rows(&self, demand: Demand, seconds: f64) -> u32 {
        let Demand::Prompt { position, scored, .. } = demand else { return 0 };
        let first = self.row_seconds(position, scored) + self.cost.key / 2.0;
        let root = (first * first + 2.0 * self.cost.key * seconds.max(0.0)).sqrt();
        // Infinite where rows cost nothing, and then all that there are; NaN, of nothing by nothing, is 0.
        (2.0 * seconds.max(0.0) / (first + root)) as u32
    }

    /// The price of a row at this position.
    fn row_seconds(&self, position: u32, scored: bool) -> f64 {
        let logits = if scored { self.cost.logits } else { 0.0 };
        self.cost.row + logits + self.cost.key * f64::from(position)
    }

    /// The price of so many rows of a prompt.
    fn prompt_seconds(&self, demand: Demand, rows: u32) -> f64 {
        let work = demand.work(rows);
        let Demand::Prompt { scored, .. } = demand else { return 0.0 };
        self.cost.seconds(StepWork { logits: if scored { rows } else { 0 }, ..work })
    }
}

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Rows that read the weights once.
    pub chunk: u32,
    /// Rows of prompts at most; `None`: a chunk where nobody decodes, and beside sequences that decode what `time` says, or
    /// 32.
    pub max_prompt_rows: Option<u32>,
    /// Time of a step in which sequences decode.
    pub time: Option<TimeBudget>,
    /// Number of the step: whose turn it is where there are fewer rows than prompts.
    pub turn: u64,
}

/// What is left for prompts.
#[derive(Clone, Copy, Debug)]
struct Spare {
    rows: u32,
    seconds: f64,
}

impl Spare {
    /// A part of it.
    fn part(self, of: u32) -> Self {
        Self { rows: self.rows / of, seconds: self.seconds / f64::from(of) }
    }
}

impl Budget {
    fn spare(&self, demands: &[Demand], decode: StepWork, first: Demand) -> Spare {
        match &self.time {
            Some(time) if decode.rows > 0 => self.timed(time, demands, decode, first),
            _ => Spare { rows: self.prompt_rows(decode.rows), seconds: f64::INFINITY },
        }
    }

    /// Rows for prompts beside `decoding` sequences: those that are left of the last chunk that is read for them. Where these
    /// are less than a quarter of a chunk and more are asked for, another chunk is read: it takes its time for arithmetic,
    /// and reading the weights once more costs little beside that.
    fn prompt_rows(&self, decoding: u32) -> u32 {
        let most = match (self.max_prompt_rows, decoding) {
            (Some(rows), _) => rows,
            (None, 0) => self.chunk,
            (None, _) => PROMPT_ROWS_BESIDE_DECODING,
        };
        let chunk = self.chunk.max(1);
        let left = chunk - decoding % chunk;
        let few = left < most.min(chunk / 4);
        most.min(if few { left.saturating_add(chunk) } else { left }).max(1)
    }

    /// What the time leaves beside sequences that decode. The weights are read as often as these need, and once more where
    /// that leaves prompts less than three quarters of a chunk and there is time for a quarter: a step that takes less than
    /// its time is good for those who decode, and prompts need most of what reading the weights costs.
    fn timed(&self, time: &TimeBudget, demands: &[Demand], decode: StepWork, first: Demand) -> Spare {
        let chunk = self.chunk.max(1);
        let wanted = demands.iter().fold(0u32, |sum, demand| match demand {
            Demand::Prompt { rows, .. } => sum.saturating_add(*rows),
            Demand::Nothing | Demand::Decode { .. } => sum,
        });
        let most = self.max_prompt_rows.unwrap_or(u32::MAX).max(1);
        let passes = decode.rows / chunk + 1;
        let room = chunk - decode.rows % chunk;
        let seconds = time.seconds - time.cost.seconds(StepWork { passes, ..decode });
        let spare = Spare { rows: room.min(most), seconds };
        if room >= chunk - chunk / 4 || room >= wanted.min(most) {
            return spare;
        }
        let over = seconds - time.cost.pass - time.prompt_seconds(first, room);
        let quarter = f64::from(chunk.div_ceil(4)) * time.prompt_seconds(first, 1);
        if over < quarter {
            return spare;
        }
        Spare { rows: room.saturating_add(chunk).min(most), seconds: seconds - time.cost.pass }
    }

    /// Rows of a prompt that fit into a part of what is left.
    fn fitting(&self, demand: Demand, part: Spare) -> u32 {
        match &self.time {
            Some(time) if part.seconds.is_finite() => part.rows.min(time.rows(demand, part.seconds)),
            _ => part.rows,
        }
    }
}

/// The plan in the making.
struct Planner<'a> {
    budget: &'a Budget,
    demands: &'a [Demand],
    rows: &'a mut [u32],
    spare: Spare,
}

impl Planner<'_> {
    /// Gives a prompt at most this part of what is left.
    fn grant(&mut self, index: usize, part: Spare) {
        let demand = self.demands[index];
        let Demand::Prompt { rows: wanted, arrival, position, scored } = demand else { return };
        let had = self.rows[index];
        let next =
            Demand::Prompt { rows: wanted - had, arrival, position: position.saturating_add(had), scored };
        let most =
            Spare { rows: part.rows.min(self.spare.rows), seconds: part.seconds.min(self.spare.seconds) };
        let granted = self.budget.fitting(next, most).min(wanted - had);
        self.take(index, next, granted);
    }

    fn take(&mut self, index: usize, next: Demand, granted: u32) {
        self.rows[index] += granted;
        self.spare.rows = self.spare.rows.saturating_sub(granted);
        if let Some(time) = self.budget.time.filter(|_| self.spare.seconds.is_finite()) {
            self.spare.seconds -= time.prompt_seconds(next, granted);
        }
    }

    /// Lets the part of a prompt end where a tile does.
    fn align(&mut self, index: usize) {
        let Demand::Prompt { rows: wanted, position, .. } = self.demands[index] else { return };
        let rows = self.rows[index];
        let over = (u64::from(position) + u64::from(rows)) % u64::from(TILE);
        if rows < wanted && over <= u64::from(rows / 16) {
            self.rows[index] = rows - over as u32;
        }
    }
}

/// Puts the rows of each sequence in the next step into `rows`, in the order of `demands`.
pub fn plan(budget: &Budget, demands: &[Demand], rows: &mut Vec<u32>) {
    rows.clear();
    rows.extend(demands.iter().map(|demand| u32::from(matches!(demand, Demand::Decode { .. }))));
    let decode = work(budget.chunk, demands, rows);
    let mut under_way = [0; UNDER_WAY];
    let mut count = 0;
    let mut next = oldest_after(demands, None);
    while let Some((index, arrival)) = next.filter(|_| count < UNDER_WAY) {
        under_way[count] = index;
        count += 1;
        next = oldest_after(demands, Some(arrival));
    }
    if count == 0 {
        return;
    }
    let first = demands[under_way[0]];
    let spare = budget.spare(demands, decode, first);
    let mut planner = Planner { budget, demands, rows, spare };
    let due = under_way[turn(budget.turn) % count];
    planner.take(due, demands[due], 1);
    let spare = planner.spare;
    let eighth = Spare { rows: (spare.rows / 8).max(1), seconds: spare.seconds / 8.0 };
    match under_way[..count] {
        [only] => planner.grant(only, spare),
        [oldest, other] => {
            planner.grant(oldest, spare.part(2));
            let rest = planner.spare;
            planner.grant(other, rest);
        }
        [oldest, one, two] => {
            let left = |index: usize| match demands[index] {
                Demand::Prompt { rows, .. } => rows,
                Demand::Nothing | Demand::Decode { .. } => 0,
            };
            let (shorter, longer) = if left(two) < left(one) { (two, one) } else { (one, two) };
            planner.grant(oldest, spare.part(2));
            let rest = planner.spare;
            let seconds = rest.seconds - if rest.seconds.is_finite() { eighth.seconds } else { 0.0 };
            planner.grant(shorter, Spare { rows: rest.rows.saturating_sub(eighth.rows), seconds });
            let rest = planner.spare;
            planner.grant(longer, Spare { rows: eighth.rows.min(rest.rows), seconds: eighth.seconds });
        }
        _ => {}
    }
    let mut next = oldest_after(demands, None);
    while let Some((index, arrival)) = next.filter(|_| planner.spare.rows > 0) {
        let rest = planner.spare;
        planner.grant(index, rest);
        next = oldest_after(demands, Some(arrival));
    }
    (0..demands.len()).for_each(|index| planner.align(index));
}

/// Which of the prompts under way, by age, has its turn in a step.
fn turn(step: u64) -> usize {
    match step % 4 {
        1 => 1,
        3 => 2,
        _ => 0,
    }
}

/// Index and arrival of the oldest prompt that came after `arrival`.
fn oldest_after(demands: &[Demand], after: Option<u64>) -> Option<(usize, u64)> {
    let prompts = demands.iter().enumerate().filter_map(|(index, demand)| match demand {
        Demand::Prompt { arrival, .. } => Some((index, *arrival)),
        Demand::Nothing | Demand::Decode { .. } => None,
    });
    prompts.filter(|&(_, at)| after.is_none_or(|after| at > after)).min_by_key(|&(_, at)| at)
}

#[cfg(test)]
mod tests;
