//! The threads of parallel loops: those that pack, hash, decode and compile while a model is opened.
//!
//! Rayon runs a parallel iterator on its global pool unless the caller is on a thread of another one. The global pool is
//! started on first use, keeps its threads until the process ends, belongs to the program and not to a library in it, and
//! panics where the system refuses a thread: in a container with few process ids, for an account with few processes. So every
//! parallel loop of this project stands inside [`install`].
//!
//! Invariants:
//! - A caller that is already on a thread of a Rayon pool stays there: to use a pool of its own, a program calls from it.
//! - Otherwise the loop runs on a pool that lives as long as somebody holds it ([`hold`]) or runs on it, and whose threads have
//!   ended when it is gone.
//! - Too few threads are no error: where the system refuses one, the pool has half of those that could be started, so that the
//!   rest of the program finds some; where it refuses all, the caller's thread does the work.
#![forbid(unsafe_code)]

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Runs `work`, whose parallel iterators and joins use the threads of this crate.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return work();
    }
    match &current().rayon {
        Some(pool) => pool.install(work),
        None => on_this_thread(work),
    }
}

/// Keeps the threads for several calls of [`install`]. Without it each call starts its own.
pub fn hold() -> Threads {
    Threads { pool: current() }
}

/// Threads that are kept; see [`hold`].
pub struct Threads {
    pool: Arc<Pool>,
}

impl Threads {
    /// Threads that work on a loop.
    pub fn count(&self) -> usize {
        self.pool.workers.len().max(1)
    }

    /// Threads that were wanted: one for each CPU, or the number in `RAYON_NUM_THREADS`.
    pub fn wanted(&self) -> usize {
        self.pool.wanted
    }
}

struct Pool {
    /// `None` where no thread could be started, and after [`Drop`] began.
    rayon: Option<ThreadPool>,
    workers: Vec<JoinHandle<()>>,
    wanted: usize,
}

/// The pool, while anyone has it.
static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());

fn current() -> Arc<Pool> {
    let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    kept.upgrade().unwrap_or_else(|| {
        let pool = Arc::new(Pool::start(wanted(), |run| thread::Builder::new().spawn(run)));
        *kept = Arc::downgrade(&pool);
        pool
    })
}

fn wanted() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let cpus = || thread::available_parallelism().map_or(1, NonZero::get);
    asked.filter(|&n| n > 0).unwrap_or_else(cpus)
}

type Run = Box<dyn FnOnce() + Send>;

impl Pool {
    /// Starts `wanted` threads with `spawn`, or fewer.
    fn start(wanted: usize, spawn: impl Fn(Run) -> std::io::Result<JoinHandle<()>>) -> Self {
        let mut count = wanted;
        while count > 0 {
            let mut workers = Vec::new();
            let started = ThreadPoolBuilder::new().num_threads(count).spawn_handler(|worker| {
                workers.push(spawn(Box::new(|| worker.run()))?);
                Ok(())
            });
            match started.build() {
                Ok(rayon) => return Self { rayon: Some(rayon), workers, wanted },
                Err(_) => {
                    count = (workers.len() / 2).min(count - 1);
                    join(workers);
                }
            }
        }
        Self { rayon: None, workers: Vec::new(), wanted }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.rayon.take());
        join(std::mem::take(&mut self.workers));
    }
}

/// Waits until the threads of a pool that ended have ended too.
fn join(workers: Vec<JoinHandle<()>>) {
    let this = thread::current().id();
    for worker in workers.into_iter().filter(|worker| worker.thread().id() != this) {
        // Rayon hands the panic of a loop to its caller.
        drop(worker.join());
    }
}

/// Runs `work` with this thread as the only one of a pool: what is parallel in it runs here, without a thread being started.
fn on_this_thread<R>(work: impl FnOnce() -> R) -> R {
    // Rayon keeps the description of a pool that has its caller's thread for the life of the process: a kilobyte, once for
    // each thread that finds itself alone. From then on such a thread is one of a pool, so an error means that it is already.
    drop(ThreadPoolBuilder::new().num_threads(1).use_current_thread().build());
    work()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rayon::prelude::*;

    use super::*;

    fn sum() -> u64 {
        (0..100_000u64).into_par_iter().sum()
    }

    /// On a system that allows `limit` threads at a time.
    fn pool_of(wanted: usize, limit: usize) -> Pool {
        let left = Arc::new(AtomicUsize::new(limit));
        Pool::start(wanted, |run| {
            let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            taken.map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
            let left = Arc::clone(&left);
            thread::Builder::new().spawn(move || {
                run();
                left.fetch_add(1, Ordering::Relaxed);
            })
        })
    }

    #[test]
    fn a_pool_has_the_threads_that_can_be_had() {
        assert_eq!(pool_of(4, 100).workers.len(), 4);
        // Those of the first attempt have ended before the second, which asks for half of them.
        assert_eq!(pool_of(64, 19).workers.len(), 9);
        assert_eq!(pool_of(64, 1).workers.len(), 0);
        let none = pool_of(8, 0);
        assert!(none.rayon.is_none() && none.workers.is_empty());
    }

    #[test]
    fn work_is_done_without_any_thread() {
        let alone = thread::spawn(|| {
            let here = thread::current().id();
            let sums = [on_this_thread(sum), on_this_thread(sum), install(sum)];
            let where_run = install(|| rayon::join(|| thread::current().id(), || thread::current().id()));
            (sums, where_run == (here, here))
        });
        assert_eq!(alone.join().unwrap(), ([4_999_950_000; 3], true));
    }

    #[test]
    fn the_threads_of_a_caller_are_used() {
        let own = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(own.install(|| install(rayon::current_num_threads)), 3);
    }

    #[test]
    fn threads_are_kept_while_they_are_held_and_end_after() {
        let held = hold();
        let first = install(|| thread::current().id());
        assert!(held.pool.workers.iter().any(|worker| worker.thread().id() == first));
        assert_eq!(held.count(), held.wanted());
        assert_eq!(install(sum), 4_999_950_000);
    }

    #[test]
    fn a_panic_in_a_loop_is_the_callers() {
        let caught =
            std::panic::catch_unwind(|| install(|| (0..8).into_par_iter().for_each(|i| assert!(i < 4))));
        assert!(caught.is_err());
        assert_eq!(install(sum), 4_999_950_000);
    }
}
