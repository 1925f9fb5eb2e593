//! A GGUF writer that writes whatever it is given.

use crate::decode::i2s;
use crate::reader::Gguf;
use crate::tensor_type::TensorType;
use crate::value::{Array, Value, ValueType};

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
pub(super) fn string_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl MetaValue {
    /// Type id and bytes.
    fn encode(&self) -> (u32, Vec<u8>) {
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

    /// A parsed value, to be written again.
    fn of(value: &Value<'_>) -> Self {
        match *value {
            Value::U8(x) => Self::U8(x),
            Value::I8(x) => Self::I8(x),
            Value::U16(x) => Self::U16(x),
            Value::I16(x) => Self::I16(x),
            Value::U32(x) => Self::U32(x),
            Value::I32(x) => Self::I32(x),
            Value::F32(x) => Self::F32(x),
            Value::Bool(x) => Self::Bool(x),
            Value::String(x) => Self::String(x.into()),
            Value::U64(x) => Self::U64(x),
            Value::I64(x) => Self::I64(x),
            Value::F64(x) => Self::F64(x),
            Value::Array(a) => Self::Raw(ValueType::Array as u32, Self::array_body(&a)),
        }
    }

    fn array_body(a: &Array<'_>) -> Vec<u8> {
        [&(a.elem() as u32).to_le_bytes()[..], &(a.len() as u64).to_le_bytes(), &a.wide()].concat()
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData {
    /// Name, any bytes.
    pub name: Vec<u8>,
    /// Dimensions, contiguous one first, any number of them.
    pub dims: Vec<u64>,
    /// Type id.
    pub ty: u32,
    /// Data.
    pub data: Vec<u8>,
    /// Relative offset to write instead of the true one.
    pub offset: Option<u64>,
}

/// A position in the written file where a structure starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What starts there.
    pub what: String,
    /// Byte offset.
    pub offset: usize,
}

/// A file in the making. The fields may be changed freely before it is written.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    /// Version field.
    pub version: u32,
    /// Alignment of the layout; written as a key only if [`GgufWriter::set`] says so.
    pub alignment: usize,
    /// Keys and values in order.
    pub entries: Vec<(Vec<u8>, MetaValue)>,
    /// Tensors in order.
    pub tensors: Vec<TensorData>,
    /// Tensor count to write instead of the true one.
    pub tensor_count: Option<u64>,
    /// Key count to write instead of the true one.
    pub key_count: Option<u64>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self {
            version: 3,
            alignment: 32,
            entries: vec![],
            tensors: vec![],
            tensor_count: None,
            key_count: None,
        }
    }
}

impl GgufWriter {
    /// A writer with the contents of a parsed file. Gaps between tensors and bytes after them are not kept; version 1
    /// becomes version 2, and parts become one file.
    pub fn of(gguf: &Gguf<'_>) -> Self {
        let tensors = gguf.tensors().iter().map(|t| TensorData {
            name: t.name().into(),
            dims: t.dims().as_slice().to_vec(),
            ty: t.ty().id(),
            data: gguf.data(t).to_vec(),
            offset: None,
        });
        Self {
            version: gguf.version().max(2),
            alignment: usize::try_from(gguf.alignment()).unwrap_or(32),
            entries: gguf.entries().iter().map(|e| (e.key.into(), MetaValue::of(&e.value))).collect(),
            tensors: tensors.collect(),
            ..Self::default()
        }
    }

    /// Sets a key, in its place if it is there and at the end otherwise.
    pub fn set(&mut self, key: &str, value: MetaValue) {
        match self.entries.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.into(), value)),
        }
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key.as_bytes());
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: TensorType, data: Vec<u8>) {
        let tensor = TensorData { name: name.into(), dims: dims.to_vec(), ty: ty.id(), data, offset: None };
        self.tensors.push(tensor);
    }

    /// Adds a tensor of F32.
    pub fn f32_tensor(&mut self, name: &str, dims: &[u64], values: &[f32]) {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, dims, TensorType::F32, data);
    }

    /// Adds a ternary matrix of `rows` rows.
    pub fn i2s_tensor(&mut self, name: &str, row: usize, rows: usize, weights: &[i8], scale: f32) {
        self.tensor(name, &[row as u64, rows as u64], TensorType::I2S, i2s::pack(weights, scale));
    }

    /// The tensor with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor_mut(&mut self, name: &str) -> &mut TensorData {
        let at = self.tensors.iter().position(|t| t.name == name.as_bytes());
        &mut self.tensors[at.unwrap_or(usize::MAX)]
    }

    /// Removes a tensor.
    pub fn remove_tensor(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name.as_bytes());
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        self.build_marked().0
    }

    /// The file, and where its structures start.
    pub fn build_marked(&self) -> (Vec<u8>, Vec<Mark>) {
        let mut out = Vec::new();
        let mut marks = Vec::new();
        let mut mark = |what: &str, offset: usize| marks.push(Mark { what: what.to_owned(), offset });
        let put = |out: &mut Vec<u8>, bytes: &[u8]| out.extend_from_slice(bytes);
        mark("magic", 0);
        put(&mut out, b"GGUF");
        mark("version", out.len());
        put(&mut out, &self.version.to_le_bytes());
        mark("tensor count", out.len());
        put(&mut out, &self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        mark("key count", out.len());
        put(&mut out, &self.key_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
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
        let mut relative = 0;
        for t in &self.tensors {
            mark("tensor name length", out.len());
            put(&mut out, &(t.name.len() as u64).to_le_bytes());
            mark("tensor name", out.len());
            put(&mut out, &t.name);
            mark("dimension count", out.len());
            put(&mut out, &(t.dims.len() as u32).to_le_bytes());
            for dim in &t.dims {
                mark("dimension", out.len());
                put(&mut out, &dim.to_le_bytes());
            }
            mark("tensor type", out.len());
            put(&mut out, &t.ty.to_le_bytes());
            mark("tensor offset", out.len());
            put(&mut out, &t.offset.unwrap_or(relative as u64).to_le_bytes());
            relative += t.data.len().next_multiple_of(self.alignment);
        }
        mark("padding", out.len());
        if !self.tensors.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        for t in &self.tensors {
            mark("tensor data", out.len());
            put(&mut out, &t.data);
            mark("tensor data end", out.len());
            out.resize(out.len() + t.data.len().next_multiple_of(self.alignment) - t.data.len(), 0);
        }
        (out, marks)
    }
}
