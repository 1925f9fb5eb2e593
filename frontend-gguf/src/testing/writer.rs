//! A GGUF writer that writes whatever it is given.

use crate::decode::i2s;
use crate::reader::Gguf;
use crate::tensor_type::TensorType;
use crate::value::{Value, ValueType};
use crate::write::{DirectoryEntry, Header, MetaValue};

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
            entries: gguf.entries().iter().map(|e| (e.key.into(), written_again(&e.value))).collect(),
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
        let mut marks = Vec::new();
        let mut mark = |what: &str, offset: usize| marks.push(Mark { what: what.to_owned(), offset });
        let mut relative = 0;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for t in &self.tensors {
            let offset = t.offset.unwrap_or(relative as u64);
            tensors.push(DirectoryEntry { name: &t.name, dims: &t.dims, ty: t.ty, offset });
            relative += t.data.len().next_multiple_of(self.alignment);
        }
        let header = Header {
            version: self.version,
            alignment: self.alignment,
            entries: &self.entries,
            tensors: &tensors,
            tensor_count: self.tensor_count,
            key_count: self.key_count,
        };
        let mut out = header.encode(&mut mark);
        for t in &self.tensors {
            mark("tensor data", out.len());
            out.extend_from_slice(&t.data);
            mark("tensor data end", out.len());
            out.resize(out.len() + t.data.len().next_multiple_of(self.alignment) - t.data.len(), 0);
        }
        (out, marks)
    }
}

/// A parsed value, to be written again.
fn written_again(value: &Value<'_>) -> MetaValue {
    match *value {
        Value::U8(x) => MetaValue::U8(x),
        Value::I8(x) => MetaValue::I8(x),
        Value::U16(x) => MetaValue::U16(x),
        Value::I16(x) => MetaValue::I16(x),
        Value::U32(x) => MetaValue::U32(x),
        Value::I32(x) => MetaValue::I32(x),
        Value::F32(x) => MetaValue::F32(x),
        Value::Bool(x) => MetaValue::Bool(x),
        Value::String(x) => MetaValue::String(x.into()),
        Value::U64(x) => MetaValue::U64(x),
        Value::I64(x) => MetaValue::I64(x),
        Value::F64(x) => MetaValue::F64(x),
        Value::Array(a) => {
            let head = [&(a.elem() as u32).to_le_bytes()[..], &(a.len() as u64).to_le_bytes()].concat();
            MetaValue::Raw(ValueType::Array as u32, [head, a.wide().to_vec()].concat())
        }
    }
}
