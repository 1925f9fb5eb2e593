//! Stages of a module: `imported → fused → laid_out → planned`. A stage is a predicate that the verifier checks, not a
//! promise: which ops are legal ([`crate::ops`]), and what must have been decided (layouts, plan).

use std::fmt;

/// How far a module has been lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// As the front-end made it: the model's own ops, weights in their file layouts.
    Imported,
    /// Fused ops may appear.
    Fused,
    /// Every weight and cache that an op uses is in a layout that a kernel reads.
    LaidOut,
    /// Every value has a place in memory, and the schedule has its barriers.
    Planned,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: &[Stage] = &[Stage::Imported, Stage::Fused, Stage::LaidOut, Stage::Planned];

    /// The name in the text form and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Fused => "fused",
            Stage::LaidOut => "laid_out",
            Stage::Planned => "planned",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Stage {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Stage::ALL
            .iter()
            .copied()
            .find(|stage| stage.name() == s)
            .ok_or_else(|| format!("unknown stage `{s}`: expected imported, fused, laid_out or planned"))
    }
}

/// Stages from a first one to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageRange {
    first: Stage,
}

impl StageRange {
    /// Every stage.
    pub const ALL: StageRange = StageRange::from(Stage::Imported);
    /// `first` and every later stage.
    pub const fn from(first: Stage) -> Self {
        Self { first }
    }
    /// Whether `stage` is one of them.
    pub fn contains(self, stage: Stage) -> bool {
        stage >= self.first
    }
    /// The first stage.
    pub fn first(self) -> Stage {
        self.first
    }
}
