//! From a GGUF to a planned module, and on to a plan file or to memory.
//!
//! Invariants: what runs from memory and what runs from a plan file went through the same steps with the same options;
//! a plan is written with little more memory than three of its weights, or 256 MiB and two (`ahead`).

mod ahead;

use std::collections::BTreeSet;
use std::path::Path;

use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::pack::{PackedWeight, pack_into, pack_param};
use bitnetc_codegen::program;
use bitnetc_frontend_gguf::{self as gguf, ActivationFormat};
use bitnetc_ir::work::Accounts;
use bitnetc_ir::{
    DType, EntryPoint, Func, Layout, Module, NodeId, Op, Operand, ParamDef, ParamId, storage, text, weights,
};
use bitnetc_passes::{HeadFormat, Instrument, PassId, PassUse, RunReport, WeightPacking};
use bitnetc_runtime::machine::{MemoryUse, memory_needs};
use bitnetc_runtime::map::AlignedBuffer;
use bitnetc_runtime::model::WeightRange;
use bitnetc_runtime::plan::{
    PlanEncoder, PlanError, PlanMeta, PlanSettings, SourceFile, WeightSink, write_plan,
};
use bitnetc_runtime::tokenizer::TokenizerSpec;

use self::ahead::{Ahead, write_ahead};
use crate::build::BuildOptions;
use crate::error::Error;
use crate::tokenizer_spec::tokenizer_spec;

/// The packings that ops of a module read, for what was asked.
fn weights_used(asked: WeightPacking, module: &Module) -> String {
    let params = stored_params(module).into_iter().map(|p| &module.params()[p].ty);
    let layouts: BTreeSet<Layout> = params.filter(|ty| ty.dtype == DType::Ter).map(|ty| ty.layout).collect();
    let name = |layout: &Layout| match layout {
        Layout::Tile16 => Some(WeightPacking::TwoBits.name()),
        Layout::Trits16 | Layout::Lut16 => Some(WeightPacking::Trits.name()),
        _ => None,
    };
    let used: Vec<&str> = layouts.iter().filter_map(name).collect();
    match asked {
        WeightPacking::Auto => format!("{asked}: {}", used.join(", ")),
        _ => used.join(", "),
    }
}

/// A planned module with everything that a plan file holds besides packed weights.
pub struct Planned<'m, 'a> {
    /// The module, in stage `planned`.
    pub module: Module,
    /// What each pass did.
    pub passes: RunReport,
    /// Remarks of the front-end.
    pub notes: Vec<String>,
    /// The tokenizer.
    pub tokenizer: TokenizerSpec,
    /// The chat template, as the file has it.
    pub chat_template: Option<String>,
    /// Description.
    pub meta: PlanMeta,
    /// The model's own context.
    pub context: u32,
    weights: gguf::GgufWeights<'m, 'a>,
    /// Packing continues on the threads that ran the passes.
    _threads: bitnetc_threads::Threads,
}

/// What there is to say of a plan that was written.
#[derive(Clone, Debug)]
pub struct PlanSummary {
    /// What each pass did.
    pub passes: RunReport,
    /// Distinct kernels.
    pub kernels: usize,
    /// Kernel calls of a decode step.
    pub steps: usize,
    /// Barriers of a decode step.
    pub barriers: usize,
    /// Weight bytes that a decode step reads.
    pub bytes_per_token: u64,
    /// Bytes of KV cache that each position adds.
    pub kv_bytes_per_position: u64,
    /// The context that `memory` is for.
    pub context: u32,
    /// Planned memory.
    pub memory: MemoryUse,
    /// Size of the plan file.
    pub file_bytes: u64,
}

/// Checks the weights of a model, lowers it and plans it. `path` is for messages.
///
/// # Errors
/// Weights that are not finite or not ternary; a pass that fails.
pub fn plan_model<'m, 'a>(
    path: &Path,
    model: &'m gguf::Model<'a>,
    options: &BuildOptions,
) -> Result<Planned<'m, 'a>, Error> {
    plan_model_with(path, model, options, &mut [])
}

/// As [`plan_model`], with the passes watched by `instruments`.
///
/// # Errors
/// As [`plan_model`], and what an instrument refuses.
pub fn plan_model_with<'m, 'a>(
    path: &Path,
    model: &'m gguf::Model<'a>,
    options: &BuildOptions,
    instruments: &mut [&mut dyn Instrument],
) -> Result<Planned<'m, 'a>, Error> {
    let threads = bitnetc_threads::hold();
    model.check_weights().map_err(|source| Error::Gguf { path: path.to_owned(), source })?;
    let imported = import(model, options)?;
    let source = source_file(model, &imported);
    let context = options.pass_context()?;
    let (module, passes) = bitnetc_passes::run_with(&options.pipeline, imported, &context, instruments)?;

    let hparams = model.hparams();
    let name = model.gguf().string("general.name").ok().flatten().unwrap_or("unnamed").to_owned();
    let notes = model.notes().iter().cloned().chain(model.weight_notes());
    let notes = notes.map(|note| note.to_string()).chain(head_note(options, &module));
    let notes: Vec<String> = notes.collect();
    let meta = PlanMeta {
        model_name: name,
        architecture: hparams.architecture.to_owned(),
        hyper_parameters: hyper_parameters(hparams),
        source,
        defaults_used: notes.clone(),
        creation_options: creation_options(options, &module)?,
        producer: format!("bitnetc {}", env!("CARGO_PKG_VERSION")),
    };
    Ok(Planned {
        module,
        passes,
        notes,
        tokenizer: tokenizer_spec(model.tokenizer())?,
        chat_template: model.tokenizer().chat_template().map(str::to_owned),
        meta,
        context: u32::try_from(hparams.context).unwrap_or(u32::MAX),
        weights: gguf::GgufWeights::new(model),
        _threads: threads,
    })
}

/// What a plan says of the file that it was made from. The imported module has the hashes of all tensors already.
fn source_file(model: &gguf::Model<'_>, imported: &Module) -> SourceFile {
    let mut hasher = blake3::Hasher::new();
    for header in model.gguf().headers() {
        hasher.update(&(header.len() as u64).to_le_bytes());
        hasher.update(header);
    }
    for param in imported.params().values() {
        if let ParamDef::File { hash, .. } = &param.def {
            hasher.update(&hash.0);
        }
    }
    // What the user says of the file, since it changes what the same bytes mean.
    let (read, usual) = (model.options(), gguf::ModelOptions::default());
    if read.i2s_layout != usual.i2s_layout {
        hasher.update(b"i2s_layout").update(read.i2s_layout.name().as_bytes());
    }
    if let Some(activation) = read.activation {
        hasher.update(b"activation").update(activation.name().as_bytes());
    }
    SourceFile { hash: *hasher.finalize().as_bytes(), bytes: model.gguf().file_bytes() }
}

/// Hyper-parameters as pairs of name and value.
pub fn hyper_parameters(hparams: &gguf::HyperParams) -> Vec<(String, String)> {
    let number = |name: &str, value: String| (name.to_owned(), value);
    vec![
        number("vocab", hparams.vocab.to_string()),
        number("context", hparams.context.to_string()),
        number("hidden", hparams.hidden.to_string()),
        number("layers", hparams.layers.to_string()),
        number("ffn", hparams.ffn.to_string()),
        number("heads", hparams.heads.to_string()),
        number("kv_heads", hparams.kv_heads.to_string()),
        number("head_dim", hparams.head_dim.to_string()),
        number("rope_dim", hparams.rope_dim.to_string()),
        number("rope_theta", hparams.rope_theta.to_string()),
        number("eps", hparams.eps.to_string()),
        number("activation", hparams.activation.name().to_owned()),
    ]
}

/// How a planned module was made, as pairs of name and value.
///
/// # Errors
/// As [`BuildOptions::target`].
pub fn creation_options(options: &BuildOptions, module: &Module) -> Result<Vec<(String, String)>, Error> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut all = vec![
        pair("kv_type", options.cache_type().name().to_owned()),
        pair(HEAD_OPTION, made_head(options, module).to_string()),
        pair("batch_size", options.chunk.to_string()),
        pair("passes", options.pipeline.to_string()),
        pair("weights", weights_used(options.packing(), module)),
    ];
    // Plans that say nothing have the activations that all families had first.
    all.extend(
        activations_of(module)
            .filter(|&activations| activations != ActivationFormat::Int8Token)
            .map(|activations| pair("activations", activations.to_string())),
    );
    let target = options.target()?;
    if let Some(speeds) = target.measured {
        let text = format!(
            "{} MB/s with one thread, {} MB/s with {}, {} million int8 multiply-adds a second and core",
            speeds.read_one_mb_s, speeds.read_all_mb_s, target.threads, speeds.int8_core_mmac_s
        );
        all.push(pair("speeds", text));
    }
    Ok(all)
}

/// The option of a plan that names its head.
pub(crate) const HEAD_OPTION: &str = "head";

/// The form in which activations meet the ternary matrices of a module; nothing if it multiplies by none.
pub fn activations_of(module: &Module) -> Option<ActivationFormat> {
    let of_node = |func: &Func, node: NodeId| {
        let node = func.node(node);
        let product = matches!(node.op, Op::TernaryMatmul {} | Op::Bitlinear { .. });
        match node.operands.first().filter(|_| product)? {
            Operand::Value(x) => match func.ty(*x).dtype {
                DType::Q8 => Some(ActivationFormat::Int8Token),
                DType::Q8b => Some(ActivationFormat::Int8Blocks),
                _ => Some(ActivationFormat::F32),
            },
            Operand::Param(_) => None,
        }
    };
    module.funcs().values().find_map(|func| func.order().iter().find_map(|&node| of_node(func, node)))
}

/// Whether the logits are products with a ternary matrix.
pub fn has_ternary_head(module: &Module) -> bool {
    let decode = module.entry_point(EntryPoint::Decode).map(|id| &module.funcs()[id]);
    let producer = |func: &Func| func.outputs().first().and_then(|&logits| func.producer(logits));
    decode.is_some_and(|func| {
        producer(func)
            .is_some_and(|node| matches!(func.node(node).op, Op::TernaryMatmul {} | Op::Bitlinear { .. }))
    })
}

/// The head that comes out of the passes.
fn made_head(options: &BuildOptions, module: &Module) -> HeadFormat {
    if has_ternary_head(module) {
        return HeadFormat::Ternary;
    }
    let packs = options.pipeline.passes().iter().find(|pass| pass.id == PassId::PackHead);
    packs.map_or(HeadFormat::Stored, |pass: &PassUse| pass.options.head.unwrap_or(options.head_format()))
}

/// The imported module of a model.
///
/// # Errors
/// A model that cannot be expressed in the IR.
pub fn import(model: &gguf::Model<'_>, options: &BuildOptions) -> Result<Module, Error> {
    let (cache, chunk, activations) = (options.cache_type(), options.chunk, options.activations);
    let module = model.lower(&gguf::LowerOptions { cache, chunk, activations })?;
    match options.head {
        Some(HeadFormat::Ternary) if !has_ternary_head(&module) => Err(Error::NoTernaryHead),
        _ => Ok(module),
    }
}

/// What to say of a head that was asked for and is not made.
fn head_note(options: &BuildOptions, module: &Module) -> Option<String> {
    let asked = options.head.filter(|&head| head != HeadFormat::Ternary && has_ternary_head(module))?;
    Some(format!("note: the head of this model is ternary and is computed as such, not as {asked}"))
}

/// The parameters that ops of the module read, in the order in which they are stored.
pub(crate) fn stored_params(module: &Module) -> Vec<ParamId> {
    let mut all: Vec<ParamId> = module.funcs().values().flat_map(|f| f.params_used()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Planned<'_, '_> {
    /// Bytes of all packed weights.
    pub fn weight_bytes(&self) -> u64 {
        let sizes = stored_params(&self.module)
            .into_iter()
            .filter_map(|p| weights::packed_bytes(&self.module.params()[p].ty));
        sizes.map(|(bytes, scales)| bytes + scales).sum()
    }

    /// Writes the plan file; `progress` is told the bytes of weights written so far, and stops the work by returning false.
    ///
    /// # Errors
    /// A weight that cannot be packed, a file that cannot be written. An older plan is kept then.
    pub fn write(&self, path: &Path, mut progress: impl FnMut(u64) -> bool) -> Result<PlanSummary, Error> {
        let settings = PlanSettings { options: self.meta.creation_options.clone() };
        let file_bytes =
            write_plan(path, &settings, |encoder: &mut PlanEncoder<'_>| self.encode(encoder, &mut progress))?;
        self.summary(file_bytes)
    }

    fn encode<'s>(
        &'s self,
        encoder: &mut PlanEncoder<'_>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Error> {
        encoder.meta(&self.meta)?;
        encoder.module(&text::print(&self.module))?;
        encoder.tokenizer(&self.tokenizer)?;
        if let Some(template) = &self.chat_template {
            encoder.chat_template(template)?;
        }
        encoder.weights(|sink| -> Result<(), Error> {
            let mut done = 0;
            let pack = |ahead: &Ahead<'s, '_>| {
                for param in self.largest_first() {
                    let name = &self.module.params()[param].name;
                    let packed = pack_param(&self.module, param, &self.weights)?;
                    done += packed.bytes.len() as u64;
                    if !ahead.push(name, packed) {
                        break;
                    }
                    if !progress(done) {
                        return Err(Error::Interrupted);
                    }
                }
                Ok(())
            };
            write_ahead(pack, |name, packed| push(sink, name, packed))?;
            // Padding that kernels may read after the last weight.
            sink.push(PADDING_NAME, PADDING_NAME, &[0; storage::PADDING as usize])?;
            Ok(())
        })
    }

    /// The stored parameters as a plan has them: the largest first, so that these are written while the others are packed.
    fn largest_first(&self) -> Vec<ParamId> {
        let mut all = stored_params(&self.module);
        let bytes = |p: &ParamId| weights::packed_bytes(&self.module.params()[*p].ty).map(|(bytes, _)| bytes);
        all.sort_by_key(|p| std::cmp::Reverse(bytes(p)));
        all
    }

    /// Packs the weights into one buffer.
    ///
    /// # Errors
    /// A weight cannot be packed, or memory could not be allocated.
    pub fn pack(&self) -> Result<(AlignedBuffer, Vec<WeightRange>), Error> {
        let params = stored_params(&self.module);
        let mut ranges = Vec::with_capacity(params.len());
        let mut end = 0u64;
        for &param in &params {
            let decl = &self.module.params()[param];
            let (bytes, scales) = weights::packed_bytes(&decl.ty).unwrap_or((0, 0));
            let start = storage::align(end);
            let scales_start = storage::align(start + bytes);
            end = scales_start + scales;
            let (bytes, scales) = (start..start + bytes, scales_start..end);
            ranges.push(WeightRange { name: decl.name.clone(), bytes, scales });
        }
        let total = storage::align(end) + storage::PADDING;
        let mut buffer = usize::try_from(total)
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
            .and_then(AlignedBuffer::zeroed)
            .map_err(|source| Error::Memory { bytes: total, source })?;
        for (&param, range) in params.iter().zip(&ranges) {
            let all = buffer.as_mut_slice();
            let place = |r: &std::ops::Range<u64>| r.start as usize..r.end as usize;
            let scales = pack_into(&self.module, param, &self.weights, &mut all[place(&range.bytes)])?;
            for (slot, scale) in all[place(&range.scales)].chunks_exact_mut(4).zip(scales) {
                slot.copy_from_slice(&scale.to_le_bytes());
            }
        }
        Ok((buffer, ranges))
    }

    fn summary(&self, file_bytes: u64) -> Result<PlanSummary, Error> {
        let programs = program::lower(&self.module).map_err(CompileError::from)?;
        let decode = programs.entry_point(EntryPoint::Decode);
        let steps = decode.map(|(_, program)| program.steps.as_slice()).unwrap_or_default();
        let decode_func = self.module.entry_point(EntryPoint::Decode);
        let accounts = Accounts::of(&self.module);
        let needs = memory_needs(&self.module, &programs, self.context);
        Ok(PlanSummary {
            passes: self.passes.clone(),
            kernels: programs.kernels.len(),
            steps: steps.len(),
            barriers: decode_func.and_then(|id| self.module.funcs()[id].barriers()).unwrap_or(0),
            bytes_per_token: accounts.step(0).weight_bytes,
            kv_bytes_per_position: accounts.kv_bytes_per_position(),
            context: self.context,
            memory: needs,
            file_bytes,
        })
    }
}

fn push(sink: &mut WeightSink<'_, '_>, name: &str, packed: &PackedWeight<'_>) -> Result<(), PlanError> {
    sink.push(name, ELEMENTS, &packed.bytes)?;
    if packed.scales.is_empty() {
        return Ok(());
    }
    let scales: Vec<u8> = packed.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    sink.push(&scales_name(name), SCALES, &scales)
}

/// Kinds of entries in a plan's weight index.
const ELEMENTS: &str = "elements";
/// See [`ELEMENTS`].
const SCALES: &str = "scales";
const PADDING_NAME: &str = "padding";

/// Name of the entry with a weight's scales.
pub(crate) fn scales_name(name: &str) -> String {
    format!("{name}#scales")
}
