//! Opening models: a GGUF is compiled in memory, a plan is mapped; both end as the same [`Loaded`].
//!
//! Invariants: the kind of a file is told by its first bytes, never by its name; a plan's module is verified and its memory
//! plan is proved again before anything runs, since the file is not trusted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnetc_codegen::compile::{Compiled, compile_with};
use bitnetc_frontend_gguf::split::PartName;
use bitnetc_frontend_gguf::{self as gguf, ActivationFormat};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::weights::{is_finite, packed_scale_index, ternary_bytes};
use bitnetc_ir::{
    DType, Dim, EntryPoint, Func, KEY_BLOCK, Layout, Module, Op, Operand, ParamDecl, ParamId, Stage, Type,
    cache, text, verify,
};
use bitnetc_ir::{WeightBytes, WeightSource};
use bitnetc_passes::{HeadFormat, PassId, PassUse, Pipeline, WeightPacking, check_plan};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::memory_needs;
use bitnetc_runtime::map::{MapMode, Mapping};
use bitnetc_runtime::model::{Bytes, Model, ModelError, WeightRange};
use bitnetc_runtime::plan::{self, LoadOptions as PlanOptions, Plan, PlanError, PlanMeta};
use bitnetc_runtime::tokenizer::{Tokenizer, TokenizerSpec};

use crate::build::BuildOptions;
use crate::builtin;
use crate::compile::{HEAD_OPTION, activations_of, import, plan_model, scales_name, stored_params};
use crate::error::Error;
use crate::plan_in_use::{HeldCheck, PlanInUse, WeightsCheck};
use crate::store::{HubRef, ModelRef};

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How it is made ready: of a GGUF, how it is compiled; of a plan, what is demanded.
    pub build: BuildOptions,
    /// How files are brought into memory.
    pub map_mode: MapMode,
    /// What a GGUF file does not say and its user knows; of no effect on a plan.
    pub model: gguf::ModelOptions,
    /// Whether the hash of a plan's weights is checked, which reads all of them. Everything else of a plan always is.
    pub verify: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            build: BuildOptions::default(),
            map_mode: MapMode::Mapped,
            model: gguf::ModelOptions::default(),
            verify: false,
        }
    }
}

/// How a pointer begins that Git LFS leaves in the place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A model file, opened and told apart.
pub enum Source {
    /// A GGUF file, perhaps in several parts, or the built-in one.
    Gguf {
        /// For messages; of the first part.
        path: PathBuf,
        /// The parts of the file in order, most often one; none for the built-in model.
        parts: Vec<Mapping>,
        /// What the file does not say.
        options: gguf::ModelOptions,
    },
    /// A plan file.
    Plan {
        /// For messages.
        path: PathBuf,
        /// The plan, with all hashes but the weights' checked.
        plan: Box<Plan>,
    },
}

/// What the bytes are, if they are what servers and tools write in the place of a model.
fn instead_of_model(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.get(..bytes.len().min(512)).unwrap_or_default().trim_ascii_start();
    match bytes {
        [] => Some("the file is empty"),
        [0x1f, 0x8b, ..] => Some("it is compressed with gzip: decompress it first, if it is what you wanted"),
        [b'P', b'K', 3, 4, ..] => Some("it is a ZIP archive: unpack it first, if it is what you wanted"),
        _ if start.starts_with(b"<") => Some("it is an HTML page, as a server sends for a login or an error"),
        _ => None,
    }
}

impl Source {
    /// Opens the file, or the built-in model.
    ///
    /// # Errors
    /// A file that cannot be read, is neither GGUF nor plan, or is a damaged plan.
    pub fn open(path: Option<&Path>, map_mode: MapMode) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Source::gguf(PathBuf::from(builtin::NAME), Vec::new()));
        };
        let file = Mapping::open(path, map_mode)?;
        let start = &file.as_slice()[..file.as_slice().len().min(8)];
        if file.as_slice().starts_with(LFS_POINTER) {
            return Err(Error::LfsPointer { path: path.to_owned() });
        }
        if let Some(what) = instead_of_model(file.as_slice()) {
            return Err(Error::NotAModel { path: path.to_owned(), what });
        }
        if start.starts_with(&plan::MAGIC[..plan::MAGIC.len().min(4)]) {
            let plan = Box::new(Plan::from_file(file, path, &PlanOptions::default())?);
            return Ok(Source::Plan { path: path.to_owned(), plan });
        }
        if start.starts_with(b"GGUF") || start.len() < 4 || path.extension().is_some_and(|e| e == "gguf") {
            // Too short or not a GGUF after all: the front-end says so, with the offset.
            return Self::open_parts(path, file, map_mode);
        }
        let found = format!("\"{}\"", start.escape_ascii());
        Err(Error::UnknownFormat { path: path.to_owned(), found })
    }

    fn gguf(path: PathBuf, parts: Vec<Mapping>) -> Self {
        Source::Gguf { path, parts, options: gguf::ModelOptions::default() }
    }

    /// Opens the other parts too, where the name says that `file` is one of several.
    fn open_parts(path: &Path, file: Mapping, map_mode: MapMode) -> Result<Self, Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(part) = PartName::parse(name).filter(|part| part.count > 1) else {
            return Ok(Self::gguf(path.to_owned(), vec![file]));
        };
        let path_of = |number| path.with_file_name(part.of_part(number));
        let mut parts = Vec::with_capacity(part.count);
        let mut this = Some(file);
        for number in 1..=part.count {
            parts.push(match this.take_if(|_| number == part.number) {
                Some(file) => file,
                None => Mapping::open(&path_of(number), map_mode)?,
            });
        }
        Ok(Self::gguf(path_of(1), parts))
    }

    /// The same source, read with what the user says about the file.
    #[must_use]
    pub fn with_options(mut self, model: gguf::ModelOptions) -> Self {
        if let Source::Gguf { options, .. } = &mut self {
            *options = model;
        }
        self
    }

    /// The file's name for messages.
    pub fn name(&self) -> String {
        match self {
            Source::Gguf { path, .. } | Source::Plan { path, .. } => path.display().to_string(),
        }
    }

    /// The bytes of the file, part by part.
    pub fn parts(&self) -> Vec<&[u8]> {
        match self {
            Source::Gguf { parts, .. } if parts.is_empty() => vec![builtin::GGUF],
            Source::Gguf { parts, .. } => parts.iter().map(Mapping::as_slice).collect(),
            Source::Plan { plan, .. } => vec![plan.file()],
        }
    }

    /// Fails if bytes of a mapped file have been lost since it was opened: what was read may be zeros.
    ///
    /// # Errors
    /// [`bitnetc_runtime::map::MapError::Lost`].
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Source::Gguf { parts, .. } => parts.iter().try_for_each(|part| Ok(part.check()?)),
            Source::Plan { plan, .. } => Ok(plan.check()?),
        }
    }

    /// Metadata and tensor directory of the GGUF, also of one that cannot be run.
    ///
    /// # Errors
    /// A damaged file, or a plan.
    pub fn gguf_outline(&self) -> Result<gguf::Outline<'_>, Error> {
        let path = self.gguf_path()?;
        let refused = |source| Error::Gguf { path: path.to_owned(), source };
        match gguf::Gguf::parse_parts(&self.parts()) {
            Err(error) if !error.is_unreadable_kind() => Err(refused(error)),
            _ => gguf::Outline::parse_parts(&self.parts()).map_err(refused),
        }
    }

    /// Parses the GGUF.
    ///
    /// # Errors
    /// A file that is malformed, not supported, or a plan.
    pub fn gguf_model(&self) -> Result<gguf::Model<'_>, Error> {
        let path = self.gguf_path()?;
        let options = match self {
            Source::Gguf { options, .. } => *options,
            Source::Plan { .. } => gguf::ModelOptions::default(),
        };
        gguf::Model::open_parts(&self.parts(), &options)
            .map_err(|source| Error::Gguf { path: path.to_owned(), source })
    }

    fn gguf_path(&self) -> Result<&Path, Error> {
        match self {
            Source::Gguf { path, .. } => Ok(path),
            Source::Plan { path, .. } => Err(Error::NotInPlan {
                path: path.clone(),
                what: "this is a plan already; give the .gguf file",
            }),
        }
    }
}

/// Bytes that a session with the default context takes at most, beside the weights: the KV cache, tables and buffers. A
/// constant and not a share of the machine's memory, so that a model has the same context everywhere.
pub const DEFAULT_CONTEXT_BYTES: u64 = 2 << 30;

/// A model that can be run, with what belongs to it.
pub struct Loaded {
    /// The file's name, or the built-in model's.
    pub name: String,
    /// Code and weights.
    pub model: Arc<Model>,
    /// The planned module that the code was made from.
    pub module: Module,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, as the file has it.
    pub chat_template: Option<String>,
    /// The architecture, as the file names it.
    pub architecture: String,
    /// The model's own context.
    pub context: u32,
    /// Remarks on the file: defaults that were used and the like.
    pub notes: Vec<String>,
    /// What identifies the model file, the same for a GGUF and for every plan that is made from it.
    pub source_hash: [u8; 32],
    /// The language-model head, as `--head` names it.
    pub head: String,
    blob: Bytes,
    ranges: Vec<WeightRange>,
    /// Of a model that was opened by its plan.
    pub(crate) plan: Option<Arc<PlanInUse>>,
    pub(crate) check: Option<Arc<WeightsCheck>>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The name of the table of embeddings, up to its first point.
const EMBEDDING: &str = "token_embd";

/// Weights of a model. A table that is stored twice, as rows for the embedding and packed for the head, counts once.
pub(crate) fn parameters_of(module: &Module) -> u64 {
    let (mut tables, mut all) = (BTreeMap::new(), 0_u64);
    for id in stored_params(module) {
        let param = &module.params()[id];
        let elements = param.ty.elements().unwrap_or(0);
        match param.name.split('.').next() {
            Some(base @ (EMBEDDING | "output")) => {
                let table = tables.entry(base).or_insert(0);
                *table = elements.max(*table);
            }
            _ => all = all.saturating_add(elements),
        }
    }
    tables.values().fold(all, |all, &table| all.saturating_add(table))
}

/// Numbers that a token's embedding has; `None` where the model has no table of them.
pub(crate) fn hidden_of(module: &Module) -> Option<u32> {
    let is_table = |param: &&ParamDecl| param.name.split('.').next() == Some(EMBEDDING);
    let table = module.params().values().find(is_table)?;
    match table.ty.shape.0.last() {
        Some(Dim::N(hidden)) => Some(*hidden),
        _ => None,
    }
}

/// The context of the model of a plan, if the plan says what it is.
pub(crate) fn context_of(meta: &PlanMeta) -> Option<u32> {
    let stored = meta.hyper_parameters.iter().find(|(name, _)| name == "context");
    stored.and_then(|(_, value)| value.parse().ok()).filter(|&context| context > 0)
}

impl Loaded {
    /// Bytes that a session with this context takes, beside the weights.
    pub fn context_bytes(&self, context: u32) -> u64 {
        let needs = memory_needs(&self.module, self.model.programs(), context);
        needs.kv_cache.saturating_add(needs.arena).saturating_add(needs.io)
    }

    /// Weights of the model. A table that is stored twice, as rows for the embedding and packed for the head, counts once.
    pub fn parameters(&self) -> u64 {
        parameters_of(&self.module)
    }

    /// Numbers that a token's embedding has; `None` where the model has no table of them.
    pub fn hidden(&self) -> Option<u32> {
        hidden_of(&self.module)
    }

    /// The element type of its KV cache.
    pub fn cache_type(&self) -> Option<DType> {
        let inputs = |func: &Func| func.inputs().iter().map(|&v| func.ty(v).clone()).collect::<Vec<_>>();
        let mut types = self.module.funcs().values().flat_map(inputs);
        types.find(|ty| ty.as_cache().is_some()).map(|ty| ty.dtype)
    }

    /// The context of a session for which no other is asked for: the model's own, or as much of it as takes at most
    /// [`DEFAULT_CONTEXT_BYTES`]. A file alone does not decide how much memory is taken.
    pub fn default_context(&self) -> u32 {
        let fits = |context| self.context_bytes(context) <= DEFAULT_CONTEXT_BYTES;
        if fits(self.context) {
            return self.context;
        }
        // What is taken grows with every block of keys. One block is taken even if it is too large.
        let (mut most, mut too_many) = (1, self.context.div_ceil(KEY_BLOCK));
        while most + 1 < too_many {
            let middle = most + (too_many - most) / 2;
            match fits(middle.saturating_mul(KEY_BLOCK)) {
                true => most = middle,
                false => too_many = middle,
            }
        }
        (most * KEY_BLOCK).min(self.context)
    }

    /// The check of the weights' hash that goes on in the background, where there is one: of a plan of the cache
    /// ([`crate::store::PlanCache::load`]). Steps fail once it has found that they were damaged. It ends without a result when the
    /// model is no longer used; a caller that needs the result takes [`Loaded::hold_check`] before that, and waits for it.
    pub fn weights_check(&self) -> Option<&Arc<WeightsCheck>> {
        self.check.as_ref()
    }

    /// The same check, which then goes on until the holder is dropped.
    pub fn hold_check(&self) -> Option<HeldCheck> {
        Some(HeldCheck::new(self.check.as_ref()?, self.plan.as_ref()?))
    }

    /// The same model with a note, if the default context is less than its own.
    fn with_context_note(mut self) -> Self {
        let (own, default) = (self.context, self.default_context());
        if default < own {
            let gb = self.context_bytes(own) as f64 / 1e9;
            self.notes.push(format!(
                "default: the context is {default} tokens; all {own} of the model would need {gb:.1} GB of KV cache: ask for a \
                 larger context to use them"
            ));
        }
        self
    }
}

/// Opens the model at `path`, or the built-in one, and makes it ready to run.
///
/// With the feature `hub` the path may be a name of the Hugging Face Hub too, `hf:org/repo[@revision][:file]` or one of
/// [`crate::store::ALIASES`]: the file is fetched once, compiled once, and then opened by its plan. [`crate::store::open`] does
/// the same and can be watched and stopped.
///
/// # Errors
/// A file that cannot be read, is malformed or not supported; code that cannot be generated; a name that cannot be fetched.
pub fn load(path: Option<&Path>, options: &LoadOptions) -> Result<Loaded, Error> {
    if let Some(name) = path
        && let ModelRef::Hub(name) = ModelRef::parse(name, &BTreeMap::new())?
    {
        return load_by_name(&name, options);
    }
    load_source(Source::open(path, options.map_mode)?.with_options(options.model), options)
}

#[cfg(feature = "hub")]
fn load_by_name(name: &HubRef, options: &LoadOptions) -> Result<Loaded, Error> {
    Ok(crate::store::open_from_env(name, options, &mut |_| true)?.0)
}

#[cfg(not(feature = "hub"))]
fn load_by_name(name: &HubRef, _: &LoadOptions) -> Result<Loaded, Error> {
    Err(crate::store::StoreError::NoHub { name: name.to_string() }.into())
}

/// As [`load`], for an opened file.
///
/// # Errors
/// As [`load`].
pub fn load_source(source: Source, options: &LoadOptions) -> Result<Loaded, Error> {
    let threads = bitnetc_threads::hold();
    let mut loaded = match source {
        Source::Gguf { .. } => load_gguf(&source, &options.build)?,
        Source::Plan { path, plan } => {
            check_head(&path, &plan, options.build.head)?;
            load_plan(&path, *plan, options)?
        }
    };
    if threads.count() < threads.wanted() {
        loaded.notes.push(format!(
            "warning: the system allowed {} of {} threads for opening the model, which took longer for it; look at the limits \
             of processes and threads (ulimit -u, pids.max)",
            threads.count(),
            threads.wanted()
        ));
    }
    Ok(loaded.with_context_note())
}

/// The head among the options that a plan was made with.
fn head_of(options: &[(String, String)]) -> &str {
    options.iter().find(|(name, _)| name == HEAD_OPTION).map_or("f16", |(_, value)| value.as_str())
}

/// Whether the plan has the head that was asked for.
fn check_head(path: &Path, plan: &Plan, asked: Option<HeadFormat>) -> Result<(), Error> {
    let Some(asked) = asked.map(|head| head.to_string()) else { return Ok(()) };
    let has = head_of(&plan.index().meta().creation_options);
    match has == asked {
        true => Ok(()),
        false => {
            let has = has.escape_debug().to_string();
            Err(Error::HeadOfPlan { path: path.to_owned(), has, asked })
        }
    }
}

/// Builds the tokenizer beside the work of `other`: for 128,000 tokens it takes as long as everything else.
fn beside_tokenizer<T: Send>(
    spec: &TokenizerSpec,
    other: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<(Tokenizer, T), Error> {
    let (tokenizer, other) = bitnetc_threads::install(|| rayon::join(|| Tokenizer::new(spec), other));
    Ok((tokenizer?, other?))
}

/// What to say about kernels that are slower than they were to be.
fn refusals(compiled: &Compiled) -> Vec<String> {
    compiled.refusals.iter().map(|why| format!("{why}; made by cranelift")).collect()
}

fn load_gguf(source: &Source, options: &BuildOptions) -> Result<Loaded, Error> {
    let target = options.target()?;
    let path = PathBuf::from(source.name());
    // Zeros in place of lost bytes make errors of their own.
    let lost = |error| source.check().err().unwrap_or(error);
    let model = source.gguf_model().map_err(lost)?;
    let planned = plan_model(&path, &model, options).map_err(lost)?;
    let (tokenizer, (compiled, (blob, ranges))) = beside_tokenizer(&planned.tokenizer, || {
        let compiled = compile_with(&planned.module, &target, options.codegen)?;
        Ok((compiled, planned.pack()?))
    })?;
    source.check()?;
    let blob: Bytes = Arc::new(blob);
    let refusals = refusals(&compiled);
    Ok(Loaded {
        name: source.name(),
        model: Arc::new(Model::new(&planned.module, compiled, Arc::clone(&blob), &ranges)?),
        module: planned.module,
        tokenizer: Arc::new(tokenizer),
        chat_template: planned.chat_template,
        architecture: model.hparams().architecture.to_string(),
        context: planned.context,
        notes: planned.notes.into_iter().chain(refusals).collect(),
        source_hash: planned.meta.source.hash,
        head: head_of(&planned.meta.creation_options).to_owned(),
        blob,
        ranges,
        plan: None,
        check: None,
    })
}

/// The module of a plan, parsed, verified, and with its memory plan proved.
///
/// # Errors
/// Text that does not parse, a module that breaks a rule, a plan that is wrong.
pub fn plan_module(path: &Path, plan: &Plan) -> Result<Module, Error> {
    let bad = |reason: String| Error::PlanModule { path: path.to_owned(), reason };
    let module = text::parse(plan.index().module_text()).map_err(|e| bad(e.to_string()))?;
    check_module(&module).map_err(bad)?;
    match module.stage {
        Stage::Planned => Ok(module),
        stage => Err(bad(format!("it is in stage {stage}, not planned"))),
    }
}

/// Refuses other activations than the plan's: its ops are made for them.
fn check_activations(path: &Path, module: &Module, asked: Option<ActivationFormat>) -> Result<(), Error> {
    match (activations_of(module), asked) {
        (Some(has), Some(asked)) if has != asked => {
            Err(Error::ActivationsOfPlan { path: path.to_owned(), has, asked })
        }
        _ => Ok(()),
    }
}

/// Refuses another packing of weights than the plan's: they are packed when a model is compiled.
fn check_packing(path: &Path, module: &Module, demanded: WeightPacking) -> Result<(), Error> {
    let (is_other, has): (fn(Layout) -> bool, _) = match demanded {
        WeightPacking::Auto => return Ok(()),
        WeightPacking::TwoBits => (Layout::has_five_a_byte, WeightPacking::Trits),
        WeightPacking::Trits => (|layout| layout == Layout::Tile16, WeightPacking::TwoBits),
    };
    let packable = |ty: &Type| {
        ty.as_matrix().is_some_and(|(rows, cols)| ternary_bytes(Layout::Trits16, rows, cols).is_some())
    };
    let wrong = |p: ParamId| {
        let ty = &module.params()[p].ty;
        ty.dtype == DType::Ter && is_other(ty.layout) && packable(ty)
    };
    match stored_params(module).into_iter().any(wrong) {
        true => Err(Error::PackingOfPlan { path: path.to_owned(), has, asked: demanded }),
        false => Ok(()),
    }
}

/// Verifies a module and proves the plans of its functions.
///
/// # Errors
/// All that is wrong, as text.
pub fn check_module(module: &Module) -> Result<(), String> {
    if let Err(errors) = verify::verify(module) {
        return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    if module.stage == Stage::Planned {
        for func in module.funcs().values() {
            check_plan(func).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

fn load_plan(path: &Path, plan: Plan, options: &LoadOptions) -> Result<Loaded, Error> {
    let build = &options.build;
    let target = build.target()?;
    let lacks = |what| Error::PlanLacks { path: path.to_owned(), what };
    let spec = plan.tokenizer()?.ok_or_else(|| lacks("tokenizer"))?;
    let verify = || if options.verify { plan.verify_weights() } else { Ok(()) };
    let make = || {
        beside_tokenizer(&spec, || {
            let mut module = plan_module(path, &plan)?;
            if let Some(packing) = build.weights {
                check_packing(path, &module, packing)?;
            }
            check_activations(path, &module, build.activations)?;
            if let Some(cache) = build.cache {
                cache::set_cache_type(&mut module, cache)?;
            }
            let (compiled, finite) = rayon::join(
                || compile_with(&module, &target, build.codegen),
                || check_finite(&module, &plan),
            );
            finite?;
            let compiled = compiled?;
            Ok((module, compiled))
        })
    };
    let (verified, made) = bitnetc_threads::install(|| rayon::join(verify, make));
    verified.map_err(|source| PlanError::InFile { path: path.to_owned(), source: Box::new(source) })?;
    let (tokenizer, (module, compiled)) = made?;
    let index = plan.index();
    let mut ranges = Vec::new();
    for param in stored_params(&module) {
        let name = &module.params()[param].name;
        let find = |name: &str| index.weight(name).map(|(_, r)| r.start as u64..r.end as u64);
        if let Some(bytes) = find(name) {
            let scales = find(&scales_name(name)).unwrap_or(0..0);
            ranges.push(WeightRange { name: name.clone(), bytes, scales });
        }
    }
    let context = context_of(index.meta()).unwrap_or(2048).min(gguf::limits::MAX_CONTEXT as u32);
    let (chat_template, mut notes) =
        (index.chat_template().map(str::to_owned), index.meta().defaults_used.clone());
    let architecture = index.meta().architecture.clone();
    let (source_hash, head) = (index.meta().source.hash, head_of(&index.meta().creation_options).to_owned());
    notes.extend(refusals(&compiled));
    let plan = Arc::new(PlanInUse::new(plan));
    let blob: Bytes = Arc::<PlanInUse>::clone(&plan);
    let loaded = Loaded {
        name: path.display().to_string(),
        model: Arc::new(Model::new(&module, compiled, Arc::clone(&blob), &ranges)?),
        module,
        tokenizer: Arc::new(tokenizer),
        chat_template,
        architecture,
        context,
        notes,
        source_hash,
        head,
        blob,
        ranges,
        plan: Some(plan),
        check: None,
    };
    // Zeros in place of what was lost may have been read until here.
    loaded.model.check_weights()?;
    Ok(loaded)
}

/// Whether the f16 of the weights that ops read whole are finite. Rows of tables that tokens are looked up in are checked as
/// they are looked up: reading all of them would take as much memory as they do (ADR 27).
fn check_finite(module: &Module, plan: &Plan) -> Result<(), Error> {
    let nodes = module.funcs().values().flat_map(|f| f.order().iter().map(|&id| f.node(id)));
    let read = nodes.filter(|node| !matches!(node.op, Op::Embed {})).flat_map(|node| &node.operands);
    let params: BTreeSet<ParamId> = read
        .filter_map(|operand| match operand {
            Operand::Param(param) => Some(*param),
            Operand::Value(_) => None,
        })
        .collect();
    for decl in params.into_iter().map(|param| &module.params()[param]) {
        if plan.weight(&decl.name).is_some_and(|bytes| !is_finite(&decl.ty, bytes)) {
            return Err(ModelError::NotFinite { name: decl.name.clone(), ty: decl.ty.to_string() }.into());
        }
    }
    Ok(())
}

/// The module of a model in a stage, for dumps.
///
/// # Errors
/// As [`load`]; a plan has no earlier stage than `planned`.
pub fn dump_module(source: &Source, stage: Stage, options: &BuildOptions) -> Result<Module, Error> {
    if let Source::Plan { path, plan } = source {
        return match stage {
            Stage::Planned => plan_module(path, plan),
            _ => Err(Error::NotInPlan {
                path: path.clone(),
                what: "a plan holds the planned module only; dump earlier stages from the .gguf file",
            }),
        };
    }
    let model = source.gguf_model()?;
    let imported = import(&model, options)?;
    let passes = options.pipeline.passes().iter().cloned();
    let up_to: Vec<PassUse> = match stage {
        Stage::Imported => Vec::new(),
        Stage::Fused => passes.take_while(|p| p.id != PassId::AssignLayout).collect(),
        Stage::LaidOut => passes.take_while(|p| p.id != PassId::PlanMemory).collect(),
        Stage::Planned => passes.collect(),
    };
    Ok(bitnetc_passes::run(&Pipeline::new(up_to), imported, &options.pass_context()?)?.0)
}

/// The packed weights of a loaded model, for the interpreter.
impl WeightSource for Loaded {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        let range = self.ranges.iter().find(|r| r.name == name)?;
        let decl = &self.module.params()[self.module.param_named(name)?];
        let all = (*self.blob).as_ref();
        let place = |r: &std::ops::Range<u64>| all.get(r.start as usize..r.end as usize);
        // Scales are filled up to whole tiles and lie tile by tile; the matrix has one for each row or group of a row.
        let rows = match decl.ty.layout {
            layout if layout.is_packed_ternary() => decl.ty.as_matrix()?.0,
            _ => 0,
        };
        let packed = place(&range.scales)?.as_chunks::<4>().0;
        let groups = decl.ty.scale_groups();
        let scale = |r: u32, g: u32| {
            let at = usize::try_from(packed_scale_index(groups, r, g)).ok()?;
            packed.get(at).map(|&b| f32::from_le_bytes(b))
        };
        let scales = (0..rows).flat_map(|r| (0..groups).map(move |g| (r, g))).map(|(r, g)| scale(r, g));
        let scales: Option<Vec<f32>> = scales.collect();
        Some(WeightBytes { bytes: Cow::Borrowed(place(&range.bytes)?), scales: Cow::Owned(scales?) })
    }
}

/// Computes the logits after every token with the interpreter and passes them to `sink` as [`bitnetc_runtime::session::Session::score`] does.
///
/// # Errors
/// What the interpreter refuses; logits that are NaN.
pub fn score_by_interpreter(
    loaded: &Loaded,
    tokens: &[u32],
    sink: &mut dyn FnMut(usize, &[f32]) -> bool,
) -> Result<(), Error> {
    let module = &loaded.module;
    let interpreter = Interpreter::new(module, loaded);
    let decode = module.entry_point(EntryPoint::Decode).ok_or(SessionError::Entry(EntryPoint::Decode))?;
    let capacity = u32::try_from(tokens.len()).unwrap_or(u32::MAX - KEY_BLOCK).next_multiple_of(KEY_BLOCK);
    let func = &module.funcs()[decode];
    let types: Vec<_> = func.inputs().iter().map(|&v| func.ty(v).clone()).collect();
    let mut caches: Vec<Tensor> = types.iter().filter_map(|ty| Tensor::empty_cache(ty, capacity)).collect();
    for (position, &token) in tokens.iter().enumerate() {
        let mut free = std::mem::take(&mut caches).into_iter();
        let inputs = types
            .iter()
            .map(|ty| match (ty.is_persistent(), ty.shape.0.is_empty()) {
                (true, _) => free.next().unwrap_or(Tensor::Position(0)),
                (false, true) => Tensor::Position(position as u32),
                (false, false) => Tensor::Tokens(vec![token]),
            })
            .collect();
        let mut outputs = interpreter.run(decode, inputs)?.into_iter();
        let logits = outputs.next();
        caches = outputs.collect();
        let row = logits.as_ref().and_then(Tensor::as_f32).unwrap_or_default();
        if let Some(index) = row.iter().position(|x| x.is_nan()) {
            return Err(SessionError::NotANumber { position: position as u32, index: index as u32 }.into());
        }
        if row.is_empty() || !sink(position, row) {
            break;
        }
    }
    Ok(())
}

#[cfg(all(test, not(feature = "hub")))]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn names_of_the_hub_are_refused_without_it() {
        for name in ["hf:org/repo:a.gguf", "2b-4t"] {
            let refused = load(Some(Path::new(name)), &LoadOptions::default());
            assert!(matches!(refused, Err(Error::Store(StoreError::NoHub { .. }))), "{refused:?}");
        }
    }
}
