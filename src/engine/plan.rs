//! The planner: which rows of which sequence the next step computes.
//!
//! A pure function of what the sequences wait for. Rules:
//! 1. every sequence that decodes gets its row;
//! 2. prompts share the rows that the [`Budget`] leaves them, at least one: the three oldest get equal parts, and what is
//!    over goes to the prompts in order of arrival, the oldest first;
//! 3. nothing gets more rows than it waits for.
//!
//! So the oldest prompt gets at least a third of the rows and no prompt waits for ever, while a short question does not wait
//! for all of a long document.

/// Prompts that share the rows of a step equally.
const EQUAL_PROMPTS: usize = 3;

/// Rows of prompts in a step that others decode in, unless asked otherwise: a decode step of a large model takes the time in
/// which the weights are read, in which about so many rows more are computed at a small price.
const PROMPT_ROWS_BESIDE_DECODING: u32 = 32;

/// What a sequence waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it is free, or its client does not read.
    Nothing,
    /// The row of its latest token.
    Decode,
    /// So many rows of its prompt.
    Prompt {
        /// At least 1.
        rows: u32,
        /// Rising numbers: the order in which requests came.
        arrival: u64,
    },
}

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Rows that read the weights once.
    pub chunk: u32,
    /// Rows of prompts at most; `None`: a chunk, or 32 beside sequences that decode.
    pub max_prompt_rows: Option<u32>,
}

impl Budget {
    /// Rows for prompts beside `decoding` sequences: those that are left of the last chunk that is read for them. Where these
    /// are less than a quarter of a chunk and more are asked for, another chunk is read: it takes its time for arithmetic,
    /// and reading the weights once more costs little beside that.
    fn prompt_rows(self, decoding: u32) -> u32 {
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
}

/// Puts the rows of each sequence in the next step into `rows`, in the order of `demands`.
pub fn plan(budget: Budget, demands: &[Demand], rows: &mut Vec<u32>) {
    rows.clear();
    rows.extend(demands.iter().map(|demand| u32::from(*demand == Demand::Decode)));
    let decoding = rows.iter().sum();
    let mut spare = budget.prompt_rows(decoding);
    let first = oldest_after(demands, None);
    let count =
        std::iter::successors(first, |&(_, at)| oldest_after(demands, Some(at))).take(EQUAL_PROMPTS).count();
    let part = spare / (count.max(1) as u32);
    let mut next = first;
    for _ in 0..count {
        let Some((index, arrival)) = next else { break };
        spare -= grant(demands, rows, index, part);
        next = oldest_after(demands, Some(arrival));
    }
    let mut next = first;
    while let Some((index, arrival)) = next.filter(|_| spare > 0) {
        spare -= grant(demands, rows, index, spare);
        next = oldest_after(demands, Some(arrival));
    }
}

/// Gives a prompt at most this number of additional rows; returns how many.
fn grant(demands: &[Demand], rows: &mut [u32], index: usize, most: u32) -> u32 {
    let Demand::Prompt { rows: wanted, .. } = demands[index] else { return 0 };
    let granted = most.min(wanted - rows[index]);
    rows[index] += granted;
    granted
}

/// Index and arrival of the oldest prompt that came after `arrival`.
fn oldest_after(demands: &[Demand], after: Option<u64>) -> Option<(usize, u64)> {
    let prompts = demands.iter().enumerate().filter_map(|(index, demand)| match demand {
        Demand::Prompt { arrival, .. } => Some((index, *arrival)),
        Demand::Nothing | Demand::Decode => None,
    });
    prompts.filter(|&(_, at)| after.is_none_or(|after| at > after)).min_by_key(|&(_, at)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planned(max_prompt_rows: Option<u32>, demands: &[Demand]) -> Vec<u32> {
        let mut rows = Vec::new();
        plan(Budget { chunk: 128, max_prompt_rows }, demands, &mut rows);
        rows
    }

    fn prompt(rows: u32, arrival: u64) -> Demand {
        Demand::Prompt { rows, arrival }
    }

    #[test]
    fn decoding_comes_first_and_prompts_share() {
        let decode = Demand::Decode;
        assert!(planned(None, &[]).is_empty());
        assert_eq!(planned(None, &[prompt(500, 0)]), [128]);
        assert_eq!(planned(None, &[decode, Demand::Nothing, prompt(500, 0)]), [1, 0, 32]);
        assert_eq!(planned(Some(100), &[decode; 120]), [1; 120]);
        // What the chunks that are read anyway have room for, and a quarter of a chunk at least.
        let beside = |decoding, most| {
            planned(most, &[&vec![decode; decoding][..], &[prompt(500, 0)]].concat())[decoding]
        };
        assert_eq!([90, 96].map(|decoding| beside(decoding, Some(u32::MAX))), [38, 32]);
        assert_eq!([97, 120, 127].map(|decoding| beside(decoding, Some(u32::MAX))), [159, 136, 129]);
        assert_eq!([128, 130, 4096].map(|decoding| beside(decoding, Some(u32::MAX))), [128, 126, 128]);
        assert_eq!([120, 127, 130].map(|decoding| beside(decoding, Some(20))), [20; 3]);
        assert_eq!([100, 127, 130, 4000].map(|decoding| beside(decoding, None)), [32; 4]);
        // Three share, the remainder is the oldest's, and the fourth waits.
        let four = [prompt(90, 7), prompt(90, 3), prompt(90, 5), prompt(90, 9)];
        assert_eq!(planned(Some(50), &four), [16, 18, 16, 0]);
        // What short ones leave over goes to the oldest, then to the others in their order.
        assert_eq!(
            planned(Some(50), &[prompt(3, 7), prompt(20, 3), prompt(5, 5), prompt(90, 9)]),
            [3, 20, 5, 22]
        );
        assert_eq!(planned(Some(2), &[prompt(3, 1), prompt(3, 2), prompt(3, 3)]), [2, 0, 0]);
    }

    proptest! {
        #[test]
        fn budgets_hold_and_nobody_starves(
            kinds in proptest::collection::vec((0..3u8, 1..200u32), 0..40), chunk in 1..200u32, most in proptest::option::of(0..200u32)
        ) {
            let budget = Budget { chunk, max_prompt_rows: most };
            let mut demands: Vec<Demand> = kinds.iter().zip(0..).map(|(&(kind, rows), at)| match kind {
                0 => Demand::Nothing,
                1 => Demand::Decode,
                _ => prompt(rows, (at * 17) % 41),
            }).collect();
            let decoding = demands.iter().filter(|demand| **demand == Demand::Decode).count() as u32;
            let wanted: u32 = demands.iter().map(|d| if let Demand::Prompt { rows, .. } = d { *rows } else { 0 }).sum();
            let mut rows = Vec::new();
            let mut steps = 0;
            while demands.iter().any(|demand| matches!(demand, Demand::Prompt { .. })) {
                plan(budget, &demands, &mut rows);
                let of = |decode: bool| -> u32 {
                    demands.iter().zip(&rows).filter(|(d, _)| (**d == Demand::Decode) == decode).map(|(_, rows)| rows).sum()
                };
                prop_assert_eq!(of(true), decoding);
                let left: u32 = demands.iter().map(|d| if let Demand::Prompt { rows, .. } = d { *rows } else { 0 }).sum();
                prop_assert_eq!(of(false), budget.prompt_rows(decoding).min(left));
                let by_default = if decoding == 0 { chunk } else { PROMPT_ROWS_BESIDE_DECODING };
                prop_assert!(of(false) <= most.unwrap_or(by_default).max(1) && of(false) >= 1);
                // A prompt that needs this many rows gets at least a quarter of a chunk, even beside decoding sequences.
                let quarter = (chunk / 4).min(most.unwrap_or(PROMPT_ROWS_BESIDE_DECODING));
                prop_assert!(of(false) >= left.min(quarter));
                let oldest = oldest_after(&demands, None).unwrap().0;
                prop_assert!(rows[oldest] >= 1);
                for (demand, &rows) in demands.iter_mut().zip(&rows) {
                    if let Demand::Prompt { rows: waiting, .. } = demand {
                        *waiting -= rows;
                        if *waiting == 0 {
                            *demand = Demand::Nothing;
                        }
                    }
                }
                steps += 1;
                prop_assert!(steps <= wanted);
            }
        }
    }
}
