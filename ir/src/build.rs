//! Building functions: one typed method for each op (made by the op table), which checks kinds and infers types.

use crate::entity::ValueId;
use crate::graph::{Func, Operand, TokenCount};
use crate::infer::TypeRule;
use crate::module::Module;
use crate::ops::Op;
use crate::types::Type;

/// Why an op could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Too few or too many operands.
    #[error("`{op}` takes {least} to {most} operands, got {got}")]
    Arity {
        /// The op.
        op: &'static str,
        /// Required operands.
        least: usize,
        /// With the optional ones.
        most: usize,
        /// As given.
        got: usize,
    },
    /// An operand of the wrong kind.
    #[error("`{op}`: operand `{operand}` is {got}, expected {expected}")]
    Kind {
        /// The op.
        op: &'static str,
        /// The slot's name.
        operand: &'static str,
        /// Its type.
        got: String,
        /// What the slot takes.
        expected: &'static str,
    },
    /// Types that do not go together.
    #[error("`{op}`: {rule}")]
    Rule {
        /// The op.
        op: &'static str,
        /// What is wrong.
        rule: TypeRule,
    },
}

/// The result types of `op` on these operands (type, and whether it is a parameter), after checking arity and kinds.
///
/// # Errors
/// The first rule that the operands break.
pub fn check_op(op: &Op, operands: &[(Type, bool)]) -> Result<Vec<Type>, BuildError> {
    let info = op.info();
    let (least, most) = (info.operands.len(), info.operands.len() + info.optional.len());
    if operands.len() < least || operands.len() > most {
        return Err(BuildError::Arity { op: info.mnemonic, least, most, got: operands.len() });
    }
    for ((ty, is_param), (name, slot)) in operands.iter().zip(info.operands.iter().chain(info.optional)) {
        if !slot.accepts(ty, *is_param) {
            let got = format!("{} {ty}", if *is_param { "the parameter" } else { "the value" });
            return Err(BuildError::Kind {
                op: info.mnemonic,
                operand: name,
                got,
                expected: slot.expected(),
            });
        }
    }
    let types: Vec<&Type> = operands.iter().map(|(ty, _)| ty).collect();
    op.infer(&types).map_err(|rule| BuildError::Rule { op: info.mnemonic, rule })
}

/// Makes a function, op by op.
#[derive(Debug)]
pub struct FuncBuilder<'m> {
    module: &'m Module,
    func: Func,
}

impl<'m> FuncBuilder<'m> {
    /// Starts a new function over the parameters of `module`.
    pub fn new(module: &'m Module, name: impl Into<String>, tokens: TokenCount) -> Self {
        Self { module, func: Func::new(name, tokens) }
    }
    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: Type) -> ValueId {
        self.func.add_input(name, ty)
    }
    /// The type of a value built so far.
    pub fn ty(&self, value: ValueId) -> &Type {
        self.func.ty(value)
    }
    /// Adds an op and returns its results.
    ///
    /// # Errors
    /// See [`check_op`].
    pub fn push(&mut self, op: Op, operands: Vec<Operand>) -> Result<Vec<ValueId>, BuildError> {
        let typed: Vec<(Type, bool)> = operands
            .iter()
            .map(|&o| {
                let ty = self.func.operand_type(o, &|p| self.module.params()[p].ty.clone());
                (ty, matches!(o, Operand::Param(_)))
            })
            .collect();
        let types = check_op(&op, &typed)?;
        let node = self.func.insert(None, op, operands, types);
        Ok(self.func.node(node).results.clone())
    }
    /// Ends the function with these outputs.
    pub fn finish(mut self, outputs: Vec<ValueId>) -> Func {
        self.func.set_outputs(outputs);
        self.func
    }
}
