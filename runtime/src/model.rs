//! A model ready to run: programs, their code, and the packed weights that they read. Sessions share it.
//!
//! Invariants: every weight region is as large as its parameter's type says and is followed by readable padding, which
//! [`Model::new`] checks, because both may come from an untrusted plan file; code and weights live as long as the model.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bitnetc_codegen::compile::Compiled;
use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::program::{Programs, WeightIndex, lower};
use bitnetc_ir::sample::index_bound;
use bitnetc_ir::work::Accounts;
use bitnetc_ir::{DType, EntityVec, EntryPoint, Module, Op, Operand, ParamId, storage, weights};

use crate::error::SessionError;
use crate::map::AlignedBuffer;
use crate::sequence::{Sequence, Spoiled};

/// Memory that weights lie in.
pub trait WeightMemory: AsRef<[u8]> + Send + Sync {
    /// What has happened to the bytes since they were brought into memory. Asked after every step, so it costs no more than
    /// a load.
    fn fault(&self) -> Option<WeightFault>;
}

impl WeightMemory for AlignedBuffer {
    fn fault(&self) -> Option<WeightFault> {
        None
    }
}

/// What can happen to weights while they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightFault {
    /// The file that they lie in was cut short.
    #[error("the model file was truncated, or became unreadable, while it was in use")]
    Lost,
    /// They are not those that were written.
    #[error("the weights of the plan do not match their hash: compile the model again")]
    Damaged,
}

/// A mapped plan file, or a buffer.
pub type Bytes = Arc<dyn WeightMemory>;

/// A table of f16 in which tokens are looked up, one row each.
#[derive(Clone, Debug)]
struct Embedding {
    name: String,
    /// First byte in the blob.
    start: usize,
    row_bytes: usize,
}

/// Bytes and scales of one packed parameter, as ranges of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightRange {
    /// The parameter's name.
    pub name: String,
    /// Its bytes, from a multiple of 64 on.
    pub bytes: Range<u64>,
    /// Its scales (f32, one per row, filled up to a multiple of 16); empty for dense parameters.
    pub scales: Range<u64>,
}

/// Why packed weights do not fit a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A parameter that an op reads has no bytes.
    #[error("weight @{0} is missing: compile the model again")]
    Missing(String),
    /// The bytes are not as many as the type says, or lie outside the blob.
    #[error(
        "weight @{name} ({ty}): {what} are {got} bytes at {start}, expected {expected} inside {blob}: compile the model again"
    )]
    Range {
        /// The parameter.
        name: String,
        /// Its type.
        ty: String,
        /// Elements or scales.
        what: &'static str,
        /// Bytes found.
        got: u64,
        /// First byte.
        start: u64,
        /// Bytes needed.
        expected: u64,
        /// Size of the blob.
        blob: u64,
    },
    /// A token id may be looked up that the table has no row for.
    #[error(
        "@{func} looks tokens up in a table of {rows} rows but the vocabulary has {vocab}: compile the model again"
    )]
    Embedding {
        /// The function.
        func: String,
        /// Its rows.
        rows: u32,
        /// Tokens that may be fed.
        vocab: u32,
    },
    /// A weight that kernels take to be finite has a NaN or an infinity.
    #[error("weight @{name} ({ty}) is not finite: compile the model again")]
    NotFinite {
        /// The parameter.
        name: String,
        /// Its type.
        ty: String,
    },
    /// The code was made from another module.
    #[error("the code is that of another module")]
    OtherModule,
    /// The vocabulary cannot be told from the module.
    #[error("the module's @decode does not return logits: compile the model again")]
    NoLogits,
}

/// The f16 parameters in which an op looks tokens up.
fn lookup_tables(module: &Module) -> HashSet<ParamId> {
    let nodes = module.funcs().values().flat_map(|f| f.order().iter().map(|&id| f.node(id)));
    let tables = nodes.filter(|node| matches!(node.op, Op::Embed {})).flat_map(|node| &node.operands);
    let params = tables.filter_map(|operand| match operand {
        Operand::Param(param) => Some(*param),
        Operand::Value(_) => None,
    });
    params.filter(|&param| module.params()[param].ty.dtype == DType::F16).collect()
}

/// A model ready to run.
pub struct Model {
    compiled: Compiled,
    entries: Vec<KernelEntry>,
    blob: Bytes,
    /// Tables of f16, each once.
    embeddings: Vec<Embedding>,
    weights: EntityVec<WeightIndex, (u64, u64)>,
    weight_bytes: u64,
    bytes_per_token: u64,
    kv_bytes_per_position: u64,
    vocab: u32,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("vocab", &self.vocab)
            .field("weights", &self.weights.len())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Joins code with weights. `module` is the planned module that `compiled` was made from.
    ///
    /// # Errors
    /// A weight that is missing or has another size than its type; code of another module.
    pub fn new(
        module: &Module,
        compiled: Compiled,
        blob: Bytes,
        ranges: &[WeightRange],
    ) -> Result<Self, ModelError> {
        // Sizes of buffers follow from the module, and what is read from them from the code.
        if lower(module).ok().as_ref() != Some(&compiled.programs) {
            return Err(ModelError::OtherModule);
        }
        let size = (*blob).as_ref().len() as u64;
        let by_name: std::collections::HashMap<&str, &WeightRange> =
            ranges.iter().map(|r| (r.name.as_str(), r)).collect();
        let mut found = EntityVec::new();
        let mut weight_bytes = 0;
        for &param in compiled.programs.weights.values() {
            let decl = &module.params()[param];
            let range =
                by_name.get(decl.name.as_str()).ok_or_else(|| ModelError::Missing(decl.name.clone()))?;
            let (bytes, scales) =
                weights::packed_bytes(&decl.ty).ok_or_else(|| ModelError::Missing(decl.name.clone()))?;
            for (what, range, expected) in
                [("elements", &range.bytes, bytes), ("scales", &range.scales, scales)]
            {
                let got = range.end.saturating_sub(range.start);
                let inside = range.end.checked_add(storage::PADDING).is_some_and(|end| end <= size);
                if got != expected
                    || range.start > range.end
                    || (expected > 0 && !inside)
                    || range.start % 4 != 0
                {
                    return Err(ModelError::Range {
                        name: decl.name.clone(),
                        ty: decl.ty.to_string(),
                        what,
                        got,
                        start: range.start,
                        expected,
                        blob: size,
                    });
                }
            }
            weight_bytes += bytes + scales;
            found.push((range.bytes.start, range.scales.start));
        }
        let decode = compiled.programs.entry_point(EntryPoint::Decode);
        let vocab = decode
            .and_then(|(_, program)| program.outputs.first())
            .filter(|b| b.ty.dtype == DType::F32)
            .and_then(|b| b.ty.as_rows())
            .map(|rows| rows.width)
            .ok_or(ModelError::NoLogits)?;
        for func in module.funcs().values() {
            if let Some(rows) = index_bound(module, func, DType::Idx)
                && rows < vocab
            {
                return Err(ModelError::Embedding { func: func.name().to_owned(), rows, vocab });
            }
        }
        let accounts = Accounts::of(module);
        let bytes_per_token = accounts.step(0).weight_bytes;
        let kv_bytes_per_position = accounts.kv_bytes_per_position();
        let entries = compiled.programs.kernels.keys().map(|k| compiled.entry(k)).collect();
        let tables = lookup_tables(module);
        let embedding = |(&param, &(start, _)): (&ParamId, &(u64, u64))| {
            let decl = &module.params()[param];
            let (_, cols) = decl.ty.as_matrix().filter(|_| tables.contains(&param))?;
            Some(Embedding { name: decl.name.clone(), start: start as usize, row_bytes: 2 * cols as usize })
        };
        let embeddings =
            compiled.programs.weights.values().zip(found.values()).filter_map(embedding).collect();
        Ok(Self {
            compiled,
            entries,
            blob,
            embeddings,
            weights: found,
            weight_bytes,
            bytes_per_token,
            kv_bytes_per_position,
            vocab,
        })
    }

    /// The programs of the module's functions.
    pub fn programs(&self) -> &Programs {
        &self.compiled.programs
    }
    /// The compiled kernels.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }
    /// Entry addresses of the kernels, by kernel index.
    pub fn entries(&self) -> &[KernelEntry] {
        &self.entries
    }
    /// Tokens of the vocabulary, and so logits of a token.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }
    /// Bytes of the weights that kernels read.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
    /// Bytes of weights that one decode step reads, as [`bitnetc_ir::work`] counts them.
    pub fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }
    /// Bytes of keys and values that each position of a sequence adds, as [`bitnetc_ir::work`] counts them.
    pub fn kv_bytes_per_position(&self) -> u64 {
        self.kv_bytes_per_position
    }

    /// Fails if the weights are not what they were when they were loaded. Machines ask it after every step.
    ///
    /// # Errors
    /// [`SessionError::Weights`].
    pub fn check_weights(&self) -> Result<(), SessionError> {
        match self.blob.fault() {
            None => Ok(()),
            Some(fault) => Err(SessionError::Weights(fault)),
        }
    }

    /// The first token of `sequence`, fed before or with `tokens`, whose row in a table has a NaN or an infinity, where kernels rely
    /// on there being none. All are below the vocabulary.
    pub(crate) fn first_spoiled(&self, sequence: &Sequence, tokens: &[u32]) -> Option<Spoiled> {
        let fresh = || {
            let at = tokens.iter().position(|&token| self.bad_table(token).is_some())?;
            Some(Spoiled { position: sequence.position() + at as u32, token: tokens[at] })
        };
        sequence.spoiled().or_else(fresh)
    }

    /// The error for what was computed of such a token.
    pub(crate) fn not_finite(&self, spoiled: Spoiled) -> SessionError {
        let table = self.bad_table(spoiled.token);
        let weight = table.map(|table| table.name.clone()).unwrap_or_default();
        SessionError::NotFinite { weight, token: spoiled.token, position: spoiled.position }
    }

    /// A table in which the row of the token is not finite.
    fn bad_table(&self, token: u32) -> Option<&Embedding> {
        let blob = (*self.blob).as_ref();
        self.embeddings.iter().find(|table| {
            let start = table.start + token as usize * table.row_bytes;
            !weights::all_finite_f16(&blob[start..start + table.row_bytes])
        })
    }

    fn address(&self, offset: u64) -> u64 {
        (*self.blob).as_ref().as_ptr().expose_provenance() as u64 + offset
    }
    /// Address of a weight's elements.
    pub(crate) fn weight_address(&self, weight: WeightIndex) -> u64 {
        self.address(self.weights[weight].0)
    }
    /// Address of a weight's scales.
    pub(crate) fn scales_address(&self, weight: WeightIndex) -> u64 {
        self.address(self.weights[weight].1)
    }
}
