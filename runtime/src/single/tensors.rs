//! Tensors in memory as kernels read and write them, and back.
//!
//! Invariants: what is stored lies in a buffer that is as large as the type says for the most tokens of a call.

use bitnetc_ir::interp::{Cache, CacheData, State, Tensor};
use bitnetc_ir::{DType, Type, storage};

use crate::error::SessionError;
use crate::machine::buffer;
use crate::map::AlignedBuffer;

/// Bytes of what a `q8b` row holds for each block.
const RECORD: usize = storage::Q8B_RECORD as usize;

/// Bytes of a buffer for values of type `ty` of at most `most` tokens, with caches of `capacity` positions.
pub(super) fn buffer_bytes(ty: &Type, most: u32, capacity: u32) -> u64 {
    match ty.is_persistent() {
        true => storage::cache_bytes(ty, capacity).unwrap_or(u64::MAX),
        false => storage::activation_bytes(ty, most).unwrap_or(u64::from(most) * 4),
    }
}

/// Bytes of a row that hold something, and that nothing else may share.
pub(super) fn row_bytes(ty: &Type) -> usize {
    let width = ty.as_rows().map_or(1, |rows| rows.width as usize);
    match ty.dtype {
        DType::F32 | DType::I32 | DType::Idx => width * 4,
        _ => storage::row_stride(ty).unwrap_or(0) as usize,
    }
}

/// A tensor in a buffer of its own, laid out as kernels read it; `None` if it is not of this type.
pub(super) fn store(
    tensor: &Tensor,
    ty: &Type,
    most: u32,
    capacity: u32,
) -> Result<Option<AlignedBuffer>, SessionError> {
    let stride = storage::row_stride(ty).unwrap_or(4) as usize;
    let width = ty.as_rows().map_or(0, |r| r.width as usize);
    let mut buffer = buffer("input", buffer_bytes(ty, most, capacity))?;
    let bytes = buffer.as_mut_slice();
    let fits = match tensor {
        Tensor::Position(_) => ty.dtype == DType::Idx && ty.shape.0.is_empty(),
        Tensor::Tokens(ids) => {
            for (slot, id) in bytes.chunks_exact_mut(4).zip(ids) {
                slot.copy_from_slice(&id.to_le_bytes());
            }
            ty.dtype == DType::Idx && ids.len() as u64 * 4 <= bytes.len() as u64
        }
        Tensor::F32 { width: w, data, .. } => {
            for (row, values) in bytes.chunks_exact_mut(stride).zip(data.chunks(width.max(1))) {
                for (slot, x) in row.chunks_exact_mut(4).zip(values) {
                    slot.copy_from_slice(&x.to_le_bytes());
                }
            }
            ty.dtype == DType::F32 && *w == width
        }
        Tensor::Q8 { width: w, codes, a, sums, .. } => {
            let tail = storage::q8_tail(width as u32) as usize;
            let rows = codes.chunks(width.max(1)).zip(a.iter().zip(sums));
            for (row, (codes, (a, sum))) in bytes.chunks_exact_mut(stride).zip(rows) {
                for (slot, code) in row.iter_mut().zip(codes) {
                    *slot = *code as u8;
                }
                let (a_at, sum_at) = (tail + storage::Q8_A as usize, tail + storage::Q8_SUM as usize);
                row[a_at..a_at + 4].copy_from_slice(&a.to_le_bytes());
                row[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
            }
            ty.dtype == DType::Q8 && *w == width
        }
        Tensor::Q8b { width: w, block, codes, scales, .. } => {
            let tail = storage::q8_tail(width as u32) as usize;
            let block = (*block).max(1) as usize;
            let blocks = width.div_ceil(block).max(1);
            let rows = codes.chunks(width.max(1)).zip(scales.chunks(blocks));
            for (row, (codes, scales)) in bytes.chunks_exact_mut(stride).zip(rows) {
                let (stored, records) = row.split_at_mut(tail);
                let of_blocks = codes.chunks(block).zip(scales);
                let places = stored.chunks_mut(block).zip(records.chunks_mut(RECORD));
                for ((codes, scale), (stored, record)) in of_blocks.zip(places) {
                    for (slot, code) in stored.iter_mut().zip(codes) {
                        *slot = *code as u8;
                    }
                    let sum = |codes: &[i8]| codes.iter().map(|&q| i32::from(q)).sum::<i32>();
                    let (first, second) = codes.split_at(codes.len().min(block / 2));
                    let mut put = |at: u64, word: [u8; 4]| {
                        record[at as usize..at as usize + 4].copy_from_slice(&word);
                    };
                    put(storage::Q8B_SCALE, scale.to_le_bytes());
                    put(storage::Q8B_HALVES, sum(first).to_le_bytes());
                    put(storage::Q8B_HALVES + 4, sum(second).to_le_bytes());
                    put(storage::Q8B_SUM, sum(codes).to_le_bytes());
                }
            }
            ty.dtype == DType::Q8b && *w == width && ty.quant_block() as usize == block
        }
        Tensor::I32 { width: w, data, .. } => {
            for (row, values) in bytes.chunks_exact_mut(stride).zip(data.chunks(width.max(1))) {
                for (slot, x) in row.chunks_exact_mut(4).zip(values) {
                    slot.copy_from_slice(&x.to_le_bytes());
                }
            }
            ty.dtype == DType::I32 && *w == width
        }
        Tensor::State(state) => {
            for (slot, x) in bytes.chunks_exact_mut(4).zip(&state.data) {
                slot.copy_from_slice(&x.to_le_bytes());
            }
            ty.as_state() == Some(state.dims)
        }
        Tensor::Cache(cache) => {
            let fits = ty.as_cache() == Some(cache.dims) && cache.capacity == capacity;
            fits && cache_elements(ty, cache.capacity, |from, to| match &cache.data {
                CacheData::F16(data) => bytes[to * 2..to * 2 + 2].copy_from_slice(&data[from].to_le_bytes()),
                CacheData::F32(data) => bytes[to * 4..to * 4 + 4].copy_from_slice(&data[from].to_le_bytes()),
            })
        }
    };
    Ok(fits.then_some(buffer))
}

/// Calls `visit` with the logical and the stored index of every element of a cache.
fn cache_elements(ty: &Type, capacity: u32, mut visit: impl FnMut(usize, usize)) -> bool {
    let Some(dims) = ty.as_cache() else { return false };
    let mut logical = 0;
    for head in 0..dims.kv_heads {
        for position in 0..capacity {
            for j in 0..dims.head_dim {
                let (head, position, j) = (u64::from(head), u64::from(position), u64::from(j));
                let stored = storage::cache_index(ty.layout, dims, u64::from(capacity), head, position, j);
                visit(logical, stored as usize);
                logical += 1;
            }
        }
    }
    true
}

/// The tensor in a buffer.
pub(super) fn fetch(bytes: &[u8], ty: &Type, tokens: u32, capacity: u32) -> Option<Tensor> {
    if let Some(dims) = ty.as_cache() {
        let count = (dims.kv_heads * dims.head_dim) as usize * capacity as usize;
        let data = if ty.dtype == DType::F16 {
            let mut data = vec![0u16; count];
            cache_elements(ty, capacity, |to, from| {
                data[to] = u16::from_le_bytes([bytes[from * 2], bytes[from * 2 + 1]]);
            });
            CacheData::F16(data)
        } else {
            let mut data = vec![0f32; count];
            cache_elements(ty, capacity, |to, from| {
                let b = &bytes[from * 4..from * 4 + 4];
                data[to] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            });
            CacheData::F32(data)
        };
        return Some(Tensor::Cache(Cache { dims, capacity, data }));
    }
    if let Some(dims) = ty.as_state() {
        let count = usize::try_from(dims.elements()?).ok()?;
        let elements = bytes.chunks_exact(4).take(count);
        let data = elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        return Some(Tensor::State(State { dims, data }));
    }
    let shape = ty.as_rows()?;
    let rows = if shape.per_token { tokens as usize } else { 1 };
    let (stride, width) = (storage::row_stride(ty)? as usize, shape.width as usize);
    let all = bytes.chunks_exact(stride).take(rows);
    let number = |row: &[u8], at: usize| [row[at], row[at + 1], row[at + 2], row[at + 3]];
    Some(match ty.dtype {
        DType::F32 => {
            let data =
                all.flat_map(|row| (0..width).map(move |i| f32::from_le_bytes(number(row, i * 4)))).collect();
            Tensor::f32(width, data)
        }
        DType::Q8 => {
            let tail = storage::q8_tail(shape.width) as usize;
            let (mut codes, mut a, mut sums) = (Vec::new(), Vec::new(), Vec::new());
            for row in all {
                codes.extend(row[..width].iter().map(|&b| b as i8));
                a.push(f32::from_le_bytes(number(row, tail + storage::Q8_A as usize)));
                sums.push(i32::from_le_bytes(number(row, tail + storage::Q8_SUM as usize)));
            }
            Tensor::Q8 { rows, width, codes, a, sums }
        }
        DType::Q8b => {
            let tail = storage::q8_tail(shape.width) as usize;
            let (block, mut codes, mut scales) = (ty.quant_block(), Vec::new(), Vec::new());
            for row in all {
                codes.extend(row[..width].iter().map(|&b| b as i8));
                let records = row[tail..].chunks_exact(RECORD).take(width.div_ceil(block as usize));
                scales.extend(records.map(|r| f32::from_le_bytes(number(r, storage::Q8B_SCALE as usize))));
            }
            Tensor::Q8b { rows, width, block, codes, scales }
        }
        DType::I32 => {
            let data =
                all.flat_map(|row| (0..width).map(move |i| i32::from_le_bytes(number(row, i * 4)))).collect();
            Tensor::I32 { rows, width, data }
        }
        _ => return None,
    })
}
