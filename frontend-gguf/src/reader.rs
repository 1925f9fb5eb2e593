//! The container: header, metadata and tensor directory of a GGUF file, as a view of its bytes.
//!
//! Versions 1 to 3, little endian, in one file or split into several ([`crate::split`]). Nothing is copied: strings, arrays and tensor data stay slices of the file, and
//! memory taken is proportional to the number of keys and tensors, both bounded by [`crate::limits`] and by the bytes
//! that are there. Sources of the format: `docs/gguf.md` of ggml and `ggml/src/gguf.cpp` of llama.cpp.

use std::collections::HashMap;

use crate::cursor::{Cursor, Width, read_key};
use crate::error::{GgufError, printable, printable_bytes};
use crate::hparams;
use crate::limits;
use crate::note::Note;
use crate::tensors::{Directory, TensorId, TensorInfo, min_entry_bytes, read_directory};
use crate::value::{Array, Value};

/// One metadata entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry<'a> {
    /// The key: not empty, without control characters, unique in the file.
    pub key: &'a str,
    /// The value.
    pub value: Value<'a>,
    /// Byte offset of the value (of its type field) in the file.
    pub offset: u64,
}

/// Architectures that are published with ternary types of their own.
const OTHER_TERNARY: &[&str] = &["qwen35moe", "qwen3next"];

/// An error of the directory or, where it is about a type of tensors in a model of another ternary architecture, that this is not
/// supported: converting the tensors would not help.
fn of_architecture(error: GgufError, entries: &[Entry<'_>], by_key: &HashMap<&str, usize>) -> GgufError {
    let is_of_type =
        matches!(error, GgufError::UnknownTensorType { .. } | GgufError::AmbiguousTensorType { .. });
    match by_key.get("general.architecture").and_then(|&i| entries.get(i)).map(|entry| &entry.value) {
        Some(Value::String(name)) if is_of_type && OTHER_TERNARY.contains(name) => hparams::unsupported(name),
        _ => error,
    }
}

/// A parsed GGUF container. The lifetime is that of the file's bytes.
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    /// The parts of the file; one if it is not split.
    pub(crate) parts: Vec<&'a [u8]>,
    version: u32,
    alignment: u64,
    entries: Vec<Entry<'a>>,
    by_key: HashMap<&'a str, usize>,
    pub(crate) directory: Directory<'a>,
}

/// Least bytes of a metadata entry: key length and a byte, value type, a value of one byte.
fn min_key_value_bytes(width: Width) -> u64 {
    width.bytes() + 1 + 4 + 1
}

impl<'a> Gguf<'a> {
    /// Parses and checks header, metadata and tensor directory of one file. Tensor data is not read.
    ///
    /// # Errors
    /// Every [`GgufError`] from `BadMagic` to `Overlap`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let Metadata { mut cursor, version, tensor_count, entries, by_key } = Metadata::read(bytes)?;
        let alignment = by_key.get("general.alignment").and_then(|&i| entries.get(i));
        let alignment = alignment.map_or(Ok(limits::DEFAULT_ALIGNMENT), read_alignment)?;
        let directory = read_directory(&mut cursor, tensor_count, alignment, bytes.len() as u64)
            .map_err(|error| of_architecture(error, &entries, &by_key))?;
        Ok(Self { parts: vec![bytes], version, alignment, entries, by_key, directory })
    }

    /// Version of the container, 1 to 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The whole file, part after part; one part if it is not split.
    pub fn parts(&self) -> &[&'a [u8]] {
        &self.parts
    }

    /// What stands before the tensor data: header, metadata and directory, part after part.
    pub fn headers(&self) -> impl Iterator<Item = &'a [u8]> {
        self.parts.iter().enumerate().map(|(index, part)| {
            let of_part = self.directory.tensors.iter().filter(|t| t.part() == index);
            let end = of_part.map(|t| t.range().start).min().unwrap_or(part.len());
            part.get(..end).unwrap_or(part)
        })
    }

    /// Bytes of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// The metadata in file order.
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The metadata entry with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.by_key.get(key).and_then(|&i| self.entries.get(i))
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.directory.tensors
    }

    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.directory.by_name.get(name).copied()
    }

    /// A tensor by its index.
    ///
    /// # Panics
    /// If `id` comes from another file.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo<'a> {
        &self.directory.tensors[id.index()]
    }

    /// The data of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        self.parts.get(tensor.part()).and_then(|part| part.get(tensor.range())).unwrap_or_default()
    }

    /// Oddities of the container that were let pass.
    pub fn notes(&self) -> &[Note] {
        &self.directory.notes
    }

    /// An integer value of any width, if the key is present.
    pub fn integer(&self, key: &str) -> Result<Option<i128>, GgufError> {
        self.typed(key, "an integer", |v| v.as_integer())
    }

    /// A float value, if the key is present.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", |v| v.as_f32())
    }

    /// A bool value, if the key is present.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A string value, if the key is present.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |v| if let Value::String(s) = v { Some(*s) } else { None })
    }

    /// An array value whose elements satisfy `accept`, if the key is present.
    pub(crate) fn array(
        &self,
        key: &str,
        expected: &'static str,
        accept: impl Fn(&Array<'a>) -> bool,
    ) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, expected, |v| match v {
            Value::Array(a) if accept(a) => Some(*a),
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        get: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        get(&entry.value).map(Some).ok_or_else(|| GgufError::WrongKeyType {
            offset: entry.offset,
            key: printable(key),
            found: entry.value.type_name(),
            expected,
        })
    }
}

/// What stands before the tensor directory.
pub(crate) struct Metadata<'a> {
    /// At the first entry of the directory.
    pub(crate) cursor: Cursor<'a>,
    pub(crate) version: u32,
    /// Entries of the directory, as many as fit into the bytes that are left.
    pub(crate) tensor_count: usize,
    pub(crate) entries: Vec<Entry<'a>>,
    by_key: HashMap<&'a str, usize>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut c = Cursor::new(bytes);
        let version = read_header(&mut c)?;
        let width = if version == 1 { Width::Narrow } else { Width::Wide };
        c.set_width(width);
        let tensor_count_offset = c.offset();
        let tensor_count = c.length(format_args!("the tensor count"))?;
        let key_count =
            c.count(limits::MAX_KEYS, min_key_value_bytes(width), format_args!("the metadata key count"))?;
        let check_tensor_count = |c: &Cursor<'_>| {
            c.check_count(
                tensor_count_offset,
                tensor_count,
                limits::MAX_TENSORS,
                min_entry_bytes(width),
                format_args!("the tensor count"),
            )
        };
        check_tensor_count(&c)?;

        let mut entries = Vec::with_capacity(key_count);
        let mut by_key = HashMap::with_capacity(key_count);
        for i in 0..key_count {
            let key_offset = c.offset();
            let key = read_key(&mut c)?;
            if by_key.insert(key, i).is_some() {
                return Err(GgufError::DuplicateKey { offset: key_offset, key: printable(key) });
            }
            let offset = c.offset();
            let value = Value::read(&mut c, format_args!("the value of \"{}\"", Printable(key)))?;
            entries.push(Entry { key, value, offset });
        }
        // Checked again: the metadata has used up bytes since.
        let tensor_count = check_tensor_count(&c)?;
        Ok(Self { cursor: c, version, tensor_count, entries, by_key })
    }
}

/// Formats a key escaped, only when the message is really made.
struct Printable<'k>(&'k str);

impl std::fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(self.0))
    }
}

/// Magic and version; returns the version.
fn read_header(c: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let magic: [u8; 4] = c.array(format_args!("the magic number"))?;
    if &magic != b"GGUF" {
        let hint = match &magic {
            b"FUGG" => "its bytes are swapped: it was written for a big-endian machine",
            b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
                "it is a GGML file from before GGUF: convert the model again"
            }
            b"PK\x03\x04" => "it looks like a zip or PyTorch file: convert the model to GGUF first",
            _ => "give the path of a GGUF file",
        };
        return Err(GgufError::BadMagic { found: printable_bytes(&magic), hint });
    }
    let version = c.u32(format_args!("the version"))?;
    match version {
        1..=3 => Ok(version),
        _ if (1..=3).contains(&version.swap_bytes()) => Err(GgufError::WrongEndian { version }),
        _ => Err(GgufError::BadVersion { version, hint: "the file is damaged or newer than this program" }),
    }
}

fn read_alignment(entry: &Entry<'_>) -> Result<u64, GgufError> {
    let bad = |found| Err(GgufError::BadAlignment { offset: entry.offset, found });
    let Value::U32(alignment) = entry.value else {
        return bad(format!("of the type {}", entry.value.type_name()));
    };
    let alignment = u64::from(alignment);
    let accepted = limits::MIN_ALIGNMENT..=limits::MAX_ALIGNMENT;
    if !alignment.is_power_of_two() || !accepted.contains(&alignment) {
        return bad(alignment.to_string());
    }
    Ok(alignment)
}
