//! The one place where threads are led to what others own: generated code, whose steps they walk, and the items of a slice that
//! they share ([`Team::share`]).
//!
//! Words that change per call (position, tokens, units, rows, caches) are patched into a copy that each thread owns;
//! everything else stays as it was bound ([`super::bind`]), also the units of steps that always have as many.
//!
//! The tokens of a call belong to one sequence or to several, each with caches of its own: they are *segments*, runs of
//! neighbouring rows of one sequence. A step that depends on positions is one kernel call for each segment, with the segment's
//! position, rows and caches; to all other steps rows are rows. The leader writes segments and the addresses of their caches
//! into a table before a job; threads read it in the job.
//!
//! Invariants: an address word points to a buffer that lives as long as the [`BoundPrograms`] (they own code and weights through
//! their `keep` handle, whoever bound them owns the rest) and that is large enough for every call with
//! `position + tokens ≤ capacity` and `tokens ≤ max`, for each segment too; the caches of the segments of a job are different
//! ones and are not touched by anything else while it runs. The machine checks the former before it runs a job, and has the
//! latter from the exclusive borrow of each sequence. The word list of a step has exactly the words of its kernel's spec.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::program::Program;
use bitnetc_ir::Extent;

use super::bind::{BoundProgram, BoundStep, Patch, bind};
use super::binding::Binding;
use super::shares::{MOST_UNITS, Shares};
use super::team::{Barrier, Job, Team, Work};
use crate::map::AlignedBuffer;
use crate::profile::{Probe, Recorder, Silent};

/// The numbers that are patched into the words of a call.
struct Numbers {
    call: Extent,
    share: Range<u64>,
    row: u32,
    /// Whose caches.
    segment: u32,
}

/// The segments of a job, which the leader writes and all threads read.
#[derive(Debug)]
struct Segments {
    extents: Vec<SharedExtent>,
    /// Addresses: the caches of segment 0, then those of segment 1, …
    caches: Vec<AtomicU64>,
    caches_each: u32,
}

#[derive(Debug, Default)]
struct SharedExtent {
    position: AtomicU32,
    tokens: AtomicU32,
}

impl SharedExtent {
    fn get(&self) -> Extent {
        Extent {
            position: self.position.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
        }
    }
}

impl Segments {
    fn new(most: u32, caches_each: u32) -> Self {
        let caches = u64::from(most) * u64::from(caches_each);
        Self {
            extents: (0..most).map(|_| SharedExtent::default()).collect(),
            caches: (0..caches).map(|_| AtomicU64::new(0)).collect(),
            caches_each,
        }
    }

    fn cache(&self, segment: u32, cache: u32) -> u64 {
        let at = segment as usize * self.caches_each as usize + cache as usize;
        self.caches[at].load(Ordering::Relaxed)
    }
}

/// All programs of a model, bound to one set of buffers.
#[derive(Debug)]
pub(crate) struct BoundPrograms<K> {
    programs: Vec<BoundProgram>,
    threads: u32,
    shares: Shares,
    segments: Segments,
    recorder: Option<Arc<Recorder>>,
    /// Keeps code and weights alive as long as their addresses are in use.
    _keep: K,
}

/// For whom programs are bound.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    /// Threads that share each step.
    pub(crate) threads: u32,
    /// Most segments of a job.
    pub(crate) segments: u32,
    /// What gets the times, if anything.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

impl<K> BoundPrograms<K> {
    /// Binds `programs`; `entries` gives the code of each kernel.
    pub(crate) fn bind(
        programs: &[Program],
        entries: &[KernelEntry],
        binding: &Binding<'_>,
        crew: Crew,
        keep: K,
    ) -> Self {
        let Crew { threads, segments, recorder } = crew;
        let bound = |(number, program)| bind(binding, number, program, entries, threads);
        Self {
            programs: programs.iter().enumerate().map(bound).collect(),
            threads,
            shares: Shares::new(threads),
            segments: Segments::new(segments.max(1), binding.caches),
            recorder,
            _keep: keep,
        }
    }

    /// Says where the tokens of segment `number` of the next job stand in their sequence, how many they are, and where its
    /// caches are. Only while no job runs, and only for numbers below those that the programs were bound for.
    pub(crate) fn set_segment<'a>(
        &self,
        number: u32,
        segment: Extent,
        caches: impl IntoIterator<Item = &'a AlignedBuffer>,
    ) {
        let extent = &self.segments.extents[number as usize];
        extent.position.store(segment.position, Ordering::Relaxed);
        extent.tokens.store(segment.tokens, Ordering::Relaxed);
        let each = self.segments.caches_each as usize;
        let slots = &self.segments.caches[number as usize * each..][..each];
        for (slot, cache) in slots.iter().zip(caches) {
            slot.store(cache.address(), Ordering::Relaxed);
        }
    }

    /// Runs the steps of a job as one of the threads.
    fn walk<P: Probe>(&self, job: Job, thread: u32, barrier: &Barrier, probe: P) {
        let index = job.program as usize;
        let program = &self.programs[index];
        let idle = &program.idle[thread as usize];
        let call = Extent { position: job.position, tokens: job.tokens };
        let last = program.steps.len().wrapping_sub(1);
        for (number, step) in program.steps.iter().enumerate() {
            let started = probe.now();
            let numbers = |share| Numbers { call, share, row: job.row, segment: 0 };
            let mut worked = false;
            if step.positional && job.segments > 1 {
                worked = self.call_segments(program, step, job, thread);
            } else if let Some(grain) = step.divided
                && step.units.total(call) <= MOST_UNITS
            {
                let division = self.shares.begin(thread, u64::from(grain));
                let share = |owner| step.share(call, owner, self.threads);
                while let Some(range) = self.shares.next(division, share) {
                    self.call(program, step, thread, &numbers(range));
                    worked = true;
                }
            } else {
                let share = if step.fixed { 0..0 } else { step.share(call, thread, self.threads) };
                let nothing = if step.fixed { idle[number] } else { share.is_empty() };
                if !nothing {
                    self.call(program, step, thread, &numbers(share));
                    worked = true;
                }
            }
            if worked {
                probe.busy(index, number, thread, started);
            }
            let end = P::END && number == last;
            if step.barrier || end {
                let waiting = probe.now();
                barrier.wait();
                probe.waited(index, number, thread, waiting);
            }
        }
    }

    /// Runs what a thread does of a step that calls its kernel for each segment; returns whether there was anything.
    fn call_segments(&self, program: &BoundProgram, step: &BoundStep, job: Job, thread: u32) -> bool {
        let extents = &self.segments.extents[..(job.segments as usize).min(self.segments.extents.len())];
        let all = || extents.iter().map(SharedExtent::get);
        let share = |owner| step.units.share_of_calls(all(), owner, self.threads);
        let mut any = false;
        match step.divided {
            Some(grain) if step.units.total_of_calls(all()) <= MOST_UNITS => {
                let division = self.shares.begin(thread, u64::from(grain));
                while let Some(range) = self.shares.next(division, share) {
                    any |= self.call_parts(program, step, thread, extents, range);
                }
            }
            _ => any = self.call_parts(program, step, thread, extents, share(thread)),
        }
        any
    }

    /// Calls the kernel of a step for each segment that has some of the units `range` of all segments; returns whether one has.
    fn call_parts(
        &self,
        program: &BoundProgram,
        step: &BoundStep,
        thread: u32,
        extents: &[SharedExtent],
        range: Range<u64>,
    ) -> bool {
        let (mut row, mut next, mut any) = (0, 0, false);
        step.units.in_calls(extents.iter().map(SharedExtent::get), range, |number, share| {
            row += extents[next..number].iter().map(|extent| extent.get().tokens).sum::<u32>();
            next = number;
            let numbers = Numbers { call: extents[number].get(), share, row, segment: number as u32 };
            self.call(program, step, thread, &numbers);
            any = true;
        });
        any
    }

    /// Calls the kernel of a step.
    fn call(&self, program: &BoundProgram, step: &BoundStep, thread: u32, numbers: &Numbers) {
        let words = &program.words[thread as usize];
        for (at, patch) in &program.patches[step.patches.0 as usize..step.patches.1 as usize] {
            let value = match *patch {
                Patch::Position => u64::from(numbers.call.position),
                Patch::Tokens => u64::from(numbers.call.tokens),
                Patch::UnitBegin => numbers.share.start,
                Patch::UnitEnd => numbers.share.end,
                Patch::Row { base, stride } => base + u64::from(numbers.row) * stride,
                Patch::Cache { cache, offset } => self.segments.cache(numbers.segment, cache) + offset,
            };
            words[*at as usize].store(value, Ordering::Relaxed);
        }
        let args = words[step.first_word as usize..].as_ptr().cast::<u64>();
        // SAFETY: the code was generated from a verified kernel whose parameters are exactly these words (the
        // program lists one word for each parameter of the spec). Its addresses lie in buffers that `_keep` and whoever
        // bound the programs own for their life, or in the caches of the job's sequences, which are borrowed for the
        // job; all are large enough for the job, which the caller has checked. Ranges that two threads touch between
        // barriers do not overlap, which the plan checker has proved for the rows of a call; segments are different
        // rows and caches, and no unit of a step is handed out twice. `AtomicU64` has the layout of `u64`, and this
        // thread alone writes its copy.
        unsafe { (step.function)(args) };
    }
}

impl<K: Send + Sync + 'static> Work for BoundPrograms<K> {
    fn run(&self, job: Job, thread: u32, barrier: &Barrier) {
        match &self.recorder {
            None => self.walk(job, thread, barrier, Silent),
            Some(recorder) => self.walk(job, thread, barrier, &**recorder),
        }
    }
}

/// What the threads of a team call in a job that is no program: a place on the leader's stack, which says what.
#[derive(Debug, Default)]
pub(super) struct TaskSlot(AtomicPtr<()>);

impl TaskSlot {
    /// Calls the task of the job under way.
    pub(super) fn call(&self) {
        let task = self.0.load(Ordering::Relaxed).cast::<&(dyn Fn() + Sync)>();
        // SAFETY: the place is null, or was put here by `Team::run_task`, which takes it away before it returns. Threads are
        // in here only during a job, and no job ends before all threads have left it: `Team::run` waits for them, and ends the
        // process where it would unwind. What they read was written before the job was published.
        if let Some(task) = unsafe { task.as_ref() } {
            task();
        }
    }
}

impl<W: Work> Team<W> {
    /// Runs `work` once for each of the items, with its index, on any of the threads, and returns when it has been done for all
    /// of them. Items are begun in rising order. Allocates nothing, and takes no lock unless `work` panics; then one of the panics
    /// goes on here, when no thread is at an item any more.
    pub(crate) fn share<T: Send>(&mut self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        if items.len() <= 1 || self.threads() <= 1 {
            return items.iter_mut().enumerate().for_each(|(index, item)| work(index, item));
        }
        let count = items.len();
        let items = AtomicPtr::new(items.as_mut_ptr());
        let next = AtomicUsize::new(0);
        let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        self.run_task(&|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                // SAFETY: the index is below the length of the slice, whose exclusive borrow lasts until the job has ended, and
                // the counter gives each index to one thread only. `T: Send`, so it may be another one's than the caller's.
                let item = unsafe { &mut *items.load(Ordering::Relaxed).add(index) };
                // What a panic leaves half done is the caller's business, as it would be in a loop.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index, item))) {
                    *panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
            }
        });
        if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }

    /// Has every thread call `task`.
    fn run_task(&mut self, task: &(dyn Fn() + Sync)) {
        let place: *const &(dyn Fn() + Sync) = &task;
        self.task().0.store(place.cast_mut().cast(), Ordering::Relaxed);
        self.run(Job { program: Job::TASK, ..Job::default() });
        self.task().0.store(std::ptr::null_mut(), Ordering::Relaxed);
    }
}
