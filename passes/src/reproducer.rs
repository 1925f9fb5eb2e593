//! Reproducers: a failed run as one text that can be run again.
//!
//! The text is a module in its text form, with comments in front that say what was to be done to it:
//!
//! ```text
//! ; pipeline: fuse-bitlinear,dce
//! ; target: x86_64+sse4.1
//! ; weights: 1.6bit
//! ; stop-after: 3
//! bir 1 stage=fused
//! …
//! ```
//!
//! `; weights` stands there only if they are not packed in 2 bits, `; stop-after` only if patches were counted,
//! `; head: q8` only if the head was to be packed.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::{Module, TargetDesc, TargetError, text};

use crate::cost::{UnknownPacking, WeightPacking};
use crate::error::PassError;
use crate::manager::{PassContext, RunReport, run};
use crate::pack_head::{HeadFormat, HeadFormatError};
use crate::pipeline::{Pipeline, PipelineError};

/// What to run on which module.
#[derive(Clone, Debug)]
pub struct Reproducer {
    /// The passes that were left, the failing one first.
    pub pipeline: Pipeline,
    /// The target of the run.
    pub target: TargetDesc,
    /// The head that was asked for.
    pub head: HeadFormat,
    /// How weights were to be packed.
    pub weights: WeightPacking,
    /// Patches that were left to apply, if they were counted.
    pub stop_after: Option<u64>,
    /// The module before the failing pass.
    pub module: Module,
}

/// Why a text is no reproducer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReproducerError {
    /// A comment that must be there is not.
    #[error("no line `; {0}: …` at the start")]
    Missing(&'static str),
    /// The pipeline is none.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The head is none.
    #[error(transparent)]
    Head(#[from] HeadFormatError),
    /// The packing of weights is none.
    #[error(transparent)]
    Weights(#[from] UnknownPacking),
    /// The number of patches is none.
    #[error("`; stop-after: {0}` is no number")]
    StopAfter(String),
    /// The module does not parse.
    #[error(transparent)]
    Module(#[from] text::ParseError),
}

impl Reproducer {
    /// Runs it.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(self) -> Result<(Module, RunReport), PassError> {
        let (head, weights, stop_after) = (self.head, self.weights, self.stop_after);
        let context = PassContext { head, weights, stop_after, ..PassContext::new(self.target) };
        run(&self.pipeline, self.module, &context)
    }
}

impl fmt::Display for Reproducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "; pipeline: {}", self.pipeline)?;
        writeln!(f, "; target: {}", self.target)?;
        if self.head != HeadFormat::Stored {
            writeln!(f, "; head: {}", self.head)?;
        }
        if self.weights != WeightPacking::default() {
            writeln!(f, "; weights: {}", self.weights)?;
        }
        if let Some(patches) = self.stop_after {
            writeln!(f, "; stop-after: {patches}")?;
        }
        f.write_str(&text::print(&self.module))
    }
}

impl FromStr for Reproducer {
    type Err = ReproducerError;

    fn from_str(s: &str) -> Result<Self, ReproducerError> {
        let comments = || s.lines().map_while(|line| line.strip_prefix(';')).map(str::trim);
        let find = |key: &str| {
            comments()
                .find_map(|c| c.strip_prefix(key)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let pipeline = find("pipeline").ok_or(ReproducerError::Missing("pipeline"))?.parse()?;
        let target = find("target").ok_or(ReproducerError::Missing("target"))?.parse()?;
        let head = find("head").map_or(Ok(HeadFormat::Stored), |text| text.parse())?;
        let weights = find("weights").map(|w| w.parse()).transpose()?.unwrap_or_default();
        let stop_after = match find("stop-after") {
            Some(n) => Some(n.parse().map_err(|_| ReproducerError::StopAfter(n))?),
            None => None,
        };
        let module = text::parse(s)?;
        Ok(Self { pipeline, target, head, weights, stop_after, module })
    }
}
