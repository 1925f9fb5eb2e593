//! Weights and inputs for any module, generated from a seed, to run a module without a model.
//!
//! The bytes of a weight depend on the seed, its name and its type, so a module and what passes made of it get the same
//! ones; they are made when they are asked for, so a large module costs memory only where it is run.
//!
//! Invariants: same seed, same bytes, on every machine; weights are valid and finite, token ids and row numbers lie within
//! the tables that the function reads, and positions within the caches, so a module that verifies can be run.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::KEY_BLOCK;
use crate::blocks::{BLOCK, BlockFormat, GROUP, block_matrix};
use crate::columns::Index;
use crate::entity::ValueId;
use crate::graph::{Func, Node, Operand, ValueDef};
use crate::interp::{Cache, CacheData, State, Tensor, scalar};
use crate::module::{Module, ParamDef};
use crate::random::SplitMix;
use crate::types::{CacheDims, DType, Dim, Layout, Rows, Type};
use crate::weights::{TILE_ROWS, WeightBytes, WeightSource, packed_bytes, set_ternary_code, ternary_bytes};

/// The weights of a module.
#[derive(Clone, Debug, Default)]
pub struct SampleWeights {
    seed: u64,
    types: BTreeMap<String, Type>,
}

impl SampleWeights {
    /// Weights for the parameters of `module` that come from a file, and those of every module that passes make of it.
    pub fn new(module: &Module, seed: u64) -> Self {
        let stored = module.params().values().filter(|decl| matches!(decl.def, ParamDef::File { .. }));
        Self { seed, types: stored.map(|decl| (decl.name.clone(), decl.ty.clone())).collect() }
    }
}

impl WeightSource for SampleWeights {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        let ty = self.types.get(name)?;
        Some(random_weight(&mut stream(self.seed, name), ty))
    }
}

/// A stream of numbers for the seed and the name.
fn stream(seed: u64, name: &str) -> SplitMix {
    // FNV-1a (Fowler, Noll, Vo).
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    SplitMix::new(seed ^ hash)
}

/// Random bytes and scales of a parameter of this type.
pub(crate) fn random_weight(rng: &mut SplitMix, ty: &Type) -> WeightBytes<'static> {
    let n = ty.elements().unwrap_or(0);
    let mut bytes = Vec::new();
    let mut scales = Vec::new();
    match (ty.dtype, ty.as_matrix()) {
        (DType::Ter, Some((rows, cols))) => {
            // The padding as the layout has it: codes 0 where a byte has five, else 1.
            let padding = if ty.layout.has_five_a_byte() { 0 } else { 0x55 };
            bytes = vec![padding; ternary_bytes(ty.layout, rows, cols).unwrap_or(0) as usize];
            for r in 0..rows {
                for c in 0..cols {
                    let code = rng.below(3) as u8;
                    set_ternary_code(ty.layout, cols, &mut bytes, r, c, code);
                }
            }
            let count = if ty.layout == Layout::I2s128 { 1 } else { rows * ty.scale_groups() };
            scales = (0..count).map(|_| rng.number()).collect();
        }
        (DType::W8 | DType::W6 | DType::W4, Some((rows, _))) => {
            bytes = (0..packed_bytes(ty).map_or(0, |(b, _)| b)).map(|_| rng.next_u64() as u8).collect();
            // Scales that are f16: finite ones.
            if let Some((format @ (BlockFormat::W8 | BlockFormat::W4), rows, cols)) = block_matrix(ty) {
                for r in 0..rows.next_multiple_of(TILE_ROWS) {
                    for c in (0..cols.next_multiple_of(GROUP)).step_by(BLOCK as usize) {
                        let at = format.scale_position(cols, r, c) as usize;
                        bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(rng.number()).to_le_bytes());
                    }
                }
            }
            scales = (0..rows).map(|_| rng.number()).collect();
        }
        (DType::F16, _) => {
            bytes.extend((0..n).flat_map(|_| half::f16::from_f32(rng.number()).to_le_bytes()));
        }
        (DType::Bf16, _) => {
            bytes.extend((0..n).flat_map(|_| half::bf16::from_f32(rng.number()).to_le_bytes()));
        }
        _ => bytes.extend((0..n).flat_map(|_| rng.number().to_le_bytes())),
    }
    WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales) }
}

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallShape {
    /// Tokens; functions of one token take one.
    pub tokens: u32,
    /// Where the first of them stands.
    pub position: u32,
    /// Positions in caches, a multiple of [`KEY_BLOCK`].
    pub capacity: u32,
}

impl CallShape {
    /// A call with this number of tokens, after some others, in caches that are not full.
    pub fn of(tokens: u32) -> Self {
        let position = 5;
        let capacity = tokens.saturating_add(position).checked_next_multiple_of(KEY_BLOCK);
        Self { tokens, position, capacity: capacity.unwrap_or(u32::MAX - u32::MAX % KEY_BLOCK) }
    }
}

/// Bytes of the inputs and results of all ops of a call of `func`, a function of `module` that verifies; with `weights` also
/// of the parameters, which are made in full where they are made from a seed. Compared with
/// [`crate::limits::MAX_CALL_BYTES`] before anything of these sizes is allocated: the types are no more than text.
pub fn call_bytes(module: &Module, func: &Func, call: CallShape, weights: bool) -> u64 {
    let dim = |dim: &Dim| match dim {
        Dim::N(n) => u64::from(*n),
        Dim::Tokens => u64::from(call.tokens),
        Dim::Ctx => u64::from(call.capacity),
    };
    // Nothing has more than four bytes an element where it is computed with.
    let bytes = |ty: &Type| ty.shape.0.iter().map(dim).fold(4u64, u64::saturating_mul);
    // An updated cache is the cache.
    let stored =
        |&v: &ValueId| !func.ty(v).is_persistent() || matches!(func.value(v).def, ValueDef::Input(_));
    let values = func.values().filter(stored).map(|v| bytes(func.ty(v)));
    let used = if weights { func.params_used() } else { Vec::new() };
    let params = used.into_iter().filter_map(|p| module.params().get(p)).map(|p| bytes(&p.ty));
    values.chain(params).fold(0, u64::saturating_add)
}

/// Inputs for a call of `func`, a function of `module`.
pub fn inputs(module: &Module, func: &Func, call: CallShape, seed: u64) -> Vec<Tensor> {
    func.inputs()
        .iter()
        .map(|&input| {
            let data = func.value(input);
            let name = data.name.as_deref().unwrap_or_default();
            tensor(module, func, &data.ty, call, &mut stream(seed, name))
        })
        .collect()
}

/// The input of this name for a call, as [`inputs`] makes it with `seed`; `None` if the function has none of the name.
pub fn input(module: &Module, func: &Func, name: &str, call: CallShape, seed: u64) -> Option<Tensor> {
    let named = |&&v: &&ValueId| func.value(v).name.as_deref() == Some(name);
    let value = *func.inputs().iter().find(named)?;
    Some(tensor(module, func, func.ty(value), call, &mut stream(seed, name)))
}

fn tensor(module: &Module, func: &Func, ty: &Type, call: CallShape, rng: &mut SplitMix) -> Tensor {
    if let Some(dims @ CacheDims { kv_heads, head_dim }) = ty.as_cache() {
        let n = kv_heads as usize * call.capacity as usize * head_dim as usize;
        let data = match ty.dtype {
            DType::F16 => CacheData::F16((0..n).map(|_| scalar::f16_bits(rng.number())).collect()),
            _ => CacheData::F32((0..n).map(|_| rng.number()).collect()),
        };
        return Tensor::Cache(Cache { dims, capacity: call.capacity, data });
    }
    if let Some(dims) = ty.as_state() {
        let data = (0..dims.elements().unwrap_or(0)).map(|_| rng.number()).collect();
        return Tensor::State(State { dims, data });
    }
    let bound = index_bound(module, func, ty.dtype).unwrap_or(1).max(1);
    let Some(Rows { per_token, width }) = ty.as_rows().filter(|_| ty.dtype != DType::Idx) else {
        let ids = match ty.shape.0[..] {
            [] => return Tensor::Position(call.position),
            [Dim::N(n)] => n,
            _ => call.tokens,
        };
        return Tensor::Tokens((0..ids).map(|_| rng.below(bound as usize) as u32).collect());
    };
    let (rows, width) = (if per_token { call.tokens as usize } else { 1 }, width as usize);
    let n = rows * width;
    let codes = |rng: &mut SplitMix| -> Vec<i8> { (0..n).map(|_| rng.below(256) as u8 as i8).collect() };
    match ty.dtype {
        DType::Q8 => {
            let codes = codes(rng);
            let sums = codes.chunks(width.max(1)).map(|row| row.iter().map(|&c| i32::from(c)).sum());
            let sums = sums.collect();
            let a = (0..rows).map(|_| 1.0 + rng.number().abs()).collect();
            Tensor::Q8 { rows, width, codes, a, sums }
        }
        DType::Q8b => {
            let codes = codes(rng);
            let block = ty.quant_block();
            let blocks = rows * width.div_ceil(block as usize);
            let scales = (0..blocks).map(|_| 1e-3 + rng.number().abs()).collect();
            Tensor::Q8b { rows, width, block, codes, scales }
        }
        DType::I32 => {
            // Different numbers in a row, as `screen` gives them.
            let first = rng.below(bound as usize);
            let number = |i: usize| ((first + i % width.max(1)) % bound as usize) as i32;
            Tensor::I32 { rows, width, data: (0..n).map(number).collect() }
        }
        _ => Tensor::F32 { rows, width, data: (0..n).map(|_| rng.number()).collect() },
    }
}

/// What indices of type `dtype` (token ids, row numbers) stay below in `func`: the rows of the smallest table, or the width of
/// the narrowest row, that they count in; `None` where they count in nothing.
pub fn index_bound(module: &Module, func: &Func, dtype: DType) -> Option<u32> {
    func.order().iter().filter_map(|&id| index_bound_of(module, func, func.node(id), dtype)).min()
}

/// As [`index_bound`], for one op.
pub fn index_bound_of(module: &Module, func: &Func, node: &Node, dtype: DType) -> Option<u32> {
    let rows = |operand: Option<&Operand>| match operand? {
        Operand::Param(p) => module.params().get(*p)?.ty.as_matrix().map(|(rows, _)| rows),
        Operand::Value(v) => func.get_value(*v)?.ty.as_rows().map(|rows| rows.width),
    };
    let counts = |index: &&Index| match node.operands.get(index.operand) {
        Some(Operand::Value(v)) => func.get_value(*v).is_some_and(|value| value.ty.dtype == dtype),
        _ => false,
    };
    let indices = node.op.info().indices.iter().filter(counts);
    indices.filter_map(|index| rows(node.operands.get(index.into))).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenOptions, random_module};
    use crate::interp::Interpreter;
    use crate::{TokenCount, text};

    #[test]
    fn every_module_can_be_run_and_gives_the_same_bits_again() {
        for seed in 0..40 {
            let tokens = if seed % 2 == 0 { TokenCount::One } else { TokenCount::UpTo(3) };
            let (module, _) = random_module(seed, &GenOptions { tokens, ..GenOptions::default() });
            let run = |seed: u64| {
                let weights = SampleWeights::new(&module, seed);
                let interpreter = Interpreter::new(&module, &weights);
                let mut outputs = Vec::new();
                for (id, func) in module.funcs().iter() {
                    let inputs = inputs(&module, func, CallShape::of(tokens.max()), seed);
                    let got = interpreter.run(id, inputs);
                    outputs.extend(got.unwrap_or_else(|e| panic!("{e}\n{}", text::print(&module))));
                }
                outputs
            };
            assert_eq!(run(1), run(1), "{seed}");
        }
    }

    #[test]
    fn one_input_is_the_same_as_among_all() {
        let (module, _) = random_module(3, &GenOptions::default());
        let func = module.funcs().values().next().unwrap();
        let call = CallShape::of(1);
        for (&value, tensor) in func.inputs().iter().zip(inputs(&module, func, call, 9)) {
            let name = func.value(value).name.as_deref().unwrap();
            assert_eq!(input(&module, func, name, call, 9), Some(tensor));
        }
        assert_eq!(input(&module, func, "no such input", call, 9), None);
    }
}
