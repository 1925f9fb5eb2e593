//! The cost model: what an op reads, writes and computes, and how long that takes on a given machine. The one place that
//! predicts time.
//!
//! What is counted comes from [`bitnetc_ir::work`]. The time of an op is the longer of two that overlap, for the thread that
//! has most of it, and [`CALL_SECONDS`] for the call:
//!
//! - *memory*: weights, keys and values at the bandwidth of the threads that have a share, or nothing where everything that
//!   a call reads stays in the second-level caches ([`CostModel::resident`]);
//! - *compute*: vector instructions (`instructions.rs`) at the rate that the int8 peak of a core implies. Activations come from
//!   the caches; their loads and stores are among the instructions.
//!
//! A call of an entry point takes its ops one after the other and [`BARRIER_SECONDS`] for each meeting of the threads.
//!
//! All of it follows from [`TargetDesc`]: what was measured on the machine ([`TargetDesc::measured`]) or else what is assumed
//! ([`Speeds::assumed`]). Users: `assign-layout` ([`packing`]), `schedule` ([`CostModel::replicates`]), and what explains a plan.
//!
//! Invariants: plain arithmetic on plain data, so the same target gives the same plan on every machine; no prediction changes
//! a bit of a result; nothing divides by zero, whatever the speeds say.

mod instructions;
pub mod packing;

use bitnetc_ir::target::Speeds;
use bitnetc_ir::weights::ternary_bytes;
use bitnetc_ir::work::{OpWork, Work};
use bitnetc_ir::{
    Arch, Extent, Feature, Func, Layout, Module, NodeId, Operand, ParamId, TargetDesc, Type, Units,
};

pub use packing::{LEAST_GAIN, TernaryShape, ternary_layout};

use crate::transforms::schedule::is_replicated;

/// Seconds that calling a kernel takes: a loop over the words of the call, and the first and last instructions of the kernel.
pub const CALL_SECONDS: f64 = 0.15e-6;

/// Seconds from the last of two threads reaching a barrier until both go on; each doubling of the threads adds as much.
pub const BARRIER_SECONDS: f64 = 0.5e-6;

/// How many times the int8 peak of vectors tile registers (AMX) reach in products of many tokens.
pub const TILE_GAIN: f64 = 2.5;

/// Predicted time of a matrix product, by all threads of the target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixCost {
    /// Seconds to read the weights from memory; 0 where all weights of a step stay in the caches.
    pub memory: f64,
    /// Seconds that the cores' vector units are busy.
    pub compute: f64,
}

impl MatrixCost {
    /// Seconds that the product takes: reading and computing overlap.
    pub fn seconds(self) -> f64 {
        self.memory.max(self.compute)
    }
}

/// What takes the most of an op's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Reading from memory.
    Memory,
    /// Vector instructions.
    Compute,
    /// Calling the kernel.
    Call,
}

impl Bound {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Compute => "compute",
            Bound::Call => "call",
        }
    }
}

/// What one op costs in one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpCost {
    /// What is counted.
    pub work: OpWork,
    /// How it divides; nothing for a view, which costs nothing.
    pub units: Option<Units>,
    /// Whether every thread does all of it.
    pub replicated: bool,
    /// Vector instructions of all shares together.
    pub instructions: f64,
    /// Share of the units that the busiest thread has; 1 where the op is replicated.
    pub busiest: f64,
    /// Seconds to read from memory.
    pub memory: f64,
    /// Seconds that the busiest thread computes.
    pub compute: f64,
    /// Seconds for calls.
    pub overhead: f64,
    /// Seconds that nothing could be faster than: the work at the bandwidth (unless it stays in the caches) or at the int8 peak of
    /// all threads, whichever takes longer (the roofline).
    pub least: f64,
}

impl OpCost {
    /// Predicted seconds.
    pub fn seconds(&self) -> f64 {
        self.memory.max(self.compute) + self.overhead
    }

    /// What takes the most of the time.
    pub fn bound(&self) -> Bound {
        match self.memory.max(self.compute) {
            rest if self.overhead > rest => Bound::Call,
            _ if self.memory > self.compute => Bound::Memory,
            _ => Bound::Compute,
        }
    }
}

/// What a call of an entry point costs.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryCost {
    /// One for each op, in program order.
    pub ops: Vec<OpCost>,
    /// Sum over the ops.
    pub work: OpWork,
    /// Whether what a call reads stays in the caches between calls.
    pub resident: bool,
    /// Barriers, between ops and inside them.
    pub barriers: usize,
    /// Seconds that these take.
    pub barrier_seconds: f64,
    /// Predicted seconds.
    pub seconds: f64,
    /// Seconds of the roofline for all ops together.
    pub least: f64,
}

/// The model for one target.
#[derive(Clone, Copy, Debug)]
pub struct CostModel<'t> {
    target: &'t TargetDesc,
    speeds: Speeds,
}

impl<'t> CostModel<'t> {
    /// The model for `target`, with its measured speeds or else the assumed ones.
    pub fn new(target: &'t TargetDesc) -> Self {
        Self { target, speeds: target.speeds() }
    }

    /// The speeds in use.
    pub fn speeds(&self) -> Speeds {
        self.speeds
    }

    /// Threads that the time is predicted for, at least 1.
    pub fn threads(&self) -> u32 {
        self.target.threads.max(1)
    }

    /// Bytes a second that `threads` threads read from memory.
    pub fn bandwidth(&self, threads: u32) -> f64 {
        self.speeds.read_mb_s(threads).max(1) as f64 * 1e6
    }

    /// int8 multiply-adds a second of all threads.
    pub fn int8_peak(&self) -> f64 {
        f64::from(self.speeds.int8_core_mmac_s.max(1)) * 1e6 * f64::from(self.threads())
    }

    /// Seconds of all threads for the multiply-adds of a call at their int8 peak, and with tile registers at what these reach in
    /// ternary products of many tokens.
    pub fn multiply_seconds(&self, work: &Work, call: Extent) -> f64 {
        let gain = if self.uses_tiles(call.tokens) { TILE_GAIN } else { 1.0 };
        (work.ternary_macs as f64 / gain + (work.dense_macs + work.attention_macs) as f64) / self.int8_peak()
    }

    /// The roofline.
    fn least(&self, work: &Work, call: Extent, resident: bool) -> f64 {
        let read = if resident { 0.0 } else { work.bytes() as f64 / self.bandwidth(self.threads()) };
        read.max(self.multiply_seconds(work, call))
    }

    /// Bytes of the second-level caches of the threads' cores: what a call reads up to here is read from memory once, not
    /// once a call.
    pub fn cache_bytes(&self) -> u64 {
        u64::from(self.target.l2_bytes) * u64::from(self.threads())
    }

    /// Whether this number of bytes, read in every call, stays in the caches.
    pub fn resident(&self, bytes: u64) -> bool {
        bytes <= self.cache_bytes()
    }

    /// Seconds that all threads take to meet.
    pub fn barrier_seconds(&self) -> f64 {
        match self.threads() {
            1 => 0.0,
            threads => BARRIER_SECONDS * f64::from(threads).log2().max(1.0),
        }
    }

    /// Predicts a ternary product with one token; `None` if the layout cannot hold such a matrix or kernels do not read it.
    /// `resident`: the weights of a whole step stay in the caches.
    pub fn gemv(&self, layout: Layout, shape: TernaryShape, resident: bool) -> Option<MatrixCost> {
        let TernaryShape { rows, cols, group } = shape;
        let scales = if group == 0 { 0 } else { 4 * u64::from(rows) * u64::from(cols.div_ceil(group)) };
        let bytes = ternary_bytes(layout, rows, cols)?.saturating_add(scales) as f64;
        let memory = if resident { 0.0 } else { bytes / self.bandwidth(self.threads()) };
        let instructions =
            self.ternary_instructions(layout, rows, cols, 1)? + self.group_instructions(layout, shape);
        let compute = instructions / (self.instruction_rate() * f64::from(self.threads()));
        Some(MatrixCost { memory, compute })
    }

    /// Vector instructions a second of one core. The int8 peak is one dot of a vector at a time, in as many instructions as
    /// that takes.
    fn instruction_rate(&self) -> f64 {
        let dots = f64::from(self.speeds.int8_core_mmac_s.max(1)) * 1e6 / self.vector_bytes();
        dots * self.dot_instructions()
    }

    fn vector_bytes(&self) -> f64 {
        f64::from(self.speeds.vector_bytes.max(1))
    }

    /// Whether a dot of unsigned bytes with signed ones, added up in 32 bits, is one instruction.
    fn has_dot(&self) -> bool {
        match self.target.arch {
            Arch::X86_64 => self.target.has(Feature::AvxVnni) || self.target.has(Feature::Avx512vnni),
            Arch::Aarch64 => self.target.has(Feature::I8mm),
        }
    }

    /// Whether one instruction looks all bytes of a vector up in a table of 64.
    fn has_byte_permutes(&self) -> bool {
        self.target.has(Feature::Avx512vbmi) && self.vector_bytes() >= 64.0
    }

    /// Vector instructions of one such dot.
    fn dot_instructions(&self) -> f64 {
        if self.has_dot() { 1.0 } else { 3.0 }
    }

    /// Whether an op of `instructions` vector instructions is no slower if every thread computes all of it than if the threads share
    /// its `units` in `call` and a barrier follows.
    pub fn replicates(&self, units: Units, instructions: f64, call: Extent) -> bool {
        let alone = instructions / self.instruction_rate();
        alone <= alone * self.busiest(units, call).0 + self.barrier_seconds()
    }

    /// Share of the work of the thread that has most units, and how many threads have any.
    fn busiest(&self, units: Units, call: Extent) -> (f64, u32) {
        let (total, threads) = (units.total(call), self.threads());
        let (mut most, mut active) = (0, 0);
        for thread in 0..threads.min(1024) {
            let share = units.share(call, thread, threads);
            let length = share.end.saturating_sub(share.start);
            most = most.max(length);
            active += u32::from(length > 0);
        }
        (if total == 0 { 0.0 } else { most as f64 / total as f64 }, active.max(1))
    }

    /// Predicts one op in one call. `resident`: what the call reads stays in the caches.
    pub fn op(&self, module: &Module, func: &Func, node: NodeId, call: Extent, resident: bool) -> OpCost {
        let work = OpWork::of(module, func, node, call);
        let op = func.node(node);
        let param_type = |p: ParamId| module.params()[p].ty.clone();
        let operands: Vec<Type> =
            op.operands.iter().map(|&operand| func.operand_type(operand, &param_type)).collect();
        let operands: Vec<&Type> = operands.iter().collect();
        let results: Vec<&Type> = op.results.iter().map(|&v| func.ty(v)).collect();
        let units = op.op.info().units(&operands, &results);
        let Some(shared) = units else {
            return OpCost {
                work,
                units,
                replicated: false,
                instructions: 0.0,
                busiest: 0.0,
                memory: 0.0,
                compute: 0.0,
                overhead: 0.0,
                least: 0.0,
            };
        };
        // What a plan says counts, whoever made it.
        let replicated = match &func.plan {
            Some(plan) => op.results.iter().any(|&v| plan.is_private(v)),
            None => is_replicated(func, node, self),
        };
        let (busiest, active) = if replicated { (1.0, 1) } else { self.busiest(shared, call) };
        let instructions = self.op_instructions(&op.op, &operands, &results, call);
        let bytes = work.work.bytes() as f64;
        let memory = if resident { 0.0 } else { bytes / self.bandwidth(active) };
        let compute = instructions * busiest / self.instruction_rate();
        let overhead = match shared.per.in_two_steps() {
            true => 2.0 * CALL_SECONDS,
            false => CALL_SECONDS,
        };
        let least = self.least(&work.work, call, resident);
        OpCost { work, units, replicated, instructions, busiest, memory, compute, overhead, least }
    }

    /// Predicts a call of an entry point.
    pub fn entry(&self, module: &Module, func: &Func, call: Extent) -> EntryCost {
        let mut work = OpWork::default();
        func.order().iter().for_each(|&node| work += OpWork::of(module, func, node, call));
        let resident = self.resident(work.work.bytes());
        let ops: Vec<OpCost> =
            func.order().iter().map(|&node| self.op(module, func, node, call, resident)).collect();
        let barriers = func.barriers().unwrap_or(0);
        let barrier_seconds = barriers as f64 * self.barrier_seconds();
        let seconds = ops.iter().map(OpCost::seconds).sum::<f64>() + barrier_seconds;
        let least = self.least(&work.work, call, resident);
        EntryCost { ops, work, resident, barriers, barrier_seconds, seconds, least }
    }

    /// The decision of `schedule` for an op that can be replicated; its parameters do not count.
    pub(crate) fn replicates_node(&self, func: &Func, node: NodeId) -> bool {
        let op = func.node(node);
        let values = op.operands.iter().filter_map(|operand| match operand {
            Operand::Value(v) => Some(func.ty(*v)),
            Operand::Param(_) => None,
        });
        let operands: Vec<&Type> = values.collect();
        let results: Vec<&Type> = op.results.iter().map(|&v| func.ty(v)).collect();
        let call = Extent { position: 0, tokens: 1 };
        let Some(units) = op.op.info().units(&operands, &results) else { return false };
        self.replicates(units, self.op_instructions(&op.op, &operands, &results, call), call)
    }
}

#[cfg(test)]
mod tests;
