//! One token times a matrix whose sums are scaled step by step, with codes taken as they are stored.
//!
//! Codes come in *fields* of four neighbouring columns of 16 rows, four to a vector of `tile16` and five to one of the layouts
//! with five codes a byte. There a step of 128 columns, 32 fields, ends within a vector, so the loop goes over as many vectors as it
//! takes until steps begin with vectors again (32 for 5 steps), written one after the other. The fields of a vector go to the
//! sums of the step that they belong to, and these are scaled as soon as its last field is multiplied.
//!
//! For registers of which there are many: a tile has up to twice as many integer sums as in [`super::lut`] and
//! [`super::one`] while two steps meet, and a float sum.

use bitnetc_ir::Layout;
use bitnetc_ir::storage::q8_tail;
use bitnetc_ir::weights::{TILE_COLS, TRITS, TRITS_COLS};

use super::GROUP_BYTES;
use super::grouped::{Factors, Grouped, SCALES_BYTES, Steps, Tile};
use super::lut::Decoded;
use super::tile::FIELD_COLS;
use super::trits::{Telescope, tripled};
use crate::kernels::lanes::{for_tiles, halvings};
use crate::kernels::{Registers, prefetch};
use crate::kir::{I64, KernelBuilder, LANES, Vb, Vf, Vi};

/// Fields of a vector of `tile16`.
const FIELDS: u32 = 4;

/// Row tiles that go together.
fn tiles(registers: Registers) -> usize {
    if registers.one_stream() { 1 } else { 2 }
}

/// All units of a call for its one token.
pub(super) fn gemv(b: &mut KernelBuilder, grouped: &Grouped) {
    let registers = grouped.call.registers;
    let (matrix, x) = (grouped.output.matrix, grouped.x.first());
    let (tiles, per_unit) = (tiles(registers), matrix.tiles_per_unit());
    let token = b.int(0);
    for_tiles(
        b,
        grouped.call.unit_begin,
        grouped.call.unit_end,
        &halvings(tiles / per_unit),
        |b, unit, units| {
            let of_units = grouped.tiles(b, unit, units);
            let far = (!registers.one_stream()).then_some(of_units.len() as i64);
            let mut sums = Vec::new();
            for block in of_units.chunks(tiles) {
                let walk = Walk::new(grouped, far);
                sums.extend(walk.dot(b, block, x));
            }
            for (i, of_unit) in (0..).zip(sums.chunks(per_unit)) {
                let unit = b.add(unit, i);
                grouped.finish(b, unit, token, x, of_unit);
            }
        },
    );
}

/// A walk over the fields of a row.
struct Walk<'a> {
    grouped: &'a Grouped,
    steps: Steps,
    layout: Layout,
    /// Row tiles from one that is read to the one that is prefetched meanwhile, if any is.
    far: Option<i64>,
}

/// Addresses at the beginning of some fields.
#[derive(Clone, Copy)]
struct Place {
    /// Codes of the activation.
    codes: I64,
    /// Records of its blocks.
    records: I64,
    /// Number of the first step, where several have one scale of the matrix.
    step: I64,
}

impl<'a> Walk<'a> {
    fn new(grouped: &'a Grouped, far: Option<i64>) -> Self {
        Self { grouped, steps: grouped.steps, layout: grouped.output.matrix.layout, far }
    }

    /// Fields of a vector.
    fn fields(&self) -> u32 {
        if self.layout.has_five_a_byte() { TRITS as u32 } else { FIELDS }
    }

    /// Columns after which vectors, steps and scales begin anew together. Steps are powers of two of at least 16 columns.
    fn period(&self) -> u32 {
        match self.layout.has_five_a_byte() {
            true => self.steps.whole() * TRITS_COLS / FIELD_COLS as u32,
            false => self.steps.whole().max(TILE_COLS),
        }
    }

    /// Σ over the steps of sum · scale for every tile of `block`.
    fn dot(&self, b: &mut KernelBuilder, block: &[Tile], x: I64) -> Vec<Vf> {
        let (period, cols) = (self.period(), self.steps.cols);
        let zero = b.splat_f32(0.0);
        let mut sums = vec![zero; block.len()];
        let start = Place { codes: x, records: b.add(x, q8_tail(cols) as i64), step: b.int(0) };
        let whole = cols / period;
        if whole > 0 {
            sums = b.for_loop(0, i64::from(whole), 1, sums, |b, index, sums| {
                let (block, place) = self.moved(b, block, start, index);
                self.straight(b, &block, place, period, sums)
            });
        }
        match cols % period {
            0 => sums,
            left => {
                let index = b.int(i64::from(whole));
                let (block, place) = self.moved(b, block, start, index);
                self.straight(b, &block, place, left, sums)
            }
        }
    }

    /// The addresses of period `index`.
    fn moved(&self, b: &mut KernelBuilder, block: &[Tile], start: Place, index: I64) -> (Vec<Tile>, Place) {
        let period = self.period();
        let vectors = period / (self.fields() * FIELD_COLS as u32);
        let codes = b.mul(index, i64::from(vectors) * GROUP_BYTES);
        let steps = period / self.steps.step();
        let scales = match self.steps.shares_scales() {
            true => b.int(0),
            false => b.mul(index, i64::from(self.steps.scale_at(steps))),
        };
        let block = block
            .iter()
            .map(|tile| Tile { codes: b.add(tile.codes, codes), scales: b.add(tile.scales, scales) })
            .collect();
        let column = b.mul(index, i64::from(period));
        let records = b.mul(index, i64::from(self.steps.record_at(steps).0));
        let place = Place {
            codes: b.add(start.codes, column),
            records: b.add(start.records, records),
            step: b.mul(index, i64::from(steps)),
        };
        (block, place)
    }

    /// Adds `cols` columns, at most a period.
    fn straight(
        &self,
        b: &mut KernelBuilder,
        block: &[Tile],
        place: Place,
        cols: u32,
        mut sums: Vec<Vf>,
    ) -> Vec<Vf> {
        let fields = cols.div_ceil(FIELD_COLS as u32);
        let of_step = self.steps.step() / FIELD_COLS as u32;
        let mut open: Vec<Vec<Integer>> = vec![Vec::new(); block.len()];
        for vector in 0..fields.div_ceil(self.fields()) {
            let first = vector * self.fields();
            let here = first..fields.min(first + self.fields());
            let mut factors: Vec<Option<Factors>> = Vec::new();
            for ((tile, open), sum) in block.iter().zip(&mut open).zip(&mut sums) {
                let at = (i64::from(vector) * GROUP_BYTES) as i32;
                let far = self.far.map(|tiles| tiles * self.grouped.output.matrix.tile_bytes());
                prefetch::stream(b, tile.codes, at, far);
                let bytes = b.load_bytes(tile.codes, at, GROUP_BYTES as u8);
                let mut codes = Codes::new(b, self.grouped.call.registers, self.layout, bytes);
                for &k in codes.order() {
                    let field = first + k as u32;
                    if !here.contains(&field) {
                        continue;
                    }
                    let s = b.broadcast_i32(place.codes, field as i32 * FIELD_COLS);
                    let s = b.as_vb(s);
                    let step = field / of_step;
                    let at = match open.iter().position(|sums| sums.step == step) {
                        Some(at) => at,
                        None => {
                            open.push(Integer { step, sums: [None; TRITS] });
                            open.len() - 1
                        }
                    };
                    codes.multiply(b, k, s, &mut open[at].sums);
                }
                // Steps whose last field is in this vector.
                let ended = |step: u32| ((step + 1) * of_step).min(fields) <= here.end;
                open.sort_by_key(|sums| sums.step);
                let count = open.iter().take_while(|sums| ended(sums.step)).count();
                for (i, done) in open.drain(..count).enumerate() {
                    if factors.len() == i {
                        factors.push(None);
                    }
                    let cols = (cols - done.step * self.steps.step()).min(self.steps.step());
                    let of = *factors[i].get_or_insert_with(|| self.factors(b, place, done.step, cols));
                    let product = codes.total(b, done.sums);
                    let scale = self.scale(b, tile.scales, place, done.step);
                    *sum = self.grouped.scaled(b, of, product, scale, *sum);
                }
            }
        }
        sums
    }

    /// The scales of step `step` from a place on of the row tile whose scales begin at `scales`, while those of the row tile that is
    /// read next are prefetched.
    fn scale(&self, b: &mut KernelBuilder, scales: I64, place: Place, step: u32) -> Vf {
        let (scales, at) = match self.steps.shares_scales() {
            true => {
                let step = b.add(place.step, i64::from(step));
                let at = self.steps.scale_of(b, step);
                (b.add(scales, at), 0)
            }
            false => (scales, self.steps.scale_at(step)),
        };
        let far = self.far.map(|tiles| tiles * i64::from(self.steps.scales()) * SCALES_BYTES);
        prefetch::stream(b, scales, at, far);
        b.load_f32(scales, at, LANES as u8)
    }

    fn factors(&self, b: &mut KernelBuilder, place: Place, step: u32, cols: u32) -> Factors {
        let (record, sum) = self.steps.record_at(step);
        let codes = (place.codes, (step * self.steps.step()) as i32);
        let places = ((place.records, record), (place.records, record + sum));
        self.grouped.factors(b, codes, cols, places)
    }
}

/// The integer sums of a step and a row tile: those that have begun.
#[derive(Clone, Copy)]
struct Integer {
    step: u32,
    sums: [Option<Vi>; TRITS],
}

/// The codes of one vector, and how they are multiplied.
enum Codes {
    /// Fields masked where they are: field k is 4^k times its code, in a sum of its own.
    Fields(Vi),
    /// The same of what tables give; the fifth code is 64 times itself, in a sum of its own where there is one tile.
    Tables { decoded: Decoded, sums: usize },
    /// What is left of a fraction.
    Fraction(Telescope, Vb),
}

impl Codes {
    fn new(b: &mut KernelBuilder, registers: Registers, layout: Layout, bytes: Vb) -> Self {
        match layout {
            Layout::Lut16 => {
                let sums = if tiles(registers) == 1 { TRITS } else { TRITS - 1 };
                Codes::Tables { decoded: Decoded::new(b, bytes), sums }
            }
            Layout::Trits16 => Codes::Fraction(Telescope::new(b, registers), bytes),
            _ => Codes::Fields(b.as_vi(bytes)),
        }
    }

    /// The order in which codes are at hand.
    fn order(&self) -> &'static [usize] {
        match self {
            Codes::Fields(_) => &[0, 1, 2, 3],
            Codes::Tables { .. } => &[3, 4, 0, 1, 2],
            Codes::Fraction(..) => &[0, 1, 2, 3, 4],
        }
    }

    /// Adds field `k` times the activation codes `s` in all lanes to the sums of its step.
    fn multiply(&mut self, b: &mut KernelBuilder, k: usize, s: Vb, sums: &mut [Option<Vi>; TRITS]) {
        let add = |b: &mut KernelBuilder, slot: &mut Option<Vi>, codes: Vb, most: u8| {
            let sum = match *slot {
                Some(sum) => sum,
                None => b.splat_i32(0),
            };
            *slot = Some(b.dot_u8i8(sum, codes, s, most));
        };
        let field = k.min(TRITS - 2);
        match self {
            Codes::Fields(bytes) => {
                let mask = b.splat_i32(0x0303_0303 << (2 * k));
                let codes = b.band(*bytes, mask);
                let codes = b.as_vb(codes);
                add(b, &mut sums[k], codes, 2 << (2 * k));
            }
            Codes::Tables { decoded, sums: most } => {
                let codes = decoded.in_place(b, k);
                let codes = b.as_vb(codes);
                add(b, &mut sums[k.min(*most - 1)], codes, 2 << (2 * field));
            }
            Codes::Fraction(telescope, rest) => match telescope.digit(b, *rest) {
                Some(digit) => {
                    add(b, &mut sums[0], digit, 128);
                    *rest = tripled(b, *rest);
                }
                None => {
                    add(b, &mut sums[0], *rest, u8::MAX);
                    *rest = tripled(b, *rest);
                    add(b, &mut sums[1], *rest, u8::MAX);
                }
            },
        }
    }

    /// The sum of codes times codes that such sums stand for.
    fn total(&self, b: &mut KernelBuilder, sums: [Option<Vi>; TRITS]) -> Vi {
        if let Codes::Fraction(telescope, _) = self {
            return telescope.total(b, sums[0], sums[1]);
        }
        let [first, second, third, fourth, fifth] = sums;
        let fourth = match (fourth, fifth) {
            (Some(fourth), Some(fifth)) => Some(b.iadd(fourth, fifth)),
            (fourth, fifth) => fourth.or(fifth),
        };
        let mut total = None;
        for (field, sum) in (0u8..).zip([first, second, third, fourth]) {
            let Some(sum) = sum else { continue };
            let sum = if field > 0 { b.sshr(sum, 2 * field) } else { sum };
            total = Some(match total {
                Some(total) => b.iadd(total, sum),
                None => sum,
            });
        }
        total.unwrap_or_else(|| b.splat_i32(0))
    }
}
