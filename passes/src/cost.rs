//! The cost model: how long a product of a ternary matrix with one token takes in each layout, on a given machine.
//!
//! Decoding reads every weight once, so it takes as long as the slower of two things: bringing the bytes from memory,
//! and the vector instructions that use them. `trits16` has a fifth less bytes than `tile16` and about twice the
//! instructions. What [`TargetDesc`] knows about the machine (bandwidth for the threads in use, int8 rate of a core,
//! width of the vectors in generated code) says which of the two counts. The figures of a machine that nobody measured
//! are assumptions ([`bitnetc_ir::target::Speeds::assumed`]); a wrong one costs time, never a bit of a result.
//!
//! The rule: `trits16` where it is predicted to save at least [`LEAST_GAIN`] of the time, else `tile16`, which prefill
//! uses as it is.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::weights::ternary_bytes;
use bitnetc_ir::{Arch, Feature, Layout, TargetDesc};

/// Share of the time of `tile16` that `trits16` must save to be chosen.
pub const LEAST_GAIN: f64 = 0.05;

/// How ternary matrices are to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WeightPacking {
    /// `tile16` everywhere.
    #[default]
    TwoBits,
    /// `trits16` for every matrix that the layout holds, `tile16` for wider ones.
    Trits,
    /// What the cost model predicts to be faster for one token.
    Auto,
}

impl WeightPacking {
    /// All of them.
    pub const ALL: &[WeightPacking] = &[WeightPacking::TwoBits, WeightPacking::Trits, WeightPacking::Auto];

    /// The name on the command line, in plans and in reproducers.
    pub fn name(self) -> &'static str {
        match self {
            WeightPacking::TwoBits => "2bit",
            WeightPacking::Trits => "1.6bit",
            WeightPacking::Auto => "auto",
        }
    }
}

impl fmt::Display for WeightPacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no packing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown packing of weights `{0}`: expected 2bit, 1.6bit or auto")]
pub struct UnknownPacking(String);

impl FromStr for WeightPacking {
    type Err = UnknownPacking;

    fn from_str(text: &str) -> Result<Self, UnknownPacking> {
        Self::ALL.iter().copied().find(|p| p.name() == text).ok_or_else(|| UnknownPacking(text.to_owned()))
    }
}

/// Predicted time of one token's product with a matrix, by all threads of the target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemvCost {
    /// Seconds to read the weights from memory; 0 where all weights of a step stay in the caches.
    pub memory: f64,
    /// Seconds that the cores' vector units are busy.
    pub compute: f64,
}

impl GemvCost {
    /// Seconds that the product takes: reading and computing overlap.
    pub fn seconds(self) -> f64 {
        self.memory.max(self.compute)
    }
}

/// Predicts the cost for a matrix of `rows` × `cols`; `None` where the layout cannot hold it or kernels do not read it.
/// `resident`: the weights of a whole step stay in the caches.
pub fn gemv(target: &TargetDesc, layout: Layout, rows: u32, cols: u32, resident: bool) -> Option<GemvCost> {
    let instructions = gemv_instructions(target, layout)?;
    let bytes = ternary_bytes(layout, rows, cols)? as f64;
    let speeds = target.speeds();
    let threads = target.threads.max(1);
    let read = speeds.read_mb_s(threads).max(1) as f64 * 1e6;
    let memory = if resident { 0.0 } else { bytes / read };
    // The int8 peak is one dot of a vector at a time, in as many instructions as that takes.
    let vector = f64::from(speeds.vector_bytes.max(1));
    let dots = f64::from(speeds.int8_core_mmac_s.max(1)) * 1e6 / vector;
    let instructions_per_second = dots * dot_instructions(target) * f64::from(threads);
    let vectors = f64::from(rows) * f64::from(cols) / vector;
    Some(GemvCost { memory, compute: vectors * instructions / instructions_per_second })
}

/// Whether a dot of unsigned bytes with signed ones, added up in 32 bits, is one instruction.
fn has_dot(target: &TargetDesc) -> bool {
    match target.arch {
        Arch::X86_64 => target.has(Feature::AvxVnni) || target.has(Feature::Avx512vnni),
        Arch::Aarch64 => target.has(Feature::I8mm),
    }
}

/// Vector instructions of one such dot.
fn dot_instructions(target: &TargetDesc) -> f64 {
    if has_dot(target) { 1.0 } else { 3.0 }
}

/// Vector instructions for a vector's worth of weights (one field or digit of it), besides loads.
fn gemv_instructions(target: &TargetDesc, layout: Layout) -> Option<f64> {
    let dot = dot_instructions(target);
    match layout {
        // A mask and a dot.
        Layout::Tile16 => Some(1.0 + dot),
        // Two byte additions and two dots, or the digit itself (six instructions) and a dot.
        Layout::Trits16 if has_dot(target) => Some(2.0 + 2.0 * dot),
        Layout::Trits16 => Some(6.0 + dot),
        _ => None,
    }
}

/// The layout for a matrix of `rows` × `cols`. `one_token`: some function multiplies it by a single token, so that the
/// predicted time of that counts; `resident` as for [`gemv`].
pub fn ternary_layout(
    packing: WeightPacking,
    target: &TargetDesc,
    rows: u32,
    cols: u32,
    one_token: bool,
    resident: bool,
) -> Layout {
    let cost = |layout| gemv(target, layout, rows, cols, resident).map(GemvCost::seconds);
    match (packing, cost(Layout::Tile16), cost(Layout::Trits16)) {
        (WeightPacking::Trits, _, Some(_)) => Layout::Trits16,
        (WeightPacking::Auto, Some(tile), Some(trits)) if one_token && trits <= tile * (1.0 - LEAST_GAIN) => {
            Layout::Trits16
        }
        _ => Layout::Tile16,
    }
}

/// Bytes of the caches that belong to the cores of the target's threads: weights of a step up to here are read from
/// memory once, not once a token.
pub fn cache_bytes(target: &TargetDesc) -> u64 {
    u64::from(target.l2_bytes) * u64::from(target.threads.max(1))
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::target::Speeds;

    use super::*;

    /// Two cores of a server with AVX-512 VNNI, as measured.
    fn server(threads: u32) -> TargetDesc {
        let text = "x86_64+sse4.1+sse4.2+avx+avx2+fma+avx512f+avx512bw+avx512vl+avx512vnni";
        let mut target: TargetDesc = text.parse().unwrap();
        target.threads = threads;
        target.measured = Some(Speeds {
            read_one_mb_s: 40_000,
            read_all_mb_s: 45_000,
            int8_core_mmac_s: 494_000,
            vector_bytes: 64,
        });
        target
    }

    fn auto(target: &TargetDesc) -> Layout {
        ternary_layout(WeightPacking::Auto, target, 13824, 2560, true, false)
    }

    #[test]
    fn trits_where_memory_is_the_limit() {
        // One thread computes 1.6-bit weights more slowly than memory gives 2-bit ones; two threads do not.
        assert_eq!(auto(&server(1)), Layout::Tile16);
        assert_eq!(auto(&server(2)), Layout::Trits16);
        let cost = |layout| gemv(&server(2), layout, 13824, 2560, false).unwrap();
        let (tile, trits) = (cost(Layout::Tile16), cost(Layout::Trits16));
        assert!(tile.memory > tile.compute && trits.memory > trits.compute);
        assert!((tile.seconds() / trits.seconds() - 1.25).abs() < 1e-9);
        // 128-bit vectors on the same machine are limited by their instructions.
        let mut narrow = server(2);
        narrow.measured =
            Some(Speeds { vector_bytes: 16, int8_core_mmac_s: 124_000, ..narrow.measured.unwrap() });
        assert_eq!(auto(&narrow), Layout::Tile16);
    }

    #[test]
    fn two_bits_where_weights_stay_in_the_caches_or_no_single_token_reads_them() {
        let target = server(2);
        let layout = |one, resident| ternary_layout(WeightPacking::Auto, &target, 13824, 2560, one, resident);
        assert_eq!(layout(true, false), Layout::Trits16);
        assert_eq!(layout(true, true), Layout::Tile16);
        assert_eq!(layout(false, false), Layout::Tile16);
    }

    #[test]
    fn machines_that_nobody_measured() {
        let mut avx2: TargetDesc = "x86_64+sse4.1+sse4.2+avx+avx2+fma".parse().unwrap();
        for (threads, layout) in [(1, Layout::Tile16), (4, Layout::Tile16), (32, Layout::Trits16)] {
            avx2.threads = threads;
            assert_eq!(auto(&avx2), layout, "{threads}");
        }
        assert_eq!(auto(&TargetDesc::baseline(Arch::X86_64)), Layout::Tile16);
        assert_eq!(auto(&TargetDesc::baseline(Arch::Aarch64)), Layout::Tile16);
        let mut unmeasured = server(2);
        unmeasured.measured = None;
        assert_eq!(auto(&unmeasured), Layout::Trits16);
        unmeasured.threads = 1;
        assert_eq!(auto(&unmeasured), Layout::Tile16);
    }

    #[test]
    fn what_is_asked_for_is_taken_where_it_fits() {
        let target = server(1);
        let layout = |packing, cols| ternary_layout(packing, &target, 64, cols, true, true);
        assert_eq!(layout(WeightPacking::Trits, 2560), Layout::Trits16);
        assert_eq!(layout(WeightPacking::Trits, 1 << 20), Layout::Tile16);
        assert_eq!(layout(WeightPacking::TwoBits, 2560), Layout::Tile16);
    }

    #[test]
    fn zero_speeds_divide_nothing_by_zero() {
        let mut target = server(0);
        target.measured =
            Some(Speeds { read_one_mb_s: 0, read_all_mb_s: 0, int8_core_mmac_s: 0, vector_bytes: 0 });
        assert!(gemv(&target, Layout::Trits16, 16, 20, false).unwrap().seconds().is_finite());
    }

    #[test]
    fn names_round_trip() {
        for &packing in WeightPacking::ALL {
            assert_eq!(packing.to_string().parse(), Ok(packing));
        }
        assert!("3bit".parse::<WeightPacking>().unwrap_err().to_string().contains("1.6bit"));
    }
}
