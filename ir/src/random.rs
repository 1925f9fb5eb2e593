//! Seeded random numbers for weights and inputs that are made up: of built-in models, of samples, and of tests.
//!
//! Invariant: the same seed gives the same numbers on every machine, since models and recorded results depend on them.

/// SplitMix64 (Steele, Lea and Flood 2014): tiny, and the same on every machine and in every version.
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    /// A stream of numbers for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`; 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    /// One of `items`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
    /// A finite f32, mostly within [−1, 1), at times 0, tiny or large.
    pub fn number(&mut self) -> f32 {
        let unit = (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match self.below(64) {
            0 => 0.0,
            1 => -0.0,
            2 => unit * 1e-6,
            3 => unit * 64.0,
            _ => unit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_of_the_paper() {
        let mut rng = SplitMix::new(0);
        assert_eq!(rng.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(rng.next_u64(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!((rng.below(0), rng.chance(100), rng.chance(0)), (0, true, false));
    }
}
