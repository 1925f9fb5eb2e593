//! Levels of optimisation, `-O0` to `-O3`: pipelines by number.
//!
//! | level | passes |
//! |---|---|
//! | 0 | what a module must go through to run: layouts and a memory plan; every op of the model is a kernel of its own |
//! | 1 | and what makes a graph smaller without new ops: `canonicalise`, `cse`, `dce`; and `schedule` |
//! | 2 | every pass once, the default |
//! | 3 | every pass, and those of level 1 again wherever they may find what others left |
//!
//! Invariants: all levels give the same bits; so `pack-head`, which changes them where `--head` asks for it, is in all.

use std::fmt;
use std::str::FromStr;

use crate::list;
use crate::pass_id::PassId;
use crate::pipeline::Pipeline;

/// A level of optimisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum OptLevel {
    /// No optimisation.
    O0,
    /// Smaller graphs and a schedule, no fusion.
    O1,
    /// Every pass once.
    #[default]
    O2,
    /// Every pass, clean-ups repeated.
    O3,
}

/// A text that names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown optimisation level `{0}`: expected 0, 1, 2 or 3")]
pub struct UnknownLevel(String);

impl OptLevel {
    /// All levels, in order.
    pub const ALL: &[OptLevel] = &[OptLevel::O0, OptLevel::O1, OptLevel::O2, OptLevel::O3];

    fn ids(self) -> &'static [PassId] {
        match self {
            OptLevel::O0 => &[PassId::PackHead, PassId::AssignLayout, PassId::PlanMemory],
            OptLevel::O1 => &[
                PassId::Canonicalise,
                PassId::Cse,
                PassId::Dce,
                PassId::PackHead,
                PassId::AssignLayout,
                PassId::Schedule,
                PassId::PlanMemory,
            ],
            OptLevel::O2 => &[],
            OptLevel::O3 => &[
                PassId::Canonicalise,
                PassId::Cse,
                PassId::Canonicalise,
                PassId::Cse,
                PassId::Dce,
                PassId::FuseNormQuant,
                PassId::FuseRopeKv,
                PassId::MergeProjections,
                PassId::FuseBitlinear,
                PassId::PackHead,
                PassId::Canonicalise,
                PassId::Cse,
                PassId::Dce,
                PassId::AssignLayout,
                PassId::Cse,
                PassId::Dce,
                PassId::Schedule,
                PassId::PlanMemory,
            ],
        }
    }

    /// The passes of the level.
    pub fn pipeline(self) -> Pipeline {
        match self {
            OptLevel::O2 => Pipeline::default(),
            level => Pipeline::new(level.ids().iter().filter_map(|&id| list::info(id))),
        }
    }
}

impl fmt::Display for OptLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

impl FromStr for OptLevel {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let found = Self::ALL.iter().copied().find(|level| level.to_string() == text);
        found.ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::ALL_PASSES;

    #[test]
    fn levels_are_of_listed_passes_and_grow() {
        let mut fewer = 0;
        for &level in OptLevel::ALL {
            let pipeline = level.pipeline();
            assert!(level == OptLevel::O2 || pipeline.passes().len() == level.ids().len(), "-O{level}");
            let required = ALL_PASSES.iter().filter(|p| p.required || p.id == PassId::PackHead);
            for pass in required {
                assert!(pipeline.passes().iter().any(|p| p.id == pass.id), "-O{level}: {}", pass.id);
            }
            assert!(pipeline.passes().len() > fewer, "-O{level}");
            fewer = pipeline.passes().len();
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("4".parse::<OptLevel>().is_err() && "".parse::<OptLevel>().is_err());
    }
}
