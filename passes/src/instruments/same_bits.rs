//! The check of passes by meaning: after every pass that changed something, the interpreter runs every function on weights
//! and inputs made from a seed ([`bitnetc_ir::sample`]), and has to get the bits that it got from the module that the run
//! began with.
//!
//! A function over a chunk is run with one token and with as many as it takes, at most [`MOST_TOKENS`]. Where the pipeline
//! packs the head, results change as they were asked to: from there on the packed module is what the next ones are
//! compared with.
//!
//! It takes the interpreter's time: seconds for a layer of a large model, and nothing to speak of for one of the built-in
//! model's size. Weights are made up, so that a reproducer needs no model.

use bitnetc_ir::interp::{InterpError, Interpreter, Tensor};
use bitnetc_ir::sample::{self, CallShape, SampleWeights};
use bitnetc_ir::{FuncId, Module};

use crate::error::PassFailure;
use crate::instruments::{Done, Instrument, Progress};

/// Most tokens of a call of the check.
pub const MOST_TOKENS: u32 = 5;

/// What one call gives.
struct Call {
    func: FuncId,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// The instrument.
pub struct SameBits {
    seed: u64,
    weights: SampleWeights,
    calls: Vec<Call>,
    /// Why the first module could not be interpreted.
    refusal: Option<String>,
}

impl SameBits {
    /// A check with the weights and inputs of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, weights: SampleWeights::default(), calls: Vec::new(), refusal: None }
    }

    fn record(&mut self, module: &Module) -> Result<(), InterpError> {
        self.weights = SampleWeights::new(module, self.seed);
        let interpreter = Interpreter::new(module, &self.weights);
        self.calls.clear();
        for (id, func) in module.funcs().iter() {
            let most = func.tokens().max().min(MOST_TOKENS);
            for tokens in if most == 1 { vec![1] } else { vec![1, most] } {
                let inputs =
                    sample::inputs(module, func, CallShape::of(tokens), self.seed ^ u64::from(tokens));
                let outputs = interpreter.run(id, inputs.clone())?;
                self.calls.push(Call { func: id, inputs, outputs });
            }
        }
        Ok(())
    }

    fn compare(&self, module: &Module) -> Result<(), PassFailure> {
        let name = |func: FuncId| module.funcs().get(func).map_or("?", |f| f.name()).to_owned();
        let interpreter = Interpreter::new(module, &self.weights);
        for call in &self.calls {
            let failed = |output: Option<usize>, difference: String| PassFailure::Miscompile {
                func: name(call.func),
                output,
                difference,
                seed: self.seed,
            };
            let outputs = interpreter
                .run(call.func, call.inputs.clone())
                .map_err(|e| failed(None, format!("the interpreter refuses it: {e}")))?;
            if outputs.len() != call.outputs.len() {
                return Err(failed(
                    None,
                    format!("{} results, there were {}", outputs.len(), call.outputs.len()),
                ));
            }
            for (i, (was, is)) in call.outputs.iter().zip(&outputs).enumerate() {
                if let Some(difference) = was.first_difference(is) {
                    return Err(failed(Some(i), difference));
                }
            }
        }
        Ok(())
    }
}

impl Instrument for SameBits {
    fn begin(&mut self, _: &Progress<'_>, module: &Module) {
        self.refusal = self.record(module).err().map(|e| e.to_string());
    }

    fn after_pass(&mut self, _: &Progress<'_>, done: &Done<'_>) -> Result<(), PassFailure> {
        if let Some(reason) = self.refusal.take() {
            return Err(PassFailure::NotInterpreted { reason });
        }
        if !done.report.changed {
            return Ok(());
        }
        if done.pass.keeps_bits {
            return self.compare(done.after);
        }
        self.record(done.after).map_err(|e| PassFailure::NotInterpreted { reason: e.to_string() })
    }
}
