//! What a compiled model does, op by op: types, layouts, bytes, multiply-adds, kernels, predicted and measured time, memory,
//! schedule, and how the passes made it.
//!
//! [`explain`] makes a [`Document`], which [`page::page`] shows as one HTML file that needs nothing else. A plan is explained as
//! well as a GGUF, but for the passes. Predictions are those of [`bitnetc_passes::cost`]; [`measure()`] puts recorded times beside
//! them.
//!
//! Invariants: what is shown is the module that would run; nothing of a model reaches a page or a terminal as anything but text;
//! without measured times the document depends on nothing but the model, the options and the target.

mod diff;
mod document;
mod entries;
mod kernels;
mod measure;
pub mod page;
mod stages;

use std::collections::BTreeMap;

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::program;
use bitnetc_ir::{Extent, Module, TargetDesc, TokenCount};
use bitnetc_passes::CostModel;
use bitnetc_runtime::machine::memory_needs;

pub use document::*;
pub use measure::{MeasureOptions, Timings, measure};

use crate::error::Error;
use bitnetc::BuildOptions;
use bitnetc::compile::{creation_options, hyper_parameters, import};
use bitnetc::load::{Source, plan_module};

/// What is explained.
#[derive(Clone, Copy, Debug)]
pub struct ExplainOptions<'a> {
    /// Tokens in the context before the call; at most the model's context less one.
    pub position: u32,
    /// Whether the document has the texts of kernels and passes.
    pub texts: bool,
    /// Times to put beside the predictions.
    pub timings: Option<&'a Timings>,
}

/// Explains what [`bitnetc::load::load`] would run with these options. Times are predicted for `machine`, which may know measured
/// speeds that `compile` does not: what is compiled never depends on them.
///
/// # Errors
/// A model that cannot be lowered, planned or compiled; a damaged plan.
pub fn explain(
    source: &Source,
    compile: &BuildOptions,
    machine: &TargetDesc,
    options: &ExplainOptions<'_>,
) -> Result<Document, Error> {
    let (module, stages, mut model) = match source {
        Source::Gguf { .. } => {
            let gguf = source.gguf_model()?;
            let imported = import(&gguf, compile)?;
            let passes = compile.pass_context()?;
            let (module, stages) = stages::run(&compile.pipeline, imported, &passes, options.texts)?;
            let hparams = gguf.hparams();
            let name = gguf.gguf().string("general.name").ok().flatten().unwrap_or("unnamed").to_owned();
            let model = ModelInfo {
                name,
                source: "gguf",
                architecture: hparams.architecture.to_owned(),
                hyper_parameters: hyper_parameters(hparams).into_iter().collect(),
                options: creation_options(compile, &module)?.into_iter().collect(),
                memory: BTreeMap::new(),
                context: context(source)?,
            };
            (module, stages, model)
        }
        Source::Plan { path, plan } => {
            let meta = plan.index().meta();
            let hyper_parameters: BTreeMap<_, _> = meta.hyper_parameters.iter().cloned().collect();
            let model = ModelInfo {
                name: meta.model_name.clone(),
                source: "plan",
                architecture: meta.architecture.clone(),
                hyper_parameters,
                options: meta.creation_options.iter().cloned().collect(),
                memory: BTreeMap::new(),
                context: context(source)?,
            };
            (plan_module(path, plan)?, Vec::new(), model)
        }
    };
    let position = options.position.min(model.context.saturating_sub(1));
    let programs = program::lower(&module).map_err(CompileError::from)?;
    let needs = memory_needs(&module, &programs, model.context);
    model.memory = BTreeMap::from([
        ("weights", needs.weights),
        ("kv_cache", needs.kv_cache),
        ("activations", needs.arena),
        ("other", needs.io),
    ]);
    let kernels = kernels::kernels(&programs, &compile.target()?, compile.codegen, options.texts)?;
    let target = BuildOptions { target: Some(machine.clone()), ..compile.clone() }.pass_context()?.target;
    let costs = CostModel::new(&target);
    let mut entries = entries::Entries {
        module: &module,
        programs: &programs,
        costs,
        profile: options.timings.map(|timings| &timings.profile),
        kinds: Vec::new(),
    };
    let all = module.funcs().values().zip(&programs.programs);
    let all =
        all.map(|(func, program)| entries.entry(func, program, call(&module, func, position))).collect();
    let speeds = costs.speeds();
    Ok(Document {
        schema: SCHEMA,
        producer: format!("bitnetc {}", env!("CARGO_PKG_VERSION")),
        file: source.name(),
        model,
        machine: MachineInfo {
            target: target.to_string(),
            threads: costs.threads(),
            measured: machine.measured.is_some(),
            read_one: costs.bandwidth(1),
            read_all: costs.bandwidth(costs.threads()),
            int8_peak: costs.int8_peak(),
            vector_bytes: speeds.vector_bytes,
            cache_bytes: costs.cache_bytes(),
            barrier_ns: ns(costs.barrier_seconds()),
        },
        position,
        kinds: entries.kinds,
        entries: all,
        kernels,
        stages,
        measurement: options.timings.map(Timings::measurement),
    })
}

/// Tokens that fit into the model's context; `ExplainOptions::position` is below it.
///
/// # Errors
/// A GGUF that is malformed or not supported.
pub fn context(source: &Source) -> Result<u32, Error> {
    Ok(match source {
        Source::Gguf { .. } => u32::try_from(source.gguf_model()?.hparams().context).unwrap_or(u32::MAX),
        Source::Plan { plan, .. } => {
            let stated = plan.index().meta().hyper_parameters.iter().find(|(name, _)| name == "context");
            stated.and_then(|(_, text)| text.parse().ok()).filter(|&n| n > 0).unwrap_or(2048)
        }
    })
}

/// The call of an entry point that is explained: one token, a whole chunk, or the logits of one token.
fn call(module: &Module, func: &bitnetc_ir::Func, position: u32) -> Extent {
    // An entry without caches has no position.
    let positional = func.inputs().iter().any(|&v| func.ty(v).is_persistent());
    let chunk = match func.tokens() {
        TokenCount::One => 1,
        TokenCount::UpTo(_) if !positional && module.funcs().len() > 1 => 1,
        TokenCount::UpTo(most) => most.max(1),
    };
    Extent { position: if positional { position } else { 0 }, tokens: chunk }
}
