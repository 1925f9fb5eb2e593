//! Running one function of any planned module on tensors: the counterpart of the interpreter's `run`, with compiled
//! kernels. Sessions are for models; this is for whole graphs of any kind, in tests and tools.
//!
//! Invariants: the module verifies (checked here) and its plan has been proved by the checker in `passes` (the caller's part,
//! since this crate cannot see it); buffers are as large as the types say for the function's most tokens and the given
//! cache capacity; inputs are compared with the types, and token ids with the tables, before anything runs.

use std::sync::Arc;

use bitnetc_codegen::compile::{CompileError, Compiled, compile};
use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::pack::{PackError, pack_into};
use bitnetc_codegen::program::Word;
use bitnetc_ir::blocks::{BLOCK, HALF_BLOCK};
use bitnetc_ir::interp::{Cache, CacheData, Tensor};
use bitnetc_ir::{
    DType, Entity, Func, FuncId, Index, KEY_BLOCK, Module, Node, Operand, Place, TargetDesc, TokenCount,
    Type, ValueId, WeightSource, storage, verify, weights,
};

use crate::call::{Addresses, Engine, Room};
use crate::map::AlignedBuffer;
use crate::rope_table::RopeTable;
use crate::team::{Job, Team};

/// Why a function could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// The module breaks a rule of the verifier.
    #[error("{0}")]
    Module(String),
    /// The module could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A weight could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Inputs that do not fit the function.
    #[error("@{func}: input {index} {what}")]
    Input {
        /// The function.
        func: String,
        /// Position of the input.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An output that has no buffer of its own.
    #[error("@{func}: output {index} is neither a buffer of its own nor a cache of the caller")]
    Output {
        /// The function.
        func: String,
        /// Position of the output.
        index: usize,
    },
    /// Memory or threads could not be had.
    #[error(transparent)]
    Resources(#[from] crate::session::SessionError),
    /// Memory could not be had.
    #[error("cannot allocate a buffer: {0}")]
    Memory(#[from] std::io::Error),
}

/// Bytes of what a `q8b` row holds for each block.
const RECORD: usize = storage::Q8B_RECORD as usize;

struct Buffers {
    arena: AlignedBuffer,
    inputs: Vec<AlignedBuffer>,
    outputs: Vec<AlignedBuffer>,
    weights: Vec<(AlignedBuffer, AlignedBuffer)>,
    ropes: Vec<RopeTable>,
    scratch: AlignedBuffer,
    scratch_bytes: u64,
    private: AlignedBuffer,
    private_bytes: u64,
    workspace: AlignedBuffer,
}

impl Addresses for Buffers {
    fn address(&self, _: usize, word: Word) -> Option<u64> {
        Some(match word {
            Word::Arena(offset) => self.arena.address() + offset,
            Word::Input { index, offset } => self.inputs[index as usize].address() + offset,
            Word::Output { index } => self.outputs[index as usize].address(),
            Word::Weight(w) => self.weights[w.index()].0.address(),
            Word::Scales(w) => self.weights[w.index()].1.address(),
            Word::Rope(r) => self.ropes[r.index()].address(),
            Word::Workspace => self.workspace.address(),
            Word::Scratch
            | Word::Private(_)
            | Word::Position
            | Word::Tokens
            | Word::Capacity
            | Word::UnitBegin
            | Word::UnitEnd => {
                return None;
            }
        })
    }
    fn row_stride(&self, _: usize, _: Word) -> u64 {
        0
    }
    fn cache(&self, _: usize, _: Word, _: u32) -> Option<u64> {
        None
    }
    fn scratch(&self, thread: u32) -> u64 {
        self.scratch.address() + u64::from(thread) * self.scratch_bytes
    }
    fn private(&self, thread: u32) -> u64 {
        self.private.address() + u64::from(thread) * self.private_bytes
    }
}

pub(crate) fn padded(bytes: u64) -> Result<AlignedBuffer, std::io::Error> {
    let bytes = usize::try_from(bytes.saturating_add(storage::PADDING));
    AlignedBuffer::zeroed(bytes.map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?)
}

/// Compiles `module` for `target` and runs one of its functions with `threads` threads. All caches have the same
/// capacity; all positions the same value.
///
/// # Errors
/// A module that is not planned, a weight that is missing, inputs that do not fit, memory that cannot be had.
pub fn execute(
    module: &Module,
    func: FuncId,
    target: &TargetDesc,
    source: &dyn WeightSource,
    inputs: Vec<Tensor>,
    threads: u32,
) -> Result<Vec<Tensor>, ExecuteError> {
    verify::verify(module).map_err(|errors| ExecuteError::Module(errors[0].to_string()))?;
    let compiled = compile(module, target)?;
    let function = &module.funcs()[func];
    let program = compiled.programs.programs[func.index()].clone();
    let wrong = |index, what| ExecuteError::Input { func: function.name().to_owned(), index, what };
    if inputs.len() != program.inputs.len() {
        return Err(wrong(inputs.len(), "is not there, or one too many"));
    }
    let most = match function.tokens() {
        TokenCount::One => 1,
        TokenCount::UpTo(n) => n,
    };
    let rows = fewest_embedding_rows(module, function);
    let (mut position, mut tokens, mut capacity) = (0, 1, KEY_BLOCK);
    for (index, (tensor, buffer)) in inputs.iter().zip(&program.inputs).enumerate() {
        let per_token = buffer.ty.as_rows().is_some_and(|r| r.per_token);
        match tensor {
            Tensor::Position(p) => position = *p,
            Tensor::Tokens(ids) => {
                tokens = ids.len() as u32;
                if ids.iter().any(|&id| id >= rows) {
                    return Err(wrong(index, "has a token id that a table has no row for"));
                }
            }
            Tensor::F32 { rows, .. }
            | Tensor::Q8 { rows, .. }
            | Tensor::Q8b { rows, .. }
            | Tensor::I32 { rows, .. }
                if per_token =>
            {
                tokens = *rows as u32;
            }
            Tensor::F32 { .. } | Tensor::Q8 { .. } | Tensor::Q8b { .. } | Tensor::I32 { .. } => {}
            Tensor::Cache(cache) => capacity = cache.capacity,
        }
        if !tensor.is_well_formed() {
            return Err(wrong(index, "has not as many elements as its sizes say"));
        }
        if tokens > most {
            return Err(wrong(index, "has more rows than the function handles"));
        }
    }
    if u64::from(position) + u64::from(tokens) > u64::from(capacity)
        && inputs.iter().any(|t| matches!(t, Tensor::Cache(_)))
    {
        return Err(wrong(0, "stands behind the capacity of the caches"));
    }
    let table_rows = position.saturating_add(tokens).max(capacity);

    let mut buffers = Buffers {
        arena: padded(program.arena_bytes)?,
        inputs: Vec::new(),
        outputs: Vec::new(),
        weights: pack(module, &compiled, source)?,
        ropes: Vec::new(),
        scratch: padded(0)?,
        scratch_bytes: storage::align(
            compiled.programs.kernels.values().map(|k| k.scratch_bytes()).max().unwrap_or(0),
        ),
        private: padded(0)?,
        private_bytes: storage::align(program.private_bytes) + storage::PADDING,
        workspace: padded(
            compiled.programs.kernels.values().map(|k| k.workspace_bytes(capacity)).max().unwrap_or(0),
        )?,
    };
    buffers.private = padded(buffers.private_bytes * u64::from(threads.max(1)))?;
    buffers.scratch = padded(buffers.scratch_bytes * u64::from(threads.max(1)))?;
    for spec in compiled.programs.ropes.values() {
        let mut table = RopeTable::new(spec, table_rows)?;
        table.fill_to(table_rows);
        buffers.ropes.push(table);
    }
    for (index, (tensor, buffer)) in inputs.iter().zip(&program.inputs).enumerate() {
        let filled = store(tensor, &buffer.ty, most, capacity)?;
        buffers.inputs.push(filled.ok_or_else(|| wrong(index, "is not of the input's type"))?);
    }
    for output in &program.outputs {
        buffers.outputs.push(padded(storage::activation_bytes(&output.ty, most).unwrap_or(0))?);
    }

    let entries: Vec<KernelEntry> = compiled.programs.kernels.keys().map(|k| compiled.entry(k)).collect();
    let outputs = program.outputs.clone();
    let room = Room { capacity, threads: threads.max(1), sequences: 1 };
    let engine = Engine::bind(&[program], &entries, &buffers, room, None, compiled);
    let mut team = Team::new(Arc::new(engine), threads).map_err(crate::session::SessionError::from)?;
    team.run(Job { position, tokens, ..Job::default() });
    drop(team);

    let mut results = Vec::new();
    for (index, (&value, output)) in function.outputs().iter().zip(&outputs).enumerate() {
        let missing = || ExecuteError::Output { func: function.name().to_owned(), index };
        let buffer = match output.ty.as_cache() {
            Some(_) => &buffers.inputs[input_behind(function, value).ok_or_else(missing)?],
            None => &buffers.outputs[index],
        };
        results.push(fetch(buffer.as_slice(), &output.ty, tokens, capacity).ok_or_else(missing)?);
    }
    Ok(results)
}

/// Rows of the smallest table that the function looks tokens up in.
pub(crate) fn fewest_embedding_rows(module: &Module, func: &Func) -> u32 {
    let tables = func.order().iter().filter_map(|&id| {
        let node = func.node(id);
        let index = node.op.info().indices.iter().find(|index| counts_tokens(func, node, index))?;
        match node.operands.get(index.into) {
            Some(Operand::Param(table)) => module.params()[*table].ty.as_matrix(),
            _ => None,
        }
    });
    tables.map(|(rows, _)| rows).min().unwrap_or(u32::MAX)
}

/// Whether the numbers are token ids.
fn counts_tokens(func: &Func, node: &Node, index: &Index) -> bool {
    match node.operands.get(index.operand) {
        Some(Operand::Value(v)) => func.ty(*v).dtype == DType::Idx,
        _ => false,
    }
}

fn pack(
    module: &Module,
    compiled: &Compiled,
    source: &dyn WeightSource,
) -> Result<Vec<(AlignedBuffer, AlignedBuffer)>, ExecuteError> {
    let mut all = Vec::new();
    for &param in compiled.programs.weights.values() {
        let (bytes, scale_bytes) = weights::packed_bytes(&module.params()[param].ty).unwrap_or((0, 0));
        let (mut elements, mut scales) = (padded(bytes)?, padded(scale_bytes)?);
        let values = pack_into(module, param, source, &mut elements.as_mut_slice()[..bytes as usize])?;
        for (slot, scale) in scales.as_mut_slice().chunks_exact_mut(4).zip(values) {
            slot.copy_from_slice(&scale.to_le_bytes());
        }
        all.push((elements, scales));
    }
    Ok(all)
}

/// The input whose bytes a cache output has.
pub(crate) fn input_behind(func: &Func, value: ValueId) -> Option<usize> {
    let plan = func.plan.as_ref()?;
    let mut at = value;
    for _ in 0..=plan.places.len() {
        if let Some(index) = func.inputs().iter().position(|&v| v == at) {
            return Some(index);
        }
        match plan.places.get(&at)? {
            Place::Alias { of } => at = *of,
            _ => return None,
        }
    }
    None
}

/// A tensor in a buffer of its own, laid out as kernels read it; `None` if it is not of this type.
pub(crate) fn store(
    tensor: &Tensor,
    ty: &Type,
    most: u32,
    capacity: u32,
) -> Result<Option<AlignedBuffer>, std::io::Error> {
    let stride = storage::row_stride(ty).unwrap_or(4) as usize;
    let width = ty.as_rows().map_or(0, |r| r.width as usize);
    let mut buffer = match ty.as_cache() {
        Some(_) => padded(storage::cache_bytes(ty, capacity).unwrap_or(u64::MAX))?,
        None => padded(storage::activation_bytes(ty, most).unwrap_or(u64::from(most) * 4))?,
    };
    let bytes = buffer.as_mut_slice();
    let fits = match tensor {
        Tensor::Position(_) => ty.dtype == DType::Idx && ty.shape.0.is_empty(),
        Tensor::Tokens(ids) => {
            for (slot, id) in bytes.chunks_exact_mut(4).zip(ids) {
                slot.copy_from_slice(&id.to_le_bytes());
            }
            ty.dtype == DType::Idx && ids.len() as u64 * 4 <= bytes.len() as u64
        }
        Tensor::F32 { width: w, data, .. } => {
            for (row, values) in bytes.chunks_exact_mut(stride).zip(data.chunks(width.max(1))) {
                for (slot, x) in row.chunks_exact_mut(4).zip(values) {
                    slot.copy_from_slice(&x.to_le_bytes());
                }
            }
            ty.dtype == DType::F32 && *w == width
        }
        Tensor::Q8 { width: w, codes, a, sums, .. } => {
            let tail = storage::q8_tail(width as u32) as usize;
            let rows = codes.chunks(width.max(1)).zip(a.iter().zip(sums));
            for (row, (codes, (a, sum))) in bytes.chunks_exact_mut(stride).zip(rows) {
                for (slot, code) in row.iter_mut().zip(codes) {
                    *slot = *code as u8;
                }
                let (a_at, sum_at) = (tail + storage::Q8_A as usize, tail + storage::Q8_SUM as usize);
                row[a_at..a_at + 4].copy_from_slice(&a.to_le_bytes());
                row[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
            }
            ty.dtype == DType::Q8 && *w == width
        }
        Tensor::Q8b { width: w, codes, scales, .. } => {
            let tail = storage::q8_tail(width as u32) as usize;
            let blocks = width.div_ceil(BLOCK as usize).max(1);
            let rows = codes.chunks(width.max(1)).zip(scales.chunks(blocks));
            for (row, (codes, scales)) in bytes.chunks_exact_mut(stride).zip(rows) {
                let (stored, records) = row.split_at_mut(tail);
                let of_blocks = codes.chunks(BLOCK as usize).zip(scales);
                let places = stored.chunks_mut(BLOCK as usize).zip(records.chunks_mut(RECORD));
                for ((codes, scale), (stored, record)) in of_blocks.zip(places) {
                    for (slot, code) in stored.iter_mut().zip(codes) {
                        *slot = *code as u8;
                    }
                    let sum = |codes: &[i8]| codes.iter().map(|&q| i32::from(q)).sum::<i32>();
                    let (first, second) = codes.split_at(codes.len().min(HALF_BLOCK as usize));
                    let mut put = |at: u64, word: [u8; 4]| {
                        record[at as usize..at as usize + 4].copy_from_slice(&word);
                    };
                    put(storage::Q8B_SCALE, scale.to_le_bytes());
                    put(storage::Q8B_HALVES, sum(first).to_le_bytes());
                    put(storage::Q8B_HALVES + 4, sum(second).to_le_bytes());
                    put(storage::Q8B_SUM, sum(codes).to_le_bytes());
                }
            }
            ty.dtype == DType::Q8b && *w == width
        }
        Tensor::I32 { width: w, data, .. } => {
            for (row, values) in bytes.chunks_exact_mut(stride).zip(data.chunks(width.max(1))) {
                for (slot, x) in row.chunks_exact_mut(4).zip(values) {
                    slot.copy_from_slice(&x.to_le_bytes());
                }
            }
            ty.dtype == DType::I32 && *w == width
        }
        Tensor::Cache(cache) => {
            let fits = ty.as_cache() == Some(cache.dims) && cache.capacity == capacity;
            fits && cache_elements(ty, cache.capacity, |from, to| match &cache.data {
                CacheData::F16(data) => bytes[to * 2..to * 2 + 2].copy_from_slice(&data[from].to_le_bytes()),
                CacheData::F32(data) => bytes[to * 4..to * 4 + 4].copy_from_slice(&data[from].to_le_bytes()),
            })
        }
    };
    Ok(fits.then_some(buffer))
}

/// Calls `visit` with the logical and the stored index of every element of a cache.
fn cache_elements(ty: &Type, capacity: u32, mut visit: impl FnMut(usize, usize)) -> bool {
    let Some(dims) = ty.as_cache() else { return false };
    let mut logical = 0;
    for head in 0..dims.kv_heads {
        for position in 0..capacity {
            for j in 0..dims.head_dim {
                let (head, position, j) = (u64::from(head), u64::from(position), u64::from(j));
                let stored = storage::cache_index(ty.layout, dims, u64::from(capacity), head, position, j);
                visit(logical, stored as usize);
                logical += 1;
            }
        }
    }
    true
}

/// The tensor in a buffer.
pub(crate) fn fetch(bytes: &[u8], ty: &Type, tokens: u32, capacity: u32) -> Option<Tensor> {
    if let Some(dims) = ty.as_cache() {
        let count = (dims.kv_heads * dims.head_dim) as usize * capacity as usize;
        let data = if ty.dtype == DType::F16 {
            let mut data = vec![0u16; count];
            cache_elements(ty, capacity, |to, from| {
                data[to] = u16::from_le_bytes([bytes[from * 2], bytes[from * 2 + 1]]);
            });
            CacheData::F16(data)
        } else {
            let mut data = vec![0f32; count];
            cache_elements(ty, capacity, |to, from| {
                let b = &bytes[from * 4..from * 4 + 4];
                data[to] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            });
            CacheData::F32(data)
        };
        return Some(Tensor::Cache(Cache { dims, capacity, data }));
    }
    let shape = ty.as_rows()?;
    let rows = if shape.per_token { tokens as usize } else { 1 };
    let (stride, width) = (storage::row_stride(ty)? as usize, shape.width as usize);
    let all = bytes.chunks_exact(stride).take(rows);
    let number = |row: &[u8], at: usize| [row[at], row[at + 1], row[at + 2], row[at + 3]];
    Some(match ty.dtype {
        DType::F32 => {
            let data =
                all.flat_map(|row| (0..width).map(move |i| f32::from_le_bytes(number(row, i * 4)))).collect();
            Tensor::f32(width, data)
        }
        DType::Q8 => {
            let tail = storage::q8_tail(shape.width) as usize;
            let (mut codes, mut a, mut sums) = (Vec::new(), Vec::new(), Vec::new());
            for row in all {
                codes.extend(row[..width].iter().map(|&b| b as i8));
                a.push(f32::from_le_bytes(number(row, tail + storage::Q8_A as usize)));
                sums.push(i32::from_le_bytes(number(row, tail + storage::Q8_SUM as usize)));
            }
            Tensor::Q8 { rows, width, codes, a, sums }
        }
        DType::Q8b => {
            let tail = storage::q8_tail(shape.width) as usize;
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            for row in all {
                codes.extend(row[..width].iter().map(|&b| b as i8));
                let records = row[tail..].chunks_exact(RECORD).take(width.div_ceil(BLOCK as usize));
                scales.extend(records.map(|r| f32::from_le_bytes(number(r, storage::Q8B_SCALE as usize))));
            }
            Tensor::Q8b { rows, width, codes, scales }
        }
        DType::I32 => {
            let data =
                all.flat_map(|row| (0..width).map(move |i| i32::from_le_bytes(number(row, i * 4)))).collect();
            Tensor::I32 { rows, width, data }
        }
        _ => return None,
    })
}
