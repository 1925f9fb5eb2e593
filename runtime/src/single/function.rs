//! Running one function of any planned module on tensors: the counterpart of the interpreter's `run`, with compiled
//! kernels.
//!
//! Invariants: the module verifies (checked here) and its plan has been proved (the caller's part); buffers are as large as the
//! types say for the function's most tokens and the capacity of the caches; inputs keep the rules of [`super::call`].

use std::sync::Arc;

use bitnetc_codegen::compile::compile;
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::{Entity, FuncId, Module, TargetDesc, WeightSource, verify};

use super::tensors::{fetch, store};
use super::{ExecuteError, InOut, PackedWeight, call, input_behind, run};
use crate::machine::memory::{Sizes, WorkMemory};

/// Compiles `module` for `target` and runs one of its functions with `threads` threads.
///
/// # Errors
/// A module that does not verify or is not planned, a weight that is missing, inputs that do not fit (a cache whose capacity is
/// no multiple of [`bitnetc_ir::KEY_BLOCK`] or too small for the call, a token that a table has no row for, …), memory or threads
/// that cannot be had.
pub fn execute(
    module: &Module,
    func: FuncId,
    target: &TargetDesc,
    source: &dyn WeightSource,
    inputs: Vec<Tensor>,
    threads: u32,
) -> Result<Vec<Tensor>, ExecuteError> {
    verify::verify(module).map_err(|errors| ExecuteError::Module(errors[0].to_string()))?;
    let compiled = Arc::new(compile(module, target)?);
    let function = &module.funcs()[func];
    let call = call::of_inputs(module, function, &inputs)?;
    let program = compiled.programs.programs[func.index()].clone();
    let (most, threads) = (function.tokens().max(), threads.max(1));

    let shared = &compiled.programs;
    let sizes = Sizes::of(std::slice::from_ref(&program), shared.kernels.values(), call.capacity);
    let mut memory = WorkMemory::new(sizes, threads, shared.ropes.values(), call.capacity)?;
    memory.fill_ropes(call.position + call.tokens);
    let pack = |&param| PackedWeight::new(module, param, source);
    let weights = shared.weights.values().map(pack).collect::<Result<Vec<_>, _>>()?;
    let addresses = weights.iter().map(PackedWeight::address).collect();
    let mut stored = Vec::with_capacity(inputs.len());
    for (index, (tensor, input)) in inputs.iter().zip(&program.inputs).enumerate() {
        let buffer = store(tensor, &input.ty, most, call.capacity)?;
        let wrong = || call::wrong(function, (index, "is not of the input's type"));
        stored.push(buffer.ok_or_else(wrong)?);
    }
    let in_out = InOut::new(&program, stored, most, call.capacity)?;

    let outputs = program.outputs.clone();
    run(program, compiled, &memory, &in_out, addresses, call, threads)?;

    let mut results = Vec::with_capacity(outputs.len());
    for (index, (&value, output)) in function.outputs().iter().zip(&outputs).enumerate() {
        let missing = || ExecuteError::Output { func: function.name().to_owned(), index };
        let buffer = match output.ty.is_persistent() {
            true => &in_out.inputs[input_behind(function, value).ok_or_else(missing)?],
            false => &in_out.outputs[index],
        };
        let result = fetch(buffer.as_slice(), &output.ty, call.tokens, call.capacity);
        results.push(result.ok_or_else(missing)?);
    }
    Ok(results)
}
