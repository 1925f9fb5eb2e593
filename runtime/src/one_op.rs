//! Running one op of a planned function with the very kernels, strides and places that the plan gives it: what a check of
//! kernels needs, where [`crate::execute`] would need a function of that op alone, which would have other strides.
//!
//! Operands are written to where the op reads them, its steps run (an op is one step, or two with a barrier between them),
//! and the results are read from where it wrote them. All other bytes of the memory are 0.
//!
//! Invariants: the module verifies and its plan has been proved (the caller's part, as for `execute`); buffers are as
//! large as the function's own for the call; operands are compared with the types of the values, and indices among them
//! with what they count, before anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitnetc_codegen::compile::Compiled;
use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::kernels::Arg;
use bitnetc_codegen::pack::pack_into;
use bitnetc_codegen::program::{Program, Step, WeightIndex, Word};
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::sample::CallShape;
use bitnetc_ir::{
    DType, Entity, FuncId, Module, Node, NodeId, Operand, Type, ValueId, WeightSource, storage, weights,
};

use crate::call::{Addresses, Engine, Room};
use crate::execute::{ExecuteError, fetch, input_behind, padded, store};
use crate::map::AlignedBuffer;
use crate::rope_table::RopeTable;
use crate::team::{Job, Team};

/// An op of a planned module.
#[derive(Clone, Copy, Debug)]
pub struct OneOp<'m> {
    /// The module, planned.
    pub module: &'m Module,
    /// The function.
    pub func: FuncId,
    /// The op.
    pub node: NodeId,
}

/// The weights of one op as its kernels read them. Whatever code the kernels are made of, these are the same.
pub struct OpWeights {
    by_param: BTreeMap<usize, Packed>,
}

struct Packed {
    /// What was packed: code for another type would read other bytes.
    ty: Type,
    elements: AlignedBuffer,
    scales: AlignedBuffer,
}

impl OneOp<'_> {
    fn of(&self) -> &Node {
        self.module.funcs()[self.func].node(self.node)
    }

    fn wrong(&self, index: usize, what: &'static str) -> ExecuteError {
        ExecuteError::Input { func: self.module.funcs()[self.func].name().to_owned(), index, what }
    }

    /// Packs the weights that the op reads.
    ///
    /// # Errors
    /// A weight that `source` does not hold or that cannot be packed; memory that cannot be had.
    pub fn pack(&self, source: &dyn WeightSource) -> Result<OpWeights, ExecuteError> {
        let mut by_param = BTreeMap::new();
        for operand in &self.of().operands {
            let Operand::Param(param) = *operand else { continue };
            let (bytes, scale_bytes) =
                weights::packed_bytes(&self.module.params()[param].ty).unwrap_or((0, 0));
            let (mut elements, mut scales) = (padded(bytes)?, padded(scale_bytes)?);
            let values =
                pack_into(self.module, param, source, &mut elements.as_mut_slice()[..bytes as usize])?;
            for (slot, scale) in scales.as_mut_slice().chunks_exact_mut(4).zip(values) {
                slot.copy_from_slice(&scale.to_le_bytes());
            }
            let ty = self.module.params()[param].ty.clone();
            by_param.insert(param.index(), Packed { ty, elements, scales });
        }
        Ok(OpWeights { by_param })
    }

    /// Runs the op with `threads` threads. `operands` has a tensor for each operand that is a value, in order; the results
    /// are the op's. `compiled` is the module, compiled for this machine or less.
    ///
    /// # Errors
    /// An op without kernel, operands that do not fit, memory or threads that cannot be had.
    pub fn run(
        &self,
        compiled: &Arc<Compiled>,
        packed: &OpWeights,
        operands: &[Tensor],
        call: CallShape,
        threads: u32,
    ) -> Result<Vec<Tensor>, ExecuteError> {
        let func = &self.module.funcs()[self.func];
        let node = self.of();
        let whole = &compiled.programs.programs[self.func.index()];
        let steps: Vec<Step> =
            whole.steps.iter().filter(|step| step.node == Some(self.node)).cloned().collect();
        let first = steps.first().ok_or_else(|| self.wrong(0, "is of an op without kernel"))?;
        let values: Vec<ValueId> = node
            .operands
            .iter()
            .filter_map(|operand| match operand {
                Operand::Value(v) => Some(*v),
                Operand::Param(_) => None,
            })
            .collect();
        self.check(&values, operands, call)?;
        for (slot, operand) in node.operands.iter().enumerate() {
            let Operand::Param(param) = operand else { continue };
            if packed.by_param.get(&param.index()).is_none_or(|p| p.ty != self.module.params()[*param].ty) {
                return Err(self.wrong(slot, "has weights that are not packed for it"));
            }
        }

        let most = func.tokens().max();
        let threads = threads.max(1);
        let table_rows = call.position.saturating_add(call.tokens).max(call.capacity);
        let specs = || steps.iter().map(|step| &compiled.programs.kernels[step.kernel]);
        let scratch_bytes = storage::align(specs().map(|s| s.scratch_bytes()).max().unwrap_or(0));
        let private_bytes = storage::align(whole.private_bytes) + storage::PADDING;
        let mut memory = Memory {
            arena: padded(whole.arena_bytes)?,
            inputs: whole
                .inputs
                .iter()
                .map(|b| padded(buffer_bytes(&b.ty, most, call)))
                .collect::<Result<_, _>>()?,
            outputs: whole
                .outputs
                .iter()
                .map(|b| padded(buffer_bytes(&b.ty, most, call)))
                .collect::<Result<_, _>>()?,
            ropes: Vec::new(),
            scratch: padded(scratch_bytes * u64::from(threads))?,
            scratch_bytes,
            private: padded(private_bytes * u64::from(threads))?,
            private_bytes,
            workspace: padded(specs().map(|s| s.workspace_bytes(call.capacity)).max().unwrap_or(0))?,
            weights: addresses(compiled, packed),
        };
        for spec in compiled.programs.ropes.values() {
            let mut table = RopeTable::new(spec, table_rows)?;
            table.fill_to(table_rows);
            memory.ropes.push(table);
        }

        // Where values are: what the words of the first step say, slot by slot.
        let args = compiled.programs.kernels[first.kernel].args();
        let place = |wanted: Arg| {
            let at = args.iter().position(|&arg| arg == wanted)?;
            Some((first.words[at], first.row_strides[at]))
        };
        let mut tensors = operands.iter();
        for (slot, operand) in node.operands.iter().enumerate() {
            let Operand::Value(value) = operand else { continue };
            let (Some(tensor), Some((word, stride))) = (tensors.next(), place(Arg::Operand(slot as u8)))
            else {
                continue;
            };
            let ty = func.ty(*value);
            let filled = store(tensor, ty, most, call.capacity)?;
            let filled = filled.ok_or_else(|| self.wrong(slot, "is not of the operand's type"))?;
            let stride = if stride == 0 { storage::row_stride(ty).unwrap_or(4) } else { stride };
            memory.write(word, &filled, ty, call.tokens, stride, threads);
        }

        let last = steps.last().unwrap_or(first).clone();
        let program = Program { steps, ..whole.clone() };
        let entries: Vec<KernelEntry> = compiled.programs.kernels.keys().map(|k| compiled.entry(k)).collect();
        let room = Room { capacity: call.capacity, threads, sequences: 1 };
        let engine = Engine::bind(&[program], &entries, &memory, room, None, Arc::clone(compiled));
        let mut team = Team::new(Arc::new(engine), threads).map_err(crate::session::SessionError::from)?;
        team.run(Job { position: call.position, tokens: call.tokens, ..Job::default() });
        drop(team);

        // The last step writes the results, at the places that it says.
        let args = compiled.programs.kernels[last.kernel].args();
        let mut results = Vec::with_capacity(node.results.len());
        for (i, &value) in node.results.iter().enumerate() {
            let ty = func.ty(value);
            let missing = || ExecuteError::Output { func: func.name().to_owned(), index: i };
            if ty.as_cache().is_some() {
                let buffer = &memory.inputs[input_behind(func, value).ok_or_else(missing)?];
                results.push(fetch(buffer.as_slice(), ty, call.tokens, call.capacity).ok_or_else(missing)?);
                continue;
            }
            let at = args.iter().position(|&arg| arg == Arg::Result(i as u8)).ok_or_else(missing)?;
            let stride = match last.row_strides[at] {
                0 => storage::row_stride(ty).unwrap_or(4),
                stride => stride,
            };
            let rows = memory.read(last.words[at], ty, call.tokens, stride).ok_or_else(missing)?;
            results.push(fetch(&rows, ty, call.tokens, call.capacity).ok_or_else(missing)?);
        }
        Ok(results)
    }

    fn check(&self, values: &[ValueId], operands: &[Tensor], call: CallShape) -> Result<(), ExecuteError> {
        let func = &self.module.funcs()[self.func];
        if values.len() != operands.len() {
            return Err(self.wrong(operands.len(), "is not there, or one too many"));
        }
        if call.tokens == 0 || call.tokens > func.tokens().max() {
            return Err(self.wrong(0, "has more rows than the function handles, or none"));
        }
        let end = call.position.checked_add(call.tokens);
        if end.is_none_or(|end| end > call.capacity) || !call.capacity.is_multiple_of(bitnetc_ir::KEY_BLOCK) {
            return Err(self.wrong(0, "stands behind the capacity of the caches"));
        }
        let rows_of = |slot: usize| match self.of().operands.get(slot) {
            Some(Operand::Param(p)) => self.module.params()[*p].ty.as_matrix().map_or(0, |(rows, _)| rows),
            Some(Operand::Value(v)) => func.ty(*v).as_rows().map_or(0, |rows| rows.width),
            None => 0,
        };
        // Indices stay below the rows of a table, or the elements of a row.
        let indices = self.of().op.info().indices.iter();
        let bound = indices.map(|index| rows_of(index.into)).min().unwrap_or(0);
        for (i, (tensor, &value)) in operands.iter().zip(values).enumerate() {
            let fits = tensor.has_type(func.ty(value), call.tokens as usize)
                && match tensor {
                    Tensor::Tokens(ids) => ids.iter().all(|&id| id < bound),
                    Tensor::I32 { data, .. } => {
                        data.iter().all(|&n| u32::try_from(n).is_ok_and(|n| n < bound))
                    }
                    Tensor::Cache(cache) => cache.capacity == call.capacity,
                    Tensor::Position(position) => *position == call.position,
                    Tensor::F32 { .. } | Tensor::Q8 { .. } | Tensor::Q8b { .. } => true,
                };
            if !fits {
                return Err(self.wrong(i, "is not of the operand's type, or outside of what it indexes"));
            }
        }
        Ok(())
    }
}

fn buffer_bytes(ty: &Type, most: u32, call: CallShape) -> u64 {
    match ty.as_cache() {
        Some(_) => storage::cache_bytes(ty, call.capacity).unwrap_or(u64::MAX),
        None => storage::activation_bytes(ty, most).unwrap_or(u64::from(most) * 4),
    }
}

fn addresses(compiled: &Compiled, packed: &OpWeights) -> Vec<Option<(u64, u64)>> {
    let of = |param: &bitnetc_ir::ParamId| {
        let packed = packed.by_param.get(&param.index())?;
        Some((packed.elements.address(), packed.scales.address()))
    };
    compiled.programs.weights.values().map(of).collect()
}

struct Memory {
    arena: AlignedBuffer,
    inputs: Vec<AlignedBuffer>,
    outputs: Vec<AlignedBuffer>,
    ropes: Vec<RopeTable>,
    scratch: AlignedBuffer,
    scratch_bytes: u64,
    private: AlignedBuffer,
    private_bytes: u64,
    workspace: AlignedBuffer,
    /// Of the weights of the op; the steps read no other.
    weights: Vec<Option<(u64, u64)>>,
}

/// Bytes of a row that hold something, and that nothing else may share.
fn row_bytes(ty: &Type) -> usize {
    let width = ty.as_rows().map_or(1, |rows| rows.width as usize);
    match ty.dtype {
        DType::F32 | DType::I32 | DType::Idx => width * 4,
        _ => storage::row_stride(ty).unwrap_or(0) as usize,
    }
}

impl Memory {
    /// The buffer and the byte of it that a word is the address of; of private memory, that of the first thread.
    fn locate(&mut self, word: Word) -> Option<(&mut AlignedBuffer, usize)> {
        Some(match word {
            Word::Arena(offset) => (&mut self.arena, offset as usize),
            Word::Private(offset) => (&mut self.private, offset as usize),
            Word::Input { index, offset } => (self.inputs.get_mut(index as usize)?, offset as usize),
            Word::Output { index } => (self.outputs.get_mut(index as usize)?, 0),
            _ => return None,
        })
    }

    /// Puts a value, stored as a buffer of its own, where `word` says, its rows `stride` bytes apart.
    fn write(&mut self, word: Word, from: &AlignedBuffer, ty: &Type, tokens: u32, stride: u64, threads: u32) {
        let private_bytes = self.private_bytes as usize;
        let copies = if matches!(word, Word::Private(_)) { threads as usize } else { 1 };
        let from = from.as_slice();
        let Some((buffer, start)) = self.locate(word) else { return };
        let to = buffer.as_mut_slice();
        if ty.as_cache().is_some() {
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from[..n]);
            return;
        }
        let own = storage::row_stride(ty).unwrap_or(4) as usize;
        let rows = if ty.as_rows().is_some_and(|r| r.per_token) { tokens as usize } else { 1 };
        // Token ids lie one behind the other.
        let (own, stride, bytes) =
            if ty.dtype == DType::Idx { (4, 4, 4) } else { (own, stride as usize, row_bytes(ty)) };
        let rows = if ty.dtype == DType::Idx { tokens as usize } else { rows };
        for copy in 0..copies {
            for row in 0..rows {
                let at = start + copy * private_bytes + row * stride;
                let source = from.get(row * own..row * own + bytes);
                if let (Some(slot), Some(source)) = (to.get_mut(at..at + bytes), source) {
                    slot.copy_from_slice(source);
                }
            }
        }
    }

    /// The rows of a value, as a buffer of its own would hold them.
    fn read(&mut self, word: Word, ty: &Type, tokens: u32, stride: u64) -> Option<Vec<u8>> {
        let own = storage::row_stride(ty)? as usize;
        let rows = if ty.as_rows()?.per_token { tokens as usize } else { 1 };
        let bytes = row_bytes(ty);
        let (buffer, start) = self.locate(word)?;
        let from = buffer.as_slice();
        let mut all = vec![0; own * rows];
        for row in 0..rows {
            let at = start + row * stride as usize;
            all[row * own..row * own + bytes].copy_from_slice(from.get(at..at + bytes)?);
        }
        Some(all)
    }

    fn weight(&self, weight: WeightIndex) -> Option<(u64, u64)> {
        self.weights.get(weight.index()).copied().flatten()
    }
}

impl Addresses for Memory {
    fn address(&self, _: usize, word: Word) -> Option<u64> {
        Some(match word {
            Word::Arena(offset) => self.arena.address() + offset,
            Word::Input { index, offset } => self.inputs[index as usize].address() + offset,
            Word::Output { index } => self.outputs[index as usize].address(),
            Word::Weight(w) => self.weight(w)?.0,
            Word::Scales(w) => self.weight(w)?.1,
            Word::Rope(r) => self.ropes[r.index()].address(),
            Word::Workspace => self.workspace.address(),
            _ => return None,
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
