//! Running single functions and single ops of any planned module on tensors, with compiled kernels: the counterpart of the
//! interpreter, for tests and for `verify`. Models are run by a [`crate::machine::Machine`].
//!
//! [`execute`] runs a function; [`OneOp`] runs an op with the very kernels, strides and places that the plan gives it. Both take
//! modules whose plan has been proved by the checker in `passes`, which this crate cannot see; everything else that kernels rely
//! on is checked here: `call` compares inputs with types and with each other, before anything runs.

mod call;
mod function;
mod op;
mod tensors;

use std::sync::Arc;

use bitnetc_codegen::compile::{CompileError, Compiled};
use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::pack::{PackError, pack_into};
use bitnetc_codegen::program::{Buffer, Program};
use bitnetc_ir::sample::CallShape;
use bitnetc_ir::{Extent, Func, Module, ParamId, Place, Type, ValueId, WeightSource, weights};

use crate::error::SessionError;
use crate::machine::binding::{Binding, Input, Interface, WeightAddress};
use crate::machine::buffer;
use crate::machine::call::{BoundPrograms, Crew};
use crate::machine::memory::WorkMemory;
use crate::machine::team::{Job, Team};
use crate::map::AlignedBuffer;

pub use call::of_inputs as call_of_inputs;
pub use function::execute;
pub use op::{CompiledModule, OneOp, OpWeights};

/// Why a function or an op could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// The module breaks a rule of the verifier.
    #[error("{0}")]
    Module(String),
    /// The module could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A weight could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A weight that kernels take to be finite has a NaN or an infinity.
    #[error("weight @{name} ({ty}) is not finite")]
    NotFinite {
        /// The parameter.
        name: String,
        /// Its type.
        ty: String,
    },
    /// Inputs that do not fit the function.
    #[error("@{func}: input {index} {what}")]
    Input {
        /// The function.
        func: String,
        /// Position of the input.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An output that has no buffer of its own.
    #[error("@{func}: output {index} is neither a buffer of its own nor a cache of the caller")]
    Output {
        /// The function.
        func: String,
        /// Position of the output.
        index: usize,
    },
    /// Memory or threads could not be had.
    #[error(transparent)]
    Resources(#[from] SessionError),
}

/// A weight as kernels read it, in memory of its own.
struct PackedWeight {
    /// What was packed: code for another type would read other bytes.
    ty: Type,
    elements: AlignedBuffer,
    scales: AlignedBuffer,
}

impl PackedWeight {
    /// Packs a weight of `module`.
    fn new(module: &Module, param: ParamId, source: &dyn WeightSource) -> Result<Self, ExecuteError> {
        let ty = module.params()[param].ty.clone();
        let (bytes, scale_bytes) = weights::packed_bytes(&ty).unwrap_or((0, 0));
        let (mut elements, mut scales) = (buffer("weight", bytes)?, buffer("scales", scale_bytes)?);
        let values = pack_into(module, param, source, &mut elements.as_mut_slice()[..bytes as usize])?;
        if !weights::is_finite(&ty, &elements.as_slice()[..bytes as usize]) {
            let name = module.params()[param].name.clone();
            return Err(ExecuteError::NotFinite { name, ty: ty.to_string() });
        }
        for (slot, scale) in scales.as_mut_slice().chunks_exact_mut(4).zip(values) {
            slot.copy_from_slice(&scale.to_le_bytes());
        }
        Ok(Self { ty, elements, scales })
    }

    fn address(&self) -> WeightAddress {
        WeightAddress { elements: self.elements.address(), scales: self.scales.address() }
    }
}

/// The inputs and outputs of a program, in buffers of their own.
struct InOut {
    inputs: Vec<AlignedBuffer>,
    outputs: Vec<AlignedBuffer>,
}

impl InOut {
    /// Zeroed outputs for calls of at most `most` tokens, beside these inputs.
    fn new(
        program: &Program,
        inputs: Vec<AlignedBuffer>,
        most: u32,
        capacity: u32,
    ) -> Result<Self, SessionError> {
        let output = |b: &Buffer| buffer("output", tensors::buffer_bytes(&b.ty, most, capacity));
        Ok(Self { inputs, outputs: program.outputs.iter().map(output).collect::<Result<_, _>>()? })
    }

    /// Where they are.
    fn interface(&self, program: &Program) -> Interface {
        let mut caches = 0..;
        let place = |(input, buffer): (&Buffer, &AlignedBuffer)| match input.ty.is_persistent() {
            true => Input::Cache(caches.next().unwrap_or(0)),
            false => Input::Buffer(buffer.address()),
        };
        let inputs = program.inputs.iter().zip(&self.inputs).map(place).collect();
        Interface { inputs, outputs: self.outputs.iter().map(AlignedBuffer::address).collect() }
    }

    /// The inputs that are caches, in order.
    fn caches<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = &'a AlignedBuffer> {
        let caches = program.inputs.iter().zip(&self.inputs).filter(|(input, _)| input.ty.is_persistent());
        caches.map(|(_, buffer)| buffer)
    }
}

/// Runs a program once. `weights` are the module's, by index.
fn run(
    program: Program,
    compiled: Arc<Compiled>,
    memory: &WorkMemory,
    in_out: &InOut,
    weights: Vec<WeightAddress>,
    call: CallShape,
    threads: u32,
) -> Result<(), SessionError> {
    let entries: Vec<KernelEntry> = compiled.programs.kernels.keys().map(|k| compiled.entry(k)).collect();
    let programs = [program];
    let [program] = &programs;
    let binding = Binding {
        memory,
        weights,
        interfaces: vec![in_out.interface(program)],
        caches: in_out.caches(program).count() as u32,
        capacity: call.capacity,
    };
    let crew = Crew { threads, segments: 1, recorder: None };
    let bound = BoundPrograms::bind(&programs, &entries, &binding, crew, compiled);
    let mut team = Team::new(Arc::new(bound), threads)?;
    let CallShape { tokens, position, .. } = call;
    team.work().set_segment(0, Extent { position, tokens }, in_out.caches(program));
    team.run(Job { position, tokens, ..Job::default() });
    Ok(())
}

/// The input whose bytes a cache output has.
fn input_behind(func: &Func, value: ValueId) -> Option<usize> {
    let plan = func.plan.as_ref()?;
    let mut at = value;
    for _ in 0..=plan.places.len() {
        if let Some(index) = func.inputs().iter().position(|&v| v == at) {
            return Some(index);
        }
        match plan.places.get(&at)? {
            Place::Alias { of } => at = *of,
            _ => return None,
        }
    }
    None
}
