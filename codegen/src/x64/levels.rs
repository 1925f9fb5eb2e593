//! Which registers and instructions a target gives this selector.

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::{Arch, Feature};

use crate::kernels::Registers;

/// A level of the instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// AVX2, FMA and F16C: 16 registers of 256 bits.
    Avx2,
    /// The same, and `vpdpbusd`.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL: 32 registers of 512 bits.
    Avx512,
    /// The same, and `vpdpbusd`.
    Avx512Vnni,
    /// The same, and tile registers with products of bytes (AMX).
    Amx,
}

impl Level {
    /// The widest level that `target` has, or `None` if it has none.
    pub fn of(target: &TargetDesc) -> Option<Self> {
        let all = |features: &[Feature]| features.iter().all(|&f| target.has(f));
        if target.arch != Arch::X86_64 {
            return None;
        }
        if all(&[Feature::Avx512f, Feature::Avx512bw, Feature::Avx512dq, Feature::Avx512vl]) {
            return Some(match (target.has(Feature::Avx512vnni), target.has(Feature::AmxInt8)) {
                (true, true) => Level::Amx,
                (true, false) => Level::Avx512Vnni,
                (false, _) => Level::Avx512,
            });
        }
        if all(&[Feature::Avx, Feature::Avx2, Feature::Fma, Feature::F16c]) {
            return Some(if target.has(Feature::AvxVnni) { Level::AvxVnni } else { Level::Avx2 });
        }
        None
    }

    /// The register file, as kernels are blocked for it, but for the tuning of a target.
    pub fn registers(self) -> Registers {
        let registers = match self.wide() {
            true => Registers::new(512, 32),
            false => Registers::new(256, 16),
        };
        match self {
            Level::Amx => registers.with_tiles(),
            _ if self.vnni() => registers,
            _ => registers.without_whole_byte_dot(),
        }
    }

    /// Whether vectors have 512 bits; else 256.
    pub(super) fn wide(self) -> bool {
        matches!(self, Level::Avx512 | Level::Avx512Vnni | Level::Amx)
    }

    /// Whether there is `vpdpbusd`.
    pub(super) fn vnni(self) -> bool {
        matches!(self, Level::AvxVnni | Level::Avx512Vnni | Level::Amx)
    }

    /// Physical registers of a virtual vector.
    pub(super) fn parts(self) -> usize {
        if self.wide() { 1 } else { 2 }
    }
}
