//! The inner products of row tiles with one activation row, where a block of them fits in registers.
//!
//! As [`tile::dot`](super::tile::dot) with the form [`InPlace`](super::tile::Form::InPlace), but written for weights that come
//! from memory: as little as possible of the core is held by a group that has not arrived, so that many can be on their way.
//!
//! - A mask takes its group as a memory operand, four times from the first-level cache. A load of its own would hold a
//!   register from its place in the program until the last of the four is done.
//! - The address of a group has no index register, because an instruction with one is split in two.
//! - A tile's four products stand together, after its prefetches ([`prefetch::stream`]).
//!
//! Where the hardware brings the lines ([`Registers::one_stream`]) it is one tile after the other, without prefetches, and a group is
//! loaded once: what is scarce there are loads.

use super::GROUP_BYTES;
use super::tile::{FIELD_COLS, GROUP_CODES, combine};
use crate::kernels::{Registers, prefetch};
use crate::kir::{I64, KernelBuilder, Vb, Vi};

/// Fields of a group.
const FIELDS: usize = 4;

/// Consecutive row tiles.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Address of the first.
    pub(super) first: I64,
    /// How many.
    pub(super) tiles: usize,
    /// Bytes of one.
    pub(super) tile_bytes: i64,
    /// Bytes from a tile to the one that is prefetched while it is read, if any is.
    pub(super) far: Option<i64>,
}

/// A walk over groups of weights and the activation codes that belong to them.
pub(super) struct Walk {
    /// Address of the weights.
    pub(super) first: I64,
    /// Address of the activation codes.
    pub(super) x: I64,
    pub(super) groups: u32,
    /// Groups in an iteration.
    pub(super) unroll: u32,
    /// Activation codes of a group.
    pub(super) group_codes: i32,
}

impl Walk {
    /// What becomes of `accumulators` zeros in steps that get the addresses and their number of groups.
    pub(super) fn sums(
        self,
        b: &mut KernelBuilder,
        accumulators: usize,
        step: impl Fn(&mut KernelBuilder, I64, I64, u32, Vec<Vi>) -> Vec<Vi>,
    ) -> Vec<Vi> {
        let Self { mut first, x, groups, unroll, group_codes } = self;
        let zero = b.splat_i32(0);
        let mut sums = vec![zero; accumulators];
        let whole = groups / unroll * unroll;
        let done = i64::from(whole) * i64::from(group_codes);
        if whole > 0 {
            let stride = i64::from(unroll) * i64::from(group_codes);
            (first, sums) = b.for_loop(0, done, stride, (first, sums), |b, at, (first, sums)| {
                let x = b.add(x, at);
                let sums = step(b, first, x, unroll, sums);
                (b.add(first, i64::from(unroll) * GROUP_BYTES), sums)
            });
        }
        if groups > whole {
            let x = b.add(x, done);
            sums = step(b, first, x, groups - whole, sums);
        }
        sums
    }
}

/// Sums of codes times the activation codes at `x` for every tile of `block`: one lane per matrix row. `unroll` groups make
/// one iteration.
pub(super) fn dot(
    b: &mut KernelBuilder,
    registers: Registers,
    block: Block,
    x: I64,
    groups: u32,
    unroll: u32,
) -> Vec<Vi> {
    let load_once = registers.one_stream() && registers.vectors() >= 24;
    let masks: Vec<Vi> = (0..FIELDS).map(|i| b.splat_i32(0x0303_0303 << (2 * i))).collect();
    let step = |b: &mut KernelBuilder, first: I64, x: I64, groups: u32, mut sums: Vec<Vi>| {
        let tiles: Vec<I64> = (0..block.tiles as i64).map(|i| b.add(first, i * block.tile_bytes)).collect();
        for group in 0..groups as i32 {
            let codes = |b: &mut KernelBuilder, field: usize| {
                let codes = b.broadcast_i32(x, group * GROUP_CODES + field as i32 * FIELD_COLS);
                b.as_vb(codes)
            };
            // Several tiles share the broadcasts; of one tile each is made where it is used.
            let shared: Vec<Vb> = match block.tiles {
                1 => Vec::new(),
                _ => (0..FIELDS).map(|field| codes(b, field)).collect(),
            };
            let at = group * GROUP_BYTES as i32;
            for (&tile, sums) in tiles.iter().zip(sums.chunks_exact_mut(FIELDS)) {
                prefetch::stream(b, tile, at, block.far);
                let load = |b: &mut KernelBuilder| {
                    let group = b.load_bytes(tile, at, GROUP_BYTES as u8);
                    b.as_vi(group)
                };
                let loaded = load_once.then(|| load(b));
                for (field, sum) in sums.iter_mut().enumerate() {
                    let group = loaded.unwrap_or_else(|| load(b));
                    let weights = b.band(group, masks[field]);
                    let weights = b.as_vb(weights);
                    let codes = shared.get(field).copied().unwrap_or_else(|| codes(b, field));
                    *sum = b.dot_u8i8(*sum, weights, codes, 2 << (2 * field));
                }
            }
        }
        sums
    };
    let walk = Walk { first: block.first, x, groups, unroll, group_codes: GROUP_CODES };
    let sums = walk.sums(b, FIELDS * block.tiles, step);
    sums.chunks_exact(FIELDS).map(|of_tile| combine(b, of_tile.to_vec())).collect()
}
