//! Deterministic inputs.

use half::{bf16, f16};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In −1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Mostly of magnitude 1, sometimes tiny, large, zero or subnormal.
    pub(crate) fn number(&mut self) -> f32 {
        let x = self.unit();
        match self.below(24) {
            0 => 0.0,
            1 => -0.0,
            2 => x * 1e-30,
            3 => x * 1e-40,
            4 => x * 300.0,
            5 => x * 1e-4,
            _ => x * 3.0,
        }
    }

    pub(crate) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }

    pub(crate) fn f16_bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).flat_map(|_| f16::from_f32(self.number()).to_le_bytes()).collect()
    }

    pub(crate) fn bf16_bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).flat_map(|_| bf16::from_f32(self.number()).to_le_bytes()).collect()
    }

    pub(crate) fn f32_bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).flat_map(|_| self.number().to_le_bytes()).collect()
    }
}
