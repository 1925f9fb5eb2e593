//! Matrices of 1.6 bits a weight: five digits of base 3 in a byte, as a fraction of 256 (`trits16`); and for many tokens also those
//! whose bytes tables decode (`lut16`, [`super::lut`]).
//!
//! With F₀ the stored bytes and Fₖ₊₁ = 3·Fₖ mod 256, byte by byte, digit k is (3·Fₖ − Fₖ₊₁)/256. For one token no digit is
//! made at all ([`Form::Telescoped`]): Σ dₖ·xₖ = (3·Σ Fₖ·xₖ − Σ Fₖ₊₁·xₖ)/256, two byte additions and two products for each
//! digit of 64 weights. The sums wrap around 2^32, but 256·Σ dₖ·xₖ fits in 32 bits for every matrix that the layout holds
//! (`TRITS_MAX_COLS`), so the difference is exact. For many tokens the row tiles are brought into the form of `tile16` in
//! the scratch, once for all tokens of the call ([`tile16`]): five neighbouring columns of four are five fields in both.
//!
//! The digit itself, where it is needed, is the two highest bits of ⌊3·F/4⌋, and that is the average of F with the
//! average of F and 0, both rounded down. Rounding down is what the rounding average does to complements.

use bitnetc_ir::Layout;
use bitnetc_ir::weights::{TILE_COLS, TRITS, TRITS_COLS, TRITS_MAX_COLS};

use super::lut::{self, Decoded};
use super::{GROUP_BYTES, Matrix};
use crate::kernels::{Registers, prefetch};
use crate::kir::{I64, KernelBuilder, Vb, Vi};

/// Columns per digit and byte lane, and per field and byte lane of `tile16`.
const FIELD_COLS: i32 = 4;
/// Fields of a group of `tile16`.
const FIELDS: usize = 4;
/// Groups that fill up whole groups of `tile16`: 4 · 20 = 5 · 16 columns.
pub(super) const BLOCK_GROUPS: u32 = 4;
/// Most row tiles that are in the scratch at a time.
const EXPANDED_TILES: usize = 8;

/// How one token's sums are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Σ Fₖ·xₖ and Σ Fₖ₊₁·xₖ, two accumulators per tile.
    Telescoped,
    /// Σ 64·dₖ·xₖ, one accumulator per tile; for machines on which products with bytes above 128 are dear.
    Digits,
}

impl Form {
    fn new(registers: Registers) -> Self {
        if registers.whole_byte_dot() { Form::Telescoped } else { Form::Digits }
    }
}

/// Row tiles of one token that go together.
pub(super) fn tiles(registers: Registers) -> usize {
    if registers.vectors() >= 24 { 4 } else { 1 }
}

/// Groups per iteration for one token.
fn unroll(registers: Registers) -> u32 {
    if registers.vectors() >= 8 { 2 } else { 1 }
}

/// Constants of the extraction of digits.
#[derive(Clone, Copy)]
struct Digits {
    ones: Vi,
    top: Vi,
}

impl Digits {
    fn new(b: &mut KernelBuilder) -> Self {
        Self { ones: b.splat_i32(-1), top: b.splat_i32(i32::from_le_bytes([0xc0; 4])) }
    }

    /// 64 times the first digit of every byte.
    fn of(&self, b: &mut KernelBuilder, f: Vb) -> Vi {
        let f = b.as_vi(f);
        let complement = b.bxor(f, self.ones);
        let complement = b.as_vb(complement);
        let ones = b.as_vb(self.ones);
        let half = b.bavg(complement, ones);
        let three_quarters = b.bavg(complement, half);
        let three_quarters = b.as_vi(three_quarters);
        b.bandn(self.top, three_quarters)
    }
}

/// The codes of 64 bytes, taken one after the other.
enum Codes {
    /// Of `trits16`: what is left of the fraction.
    Fraction(Digits, Vb),
    /// Of `lut16`.
    Decoded(Decoded),
}

impl Codes {
    /// 64 times code `k`; `k` counts up from 0.
    fn at_top(&mut self, b: &mut KernelBuilder, k: usize) -> Vi {
        match self {
            Codes::Fraction(digits, rest) => {
                if k > 0 {
                    *rest = tripled(b, *rest);
                }
                digits.of(b, *rest)
            }
            Codes::Decoded(decoded) => decoded.at_top(b, k),
        }
    }
}

/// The codes of a group in `layout`, which has five a byte, a byte each: of one field after the other.
pub(super) fn codes(b: &mut KernelBuilder, layout: Layout, group: Vi) -> Vec<Vi> {
    let bytes = b.as_vb(group);
    let mut codes = match layout {
        Layout::Lut16 => Codes::Decoded(Decoded::new(b, bytes)),
        _ => Codes::Fraction(Digits::new(b), bytes),
    };
    let mut field = |k| {
        let code = codes.at_top(b, k);
        b.ushr(code, 6)
    };
    (0..TRITS).map(&mut field).collect()
}

/// How the digits of fractions are multiplied field by field: as [`Form`] says, with the sums of fields taken apart.
pub(super) struct Telescope(Option<Digits>);

impl Telescope {
    pub(super) fn new(b: &mut KernelBuilder, registers: Registers) -> Self {
        Self((Form::new(registers) == Form::Digits).then(|| Digits::new(b)))
    }

    /// 64 times the first digit of what is left of the fractions; `None` where no digit is made, and they are multiplied before and
    /// after they are tripled, into two sums.
    pub(super) fn digit(&self, b: &mut KernelBuilder, rest: Vb) -> Option<Vb> {
        let digit = self.0.as_ref()?.of(b, rest);
        Some(b.as_vb(digit))
    }

    /// The sum over digits that the sums stand for.
    pub(super) fn total(&self, b: &mut KernelBuilder, first: Option<Vi>, second: Option<Vi>) -> Vi {
        combine(b, &[first, second].into_iter().flatten().collect::<Vec<_>>())
    }
}

/// The sum over digits of one sum of 64 times them, or of the two that telescope.
fn combine(b: &mut KernelBuilder, sums: &[Vi]) -> Vi {
    match *sums {
        [first, second] => {
            let tripled = b.iadd(first, first);
            let tripled = b.iadd(tripled, first);
            let difference = b.isub(tripled, second);
            b.sshr(difference, 8)
        }
        [sum] => b.sshr(sum, 6),
        _ => b.splat_i32(0),
    }
}

/// 3·f mod 256.
pub(super) fn tripled(b: &mut KernelBuilder, f: Vb) -> Vb {
    let doubled = b.badd(f, f);
    b.badd(doubled, f)
}

/// Sums of codes times activation codes for every tile at `tiles` and the row at `x`: one lane per matrix row. `next` is the distance
/// from each tile to the one whose bytes are prefetched meanwhile.
pub(super) fn dot(
    b: &mut KernelBuilder,
    registers: Registers,
    tiles: &[I64],
    x: I64,
    groups: u32,
    next: i64,
) -> Vec<Vi> {
    let (form, unroll) = (Form::new(registers), unroll(registers));
    let accumulators = if form == Form::Telescoped { 2 } else { 1 };
    let digits = (form == Form::Digits).then(|| Digits::new(b));
    let zero = b.splat_i32(0);
    let mut sums = vec![vec![zero; accumulators]; tiles.len()];
    let step = |b: &mut KernelBuilder, tiles: &[I64], x: I64, groups: u32, mut sums: Vec<Vec<Vi>>| {
        for group in 0..groups as i32 {
            tiles.iter().for_each(|&tile| prefetch::stream(b, tile, group * GROUP_BYTES as i32, Some(next)));
            let mut rest: Vec<Vb> =
                tiles.iter().map(|&tile| b.load_bytes(tile, group * GROUP_BYTES as i32, 64)).collect();
            for digit in 0..TRITS as i32 {
                let codes = b.broadcast_i32(x, group * TRITS_COLS as i32 + digit * FIELD_COLS);
                let codes = b.as_vb(codes);
                for (f, sums) in rest.iter_mut().zip(&mut sums) {
                    match &digits {
                        None => {
                            sums[0] = b.dot_u8i8(sums[0], *f, codes, u8::MAX);
                            *f = tripled(b, *f);
                            sums[1] = b.dot_u8i8(sums[1], *f, codes, u8::MAX);
                        }
                        Some(digits) => {
                            let d = digits.of(b, *f);
                            let d = b.as_vb(d);
                            sums[0] = b.dot_u8i8(sums[0], d, codes, 128);
                            if digit + 1 < TRITS as i32 {
                                *f = tripled(b, *f);
                            }
                        }
                    }
                }
            }
        }
        sums
    };
    let whole = groups / unroll * unroll;
    let mut x = x;
    if whole > 0 {
        let (end, stride) = (i64::from(whole) * GROUP_BYTES, i64::from(unroll) * GROUP_BYTES);
        (x, sums) = b.for_loop(0, end, stride, (x, sums), |b, at, (x, sums)| {
            let tiles: Vec<I64> = tiles.iter().map(|&t| b.add(t, at)).collect();
            let sums = step(b, &tiles, x, unroll, sums);
            (b.add(x, i64::from(unroll * TRITS_COLS)), sums)
        });
    }
    if groups > whole {
        let at = i64::from(whole) * GROUP_BYTES;
        let tiles: Vec<I64> = tiles.iter().map(|&t| b.add(t, at)).collect();
        sums = step(b, &tiles, x, groups - whole, sums);
    }
    sums.into_iter().map(|sums| combine(b, &sums)).collect()
}

/// Groups of `tile16` that a row tile of so many groups fills, the last one perhaps in part.
fn expanded_groups(groups: u32) -> u32 {
    (groups * TRITS_COLS).div_ceil(TILE_COLS)
}

/// Bytes of a row tile in the scratch.
fn expanded_bytes(groups: u32) -> i64 {
    i64::from(expanded_groups(groups)) * GROUP_BYTES
}

/// Scratch of a kernel for many tokens.
pub(super) fn scratch_bytes(cols: u32, layout: Layout) -> u64 {
    if !layout.has_five_a_byte() {
        return 0;
    }
    let groups = cols.min(TRITS_MAX_COLS).div_ceil(TRITS_COLS);
    EXPANDED_TILES as u64 * expanded_bytes(groups) as u64
}

/// As [`scratch_bytes`], of a matrix.
pub(super) fn scratch_of(matrix: Matrix) -> u64 {
    scratch_bytes(matrix.cols, matrix.layout)
}

/// Row tiles in the form of `tile16`, with their number of groups: those at `tiles` (neighbours, as stored) themselves, or
/// copies in the scratch.
pub(super) fn tile16(
    b: &mut KernelBuilder,
    scratch: I64,
    matrix: Matrix,
    tiles: Vec<I64>,
) -> (Vec<I64>, u32) {
    let groups = matrix.groups();
    if !matrix.layout.has_five_a_byte() {
        return (tiles, groups);
    }
    assert!(tiles.len() <= EXPANDED_TILES, "the blocking of gemm keeps to the scratch");
    let stored = matrix.tile_bytes();
    b.for_loop(0, tiles.len() as i64 * stored, stored, scratch, |b, at, to| {
        let from = b.add(tiles[0], at);
        expand(b, matrix.layout, from, to, groups);
        b.add(to, expanded_bytes(groups))
    });
    let copies = (0..tiles.len() as i64).map(|i| b.add(scratch, i * expanded_bytes(groups))).collect();
    (copies, matrix.cols.div_ceil(TILE_COLS))
}

/// Brings the row tile at `from` into the form of `tile16` at `to`.
fn expand(b: &mut KernelBuilder, layout: Layout, from: I64, to: I64, groups: u32) {
    let digits = (layout == Layout::Trits16).then(|| Digits::new(b));
    let whole = groups / BLOCK_GROUPS * BLOCK_GROUPS;
    let end = i64::from(whole) * GROUP_BYTES;
    let mut to = to;
    if whole > 0 {
        to = b.for_loop(0, end, i64::from(BLOCK_GROUPS) * GROUP_BYTES, to, |b, at, to| {
            let from = b.add(from, at);
            match digits {
                Some(_) => expand_groups(b, digits, from, to, BLOCK_GROUPS),
                None => lut::expand_block(b, from, to),
            }
            b.add(to, expanded_bytes(BLOCK_GROUPS))
        });
    }
    if groups > whole {
        let from = b.add(from, end);
        expand_groups(b, digits, from, to, groups - whole);
    }
}

/// As [`expand`], for at most [`BLOCK_GROUPS`] groups; with `digits` of `trits16`, else of `lut16`. Fields that are left over in
/// the last group get the code 0.
fn expand_groups(b: &mut KernelBuilder, digits: Option<Digits>, from: I64, to: I64, groups: u32) {
    let mut field = 0;
    let mut packed: Option<Vi> = None;
    for group in 0..groups as i32 {
        let bytes = b.load_bytes(from, group * GROUP_BYTES as i32, 64);
        let mut codes = match digits {
            Some(digits) => Codes::Fraction(digits, bytes),
            None => Codes::Decoded(Decoded::new(b, bytes)),
        };
        for digit in 0..TRITS {
            // Shifted to the place of the field.
            let code = codes.at_top(b, digit);
            let slot = field % FIELDS;
            let code = if slot + 1 < FIELDS { b.ushr(code, 6 - 2 * slot as u8) } else { code };
            packed = Some(match packed {
                Some(packed) => b.bor(packed, code),
                None => code,
            });
            field += 1;
            let last = group + 1 == groups as i32 && digit + 1 == TRITS;
            if (field.is_multiple_of(FIELDS) || last)
                && let Some(packed) = packed.take()
            {
                let at = (field - 1) / FIELDS * GROUP_BYTES as usize;
                let packed = b.as_vb(packed);
                b.store_bytes(to, packed, at as i32, 64);
            }
        }
    }
}
