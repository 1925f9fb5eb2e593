//! The plan that a running model lies in, and the check of its weights beside the work.
//!
//! The hash of a plan's weights is not checked before the first token, which would read all of them once more. A plan of the
//! cache, which nobody but this program has reason to touch, is checked by a thread of its own while it is used: steps fail from
//! the moment at which damage is found.
//!
//! Invariants: the check never keeps a model alive that nobody uses; it has the lowest priority that the system gives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use bitnetc_runtime::model::{WeightFault, WeightMemory};
use bitnetc_runtime::plan::Plan;

/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;
/// How often a waiter asks whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A plan whose weights kernels read.
#[derive(Debug)]
pub(crate) struct PlanInUse {
    plan: Plan,
    damaged: AtomicBool,
}

impl PlanInUse {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, damaged: AtomicBool::new(false) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl AsRef<[u8]> for PlanInUse {
    fn as_ref(&self) -> &[u8] {
        self.plan.file()
    }
}

impl WeightMemory for PlanInUse {
    fn fault(&self) -> Option<WeightFault> {
        match (self.plan.is_whole(), self.damaged.load(Ordering::Acquire)) {
            (false, _) => Some(WeightFault::Lost),
            (true, true) => Some(WeightFault::Damaged),
            (true, false) => None,
        }
    }
}

/// How far the check of weights is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// It goes on.
    Running,
    /// They are what was written.
    Sound,
    /// They are not.
    Damaged,
    /// It has ended without a result, because the model is unused or its file was truncated.
    Stopped,
}

/// A check of weights in the background.
#[derive(Debug)]
pub struct WeightsCheck {
    state: Mutex<CheckState>,
    changed: Condvar,
}

impl WeightsCheck {
    /// Starts to check the weights of `plan`; `ended` is called with the result. `None` where no thread is to be had.
    pub(crate) fn start(
        plan: &Arc<PlanInUse>,
        ended: impl FnOnce(CheckState) + Send + 'static,
    ) -> Option<Arc<Self>> {
        let check = Arc::new(Self { state: Mutex::new(CheckState::Running), changed: Condvar::new() });
        let (plan, ours) = (Arc::downgrade(plan), Arc::clone(&check));
        let work = move || {
            bitnetc_runtime::cpus::lower_priority();
            let state = hash_in_pieces(&plan);
            if state == CheckState::Damaged
                && let Some(plan) = plan.upgrade()
            {
                plan.damaged.store(true, Ordering::Release);
            }
            ended(state);
            *ours.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
            ours.changed.notify_all();
        };
        std::thread::Builder::new().name("bitnetc-check".to_owned()).spawn(work).ok().map(|_| check)
    }

    /// How far it is.
    pub fn state(&self) -> CheckState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the result, as long as `go_on` says so.
    pub fn wait(&self, go_on: &dyn Fn() -> bool) -> CheckState {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == CheckState::Running && go_on() {
            let waited = self.changed.wait_timeout(state, ASK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *state
    }
}

/// A check, with the plan that it is of: it goes on to its end although nobody else uses the model any more.
#[derive(Debug)]
pub struct HeldCheck {
    check: Arc<WeightsCheck>,
    _plan: Arc<PlanInUse>,
}

impl HeldCheck {
    pub(crate) fn new(check: &Arc<WeightsCheck>, plan: &Arc<PlanInUse>) -> Self {
        Self { check: Arc::clone(check), _plan: Arc::clone(plan) }
    }

    /// The check.
    pub fn check(&self) -> &WeightsCheck {
        &self.check
    }
}

/// Hashes the weights, as long as the plan is used.
fn hash_in_pieces(plan: &Weak<PlanInUse>) -> CheckState {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    loop {
        let Some(used) = plan.upgrade() else { return CheckState::Stopped };
        let weights = used.plan.weights();
        let piece = &weights[at..weights.len().min(at + PIECE)];
        if piece.is_empty() {
            return match (used.plan.is_whole(), hasher.finalize() == used.plan.weights_hash()) {
                (false, _) => CheckState::Stopped,
                (true, true) => CheckState::Sound,
                (true, false) => CheckState::Damaged,
            };
        }
        hasher.update(piece);
        at += piece.len();
    }
}
