//! Dead code: removes ops whose results nobody reads, then weights that no op and no kept weight refers to.
//!
//! Ops have no effect besides their results, so an unread op is a dead op, a KV append included. Runs in
//! every stage in which there is no plan yet. Inputs of entry points stay: they are part of the interface.

use bitnetc_ir::{Func, Module, NodeId};

use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug)]
pub struct Dce;

impl Rewrite for Dce {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let results = &func.node(node).results;
        if results.iter().any(|&r| func.is_output(r) || func.is_read(r)) {
            return None;
        }
        let mut patch = Patch::new(PassId::Dce, node);
        patch.remove(node);
        Some(patch)
    }

    fn backwards(&self) -> bool {
        true
    }

    fn finish(&self, module: &mut Module) -> bool {
        !module.remove_unused_params().is_empty()
    }
}
