//! How a model is made ready to run: which head, which packing of weights, which caches, for which CPU, by which passes.
//!
//! One struct for everything that compiles: [`crate::load`] in memory, [`crate::compile`] to a plan file, and the dumps.
//!
//! Invariant: what is left open has one default, here; a plan keeps what it was made with, and is never changed silently.

use bitnetc_codegen::compile::{Codegen, CompileError};
use bitnetc_codegen::host;
use bitnetc_frontend_gguf::ActivationFormat;
use bitnetc_ir::{CacheType, TargetDesc};
use bitnetc_passes::{HeadFormat, PassContext, Pipeline, VerifyEach, WeightPacking};

use crate::error::Error;

/// Tokens that one prefill step handles at most, unless asked otherwise.
pub const DEFAULT_CHUNK: u32 = 128;

/// How a model is made ready to run. The default is what suits this machine.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Element type of the KV cache; if there is nothing, what the plan was made with, or else f16.
    pub cache: Option<CacheType>,
    /// How the language-model head is computed; if there is nothing, as the plan does, or else with q8. A plan has one head
    /// and refuses another. A head that the family of the model computes as ternary stays ternary.
    pub head: Option<HeadFormat>,
    /// In which form activations meet ternary matrices; if there is nothing, as in the plan, or else as the family of the model
    /// has it. It changes what is computed: a plan has one and refuses another.
    pub activations: Option<ActivationFormat>,
    /// How ternary weights are packed; if there is nothing, as in the plan, or else as the cost model predicts to be faster.
    /// A plan has been packed and refuses another packing.
    pub weights: Option<WeightPacking>,
    /// Threads that the model will run with, for the cost model; the target's if there is nothing.
    pub threads: Option<u32>,
    /// The machine to lay out and to generate code for; this one if there is nothing.
    pub target: Option<TargetDesc>,
    /// The instruction selector.
    pub codegen: Codegen,
    /// Tokens that one prefill step handles at most; of no effect on a plan.
    pub chunk: u32,
    /// The passes; of no effect on a plan.
    pub pipeline: Pipeline,
    /// What is checked after every pass.
    pub verify_each: VerifyEach,
    /// Maximum number of patches to apply; `None` applies all.
    pub stop_after: Option<u64>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            cache: None,
            head: None,
            activations: None,
            weights: None,
            threads: None,
            target: None,
            codegen: Codegen::default(),
            chunk: DEFAULT_CHUNK,
            pipeline: Pipeline::default(),
            verify_each: VerifyEach::default(),
            stop_after: None,
        }
    }
}

impl BuildOptions {
    /// The element type of the caches of a model that is compiled with these options.
    pub fn cache_type(&self) -> CacheType {
        self.cache.unwrap_or_default()
    }

    /// The head of a model that is compiled with these options.
    pub fn head_format(&self) -> HeadFormat {
        self.head.unwrap_or(HeadFormat::Q8)
    }

    /// The packing of a model that is compiled with these options.
    pub fn packing(&self) -> WeightPacking {
        self.weights.unwrap_or(WeightPacking::Auto)
    }

    /// The machine that code is generated for, with the threads that will run it.
    ///
    /// # Errors
    /// A host that code cannot be generated for, if no target is given.
    pub fn target(&self) -> Result<TargetDesc, Error> {
        let mut target = match &self.target {
            Some(target) => target.clone(),
            None => host::probe().map_err(CompileError::from)?,
        };
        target.threads = self.threads.unwrap_or(target.threads);
        Ok(target)
    }

    /// What the passes are told.
    ///
    /// # Errors
    /// As [`BuildOptions::target`].
    pub fn pass_context(&self) -> Result<PassContext, Error> {
        let mut target = self.target()?;
        if self.codegen == Codegen::Cranelift {
            target.measured = Some(target.speeds().with_vector_bytes(16));
        }
        Ok(PassContext {
            head: self.head_format(),
            weights: self.packing(),
            verify_each: self.verify_each,
            stop_after: self.stop_after,
            ..PassContext::new(target)
        })
    }
}
