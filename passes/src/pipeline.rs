//! Pipelines: which passes run, in which order and with which options, as text that round-trips
//! (`canonicalise,cse,pack-head{head=q8},…`), and the passes that such a text may name.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use bitnetc_ir::Stage;

use crate::choices::PassOptions;
use crate::list::{self, ALL_PASSES};
use crate::pass::PassInfo;
use crate::pass_id::{PassId, UnknownPass};

/// One run of a pass in a pipeline: the pass, and what differs from the context of the run.
#[derive(Clone, Debug)]
pub struct PassUse {
    info: &'static PassInfo,
    /// Options of this run.
    pub options: PassOptions,
}

impl PassUse {
    /// The pass.
    pub fn info(&self) -> &'static PassInfo {
        self.info
    }
}

impl From<&'static PassInfo> for PassUse {
    fn from(info: &'static PassInfo) -> Self {
        Self { info, options: PassOptions::default() }
    }
}

impl Deref for PassUse {
    type Target = PassInfo;
    fn deref(&self) -> &PassInfo {
        self.info
    }
}

impl PartialEq for PassUse {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.options == other.options
    }
}

impl fmt::Display for PassUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, self.options)
    }
}

/// The passes that a pipeline may name: those of the list, and others that a program brings along.
#[derive(Clone, Debug)]
pub struct PassSet {
    passes: Vec<&'static PassInfo>,
}

impl Default for PassSet {
    /// Those of the list.
    fn default() -> Self {
        Self { passes: ALL_PASSES.iter().collect() }
    }
}

impl PassSet {
    /// These passes and `pass`; it counts if its name is taken.
    #[must_use]
    pub fn with(mut self, pass: &'static PassInfo) -> Self {
        self.passes.insert(0, pass);
        self
    }

    /// The pass of this name.
    ///
    /// # Errors
    /// A name of no pass.
    pub fn named(&self, name: &str) -> Result<&'static PassInfo, UnknownPass> {
        let found = self.passes.iter().copied().find(|pass| pass.name() == name);
        found.ok_or_else(|| UnknownPass::new(name, self.passes.iter().map(|pass| pass.id)))
    }

    /// The pipeline of a text: names with commas between them, each perhaps with options in braces; blanks are allowed,
    /// and the empty text is the empty pipeline.
    ///
    /// # Errors
    /// A name of no pass, an option that the pass does not take, a value that is none, braces that do not match.
    pub fn parse(&self, text: &str) -> Result<Pipeline, PipelineError> {
        let mut passes = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() || !passes.is_empty() {
            let end = rest.find([',', '{', '}']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let info = self.named(name.trim())?;
            let (options, after) = match after.strip_prefix('{') {
                Some(inside) => {
                    let (options, after) =
                        inside.split_once('}').ok_or(PipelineError::Brace { pass: info.id })?;
                    (parse_options(info, options)?, after.trim_start())
                }
                None => (PassOptions::default(), after),
            };
            passes.push(PassUse { info, options });
            match after.strip_prefix(',') {
                Some(after) => rest = after.trim_start(),
                None if after.is_empty() => break,
                None => return Err(PipelineError::Brace { pass: info.id }),
            }
        }
        Ok(Pipeline { passes })
    }
}

fn parse_options(info: &'static PassInfo, text: &str) -> Result<PassOptions, PipelineError> {
    let mut options = PassOptions::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let (name, value) = (name.trim(), value.trim());
        let Some(&option) = info.options.iter().find(|option| option.name() == name) else {
            let known: Vec<&str> = info.options.iter().map(|option| option.name()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(PipelineError::Option { pass: info.id, option: name.to_owned(), known });
        };
        options.set(option, value).map_err(|reason| PipelineError::Value { pass: info.id, reason })?;
    }
    Ok(options)
}

/// Passes in the order in which they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    passes: Vec<PassUse>,
}

/// Why a pipeline was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// No pass has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownPass),
    /// The pass does not take the option.
    #[error("`{pass}` has no option `{option}`: it has {known}")]
    Option {
        /// The pass.
        pass: PassId,
        /// As written.
        option: String,
        /// The options that it takes.
        known: String,
    },
    /// The value of an option is none.
    #[error("`{pass}`: {reason}")]
    Value {
        /// The pass.
        pass: PassId,
        /// Why, and what would have been accepted.
        reason: String,
    },
    /// An unbalanced brace, or text after a closing brace.
    #[error("after `{pass}` a comma is expected, or options as in `pack-head{{head=q8}}`")]
    Brace {
        /// The pass in front.
        pass: PassId,
    },
    /// The pass cannot be left out.
    #[error("`{pass}` cannot be disabled: without it the module has no plan and cannot run")]
    Required {
        /// The pass.
        pass: PassId,
    },
}

impl Pipeline {
    /// These passes.
    pub fn new<P: Into<PassUse>>(passes: impl IntoIterator<Item = P>) -> Self {
        Self { passes: passes.into_iter().map(Into::into).collect() }
    }
    /// The passes.
    pub fn passes(&self) -> &[PassUse] {
        &self.passes
    }
    /// What is left of the pipeline when the first `done` passes have run.
    #[must_use]
    pub fn rest(&self, done: usize) -> Self {
        Self { passes: self.passes.get(done..).unwrap_or_default().to_vec() }
    }
    /// The same pipeline without any run of this pass.
    ///
    /// # Errors
    /// A required pass.
    pub fn without(mut self, id: PassId) -> Result<Self, PipelineError> {
        let own = self.passes.iter().map(PassUse::info).find(|pass| pass.id == id);
        if own.or_else(|| list::info(id)).is_some_and(|pass| pass.required) {
            return Err(PipelineError::Required { pass: id });
        }
        self.passes.retain(|pass| pass.id != id);
        Ok(self)
    }
    /// The passes that a module in `stage` still has to go through: those of the default pipeline that may run on it, and
    /// then on what the ones before made of it.
    pub fn from_stage(stage: Stage) -> Self {
        let mut at = stage;
        let mut passes: Vec<PassUse> = Vec::new();
        // A planned module is done.
        for pass in ALL_PASSES.iter().filter(|_| stage < Stage::Planned) {
            if at <= pass.stages.1 && pass.stages.0 <= at {
                passes.push(pass.into());
                at = pass.raises_to.map_or(at, |raised| raised.max(at));
            }
        }
        Self { passes }
    }
}

impl Default for Pipeline {
    /// Every pass once, in the order of the list.
    fn default() -> Self {
        Self::new(ALL_PASSES)
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pass) in self.passes.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{pass}")?;
        }
        Ok(())
    }
}

impl FromStr for Pipeline {
    type Err = PipelineError;

    /// As [`PassSet::parse`], of the passes of the list.
    fn from_str(text: &str) -> Result<Self, PipelineError> {
        PassSet::default().parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "",
            "dce",
            "canonicalise,cse,dce,canonicalise",
            "pack-head{head=screened:64},assign-layout{weights=auto},dce",
            &Pipeline::default().to_string(),
        ] {
            let pipeline: Pipeline = text.parse().unwrap();
            assert_eq!(pipeline.to_string(), text);
            assert_eq!(pipeline.to_string().parse::<Pipeline>().unwrap(), pipeline);
        }
        assert_eq!(" dce , cse ".parse::<Pipeline>().unwrap().to_string(), "dce,cse");
        let blanks: Pipeline = "pack-head { head = q4 } , dce{}".parse().unwrap();
        assert_eq!(blanks.to_string(), "pack-head{head=q4},dce");
        assert_eq!(blanks.rest(1).to_string(), "dce");
        assert_eq!(blanks.rest(3).to_string(), "");
    }

    #[test]
    fn unknown_passes_are_refused_with_the_list() {
        for text in ["dse", "dce,", "dce;cse", ",dce", "{head=q8}", "}"] {
            let message = text.parse::<Pipeline>().unwrap_err().to_string();
            assert!(ALL_PASSES.iter().all(|p| message.contains(p.name())), "{message}");
        }
    }

    #[test]
    fn wrong_options_are_refused_with_what_is_right() {
        for (text, expected) in [
            ("dce{n=1}", "`dce` has no option `n`: it has none"),
            ("pack-head{weights=auto}", "`pack-head` has no option `weights`: it has head"),
            ("pack-head{head}", "unknown head ``"),
            ("assign-layout{weights=3bit}", "unknown packing of weights `3bit`: expected 2bit"),
            ("pack-head{head=q8", "after `pack-head` a comma is expected"),
            ("pack-head{head=q8}dce", "after `pack-head` a comma is expected"),
            ("dce},cse", "after `dce` a comma is expected"),
        ] {
            let message = text.parse::<Pipeline>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn the_rest_of_the_way_depends_on_the_stage() {
        assert_eq!(Pipeline::from_stage(Stage::Imported), Pipeline::default());
        assert_eq!(Pipeline::from_stage(Stage::Fused), Pipeline::default());
        let laid_out = "canonicalise,cse,dce,assign-layout,schedule,plan-memory";
        assert_eq!(Pipeline::from_stage(Stage::LaidOut).to_string(), laid_out);
        assert!(Pipeline::from_stage(Stage::Planned).passes().is_empty());
    }

    #[test]
    fn optional_passes_can_be_left_out_and_required_ones_not() {
        for info in ALL_PASSES {
            match Pipeline::default().without(info.id) {
                Ok(rest) => assert!(!info.required && rest.passes().len() == ALL_PASSES.len() - 1),
                Err(e) => assert!(info.required && e == PipelineError::Required { pass: info.id }),
            }
        }
        let absent = Pipeline::default().without(PassId::Custom("x"));
        assert_eq!(absent, Ok(Pipeline::default()));
    }
}
