//! What must hold for every input, whatever its bytes: the property behind the fuzz target and the replay of its seeds.

use super::writer::GgufWriter;
use crate::lower::LowerOptions;
use crate::model::{Model, ModelOptions};
use crate::note::NoteLevel;
use crate::reader::Gguf;
use crate::tokenizer_meta::TokenizerMeta;

/// How far a file was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Refused, with this kind of error.
    Refused(&'static str),
    /// A container, but no model; refused with this kind of error.
    Container(&'static str),
    /// A model; its weights were refused with this kind of error.
    Model(&'static str),
    /// A model with good weights.
    Complete,
}

/// Runs everything on `bytes`. An accepted container, written again, must parse to the same contents; an accepted model
/// must lower to a module that the verifier accepts.
///
/// # Panics
/// If one of these properties does not hold.
pub fn check_parse(bytes: &[u8]) -> Outcome {
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return Outcome::Refused(e.kind());
        }
    };
    let written = GgufWriter::of(&gguf).build();
    let again = Gguf::parse(&written);
    // What only the room after the last tensor told apart is not told apart any more where that room is padding.
    let told_by_size = gguf.notes().iter().any(|note| note.level == NoteLevel::Inferred);
    let ambiguous = again.as_ref().is_err_and(|e| e.kind() == "AmbiguousTensorType" && told_by_size);
    assert!(again.is_ok() || ambiguous, "an accepted file, written again, is refused: {:?}", again.err());
    if let Ok(again) = again {
        assert_eq!(GgufWriter::of(&again).build(), written, "writing and parsing are not inverse");
        assert_eq!(
            (gguf.entries().len(), gguf.tensors().len()),
            (again.entries().len(), again.tensors().len())
        );
        for (a, b) in gguf.tensors().iter().zip(again.tensors()) {
            assert_eq!((a.name(), a.dims(), a.ty()), (b.name(), b.dims(), b.ty()));
            assert!(gguf.data(a) == again.data(b), "the data of {} differ", a.name());
        }
    }
    if let Ok(tokenizer) = TokenizerMeta::read(&gguf) {
        assert_eq!(tokenizer.tokens().len(), tokenizer.types().len());
        assert_eq!(tokenizer.merges().count(), tokenizer.merges().len());
        assert!(tokenizer.end_of_generation().iter().all(|&id| (id as usize) < tokenizer.tokens().len()));
    }
    let model = match Model::from_gguf(gguf, &ModelOptions::default()) {
        Ok(model) => model,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return Outcome::Container(e.kind());
        }
    };
    assert!(model.notes().iter().all(|note| !note.to_string().contains(char::is_control)));
    let module = model.lower(&LowerOptions::default());
    assert!(module.is_ok(), "an accepted model is not lowered: {:?}", module.err());
    if let Ok(module) = module {
        let verified = bitnetc_ir::verify::verify(&module);
        assert!(verified.is_ok(), "the verifier refuses the imported module: {verified:?}");
    }
    match model.check_weights() {
        Ok(()) => Outcome::Complete,
        Err(e) => Outcome::Model(e.kind()),
    }
}
