//! What kernels rely on in a call of a function or an op, checked before anything runs.
//!
//! Rules: each tensor is a value of the type that is expected, in a call of that number of tokens; a call has at least one token and at
//! most as many as the function handles; all positions are the same; all caches have the same capacity, a multiple of the key
//! block in which attention reads them, with room for the call's tokens after its position; indices stay below what they count.

use bitnetc_ir::interp::Tensor;
use bitnetc_ir::limits::MAX_POSITIONS;
use bitnetc_ir::sample::{CallShape, index_bound};
use bitnetc_ir::{DType, Func, KEY_BLOCK, Module, Type, ValueId};

use super::ExecuteError;
use crate::machine::memory::capacity_for;

/// Why an input is refused: which, and what is wrong with it.
type Wrong = (usize, &'static str);

/// An error about an input of `func`.
pub(super) fn wrong(func: &Func, (index, what): Wrong) -> ExecuteError {
    ExecuteError::Input { func: func.name().to_owned(), index, what }
}

/// The call of `func`, a function of `module`, that `inputs` are for.
///
/// # Errors
/// Inputs that break one of the rules.
pub fn of_inputs(module: &Module, func: &Func, inputs: &[Tensor]) -> Result<CallShape, ExecuteError> {
    let types: Vec<&Type> = func.inputs().iter().map(|&value| func.ty(value)).collect();
    let call = shape(&types, inputs).map_err(|what| wrong(func, what))?;
    let below = |dtype| index_bound(module, func, dtype).unwrap_or(u32::MAX);
    check(func, func.inputs(), inputs, call, below)?;
    Ok(call)
}

/// Tokens, position and capacity as the first inputs with any say; without caches, a capacity that is large enough.
fn shape(types: &[&Type], inputs: &[Tensor]) -> Result<CallShape, Wrong> {
    let (mut tokens, mut position, mut capacity) = (None, None, None);
    for (tensor, ty) in inputs.iter().zip(types) {
        match tensor {
            Tensor::Position(p) => drop(position.get_or_insert(*p)),
            Tensor::Tokens(ids) => drop(tokens.get_or_insert(ids.len())),
            Tensor::Cache(cache) => drop(capacity.get_or_insert(cache.capacity)),
            Tensor::State(_) => {}
            Tensor::F32 { rows, .. }
            | Tensor::Q8 { rows, .. }
            | Tensor::Q8b { rows, .. }
            | Tensor::I32 { rows, .. } => {
                if ty.as_rows().is_some_and(|shape| shape.per_token) {
                    tokens.get_or_insert(*rows);
                }
            }
        }
    }
    let too_many = (0, "has more rows than the function handles");
    let tokens = u32::try_from(tokens.unwrap_or(1)).map_err(|_| too_many)?;
    let position = position.unwrap_or(0);
    let capacity = capacity.unwrap_or_else(|| capacity_for(position.saturating_add(tokens)));
    Ok(CallShape { tokens, position, capacity })
}

/// Whether `tensors` are `values` of `func` in a call of the shape `call`; `below` says what indices of a type stay below.
///
/// # Errors
/// Tensors that break one of the rules.
pub(super) fn check(
    func: &Func,
    values: &[ValueId],
    tensors: &[Tensor],
    call: CallShape,
    below: impl Fn(DType) -> u32,
) -> Result<(), ExecuteError> {
    let CallShape { tokens, position, capacity } = call;
    if values.len() != tensors.len() {
        return Err(wrong(func, (tensors.len(), "is not there, or one too many")));
    }
    if !(1..=func.tokens().max()).contains(&tokens) {
        return Err(wrong(func, (0, "has more rows than the function handles, or none")));
    }
    if position.checked_add(tokens).is_none_or(|end| end > MAX_POSITIONS) {
        return Err(wrong(func, (0, "is a call that ends at a position that no model has")));
    }
    if capacity == 0 || !capacity.is_multiple_of(KEY_BLOCK) {
        let cache = tensors.iter().position(|t| matches!(t, Tensor::Cache(_))).unwrap_or(0);
        return Err(wrong(func, (cache, "is a cache whose capacity is no multiple of the key block of 64")));
    }
    if position.checked_add(tokens).is_none_or(|end| end > capacity) {
        return Err(wrong(func, (0, "is a call that ends beyond the capacity of the caches")));
    }
    for (index, (tensor, &value)) in tensors.iter().zip(values).enumerate() {
        if !tensor.has_type(func.ty(value), tokens as usize) {
            return Err(wrong(
                func,
                (index, "is not of the type that is expected in a call of this number of tokens"),
            ));
        }
        let fits = match tensor {
            Tensor::Tokens(ids) => ids.iter().all(|&id| id < below(DType::Idx)),
            Tensor::I32 { data, .. } => {
                data.iter().all(|&n| u32::try_from(n).is_ok_and(|n| n < below(DType::I32)))
            }
            Tensor::Cache(cache) => cache.capacity == capacity,
            Tensor::Position(p) => *p == position,
            Tensor::F32 { .. } | Tensor::Q8 { .. } | Tensor::Q8b { .. } | Tensor::State(_) => true,
        };
        if !fits {
            let what = match tensor {
                Tensor::Cache(_) => "is a cache of another capacity than the one before",
                Tensor::Position(_) => "is another position than the one before",
                _ => "has an index outside of what it counts in",
            };
            return Err(wrong(func, (index, what)));
        }
    }
    Ok(())
}
