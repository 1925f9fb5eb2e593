//! Layers with a recurrent state. A unit is 16 elements of the result for all tokens, with the part of the state that belongs to
//! them: channels of the convolution and columns of the delta rule do not depend on each other.

use super::args::{Position, TokenRows};
use super::kernel;
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vf};

/// Bytes of a vector of f32.
const VECTOR: i64 = 4 * LANES as i64;

/// The result may take the place of x: what later tokens need of it stays in registers.
pub(super) fn causal_conv(b: &mut KernelBuilder, kernel: &kernel::CausalConv) {
    let &kernel::CausalConv { call, channels, taps, x, w, state, y, position } = kernel;
    let row = 4 * i64::from(channels);
    let zero = b.splat_f32(0.0);
    call.for_units(b, |b, unit| {
        let at = b.mul(unit, VECTOR);
        let (w, state) = (b.add(w, at), b.add(state, at));
        let (x, y) = (x.skip(b, at), y.skip(b, at));
        let rows: Vec<I64> = (0..i64::from(taps) - 1).map(|i| b.add(state, i * row)).collect();
        let before = b.if_else(
            position.first(),
            IntCond::Eq,
            0,
            |_| vec![zero; rows.len()],
            |b| rows.iter().map(|&row| b.load_f32(row, 0, LANES as u8)).collect(),
        );
        let last = b.for_loop(0, call.tokens, 1, before, |b, token, mut window| {
            let x = x.of(b, token);
            window.push(b.load_f32(x, 0, LANES as u8));
            let mut sum = zero;
            for (tap, &x) in (0..).zip(&window) {
                let w = b.add(w, tap * row);
                let w = b.load_f32(w, 0, LANES as u8);
                sum = b.fma(w, x, sum);
            }
            let y = y.of(b, token);
            b.store_f32(y, sum, 0, LANES as u8);
            window.remove(0);
            window
        });
        for (row, v) in rows.into_iter().zip(last) {
            b.store_f32(row, v, 0, LANES as u8);
        }
    });
}

/// Vectors of a head's values that go together, where the registers hold them.
const TOGETHER: i64 = 4;

/// Vectors from which on they do.
const MANY_REGISTERS: usize = 24;

/// The result may take the place of v.
pub(super) fn delta_rule(b: &mut KernelBuilder, kernel: &kernel::DeltaRule) {
    let &kernel::DeltaRule { call, key_heads, heads, d, q, k, v, decay, beta, state, y, position } = kernel;
    debug_assert!(heads.is_multiple_of(key_heads));
    let rule = Rule { key_heads, d, tokens: call.tokens, q, k, v, decay, beta, state, y, position };
    let together = call.registers.vectors() >= MANY_REGISTERS && d % (TOGETHER as u32 * LANES as u32) == 0;
    if !together {
        return call.for_units(b, |b, unit| rule.run(b, unit, 1));
    }
    // Groups that begin at a multiple of their size lie in one head.
    let above = b.add(call.unit_begin, TOGETHER - 1);
    let first = b.and(above, -TOGETHER);
    let first = b.min(first, call.unit_end);
    let last = b.and(call.unit_end, -TOGETHER);
    let last = b.max(last, first);
    b.for_loop(call.unit_begin, first, 1, (), |b, unit, ()| rule.run(b, unit, 1));
    b.for_loop(first, last, TOGETHER, (), |b, unit, ()| rule.run(b, unit, TOGETHER));
    b.for_loop(last, call.unit_end, 1, (), |b, unit, ()| rule.run(b, unit, 1));
}

/// What the delta rule works on.
struct Rule {
    key_heads: u32,
    /// Elements of a key and of a value.
    d: u32,
    tokens: I64,
    q: TokenRows,
    k: TokenRows,
    v: TokenRows,
    decay: TokenRows,
    beta: TokenRows,
    state: I64,
    y: TokenRows,
    position: Position,
}

impl Rule {
    /// `count` units from `unit` on, of one head, for all tokens.
    fn run(&self, b: &mut KernelBuilder, unit: I64, count: i64) {
        let d = i64::from(self.d);
        let units = d / LANES as i64;
        let head = b.udiv(unit, units);
        let key = b.urem(head, i64::from(self.key_heads));
        let key = b.mul(key, 4 * d);
        let matrix = b.mul(head, 4 * d * d);
        let inside = b.urem(unit, units);
        let inside = b.mul(inside, VECTOR);
        let matrix = b.add(matrix, inside);
        let matrix = b.add(self.state, matrix);
        b.if_then(self.position.first(), IntCond::Eq, 0, |b| {
            let zero = b.splat_f32(0.0);
            b.for_loop(0, 4 * d * d, 4 * d, (), |b, at, ()| {
                let row = b.add(matrix, at);
                for i in 0..count {
                    b.store_f32(row, zero, (i * VECTOR) as i32, LANES as u8);
                }
            });
        });
        let at_head = b.mul(head, 4);
        let at_unit = b.mul(unit, VECTOR);
        b.for_loop(0, self.tokens, 1, (), |b, token, ()| {
            let at = |b: &mut KernelBuilder, rows: TokenRows, offset: I64| {
                let row = rows.of(b, token);
                b.add(row, offset)
            };
            let (q, k, v) = (at(b, self.q, key), at(b, self.k, key), at(b, self.v, at_unit));
            let (decay, beta) = (at(b, self.decay, at_head), at(b, self.beta, at_head));
            let decay = b.broadcast_f32(decay, 0);
            let predicted = self.predict(b, matrix, k, decay, count);
            let beta = b.broadcast_f32(beta, 0);
            let missing: Vec<Vf> = (0..)
                .zip(predicted)
                .map(|(i, predicted)| {
                    let v = b.load_f32(v, i * VECTOR as i32, LANES as u8);
                    let missing = b.fsub(v, predicted);
                    b.fmul(missing, beta)
                })
                .collect();
            let read = self.correct(b, matrix, (q, k), decay, &missing);
            let y = at(b, self.y, at_unit);
            for (i, v) in (0..).zip(read) {
                b.store_f32(y, v, i * VECTOR as i32, LANES as u8);
            }
        });
    }

    /// What the state gives at the key, once it has decayed.
    fn predict(&self, b: &mut KernelBuilder, matrix: I64, k: I64, decay: Vf, count: i64) -> Vec<Vf> {
        let d = i64::from(self.d);
        let zero = b.splat_f32(0.0);
        b.for_loop(0, 4 * d, 4, vec![zero; count as usize], |b, at, mut sums| {
            let row = b.mul(at, d);
            let row = b.add(matrix, row);
            let k = b.add(k, at);
            let k = b.broadcast_f32(k, 0);
            for (i, sum) in (0..).zip(&mut sums) {
                let s = b.load_f32(row, i * VECTOR as i32, LANES as u8);
                let s = b.fmul(s, decay);
                *sum = b.fma(s, k, *sum);
            }
            sums
        })
    }

    /// Adds what is missing at the key to the state, once it has decayed, and reads it at the query.
    fn correct(
        &self,
        b: &mut KernelBuilder,
        matrix: I64,
        (q, k): (I64, I64),
        decay: Vf,
        missing: &[Vf],
    ) -> Vec<Vf> {
        let d = i64::from(self.d);
        let zero = b.splat_f32(0.0);
        b.for_loop(0, 4 * d, 4, vec![zero; missing.len()], |b, at, mut sums| {
            let row = b.mul(at, d);
            let row = b.add(matrix, row);
            let (q, k) = (b.add(q, at), b.add(k, at));
            let (q, k) = (b.broadcast_f32(q, 0), b.broadcast_f32(k, 0));
            for (i, (sum, &missing)) in (0..).zip(sums.iter_mut().zip(missing)) {
                let s = b.load_f32(row, i * VECTOR as i32, LANES as u8);
                let s = b.fmul(s, decay);
                let s = b.fma(missing, k, s);
                b.store_f32(row, s, i * VECTOR as i32, LANES as u8);
                *sum = b.fma(s, q, *sum);
            }
            sums
        })
    }
}
