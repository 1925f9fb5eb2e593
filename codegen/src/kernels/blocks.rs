//! Block-quantised products: the packed language-model head and the quantisation of its activation.
//!
//! In the layout of `bitnetc_ir::blocks` a 64-byte vector of codes holds 16 rows × 4 columns, one row in each 32-bit lane, so
//! four neighbouring codes of the activation, in all lanes, meet it in one `dot_u8i8`. The integer sum of a block is exact
//! and starts at minus the offset of the stored codes times the sum of the activation's codes; it is converted and
//! added to the row's f32 sum, one fma for each block of 16 rows, block by block in rising order as
//! `docs/numerics.md` fixes it. Row tiles that go together share the broadcasts of the activation, tokens that go
//! together the codes. Where there are tile registers, sixteen tokens go together: [`tile_registers`].

mod tile_registers;

use bitnetc_ir::BlockFormat;
use bitnetc_ir::blocks::quantise::LEAST_ABSMAX;
use bitnetc_ir::blocks::{BLOCK, GROUP, GROUP_SCALES, HALF_BLOCK};
use bitnetc_ir::storage::{Q8B_HALVES, Q8B_RECORD, Q8B_SCALE, Q8B_SUM, q8_tail};
use bitnetc_ir::weights::TILE_ROWS;

use super::lanes::{for_tiles, halvings};
use super::{Registers, kernel, prefetch};
use crate::kir::{I64, IntCond, KernelBuilder, LANES, Vb, Vf, Vi};

/// The greatest code of an activation.
const CODE_MAX: f32 = 127.0;

/// Bytes of a vector of codes.
const VECTOR: i32 = 64;

/// Scratch of a product with many tokens.
pub(super) fn scratch_bytes(cols: u32, format: BlockFormat) -> u64 {
    tile_registers::scratch_bytes(cols, format)
}

/// A unit is a token.
pub(super) fn quant_blocks(b: &mut KernelBuilder, kernel: &kernel::QuantBlocks) {
    let &kernel::QuantBlocks { call, width, block, x, q } = kernel;
    call.for_units(b, |b, token| {
        let x = x.of(b, token);
        let q = q.of(b, token);
        let records = b.add(q, q8_tail(width) as i64);
        let (whole, left) = (width / block, width % block);
        b.for_loop(0, i64::from(whole), 1, (), |b, index, ()| {
            let at = b.mul(index, i64::from(4 * block));
            let x = b.add(x, at);
            let at = b.mul(index, i64::from(block));
            let q = b.add(q, at);
            let at = b.mul(index, Q8B_RECORD as i64);
            let record = b.add(records, at);
            quantise(b, x, (block, block), q, record);
        });
        let done = i64::from(whole * block);
        if left > 0 {
            let (x, q) = (b.add(x, 4 * done), b.add(q, done));
            let record = b.add(records, i64::from(whole) * Q8B_RECORD as i64);
            quantise(b, x, (block, left), q, record);
        }
        let written = u64::from(whole * block + written(block, left));
        let fill = q8_tail(width) - written;
        if fill > 0 {
            let zero = b.splat_i32(0);
            let zeros = b.as_vb(zero);
            let at = b.add(q, written as i64);
            b.store_bytes(at, zeros, 0, fill as u8);
        }
    });
}

/// Codes that are stored for `n` elements of a block: blocks of 32 are filled up, wider ones to whole vectors.
fn written(block: u32, n: u32) -> u32 {
    if block == BLOCK { n.next_multiple_of(BLOCK) } else { n.next_multiple_of(LANES as u32) }
}

/// Quantises `n` elements at `x`, at least 1 of a block of `block`, to codes at `q` and the record of the block.
fn quantise(b: &mut KernelBuilder, x: I64, (block, n): (u32, u32), q: I64, record: I64) {
    let lanes = LANES as u32;
    let load = |b: &mut KernelBuilder, vector: u32| match n.saturating_sub(vector * lanes) {
        0 => b.splat_f32(0.0),
        left => b.load_f32(x, (4 * vector * lanes) as i32, left.min(lanes) as u8),
    };
    let vectors = written(block, n) / lanes;
    // A block of two vectors stays in registers; a wider one is read again.
    let kept = if block == BLOCK { vectors } else { 0 };
    let loaded: Vec<Vf> = (0..kept).map(|vector| load(b, vector)).collect();
    let magnitude = b.splat_i32(0x7fff_ffff);
    let mut largest: Option<Vi> = None;
    for vector in 0..vectors {
        let v = loaded.get(vector as usize).copied().unwrap_or_else(|| load(b, vector));
        let bits = b.as_vi(v);
        let bits = b.band(bits, magnitude);
        largest = Some(match largest {
            Some(largest) => b.umax(largest, bits),
            None => bits,
        });
    }
    let largest = largest.unwrap_or_else(|| b.splat_i32(0));
    let largest = b.reduce_umax_i32(largest);
    let least = b.splat_i32(LEAST_ABSMAX.to_bits() as i32);
    let largest = b.umax(largest, least);
    let largest = b.as_vf(largest);
    let code_max = b.splat_f32(CODE_MAX);
    let a = b.fdiv(code_max, largest);
    let scale = b.fdiv(largest, code_max);
    b.store_f32(record, scale, Q8B_SCALE as i32, 1);
    // As in `quant_absmax`, no product needs clamping, and NaN gives the code 0.
    let mut sums = Vec::new();
    let of_half = block / 2 / lanes;
    for half in 0..2 {
        let mut sum: Option<Vi> = None;
        for vector in (half * of_half..(half + 1) * of_half).filter(|&vector| vector < vectors) {
            let v = loaded.get(vector as usize).copied().unwrap_or_else(|| load(b, vector));
            let v = b.fmul(v, a);
            let codes = b.cvt_f32_i32(v);
            b.store_i8(q, codes, (vector * lanes) as i32, LANES as u8);
            sum = Some(match sum {
                Some(sum) => b.iadd(sum, codes),
                None => codes,
            });
        }
        let sum = match sum {
            Some(sum) => b.reduce_add_i32(sum),
            None => b.splat_i32(0),
        };
        b.store_i32(record, sum, Q8B_HALVES as i32 + 4 * half as i32, 1);
        sums.push(sum);
    }
    let sum = b.iadd(sums[0], sums[1]);
    b.store_i32(record, sum, Q8B_SUM as i32, 1);
}

/// The matrix.
#[derive(Clone, Copy)]
struct Matrix {
    rows: u32,
    cols: u32,
    format: BlockFormat,
}

/// How the loop is blocked.
struct Blocking {
    /// Row tiles that go together.
    tiles: usize,
    /// Tokens that go together.
    tokens: usize,
}

impl Blocking {
    fn new(registers: Registers, one: bool, format: BlockFormat) -> Self {
        match (registers.vectors(), one) {
            (24.., true) if registers.one_stream() => Self { tiles: 1, tokens: 1 },
            (24.., true) => Self { tiles: 4, tokens: 1 },
            // Taking six-bit codes apart costs more than a second tile saves: as many tokens as there are registers for share it, of
            // which a product of several instructions takes some.
            (24.., false) if format == BlockFormat::W6 => {
                Self { tiles: 1, tokens: if registers.whole_byte_dot() { 8 } else { 4 } }
            }
            (24.., false) => Self { tiles: 2, tokens: 4 },
            _ => Self { tiles: 1, tokens: 1 },
        }
    }
}

/// A row of the activation: its codes and the records of its blocks, from some group on.
#[derive(Clone, Copy)]
struct Row {
    codes: I64,
    records: I64,
}

/// A unit is a tile of 16 rows, for all tokens.
pub(super) fn block_matmul(b: &mut KernelBuilder, kernel: &kernel::BlockMatmul) {
    let &kernel::BlockMatmul { call, rows, cols, format, x, w, factors, y, scratch } = kernel;
    let matrix = Matrix { rows, cols, format };
    let zero = b.int(0);
    let Some(scratch) = scratch.filter(|_| call.registers.tiles()) else {
        return by_dots(b, kernel, zero);
    };
    // What is left of whole tiles of tokens is multiplied as where there are no tile registers.
    let whole = b.and(call.tokens, -(tile_registers::TOKENS as i64));
    let most = tile_registers::MOST_TOKENS as i64;
    b.for_loop(0, whole, most, (), |b, first, ()| {
        let left = b.sub(whole, first);
        let most = b.int(most);
        let tokens = b.min(left, most);
        tile_registers::TileMatmul { matrix, call, x, w, factors, y, scratch, first, tokens }.run(b);
    });
    b.if_then(whole, IntCond::Lt, call.tokens, |b| by_dots(b, kernel, whole));
}

/// All units for the tokens from `from` on, without tile registers.
fn by_dots(b: &mut KernelBuilder, kernel: &kernel::BlockMatmul, from: I64) {
    let &kernel::BlockMatmul { call, rows, cols, format, x, w, factors, y, .. } = kernel;
    let matrix = Matrix { rows, cols, format };
    let Blocking { tiles, tokens } = Blocking::new(call.registers, call.one(), format);
    let tile_bytes = format.tile_bytes(cols) as i64;
    for_tiles(b, call.unit_begin, call.unit_end, &halvings(tiles), |b, unit, count| {
        let at = b.mul(unit, tile_bytes);
        let w = b.add(w, at);
        let w: Vec<I64> = (0..count as i64).map(|i| b.add(w, i * tile_bytes)).collect();
        let at = b.mul(unit, 4 * i64::from(TILE_ROWS));
        let factors = b.add(factors, at);
        let products = |b: &mut KernelBuilder, token: I64, tokens: usize| {
            let first = x.of(b, token);
            let rows: Vec<Row> = (0..tokens as i64)
                .map(|i| {
                    let codes = b.add(first, i * x.stride());
                    Row { codes, records: b.add(codes, q8_tail(cols) as i64) }
                })
                .collect();
            let sums = matrix.dot(b, &w, &rows, call.one() && !call.registers.one_stream());
            let to = y.of(b, token);
            let to = b.add(to, at);
            for (tile, of_tile) in (0..).zip(sums) {
                let factor = b.load_f32(factors, tile * 4 * TILE_ROWS as i32, LANES as u8);
                let unit = b.add(unit, i64::from(tile));
                let to = b.add(to, i64::from(tile) * 4 * i64::from(TILE_ROWS));
                for (t, sum) in (0..).zip(of_tile) {
                    let to = b.add(to, t * y.stride());
                    let value = b.fmul(sum, factor);
                    matrix.store(b, unit, to, value);
                }
            }
        };
        if call.one() {
            products(b, from, 1);
        } else {
            for_tiles(b, from, call.tokens, &halvings(tokens), products);
        }
    });
}

impl Matrix {
    /// Stores the rows of a tile that the matrix has.
    fn store(self, b: &mut KernelBuilder, unit: I64, y: I64, value: Vf) {
        match self.rows % TILE_ROWS {
            0 => b.store_f32(y, value, 0, LANES as u8),
            left => {
                let last = i64::from(self.rows / TILE_ROWS);
                b.if_else(
                    unit,
                    IntCond::Lt,
                    last,
                    |b| b.store_f32(y, value, 0, LANES as u8),
                    |b| b.store_f32(y, value, 0, left as u8),
                );
            }
        }
    }

    /// The sums of every tile at `tiles` with every row, as `[tile][row]`, before the factors of the matrix rows. With
    /// `next`, the tiles after them are prefetched.
    fn dot(self, b: &mut KernelBuilder, tiles: &[I64], rows: &[Row], next: bool) -> Vec<Vec<Vf>> {
        let blocks = self.cols.div_ceil(BLOCK);
        let zero = b.splat_f32(0.0);
        let mut sums = vec![vec![zero; rows.len()]; tiles.len()];
        let groups = blocks / 2;
        // Bytes of a group in steps of its columns.
        let per_column = (self.format.group_bytes() / u64::from(GROUP)) as i64;
        let at_group = |b: &mut KernelBuilder, column: I64| {
            let at = b.mul(column, per_column);
            let tiles: Vec<I64> = tiles.iter().map(|&w| b.add(w, at)).collect();
            let record = b.mul(column, 2 * Q8B_RECORD as i64);
            let record = b.shr(record, GROUP.ilog2() as u8);
            let rows: Vec<Row> = rows
                .iter()
                .map(|row| Row { codes: b.add(row.codes, column), records: b.add(row.records, record) })
                .collect();
            (tiles, rows)
        };
        if groups > 0 {
            let (end, step) = (i64::from(groups * GROUP), i64::from(GROUP));
            sums = b.for_loop(0, end, step, sums, |b, column, mut sums| {
                let (tiles, rows) = at_group(b, column);
                if next {
                    let ahead = tiles.len() as i64 * self.format.tile_bytes(self.cols) as i64;
                    self.prefetch(b, &tiles, ahead);
                }
                for block in 0..2 {
                    sums = self.add_block(b, &tiles, &rows, block, sums);
                }
                sums
            });
        }
        if blocks % 2 == 1 {
            let column = b.int(i64::from(groups * GROUP));
            let (tiles, rows) = at_group(b, column);
            sums = self.add_block(b, &tiles, &rows, 0, sums);
        }
        sums
    }

    /// Prefetches the group that is `ahead` bytes after each of these.
    fn prefetch(self, b: &mut KernelBuilder, groups: &[I64], ahead: i64) {
        let lines = self.format.group_bytes().div_ceil(VECTOR as u64) as i32;
        for &group in groups {
            for line in 0..lines {
                prefetch::stream(b, group, line * VECTOR, Some(ahead));
            }
        }
    }

    /// Adds block `block` (0 or 1) of a group.
    fn add_block(
        self,
        b: &mut KernelBuilder,
        tiles: &[I64],
        rows: &[Row],
        block: i32,
        mut sums: Vec<Vec<Vf>>,
    ) -> Vec<Vec<Vf>> {
        let record = block * Q8B_RECORD as i32;
        let parts: Vec<Vec<Vec<Vi>>> = match self.format {
            BlockFormat::W8 => vec![self.sums_w8(b, tiles, rows, block)],
            BlockFormat::W4 => vec![self.sums_w4(b, tiles, rows, block)],
            BlockFormat::W6 => [0, 1].map(|half| self.sums_w6(b, tiles, rows, block, half)).into(),
        };
        let of_rows: Vec<Vf> =
            rows.iter().map(|row| b.broadcast_f32(row.records, record + Q8B_SCALE as i32)).collect();
        for (i, (&tile, sums)) in tiles.iter().zip(&mut sums).enumerate() {
            let scales = self.scales(b, tile, block);
            for (row, (sum, &of_row)) in sums.iter_mut().zip(&of_rows).enumerate() {
                let exact: Vec<Vi> = parts.iter().map(|of_tiles| of_tiles[i][row]).collect();
                *sum = self.add_parts(b, *sum, &exact, &scales, of_row);
            }
        }
        sums
    }

    /// Sums of integers that a block is made of, each with a scale of the matrix: one, or two of half blocks.
    fn parts(self) -> u32 {
        match self.format {
            BlockFormat::W8 | BlockFormat::W4 => 1,
            BlockFormat::W6 => 2,
        }
    }

    /// The scales of the parts of a block.
    fn scales(self, b: &mut KernelBuilder, tile: I64, block: i32) -> Vec<Vf> {
        let at = block * (GROUP_SCALES / 2) as i32;
        match self.format {
            BlockFormat::W8 | BlockFormat::W4 => vec![b.load_f16(tile, at, LANES as u8, true)],
            BlockFormat::W6 => {
                let half = |half: i32| {
                    let k = b.load_i8(tile, at + half * TILE_ROWS as i32, LANES as u8);
                    b.cvt_i32_f32(k)
                };
                [0, 1].map(half).into()
            }
        }
    }

    /// Adds to a row's sum a block, of whose parts `exact` are the sums and `scales` the scales; `of_row` is that of the activation.
    fn add_parts(self, b: &mut KernelBuilder, sum: Vf, exact: &[Vi], scales: &[Vf], of_row: Vf) -> Vf {
        match (exact, scales) {
            // Sums of half blocks are at most 2^16 and their scales at most 2^7, so all of this is exact in f32, where a product
            // takes half as long as in integers.
            (&[first, second], &[k0, k1]) => {
                let (first, second) = (b.cvt_i32_f32(first), b.cvt_i32_f32(second));
                let product = b.fmul(first, k0);
                let number = b.fma(second, k1, product);
                b.fma(number, of_row, sum)
            }
            _ => {
                let scale = b.fmul(scales[0], of_row);
                let number = b.cvt_i32_f32(exact[0]);
                b.fma(number, scale, sum)
            }
        }
    }

    /// First byte of the codes of a block in its group.
    fn codes_at(self, block: i32) -> i32 {
        GROUP_SCALES as i32 + block * self.format.block_bytes() as i32
    }

    /// Where the sums of a block start, given the place in its record of the sum of the codes that they cover: what the
    /// offset of the stored codes adds to them, taken away.
    fn starts(self, b: &mut KernelBuilder, tiles: usize, rows: &[Row], sum_at: i32) -> Vec<Vec<Vi>> {
        let zero = b.splat_i32(0);
        let shift = self.format.offset().ilog2() as u8;
        let of_rows: Vec<Vi> = rows
            .iter()
            .map(|row| {
                let sum = b.broadcast_i32(row.records, sum_at);
                let excess = b.ishl(sum, shift);
                b.isub(zero, excess)
            })
            .collect();
        vec![of_rows; tiles]
    }

    /// `sums += u · x` of one tile.
    fn add_dots(self, b: &mut KernelBuilder, sums: &mut [Vi], u: Vi, x: &[Vb]) {
        let u = b.as_vb(u);
        let u_max = (2 * self.format.offset() - 1) as u8;
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum = b.dot_u8i8(*sum, u, x, u_max);
        }
    }

    fn sums_w8(self, b: &mut KernelBuilder, tiles: &[I64], rows: &[Row], block: i32) -> Vec<Vec<Vi>> {
        let record = block * Q8B_RECORD as i32;
        let mut sums = self.starts(b, tiles.len(), rows, record + Q8B_SUM as i32);
        for vector in 0..BLOCK as i32 / 4 {
            let x = four_codes(b, rows, block * BLOCK as i32 + 4 * vector);
            for (&tile, sums) in tiles.iter().zip(&mut sums) {
                let u = load(b, tile, self.codes_at(block) + VECTOR * vector);
                self.add_dots(b, sums, u, &x);
            }
        }
        sums
    }

    fn sums_w4(self, b: &mut KernelBuilder, tiles: &[I64], rows: &[Row], block: i32) -> Vec<Vec<Vi>> {
        let record = block * Q8B_RECORD as i32;
        let mut sums = self.starts(b, tiles.len(), rows, record + Q8B_SUM as i32);
        let mask = b.splat_i32(0x0f0f_0f0f);
        for vector in 0..HALF_BLOCK as i32 / 4 {
            let at = block * BLOCK as i32 + 4 * vector;
            let (low, high) = (four_codes(b, rows, at), four_codes(b, rows, at + HALF_BLOCK as i32));
            for (&tile, sums) in tiles.iter().zip(&mut sums) {
                let v = load(b, tile, self.codes_at(block) + VECTOR * vector);
                let u = b.band(v, mask);
                self.add_dots(b, sums, u, &low);
                let v = b.ushr(v, 4);
                let u = b.band(v, mask);
                self.add_dots(b, sums, u, &high);
            }
        }
        sums
    }

    /// The sums of a half block.
    fn sums_w6(
        self,
        b: &mut KernelBuilder,
        tiles: &[I64],
        rows: &[Row],
        block: i32,
        half: i32,
    ) -> Vec<Vec<Vi>> {
        let record = block * Q8B_RECORD as i32;
        let mut sums = self.starts(b, tiles.len(), rows, record + Q8B_HALVES as i32 + 4 * half);
        let mask = b.splat_i32(0x3f3f_3f3f);
        let at = block * BLOCK as i32 + half * HALF_BLOCK as i32;
        let codes = self.codes_at(block) + 3 * VECTOR * half;
        // The codes of the last four columns, gathered from the high bits of the vectors of the others.
        let mut last: Vec<Option<Vi>> = vec![None; tiles.len()];
        for vector in 0..3 {
            let x = four_codes(b, rows, at + 4 * vector);
            for ((&tile, sums), last) in tiles.iter().zip(&mut sums).zip(&mut last) {
                let v = load(b, tile, codes + VECTOR * vector);
                let u = b.band(v, mask);
                self.add_dots(b, sums, u, &x);
                *last = Some(self.gathered(b, *last, v, mask, vector));
            }
        }
        let x = four_codes(b, rows, at + 12);
        for (sums, last) in sums.iter_mut().zip(last) {
            if let Some(u) = last {
                self.add_dots(b, sums, u, &x);
            }
        }
        sums
    }
}

impl Matrix {
    /// The codes of the last four columns of a half block of `w6`, gathered from the high bits of the vectors of the others up to
    /// `v`, number `vector`; `above` is what those before it gave.
    fn gathered(self, b: &mut KernelBuilder, above: Option<Vi>, v: Vi, mask: Vi, vector: i32) -> Vi {
        let high = b.bandn(v, mask);
        let high = b.ushr(high, 2 + 2 * vector as u8);
        match above {
            None => high,
            Some(above) => b.bor(above, high),
        }
    }
}

/// Four codes of each row, from `at` on, in all lanes.
fn four_codes(b: &mut KernelBuilder, rows: &[Row], at: i32) -> Vec<Vb> {
    rows.iter()
        .map(|row| {
            let codes = b.broadcast_i32(row.codes, at);
            b.as_vb(codes)
        })
        .collect()
}

fn load(b: &mut KernelBuilder, at: I64, offset: i32) -> Vi {
    let v = b.load_bytes(at, offset, VECTOR as u8);
    b.as_vi(v)
}
