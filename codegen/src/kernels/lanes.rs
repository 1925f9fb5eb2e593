//! Loops that the families share: over the groups of 16 lanes of a row, and over a range in tiles of falling size.

use bitnetc_ir::DType;

use crate::kir::{Carry, I64, KernelBuilder, LANES, Vf};

/// One group of at most 16 neighbouring elements of a row.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// Four times the number of the first element.
    at: I64,
    /// Elements in the group.
    pub(crate) lanes: u8,
}

impl Group {
    /// Address of the group's first element in a row of 4-byte elements.
    pub(crate) fn words(self, b: &mut KernelBuilder, row: I64) -> I64 {
        b.add(row, self.at)
    }

    /// Address of the group's first element in a row of `dtype`.
    pub(crate) fn of(self, b: &mut KernelBuilder, row: I64, dtype: DType) -> I64 {
        let shift = match dtype.element_bytes() {
            Some(1) => 2,
            Some(2) => 1,
            _ => return self.words(b, row),
        };
        let at = b.shr(self.at, shift);
        b.add(row, at)
    }

    /// Address of the group's first element where elements lie `stride` bytes apart, a multiple of 4.
    pub(crate) fn strided(self, b: &mut KernelBuilder, base: I64, stride: i64) -> I64 {
        let at = b.mul(self.at, stride / 4);
        b.add(base, at)
    }

    /// Loads f32.
    pub(crate) fn load(self, b: &mut KernelBuilder, row: I64) -> Vf {
        let at = self.words(b, row);
        b.load_f32(at, 0, self.lanes)
    }

    /// Stores f32.
    pub(crate) fn store(self, b: &mut KernelBuilder, row: I64, v: Vf) {
        let at = self.words(b, row);
        b.store_f32(at, v, 0, self.lanes);
    }
}

/// Runs `body` for each group of a row of `n` elements, in rising order: in a loop over the whole groups, then once for
/// what is left.
pub(crate) fn for_groups<C: Carry>(
    b: &mut KernelBuilder,
    n: u32,
    init: C,
    body: impl Fn(&mut KernelBuilder, Group, C) -> C,
) -> C {
    let lanes = LANES as u32;
    let whole = n / lanes * lanes;
    let mut state = init;
    if whole > 0 {
        let step = i64::from(4 * lanes);
        state = b.for_loop(0, 4 * i64::from(whole), step, state, |b, at, state| {
            body(b, Group { at, lanes: lanes as u8 }, state)
        });
    }
    if n > whole {
        let at = b.int(4 * i64::from(whole));
        state = body(b, Group { at, lanes: (n - whole) as u8 }, state);
    }
    state
}

/// Runs `body(first, size)` for tiles that cover `lo..hi` in rising order: as many of `sizes[0]` as fit, then of
/// `sizes[1]`, and so on. The sizes are falling powers of two, the last one 1; `lo <= hi`.
pub(crate) fn for_tiles(
    b: &mut KernelBuilder,
    lo: I64,
    hi: I64,
    sizes: &[usize],
    body: impl Fn(&mut KernelBuilder, I64, usize),
) {
    let mut lo = lo;
    for &size in sizes {
        let end = match size {
            1 => hi,
            _ => {
                let left = b.sub(hi, lo);
                let whole = b.and(left, -(size as i64));
                b.add(lo, whole)
            }
        };
        b.for_loop(lo, end, size as i64, (), |b, first, ()| body(b, first, size));
        lo = end;
    }
}

/// As [`for_tiles`] over `0..n` for a known `n`: makes no code for sizes that do not occur.
pub(crate) fn for_tiles_of(
    b: &mut KernelBuilder,
    n: u32,
    sizes: &[usize],
    body: impl Fn(&mut KernelBuilder, I64, usize),
) {
    let mut lo = 0;
    for &size in sizes {
        let end = lo + (i64::from(n) - lo) / size as i64 * size as i64;
        if end > lo {
            b.for_loop(lo, end, size as i64, (), |b, first, ()| body(b, first, size));
        }
        lo = end;
    }
}

/// The powers of two from `largest` (rounded down to one) to 1.
pub(crate) fn halvings(largest: usize) -> Vec<usize> {
    let mut size = 1 << largest.max(1).ilog2();
    let mut sizes = vec![size];
    while size > 1 {
        size /= 2;
        sizes.push(size);
    }
    sizes
}

/// Loads `lanes` elements of `dtype` (f32, f16 or bf16) as f32. `finite`: no element is infinite or NaN.
pub(crate) fn load_dense(
    b: &mut KernelBuilder,
    at: I64,
    offset: i32,
    lanes: u8,
    dtype: DType,
    finite: bool,
) -> Vf {
    match dtype {
        DType::F16 => b.load_f16(at, offset, lanes, finite),
        DType::Bf16 => b.load_bf16(at, offset, lanes),
        _ => b.load_f32(at, offset, lanes),
    }
}
