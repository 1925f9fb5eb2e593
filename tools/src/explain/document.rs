//! The document: everything that a report shows, as plain data. `--json` prints it, the page carries it.
//!
//! Units: bytes, multiply-adds, nanoseconds (rounded to a tenth), shares from 0 to 1. What several ops have in common stands once,
//! in [`Document::kinds`]; ops refer to it by position, as kinds do to [`Document::kernels`].

use std::collections::BTreeMap;

use serde::Serialize;

/// Name and version of the form of the document.
pub const SCHEMA: &str = "bitnetc.explain/2";

/// A compiled model, explained.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What made it.
    pub producer: String,
    /// The file of the model.
    #[serde(rename = "model")]
    pub file: String,
    /// The model.
    #[serde(rename = "model_info")]
    pub model: ModelInfo,
    /// The machine that the model is compiled for and times are predicted for.
    pub machine: MachineInfo,
    /// Tokens in the context before the call that is explained.
    pub position: u32,
    /// Ops that are the same but for their values and weights.
    pub kinds: Vec<Kind>,
    /// The entry points.
    pub entries: Vec<Entry>,
    /// The distinct kernels.
    pub kernels: Vec<KernelInfo>,
    /// How the module came to be, pass by pass; empty for a plan, which holds the result only.
    pub stages: Vec<StageInfo>,
    /// Times of this machine, if they were measured.
    pub measurement: Option<Measurement>,
}

/// What the model is.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInfo {
    /// Name, as its file gives it.
    pub name: String,
    /// `gguf` or `plan`.
    pub source: &'static str,
    /// Architecture, as the file gives it.
    pub architecture: String,
    /// Hyper-parameters as text.
    pub hyper_parameters: BTreeMap<String, String>,
    /// How it was compiled.
    pub options: BTreeMap<String, String>,
    /// Planned bytes at `context` tokens, by what for.
    #[serde(rename = "memory_bytes")]
    pub memory: BTreeMap<&'static str, u64>,
    /// The context that `memory` is for.
    pub context: u32,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct MachineInfo {
    /// Architecture and features.
    pub target: String,
    /// Threads.
    pub threads: u32,
    /// Whether the speeds were measured (or else assumed).
    pub measured: bool,
    /// Bytes a second that one thread reads.
    #[serde(rename = "read_one_bytes_per_second")]
    pub read_one: f64,
    /// Bytes a second that all threads read.
    #[serde(rename = "read_all_bytes_per_second")]
    pub read_all: f64,
    /// int8 multiply-adds a second of all threads.
    #[serde(rename = "int8_macs_per_second")]
    pub int8_peak: f64,
    /// Bytes of a vector in generated code.
    pub vector_bytes: u32,
    /// Bytes of the second-level caches of all threads' cores.
    pub cache_bytes: u64,
    /// Nanoseconds that a barrier is predicted to take.
    pub barrier_ns: f64,
}

/// Bytes and multiply-adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkInfo {
    /// Weights and their scales that are read.
    pub weight_bytes: u64,
    /// Keys and values, and recurrent states, that are read.
    pub kv_read_bytes: u64,
    /// Keys and values that are written.
    pub kv_written_bytes: u64,
    /// Activations that are read.
    pub read_bytes: u64,
    /// Activations that are written.
    pub written_bytes: u64,
    /// Multiply-adds of ternary matrices.
    pub ternary_macs: u64,
    /// Of other matrices.
    pub dense_macs: u64,
    /// Of attention.
    pub attention_macs: u64,
}

impl WorkInfo {
    /// Bytes from memory.
    pub fn memory_bytes(&self) -> u64 {
        self.weight_bytes + self.kv_read_bytes
    }
    /// All multiply-adds.
    pub fn macs(&self) -> u64 {
        self.ternary_macs + self.dense_macs + self.attention_macs
    }
}

/// Predicted time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Predicted {
    /// All of it.
    pub ns: f64,
    /// Reading from memory, which overlaps with computing.
    pub memory_ns: f64,
    /// Computing, by the thread that has most of it.
    pub compute_ns: f64,
    /// Calls.
    pub overhead_ns: f64,
    /// The roofline: what nothing could be faster than.
    pub least_ns: f64,
    /// What takes the most: `memory`, `compute` or `call`.
    pub bound: &'static str,
}

/// An operand of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperandInfo {
    /// Its name in the op table.
    pub name: &'static str,
    /// Type with layout.
    #[serde(rename = "type")]
    pub ty: String,
    /// Whether it is a weight.
    pub weight: bool,
}

/// What ops have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// The entry point.
    pub entry: String,
    /// Mnemonic.
    pub op: &'static str,
    /// What it computes, in a sentence.
    pub doc: &'static str,
    /// Attributes as text.
    pub attrs: Vec<(&'static str, String)>,
    /// Operands.
    pub operands: Vec<OperandInfo>,
    /// Types of the results.
    pub results: Vec<String>,
    /// Kernels, in the order in which they run; none for a view.
    pub kernels: Vec<usize>,
    /// Items that the threads share, and of what (`call`, `token`, `key block`, `query tile`); none for a view.
    pub units: Option<(u32, &'static str)>,
    /// Units of each thread in the call that is explained (at most 64 threads).
    pub shares: Vec<u64>,
    /// Whether every thread does all of it, into memory of its own.
    pub replicated: bool,
    /// What it needs.
    pub work: WorkInfo,
    /// What it is predicted to take.
    pub predicted: Predicted,
}

/// Measured time of an op, over all calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Nanoseconds in kernels, for each thread, a call.
    pub busy_ns: Vec<f64>,
    /// Nanoseconds at the barriers after the op's steps, for each thread, a call; after the last step, until all threads are done.
    pub wait_ns: Vec<f64>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Measured {
    /// In kernels, the mean of the threads.
    pub fn ns(&self) -> f64 {
        mean(&self.busy_ns)
    }
    /// Waiting, the mean of the threads.
    pub fn waited_ns(&self) -> f64 {
        mean(&self.wait_ns)
    }
}

/// An op.
#[derive(Clone, Debug, Serialize)]
pub struct OpInfo {
    /// Position in [`Document::kinds`].
    pub kind: usize,
    /// Names of the operands.
    pub operands: Vec<String>,
    /// Names of the results.
    pub results: Vec<String>,
    /// Where the results are, as the IR's text says it.
    pub places: Vec<String>,
    /// The phase in which it begins: what lies between two barriers.
    pub phase: u32,
    /// Whether a barrier follows it.
    pub barrier: bool,
    /// Whether there is a barrier inside it, so that it ends in the next phase.
    pub inner_barrier: bool,
    /// What it took, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// Neighbouring layers that are the same, or ops of no layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The first layer; none for ops of no layer.
    pub layer: Option<u32>,
    /// How many layers there are one after the other.
    pub count: u32,
    /// The first op.
    pub start: usize,
    /// Ops of one layer.
    pub length: usize,
}

/// A value that has memory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueInfo {
    /// Name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Whether it lies in the private memory of every thread, not in the arena.
    pub private: bool,
    /// First byte.
    #[serde(rename = "offset_bytes")]
    pub offset: u64,
    /// Bytes.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// The op that makes it.
    pub first: usize,
    /// The last op that uses it, or a value in its place.
    pub last: usize,
    /// Other values in its place: parts of it and those that take it over.
    pub holds: Vec<String>,
}

/// An entry point.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Name without the `@`.
    pub name: String,
    /// Tokens of the call that is explained.
    pub tokens: u32,
    /// Tokens that a call handles at most.
    pub most_tokens: u32,
    /// Inputs with their types.
    pub inputs: Vec<(String, String)>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Ops in program order.
    pub ops: Vec<OpInfo>,
    /// The same ops in parts.
    pub parts: Vec<Part>,
    /// Values with memory of their own.
    pub values: Vec<ValueInfo>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes of the private memory of each thread.
    pub private_bytes: u64,
    /// Barriers, between ops and inside them.
    pub barriers: usize,
    /// Nanoseconds that these are predicted to take: with them the predictions of the ops add up to that of the call.
    pub barrier_ns: f64,
    /// What a call needs.
    pub work: WorkInfo,
    /// What a call is predicted to take; `bound` is that of the roofline.
    pub predicted: Predicted,
    /// Whether what a call reads is predicted to stay in the caches.
    pub resident: bool,
    /// Nanoseconds of a call, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_ns: Option<f64>,
    /// Of it, waiting at barriers, a mean over the threads, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_barrier_ns: Option<f64>,
    /// Of it, what is neither in kernels nor at barriers, if that was measured: with both, the measured times of the ops (means
    /// over the threads) add up to that of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_dispatch_ns: Option<f64>,
}

/// A kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelInfo {
    /// Name.
    pub name: String,
    /// The instruction selector that made its code.
    pub selector: &'static str,
    /// Why the wide selector did not, where it was asked.
    pub refusal: Option<String>,
    /// Bytes of the code, constants included.
    pub code_bytes: usize,
    /// Its texts, where they were asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
}

/// A kernel in each of its forms.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Kernel IR.
    pub kernel: String,
    /// Cranelift's IR, before its optimiser; where the wide selector made the code, of the kernel as it would be made for
    /// Cranelift; none where Cranelift cannot make it.
    pub clif: Option<String>,
    /// Machine instructions.
    pub asm: String,
}

/// What a pass did.
#[derive(Clone, Debug, Serialize)]
pub struct StageInfo {
    /// The pass; `import` for the module as the front-end made it.
    pub pass: String,
    /// What the pass does, in a sentence.
    pub description: String,
    /// The stage of the module afterwards.
    pub stage: &'static str,
    /// Patches applied.
    pub patches: u64,
    /// Whether the module changed.
    pub changed: bool,
    /// Ops of all functions before.
    pub ops_before: usize,
    /// Ops of all functions afterwards.
    pub ops_after: usize,
    /// Weights afterwards.
    pub weights_after: usize,
    /// What changed, for one layer of each kind and the ops of no layer: lines that begin with a blank (kept), `-` (before) or `+`
    /// (afterwards). Empty where nothing did, and where texts were not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diff: Vec<String>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Decode steps that were timed.
    pub steps: u32,
    /// Mean nanoseconds of a decode step.
    pub decode_ns: f64,
    /// Share of it that threads waited at barriers, a mean over the threads.
    pub barrier_share: f64,
    /// Share of it outside kernels and barriers.
    pub dispatch_share: f64,
}

/// Nanoseconds to a tenth.
pub(super) fn ns(seconds: f64) -> f64 {
    (seconds * 1e10).round() / 10.0
}
