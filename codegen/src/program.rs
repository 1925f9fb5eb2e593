//! From a planned module to steps: which kernel runs on which buffers, over which units, and where the threads meet.
//!
//! A [`Program`] is one function of the module, flattened: every word of every kernel call is an address known when a
//! session binds its buffers, or one of five numbers that change per call. The runtime walks the steps; it never looks
//! at the IR.
//!
//! An op is one step, or two with a barrier between them where threads put together what each has done.
//!
//! Invariants: every arena range of a step lies in `arena_bytes`, every private one in `private_bytes` (checked here again, although the plan checker has
//! proved it, because a plan file is untrusted); weights and RoPE tables are listed once; kernels are shared by spec.

use std::collections::HashMap;

use bitnetc_ir::entity::EntityVec;
use bitnetc_ir::rope::Theta;
use bitnetc_ir::{
    DType, Entity, EntryPoint, Func, FuncId, FuncPlan, Module, Node, NodeId, Op, Operand, Pairs, ParamId,
    Place, TokenCount, Type, Units, ValueDef, ValueId, storage,
};

use crate::kernels::{Arg, KernelIndex, KernelSpec, SpecError, TokenMode};

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Entity for $name {
            fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("fewer than 2^32 items"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index_type! {
    /// A weight that kernels read.
    WeightIndex
}
index_type! {
    /// A RoPE table.
    RopeIndex
}

/// What a RoPE table holds: see [`Arg::RopeTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeSpec {
    /// Base and scaling of the frequencies.
    pub theta: Theta,
    /// Elements of a head that are turned.
    pub rot: u32,
    /// Which go together.
    pub pairs: Pairs,
}

/// One word of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Address of a byte of the arena.
    Arena(u64),
    /// Address of a byte of an input's buffer.
    Input {
        /// Position of the input.
        index: u32,
        /// Byte in it.
        offset: u64,
    },
    /// Address of a byte of the private memory of the thread.
    Private(u64),
    /// Address of the buffer of an output that is not a cache.
    Output {
        /// Position of the output.
        index: u32,
    },
    /// Address of a weight's bytes.
    Weight(WeightIndex),
    /// Address of a weight's scales.
    Scales(WeightIndex),
    /// Address of a RoPE table.
    Rope(RopeIndex),
    /// Address of the scratch memory of the thread.
    Scratch,
    /// Address of the workspace that the threads share.
    Workspace,
    /// Position of the first token.
    Position,
    /// Number of tokens.
    Tokens,
    /// Capacity of the caches.
    Capacity,
    /// First unit of the thread.
    UnitBegin,
    /// First unit after those of the thread.
    UnitEnd,
}

/// One kernel call of every thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The op, for profiles and messages.
    pub mnemonic: &'static str,
    /// The op's node in the function; none for a step that was made by itself.
    pub node: Option<NodeId>,
    /// The kernel.
    pub kernel: KernelIndex,
    /// Its words.
    pub words: Vec<Word>,
    /// For each word that is the address of the first token's row of an activation, the bytes between the rows of two
    /// tokens; 0 for the others, and for functions of one token.
    pub row_strides: Vec<u64>,
    /// The work to divide.
    pub units: Units,
    /// Whether every thread does all of it, for itself, instead of a share.
    pub replicated: bool,
    /// Whether all threads meet afterwards.
    pub barrier: bool,
    /// Whether the step's result depends on where its tokens stand, as the op table says ([`OpInfo::is_positional`]).
    ///
    /// [`OpInfo::is_positional`]: bitnetc_ir::OpInfo::is_positional
    pub positional: bool,
}

/// An input or output of a program as the runtime must provide it.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name of the input; empty for an output.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

/// One function, ready to be bound to buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name of the function.
    pub name: String,
    /// Tokens of a call.
    pub tokens: TokenCount,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes of the private memory of each thread.
    pub private_bytes: u64,
    /// Inputs, in order.
    pub inputs: Vec<Buffer>,
    /// Outputs, in order.
    pub outputs: Vec<Buffer>,
    /// The calls.
    pub steps: Vec<Step>,
}

/// What the functions of a module share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Programs {
    /// One for each function, in the module's order.
    pub programs: Vec<Program>,
    /// The distinct kernels.
    pub kernels: EntityVec<KernelIndex, KernelSpec>,
    /// The weights that kernels read.
    pub weights: EntityVec<WeightIndex, ParamId>,
    /// The RoPE tables.
    pub ropes: EntityVec<RopeIndex, RopeSpec>,
}

impl Programs {
    /// The program of an entry point, with its function.
    pub fn entry_point(&self, entry: EntryPoint) -> Option<(FuncId, &Program)> {
        let index = self.programs.iter().position(|program| program.name == entry.name())?;
        Some((FuncId::from_index(index), &self.programs[index]))
    }
}

/// Most kernels of a module. A model needs a few dozen, however many layers it has; each takes milliseconds to make.
pub const MAX_KERNELS: usize = 1024;

/// Why a module could not be turned into programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The function has not been planned.
    #[error("@{func} has no memory plan: run plan-memory")]
    NotPlanned {
        /// The function.
        func: String,
    },
    /// An op has no kernel.
    #[error("@{func}: {source}")]
    Spec {
        /// The function.
        func: String,
        /// Why.
        source: SpecError,
    },
    /// A function over a chunk has an activation with one row for all tokens; kernels step through rows by token.
    #[error("@{func} handles a chunk of tokens, but `{op}` has an activation {ty} without a row for each")]
    Rows {
        /// The function.
        func: String,
        /// The op.
        op: &'static str,
        /// Type of the activation.
        ty: String,
    },
    /// More kernels than are made for one module.
    #[error("the module needs more than {limit} different kernels; give its ops shapes in common")]
    Kernels {
        /// The limit.
        limit: usize,
    },
    /// A value's place is missing or does not lie in its buffer.
    #[error("@{func}: `{op}` uses a value whose place is {why}")]
    Place {
        /// The function.
        func: String,
        /// The op.
        op: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Where a value's first byte is, after following views and aliases, and the stride of its rows.
#[derive(Clone, Copy)]
struct Location {
    word: Word,
    stride: u64,
}

/// The steps of an op: one, or two with a barrier between them.
struct Lowered {
    first: Step,
    second: Option<Step>,
}

/// An op with the places of its operands and results.
struct Call<'a> {
    func: &'a Func,
    node: &'a Node,
    locations: &'a [Option<Location>],
    results: &'a [Location],
}

/// Bytes between the rows of two tokens of an activation; 0 for anything else, and where there is one token.
fn row_stride(func: &Func, ty: &Type, location: Location) -> u64 {
    let many = func.tokens() != TokenCount::One;
    if many && is_activation(ty) { location.stride } else { 0 }
}

fn is_activation(ty: &Type) -> bool {
    matches!(ty.dtype, DType::F32 | DType::Q8 | DType::Q8b | DType::I32) && ty.as_rows().is_some()
}

struct Lowering<'m> {
    module: &'m Module,
    shared: Programs,
    kernel_ids: HashMap<KernelSpec, KernelIndex>,
    weight_ids: HashMap<ParamId, WeightIndex>,
    rope_ids: HashMap<RopeSpec, RopeIndex>,
}

/// Flattens all functions of a planned module.
///
/// # Errors
/// A function without plan, an op without kernel, a place outside its buffer.
pub fn lower(module: &Module) -> Result<Programs, ProgramError> {
    let mut lowering = Lowering {
        module,
        shared: Programs::default(),
        kernel_ids: HashMap::new(),
        weight_ids: HashMap::new(),
        rope_ids: HashMap::new(),
    };
    for id in module.funcs().keys() {
        let program = lowering.function(id)?;
        lowering.shared.programs.push(program);
    }
    Ok(lowering.shared)
}

impl Call<'_> {
    /// [`Step::row_strides`] of one of the kernels of the op.
    fn row_strides(&self, spec: &KernelSpec) -> Vec<u64> {
        let operand = |i: u8| match self.node.operands.get(usize::from(i)) {
            Some(Operand::Value(v)) => self.locations.get(usize::from(i)).copied().flatten().map(|l| (*v, l)),
            _ => None,
        };
        let result = |i: u8| {
            let i = usize::from(i);
            Some((*self.node.results.get(i)?, *self.results.get(i)?))
        };
        let stride = |arg: Arg| {
            let (value, location) = match arg {
                Arg::Operand(i) => operand(i)?,
                Arg::Result(i) => result(i)?,
                _ => return None,
            };
            Some(row_stride(self.func, self.func.ty(value), location))
        };
        spec.args().into_iter().map(|arg| stride(arg).unwrap_or(0)).collect()
    }
}

impl Lowering<'_> {
    fn function(&mut self, id: FuncId) -> Result<Program, ProgramError> {
        let func = &self.module.funcs()[id];
        let plan =
            func.plan.as_ref().ok_or_else(|| ProgramError::NotPlanned { func: func.name().to_owned() })?;
        let places = Places::new(func, plan);
        let mut steps = Vec::new();
        for &node in func.order() {
            if let Some(step) = self.step(&places, node, plan.barriers.contains(&node))? {
                self.push(&mut steps, step);
            } else if plan.barriers.contains(&node)
                && let Some(last) = steps.last_mut()
            {
                last.barrier = true;
            }
        }
        let buffer = |&value: &ValueId| Buffer {
            name: func.value(value).name.clone().unwrap_or_default(),
            ty: func.ty(value).clone(),
        };
        Ok(Program {
            name: func.name().to_owned(),
            tokens: func.tokens(),
            arena_bytes: plan.arena_bytes,
            private_bytes: plan.private_bytes,
            inputs: func.inputs().iter().map(buffer).collect(),
            outputs: func.outputs().iter().map(buffer).collect(),
            steps,
        })
    }

    /// Adds the steps of an op. The workspace is one for all: between two ops that use it threads meet.
    fn push(&mut self, steps: &mut Vec<Step>, lowered: Lowered) {
        let uses = |step: &Step| step.words.contains(&Word::Workspace);
        let phase = steps.iter().rev().take_while(|s| !s.barrier);
        if uses(&lowered.first) && phase.into_iter().any(uses) {
            // The one before it is in the same phase, so there is one.
            if let Some(last) = steps.last_mut() {
                last.barrier = true;
            }
        }
        steps.push(lowered.first);
        steps.extend(lowered.second);
    }

    fn step(
        &mut self,
        places: &Places<'_>,
        id: NodeId,
        barrier: bool,
    ) -> Result<Option<Lowered>, ProgramError> {
        let func = places.func;
        let node = func.node(id);
        let op = node.op.info().mnemonic;
        let module = self.module;
        let param_type = |p: ParamId| module.params()[p].ty.clone();
        let operand_types: Vec<Type> =
            node.operands.iter().map(|&o| func.operand_type(o, &param_type)).collect();
        let operand_refs: Vec<&Type> = operand_types.iter().collect();
        let result_refs: Vec<&Type> = node.results.iter().map(|&r| func.ty(r)).collect();
        let Some(units) = node.op.info().units(&operand_refs, &result_refs) else { return Ok(None) };

        let place_error = |why| ProgramError::Place { func: func.name().to_owned(), op, why };
        let mut locations = Vec::with_capacity(node.operands.len());
        for &operand in &node.operands {
            locations.push(match operand {
                Operand::Value(v) => Some(places.locate(v).map_err(place_error)?),
                Operand::Param(_) => None,
            });
        }
        let mut results = Vec::with_capacity(node.results.len());
        for &result in &node.results {
            results.push(places.locate(result).map_err(place_error)?);
        }

        let tokens = match func.tokens() {
            TokenCount::One => TokenMode::One,
            TokenCount::UpTo(_) => TokenMode::Many,
        };
        let all = operand_types.iter().zip(&node.operands).filter(|(_, o)| matches!(o, Operand::Value(_)));
        let mut all = all.map(|(ty, _)| ty).chain(result_refs.iter().copied());
        let single = all.find(|ty| ty.as_rows().is_some_and(|r| r.per_token != (tokens == TokenMode::Many)));
        if let Some(ty) = single {
            return Err(ProgramError::Rows { func: func.name().to_owned(), op, ty: ty.to_string() });
        }
        let strides = match tokens {
            TokenMode::One => Vec::new(),
            TokenMode::Many => {
                let ins = locations.iter().zip(&operand_types);
                let outs = results.iter().zip(&result_refs);
                let ins = ins.filter_map(|(l, ty)| l.filter(|_| is_activation(ty)).map(|l| l.stride));
                ins.chain(outs.filter(|(_, ty)| is_activation(ty)).map(|(l, _)| l.stride)).collect()
            }
        };
        let spec = KernelSpec::of(&node.op, &operand_refs, tokens, strides)
            .map_err(|source| ProgramError::Spec { func: func.name().to_owned(), source })?;
        let Some(spec) = spec else { return Ok(None) };

        let call = Call { func, node, locations: &locations, results: &results };
        let words = self.words(&call, &spec)?;
        let row_strides = call.row_strides(&spec);
        let second = match spec.after_barrier() {
            Some((name, spec, units)) => Some((name, self.words(&call, &spec)?, spec, units)),
            None => None,
        };
        let replicated = results.iter().any(|l| matches!(l.word, Word::Private(_)));
        let splits = second.is_some();
        if replicated && splits {
            return Err(place_error("private, but the op is divided among threads"));
        }
        let kernel = self.kernel(spec)?;
        let first = Step {
            mnemonic: op,
            node: Some(id),
            kernel,
            words,
            row_strides,
            units,
            replicated,
            barrier: barrier || splits,
            positional: node.op.info().is_positional(),
        };
        let second = match second {
            Some((mnemonic, words, spec, units)) => Some(Step {
                mnemonic,
                node: Some(id),
                row_strides: call.row_strides(&spec),
                kernel: self.kernel(spec)?,
                words,
                units,
                replicated: false,
                barrier,
                positional: node.op.info().is_positional(),
            }),
            None => None,
        };
        Ok(Some(Lowered { first, second }))
    }

    /// The words of one of the kernels of an op.
    fn words(&mut self, call: &Call<'_>, spec: &KernelSpec) -> Result<Vec<Word>, ProgramError> {
        let op = call.node.op.info().mnemonic;
        let place_error = |why| ProgramError::Place { func: call.func.name().to_owned(), op, why };
        let mut words = Vec::new();
        for arg in spec.args() {
            words.push(match arg {
                Arg::Operand(i) => match call.node.operands.get(usize::from(i)) {
                    Some(Operand::Param(p)) => Word::Weight(self.weight(*p)),
                    _ => call
                        .locations
                        .get(usize::from(i))
                        .copied()
                        .flatten()
                        .map(|l| l.word)
                        .ok_or_else(|| place_error("missing"))?,
                },
                Arg::Scales(i) => match call.node.operands.get(usize::from(i)) {
                    Some(Operand::Param(p)) => Word::Scales(self.weight(*p)),
                    _ => return Err(place_error("no parameter")),
                },
                Arg::Result(i) => {
                    call.results.get(usize::from(i)).map(|l| l.word).ok_or_else(|| place_error("missing"))?
                }
                Arg::RopeTable => {
                    Word::Rope(self.rope(&call.node.op).ok_or_else(|| place_error("no RoPE table"))?)
                }
                Arg::Position => Word::Position,
                Arg::Tokens => Word::Tokens,
                Arg::Capacity => Word::Capacity,
                Arg::Scratch => Word::Scratch,
                Arg::Workspace => Word::Workspace,
                Arg::UnitBegin => Word::UnitBegin,
                Arg::UnitEnd => Word::UnitEnd,
            });
        }
        Ok(words)
    }

    fn kernel(&mut self, spec: KernelSpec) -> Result<KernelIndex, ProgramError> {
        let kernels = &mut self.shared.kernels;
        let index = *self.kernel_ids.entry(spec).or_insert_with_key(|spec| kernels.push(spec.clone()));
        match kernels.len() > MAX_KERNELS {
            true => Err(ProgramError::Kernels { limit: MAX_KERNELS }),
            false => Ok(index),
        }
    }

    fn weight(&mut self, param: ParamId) -> WeightIndex {
        let weights = &mut self.shared.weights;
        *self.weight_ids.entry(param).or_insert_with(|| weights.push(param))
    }

    fn rope(&mut self, op: &Op) -> Option<RopeIndex> {
        let (Op::Rope { theta, rot, pairs, .. } | Op::RopeKvAppend { theta, rot, pairs, .. }) = op else {
            return None;
        };
        let spec = RopeSpec { theta: *theta, rot: *rot, pairs: *pairs };
        let ropes = &mut self.shared.ropes;
        Some(*self.rope_ids.entry(spec).or_insert_with(|| ropes.push(spec)))
    }
}

/// What a value is a view or alias of in the end, and where it starts in there.
#[derive(Clone, Copy)]
struct Base {
    value: ValueId,
    /// Bytes from the start of the row.
    offset: u64,
    /// Bytes between two rows of what it is a part of, if there is a view on the way.
    stride: Option<u64>,
}

/// Where the values of a function lie.
struct Places<'f> {
    func: &'f Func,
    plan: &'f FuncPlan,
    bases: HashMap<ValueId, Result<Base, &'static str>>,
    outputs: HashMap<ValueId, u32>,
}

impl<'f> Places<'f> {
    /// Follows views and aliases. Each stands after what it is a view or alias of, so one walk finds all.
    fn new(func: &'f Func, plan: &'f FuncPlan) -> Self {
        let mut bases: HashMap<ValueId, Result<Base, &'static str>> = HashMap::new();
        for value in func.values() {
            let earlier = |of: &ValueId| bases.get(of).copied().unwrap_or(Err("of no earlier value"));
            let own = Base { value, offset: 0, stride: None };
            let base = match plan.places.get(&value) {
                _ if matches!(func.value(value).def, ValueDef::Input(_)) => Ok(own),
                Some(Place::Alias { of }) => earlier(of),
                Some(Place::View { of, offset }) => earlier(of).and_then(|base| {
                    let offset = base.offset.checked_add(*offset).ok_or("too large")?;
                    let stride = base.stride.or_else(|| storage::row_stride(func.ty(*of)));
                    Ok(Base { offset, stride: Some(stride.ok_or("a view of no row")?), ..base })
                }),
                Some(_) => Ok(own),
                None => Err("missing"),
            };
            bases.insert(value, base);
        }
        let outputs = func.outputs().iter().copied().zip(0..).collect();
        Self { func, plan, bases, outputs }
    }

    /// The bytes of `value` in the arena, in private memory or in a buffer of the caller.
    fn locate(&self, value: ValueId) -> Result<Location, &'static str> {
        let (func, ty) = (self.func, self.func.ty(value));
        let Base { value: at, offset, stride } = self.bases.get(&value).copied().unwrap_or(Err("missing"))?;
        let stride = stride.or_else(|| storage::row_stride(ty)).unwrap_or(0);
        if let ValueDef::Input(index) = func.value(at).def {
            return Ok(Location { word: Word::Input { index, offset }, stride });
        }
        match self.plan.places.get(&at) {
            Some(place @ (Place::Arena { offset: start, size } | Place::Private { offset: start, size })) => {
                let private = matches!(place, Place::Private { .. });
                let memory = if private { self.plan.private_bytes } else { self.plan.arena_bytes };
                let rows = if ty.as_rows().is_some_and(|r| r.per_token) { func.tokens().max() } else { 1 };
                let last = u64::from(rows.max(1) - 1).checked_mul(stride).ok_or("too large")?;
                let own = storage::activation_bytes(ty, 1).unwrap_or(stride).min(stride);
                let width = ty.as_rows().map_or(0, |r| u64::from(r.width));
                // A view ends with its last element, the whole row of another value otherwise.
                let row = match (offset > 0 || at != value, ty.dtype) {
                    (true, DType::F32) => width * 4,
                    _ => own,
                };
                let end = offset.checked_add(last).and_then(|n| n.checked_add(row)).ok_or("too large")?;
                let arena_end = start.checked_add(*size).ok_or("too large")?;
                if end > *size || arena_end > memory {
                    return Err("outside its buffer");
                }
                let first = start.checked_add(offset).ok_or("too large")?;
                let word = if private { Word::Private(first) } else { Word::Arena(first) };
                Ok(Location { word, stride })
            }
            Some(Place::Extern) => {
                let index = *self.outputs.get(&at).ok_or("extern but no output")?;
                match offset {
                    0 => Ok(Location { word: Word::Output { index }, stride }),
                    _ => Err("a view of an output"),
                }
            }
            Some(Place::View { .. } | Place::Alias { .. }) | None => Err("missing"),
        }
    }
}
