//! Which layout a ternary matrix gets.
//!
//! Decoding reads every weight once. Five weights a byte are a fifth less bytes than `tile16`, and more instructions: about twice
//! as many in `trits16`, two fifths more in `lut16`, which takes its place on machines with look-ups of bytes in registers. What
//! [`TargetDesc`] knows about the machine (bandwidth for the threads in use, int8 rate of a core, width of the vectors in
//! generated code) says which counts; a wrong prediction costs time, never a bit of a result.
//!
//! The rule: five weights a byte where that is predicted to save at least [`LEAST_GAIN`] of the time, else `tile16`, which prefill
//! uses as it is.

use bitnetc_ir::{Layout, TargetDesc};

use super::{CostModel, MatrixCost};
use crate::choices::WeightPacking;

/// Share of the time of `tile16` that five weights a byte must save to be chosen.
pub const LEAST_GAIN: f64 = 0.05;

/// A ternary matrix as its cost depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TernaryShape {
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Columns that share a scale; 0: all of a row.
    pub group: u32,
}

/// The layout for a matrix. `one_token`: some function multiplies it by a single token, so that the predicted time of that
/// counts; `resident` as for [`CostModel::gemv`].
pub fn ternary_layout(
    packing: WeightPacking,
    target: &TargetDesc,
    shape: TernaryShape,
    one_token: bool,
    resident: bool,
) -> Layout {
    let model = CostModel::new(target);
    let cost = |layout| model.gemv(layout, shape, resident).map(MatrixCost::seconds);
    let trits = model.five_a_byte();
    match (packing, cost(Layout::Tile16), cost(trits)) {
        (WeightPacking::Trits, _, Some(_)) => trits,
        (WeightPacking::Auto, Some(two_bits), Some(five))
            if one_token && five <= two_bits * (1.0 - LEAST_GAIN) =>
        {
            trits
        }
        _ => Layout::Tile16,
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::target::Speeds;
    use bitnetc_ir::{Arch, Feature};

    use super::*;

    const WIDE: TernaryShape = TernaryShape { rows: 13824, cols: 2560, group: 0 };

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
        ternary_layout(WeightPacking::Auto, target, WIDE, true, false)
    }

    #[test]
    fn trits_where_memory_is_the_limit() {
        // One thread computes 1.6-bit weights more slowly than memory gives 2-bit ones; two threads do not.
        assert_eq!(auto(&server(1)), Layout::Tile16);
        assert_eq!(auto(&server(2)), Layout::Trits16);
        let two = server(2);
        let cost = |layout| CostModel::new(&two).gemv(layout, WIDE, false).unwrap();
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
    fn tables_where_registers_look_bytes_up() {
        let with_tables = |threads| server(threads).with(Feature::Avx512vbmi);
        // One thread, too, computes these as fast as memory gives them.
        assert_eq!(auto(&with_tables(1)), Layout::Lut16);
        assert_eq!(auto(&with_tables(2)), Layout::Lut16);
        let asked = |target: &TargetDesc| {
            let shape = TernaryShape { rows: 64, ..WIDE };
            ternary_layout(WeightPacking::Trits, target, shape, true, true)
        };
        assert_eq!(asked(&with_tables(1)), Layout::Lut16);
        // What Cranelift makes has no such look-ups, whatever the machine has.
        let mut narrow = with_tables(1);
        narrow.measured = narrow.measured.map(|speeds| speeds.with_vector_bytes(16));
        assert_eq!(asked(&narrow), Layout::Trits16);
    }

    #[test]
    fn tables_on_one_core_with_few_multipliers() {
        // As measured on AMD's Zen 4, where tables are a tenth faster with one thread and digits slower than two bits.
        let mut zen4 = server(1).with(Feature::Avx512vbmi).with(Feature::OneStream);
        zen4.measured = Some(Speeds {
            read_one_mb_s: 27_000,
            read_all_mb_s: 33_000,
            int8_core_mmac_s: 234_000,
            vector_bytes: 64,
        });
        assert_eq!(auto(&zen4), Layout::Lut16);
        let mut without = server(1).with(Feature::OneStream);
        without.measured = zen4.measured;
        assert_eq!(auto(&without), Layout::Tile16);
    }

    #[test]
    fn two_bits_where_weights_stay_in_the_caches_or_no_single_token_reads_them() {
        let target = server(2);
        let layout = |one, resident| ternary_layout(WeightPacking::Auto, &target, WIDE, one, resident);
        assert_eq!(layout(true, false), Layout::Trits16);
        assert_eq!(layout(true, true), Layout::Tile16);
        assert_eq!(layout(false, false), Layout::Tile16);
    }

    #[test]
    fn groups_have_kernels_for_five_a_byte_where_registers_are_wide() {
        let grouped = TernaryShape { group: 128, ..WIDE };
        let layout = |packing, target: &TargetDesc| ternary_layout(packing, target, grouped, true, false);
        assert_eq!(layout(WeightPacking::Auto, &server(2)), Layout::Trits16);
        assert_eq!(layout(WeightPacking::Auto, &server(2).with(Feature::Avx512vbmi)), Layout::Lut16);
        // With narrow registers a row tile is expanded for each token, which eight threads do not hide behind the memory and 32 do.
        let mut narrow: TargetDesc = "x86_64+sse4.1+sse4.2+avx+avx2+fma".parse().unwrap();
        for (threads, expected) in [(8, Layout::Tile16), (32, Layout::Trits16)] {
            narrow.threads = threads;
            assert_eq!(auto(&narrow), Layout::Trits16);
            assert_eq!(layout(WeightPacking::Auto, &narrow), expected, "{threads}");
        }
        assert_eq!(layout(WeightPacking::Trits, &narrow), Layout::Trits16);
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
        let layout = |packing, cols| {
            let shape = TernaryShape { rows: 64, cols, group: 0 };
            ternary_layout(packing, &target, shape, true, true)
        };
        assert_eq!(layout(WeightPacking::Trits, 2560), Layout::Trits16);
        assert_eq!(layout(WeightPacking::Trits, 1 << 20), Layout::Tile16);
        assert_eq!(layout(WeightPacking::TwoBits, 2560), Layout::Tile16);
    }

    #[test]
    fn zero_speeds_divide_nothing_by_zero() {
        let mut target = server(0);
        target.measured =
            Some(Speeds { read_one_mb_s: 0, read_all_mb_s: 0, int8_core_mmac_s: 0, vector_bytes: 0 });
        let shape = TernaryShape { rows: 16, cols: 20, group: 0 };
        assert!(CostModel::new(&target).gemv(Layout::Trits16, shape, false).unwrap().seconds().is_finite());
    }
}
