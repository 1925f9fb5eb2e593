//! What a pass is: a [`Rewrite`] that proposes patches or a [`Transform`] that decides for the whole module, and the
//! [`PassInfo`] that describes it.
//!
//! A stage is raised by the pass, not by what it finds: after `fuse-*` a module is in stage `fused` even if
//! nothing was fused, because from there on fused ops are legal.
//!
//! Invariants: nothing here knows which passes there are ([`crate::list`]) or how they are run ([`crate::manager`]), so that
//! every pass can build on this file.

use std::fmt;

use bitnetc_ir::{Func, Module, NodeId, Stage};

use crate::choices::PassOption;
use crate::context::PassContext;
use crate::error::PassFailure;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// A pass that replaces ops by others that compute the same bits (`pack-head`: what it was asked for).
pub trait Rewrite {
    /// Takes from `context` what the rewrite depends on; called once, before the others.
    fn configure(&mut self, _context: &PassContext) {}
    /// Takes a look at the whole function before its nodes are visited once more.
    fn start_sweep(&mut self, _func: &Func) {}
    /// What to change at `node`, if anything. It is called for every node of a sweep, so it must not look at all others.
    fn matches(&self, module: &Module, func: &Func, node: NodeId) -> Option<Patch>;
    /// Whether nodes are visited last first, as suits a rewrite that follows operands.
    fn backwards(&self) -> bool {
        false
    }
    /// Runs once when no patch is left; returns whether it changed the module. It must not change what is
    /// computed.
    fn finish(&self, _module: &mut Module) -> bool {
        false
    }
}

/// A pass that decides something for the whole module.
pub trait Transform {
    /// Makes the decision and notes it in the module; returns whether the module changed.
    ///
    /// # Errors
    /// What makes the decision impossible.
    fn run(&self, module: &mut Module, context: &PassContext) -> Result<bool, PassFailure>;
}

/// A pass, made from its description.
pub enum PassBody {
    /// See [`Rewrite`].
    Rewrite(Box<dyn Rewrite>),
    /// See [`Transform`].
    Transform(Box<dyn Transform>),
}

/// The description of a pass.
#[derive(Clone, Copy)]
pub struct PassInfo {
    /// Which pass it is.
    pub id: PassId,
    /// One sentence.
    pub description: &'static str,
    /// Whether a planned module cannot do without it.
    pub required: bool,
    /// The first and the last stage in which it may run.
    pub stages: (Stage, Stage),
    /// The stage to which it raises the module.
    pub raises_to: Option<Stage>,
    /// Options that it takes.
    pub options: &'static [PassOption],
    /// Whether the pass keeps every bit of what a module computes.
    pub keeps_bits: bool,
    pub(crate) make: fn() -> PassBody,
}

impl PassInfo {
    /// An optional pass without options that keeps every bit, from outside the product: [`crate::PassSet::with`] makes its name known.
    pub const fn new(
        id: PassId,
        description: &'static str,
        stages: (Stage, Stage),
        raises_to: Option<Stage>,
        make: fn() -> PassBody,
    ) -> Self {
        Self { id, description, required: false, stages, raises_to, options: &[], keeps_bits: true, make }
    }

    /// The name in pipelines.
    pub const fn name(&self) -> &'static str {
        self.id.name()
    }
}

impl fmt::Debug for PassInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
