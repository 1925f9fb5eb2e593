//! What running a module has to read and to multiply at least: the one place that counts it. What an op reads is a column of
//! the op table ([`Reads`]).
//!
//! - Weights: every parameter that an entry point reads counts once per call, with its scales, in the form in which it is
//!   stored; of a matrix of which only some rows are read (the embedding, the exact rows of a screened head), those rows
//!   for each token.
//! - KV cache: attention reads the keys and values of all positions up to the last token of the call, once per call.
//! - Recurrent states: each is read and written as a whole, once per call and sequence; what is read counts here.
//! - Multiply-adds: rows × columns of every matrix (the rows that are read) for each token that passes it; in attention two (score and sum) for
//!   each query element and each key that a token sees.
//!
//! Activations are not counted in [`Work`]: they stay in the caches. [`OpWork`], what a single op needs, has them beside it.
//! Nothing here knows kernels or layouts, so a faster kernel does not change what is counted; a smaller packing does.

use std::collections::{BTreeMap, BTreeSet};

use crate::entity::NodeId;
use crate::graph::{Func, Operand};
use crate::module::Module;
use crate::partition::Extent;
use crate::types::{DType, Type};
use crate::{EntryPoint, KEY_BLOCK, ParamId, storage, weights};

/// What an op reads of its parameters and caches, and what it multiplies: the kinds that the op table chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Its parameters as a whole, once a call; it multiplies by every element of its matrices, if it has any, for each token.
    Whole,
    /// One row of its matrix for each token, without a multiplication.
    RowOfToken,
    /// A row of its matrix for each row number that a token has; it multiplies by every element of these rows.
    ChosenRows,
    /// Keys and values of all positions up to the last token, once a call; it multiplies twice for each query element and each
    /// key that a token sees.
    KeysAndValues,
    /// A recurrent state as a whole, once a call; it multiplies three times by every element of it for each token: what is
    /// predicted, what is added, what is read.
    State,
}

/// Bytes and multiply-adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights and their scales.
    pub weight_bytes: u64,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// Bytes of recurrent states.
    pub state_bytes: u64,
    /// Multiply-adds of ternary matrices.
    pub ternary_macs: u64,
    /// Multiply-adds of other matrices: the head.
    pub dense_macs: u64,
    /// Multiply-adds of attention, and with recurrent states.
    pub attention_macs: u64,
}

impl Work {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.state_bytes
    }
    /// All multiply-adds.
    pub fn macs(&self) -> u64 {
        self.ternary_macs + self.dense_macs + self.attention_macs
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.weight_bytes += other.weight_bytes;
        self.kv_bytes += other.kv_bytes;
        self.state_bytes += other.state_bytes;
        self.ternary_macs += other.ternary_macs;
        self.dense_macs += other.dense_macs;
        self.attention_macs += other.attention_macs;
    }
}

/// What one entry point needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Bytes that every call reads.
    weight_bytes: u64,
    /// Bytes of looked-up rows, for each token.
    row_bytes: u64,
    /// Multiply-adds for each token.
    ternary_macs: u64,
    dense_macs: u64,
    /// Multiply-adds for each key that a token sees.
    attention_macs: u64,
    /// Bytes of keys and values for each position.
    kv_bytes: u64,
    /// Bytes of recurrent states for each sequence.
    state_bytes: u64,
    /// Multiply-adds with them for each token.
    state_macs: u64,
    /// Tokens of a call.
    tokens: u32,
}

impl Entry {
    /// What these ops of `func` need together.
    fn of(module: &Module, func: &Func, nodes: &[NodeId]) -> Self {
        let param_type = |p: ParamId| module.params()[p].ty.clone();
        let stored = |p: ParamId| weights::packed_bytes(&module.params()[p].ty).map_or(0, |(b, s)| b + s);
        let mut whole = BTreeSet::new();
        // Rows of each parameter that are read for each token.
        let mut rows_read: BTreeMap<ParamId, u64> = BTreeMap::new();
        let mut entry = Self { tokens: func.tokens().max(), ..Self::default() };
        for &id in nodes {
            let node = func.node(id);
            let types: Vec<Type> = node.operands.iter().map(|&o| func.operand_type(o, &param_type)).collect();
            let reads = node.op.info().reads;
            if reads == Reads::KeysAndValues {
                let width = types.first().and_then(Type::as_rows).map_or(0, |rows| u64::from(rows.width));
                entry.attention_macs += 2 * width;
                let caches = types.iter().filter(|ty| ty.as_cache().is_some());
                entry.kv_bytes += caches.filter_map(bytes_per_position).sum::<u64>();
            }
            let states = types.iter().filter_map(storage::state_bytes).sum::<u64>();
            entry.state_bytes += states;
            if reads == Reads::State {
                entry.state_macs += 3 * states / 4;
            }
            for (&operand, ty) in node.operands.iter().zip(&types) {
                let Operand::Param(param) = operand else { continue };
                let (rows, cols) = ty.as_matrix().map_or((0, 0), |(r, c)| (u64::from(r), u64::from(c)));
                let macs = match reads {
                    Reads::RowOfToken => {
                        *rows_read.entry(param).or_default() += 1;
                        0
                    }
                    Reads::ChosenRows => {
                        let read = row_numbers(&types).min(rows);
                        *rows_read.entry(param).or_default() += read;
                        read * cols
                    }
                    Reads::Whole | Reads::KeysAndValues | Reads::State => {
                        whole.insert(param);
                        rows * cols
                    }
                };
                match ty.dtype {
                    DType::Ter => entry.ternary_macs += macs,
                    _ => entry.dense_macs += macs,
                }
            }
        }
        entry.weight_bytes = whole.iter().map(|&p| stored(p)).sum();
        // What is read as a whole anyway is not read again for a row.
        let row_bytes =
            |p: ParamId| stored(p) / param_type(p).as_matrix().map_or(1, |(rows, _)| u64::from(rows.max(1)));
        let parts = rows_read.iter().filter(|(p, _)| !whole.contains(p));
        entry.row_bytes = parts.map(|(&p, &rows)| rows * row_bytes(p)).sum();
        entry
    }

    /// One call for `tokens` tokens, the first one at `position`.
    fn call(&self, position: u32, tokens: u32) -> Work {
        let mut work = self.segment(position, tokens);
        work.weight_bytes += self.weight_bytes;
        work
    }

    /// What a call needs for `tokens` of its tokens, neighbours in one sequence with the first one at `position`, beside what every
    /// call reads.
    fn segment(&self, position: u32, tokens: u32) -> Work {
        let (p, n) = (u64::from(position), u64::from(tokens));
        Work {
            weight_bytes: n * self.row_bytes,
            kv_bytes: (p + n) * self.kv_bytes,
            state_bytes: self.state_bytes,
            ternary_macs: n * self.ternary_macs,
            dense_macs: n * self.dense_macs,
            attention_macs: (n * p + n * (n + 1) / 2) * self.attention_macs + n * self.state_macs,
        }
    }
}

/// Row numbers of a token among operands of these types.
fn row_numbers(operands: &[Type]) -> u64 {
    let numbers = operands.iter().filter(|ty| ty.dtype == DType::I32);
    numbers.filter_map(Type::as_rows).map(|rows| u64::from(rows.width)).sum()
}

/// Bytes that one position takes in a cache.
fn bytes_per_position(cache: &Type) -> Option<u64> {
    cache.as_cache()?;
    storage::cache_bytes(cache, KEY_BLOCK).map(|bytes| bytes / u64::from(KEY_BLOCK))
}

/// What one op needs in one call. The sum over the ops of an entry point is what [`Accounts`] counts, if no two ops read the
/// same parameter as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpWork {
    /// Weights, keys and values that are read, and multiply-adds.
    pub work: Work,
    /// Bytes of keys and values, and of recurrent states, that are written.
    pub kv_written_bytes: u64,
    /// Bytes of activations that are read, rows as they lie in memory.
    pub read_bytes: u64,
    /// Bytes of activations that are written.
    pub written_bytes: u64,
}

impl OpWork {
    /// Counts for `node` of `func`; nothing for a view.
    pub fn of(module: &Module, func: &Func, node: NodeId, call: Extent) -> Self {
        let op = func.node(node);
        if op.op.info().is_view() {
            return Self::default();
        }
        let values = op.operands.iter().filter_map(|operand| match operand {
            Operand::Value(v) => Some(func.ty(*v)),
            Operand::Param(_) => None,
        });
        let rows = |ty: &Type| storage::activation_bytes(ty, call.tokens).unwrap_or(0);
        let cache_rows = op.results.iter().filter_map(|&v| bytes_per_position(func.ty(v))).sum::<u64>();
        let states = op.results.iter().filter_map(|&v| storage::state_bytes(func.ty(v))).sum::<u64>();
        Self {
            work: Entry::of(module, func, &[node]).call(call.position, call.tokens),
            kv_written_bytes: cache_rows * u64::from(call.tokens) + states,
            read_bytes: values.map(rows).sum(),
            written_bytes: op.results.iter().map(|&v| rows(func.ty(v))).sum(),
        }
    }
}

impl std::ops::AddAssign for OpWork {
    fn add_assign(&mut self, other: Self) {
        self.work += other.work;
        self.kv_written_bytes += other.kv_written_bytes;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

/// What the entry points of a model need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    decode: Entry,
    prefill: Entry,
    head: Entry,
}

impl Accounts {
    /// Counts in a planned module; an entry point that is not there needs nothing.
    pub fn of(module: &Module) -> Self {
        let entry = |entry| match module.entry_point(entry) {
            Some(id) => Entry::of(module, &module.funcs()[id], module.funcs()[id].order()),
            None => Entry::default(),
        };
        Self {
            decode: entry(EntryPoint::Decode),
            prefill: entry(EntryPoint::Prefill),
            head: entry(EntryPoint::Head),
        }
    }

    /// Bytes of keys and values that each position adds.
    pub fn kv_bytes_per_position(&self) -> u64 {
        self.decode.kv_bytes
    }

    /// Bytes of recurrent states of a sequence.
    pub fn state_bytes(&self) -> u64 {
        self.decode.state_bytes
    }

    /// Tokens that one prefill call handles at most.
    pub fn chunk(&self) -> u32 {
        self.prefill.tokens.max(1)
    }

    /// A decode step at `position`.
    pub fn step(&self, position: u32) -> Work {
        self.decode.call(position, 1)
    }

    /// A prompt of `tokens` tokens that starts at `position`, with the logits after its last token.
    pub fn prompt(&self, position: u32, tokens: u32) -> Work {
        if tokens == 1 {
            return self.step(position);
        }
        let mut work = Work::default();
        let mut done = 0;
        while done < tokens {
            let chunk = self.chunk().min(tokens - done);
            work += self.prefill.call(position + done, chunk);
            done += chunk;
        }
        if tokens > 0 {
            work += self.head.call(0, 1);
        }
        work
    }

    /// As many tokens as `tokens` says for each of `sequences` sequences, which all stand at `position` and are fed together,
    /// with the logits after the last token of each.
    pub fn batch(&self, position: u32, tokens: u32, sequences: u32) -> Work {
        if sequences == 1 {
            return self.prompt(position, tokens);
        }
        let mut work = Work::default();
        if tokens == 0 || sequences == 0 {
            return work;
        }
        // Rows of a chunk that are not taken yet; each chunk reads the weights once.
        let mut room = 0;
        for _ in 0..sequences {
            let mut done = 0;
            while done < tokens {
                if room == 0 {
                    room = self.chunk();
                    work.weight_bytes += self.prefill.weight_bytes;
                }
                let count = room.min(tokens - done);
                work += self.prefill.segment(position + done, count);
                done += count;
                room -= count;
            }
        }
        let head_rows = self.head.tokens.max(1);
        work.weight_bytes += u64::from(sequences.div_ceil(head_rows)) * self.head.weight_bytes;
        (0..sequences).for_each(|_| work += self.head.segment(0, 1));
        work
    }

    /// `tokens` steps of one token for each of `sequences` sequences, which all stand at `position`.
    pub fn batched_generation(&self, position: u32, tokens: u32, sequences: u32) -> Work {
        let mut work = Work::default();
        (position..position + tokens).for_each(|p| work += self.batch(p, 1, sequences));
        work
    }

    /// `tokens` decode steps that start at `position`.
    pub fn generation(&self, position: u32, tokens: u32) -> Work {
        let mut work = Work::default();
        (position..position + tokens).for_each(|p| work += self.step(p));
        work
    }
}
