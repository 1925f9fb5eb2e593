//! What any GGUF file says of itself: metadata and tensor directory, whatever the architecture and the types of its tensors.
//!
//! [`crate::Gguf`] knows where each tensor's bytes are, so it has to know every type; an outline only lists names, shapes and
//! type ids, and thus exists for files of which no tensor can be read, or of which parts are missing.
//!
//! Invariants: the same limits and the same checks of metadata and names as in [`crate::Gguf`]; nothing is copied from the file.

use crate::error::GgufError;
use crate::reader::{Entry, Metadata};
use crate::tensor_type::{candidates, unreadable};
use crate::tensors::{Dims, read_entries};

/// A tensor as the directory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape; the product of all dimensions is below 2^40.
    pub dims: Dims,
    /// The id of its type.
    pub type_id: u32,
}

impl ListedTensor<'_> {
    /// The names of the types that writers use the id for, or the id, if there are none.
    pub fn type_name(&self) -> String {
        let known: Vec<&str> = candidates(self.type_id).iter().map(|ty| ty.name()).collect();
        match (&known[..], unreadable(self.type_id).0) {
            ([], "") => format!("type {}", self.type_id),
            ([], name) => format!("type {} ({name})", self.type_id),
            _ => known.join(" or "),
        }
    }
}

/// Metadata and tensor directory.
#[derive(Debug, Clone)]
pub struct Outline<'a> {
    /// Version of the container, 1 to 3.
    pub version: u32,
    /// The metadata of the first part, in file order.
    pub entries: Vec<Entry<'a>>,
    /// The tensors of all parts, in file order.
    pub tensors: Vec<ListedTensor<'a>>,
}

impl<'a> Outline<'a> {
    /// Reads the outline of a file, part after part.
    ///
    /// # Errors
    /// Damaged metadata or a damaged directory: every [`GgufError`] from `BadMagic` to `ShapeOverflow`.
    pub fn parse_parts(parts: &[&'a [u8]]) -> Result<Self, GgufError> {
        let mut outline: Option<Self> = None;
        for bytes in parts {
            let Metadata { mut cursor, version, tensor_count, entries, .. } = Metadata::read(bytes)?;
            let (directory, _) = read_entries(&mut cursor, tensor_count)?;
            let listed = directory.iter().map(|entry| ListedTensor {
                name: entry.name,
                dims: entry.dims,
                type_id: entry.id,
            });
            let whole = outline.get_or_insert(Self { version, entries, tensors: Vec::new() });
            whole.tensors.extend(listed);
        }
        outline.ok_or(GgufError::BadSplit {
            found: "there is no file".to_owned(),
            remedy: "give the parts of a GGUF file",
        })
    }

    /// The value of a string in the metadata.
    pub fn string(&self, key: &str) -> Option<&'a str> {
        self.entries.iter().find(|entry| entry.key == key).and_then(|entry| match entry.value {
            crate::Value::String(text) => Some(text),
            _ => None,
        })
    }
}

impl GgufError {
    /// Whether the file is well-formed as far as it can be told, but of a kind that is not read: an unknown type of a tensor, or
    /// one part of several.
    pub fn is_unreadable_kind(&self) -> bool {
        match self {
            Self::UnknownTensorType { .. } | Self::AmbiguousTensorType { .. } | Self::BadSplit { .. } => true,
            Self::InPart { source, .. } => source.is_unreadable_kind(),
            _ => false,
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::TinyModel;

    #[test]
    fn an_outline_lists_what_the_container_holds() {
        let bytes = TinyModel::default().to_gguf();
        let gguf = crate::Gguf::parse(&bytes).unwrap();
        let outline = Outline::parse_parts(&[&bytes]).unwrap();
        assert_eq!((outline.version, &outline.entries[..]), (gguf.version(), gguf.entries()));
        let listed: Vec<(&str, Dims, u32)> =
            outline.tensors.iter().map(|t| (t.name, t.dims, t.type_id)).collect();
        let held: Vec<(&str, Dims, u32)> =
            gguf.tensors().iter().map(|t| (t.name(), *t.dims(), t.ty().id())).collect();
        assert_eq!(listed, held);
        assert_eq!(outline.string("general.architecture"), gguf.string("general.architecture").unwrap());
    }

    #[test]
    fn damage_is_refused_with_the_same_words_and_never_panics() {
        let bytes = TinyModel::default().to_gguf();
        for end in 0..bytes.len().min(4000) {
            let part = &bytes[..end];
            if let Err(error) = Outline::parse_parts(&[part]) {
                assert_eq!(Some(error), crate::Gguf::parse(part).err());
            }
        }
        assert!(Outline::parse_parts(&[]).is_err());
    }

    #[test]
    fn types_are_named_by_their_ids() {
        let named = |type_id| ListedTensor { name: "x", dims: Dims::vector(1), type_id }.type_name();
        assert_eq!(named(36), "I2_S");
        assert_eq!(named(31), "type 31 (Q4_0_4_4)");
        assert_eq!(named(9999), "type 9999");
    }
}
