//! What the bytes of a parameter mean, and where they come from.
//!
//! Ternary layouts, for a matrix of R rows and K columns, codes {0, 1, 2} for {−1, 0, +1}, 3 never:
//!
//! - `i2s128` (GGUF `I2_S` as published): element e = r·K + c of the flat matrix lies in byte `(e/128)·32 + e%32`, in bits
//!   `6 − 2g` and `7 − 2g` with g = (e%128)/32. K is a multiple of 128. One scale for the matrix.
//! - `row16`: rows of ⌈K/16⌉ groups of 4 bytes for 16 columns each (filled up with code 1). Element (r, c) lies in byte
//!   `4·(r·⌈K/16⌉ + c/16) + c%4`, in bits `2f` and `2f + 1` with f = (c%16)/4: a row lies as it does in a tile. One scale
//!   per row.
//! - `tile16`: tiles of 16 rows (the last one filled up with rows of code 1), each ⌈K/16⌉ groups of 64 bytes for 16 rows ×
//!   16 columns (columns filled up with code 1). Element (r, c) of a group lies in byte `4·(r%16) + c%4`, in bits `2f` and
//!   `2f + 1` with f = (c%16)/4: each 32-bit lane is one row, each field f of its four bytes four neighbouring columns.
//!   One scale per row.
//! - `trits16`: tiles of 16 rows, each ⌈K/20⌉ groups of 64 bytes for 16 rows × 20 columns, K ≤ [`TRITS_MAX_COLS`]. Element
//!   (r, c) of a group lies in byte `4·(r%16) + c%4`, as the digit k = (c%20)/4 of the five that the byte holds: each 32-bit
//!   lane is one row, each digit of its four bytes four neighbouring columns. The five digits d0…d4 are read as the number
//!   v = Σ dₖ·3^(4−k), which is stored as the fraction v/243 of 256, rounded up ([`trits_byte`]); so the digits are those of
//!   the byte over 256 in base 3, and a kernel gets at them without division ([`trits`]). Every byte holds five digits.
//!   Codes of padded rows and columns are 0. One scale per row.
//! - `lut16`: as `trits16`, and the same elements share a byte, which holds their codes in a way that look-ups in tables of
//!   64 entries undo ([`lut_codes`]). For machines with such look-ups in registers (`vpermb`).
//! - `rows`: the logical matrix; it has no bytes.
//!
//! Where a type has groups of g columns (`_g128`: g = 128; a multiple of 16 that divides K, never with `i2s128`), there is a
//! scale for each group of a row instead: row after row in [`WeightBytes`], and for kernels tile
//! after tile, in each the groups in rising order, in each the 16 rows.
//!
//! Block-quantised matrices are in [`crate::blocks`].
//!
//! A padded column must add nothing to the sum of code times activation. In `tile16` its activation is 0 (rows of
//! activations are filled up to a multiple of 64), so what the code says does not matter. Groups of `trits16` and
//! `lut16` may end after the codes of an activation row, so there the code is 0.

use std::borrow::Cow;

use crate::blocks::{self, BlockFormat, GROUP_SCALES};
use crate::types::{DType, Layout, Type};

/// Bytes and scales of one stored parameter, in the layout that its type names.
#[derive(Clone, Debug)]
pub struct WeightBytes<'a> {
    /// The elements.
    pub bytes: Cow<'a, [u8]>,
    /// For `ter`: one scale for the matrix (`i2s128`), or one for each row or each group of each row, row after row. For
    /// block-quantised matrices: the factor of each row. Empty for other dtypes.
    pub scales: Cow<'a, [f32]>,
}

/// Where the bytes of parameters come from: a GGUF, a plan file, or memory.
pub trait WeightSource: Sync {
    /// The bytes of the parameter of this name (without the `@`), or `None` where this source does not hold it.
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>>;
}

impl WeightSource for std::collections::BTreeMap<String, WeightBytes<'_>> {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        self.get(name)
            .map(|w| WeightBytes { bytes: Cow::Borrowed(&w.bytes), scales: Cow::Borrowed(&w.scales) })
    }
}

/// Rows in a tile of [`Layout::Tile16`], [`Layout::Trits16`] and [`Layout::Lut16`].
pub const TILE_ROWS: u32 = 16;
/// Columns in a 64-byte group of [`Layout::Tile16`].
pub const TILE_COLS: u32 = 16;
/// Columns in a 64-byte group of [`Layout::Trits16`] and [`Layout::Lut16`].
pub const TRITS_COLS: u32 = 20;
/// Most columns of a matrix in [`Layout::Trits16`] and [`Layout::Lut16`]: kernels hold 256 times the sum of code (at most 2) times activation
/// (at least −128) in an i32, and 256·2·128·2^15 = 2^31.
pub const TRITS_MAX_COLS: u32 = 1 << 15;
/// Codes in a byte of [`Layout::Trits16`] and [`Layout::Lut16`].
pub const TRITS: usize = 5;

/// Bytes of a `rows` × `cols` ternary matrix in `layout`; `None` where the layout cannot hold it.
pub fn ternary_bytes(layout: Layout, rows: u32, cols: u32) -> Option<u64> {
    let (rows, cols) = (u64::from(rows), u64::from(cols));
    let groups =
        |width: u32| rows.div_ceil(u64::from(TILE_ROWS)).checked_mul(cols.div_ceil(u64::from(width)));
    match layout {
        Layout::I2s128 => (cols % 128 == 0).then(|| rows * cols / 4),
        Layout::Row16 => rows.checked_mul(cols.div_ceil(u64::from(TILE_COLS)))?.checked_mul(4),
        Layout::Tile16 => groups(TILE_COLS)?.checked_mul(64),
        Layout::Trits16 | Layout::Lut16 => {
            let groups = (cols <= u64::from(TRITS_MAX_COLS)).then(|| groups(TRITS_COLS))??;
            groups.checked_mul(64)
        }
        Layout::Rows | Layout::Keys16 => None,
    }
}

/// Where the scale of group `group` of row `row` stands among the packed scales of a matrix with `groups` groups a row.
pub fn packed_scale_index(groups: u32, row: u32, group: u32) -> u64 {
    let (tile, lane) = (u64::from(row / TILE_ROWS), u64::from(row % TILE_ROWS));
    (tile * u64::from(groups) + u64::from(group)) * u64::from(TILE_ROWS) + lane
}

/// Where the code of element (r, c) lies: byte offset and shift of its two bits. `None` for layouts in which elements
/// have no bits of their own.
pub fn ternary_position(layout: Layout, cols: u32, r: u32, c: u32) -> Option<(u64, u32)> {
    let (k, row, col) = (u64::from(cols), u64::from(r), u64::from(c));
    match layout {
        Layout::I2s128 => {
            let e = row * k + col;
            Some((e / 128 * 32 + e % 32, 6 - 2 * ((e % 128) / 32) as u32))
        }
        Layout::Row16 => Some((4 * (row * k.div_ceil(16) + col / 16) + col % 4, 2 * ((c % 16) / 4))),
        Layout::Tile16 => {
            let group = (row / 16) * k.div_ceil(16) + col / 16;
            Some((group * 64 + 4 * (row % 16) + col % 4, 2 * ((c % 16) / 4)))
        }
        Layout::Trits16 | Layout::Lut16 | Layout::Rows | Layout::Keys16 => None,
    }
}

/// Byte of element (r, c) in [`Layout::Trits16`] and [`Layout::Lut16`], and which of its five codes it is.
fn trit_position(cols: u32, r: u32, c: u32) -> (u64, usize) {
    let (row, col) = (u64::from(r), u64::from(c));
    let group = (row / 16) * u64::from(cols.div_ceil(TRITS_COLS)) + col / u64::from(TRITS_COLS);
    (group * 64 + 4 * (row % 16) + col % 4, (c % TRITS_COLS / 4) as usize)
}

/// The digits of a byte of [`Layout::Trits16`], each 0, 1 or 2: the first five of `byte`/256 in base 3.
///
/// With F₀ = `byte` and Fₖ₊₁ = 3·Fₖ mod 256, the digit k is (3·Fₖ − Fₖ₊₁)/256.
pub fn trits(byte: u8) -> [u8; TRITS] {
    let mut rest = u32::from(byte);
    std::array::from_fn(|_| {
        let tripled = 3 * rest;
        rest = tripled % 256;
        (tripled / 256) as u8
    })
}

/// The byte that holds these digits (each 0, 1 or 2): ⌈256·v/243⌉ with v = Σ dₖ·3^(4−k).
pub fn trits_byte(digits: [u8; TRITS]) -> u8 {
    let v = digits.iter().fold(0, |v, &d| 3 * v + u32::from(d));
    (256 * v).div_ceil(243) as u8
}

/// Numbers of three codes, of the 27, that the lower six bits of a byte of [`Layout::Lut16`] name: 63 with a fourth code.
const LUT_COMMON: u8 = 21;

/// The codes of a byte of [`Layout::Lut16`]: each 0, 1 or 2, but for 3, no weight, as the fifth of 255.
///
/// The first three codes are a number of base 3, v = Σ cₖ·3ᵏ. Where it is below 21 the byte's lower six bits are 21·c₃ + v, and
/// the upper two are c₄. Upper bits 3 are an escape for the other numbers: the lower six bits are 21·c₃ + 3·(v − 21) + c₄, so
/// they name the same c₃ as without an escape, and kernels need not correct it. Bytes that no weights are stored as have zeros
/// for what the rest of the byte does not say.
pub const fn lut_codes(byte: u8) -> [u8; TRITS] {
    let (index, upper) = (byte & 63, byte >> 6);
    let (fourth, rest) = (index / LUT_COMMON, index % LUT_COMMON);
    let (v, fourth, fifth) = match (upper, rest) {
        _ if fourth == 3 => (0, 0, upper),
        (0..=2, _) => (rest, fourth, upper),
        (_, 0..18) => (LUT_COMMON + rest / 3, fourth, rest % 3),
        _ => (0, fourth, 0),
    };
    [v % 3, v / 3 % 3, v / 9, fourth, fifth]
}

/// The byte of [`Layout::Lut16`] that holds these codes (each 0, 1 or 2).
pub const fn lut_byte(codes: [u8; TRITS]) -> u8 {
    let v = codes[0] + 3 * codes[1] + 9 * codes[2];
    let fourth = LUT_COMMON * codes[3];
    match v < LUT_COMMON {
        true => codes[4] << 6 | (fourth + v),
        false => 3 << 6 | (fourth + 3 * (v - LUT_COMMON) + codes[4]),
    }
}

/// The five codes of a byte of `layout`, which has five a byte.
fn five_codes(layout: Layout, byte: u8) -> [u8; TRITS] {
    if layout == Layout::Lut16 { lut_codes(byte) } else { trits(byte) }
}

/// The code of element (r, c) of a matrix in `layout` with `cols` columns: 0, 1 or 2, or 3, which stands for no weight
/// (not in `trits16`). `None` where the layout has no bytes or `bytes` ends before the element.
pub fn ternary_code(layout: Layout, cols: u32, bytes: &[u8], r: u32, c: u32) -> Option<u8> {
    let byte = |at: u64| bytes.get(usize::try_from(at).ok()?).copied();
    if layout.has_five_a_byte() {
        let (at, which) = trit_position(cols, r, c);
        return Some(five_codes(layout, byte(at)?)[which]);
    }
    let (at, shift) = ternary_position(layout, cols, r, c)?;
    Some(byte(at)? >> shift & 3)
}

/// Writes the code (0, 1 or 2) of element (r, c), where [`ternary_code`] reads it, and no other. Returns whether there is
/// such a place.
pub fn set_ternary_code(layout: Layout, cols: u32, bytes: &mut [u8], r: u32, c: u32, code: u8) -> bool {
    let trit = layout.has_five_a_byte().then(|| trit_position(cols, r, c));
    let bits = ternary_position(layout, cols, r, c);
    let at = trit.map(|(at, _)| at).or(bits.map(|(at, _)| at));
    let byte = at.and_then(|at| bytes.get_mut(usize::try_from(at).ok()?));
    match (byte, trit, bits) {
        (Some(byte), Some((_, which)), _) => {
            let mut codes = five_codes(layout, *byte);
            codes[which] = code;
            *byte = if layout == Layout::Lut16 { lut_byte(codes) } else { trits_byte(codes) };
            true
        }
        (Some(byte), None, Some((_, shift))) => {
            *byte = *byte & !(3 << shift) | code << shift;
            true
        }
        _ => false,
    }
}

/// Bytes that the elements of a parameter of this type take as kernels read them, and bytes of its scales (f32, one per
/// row or group, rows filled up to a multiple of 16); `None` for a type that no kernel reads.
pub fn packed_bytes(ty: &Type) -> Option<(u64, u64)> {
    match (ty.dtype, ty.as_matrix()) {
        (DType::Ter, Some((rows, cols))) => {
            let bytes = ternary_bytes(ty.layout, rows, cols)?;
            let rows = u64::from(rows).next_multiple_of(u64::from(TILE_ROWS));
            Some((bytes, rows * u64::from(ty.scale_groups()) * 4))
        }
        (DType::Ter, None) => None,
        (DType::W8 | DType::W6 | DType::W4, matrix) => {
            let (rows, _) = matrix?;
            Some((blocks::packed_bytes(ty)?, u64::from(rows).next_multiple_of(u64::from(TILE_ROWS)) * 4))
        }
        (dtype, _) => Some((ty.elements()?.checked_mul(u64::from(dtype.element_bytes()?))?, 0)),
    }
}

/// Whether none of the f16 in `bytes` is NaN or infinite.
pub fn all_finite_f16(bytes: &[u8]) -> bool {
    const EXPONENT: u16 = 0x7c00;
    let halves = bytes.as_chunks::<2>().0;
    // Without a branch, so that it is done in vectors.
    !halves.iter().fold(false, |any, &half| any | (u16::from_le_bytes(half) & EXPONENT == EXPONENT))
}

/// Whether the f16 in the packed bytes of a parameter of this type are all finite, as kernels take them to be: the elements of an
/// f16 matrix, and the scales of the blocks of `w8` and `w4`, which are a seventeenth and a ninth of their bytes. Whatever
/// else is stored kernels compute with as the interpreter does, NaN and infinities included.
pub fn is_finite(ty: &Type, bytes: &[u8]) -> bool {
    match (BlockFormat::of(ty.dtype), ty.dtype) {
        (Some(format @ (BlockFormat::W8 | BlockFormat::W4)), _) => {
            let groups = bytes.chunks_exact(format.group_bytes() as usize);
            groups.fold(true, |all, group| all & all_finite_f16(&group[..GROUP_SCALES as usize]))
        }
        (_, DType::F16) => all_finite_f16(bytes),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_holds_the_digits_of_its_fraction() {
        for byte in 0..=255u8 {
            let v = trits(byte).iter().fold(0u32, |v, &d| 3 * v + u32::from(d));
            assert_eq!(v, 243 * u32::from(byte) / 256);
            // The byte made of the digits holds the same ones, and is the least that does.
            let least = trits_byte(trits(byte));
            assert_eq!(trits(least), trits(byte));
            assert!(least <= byte && (least == 0 || trits(least - 1) != trits(byte)));
        }
    }

    #[test]
    fn every_five_codes_have_a_byte_of_their_own() {
        let mut taken = [false; 256];
        for v in 0..243u8 {
            let codes = [v % 3, v / 3 % 3, v / 9 % 3, v / 27 % 3, v / 81];
            let byte = lut_byte(codes);
            assert_eq!(lut_codes(byte), codes);
            assert!(!std::mem::replace(&mut taken[usize::from(byte)], true), "{byte}");
        }
        let left: Vec<u8> = (0..=255).filter(|&byte| !taken[usize::from(byte)]).collect();
        assert_eq!(left, [63, 127, 191, 210, 211, 212, 231, 232, 233, 252, 253, 254, 255]);
        assert!(left.iter().all(|&byte| lut_codes(byte)[..3] == [0; 3]));
        // An escape names the fourth code where other bytes do.
        assert!((0..=255).all(|byte| lut_codes(byte)[3] == lut_codes(byte & 63)[3]));
        assert_eq!(lut_codes(255), [0, 0, 0, 0, 3]);
    }

    #[test]
    fn the_telescoped_sum_is_the_sum_over_digits() {
        let weights = [-128i32, 127, 3, -1, 90];
        for byte in 0..=255u8 {
            let mut f = i32::from(byte);
            let mut telescoped = 0;
            for x in weights {
                let next = 3 * f % 256;
                telescoped += (3 * f - next) * x;
                f = next;
            }
            let sum: i32 = trits(byte).iter().zip(weights).map(|(&d, x)| i32::from(d) * x).sum();
            assert_eq!(telescoped, 256 * sum);
        }
    }

    #[test]
    fn sizes_round_up_and_end_at_the_widest_matrix() {
        assert_eq!(ternary_bytes(Layout::Trits16, 1, 1), Some(64));
        assert_eq!(ternary_bytes(Layout::Trits16, 17, 21), Some(256));
        assert_eq!(ternary_bytes(Layout::Trits16, 2560, 6912), Some(160 * 346 * 64));
        assert_eq!(ternary_bytes(Layout::Trits16, 16, TRITS_MAX_COLS), Some(1639 * 64));
        assert_eq!(ternary_bytes(Layout::Trits16, 16, TRITS_MAX_COLS + 1), None);
        assert_eq!(ternary_bytes(Layout::Trits16, u32::MAX, 20), Some((1 << 28) * 64));
    }

    proptest::proptest! {
        #[test]
        fn codes_are_read_where_they_were_written(
            layout in proptest::sample::select(vec![Layout::I2s128, Layout::Tile16, Layout::Trits16, Layout::Lut16]),
            rows in 1u32..40,
            cols in 1u32..90,
            codes in proptest::collection::vec(0u8..3, 40 * 128),
            writes in proptest::collection::vec(0usize..40 * 128, 20),
        ) {
            let cols = if layout == Layout::I2s128 { 128 } else { cols };
            let mut codes = codes[..(rows * cols) as usize].to_vec();
            let mut bytes = vec![0u8; ternary_bytes(layout, rows, cols).unwrap() as usize];
            let place = |i: usize| (i as u32 / cols, i as u32 % cols);
            for (i, &code) in codes.iter().enumerate() {
                let (r, c) = place(i);
                assert!(set_ternary_code(layout, cols, &mut bytes, r, c, code));
            }
            // A later write changes one element only.
            let n = codes.len();
            for i in writes.into_iter().map(|i| i % n) {
                let (r, c) = place(i);
                codes[i] = (codes[i] + 1) % 3;
                assert!(set_ternary_code(layout, cols, &mut bytes, r, c, codes[i]));
            }
            for (i, &code) in codes.iter().enumerate() {
                let (r, c) = place(i);
                assert_eq!(ternary_code(layout, cols, &bytes, r, c), Some(code), "{layout:?} {r} {c}");
            }
        }
    }

    #[test]
    fn what_is_not_there_has_no_code() {
        assert_eq!(ternary_code(Layout::Trits16, 20, &[0; 63], 15, 19), None);
        assert_eq!(ternary_code(Layout::Tile16, 16, &[], 0, 0), None);
        assert_eq!(ternary_code(Layout::Rows, 4, &[0; 64], 0, 0), None);
        assert!(!set_ternary_code(Layout::Keys16, 4, &mut [0; 64], 0, 0, 1));
        assert!(!set_ternary_code(Layout::Trits16, 20, &mut [0; 64], 16, 0, 1));
    }

    #[test]
    fn every_place_of_a_value_that_is_not_finite_is_found() {
        for bad in [0x7c00u16, 0xfc00, 0x7e01] {
            for (ty, scale) in [
                (Type::matrix(DType::F16, 3, 5), 2..4),
                (Type::matrix(DType::W8, 20, 70).with_layout(Layout::Tile16), 62..64),
                (Type::matrix(DType::W4, 20, 70).with_layout(Layout::Tile16), 0..2),
            ] {
                let (bytes, _) = packed_bytes(&ty).unwrap();
                let mut bytes = vec![0u8; bytes as usize];
                assert!(is_finite(&ty, &bytes), "{ty}");
                let group = BlockFormat::of(ty.dtype).map_or(2, |f| f.group_bytes() as usize);
                let last = bytes.len() - group;
                for start in [0, last] {
                    let at = if group == 2 { start } else { start + scale.start };
                    bytes[at..at + 2].copy_from_slice(&bad.to_le_bytes());
                    assert!(!is_finite(&ty, &bytes), "{ty} {at}");
                    bytes[at..at + 2].copy_from_slice(&0x7bffu16.to_le_bytes());
                    assert!(is_finite(&ty, &bytes), "{ty} {at}");
                }
            }
        }
        // Codes may be anything.
        let ty = Type::matrix(DType::W8, 16, 64).with_layout(Layout::Tile16);
        let mut bytes = vec![0xffu8; packed_bytes(&ty).unwrap().0 as usize];
        bytes[..64].fill(0);
        assert!(is_finite(&ty, &bytes));
    }
}
