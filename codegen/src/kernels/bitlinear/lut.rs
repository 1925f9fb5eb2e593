//! Matrices of 1.6 bits a weight whose bytes are decoded by tables (`lut16`).
//!
//! A look-up by the lower six bits of a byte gives its first four codes, two bits each, as a byte of `tile16` has them, and the
//! upper two bits are the fifth. Both are replaced where the byte is an escape (`bitnetc_ir::weights::lut_codes`). With look-ups in
//! registers that is 14 vector instructions for 64 bytes, five of them products; `trits16` takes 20, of which ten are. The
//! rest is as for `tile16`: fields that are masked in place have accumulators of their own, which are shifted at the end.
//!
//! On machines without such look-ups the same ops are many instructions each, and one accumulator takes all codes.

use bitnetc_ir::weights::{TRITS, TRITS_COLS, lut_codes};

use super::GROUP_BYTES;
use super::one::Block;
use super::tile::{FIELD_COLS, combine};
use crate::kernels::{Registers, prefetch};
use crate::kir::{I64, KernelBuilder, Table, VECTOR_BYTES, Vb, Vi};

/// The first four codes of a byte that is no escape, by its lower six bits.
static COMMON: [u8; VECTOR_BYTES] = table(0, false);
/// The first four codes of an escape.
static RARE: [u8; VECTOR_BYTES] = table(ESCAPE, false);
/// The fifth code of an escape, in the upper two bits.
static RARE_FIFTH: [u8; VECTOR_BYTES] = table(ESCAPE, true);
/// The upper bits of an escape, and of any byte the place of the fifth code.
const ESCAPE: u8 = 0xc0;

/// For the bytes with these upper bits their first four codes, the first in the lowest two bits; or their fifth, in the highest.
const fn table(upper: u8, fifth: bool) -> [u8; VECTOR_BYTES] {
    let mut table = [0; VECTOR_BYTES];
    let mut index = 0;
    while index < VECTOR_BYTES {
        let [a, b, c, d, last] = lut_codes(upper | index as u8);
        table[index] = if fifth { last << 6 } else { a | b << 2 | c << 4 | d << 6 };
        index += 1;
    }
    table
}

/// How one token's sums are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// By masks only: the code k is 4^k times itself and has an accumulator of its own. The fifth is 64 times itself; it has one
    /// where there are enough, which keeps two products from waiting for each other.
    InPlace { accumulators: usize },
    /// Each code shifted down: one accumulator.
    Shifted,
}

impl Form {
    fn new(registers: Registers) -> Self {
        match (registers.vectors(), tiles(registers)) {
            (24.., 1) => Form::InPlace { accumulators: TRITS },
            (24.., _) => Form::InPlace { accumulators: TRITS - 1 },
            _ => Form::Shifted,
        }
    }

    fn accumulators(self) -> usize {
        match self {
            Form::InPlace { accumulators } => accumulators,
            Form::Shifted => 1,
        }
    }
}

/// Row tiles of one token that go together.
pub(super) fn tiles(registers: Registers) -> usize {
    if registers.vectors() >= 24 && !registers.one_stream() { 4 } else { 1 }
}

/// Groups per iteration for one token.
fn unroll(registers: Registers) -> u32 {
    if registers.vectors() >= 24 { 2 } else { 1 }
}

/// The codes of 64 bytes.
pub(super) struct Decoded {
    four: Vb,
    fifth: Vb,
}

impl Decoded {
    pub(super) fn new(b: &mut KernelBuilder, bytes: Vb) -> Self {
        let top = b.splat_i32(i32::from_le_bytes([ESCAPE; 4]));
        let upper = b.as_vi(bytes);
        let upper = b.band(upper, top);
        let upper = b.as_vb(upper);
        let fifth = b.blookup_escaped(bytes, upper, Table(&RARE_FIFTH));
        let common = b.blookup(bytes, Table(&COMMON));
        Self { four: b.blookup_escaped(bytes, common, Table(&RARE)), fifth }
    }

    /// 64 times code `k`.
    pub(super) fn at_top(&self, b: &mut KernelBuilder, k: usize) -> Vi {
        if k + 1 == TRITS {
            return b.as_vi(self.fifth);
        }
        let top = b.splat_i32(i32::from_le_bytes([ESCAPE; 4]));
        let four = b.as_vi(self.four);
        let moved = if k + 2 == TRITS { four } else { b.ishl(four, 6 - 2 * k as u8) };
        b.band(moved, top)
    }

    /// Code `k` as `form` multiplies it: bytes, their greatest value, and the accumulator.
    fn factor(&self, b: &mut KernelBuilder, form: Form, k: usize) -> (Vb, u8, usize) {
        let fifth = k + 1 == TRITS;
        match form {
            Form::InPlace { accumulators } if fifth => (self.fifth, 2 << 6, accumulators - 1),
            Form::InPlace { .. } => {
                let mask = b.splat_i32(0x0303_0303 << (2 * k));
                let four = b.as_vi(self.four);
                let masked = b.band(four, mask);
                (b.as_vb(masked), 2 << (2 * k), k)
            }
            Form::Shifted => {
                let from = b.as_vi(if fifth { self.fifth } else { self.four });
                let shift = if fifth { 6 } else { 2 * k as u8 };
                let moved = if shift == 0 { from } else { b.ushr(from, shift) };
                let mask = b.splat_i32(0x0303_0303);
                let code = b.band(moved, mask);
                (b.as_vb(code), 2, 0)
            }
        }
    }
}

/// Sums of codes times the activation codes at `x` for every tile of `block`: one lane per matrix row.
pub(super) fn dot(b: &mut KernelBuilder, registers: Registers, block: Block, x: I64, groups: u32) -> Vec<Vi> {
    let (form, unroll) = (Form::new(registers), unroll(registers));
    let step = |b: &mut KernelBuilder, first: I64, x: I64, groups: u32, mut sums: Vec<Vi>| {
        let tiles: Vec<I64> = (0..block.tiles as i64).map(|i| b.add(first, i * block.tile_bytes)).collect();
        for group in 0..groups as i32 {
            let at = group * GROUP_BYTES as i32;
            for (&tile, sums) in tiles.iter().zip(sums.chunks_exact_mut(form.accumulators())) {
                prefetch::stream(b, tile, at, block.far);
                let bytes = b.load_bytes(tile, at, GROUP_BYTES as u8);
                let decoded = Decoded::new(b, bytes);
                // The fifth code is there first.
                for k in (0..TRITS).rev() {
                    let (codes, most, slot) = decoded.factor(b, form, k);
                    let s = b.broadcast_i32(x, group * TRITS_COLS as i32 + k as i32 * FIELD_COLS);
                    let s = b.as_vb(s);
                    sums[slot] = b.dot_u8i8(sums[slot], codes, s, most);
                }
            }
        }
        sums
    };
    let zero = b.splat_i32(0);
    let mut sums = vec![zero; form.accumulators() * block.tiles];
    let mut first = block.first;
    let whole = groups / unroll * unroll;
    let done = i64::from(whole) * i64::from(TRITS_COLS);
    if whole > 0 {
        let stride = i64::from(unroll) * i64::from(TRITS_COLS);
        (first, sums) = b.for_loop(0, done, stride, (first, sums), |b, at, (first, sums)| {
            let x = b.add(x, at);
            let sums = step(b, first, x, unroll, sums);
            (b.add(first, i64::from(unroll) * GROUP_BYTES), sums)
        });
    }
    if groups > whole {
        let x = b.add(x, done);
        sums = step(b, first, x, groups - whole, sums);
    }
    sums.chunks_exact(form.accumulators())
        .map(|of_tile| {
            let mut sums = of_tile.to_vec();
            if sums.len() == TRITS
                && let Some(fifth) = sums.pop()
                && let Some(fourth) = sums.last_mut()
            {
                *fourth = b.iadd(*fourth, fifth);
            }
            combine(b, sums)
        })
        .collect()
}
