//! The values of one call: which are there, how often each is still read, and typed access to the operands of an op.

use std::collections::BTreeMap;

use super::error::InterpError;
use super::tensor::{Cache, State, Tensor};
use super::weights::{Blocks, Dense, Table, Ternary, Weights};
use crate::KEY_BLOCK;
use crate::build::check_op;
use crate::entity::{ParamId, ValueId};
use crate::graph::{Func, Node, Operand, TokenCount};
use crate::module::Module;
use crate::types::{Dim, Type};

/// A value and the reads of it that are to come.
struct Slot {
    tensor: Tensor,
    reads: usize,
}

/// The values of one call.
pub(super) struct Frame<'f> {
    func: &'f Func,
    values: BTreeMap<ValueId, Slot>,
    reads: BTreeMap<ValueId, usize>,
}

/// f32 rows.
#[derive(Clone, Copy)]
pub(super) struct Act<'t> {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) data: &'t [f32],
}

/// Quantised rows.
#[derive(Clone, Copy)]
pub(super) struct Quant<'t> {
    pub(super) codes: &'t [i8],
    pub(super) a: &'t [f32],
}

/// Rows quantised in blocks.
#[derive(Clone, Copy)]
pub(super) struct BlockQuant<'t> {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Elements of a block.
    pub(super) block: u32,
    pub(super) codes: &'t [i8],
    pub(super) scales: &'t [f32],
}

/// What a ternary matrix multiplies.
#[derive(Clone, Copy)]
pub(super) enum Multiplicand<'t> {
    Act(Act<'t>),
    Quant(Quant<'t>),
    Blocks(BlockQuant<'t>),
}

/// Rows of row numbers.
#[derive(Clone, Copy)]
pub(super) struct RowNumbers<'t> {
    pub(super) width: usize,
    pub(super) data: &'t [i32],
}

impl<'f> Frame<'f> {
    /// Checks the inputs and starts a call with them.
    pub(super) fn new(func: &'f Func, inputs: Vec<Tensor>) -> Result<Self, InterpError> {
        check_inputs(func, &inputs)?;
        let mut reads = BTreeMap::new();
        let operands = func.order().iter().flat_map(|&n| &func.node(n).operands);
        let read = operands.filter_map(|o| if let Operand::Value(v) = o { Some(*v) } else { None });
        for value in read.chain(func.outputs().iter().copied()) {
            *reads.entry(value).or_insert(0) += 1;
        }
        let mut frame = Self { func, values: BTreeMap::new(), reads };
        for (&id, tensor) in func.inputs().iter().zip(inputs) {
            frame.define(id, tensor);
        }
        Ok(frame)
    }

    fn define(&mut self, id: ValueId, tensor: Tensor) {
        let reads = self.reads.get(&id).copied().unwrap_or(0);
        self.values.insert(id, Slot { tensor, reads });
    }

    /// Shows a value that was just defined to `on_value`, and drops it if nothing reads it.
    pub(super) fn observe(&mut self, id: ValueId, on_value: &mut dyn FnMut(ValueId, &Tensor)) {
        if let Some(slot) = self.values.get(&id) {
            on_value(id, &slot.tensor);
            if slot.reads == 0 {
                self.values.remove(&id);
            }
        }
    }

    /// Counts the operands of `node` as read, and defines its results.
    pub(super) fn finish(
        &mut self,
        node: &Node,
        results: Vec<Tensor>,
        on_value: &mut dyn FnMut(ValueId, &Tensor),
    ) {
        for operand in &node.operands {
            if let Operand::Value(id) = operand {
                self.count_read(*id);
            }
        }
        for (&id, tensor) in node.results.iter().zip(results) {
            self.define(id, tensor);
            self.observe(id, on_value);
        }
    }

    fn count_read(&mut self, id: ValueId) {
        if let Some(slot) = self.values.get_mut(&id) {
            slot.reads = slot.reads.saturating_sub(1);
            if slot.reads == 0 {
                self.values.remove(&id);
            }
        }
    }

    /// A cache that `node` changes: moved out where this is the last read of it, else a copy.
    pub(super) fn take_cache(&mut self, node: &Node, slot: usize) -> Result<Cache, InterpError> {
        let taken = match node.operands.get(slot) {
            Some(Operand::Value(id)) => self.take(*id),
            _ => None,
        };
        match taken {
            Some(Tensor::Cache(cache)) => Ok(cache),
            _ => Err(self.undefined(node)),
        }
    }

    /// As [`Frame::take_cache`], for a recurrent state.
    pub(super) fn take_state(&mut self, node: &Node, slot: usize) -> Result<State, InterpError> {
        let taken = match node.operands.get(slot) {
            Some(Operand::Value(id)) => self.take(*id),
            _ => None,
        };
        match taken {
            Some(Tensor::State(state)) => Ok(state),
            _ => Err(self.undefined(node)),
        }
    }

    fn undefined(&self, node: &Node) -> InterpError {
        InterpError::Undefined { func: self.func.name().to_owned(), op: node.op.info().mnemonic }
    }

    /// The value, moved out where this is the last read of it.
    fn take(&mut self, id: ValueId) -> Option<Tensor> {
        match self.values.get(&id)?.reads {
            0 | 1 => self.values.remove(&id).map(|slot| slot.tensor),
            _ => self.values.get(&id).map(|slot| slot.tensor.clone()),
        }
    }

    /// The outputs, in order.
    pub(super) fn outputs(mut self) -> Result<Vec<Tensor>, InterpError> {
        let mut outputs = Vec::with_capacity(self.func.outputs().len());
        for &id in self.func.outputs() {
            let undefined = || InterpError::Undefined { func: self.func.name().to_owned(), op: "return" };
            outputs.push(self.take(id).ok_or_else(undefined)?);
            self.count_read(id);
        }
        Ok(outputs)
    }
}

/// The operands of one op.
#[derive(Clone, Copy)]
pub(super) struct Args<'r, 'w> {
    /// The values of the call.
    pub(super) frame: &'r Frame<'r>,
    /// The parameters of the module.
    pub(super) weights: &'r Weights<'w>,
    /// The op.
    pub(super) node: &'r Node,
}

impl<'r, 'w> Args<'r, 'w> {
    fn undefined(self) -> InterpError {
        self.frame.undefined(self.node)
    }

    fn value(self, slot: usize) -> Result<&'r Tensor, InterpError> {
        match self.node.operands.get(slot) {
            Some(Operand::Value(id)) => self.frame.values.get(id).map(|s| &s.tensor),
            _ => None,
        }
        .ok_or_else(|| self.undefined())
    }

    fn param(self, slot: usize) -> Result<ParamId, InterpError> {
        match self.node.operands.get(slot) {
            Some(Operand::Param(id)) => Ok(*id),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn act(self, slot: usize) -> Result<Act<'r>, InterpError> {
        match self.value(slot)? {
            Tensor::F32 { rows, width, data } => Ok(Act { rows: *rows, width: *width, data }),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn multiplicand(self, slot: usize) -> Result<Multiplicand<'r>, InterpError> {
        match self.value(slot)? {
            Tensor::F32 { .. } => self.act(slot).map(Multiplicand::Act),
            Tensor::Q8 { codes, a, .. } => Ok(Multiplicand::Quant(Quant { codes, a })),
            Tensor::Q8b { .. } => self.block_quant(slot).map(Multiplicand::Blocks),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn block_quant(self, slot: usize) -> Result<BlockQuant<'r>, InterpError> {
        match self.value(slot)? {
            Tensor::Q8b { rows, width, block, codes, scales } => {
                Ok(BlockQuant { rows: *rows, width: *width, block: *block, codes, scales })
            }
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn row_numbers(self, slot: usize) -> Result<RowNumbers<'r>, InterpError> {
        match self.value(slot)? {
            Tensor::I32 { width, data, .. } => Ok(RowNumbers { width: *width, data }),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn tokens(self, slot: usize) -> Result<&'r [u32], InterpError> {
        match self.value(slot)? {
            Tensor::Tokens(ids) => Ok(ids),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn position(self, slot: usize) -> Result<u32, InterpError> {
        match self.value(slot)? {
            Tensor::Position(pos) => Ok(*pos),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn cache(self, slot: usize) -> Result<&'r Cache, InterpError> {
        match self.value(slot)? {
            Tensor::Cache(cache) => Ok(cache),
            _ => Err(self.undefined()),
        }
    }

    pub(super) fn vector(self, slot: usize) -> Result<&'r [f32], InterpError> {
        self.weights.vector(self.param(slot)?)
    }

    pub(super) fn dense(self, slot: usize) -> Result<&'r Dense<'w>, InterpError> {
        self.weights.dense(self.param(slot)?)
    }

    pub(super) fn table(self, slot: usize) -> Result<Table<'r, 'w>, InterpError> {
        self.weights.table(self.param(slot)?)
    }

    pub(super) fn ternary(self, slot: usize) -> Result<&'r Ternary, InterpError> {
        self.weights.ternary(self.param(slot)?)
    }

    pub(super) fn blocks(self, slot: usize) -> Result<&'r Blocks, InterpError> {
        self.weights.blocks(self.param(slot)?)
    }
}

/// Checks that `node` keeps the rules of its op and that its results have the types that follow.
pub(super) fn check_types(module: &Module, func: &Func, node: &Node) -> Result<(), InterpError> {
    let op = node.op.info().mnemonic;
    let mut operands = Vec::with_capacity(node.operands.len());
    for operand in &node.operands {
        operands.push(match operand {
            Operand::Value(id) => (func.ty(*id).clone(), false),
            Operand::Param(id) => match module.params().get(*id) {
                Some(decl) => (decl.ty.clone(), true),
                None => return Err(InterpError::Undefined { func: func.name().to_owned(), op }),
            },
        });
    }
    let types = check_op(&node.op, &operands)
        .map_err(|source| InterpError::Op { func: func.name().to_owned(), source })?;
    match types.len() == node.results.len()
        && types.iter().zip(&node.results).all(|(ty, &id)| ty == func.ty(id))
    {
        true => Ok(()),
        false => Err(InterpError::ResultTypes { func: func.name().to_owned(), op }),
    }
}

/// Checks that the inputs have the types that the function declares, for one number of tokens and one capacity.
fn check_inputs(func: &Func, inputs: &[Tensor]) -> Result<(), InterpError> {
    let name = || func.name().to_owned();
    if inputs.len() != func.inputs().len() {
        return Err(InterpError::InputCount {
            func: name(),
            expected: func.inputs().len(),
            got: inputs.len(),
        });
    }
    let typed = || func.inputs().iter().zip(inputs).map(|(&id, tensor)| (id, func.ty(id), tensor));
    let tokens = typed().find(|(_, ty, _)| ty.shape.0.first() == Some(&Dim::Tokens)).map(|(.., t)| rows(t));
    let tokens = match (func.tokens(), tokens) {
        (TokenCount::UpTo(most), Some(got)) if got == 0 || got > most as usize => {
            return Err(InterpError::TokenCount { func: name(), most, got });
        }
        (TokenCount::UpTo(_), Some(tokens)) => tokens,
        _ => 1,
    };
    let capacity = typed().find_map(|(.., tensor)| match tensor {
        Tensor::Cache(cache) => Some(cache.capacity),
        _ => None,
    });
    for (id, ty, tensor) in typed() {
        let problem = match tensor {
            _ if !tensor.has_type(ty, tokens) => Some(expected(ty, tokens)),
            Tensor::Cache(c) if Some(c.capacity) != capacity || !c.capacity.is_multiple_of(KEY_BLOCK) => {
                Some(format!("one capacity for all caches, a multiple of {KEY_BLOCK}"))
            }
            Tensor::Position(pos) if u64::from(*pos) + tokens as u64 > u64::from(u32::MAX) => {
                Some(format!("a position that leaves room for {tokens} tokens below 2^32"))
            }
            _ => None,
        };
        if let Some(expected) = problem {
            let input = func.value(id).name.clone().unwrap_or_default();
            return Err(InterpError::Input { func: name(), input, got: tensor.to_string(), expected });
        }
    }
    Ok(())
}

fn rows(tensor: &Tensor) -> usize {
    match tensor {
        Tensor::F32 { rows, .. }
        | Tensor::Q8 { rows, .. }
        | Tensor::Q8b { rows, .. }
        | Tensor::I32 { rows, .. } => *rows,
        Tensor::Tokens(ids) => ids.len(),
        Tensor::Position(_) | Tensor::Cache(_) | Tensor::State(_) => 1,
    }
}

fn expected(ty: &Type, tokens: usize) -> String {
    match ty.shape.0.first() {
        Some(Dim::Tokens) => format!("{ty} with T={tokens}"),
        _ => ty.to_string(),
    }
}
