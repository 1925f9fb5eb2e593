//! Every distinct kernel of a model at its shapes, where it stands in the model: what it reads and multiplies in a second,
//! beside what the machine could do in the same moment.
//!
//! A kernel is not taken out of its model: decode steps and chunks of a prompt run as they always do, with a clock at every
//! step, so each call finds the caches as it finds them in use, and the weights of a layer come from memory because all other
//! layers were read since. The steps that use a kernel are added up. The limits are measured before the first
//! repetition, between all and after the last one, and a repetition is compared with the better of its two neighbours.
//!
//! Invariants: bytes and multiply-adds are those of [`OpWork`], so a faster kernel does not change them; of an op that takes two
//! kernels the first one has the work; time is that in the kernel, a mean over the threads, without the waiting after it.

use std::collections::BTreeSet;

use bitnetc_codegen::program::{Program, Programs};
use bitnetc_ir::work::OpWork;
use bitnetc_ir::{DType, Extent, Func, Module, Operand};
use bitnetc_runtime::machine::KeepGoing;
use bitnetc_runtime::profile::ProgramProfile;
use bitnetc_runtime::roofline::Roofline;
use bitnetc_runtime::sequence::Mark;
use bitnetc_runtime::session::{Session, SessionOptions};
use serde_json::{Value, json};

use super::limits::Limits;
use super::run::{PASSES, WARM_UP_STEPS, token};
use super::table::{Column, Table, TableStyle};
use crate::error::Error;
use bitnetc::load::Loaded;

/// How kernels are measured.
#[derive(Clone, Debug)]
pub struct KernelsOptions {
    /// Tokens of a chunk of a prompt, at most as many as one call handles; 0: none.
    pub prompt: u32,
    /// Decode steps of a repetition; 0: none.
    pub generate: u32,
    /// Tokens in the context before each call.
    pub depth: u32,
    /// Threads.
    pub threads: u32,
    /// Repetitions, at least 1.
    pub repetitions: u32,
    /// Asked between calls; false ends the measurement.
    pub keep_going: KeepGoing,
}

/// What a kernel's multiply-adds are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    /// Multiply-adds of int8.
    Int8,
    /// Fused multiply-adds of f32.
    F32,
}

impl Peak {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Peak::Int8 => "int8",
            Peak::F32 => "f32",
        }
    }
}

/// What the machine could do in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Reading, and int8.
    pub limits: Limits,
    /// Fused multiply-adds of f32 per second.
    pub fma: f64,
}

impl Peaks {
    fn max(self, other: Self) -> Self {
        Self { limits: self.limits.max(other.limits), fma: self.fma.max(other.fma) }
    }

    /// Multiply-adds per second.
    pub fn rate(self, peak: Peak) -> f64 {
        match peak {
            Peak::Int8 => self.limits.int8,
            Peak::F32 => self.fma,
        }
    }
}

/// A kernel in one entry point.
#[derive(Clone, Debug)]
pub struct KernelOutcome {
    /// The entry point, without the `@`.
    pub entry: String,
    /// Tokens of its call.
    pub tokens: u32,
    /// Name of the kernel.
    pub kernel: String,
    /// The instruction selector that made its code.
    pub selector: &'static str,
    /// Steps of a call that use it.
    pub steps: u32,
    /// Whether every thread does all of it, for itself.
    pub replicated: bool,
    /// What these steps need in one call.
    pub work: OpWork,
    /// What its multiply-adds are measured against.
    pub peak: Peak,
    /// Seconds in it for a call, by repetition.
    pub seconds: Vec<f64>,
    /// Seconds of the whole call, by repetition.
    pub call_seconds: Vec<f64>,
}

impl KernelOutcome {
    /// Middle of the seconds in it, for one call of the entry point.
    pub fn median_seconds(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    /// Middle of its shares of a call's time.
    pub fn share_of_call(&self) -> f64 {
        median(self.seconds.iter().zip(&self.call_seconds).map(|(s, call)| s / call))
    }

    /// Bytes from memory per second.
    pub fn bandwidth(&self) -> f64 {
        self.work.work.bytes() as f64 / self.median_seconds()
    }

    /// Multiply-adds per second.
    pub fn macs(&self) -> f64 {
        self.work.work.macs() as f64 / self.median_seconds()
    }

    /// Middle over the repetitions of what it read, over what the machine could have read.
    pub fn bandwidth_share(&self, rounds: &[Peaks]) -> f64 {
        self.share(rounds, self.work.work.bytes(), |peaks| peaks.limits.bandwidth)
    }

    /// The same of multiply-adds.
    pub fn peak_share(&self, rounds: &[Peaks]) -> f64 {
        self.share(rounds, self.work.work.macs(), |peaks| peaks.rate(self.peak))
    }

    fn share(&self, rounds: &[Peaks], amount: u64, rate: impl Fn(Peaks) -> f64) -> f64 {
        let around = rounds.windows(2).map(|pair| rate(pair[0].max(pair[1])));
        median(around.zip(&self.seconds).map(|(rate, seconds)| amount as f64 / seconds / rate))
    }
}

/// Waiting at barriers and everything else outside of kernels, as shares of an entry point's calls.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryOutcome {
    /// The entry point.
    pub entry: String,
    /// Tokens of its call.
    pub tokens: u32,
    /// Middle of the seconds of a call.
    pub seconds: f64,
    /// At barriers, for the other threads.
    pub barrier: f64,
    /// Handing over calls, looking up steps, the clock itself.
    pub dispatch: f64,
}

/// What [`measure`] found.
#[derive(Clone, Debug)]
pub struct KernelsOutcome {
    /// By entry point, in each the one with the most time first.
    pub kernels: Vec<KernelOutcome>,
    /// The entry points that ran.
    pub entries: Vec<EntryOutcome>,
    /// The machine's limits, one round more than there are repetitions.
    pub rounds: Vec<Peaks>,
    /// Whether it was ended before all repetitions were done.
    pub interrupted: bool,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The session that runs, and what it is fed.
struct Runs<'a> {
    session: Session,
    /// Where it stands at the depth.
    start: Mark,
    options: &'a KernelsOptions,
    prompt: Vec<u32>,
}

impl<'a> Runs<'a> {
    fn new(loaded: &Loaded, options: &'a KernelsOptions) -> Result<Self, Error> {
        let vocab = loaded.model.vocab();
        let tokens = |from: u32, to: u32| (from..to).map(|i| token(i, vocab)).collect::<Vec<u32>>();
        let context = options.depth.saturating_add(options.prompt.max(1));
        let session_options = SessionOptions { context, threads: options.threads };
        let mut session = Session::profiled(loaded.model.clone(), session_options)?;
        session.set_keep_going(options.keep_going.clone());
        while session.position() < options.depth {
            let start = session.position();
            session.feed(&tokens(start, options.depth.min(start + session.chunk().max(1))))?;
        }
        let length = options.prompt.min(session.chunk().max(1));
        let prompt = tokens(options.depth, options.depth + length);
        let start = session.mark()?;
        Ok(Self { session, start, options, prompt })
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<(), Error> {
        if !self.options.keep_going.ask() {
            return Err(Error::INTERRUPTED);
        }
        self.session.rewind(&self.start);
        self.session.feed(tokens)?;
        Ok(())
    }

    /// Decode steps, then chunks of a prompt: as many of them as take about as long.
    fn repetition(&mut self, steps: u32) -> Result<(), Error> {
        let one = [token(self.options.depth, self.session.model().vocab())];
        for _ in 0..steps {
            self.feed(&one)?;
        }
        if self.prompt.len() > 1 {
            let prompt = std::mem::take(&mut self.prompt);
            for _ in 0..steps.div_ceil(prompt.len() as u32).max(1) {
                self.feed(&prompt)?;
            }
            self.prompt = prompt;
        }
        Ok(())
    }
}

/// Runs `loaded` in repetitions. `progress` hears how many are done.
///
/// # Errors
/// What the session refuses; memory or threads that cannot be had; an interruption before the first repetition is done.
pub fn measure(
    loaded: &Loaded,
    roofline: &mut Roofline,
    options: &KernelsOptions,
    progress: &mut dyn FnMut(u32),
) -> Result<KernelsOutcome, Error> {
    let mut runs = Runs::new(loaded, options)?;
    runs.repetition(options.generate.min(WARM_UP_STEPS))?;
    let mut outcome =
        KernelsOutcome { kernels: Vec::new(), entries: Vec::new(), rounds: Vec::new(), interrupted: false };
    let mut profiles = Vec::new();
    outcome.rounds.push(round(roofline, options.threads)?);
    for done in 1..=options.repetitions.max(1) {
        runs.session.reset_profile();
        match runs.repetition(options.generate) {
            Err(error) if error.is_interruption() && !profiles.is_empty() => {
                outcome.interrupted = true;
                break;
            }
            ended => ended?,
        }
        profiles.extend(runs.session.profile());
        outcome.rounds.push(round(roofline, options.threads)?);
        progress(done);
    }
    let selectors = &loaded.model.compiled().selectors;
    let programs = loaded.model.programs();
    for (index, (func, program)) in loaded.module.funcs().values().zip(&programs.programs).enumerate() {
        let ran: Vec<&ProgramProfile> =
            profiles.iter().filter_map(|p| p.programs.get(index)).filter(|p| p.calls > 0).collect();
        if ran.is_empty() {
            continue;
        }
        let call = call(func, options, runs.prompt.len() as u32);
        outcome.entries.push(entry(func, call, &ran));
        let mut of_entry = kernels_of(&loaded.module, func, program, programs, call, &ran);
        for (kernel, outcome) in &mut of_entry {
            outcome.selector = selectors.get(*kernel).map_or("", |s| s.name());
        }
        of_entry.sort_by(|(_, a), (_, b)| b.median_seconds().total_cmp(&a.median_seconds()));
        outcome.kernels.extend(of_entry.into_iter().map(|(_, outcome)| outcome));
    }
    Ok(outcome)
}

/// One round of limits.
fn round(roofline: &mut Roofline, threads: u32) -> Result<Peaks, Error> {
    Ok(Peaks {
        limits: Limits {
            bandwidth: roofline.bandwidth(threads, PASSES)?.median(),
            int8: roofline.int8_peak(threads, PASSES)?.median(),
        },
        fma: roofline.fma_peak(threads, PASSES)?.median(),
    })
}

/// The call of an entry point that ran: the chunk, or one token.
fn call(func: &Func, options: &KernelsOptions, prompt: u32) -> Extent {
    // The head after a prompt is fed its last token only, and has no position.
    let positional = func.inputs().iter().any(|&v| func.ty(v).is_persistent());
    let many = positional && func.tokens().max() > 1;
    Extent { position: if positional { options.depth } else { 0 }, tokens: if many { prompt } else { 1 } }
}

fn seconds_of_call(profile: &ProgramProfile) -> f64 {
    profile.wall_ns as f64 * 1e-9 / profile.calls.max(1) as f64
}

fn entry(func: &Func, call: Extent, ran: &[&ProgramProfile]) -> EntryOutcome {
    let overheads: Vec<_> = ran.iter().filter_map(|p| p.overhead()).collect();
    EntryOutcome {
        entry: func.name().to_owned(),
        tokens: call.tokens,
        seconds: median(ran.iter().map(|p| seconds_of_call(p))),
        barrier: median(overheads.iter().map(|o| o.barrier)),
        dispatch: median(overheads.iter().map(|o| o.dispatch)),
    }
}

/// The kernels of an entry point with their index, in the order in which they are first used.
fn kernels_of(
    module: &Module,
    func: &Func,
    program: &Program,
    programs: &Programs,
    call: Extent,
    ran: &[&ProgramProfile],
) -> Vec<(usize, KernelOutcome)> {
    use bitnetc_ir::Entity;
    let mut all: Vec<(usize, KernelOutcome)> = Vec::new();
    let mut counted = BTreeSet::new();
    for (number, step) in program.steps.iter().enumerate() {
        let kernel = step.kernel.index();
        let known = all.iter().position(|(known, _)| *known == kernel).unwrap_or_else(|| {
            let outcome = KernelOutcome {
                entry: func.name().to_owned(),
                tokens: call.tokens,
                kernel: programs.kernels[step.kernel].name(),
                selector: "",
                steps: 0,
                replicated: step.replicated,
                work: OpWork::default(),
                peak: Peak::Int8,
                seconds: vec![0.0; ran.len()],
                call_seconds: ran.iter().map(|p| seconds_of_call(p)).collect(),
            };
            all.push((kernel, outcome));
            all.len() - 1
        });
        let outcome = &mut all[known].1;
        outcome.steps += 1;
        for (seconds, profile) in outcome.seconds.iter_mut().zip(ran) {
            let busy = profile.steps.get(number).map_or(&[][..], |s| &s.busy_ns);
            let mean = busy.iter().map(|&ns| ns as f64).sum::<f64>() / busy.len().max(1) as f64;
            *seconds += mean * 1e-9 / profile.calls.max(1) as f64;
        }
        let Some(node) = step.node.filter(|&node| counted.insert(node)) else { continue };
        outcome.work += OpWork::of(module, func, node, call);
        let codes = |operand: &Operand| {
            let value = match operand {
                Operand::Value(v) => func.get_value(*v),
                Operand::Param(_) => None,
            };
            value.is_some_and(|value| matches!(value.ty.dtype, DType::Q8 | DType::Q8b))
        };
        if outcome.work.work.macs() > 0 && !func.node(node).operands.iter().any(codes) {
            outcome.peak = Peak::F32;
        }
    }
    all
}

/// A rate with its unit, or nothing where there is nothing to rate.
fn rate(amount: u64, per_second: f64, share: f64) -> [String; 2] {
    match amount {
        0 => ["".to_owned(), "".to_owned()],
        _ => [format!("{:.1}", per_second / 1e9), format!("{:.0} %", 100.0 * share)],
    }
}

/// The tables, one for each entry point. The shares of the time add up to the call.
pub fn tables(style: TableStyle, outcome: &KernelsOutcome) -> String {
    let mut text = String::new();
    for entry in &outcome.entries {
        let what = match entry.tokens {
            1 => "one token".to_owned(),
            n => format!("{n} tokens"),
        };
        text += &format!("\n@{}, {what}: {:.3} ms\n\n", entry.entry, 1e3 * entry.seconds);
        let numbers = [
            "steps",
            "µs a step",
            "of the time",
            "MB a step",
            "GB/s",
            "of the bandwidth",
            "MMAC a step",
            "GMAC/s",
            "of the peak",
        ];
        let columns = [Column::left("kernel"), Column::left("code")].into_iter();
        let mut table = Table::new(columns.chain(numbers.map(Column::right)).collect());
        for k in outcome.kernels.iter().filter(|k| k.entry == entry.entry) {
            table.push(kernel_row(k, &outcome.rounds));
        }
        for (name, share) in [("barriers", entry.barrier), ("dispatch", entry.dispatch)] {
            let mut row = vec![String::new(); 11];
            row[0] = name.to_owned();
            row[4] = format!("{:.1} %", 100.0 * share);
            table.push(row);
        }
        text += &table.render(style);
    }
    if outcome.kernels.iter().any(|k| k.replicated) {
        text += "\n×: every thread computes all of it for itself.\n";
    }
    text
}

fn kernel_row(k: &KernelOutcome, rounds: &[Peaks]) -> Vec<String> {
    let work = k.work.work;
    let steps = f64::from(k.steps.max(1));
    let amount = |n: u64| if n == 0 { String::new() } else { format!("{:.3}", n as f64 / steps / 1e6) };
    let [bandwidth, of_bandwidth] = rate(work.bytes(), k.bandwidth(), k.bandwidth_share(rounds));
    let [macs, of_peak] = rate(work.macs(), k.macs(), k.peak_share(rounds));
    let of_peak = match k.peak {
        Peak::F32 if work.macs() > 0 => format!("{of_peak} (f32)"),
        _ => of_peak,
    };
    vec![
        k.kernel.clone(),
        k.selector.to_owned(),
        format!("{}{}", k.steps, if k.replicated { " ×" } else { "" }),
        format!("{:.2}", 1e6 * k.median_seconds() / steps),
        format!("{:.1} %", 100.0 * k.share_of_call()),
        amount(work.bytes()),
        bandwidth,
        of_bandwidth,
        amount(work.macs()),
        macs,
        of_peak,
    ]
}

/// Nanoseconds, to a tenth.
fn nanoseconds(seconds: &[f64]) -> Vec<f64> {
    seconds.iter().map(|s| (s * 1e10).round() / 10.0).collect()
}

/// The outcome as JSON: plain units, shares from 0 to 1, `null` where there is nothing to rate.
pub fn json(outcome: &KernelsOutcome) -> (Value, Value) {
    let some = |amount: u64, value: f64| Some(value).filter(|_| amount > 0);
    let kernel = |k: &KernelOutcome| {
        let (bytes, macs) = (k.work.work.bytes(), k.work.work.macs());
        json!({
            "entry": k.entry,
            "tokens": k.tokens,
            "kernel": k.kernel,
            "codegen": k.selector,
            "steps": k.steps,
            "replicated": k.replicated,
            "samples_ns": nanoseconds(&k.seconds),
            "share_of_call": k.share_of_call(),
            "bytes": bytes,
            "macs": macs,
            "activation_bytes": k.work.read_bytes + k.work.written_bytes,
            "bytes_per_second": some(bytes, k.bandwidth()),
            "share_of_bandwidth": some(bytes, k.bandwidth_share(&outcome.rounds)),
            "macs_per_second": some(macs, k.macs()),
            "peak": k.peak.name(),
            "share_of_peak": some(macs, k.peak_share(&outcome.rounds)),
        })
    };
    let entry = |e: &EntryOutcome| {
        json!({
            "entry": e.entry,
            "tokens": e.tokens,
            "median_ns": (e.seconds * 1e10).round() / 10.0,
            "barrier_share": e.barrier,
            "dispatch_share": e.dispatch,
        })
    };
    (outcome.kernels.iter().map(kernel).collect(), outcome.entries.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::work::Work;

    use super::*;

    fn outcome() -> KernelOutcome {
        let work = Work { weight_bytes: 100, ternary_macs: 400, ..Work::default() };
        KernelOutcome {
            entry: "decode".to_owned(),
            tokens: 1,
            kernel: "bitlinear".to_owned(),
            selector: "x64",
            steps: 2,
            replicated: false,
            work: OpWork { work, ..OpWork::default() },
            peak: Peak::Int8,
            seconds: vec![1.0, 4.0, 2.0],
            call_seconds: vec![2.0, 8.0, 8.0],
        }
    }

    #[test]
    fn a_repetition_is_compared_with_its_own_rounds() {
        let rounds = [100.0, 50.0, 25.0, 40.0]
            .map(|bandwidth| Peaks { limits: Limits { bandwidth, int8: 10.0 * bandwidth }, fma: bandwidth });
        let k = outcome();
        // 100/1 of 100, 100/4 of 50, 100/2 of 40: shares 1, 0.5 and 1.25.
        assert_eq!(k.bandwidth_share(&rounds), 1.0);
        assert_eq!(k.peak_share(&rounds), 0.4);
        let of_f32 = KernelOutcome { peak: Peak::F32, ..k.clone() };
        assert_eq!(of_f32.peak_share(&rounds), 4.0);
        assert_eq!((k.median_seconds(), k.bandwidth(), k.share_of_call()), (2.0, 50.0, 0.5));
    }

    #[test]
    fn what_reads_nothing_has_no_rate() {
        let k = KernelOutcome { work: OpWork::default(), ..outcome() };
        let entry = EntryOutcome {
            entry: "decode".to_owned(),
            tokens: 1,
            seconds: 1.0,
            barrier: 0.25,
            dispatch: 0.5,
        };
        let all =
            KernelsOutcome { kernels: vec![k], entries: vec![entry], rounds: Vec::new(), interrupted: false };
        let text = tables(TableStyle::Markdown, &all);
        assert!(text.contains("| bitlinear | x64 | 2 | 1000000.00 | 50.0 % |  |  |  |  |  |  |"), "{text}");
        let (kernels, entries) = json(&all);
        assert_eq!(kernels[0]["share_of_bandwidth"], Value::Null);
        assert_eq!(entries[0]["barrier_share"], 0.25);
    }
}
