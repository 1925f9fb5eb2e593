//! Rows of the embedding table as f32.

use super::kernel;
use super::lanes::{for_groups, load_dense};
use crate::kir::KernelBuilder;

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
