//! Random modules, for tests of everything that takes a module: same seed and options, same module, on every machine.
//!
//! Ops, slots and attributes come from the op table, so a new op is generated without a line here. For one op, types are
//! drawn for its slots (mostly from a few sizes of the module, so that they fit together) until [`check_op`] accepts
//! them; then each operand becomes a value or parameter of that type that exists, or a new one.
//!
//! Compiled with the feature `testing` only.
//!
//! In stage `planned` the plan is the plainest one: no two values share bytes and all threads meet after every op.
//!
//! Invariants: the module passes the verifier; every parameter of origin `file` has its bytes, with codes, scales and
//! numbers that are valid and finite; a table of embeddings has at least [`MIN_VOCAB`] rows. (The content hashes are
//! of the bytes, but no BLAKE3.)

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::attr::QuantBlock;
use crate::blocks::{BlockFormat, TERNARY_BLOCK};
use crate::build::check_op;
use crate::columns::OpInfo;
use crate::entity::{ParamId, ValueId};
use crate::graph::{Func, Operand, Part, TokenCount, ValueDef};
use crate::module::{ContentHash, Module, ParamDecl, ParamDef};
use crate::ops::{ALL_OPS, Op};
use crate::plan::{FuncPlan, Place};
use crate::random::SplitMix;
use crate::sample::random_weight;
use crate::slot::Slot;
use crate::stage::Stage;
use crate::storage::{activation_bytes, align};
use crate::target::{Arch, TargetDesc};
use crate::types::{CacheDims, DType, Dim, Layout, Rows, StateDims, Type};
use crate::verify::func::{cache_layout, cache_slots};
use crate::weights::{TILE_ROWS, WeightBytes};

/// Least rows of a table that tokens index.
pub const MIN_VOCAB: u32 = 15;

/// What modules to make.
#[derive(Clone, Debug)]
pub struct GenOptions {
    /// The stage.
    pub stage: Stage,
    /// Tokens of a call, of every function.
    pub tokens: TokenCount,
    /// Functions, named `f0`, `f1`, …
    pub funcs: u32,
    /// Ops of each function (some more where an operand needs one).
    pub ops: u32,
    /// Layers, the prefixes `l0.`, `l1.`, … of parameter names, over the ops of a function.
    pub layers: u32,
    /// Widths of activations; some are drawn for each module.
    pub widths: Vec<u32>,
    /// Sizes of attention heads, of which one is drawn; at least 2 each.
    pub head_dims: Vec<u32>,
    /// The machine, in stages that have one.
    pub target: TargetDesc,
    /// Whether, from `laid_out` on, ternary parameters may also be stored as `tile16`, `trits16` or `lut16`,
    /// with any number of columns.
    pub stored_tiles: bool,
}

impl Default for GenOptions {
    fn default() -> Self {
        Self {
            stage: Stage::Imported,
            tokens: TokenCount::One,
            funcs: 1,
            ops: 24,
            layers: 2,
            widths: vec![1, 2, 15, 16, 17, 31, 48, 64, 127, 128, 130],
            head_dims: vec![2, 6, 15, 16, 32, 40, 64],
            target: TargetDesc::baseline(Arch::X86_64),
            stored_tiles: false,
        }
    }
}

/// The bytes of a module's parameters from files.
pub type Weights = BTreeMap<String, WeightBytes<'static>>;

/// The module of this seed, and the bytes of all its parameters from files.
///
/// # Panics
/// If the options are empty: no widths, no head sizes or no functions, or head sizes below 2.
pub fn random_module(seed: u64, options: &GenOptions) -> (Module, Weights) {
    assert!(
        options.funcs > 0 && options.head_dims.iter().all(|&d| d >= 2),
        "options for no module: {options:?}"
    );
    let mut rng = SplitMix::new(seed);
    let mut widths: Vec<u32> = (0..4).map(|_| rng.pick(&options.widths)).collect();
    let blocks: Vec<u32> = vec![rng.pick(&[128, 256, 384]), 128];
    let heads = CacheDims { kv_heads: rng.pick(&[1, 2, 3]), head_dim: rng.pick(&options.head_dims) };
    let dims = Dims {
        heads: heads.kv_heads * rng.pick(&[1, 2, 4]),
        cache: heads,
        rot: 2 * (1 + rng.below((heads.head_dim / 2) as usize) as u32),
        cache_dtype: rng.pick(&[DType::F16, DType::F32]),
        columns: if options.stored_tiles && options.stage >= Stage::LaidOut {
            [&blocks[..], &widths].concat()
        } else {
            blocks.clone()
        },
        widths: {
            widths.extend(&blocks);
            widths.extend([heads.kv_heads * heads.head_dim]);
            widths
        },
    };
    let mut module = Module::new();
    module.stage = options.stage;
    module.target = (options.stage >= Stage::LaidOut).then(|| options.target.clone());
    let mut generator =
        Generator { rng, options, dims, module, weights: BTreeMap::new(), params: HashMap::new(), layer: 0 };
    for i in 0..options.funcs {
        let func = generator.func(format!("f{i}"));
        generator.module.add_func(func);
    }
    (generator.module, generator.weights)
}

/// The sizes that a module prefers.
struct Dims {
    widths: Vec<u32>,
    /// Columns of ternary matrices.
    columns: Vec<u32>,
    heads: u32,
    cache: CacheDims,
    rot: u32,
    cache_dtype: DType,
}

struct Generator<'o> {
    rng: SplitMix,
    options: &'o GenOptions,
    dims: Dims,
    module: Module,
    weights: Weights,
    /// Parameters that may be read again: by layer and type, ternary ones by their type without layout.
    params: HashMap<(u32, Type), Vec<ParamId>>,
    layer: u32,
}

/// A function in the making.
struct Body {
    func: Func,
    by_type: HashMap<Type, Vec<ValueId>>,
    /// Caches as they are now, by the name of the slot that they are for.
    caches: BTreeMap<&'static str, Vec<ValueId>>,
    updated: HashSet<ValueId>,
}

impl Generator<'_> {
    fn func(&mut self, name: String) -> Func {
        let func = Func::new(name, self.options.tokens);
        let mut body =
            Body { func, by_type: HashMap::new(), caches: BTreeMap::new(), updated: HashSet::new() };
        for i in 0..self.options.ops {
            self.layer = i * self.options.layers.max(1) / self.options.ops;
            self.random_op(&mut body);
        }
        while self.outputs(&mut body).is_empty() {
            self.random_op(&mut body);
        }
        let outputs = self.outputs(&mut body);
        body.func.set_outputs(outputs);
        if self.options.stage == Stage::Planned {
            body.func.plan = Some(plain_plan(&body.func));
        }
        body.func
    }

    /// Adds one op that the table allows; none if no operands were found for the row drawn.
    fn random_op(&mut self, body: &mut Body) {
        let row = self.rng.below(ALL_OPS.len());
        let info = &ALL_OPS[row];
        if !info.stages.contains(self.options.stage) {
            return;
        }
        for _ in 0..400 {
            let types = self.draw_types(info);
            let widths: Vec<u32> = types
                .iter()
                .filter_map(|ty| match ty.shape.0.last() {
                    Some(Dim::N(n)) => Some(*n),
                    _ => None,
                })
                .collect();
            let rng = &mut self.rng;
            let Some(op) = Op::sample(row, &widths, &mut |n| rng.below(n)) else { continue };
            let op = self.hinted(op);
            let slots = info.operands.iter().chain(info.optional);
            let typed: Vec<(Type, bool)> =
                types.iter().zip(slots).map(|(ty, (_, slot))| (ty.clone(), slot.takes_param())).collect();
            if let Ok(results) = check_op(&op, &typed) {
                self.add_op(body, op, types, results);
                return;
            }
        }
    }

    /// The op with the sizes of the module in attributes that are named after them, mostly.
    fn hinted(&mut self, op: Op) -> Op {
        let hinted: Vec<(&str, String)> = op
            .print_attrs()
            .into_iter()
            .map(|(name, text)| {
                let hint = match name {
                    "heads" => self.dims.heads,
                    "kv_heads" => self.dims.cache.kv_heads,
                    "head" => self.dims.cache.head_dim,
                    "rot" => self.dims.rot,
                    _ => return (name, text),
                };
                (name, if self.rng.chance(90) { hint.to_string() } else { text })
            })
            .collect();
        let attrs: Vec<(&str, &str)> = hinted.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Op::parse(op.info().mnemonic, &attrs).unwrap_or(op)
    }

    fn draw_types(&mut self, info: &OpInfo) -> Vec<Type> {
        let slots: Vec<(&str, Slot)> = match self.rng.chance(50) {
            true => info.operands.iter().chain(info.optional).copied().collect(),
            false => info.operands.to_vec(),
        };
        let has = |slot: Slot| slots.iter().any(|(_, s)| *s == slot);
        if has(Slot::State) {
            return self.draw_recurrent(&slots);
        }
        let CacheDims { kv_heads, head_dim } = self.dims.cache;
        // Most slots of one op get one of two widths.
        let (keys, queries) = (kv_heads * head_dim, self.dims.heads * head_dim);
        let main = if has(Slot::TernaryParam) {
            self.rng.pick(&self.dims.columns)
        } else if has(Slot::Cache) {
            keys
        } else {
            self.rng.pick(&self.dims.widths)
        };
        let other = if has(Slot::Cache) { queries } else { self.rng.pick(&self.dims.widths) };
        let per_token = self.options.tokens != TokenCount::One;
        let rows = |dtype, width| Type::rows(dtype, Rows { per_token, width });
        let mut types = Vec::new();
        for (name, slot) in &slots {
            let width = if self.rng.chance(70) { main } else { other };
            types.push(match slot {
                Slot::Act => rows(DType::F32, width),
                Slot::Multiplicand => match self.rng.below(6) {
                    0 => rows(DType::F32, width),
                    1 => rows(DType::Q8b, width).with_group(TERNARY_BLOCK),
                    _ => rows(DType::Q8, width),
                },
                Slot::BlockQuant => rows(DType::Q8b, width),
                Slot::RowNumbers => rows(DType::I32, width),
                Slot::Tokens => Type::new(DType::Idx, &[if per_token { Dim::Tokens } else { Dim::N(1) }]),
                Slot::Position => Type::scalar(DType::Idx),
                Slot::State => unreachable!("ops with a state draw their types together"),
                Slot::Cache => {
                    let layout = if self.laid_out() { cache_layout(name) } else { Layout::Rows };
                    Type::cache(self.dims.cache_dtype, self.dims.cache).with_layout(layout)
                }
                Slot::VectorParam => Type::vector(DType::F32, width),
                // Before matrices are laid out, files have whole blocks of 128 columns only.
                Slot::TableParam if (self.laid_out() || main.is_multiple_of(128)) && self.rng.chance(25) => {
                    let rows = self.rng.pick(&self.dims.widths);
                    Type::matrix(DType::Ter, rows.max(MIN_VOCAB), main)
                }
                Slot::DenseParam | Slot::TableParam => {
                    let dtype = self.rng.pick(&[DType::F32, DType::F16, DType::Bf16]);
                    let rows = self.rng.pick(&self.dims.widths);
                    Type::matrix(dtype, if has(Slot::Tokens) { rows.max(MIN_VOCAB) } else { rows }, main)
                }
                Slot::BlockParam => Type::matrix(self.rng.pick(BlockFormat::ALL).dtype(), other, main),
                Slot::TernaryParam => {
                    let rows = if self.rng.chance(25) { self.rng.pick(&[32, 64, 96, 256]) } else { other };
                    Type::matrix(DType::Ter, rows, main)
                }
            });
        }
        types
    }

    /// Types for an op with a recurrent state, by the names of its operands: heads of equal width that belong together, or channels.
    fn draw_recurrent(&mut self, slots: &[(&str, Slot)]) -> Vec<Type> {
        let per_token = self.options.tokens != TokenCount::One;
        let act = |width| Type::rows(DType::F32, Rows { per_token, width });
        let width = self.rng.pick(&[16, 32]);
        let (keys, taps) = (self.rng.pick(&[1, 2]), self.rng.pick(&[2, 3, 4]));
        let heads = keys * self.rng.pick(&[1, 2, 3]);
        let convolved = slots.iter().any(|(_, slot)| *slot == Slot::DenseParam);
        let state = match convolved {
            true => StateDims { heads: 1, rows: taps - 1, cols: heads * width },
            false => StateDims { heads, rows: width, cols: width },
        };
        let of_slot = |&(name, slot): &(&str, Slot)| match (name, slot) {
            (_, Slot::State) => Type::state(state),
            (_, Slot::DenseParam) => Type::matrix(DType::F32, taps, heads * width),
            (_, Slot::Position) => Type::scalar(DType::Idx),
            ("q" | "k", _) => act(keys * width),
            ("decay" | "beta", _) => act(heads),
            _ => act(heads * width),
        };
        slots.iter().map(of_slot).collect()
    }

    fn laid_out(&self) -> bool {
        self.options.stage >= Stage::LaidOut
    }

    fn add_op(&mut self, body: &mut Body, op: Op, types: Vec<Type>, results: Vec<Type>) {
        let info = op.info();
        let slots = info.operands.iter().chain(info.optional);
        let mut operands = Vec::new();
        for (ty, (name, slot)) in types.into_iter().zip(slots) {
            operands.push(match slot {
                Slot::TernaryParam | Slot::TableParam => {
                    let ternary = (ty.dtype == DType::Ter).then_some(&op);
                    Operand::Param(self.param(ty, ternary))
                }
                Slot::VectorParam | Slot::DenseParam | Slot::BlockParam => {
                    Operand::Param(self.param(ty, None))
                }
                Slot::BlockQuant => {
                    Operand::Value(self.made_of(body, ty, Op::QuantBlocks { block: QuantBlock::Cols32 }))
                }
                Slot::RowNumbers => {
                    let n = ty.as_rows().map_or(1, |r| r.width);
                    Operand::Value(self.made_of(body, ty, Op::Screen { n }))
                }
                Slot::Cache | Slot::State => Operand::Value(self.cache(body, name, ty)),
                Slot::Multiplicand => Operand::Value(match ty.dtype {
                    DType::Q8 => self.made_of(body, ty, Op::QuantAbsmax {}),
                    DType::Q8b => self.made_of(body, ty, Op::QuantBlocks { block: QuantBlock::Cols128 }),
                    _ => self.value(body, "x", ty),
                }),
                Slot::Act | Slot::Tokens | Slot::Position => {
                    let name = match slot {
                        Slot::Act => "x",
                        Slot::Tokens => "tok",
                        _ => "pos",
                    };
                    Operand::Value(self.value(body, name, ty))
                }
            });
        }
        let node = body.insert(op, operands.clone(), results);
        for (slot, name, result) in cache_slots(info) {
            if let (Some(result), Some(Operand::Value(old))) = (result, operands.get(slot)) {
                let new = body.func.node(node).results[result];
                if let Some(now) = body.caches.get_mut(name).and_then(|c| c.iter_mut().find(|v| *v == old)) {
                    *now = new;
                }
                body.updated.insert(new);
                body.updated.remove(old);
            }
        }
    }

    /// A value of the type; a new input if there is none, and sometimes if there is one.
    fn value(&mut self, body: &mut Body, name: &str, ty: Type) -> ValueId {
        let known = body.by_type.get(&ty).map_or(&[][..], Vec::as_slice);
        // One `tok` and one `pos` are enough.
        if !known.is_empty() && (name != "x" || self.rng.chance(90)) {
            // Late values are drawn more often, so that the graph grows deep.
            let late = known.len() - known.len().min(3);
            return if self.rng.chance(60) { self.rng.pick(&known[late..]) } else { self.rng.pick(known) };
        }
        let name = if name == "x" { format!("x{}", body.func.inputs().len()) } else { name.to_owned() };
        let id = body.func.add_input(name, ty.clone());
        body.by_type.entry(ty).or_default().push(id);
        id
    }

    /// A value of a type that inputs do not have, made by `op` from an activation if need be.
    fn made_of(&mut self, body: &mut Body, ty: Type, op: Op) -> ValueId {
        match body.by_type.get(&ty) {
            Some(known) if self.rng.chance(80) => self.rng.pick(known),
            _ => {
                let rows = ty.as_rows().unwrap_or(Rows { per_token: false, width: 1 });
                let width = match op {
                    Op::Screen { n } => {
                        let wide: Vec<u32> = self.dims.widths.iter().copied().filter(|&w| w >= n).collect();
                        if wide.is_empty() { n } else { self.rng.pick(&wide) }
                    }
                    _ => rows.width,
                };
                let x = self.value(body, "x", Type::rows(DType::F32, Rows { width, ..rows }));
                let node = body.insert(op, vec![x.into()], vec![ty]);
                body.func.node(node).results[0]
            }
        }
    }

    fn cache(&mut self, body: &mut Body, slot: &'static str, ty: Type) -> ValueId {
        let known = body.caches.entry(slot).or_default();
        let same: Vec<ValueId> = known.iter().copied().filter(|&v| *body.func.ty(v) == ty).collect();
        if !same.is_empty() && self.rng.chance(75) {
            return self.rng.pick(&same);
        }
        let id = body.func.add_input(format!("l{}.{slot}{}", self.layer, known.len()), ty);
        known.push(id);
        id
    }

    /// A parameter of the type; for ternary ones, of the shape, as `op` reads it.
    fn param(&mut self, ty: Type, op: Option<&Op>) -> ParamId {
        let key = (self.layer, ty.clone());
        if let Some(known) = self.params.get(&key)
            && self.rng.chance(40)
        {
            return self.rng.pick(known);
        }
        let id = match (ty.as_matrix(), op) {
            (Some((rows, cols)), Some(op)) => self.ternary(rows, cols, op),
            (Some((rows, cols)), None) if BlockFormat::of(ty.dtype).is_some() => {
                self.blocks(ty.dtype, rows, cols)
            }
            _ => self.file(ty),
        };
        self.params.entry(key).or_default().push(id);
        id
    }

    fn ternary(&mut self, rows: u32, cols: u32, op: &Op) -> ParamId {
        let groups: Vec<u32> = [64, 128, 256].into_iter().filter(|&g| cols.is_multiple_of(g)).collect();
        let group = match self.rng.chance(20) && !groups.is_empty() {
            true => groups[self.rng.below(groups.len())],
            false => 0,
        };
        let ty = Type::matrix(DType::Ter, rows, cols).with_group(group);
        if !cols.is_multiple_of(128) || (self.laid_out() && self.options.stored_tiles && self.rng.chance(30))
        {
            let layout = self.packed_layout();
            return self.file(ty.with_layout(layout));
        }
        let derived = self.options.stage >= Stage::Fused;
        let gated = op.print_attrs().iter().any(|(_, text)| text.ends_with("_mul"));
        let layout = match group == 0 && self.rng.chance(60) {
            true => Layout::I2s128,
            false => Layout::Row16,
        };
        let stored = |rows| Type::matrix(DType::Ter, rows, cols).with_layout(layout).with_group(group);
        let logical = match self.rng.below(4) {
            0 | 1 if derived && rows.is_multiple_of(2 * TILE_ROWS) && (gated || self.rng.chance(30)) => {
                let (a, b) = (self.file(stored(rows / 2)), self.file(stored(rows / 2)));
                self.declare(ty.clone(), ParamDef::Interleave16(a, b))
            }
            1 | 2 if derived && rows >= 2 => {
                let first = 1 + self.rng.below(rows as usize - 1) as u32;
                let parts = vec![self.file(stored(first)), self.file(stored(rows - first))];
                self.declare(ty.clone(), ParamDef::Concat(parts))
            }
            _ => self.file(stored(rows)),
        };
        match self.laid_out() {
            true => {
                let layout = self.packed_layout();
                self.declare(ty.with_layout(layout), ParamDef::Relayout(logical))
            }
            false => logical,
        }
    }

    /// A block-quantised matrix as an op reads it, in this stage.
    fn blocks(&mut self, dtype: DType, rows: u32, cols: u32) -> ParamId {
        let ty = Type::matrix(dtype, rows, cols);
        let tiled = ty.clone().with_layout(Layout::Tile16);
        if self.laid_out() && self.rng.chance(30) {
            return self.file(tiled);
        }
        let dense = self.rng.pick(&[DType::F32, DType::F16, DType::Bf16]);
        let dense = self.file(Type::matrix(dense, rows, cols));
        let logical = self.declare(ty, ParamDef::Quantise(dense));
        if self.laid_out() { self.declare(tiled, ParamDef::Relayout(logical)) } else { logical }
    }

    /// A layout in which kernels read ternary matrices.
    fn packed_layout(&mut self) -> Layout {
        match self.laid_out() && self.rng.chance(50) {
            true => self.rng.pick(&[Layout::Trits16, Layout::Lut16]),
            false => Layout::Tile16,
        }
    }

    fn declare(&mut self, ty: Type, def: ParamDef) -> ParamId {
        let name = format!("l{}.w{}", self.layer, self.module.params().len());
        self.module.add_param(ParamDecl { name, ty, def })
    }

    fn file(&mut self, ty: Type) -> ParamId {
        let data = random_weight(&mut self.rng, &ty);
        let tensor = format!("blk.{}.t{}.weight", self.layer, self.module.params().len());
        let id = self.declare(ty, ParamDef::File { tensor, hash: hash(&data) });
        self.weights.insert(self.module.params()[id].name.clone(), data);
        id
    }

    /// What the function returns: every changed cache, most values that nothing reads, and some others.
    fn outputs(&mut self, body: &mut Body) -> Vec<ValueId> {
        let func = &body.func;
        let mut read: HashSet<ValueId> = HashSet::new();
        for &node in func.order() {
            for operand in &func.node(node).operands {
                if let Operand::Value(v) = operand {
                    read.insert(*v);
                }
            }
        }
        let mut outputs = Vec::new();
        for value in func.values() {
            let returnable = match func.value(value).def {
                ValueDef::Input(_) => false,
                ValueDef::Result(node, _) => !func.node(node).op.info().is_view(),
            };
            let cache = func.ty(value).is_persistent();
            if match cache {
                true => body.updated.contains(&value),
                false => returnable && self.rng.chance(if read.contains(&value) { 5 } else { 90 }),
            } {
                outputs.push(value);
            }
        }
        outputs
    }
}

impl Body {
    fn insert(&mut self, op: Op, operands: Vec<Operand>, results: Vec<Type>) -> crate::entity::NodeId {
        let node = self.func.insert(None, op, operands, results);
        for &value in &self.func.node(node).results {
            let ty = self.func.ty(value);
            if !ty.is_persistent() {
                self.by_type.entry(ty.clone()).or_default().push(value);
            }
        }
        node
    }
}

/// A place of its own for every value, and a barrier after every op.
pub fn plain_plan(func: &Func) -> FuncPlan {
    let mut plan = FuncPlan { barriers: func.order().iter().copied().collect(), ..FuncPlan::default() };
    plan.places.extend(func.inputs().iter().map(|&v| (v, Place::Extern)));
    for &id in func.order() {
        let node = func.node(id);
        for (i, &result) in node.results.iter().enumerate() {
            let ty = func.ty(result);
            let updated = cache_slots(node.op.info())
                .find(|(.., r)| *r == Some(i))
                .map(|(slot, ..)| node.operands[slot]);
            let place = match (updated, func.part(result)) {
                (Some(Operand::Value(of)), _) => Place::Alias { of },
                (_, Some(Part { of, offset })) => Place::View { of, offset },
                _ if func.is_output(result) => Place::Extern,
                _ => {
                    let size = align(activation_bytes(ty, func.tokens().max()).unwrap_or(0));
                    let at = plan.arena_bytes;
                    plan.arena_bytes += size;
                    Place::Arena { offset: at, size }
                }
            };
            plan.places.insert(result, place);
        }
    }
    plan
}

fn hash(data: &WeightBytes<'_>) -> ContentHash {
    let mut state = [1u64, 2];
    let scales = data.scales.iter().flat_map(|s| s.to_le_bytes());
    for byte in data.bytes.iter().copied().chain(scales) {
        for s in &mut state {
            *s = (*s ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let [a, b] = state.map(|s| SplitMix::new(s).next_u64().to_le_bytes());
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&a);
    hash[8..].copy_from_slice(&b);
    ContentHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::print;
    use crate::verify::verify;
    use crate::weights::{packed_bytes, ternary_bytes, ternary_code};

    fn options(seed: u64) -> GenOptions {
        GenOptions {
            stage: Stage::ALL[seed as usize % 4],
            tokens: if seed % 8 < 4 { TokenCount::One } else { TokenCount::UpTo(5) },
            funcs: 1 + (seed / 8 % 2) as u32,
            stored_tiles: seed.is_multiple_of(3),
            ..GenOptions::default()
        }
    }

    #[test]
    fn modules_verify_and_cover_the_table() {
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        let mut defs = [0; 5];
        for seed in 0..500 {
            let (module, weights) = random_module(seed, &options(seed));
            if let Err(errors) = verify(&module) {
                panic!("seed {seed}: {}\n{}", errors[0], print(&module));
            }
            for func in module.funcs().values() {
                for &node in func.order() {
                    *ops.entry(func.node(node).op.info().mnemonic).or_default() += 1;
                }
            }
            for decl in module.params().values() {
                let index = match &decl.def {
                    ParamDef::File { .. } => 0,
                    ParamDef::Concat(_) => 1,
                    ParamDef::Interleave16(..) => 2,
                    ParamDef::Relayout(_) => 3,
                    ParamDef::Quantise(_) => 4,
                };
                defs[index] += 1;
                assert_eq!(weights.contains_key(&decl.name), index == 0, "seed {seed}, @{}", decl.name);
            }
        }
        for info in ALL_OPS {
            let count = ops.get(info.mnemonic).copied().unwrap_or(0);
            assert!(count >= 50, "{} occurs {count} times: {ops:?}", info.mnemonic);
        }
        assert!(defs.iter().all(|&n| n >= 50), "{defs:?}");
    }

    #[test]
    fn weights_are_valid() {
        for seed in 0..40 {
            let (module, weights) = random_module(seed, &options(seed));
            for decl in module.params().values() {
                let Some(data) = weights.get(&decl.name) else { continue };
                assert!(data.scales.iter().all(|s| s.is_finite()));
                if let (DType::Ter, Some((rows, cols))) = (decl.ty.dtype, decl.ty.as_matrix()) {
                    assert_eq!(Some(data.bytes.len() as u64), ternary_bytes(decl.ty.layout, rows, cols));
                    let code = |r, c| ternary_code(decl.ty.layout, cols, &data.bytes, r, c);
                    let codes = (0..rows).flat_map(|r| (0..cols).map(move |c| code(r, c)));
                    assert!(codes.into_iter().all(|code| code < Some(3)));
                } else if BlockFormat::of(decl.ty.dtype).is_some() {
                    assert_eq!(Some(data.bytes.len() as u64), packed_bytes(&decl.ty).map(|(b, _)| b));
                    assert_eq!(Some(data.scales.len() as u32), decl.ty.as_matrix().map(|(rows, _)| rows));
                } else {
                    let size = decl.ty.dtype.element_bytes().map(u64::from).unwrap();
                    assert_eq!(Some(data.bytes.len() as u64), decl.ty.elements().map(|n| n * size));
                }
            }
        }
    }

    #[test]
    fn seeds_are_stable() {
        let text = |seed| print(&random_module(seed, &GenOptions::default()).0);
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }
}
