//! Pipelines: which passes run, in which order, as text that round-trips (`canonicalise,cse,dce,…`).
//!
//! Every pass is named once, in the list below, with what it does, the stages in which it may run, the stage
//! that the module is in afterwards, and whether a planned module can do without it. `--help` texts, errors
//! and the default pipeline come from this list.
//!
//! A stage is raised by the pass, not by what it finds: after `fuse-*` a module is in stage `fused` even if
//! nothing was fused, because from there on fused ops are legal.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::{Func, Module, NodeId, Stage};

use crate::error::PassFailure;
use crate::manager::PassContext;
use crate::patch::Patch;
use crate::{
    assign_layout, canonicalise, cse, dce, fuse_bitlinear, fuse_norm_quant, fuse_rope_kv, merge_projections,
    pack_head, plan_memory, schedule,
};

/// A pass that replaces ops by others that compute the same bits (`pack-head`: what it was asked for).
pub trait Rewrite {
    /// Takes from `context` what the rewrite depends on; called once, before the others.
    fn configure(&mut self, _context: &PassContext<'_>) {}
    /// What to change at `node`, if anything.
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
    fn run(&self, module: &mut Module, context: &PassContext<'_>) -> Result<bool, PassFailure>;
}

/// A pass, made from its entry in the list.
pub enum PassBody {
    /// See [`Rewrite`].
    Rewrite(Box<dyn Rewrite>),
    /// See [`Transform`].
    Transform(Box<dyn Transform>),
}

/// One entry of the list of passes.
#[derive(Clone, Copy)]
pub struct PassInfo {
    /// The name in pipelines.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// Whether a planned module cannot do without it.
    pub required: bool,
    /// The first and the last stage in which it may run.
    pub stages: (Stage, Stage),
    /// The stage to which it raises the module.
    pub raises_to: Option<Stage>,
    pub(crate) make: fn() -> PassBody,
}

impl fmt::Debug for PassInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! define_passes {
    ($(
        #[doc = $doc:literal]
        $name:literal: $need:ident $kind:ident($make:expr), $first:ident..=$last:ident $(=> $raises:ident)?;
    )+) => {
        /// All passes, in the order of the default pipeline.
        pub static ALL_PASSES: &[PassInfo] = &[$(PassInfo {
            name: $name,
            description: $doc.trim_ascii(),
            required: define_passes!(@need $need),
            stages: (Stage::$first, Stage::$last),
            raises_to: define_passes!(@raises $($raises)?),
            make: || PassBody::$kind(Box::new($make)),
        },)+];
    };
    (@need required) => { true };
    (@need optional) => { false };
    (@raises) => { None };
    (@raises $stage:ident) => { Some(Stage::$stage) };
}

define_passes! {
    /// Brings ops into the one form that later passes look for.
    "canonicalise": optional Rewrite(canonicalise::Canonicalise), Imported..=LaidOut;
    /// Computes equal ops once.
    "cse": optional Rewrite(cse::Cse), Imported..=LaidOut;
    /// Removes ops and weights that nothing reads.
    "dce": optional Rewrite(dce::Dce), Imported..=LaidOut;
    /// Makes one op of RMSNorm and the quantisation of its result.
    "fuse-norm-quant": optional Rewrite(fuse_norm_quant::FuseNormQuant), Imported..=Fused => Fused;
    /// Makes one op of RoPE on queries and keys and the append to the KV cache.
    "fuse-rope-kv": optional Rewrite(fuse_rope_kv::FuseRopeKv), Imported..=Fused => Fused;
    /// Makes one matrix of ternary matrices that read the same activation: q, k, v; gate and up interleaved.
    "merge-projections": optional Rewrite(merge_projections::MergeProjections), Imported..=Fused => Fused;
    /// Makes one op of a ternary product and the addition of the residual.
    "fuse-bitlinear": optional Rewrite(fuse_bitlinear::FuseBitlinear), Imported..=Fused => Fused;
    /// Computes the language-model head in the bits that were asked for (`--head`).
    "pack-head": optional Rewrite(pack_head::PackHead::default()), Imported..=Fused => Fused;
    /// Gives every packed weight and K cache the layout that the kernels of the target read.
    "assign-layout": required Transform(assign_layout::AssignLayout), Imported..=LaidOut => LaidOut;
    /// Orders ops so that as few barriers as possible are needed.
    "schedule": optional Transform(schedule::Schedule), Imported..=LaidOut;
    /// Gives every value its place in memory and places the barriers.
    "plan-memory": required Transform(plan_memory::PlanMemory), LaidOut..=Planned => Planned;
}

/// The pass of this name.
pub fn pass_named(name: &str) -> Option<&'static PassInfo> {
    ALL_PASSES.iter().find(|p| p.name == name)
}

/// Passes in the order in which they run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    passes: Vec<&'static PassInfo>,
}

/// Why a pipeline was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// No pass has this name.
    #[error("unknown pass `{name}`: known are {}", known())]
    Unknown {
        /// As written.
        name: String,
    },
    /// The pass cannot be left out.
    #[error("`{name}` cannot be left out: without it a module has no plan to run by")]
    Required {
        /// The pass.
        name: &'static str,
    },
}

fn known() -> String {
    ALL_PASSES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
}

impl Pipeline {
    /// These passes.
    pub fn new(passes: Vec<&'static PassInfo>) -> Self {
        Self { passes }
    }
    /// The passes.
    pub fn passes(&self) -> &[&'static PassInfo] {
        &self.passes
    }
    /// The same pipeline without any run of the pass `name`.
    ///
    /// # Errors
    /// The name of no pass, or of a required one.
    pub fn without(mut self, name: &str) -> Result<Self, PipelineError> {
        let info = pass_named(name).ok_or_else(|| PipelineError::Unknown { name: name.to_owned() })?;
        if info.required {
            return Err(PipelineError::Required { name: info.name });
        }
        self.passes.retain(|p| p.name != info.name);
        Ok(self)
    }
}

impl Default for Pipeline {
    /// Every pass once, in the order of the list.
    fn default() -> Self {
        Self { passes: ALL_PASSES.iter().collect() }
    }
}

impl PartialEq for Pipeline {
    fn eq(&self, other: &Self) -> bool {
        self.passes.iter().map(|p| p.name).eq(other.passes.iter().map(|p| p.name))
    }
}

impl Eq for Pipeline {}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pass) in self.passes.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}", pass.name)?;
        }
        Ok(())
    }
}

impl FromStr for Pipeline {
    type Err = PipelineError;

    /// Names with commas between them; blanks around a name are allowed, and the empty text is the empty
    /// pipeline.
    fn from_str(text: &str) -> Result<Self, PipelineError> {
        if text.trim().is_empty() {
            return Ok(Self { passes: Vec::new() });
        }
        let find = |word: &str| {
            let name = word.trim();
            pass_named(name).ok_or_else(|| PipelineError::Unknown { name: name.to_owned() })
        };
        Ok(Self { passes: text.split(',').map(find).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["", "dce", "canonicalise,cse,dce,canonicalise", &Pipeline::default().to_string()] {
            let pipeline: Pipeline = text.parse().unwrap();
            assert_eq!(pipeline.to_string(), text);
            assert_eq!(pipeline.to_string().parse::<Pipeline>().unwrap(), pipeline);
        }
        assert_eq!(" dce , cse ".parse::<Pipeline>().unwrap().to_string(), "dce,cse");
    }

    #[test]
    fn unknown_passes_are_refused_with_the_list() {
        for text in ["dse", "dce,", "dce{n=1}", "dce;cse"] {
            let message = text.parse::<Pipeline>().unwrap_err().to_string();
            assert!(ALL_PASSES.iter().all(|p| message.contains(p.name)), "{message}");
        }
    }

    #[test]
    fn optional_passes_can_be_left_out_and_required_ones_not() {
        for info in ALL_PASSES {
            match Pipeline::default().without(info.name) {
                Ok(rest) => assert!(!info.required && rest.passes().len() == ALL_PASSES.len() - 1),
                Err(e) => assert!(info.required && e == PipelineError::Required { name: info.name }),
            }
        }
        assert!(matches!(Pipeline::default().without("x"), Err(PipelineError::Unknown { .. })));
    }

    #[test]
    fn names_are_unique_and_the_default_pipeline_ends_planned() {
        for (i, a) in ALL_PASSES.iter().enumerate() {
            assert!(ALL_PASSES[..i].iter().all(|b| a.name != b.name));
            assert!(!a.description.is_empty() && a.stages.0 <= a.stages.1);
        }
        assert_eq!(ALL_PASSES.last().unwrap().raises_to, Some(Stage::Planned));
    }
}
