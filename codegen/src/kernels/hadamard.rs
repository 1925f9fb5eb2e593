//! The Walsh-Hadamard transform of blocks of a row, and the transposition of heads that goes before it.
//!
//! Passes whose steps are narrower than a vector take the partner of each lane from a load that lies so much before or after it;
//! for this the block is worked on in the scratch, which has a vector to spare at either end.

use bitnetc_ir::Direction;
use bitnetc_ir::interp::hadamard_factor;

use super::kernel;
use super::lanes::{Group, for_groups};
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vf};

/// Bytes before and after what is worked on in the scratch.
const MARGIN: i64 = 4 * LANES as i64;

/// Elements that are transformed at a time: a block, or all of a row of blocks that are narrower than a vector.
fn part(width: u32, block: u32) -> u32 {
    if (block as usize) < LANES { width } else { block }
}

/// The name of the kernel.
pub(super) fn name(width: u32, block: u32, direction: Direction, signed: bool) -> String {
    let direction = match direction {
        Direction::Forward => "",
        Direction::Inverse => "_inverse",
    };
    let signed = if signed { "_signed" } else { "" };
    format!("hadamard_{width}_b{block}{direction}{signed}")
}

/// Bytes of the scratch.
pub(super) fn scratch_bytes(width: u32, block: u32) -> u64 {
    u64::from(part(width, block).next_multiple_of(LANES as u32)) * 4 + 2 * MARGIN as u64
}

/// A unit is a token. The result may take the place of x.
pub(super) fn hadamard(b: &mut KernelBuilder, kernel: &kernel::Hadamard) {
    let &kernel::Hadamard { call, width, block, direction, signed: is_signed, x, signs, y, scratch } = kernel;
    debug_assert_eq!(is_signed, signs.is_some());
    let part = part(width, block);
    let work = b.add(scratch, MARGIN);
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        b.for_loop(0, 4 * i64::from(width), 4 * i64::from(part), (), |b, at, ()| {
            let (x, y) = (b.add(x, at), b.add(y, at));
            let signs = signs.map(|signs| b.add(signs, at));
            let (before, after) = match direction {
                Direction::Forward => (signs, None),
                Direction::Inverse => (None, signs),
            };
            for_groups(b, part, (), |b, group, ()| {
                let v = group.load(b, x);
                let v = signed(b, group, before, v);
                let v = if block > 1 { neighbours(b, v) } else { v };
                group.store(b, work, v);
            });
            let mut step = 2;
            while step < block {
                match (step as usize) < LANES {
                    true => within_vectors(b, work, part, step),
                    false => between_vectors(b, work, part, step),
                }
                step *= 2;
            }
            let factor = b.splat_f32(hadamard_factor(block));
            for_groups(b, part, (), |b, group, ()| {
                let v = group.load(b, work);
                let v = b.fmul(v, factor);
                let v = signed(b, group, after, v);
                group.store(b, y, v);
            });
        });
    });
}

/// `v` times the signs of its elements, if there are any.
fn signed(b: &mut KernelBuilder, group: Group, signs: Option<I64>, v: Vf) -> Vf {
    match signs {
        Some(signs) => {
            let signs = group.load(b, signs);
            b.fmul(v, signs)
        }
        None => v,
    }
}

/// `partner + v` in the lanes whose number lacks the bit `step`, `partner − v` in the others.
fn butterfly(b: &mut KernelBuilder, v: Vf, partner: Vf, step: u32) -> Vf {
    let lanes = b.iota();
    let bit = b.splat_i32(step as i32);
    let second = b.band(lanes, bit);
    let sign = b.ishl(second, 31 - step.ilog2() as u8);
    let bits = b.as_vi(v);
    let bits = b.bxor(bits, sign);
    let v = b.as_vf(bits);
    b.fadd(partner, v)
}

/// The pass with step 1.
fn neighbours(b: &mut KernelBuilder, v: Vf) -> Vf {
    let partner = b.swap_pairs_f32(v);
    butterfly(b, v, partner, 1)
}

/// A pass whose pairs lie in one vector.
fn within_vectors(b: &mut KernelBuilder, work: I64, part: u32, step: u32) {
    let apart = 4 * i64::from(step);
    for_groups(b, part, (), |b, group, ()| {
        let at = group.words(b, work);
        let v = b.load_f32(at, 0, group.lanes);
        let (later, earlier) = (b.add(at, apart), b.add(at, -apart));
        let (later, earlier) = (b.load_f32(later, 0, group.lanes), b.load_f32(earlier, 0, group.lanes));
        let lanes = b.iota();
        let bit = b.splat_i32(step as i32);
        let second = b.band(lanes, bit);
        let second = b.icmp(second, bit, IntCond::Eq);
        let partner = b.fselect(second, earlier, later);
        let v = butterfly(b, v, partner, step);
        b.store_f32(at, v, 0, group.lanes);
    });
}

/// A pass whose pairs lie in two vectors.
fn between_vectors(b: &mut KernelBuilder, work: I64, part: u32, step: u32) {
    let apart = 4 * i64::from(step);
    b.for_loop(0, 4 * i64::from(part), 2 * apart, (), |b, at, ()| {
        let first = b.add(work, at);
        for_groups(b, step, (), |b, group, ()| {
            let low = group.words(b, first);
            let high = b.add(low, apart);
            let (x, z) = (b.load_f32(low, 0, group.lanes), b.load_f32(high, 0, group.lanes));
            let (sum, difference) = (b.fadd(x, z), b.fsub(x, z));
            b.store_f32(low, sum, 0, group.lanes);
            b.store_f32(high, difference, 0, group.lanes);
        });
    });
}

/// A unit is a token.
pub(super) fn transpose_heads(b: &mut KernelBuilder, kernel: &kernel::TransposeHeads) {
    let &kernel::TransposeHeads { call, width, head, rows, x, y } = kernel;
    let bytes = 4 * i64::from(head);
    let columns = i64::from(width / (head * rows));
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let y = y.of(b, token);
        b.for_loop(0, rows, 1, (), |b, row, ()| {
            let (from, to) = (b.mul(row, columns * bytes), b.mul(row, bytes));
            let (from, to) = (b.add(x, from), b.add(y, to));
            b.for_loop(0, columns, 1, (), |b, column, ()| {
                let (right, down) = (b.mul(column, bytes), b.mul(column, i64::from(rows) * bytes));
                let (from, to) = (b.add(from, right), b.add(to, down));
                for_groups(b, head, (), |b, group, ()| {
                    let v = group.load(b, from);
                    group.store(b, to, v);
                });
            });
        });
    });
}
