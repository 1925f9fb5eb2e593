//! The kernel itself: plain data, built by [`KernelBuilder`](super::KernelBuilder), read by the printer, the
//! verifier, the interpreter and the instruction selectors.
//!
//! A kernel is a list of parameter words and a tree of blocks. There are no branches but `loop` and `if`, so
//! dominance is nesting: a value may be used after its definition, in the block that defines it and in the blocks
//! inside.

use super::ops::Op;
use super::types::{IntCond, Type, Value};

/// What a kernel may do through a pointer parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Loads only.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// Kind of a parameter word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// The address of a buffer.
    Ptr(Access),
    /// A signed number.
    Int,
}

/// A parameter: one 64-bit word of the argument array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name, unique in the kernel.
    pub name: String,
    /// What the word is.
    pub kind: ParamKind,
    /// Of a buffer: the most bytes after the address that any call may access, padding included; `None` where nothing
    /// is known.
    pub bytes: Option<u64>,
    /// The `i64` value that holds the word.
    pub value: Value,
}

/// Statements, then the values that the block hands to the statement around it (none for a kernel's body).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The statements, in order.
    pub stmts: Vec<Stmt>,
    /// Next carried values of a loop, results of an `if`.
    pub yields: Vec<Value>,
}

/// A value that lives across the iterations of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopCarry {
    /// Value before the first iteration.
    pub init: Value,
    /// Name inside the body.
    pub param: Value,
    /// Name after the loop.
    pub result: Value,
}

/// `for index in (lo..hi).step_by(step)` over signed numbers; nothing runs if `lo >= hi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// The counter, defined in the body.
    pub index: Value,
    /// First value of the counter.
    pub lo: Value,
    /// First value that the counter does not reach.
    pub hi: Value,
    /// Increment, at least 1.
    pub step: i64,
    /// Carried values, in the order of the body's yields.
    pub carries: Vec<LoopCarry>,
    /// The body.
    pub body: Block,
}

/// `if a cond b { .. } else { .. }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct If {
    /// The comparison, of signed numbers.
    pub cond: IntCond,
    /// Left side.
    pub a: Value,
    /// Right side.
    pub b: Value,
    /// Taken when the comparison holds.
    pub then: Block,
    /// Taken otherwise.
    pub otherwise: Block,
    /// What the taken block yields.
    pub results: Vec<Value>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stmt {
    /// A straight-line op.
    Op {
        /// Name of the result, for ops that have one.
        result: Option<Value>,
        /// The op.
        op: Op,
    },
    /// A counted loop.
    Loop(Loop),
    /// A two-way choice.
    If(If),
}

/// A kernel. Compiled, it is an `extern "C" fn(args: *const u64)` where `args[i]` is the word of `params[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name, unique in an image.
    pub name: String,
    /// Parameters, in the order of the argument words.
    pub params: Vec<Param>,
    /// Type of every value, by [`Value::index`].
    pub types: Vec<Type>,
    /// The body; it yields nothing.
    pub body: Block,
}

impl Kernel {
    /// Type of a value, or `None` if the kernel has no such value.
    pub fn type_of(&self, value: Value) -> Option<Type> {
        self.types.get(value.index()).copied()
    }

    /// Whether any op is about tile registers.
    pub fn uses_tiles(&self) -> bool {
        self.body.uses_tiles()
    }
}

impl Block {
    fn uses_tiles(&self) -> bool {
        self.stmts.iter().any(|stmt| match stmt {
            Stmt::Op { op, .. } => op.uses_tiles(),
            Stmt::Loop(l) => l.body.uses_tiles(),
            Stmt::If(i) => i.then.uses_tiles() || i.otherwise.uses_tiles(),
        })
    }
}
