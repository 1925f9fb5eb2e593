//! Which pass: the identity by which passes are compared, left out and reported.
//!
//! Names are text at the edges only: command lines, pipelines, reproducers and reports. They are parsed once, here for the
//! passes of the product and by [`crate::PassSet`] for those that a program brings along.

use std::fmt;
use std::str::FromStr;

macro_rules! define_pass_ids {
    ($($id:ident = $name:literal,)+) => {
        /// The identity of a pass.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum PassId {
            $(#[doc = concat!("`", $name, "`.")] $id,)+
            /// A pass from outside the product, by its name in pipelines.
            Custom(&'static str),
        }

        impl PassId {
            /// The passes of the product, in the order of the default pipeline.
            pub const ALL: &[PassId] = &[$(PassId::$id),+];

            /// The name in pipelines.
            pub const fn name(self) -> &'static str {
                match self {
                    $(PassId::$id => $name,)+
                    PassId::Custom(name) => name,
                }
            }
        }
    };
}

define_pass_ids! {
    Canonicalise = "canonicalise",
    Cse = "cse",
    Dce = "dce",
    FuseNormQuant = "fuse-norm-quant",
    FuseRopeKv = "fuse-rope-kv",
    MergeProjections = "merge-projections",
    FuseBitlinear = "fuse-bitlinear",
    PackHead = "pack-head",
    AssignLayout = "assign-layout",
    Schedule = "schedule",
    PlanMemory = "plan-memory",
}

impl fmt::Display for PassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown pass `{name}`: known are {known}")]
pub struct UnknownPass {
    name: String,
    known: String,
}

impl UnknownPass {
    /// `name` is none of `known`.
    pub(crate) fn new(name: &str, known: impl IntoIterator<Item = PassId>) -> Self {
        let known: Vec<&str> = known.into_iter().map(PassId::name).collect();
        Self { name: name.to_owned(), known: known.join(", ") }
    }
}

impl FromStr for PassId {
    type Err = UnknownPass;

    /// The pass of the product that has this name.
    fn from_str(text: &str) -> Result<Self, UnknownPass> {
        let found = Self::ALL.iter().copied().find(|id| id.name() == text);
        found.ok_or_else(|| UnknownPass::new(text, Self::ALL.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse() {
        for (i, &id) in PassId::ALL.iter().enumerate() {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert!(PassId::ALL[..i].iter().all(|other| other.name() != id.name()), "{id}");
        }
        let message = "dse".parse::<PassId>().unwrap_err().to_string();
        assert!(message.starts_with("unknown pass `dse`: known are canonicalise, cse, dce, "), "{message}");
    }
}
