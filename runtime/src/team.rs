//! The threads of a session: one leader (the caller) and workers of a rayon pool that stay in one loop for the life of
//! the session, so that a step costs two atomic hand-overs and no allocation.
//!
//! A job is a program index and three numbers, published under a growing epoch. Workers wait for the next epoch: they
//! spin for a while, then park. Everybody runs the same job with their own thread index and meets at the barriers inside
//! it; the last barrier of a job is also what gives it back to the leader.
//!
//! Invariants: the leader publishes a job only after every worker has left the previous one (the final barrier); a
//! worker that has seen `stop` never touches a job again, and [`Team::drop`] waits for all of them.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;

/// Rounds of spinning before a waiting thread yields or parks.
const SPINS: u32 = 1 << 12;

/// A job: which program, and the numbers that change per call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Index of the program.
    pub(crate) program: u32,
    /// Position of the first token.
    pub(crate) position: u32,
    /// Tokens of the call.
    pub(crate) tokens: u32,
    /// Row of the bound output or input buffers at which the call starts.
    pub(crate) row: u32,
}

/// A barrier for a fixed number of threads: arrive, then spin (and after a while yield) until all have.
#[derive(Debug)]
pub(crate) struct Barrier {
    threads: u32,
    arrived: AtomicU32,
    generation: AtomicU32,
}

impl Barrier {
    /// For `threads` threads.
    pub(crate) fn new(threads: u32) -> Self {
        Self { threads, arrived: AtomicU32::new(0), generation: AtomicU32::new(0) }
    }

    /// Returns when all threads have called it; what they wrote before is visible afterwards.
    pub(crate) fn wait(&self) {
        if self.threads <= 1 {
            return;
        }
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.fetch_add(1, Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
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
    epoch: AtomicU64,
    stop: AtomicBool,
    program: AtomicU32,
    position: AtomicU32,
    tokens: AtomicU32,
    row: AtomicU32,
    barrier: Barrier,
    workers: Vec<Worker>,
}

#[derive(Debug, Default)]
struct Worker {
    parked: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The threads, and the work they share.
pub(crate) struct Team<W: Work> {
    work: Arc<W>,
    shared: Arc<Shared>,
    pool: Option<rayon::ThreadPool>,
    threads: u32,
}

impl<W: Work> std::fmt::Debug for Team<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl<W: Work> Team<W> {
    /// A team of `threads` threads (the caller is one of them).
    ///
    /// # Errors
    /// The pool's threads could not be started.
    pub(crate) fn new(work: Arc<W>, threads: u32) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = threads.max(1);
        let workers = (1..threads).map(|_| Worker::default()).collect();
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            program: AtomicU32::new(0),
            position: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            row: AtomicU32::new(0),
            barrier: Barrier::new(threads),
            workers,
        });
        let pool = match threads {
            1 => None,
            n => {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(n as usize - 1)
                    .thread_name(|i| format!("bitnetc-{}", i + 1))
                    .build()?;
                let (shared, work) = (Arc::clone(&shared), Arc::clone(&work));
                pool.spawn_broadcast(move |ctx| worker_loop(&shared, &*work, ctx.index()));
                Some(pool)
            }
        };
        Ok(Self { work, shared, pool, threads })
    }

    /// Threads of the team.
    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    /// Runs a job on all threads and returns when it is done. Allocates nothing.
    pub(crate) fn run(&mut self, job: Job) {
        let shared = &*self.shared;
        if self.pool.is_some() {
            shared.program.store(job.program, Ordering::Relaxed);
            shared.position.store(job.position, Ordering::Relaxed);
            shared.tokens.store(job.tokens, Ordering::Relaxed);
            shared.row.store(job.row, Ordering::Relaxed);
            wake(shared);
        }
        self.work.run(job, 0, &shared.barrier);
        shared.barrier.wait();
    }
}

/// Starts the next epoch and wakes the workers that have parked.
fn wake(shared: &Shared) {
    shared.epoch.fetch_add(1, Ordering::SeqCst);
    for worker in &shared.workers {
        if worker.parked.load(Ordering::SeqCst)
            && let Some(thread) = worker.thread.get()
        {
            thread.unpark();
        }
    }
}

fn worker_loop<W: Work>(shared: &Shared, work: &W, index: usize) {
    let Some(me) = shared.workers.get(index) else { return };
    me.thread.get_or_init(std::thread::current);
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            // The flag is raised before the epoch is looked at again, and the leader looks at the flag after it has
            // raised the epoch: one of the two sees the other.
            me.parked.store(true, Ordering::SeqCst);
            if shared.epoch.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            me.parked.store(false, Ordering::SeqCst);
        }
        seen += 1;
        if shared.stop.load(Ordering::Acquire) {
            shared.barrier.wait();
            return;
        }
        let job = Job {
            program: shared.program.load(Ordering::Relaxed),
            position: shared.position.load(Ordering::Relaxed),
            tokens: shared.tokens.load(Ordering::Relaxed),
            row: shared.row.load(Ordering::Relaxed),
        };
        work.run(job, index as u32 + 1, &shared.barrier);
        shared.barrier.wait();
    }
}

impl<W: Work> Drop for Team<W> {
    fn drop(&mut self) {
        if self.pool.is_some() {
            self.shared.stop.store(true, Ordering::Release);
            wake(&self.shared);
            self.shared.barrier.wait();
        }
    }
}

#[cfg(test)]
mod tests {
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
                team.run(Job { program: 0, position, tokens: total, row: 0 });
                if position % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            drop(team);
        }
    }
}
