//! The property behind the fuzz target `planner`, shared with the tests that replay its seeds: whatever sequences wait for and
//! whatever prices the machine is said to have, a step has a row of each sequence that decodes, at least one row of a prompt, no
//! more than is asked for, and, for prices that add up, no more than the time allows.

use bitnetc::engine::{Budget, CostEstimate, Demand, StepCost, StepWork, TimeBudget, plan, work};

/// Numbers drawn from bytes; zeros when there are none left.
struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// A number of any size, small ones more often.
    fn number(&mut self) -> u32 {
        let bits = self.byte() % 33;
        let word = u32::from_le_bytes(std::array::from_fn(|_| self.byte()));
        if bits == 0 { 0 } else { word >> (32 - bits) }
    }

    /// A price in seconds.
    fn price(&mut self) -> f64 {
        f64::from(self.number()) * 1e-9
    }
}

/// Whether the input has prompts, and whether a bound on time was of effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) prompts: bool,
    pub(crate) timed: bool,
}

/// A price that the estimate of random steps has come to, or a random one.
fn cost(bytes: &mut Bytes<'_>) -> StepCost {
    if bytes.byte().is_multiple_of(2) {
        let [pass, row, logits, key] = std::array::from_fn(|_| bytes.price());
        return StepCost { pass, row, logits, key };
    }
    let mut estimate = CostEstimate::default();
    for _ in 0..bytes.byte() % 8 {
        let [passes, rows, logits, keys] = std::array::from_fn(|_| bytes.number());
        let step = StepWork { passes, rows, logits, keys: u64::from(keys) << 8 };
        estimate.observe(step, bytes.price() * 1e3);
        let cost = estimate.cost().unwrap_or_default();
        let prices = [cost.pass, cost.row, cost.logits, cost.key];
        assert!(prices.iter().all(|price| price.is_finite() && *price >= 0.0), "{estimate:?}");
    }
    estimate.cost().unwrap_or_default()
}

pub(crate) fn check(bytes: &[u8]) -> Outcome {
    let mut bytes = Bytes(bytes);
    let chunk = bytes.number();
    let max_prompt_rows = (bytes.byte() % 2 == 0).then(|| bytes.number());
    let time =
        (bytes.byte() % 4 != 0).then(|| TimeBudget { seconds: bytes.price() * 1e3, cost: cost(&mut bytes) });
    let mut budget = Budget { chunk, max_prompt_rows, time, turn: u64::from(bytes.byte()) };
    let mut demands = Vec::new();
    while !bytes.0.is_empty() && demands.len() < 200 {
        let kind = bytes.byte();
        demands.push(match kind % 4 {
            0 => Demand::Nothing,
            1 => Demand::Decode { position: bytes.number() },
            _ => Demand::Prompt {
                rows: bytes.number().max(1),
                arrival: (u64::from(bytes.byte()) << 8) | demands.len() as u64,
                position: bytes.number(),
                scored: kind > 128,
            },
        });
    }
    let mut rows = Vec::new();
    let mut outcome = Outcome::default();
    for _ in 0..8 {
        outcome.prompts |= check_step(&budget, &demands, &mut rows);
        outcome.timed |= budget.time.is_some() && outcome.prompts;
        for (demand, &rows) in demands.iter_mut().zip(&rows) {
            if let Demand::Prompt { rows: wanted, position, .. } = demand {
                *wanted -= rows;
                *position = position.saturating_add(rows);
                if *wanted == 0 {
                    *demand = Demand::Nothing;
                }
            }
        }
        budget.turn += 1;
    }
    outcome
}

/// A step; whether there were prompts.
fn check_step(budget: &Budget, demands: &[Demand], rows: &mut Vec<u32>) -> bool {
    plan(budget, demands, rows);
    assert_eq!(rows.len(), demands.len());
    let (mut decoding, mut prompts, mut of_prompts) = (0u64, 0u64, 0u64);
    for (demand, &rows) in demands.iter().zip(&*rows) {
        match *demand {
            Demand::Nothing => assert_eq!(rows, 0),
            Demand::Decode { .. } => {
                assert_eq!(rows, 1);
                decoding += 1;
            }
            Demand::Prompt { rows: wanted, .. } => {
                assert!(rows <= wanted);
                prompts += 1;
                of_prompts += u64::from(rows);
            }
        }
    }
    if prompts == 0 {
        return false;
    }
    assert!(of_prompts >= 1 && of_prompts <= u64::from(budget.max_prompt_rows.unwrap_or(u32::MAX).max(1)));
    if let Some(time) = budget.time.filter(|_| decoding > 0 && of_prompts > 1) {
        let mut step = work(budget.chunk, demands, rows);
        // The logits after the last row of a prompt are not foreseen.
        step.logits = step.logits.saturating_sub(prompts as u32);
        let seconds = time.cost.seconds(step);
        assert!(seconds <= time.seconds * 1.01 + 1e-9, "{seconds} of {} s: {budget:?}", time.seconds);
    }
    true
}
