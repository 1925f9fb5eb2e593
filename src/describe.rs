//! What a model file says of its model, without loading it: no weight is read, nothing is compiled.
//!
//! Invariant: reading takes time in proportion to the metadata of the file, whatever the size of its weights.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::gguf;
use crate::load::{Source, context_of, hidden_of, parameters_of, plan_module};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The architecture, as the file names it.
    pub architecture: String,
    /// The context that the model was trained with, if the file says so.
    pub context: Option<u32>,
    /// Number of weights.
    pub parameters: u64,
    /// Numbers that a token's embedding has.
    pub hidden: Option<u32>,
    /// The type of most of its weights.
    pub weights: String,
    /// The chat template, as the file has it.
    pub chat_template: Option<String>,
    /// What identifies the model ([`Loaded::source_hash`](crate::load::Loaded::source_hash)): that of a plan, since for a GGUF
    /// file all weights would have to be read.
    pub source_hash: Option<[u8; 32]>,
}

impl Description {
    /// Of an open file.
    ///
    /// # Errors
    /// Damaged metadata.
    pub fn of(source: &Source) -> Result<Self, Error> {
        match source {
            Source::Gguf { .. } => Ok(Self::of_outline(&source.gguf_outline()?)),
            Source::Plan { path, plan } => {
                let (index, module) = (plan.index(), plan_module(path, plan)?);
                let meta = index.meta();
                Ok(Self {
                    architecture: meta.architecture.clone(),
                    context: context_of(meta),
                    parameters: parameters_of(&module),
                    hidden: hidden_of(&module),
                    weights: "ternary".to_owned(),
                    chat_template: index.chat_template().map(str::to_owned),
                    source_hash: Some(meta.source.hash),
                })
            }
        }
    }

    fn of_outline(outline: &gguf::Outline<'_>) -> Self {
        let architecture = outline.string("general.architecture").unwrap_or_default();
        let number = |key: &str| {
            let key = format!("{architecture}.{key}");
            let entry = outline.entries.iter().find(|entry| entry.key == key)?;
            u32::try_from(entry.value.as_integer()?).ok()
        };
        let mut types: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in &outline.tensors {
            let elements = tensor.dims.row().saturating_mul(tensor.dims.rows());
            let all = types.entry(tensor.type_name()).or_default();
            *all = all.saturating_add(elements);
        }
        let most = types.iter().max_by_key(|(_, elements)| **elements);
        Self {
            architecture: architecture.to_owned(),
            context: number("context_length"),
            parameters: types.values().fold(0, |sum, &elements| sum.saturating_add(elements)),
            hidden: number("embedding_length"),
            weights: most.map_or_else(String::new, |(name, _)| name.clone()),
            chat_template: outline.string("tokenizer.chat_template").map(str::to_owned),
            source_hash: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MapMode, Model};

    #[test]
    fn a_file_is_described_as_its_model_is() {
        let told = Description::of(&Source::open(None, MapMode::default()).unwrap()).unwrap();
        let model = Model::builtin().unwrap();
        let loaded = model.loaded();
        assert_eq!((&told.architecture, told.context), (&loaded.architecture, Some(loaded.context)));
        assert_eq!(told.hidden, loaded.hidden());
        assert!(told.parameters > 1_000_000 && !told.weights.is_empty(), "{told:?}");
        assert_eq!(told.chat_template, loaded.chat_template);
    }
}
