//! Where everything that programs name lies: what is known of addresses before code runs.
//!
//! Whoever runs programs (a [`super::Machine`], [`crate::single`], [`crate::roofline`]) owns buffers, says here which of them is
//! which, and has [`super::call::BoundPrograms`] put the addresses into the words of the calls.
//!
//! Invariants: the buffers live as long as what was bound to them, and are as large as the types of the programs say for their
//! most tokens and the capacity of the caches.

use bitnetc_codegen::program::{WeightIndex, Word};
use bitnetc_ir::Entity;

use super::memory::WorkMemory;
use crate::map::AlignedBuffer;

/// What an input of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A number that each call carries.
    Number,
    /// A buffer at this address.
    Buffer(u64),
    /// A buffer of rows; a call begins at the row that it says.
    Rows {
        /// Address of row 0.
        address: u64,
        /// Bytes from a row to the next.
        stride: u64,
    },
    /// A cache: this one of those that each sequence has.
    Cache(u32),
}

/// The inputs and outputs of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interface {
    /// One for each input, in order.
    pub(crate) inputs: Vec<Input>,
    /// Addresses, for each output that is not a cache; caches change in place.
    pub(crate) outputs: Vec<u64>,
}

/// Addresses of a weight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WeightAddress {
    /// Of its elements.
    pub(crate) elements: u64,
    /// Of its scales.
    pub(crate) scales: u64,
}

/// All that programs name.
#[derive(Debug)]
pub(crate) struct Binding<'m> {
    /// What all programs work in.
    pub(crate) memory: &'m WorkMemory,
    /// Weights that the programs read, by index; the others may be missing.
    pub(crate) weights: Vec<WeightAddress>,
    /// One for each program, in order; programs that are never called may have an empty one.
    pub(crate) interfaces: Vec<Interface>,
    /// Caches of each sequence.
    pub(crate) caches: u32,
    /// Positions of each cache.
    pub(crate) capacity: u32,
}

/// What an address word stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The same address in all calls and threads.
    Fixed(u64),
    /// The row at which the call begins, of rows that lie `stride` bytes apart.
    Row { base: u64, stride: u64 },
    /// A byte of a cache of the call's sequence.
    Cache { cache: u32, offset: u64 },
}

impl Binding<'_> {
    /// What `word` of program number `program` stands for. Words that are no addresses, or addresses in a thread's own
    /// memory, are not asked for here: they are 0.
    pub(crate) fn target(&self, program: usize, word: Word) -> Target {
        let interface = self.interfaces.get(program);
        let fixed = |buffer: &AlignedBuffer, offset: u64| Target::Fixed(buffer.address() + offset);
        let weight = |index: WeightIndex| self.weights.get(index.index()).copied().unwrap_or_default();
        match word {
            Word::Arena(offset) => fixed(&self.memory.arena, offset),
            Word::Workspace => fixed(&self.memory.workspace, 0),
            Word::Rope(rope) => {
                Target::Fixed(self.memory.ropes.get(rope.index()).map_or(0, |table| table.address()))
            }
            Word::Weight(index) => Target::Fixed(weight(index).elements),
            Word::Scales(index) => Target::Fixed(weight(index).scales),
            Word::Output { index } => {
                let address = interface.and_then(|i| i.outputs.get(index as usize));
                Target::Fixed(address.copied().unwrap_or(0))
            }
            Word::Input { index, offset } => match interface.and_then(|i| i.inputs.get(index as usize)) {
                Some(&Input::Buffer(address)) => Target::Fixed(address + offset),
                Some(&Input::Rows { address, stride }) => Target::Row { base: address + offset, stride },
                Some(&Input::Cache(cache)) => Target::Cache { cache, offset },
                Some(Input::Number) | None => Target::Fixed(0),
            },
            Word::Scratch
            | Word::Private(_)
            | Word::Position
            | Word::Tokens
            | Word::Capacity
            | Word::UnitBegin
            | Word::UnitEnd => Target::Fixed(0),
        }
    }
}
