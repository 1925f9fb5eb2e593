//! One token: every weight is used once, so the loop should do little more than load them.

use bitnetc_ir::Layout;

use super::{Form, Output, lut, one, tile, trits};
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kernels::{Registers, kernel};
use crate::kir::{I64, KernelBuilder};

/// How the loop is blocked.
struct Blocking {
    form: Form,
    /// Row tiles that go together and share the activation's broadcasts.
    tiles: usize,
    /// Groups per iteration.
    unroll: u32,
}

impl Blocking {
    fn new(registers: Registers) -> Self {
        match (registers.vectors(), registers.one_stream()) {
            (24.., false) => Self { form: Form::InPlace, tiles: 4, unroll: 2 },
            (24.., true) => Self { form: Form::InPlace, tiles: 1, unroll: 2 },
            (8.., _) => Self { form: Form::InPlace, tiles: 1, unroll: 4 },
            _ => Self { form: Form::Halves, tiles: 2, unroll: 1 },
        }
    }
}

pub(super) fn gemv(b: &mut KernelBuilder, kernel: &kernel::Bitlinear, output: Output) {
    let (call, matrix) = (kernel.call, output.matrix);
    let Blocking { form, tiles, unroll } = Blocking::new(call.registers);
    let tiles = match matrix.layout {
        Layout::Trits16 => trits::tiles(call.registers),
        Layout::Lut16 => lut::tiles(call.registers),
        _ => tiles,
    };
    let per_unit = matrix.tiles_per_unit();
    let (x, w) = (kernel.x.first(), kernel.w);
    let token = b.int(0);
    for_tiles(b, call.unit_begin, call.unit_end, &halvings(tiles / per_unit), |b, unit, units| {
        let at = b.mul(unit, per_unit as i64 * matrix.tile_bytes());
        let w = b.add(w, at);
        let weights: Vec<I64> =
            (0..units * per_unit).map(|i| b.add(w, i as i64 * matrix.tile_bytes())).collect();
        // A block of tiles that fits in registers; a pair that does not is done one tile after the other.
        let mut sums = Vec::new();
        for block in weights.chunks(tiles) {
            // The tiles that come next are on their way while these are used: hardware follows a sequence of lines
            // within a page only, and a tile is a few pages.
            let tile_bytes = matrix.tile_bytes();
            let far = weights.len() as i64 * tile_bytes;
            if matrix.layout == Layout::Trits16 {
                // Bound by its products, whose latency one tile alone would not hide: the same blocks on all machines.
                sums.extend(trits::dot(b, call.registers, block, x, matrix.groups(), far));
                continue;
            }
            let far = (!call.registers.one_stream()).then_some(far);
            let neighbours = one::Block { first: block[0], tiles: block.len(), tile_bytes, far };
            if matrix.layout == Layout::Lut16 {
                sums.extend(lut::dot(b, call.registers, neighbours, x, matrix.groups()));
                continue;
            }
            // Without a loop over the groups there is no stream of them.
            if form == Form::InPlace && matrix.groups() >= unroll {
                sums.extend(one::dot(b, call.registers, neighbours, x, matrix.groups(), unroll));
                continue;
            }
            let of_block = tile::dot(b, form, block, &[x], matrix.groups(), unroll, far);
            sums.extend(of_block.into_iter().map(|of_rows| of_rows[0]));
        }
        for (i, sums) in sums.chunks(per_unit).enumerate() {
            let unit = b.add(unit, i as i64);
            output.finish(b, unit, token, x, sums);
        }
    });
}
