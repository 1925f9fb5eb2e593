//! Pipelines: which passes run, in which order and with which options, as text that round-trips
//! (`canonicalise,cse,pack-head{head=q8},…`).
//!
//! Every pass is named once, in the list below, with what it does, the stages in which it may run, the stage
//! that the module is in afterwards, and whether a planned module can do without it. `--help` texts, errors
//! and the default pipeline come from this list.
//!
//! A stage is raised by the pass, not by what it finds: after `fuse-*` a module is in stage `fused` even if
//! nothing was fused, because from there on fused ops are legal.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use bitnetc_ir::{Func, Module, NodeId, Stage};

use crate::error::PassFailure;
use crate::manager::PassContext;
use crate::options::PassOptions;
use crate::patch::Patch;
use crate::{
    assign_layout, canonicalise, cse, dce, fuse_bitlinear, fuse_norm_quant, fuse_rope_kv, merge_projections,
    pack_head, plan_memory, schedule,
};

/// A pass that replaces ops by others that compute the same bits (`pack-head`: what it was asked for).
pub trait Rewrite {
    /// Takes from `context` what the rewrite depends on; called once, before the others.
    fn configure(&mut self, _context: &PassContext) {}
    /// What to change at `node`, if anything.
    fn matches(&self, module: &Module, func: &Func, node: NodeId) -> Option<Patch>;
    /// Whether nodes are visited last first, as suits a rewrite that follows operands.
    fn backwards(&self) -> bool {
        false
    }
    /// Runs once when no patch is left; returns whether it changed the module. It must not change what is
    /// computed.
    fn finish(&self, _module: &mut Module) -> bool {
        false
    }
}

/// A pass that decides something for the whole module.
pub trait Transform {
    /// Makes the decision and notes it in the module; returns whether the module changed.
    ///
    /// # Errors
    /// What makes the decision impossible.
    fn run(&self, module: &mut Module, context: &PassContext) -> Result<bool, PassFailure>;
}

/// A pass, made from its entry in the list.
pub enum PassBody {
    /// See [`Rewrite`].
    Rewrite(Box<dyn Rewrite>),
    /// See [`Transform`].
    Transform(Box<dyn Transform>),
}

/// One entry of the list of passes.
#[derive(Clone, Copy)]
pub struct PassInfo {
    /// The name in pipelines.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// Whether a planned module cannot do without it.
    pub required: bool,
    /// The first and the last stage in which it may run.
    pub stages: (Stage, Stage),
    /// The stage to which it raises the module.
    pub raises_to: Option<Stage>,
    /// Names of the options that it takes, of those of [`PassOptions`].
    pub options: &'static [&'static str],
    pub(crate) make: fn() -> PassBody,
}

impl PassInfo {
    /// An optional pass outside of the list below: [`PassSet::with`] makes it known by its name.
    pub const fn new(
        name: &'static str,
        description: &'static str,
        stages: (Stage, Stage),
        raises_to: Option<Stage>,
        make: fn() -> PassBody,
    ) -> Self {
        Self { name, description, required: false, stages, raises_to, options: &[], make }
    }

    /// Whether the pass keeps every bit of what a module computes; `pack-head` computes the head as it is asked to.
    pub fn keeps_bits(&self) -> bool {
        self.name != "pack-head"
    }
}

impl fmt::Debug for PassInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! define_passes {
    ($(
        #[doc = $doc:literal]
        $name:literal: $need:ident $kind:ident($make:expr), $first:ident..=$last:ident $(=> $raises:ident)?
            $(, options $options:tt)?;
    )+) => {
        /// All passes, in the order of the default pipeline.
        pub static ALL_PASSES: &[PassInfo] = &[$(PassInfo {
            name: $name,
            description: $doc.trim_ascii(),
            required: define_passes!(@need $need),
            stages: (Stage::$first, Stage::$last),
            raises_to: define_passes!(@raises $($raises)?),
            options: define_passes!(@options $($options)?),
            make: || PassBody::$kind(Box::new($make)),
        },)+];
    };
    (@need required) => { true };
    (@need optional) => { false };
    (@raises) => { None };
    (@raises $stage:ident) => { Some(Stage::$stage) };
    (@options) => { &[] };
    (@options $options:tt) => { &$options };
}

define_passes! {
    /// Brings ops into the one form that later passes look for.
    "canonicalise": optional Rewrite(canonicalise::Canonicalise), Imported..=LaidOut;
    /// Computes equal ops once.
    "cse": optional Rewrite(cse::Cse), Imported..=LaidOut;
    /// Removes ops and weights that nothing reads.
    "dce": optional Rewrite(dce::Dce), Imported..=LaidOut;
    /// Makes one op of RMSNorm and the quantisation of its result.
    "fuse-norm-quant": optional Rewrite(fuse_norm_quant::FuseNormQuant), Imported..=Fused => Fused;
    /// Makes one op of RoPE on queries and keys and the append to the KV cache.
    "fuse-rope-kv": optional Rewrite(fuse_rope_kv::FuseRopeKv), Imported..=Fused => Fused;
    /// Makes one matrix of ternary matrices that read the same activation: q, k, v; gate and up interleaved.
    "merge-projections": optional Rewrite(merge_projections::MergeProjections), Imported..=Fused => Fused;
    /// Makes one op of a ternary product and the addition of the residual.
    "fuse-bitlinear": optional Rewrite(fuse_bitlinear::FuseBitlinear), Imported..=Fused => Fused;
    /// Computes the language-model head in the bits that were asked for (`--head`).
    "pack-head": optional Rewrite(pack_head::PackHead::default()), Imported..=Fused => Fused, options ["head"];
    /// Gives every packed weight and K cache the layout that the kernels of the target read.
    "assign-layout": required Transform(assign_layout::AssignLayout), Imported..=LaidOut => LaidOut, options ["weights"];
    /// Orders ops so that as few barriers as possible are needed.
    "schedule": optional Transform(schedule::Schedule), Imported..=LaidOut;
    /// Gives every value its place in memory and places the barriers.
    "plan-memory": required Transform(plan_memory::PlanMemory), LaidOut..=Planned => Planned;
}

/// The pass of this name.
pub fn pass_named(name: &str) -> Option<&'static PassInfo> {
    ALL_PASSES.iter().find(|p| p.name == name)
}

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
        self.name == other.name && self.options == other.options
    }
}

impl fmt::Display for PassUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.options)
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
    pub fn find(&self, name: &str) -> Option<&'static PassInfo> {
        self.passes.iter().copied().find(|p| p.name == name)
    }

    /// The pass of this name, or what would have been one.
    ///
    /// # Errors
    /// A name of no pass.
    pub fn named(&self, name: &str) -> Result<&'static PassInfo, PipelineError> {
        self.find(name).ok_or_else(|| {
            let known = self.passes.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            PipelineError::Unknown { name: name.to_owned(), known }
        })
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
            let (name, behind) = rest.split_at(end);
            let info = self.named(name.trim())?;
            let (options, behind) = match behind.strip_prefix('{') {
                Some(inside) => {
                    let (options, behind) =
                        inside.split_once('}').ok_or(PipelineError::Brace { pass: info.name })?;
                    (parse_options(info, options)?, behind.trim_start())
                }
                None => (PassOptions::default(), behind),
            };
            passes.push(PassUse { info, options });
            match behind.strip_prefix(',') {
                Some(behind) => rest = behind.trim_start(),
                None if behind.is_empty() => break,
                None => return Err(PipelineError::Brace { pass: info.name }),
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
        let set = info.options.contains(&name).then(|| options.set(name, value)).flatten();
        match set {
            Some(Ok(())) => {}
            Some(Err(reason)) => return Err(PipelineError::Value { pass: info.name, reason }),
            None => {
                let known = if info.options.is_empty() { "none".to_owned() } else { info.options.join(", ") };
                return Err(PipelineError::Option { pass: info.name, option: name.to_owned(), known });
            }
        }
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
    #[error("unknown pass `{name}`: known are {known}")]
    Unknown {
        /// As written.
        name: String,
        /// The names of all passes.
        known: String,
    },
    /// The pass does not take the option.
    #[error("`{pass}` has no option `{option}`: it has {known}")]
    Option {
        /// The pass.
        pass: &'static str,
        /// As written.
        option: String,
        /// The options that it takes.
        known: String,
    },
    /// The value of an option is none.
    #[error("`{pass}`: {reason}")]
    Value {
        /// The pass.
        pass: &'static str,
        /// Why, and what would have been accepted.
        reason: String,
    },
    /// A brace without its other, or text behind one.
    #[error("after `{pass}` a comma is expected, or options as in `pack-head{{head=q8}}`")]
    Brace {
        /// The pass in front.
        pass: &'static str,
    },
    /// The pass cannot be left out.
    #[error("`{name}` cannot be left out: without it a module has no plan to run by")]
    Required {
        /// The pass.
        name: &'static str,
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
    /// The same pipeline without any run of the pass `name`.
    ///
    /// # Errors
    /// The name of no pass, or of a required one.
    pub fn without(mut self, name: &str) -> Result<Self, PipelineError> {
        let own = self.passes.iter().map(PassUse::info).find(|p| p.name == name);
        let info = own.map_or_else(|| PassSet::default().named(name), Ok)?;
        if info.required {
            return Err(PipelineError::Required { name: info.name });
        }
        self.passes.retain(|p| p.name != info.name);
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
            assert!(ALL_PASSES.iter().all(|p| message.contains(p.name)), "{message}");
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
            match Pipeline::default().without(info.name) {
                Ok(rest) => assert!(!info.required && rest.passes().len() == ALL_PASSES.len() - 1),
                Err(e) => assert!(info.required && e == PipelineError::Required { name: info.name }),
            }
        }
        assert!(matches!(Pipeline::default().without("x"), Err(PipelineError::Unknown { .. })));
    }

    #[test]
    fn names_are_unique_and_the_default_pipeline_ends_planned() {
        for (i, a) in ALL_PASSES.iter().enumerate() {
            assert!(ALL_PASSES[..i].iter().all(|b| a.name != b.name));
            assert!(!a.description.is_empty() && a.stages.0 <= a.stages.1);
        }
        assert_eq!(ALL_PASSES.last().unwrap().raises_to, Some(Stage::Planned));
    }
}
