//! The logical elements of parameters, from stored bytes in any layout or through the chain of definitions.
//!
//! A parameter's own bytes come first, where the weight source holds them; a derived parameter without bytes is made of
//! its sources. Ternary matrices are decoded once, to one i8 for each element; dense ones stay as they are stored.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::error::{InterpError, ParamRule};
use super::scalar;
use crate::blocks::quantise::QuantisedRow;
use crate::blocks::{self, BLOCK, BlockFormat, HALF_BLOCK, block_matrix};
use crate::entity::{Entity, ParamId};
use crate::module::{Module, ParamDecl, ParamDef};
use crate::types::{DType, Layout};
use crate::weights::{TILE_ROWS, WeightBytes, WeightSource, ternary_bytes, ternary_code};

/// Longest chain of definitions after a parameter; the passes make chains of three.
const MAX_CHAIN: u32 = 32;

/// A ternary matrix, element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct Ternary {
    /// Number of rows: elements of the result.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// −1, 0 and +1, row by row.
    pub codes: Vec<i8>,
    /// Columns that share a factor; 0: all of a row.
    pub group: u32,
    /// The factor of each row, or of each group of each row.
    pub scales: Vec<f32>,
}

impl Ternary {
    /// Columns that share a factor.
    pub fn scale_cols(&self) -> usize {
        if self.group == 0 { self.cols as usize } else { self.group as usize }
    }

    /// The elements of a row, and its factors. `r` is below `rows`.
    pub(super) fn row(&self, r: u32) -> (&[i8], &[f32]) {
        let (r, cols) = (r as usize, self.cols as usize);
        let groups = cols.div_ceil(self.scale_cols());
        (&self.codes[r * cols..][..cols], &self.scales[r * groups..][..groups])
    }
}

/// A dense matrix as stored.
#[derive(Clone, Debug)]
pub(super) struct Dense<'a> {
    /// Number of rows.
    pub(super) rows: u32,
    /// Elements of a row.
    pub(super) cols: u32,
    dtype: DType,
    bytes: Cow<'a, [u8]>,
}

impl Dense<'_> {
    /// A row, as f32. `r` is below `rows`.
    pub(super) fn row(&self, r: u32) -> Vec<f32> {
        let stride = self.bytes.len() / self.rows as usize;
        elements(self.dtype, &self.bytes[r as usize * stride..][..stride])
    }
}

/// Little-endian f32, f16 or bf16 as f32.
fn elements(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| scalar::f16_value(half(b))).collect(),
        DType::Bf16 => bytes.chunks_exact(2).map(|b| scalar::bf16_value(half(b))).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// A block-quantised matrix, row by row.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// The rows.
    pub(super) rows: Vec<QuantisedRow>,
    cols: u32,
}

/// A matrix whose rows are looked up.
#[derive(Clone, Copy)]
pub(super) enum Table<'r, 'a> {
    Dense(&'r Dense<'a>),
    Ternary(&'r Ternary),
}

/// A parameter as an op reads it.
enum Weight<'a> {
    Vector(Vec<f32>),
    Dense(Dense<'a>),
    Ternary(Ternary),
    Blocks(Blocks),
}

/// The parameters of a module, each evaluated when it is first read.
pub(super) struct Weights<'a> {
    module: &'a Module,
    source: &'a dyn WeightSource,
    memo: Vec<OnceLock<Weight<'a>>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(module: &'a Module, source: &'a dyn WeightSource) -> Self {
        let memo = module.params().keys().map(|_| OnceLock::new()).collect();
        Self { module, source, memo }
    }

    /// The elements of a vector parameter.
    pub(super) fn vector(&self, id: ParamId) -> Result<&[f32], InterpError> {
        match self.weight(id)? {
            Weight::Vector(w) => Ok(w),
            _ => Err(self.broken(id, ParamRule::Type)),
        }
    }

    /// A dense matrix parameter.
    pub(super) fn dense(&self, id: ParamId) -> Result<&Dense<'a>, InterpError> {
        match self.weight(id)? {
            Weight::Dense(w) => Ok(w),
            _ => Err(self.broken(id, ParamRule::Type)),
        }
    }

    /// A matrix parameter whose rows are looked up.
    pub(super) fn table(&self, id: ParamId) -> Result<Table<'_, 'a>, InterpError> {
        match self.weight(id)? {
            Weight::Dense(w) => Ok(Table::Dense(w)),
            Weight::Ternary(w) => Ok(Table::Ternary(w)),
            _ => Err(self.broken(id, ParamRule::Type)),
        }
    }

    /// A ternary matrix parameter.
    pub(super) fn ternary(&self, id: ParamId) -> Result<&Ternary, InterpError> {
        match self.weight(id)? {
            Weight::Ternary(w) => Ok(w),
            _ => Err(self.broken(id, ParamRule::Type)),
        }
    }

    /// A block-quantised matrix parameter.
    pub(super) fn blocks(&self, id: ParamId) -> Result<&Blocks, InterpError> {
        match self.weight(id)? {
            Weight::Blocks(w) => Ok(w),
            _ => Err(self.broken(id, ParamRule::Type)),
        }
    }

    fn broken(&self, id: ParamId, rule: ParamRule) -> InterpError {
        let name = self.module.params().get(id).map(|decl| decl.name.clone());
        InterpError::ParamRule { param: name.unwrap_or_else(|| format!("{id:?}")), rule }
    }

    fn weight(&self, id: ParamId) -> Result<&Weight<'a>, InterpError> {
        let (Some(memo), Some(decl)) = (self.memo.get(id.index()), self.module.params().get(id)) else {
            return Err(self.broken(id, ParamRule::Order));
        };
        if let Some(weight) = memo.get() {
            return Ok(weight);
        }
        let weight = match (decl.ty.dtype, decl.ty.as_matrix()) {
            (DType::Ter, Some(_)) => Weight::Ternary(self.evaluate_ternary(id, 0)?.into_owned()),
            (DType::F32 | DType::F16 | DType::Bf16, Some((rows, cols))) => {
                Weight::Dense(Dense { rows, cols, dtype: decl.ty.dtype, bytes: self.dense_bytes(decl)? })
            }
            (DType::W8 | DType::W6 | DType::W4, Some(_)) => Weight::Blocks(self.evaluate_blocks(id, 0)?),
            (DType::F32, None) if decl.ty.shape.0.len() == 1 => {
                Weight::Vector(elements(DType::F32, &self.dense_bytes(decl)?))
            }
            _ => return Err(self.broken(id, ParamRule::Type)),
        };
        Ok(memo.get_or_init(|| weight))
    }

    fn dense_bytes(&self, decl: &ParamDecl) -> Result<Cow<'a, [u8]>, InterpError> {
        let rule = |rule| InterpError::ParamRule { param: decl.name.clone(), rule };
        let width = decl.ty.dtype.element_bytes().ok_or(rule(ParamRule::Type))?;
        let expected = decl.ty.elements().and_then(|n| n.checked_mul(u64::from(width)));
        let expected = expected.filter(|&n| n > 0 && decl.ty.layout == Layout::Rows);
        let expected = expected.ok_or(rule(ParamRule::Layout))?;
        let stored = self.source.weight(&decl.name);
        let stored = stored.ok_or_else(|| InterpError::WeightMissing { param: decl.name.clone() })?;
        check_length(decl, &stored, expected)?;
        Ok(stored.bytes)
    }

    /// The block-quantised matrix, from its bytes or its source, at the end of a chain of `depth` definitions.
    fn evaluate_blocks(&self, id: ParamId, depth: u32) -> Result<Blocks, InterpError> {
        let decl = self.module.params().get(id).ok_or_else(|| self.broken(id, ParamRule::Order))?;
        let rule = |rule| InterpError::ParamRule { param: decl.name.clone(), rule };
        let matrix = block_matrix(&decl.ty).filter(|&(_, rows, cols)| rows > 0 && cols > 0);
        let (format, rows, cols) = matrix.ok_or_else(|| rule(ParamRule::Type))?;
        if let Some(expected) = blocks::packed_bytes(&decl.ty)
            && let Some(stored) = self.source.weight(&decl.name)
        {
            check_length(decl, &stored, expected)?;
            check_scales(decl, &stored, rows)?;
            return decode_blocks(format, rows, cols, &stored).ok_or_else(|| rule(ParamRule::Layout));
        }
        let source = |source: ParamId| match source.index() < id.index() {
            true if depth == MAX_CHAIN => Err(rule(ParamRule::Chain)),
            true => Ok(source),
            false => Err(rule(ParamRule::Order)),
        };
        let made = match &decl.def {
            ParamDef::File { .. } if decl.ty.layout == Layout::Tile16 => {
                return Err(InterpError::WeightMissing { param: decl.name.clone() });
            }
            ParamDef::File { .. } => return Err(rule(ParamRule::Layout)),
            ParamDef::Relayout(of) => {
                let of = source(*of)?;
                if self.module.params().get(of).map(|s| s.ty.dtype) != Some(decl.ty.dtype) {
                    return Err(rule(ParamRule::Type));
                }
                self.evaluate_blocks(of, depth + 1)?
            }
            ParamDef::Quantise(of) => {
                let dense = self.dense(source(*of)?)?;
                let rows = (0..dense.rows).map(|r| {
                    let mut row = QuantisedRow::default();
                    row.quantise(format, &dense.row(r));
                    row
                });
                Blocks { rows: rows.collect(), cols: dense.cols }
            }
            ParamDef::Concat(_) | ParamDef::Interleave16(..) => return Err(rule(ParamRule::Type)),
        };
        match made.rows.len() == rows as usize && made.cols == cols {
            true => Ok(made),
            false => Err(rule(ParamRule::Sizes)),
        }
    }

    /// The ternary matrix, from its bytes or its sources, at the end of a chain of `depth` definitions. Sources are not
    /// kept, unless an op reads them too.
    fn evaluate_ternary(&self, id: ParamId, depth: u32) -> Result<Cow<'_, Ternary>, InterpError> {
        if let Some(Weight::Ternary(w)) = self.memo.get(id.index()).and_then(OnceLock::get) {
            return Ok(Cow::Borrowed(w));
        }
        let decl = self.module.params().get(id).ok_or_else(|| self.broken(id, ParamRule::Order))?;
        let rule = |rule| InterpError::ParamRule { param: decl.name.clone(), rule };
        let matrix = decl.ty.as_matrix().filter(|&(rows, cols)| rows > 0 && cols > 0);
        let (DType::Ter, Some((rows, cols))) = (decl.ty.dtype, matrix) else {
            return Err(rule(ParamRule::Type));
        };
        let bytes = ternary_bytes(decl.ty.layout, rows, cols);
        if let Some(expected) = bytes
            && let Some(stored) = self.source.weight(&decl.name)
        {
            check_length(decl, &stored, expected)?;
            return decode(decl, rows, cols, &stored).map(Cow::Owned);
        }
        let source = |source: ParamId| match source.index() < id.index() {
            true if depth == MAX_CHAIN => Err(rule(ParamRule::Chain)),
            true => self.evaluate_ternary(source, depth + 1),
            false => Err(rule(ParamRule::Order)),
        };
        let made = match &decl.def {
            ParamDef::File { .. } if bytes.is_none() => return Err(rule(ParamRule::Layout)),
            ParamDef::File { .. } => return Err(InterpError::WeightMissing { param: decl.name.clone() }),
            ParamDef::Quantise(_) => return Err(rule(ParamRule::Type)),
            ParamDef::Relayout(of) => source(*of)?,
            ParamDef::Concat(parts) => {
                let group = decl.ty.group;
                let mut all = Ternary { rows: 0, cols, codes: Vec::new(), group, scales: Vec::new() };
                for part in parts {
                    let part = source(*part)?;
                    if part.cols != cols || part.group != group || part.rows > rows - all.rows {
                        return Err(rule(ParamRule::Sizes));
                    }
                    all.rows += part.rows;
                    all.codes.extend_from_slice(&part.codes);
                    all.scales.extend_from_slice(&part.scales);
                }
                Cow::Owned(all)
            }
            ParamDef::Interleave16(a, b) => {
                let (a, b) = (source(*a)?, source(*b)?);
                Cow::Owned(interleave(&a, &b).ok_or(rule(ParamRule::Interleave))?)
            }
        };
        match (made.rows, made.cols, made.group) == (rows, cols, decl.ty.group) {
            true => Ok(made),
            false => Err(rule(ParamRule::Sizes)),
        }
    }
}

fn check_length(decl: &ParamDecl, stored: &WeightBytes<'_>, expected: u64) -> Result<(), InterpError> {
    match stored.bytes.len() as u64 == expected {
        true => Ok(()),
        false => Err(InterpError::WeightLength {
            param: decl.name.clone(),
            ty: decl.ty.to_string(),
            expected,
            got: stored.bytes.len(),
        }),
    }
}

fn check_scales(decl: &ParamDecl, stored: &WeightBytes<'_>, expected: u32) -> Result<(), InterpError> {
    match stored.scales.len() == expected as usize {
        true => Ok(()),
        false => Err(InterpError::ScaleCount {
            param: decl.name.clone(),
            ty: decl.ty.to_string(),
            expected,
            got: stored.scales.len(),
        }),
    }
}

/// Decodes a block-quantised matrix whose bytes and factors are as many as its type needs.
fn decode_blocks(format: BlockFormat, rows: u32, cols: u32, stored: &WeightBytes<'_>) -> Option<Blocks> {
    let byte = |at: u64| stored.bytes.get(usize::try_from(at).ok()?).copied();
    let mut all = Vec::with_capacity(rows as usize);
    for (r, &factor) in (0..rows).zip(stored.scales.iter()) {
        let mut row = QuantisedRow { factor, ..QuantisedRow::default() };
        for c in 0..cols {
            row.codes.push(i8::try_from(format.code(&stored.bytes, cols, r, c)?).ok()?);
        }
        row.codes.resize(row.codes.len().next_multiple_of(BLOCK as usize), 0);
        for c in (0..cols.next_multiple_of(BLOCK)).step_by(HALF_BLOCK as usize) {
            let at = format.scale_position(cols, r, c);
            match format {
                BlockFormat::W6 => row.steps.push(byte(at)? as i8),
                _ if c % BLOCK == 0 => row.halves.push(u16::from_le_bytes([byte(at)?, byte(at + 1)?])),
                _ => {}
            }
        }
        all.push(row);
    }
    Some(Blocks { rows: all, cols })
}

/// Decodes a matrix whose bytes are as many as its layout needs.
fn decode(decl: &ParamDecl, rows: u32, cols: u32, stored: &WeightBytes<'_>) -> Result<Ternary, InterpError> {
    let layout = decl.ty.layout;
    let groups = decl.ty.scale_groups();
    check_scales(decl, stored, if layout == Layout::I2s128 { 1 } else { rows.saturating_mul(groups) })?;
    let scales = match stored.scales[..] {
        [one] if layout == Layout::I2s128 => vec![one; rows as usize],
        _ => stored.scales.to_vec(),
    };
    let mut codes = Vec::with_capacity(rows as usize * cols as usize);
    for row in 0..rows {
        for col in 0..cols {
            match ternary_code(layout, cols, &stored.bytes, row, col) {
                Some(code @ 0..=2) => codes.push(code as i8 - 1),
                Some(_) => return Err(InterpError::TernaryCode { param: decl.name.clone(), row, col }),
                None => {
                    return Err(InterpError::ParamRule { param: decl.name.clone(), rule: ParamRule::Layout });
                }
            }
        }
    }
    Ok(Ternary { rows, cols, codes, group: decl.ty.group, scales })
}

/// 16 rows of `a`, 16 of `b`, 16 of `a`, …; `None` where the sizes do not allow it.
fn interleave(a: &Ternary, b: &Ternary) -> Option<Ternary> {
    if (a.rows, a.cols, a.group) != (b.rows, b.cols, b.group) || !a.rows.is_multiple_of(TILE_ROWS) {
        return None;
    }
    let rows = a.rows.checked_mul(2)?;
    let block = TILE_ROWS as usize;
    let mut codes = Vec::with_capacity(2 * a.codes.len());
    for (a, b) in a.codes.chunks(block * a.cols as usize).zip(b.codes.chunks(block * a.cols as usize)) {
        codes.extend_from_slice(a);
        codes.extend_from_slice(b);
    }
    let mut scales = Vec::with_capacity(2 * a.scales.len());
    let of_block = block * a.scales.len() / a.rows.max(1) as usize;
    for (a, b) in a.scales.chunks(of_block).zip(b.scales.chunks(of_block)) {
        scales.extend_from_slice(a);
        scales.extend_from_slice(b);
    }
    Some(Ternary { rows, cols: a.cols, codes, group: a.group, scales })
}
