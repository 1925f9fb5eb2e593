//! The tensor directory: names, shapes, types and byte ranges.
//!
//! `byte_range` is the only place that turns a shape and an offset into a range of file bytes. Every range it gives
//! lies inside the file; after `check_layout` no two of them overlap. An id that several writers use for different types
//! is resolved by `type_ids` before.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::cursor::{Cursor, Width, is_plain};
use crate::error::{GgufError, printable};
use crate::limits;
use crate::note::Note;
use crate::tensor_type::TensorType;
use crate::type_ids;

/// Index of a tensor in the directory of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(u32);

impl TensorId {
    pub(crate) fn from_index(index: usize) -> Self {
        // `limits::MAX_TENSORS` is far below 2^32.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Position in the directory, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A shape as GGUF writes it: dimension 0 is contiguous (the length of a row), the others count rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    ne: [u64; limits::MAX_DIMS as usize],
    len: u8,
}

impl Dims {
    /// The shape of a vector.
    pub fn vector(len: u64) -> Self {
        Self { ne: [len, 1, 1, 1], len: 1 }
    }

    /// The shape of a matrix of `rows` rows with `row` contiguous elements each.
    pub fn matrix(row: u64, rows: u64) -> Self {
        Self { ne: [row, rows, 1, 1], len: 2 }
    }

    /// The dimensions in file order, 1 to 4 of them.
    pub fn as_slice(&self) -> &[u64] {
        self.ne.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Contiguous elements: dimension 0.
    pub fn row(&self) -> u64 {
        self.ne[0]
    }

    /// Number of rows: the product of the other dimensions, or `None` on overflow.
    fn checked_rows(&self) -> Option<u64> {
        self.ne[1..].iter().try_fold(1u64, |n, &d| n.checked_mul(d))
    }

    /// Number of rows. Exact for every tensor of a parsed file, where the product of all dimensions is below 2^40.
    pub fn rows(&self) -> u64 {
        self.checked_rows().unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// One entry of the tensor directory, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    name: &'a str,
    dims: Dims,
    ty: TensorType,
    entry_offset: u64,
    range: Range<usize>,
    part: usize,
}

impl<'a> TensorInfo<'a> {
    /// Name of the tensor.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Shape, contiguous dimension first.
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Storage type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Byte offset of the directory entry in the file.
    pub fn entry_offset(&self) -> u64 {
        self.entry_offset
    }

    /// Bytes of the data in the file. The range is inside the file and shared with no other tensor.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The part of a split file that holds entry and data, from 0; 0 in a file that is not split.
    pub fn part(&self) -> usize {
        self.part
    }

    /// The same tensor as part `part` of a split file holds it.
    pub(crate) fn in_part(mut self, part: usize) -> Self {
        self.part = part;
        self
    }
}

/// A directory entry before its data range is known.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: Dims,
    /// Type id.
    pub(crate) id: u32,
    /// Offset of the data from the start of the data section.
    pub(crate) start: u64,
    pub(crate) entry_offset: u64,
    /// Byte offset of the type id in the file.
    pub(crate) id_offset: u64,
    start_offset: u64,
}

/// The tensors of a file, in directory order, with an index by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory<'a> {
    pub(crate) tensors: Vec<TensorInfo<'a>>,
    pub(crate) by_name: HashMap<&'a str, TensorId>,
    pub(crate) notes: Vec<Note>,
}

/// Reads `count` entries at the cursor; their names are unique, their types are not looked at.
pub(crate) fn read_entries<'a>(
    c: &mut Cursor<'a>,
    count: usize,
) -> Result<(Vec<Entry<'a>>, HashMap<&'a str, TensorId>), GgufError> {
    let mut entries = Vec::with_capacity(count);
    let mut by_name = HashMap::with_capacity(count);
    for i in 0..count {
        let entry = read_entry(c, i)?;
        let id = TensorId::from_index(i);
        if by_name.insert(entry.name, id).is_some() {
            return Err(GgufError::DuplicateTensor {
                offset: entry.entry_offset,
                name: printable(entry.name),
            });
        }
        entries.push(entry);
    }
    Ok((entries, by_name))
}

/// Reads `count` entries at the cursor and checks everything that can be known without reading tensor data.
pub(crate) fn read_directory<'a>(
    c: &mut Cursor<'a>,
    count: usize,
    alignment: u64,
    file_len: u64,
) -> Result<Directory<'a>, GgufError> {
    let (entries, by_name) = read_entries(c, count)?;
    // The data section starts at the next multiple of the alignment; without tensors there is none.
    let data_start = if count == 0 { c.offset() } else { c.offset().next_multiple_of(alignment) };
    let types = type_ids::resolve(&entries, alignment, file_len.saturating_sub(data_start))?;
    let mut tensors = Vec::with_capacity(count);
    for entry in entries {
        let ty = types.of(entry.id);
        let range = byte_range(&entry, ty, alignment, data_start, file_len)?;
        let Entry { name, dims, entry_offset, .. } = entry;
        tensors.push(TensorInfo { name, dims, ty, entry_offset, range, part: 0 });
    }
    let data_start = usize::try_from(data_start).unwrap_or(usize::MAX);
    let mut notes = types.into_notes();
    notes.extend(check_layout(&tensors, data_start, alignment, file_len)?);
    Ok(Directory { tensors, by_name, notes })
}

/// Least bytes of a directory entry: name length and a byte, dimension count and one dimension, type, offset.
pub(crate) fn min_entry_bytes(width: Width) -> u64 {
    width.bytes() + 1 + 4 + width.bytes() + 4 + 8
}

fn read_entry<'a>(c: &mut Cursor<'a>, index: usize) -> Result<Entry<'a>, GgufError> {
    let entry_offset = c.offset();
    let name = read_name(c, index)?;
    let dims = read_dims(c, name)?;
    let id_offset = c.offset();
    let id = c.u32(format_args!("the type of tensor \"{}\"", printable(name)))?;
    let start_offset = c.offset();
    let start = c.u64(format_args!("the offset of tensor \"{}\"", printable(name)))?;
    Ok(Entry { name, dims, id, start, entry_offset, id_offset, start_offset })
}

fn read_name<'a>(c: &mut Cursor<'a>, index: usize) -> Result<&'a str, GgufError> {
    let offset = c.offset();
    let bad = |name: &str, why| Err(GgufError::BadTensorName { offset, name: printable(name), why });
    let name = match c.string(limits::MAX_TENSOR_NAME_BYTES, format_args!("the name of tensor {index}")) {
        Err(GgufError::StringTooLong { length, .. }) if length <= c.left() => {
            return bad("…", "is longer than 64 bytes");
        }
        other => other?,
    };
    if name.is_empty() {
        return bad(name, "is empty");
    }
    if !is_plain(name) {
        return bad(name, "holds control characters");
    }
    Ok(name)
}

fn read_dims(c: &mut Cursor<'_>, name: &str) -> Result<Dims, GgufError> {
    let offset = c.offset();
    let bad = |found| Err(GgufError::BadDims { offset, tensor: printable(name), found });
    let count = c.u32(format_args!("the dimension count of tensor \"{}\"", printable(name)))?;
    if count == 0 || count > limits::MAX_DIMS {
        return bad(format!("{count} dimensions"));
    }
    let mut dims = Dims { ne: [1; limits::MAX_DIMS as usize], len: count as u8 };
    for ne in dims.ne.iter_mut().take(count as usize) {
        *ne = c.length(format_args!("a dimension of tensor \"{}\"", printable(name)))?;
    }
    if dims.as_slice().contains(&0) {
        return bad(format!("the shape {dims}"));
    }
    let elements = dims.checked_rows().and_then(|rows| rows.checked_mul(dims.row()));
    if elements.is_none_or(|n| n >= limits::MAX_ELEMENTS) {
        return Err(GgufError::ShapeOverflow {
            offset,
            tensor: printable(name),
            dims: dims.to_string(),
            why: "has 2^40 or more elements",
        });
    }
    Ok(dims)
}

/// The one place where a shape and a relative offset become a range of file bytes.
fn byte_range(
    entry: &Entry<'_>,
    ty: TensorType,
    alignment: u64,
    data_start: u64,
    file_len: u64,
) -> Result<Range<usize>, GgufError> {
    let tensor = || printable(entry.name);
    let block = ty.block_elements();
    if !entry.dims.row().is_multiple_of(block) {
        return Err(GgufError::BadBlock {
            offset: entry.entry_offset,
            tensor: tensor(),
            row: entry.dims.row(),
            ty: ty.name(),
            block,
        });
    }
    let rows = entry.dims.checked_rows();
    if rows.is_some_and(|rows| !rows.is_multiple_of(ty.row_group())) {
        return Err(GgufError::ShapeOverflow {
            offset: entry.entry_offset,
            tensor: tensor(),
            dims: entry.dims.to_string(),
            why: "does not consist of whole groups of rows, as its type stores them",
        });
    }
    let size = rows.and_then(|rows| ty.tensor_bytes(entry.dims.row(), rows));
    let Some(size) = size else {
        return Err(GgufError::ShapeOverflow {
            offset: entry.entry_offset,
            tensor: tensor(),
            dims: entry.dims.to_string(),
            why: "takes more bytes than can be counted",
        });
    };
    if !entry.start.is_multiple_of(alignment) {
        return Err(GgufError::MisalignedOffset {
            offset: entry.start_offset,
            tensor: tensor(),
            start: entry.start,
            alignment,
        });
    }
    let range = || {
        let start = data_start.checked_add(entry.start)?;
        let end = start.checked_add(size)?;
        (end <= file_len).then_some(())?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    };
    range().ok_or_else(|| GgufError::OutOfRange {
        offset: entry.start_offset,
        tensor: tensor(),
        start: entry.start,
        size,
        available: file_len.saturating_sub(data_start),
    })
}

/// Refuses overlapping tensors; reports bytes that belong to no tensor.
fn check_layout(
    tensors: &[TensorInfo<'_>],
    data_start: usize,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<Note>, GgufError> {
    let mut order: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            return Err(GgufError::Overlap {
                offset: second.range.start as u64,
                first: printable(first.name),
                second: printable(second.name),
            });
        }
    }
    let padded = |end: usize| (end as u64).next_multiple_of(alignment);
    let mut expected = data_start as u64;
    let mut gaps = 0;
    for tensor in &order {
        gaps += (tensor.range.start as u64).saturating_sub(expected);
        expected = padded(tensor.range.end);
    }
    let mut notes = Vec::new();
    if gaps > 0 {
        notes.push(Note::warning(
            "tensor data",
            format!("has {gaps} bytes between tensors that no tensor uses"),
        ));
    }
    let trailing = file_len.saturating_sub(expected);
    if trailing > 0 {
        notes.push(Note::warning("tensor data", format!("is followed by {trailing} bytes that are ignored")));
    }
    Ok(notes)
}
