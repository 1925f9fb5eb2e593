use proptest::prelude::*;

use super::*;

fn budget(max_prompt_rows: Option<u32>) -> Budget {
    Budget { chunk: 128, max_prompt_rows, time: None, turn: 0 }
}

fn planned(budget: &Budget, demands: &[Demand]) -> Vec<u32> {
    let mut rows = Vec::new();
    plan(budget, demands, &mut rows);
    rows
}

const DECODE: Demand = Demand::Decode { position: 0 };

fn prompt(rows: u32, arrival: u64) -> Demand {
    Demand::Prompt { rows, arrival, position: 0, scored: false }
}

#[test]
fn decoding_comes_first_and_prompts_share() {
    let most = |rows| budget(Some(rows));
    assert!(planned(&budget(None), &[]).is_empty());
    assert_eq!(planned(&budget(None), &[prompt(500, 0)]), [128]);
    assert_eq!(planned(&budget(None), &[DECODE, Demand::Nothing, prompt(500, 0)]), [1, 0, 32]);
    assert_eq!(planned(&most(100), &[DECODE; 120]), [1; 120]);
    // What the chunks that are read anyway have room for, and a quarter of a chunk at least.
    let beside = |decoding, most| budget(most).prompt_rows(decoding);
    assert_eq!([90, 96].map(|decoding| beside(decoding, Some(u32::MAX))), [38, 32]);
    assert_eq!([97, 120, 127].map(|decoding| beside(decoding, Some(u32::MAX))), [159, 136, 129]);
    assert_eq!([128, 130, 4096].map(|decoding| beside(decoding, Some(u32::MAX))), [128, 126, 128]);
    assert_eq!([120, 127, 130].map(|decoding| beside(decoding, Some(20))), [20; 3]);
    assert_eq!([100, 127, 130, 4000].map(|decoding| beside(decoding, None)), [32; 4]);
    // Half is the oldest's, an eighth the one's with the most left, and the fourth waits.
    let four = [prompt(91, 7), prompt(90, 3), prompt(90, 5), prompt(90, 9)];
    assert_eq!(planned(&most(50), &four), [6, 25, 19, 0]);
    assert_eq!(planned(&most(50), &four[..2]), [25, 25]);
    // What short ones leave over goes to the others in their order.
    let short = [prompt(3, 7), prompt(20, 3), prompt(5, 5), prompt(90, 9)];
    assert_eq!(planned(&most(50), &short), [3, 20, 5, 22]);
}

#[test]
fn a_part_ends_with_a_tile_where_that_costs_little() {
    let at = |position, most| {
        let demand = Demand::Prompt { rows: 500, arrival: 0, position, scored: false };
        planned(&budget(Some(most)), &[demand])[0]
    };
    assert_eq!([at(0, 70), at(0, 63), at(3, 70), at(3, 128), at(16, 15)], [64, 63, 70, 125, 15]);
    // The end of a prompt is where it is.
    assert_eq!(planned(&budget(Some(70)), &[prompt(69, 0)]), [69]);
}

#[test]
fn prompts_take_turns_where_rows_are_few() {
    let three = [prompt(50, 1), prompt(50, 2), prompt(50, 3)];
    let of = |most, turn| planned(&Budget { turn, ..budget(Some(most)) }, &three);
    assert_eq!([0, 1, 2, 3].map(|turn| of(1, turn)), [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]);
    assert_eq!([0, 1, 2, 3].map(|turn| of(2, turn)), [[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1]]);
}

/// Prices of the 2B-4T shape on two cores.
const COST: StepCost = StepCost { pass: 0.035, row: 0.0034, logits: 0.001, key: 1e-7 };

fn timed(seconds: f64, chunk: u32, max_prompt_rows: Option<u32>) -> Budget {
    let time = Some(TimeBudget { seconds, cost: COST });
    Budget { chunk, max_prompt_rows, time, turn: 0 }
}

#[test]
fn a_step_takes_its_time_and_no_more() {
    let eight = [Demand::Decode { position: 300 }; 8];
    let with = |position| {
        let long = Demand::Prompt { rows: 4000, arrival: 9, position, scored: false };
        let demands = [&eight[..], &[long]].concat();
        let rows = planned(&timed(0.25, 128, None), &demands);
        (rows[8], COST.seconds(work(128, &demands, &rows)))
    };
    for position in [0, 1000, 8000, 100_000] {
        let (rows, seconds) = with(position);
        assert!(rows > 10 && seconds <= 0.25 && seconds > 0.2, "{position}: {rows} rows in {seconds} s");
    }
    assert!(with(100_000).0 < with(0).0, "far keys cost time");
    // Nobody decodes: the budget is nobody's.
    assert_eq!(planned(&timed(0.01, 128, None), &[prompt(500, 0)]), [128]);
    // There is no time for anything, and yet prompts move.
    let hopeless = [&eight[..], &[prompt(500, 0)]].concat();
    assert_eq!(planned(&timed(0.001, 128, None), &hopeless)[8], 1);
    // With all the time there is, most of a chunk is enough; a full one is not shared.
    let rows = |decoding| {
        planned(&timed(60.0, 128, None), &[&vec![DECODE; decoding][..], &[prompt(5000, 9)]].concat())
            [decoding]
    };
    assert_eq!([8, 32, 33, 120, 128].map(rows), [120, 96, 223, 136, 128].map(|n: u32| n));
    assert_eq!(planned(&timed(60.0, 128, Some(20)), &hopeless)[8], 20);
}

fn demands(kinds: &[(u8, u32, u32, bool)]) -> Vec<Demand> {
    let demand = |(at, &(kind, rows, position, scored)): (u64, &(u8, u32, u32, bool))| match kind {
        0 => Demand::Nothing,
        1 => Demand::Decode { position },
        _ => Demand::Prompt { rows, arrival: (at * 17) % 41, position, scored },
    };
    (0..).zip(kinds).map(demand).collect()
}

proptest! {
    /// Budgets in rows and in time: those who decode always have their row, budgets are kept, and each prompt that is under way
    /// moves within four steps.
    #[test]
    fn budgets_hold_and_nobody_starves(
        kinds in proptest::collection::vec((0..3u8, 1..200u32, 0..5000u32, any::<bool>()), 0..40),
        chunk in 1..200u32, most in proptest::option::of(0..200u32), seconds in proptest::option::of(0.0..2.0f64),
    ) {
        let mut budget = Budget {
            chunk, max_prompt_rows: most, time: seconds.map(|seconds| TimeBudget { seconds, cost: COST }), turn: 0,
        };
        let mut demands = demands(&kinds);
        let decoding = demands.iter().filter(|demand| matches!(demand, Demand::Decode { .. })).count() as u32;
        let left = |demands: &[Demand]| -> u32 {
            demands.iter().map(|d| if let Demand::Prompt { rows, .. } = d { *rows } else { 0 }).sum()
        };
        let wanted = left(&demands);
        let mut rows = Vec::new();
        // For each prompt, steps for which the same three have been under way without a row for it.
        let mut waited: Vec<(usize, u32)> = Vec::new();
        while left(&demands) > 0 {
            plan(&budget, &demands, &mut rows);
            let of = |decode: bool| -> u32 {
                let parts = demands.iter().zip(&rows);
                parts.filter(|(d, _)| matches!(d, Demand::Decode { .. }) == decode).map(|(_, rows)| rows).sum()
            };
            prop_assert_eq!(of(true), decoding);
            prop_assert!(of(false) >= 1);
            prop_assert!(of(false) <= most.unwrap_or(u32::MAX).max(1));
            for (demand, &rows) in demands.iter().zip(&rows) {
                match demand {
                    Demand::Nothing => prop_assert_eq!(rows, 0),
                    Demand::Decode { .. } => prop_assert_eq!(rows, 1),
                    Demand::Prompt { rows: wanted, .. } => prop_assert!(rows <= *wanted),
                }
            }
            match budget.time.filter(|_| decoding > 0) {
                None => {
                    let full = budget.prompt_rows(decoding).min(left(&demands));
                    prop_assert!(of(false) <= full && of(false) >= full - full / 8, "{} of {}", of(false), full);
                }
                Some(time) => {
                    let mut step = work(chunk, &demands, &rows);
                    // The logits after the last row of a prompt are not foreseen.
                    step.logits = step.logits.saturating_sub(demands.len() as u32);
                    let fits = COST.seconds(step) <= time.seconds * 1.001;
                    let under_way = demands.iter().filter(|d| matches!(d, Demand::Prompt { .. })).count();
                    prop_assert!(fits || of(false) == 1, "{:?} of {under_way} prompts", step);
                }
            }
            let mut under_way = Vec::new();
            let mut next = oldest_after(&demands, None);
            while let Some((index, arrival)) = next.filter(|_| under_way.len() < UNDER_WAY) {
                under_way.push(index);
                next = oldest_after(&demands, Some(arrival));
            }
            let same = waited.iter().map(|(index, _)| *index).eq(under_way.iter().copied());
            let before = |index: usize| match same {
                true => waited.iter().find(|(of, _)| *of == index).map_or(0, |of| of.1),
                false => 0,
            };
            waited = under_way.iter().map(|&at| (at, if rows[at] > 0 { 0 } else { before(at) + 1 })).collect();
            prop_assert!(waited.iter().all(|&(_, steps)| steps < 4), "{:?}", waited);
            for (demand, &rows) in demands.iter_mut().zip(&rows) {
                if let Demand::Prompt { rows: waiting, position, .. } = demand {
                    *waiting -= rows;
                    *position += rows;
                    if *waiting == 0 {
                        *demand = Demand::Nothing;
                    }
                }
            }
            budget.turn += 1;
            prop_assert!(budget.turn <= u64::from(wanted));
        }
    }
}
