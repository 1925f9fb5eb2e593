//! The inner product for many tokens: one pass over the columns for each field, one accumulator for all four.
//!
//! A field that is masked in place holds its code times a power of four, and shifting it down costs as much as masking
//! it. Instead the fields take turns over a block of columns, the highest first, and between two turns the *sums* are
//! shifted by two bits: Σ 64·c₃·x becomes 16·c₃·x, to which the next turn adds 16·c₂·x, and so on. That is exact, since
//! each sum is a multiple of what it is divided by, and leaves one instruction beside the products for each group of
//! weights and field. What it costs is that a block is read four times, so a block is what fits in the first-level cache.
//! At the start of a block the sums are shifted up again, which is exact too as long as they fit ([`MOST_GROUPS`]).

use super::GROUP_BYTES;
use super::tile::{FIELD_COLS, GROUP_CODES, prefetch};
use crate::kir::{I64, KernelBuilder, Vi};

/// Groups whose sums fit in 32 bits while they are 64 times too large: 2 · 128 · 16 · 64 · groups < 2^31.
pub(super) const MOST_GROUPS: u32 = (1 << 31) / (2 * 128 * 16 * 64) - 1;

/// Bytes of a block of weights and activations: half of a small first-level cache, and a half of the rest.
const BLOCK_BYTES: u32 = 26 << 10;

/// Fields of a byte.
const FIELDS: i32 = 4;

/// Groups in a block: as many as fit, and if possible a divisor of all groups.
fn block_groups(groups: u32, tiles: usize, rows: usize) -> u32 {
    let bytes = GROUP_BYTES as u32 * tiles as u32 + GROUP_CODES as u32 * rows as u32;
    let most = (BLOCK_BYTES / bytes).clamp(1, groups.max(1));
    let divisor = (most.div_ceil(2)..=most).rev().find(|&n| groups.is_multiple_of(n));
    divisor.unwrap_or_else(|| groups.div_ceil(groups.div_ceil(most)))
}

/// As [`tile::dot`](super::tile::dot): sums for every tile at `tiles` and every row at `rows`, as `[tile][row]`.
/// `groups` is at most [`MOST_GROUPS`].
pub(super) fn dot(
    b: &mut KernelBuilder,
    tiles: &[I64],
    rows: &[I64],
    groups: u32,
    next: Option<i64>,
) -> Vec<Vec<Vi>> {
    let zero = b.splat_i32(0);
    let mut sums = vec![vec![zero; rows.len()]; tiles.len()];
    let block = block_groups(groups, tiles.len(), rows.len());
    let whole = groups / block * block;
    if whole == block {
        let (from, to) = (b.int(0), b.int(codes(block)));
        sums = fields(b, tiles, rows, [from, to], sums, next);
    } else if whole > 0 {
        sums = b.for_loop(0, codes(whole), codes(block), sums, |b, from, sums| {
            let sums = each(sums, |sum| b.ishl(sum, 2 * (FIELDS as u8 - 1)));
            let to = b.add(from, codes(block));
            fields(b, tiles, rows, [from, to], sums, next)
        });
    }
    if groups > whole {
        let sums_up = each(sums, |sum| b.ishl(sum, 2 * (FIELDS as u8 - 1)));
        let (from, to) = (b.int(codes(whole)), b.int(codes(groups)));
        sums = fields(b, tiles, rows, [from, to], sums_up, next);
    }
    sums
}

/// Activation bytes of so many groups.
fn codes(groups: u32) -> i64 {
    i64::from(groups) * i64::from(GROUP_CODES)
}

fn each(sums: Vec<Vec<Vi>>, mut f: impl FnMut(Vi) -> Vi) -> Vec<Vec<Vi>> {
    sums.into_iter().map(|of_tile| of_tile.into_iter().map(&mut f).collect()).collect()
}

/// The four turns over the columns `from..to`; `sums` come in 64 times and go out once. `next` is as in
/// [`tile::dot`](super::tile::dot).
fn fields(
    b: &mut KernelBuilder,
    tiles: &[I64],
    rows: &[I64],
    [from, to]: [I64; 2],
    mut sums: Vec<Vec<Vi>>,
    next: Option<i64>,
) -> Vec<Vec<Vi>> {
    for field in (0..FIELDS).rev() {
        let mask = b.splat_i32(0x0303_0303 << (2 * field));
        sums = b.for_loop(from, to, GROUP_CODES.into(), sums, |b, at, mut sums| {
            let down = b.shl(at, 2);
            let masked: Vec<_> = tiles
                .iter()
                .map(|&tile| {
                    let tile = b.add(tile, down);
                    // Once in the four turns, and not in the first one, which fetches this tile.
                    if field == 0 {
                        prefetch(b, &[tile], next, 0);
                    }
                    let v = b.load_bytes(tile, 0, 64);
                    let v = b.as_vi(v);
                    let v = b.band(v, mask);
                    b.as_vb(v)
                })
                .collect();
            for (i, &row) in rows.iter().enumerate() {
                let row = b.add(row, at);
                let codes = b.broadcast_i32(row, field * FIELD_COLS);
                let codes = b.as_vb(codes);
                for (of_tile, &masked) in sums.iter_mut().zip(&masked) {
                    of_tile[i] = b.dot_u8i8(of_tile[i], masked, codes, 2 << (2 * field));
                }
            }
            sums
        });
        if field > 0 {
            sums = each(sums, |sum| b.sshr(sum, 2));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_and_divide_where_they_can() {
        assert_eq!(block_groups(160, 2, 12), 80);
        assert_eq!(block_groups(432, 2, 12), 72);
        assert_eq!(block_groups(1, 2, 12), 1);
        // A prime: nearly equal blocks instead.
        assert_eq!(block_groups(163, 2, 12), 82);
        for groups in 1..500 {
            assert!((1..=83).contains(&block_groups(groups, 2, 12)), "{groups}");
        }
    }

    #[test]
    fn the_largest_sums_fit() {
        let largest = 2 * 128 * 16 * 64 * i64::from(MOST_GROUPS);
        assert!(largest <= i64::from(i32::MAX));
    }
}
