//! The end of a server, in two steps: it takes no more work and goes on with what it has; then that ends too.

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

/// Asks a server to end. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }

    /// Refuses new requests; running ones go on until the time for that is over.
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
