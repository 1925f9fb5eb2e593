//! Rows of the embedding table as f32.

use bitnetc_ir::DType;
use bitnetc_ir::weights::{TILE_COLS, TILE_ROWS, TRITS_COLS, TRITS_MAX_COLS};

use super::lanes::{for_groups, load_dense};
use super::{bitlinear, kernel};
use crate::kir::{I64, KernelBuilder, VECTOR_BYTES};

/// A unit is a token. Ids are below the number of rows: the caller has checked them.
pub(super) fn embed(b: &mut KernelBuilder, kernel: &kernel::Embed) {
    let &kernel::Embed { call, width, dtype, ids, table, y } = kernel;
    let row_bytes = i64::from(width) * i64::from(dtype.element_bytes().unwrap_or(4));
    call.for_units(b, |b, token| {
        let at = b.shl(token, 2);
        let at = b.add(ids, at);
        let id = b.load_int(at, 0);
        let id = b.and(id, 0xffff_ffff_i64);
        let offset = b.mul(id, row_bytes);
        let row = b.add(table, offset);
        let y = y.of(b, token);
        for_groups(b, width, (), |b, group, ()| {
            let at = group.of(b, row, dtype);
            let v = load_dense(b, at, 0, group.lanes, dtype, true);
            group.store(b, y, v);
        });
    });
}

/// Scratch of [`embed_ternary`]: the codes of a row, a byte each, to the end of the last group.
pub(super) fn scratch_bytes(width: u32) -> u64 {
    u64::from(width.min(1 << 30).next_multiple_of(TILE_COLS).max(width.min(TRITS_MAX_COLS) + TRITS_COLS))
        + VECTOR_BYTES as u64
}

/// A unit is a token. The codes of a row are one lane of each group of its tile; they go through the scratch, and from there to
/// the elements, times the scales. Ids are below the number of rows: the caller has checked them.
pub(super) fn embed_ternary(b: &mut KernelBuilder, kernel: &kernel::EmbedTernary) {
    let &kernel::EmbedTernary { call, width, layout, group, ids, table, scales, y, scratch } = kernel;
    let stored = if layout.has_five_a_byte() { TRITS_COLS } else { TILE_COLS };
    let groups = i64::from(width.div_ceil(stored));
    let scale_cols = if group == 0 { width } else { group };
    let of_row = i64::from(width / scale_cols);
    call.for_units(b, |b, token| {
        let at = b.shl(token, 2);
        let at = b.add(ids, at);
        let id = b.load_int(at, 0);
        let id = b.and(id, 0xffff_ffff_i64);
        let tile = b.shr(id, TILE_ROWS.ilog2() as u8);
        let lane = b.and(id, i64::from(TILE_ROWS) - 1);
        let lane = b.shl(lane, 2);
        let at = b.mul(tile, groups * VECTOR_BYTES as i64);
        let at = b.add(at, lane);
        let row = b.add(table, at);
        b.for_loop(0, groups, 1, (), |b, index, ()| {
            let at = b.mul(index, VECTOR_BYTES as i64);
            let from = b.add(row, at);
            let at = b.mul(index, i64::from(stored));
            let to = b.add(scratch, at);
            bitlinear::store_codes(b, layout, from, to);
        });
        let at = b.mul(tile, of_row * 4 * i64::from(TILE_ROWS));
        let at = b.add(at, lane);
        let scales = b.add(scales, at);
        let y = y.of(b, token);
        let scaled = |b: &mut KernelBuilder, index: I64| {
            let at = b.mul(index, 4 * i64::from(TILE_ROWS));
            let scale = b.add(scales, at);
            let scale = b.broadcast_f32(scale, 0);
            let column = b.mul(index, i64::from(scale_cols));
            let codes = b.add(scratch, column);
            let at = b.shl(column, 2);
            let y = b.add(y, at);
            let one = b.splat_i32(1);
            for_groups(b, scale_cols, (), |b, group, ()| {
                let at = group.of(b, codes, DType::I8);
                let code = b.load_i8(at, 0, group.lanes);
                let weight = b.isub(code, one);
                let weight = b.cvt_i32_f32(weight);
                let v = b.fmul(weight, scale);
                group.store(b, y, v);
            });
        };
        b.for_loop(0, of_row, 1, (), |b, index, ()| scaled(b, index));
    });
}
