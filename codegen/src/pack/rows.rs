//! Which stored row each row of a ternary parameter is.

use std::borrow::Cow;
use std::collections::HashMap;

use bitnetc_ir::weights::{TILE_ROWS, ternary_bytes};
use bitnetc_ir::{EntityVec, Layout, ParamDecl, ParamDef, ParamId, WeightSource};

use super::{PackError, check_size};

/// Definitions may refer to each other so deep. The passes make three levels.
const MAX_DEPTH: u32 = 8;

/// A stored ternary matrix.
pub(super) struct Stored<'a> {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) cols: u32,
    /// Scales of each row.
    groups: u32,
    pub(super) bytes: Cow<'a, [u8]>,
    scales: Cow<'a, [f32]>,
}

/// A row of a stored matrix.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) stored: &'a Stored<'a>,
    pub(super) row: u32,
}

impl Row<'_> {
    /// The factor of a group of the row.
    pub(super) fn scale(&self, group: u32) -> f32 {
        let of_row = match self.stored.layout {
            Layout::I2s128 => 0,
            _ => self.row as usize * self.stored.groups as usize + group as usize,
        };
        self.stored.scales.get(of_row).copied().unwrap_or(0.0)
    }

    /// The error for a code 3 in this row.
    pub(super) fn bad_code(&self) -> PackError {
        PackError::Code { param: self.stored.name.clone(), row: self.row }
    }
}

/// All rows of a parameter.
pub(super) struct RowMap<'a> {
    stored: Vec<Stored<'a>>,
    /// The stored matrix and its row, for each row.
    rows: Vec<(u32, u32)>,
}

impl<'a> RowMap<'a> {
    /// Resolves the definition of `param`, a ternary matrix.
    pub(super) fn resolve(
        params: &EntityVec<ParamId, ParamDecl>,
        param: ParamId,
        source: &'a dyn WeightSource,
    ) -> Result<Self, PackError> {
        let mut resolver = Resolver { params, source, stored: Vec::new(), known: HashMap::new() };
        let rows = resolver.rows(param, 0)?;
        Ok(Self { stored: resolver.stored, rows })
    }

    /// The row `r` of the parameter.
    pub(super) fn row(&self, r: u32) -> Row<'_> {
        let (stored, row) = self.rows[r as usize];
        Row { stored: &self.stored[stored as usize], row }
    }
}

struct Resolver<'a, 'm> {
    params: &'m EntityVec<ParamId, ParamDecl>,
    source: &'a dyn WeightSource,
    stored: Vec<Stored<'a>>,
    known: HashMap<ParamId, u32>,
}

impl Resolver<'_, '_> {
    fn rows(&mut self, param: ParamId, depth: u32) -> Result<Vec<(u32, u32)>, PackError> {
        let decl = &self.params[param];
        let refuse = |what| PackError::Definition { param: decl.name.clone(), what };
        let (rows, cols) = decl.ty.as_matrix().ok_or_else(|| refuse("a ternary weight is a matrix"))?;
        if depth > MAX_DEPTH {
            return Err(refuse("weights are made of each other in too many steps"));
        }
        for &part in &decl.def.sources() {
            let ty = &self.params[part].ty;
            if ty.as_matrix().map(|(_, cols)| cols) != Some(cols) || ty.group != decl.ty.group {
                return Err(refuse("the weights that it is made of have other columns or groups"));
            }
        }
        let all = match &decl.def {
            ParamDef::File { .. } => {
                let stored = self.stored(param)?;
                (0..rows).map(|r| (stored, r)).collect()
            }
            ParamDef::Relayout(of) => self.rows(*of, depth + 1)?,
            ParamDef::Quantise(_) => return Err(refuse("a ternary weight is not made by quantising")),
            ParamDef::Concat(parts) => {
                let mut all = Vec::new();
                for &part in parts {
                    all.extend(self.rows(part, depth + 1)?);
                    if all.len() > rows as usize {
                        break;
                    }
                }
                all
            }
            ParamDef::Interleave16(a, b) => {
                let (a, b) = (self.rows(*a, depth + 1)?, self.rows(*b, depth + 1)?);
                let block = TILE_ROWS as usize;
                if a.len() != b.len() || !a.len().is_multiple_of(block) {
                    return Err(refuse("interleaved weights are equally large, in blocks of 16 rows"));
                }
                a.chunks(block).zip(b.chunks(block)).flat_map(|(a, b)| [a, b].concat()).collect()
            }
        };
        match all.len() == rows as usize {
            true => Ok(all),
            false => Err(refuse("the weights that it is made of have another number of rows")),
        }
    }

    /// Position of the stored matrix `param` among those seen so far.
    fn stored(&mut self, param: ParamId) -> Result<u32, PackError> {
        if let Some(&known) = self.known.get(&param) {
            return Ok(known);
        }
        let decl = &self.params[param];
        let refuse = |what| PackError::Definition { param: decl.name.clone(), what };
        let (rows, cols) = decl.ty.as_matrix().ok_or_else(|| refuse("a ternary weight is a matrix"))?;
        let layout = decl.ty.layout;
        let bytes = ternary_bytes(layout, rows, cols).ok_or_else(|| {
            refuse("a stored ternary matrix is in i2s128 (of 128·n columns), row16, tile16, trits16 or lut16")
        })?;
        let found = self.source.weight(&decl.name).ok_or_else(|| PackError::Missing(decl.name.clone()))?;
        check_size(decl, "bytes", found.bytes.len(), bytes)?;
        let groups = decl.ty.scale_groups();
        let scales = if layout == Layout::I2s128 { 1 } else { rows.saturating_mul(groups) };
        // Scales of a packed matrix may come with their padding.
        let padded = u64::from(scales).next_multiple_of(TILE_ROWS.into());
        if layout == Layout::I2s128 || found.scales.len() as u64 != padded {
            check_size(decl, "scales", found.scales.len(), scales.into())?;
        }
        let position = self.stored.len() as u32;
        let (bytes, scales) = (found.bytes, found.scales);
        self.stored.push(Stored { name: decl.name.clone(), layout, cols, groups, bytes, scales });
        self.known.insert(param, position);
        Ok(position)
    }
}
