//! A patch: what a rewrite wants to change, as data.
//!
//! Matching never mutates; a rewrite looks at a function and describes new weights, new ops in front of an
//! anchor, which values they replace and which nodes go. [`Patch::apply`] is the only place that changes a
//! function on behalf of a rewrite, and it checks what a rewrite must keep: replaced values keep their type,
//! and nothing reads a value before it is made. So each rewrite is one unit that can be counted, printed and
//! bisected.
//!
//! Invariants: new ops are typed by the op table, never by the rewrite; a new weight that is already declared
//! (same type, same origin) is shared, and one whose name is taken by another weight gets a free name.

use bitnetc_ir::build::check_op;
use bitnetc_ir::{
    BuildError, Func, FuncId, Module, NodeId, Op, Operand, ParamDecl, ParamId, Type, ValueDef, ValueId,
};

use crate::names::value_name;
use crate::pass_id::PassId;

/// What a new op reads, or what replaces a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchRef {
    /// A value of the function.
    Value(ValueId),
    /// A weight of the module.
    Param(ParamId),
    /// The new weight of this position in the patch.
    NewParam(usize),
    /// A result of a new op.
    New {
        /// Position of the op in the patch.
        op: usize,
        /// Position of the result.
        result: usize,
    },
}

impl From<Operand> for PatchRef {
    fn from(operand: Operand) -> Self {
        match operand {
            Operand::Value(v) => PatchRef::Value(v),
            Operand::Param(p) => PatchRef::Param(p),
        }
    }
}

impl From<ValueId> for PatchRef {
    fn from(value: ValueId) -> Self {
        PatchRef::Value(value)
    }
}

/// Changes to one function.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The pass that made it.
    pub pass: PassId,
    /// New ops stand before this node.
    pub anchor: NodeId,
    params: Vec<ParamDecl>,
    ops: Vec<(Op, Vec<PatchRef>)>,
    replace: Vec<(ValueId, PatchRef)>,
    remove: Vec<NodeId>,
}

/// Why a patch could not be applied: a mistake of the rewrite that made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The anchor or a node to remove is not there.
    #[error("patch of {pass}: a node that it names does not exist")]
    NoNode {
        /// The pass.
        pass: PassId,
    },
    /// A reference to a new op or weight that the patch does not have (yet), or of the wrong kind.
    #[error("patch of {pass}: {what} does not exist where it is used")]
    NoRef {
        /// The pass.
        pass: PassId,
        /// The reference.
        what: String,
    },
    /// A new op breaks the rules of the op table.
    #[error("patch of {pass}: {source}")]
    Op {
        /// The pass.
        pass: PassId,
        /// The rule.
        source: BuildError,
    },
    /// A value would be replaced by one of another type.
    #[error("patch of {pass}: {value} has type {old}, its replacement {new}")]
    TypeChanged {
        /// The pass.
        pass: PassId,
        /// The value.
        value: String,
        /// Its type.
        old: Type,
        /// The replacement's type.
        new: Type,
    },
    /// A value would be read before it is made.
    #[error("patch of {pass}: {value} would be read before it is defined")]
    Order {
        /// The pass.
        pass: PassId,
        /// The value.
        value: String,
    },
    /// A node to remove is still read.
    #[error("patch of {pass}: the `{op}` to remove is still read")]
    StillRead {
        /// The pass.
        pass: PassId,
        /// The op.
        op: &'static str,
    },
}

impl Patch {
    /// An empty patch of `pass`, whose new ops will stand before `anchor`.
    pub fn new(pass: PassId, anchor: NodeId) -> Self {
        Self { pass, anchor, params: Vec::new(), ops: Vec::new(), replace: Vec::new(), remove: Vec::new() }
    }
    /// Adds a weight.
    pub fn param(&mut self, decl: ParamDecl) -> PatchRef {
        self.params.push(decl);
        PatchRef::NewParam(self.params.len() - 1)
    }
    /// Adds an op and returns its first result; [`PatchRef::New`] names the others.
    pub fn op(&mut self, op: Op, operands: Vec<PatchRef>) -> PatchRef {
        self.ops.push((op, operands));
        PatchRef::New { op: self.ops.len() - 1, result: 0 }
    }
    /// Lets every reader of `old` read `new`.
    pub fn replace(&mut self, old: ValueId, new: impl Into<PatchRef>) {
        self.replace.push((old, new.into()));
    }
    /// Removes a node, after the replacements. Readers are removed before what they read.
    pub fn remove(&mut self, node: NodeId) {
        self.remove.push(node);
    }

    /// Changes `func` as the patch says.
    ///
    /// # Errors
    /// Anything that a rewrite must not ask for; the function may then have been changed in part.
    pub fn apply(&self, module: &mut Module, func: FuncId) -> Result<(), PatchError> {
        let pass = self.pass;
        let body = &module.funcs()[func];
        if !body.contains(self.anchor) || !self.remove.iter().all(|&n| body.contains(n)) {
            return Err(PatchError::NoNode { pass });
        }
        let params: Vec<ParamId> = self.params.iter().map(|decl| intern(module, decl)).collect();

        let mut made: Vec<Vec<ValueId>> = Vec::with_capacity(self.ops.len());
        let mut touched = Vec::new();
        for (op, refs) in &self.ops {
            let operands =
                refs.iter().map(|&r| self.resolve(r, &params, &made)).collect::<Result<Vec<_>, _>>()?;
            let typed: Vec<(Type, bool)> = operands
                .iter()
                .map(|&o| {
                    let ty = module.funcs()[func].operand_type(o, &|p| module.params()[p].ty.clone());
                    (ty, matches!(o, Operand::Param(_)))
                })
                .collect();
            let types = check_op(op, &typed).map_err(|source| PatchError::Op { pass, source })?;
            let node = module.func_mut(func).insert(Some(self.anchor), op.clone(), operands, types);
            made.push(module.funcs()[func].node(node).results.clone());
            touched.push(node);
        }

        for &(old, new) in &self.replace {
            let Operand::Value(new) = self.resolve(new, &params, &made)? else {
                return Err(PatchError::NoRef { pass, what: "a weight in place of a value".to_owned() });
            };
            let body = module.func_mut(func);
            if body.ty(old) != body.ty(new) {
                let (value, old, new) = (value_name(body, old), body.ty(old).clone(), body.ty(new).clone());
                return Err(PatchError::TypeChanged { pass, value, old, new });
            }
            touched.extend(body.users(old));
            body.replace_uses(old, new);
        }
        for &node in &self.remove {
            let op = module.funcs()[func].node(node).op.info().mnemonic;
            if !module.func_mut(func).remove(node) {
                return Err(PatchError::StillRead { pass, op });
            }
        }
        self.check_order(&module.funcs()[func], &touched)
    }

    fn resolve(
        &self,
        reference: PatchRef,
        params: &[ParamId],
        made: &[Vec<ValueId>],
    ) -> Result<Operand, PatchError> {
        let found = match reference {
            PatchRef::Value(v) => Some(Operand::Value(v)),
            PatchRef::Param(p) => Some(Operand::Param(p)),
            PatchRef::NewParam(i) => params.get(i).map(|&p| Operand::Param(p)),
            PatchRef::New { op, result } => {
                made.get(op).and_then(|r| r.get(result)).map(|&v| Operand::Value(v))
            }
        };
        found.ok_or_else(|| PatchError::NoRef { pass: self.pass, what: format!("{reference:?}") })
    }

    /// Every operand of the ops that the patch touched stands before them.
    fn check_order(&self, func: &Func, touched: &[NodeId]) -> Result<(), PatchError> {
        for &node in touched.iter().filter(|&&n| func.contains(n)) {
            for &operand in &func.node(node).operands {
                let Operand::Value(v) = operand else { continue };
                if let ValueDef::Result(from, _) = func.value(v).def
                    && !(func.contains(from) && func.is_before(from, node))
                {
                    return Err(PatchError::Order { pass: self.pass, value: value_name(func, v) });
                }
            }
        }
        Ok(())
    }
}

/// The weight that is what `decl` says, added under a free name if there is none.
pub(crate) fn intern(module: &mut Module, decl: &ParamDecl) -> ParamId {
    if let Some(id) = module.param_made(&decl.ty, &decl.def) {
        return id;
    }
    let mut name = decl.name.clone();
    let mut number = 1u32;
    while module.param_named(&name).is_some() {
        number += 1;
        name = format!("{}.{number}", decl.name);
    }
    module.add_param(ParamDecl { name, ..decl.clone() })
}
