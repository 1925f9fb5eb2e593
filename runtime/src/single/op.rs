//! Running one op of a planned function with the very kernels, strides and places that the plan gives it: what a check of
//! kernels needs, where [`super::execute`] would need a function of that op alone, which would have other strides.
//!
//! Operands are written to where the op reads them, its steps run (an op is one step, or two with a barrier between them),
//! and the results are read from where it wrote them. All other bytes of the memory are 0.
//!
//! Invariants: the module verifies (checked when it is compiled here, so that code and module belong together) and its plan has
//! been proved (the caller's part); buffers are as large as the function's own for the call; operands keep the rules of
//! [`super::call`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bitnetc_codegen::compile::{Codegen, Compiled, compile_with};
use bitnetc_codegen::kernels::Arg;
use bitnetc_codegen::program::{Program, Step, Word};
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::sample::{CallShape, index_bound_of};
use bitnetc_ir::{
    DType, Entity, FuncId, Module, Node, NodeId, Operand, ParamId, TargetDesc, Type, ValueId, WeightSource,
    storage, verify,
};

use super::tensors::{buffer_bytes, fetch, row_bytes, store};
use super::{ExecuteError, InOut, PackedWeight, call, input_behind, run};
use crate::machine::buffer;
use crate::machine::memory::{Sizes, WorkMemory};
use crate::map::AlignedBuffer;

/// A planned module with its code.
#[derive(Debug)]
pub struct CompiledModule<'m> {
    module: &'m Module,
    compiled: Arc<Compiled>,
}

impl<'m> CompiledModule<'m> {
    /// Compiles `module` for `target`, which is this machine or less, by `codegen`.
    ///
    /// # Errors
    /// A module that does not verify or is not planned; code that cannot be made.
    pub fn new(module: &'m Module, target: &TargetDesc, codegen: Codegen) -> Result<Self, ExecuteError> {
        verify::verify(module).map_err(|errors| ExecuteError::Module(errors[0].to_string()))?;
        Ok(Self { module, compiled: Arc::new(compile_with(module, target, codegen)?) })
    }

    /// The code.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}

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
    by_param: BTreeMap<ParamId, PackedWeight>,
}

impl OneOp<'_> {
    fn of(&self) -> &Node {
        self.module.funcs()[self.func].node(self.node)
    }

    fn wrong(&self, index: usize, what: &'static str) -> ExecuteError {
        call::wrong(&self.module.funcs()[self.func], (index, what))
    }

    /// Packs the weights that the op reads.
    ///
    /// # Errors
    /// A weight is missing from `source` or cannot be packed, or memory could not be allocated.
    pub fn pack(&self, source: &dyn WeightSource) -> Result<OpWeights, ExecuteError> {
        let mut by_param = BTreeMap::new();
        for operand in &self.of().operands {
            if let Operand::Param(param) = *operand {
                by_param.insert(param, PackedWeight::new(self.module, param, source)?);
            }
        }
        Ok(OpWeights { by_param })
    }

    /// Runs the op with `threads` threads. `operands` has a tensor for each operand that is a value, in order; the results
    /// are the op's. `code` is that of the op's module.
    ///
    /// # Errors
    /// Code of another module, an op without kernel, operands that do not fit, memory or threads that cannot be had.
    pub fn run(
        &self,
        code: &CompiledModule<'_>,
        packed: &OpWeights,
        operands: &[Tensor],
        call: CallShape,
        threads: u32,
    ) -> Result<Vec<Tensor>, ExecuteError> {
        if !std::ptr::eq(code.module, self.module) {
            return Err(ExecuteError::Module("the code is that of another module than the op's".to_owned()));
        }
        let compiled = &code.compiled;
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
        let below = |dtype| index_bound_of(self.module, func, node, dtype).unwrap_or(u32::MAX);
        call::check(func, &values, operands, call, below)?;
        for (slot, operand) in node.operands.iter().enumerate() {
            let Operand::Param(param) = operand else { continue };
            if packed.by_param.get(param).is_none_or(|p| p.ty != self.module.params()[*param].ty) {
                return Err(self.wrong(slot, "has weights that are not packed for it"));
            }
        }

        let most = func.tokens().max();
        let threads = threads.max(1);
        let specs = steps.iter().map(|step| &compiled.programs.kernels[step.kernel]);
        let sizes = Sizes::of(std::slice::from_ref(whole), specs, call.capacity);
        let inputs = whole.inputs.iter().map(|b| buffer("input", buffer_bytes(&b.ty, most, call.capacity)));
        let mut memory = Memory {
            work: WorkMemory::new(sizes, threads, compiled.programs.ropes.values(), call.capacity)?,
            in_out: InOut::new(whole, inputs.collect::<Result<_, _>>()?, most, call.capacity)?,
        };
        memory.work.fill_ropes(call.position + call.tokens);

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
        // The steps read no other weights than the op's.
        let weight = |param| packed.by_param.get(param).map(PackedWeight::address).unwrap_or_default();
        let weights = compiled.programs.weights.values().map(weight).collect();
        run(program, Arc::clone(compiled), &memory.work, &memory.in_out, weights, call, threads)?;

        // The last step writes the results, at the places that it says.
        let args = compiled.programs.kernels[last.kernel].args();
        let mut results = Vec::with_capacity(node.results.len());
        for (i, &value) in node.results.iter().enumerate() {
            let ty = func.ty(value);
            let missing = || ExecuteError::Output { func: func.name().to_owned(), index: i };
            if ty.is_persistent() {
                let buffer = &memory.in_out.inputs[input_behind(func, value).ok_or_else(missing)?];
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
}

/// All memory that the op's function names.
struct Memory {
    work: WorkMemory,
    in_out: InOut,
}

impl Memory {
    /// The buffer and the byte of it that a word is the address of; of private memory, that of the first thread.
    fn locate(&mut self, word: Word) -> Option<(&mut AlignedBuffer, usize)> {
        Some(match word {
            Word::Arena(offset) => (&mut self.work.arena, offset as usize),
            Word::Private(offset) => (self.work.private.parts().0, offset as usize),
            Word::Input { index, offset } => (self.in_out.inputs.get_mut(index as usize)?, offset as usize),
            Word::Output { index } => (self.in_out.outputs.get_mut(index as usize)?, 0),
            _ => return None,
        })
    }

    /// Puts a value, stored as a buffer of its own, where `word` says, its rows `stride` bytes apart.
    fn write(&mut self, word: Word, from: &AlignedBuffer, ty: &Type, tokens: u32, stride: u64, threads: u32) {
        let private_bytes = self.work.private.parts().1 as usize;
        let copies = if matches!(word, Word::Private(_)) { threads as usize } else { 1 };
        let from = from.as_slice();
        let Some((buffer, start)) = self.locate(word) else { return };
        let to = buffer.as_mut_slice();
        if ty.is_persistent() {
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from[..n]);
            return;
        }
        let own = storage::row_stride(ty).unwrap_or(4) as usize;
        let rows = if ty.as_rows().is_some_and(|r| r.per_token) { tokens as usize } else { 1 };
        // Token ids lie one after the other.
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
}
