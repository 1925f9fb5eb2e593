//! Whether work is still wanted: asked between the chunks of a step.

use std::fmt;
use std::sync::Arc;

/// A question to the caller: shall the work go on? The default says yes, always.
///
/// Any closure that answers it will do, `|| !stopped.load(Relaxed)` for example. It is asked on the thread that calls the
/// machine.
#[derive(Clone, Default)]
pub struct KeepGoing(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl KeepGoing {
    /// The answer.
    pub fn ask(&self) -> bool {
        self.0.as_ref().is_none_or(|ask| ask())
    }
}

impl<F: Fn() -> bool + Send + Sync + 'static> From<F> for KeepGoing {
    fn from(ask: F) -> Self {
        Self(Some(Arc::new(ask)))
    }
}

impl fmt::Debug for KeepGoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeepGoing").field(&self.0.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_closure_answers() {
        assert!(KeepGoing::default().ask());
        let stopped = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stopped);
        let keep_going = KeepGoing::from(move || !asked.load(Ordering::Relaxed));
        assert!(keep_going.ask());
        stopped.store(true, Ordering::Relaxed);
        assert!(!keep_going.clone().ask());
    }
}
