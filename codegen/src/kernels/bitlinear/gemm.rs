//! Many tokens: the fields of a group are shifted out once for several tokens. A row tile stays in the first-level
//! cache while all tokens pass.

use super::{Form, Matrix, tile, trits};
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kernels::{Arg, Args};
use crate::kir::{I64, KernelBuilder};

/// How the loop is blocked.
struct Blocking {
    /// Tokens that go together.
    tokens: usize,
    /// Row tiles that go together.
    tiles: usize,
    /// Groups per iteration.
    unroll: u32,
}

impl Blocking {
    fn new(vectors: usize) -> Self {
        match vectors {
            24.. => Self { tokens: 8, tiles: 2, unroll: 1 },
            8.. => Self { tokens: 2, tiles: 1, unroll: 1 },
            _ => Self { tokens: 2, tiles: 2, unroll: 1 },
        }
    }
}

pub(super) fn gemm(b: &mut KernelBuilder, args: &Args, matrix: Matrix) {
    let Blocking { tokens, tiles, unroll } = Blocking::new(args.registers.vectors());
    let per_unit = matrix.tiles_per_unit();
    let (begin, end) = (args.word(Arg::UnitBegin), args.word(Arg::UnitEnd));
    let zero = b.int(0);
    let all = args.word(Arg::Tokens);
    for_tiles(b, begin, end, &halvings(tiles / per_unit), |b, unit, units| {
        let at = b.mul(unit, per_unit as i64 * matrix.tile_bytes());
        let w = b.add(args.operand(1), at);
        let weights: Vec<I64> =
            (0..units * per_unit).map(|i| b.add(w, i as i64 * matrix.tile_bytes())).collect();
        let (weights, groups) = trits::tile16(b, args, matrix, weights);
        for_tiles(b, zero, all, &halvings(tokens), |b, token, tokens| {
            let x = args.row(b, args.operand(0), 0, token);
            let x: Vec<I64> = (0..tokens as i64).map(|i| b.add(x, i * args.stride(0))).collect();
            let mut sums = Vec::new();
            for block in weights.chunks(tiles) {
                sums.extend(tile::dot(b, Form::Shifted, block, &x, groups, unroll));
            }
            for (i, sums) in sums.chunks(per_unit).enumerate() {
                let unit = b.add(unit, i as i64);
                for (row, &x) in x.iter().enumerate() {
                    let token = b.add(token, row as i64);
                    let sums: Vec<_> = sums.iter().map(|of_tile| of_tile[row]).collect();
                    matrix.finish(b, args, unit, token, x, &sums);
                }
            }
        });
    });
}
