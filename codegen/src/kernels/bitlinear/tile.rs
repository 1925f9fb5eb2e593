//! The inner product of row tiles with activation rows.
//!
//! One 64-byte group holds 16 rows × 16 columns: in each 32-bit lane one row, in each two-bit field of its four bytes
//! four neighbouring columns. Four neighbouring codes of the activation, in all lanes, meet one field of a group in one
//! `dot_u8i8`. [`Form`] says how a field is made ready.

use super::GROUP_BYTES;
use crate::kernels::prefetch;
use crate::kir::{I64, KernelBuilder, Vb, Vi};

/// Columns per field and byte lane.
pub(super) const FIELD_COLS: i32 = 4;
/// Activation bytes per group.
pub(super) const GROUP_CODES: i32 = 16;

/// How the fields of a group are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) enum Form {
    /// By masks only: the field f is 4^f times the code, has an accumulator of its own, and this is shifted out at the
    /// end. Fewest instructions, four accumulators per tile and token.
    InPlace,
    /// By masks, after the upper two fields have been shifted down: two accumulators, for codes and for four times the
    /// codes.
    Halves,
    /// Each field shifted down: one accumulator, most instructions; for many tokens, which share them.
    Shifted,
}

impl Form {
    /// Shift before the mask, and accumulator, of each field. Accumulator i holds 4^i times its sum.
    fn fields(self) -> [(u8, usize); 4] {
        match self {
            Form::InPlace => [(0, 0), (0, 1), (0, 2), (0, 3)],
            Form::Halves => [(0, 0), (0, 1), (4, 0), (4, 1)],
            Form::Shifted => [(0, 0), (2, 0), (4, 0), (6, 0)],
        }
    }

    /// Accumulators per tile and token.
    pub(super) fn accumulators(self) -> usize {
        match self {
            Form::InPlace => 4,
            Form::Halves => 2,
            Form::Shifted => 1,
        }
    }
}

/// Sums of codes times activation codes for every tile at `tiles` and every row at `rows`, as `[tile][row]`: one lane
/// per matrix row. `unroll` groups make one iteration. `next` is the distance from each tile to the one whose bytes are
/// prefetched meanwhile, if any are.
pub(super) fn dot(
    b: &mut KernelBuilder,
    form: Form,
    tiles: &[I64],
    rows: &[I64],
    groups: u32,
    unroll: u32,
    next: Option<i64>,
) -> Vec<Vec<Vi>> {
    let masks: Vec<Vi> = (0..form.accumulators()).map(|i| b.splat_i32(0x0303_0303 << (2 * i))).collect();
    let zero = b.splat_i32(0);
    let mut sums = vec![vec![vec![zero; form.accumulators()]; rows.len()]; tiles.len()];
    let step =
        |b: &mut KernelBuilder, tiles: &[I64], rows: &[I64], groups: u32, mut sums: Vec<Vec<Vec<Vi>>>| {
            for group in 0..groups as i32 {
                prefetch(b, tiles, next, group);
                let vectors: Vec<Vi> = tiles
                    .iter()
                    .map(|&tile| {
                        let v = b.load_bytes(tile, group * GROUP_BYTES as i32, 64);
                        b.as_vi(v)
                    })
                    .collect();
                let mut shifted = (0, vectors.clone());
                for (field, (shift, slot)) in (0..).zip(form.fields()) {
                    if shifted.0 != shift {
                        shifted = (shift, vectors.iter().map(|&v| b.ushr(v, shift)).collect());
                    }
                    let mask = masks[slot];
                    let field_of = |b: &mut KernelBuilder, tile: usize| {
                        let v = b.band(shifted.1[tile], mask);
                        b.as_vb(v)
                    };
                    let codes_of = |b: &mut KernelBuilder, row: usize| {
                        let codes = b.broadcast_i32(rows[row], group * GROUP_CODES + field * FIELD_COLS);
                        b.as_vb(codes)
                    };
                    let mut dot = |b: &mut KernelBuilder, tile: usize, row: usize, field: Vb, codes: Vb| {
                        let sum = &mut sums[tile][row][slot];
                        *sum = b.dot_u8i8(*sum, field, codes, 2 << (2 * slot));
                    };
                    // What there are fewer of is kept in registers while the others pass.
                    if tiles.len() <= rows.len() {
                        let fields: Vec<Vb> = (0..tiles.len()).map(|tile| field_of(b, tile)).collect();
                        for row in 0..rows.len() {
                            let codes = codes_of(b, row);
                            (0..).zip(&fields).for_each(|(tile, &field)| dot(b, tile, row, field, codes));
                        }
                    } else {
                        let codes: Vec<Vb> = (0..rows.len()).map(|row| codes_of(b, row)).collect();
                        for tile in 0..tiles.len() {
                            let field = field_of(b, tile);
                            (0..).zip(&codes).for_each(|(row, &codes)| dot(b, tile, row, field, codes));
                        }
                    }
                }
            }
            sums
        };
    let whole = groups / unroll * unroll;
    if whole > 0 {
        let end = i64::from(whole) * i64::from(GROUP_CODES);
        let stride = i64::from(unroll) * i64::from(GROUP_CODES);
        sums = b.for_loop(0, end, stride, sums, |b, at, sums| {
            let rows: Vec<I64> = rows.iter().map(|&x| b.add(x, at)).collect();
            let at = b.shl(at, 2);
            let tiles: Vec<I64> = tiles.iter().map(|&t| b.add(t, at)).collect();
            step(b, &tiles, &rows, unroll, sums)
        });
    }
    if groups > whole {
        let at = i64::from(whole) * i64::from(GROUP_CODES);
        let rows: Vec<I64> = rows.iter().map(|&x| b.add(x, at)).collect();
        let tiles: Vec<I64> = tiles.iter().map(|&t| b.add(t, 4 * at)).collect();
        sums = step(b, &tiles, &rows, groups - whole, sums);
    }
    sums.into_iter().map(|tile| tile.into_iter().map(|sums| combine(b, sums)).collect()).collect()
}

/// The codes of a group, a byte each: of one field after the other.
pub(super) fn codes(b: &mut KernelBuilder, group: Vi) -> Vec<Vi> {
    let mask = b.splat_i32(0x0303_0303);
    let mut field = |bits: u8| {
        let field = if bits > 0 { b.ushr(group, bits) } else { group };
        b.band(field, mask)
    };
    [0, 2, 4, 6].map(&mut field).into()
}

/// Prefetches group `group` of the tiles that lie `next` bytes after these.
pub(super) fn prefetch(b: &mut KernelBuilder, tiles: &[I64], next: Option<i64>, group: i32) {
    let Some(next) = next else { return };
    tiles.iter().for_each(|&tile| prefetch::ahead(b, tile, group * GROUP_BYTES as i32, next, 1));
}

/// Σ sums\[i\] / 4^i; each is a multiple of 4^i.
pub(super) fn combine(b: &mut KernelBuilder, sums: Vec<Vi>) -> Vi {
    let mut total = sums[0];
    for (i, sum) in (1..).zip(sums.into_iter().skip(1)) {
        let sum = b.sshr(sum, 2 * i);
        total = b.iadd(total, sum);
    }
    total
}
