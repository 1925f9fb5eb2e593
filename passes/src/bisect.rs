//! Finding the patch that breaks a module: the first N patches of a run are applied, for the least N with which the run
//! fails.
//!
//! Works where what fails with N patches fails with more, as a wrong rewrite does that nothing later mends.

use std::cell::RefCell;

use bitnetc_ir::text::ValueNames;
use bitnetc_ir::{Func, Module};

use crate::context::PassContext;
use crate::error::PassError;
use crate::instruments::Instrument;
use crate::pass_id::PassId;
use crate::patch::Patch;
use crate::reproducer::Reproducer;

/// The patch with which a run begins to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// How many patches of the run are applied with it: what `--stop-after` takes.
    pub patch: u64,
    /// The pass that made it.
    pub pass: PassId,
    /// The function.
    pub func: String,
    /// The op that the patch was found at, as the module in front of the patch prints it.
    pub op: String,
}

/// Counts patches, and remembers the last one.
#[derive(Default)]
struct Patches {
    count: u64,
    last: Option<(PassId, String, String)>,
}

impl Instrument for &RefCell<Patches> {
    fn before_patch(&mut self, _: &Module, func: &Func, patch: &Patch) {
        let mut patches = self.borrow_mut();
        patches.count += 1;
        let op = ValueNames::new(func).node(patch.anchor);
        patches.last = Some((patch.pass, func.name().to_owned(), op));
    }
}

/// The first patch with which the run of `reproducer` fails; `None` if the run succeeds, or fails without any patch.
pub fn bisect(reproducer: &Reproducer) -> Option<Culprit> {
    let outcome = |stop_after: Option<u64>| {
        let patches = RefCell::new(Patches::default());
        let limited = Reproducer {
            context: PassContext { stop_after, ..reproducer.context.clone() },
            ..reproducer.clone()
        };
        let failed: Result<_, PassError> = limited.run_with(&mut [&mut &patches]);
        (failed.is_err(), patches.into_inner())
    };
    let (fails, all) = outcome(reproducer.context.stop_after);
    if !fails || outcome(Some(0)).0 {
        return None;
    }
    let (mut good, mut bad) = (0, all.count);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match outcome(Some(middle)).0 {
            true => bad = middle,
            false => good = middle,
        }
    }
    let (_, patches) = outcome(Some(bad));
    let (pass, func, op) = patches.last?;
    Some(Culprit { patch: bad, pass, func, op })
}
