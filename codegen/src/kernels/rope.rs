//! RoPE, alone and together with the append to the caches.
//!
//! The turned elements are written over the others' places only after both of a pair have been read, so queries can be
//! turned in place.

use bitnetc_ir::Pairs;

use super::args::Position;
use super::lanes::{Group, for_groups};
use super::{RopeShape, kernel, kv_append};
use crate::kir::{I64, KernelBuilder, Vf};

/// A unit is a token. The result may take the place of x.
pub(super) fn rope(b: &mut KernelBuilder, kernel: &kernel::Rope) {
    let &kernel::Rope { call, width, rope, x, y, rope_table, position } = kernel;
    call.for_units(b, |b, token| {
        let turn = Turn::new(b, rope, rope_table, position, token);
        let x = x.of(b, token);
        let y = y.of(b, token);
        turn.row(b, x, y, width);
    });
}

/// A unit is a token. The result may take the place of the queries.
pub(super) fn rope_kv_append(b: &mut KernelBuilder, kernel: &kernel::RopeKvAppend) {
    let &kernel::RopeKvAppend { call, q_width, rope, cache, q, k, v, y, .. } = kernel;
    let &kernel::RopeKvAppend { k_cache, v_cache, rope_table, position, capacity, .. } = kernel;
    call.for_units(b, |b, token| {
        let turn = Turn::new(b, rope, rope_table, position, token);
        let q = q.of(b, token);
        let y = y.of(b, token);
        turn.row(b, q, y, q_width);

        let place = kv_append::Place { cache, capacity, position: position.of(b, token) };
        let k = k.of(b, token);
        let head_bytes = 4 * i64::from(cache.head_dim);
        b.for_loop(0, cache.kv_heads, 1, (), |b, head, ()| {
            let offset = b.mul(head, head_bytes);
            let x = b.add(k, offset);
            let keys = place.keys(b, k_cache, head);
            turn.head(b, x, &|b, group, first, v| kv_append::store_key(b, cache, keys, group, first, v));
        });
        let v = v.of(b, token);
        place.append_values(b, v_cache, v);
    });
}

/// The factors of one position.
struct Turn {
    shape: RopeShape,
    cosines: I64,
    sines: I64,
}

impl Turn {
    fn new(b: &mut KernelBuilder, shape: RopeShape, rope_table: I64, position: Position, token: I64) -> Self {
        let position = position.of(b, token);
        let offset = b.mul(position, 8 * i64::from(shape.rot));
        let cosines = b.add(rope_table, offset);
        let sines = b.add(cosines, 4 * i64::from(shape.rot));
        Self { shape, cosines, sines }
    }

    /// Turns every head of the row `x` into the row `y`.
    fn row(&self, b: &mut KernelBuilder, x: I64, y: I64, width: u32) {
        let head_bytes = 4 * i64::from(self.shape.head);
        b.for_loop(0, 4 * i64::from(width), head_bytes, (), |b, at, ()| {
            let (from, to) = (b.add(x, at), b.add(y, at));
            self.head(b, from, &|b, group, first, v| {
                let to = b.add(to, 4 * i64::from(first));
                group.store(b, to, v);
            });
        });
    }

    /// Turns the head at `x`. `store` gets each group of the result: element i of the vector is element
    /// `first + (the group's first) + i` of the head.
    fn head(&self, b: &mut KernelBuilder, x: I64, store: &dyn Fn(&mut KernelBuilder, Group, u32, Vf)) {
        let RopeShape { head, rot, pairs } = self.shape;
        match pairs {
            Pairs::Halves => {
                let half = rot / 2;
                let x1 = b.add(x, 4 * i64::from(half));
                // The second half of the factors: cos again, and sin with its own sign.
                let sines = b.add(self.sines, 4 * i64::from(half));
                for_groups(b, half, (), |b, group, ()| {
                    let (a, z) = (group.load(b, x), group.load(b, x1));
                    let (c, s) = (group.load(b, self.cosines), group.load(b, sines));
                    let (ac, zs) = (b.fmul(a, c), b.fmul(z, s));
                    let low = b.fsub(ac, zs);
                    let (az, zc) = (b.fmul(a, s), b.fmul(z, c));
                    let high = b.fadd(az, zc);
                    store(b, group, 0, low);
                    store(b, group, half, high);
                });
            }
            Pairs::Interleaved => for_groups(b, rot, (), |b, group, ()| {
                let v = group.load(b, x);
                let (c, s) = (group.load(b, self.cosines), group.load(b, self.sines));
                let partner = b.swap_pairs_f32(v);
                let (own, other) = (b.fmul(v, c), b.fmul(partner, s));
                let turned = b.fadd(own, other);
                store(b, group, 0, turned);
            }),
        }
        if head > rot {
            let rest = b.add(x, 4 * i64::from(rot));
            for_groups(b, head - rot, (), |b, group, ()| {
                let v = group.load(b, rest);
                store(b, group, rot, v);
            });
        }
    }
}
