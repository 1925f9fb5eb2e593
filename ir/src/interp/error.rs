//! Why a function could not be run.

use crate::build::BuildError;
use crate::weights::TILE_ROWS;

/// Why a function could not be run: inputs, weights or a module that break the rules. `func` names the function.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// The module has no such function.
    #[error("the module has no function of this index; take the index from `Module::func_named`")]
    UnknownFunc,
    /// Too few or too many inputs.
    #[error("@{func} takes {expected} inputs, got {got}")]
    InputCount {
        /// The function.
        func: String,
        /// Inputs that it has.
        expected: usize,
        /// Inputs given.
        got: usize,
    },
    /// An input that is no value of the type that the function declares, or has not as many tokens or as much capacity
    /// as the other inputs.
    #[error("@{func}: input %{input} is {got}, expected {expected}")]
    Input {
        /// The function.
        func: String,
        /// The input's name.
        input: String,
        /// What was given.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// More tokens than the function takes, or none.
    #[error("@{func} takes 1 to {most} tokens in a call, got {got}; run longer texts in chunks")]
    TokenCount {
        /// The function.
        func: String,
        /// The most that it takes.
        most: u32,
        /// Tokens given.
        got: usize,
    },
    /// A token id that the embedding table has no row for.
    #[error("token {token} at place {place} of the call is not in the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        token: u32,
        /// Its place among the tokens of the call.
        place: usize,
        /// Rows of the table.
        vocab: u32,
    },
    /// Tokens at positions that the caches have no room for.
    #[error("{tokens} tokens from position {pos} on do not fit into caches of {capacity} positions")]
    Capacity {
        /// Position of the first token.
        pos: u32,
        /// Tokens.
        tokens: usize,
        /// Positions that the caches have.
        capacity: u32,
    },
    /// Neither the weight source nor the parameter's definition gives its elements.
    #[error("no bytes for the parameter @{param}: the weight source does not hold it")]
    WeightMissing {
        /// The parameter.
        param: String,
    },
    /// The bytes are not as many as the type needs.
    #[error("the parameter @{param}: {ty} needs {expected} bytes, the weight source gives {got}")]
    WeightLength {
        /// The parameter.
        param: String,
        /// Its type.
        ty: String,
        /// Bytes of the type.
        expected: u64,
        /// Bytes given.
        got: usize,
    },
    /// The scales are not as many as the layout needs.
    #[error("the parameter @{param}: {ty} needs {expected} scales, the weight source gives {got}")]
    ScaleCount {
        /// The parameter.
        param: String,
        /// Its type.
        ty: String,
        /// Scales of the layout.
        expected: u32,
        /// Scales given.
        got: usize,
    },
    /// A two-bit code that stands for no ternary value.
    #[error(
        "the parameter @{param} holds the code 3 at row {row}, column {col}: only 0, 1 and 2 are ternary"
    )]
    TernaryCode {
        /// The parameter.
        param: String,
        /// Row of the matrix.
        row: u32,
        /// Column of the matrix.
        col: u32,
    },
    /// A parameter whose type or definition breaks a rule of the module; a verified module has none.
    #[error("the parameter @{param}: {rule}")]
    ParamRule {
        /// The parameter.
        param: String,
        /// What is wrong.
        rule: ParamRule,
    },
    /// An op whose operands or results break its rules; a verified module has none.
    #[error("@{func}: {source}")]
    Op {
        /// The function.
        func: String,
        /// What is wrong.
        source: BuildError,
    },
    /// An op whose results do not have the types that it infers; a verified module has none.
    #[error("@{func}: the declared types of the results of `{op}` do not follow from its operands")]
    ResultTypes {
        /// The function.
        func: String,
        /// The op.
        op: &'static str,
    },
    /// A value that is read before it is made, or a parameter that the module does not have; a verified module has none.
    #[error("@{func}: an operand of `{op}` is not defined where it is read")]
    Undefined {
        /// The function.
        func: String,
        /// The op, or `return`.
        op: &'static str,
    },
    /// A row so long that the sum of its codes times weights may leave 32 bits.
    #[error("a row of {width} int8 codes is too long for exact 32-bit sums (at most {most})", most = MAX_QUANT_WIDTH)]
    QuantWidth {
        /// Elements of the row.
        width: usize,
    },
}

/// Longest row of int8 codes whose products with ternary weights always sum up exactly in i32: 128 · n < 2³¹.
pub const MAX_QUANT_WIDTH: usize = (1 << 24) - 1;

/// What is wrong with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamRule {
    /// Of another type than the op that reads it can use.
    #[error("its type does not match the op that reads it")]
    Type,
    /// Stored in the model file, but in a layout that has no bytes, or that cannot hold the matrix.
    #[error("its layout has no bytes for a matrix of these sizes")]
    Layout,
    /// Made of a parameter that does not stand before it.
    #[error("it is built from a parameter that is not defined before it")]
    Order,
    /// Made of a parameter that is made of a parameter, and so on, beyond any use.
    #[error("its definition refers to other parameters over too many steps")]
    Chain,
    /// Made of parameters whose sizes do not add up to its own.
    #[error("the sizes of the parameters that it is built from do not add up to its own")]
    Sizes,
    /// Interleaved of matrices that are not of equal size in blocks of 16 rows.
    #[error("interleaving needs two matrices of equal size, with a multiple of {TILE_ROWS} rows")]
    Interleave,
}
