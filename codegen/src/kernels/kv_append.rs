//! Keys and values into the caches, in the caches' dtype. Where an element lies is said in `bitnetc_ir::storage`.

use bitnetc_ir::DType;

use super::lanes::{Group, for_groups};
use super::{CacheShape, kernel};
use crate::kir::{I64, KernelBuilder, Scalar, Vf};

/// Positions side by side in a `keys16` cache.
const KEYS: i64 = 16;

/// A unit is a token.
pub(super) fn kv_append(b: &mut KernelBuilder, kernel: &kernel::KvAppend) {
    let &kernel::KvAppend { call, cache, k_cache, v_cache, k, v, position, capacity } = kernel;
    let head_bytes = 4 * i64::from(cache.head_dim);
    call.for_units(b, |b, token| {
        let place = Place { cache, capacity, position: position.of(b, token) };
        let k = k.of(b, token);
        b.for_loop(0, cache.kv_heads, 1, (), |b, head, ()| {
            let offset = b.mul(head, head_bytes);
            let x = b.add(k, offset);
            let keys = place.keys(b, k_cache, head);
            for_groups(b, cache.head_dim, (), |b, group, ()| {
                let v = group.load(b, x);
                store_key(b, cache, keys, group, 0, v);
            });
        });
        let v = v.of(b, token);
        place.append_values(b, v_cache, v);
    });
}

/// Where a token's keys and values go.
pub(super) struct Place {
    pub(super) cache: CacheShape,
    /// Positions that the caches have room for.
    pub(super) capacity: I64,
    /// Of the token.
    pub(super) position: I64,
}

impl Place {
    /// Address of element 0 of the token's key of `head` in a `keys16` cache.
    pub(super) fn keys(&self, b: &mut KernelBuilder, base: I64, head: I64) -> I64 {
        let bytes = element_bytes(self.cache);
        // (head·C/16 + position/16)·head_dim·16 + position%16, where C is a multiple of 16.
        let first = b.mul(head, self.capacity);
        let inside = b.and(self.position, KEYS - 1);
        let block = b.sub(self.position, inside);
        let first = b.add(first, block);
        let offset = b.mul(first, i64::from(self.cache.head_dim) * bytes);
        let inside = b.mul(inside, bytes);
        let offset = b.add(offset, inside);
        b.add(base, offset)
    }

    /// Stores the row `v` of all heads' values in a cache in rows.
    pub(super) fn append_values(&self, b: &mut KernelBuilder, base: I64, v: I64) {
        let CacheShape { kv_heads, head_dim, dtype } = self.cache;
        let row_bytes = i64::from(head_dim) * element_bytes(self.cache);
        b.for_loop(0, kv_heads, 1, (), |b, head, ()| {
            let offset = b.mul(head, 4 * i64::from(head_dim));
            let x = b.add(v, offset);
            let row = b.mul(head, self.capacity);
            let row = b.add(row, self.position);
            let offset = b.mul(row, row_bytes);
            let to = b.add(base, offset);
            for_groups(b, head_dim, (), |b, group, ()| {
                let value = group.load(b, x);
                let at = group.of(b, to, dtype);
                match dtype {
                    DType::F16 => b.store_f16(at, value, 0, group.lanes),
                    _ => b.store_f32(at, value, 0, group.lanes),
                }
            });
        });
    }
}

/// Stores elements `first + (the group's first) ..` of the key whose element 0 lies at `keys`, 16 elements apart.
pub(super) fn store_key(
    b: &mut KernelBuilder,
    cache: CacheShape,
    keys: I64,
    group: Group,
    first: u32,
    v: Vf,
) {
    let stride = KEYS * element_bytes(cache);
    let base = b.add(keys, i64::from(first) * stride);
    let at = group.strided(b, base, stride);
    match cache.dtype {
        DType::F16 => b.store_f16_strided(at, v, 0, stride as i32, group.lanes),
        _ => {
            let bits = b.as_vi(v);
            for lane in 0..group.lanes {
                let element = b.extract_i32(bits, lane);
                b.store_scalar(at, element, i32::from(lane) * stride as i32, Scalar::I32);
            }
        }
    }
}

fn element_bytes(cache: CacheShape) -> i64 {
    i64::from(cache.dtype.element_bytes().unwrap_or(4))
}
