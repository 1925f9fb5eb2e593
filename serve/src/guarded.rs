//! A panic in the code of one request is the failure of that request.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// A future panicked. What the panic said has been printed by the process's panic hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs `work` to its end.
///
/// # Errors
/// A panic while it was polled.
pub(crate) async fn guarded<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // What a panic leaves half done is dropped with the future and never polled again.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_wherever_it_happens() {
        assert_eq!(guarded(async { 1 }).await, Ok(1));
        let at_once = guarded(async { panic!("a test") });
        assert_eq!(at_once.await, Err::<(), _>(Panicked));
        let later = guarded(async {
            tokio::task::yield_now().await;
            panic!("a test")
        });
        assert_eq!(later.await, Err::<(), _>(Panicked));
    }
}
