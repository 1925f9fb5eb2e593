//! Admission control: the number of texts of a model is bounded. Each either has a sequence or waits for one.
//!
//! Requests past that number are refused immediately (429), with the time after which another attempt may succeed. Refusing early
//! preserves the throughput and bounds the waiting time of admitted requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use bitnetc::engine::Metrics;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::failure::Failure;

/// See the module.
#[derive(Debug)]
pub(crate) struct Admission {
    metrics: Arc<Metrics>,
    sequences: usize,
    queue: usize,
    /// Texts that were taken and have not ended.
    taken: AtomicUsize,
    /// Tokens that they may come to.
    tokens: AtomicU64,
    /// Where a request waits no longer than a time for its sequence: the sequences.
    seats: Option<(Duration, Arc<Semaphore>)>,
}

/// A place for texts; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    count: usize,
    tokens: u64,
    _seats: Option<OwnedSemaphorePermit>,
}

impl Admission {
    pub(crate) fn new(metrics: Arc<Metrics>, sequences: u32, queue: usize, wait: Option<Duration>) -> Self {
        let sequences = sequences as usize;
        let seats = wait.map(|time| (time, Arc::new(Semaphore::new(sequences))));
        Self { metrics, sequences, queue, taken: AtomicUsize::new(0), tokens: AtomicU64::new(0), seats }
    }

    /// Texts that wait for a sequence.
    pub(crate) fn waiting(&self) -> usize {
        self.taken.load(Ordering::SeqCst).saturating_sub(self.sequences)
    }

    /// Whether another text would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.taken.load(Ordering::SeqCst) >= self.sequences + self.queue
    }

    /// Takes a text, if there is room.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Ticket, Failure> {
        let room = self.sequences + self.queue;
        let one_more = |taken| (taken < room).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(Ticket { admission: Arc::clone(self), count: 1, tokens: 0, _seats: None }),
            Err(_) => Err(self.overloaded()),
        }
    }

    fn overloaded(&self) -> Failure {
        let waiting = self.waiting();
        let are = if waiting == 1 { "request is" } else { "requests are" };
        let message = format!("{waiting} {are} waiting already: try again later");
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
            .retry_after(self.retry_after())
    }

    /// Seconds until those that wait have been served, at the measured rate.
    fn retry_after(&self) -> u64 {
        let taken = self.taken.load(Ordering::SeqCst).max(1) as f64;
        let share = self.waiting() as f64 / taken;
        let steps = &self.metrics.step_seconds;
        let time = steps.decode.sum() + steps.mixed.sum() + steps.prefill.sum();
        seconds(self.tokens.load(Ordering::SeqCst) as f64 * share, self.metrics.step_rows.sum(), time)
    }
}

/// Seconds for `tokens`, where `rows` took `time`.
fn seconds(tokens: f64, rows: f64, time: f64) -> u64 {
    // Nothing is known yet.
    let rate = if rows > 0.0 && time > 0.0 { rows / time } else { 100.0 };
    (tokens / rate).ceil().clamp(1.0, 120.0) as u64
}

impl Ticket {
    /// Makes it one for `count` texts of `tokens` in all.
    pub(crate) fn grow(&mut self, count: usize, tokens: u64) -> Result<(), Failure> {
        let admission = &self.admission;
        self.tokens = tokens;
        admission.tokens.fetch_add(tokens, Ordering::SeqCst);
        let more = count.saturating_sub(self.count);
        let room = admission.sequences + admission.queue;
        // A request for more than there ever is room for is taken when nobody else is there.
        let fits =
            |taken: usize| (more == 0 || taken + more <= room || taken == self.count).then_some(taken + more);
        match admission.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) {
            Ok(_) => {
                self.count += more;
                Ok(())
            }
            Err(_) => Err(admission.overloaded()),
        }
    }

    /// Waits for a sequence, where the wait is bounded, and takes those for the other texts as far as they are free. It does not wait
    /// for all of them: those that it had would be idle, and whoever waits after it would wait for nothing.
    pub(crate) async fn wait(&mut self) -> Result<(), Failure> {
        let Some((time, seats)) = &self.admission.seats else { return Ok(()) };
        match timeout(*time, Arc::clone(seats).acquire_owned()).await {
            Ok(Ok(mut permit)) => {
                for _ in 1..self.count.min(self.admission.sequences) {
                    let Ok(another) = Arc::clone(seats).try_acquire_owned() else { break };
                    permit.merge(another);
                }
                self._seats = Some(permit);
                Ok(())
            }
            _ => {
                let message =
                    format!("no sequence was free within {:.1} s: try again later", time.as_secs_f64());
                let seconds = self.admission.retry_after();
                Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "queue_timeout", message)
                    .retry_after(seconds))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.taken.fetch_sub(self.count, Ordering::SeqCst);
        self.admission.tokens.fetch_sub(self.tokens, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_a_bound_and_gives_back() {
        let admission = Arc::new(Admission::new(Arc::default(), 2, 1, None));
        let mut first = admission.admit().unwrap();
        let second = admission.admit().unwrap();
        assert_eq!((admission.waiting(), admission.is_full()), (0, false));
        let third = admission.admit().unwrap();
        assert!(admission.is_full());
        assert_eq!(admission.admit().unwrap_err().refusal.status, 429);
        drop((second, third));
        first.grow(3, 100).unwrap();
        assert_eq!(admission.admit().unwrap_err().refusal.code, "rate_limit_exceeded");
        drop(first);
        assert_eq!((admission.taken.load(Ordering::SeqCst), admission.tokens.load(Ordering::SeqCst)), (0, 0));
        // More than there is room for, but nobody else is there.
        let mut large = admission.admit().unwrap();
        large.grow(8, 1).unwrap();
        assert!(admission.is_full());
        drop(large);
        let (mut one, _other) = (admission.admit().unwrap(), admission.admit().unwrap());
        assert!(one.grow(8, 1).is_err());
        drop(one);
        assert_eq!(admission.taken.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_request_for_several_texts_holds_back_no_free_sequence() {
        let admission = Arc::new(Admission::new(Arc::default(), 2, 8, Some(Duration::ZERO)));
        let mut one = admission.admit().unwrap();
        one.wait().await.unwrap();
        let mut many = admission.admit().unwrap();
        many.grow(4, 1).unwrap();
        // One sequence is free: its first text begins, and whoever comes next is refused because there is none.
        many.wait().await.unwrap();
        let mut third = admission.admit().unwrap();
        assert_eq!(third.wait().await.unwrap_err().refusal.status, 503);
        drop(one);
        third.wait().await.unwrap();
        drop((many, third));
        let mut all = admission.admit().unwrap();
        all.grow(4, 1).unwrap();
        all.wait().await.unwrap();
        assert_eq!(admission.seats.as_ref().unwrap().1.available_permits(), 0);
    }

    #[test]
    fn the_wait_follows_the_measured_rate() {
        assert_eq!(seconds(1000.0, 500.0, 10.0), 20);
        assert_eq!((seconds(0.0, 500.0, 10.0), seconds(1e9, 500.0, 10.0)), (1, 120));
        assert_eq!(seconds(1000.0, 0.0, 0.0), 10);
    }
}
