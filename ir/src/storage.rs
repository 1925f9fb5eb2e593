//! How activations and caches lie in memory: the one place that turns a type into byte sizes and offsets.
//!
//! - An activation is one row per token; rows start at multiples of 64 bytes ([`row_stride`]).
//! - A `q8` row is the codes, filled up to a multiple of 64 bytes, then the f32 factor `a` and the i32 sum of the codes
//!   ([`Q8_A`], [`Q8_SUM`] bytes after [`q8_tail`]), filled up to 64 bytes.
//! - A `q8b` row is the codes, filled up with 0 to a multiple of 64 bytes, then 16 bytes for each block of 32 or 128 codes:
//!   the f32 scale ([`Q8B_SCALE`]), the i32 sums of the first and of the second half of the codes of a full block
//!   ([`Q8B_HALVES`]) and of all ([`Q8B_SUM`]); filled up to 64 bytes.
//! - A V cache (layout `rows`) holds element `(head, position, j)` at index `(head·C + position)·head_dim + j`.
//! - A K cache in layout `keys16` holds it at `((head·C/16 + position/16)·head_dim + j)·16 + position%16`: one vector of
//!   16 positions for each j, so that 16 scores are made at once without adding across lanes.
//! - A recurrent state is its elements one after the other, in f32.
//!
//! Invariants: every buffer that generated code reads is followed by at least [`PADDING`] readable bytes; the context
//! capacity C is a multiple of [`crate::KEY_BLOCK`].

use std::ops::Range;

use crate::types::{CacheDims, DType, Layout, Type};

/// Alignment of rows, buffers and sections, in bytes.
pub const ALIGN: u64 = 64;
/// Readable bytes that follow every buffer.
pub const PADDING: u64 = 64;
/// Offset of the factor `a` after the codes of a `q8` row.
pub const Q8_A: u64 = 0;
/// Offset of the sum of codes after the codes of a `q8` row.
pub const Q8_SUM: u64 = 4;
/// Bytes of what a `q8b` row holds for each block, after [`q8_tail`].
pub const Q8B_RECORD: u64 = 16;
/// Offset of the scale in the record of a block.
pub const Q8B_SCALE: u64 = 0;
/// Offset of the sums of the two halves of the codes in the record of a block.
pub const Q8B_HALVES: u64 = 4;
/// Offset of the sum of all codes in the record of a block.
pub const Q8B_SUM: u64 = 12;
/// Most token rows that a buffer may be made for; keeps every byte size far below 2^63.
pub const MAX_TOKENS: u32 = 1 << 16;

/// `n` filled up to a multiple of [`ALIGN`]. Sizes here are at most 2^40, so this cannot wrap.
pub fn align(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// Offset of what follows the codes of a `q8` or `q8b` row of `width` codes.
pub fn q8_tail(width: u32) -> u64 {
    align(u64::from(width))
}

/// Bytes from one token's row to the next, for an activation type (`[n]` or `[T, n]`; f32, q8, q8b or i32).
pub fn row_stride(ty: &Type) -> Option<u64> {
    let width = ty.as_rows()?.width;
    match ty.dtype {
        DType::Q8 => Some(q8_tail(width) + ALIGN),
        DType::Q8b => Some(q8_tail(width) + align(u64::from(width.div_ceil(ty.quant_block())) * Q8B_RECORD)),
        dtype => Some(align(u64::from(width) * u64::from(dtype.element_bytes()?))),
    }
}

/// Bytes of an activation for at most `tokens` tokens.
pub fn activation_bytes(ty: &Type, tokens: u32) -> Option<u64> {
    let rows = if ty.as_rows()?.per_token { tokens.min(MAX_TOKENS) } else { 1 };
    Some(row_stride(ty)? * u64::from(rows))
}

/// Bytes of a KV cache with room for `capacity` positions, or of a recurrent state, whatever the capacity.
pub fn cache_bytes(ty: &Type, capacity: u32) -> Option<u64> {
    if ty.as_state().is_some() {
        return state_bytes(ty);
    }
    let CacheDims { kv_heads, head_dim } = ty.as_cache()?;
    let elements = u64::from(kv_heads).checked_mul(u64::from(head_dim))?.checked_mul(u64::from(capacity))?;
    elements.checked_mul(u64::from(ty.dtype.element_bytes()?))
}

/// Bytes of a recurrent state.
pub fn state_bytes(ty: &Type) -> Option<u64> {
    ty.as_state()?.elements()?.checked_mul(4)
}

/// Where a KV cache of `capacity` positions holds these of them: a range of bytes for each head. Positions in layout `keys16`
/// come in blocks of 16, of which the first and the last are included whole.
pub fn cache_ranges(
    ty: &Type,
    capacity: u32,
    positions: Range<u32>,
) -> Option<impl Iterator<Item = Range<u64>>> {
    let dims = ty.as_cache()?;
    let element = u64::from(ty.dtype.element_bytes()?);
    let whole = if ty.layout == Layout::Keys16 { 16 } else { 1 };
    let first = positions.start / whole * whole;
    let end = positions.end.min(capacity).next_multiple_of(whole);
    let bytes = u64::from(end.saturating_sub(first)) * u64::from(dims.head_dim) * element;
    let layout = ty.layout;
    Some((0..u64::from(dims.kv_heads)).map(move |head| {
        let start = cache_index(layout, dims, u64::from(capacity), head, u64::from(first), 0) * element;
        start..start + bytes
    }))
}

/// Index of an element in a KV cache of `capacity` positions (a multiple of [`crate::KEY_BLOCK`]), in elements.
pub fn cache_index(layout: Layout, dims: CacheDims, capacity: u64, head: u64, position: u64, j: u64) -> u64 {
    let d = u64::from(dims.head_dim);
    match layout {
        Layout::Keys16 => ((head * (capacity / 16) + position / 16) * d + j) * 16 + position % 16,
        _ => (head * capacity + position) * d + j,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_positions_and_no_others() {
        let dims = CacheDims { kv_heads: 3, head_dim: 4 };
        for (layout, whole) in [(Layout::Keys16, 16), (Layout::Rows, 1)] {
            for dtype in [DType::F16, DType::F32] {
                let ty = Type::cache(dtype, dims).with_layout(layout);
                let size = u64::from(dtype.element_bytes().unwrap());
                for positions in [0..0, 0..1, 0..16, 0..17, 5..40, 16..128, 127..128, 40..40] {
                    let ranges: Vec<_> = cache_ranges(&ty, 128, positions.clone()).unwrap().collect();
                    assert!(ranges.iter().all(|range| range.end <= cache_bytes(&ty, 128).unwrap()));
                    for (head, position, j) in
                        (0..3).flat_map(|h| (0..128).flat_map(move |p| (0..4).map(move |j| (h, p, j))))
                    {
                        let at = cache_index(layout, dims, 128, head, u64::from(position), j) * size;
                        let inside = ranges.iter().any(|range| range.contains(&at));
                        let block = position / whole * whole..(position / whole + 1) * whole;
                        let wanted = positions.start < block.end && positions.end > block.start;
                        assert_eq!(inside, wanted, "{layout:?} {positions:?} {position}");
                    }
                }
            }
        }
    }
}
