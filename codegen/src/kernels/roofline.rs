//! Kernels that do nothing but what a machine is fastest at: reading memory in order, multiply-adds of bytes, fused
//! multiply-adds of f32. Timing them gives the limits that the kernels of a model are measured against, with the same
//! selectors, the same threads and the same calls.
//!
//! - [`RooflineKind::Read`] sums a range of a buffer. A unit is [`READ_UNIT_BYTES`]. The range is read as one or several
//!   sequences side by side, with or without prefetches, because no one way is the fastest on every memory system.
//! - [`RooflineKind::Int8`] and [`RooflineKind::Fma`] keep as many independent sums in registers as the selector has room
//!   for, and touch no memory in the loop. Units are a fixed number of rounds ([`RooflineKind::work_per_unit`]).
//!
//! Invariants: parameters are `data`, `sink`, `unit_begin`, `unit_end`; a kernel reads the units of its range from `data`
//! (`Read` only) and writes 64 bytes to `sink`, so that nothing of the work can be left out.

use super::Registers;
use crate::kir::{Access, I64, Kernel, KernelBuilder, LANES, VerifyError, Vf, Vi};

/// Bytes that a unit of [`RooflineKind::Read`] covers.
pub const READ_UNIT_BYTES: u64 = 64 << 10;

/// Bytes of a cache line, and of a virtual vector.
const LINE: i32 = 64;

/// Lines that one iteration reads, over all sequences.
const LINES: usize = 8;

/// Rounds of multiply-adds in a unit, and in an iteration.
const ROUNDS: i64 = 256;
/// See [`ROUNDS`].
const UNROLL: i64 = 2;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RooflineKind {
    /// Reading memory.
    Read {
        /// Sequences side by side: 1, 2, 4 or 8.
        sequences: u32,
        /// Bytes ahead that lines are prefetched, a multiple of 64; 0: not at all.
        prefetch: u32,
        /// Level of the cache that they are prefetched into: 1 or 2.
        level: u8,
    },
    /// Multiply-adds of unsigned and signed bytes into i32.
    Int8,
    /// Fused multiply-adds of f32.
    Fma,
}

impl RooflineKind {
    /// A name, unique for each kind.
    pub fn name(self) -> String {
        match self {
            RooflineKind::Read { sequences, prefetch, level } => {
                format!("roofline_read_{sequences}_{prefetch}_{level}")
            }
            RooflineKind::Int8 => "roofline_int8".to_owned(),
            RooflineKind::Fma => "roofline_fma".to_owned(),
        }
    }

    /// Sums that are kept in registers: one virtual vector each, besides the operands.
    fn sums(self, registers: Registers) -> usize {
        let most = match self {
            RooflineKind::Read { .. } => LINES,
            RooflineKind::Int8 | RooflineKind::Fma => 24,
        };
        // Where there is no `vpdpbusd`, products pass through a register of their own.
        let others = if registers.whole_byte_dot() { 2 } else { 3 };
        registers.vectors().saturating_sub(others).clamp(1, most)
    }

    /// What a unit is: bytes read, or multiply-adds.
    pub fn work_per_unit(self, registers: Registers) -> u64 {
        let rounds = ROUNDS as u64 * self.sums(registers) as u64;
        match self {
            RooflineKind::Read { .. } => READ_UNIT_BYTES,
            RooflineKind::Int8 => rounds * 4 * LANES as u64,
            RooflineKind::Fma => rounds * LANES as u64,
        }
    }

    /// The kernel for a selector with these registers.
    ///
    /// # Errors
    /// A defect of this generator: the kernel IR refuses the kernel.
    pub fn build(self, registers: Registers) -> Result<Kernel, VerifyError> {
        let mut b = KernelBuilder::new(self.name());
        let data = b.ptr("data", Access::ReadOnly);
        let sink = b.ptr("sink", Access::ReadWrite);
        let (begin, end) = (b.int_param("unit_begin"), b.int_param("unit_end"));
        let total = match self {
            RooflineKind::Read { sequences, prefetch, level } => {
                let ahead = (prefetch > 0).then_some((prefetch as i32, level));
                let sums = self.sums(registers);
                read(&mut b, [data, begin, end], sequences.clamp(1, LINES as u32) as usize, ahead, sums)
            }
            RooflineKind::Int8 => int8(&mut b, begin, end, self.sums(registers)),
            RooflineKind::Fma => fma(&mut b, begin, end, self.sums(registers)),
        };
        b.store_i32(sink, total, 0, LANES as u8);
        b.finish()
    }
}

fn read(
    b: &mut KernelBuilder,
    words: [I64; 3],
    sequences: usize,
    ahead: Option<(i32, u8)>,
    sums: usize,
) -> Vi {
    let [data, begin, end] = words;
    let first = b.mul(begin, READ_UNIT_BYTES as i64);
    let units = b.sub(end, begin);
    // Sequences and lines are powers of two, which a unit is a multiple of.
    let length = b.mul(units, READ_UNIT_BYTES as i64 / sequences as i64);
    let mut starts = vec![b.add(data, first)];
    for i in 1..sequences {
        starts.push(b.add(starts[i - 1], length));
    }
    let lines = LINES / sequences;
    let zero = b.splat_i32(0);
    let sums =
        b.for_loop(0, length, (lines as i64) * i64::from(LINE), vec![zero; sums], |b, at, mut sums| {
            let places: Vec<I64> = starts.iter().map(|&start| b.add(start, at)).collect();
            let mut next = 0;
            for line in 0..lines as i32 {
                for &place in &places {
                    if let Some((bytes, level)) = ahead {
                        b.prefetch(place, line * LINE + bytes, level);
                    }
                    let bytes = b.load_i32(place, line * LINE, LANES as u8);
                    let slot = next % sums.len();
                    sums[slot] = b.iadd(sums[slot], bytes);
                    next += 1;
                }
            }
            sums
        });
    total(b, sums)
}

fn int8(b: &mut KernelBuilder, begin: I64, end: I64, sums: usize) -> Vi {
    let ones = b.splat_i32(0x0101_0101);
    let (u, s) = (b.as_vb(ones), b.as_vb(ones));
    let zero = b.splat_i32(0);
    let sums = for_rounds(b, begin, end, vec![zero; sums], |b, sum| b.dot_u8i8(sum, u, s, 1));
    total(b, sums)
}

fn fma(b: &mut KernelBuilder, begin: I64, end: I64, sums: usize) -> Vi {
    let one = b.splat_f32(1.0);
    let zero = b.splat_f32(0.0);
    let sums: Vec<Vf> = for_rounds(b, begin, end, vec![zero; sums], |b, sum| b.fma(one, one, sum));
    let sums = sums.into_iter().map(|sum| b.as_vi(sum)).collect();
    total(b, sums)
}

/// Applies `step` to every sum, [`ROUNDS`] times for each unit of the range.
fn for_rounds<T: Copy>(
    b: &mut KernelBuilder,
    begin: I64,
    end: I64,
    sums: Vec<T>,
    step: impl Fn(&mut KernelBuilder, T) -> T,
) -> Vec<T>
where
    Vec<T>: crate::kir::Carry,
{
    let units = b.sub(end, begin);
    let rounds = b.mul(units, ROUNDS);
    b.for_loop(0, rounds, UNROLL, sums, |b, _, mut sums| {
        for _ in 0..UNROLL {
            for sum in &mut sums {
                *sum = step(b, *sum);
            }
        }
        sums
    })
}

fn total(b: &mut KernelBuilder, sums: Vec<Vi>) -> Vi {
    let mut sums = sums.into_iter();
    let first = sums.next().unwrap_or_else(|| b.splat_i32(0));
    sums.fold(first, |a, v| b.iadd(a, v))
}
