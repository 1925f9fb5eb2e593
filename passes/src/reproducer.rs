//! Reproducers: a run, failed or not yet done, as one text that can be run again.
//!
//! The text is a module in its text form, with comments in front that say what is to be done to it:
//!
//! ```text
//! ; pipeline: fuse-bitlinear,dce
//! ; target: x86_64+sse4.1
//! ; threads: 8
//! ; caches: 49152 2097152
//! ; weights: 1.6bit
//! ; verify: interp:7
//! ; stop-after: 3
//! ; command: bitnetc compile model.gguf
//! bir 1 stage=fused
//! …
//! ```
//!
//! `pipeline` and `target` are always there; the others only if they are not the defaults: `threads`, `caches`
//! and `speeds` of the target, which its text does not hold, `head`, `weights`, `verify`, `stop-after` if patches were counted, and `command`,
//! which is for people.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::target::Speeds;
use bitnetc_ir::{Module, TargetDesc, TargetError, text};

use crate::choices::{HeadFormatError, UnknownCheck, UnknownPacking};
use crate::context::PassContext;
use crate::pipeline::{PassSet, Pipeline, PipelineError};

/// What to run on which module.
#[derive(Clone, Debug)]
pub struct Reproducer {
    /// The passes that were left, the failing one first.
    pub pipeline: Pipeline,
    /// What the run depends on.
    pub context: PassContext,
    /// The command that was run.
    pub command: Option<String>,
    /// The module before the failing pass.
    pub module: Module,
}

/// Why a text is not a reproducer.
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
    /// The check is none.
    #[error(transparent)]
    Check(#[from] UnknownCheck),
    /// Numbers that are none.
    #[error("`; {key}: {text}`: wrong number of values")]
    Number {
        /// The comment.
        key: &'static str,
        /// As written.
        text: String,
    },
    /// The module does not parse.
    #[error(transparent)]
    Module(#[from] text::ParseError),
}

impl Reproducer {
    /// Reads the text of a reproducer whose pipeline may name the passes of `known`.
    ///
    /// # Errors
    /// A text that is no reproducer.
    pub fn parse(s: &str, known: &PassSet) -> Result<Self, ReproducerError> {
        let comments = || s.lines().map_while(|line| line.strip_prefix(';')).map(str::trim);
        let find = |key: &'static str| {
            comments()
                .find_map(|c| c.strip_prefix(key)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let pipeline = known.parse(&find("pipeline").ok_or(ReproducerError::Missing("pipeline"))?)?;
        let target: TargetDesc = find("target").ok_or(ReproducerError::Missing("target"))?.parse()?;
        let mut context = PassContext::new(target);
        if let Some(threads) = find("threads") {
            [context.target.threads] = numbers("threads", threads)?;
        }
        if let Some(caches) = find("caches") {
            [context.target.l1d_bytes, context.target.l2_bytes] = numbers("caches", caches)?;
        }
        if let Some(speeds) = find("speeds") {
            let [read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes] = numbers("speeds", speeds)?;
            context.target.measured =
                Some(Speeds { read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes });
        }
        if let Some(head) = find("head") {
            context.head = head.parse()?;
        }
        if let Some(weights) = find("weights") {
            context.weights = weights.parse()?;
        }
        if let Some(check) = find("verify") {
            context.verify_each = check.parse()?;
        }
        if let Some(n) = find("stop-after") {
            let [patches] = numbers("stop-after", n)?;
            context.stop_after = Some(patches);
        }
        let (command, module) = (find("command"), text::parse(s)?);
        Ok(Self { pipeline, context, command, module })
    }
}

/// `N` numbers with blanks between them.
fn numbers<T: FromStr, const N: usize>(key: &'static str, text: String) -> Result<[T; N], ReproducerError> {
    let words: Option<Vec<T>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let all = words.and_then(|words| words.try_into().ok());
    all.ok_or(ReproducerError::Number { key, text })
}

impl fmt::Display for Reproducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &self.context;
        let default = PassContext::new(TargetDesc::baseline(context.target.arch));
        writeln!(f, "; pipeline: {}", self.pipeline)?;
        writeln!(f, "; target: {}", context.target)?;
        if context.target.threads != default.target.threads {
            writeln!(f, "; threads: {}", context.target.threads)?;
        }
        let caches = |target: &TargetDesc| (target.l1d_bytes, target.l2_bytes);
        if caches(&context.target) != caches(&default.target) {
            writeln!(f, "; caches: {} {}", context.target.l1d_bytes, context.target.l2_bytes)?;
        }
        if let Some(s) = context.target.measured {
            let Speeds { read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes } = s;
            writeln!(f, "; speeds: {read_one_mb_s} {read_all_mb_s} {int8_core_mmac_s} {vector_bytes}")?;
        }
        if context.head != default.head {
            writeln!(f, "; head: {}", context.head)?;
        }
        if context.weights != default.weights {
            writeln!(f, "; weights: {}", context.weights)?;
        }
        if context.verify_each != default.verify_each {
            writeln!(f, "; verify: {}", context.verify_each)?;
        }
        if let Some(patches) = context.stop_after {
            writeln!(f, "; stop-after: {patches}")?;
        }
        if let Some(command) = &self.command {
            // One line, whatever the arguments are.
            writeln!(f, "; command: {}", command.escape_debug())?;
        }
        f.write_str(&text::print(&self.module))
    }
}

impl FromStr for Reproducer {
    type Err = ReproducerError;

    /// As [`Reproducer::parse`], of the passes of the list.
    fn from_str(s: &str) -> Result<Self, ReproducerError> {
        Self::parse(s, &PassSet::default())
    }
}
