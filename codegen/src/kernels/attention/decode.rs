//! Attention of one token, split by key blocks: every thread does a range of the (key/value head, block) pairs, and after
//! a barrier the blocks of each query head are merged in rising order. The result has the same bits however the pairs
//! are divided.
//!
//! Between the two kernels lies the *workspace*, which all threads share. For each key/value head it has a line of 64
//! bytes with the number of *folded* blocks, and for each pair and query head a *record*: a state, and the output as far
//! as it is summed. A range that begins with the first block of a head merges block after block into the head's first
//! record, which is the order that the definition asks for, and notes how many there were; blocks of a range that begins
//! later cannot be merged before those in front of them, so each has a record of its own. So a head that one thread does
//! whole costs one record, and only what lies after a border of ranges is left to the merge.

use bitnetc_ir::{KEY_BLOCK, storage};

use super::super::args::{Position, WorkspaceBytes};
use super::super::lanes::for_groups;
use super::super::{CacheShape, kernel};
use super::{
    Blocking, Caches, KeyBlock, MAX, Places, RECORD_STATE, Results, SCORES, SUM, Shape, converted_bytes,
    merge_state,
};
use crate::kir::{I64, IntCond, KernelBuilder, Scalar};

/// Bytes of the line of a key/value head.
const LINE: u64 = 64;

const _: () = assert!(RECORD_STATE >= super::STATE as u64 && KEY_BLOCK == 64);

/// Bytes of a record.
fn record_bytes(head_dim: u32) -> u64 {
    RECORD_STATE + storage::align(4 * u64::from(head_dim))
}

/// Bytes of the workspace.
pub(super) fn workspace_bytes(heads: u32, cache: CacheShape) -> WorkspaceBytes {
    WorkspaceBytes {
        fixed: LINE * u64::from(cache.kv_heads),
        per_key_block: record_bytes(cache.head_dim).saturating_mul(heads.into()),
    }
}

/// Where the parts of the scratch are.
pub(super) struct Scratch {
    converted: u64,
    pub(super) bytes: u64,
}

impl Scratch {
    pub(super) fn new(group: u32, cache: CacheShape) -> Self {
        let converted = u64::from(group) * SCORES as u64;
        Self { converted, bytes: converted + converted_bytes(cache) }
    }
}

/// The blocks that the one token of the call sees.
fn blocks_of(b: &mut KernelBuilder, position: Position) -> I64 {
    let whole = b.add(position.first(), i64::from(KEY_BLOCK));
    b.shr(whole, 6)
}

/// What the two kernels share.
#[derive(Clone, Copy)]
struct Workspace {
    at: I64,
    /// Positions that the caches have room for.
    capacity: I64,
}

/// Records of one query head, from its first block to its last.
struct Records {
    first: I64,
    apart: i64,
}

impl Shape {
    fn record_bytes(&self) -> i64 {
        record_bytes(self.head_dim()) as i64
    }

    /// Address of the number of folded blocks.
    fn folded(&self, b: &mut KernelBuilder, workspace: Workspace, kv_head: I64) -> I64 {
        let offset = b.mul(kv_head, LINE as i64);
        b.add(workspace.at, offset)
    }

    /// The records of query head `member` of a key/value head.
    fn records(&self, b: &mut KernelBuilder, workspace: Workspace, kv_head: I64, member: I64) -> Records {
        let apart = i64::from(self.group) * self.record_bytes();
        let blocks = b.shr(workspace.capacity, 6);
        let at = b.mul(kv_head, blocks);
        let at = b.mul(at, apart);
        let offset = b.mul(member, self.record_bytes());
        let at = b.add(at, offset);
        let at = b.add(at, LINE as i64 * i64::from(self.kv_heads));
        Records { first: b.add(workspace.at, at), apart }
    }

    /// Address of a record.
    fn record(&self, b: &mut KernelBuilder, records: &Records, block: I64) -> I64 {
        let offset = b.mul(block, records.apart);
        b.add(records.first, offset)
    }
}

/// A unit is a key/value head and a block of keys; see `bitnetc_ir::partition`.
pub(in crate::kernels) fn blocks(b: &mut KernelBuilder, kernel: &kernel::AttentionBlocks) {
    let &kernel::AttentionBlocks { call, heads, cache, scale, .. } = kernel;
    let &kernel::AttentionBlocks {
        q, k_cache, v_cache, workspace, position, capacity, scratch: scores, ..
    } = kernel;
    let shape = Shape::new(heads, cache, f32::from_bits(scale), Blocking::new(call.registers, call.one()));
    let caches = Caches {
        keys: k_cache,
        values: v_cache,
        capacity,
        stored: shape.stored,
        level: Caches::prefetch_level(call.registers),
    };
    let workspace = Workspace { at: workspace, capacity };
    let blocks = blocks_of(b, position);
    let keys = b.add(position.first(), 1);
    let (begin, end) = (call.unit_begin, call.unit_end);
    let scratch = Scratch::new(shape.group, cache);
    let converted = b.add(scores, scratch.converted as i64);
    let places = Places { q: q.first(), caches, scores, converted };
    b.for_loop(0, shape.kv_heads, 1, (), |b, kv_head, ()| {
        let before = b.mul(kv_head, blocks);
        let low = b.sub(begin, before);
        let low = b.max(low, 0);
        let high = b.sub(end, before);
        let high = b.min(high, blocks);
        b.if_then(low, IntCond::Lt, high, |b| {
            let zero = b.int(0);
            let records = shape.records(b, workspace, kv_head, zero);
            b.for_loop(low, high, 1, (), |b, block, ()| {
                let (slot, fresh) =
                    b.if_else(low, IntCond::Eq, 0, |b| (b.int(0), block), |b| (block, b.int(0)));
                let record = shape.record(b, &records, slot);
                let first = b.shl(block, 6);
                let left = b.sub(keys, first);
                let count = b.min(left, i64::from(KEY_BLOCK));
                let results = Results::Records { first: record, apart: shape.record_bytes() };
                let block = KeyBlock { kv_head, first, count, results, fresh, next_keys: None };
                shape.block(b, &places, &block);
            });
            b.if_then(low, IntCond::Eq, 0, |b| {
                let folded = shape.folded(b, workspace, kv_head);
                b.store_scalar(folded, high, 0, Scalar::I32);
            });
        });
    });
}

/// Merges what is not merged yet, and divides. A unit is a query head.
pub(in crate::kernels) fn merge(b: &mut KernelBuilder, kernel: &kernel::AttentionMerge) {
    let &kernel::AttentionMerge { call, heads, cache, workspace, y, position, capacity } = kernel;
    let shape = Shape::new(heads, cache, 1.0, Blocking::new(call.registers, call.one()));
    let workspace = Workspace { at: workspace, capacity };
    let blocks = blocks_of(b, position);
    call.for_units(b, |b, head| {
        let kv_head = b.udiv(head, shape.group.into());
        let member = b.urem(head, shape.group.into());
        let folded = shape.folded(b, workspace, kv_head);
        let folded = b.load_int(folded, 0);
        let records = shape.records(b, workspace, kv_head, member);
        let state = records.first;
        let output = b.add(state, RECORD_STATE as i64);
        b.for_loop(folded, blocks, 1, (), |b, block, ()| {
            let record = shape.record(b, &records, block);
            let (largest, sum) = (b.broadcast_f32(record, MAX), b.broadcast_f32(record, SUM));
            let (alpha, beta) = merge_state(b, state, largest, sum);
            let later = b.add(record, RECORD_STATE as i64);
            for_groups(b, shape.head_dim(), (), |b, group, ()| {
                let (old, new) = (group.load(b, output), group.load(b, later));
                let (left, right) = (b.fmul(old, alpha), b.fmul(new, beta));
                let sum = b.fadd(left, right);
                group.store(b, output, sum);
            });
        });
        let offset = b.mul(head, shape.head_bytes());
        let y = b.add(y.first(), offset);
        shape.divide(b, output, state, y);
    });
}
