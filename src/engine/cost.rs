//! An estimate of the time of a step, from the times of earlier steps.
//!
//! The time of a step is modelled as a sum with four prices: per pass over the weights, per row, per row whose logits are wanted, and
//! per key that attention reads. The prices minimize the squares of the relative errors of recent steps, with weights that decay with
//! age, and are never negative. A price that recent steps do not determine (for example because all of them had the same rows) keeps
//! its value.
//!
//! Invariants: prices are finite and not negative, whatever is observed; a single outlier changes them little, three in a row change
//! them fully; observing a step allocates nothing.

/// The work of a step, as far as its time depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// The number of times that the weights are read.
    pub passes: u32,
    /// Rows.
    pub rows: u32,
    /// Rows whose logits are wanted.
    pub logits: u32,
    /// The number of keys that attention reads: for each row the positions up to its own.
    pub keys: u64,
}

/// Prices in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepCost {
    /// The price of reading the weights once.
    pub pass: f64,
    /// The price of a row.
    pub row: f64,
    /// The price of the logits after a row, sampling included.
    pub logits: f64,
    /// The price of a key.
    pub key: f64,
}

/// Prices, and so sums, of a step.
const PRICES: usize = 4;

impl StepWork {
    fn amounts(self) -> [f64; PRICES] {
        [f64::from(self.passes), f64::from(self.rows), f64::from(self.logits), self.keys as f64]
    }
}

impl StepCost {
    fn of(prices: [f64; PRICES]) -> Self {
        let [pass, row, logits, key] = prices;
        Self { pass, row, logits, key }
    }

    fn prices(self) -> [f64; PRICES] {
        [self.pass, self.row, self.logits, self.key]
    }

    /// The expected time of a step, in seconds.
    pub fn seconds(&self, work: StepWork) -> f64 {
        work.amounts().iter().zip(self.prices()).map(|(amount, price)| amount * price).sum()
    }
}

/// What the prices of a machine that nothing is known of are to each other: a row, and how many rows the others cost as much
/// as.
const RELATIVE: [f64; PRICES] = [8.0, 1.0, 2.0, 1.0 / 4096.0];

/// How much a step counts beside the one after it.
const MEMORY: f64 = 0.93;

/// How strongly prices stay what they were where steps do not tell.
const INERTIA: f64 = 1e-3;

/// Part of its first estimate below which a price is held as if it were that much.
const LEAST: f64 = 0.05;

/// Times of a step's expected time between which its time is believed at once.
const BELIEVED: (f64, f64) = (0.5, 2.0);

/// Steps in a row that took longer, or shorter, than is believed, after which they are.
const CONVINCING: u32 = 3;

/// How much of the steps before is left when one that was not believed at first is.
const DOUBT: f64 = 0.5;

/// Rounds of solving for one price after the other, which begin at the prices there were.
const ROUNDS: usize = 24;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct CostEstimate {
    /// The prices, and the first ones.
    prices: Option<([f64; PRICES], [f64; PRICES])>,
    /// Weighted sums of products of amounts, and of amounts and times.
    products: [[f64; PRICES]; PRICES],
    times: [f64; PRICES],
    /// Steps in a row that were not believed: positive if they took longer.
    surprises: i32,
}

impl CostEstimate {
    /// The prices; `None` before the first step.
    pub fn cost(&self) -> Option<StepCost> {
        self.prices.map(|(prices, _)| StepCost::of(prices))
    }

    /// Takes note of how long a step took, in seconds.
    pub fn observe(&mut self, work: StepWork, seconds: f64) {
        let seconds = seconds.max(1e-9);
        let amounts = work.amounts();
        if work.rows == 0 || !seconds.is_finite() {
            return;
        }
        let Some((mut prices, first)) = self.prices else {
            let units: f64 = amounts.iter().zip(RELATIVE).map(|(amount, relative)| amount * relative).sum();
            let prices = RELATIVE.map(|relative| relative * seconds / units);
            self.prices = Some((prices, prices));
            return self.add(amounts, seconds, seconds);
        };
        let expected = StepCost::of(prices).seconds(work).max(1e-9);
        if !expected.is_finite() {
            // Amounts that no machine has.
            return *self = Self::default();
        }
        let believed = self.believed(seconds, expected);
        self.add(amounts, believed, expected);
        self.solve(&mut prices, &first);
        self.prices = Some((prices, first));
    }

    /// The time, or as much of it as is believed.
    fn believed(&mut self, seconds: f64, expected: f64) -> f64 {
        let (least, most) = (expected * BELIEVED.0, expected * BELIEVED.1);
        self.surprises = match seconds {
            s if s > most => self.surprises.max(0) + 1,
            s if s < least => self.surprises.min(0) - 1,
            _ => 0,
        };
        if self.surprises.unsigned_abs() < CONVINCING {
            return seconds.clamp(least, most);
        }
        self.products.iter_mut().chain([&mut self.times]).flatten().for_each(|sum| *sum *= DOUBT);
        seconds
    }

    /// Adds a step to the sums, by its relative error.
    fn add(&mut self, amounts: [f64; PRICES], seconds: f64, expected: f64) {
        let weight = 1.0 / (expected * expected);
        for ((products, time), amount) in self.products.iter_mut().zip(&mut self.times).zip(amounts) {
            for (product, other) in products.iter_mut().zip(amounts) {
                *product = *product * MEMORY + weight * amount * other;
            }
            *time = *time * MEMORY + weight * amount * seconds;
        }
    }

    /// Improves the prices one after the other, each with the others held.
    fn solve(&self, prices: &mut [f64; PRICES], first: &[f64; PRICES]) {
        let held = *prices;
        for _ in 0..ROUNDS {
            for (i, (products, time)) in self.products.iter().zip(self.times).enumerate() {
                let scale = held[i].max(LEAST * first[i]);
                let inertia = INERTIA / (scale * scale);
                let all: f64 = products.iter().zip(&*prices).map(|(product, price)| product * price).sum();
                let others = all - products[i] * prices[i];
                let price = (time - others + inertia * held[i]) / (products[i] + inertia);
                prices[i] = if price.is_nan() { 0.0 } else { price.clamp(0.0, f64::MAX) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(count: u32, context: u64) -> StepWork {
        StepWork { passes: 1, rows: count, logits: count, keys: u64::from(count) * context }
    }

    fn mixed(count: u32, prompt: u32, position: u64) -> StepWork {
        let keys = u64::from(prompt) * position + u64::from(prompt * prompt / 2);
        StepWork { rows: count + prompt, keys: keys + u64::from(count) * 100, ..decode(count, 0) }
    }

    /// Feeds steps of a machine with these prices and this noise; the relative error of the prediction at the end.
    fn error_after(
        steps: impl Iterator<Item = StepWork>,
        truth: impl Fn(StepWork) -> f64,
        noise: &[f64],
        asked: StepWork,
    ) -> f64 {
        let mut estimate = CostEstimate::default();
        for (step, noise) in steps.zip(noise.iter().cycle()) {
            estimate.observe(step, truth(step) * noise);
        }
        let cost = estimate.cost().unwrap();
        cost.seconds(asked) / truth(asked) - 1.0
    }

    #[test]
    fn prices_are_learnt_from_steps_of_all_kinds() {
        let machine = StepCost { pass: 0.035, row: 0.0033, logits: 0.001, key: 2e-7 };
        let truth = |work| machine.seconds(work);
        let steps = (0..60).map(|n: u32| match n % 3 {
            0 => decode(8, u64::from(n) * 10),
            1 => mixed(0, 128, u64::from(n) * 64),
            _ => mixed(8, 40 + n % 30, u64::from(n) * 64),
        });
        for asked in [decode(8, 300), mixed(8, 55, 2000), mixed(0, 128, 4000), decode(16, 600)] {
            let error = error_after(steps.clone(), truth, &[1.0, 1.1, 0.9, 1.05, 0.95], asked);
            assert!(error.abs() < 0.12, "{asked:?}: {error}");
        }
    }

    #[test]
    fn a_machine_that_reads_while_it_computes_is_known_where_it_works() {
        // Rows are free until reading the weights takes no longer than they do.
        let truth = |work: StepWork| f64::max(0.039, f64::from(work.rows) * 0.0035) + work.keys as f64 * 1e-7;
        let steps = [mixed(0, 128, 0); 4].into_iter().chain([decode(8, 100); 20]);
        let steps = steps.chain((0..20).map(|n| mixed(8, 55, 55 * n)));
        let error = error_after(steps, truth, &[1.0], mixed(8, 60, 1200));
        assert!(error.abs() < 0.1, "{error}");
    }

    #[test]
    fn one_bad_step_is_not_believed_and_a_slower_machine_is() {
        let machine = StepCost { pass: 0.02, row: 0.003, logits: 0.001, key: 1e-7 };
        let asked = mixed(8, 60, 500);
        let mut estimate = CostEstimate::default();
        for n in 0..30 {
            estimate.observe(mixed(8, 40 + n, 500), machine.seconds(mixed(8, 40 + n, 500)));
        }
        let before = estimate.cost().unwrap().seconds(asked);
        estimate.observe(asked, 20.0 * before);
        let after = estimate.cost().unwrap().seconds(asked);
        assert!(after < 1.15 * before, "{before} {after}");
        for _ in 0..20 {
            estimate.observe(asked, 3.0 * before);
        }
        let slower = estimate.cost().unwrap().seconds(asked);
        assert!((2.4..3.3).contains(&(slower / before)), "{}", slower / before);
    }

    proptest! {
        #[test]
        fn prices_stay_finite_and_are_never_negative(
            steps in proptest::collection::vec((0..5u32, 0..5000u32, 0..100u32, any::<u64>(), any::<f64>()), 1..80)
        ) {
            let mut estimate = CostEstimate::default();
            for (passes, rows, logits, keys, seconds) in steps {
                estimate.observe(StepWork { passes, rows, logits, keys: keys >> 20 }, seconds.abs().min(1e6));
                for price in estimate.cost().unwrap_or_default().prices() {
                    prop_assert!(price.is_finite() && price >= 0.0, "{:?}", estimate);
                }
            }
        }
    }
}
