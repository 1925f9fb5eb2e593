//! What the text of a pipeline may say about one run of a pass, between braces: `pack-head{head=q8}`,
//! `assign-layout{weights=1.6bit}`.
//!
//! Invariants: an option that is not written leaves the value of the run's [`PassContext`]; the printed form has the
//! options in the order of the list, and parses to the same options. Which pass takes which option stands in the list
//! of passes ([`crate::pipeline::PassInfo::options`]).

use std::fmt;

use crate::cost::WeightPacking;
use crate::manager::PassContext;
use crate::pack_head::HeadFormat;

/// Options of one run of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassOptions {
    /// `head`: the head that `pack-head` makes.
    pub head: Option<HeadFormat>,
    /// `weights`: how `assign-layout` packs ternary weights.
    pub weights: Option<WeightPacking>,
}

impl PassOptions {
    /// Sets the option `name` to what `value` says; `None` if there is no such option.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        Some(match name {
            "head" => value.parse().map(|head| self.head = Some(head)).map_err(|e| format!("{e}")),
            "weights" => value.parse().map(|w| self.weights = Some(w)).map_err(|e| format!("{e}")),
            _ => return None,
        })
    }

    /// The context of a run with these options.
    pub(crate) fn apply(&self, context: &PassContext) -> PassContext {
        PassContext {
            head: self.head.unwrap_or(context.head),
            weights: self.weights.unwrap_or(context.weights),
            ..context.clone()
        }
    }
}

impl fmt::Display for PassOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.map(|head| format!("head={head}"));
        let weights = self.weights.map(|weights| format!("weights={weights}"));
        let all: Vec<String> = [head, weights].into_iter().flatten().collect();
        match all.is_empty() {
            true => Ok(()),
            false => write!(f, "{{{}}}", all.join(",")),
        }
    }
}
