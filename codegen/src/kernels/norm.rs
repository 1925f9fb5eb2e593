//! RMSNorm and absmax quantisation, apart and in one, and the L2 norm.
//!
//! The fused kernel gives the bits of the two ops in turn. The normalised row stays in the scratch between the pass for its
//! maximum and the one for its codes: a division takes longer than to load its result again.

use bitnetc_ir::storage::{Q8_A, Q8_SUM, q8_tail};

use super::kernel;
use super::lanes::{Group, for_groups};
use crate::kir::{I64, KernelBuilder, LANES, Vf};

/// Codes are divided by this: the greatest code.
const CODE_MAX: f32 = 127.0;

/// The least maximum, so that a row of zeros has a finite factor.
const ABSMAX_MIN: f32 = 1e-5;

/// A unit is a token.
pub(super) fn rms_norm(b: &mut KernelBuilder, kernel: &kernel::RmsNorm) {
    let &kernel::RmsNorm { call, width, eps, x, weights, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        let norm = Norm::new(b, x, weights, width, eps);
        for_groups(b, width, (), |b, group, ()| {
            let v = norm.element(b, group);
            group.store(b, y, v);
        });
    });
}

/// The norm of each head of `head` elements apart. A unit is a token.
pub(super) fn rms_norm_heads(b: &mut KernelBuilder, kernel: &kernel::RmsNormHeads) {
    let &kernel::RmsNormHeads { call, width, head, eps, x, weights, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        b.for_loop(0, 4 * i64::from(width), 4 * i64::from(head), (), |b, at, ()| {
            let (x, y) = (b.add(x, at), b.add(y, at));
            let norm = Norm::new(b, x, weights, head, eps);
            for_groups(b, head, (), |b, group, ()| {
                let v = norm.element(b, group);
                group.store(b, y, v);
            });
        });
    });
}

/// Each head of `head` elements with length `scale`. A unit is a token.
pub(super) fn l2_norm_heads(b: &mut KernelBuilder, kernel: &kernel::L2NormHeads) {
    let &kernel::L2NormHeads { call, width, head, eps, scale, x, y } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        b.for_loop(0, 4 * i64::from(width), 4 * i64::from(head), (), |b, at, ()| {
            let (x, y) = (b.add(x, at), b.add(y, at));
            let sum = squares(b, x, head);
            let eps = b.splat_f32(f32::from_bits(eps));
            let shifted = b.fadd(sum, eps);
            let root = b.sqrt(shifted);
            let scale = b.splat_f32(f32::from_bits(scale));
            for_groups(b, head, (), |b, group, ()| {
                let v = group.load(b, x);
                let v = b.fdiv(v, root);
                let v = b.fmul(v, scale);
                group.store(b, y, v);
            });
        });
    });
}

/// The sum of the squares of `width` elements, in all lanes.
fn squares(b: &mut KernelBuilder, x: I64, width: u32) -> Vf {
    let zero = b.splat_f32(0.0);
    let squares = for_groups(b, width, zero, |b, group, sum| {
        let v = group.load(b, x);
        b.fma(v, v, sum)
    });
    b.reduce_add_f32(squares)
}

/// A unit is a token.
pub(super) fn rms_norm_quant(b: &mut KernelBuilder, kernel: &kernel::RmsNormQuant) {
    let &kernel::RmsNormQuant { call, width, eps, x, weights, q, scratch: normalised } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let q = q.of(b, token);
        let norm = Norm::new(b, x, weights, width, eps);
        let first = |b: &mut KernelBuilder, group: Group| {
            let v = norm.element(b, group);
            group.store(b, normalised, v);
            v
        };
        quantise(b, width, q, first, |b, group| group.load(b, normalised));
    });
}

/// A unit is a token.
pub(super) fn quant_absmax(b: &mut KernelBuilder, kernel: &kernel::QuantAbsmax) {
    let &kernel::QuantAbsmax { call, width, x, q } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let q = q.of(b, token);
        let load = |b: &mut KernelBuilder, group: Group| group.load(b, x);
        quantise(b, width, q, load, load);
    });
}

/// A row whose root mean square is known.
struct Norm {
    x: I64,
    w: I64,
    /// r in all lanes.
    root: Vf,
}

impl Norm {
    fn new(b: &mut KernelBuilder, x: I64, w: I64, width: u32, eps: u32) -> Self {
        let sum = squares(b, x, width);
        let n = b.splat_f32(width as f32);
        let mean = b.fdiv(sum, n);
        let eps = b.splat_f32(f32::from_bits(eps));
        let shifted = b.fadd(mean, eps);
        let root = b.sqrt(shifted);
        Self { x, w, root }
    }

    /// x / r · w
    fn element(&self, b: &mut KernelBuilder, group: Group) -> Vf {
        let x = group.load(b, self.x);
        let w = group.load(b, self.w);
        let scaled = b.fdiv(x, self.root);
        b.fmul(scaled, w)
    }
}

/// Bytes of a normalised row in the scratch.
pub(super) fn scratch_bytes(width: u32) -> u64 {
    u64::from(width.next_multiple_of(LANES as u32)) * 4
}

/// Writes the `q8` row of the elements that `first` and then `again` give: the same ones; lanes beyond the width give 0.
fn quantise(
    b: &mut KernelBuilder,
    width: u32,
    q: I64,
    first: impl Fn(&mut KernelBuilder, Group) -> Vf,
    again: impl Fn(&mut KernelBuilder, Group) -> Vf,
) {
    let zero = b.splat_i32(0);
    let magnitude = b.splat_i32(0x7fff_ffff);
    let largest = for_groups(b, width, zero, |b, group, largest| {
        let v = first(b, group);
        let bits = b.as_vi(v);
        let bits = b.band(bits, magnitude);
        b.umax(largest, bits)
    });
    let largest = b.reduce_umax_i32(largest);
    let least = b.splat_i32(ABSMAX_MIN.to_bits() as i32);
    let largest = b.umax(largest, least);
    let largest = b.as_vf(largest);
    let code_max = b.splat_f32(CODE_MAX);
    let a = b.fdiv(code_max, largest);
    // |x| is at most the maximum, so the product is at most 127 after rounding, whatever x: no code needs clamping, and
    // none is too large for the conversion. NaN is converted to 0. Lanes beyond the width hold 0 or 0·NaN and give the
    // code 0.
    let sum = for_groups(b, width, zero, |b, group, sum| {
        let v = again(b, group);
        let v = b.fmul(v, a);
        let codes = b.cvt_f32_i32(v);
        let at = group.of(b, q, bitnetc_ir::DType::I8);
        b.store_i8(at, codes, 0, LANES as u8);
        b.iadd(sum, codes)
    });
    let written = width.next_multiple_of(LANES as u32);
    let tail = q8_tail(width);
    let fill = tail - u64::from(written);
    if fill > 0 {
        let zeros = b.as_vb(zero);
        let at = b.add(q, i64::from(written));
        b.store_bytes(at, zeros, 0, fill as u8);
    }
    let sum = b.reduce_add_i32(sum);
    let at = b.add(q, tail as i64);
    b.store_f32(at, a, Q8_A as i32, 1);
    b.store_i32(at, sum, Q8_SUM as i32, 1);
}
