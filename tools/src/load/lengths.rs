//! Lengths of prompts and answers: fixed, uniform or log-normal.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::random::SplitMix;

/// Most tokens of a prompt or an answer.
const MOST: u32 = 1 << 20;

/// A distribution of lengths in tokens. Its text is `128`, `64..512` or `200~0.8`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Always this.
    Fixed(u32),
    /// Every length from the first to the last equally often.
    Uniform(u32, u32),
    /// Log-normal: half of the lengths are below `median`; `sigma` is the standard deviation of their natural logarithms. Lengths
    /// above `most` are drawn as `most`.
    LogNormal {
        /// Half of the lengths are below.
        median: u32,
        /// Standard deviation of the logarithms.
        sigma: f64,
        /// The longest.
        most: u32,
    },
}

impl Length {
    /// The longest that can be drawn.
    pub fn most(self) -> u32 {
        match self {
            Self::Fixed(n) | Self::Uniform(_, n) | Self::LogNormal { most: n, .. } => n,
        }
    }

    /// A length, at least 1.
    pub(super) fn draw(self, rng: &mut SplitMix) -> u32 {
        let drawn = match self {
            Self::Fixed(n) => n,
            Self::Uniform(from, to) => {
                from + (rng.next_u64() % (u64::from(to.saturating_sub(from)) + 1)) as u32
            }
            Self::LogNormal { median, sigma, most } => {
                // Box and Muller.
                let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * unit(rng)).cos();
                (f64::from(median) * (sigma * normal).exp()).min(f64::from(most)) as u32
            }
        };
        drawn.max(1)
    }
}

/// A number from 0 (included) to 1 (not included).
pub(super) fn unit(rng: &mut SplitMix) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Uniform(from, to) => write!(f, "{from}..{to}"),
            Self::LogNormal { median, sigma, .. } => write!(f, "{median}~{sigma}"),
        }
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a number from 1 to {MOST}, a range such as 64..512, or a median and a spread such as 200~0.8"
            )
        };
        let number =
            |text: &str| text.trim().parse().ok().filter(|n| (1..=MOST).contains(n)).ok_or_else(expected);
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (number(from)?, number(to)?);
            return if from <= to { Ok(Self::Uniform(from, to)) } else { Err(expected()) };
        }
        let Some((median, sigma)) = text.split_once('~') else { return number(text).map(Self::Fixed) };
        let median = number(median)?;
        let sigma = sigma.trim().parse().ok().filter(|s| (0.0..=4.0).contains(s)).ok_or_else(expected)?;
        Ok(Self::LogNormal { median, sigma, most: median.saturating_mul(8).min(MOST) })
    }
}

/// The lengths of prompts and of answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Tokens of a prompt.
    pub prompt: Length,
    /// Tokens of an answer.
    pub answer: Length,
}

impl Mix {
    /// Lengths that resemble those of conversations in the ShareGPT collection: most are short, some are long.
    pub const SHARE_GPT: Self = Self {
        prompt: Length::LogNormal { median: 90, sigma: 1.3, most: 1024 },
        answer: Length::LogNormal { median: 150, sigma: 1.0, most: 1024 },
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_distributions() {
        for text in ["128", "64..512", "200~0.8"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        for text in ["", "0", "x", "5..4", "0..4", "3~", "3~9", "3~-1", "3~NaN", "9999999", "-1"] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_distributed_as_they_say() {
        let mut rng = SplitMix::new(1);
        let mut draw = |length: Length| -> Vec<u32> {
            let mut all: Vec<u32> = (0..4000).map(|_| length.draw(&mut rng)).collect();
            all.sort_unstable();
            all
        };
        let uniform = draw(Length::Uniform(10, 19));
        assert_eq!((uniform[0], uniform[3999]), (10, 19));
        assert!((13..=16).contains(&uniform[2000]));
        let normal = draw("200~0.8".parse().unwrap());
        assert!((185..=215).contains(&normal[2000]), "{}", normal[2000]);
        // One standard deviation: 200 e^0.8 = 445.
        assert!((415..=475).contains(&normal[3365]), "{}", normal[3365]);
        assert!(normal[0] >= 1 && normal[3999] <= 1600);
    }
}
