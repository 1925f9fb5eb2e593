//! Where the time of a machine goes: per step and thread, inside the kernel and at the barrier after it.
//!
//! A machine records only if it was made to ([`crate::machine::Record`]); the walk over the steps is compiled once with and
//! once without the clock, so a machine that does not record pays nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bitnetc_codegen::program::Programs;
use bitnetc_ir::EntryPoint;

use crate::machine::team::Job;
use crate::trace::Trace;

/// What has been recorded of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// One for each function, in the module's order.
    pub programs: Vec<ProgramProfile>,
}

/// What has been recorded of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramProfile {
    /// Name of the function.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Nanoseconds from handing a call to the threads until they were done, added up.
    pub wall_ns: u64,
    /// Steps in the order in which they run.
    pub steps: Vec<StepProfile>,
}

/// What has been recorded of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepProfile {
    /// Mnemonic of the op, or of the part of it that the step does.
    pub op: &'static str,
    /// Name of the kernel.
    pub kernel: String,
    /// Whether a barrier follows the step.
    pub barrier: bool,
    /// Whether every thread does all of the step, for itself.
    pub replicated: bool,
    /// Nanoseconds in the kernel, for each thread.
    pub busy_ns: Vec<u64>,
    /// Nanoseconds at the barrier after the step, for each thread; after the last step, until all threads are done.
    pub wait_ns: Vec<u64>,
}

/// The steps of one mnemonic together; nanoseconds are means over the threads, added up over steps and calls.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTotal {
    /// The mnemonic.
    pub op: &'static str,
    /// How many steps there are.
    pub steps: usize,
    /// In kernels.
    pub busy_ns: f64,
    /// At the barriers after them.
    pub wait_ns: f64,
}

/// What of the wall time was spent outside of kernels, as shares from 0 to 1, means over the threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overhead {
    /// At barriers, for the others.
    pub barrier: f64,
    /// Everything else: handing over calls, looking up steps, the clock itself.
    pub dispatch: f64,
}

fn mean(ns: &[u64]) -> f64 {
    ns.iter().map(|&n| n as f64).sum::<f64>() / ns.len().max(1) as f64
}

impl Profile {
    /// What has been recorded of an entry point.
    pub fn entry_point(&self, entry: EntryPoint) -> Option<&ProgramProfile> {
        self.programs.iter().find(|program| program.name == entry.name())
    }
}

impl ProgramProfile {
    /// The time by op, most first.
    pub fn by_op(&self) -> Vec<OpTotal> {
        let mut totals: Vec<OpTotal> = Vec::new();
        for step in &self.steps {
            let known = totals.iter().position(|t| t.op == step.op).unwrap_or_else(|| {
                totals.push(OpTotal { op: step.op, steps: 0, busy_ns: 0.0, wait_ns: 0.0 });
                totals.len() - 1
            });
            let total = &mut totals[known];
            total.steps += 1;
            total.busy_ns += mean(&step.busy_ns);
            total.wait_ns += mean(&step.wait_ns);
        }
        totals.sort_by(|a, b| b.busy_ns.total_cmp(&a.busy_ns));
        totals
    }

    /// What was spent outside of kernels; `None` if the function has not run.
    pub fn overhead(&self) -> Option<Overhead> {
        if self.calls == 0 || self.wall_ns == 0 {
            return None;
        }
        let wall = self.wall_ns as f64;
        let busy: f64 = self.steps.iter().map(|s| mean(&s.busy_ns)).sum();
        let wait: f64 = self.steps.iter().map(|s| mean(&s.wait_ns)).sum();
        Some(Overhead { barrier: wait / wall, dispatch: ((wall - busy - wait) / wall).max(0.0) })
    }
}

/// What a walk over the steps tells about its time.
pub(crate) trait Probe: Copy {
    /// A moment.
    type Mark: Copy;
    /// Now.
    fn now(self) -> Self::Mark;
    /// Thread `thread` was in the kernel of `step` since `since`.
    fn busy(self, program: usize, step: usize, thread: u32, since: Self::Mark);
    /// It waited after `step` since `since`.
    fn waited(self, program: usize, step: usize, thread: u32, since: Self::Mark);
    /// Whether the wait for the end of a call is recorded too.
    const END: bool;
}

/// Records nothing.
#[derive(Clone, Copy)]
pub(crate) struct Silent;

impl Probe for Silent {
    type Mark = ();
    const END: bool = false;
    fn now(self) {}
    fn busy(self, _: usize, _: usize, _: u32, (): ()) {}
    fn waited(self, _: usize, _: usize, _: u32, (): ()) {}
}

/// The counters of a session that records.
#[derive(Debug)]
pub(crate) struct Recorder {
    threads: u32,
    programs: Vec<Counters>,
    /// The single events too, where they are asked for.
    trace: Option<Trace>,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    wall_ns: AtomicU64,
    /// Busy and waiting nanoseconds, step by step, and in a step thread by thread.
    steps: Vec<[AtomicU64; 2]>,
}

const BUSY: usize = 0;
const WAIT: usize = 1;

impl Recorder {
    /// `events`: how many single events of each thread are kept too; 0: none.
    pub(crate) fn new(programs: &Programs, threads: u32, events: usize) -> Self {
        let counters = |steps: usize| Counters {
            steps: (0..steps * threads as usize).map(|_| Default::default()).collect(),
            ..Counters::default()
        };
        Self {
            threads,
            programs: programs.programs.iter().map(|p| counters(p.steps.len())).collect(),
            trace: (events > 0).then(|| Trace::new(threads, events)),
        }
    }

    /// The single events.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// A call took from `since` until now.
    pub(crate) fn called(&self, job: Job, since: Instant) {
        let counters = &self.programs[job.program as usize];
        counters.calls.fetch_add(1, Ordering::Relaxed);
        counters.wall_ns.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if let Some(trace) = &self.trace {
            trace.called(job, since);
        }
    }

    fn add(&self, program: usize, step: usize, thread: u32, kind: usize, since: Instant) {
        let counter = &self.programs[program].steps[step * self.threads as usize + thread as usize][kind];
        // Only this thread writes it.
        let ns = since.elapsed().as_nanos() as u64;
        counter.store(counter.load(Ordering::Relaxed) + ns, Ordering::Relaxed);
    }

    pub(crate) fn reset(&self) {
        for counters in &self.programs {
            let all = counters.steps.iter().flatten().chain([&counters.calls, &counters.wall_ns]);
            all.for_each(|counter| counter.store(0, Ordering::Relaxed));
        }
        if let Some(trace) = &self.trace {
            trace.reset();
        }
    }

    pub(crate) fn profile(&self, programs: &Programs) -> Profile {
        let of = |(program, counters): (&bitnetc_codegen::program::Program, &Counters)| {
            let threads = self.threads as usize;
            let times = |step: usize, kind: usize| {
                let all = &counters.steps[step * threads..(step + 1) * threads];
                all.iter().map(|c| c[kind].load(Ordering::Relaxed)).collect()
            };
            let steps = program.steps.iter().enumerate().map(|(i, step)| StepProfile {
                op: step.mnemonic,
                kernel: programs.kernels[step.kernel].name(),
                barrier: step.barrier,
                replicated: step.replicated,
                busy_ns: times(i, BUSY),
                wait_ns: times(i, WAIT),
            });
            ProgramProfile {
                name: program.name.clone(),
                calls: counters.calls.load(Ordering::Relaxed),
                wall_ns: counters.wall_ns.load(Ordering::Relaxed),
                steps: steps.collect(),
            }
        };
        Profile { programs: programs.programs.iter().zip(&self.programs).map(of).collect() }
    }
}

impl Probe for &Recorder {
    type Mark = Instant;
    const END: bool = true;
    fn now(self) -> Instant {
        Instant::now()
    }
    fn busy(self, program: usize, step: usize, thread: u32, since: Instant) {
        self.add(program, step, thread, BUSY, since);
        if let Some(trace) = &self.trace {
            trace.busy(program, step, thread, since);
        }
    }
    fn waited(self, program: usize, step: usize, thread: u32, since: Instant) {
        self.add(program, step, thread, WAIT, since);
        if let Some(trace) = &self.trace {
            trace.waited(program, step, thread, since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let step = |op, busy_ns: [u64; 2], wait_ns: [u64; 2]| StepProfile {
            op,
            kernel: op.to_owned(),
            barrier: true,
            replicated: false,
            busy_ns: busy_ns.to_vec(),
            wait_ns: wait_ns.to_vec(),
        };
        let steps =
            vec![step("add", [10, 20], [10, 0]), step("mul", [50, 70], [20, 0]), step("add", [4, 6], [1, 1])];
        let decode =
            ProgramProfile { name: EntryPoint::Decode.name().to_owned(), calls: 1, wall_ns: 100, steps };
        let idle = ProgramProfile {
            name: EntryPoint::Head.name().to_owned(),
            calls: 0,
            wall_ns: 0,
            steps: Vec::new(),
        };
        let profile = Profile { programs: vec![decode, idle] };
        let decode = profile.entry_point(EntryPoint::Decode).unwrap();
        let totals = decode.by_op();
        assert_eq!(totals[0], OpTotal { op: "mul", steps: 1, busy_ns: 60.0, wait_ns: 10.0 });
        assert_eq!(totals[1], OpTotal { op: "add", steps: 2, busy_ns: 20.0, wait_ns: 6.0 });
        let overhead = decode.overhead().unwrap();
        assert!((overhead.barrier - 0.16).abs() < 1e-9 && (overhead.dispatch - 0.04).abs() < 1e-9);
        let head = profile.entry_point(EntryPoint::Head).unwrap();
        assert_eq!((head.overhead(), head.by_op()), (None, Vec::new()));
        assert_eq!(profile.entry_point(EntryPoint::Prefill), None);
    }
}
