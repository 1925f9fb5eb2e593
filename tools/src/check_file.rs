//! `bitnetc inspect --verify`: recomputes everything about a file that can be wrong, and says all of it at once.
//!
//! Opening a model checks container, hyper-parameters, shapes and tokenizer and stops at the first fault; here every weight
//! is read as well, the tokenizer is built, the model is lowered and planned for this machine, and faults of different
//! tensors are listed together. A verdict without errors means that the file would run.

use bitnetc::Error;
use bitnetc_runtime::tokenizer::Tokenizer;

use bitnetc::BuildOptions;
use bitnetc::load::{Source, dump_module, plan_module};
use bitnetc::tokenizer_spec::tokenizer_spec;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Why the file is refused; empty if it would run.
    pub errors: Vec<String>,
    /// What is odd, and what defaults were used.
    pub warnings: Vec<String>,
}

impl Verdict {
    fn fails(&mut self, error: impl ToString) {
        self.errors.push(error.to_string());
    }
}

/// Checks a file.
///
/// # Errors
/// Nothing about the file: only a machine for which no code can be generated.
pub fn check_file(source: &Source) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    match source {
        Source::Gguf { .. } => check_gguf(source, &mut verdict)?,
        Source::Plan { path, plan } => {
            let module = plan_module(path, plan).map(|_| ());
            for error in [plan.verify_weights().err().map(Error::from), module.err()].into_iter().flatten() {
                verdict.fails(error);
            }
            verdict.warnings.clone_from(&plan.index().meta().defaults_used);
        }
    }
    Ok(verdict)
}

fn check_gguf(source: &Source, verdict: &mut Verdict) -> Result<(), Error> {
    let model = match source.gguf_model() {
        Ok(model) => model,
        Err(error) => {
            verdict.fails(error);
            return Ok(());
        }
    };
    for error in model.all_weight_errors() {
        verdict.fails(error);
    }
    if let Err(error) = tokenizer_spec(model.tokenizer()).and_then(|spec| Tokenizer::new(&spec)) {
        verdict.fails(error);
    }
    if verdict.errors.is_empty()
        && let Err(error) = dump_module(source, bitnetc_ir::Stage::Planned, &BuildOptions::default())
    {
        verdict.fails(error);
    }
    let notes = model.notes().iter().cloned().chain(model.weight_notes()).chain(model.i2s_layout_note());
    verdict.warnings = notes.map(|note| note.to_string()).collect();
    let too_large = |(tensor, largest): (String, f32)| {
        format!(
            "{tensor} has values as large as {largest:e}: their squares overflow, so the model will compute NaN"
        )
    };
    verdict.warnings.extend(model.overflowing_tensors().into_iter().map(too_large));
    Ok(())
}
