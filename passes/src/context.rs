//! What a run of passes depends on besides the module and the pipeline.

use bitnetc_ir::TargetDesc;

use crate::choices::{HeadFormat, PassOptions, VerifyEach, WeightPacking};

/// The context that passes run in.
#[derive(Clone, Debug, PartialEq)]
pub struct PassContext {
    /// The machine that `assign-layout` lays out for.
    pub target: TargetDesc,
    /// The head that `pack-head` makes.
    pub head: HeadFormat,
    /// How `assign-layout` packs ternary weights.
    pub weights: WeightPacking,
    /// What is checked after every pass.
    pub verify_each: VerifyEach,
    /// Maximum number of patches to apply in the whole run; `None` applies all.
    pub stop_after: Option<u64>,
}

impl PassContext {
    /// Keeps the head as it is stored, packs weights in 2 bits, verifies after every pass, applies all patches.
    pub fn new(target: TargetDesc) -> Self {
        let (head, weights) = (HeadFormat::Stored, WeightPacking::TwoBits);
        Self { target, head, weights, verify_each: VerifyEach::default(), stop_after: None }
    }

    /// The context of one run of a pass, whose own options count before those of the whole run.
    #[must_use]
    pub(crate) fn with(&self, options: &PassOptions) -> Self {
        Self {
            head: options.head.unwrap_or(self.head),
            weights: options.weights.unwrap_or(self.weights),
            ..self.clone()
        }
    }
}
