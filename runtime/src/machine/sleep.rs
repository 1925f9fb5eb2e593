//! Waiting for another thread to change a number: spin for a while, then sleep.
//!
//! Threads that run at the same time meet within microseconds, and putting one to sleep and waking it costs more than
//! that. But when there are more threads than CPUs, or the system gives a CPU to somebody else, the thread that is
//! waited for needs the CPU that the waiting one burns. So a [`Patience`] says how long to spin.
//!
//! On Linux sleeping is the futex operation on the number itself, without a lock or an allocation; elsewhere a thread
//! that has run out of patience gives way to others and looks again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a thread spins for others that have a CPU each.
const SPIN: Duration = Duration::from_micros(60);

/// How long it spins where they have not.
const SHORT_SPIN: Duration = Duration::from_micros(1);

/// Rounds of spinning before sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(u32);

impl Patience {
    /// For `threads` threads where `at_once` can run at the same time.
    pub(crate) fn new(threads: u32, at_once: u32) -> Self {
        let time = if threads > at_once { SHORT_SPIN } else { SPIN };
        Self((time.as_nanos() as f64 / round_ns()).clamp(1.0, 1e6) as u32)
    }
}

/// Nanoseconds of one round of spinning here: processors differ by a factor of twenty.
fn round_ns() -> f64 {
    static ROUND: OnceLock<f64> = OnceLock::new();
    *ROUND.get_or_init(|| {
        const ROUNDS: u32 = 500;
        let number = AtomicU32::new(0);
        let time = || {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                std::hint::black_box(number.load(Ordering::Acquire));
                std::hint::spin_loop();
            }
            start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
        };
        // The quickest of some: others may run in between.
        (0..3).map(|_| time()).fold(f64::INFINITY, f64::min).max(0.1)
    })
}

/// A number that threads wait for.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    number: AtomicU32,
    sleepers: AtomicU32,
}

impl Watched {
    /// The number.
    pub(crate) fn get(&self) -> u32 {
        self.number.load(Ordering::Acquire)
    }

    /// Adds 1 and wakes who sleeps for it. What this thread wrote before is visible to whoever sees the new number.
    pub(crate) fn advance(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        // A sleeper counts itself before it looks at the number for the last time: either it is seen here, or it sees
        // the new number.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    /// Returns when the number is not `old` any more.
    pub(crate) fn wait_past(&self, old: u32, patience: Patience) {
        for _ in 0..patience.0 {
            if self.get() != old {
                return;
            }
            std::hint::spin_loop();
        }
        while self.get() == old {
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            self.sleep(old);
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[cfg(target_os = "linux")]
    fn sleep(&self, old: u32) {
        use rustix::thread::futex;
        // Interrupted, or the number has changed: the caller looks again.
        let _ = futex::wait(&self.number, futex::Flags::PRIVATE, old, None);
    }

    #[cfg(target_os = "linux")]
    fn wake(&self) {
        use rustix::thread::futex;
        let _ = futex::wake(&self.number, futex::Flags::PRIVATE, i32::MAX as u32);
    }

    #[cfg(not(target_os = "linux"))]
    fn sleep(&self, _: u32) {
        std::thread::yield_now();
    }

    #[cfg(not(target_os = "linux"))]
    fn wake(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_are_woken() {
        for patience in [Patience(0), Patience(1), Patience::new(2, 2)] {
            let (there, back) = (Watched::default(), Watched::default());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0..2000 {
                        there.wait_past(round, patience);
                        back.advance();
                    }
                });
                for round in 0..2000 {
                    if round % 500 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    there.advance();
                    back.wait_past(round, patience);
                }
            });
            assert_eq!((there.get(), back.get()), (2000, 2000));
            assert_eq!(there.sleepers.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn threads_without_a_cpu_each_spin_less() {
        assert!(Patience::new(3, 2).0 < Patience::new(2, 2).0);
    }
}
