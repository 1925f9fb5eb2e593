//! Writing GGUF files: metadata values and the header before the tensor data.
//!
//! [`Header`] writes what it is told, consistent or not: models that are made ([`crate::synth`]) tell it the truth, the
//! files of the tests also everything else. The data after the header are the caller's; each tensor starts at a multiple
//! of the alignment, counted from the end of the header.
//!
//! Invariants: no IO here, bytes are handed over; `Gguf::parse` reads back what a truthful header says.

use crate::value::ValueType;

/// A metadata value to be written.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the format's")]
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Any type id with any bytes after it.
    Raw(u32, Vec<u8>),
}

/// A string in its file form.
pub(crate) fn string_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl MetaValue {
    /// An array of strings that are written at once, for arrays that are large.
    pub fn strings<'a>(strings: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut count, mut body) = (0u64, vec![0; 12]);
        for text in strings {
            body.extend((text.len() as u64).to_le_bytes());
            body.extend(text.as_bytes());
            count += 1;
        }
        body[..4].copy_from_slice(&(ValueType::String as u32).to_le_bytes());
        body[4..12].copy_from_slice(&count.to_le_bytes());
        Self::Raw(ValueType::Array as u32, body)
    }

    /// Type id and bytes.
    pub(crate) fn encode(&self) -> (u32, Vec<u8>) {
        let array = |elem: ValueType, len: usize, body: Vec<u8>| {
            let head = [&(elem as u32).to_le_bytes()[..], &(len as u64).to_le_bytes()].concat();
            (ValueType::Array, [head, body].concat())
        };
        let (ty, bytes) = match self {
            Self::U8(x) => (ValueType::U8, x.to_le_bytes().to_vec()),
            Self::I8(x) => (ValueType::I8, x.to_le_bytes().to_vec()),
            Self::U16(x) => (ValueType::U16, x.to_le_bytes().to_vec()),
            Self::I16(x) => (ValueType::I16, x.to_le_bytes().to_vec()),
            Self::U32(x) => (ValueType::U32, x.to_le_bytes().to_vec()),
            Self::I32(x) => (ValueType::I32, x.to_le_bytes().to_vec()),
            Self::F32(x) => (ValueType::F32, x.to_le_bytes().to_vec()),
            Self::Bool(x) => (ValueType::Bool, vec![u8::from(*x)]),
            Self::String(x) => (ValueType::String, string_bytes(x.as_bytes())),
            Self::U64(x) => (ValueType::U64, x.to_le_bytes().to_vec()),
            Self::I64(x) => (ValueType::I64, x.to_le_bytes().to_vec()),
            Self::F64(x) => (ValueType::F64, x.to_le_bytes().to_vec()),
            Self::Strings(x) => {
                let body = x.iter().flat_map(|s| string_bytes(s.as_bytes())).collect();
                array(ValueType::String, x.len(), body)
            }
            Self::I32s(x) => array(ValueType::I32, x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::F32s(x) => array(ValueType::F32, x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::Raw(ty, bytes) => return (*ty, bytes.clone()),
        };
        (ty as u32, bytes)
    }
}

/// A tensor as the directory lists it.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    /// Name, any bytes.
    pub name: &'a [u8],
    /// Dimensions, contiguous one first, any number of them.
    pub dims: &'a [u64],
    /// Type id.
    pub ty: u32,
    /// Offset from the end of the header.
    pub offset: u64,
}

/// Everything before the tensor data.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// Version field.
    pub version: u32,
    /// What the length is filled up to a multiple of, if there are tensors.
    pub alignment: usize,
    /// Keys and values in order.
    pub entries: &'a [(Vec<u8>, MetaValue)],
    /// Tensors in order.
    pub tensors: &'a [DirectoryEntry<'a>],
    /// Tensor count to write instead of the true one.
    pub tensor_count: Option<u64>,
    /// Key count to write instead of the true one.
    pub key_count: Option<u64>,
}

impl Header<'_> {
    /// The bytes; `mark` is told where each structure starts.
    pub fn encode(&self, mark: &mut dyn FnMut(&str, usize)) -> Vec<u8> {
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, bytes: &[u8]| out.extend_from_slice(bytes);
        mark("magic", 0);
        put(&mut out, b"GGUF");
        mark("version", out.len());
        put(&mut out, &self.version.to_le_bytes());
        mark("tensor count", out.len());
        put(&mut out, &self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        mark("key count", out.len());
        put(&mut out, &self.key_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in self.entries {
            let (ty, bytes) = value.encode();
            mark("key length", out.len());
            put(&mut out, &(key.len() as u64).to_le_bytes());
            mark("key", out.len());
            put(&mut out, key);
            mark("value type", out.len());
            put(&mut out, &ty.to_le_bytes());
            mark("value", out.len());
            put(&mut out, &bytes);
        }
        for t in self.tensors {
            mark("tensor name length", out.len());
            put(&mut out, &(t.name.len() as u64).to_le_bytes());
            mark("tensor name", out.len());
            put(&mut out, t.name);
            mark("dimension count", out.len());
            put(&mut out, &(t.dims.len() as u32).to_le_bytes());
            for dim in t.dims {
                mark("dimension", out.len());
                put(&mut out, &dim.to_le_bytes());
            }
            mark("tensor type", out.len());
            put(&mut out, &t.ty.to_le_bytes());
            mark("tensor offset", out.len());
            put(&mut out, &t.offset.to_le_bytes());
        }
        mark("padding", out.len());
        if !self.tensors.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }
}
