//! The angles of rotary position embedding (Su et al. 2021), defined once: the interpreter asks for them one by one, and
//! the runtime fills the table that kernels read with them, so both turn by the same bits.

/// Base of the frequencies, and how they are changed for contexts longer than those of the training.
#[derive(Clone, Copy, Debug)]
pub struct Theta {
    /// The base, positive and finite.
    pub base: f32,
    /// The change.
    pub scaling: RopeScaling,
}

/// A change of the frequencies. All numbers are positive and finite.
#[derive(Clone, Copy, Debug, Default)]
pub enum RopeScaling {
    /// None.
    #[default]
    None,
    /// All frequencies divided by `factor` (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// LLaMA 3.1: frequencies that turn less than `low` times within `original` positions divided by `factor`, those that
    /// turn more than `high` times left alone, a mean of both between.
    Llama3 {
        /// The divisor.
        factor: f32,
        /// Turns below which it applies.
        low: f32,
        /// Turns above which it does not.
        high: f32,
        /// Positions of the training.
        original: f32,
    },
    /// YaRN (Peng et al. 2023): frequencies divided by `factor` at the slow end, left alone at the fast end, and blended
    /// between by the index of the pair. The change of the scores' scale that belongs to it is in the scale of attention.
    Yarn {
        /// The divisor.
        factor: f32,
        /// Positions of the training.
        original: f32,
        /// Turns within these from which on frequencies are left alone.
        beta_fast: f32,
        /// Turns up to which they are divided.
        beta_slow: f32,
    },
}

impl From<f32> for Theta {
    fn from(base: f32) -> Self {
        Self { base, scaling: RopeScaling::None }
    }
}

impl RopeScaling {
    /// The name in the text form, and the numbers after it.
    pub(crate) fn parts(&self) -> (&'static str, Vec<f32>) {
        match *self {
            Self::None => ("", vec![]),
            Self::Linear { factor } => ("linear", vec![factor]),
            Self::Llama3 { factor, low, high, original } => ("llama3", vec![factor, low, high, original]),
            Self::Yarn { factor, original, beta_fast, beta_slow } => {
                ("yarn", vec![factor, original, beta_fast, beta_slow])
            }
        }
    }

    pub(crate) fn of_parts(kind: &str, numbers: &[f32]) -> Option<Self> {
        Some(match (kind, numbers) {
            ("", []) => Self::None,
            ("linear", &[factor]) => Self::Linear { factor },
            ("llama3", &[factor, low, high, original]) => Self::Llama3 { factor, low, high, original },
            ("yarn", &[factor, original, beta_fast, beta_slow]) => {
                Self::Yarn { factor, original, beta_fast, beta_slow }
            }
            _ => return None,
        })
    }
}

impl Theta {
    /// Whether all numbers are positive and finite.
    pub fn is_sound(&self) -> bool {
        let sound = |x: f32| x > 0.0 && x.is_finite();
        sound(self.base) && self.scaling.parts().1.into_iter().all(sound)
    }

    fn bits(&self) -> (u32, &'static str, Vec<u32>) {
        let (kind, numbers) = self.scaling.parts();
        (self.base.to_bits(), kind, numbers.into_iter().map(f32::to_bits).collect())
    }
}

/// Equal by bits, so that tables can be shared by it.
impl PartialEq for Theta {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Theta {}

impl std::hash::Hash for Theta {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bits().hash(state);
    }
}

/// The frequency of pair `j` of `rot/2`, in radians per position: `base^(−2j/rot)`, then scaled. Computed in f64 by the
/// `libm` crate, so that no platform's libm matters.
pub fn frequency(theta: Theta, rot: u32, j: u32) -> f64 {
    let (base, n) = (f64::from(theta.base), f64::from(rot));
    let plain = libm::pow(base, -2.0 * f64::from(j) / n);
    match theta.scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / f64::from(factor),
        RopeScaling::Llama3 { factor, low, high, original } => {
            let (factor, low, high) = (f64::from(factor), f64::from(low), f64::from(high));
            let turns = f64::from(original) * plain / std::f64::consts::TAU;
            if turns > high {
                plain
            } else if turns < low {
                plain / factor
            } else {
                let kept = (turns - low) / (high - low);
                plain * ((1.0 - kept) / factor + kept)
            }
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow } => {
            // The (fractional) pair that turns this number of times within the original context.
            let pair = |turns: f32| {
                let wavelength = f64::from(original) / (f64::from(turns) * std::f64::consts::TAU);
                n * libm::log(wavelength) / (2.0 * libm::log(base))
            };
            let first = libm::floor(pair(beta_fast)).max(0.0);
            let last = libm::ceil(pair(beta_slow)).min(n - 1.0);
            let kept = 1.0 - ((f64::from(j) - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
            plain / f64::from(factor) * (1.0 - kept) + plain * kept
        }
    }
}

/// The frequencies of all pairs of a head.
pub fn frequencies(theta: Theta, rot: u32) -> Vec<f64> {
    (0..rot / 2).map(|j| frequency(theta, rot, j)).collect()
}

/// Cosine and sine of `pos · frequency`, rounded to f32 at the end.
pub fn cos_sin_at(frequency: f64, pos: u32) -> (f32, f32) {
    let angle = f64::from(pos) * frequency;
    (libm::cos(angle) as f32, libm::sin(angle) as f32)
}

/// Cosine and sine of the angle by which pair `j` (below `rot / 2`) of a head is turned at position `pos`.
pub fn cos_sin(theta: impl Into<Theta>, rot: u32, pos: u32, j: u32) -> (f32, f32) {
    cos_sin_at(frequency(theta.into(), rot, j), pos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_zero_does_not_turn() {
        for j in 0..64 {
            assert_eq!(cos_sin(500_000.0, 128, 0, j), (1.0, 0.0));
        }
    }

    #[test]
    fn the_first_pair_turns_by_one_radian_for_each_position() {
        assert_eq!(cos_sin(10_000.0, 64, 1, 0), (0.540_302_3, 0.841_470_96));
        assert_eq!(cos_sin(10_000.0, 64, 2, 0), (-0.416_146_84, 0.909_297_4));
    }

    #[test]
    fn the_middle_pair_turns_by_one_over_root_theta() {
        // theta = 16, rot = 4, j = 1: the frequency is 16^(-1/2) = 1/4.
        let (c, s) = cos_sin(16.0, 4, 4, 1);
        assert_eq!((c, s), (0.540_302_3, 0.841_470_96));
    }

    #[test]
    fn scaled_frequencies() {
        let scaled = |scaling| frequencies(Theta { base: 10_000.0, scaling }, 8);
        let plain = scaled(RopeScaling::None);
        assert_eq!(
            scaled(RopeScaling::Linear { factor: 4.0 }),
            plain.iter().map(|f| f / 4.0).collect::<Vec<_>>()
        );
        // Pairs turn 159, 15.9, 1.59 and 0.159 times within 1000 positions.
        let llama3 = scaled(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 1000.0 });
        assert_eq!((llama3[0], llama3[1], llama3[3]), (plain[0], plain[1], plain[3] / 8.0));
        let kept = (1000.0 * plain[2] / std::f64::consts::TAU - 1.0) / 3.0;
        assert!((llama3[2] / plain[2] - (kept + (1.0 - kept) / 8.0)).abs() < 1e-12);
        // 32 turns belong to pair 0.7, one turn to pair 2.2: 0 is kept, 3 is divided, 1 and 2 lie between.
        let yarn = RopeScaling::Yarn { factor: 4.0, original: 1000.0, beta_fast: 32.0, beta_slow: 1.0 };
        let yarn = scaled(yarn);
        for (j, kept) in [(0, 1.0), (1, 2.0 / 3.0), (2, 1.0 / 3.0), (3, 0.0)] {
            assert!((yarn[j] / plain[j] - (kept + (1.0 - kept) / 4.0)).abs() < 1e-12, "{j}: {}", yarn[j]);
        }
    }

    #[test]
    fn far_positions_keep_the_precision_of_f64() {
        // cos and sin of 131071 radians; an f32 angle would be good to two digits at the later pairs only.
        let (c, s) = cos_sin(500_000.0, 128, 131_071, 0);
        assert!((f64::from(c) - 131_071f64.cos()).abs() < 1e-7);
        assert!((f64::from(s) - 131_071f64.sin()).abs() < 1e-7);
    }
}
