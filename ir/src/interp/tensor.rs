//! The values that the interpreter works on: logical elements, without strides or padding.
//!
//! Invariant of a well-formed tensor ([`Tensor::is_well_formed`]): every vector has the length that the sizes beside it
//! say. The interpreter checks it of its inputs and keeps it.

use std::fmt;

use super::scalar;
use crate::types::{CacheDims, DType, Dim, StateDims, Type};

/// A value.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// f32 rows.
    F32 {
        /// Number of rows: one for each token.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// Row by row.
        data: Vec<f32>,
    },
    /// Quantised rows.
    Q8 {
        /// Number of rows: one for each token.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// Codes, row by row.
        codes: Vec<i8>,
        /// The factor of each row: x ≈ code / a.
        a: Vec<f32>,
        /// The sum of the codes of each row.
        sums: Vec<i32>,
    },
    /// Rows quantised in blocks.
    Q8b {
        /// Number of rows: one for each token.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// Elements of a block, at least 1; the last of a row may have fewer.
        block: u32,
        /// Codes, row by row.
        codes: Vec<i8>,
        /// The scale of each block of each row: x ≈ code · scale.
        scales: Vec<f32>,
    },
    /// Integer rows.
    I32 {
        /// Number of rows: one for each token.
        rows: usize,
        /// Elements of a row.
        width: usize,
        /// Row by row.
        data: Vec<i32>,
    },
    /// Token ids.
    Tokens(Vec<u32>),
    /// The position of the first token.
    Position(u32),
    /// A KV cache.
    Cache(Cache),
    /// A recurrent state.
    State(State),
}

/// A recurrent state. Element (head, row, col) stands at index `(head · rows + row) · cols + col`.
#[derive(Clone, Debug)]
pub struct State {
    /// Heads and the shape of their matrices.
    pub dims: StateDims,
    /// Elements.
    pub data: Vec<f32>,
}

/// A KV cache. Element (head, position, j) stands at index `(head · capacity + position) · head_dim + j`, whatever
/// layout the value's type names: a layout is about storage, not about meaning.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Heads and their size.
    pub dims: CacheDims,
    /// Positions that there is room for, a multiple of [`crate::KEY_BLOCK`].
    pub capacity: u32,
    /// Elements.
    pub data: CacheData,
}

/// The elements of a [`Cache`].
#[derive(Clone, Debug)]
pub enum CacheData {
    /// Bits of f16.
    F16(Vec<u16>),
    /// f32.
    F32(Vec<f32>),
}

fn same_f32(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn same_f16(a: u16, b: u16) -> bool {
    a == b || (scalar::f16_value(a).is_nan() && scalar::f16_value(b).is_nan())
}

/// Where two slices differ first, as text.
fn differ<T: Copy + fmt::Debug>(what: &str, a: &[T], b: &[T], same: impl Fn(T, T) -> bool) -> Option<String> {
    if a.len() != b.len() {
        return Some(format!("{what}: {} elements against {}", a.len(), b.len()));
    }
    let at = a.iter().zip(b).position(|(&a, &b)| !same(a, b))?;
    let count = a.iter().zip(b).filter(|&(&a, &b)| !same(a, b)).count();
    Some(format!("{what}[{at}]: {:?} against {:?} ({count} of {} differ)", a[at], b[at], a.len()))
}

impl Tensor {
    /// f32 rows of `width` elements, as many as `data` fills.
    pub fn f32(width: usize, data: Vec<f32>) -> Self {
        Tensor::F32 { rows: data.len().checked_div(width).unwrap_or(0), width, data }
    }

    /// A cache of zeros, or a state of zeros, for a value of type `ty`; `None` where `ty` is the type of neither.
    pub fn empty_cache(ty: &Type, capacity: u32) -> Option<Self> {
        // More than any machine has; asking for it would abort.
        const MOST: usize = 1 << 40;
        if let Some(dims) = ty.as_state() {
            let n = dims.elements().and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MOST)?;
            return Some(Tensor::State(State { dims, data: vec![0.0; n] }));
        }
        let dims = ty.as_cache()?;
        let n =
            (dims.kv_heads as usize).checked_mul(dims.head_dim as usize)?.checked_mul(capacity as usize)?;
        if n > MOST {
            return None;
        }
        let data = match ty.dtype {
            DType::F16 => CacheData::F16(vec![0; n]),
            DType::F32 => CacheData::F32(vec![0.0; n]),
            _ => return None,
        };
        Some(Tensor::Cache(Cache { dims, capacity, data }))
    }

    /// The elements of f32 rows.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Tensor::F32 { data, .. } => Some(data),
            _ => None,
        }
    }

    /// Whether every vector has the length that the sizes say.
    pub fn is_well_formed(&self) -> bool {
        match self {
            Tensor::F32 { rows, width, data } => rows.checked_mul(*width) == Some(data.len()),
            Tensor::Q8 { rows, width, codes, a, sums } => {
                rows.checked_mul(*width) == Some(codes.len()) && a.len() == *rows && sums.len() == *rows
            }
            Tensor::Q8b { rows, width, block, codes, scales } => {
                rows.checked_mul(*width) == Some(codes.len())
                    && rows.checked_mul(width.div_ceil((*block).max(1) as usize)) == Some(scales.len())
            }
            Tensor::I32 { rows, width, data } => rows.checked_mul(*width) == Some(data.len()),
            Tensor::Tokens(_) | Tensor::Position(_) => true,
            Tensor::Cache(cache) => cache.is_well_formed(),
            Tensor::State(State { dims, data }) => dims.elements() == Some(data.len() as u64),
        }
    }

    /// Whether this is a value of type `ty` in a call with `tokens` tokens.
    pub fn has_type(&self, ty: &Type, tokens: usize) -> bool {
        let is_rows = |dtype: DType, rows: usize, width: usize| {
            ty.dtype == dtype
                && ty.as_rows().is_some_and(|r| {
                    r.width as usize == width && rows == if r.per_token { tokens } else { 1 }
                })
        };
        self.is_well_formed()
            && match self {
                Tensor::F32 { rows, width, .. } => is_rows(DType::F32, *rows, *width),
                Tensor::Q8 { rows, width, .. } => is_rows(DType::Q8, *rows, *width),
                Tensor::Q8b { rows, width, block, .. } => {
                    ty.quant_block() == *block && is_rows(DType::Q8b, *rows, *width)
                }
                Tensor::I32 { rows, width, .. } => is_rows(DType::I32, *rows, *width),
                Tensor::Tokens(ids) => {
                    let n = match ty.shape.0[..] {
                        [Dim::N(n)] => n as usize,
                        [Dim::Tokens] => tokens,
                        _ => return false,
                    };
                    ty.dtype == DType::Idx && ids.len() == n
                }
                Tensor::Position(_) => *ty == Type::scalar(DType::Idx),
                Tensor::Cache(cache) => ty.as_cache() == Some(cache.dims) && ty.dtype == cache.dtype(),
                Tensor::State(state) => ty.as_state() == Some(state.dims),
            }
    }

    /// The first difference in kind, sizes or bits, as text; two NaN are equal, +0.0 and −0.0 are not.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Tensor::F32 { rows: ra, width: wa, data: a }, Tensor::F32 { rows: rb, width: wb, data: b })
                if (ra, wa) == (rb, wb) =>
            {
                differ("f32", a, b, same_f32)
            }
            (
                Tensor::Q8 { rows: ra, width: wa, codes: ca, a: fa, sums: sa },
                Tensor::Q8 { rows: rb, width: wb, codes: cb, a: fb, sums: sb },
            ) if (ra, wa) == (rb, wb) => differ("code", ca, cb, |a, b| a == b)
                .or_else(|| differ("a", fa, fb, same_f32))
                .or_else(|| differ("sum", sa, sb, |a, b| a == b)),
            (
                Tensor::Q8b { rows: ra, width: wa, block: ba, codes: ca, scales: sa },
                Tensor::Q8b { rows: rb, width: wb, block: bb, codes: cb, scales: sb },
            ) if (ra, wa, ba) == (rb, wb, bb) => {
                differ("code", ca, cb, |a, b| a == b).or_else(|| differ("scale", sa, sb, same_f32))
            }
            (Tensor::I32 { rows: ra, width: wa, data: a }, Tensor::I32 { rows: rb, width: wb, data: b })
                if (ra, wa) == (rb, wb) =>
            {
                differ("i32", a, b, |a, b| a == b)
            }
            (Tensor::Tokens(a), Tensor::Tokens(b)) => differ("token", a, b, |a, b| a == b),
            (Tensor::Position(a), Tensor::Position(b)) if a == b => None,
            (Tensor::Cache(a), Tensor::Cache(b)) if (a.dims, a.capacity) == (b.dims, b.capacity) => {
                match (&a.data, &b.data) {
                    (CacheData::F16(a), CacheData::F16(b)) => differ("cache", a, b, same_f16),
                    (CacheData::F32(a), CacheData::F32(b)) => differ("cache", a, b, same_f32),
                    _ => Some(format!("{self} against {other}")),
                }
            }
            (Tensor::State(a), Tensor::State(b)) if a.dims == b.dims => {
                differ("state", &a.data, &b.data, same_f32)
            }
            _ => Some(format!("{self} against {other}")),
        }
    }

    /// Whether kind, sizes and bits are the same; two NaN are equal, +0.0 and −0.0 are not.
    pub fn same_bits(&self, other: &Self) -> bool {
        self.first_difference(other).is_none()
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.same_bits(other)
    }
}

/// Kind and sizes, without the elements.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tensor::F32 { rows, width, .. } => write!(f, "f32, {rows} rows of {width}"),
            Tensor::Q8 { rows, width, .. } => write!(f, "q8, {rows} rows of {width}"),
            Tensor::Q8b { rows, width, block, .. } => {
                write!(f, "q8b, {rows} rows of {width} in blocks of {block}")
            }
            Tensor::I32 { rows, width, .. } => write!(f, "i32, {rows} rows of {width}"),
            Tensor::Tokens(ids) => write!(f, "{} token ids", ids.len()),
            Tensor::Position(pos) => write!(f, "position {pos}"),
            Tensor::Cache(cache) => {
                let ty = Type::cache(cache.dtype(), cache.dims);
                write!(f, "a cache {ty} with C={}", cache.capacity)
            }
            Tensor::State(state) => write!(f, "a state {}", Type::state(state.dims)),
        }
    }
}

impl Cache {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            CacheData::F16(_) => DType::F16,
            CacheData::F32(_) => DType::F32,
        }
    }

    /// Whether there are as many elements as the sizes say.
    pub fn is_well_formed(&self) -> bool {
        let len = match &self.data {
            CacheData::F16(data) => data.len(),
            CacheData::F32(data) => data.len(),
        };
        [self.dims.head_dim, self.capacity]
            .iter()
            .try_fold(self.dims.kv_heads as usize, |n, &d| n.checked_mul(d as usize))
            == Some(len)
    }

    /// Index of element 0 of a head at a position.
    fn index(&self, head: usize, position: usize) -> usize {
        (head * self.capacity as usize + position) * self.dims.head_dim as usize
    }

    /// Stores one head's row at a position, converted to the cache's element type.
    pub(super) fn store(&mut self, head: usize, position: usize, row: &[f32]) {
        let at = self.index(head, position);
        match &mut self.data {
            CacheData::F16(data) => {
                for (to, &x) in data[at..at + row.len()].iter_mut().zip(row) {
                    *to = scalar::f16_bits(x);
                }
            }
            CacheData::F32(data) => data[at..at + row.len()].copy_from_slice(row),
        }
    }

    /// The rows of one head at the first `positions` positions, as f32.
    pub(super) fn load(&self, head: usize, positions: usize) -> Vec<f32> {
        let range = self.index(head, 0)..self.index(head, positions);
        match &self.data {
            CacheData::F16(data) => data[range].iter().map(|&bits| scalar::f16_value(bits)).collect(),
            CacheData::F32(data) => data[range].to_vec(),
        }
    }
}
