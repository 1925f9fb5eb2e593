//! Every kernel of a planned module against the interpreter, bit by bit, on the module's own weights: `bitnetc verify`.
//!
//! For every distinct kernel, the first and the last op that use it are run ([`bitnetc_runtime::single::OneOp`]: the kernel with the
//! strides, places and thread shares that the plan gives it), for every feature level that the machine has, with operands
//! made from a seed. The interpreter computes the same op from the model's weights in the form in which the source has them,
//! so the packing of weights is compared too.
//!
//! **The sample.** A product with a matrix of more than [`SAMPLED_ROWS`] rows is run whole and compared in that many rows: the
//! first and the last tiles of 32, and tiles drawn from the seed between them. With [`VerifyOptions::full`] every op is run
//! and every row is compared. Functions of one token are called with one, those of a chunk with 2 and with 19 tokens (a whole
//! tile of rows and some more), at a position after a whole block of keys.
//!
//! Invariants: a kernel that is reported as equal has given the interpreter's bits in every element that was compared; a
//! difference names op, kernel, level, selector, token and row.

mod rows;

use std::collections::BTreeSet;

use bitnetc_codegen::compile::{Codegen, CompileError, Selector};
use bitnetc_codegen::features::restrict;
use bitnetc_codegen::program;
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::sample::{CallShape, inputs};
use bitnetc_ir::text::{ValueNames, print_op};
use bitnetc_ir::{
    ContentHash, Entity, Func, FuncId, KEY_BLOCK, Module, NodeId, Operand, ParamDef, Stage, TargetDesc,
    TokenCount, WeightSource,
};
use bitnetc_runtime::single::{CompiledModule, OneOp};

use crate::error::Error;
use bitnetc::load::check_module;
use rows::Sample;

/// Rows of a matrix that are compared, unless all are asked for.
pub const SAMPLED_ROWS: u32 = 256;

/// Tokens of the calls of functions over a chunk.
const CHUNKS: [u32; 2] = [2, 19];

/// What to compare.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The feature levels, each this machine or less.
    pub levels: Vec<TargetDesc>,
    /// Whether code of both instruction selectors is run, where both can make it.
    pub cross: bool,
    /// Whether all ops and all rows are compared.
    pub full: bool,
    /// What operands and the sample are made from.
    pub seed: u64,
    /// Threads that share each op.
    pub threads: u32,
}

/// The feature levels of `host`, the least first: those at which generated code differs, and at last `host` without what is
/// only tuning.
pub fn levels(host: &TargetDesc) -> Vec<TargetDesc> {
    const WORDS: [&str; 9] =
        ["sse4.1", "avx2", "avxvnni", "avx512", "avx512vnni", "amxint8", "neon", "dotprod", "i8mm"];
    let mut found: Vec<TargetDesc> = Vec::new();
    let there = WORDS.iter().filter_map(|word| restrict(host, word).ok());
    let untuned = host.features().filter(|f| f.is_tuning()).fold(host.clone(), TargetDesc::without);
    for level in there.chain([host.clone(), untuned]) {
        if !found.contains(&level) {
            found.push(level);
        }
    }
    found
}

/// The first element in which a kernel and the interpreter differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstDifference {
    /// Result of the op.
    pub result: usize,
    /// What of it: `f32`, `code`, `a`, …
    pub part: &'static str,
    /// Token of the call.
    pub token: usize,
    /// Element of the token's row; for a product, the row of the matrix (of a gated one, of each of its halves).
    pub row: usize,
    /// The interpreter's bits.
    pub expected: u32,
    /// The kernel's bits.
    pub got: u32,
}

/// One kernel at one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelVerdict {
    /// The kernel; of an op in two steps, the first.
    pub kernel: String,
    /// An op that uses it, as the module prints it: the one that differs, or else the first.
    pub op: String,
    /// The op's function.
    pub func: String,
    /// The feature level.
    pub level: String,
    /// What made the code.
    pub selector: &'static str,
    /// Ops that use it, and how many of them were run.
    pub ops: (usize, usize),
    /// Elements that were compared.
    pub compared: u64,
    /// Tokens of the call with the difference.
    pub tokens: u32,
    /// Where it went wrong.
    pub difference: Option<FirstDifference>,
}

/// Compares the kernels of `module` with the interpreter and gives `sink` each verdict and how many there will be; stops where `sink` returns false.
/// Kernels read weights of `packed`, the interpreter those of `reference`; both are the model's.
///
/// # Errors
/// A module that is not planned or not valid, weights that are missing or damaged, code that cannot be made.
pub fn verify_kernels(
    module: &Module,
    packed: &dyn WeightSource,
    reference: &dyn WeightSource,
    options: &VerifyOptions,
    sink: &mut dyn FnMut(&KernelVerdict, usize) -> bool,
) -> Result<(), Error> {
    use bitnetc_runtime::single::ExecuteError;
    check_module(module).map_err(ExecuteError::Module)?;
    if module.stage != Stage::Planned {
        return Err(ExecuteError::Module(format!("the module is {}, not planned", module.stage)).into());
    }
    let code = codes(module, options)?;
    let programs = program::lower(module).map_err(CompileError::from)?;
    // For each kernel, the ops whose first step it is.
    let mut users: Vec<Vec<(FuncId, NodeId)>> = vec![Vec::new(); programs.kernels.len()];
    for (func, program) in module.funcs().keys().zip(&programs.programs) {
        let mut seen = BTreeSet::new();
        for step in &program.steps {
            if let Some(node) = step.node.filter(|&node| seen.insert(node)) {
                users[step.kernel.index()].push((func, node));
            }
        }
    }
    let total = users.iter().filter(|users| !users.is_empty()).count() * code.len();
    for (spec, users) in programs.kernels.values().zip(&users) {
        let (Some(&first), Some(&last)) = (users.first(), users.last()) else { continue };
        let run = if options.full { users.clone() } else { dedup(first, last) };
        // What the interpreter gives is the same at every level.
        let mut verdicts: Vec<KernelVerdict> = code
            .iter()
            .map(|code| KernelVerdict {
                kernel: spec.name(),
                op: op_text(module, first),
                func: module.funcs()[first.0].name().to_owned(),
                level: code.level.to_string(),
                selector: code.module.compiled().selectors[kernel_index(&programs, spec)].name(),
                ops: (users.len(), run.len()),
                compared: 0,
                tokens: 1,
                difference: None,
            })
            .collect();
        for &op in &run {
            check_op(module, op, packed, reference, options, &code, &mut verdicts)?;
        }
        for verdict in &verdicts {
            if !sink(verdict, total) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The module with every weight that `source` holds as it is packed declared as stored, as the module of a plan is run.
pub fn as_stored(module: &Module, source: &dyn WeightSource) -> Module {
    let mut stored = Module::new();
    stored.stage = module.stage;
    stored.target.clone_from(&module.target);
    for decl in module.params().values() {
        let mut decl = decl.clone();
        if !matches!(decl.def, ParamDef::File { .. }) && source.weight(&decl.name).is_some() {
            decl.def = ParamDef::File { tensor: decl.name.clone(), hash: ContentHash([0; 16]) };
        }
        stored.add_param(decl);
    }
    for func in module.funcs().values() {
        stored.add_func(func.clone());
    }
    stored.remove_unused_params();
    stored
}

fn dedup(first: (FuncId, NodeId), last: (FuncId, NodeId)) -> Vec<(FuncId, NodeId)> {
    if first == last { vec![first] } else { vec![first, last] }
}

fn kernel_index(programs: &program::Programs, spec: &bitnetc_codegen::kernels::KernelSpec) -> usize {
    programs.kernels.iter().find(|(_, s)| *s == spec).map_or(0, |(k, _)| k.index())
}

/// The op as the module prints it.
fn op_text(module: &Module, (func, node): (FuncId, NodeId)) -> String {
    let func = &module.funcs()[func];
    print_op(module, func, &ValueNames::new(func), node)
}

/// All kernels in machine code, for one level and selector.
struct Code<'o> {
    level: &'o TargetDesc,
    module: CompiledModule<'o>,
}

fn codes<'o>(module: &'o Module, options: &'o VerifyOptions) -> Result<Vec<Code<'o>>, Error> {
    let mut all = Vec::new();
    for level in &options.levels {
        let code = |codegen| {
            let module = CompiledModule::new(module, level, codegen)?;
            Ok::<_, Error>(Code { level, module })
        };
        let auto = code(Codegen::Auto)?;
        let wide = auto.module.compiled().selectors.contains(&Selector::X64);
        all.push(auto);
        if options.cross && wide {
            all.push(code(Codegen::Cranelift)?);
        }
    }
    Ok(all)
}

/// Runs one op with all code and notes in `verdicts`, one for each code, what differs.
fn check_op(
    module: &Module,
    (func_id, node): (FuncId, NodeId),
    packed: &dyn WeightSource,
    reference: &dyn WeightSource,
    options: &VerifyOptions,
    code: &[Code<'_>],
    verdicts: &mut [KernelVerdict],
) -> Result<(), Error> {
    let func = &module.funcs()[func_id];
    let op = OneOp { module, func: func_id, node };
    let weights = op.pack(packed)?;
    let rows = if options.full { u32::MAX } else { SAMPLED_ROWS };
    let sample = Sample::of(module, func, node, reference, rows, options.seed)?;
    let calls: Vec<u32> = match func.tokens() {
        TokenCount::One => vec![1],
        TokenCount::UpTo(most) => {
            let sizes: BTreeSet<u32> = CHUNKS.iter().map(|&n| n.min(most)).collect();
            sizes.into_iter().collect()
        }
    };
    for tokens in calls {
        let call = CallShape { tokens, position: KEY_BLOCK + 6, capacity: 2 * KEY_BLOCK };
        let alone = alone(module, func, node);
        let operands =
            inputs(&alone, &alone.funcs()[FuncId::from_index(0)], call, options.seed ^ node.index() as u64);
        let expected = {
            let interpreter = Interpreter::new(&sample.module, &sample.weights);
            interpreter.run(FuncId::from_index(0), sample.operands(&operands))?
        };
        // Values in the order of the op's slots; `alone` has each once.
        let operands = slots(func, node, &operands);
        for (code, verdict) in code.iter().zip(verdicts.iter_mut()) {
            if verdict.difference.is_some() {
                continue;
            }
            let got = op.run(&code.module, &weights, &operands, call, options.threads)?;
            for (result, (expected, got)) in expected.iter().zip(&got).enumerate() {
                let got = sample.results(got);
                let (compared, difference) = compare(expected, &got);
                verdict.compared += compared;
                if let (Some(found), None) = (difference, &verdict.difference) {
                    let row = sample.row(found.row);
                    verdict.difference = Some(FirstDifference { result, row, ..found });
                    verdict.op = op_text(module, (func_id, node));
                    func.name().clone_into(&mut verdict.func);
                    verdict.tokens = tokens;
                }
            }
        }
    }
    Ok(())
}

/// The op as the only one of a module, with its operands as inputs and its results as outputs. A value that stands in
/// several slots is one input.
fn alone(module: &Module, func: &Func, node: NodeId) -> Module {
    let mut alone = Module::new();
    alone.stage = Stage::LaidOut;
    alone.target.clone_from(&module.target);
    for decl in module.params().values() {
        alone.add_param(decl.clone());
    }
    let op = func.node(node);
    let mut new = Func::new("op", func.tokens());
    let mut known = std::collections::HashMap::new();
    let operands: Vec<Operand> = op
        .operands
        .iter()
        .enumerate()
        .map(|(slot, &operand)| match operand {
            Operand::Value(v) => {
                let ty = func.ty(v).clone();
                Operand::Value(*known.entry(v).or_insert_with(|| new.add_input(format!("x{slot}"), ty)))
            }
            param => param,
        })
        .collect();
    let types = op.results.iter().map(|&v| func.ty(v).clone()).collect();
    let made = new.insert(None, op.op.clone(), operands, types);
    let outputs = new.node(made).results.clone();
    new.set_outputs(outputs);
    alone.add_func(new);
    alone.remove_unused_params();
    alone
}

/// The tensors of the op's value slots, from those of its values.
fn slots(func: &Func, node: NodeId, tensors: &[Tensor]) -> Vec<Tensor> {
    let mut known = Vec::new();
    let mut all = Vec::new();
    for operand in &func.node(node).operands {
        let Operand::Value(v) = *operand else { continue };
        let at = known.iter().position(|&k| k == v).unwrap_or_else(|| {
            known.push(v);
            known.len() - 1
        });
        all.extend(tensors.get(at).cloned());
    }
    all
}

/// How many elements were compared, and the first that differs; two NaN are equal.
fn compare(expected: &Tensor, got: &Tensor) -> (u64, Option<FirstDifference>) {
    fn first<T: Copy>(
        part: &'static str,
        width: usize,
        a: &[T],
        b: &[T],
        bits: impl Fn(T) -> u32,
    ) -> (u64, Option<FirstDifference>) {
        let differs = |(&x, &y): (&T, &T)| bits(x) != bits(y);
        let at = a.iter().zip(b).position(differs).or((a.len() != b.len()).then_some(a.len().min(b.len())));
        let difference = at.map(|at| FirstDifference {
            result: 0,
            part,
            token: at / width.max(1),
            row: at % width.max(1),
            expected: a.get(at).map_or(0, |&x| bits(x)),
            got: b.get(at).map_or(0, |&y| bits(y)),
        });
        (a.len() as u64, difference)
    }
    // One NaN stands for all of them.
    let float = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    let parts = match (expected, got) {
        (Tensor::F32 { width, data: a, .. }, Tensor::F32 { data: b, .. }) => {
            vec![first("f32", *width, a, b, float)]
        }
        (Tensor::I32 { width, data: a, .. }, Tensor::I32 { data: b, .. }) => {
            vec![first("i32", *width, a, b, |n| n as u32)]
        }
        (Tensor::Q8 { width, codes, a, sums, .. }, Tensor::Q8 { codes: c, a: f, sums: s, .. }) => vec![
            first("code", *width, codes, c, |n| n as u32),
            first("a", 1, a, f, float),
            first("sum", 1, sums, s, |n| n as u32),
        ],
        (Tensor::Q8b { width, block, codes, scales, .. }, Tensor::Q8b { codes: c, scales: s, .. }) => vec![
            first("code", *width, codes, c, |n| n as u32),
            first("scale", width.div_ceil(*block as usize), scales, s, float),
        ],
        (Tensor::State(a), Tensor::State(b)) => {
            vec![first("state", a.dims.cols as usize, &a.data, &b.data, float)]
        }
        (Tensor::Cache(a), Tensor::Cache(b)) => {
            use bitnetc_ir::interp::{CacheData, scalar};
            let width = a.capacity as usize * a.dims.head_dim as usize;
            let half = |n: u16| if scalar::f16_value(n).is_nan() { 0x7e00 } else { u32::from(n) };
            match (&a.data, &b.data) {
                (CacheData::F16(a), CacheData::F16(b)) => vec![first("cache", width, a, b, half)],
                (CacheData::F32(a), CacheData::F32(b)) => vec![first("cache", width, a, b, float)],
                _ => vec![(0, Some(kinds_differ()))],
            }
        }
        _ => vec![(0, Some(kinds_differ()))],
    };
    let compared = parts.iter().map(|(n, _)| n).sum();
    (compared, parts.into_iter().find_map(|(_, difference)| difference))
}

/// A result of another kind altogether.
fn kinds_differ() -> FirstDifference {
    FirstDifference { result: 0, part: "kind", token: 0, row: 0, expected: 0, got: 1 }
}
