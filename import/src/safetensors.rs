//! The safetensors container: eight bytes of length, a JSON header with a type, a shape and a range of bytes for each
//! tensor, then the bytes.
//!
//! The format is read here and not by the crate of its name, because that one adds up offsets without looking for an
//! overflow (with checks on, eight tensors that claim 2^61 bytes each end the process), accepts headers of 100 MB and
//! takes the last of two entries with one name. Source: the format's description in the README of the project, and what
//! the Python package writes.
//!
//! Invariants: each tensor has exactly the bytes of its shape; the tensors cover the data without hole or overlap, so
//! that a file has one meaning; nothing is copied but names.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;

use bitnetc_frontend_gguf::printable;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::ImportError;
use crate::{json, limits};

/// Bytes before the header.
const LENGTH_BYTES: usize = 8;

/// Type of the elements of a tensor, as far as models here use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Dtype {
    U8,
    BF16,
    F16,
    F32,
    #[serde(untagged)]
    Other(Width),
}

/// Another type: only its size matters, and that it is none of those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Width {
    #[serde(rename = "BOOL")]
    Bool,
    I8,
    #[serde(alias = "F8_E5M2")]
    #[serde(alias = "F8_E8M0")]
    #[serde(rename = "F8_E4M3")]
    F8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F64,
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::Other(Width::Bool | Width::I8 | Width::F8) => 1,
            Self::BF16 | Self::F16 | Self::Other(Width::I16 | Width::U16) => 2,
            Self::F32 | Self::Other(Width::I32 | Width::U32) => 4,
            Self::Other(Width::I64 | Width::U64 | Width::F64) => 8,
        }
    }

    /// The name in the file, of those that are read.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Other(width) => format!("{width:?}"),
            known => format!("{known:?}"),
        }
    }
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Tensor<'a> {
    /// Its elements.
    pub(crate) dtype: Dtype,
    /// Its dimensions, slowest first; at most [`limits::MAX_DIMS`].
    pub(crate) shape: Vec<usize>,
    /// Its bytes.
    pub(crate) data: &'a [u8],
    /// The file that it is in.
    pub(crate) file: &'a str,
}

impl Tensor<'_> {
    /// Type and shape, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} {:?}", self.dtype.name(), self.shape)
    }
}

/// All tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(crate) struct Tensors<'a> {
    all: BTreeMap<String, Tensor<'a>>,
}

impl<'a> Tensors<'a> {
    /// Reads the headers of all shards, and checks the index against them.
    pub(crate) fn read(shards: &[(&'a str, &'a [u8])], index: Option<&[u8]>) -> Result<Self, ImportError> {
        let mut tensors = Self::default();
        for &(file, bytes) in shards {
            tensors.add(file, bytes)?;
        }
        let Some(index) = index else { return Ok(tensors) };
        for (name, file) in &read_index(index)?.0 {
            match tensors.all.get(name) {
                Some(tensor) if tensor.file == file => {}
                found => {
                    let (name, file) = (printable(name), printable(file));
                    let elsewhere = found.map_or("nowhere", |t| t.file);
                    let why = format!("it has the tensor \"{name}\" in {file}, but it is in {elsewhere}");
                    return Err(ImportError::BadIndex { why });
                }
            }
        }
        Ok(tensors)
    }

    /// The tensor with this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Tensor<'a>> {
        self.all.get(name)
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    fn add(&mut self, file: &'a str, bytes: &'a [u8]) -> Result<(), ImportError> {
        let bad = |why: String| ImportError::BadShard { file: file.to_owned(), why };
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(bad(format!("it has {} bytes", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > limits::MAX_HEADER_BYTES {
            let limit = limits::MAX_HEADER_BYTES;
            return Err(bad(format!("its header should have {length} bytes, the limit is {limit}")));
        }
        let Some((header, data)) = rest.split_at_checked(length as usize) else {
            return Err(bad(format!("its header should have {length} bytes, {} are left", rest.len())));
        };
        let Header(entries) = serde_json::from_slice(header)
            .map_err(|e| bad(format!("header: {}", printable(&e.to_string()))))?;
        let mut ranges: Vec<(Range<u64>, &str)> =
            entries.iter().map(|(name, entry)| (entry.range(), name.as_str())).collect();
        ranges.sort_by_key(|(range, _)| (range.start, range.end));
        let mut end = 0;
        for (range, name) in &ranges {
            if range.start != end {
                let name = printable(name);
                return Err(bad(format!(
                    "\"{name}\" starts at {}, the data before it end at {end}",
                    range.start
                )));
            }
            end = range.end;
        }
        if end != data.len() as u64 {
            return Err(bad(format!("its tensors have {end} bytes, the file has {}", data.len())));
        }
        for (name, entry) in entries {
            let printed = printable(&name);
            // The ranges lie one after the other within the data, so they fit.
            let bytes = data.get(entry.data_offsets.0 as usize..entry.data_offsets.1 as usize);
            let needed = entry.shape.iter().try_fold(entry.dtype.bytes(), |n, &dim| n.checked_mul(dim));
            let data = match (bytes, needed) {
                (Some(bytes), Some(needed)) if bytes.len() == needed => bytes,
                _ => {
                    let (shape, dtype) = (&entry.shape, entry.dtype.name());
                    return Err(bad(format!(
                        "\"{printed}\" has not as many bytes as {dtype} {shape:?} needs"
                    )));
                }
            };
            if self.all.len() == limits::MAX_TENSORS {
                return Err(bad(format!("with it there are more than {} tensors", limits::MAX_TENSORS)));
            }
            match self.all.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(Tensor { dtype: entry.dtype, shape: entry.shape, data, file });
                }
                Entry::Occupied(other) => {
                    let first = other.get().file.to_owned();
                    return Err(ImportError::DuplicateTensor {
                        tensor: printed,
                        first,
                        second: file.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: Dtype,
    #[serde(deserialize_with = "shape")]
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl HeaderEntry {
    fn range(&self) -> Range<u64> {
        self.data_offsets.0..self.data_offsets.1
    }
}

/// A list of at most [`limits::MAX_DIMS`] numbers.
fn shape<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Shape;
    impl<'de> Visitor<'de> for Shape {
        type Value = Vec<usize>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} dimensions", limits::MAX_DIMS)
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut dims = Vec::new();
            while let Some(dim) = seq.next_element()? {
                if dims.len() == limits::MAX_DIMS {
                    return Err(A::Error::invalid_length(dims.len() + 1, &self));
                }
                dims.push(dim);
            }
            Ok(dims)
        }
    }
    deserializer.deserialize_seq(Shape)
}

/// The entries of a header in order of their names, each name once.
struct Header(BTreeMap<String, HeaderEntry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unique(deserializer, limits::MAX_TENSORS, Some("__metadata__")).map(Self)
    }
}

/// The file of each tensor.
struct Index(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unique(deserializer, limits::MAX_TENSORS, None).map(Self)
    }
}

/// An object whose keys are all different, at most `limit` of them; `ignored` is a key that does not count.
fn unique<'de, V: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
    limit: usize,
    ignored: Option<&'static str>,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Unique<V>(usize, Option<&'static str>, std::marker::PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object of at most {} entries", self.0)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if self.1 == Some(key.as_str()) {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                if key.len() > limits::MAX_NAME_BYTES {
                    return Err(A::Error::custom(format!("a name has {} bytes", key.len())));
                }
                if found.len() == self.0 {
                    return Err(A::Error::invalid_length(found.len() + 1, &self));
                }
                match found.entry(key) {
                    Entry::Vacant(place) => place.insert(map.next_value()?),
                    Entry::Occupied(entry) => {
                        return Err(A::Error::custom(format!("two entries are called {}", entry.key())));
                    }
                };
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(Unique(limit, ignored, std::marker::PhantomData))
}

fn read_index(bytes: &[u8]) -> Result<Index, ImportError> {
    const FILE: &str = "model.safetensors.index.json";
    #[derive(Deserialize)]
    struct Whole {
        weight_map: Index,
    }
    let whole: Whole = json::parse(FILE, bytes, limits::MAX_SIDE_FILE_BYTES)?;
    Ok(whole.weight_map)
}

/// The files that `model.safetensors.index.json` names, in order. They are plain names of files beside it: nothing in the
/// index leads to another directory.
///
/// # Errors
/// An index that does not parse, or names something else than a safetensors file beside it.
pub fn shard_names(index: &[u8]) -> Result<Vec<String>, ImportError> {
    let mut names: Vec<String> = read_index(index)?.0.into_values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !plain
            || name.starts_with('.')
            || !name.ends_with(".safetensors")
            || name.len() > limits::MAX_NAME_BYTES
        {
            let why = format!("\"{}\" is not the name of a safetensors file beside it", printable(name));
            return Err(ImportError::BadIndex { why });
        }
    }
    match names.len() {
        1..=limits::MAX_SHARDS => Ok(names),
        n => Err(ImportError::BadIndex {
            why: format!("it names {n} files, 1 to {} are read", limits::MAX_SHARDS),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
    }

    fn refusal(bytes: &[u8]) -> String {
        Tensors::read(&[("a.safetensors", bytes)], None).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_ranges_of_the_data() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},
            "a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},
            "none":{"dtype":"I64","shape":[0],"data_offsets":[8,8]}}"#;
        let bytes = file(header, 11);
        let tensors = Tensors::read(&[("a.safetensors", &bytes)], None).unwrap();
        let a = tensors.find("a").unwrap();
        assert_eq!(
            (a.dtype, &a.shape[..], a.data.len(), a.file),
            (Dtype::BF16, &[2, 2][..], 8, "a.safetensors")
        );
        assert_eq!(tensors.find("b").unwrap().data, [7; 3]);
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["a", "b", "none"]);
        assert_eq!(tensors.find("none").unwrap().describe(), "I64 [0]");
    }

    #[test]
    fn unsound_files_are_refused() {
        let one = |entry: &str| file(&format!("{{\"a\":{entry}}}"), 4);
        for (bytes, text) in [
            (vec![1, 2, 3], "it has 3 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "the limit is"),
            ([&900u64.to_le_bytes()[..], b"{}"].concat(), "2 are left"),
            (file("[]", 0), "expected an object"),
            (file("{}", 1), "have 0 bytes, the file has 1"),
            (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]} "#)[..40].to_vec(), "left"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#), "not as many bytes"),
            (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[1,5]}"#), "starts at 1"),
            (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), "starts at 4"),
            (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,3]}"#), "have 3 bytes"),
            (one(r#"{"dtype":"F77","shape":[1],"data_offsets":[0,4]}"#), "header: "),
            (one(r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,4]}"#), "dimensions"),
            (one(r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}"#), "header: "),
            (
                one(r#"{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}"#),
                "not as many bytes",
            ),
            (
                file(
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
                    4,
                ),
                "two entries",
            ),
        ] {
            let message = refusal(&bytes);
            assert!(message.contains(text), "\"{text}\" is not in: {message}");
        }
        // Offsets whose sum overflows.
        let huge: Vec<String> = (0..8u64)
            .map(|i| {
                let (start, end) =
                    (i << 61, (i + 1).checked_shl(61).filter(|&e| e >> 61 == i + 1).unwrap_or(u64::MAX));
                format!(
                    r#""{i}":{{"dtype":"U8","shape":[2305843009213693952],"data_offsets":[{start},{end}]}}"#
                )
            })
            .collect();
        assert!(refusal(&file(&format!("{{{}}}", huge.join(",")), 4)).contains("the file has 4"));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(4000), "]".repeat(4000));
        assert!(refusal(&file(&deep, 0)).contains("header: "));
    }

    #[test]
    fn an_index_names_files_beside_it() {
        let index = |file: &str| {
            format!("{{\"metadata\":{{}},\"weight_map\":{{\"a\":\"{file}\",\"b\":\"x.safetensors\"}}}}")
        };
        assert_eq!(
            shard_names(index("a-1.safetensors").as_bytes()).unwrap(),
            ["a-1.safetensors", "x.safetensors"]
        );
        for bad in [
            "../a.safetensors",
            "/etc/a.safetensors",
            "a.bin",
            ".safetensors",
            "a b.safetensors",
            "a\\\\b.safetensors",
        ] {
            assert!(matches!(shard_names(index(bad).as_bytes()), Err(ImportError::BadIndex { .. })), "{bad}");
        }
        assert!(shard_names(b"{\"weight_map\":{}}").is_err() && shard_names(b"{}").is_err());
        let shard = file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1);
        let both = [("a.safetensors", &shard[..]), ("x.safetensors", &shard[..])];
        assert!(matches!(Tensors::read(&both, None), Err(ImportError::DuplicateTensor { .. })));
        let error = Tensors::read(&both[..1], Some(index("a.safetensors").as_bytes())).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}
