//! What a machine relies on in a model's entry points, checked once: their inputs, outputs and sizes.
//!
//! Invariants: all three entry points are there; every input is token ids, a position, a KV cache or recurrent state of `@decode`
//! or, in `@head`, exactly what `@prefill` returns; each cache and state is an input once; the only output that is neither is the
//! first one, logits of the vocabulary or hidden states.

use bitnetc_codegen::program::{Buffer, Program, Programs};
use bitnetc_ir::{DType, Dim, Entity, EntryPoint, HEAD_ROWS, TokenCount, Type, storage};

use super::binding::{Input, Interface};
use crate::error::SessionError;
use crate::map::AlignedBuffer;

/// The entry points of a model.
#[derive(Debug)]
pub(super) struct Entries {
    /// Indices of the programs.
    decode: u32,
    prefill: u32,
    head: u32,
    /// Types of a sequence's caches and recurrent states.
    pub(super) caches: Vec<Type>,
    /// Most rows of `@prefill`.
    pub(super) chunk: u32,
    /// Most rows of `@head`, at most as many as a chunk has.
    pub(super) head_rows: u32,
    /// Bytes between two hidden states.
    pub(super) hidden_stride: u64,
    /// Bytes between two rows of logits.
    pub(super) logits_stride: u64,
}

/// The buffers that entry points read and write beside caches and working memory.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Ids of the tokens of a chunk.
    pub(super) tokens: AlignedBuffer,
    /// What `@prefill` returns.
    pub(super) hidden: AlignedBuffer,
    /// What `@decode` and `@head` return.
    pub(super) logits: AlignedBuffer,
}

impl Entries {
    /// Those of `programs`, for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// One that is missing, or that is not as it has to be.
    pub(super) fn of(programs: &Programs, vocab: u32) -> Result<Self, SessionError> {
        let find = |entry| programs.entry_point(entry).ok_or(SessionError::Entry(entry));
        let (decode, of_decode) = find(EntryPoint::Decode)?;
        let (prefill, of_prefill) = find(EntryPoint::Prefill)?;
        let (head, of_head) = find(EntryPoint::Head)?;
        let chunk = of_prefill.tokens.max();
        let head_rows = match of_head.tokens {
            TokenCount::UpTo(n) => n.min(chunk).min(HEAD_ROWS),
            TokenCount::One => return Err(SessionError::Entry(EntryPoint::Head)),
        };
        let is_logits = |ty: &Type| ty.dtype == DType::F32 && ty.as_rows().is_some_and(|r| r.width == vocab);
        for (entry, program) in [(EntryPoint::Decode, of_decode), (EntryPoint::Head, of_head)] {
            if !program.outputs.first().is_some_and(|logits| is_logits(&logits.ty)) {
                return Err(SessionError::Entry(entry));
            }
        }
        let entries = Self {
            decode: decode.index() as u32,
            prefill: prefill.index() as u32,
            head: head.index() as u32,
            caches: caches_of(of_decode).map(|input| input.ty.clone()).collect(),
            chunk,
            head_rows,
            hidden_stride: output_stride(EntryPoint::Prefill, of_prefill)?,
            logits_stride: output_stride(EntryPoint::Head, of_head)?,
        };
        for (entry, program) in
            [(EntryPoint::Decode, of_decode), (EntryPoint::Prefill, of_prefill), (EntryPoint::Head, of_head)]
        {
            // Outputs after the first change in place: they have no buffer.
            let in_place = program.outputs.iter().skip(1).all(|b| b.ty.is_persistent());
            let known = inputs(entry, program, programs).is_some();
            if !(in_place && known) {
                return Err(SessionError::Entry(entry));
            }
        }
        Ok(entries)
    }

    /// Index of an entry point's program.
    pub(super) fn index(&self, entry: EntryPoint) -> u32 {
        match entry {
            EntryPoint::Decode => self.decode,
            EntryPoint::Prefill => self.prefill,
            EntryPoint::Head => self.head,
        }
    }

    /// Where inputs and outputs are, for each of `programs`; nothing for those that are no entry points.
    pub(super) fn interfaces(&self, programs: &Programs, buffers: &Buffers) -> Vec<Interface> {
        let of = |program: &Program| {
            let entry = EntryPoint::of_name(&program.name)?;
            let address = |source| match source {
                Source::Position => Input::Number,
                Source::Tokens => Input::Buffer(buffers.tokens.address()),
                Source::Hidden => {
                    Input::Rows { address: buffers.hidden.address(), stride: self.hidden_stride }
                }
                Source::Cache(cache) => Input::Cache(cache),
            };
            let output = match entry {
                EntryPoint::Prefill => &buffers.hidden,
                EntryPoint::Decode | EntryPoint::Head => &buffers.logits,
            };
            let inputs = inputs(entry, program, programs)?;
            let inputs = inputs.into_iter().map(address).collect();
            Some(Interface { inputs, outputs: vec![output.address()] })
        };
        programs.programs.iter().map(|program| of(program).unwrap_or_default()).collect()
    }
}

/// What an input of an entry point gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Tokens,
    Position,
    Hidden,
    /// The cache or recurrent state with this number.
    Cache(u32),
}

fn caches_of(decode: &Program) -> impl Iterator<Item = &Buffer> {
    decode.inputs.iter().filter(|input| input.ty.is_persistent())
}

fn output_stride(entry: EntryPoint, program: &Program) -> Result<u64, SessionError> {
    let first = program.outputs.first();
    first.and_then(|b| storage::row_stride(&b.ty)).ok_or(SessionError::Entry(entry))
}

/// What the inputs of an entry point get; `None` where one is none of what there is, or a cache is there twice.
fn inputs(entry: EntryPoint, program: &Program, programs: &Programs) -> Option<Vec<Source>> {
    let (_, decode) = programs.entry_point(EntryPoint::Decode)?;
    let (_, prefill) = programs.entry_point(EntryPoint::Prefill)?;
    let mut sources = Vec::with_capacity(program.inputs.len());
    for input in &program.inputs {
        let source = match (input.ty.dtype, &input.ty.shape.0[..]) {
            (DType::Idx, []) => Source::Position,
            (DType::Idx, [Dim::N(1)] | [Dim::Tokens]) => Source::Tokens,
            (DType::F32, [Dim::Tokens, Dim::N(_)]) if entry == EntryPoint::Head => {
                prefill.outputs.first().filter(|hidden| hidden.ty == input.ty)?;
                Source::Hidden
            }
            _ if input.ty.is_persistent() => {
                let cache = caches_of(decode).position(|c| c.name == input.name && c.ty == input.ty)?;
                Source::Cache(cache as u32)
            }
            _ => return None,
        };
        if matches!(source, Source::Cache(_)) && sources.contains(&source) {
            return None;
        }
        sources.push(source);
    }
    Some(sources)
}
