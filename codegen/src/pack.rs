//! Weight packing: from stored bytes to the bytes that kernels read.
//!
//! A parameter that an op reads is either dense, and then its stored bytes are used as they are, or block-quantised
//! (`blocks`), or ternary in `tile16`, `trits16` or `lut16`, and then its definition says which rows of which stored matrices
//! it is made of (`relayout`, `concat`, `interleave16`).
//! Those rows are resolved first (`rows`); then every tile of 16 rows is written on its own, in parallel (`tile16`; `trits`
//! for the layouts with five codes a byte), into memory that the caller gives, so that a plan file can be packed straight
//! into its mapping.
//!
//! Invariants: what is written is what `bitnetc_ir::weights::ternary_code` reads, element by element; code 3, which stands
//! for no weight, is refused wherever it is; every byte of the output is written, padding with code 1 in `tile16` and code
//! 0 in the others.

mod blocks;
mod rows;
mod tile16;
mod trits;

use std::borrow::Cow;

use bitnetc_ir::blocks::block_matrix;
use bitnetc_ir::weights::{TILE_ROWS, packed_bytes, packed_scale_index, ternary_bytes};
use bitnetc_ir::{BlockFormat, DType, EntityVec, Layout, Module, ParamDecl, ParamId, WeightSource};
use rayon::prelude::*;

use rows::RowMap;

/// Why a parameter could not be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The source does not hold a parameter that is needed.
    #[error(
        "weight `@{0}` is missing from the model file: the file is incomplete, or a different file was compiled"
    )]
    Missing(String),
    /// Stored bytes or scales whose number does not fit the type.
    #[error(
        "weight `@{param}` of type {ty} has {got} {what}, expected {expected}: the model file is damaged"
    )]
    Size {
        /// The parameter.
        param: String,
        /// Its type.
        ty: String,
        /// `bytes` or `scales`.
        what: &'static str,
        /// As stored.
        got: u64,
        /// What the type asks for.
        expected: u64,
    },
    /// A code that stands for no weight.
    #[error(
        "weight `@{param}` contains the code 3, which is not ternary, in row {row}: the model file is damaged"
    )]
    Code {
        /// The stored parameter.
        param: String,
        /// The row of the stored matrix.
        row: u32,
    },
    /// A definition that no kernel's operand has.
    #[error("weight `@{param}`: {what}; run assign-layout")]
    Definition {
        /// The parameter.
        param: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The caller's memory has another size than [`packed_size`] said.
    #[error("weight `@{param}` takes {expected} bytes, the buffer has {got}")]
    Buffer {
        /// The parameter.
        param: String,
        /// Bytes of the buffer.
        got: u64,
        /// Bytes of the parameter.
        expected: u64,
    },
}

/// A parameter as kernels read it.
#[derive(Clone, Debug)]
pub struct PackedWeight<'a> {
    /// The elements.
    pub bytes: Cow<'a, [u8]>,
    /// For `ter` one scale per row (or those of the groups, in the order of `bitnetc_ir::weights`), for block-quantised
    /// matrices one factor per row, filled up with 0.0 to a multiple of 16 rows; empty otherwise.
    pub scales: Vec<f32>,
}

/// Bytes of the parameter as kernels read it.
///
/// # Errors
/// A parameter that no kernel reads: ternary in another layout than `tile16`, `trits16` and `lut16`, block-quantised in
/// another than `tile16`, or without a static size.
pub fn packed_size(module: &Module, param: ParamId) -> Result<u64, PackError> {
    let decl = &module.params()[param];
    let refuse = |what| PackError::Definition { param: decl.name.clone(), what };
    let size = || packed_bytes(&decl.ty).map(|(bytes, _)| bytes);
    match (decl.ty.dtype, decl.ty.layout) {
        (DType::W8 | DType::W6 | DType::W4, Layout::Tile16) => {
            size().ok_or_else(|| refuse("the matrix is too large"))
        }
        (DType::W8 | DType::W6 | DType::W4, _) => {
            Err(refuse("kernels read block-quantised matrices in the layout tile16"))
        }
        (DType::Ter, layout) if layout.is_packed_ternary() => {
            size().ok_or_else(|| refuse("the matrix is too large for its layout"))
        }
        (DType::Ter, _) => {
            Err(refuse("kernels read ternary matrices in the layout tile16, trits16 or lut16"))
        }
        _ => size().ok_or_else(|| refuse("a dense weight needs a static shape")),
    }
}

/// Packs the parameter. Dense weights are borrowed from the source.
///
/// # Errors
/// A weight that is missing, damaged, or not one that a kernel reads.
pub fn pack_param<'a>(
    module: &Module,
    param: ParamId,
    source: &'a dyn WeightSource,
) -> Result<PackedWeight<'a>, PackError> {
    let decl = &module.params()[param];
    if decl.ty.dtype != DType::Ter && BlockFormat::of(decl.ty.dtype).is_none() {
        return Ok(PackedWeight { bytes: dense(module, param, source)?, scales: Vec::new() });
    }
    let mut bytes = vec![0; packed_size(module, param)? as usize];
    let scales = pack_into(module, param, source, &mut bytes)?;
    Ok(PackedWeight { bytes: bytes.into(), scales })
}

/// Packs the parameter into `out`, which has [`packed_size`] bytes, and returns its scales as in [`PackedWeight`].
///
/// # Errors
/// As [`pack_param`], or a buffer of the wrong size.
pub fn pack_into(
    module: &Module,
    param: ParamId,
    source: &dyn WeightSource,
    out: &mut [u8],
) -> Result<Vec<f32>, PackError> {
    let decl = &module.params()[param];
    let expected = packed_size(module, param)?;
    if out.len() as u64 != expected {
        return Err(PackError::Buffer { param: decl.name.clone(), got: out.len() as u64, expected });
    }
    if let Some(matrix) = block_matrix(&decl.ty) {
        let mut factors = blocks::pack(module, param, source, matrix, out)?;
        factors.resize(factors.len().next_multiple_of(TILE_ROWS as usize), 0.0);
        return Ok(factors);
    }
    let Some((rows, cols)) = decl.ty.as_matrix().filter(|_| decl.ty.dtype == DType::Ter) else {
        out.copy_from_slice(&dense(module, param, source)?);
        return Ok(Vec::new());
    };
    let map = RowMap::resolve(module.params(), param, source)?;
    let tile_bytes = ternary_bytes(decl.ty.layout, TILE_ROWS, cols).unwrap_or(expected) as usize;
    let write = |(tile, out): (usize, &mut [u8])| {
        let first = tile as u32 * TILE_ROWS;
        let rows = (first..rows.min(first + TILE_ROWS)).map(|r| map.row(r));
        match decl.ty.layout {
            Layout::Trits16 | Layout::Lut16 => trits::write(rows, cols, decl.ty.layout, out),
            _ => tile16::write(rows, cols, out),
        }
    };
    let tiles = out.par_chunks_mut(tile_bytes).enumerate();
    bitnetc_threads::install(|| tiles.try_for_each(write))?;
    let groups = decl.ty.scale_groups();
    let mut scales = vec![0.0; rows.next_multiple_of(TILE_ROWS) as usize * groups as usize];
    for r in 0..rows {
        let row = map.row(r);
        for g in 0..groups {
            scales[packed_scale_index(groups, r, g) as usize] = row.scale(g);
        }
    }
    Ok(scales)
}

/// The stored bytes of a dense parameter.
fn dense<'a>(
    module: &Module,
    param: ParamId,
    source: &'a dyn WeightSource,
) -> Result<Cow<'a, [u8]>, PackError> {
    let decl = file(module.params(), param)?;
    let stored = source.weight(&decl.name).ok_or_else(|| PackError::Missing(decl.name.clone()))?;
    check_size(decl, "bytes", stored.bytes.len(), packed_size(module, param)?)?;
    Ok(stored.bytes)
}

/// The declaration, which must be of a parameter that the source holds.
fn file(params: &EntityVec<ParamId, ParamDecl>, param: ParamId) -> Result<&ParamDecl, PackError> {
    let decl = &params[param];
    match decl.def {
        bitnetc_ir::ParamDef::File { .. } => Ok(decl),
        _ => Err(PackError::Definition {
            param: decl.name.clone(),
            what: "a dense weight is made of no other",
        }),
    }
}

fn check_size(decl: &ParamDecl, what: &'static str, got: usize, expected: u64) -> Result<(), PackError> {
    match got as u64 == expected {
        true => Ok(()),
        false => Err(PackError::Size {
            param: decl.name.clone(),
            ty: decl.ty.to_string(),
            what,
            got: got as u64,
            expected,
        }),
    }
}
