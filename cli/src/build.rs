//! The options about how a model is made ready to run, which all commands share, and the library's [`BuildOptions`] of them.
//!
//! Invariant: an option that is not given says nothing, so that a plan keeps what it was made with.

use std::str::FromStr;

use bitnetc::BuildOptions;
use bitnetc_codegen::compile::Codegen;
use bitnetc_codegen::features::{restrict, target_named};
use bitnetc_frontend_gguf::{ActivationFormat, UnknownActivations};
use bitnetc_ir::{CacheType, TargetDesc};
use bitnetc_passes::{HeadFormat, OptLevel, PassId, Pipeline, WeightPacking};
use bitnetc_runtime::cpus::Cpus;
use clap::{Args, ValueEnum};

use crate::exit;
use crate::failure::Failure;
use crate::speeds::{self, SpeedsArg};
use crate::suggest::{Suggested, as_text, suggested};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvType {
    /// 2 bytes per element
    F16,
    /// 4 bytes per element
    F32,
}

impl From<KvType> for CacheType {
    fn from(kv_type: KvType) -> Self {
        match kv_type {
            KvType::F16 => CacheType::F16,
            KvType::F32 => CacheType::F32,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// Two bits per weight
    #[value(name = "2bit")]
    TwoBits,
    /// Five weights per byte: reads less memory and computes more; same results
    #[value(name = "1.6bit")]
    Trits,
    /// Whichever is predicted to be faster with the threads in use
    Auto,
}

impl From<Weights> for WeightPacking {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::TwoBits => Self::TwoBits,
            Weights::Trits => Self::Trits,
            Weights::Auto => Self::Auto,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodegenArg {
    /// Wide registers if the CPU has them, otherwise Cranelift
    Auto,
    /// 128-bit registers
    Cranelift,
    /// AVX2 or AVX-512, or an error
    X64,
}

impl From<CodegenArg> for Codegen {
    fn from(arg: CodegenArg) -> Self {
        match arg {
            CodegenArg::Auto => Codegen::Auto,
            CodegenArg::Cranelift => Codegen::Cranelift,
            CodegenArg::X64 => Codegen::X64,
        }
    }
}

/// The instruction selector, for commands that generate code with one.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct SelectorArgs {
    /// The code generator
    #[arg(long, value_name = "SELECTOR", default_value = "auto", env = "BITNETC_CODEGEN")]
    pub(crate) codegen: CodegenArg,
}

/// Which head, which weights, which caches and which CPU.
#[derive(Clone, Debug, Args)]
pub(crate) struct BuildArgs {
    /// Number of threads, also assumed by `--weights auto` (default, and 0 or less: the cores that this process may
    /// use)
    #[arg(short, long, value_name = "N", env = "BITNETC_THREADS", allow_negative_numbers = true, value_parser = parse_threads)]
    pub(crate) threads: Option<u32>,
    /// Element type of the KV cache (default: the plan's; f16 for a .gguf)
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_type: Option<KvType>,
    /// The language-model head: f16 (as stored in the file), q8, q6, q4, or screened (4 bits for all rows, the best 256
    /// exactly; screened:N for N); a ternary head stays ternary (default: the plan's; q8 for a .gguf)
    #[arg(long, value_name = "HEAD", hide_possible_values = true, value_parser = head_parser())]
    pub(crate) head: Option<HeadFormat>,
    /// The activations of ternary products: int8-token (int8, a scale for each token), int8-128 (int8, a scale for each 128
    /// columns), or f32 (not rounded, slow) (default: the plan's; for a .gguf those of its architecture)
    #[arg(long, value_name = "FORMAT", hide_possible_values = true, value_parser = activations_parser())]
    pub(crate) activations: Option<ActivationFormat>,
    /// Packing of the ternary weights (default: the plan's; auto for a .gguf)
    #[arg(long, value_name = "PACKING")]
    pub(crate) weights: Option<Weights>,
    /// Speeds that `--weights auto` uses: assumed ones, which give the same plan everywhere, or those measured on
    /// this machine (no effect on an existing plan)
    #[arg(long, value_name = "SPEEDS", default_value = "assumed")]
    pub(crate) speeds: SpeedsArg,
    /// Use only these CPU features: `native`, or a list such as `avx2` or `avx512vnni` (each includes the features it implies; a leading `-`
    /// removes one: `native,-onestream`)
    #[arg(long, value_name = "LIST", default_value = "native", env = "BITNETC_CPU_FEATURES")]
    pub(crate) cpu_features: String,
}

/// Parses `--head`.
pub(crate) fn head_parser() -> Suggested<HeadFormat, <HeadFormat as FromStr>::Err> {
    suggested(HeadFormat::from_str, || vec!["f16", "q8", "q6", "q4", "screened", "ternary"])
}

/// Parses `--activations`.
pub(crate) fn activations_parser() -> Suggested<ActivationFormat, UnknownActivations> {
    suggested(ActivationFormat::from_str, || {
        ActivationFormat::ALL.iter().map(|format| format.name()).collect()
    })
}

/// Parses the name of a pass.
pub(crate) fn pass_parser() -> Suggested<PassId, <PassId as FromStr>::Err> {
    suggested(PassId::from_str, || PassId::ALL.iter().map(|pass| pass.name()).collect())
}

/// Parses `--target`.
pub(crate) fn target_parser() -> Suggested<String, std::convert::Infallible> {
    suggested(as_text, || vec!["native", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
}

/// Most threads that can be asked for.
const MAX_THREADS: u32 = 1024;

/// Parses a number of threads; 0 stands for the default, as any number below it does for llama.cpp.
pub(crate) fn parse_threads(text: &str) -> Result<u32, String> {
    let wrong = || format!("expected a number of threads up to {MAX_THREADS}, or 0 for the default");
    let threads: i64 = text.trim().parse().map_err(|_| wrong())?;
    u32::try_from(threads.max(0)).ok().filter(|&n| n <= MAX_THREADS).ok_or_else(wrong)
}

/// Threads when none are asked for: the cores that this process may use.
pub(crate) fn threads(asked: Option<u32>) -> u32 {
    asked.filter(|&n| n > 0).unwrap_or_else(|| Cpus::probe().threads())
}

/// What to say of more threads than there are CPUs.
pub(crate) fn too_many_threads(most: u32) -> Option<String> {
    let cpus = Cpus::probe().at_once();
    (most > cpus).then(|| {
        format!(
            "warning: {most} threads on the {cpus} CPUs available to this process are slow: use a smaller -t"
        )
    })
}

/// This machine.
pub(crate) fn host() -> Result<TargetDesc, Failure> {
    Ok(BuildOptions::default().target()?)
}

/// The target that `--target` names, with the features of `--cpu-features`.
pub(crate) fn target(name: &str, features: &str) -> Result<TargetDesc, Failure> {
    let named = match name {
        "native" => host()?,
        other => {
            target_named(&host()?, other).map_err(|e| Failure::new(exit::USAGE, format!("--target: {e}")))?
        }
    };
    restrict(&named, features).map_err(|e| Failure::new(exit::USAGE, format!("--cpu-features: {e}")))
}

impl BuildArgs {
    /// Threads that run the model.
    pub(crate) fn threads(&self) -> u32 {
        threads(self.threads)
    }

    /// The library's options, for the machine that `--target` names (`native`: this one).
    pub(crate) fn options(&self, target_name: &str) -> Result<BuildOptions, Failure> {
        let mut target = target(target_name, &self.cpu_features)?;
        target.threads = self.threads();
        speeds::apply(self.speeds, &mut target)?;
        Ok(BuildOptions {
            cache: self.kv_type.map(Into::into),
            head: self.head,
            activations: self.activations,
            weights: self.weights.map(Into::into),
            target: Some(target),
            ..BuildOptions::default()
        })
    }
}

/// Options of everything that runs the passes.
#[derive(Debug, Args)]
pub(crate) struct LoweringArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    /// Maximum number of tokens per prefill step
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = bitnetc::DEFAULT_CHUNK, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch_size: u32,
    /// Run these passes instead of those of the level, e.g. `fuse-norm-quant,assign-layout{weights=2bit},plan-memory`
    #[arg(long, value_name = "PIPELINE", conflicts_with = "level")]
    pub(crate) passes: Option<String>,
    /// Optimisation level: 0 (only what is needed to run), 1 (clean-ups), 2 (every pass once), 3 (clean-ups repeated); the
    /// results are the same
    #[arg(short = 'O', long = "opt-level", value_name = "LEVEL", default_value_t = OptLevel::default())]
    pub(crate) level: OptLevel,
    /// Disable a pass (may be repeated)
    #[arg(long, value_name = "PASS", hide_possible_values = true, value_parser = pass_parser())]
    pub(crate) disable_pass: Vec<PassId>,
}

impl LoweringArgs {
    /// The library's options, for the machine that `--target` names (`native`: this one).
    pub(crate) fn options(&self, target_name: &str) -> Result<BuildOptions, Failure> {
        Ok(BuildOptions {
            chunk: self.batch_size,
            pipeline: pipeline(self.passes.as_deref(), self.level, &self.disable_pass)?,
            ..self.build.options(target_name)?
        })
    }
}

/// The passes that `--passes`, `-O` and `--disable-pass` ask for.
pub(crate) fn pipeline(
    passes: Option<&str>,
    level: OptLevel,
    disabled: &[PassId],
) -> Result<Pipeline, Failure> {
    let mut pipeline = match passes {
        Some(text) => {
            text.parse::<Pipeline>().map_err(|e| Failure::new(exit::USAGE, format!("--passes: {e}")))?
        }
        None => level.pipeline(),
    };
    for &pass in disabled {
        pipeline =
            pipeline.without(pass).map_err(|e| Failure::new(exit::USAGE, format!("--disable-pass: {e}")))?;
    }
    Ok(pipeline)
}
