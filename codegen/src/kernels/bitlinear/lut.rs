//! Matrices of 1.6 bits a weight whose bytes are decoded by tables (`lut16`).
//!
//! A look-up by the lower six bits of a byte gives its first four codes, two bits each, as a byte of `tile16` has them, and the
//! upper two bits are the fifth. A second look-up gives what is different in an escape (`bitnetc_ir::weights::lut_codes`): by how
//! much a byte exceeds the greatest one that is none, so that its first entry, zeros, is for all others. An escape changes the
//! first three codes and the fifth, never the fourth, so one byte holds all differences.
//!
//! With look-ups in registers that is 13 vector instructions for 64 bytes, of which five are products; `trits16` takes 20,
//! of which ten are. The rest is as for `tile16`: fields that are masked in place have accumulators of their own, which are
//! shifted at the end. On machines without such look-ups they are many instructions each, and one accumulator takes all codes.

use bitnetc_ir::weights::{TRITS, TRITS_COLS, lut_codes};

use super::GROUP_BYTES;
use super::one::{Block, Walk};
use super::tile::{FIELD_COLS, combine};
use super::trits::BLOCK_GROUPS;
use crate::kernels::{Registers, prefetch};
use crate::kir::{I64, KernelBuilder, Table, VECTOR_BYTES, Vb, Vi};

/// The first four codes by the lower six bits of a byte that is no escape, the first in the lowest two bits.
static COMMON: [u8; VECTOR_BYTES] = {
    let mut table = [0; VECTOR_BYTES];
    let mut index = 0;
    while index < VECTOR_BYTES {
        table[index] = four(index as u8);
        index += 1;
    }
    table
};

/// What an escape changes, by its distance from [`LAST_COMMON`]: of the first three codes where they are, of the fifth in the
/// upper two bits. The greatest byte, which holds no weights, has no entry.
static DIFFERENCES: [u8; VECTOR_BYTES] = {
    let mut table = [0; VECTOR_BYTES];
    let mut distance = 1;
    while distance < VECTOR_BYTES {
        let byte = LAST_COMMON + distance as u8;
        let fifth = lut_codes(byte)[TRITS - 1] ^ 3;
        table[distance] = (four(byte) ^ four(byte & 63)) | fifth << 6;
        distance += 1;
    }
    table
};

/// The greatest byte that is no escape.
const LAST_COMMON: u8 = 0xbf;
/// The place of the fifth code, and of the fourth after a look-up.
const TOP: i32 = i32::from_le_bytes([0xc0; 4]);

/// The first four codes of a byte, two bits each.
const fn four(byte: u8) -> u8 {
    let [a, b, c, d, _] = lut_codes(byte);
    a | b << 2 | c << 4 | d << 6
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
    bytes: Vi,
    common: Vi,
    differences: Vi,
}

impl Decoded {
    pub(super) fn new(b: &mut KernelBuilder, bytes: Vb) -> Self {
        let last = b.splat_i32(i32::from_le_bytes([LAST_COMMON; 4]));
        let last = b.as_vb(last);
        let distance = b.bsubs(bytes, last);
        let common = b.blookup(bytes, Table(&COMMON));
        let differences = b.blookup(distance, Table(&DIFFERENCES));
        Self { bytes: b.as_vi(bytes), common: b.as_vi(common), differences: b.as_vi(differences) }
    }

    /// 4^k times code `k`; the fifth is 64 times itself.
    pub(super) fn in_place(&self, b: &mut KernelBuilder, k: usize) -> Vi {
        let mask = b.splat_i32(if k + 1 == TRITS { TOP } else { 0x0303_0303 << (2 * k) });
        match TRITS - k {
            1 => b.bxor_masked(self.bytes, self.differences, mask),
            2 => b.band(self.common, mask),
            _ => b.bxor_masked(self.common, self.differences, mask),
        }
    }

    /// 64 times code `k`.
    pub(super) fn at_top(&self, b: &mut KernelBuilder, k: usize) -> Vi {
        let code = self.in_place(b, k);
        if k + 2 >= TRITS { code } else { b.ishl(code, 6 - 2 * k as u8) }
    }

    /// Code `k` as `form` multiplies it: bytes, their greatest value, and the accumulator.
    fn factor(&self, b: &mut KernelBuilder, form: Form, k: usize) -> (Vb, u8, usize) {
        let code = self.in_place(b, k);
        let field = k.min(TRITS - 2);
        match form {
            Form::InPlace { accumulators } => (b.as_vb(code), 2 << (2 * field), k.min(accumulators - 1)),
            Form::Shifted => {
                let code = if field == 0 { code } else { b.ushr(code, 2 * field as u8) };
                (b.as_vb(code), 2, 0)
            }
        }
    }
}

/// Brings the [`BLOCK_GROUPS`] groups at `from` into the form of `tile16` at `to`: the first four codes of a group stay together
/// as fields, moved by as many fields as fifth codes came before.
pub(super) fn expand_block(b: &mut KernelBuilder, from: I64, to: I64) {
    let bytes = |byte: u8| i32::from_le_bytes([byte; 4]);
    let store = |b: &mut KernelBuilder, fields: Vi, group: u32| {
        let fields = b.as_vb(fields);
        b.store_bytes(to, fields, group as i32 * GROUP_BYTES as i32, GROUP_BYTES as u8);
    };
    // The first fields of the next group of `tile16`.
    let mut begun = None;
    for group in 0..BLOCK_GROUPS {
        let stored = b.load_bytes(from, group as i32 * GROUP_BYTES as i32, GROUP_BYTES as u8);
        let decoded = Decoded::new(b, stored);
        let mask = b.splat_i32(!TOP);
        let differences = b.band(decoded.differences, mask);
        let four = b.bxor(decoded.common, differences);
        let bits = 2 * group as u8;
        let fields = match begun {
            None => four,
            Some(begun) => {
                let mask = b.splat_i32(bytes(0xff << bits));
                let moved = b.ishl(four, bits);
                let moved = b.band(moved, mask);
                b.bor(begun, moved)
            }
        };
        store(b, fields, group);
        let fifth = decoded.in_place(b, TRITS - 1);
        let fifth = if bits == 6 { fifth } else { b.ushr(fifth, 6 - bits) };
        begun = Some(match bits {
            0 => fifth,
            _ => {
                let mask = b.splat_i32(bytes((1 << bits) - 1));
                let left = b.ushr(four, 8 - bits);
                let left = b.band(left, mask);
                b.bor(left, fifth)
            }
        });
    }
    if let Some(last) = begun {
        store(b, last, BLOCK_GROUPS);
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
                // In the order in which the codes are there.
                for k in [3, 4, 0, 1, 2] {
                    let (codes, most, slot) = decoded.factor(b, form, k);
                    let s = b.broadcast_i32(x, group * TRITS_COLS as i32 + k as i32 * FIELD_COLS);
                    let s = b.as_vb(s);
                    sums[slot] = b.dot_u8i8(sums[slot], codes, s, most);
                }
            }
        }
        sums
    };
    let walk = Walk { first: block.first, x, groups, unroll, group_codes: TRITS_COLS as i32 };
    let sums = walk.sums(b, form.accumulators() * block.tiles, step);
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
