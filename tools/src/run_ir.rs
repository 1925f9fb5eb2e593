//! Running a function of any module, by the interpreter or by compiled kernels: `bitnetc ir run`.
//!
//! Compiled code needs a planned module, so one in an earlier stage goes through the rest of the default pipeline first.
//!
//! Invariants: nothing of the module is trusted: it is verified, its memory plan is proved, and inputs are compared with
//! the types of the function before anything runs.

use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::limits::{MAX_CALL_BYTES, MAX_POSITIONS};
use bitnetc_ir::sample::{self, CallShape};
use bitnetc_ir::{Func, Module, Stage, TargetDesc, WeightSource};
use bitnetc_passes::{PassContext, Pipeline};
use bitnetc_runtime::single::{ExecuteError, call_of_inputs, execute};

use crate::error::Error;
use bitnetc::load::check_module;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The IR interpreter.
    Interpreter,
    /// Compiled kernels.
    Jit,
}

/// Where to run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What code is made for; this machine, or less.
    pub target: TargetDesc,
    /// Threads of compiled code.
    pub threads: u32,
}

/// Refuses a call whose sizes, which no more than the module's text says, are above the limits. Has to come before inputs are
/// made for it; `weights` says whether weights are made from the module too.
///
/// # Errors
/// [`Error::TooLarge`], or a module that does not verify.
pub fn check_size(module: &Module, func: &Func, call: CallShape, weights: bool) -> Result<(), Error> {
    check_module(module).map_err(ExecuteError::Module)?;
    let too_large = |what, has, most| Err(Error::TooLarge { func: func.name().to_owned(), what, has, most });
    let end = u64::from(call.position) + u64::from(call.tokens);
    if end > u64::from(MAX_POSITIONS) {
        return too_large("ends at position", end, u64::from(MAX_POSITIONS));
    }
    match sample::call_bytes(module, func, call, weights) {
        bytes if bytes > MAX_CALL_BYTES => too_large("takes bytes:", bytes, MAX_CALL_BYTES),
        _ => Ok(()),
    }
}

/// Runs the function `entry` of `module` and returns its results.
///
/// # Errors
/// A module that does not verify or cannot be planned, a function that it does not have, weights that `source` does not
/// hold, inputs of the wrong type, sizes above the limits of [`check_size`].
pub fn run(
    module: &Module,
    entry: &str,
    source: &dyn WeightSource,
    inputs: Vec<Tensor>,
    engine: Engine,
    machine: &Machine,
) -> Result<Vec<Tensor>, Error> {
    check_module(module).map_err(ExecuteError::Module)?;
    let missing = || ExecuteError::Module(format!("the module has no function @{entry}"));
    let func = module.func_named(entry).ok_or_else(missing)?;
    // Inputs that make no call are refused by the engine, which says why.
    if let Ok(call) = call_of_inputs(module, &module.funcs()[func], &inputs) {
        check_size(module, &module.funcs()[func], call, false)?;
    }
    if engine == Engine::Interpreter {
        return Ok(Interpreter::new(module, source).run(func, inputs)?);
    }
    let planned;
    let module = match module.stage {
        Stage::Planned => module,
        stage => {
            let context = PassContext::new(machine.target.clone());
            let (made, _) = bitnetc_passes::run(&Pipeline::from_stage(stage), module.clone(), &context)?;
            planned = made;
            &planned
        }
    };
    let func = module.func_named(entry).ok_or_else(missing)?;
    Ok(execute(module, func, &machine.target, source, inputs, machine.threads)?)
}
