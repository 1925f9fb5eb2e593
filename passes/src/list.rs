//! The list of passes: every pass of the product once, in the order of the default pipeline, with what it does, the stages
//! in which it may run, the stage that the module is in afterwards, and whether a planned module can do without it.
//!
//! `--help` texts, errors and the default pipeline come from this list.
//!
//! Invariants: the order is that of [`PassId::ALL`], one entry each, which the compiler and a test check.

use bitnetc_ir::Stage;

use crate::choices::PassOption;
use crate::pass::{PassBody, PassInfo};
use crate::pass_id::PassId;
use crate::rewrites::{
    canonicalise, cse, dce, fuse_bitlinear, fuse_norm_quant, fuse_rope_kv, merge_projections, pack_head,
};
use crate::transforms::{assign_layout, plan_memory, schedule};

macro_rules! define_passes {
    ($(
        #[doc = $doc:literal]
        $id:ident: $need:ident $kind:ident($make:expr), $first:ident..=$last:ident $(=> $raises:ident)?
            $(, options [$($option:ident),+])? $(, changes $bits:ident)?;
    )+) => {
        /// All passes, in the order of the default pipeline.
        pub static ALL_PASSES: &[PassInfo; PassId::ALL.len()] = &[$(PassInfo {
            id: PassId::$id,
            description: $doc.trim_ascii(),
            required: define_passes!(@need $need),
            stages: (Stage::$first, Stage::$last),
            raises_to: define_passes!(@raises $($raises)?),
            options: &[$($(PassOption::$option),+)?],
            keeps_bits: define_passes!(@keeps $($bits)?),
            make: || PassBody::$kind(Box::new($make)),
        },)+];
    };
    (@need required) => { true };
    (@need optional) => { false };
    (@keeps) => { true };
    (@keeps bits) => { false };
    (@raises) => { None };
    (@raises $stage:ident) => { Some(Stage::$stage) };
}

define_passes! {
    /// Brings ops into the one form that later passes look for.
    Canonicalise: optional Rewrite(canonicalise::Canonicalise), Imported..=LaidOut;
    /// Computes equal ops once.
    Cse: optional Rewrite(cse::Cse::default()), Imported..=LaidOut;
    /// Removes ops and weights that nothing reads.
    Dce: optional Rewrite(dce::Dce), Imported..=LaidOut;
    /// Makes one op of RMSNorm and the quantisation of its result.
    FuseNormQuant: optional Rewrite(fuse_norm_quant::FuseNormQuant), Imported..=Fused => Fused;
    /// Makes one op of RoPE on queries and keys and the append to the KV cache.
    FuseRopeKv: optional Rewrite(fuse_rope_kv::FuseRopeKv), Imported..=Fused => Fused;
    /// Makes one matrix of ternary matrices that read the same activation: q, k, v; gate and up interleaved.
    MergeProjections: optional Rewrite(merge_projections::MergeProjections), Imported..=Fused => Fused;
    /// Makes one op of a ternary product and the addition of the residual.
    FuseBitlinear: optional Rewrite(fuse_bitlinear::FuseBitlinear), Imported..=Fused => Fused;
    /// Computes the language-model head in the bits that were asked for.
    PackHead: optional Rewrite(pack_head::PackHead::default()), Imported..=Fused => Fused, options [Head], changes bits;
    /// Gives every packed weight and K cache the layout that the kernels of the target read.
    AssignLayout: required Transform(assign_layout::AssignLayout), Imported..=LaidOut => LaidOut, options [Weights];
    /// Orders ops so that as few barriers as possible are needed.
    Schedule: optional Transform(schedule::Schedule), Imported..=LaidOut;
    /// Gives every value its place in memory and places the barriers.
    PlanMemory: required Transform(plan_memory::PlanMemory), LaidOut..=Planned => Planned;
}

/// The entry of a pass; none for one from outside the product.
pub fn info(id: PassId) -> Option<&'static PassInfo> {
    ALL_PASSES.iter().find(|pass| pass.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_is_listed_once_and_the_default_pipeline_ends_planned() {
        let ids: Vec<PassId> = ALL_PASSES.iter().map(|pass| pass.id).collect();
        assert_eq!(ids, PassId::ALL);
        for pass in ALL_PASSES {
            assert!(!pass.description.is_empty() && pass.stages.0 <= pass.stages.1, "{}", pass.id);
        }
        assert_eq!(ALL_PASSES.last().unwrap().raises_to, Some(Stage::Planned));
        assert!(info(PassId::Custom("cse")).is_none());
    }
}
