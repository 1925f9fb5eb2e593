//! What each pass is worth: the model compiled with every optional pass left out in turn, beside the whole pipeline.
//!
//! A variant and the whole pipeline are measured in turns, sample by sample, and what counts is the ratio of neighbouring
//! samples, so that a machine whose speed drifts does not make a pass look good or bad. The other columns are no
//! measurements but properties of the planned module.
//!
//! Invariants: two models are in memory at a time, the whole pipeline's and one variant's; both make the same bits.

use bitnetc_ir::EntryPoint;
use bitnetc_ir::work::Accounts;
use bitnetc_passes::{ALL_PASSES, PassId};
use bitnetc_runtime::machine::{KeepGoing, MachineOptions, Record};
use serde_json::{Value, json};

use super::run::{Runner, Test};
use super::table::{Column, Table, TableStyle};
use crate::error::Error;
use bitnetc::load::Loaded;

/// How passes are measured.
#[derive(Clone, Debug)]
pub struct PassesOptions {
    /// Tokens of the prompt that prefill is measured with.
    pub prompt: u32,
    /// Decode steps of a sample.
    pub generate: u32,
    /// Threads.
    pub threads: u32,
    /// Pairs of samples.
    pub repetitions: u32,
    /// Asked between samples; false ends the measurement.
    pub keep_going: KeepGoing,
}

/// What a planned module says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Ops of the decode step.
    pub ops: usize,
    /// Kernel calls of the decode step.
    pub steps: usize,
    /// Barriers of the decode step.
    pub barriers: usize,
    /// Distinct kernels of all functions.
    pub kernels: usize,
    /// Bytes of the arena, the largest of all functions.
    pub arena_bytes: u64,
    /// Bytes that the first decode step reads.
    pub bytes_per_token: u64,
}

impl Shape {
    /// Of a loaded model.
    pub fn of(loaded: &Loaded) -> Self {
        let programs = loaded.model.programs();
        let decode = programs.entry_point(EntryPoint::Decode).map(|(_, program)| program);
        let entry = loaded.module.entry_point(EntryPoint::Decode);
        let ops = entry.map_or(0, |id| loaded.module.funcs()[id].order().len());
        Self {
            ops,
            steps: decode.map_or(0, |p| p.steps.len()),
            barriers: entry.and_then(|id| loaded.module.funcs()[id].barriers()).unwrap_or(0),
            kernels: programs.kernels.len(),
            arena_bytes: programs.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0),
            bytes_per_token: Accounts::of(&loaded.module).step(0).bytes(),
        }
    }
}

/// Ratios of speeds, variant over whole pipeline, of neighbouring samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ratios {
    /// In the order in which they were measured.
    pub samples: Vec<f64>,
}

impl Ratios {
    /// The middle one, the least and the greatest.
    pub fn range(&self) -> (f64, f64, f64) {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        (at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)))
    }
}

/// A variant, measured.
#[derive(Clone, Debug)]
pub struct PassOutcome {
    /// The pass that was left out; nothing for the whole pipeline beside itself, which shows the noise.
    pub without: Option<PassId>,
    /// The variant's module.
    pub shape: Shape,
    /// Tokens per second of decode, mean; 0 where it was not measured.
    pub decode: f64,
    /// Of prefill.
    pub prefill: f64,
    /// Decode speed beside that of the whole pipeline.
    pub decode_ratios: Ratios,
    /// Prefill speed beside it.
    pub prefill_ratios: Ratios,
}

/// The passes that can be left out.
pub fn optional_passes() -> impl Iterator<Item = PassId> {
    ALL_PASSES.iter().filter(|p| !p.required).map(|p| p.id)
}

/// The tests of a sample.
fn tests(options: &PassesOptions) -> [Test; 2] {
    let test = |prompt, generate| Test {
        prompt,
        generate,
        depth: 0,
        sequences: 1,
        shared_prompt: false,
        threads: options.threads,
    };
    [test(0, options.generate), test(options.prompt, 0)]
}

fn runner(loaded: &Loaded, options: &PassesOptions) -> Result<Runner, Error> {
    let context = options.prompt.max(options.generate).max(1);
    let machine = MachineOptions { context, threads: options.threads, segments: 1, record: Record::Nothing };
    let mut runner = Runner::new(loaded.model.clone(), machine, options.keep_going.clone())?;
    for test in tests(options).into_iter().filter(|t| t.context() > 0) {
        runner.warm_up(test)?;
    }
    Ok(runner)
}

/// Measures `variant` (made without `without`) beside `whole`.
///
/// # Errors
/// Memory could not be allocated, threads could not be started, or the caller interrupted.
pub fn measure(
    whole: &Loaded,
    variant: &Loaded,
    without: Option<PassId>,
    options: &PassesOptions,
) -> Result<PassOutcome, Error> {
    let (mut base, mut other) = (runner(whole, options)?, runner(variant, options)?);
    let mut speeds = [0.0; 2];
    let mut ratios = [Ratios::default(), Ratios::default()];
    for round in 0..options.repetitions.max(1) {
        for (i, test) in tests(options).into_iter().enumerate().filter(|(_, t)| t.context() > 0) {
            // The first of the two alternates, so that a steady drift favours nobody.
            let (a, b) = match round % 2 {
                0 => (base.sample(test)?, other.sample(test)?),
                _ => {
                    let b = other.sample(test)?;
                    (base.sample(test)?, b)
                }
            };
            speeds[i] += f64::from(test.context()) / b / f64::from(options.repetitions.max(1));
            ratios[i].samples.push(a / b);
        }
    }
    let [decode_ratios, prefill_ratios] = ratios;
    let [decode, prefill] = speeds;
    Ok(PassOutcome { without, shape: Shape::of(variant), decode, prefill, decode_ratios, prefill_ratios })
}

/// The table. Rows come as variants end, so columns have room for what usually stands in them.
fn table(options: &PassesOptions) -> Table {
    let PassesOptions { prompt, generate, .. } = options;
    let ratio = || Column::right("ratio to all passes").at_least(21);
    Table::new(vec![
        Column::left("disabled pass").at_least(18),
        Column::right(format!("tg{generate} t/s")).at_least(9),
        ratio(),
        Column::right(format!("pp{prompt} t/s")).at_least(9),
        ratio(),
        Column::right("MB/token"),
        Column::right("arena kB").at_least(9),
        Column::right("ops"),
        Column::right("kernel calls"),
        Column::right("barriers"),
        Column::right("kernels"),
    ])
}

/// The head of the table.
pub fn head(style: TableStyle, options: &PassesOptions) -> String {
    let PassesOptions { threads, repetitions, .. } = options;
    format!(
        "\nThreads: {threads}. Ratios: median (least to greatest) of {repetitions} pairs of samples.\n\n{}",
        table(options).head(style)
    )
}

/// A row of the table.
pub fn row(style: TableStyle, options: &PassesOptions, outcome: &PassOutcome) -> String {
    let ratio = |ratios: &Ratios| {
        let (middle, least, most) = ratios.range();
        format!("{middle:.3} ({least:.2} to {most:.2})")
    };
    let s = &outcome.shape;
    let cells = [
        outcome.without.map_or("none (noise)", PassId::name).to_owned(),
        format!("{:.1}", outcome.decode),
        ratio(&outcome.decode_ratios),
        format!("{:.1}", outcome.prefill),
        ratio(&outcome.prefill_ratios),
        format!("{:.2}", s.bytes_per_token as f64 / 1e6),
        format!("{:.1}", s.arena_bytes as f64 / 1e3),
        s.ops.to_string(),
        s.steps.to_string(),
        s.barriers.to_string(),
        s.kernels.to_string(),
    ];
    table(options).row(style, &cells)
}

/// An outcome as JSON.
pub fn json(outcome: &PassOutcome) -> Value {
    let s = &outcome.shape;
    json!({
        "without": outcome.without.map(PassId::name),
        "decode_tokens_per_second": Some(outcome.decode).filter(|speed| *speed > 0.0),
        "prefill_tokens_per_second": Some(outcome.prefill).filter(|speed| *speed > 0.0),
        "decode_ratios": outcome.decode_ratios.samples,
        "prefill_ratios": outcome.prefill_ratios.samples,
        "bytes_per_token": s.bytes_per_token,
        "arena_bytes": s.arena_bytes,
        "ops": s.ops,
        "kernel_calls": s.steps,
        "barriers": s.barriers,
        "kernels": s.kernels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let ratios = Ratios { samples: vec![0.9, 1.2, 1.0] };
        assert_eq!(ratios.range(), (1.0, 0.9, 1.2));
        assert!(Ratios::default().range().0.is_nan());
    }

    #[test]
    fn what_a_module_needs_is_no_choice() {
        let ids: Vec<PassId> = optional_passes().collect();
        assert!(ids.contains(&PassId::Schedule) && !ids.contains(&PassId::PlanMemory), "{ids:?}");
    }
}
