//! The threads of a machine: one leader (the caller) and workers that stay in one loop for the life of the machine, so that a
//! step costs two atomic hand-overs and no allocation.
//!
//! A job is a program index and a few numbers, published under a growing epoch, or a task that every thread calls. Workers wait
//! for the next epoch.
//! Everybody runs the same job with their own thread index and meets at the barriers inside it; the last barrier of a
//! job is also what gives it back to the leader. Who waits spins for a while and then sleeps ([`super::sleep`]).
//!
//! Invariants: the leader publishes a job only after every worker has left the previous one (the final barrier), so that
//! a worker is never more than one epoch behind; a worker that has seen `stop` never touches a job again, and dropping
//! the team waits until they have ended, also where not all of them could be started.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::call::TaskSlot;
use super::sleep::{Patience, Watched};
use crate::cpus::Cpus;
use crate::error::SessionError;

/// A job: which program, and the numbers that change per call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Index of the program, or [`Job::TASK`].
    pub(crate) program: u32,
    /// Position of the first token.
    pub(crate) position: u32,
    /// Tokens of the call.
    pub(crate) tokens: u32,
    /// Row of the bound output or input buffers at which the call starts.
    pub(crate) row: u32,
    /// How many segments the tokens are; up to 1, they are all of the same sequence.
    pub(crate) segments: u32,
}

impl Job {
    /// Stands for the program in a job that is the team's task, and no program.
    pub(super) const TASK: u32 = u32::MAX;
}

/// A barrier for a fixed number of threads.
#[derive(Debug)]
pub(crate) struct Barrier {
    threads: u32,
    arrived: AtomicU32,
    generation: Watched,
    patience: Patience,
}

impl Barrier {
    /// For `threads` threads.
    pub(crate) fn new(threads: u32, patience: Patience) -> Self {
        Self { threads, arrived: AtomicU32::new(0), generation: Watched::default(), patience }
    }

    /// Returns when all threads have called it; what they wrote before is visible afterwards.
    pub(crate) fn wait(&self) {
        if self.threads <= 1 {
            return;
        }
        let generation = self.generation.get();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.advance();
            return;
        }
        self.generation.wait_past(generation, self.patience);
    }
}

/// What every thread of a team runs.
pub(crate) trait Work: Send + Sync + 'static {
    /// Runs `job` as thread `thread`; called by all threads of the team at the same time. Must use `barrier` equally
    /// often on all of them.
    fn run(&self, job: Job, thread: u32, barrier: &Barrier);
}

#[derive(Debug)]
struct Shared {
    epoch: Watched,
    stop: AtomicBool,
    program: AtomicU32,
    position: AtomicU32,
    tokens: AtomicU32,
    row: AtomicU32,
    segments: AtomicU32,
    task: TaskSlot,
    barrier: Barrier,
    patience: Patience,
}

impl Shared {
    /// Does what thread `thread` has to do of a job, and waits for the others.
    fn run(&self, work: &impl Work, job: Job, thread: u32) {
        match job.program {
            Job::TASK => self.task.call(),
            _ => work.run(job, thread, &self.barrier),
        }
        self.barrier.wait();
    }
}

/// The threads, and the work they share.
pub(crate) struct Team<W: Work> {
    work: Arc<W>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Work> std::fmt::Debug for Team<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl<W: Work> Team<W> {
    /// A team of `threads` threads (the caller is one of them).
    ///
    /// # Errors
    /// A thread that could not be started; those that were have ended.
    pub(crate) fn new(work: Arc<W>, threads: u32) -> Result<Self, SessionError> {
        let threads = threads.max(1);
        let mut team = Self::of_leader(work, threads);
        for thread in 1..threads {
            let started = team.start(thread);
            started.map_err(|source| SessionError::Threads { thread: thread + 1, threads, source })?;
        }
        Ok(team)
    }

    /// The leader of a team of `threads` threads.
    fn of_leader(work: Arc<W>, threads: u32) -> Self {
        let patience = Patience::new(threads, Cpus::probe().at_once());
        let shared = Arc::new(Shared {
            epoch: Watched::default(),
            stop: AtomicBool::new(false),
            program: AtomicU32::new(0),
            position: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            row: AtomicU32::new(0),
            segments: AtomicU32::new(0),
            task: TaskSlot::default(),
            barrier: Barrier::new(threads, patience),
            patience,
        });
        Self { work, shared, workers: Vec::new() }
    }

    /// Starts the worker that is thread number `thread`.
    fn start(&mut self, thread: u32) -> std::io::Result<()> {
        let (shared, work) = (Arc::clone(&self.shared), Arc::clone(&self.work));
        let name = format!("bitnetc-{thread}");
        let run = move || worker_loop(&shared, &*work, thread);
        self.workers.push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    /// What the team runs.
    pub(crate) fn work(&self) -> &W {
        &self.work
    }

    /// Where the task of a job is put.
    pub(super) fn task(&self) -> &TaskSlot {
        &self.shared.task
    }

    /// Threads of the team.
    pub(crate) fn threads(&self) -> u32 {
        self.shared.barrier.threads
    }

    /// Runs a job on all threads and returns when it is done. Allocates nothing.
    pub(crate) fn run(&mut self, job: Job) {
        let shared = &*self.shared;
        if !self.workers.is_empty() {
            shared.program.store(job.program, Ordering::Relaxed);
            shared.position.store(job.position, Ordering::Relaxed);
            shared.tokens.store(job.tokens, Ordering::Relaxed);
            shared.row.store(job.row, Ordering::Relaxed);
            shared.segments.store(job.segments, Ordering::Relaxed);
            shared.epoch.advance();
        }
        let _guard = AbortOnPanic;
        shared.run(&*self.work, job, 0);
    }
}

/// Ends the process where a job panics: the others would wait for this thread for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn worker_loop<W: Work>(shared: &Shared, work: &W, thread: u32) {
    let _guard = AbortOnPanic;
    let mut seen = 0u32;
    loop {
        shared.epoch.wait_past(seen, shared.patience);
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let job = Job {
            program: shared.program.load(Ordering::Relaxed),
            position: shared.position.load(Ordering::Relaxed),
            tokens: shared.tokens.load(Ordering::Relaxed),
            row: shared.row.load(Ordering::Relaxed),
            segments: shared.segments.load(Ordering::Relaxed),
        };
        shared.run(work, job, thread);
    }
}

impl<W: Work> Drop for Team<W> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.epoch.advance();
        for worker in self.workers.drain(..) {
            // It has not panicked: that would have ended the process.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Count {
        sums: Vec<AtomicU64>,
    }

    impl Work for Count {
        fn run(&self, job: Job, thread: u32, barrier: &Barrier) {
            self.sums[thread as usize].fetch_add(u64::from(job.position), Ordering::Relaxed);
            barrier.wait();
            let all: u64 = self.sums.iter().map(|s| s.load(Ordering::Relaxed)).sum();
            assert_eq!(all, u64::from(job.tokens) * self.sums.len() as u64);
            barrier.wait();
        }
    }

    #[test]
    fn every_thread_runs_every_job_once() {
        for threads in 1..=4u32 {
            let work = Arc::new(Count { sums: (0..threads).map(|_| AtomicU64::new(0)).collect() });
            let mut team = Team::new(work, threads).unwrap();
            let mut total = 0;
            for position in 1..200 {
                total += position;
                team.run(Job { position, tokens: total, ..Job::default() });
                if position % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            // Workers hold the work too, until they have ended.
            let work = Arc::clone(&team.work);
            drop(team);
            assert_eq!(Arc::strong_count(&work), 1);
        }
    }

    fn team(threads: u32) -> Team<Count> {
        Team::new(Arc::new(Count { sums: (0..threads).map(|_| AtomicU64::new(0)).collect() }), threads)
            .unwrap()
    }

    #[test]
    fn items_are_shared_and_jobs_go_on() {
        for threads in 1..=4 {
            let mut team = team(threads);
            let mut total = 0;
            for round in 0..200usize {
                let mut items = vec![(0u32, String::new()); round % 37];
                team.share(&mut items, |index, (times, text)| {
                    *times += 1;
                    text.push_str(&index.to_string());
                });
                for (index, (times, text)) in items.iter().enumerate() {
                    assert_eq!((*times, text), (1, &index.to_string()));
                }
                total += 3;
                team.run(Job { position: 3, tokens: total, ..Job::default() });
            }
        }
    }

    #[test]
    fn items_are_on_several_threads_at_a_time() {
        let together = std::sync::Barrier::new(3);
        // Nobody leaves the barrier unless three threads are in it.
        team(3).share(&mut [(); 3], |_, ()| {
            together.wait();
        });
    }

    #[test]
    fn a_panic_in_an_item_is_the_callers_when_all_are_done() {
        for threads in [1, 3] {
            let mut team = team(threads);
            let mut done = [false; 20];
            let shared = std::panic::AssertUnwindSafe(|| {
                team.share(&mut done, |index, done| {
                    *done = true;
                    assert_ne!(index, 19, "a panic, for a test");
                });
            });
            let panic = std::panic::catch_unwind(shared).unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains("a panic, for a test"));
            assert_eq!(done, [true; 20]);
            team.share(&mut done, |_, done| *done = false);
            assert_eq!(done, [false; 20]);
        }
    }

    #[test]
    fn a_team_that_could_not_be_completed_ends() {
        let work = Arc::new(Count { sums: Vec::new() });
        let mut team = Team::of_leader(Arc::clone(&work), 4);
        for thread in [1, 2] {
            team.start(thread).unwrap();
        }
        drop(team);
        assert_eq!(Arc::strong_count(&work), 1);
    }
}
