//! Block-quantised matrices in `tile16`, from dense rows.
//!
//! Which codes and scales a row gets is `bitnetc_ir::blocks::quantise`'s to say; here they are put in their places, a tile of 16
//! rows at a time and the tiles in parallel. A matrix that is stored packed is copied.

use bitnetc_ir::blocks::quantise::QuantisedRow;
use bitnetc_ir::blocks::{BLOCK, BlockFormat, GROUP_SCALES, HALF_BLOCK};
use bitnetc_ir::weights::TILE_ROWS;
use bitnetc_ir::{DType, Module, ParamDef, ParamId, WeightSource};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{PackError, check_size, dense};

/// Definitions may refer to each other so deep. The passes make two levels.
const MAX_DEPTH: u32 = 8;

/// Bytes of a vector of codes.
const VECTOR: usize = 64;

/// Packs the matrix `param` of this format and these sizes into `out`, which has its size; returns the factors of its
/// rows.
pub(super) fn pack(
    module: &Module,
    param: ParamId,
    source: &dyn WeightSource,
    (format, rows, cols): (BlockFormat, u32, u32),
    out: &mut [u8],
) -> Result<Vec<f32>, PackError> {
    let mut at = param;
    for _ in 0..MAX_DEPTH {
        let decl = &module.params()[at];
        let refuse = |what| PackError::Definition { param: decl.name.clone(), what };
        match decl.def {
            ParamDef::Relayout(of) => at = of,
            ParamDef::File { .. } => return stored(module, at, source, rows, out),
            ParamDef::Quantise(of) => {
                let table = &module.params()[of].ty;
                if table.as_matrix() != Some((rows, cols)) {
                    return Err(refuse("the matrix that it is made of has another shape"));
                }
                let bytes = dense(module, of, source)?;
                return Ok(quantise(format, cols, table.dtype, &bytes, out));
            }
            ParamDef::Concat(_) | ParamDef::Interleave16(..) => {
                return Err(refuse("a block-quantised weight is made of one dense matrix"));
            }
        }
    }
    Err(PackError::Definition {
        param: module.params()[param].name.clone(),
        what: "weights are made of each other in too many steps",
    })
}

/// Copies a matrix that the source holds packed.
fn stored(
    module: &Module,
    param: ParamId,
    source: &dyn WeightSource,
    rows: u32,
    out: &mut [u8],
) -> Result<Vec<f32>, PackError> {
    let decl = &module.params()[param];
    let found = source.weight(&decl.name).ok_or_else(|| PackError::Missing(decl.name.clone()))?;
    check_size(decl, "bytes", found.bytes.len(), out.len() as u64)?;
    // Factors of a packed matrix may come with their padding.
    let padded = u64::from(rows).next_multiple_of(TILE_ROWS.into());
    if found.scales.len() as u64 != padded {
        check_size(decl, "scales", found.scales.len(), rows.into())?;
    }
    out.copy_from_slice(&found.bytes);
    Ok(found.scales.to_vec())
}

/// Quantises the rows in `bytes`, which are elements of `dtype`, and returns their factors.
fn quantise(format: BlockFormat, cols: u32, dtype: DType, bytes: &[u8], out: &mut [u8]) -> Vec<f32> {
    let row_bytes = cols as usize * dtype.element_bytes().unwrap_or(4) as usize;
    let tile_rows = TILE_ROWS as usize;
    let tiles = bytes.par_chunks(row_bytes * tile_rows);
    let of_tiles = out.par_chunks_exact_mut(format.tile_bytes(cols) as usize).zip(tiles).map_init(
        || (Numbers::default(), QuantisedRow::default()),
        |(numbers, quantised), (out, rows)| {
            out.fill(0);
            let mut factors = [0.0; TILE_ROWS as usize];
            for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
                numbers.read(dtype, row);
                quantised.quantise(format, &numbers.row);
                write(format, r, quantised, out);
                factors[r] = quantised.factor;
            }
            factors
        },
    );
    let mut factors: Vec<f32> = bitnetc_threads::install(|| of_tiles.flatten_iter().collect());
    factors.truncate(bytes.len() / row_bytes);
    factors
}

/// A row as f32, and room to make it.
#[derive(Default)]
struct Numbers {
    row: Vec<f32>,
    bits: Vec<u16>,
}

impl Numbers {
    fn read(&mut self, dtype: DType, bytes: &[u8]) {
        self.bits.clear();
        self.row.clear();
        match dtype {
            DType::F16 | DType::Bf16 => {
                self.bits.extend(bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)));
                self.row.resize(self.bits.len(), 0.0);
                match dtype {
                    DType::F16 => self.bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut self.row),
                    _ => self.bits.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut self.row),
                }
            }
            _ => self.row.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        }
    }
}

/// Writes row `r` of a tile.
fn write(format: BlockFormat, r: usize, row: &QuantisedRow, out: &mut [u8]) {
    let offset = format.offset();
    let stored = |q: i8| (i32::from(q) + offset) as u8;
    let (block_bytes, scales) = (format.block_bytes() as usize, GROUP_SCALES as usize);
    for (g, group) in out.chunks_exact_mut(format.group_bytes() as usize).enumerate() {
        let (header, codes) = group.split_at_mut(scales);
        let blocks = row.codes.as_chunks::<{ BLOCK as usize }>().0.iter().skip(2 * g).take(2);
        for (i, (q, out)) in blocks.zip(codes.chunks_exact_mut(block_bytes)).enumerate() {
            let block = 2 * g + i;
            let header = &mut header[i * scales / 2..];
            match (row.halves.get(block), &row.steps) {
                (Some(half), _) => header[2 * r..2 * r + 2].copy_from_slice(&half.to_le_bytes()),
                (None, steps) => {
                    header[r] = steps[2 * block] as u8;
                    header[TILE_ROWS as usize + r] = steps[2 * block + 1] as u8;
                }
            }
            let mut put = |vector: usize, code: &dyn Fn(usize) -> u8| {
                let at = VECTOR * vector + 4 * r;
                out[at..at + 4].copy_from_slice(&[code(0), code(1), code(2), code(3)]);
            };
            match format {
                BlockFormat::W8 => {
                    for (q, out) in q.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<VECTOR>().0) {
                        // The offset, 128, is the highest bit.
                        let stored = u32::from_le_bytes(q.map(i8::cast_unsigned)) ^ 0x8080_8080;
                        out[4 * r..4 * r + 4].copy_from_slice(&stored.to_le_bytes());
                    }
                }
                BlockFormat::W4 => {
                    let half = HALF_BLOCK as usize;
                    for v in 0..4 {
                        put(v, &|c| stored(q[4 * v + c]) | stored(q[half + 4 * v + c]) << 4);
                    }
                }
                BlockFormat::W6 => {
                    for (h, q) in q.as_chunks::<{ HALF_BLOCK as usize }>().0.iter().enumerate() {
                        for v in 0..3 {
                            let spread = |c: usize| (stored(q[12 + c]) >> (4 - 2 * v)) << 6;
                            put(3 * h + v, &|c| stored(q[4 * v + c]) | spread(c));
                        }
                    }
                }
            }
        }
    }
}
