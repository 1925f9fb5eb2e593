//! The op that the interpreter runs: the whole one, or for a product with a large matrix, the same op with some of the
//! matrix's rows, which gives the same elements of the result, since each comes from its own rows alone.
//!
//! Rows are taken in tiles of [`TILE`], so that tiles of 16 rows stay whole where they lie interleaved; they are cut out of the
//! weights in the form in which the source holds them, and the definitions of the matrix are kept.
//!
//! Invariant: row i of the sampled result is row [`Sample::row`] of the whole one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bitnetc_ir::interp::Tensor;
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::weights::{TILE_ROWS, packed_bytes, set_ternary_code, ternary_bytes, ternary_code};
use bitnetc_ir::{
    DType, Division, Entity, Func, FuncId, Layout, Module, NodeId, Operand, ParamDecl, ParamDef, ParamId,
    Type, WeightBytes, WeightSource,
};
use bitnetc_runtime::single::ExecuteError;

use crate::error::Error;

/// Weights by name.
type Held<'a> = BTreeMap<String, WeightBytes<'a>>;

/// Rows that are taken together.
const TILE: u32 = 2 * TILE_ROWS;

/// An op for the interpreter.
pub(super) struct Sample<'a> {
    /// The op as the only one of its module.
    pub(super) module: Module,
    /// The weights that it reads.
    pub(super) weights: Held<'a>,
    /// The results' elements that it computes; all if there is nothing.
    rows: Option<Vec<u32>>,
    /// The input that has as many elements as the result, where there is one.
    residual: Option<usize>,
}

/// The matrix of a product, and how many of its rows make an element of the result.
fn product(module: &Module, func: &Func, node: NodeId) -> Option<(ParamId, u32)> {
    let op = func.node(node);
    let is_product = op.op.info().division() == Some(Division::RowTiles);
    let &Operand::Param(matrix) = op.operands.get(1).filter(|_| is_product)? else { return None };
    let (rows, _) = module.params()[matrix].ty.as_matrix()?;
    let elements = func.ty(*op.results.first()?).as_rows()?.width;
    Some((matrix, rows.checked_div(elements)?))
}

/// Tiles of a matrix of `rows` rows: the first, the last, and others between them, at most `most` rows together.
fn tiles(rows: u32, most: u32, seed: u64) -> Vec<u32> {
    let count = rows.div_ceil(TILE);
    let mut rng = SplitMix::new(seed);
    let mut chosen = BTreeSet::from([0, count - 1]);
    while (chosen.len() as u32) < (most / TILE).min(count) {
        chosen.insert(rng.below(count as usize) as u32);
    }
    chosen.into_iter().collect()
}

impl<'a> Sample<'a> {
    /// The op `node` of `func`, with at most `most` rows of its matrix.
    ///
    /// # Errors
    /// Weights that `source` does not hold or that are shorter than their type says.
    pub(super) fn of(
        module: &Module,
        func: &Func,
        node: NodeId,
        source: &'a dyn WeightSource,
        most: u32,
        seed: u64,
    ) -> Result<Self, Error> {
        let mut alone = super::alone(module, func, node);
        let sampled = product(module, func, node).and_then(|(param, gated)| {
            let (rows, _) = module.params()[param].ty.as_matrix()?;
            // A last tile that is not whole would not be where it is in the whole matrix.
            (rows > most && rows.is_multiple_of(TILE)).then_some((param, gated, rows))
        });
        let Some((param, gated, rows)) = sampled else {
            let weights = gather(&alone, source)?;
            return Ok(Self { module: alone, weights, rows: None, residual: None });
        };
        let tiles = tiles(rows, most, seed);
        let taken: Vec<u32> = tiles.iter().flat_map(|&t| t * TILE..(t + 1) * TILE).collect();
        let mut cut = Cut { from: module, to: Module::new(), source, weights: Held::new() };
        let Ok(matrix) = cut.param(param, &taken) else {
            // Rows of it cannot be had alone: all of them.
            let weights = gather(&alone, source)?;
            return Ok(Self { module: alone, weights, rows: None, residual: None });
        };
        let Cut { to: mut small, weights, .. } = cut;
        small.stage = alone.stage;
        small.target = alone.target.take();

        let op = func.node(node);
        let mut new = Func::new("op", func.tokens());
        let mut operands = Vec::new();
        let mut residual = None;
        for (slot, &operand) in op.operands.iter().enumerate() {
            operands.push(match operand {
                Operand::Value(v) => {
                    let mut ty = func.ty(v).clone();
                    if slot == 2 {
                        residual = Some(1);
                        ty = with_width(&ty, taken.len() as u32);
                    }
                    Operand::Value(new.add_input(format!("x{slot}"), ty))
                }
                Operand::Param(_) => Operand::Param(matrix),
            });
        }
        let width = taken.len() as u32 / gated;
        let types = op.results.iter().map(|&v| with_width(func.ty(v), width)).collect();
        let made = new.insert(None, op.op.clone(), operands, types);
        let outputs = new.node(made).results.clone();
        new.set_outputs(outputs);
        small.add_func(new);
        debug_assert!(small.funcs().get(FuncId::from_index(0)).is_some());
        // Of a gated product, 16 rows of each half make 16 elements.
        let part = TILE / gated;
        let rows = tiles.iter().flat_map(|&t| t * part..(t + 1) * part).collect();
        Ok(Self { module: small, weights, rows: Some(rows), residual })
    }

    /// The operands for the interpreter, from those of the whole op.
    pub(super) fn operands(&self, whole: &[Tensor]) -> Vec<Tensor> {
        let mut all = whole.to_vec();
        if let Some(at) = self.residual
            && let Some(tensor) = all.get_mut(at)
        {
            *tensor = self.results(tensor);
        }
        all
    }

    /// The elements of a result of the whole op that the sample has.
    pub(super) fn results(&self, whole: &Tensor) -> Tensor {
        match (&self.rows, whole) {
            (Some(taken), Tensor::F32 { rows, width, data }) => {
                let row =
                    |r: usize| taken.iter().filter_map(move |&i| data.get(r * width + i as usize).copied());
                Tensor::F32 { rows: *rows, width: taken.len(), data: (0..*rows).flat_map(row).collect() }
            }
            _ => whole.clone(),
        }
    }

    /// The element of the whole result that is element `at` of the sample's.
    pub(super) fn row(&self, at: usize) -> usize {
        match &self.rows {
            Some(taken) => taken.get(at).map_or(at, |&r| r as usize),
            None => at,
        }
    }
}

/// The same activation type with another width.
fn with_width(ty: &Type, width: u32) -> Type {
    let mut ty = ty.clone();
    if let Some(last) = ty.shape.0.last_mut() {
        *last = bitnetc_ir::Dim::N(width);
    }
    ty
}

fn missing(name: &str) -> Error {
    ExecuteError::Pack(bitnetc_codegen::pack::PackError::Missing(name.to_owned())).into()
}

/// The weights that the interpreter will ask for.
fn gather<'a>(module: &Module, source: &'a dyn WeightSource) -> Result<Held<'a>, Error> {
    let mut all = Held::new();
    for decl in module.params().values() {
        match (source.weight(&decl.name), &decl.def) {
            (Some(w), _) => {
                all.insert(decl.name.clone(), w);
            }
            (None, ParamDef::File { .. }) if held_by_another(module, &decl.name, source) => {}
            (None, ParamDef::File { .. }) => return Err(missing(&decl.name)),
            (None, _) => {}
        }
    }
    Ok(all)
}

/// Whether a weight that is made of `name` is held itself, as plans hold packed weights only.
fn held_by_another(module: &Module, name: &str, source: &dyn WeightSource) -> bool {
    let made_of = |decl: &ParamDecl| decl.def.sources().iter().any(|&p| module.params()[p].name == name);
    let mut users = module.params().values().filter(|decl| made_of(decl)).peekable();
    users.peek().is_some()
        && users
            .all(|decl| source.weight(&decl.name).is_some() || held_by_another(module, &decl.name, source))
}

/// Cuts rows out of parameters, definitions and all.
struct Cut<'m, 'a> {
    from: &'m Module,
    to: Module,
    source: &'a dyn WeightSource,
    weights: Held<'a>,
}

impl Cut<'_, '_> {
    /// The parameter of the new module that has the rows `taken` of `param`, rising and in whole tiles.
    fn param(&mut self, param: ParamId, taken: &[u32]) -> Result<ParamId, Error> {
        let decl = self.from.params()[param].clone();
        let damaged = || missing(&decl.name);
        let cols = decl.ty.as_matrix().map(|(_, cols)| cols).ok_or_else(damaged)?;
        let shape = Type::matrix(decl.ty.dtype, taken.len() as u32, cols).shape;
        let ty = Type { shape, ..decl.ty.clone() };
        if let Some(stored) = self.source.weight(&decl.name) {
            let (ty, bytes) = cut(&decl.ty, ty, &stored, taken).ok_or_else(damaged)?;
            self.weights.insert(decl.name.clone(), bytes);
            let def = match decl.def {
                def @ ParamDef::File { .. } => def,
                _ => ParamDef::File { tensor: decl.name.clone(), hash: bitnetc_ir::ContentHash([0; 16]) },
            };
            return Ok(self.to.add_param(ParamDecl { name: decl.name, ty, def }));
        }
        let def = match &decl.def {
            ParamDef::File { .. } => return Err(damaged()),
            ParamDef::Relayout(of) => ParamDef::Relayout(self.param(*of, taken)?),
            ParamDef::Quantise(of) => ParamDef::Quantise(self.param(*of, taken)?),
            ParamDef::Interleave16(a, b) => {
                // Rows 32t to 32t+15 are rows 16t to 16t+15 of the first, the other 16 those of the second.
                let half: Vec<u32> = taken
                    .iter()
                    .filter(|&&r| r % TILE < TILE_ROWS)
                    .map(|r| r / TILE * TILE_ROWS + r % TILE)
                    .collect();
                ParamDef::Interleave16(self.param(*a, &half)?, self.param(*b, &half)?)
            }
            ParamDef::Concat(parts) => {
                let mut cut = Vec::new();
                let mut first = 0;
                for &part in parts {
                    let (rows, _) = self.from.params()[part].ty.as_matrix().ok_or_else(damaged)?;
                    let own =
                        taken.iter().filter(|&&r| (first..first + rows).contains(&r)).map(|r| r - first);
                    let own: Vec<u32> = own.collect();
                    if !own.is_empty() {
                        cut.push(self.param(part, &own)?);
                    }
                    first += rows;
                }
                ParamDef::Concat(cut)
            }
        };
        Ok(self.to.add_param(ParamDecl { name: decl.name, ty, def }))
    }
}

/// The rows `taken` of stored bytes of type `whole`, as type `ty`, whose layout may have to become another.
fn cut(
    whole: &Type,
    ty: Type,
    stored: &WeightBytes<'_>,
    taken: &[u32],
) -> Option<(Type, WeightBytes<'static>)> {
    let (rows, cols) = whole.as_matrix()?;
    let slice = |size: usize, at: u32| stored.bytes.get(at as usize * size..(at as usize + 1) * size);
    let groups = whole.scale_groups() as usize;
    let scales_of_rows = || -> Option<Vec<f32>> {
        let of_row = |&r: &u32| stored.scales.get(r as usize * groups..(r as usize + 1) * groups);
        taken.iter().map(of_row).collect::<Option<Vec<_>>>().map(|all| all.concat())
    };
    let tiled = whole.layout.is_packed_ternary();
    if tiled && whole.dtype != DType::F32 {
        let tile = Type { shape: Type::matrix(whole.dtype, TILE_ROWS, cols).shape, ..whole.clone() };
        let size = usize::try_from(packed_bytes(&tile)?.0).ok()?;
        let whole_tiles = taken.chunks(TILE_ROWS as usize).all(|tile| {
            let first = tile.first().copied().unwrap_or(1);
            first % TILE_ROWS == 0 && tile.iter().copied().eq(first..first + TILE_ROWS)
        });
        if !whole_tiles {
            return None;
        }
        let firsts = taken.iter().filter(|&&r| r % TILE_ROWS == 0);
        let bytes: Option<Vec<&[u8]>> = firsts.map(|r| slice(size, r / TILE_ROWS)).collect();
        return Some((
            ty,
            WeightBytes { bytes: Cow::Owned(bytes?.concat()), scales: Cow::Owned(scales_of_rows()?) },
        ));
    }
    if whole.dtype != DType::Ter {
        let size = stored.bytes.len().checked_div(rows as usize)?;
        let bytes: Option<Vec<&[u8]>> = taken.iter().map(|&r| slice(size, r)).collect();
        return Some((ty, WeightBytes { bytes: Cow::Owned(bytes?.concat()), scales: Cow::Borrowed(&[]) }));
    }
    // `i2s128` runs on from row to row; rows that are apart become `row16`.
    let ty = Type { layout: Layout::Row16, ..ty };
    let mut bytes =
        vec![0x55; usize::try_from(ternary_bytes(Layout::Row16, taken.len() as u32, cols)?).ok()?];
    for (to, &from) in (0..).zip(taken) {
        for col in 0..cols {
            let code = ternary_code(whole.layout, cols, &stored.bytes, from, col)?;
            set_ternary_code(Layout::Row16, cols, &mut bytes, to, col, code);
        }
    }
    let scales = match whole.layout {
        Layout::I2s128 => vec![*stored.scales.first()?; taken.len()],
        _ => scales_of_rows()?,
    };
    Some((ty, WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_always_among_the_tiles() {
        for (rows, most) in [(320, 256), (6912, 256), (128_256, 256), (320, 64)] {
            for seed in 0..20 {
                let tiles = tiles(rows, most, seed);
                assert_eq!((tiles[0], *tiles.last().unwrap()), (0, rows / TILE - 1));
                assert_eq!(tiles.len() as u32, most / TILE);
                assert!(tiles.windows(2).all(|w| w[0] < w[1]));
            }
        }
        assert_ne!(tiles(6912, 256, 1), tiles(6912, 256, 2));
    }
}
