//! The shutdown, in two phases: first new requests are refused while running ones continue, then those are ended too.

use std::sync::Arc;

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests are answered.
    Serving,
    /// New requests are refused, running ones go on.
    Draining,
    /// Running ones are ended.
    Ending,
}

/// A handle that shuts a server down. Clones refer to the same server.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }

    /// Refuses new requests. Running ones continue for at most [`Limits::drain_timeout`](crate::Limits).
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends running requests too.
    pub fn end(&self) {
        self.advance(Phase::Ending);
    }

    /// Whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let advances = *phase < to;
            *phase = to.max(*phase);
            advances
        });
    }

    /// Waits until the end has come this far.
    pub(crate) async fn reached(&self, phase: Phase) {
        // It fails if the sender is gone, and `self` has one.
        drop(self.phase.subscribe().wait_for(|now| *now >= phase).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_does_not_go_back() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_draining());
        shutdown.clone().end();
        shutdown.drain();
        assert_eq!(*shutdown.phase.borrow(), Phase::Ending);
    }
}
