//! One op on given operands, run in every way that a kernel can run, and compared by bits with the IR interpreter.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc_codegen::kernels::{Arg as Word, KernelSpec, Registers, TokenMode};
use bitnetc_codegen::kir::interp::{self, Arg, Memory, RegionId};
use bitnetc_codegen::kir::{Access, Kernel};
use bitnetc_ir::interp::{CacheData, Interpreter, State, Tensor};
use bitnetc_ir::weights::packed_scale_index;
use bitnetc_ir::{
    BlockFormat, ContentHash, DType, Extent, FuncBuilder, InPlace, Module, Op, Operand, Pairs, ParamDecl,
    ParamDef, TokenCount, Type, Units, WeightBytes, rope, storage,
};

use super::common::{self, Backend, Case, Elements};
use super::random::Random;

/// What an operand is.
#[derive(Clone)]
pub(crate) enum Input {
    Value(Type, Tensor),
    Param(Type, Vec<u8>, Vec<f32>),
}

/// One op with its operands.
pub(crate) struct Trial {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Input>,
    /// Tokens of the call; `None` for the form without a token dimension.
    pub(crate) tokens: Option<u32>,
    pub(crate) position: u32,
    pub(crate) capacity: u32,
}

/// Blocking for narrow, middle and wide register files, and the forms for machines that multiply bytes otherwise or by
/// tiles, or read memory otherwise.
const REGISTERS: [Registers; 9] = [
    Registers::new(128, 16),
    Registers::new(256, 16),
    Registers::new(512, 32),
    Registers::new(128, 16).without_whole_byte_dot(),
    Registers::new(256, 16).without_whole_byte_dot(),
    Registers::new(512, 32).without_whole_byte_dot(),
    Registers::new(512, 32).with_tiles(),
    Registers::new(256, 16).without_whole_byte_dot().with_one_stream(),
    Registers::new(512, 32).with_one_stream(),
];

/// What buffers hold before anything is written.
const FILL: u8 = 0xa7;

/// What runs a kernel that is blocked for `registers` on this machine: the backends with these registers and, for the
/// narrowest, all others too.
fn backends(registers: Registers, kernel: &Kernel) -> Vec<Backend> {
    if registers == REGISTERS[0] {
        return common::fitting(kernel, registers);
    }
    let mut backends = common::backends();
    backends.retain(|b| b.registers() == registers);
    backends
}

/// Where the parts of a trial are in memory.
struct Setup {
    memory: Memory,
    args: Vec<Arg>,
    /// The arguments of the kernel that runs after a barrier, if there is one.
    second: Vec<Arg>,
    /// Region, first byte and stride of each result.
    results: Vec<(RegionId, usize, u64)>,
    elements: Vec<(RegionId, Elements)>,
}

impl Trial {
    /// Runs everything: with all values apart, and once more for each operand that a result may be written over. Returns
    /// these.
    pub(crate) fn run(&self) -> Vec<InPlace> {
        let expected = self.expected();
        self.run_with(&self.spec(false), None, &expected);
        let in_place = self.in_place();
        for &over in &in_place {
            self.run_with(&self.spec(true), Some(over), &expected);
        }
        in_place
    }

    /// What the op table lets this op write over its operands, apart from caches, which always lie where they did.
    fn in_place(&self) -> Vec<InPlace> {
        let (operands, results) = (self.types(), self.result_types());
        let fits = |i: &&InPlace| {
            let ty = &results[i.result];
            operands.get(i.operand) == Some(ty) && !ty.is_persistent()
        };
        self.op.info().in_place.iter().filter(fits).copied().collect()
    }

    /// Runs the kernel in every way with the result of `over` in the bytes of its operand.
    fn run_with(&self, spec: &KernelSpec, over: Option<InPlace>, expected: &[Tensor]) {
        let kernels: Vec<Kernel> = REGISTERS.iter().map(|&r| spec.build_for(r).unwrap()).collect();
        let setup = self.setup(spec, over);
        let divided = self.units();
        let units = divided.total(self.extent());
        let asks = spec.args().contains(&Word::Position);
        assert_eq!(asks, self.op.info().is_positional(), "{:?}: the position, as the op table says", self.op);
        assert_eq!(spec.after_barrier().is_some(), divided.per.in_two_steps(), "{:?}: steps", self.op);

        let mut first: Option<Memory> = None;
        for (kernel, registers) in kernels.iter().zip(REGISTERS) {
            let args = with_units(spec, &setup.args, 0, units);
            let check = |kernel: Kernel, memory: &Memory, args: Vec<Arg>| {
                let backends = backends(registers, &kernel);
                let (memory, elements) = (memory.clone(), setup.elements.clone());
                common::check_on(&Case { kernel, memory, args, elements }, &backends)
            };
            let mut after = check(kernel.clone(), &setup.memory, args);
            if let Some((_, second, second_units)) = spec.after_barrier() {
                let kernel = second.build_for(registers).unwrap();
                let units = second_units.total(self.extent());
                after = check(kernel, &after, with_units(&second, &setup.second, 0, units));
            }
            self.compare(&format!("{over:?}, {registers:?}"), &setup, &after, expected);
            self.check_splits(spec, kernel, registers, &setup, units, &after);
            match &first {
                None => first = Some(after),
                // Another blocking may leave other things in the scratch, but no other bit in a result.
                Some(first) => {
                    for &(region, ..) in &setup.results {
                        assert_eq!(
                            first.bytes(region),
                            after.bytes(region),
                            "{registers:?}: {}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }

    /// Three contiguous ranges, in any order, give what the whole range gives; where a second kernel follows, whatever
    /// ranges the first one had.
    fn check_splits(
        &self,
        spec: &KernelSpec,
        kernel: &Kernel,
        registers: Registers,
        setup: &Setup,
        units: u64,
        whole: &Memory,
    ) {
        let mut random = Random(units);
        let (mut a, mut b) = (random.below(units + 1), random.below(units + 1));
        if a > b {
            (a, b) = (b, a);
        }
        let mut memory = setup.memory.clone();
        for (begin, end) in [(b, units), (0, a), (a, b)] {
            let args = with_units(spec, &setup.args, begin, end);
            memory = interpreted(kernel, &memory, &args);
        }
        if let Some((_, second, second_units)) = spec.after_barrier() {
            let kernel = second.build_for(registers).unwrap();
            let units = second_units.total(self.extent());
            let middle = random.below(units + 1);
            for (begin, end) in [(middle, units), (0, middle)] {
                let args = with_units(&second, &setup.second, begin, end);
                memory = interpreted(&kernel, &memory, &args);
            }
        }
        for &(region, ..) in &setup.results {
            assert_eq!(
                memory.bytes(region),
                whole.bytes(region),
                "split at {a} and {b} of {units}: {kernel}"
            );
        }
    }

    fn types(&self) -> Vec<Type> {
        self.inputs
            .iter()
            .map(|input| match input {
                Input::Value(ty, _) | Input::Param(ty, ..) => ty.clone(),
            })
            .collect()
    }

    fn result_types(&self) -> Vec<Type> {
        self.op.infer(&self.types().iter().collect::<Vec<_>>()).unwrap()
    }

    fn units(&self) -> Units {
        let (types, results) = (self.types(), self.result_types());
        let (types, results): (Vec<_>, Vec<_>) = (types.iter().collect(), results.iter().collect());
        self.op.info().units(&types, &results).unwrap()
    }

    fn extent(&self) -> Extent {
        Extent { position: self.position, tokens: self.tokens.unwrap_or(1) }
    }

    /// What the IR interpreter computes.
    fn expected(&self) -> Vec<Tensor> {
        let mut module = Module::new();
        let mut source = BTreeMap::new();
        let mut params = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            if let Input::Param(ty, bytes, scales) = input {
                let name = format!("w{i}");
                let def = ParamDef::File { tensor: name.clone(), hash: ContentHash([0; 16]) };
                params.push(module.add_param(ParamDecl { name: name.clone(), ty: ty.clone(), def }));
                let weight =
                    WeightBytes { bytes: Cow::Borrowed(&bytes[..]), scales: Cow::Borrowed(&scales[..]) };
                source.insert(name, weight);
            }
        }
        let count = self.tokens.map_or(TokenCount::One, |_| TokenCount::UpTo(64));
        let mut b = FuncBuilder::new(&module, "f", count);
        let mut params = params.into_iter();
        let mut values = Vec::new();
        let operands = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| match input {
                Input::Value(ty, tensor) => {
                    values.push(tensor.clone());
                    Operand::from(b.input(format!("v{i}"), ty.clone()))
                }
                Input::Param(..) => Operand::from(params.next().unwrap()),
            })
            .collect();
        let results = b.push(self.op.clone(), operands).unwrap();
        let func = b.finish(results);
        let func = module.add_func(func);
        Interpreter::new(&module, &source).run(func, values).unwrap()
    }

    /// The spec. Rows are further apart than they must be, each value's by another distance, unless `equal`.
    fn spec(&self, equal: bool) -> KernelSpec {
        let types = self.types();
        let mut strides = Vec::new();
        if self.tokens.is_some() {
            let activations = types.iter().chain(&self.result_types()).cloned().collect::<Vec<_>>();
            for (i, ty) in activations.iter().enumerate() {
                let is_param = matches!(self.inputs.get(i), Some(Input::Param(..)));
                let is_row = matches!(ty.dtype, DType::F32 | DType::Q8 | DType::Q8b | DType::I32)
                    && ty.as_rows().is_some();
                if is_row && !is_param {
                    let apart = if equal { 64 } else { 64 * (strides.len() as u64 % 3) };
                    strides.push(storage::row_stride(ty).unwrap() + apart);
                }
            }
        }
        let tokens = if self.tokens.is_some() { TokenMode::Many } else { TokenMode::One };
        KernelSpec::of(&self.op, &types.iter().collect::<Vec<_>>(), tokens, strides).unwrap().unwrap()
    }

    fn setup(&self, spec: &KernelSpec, over: Option<InPlace>) -> Setup {
        let mut memory = Memory::new();
        let mut elements = Vec::new();
        let mut strides = spec.strides.iter().copied();
        let mut stride_of = |ty: &Type| strides.next().unwrap_or(storage::row_stride(ty).unwrap_or(0));
        // Operands.
        let mut operands = Vec::new();
        let mut scales_of = BTreeMap::new();
        for (i, input) in self.inputs.iter().enumerate() {
            operands.push(match input {
                Input::Param(ty, bytes, scales) => {
                    if ty.dtype == DType::Ter || BlockFormat::of(ty.dtype).is_some() {
                        // As kernels read them: tile by tile, in each group by group, 16 rows.
                        let groups = ty.scale_groups();
                        let rows = scales.len() as u32 / groups;
                        let mut packed = vec![0.0; rows.next_multiple_of(16) as usize * groups as usize];
                        for (i, &scale) in (0..).zip(scales) {
                            packed[packed_scale_index(groups, i / groups, i % groups) as usize] = scale;
                        }
                        let scales = packed;
                        scales_of.insert(i, memory.add_f32(&scales, Access::ReadOnly));
                    }
                    Some((memory.add(bytes.clone(), Access::ReadOnly), 0, 0))
                }
                Input::Value(ty, tensor) => {
                    let stride = match tensor {
                        Tensor::F32 { .. } | Tensor::Q8 { .. } | Tensor::Q8b { .. } | Tensor::I32 { .. } => {
                            stride_of(ty)
                        }
                        _ => 0,
                    };
                    let taken = over.is_some_and(|over| over.operand == i);
                    let changed = taken || matches!(tensor, Tensor::Cache(_) | Tensor::State(_));
                    let access = if changed { Access::ReadWrite } else { Access::ReadOnly };
                    encode(tensor, ty, stride).map(|bytes| {
                        let region = memory.add(bytes, access);
                        if changed {
                            let f16 = ty.dtype == DType::F16;
                            elements.push((region, if f16 { Elements::F16 } else { Elements::F32 }));
                        }
                        (region, 0, stride)
                    })
                }
            });
        }
        // Results: caches are their operands.
        let mut results = Vec::new();
        let persistent = |input: &Input| matches!(input, Input::Value(ty, _) if ty.is_persistent());
        let mut caches = (0..).zip(&self.inputs).filter(|(_, input)| persistent(input));
        for (result, ty) in self.result_types().into_iter().enumerate() {
            let found = if ty.is_persistent() {
                let (at, _) = caches.next().unwrap();
                operands[at as usize].unwrap()
            } else {
                let stride = stride_of(&ty);
                match over {
                    Some(over) if over.result == result => operands[over.operand].unwrap(),
                    _ => {
                        let rows = u64::from(self.tokens.unwrap_or(1));
                        let bytes = 64 + stride * (rows - 1) + row_bytes(&ty);
                        let region = memory.add(vec![FILL; bytes as usize], Access::ReadWrite);
                        elements.push((region, Elements::F32));
                        (region, 64, stride)
                    }
                }
            };
            results.push(found);
        }
        let table = self.rope_table().map(|table| memory.add_f32(&table, Access::ReadOnly));
        let workspace =
            memory.add(vec![FILL; spec.workspace_bytes(self.capacity) as usize], Access::ReadWrite);
        let mut args_of = |spec: &KernelSpec| -> Vec<Arg> {
            let word = |word| match word {
                Word::Operand(i) => {
                    let (region, at, _) = operands[usize::from(i)].unwrap();
                    Arg::Ptr(region, at)
                }
                Word::Scales(i) => Arg::Ptr(scales_of[&usize::from(i)], 0),
                Word::Result(i) => {
                    let (region, at, _) = results[usize::from(i)];
                    Arg::Ptr(region, at)
                }
                Word::RopeTable => Arg::Ptr(table.unwrap(), 0),
                Word::Scratch => {
                    let scratch = memory.add(vec![FILL; spec.scratch_bytes() as usize], Access::ReadWrite);
                    Arg::Ptr(scratch, 0)
                }
                Word::Workspace => Arg::Ptr(workspace, 0),
                Word::Position => Arg::Int(self.position.into()),
                Word::Tokens => Arg::Int(self.tokens.unwrap_or(1).into()),
                Word::Capacity => Arg::Int(self.capacity.into()),
                Word::UnitBegin | Word::UnitEnd => Arg::Int(0),
            };
            spec.args().into_iter().map(word).collect()
        };
        let args = args_of(spec);
        let second = spec.after_barrier().map_or_else(Vec::new, |(_, second, _)| args_of(&second));
        Setup { memory, args, second, results, elements }
    }

    /// As `Arg::RopeTable` says, for every position that the call may reach.
    fn rope_table(&self) -> Option<Vec<f32>> {
        let (Op::Rope { theta, rot, pairs, .. } | Op::RopeKvAppend { theta, rot, pairs, .. }) = &self.op
        else {
            return None;
        };
        let (mut table, rot) = (Vec::new(), *rot as usize);
        for position in 0..self.position + self.tokens.unwrap_or(1) {
            let mut row = vec![0.0; 2 * rot];
            for j in 0..rot / 2 {
                let (c, s) = rope::cos_sin(*theta, rot as u32, position, j as u32);
                let (first, second) = match pairs {
                    Pairs::Halves => (j, j + rot / 2),
                    Pairs::Interleaved => (2 * j, 2 * j + 1),
                };
                (row[first], row[second]) = (c, c);
                (row[rot + first], row[rot + second]) = (-s, s);
            }
            table.extend(row);
        }
        Some(table)
    }

    /// Compares the results, and what lies around them with what was there before.
    fn compare(&self, how: &str, setup: &Setup, after: &Memory, expected: &[Tensor]) {
        for ((&(region, at, stride), expected), ty) in
            setup.results.iter().zip(expected).zip(self.result_types())
        {
            let (before, after) = (setup.memory.bytes(region), after.bytes(region));
            let found = decode(after, at, stride, &ty, expected);
            if let Some(difference) = expected.first_difference(&found) {
                panic!("{how}: {:?} on {:?}: {difference}", self.op, self.types());
            }
            if ty.is_persistent() {
                continue;
            }
            let rows = u64::from(self.tokens.unwrap_or(1));
            let mut inside = vec![false; before.len()];
            for row in 0..rows {
                let start = at + (row * stride) as usize;
                inside[start..start + row_bytes(&ty) as usize].fill(true);
            }
            for (i, (b, a)) in before.iter().zip(after).enumerate() {
                assert!(inside[i] || a == b, "{how}: {:?} wrote byte {i} outside of its rows", self.op);
            }
            if matches!(ty.dtype, DType::Q8 | DType::Q8b) {
                let width = ty.as_rows().unwrap().width;
                for row in 0..rows {
                    let start = at + (row * stride) as usize;
                    let padding = &after[start + width as usize..start + storage::q8_tail(width) as usize];
                    assert!(padding.iter().all(|&b| b == 0), "{how}: codes are not filled up with 0");
                }
            }
        }
    }
}

fn interpreted(kernel: &Kernel, memory: &Memory, args: &[Arg]) -> Memory {
    let mut memory = memory.clone();
    interp::run(kernel, &mut memory, args).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    memory
}

fn with_units(spec: &KernelSpec, args: &[Arg], begin: u64, end: u64) -> Vec<Arg> {
    let words = spec.args().into_iter().zip(args);
    words
        .map(|(word, &arg)| match word {
            Word::UnitBegin => Arg::Int(begin as i64),
            Word::UnitEnd => Arg::Int(end as i64),
            _ => arg,
        })
        .collect()
}

/// Bytes of a row that a kernel may write.
fn row_bytes(ty: &Type) -> u64 {
    let width = ty.as_rows().unwrap().width;
    match ty.dtype {
        DType::Q8 => storage::q8_tail(width) + 8,
        DType::Q8b => {
            storage::q8_tail(width) + u64::from(width.div_ceil(ty.quant_block())) * storage::Q8B_RECORD
        }
        _ => 4 * u64::from(width),
    }
}

/// Bytes of a row that a kernel may read: those of quantised rows to the end of their tail.
fn readable_bytes(ty: &Type) -> u64 {
    match ty.dtype {
        DType::Q8 | DType::Q8b => storage::row_stride(ty).unwrap(),
        _ => row_bytes(ty),
    }
}

/// The bytes of a value; `None` for a position.
fn encode(tensor: &Tensor, ty: &Type, stride: u64) -> Option<Vec<u8>> {
    let rows_of = |rows: usize| vec![FILL; stride as usize * (rows - 1) + readable_bytes(ty) as usize];
    Some(match tensor {
        Tensor::F32 { rows, width, data } => {
            let mut bytes = rows_of(*rows);
            for (i, x) in data.iter().enumerate() {
                let at = i / width * stride as usize + 4 * (i % width);
                bytes[at..at + 4].copy_from_slice(&x.to_le_bytes());
            }
            bytes
        }
        Tensor::Q8 { rows, width, codes, a, sums } => {
            let mut bytes = rows_of(*rows);
            let tail = storage::q8_tail(*width as u32) as usize;
            for row in 0..*rows {
                let start = row * stride as usize;
                for (i, &code) in codes[row * width..(row + 1) * width].iter().enumerate() {
                    bytes[start + i] = code as u8;
                }
                bytes[start + width..start + tail].fill(0);
                bytes[start + tail..start + tail + 4].copy_from_slice(&a[row].to_le_bytes());
                bytes[start + tail + 4..start + tail + 8].copy_from_slice(&sums[row].to_le_bytes());
            }
            bytes
        }
        Tensor::Q8b { rows, width, block, codes, scales } => {
            let mut bytes = rows_of(*rows);
            let tail = storage::q8_tail(*width as u32) as usize;
            let block = *block as usize;
            let blocks = width.div_ceil(block);
            for row in 0..*rows {
                let start = row * stride as usize;
                bytes[start + width..start + tail].fill(0);
                for (b, codes) in codes[row * width..(row + 1) * width].chunks(block).enumerate() {
                    for (i, &code) in codes.iter().enumerate() {
                        bytes[start + block * b + i] = code as u8;
                    }
                    let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
                    let (first, second) = codes.split_at(codes.len().min(block / 2));
                    let record = start + tail + b * storage::Q8B_RECORD as usize;
                    let scale = scales[row * blocks + b].to_le_bytes();
                    bytes[record..record + 4].copy_from_slice(&scale);
                    for (i, sum) in [sum(first), sum(second), sum(codes)].into_iter().enumerate() {
                        let at = record + 4 + 4 * i;
                        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
                    }
                }
            }
            bytes
        }
        Tensor::I32 { rows, width, data } => {
            let mut bytes = rows_of(*rows);
            for (i, x) in data.iter().enumerate() {
                let at = i / width * stride as usize + 4 * (i % width);
                bytes[at..at + 4].copy_from_slice(&x.to_le_bytes());
            }
            bytes
        }
        Tensor::Tokens(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        Tensor::State(state) => state.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Tensor::Position(_) => return None,
        Tensor::Cache(cache) => {
            let mut bytes = vec![0; storage::cache_bytes(ty, cache.capacity).unwrap() as usize];
            for_cache(ty, cache.capacity, |logical, stored| match &cache.data {
                CacheData::F16(data) => {
                    bytes[2 * stored..2 * stored + 2].copy_from_slice(&data[logical].to_le_bytes())
                }
                CacheData::F32(data) => {
                    bytes[4 * stored..4 * stored + 4].copy_from_slice(&data[logical].to_le_bytes())
                }
            });
            bytes
        }
    })
}

/// Logical and stored index of every element of a cache.
fn for_cache(ty: &Type, capacity: u32, mut visit: impl FnMut(usize, usize)) {
    let dims = ty.as_cache().unwrap();
    let mut logical = 0;
    for head in 0..dims.kv_heads {
        for position in 0..capacity {
            for j in 0..dims.head_dim {
                let (head, position, j) = (u64::from(head), u64::from(position), u64::from(j));
                visit(
                    logical,
                    storage::cache_index(ty.layout, dims, capacity.into(), head, position, j) as usize,
                );
                logical += 1;
            }
        }
    }
}

/// The value in these bytes, of the kind and sizes of `like`.
fn decode(bytes: &[u8], at: usize, stride: u64, ty: &Type, like: &Tensor) -> Tensor {
    let word = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
    match like {
        Tensor::F32 { rows, width, .. } => {
            let place = |i: usize| at + i / width * stride as usize + 4 * (i % width);
            Tensor::f32(*width, (0..rows * width).map(|i| f32::from_le_bytes(word(place(i)))).collect())
        }
        Tensor::Q8 { rows, width, .. } => {
            let starts: Vec<usize> = (0..*rows).map(|row| at + row * stride as usize).collect();
            let tail = storage::q8_tail(*width as u32) as usize;
            let codes = starts.iter().flat_map(|&s| bytes[s..s + width].iter().map(|&b| b as i8)).collect();
            let a = starts.iter().map(|&s| f32::from_le_bytes(word(s + tail))).collect();
            let sums = starts.iter().map(|&s| i32::from_le_bytes(word(s + tail + 4))).collect();
            Tensor::Q8 { rows: *rows, width: *width, codes, a, sums }
        }
        Tensor::Cache(cache) => {
            let mut cache = cache.clone();
            for_cache(ty, cache.capacity, |logical, stored| match &mut cache.data {
                CacheData::F16(data) => {
                    data[logical] = u16::from_le_bytes([bytes[2 * stored], bytes[2 * stored + 1]]);
                }
                CacheData::F32(data) => data[logical] = f32::from_le_bytes(word(4 * stored)),
            });
            Tensor::Cache(cache)
        }
        Tensor::State(state) => {
            let data = (0..state.data.len()).map(|i| f32::from_le_bytes(word(4 * i))).collect();
            Tensor::State(State { dims: state.dims, data })
        }
        Tensor::Q8b { rows, width, block, .. } => {
            let starts: Vec<usize> = (0..*rows).map(|row| at + row * stride as usize).collect();
            let tail = storage::q8_tail(*width as u32) as usize;
            let codes: Vec<i8> =
                starts.iter().flat_map(|&s| bytes[s..s + width].iter().map(|&b| b as i8)).collect();
            let mut scales = Vec::new();
            for (&start, codes) in starts.iter().zip(codes.chunks(*width)) {
                for (b, codes) in codes.chunks(*block as usize).enumerate() {
                    let record = start + tail + b * storage::Q8B_RECORD as usize;
                    scales.push(f32::from_le_bytes(word(record)));
                    let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
                    let (first, second) = codes.split_at(codes.len().min(*block as usize / 2));
                    for (i, sum) in [sum(first), sum(second), sum(codes)].into_iter().enumerate() {
                        assert_eq!(i32::from_le_bytes(word(record + 4 + 4 * i)), sum, "sum {i} of block {b}");
                    }
                }
            }
            Tensor::Q8b { rows: *rows, width: *width, block: *block, codes, scales }
        }
        Tensor::I32 { rows, width, .. } => {
            let place = |i: usize| at + i / width * stride as usize + 4 * (i % width);
            let data = (0..rows * width).map(|i| i32::from_le_bytes(word(place(i)))).collect();
            Tensor::I32 { rows: *rows, width: *width, data }
        }
        Tensor::Tokens(_) | Tensor::Position(_) => unreachable!("no op computes tokens or positions"),
    }
}
