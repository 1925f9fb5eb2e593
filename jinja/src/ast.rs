//! The tree of a template.
//!
//! Names are numbered ([`Symbol`]). Every expression knows how deep it is, and the parser bounds that, so that recursion
//! over a tree is bounded by its construction.

use std::sync::Arc;

use crate::text::Text;
use crate::value::Value;

/// The number of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(pub(crate) u32);

/// An expression.
#[derive(Debug)]
pub(crate) struct Expr {
    pub(crate) kind: ExprKind,
    pub(crate) line: u32,
    pub(crate) depth: u32,
}

/// An operator between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug)]
pub(crate) enum ExprKind {
    Const(Value),
    Name(Symbol),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Text),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Args),
    /// A filter on a value, or on what a block makes.
    Filter(Option<Box<Expr>>, Arc<str>, Args),
    Test(Box<Expr>, Arc<str>, Args),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// Test, value, value otherwise.
    Condition(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) positional: Vec<Expr>,
    pub(crate) named: Vec<(Text, Expr)>,
    pub(crate) spread: Option<Box<Expr>>,
    pub(crate) spread_named: Option<Box<Expr>>,
}

/// What can be assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Symbol),
    /// An attribute of a namespace.
    Attribute(Symbol, Text),
    Tuple(Vec<Target>),
}

/// Statements that follow each other.
pub(crate) type Body = Vec<Stmt>;

#[derive(Debug)]
pub(crate) struct Stmt {
    pub(crate) kind: StmtKind,
    pub(crate) line: u32,
}

#[derive(Debug)]
pub(crate) enum StmtKind {
    Data(Text),
    Print(Vec<Expr>),
    Set(Target, Expr),
    /// A block whose text is assigned, after filters.
    SetBlock(Target, Option<Expr>, Body),
    /// Branches, and what is done if none is taken.
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    With(Vec<(Target, Expr)>, Body),
    Macro(Arc<Macro>),
    /// What the called macro calls `caller`, and the call.
    CallBlock(Arc<Macro>, Expr),
    FilterBlock(Expr, Body),
    /// A part of the template with a scope of its own.
    Scope(Body),
    /// `{% block %}`, which sees the variables of the template but not those of loops around it.
    Block(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) iterable: Expr,
    pub(crate) test: Option<Expr>,
    pub(crate) recursive: bool,
    /// Whether the body asks for the variable `loop`.
    pub(crate) uses_loop: bool,
    pub(crate) body: Body,
    pub(crate) otherwise: Body,
}

#[derive(Debug)]
pub(crate) struct Macro {
    /// None for the body of a call block.
    pub(crate) name: Option<Symbol>,
    pub(crate) parameters: Vec<(Symbol, Option<Expr>)>,
    pub(crate) uses_caller: bool,
    pub(crate) uses_varargs: bool,
    pub(crate) uses_kwargs: bool,
    pub(crate) body: Body,
}

/// A whole template.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) body: Body,
    /// By symbol.
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) known: Known,
}

/// Names with a meaning of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) r#loop: Symbol,
    pub(crate) caller: Symbol,
    pub(crate) varargs: Symbol,
    pub(crate) kwargs: Symbol,
}
