//! The arguments of a kernel, as its generator and as its caller see them.
//!
//! A row of the kernel table (`define_kernels!`) lists the arguments of a kernel, each with a name and a *source*: `operand_rows(0)`,
//! `param(1)`, `scratch(bytes)`, …. The sources are methods of two types. [`Signature`] lists what the caller passes and has to
//! provide; [`Parameters`] declares the same as parameters of the kernel IR and gives the generator a value whose type is that of
//! the source: [`TokenRows`] with their own stride, a [`Position`], or the address or number itself.
//!
//! Invariants: every kernel ends with `tokens, unit_begin, unit_end` ([`Call`]); strides are taken in the order of the arguments
//! that have one. Nothing here makes code: a generator decides where an address is computed.

use super::{Arg, KernelSpec, Registers, TokenMode};
use crate::kir::{Access, I64, KernelBuilder};

/// Bytes of the workspace of a call, which grow with the capacity of the caches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkspaceBytes {
    /// Whatever the capacity is.
    pub(super) fixed: u64,
    /// For each block of [`bitnetc_ir::KEY_BLOCK`] positions, full or not.
    pub(super) per_key_block: u64,
}

impl WorkspaceBytes {
    pub(super) fn of_capacity(self, capacity: u32) -> u64 {
        let blocks = u64::from(capacity.div_ceil(bitnetc_ir::KEY_BLOCK));
        blocks.saturating_mul(self.per_key_block).saturating_add(self.fixed)
    }
}

/// What the caller of a kernel passes, and the memory that it provides.
#[derive(Debug, Default)]
pub(super) struct Signature {
    /// The words, in order.
    pub(super) args: Vec<Arg>,
    /// Those of them that are the rows of an activation, which have a stride.
    pub(super) rows: Vec<Arg>,
    /// Behind the word [`Arg::Scratch`]; 0 without it.
    pub(super) scratch_bytes: u64,
    /// Behind the word [`Arg::Workspace`]; 0 without it.
    pub(super) workspace_bytes: WorkspaceBytes,
}

/// The sources of arguments.
impl Signature {
    pub(super) fn operand_rows(&mut self, i: u8) {
        self.rows.push(Arg::Operand(i));
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn result_rows(&mut self, i: u8) {
        self.rows.push(Arg::Result(i));
        self.args.push(Arg::Result(i));
    }

    pub(super) fn token_ids(&mut self, i: u8) {
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn param(&mut self, i: u8) {
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn scales(&mut self, i: u8) {
        self.args.push(Arg::Scales(i));
    }

    pub(super) fn cache(&mut self, i: u8) {
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn changed_cache(&mut self, i: u8) {
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn changed_state(&mut self, i: u8) {
        self.args.push(Arg::Operand(i));
    }

    pub(super) fn rope_table(&mut self) {
        self.args.push(Arg::RopeTable);
    }

    pub(super) fn position(&mut self) {
        self.args.push(Arg::Position);
    }

    pub(super) fn capacity(&mut self) {
        self.args.push(Arg::Capacity);
    }

    pub(super) fn scratch(&mut self, bytes: u64) {
        self.args.push(Arg::Scratch);
        self.scratch_bytes = bytes;
    }

    pub(super) fn workspace(&mut self, bytes: WorkspaceBytes) {
        self.args.push(Arg::Workspace);
        self.workspace_bytes = bytes;
    }

    /// The arguments that every kernel has after its own.
    pub(super) fn call(&mut self) {
        self.args.extend([Arg::Tokens, Arg::UnitBegin, Arg::UnitEnd]);
    }
}

/// The parameters of a kernel under construction, declared one after the other.
pub(super) struct Parameters<'a> {
    b: &'a mut KernelBuilder,
    spec: &'a KernelSpec,
    registers: Registers,
    /// Rows that have been declared.
    rows: usize,
}

impl<'a> Parameters<'a> {
    pub(super) fn new(b: &'a mut KernelBuilder, spec: &'a KernelSpec, registers: Registers) -> Self {
        Self { b, spec, registers, rows: 0 }
    }

    /// The rows of an argument, with the next of the spec's strides.
    fn rows(&mut self, name: String, access: Access, arg: Arg) -> TokenRows {
        let stride = match self.spec.tokens {
            TokenMode::One => None,
            // The spec has been checked: it has a stride for each, which an i64 holds.
            TokenMode::Many => Some(self.spec.strides.get(self.rows).copied().unwrap_or_default()),
        };
        self.rows += 1;
        let base = self.buffer(name, access, arg, stride);
        TokenRows { base, stride: stride.map(u64::cast_signed) }
    }

    fn buffer(&mut self, name: String, access: Access, arg: Arg, stride: Option<u64>) -> I64 {
        // Of what has no size in 64 bits nothing can be accessed.
        let bytes = self.spec.buffer_bytes(arg, stride).unwrap_or(0);
        self.b.buffer(name, access, bytes)
    }
}

/// The sources of arguments.
impl Parameters<'_> {
    pub(super) fn operand_rows(&mut self, i: u8) -> TokenRows {
        self.rows(format!("operand{i}"), Access::ReadOnly, Arg::Operand(i))
    }

    pub(super) fn result_rows(&mut self, i: u8) -> TokenRows {
        self.rows(format!("result{i}"), Access::ReadWrite, Arg::Result(i))
    }

    pub(super) fn token_ids(&mut self, i: u8) -> I64 {
        self.param(i)
    }

    pub(super) fn param(&mut self, i: u8) -> I64 {
        self.buffer(format!("operand{i}"), Access::ReadOnly, Arg::Operand(i), None)
    }

    pub(super) fn scales(&mut self, i: u8) -> I64 {
        self.buffer(format!("scales{i}"), Access::ReadOnly, Arg::Scales(i), None)
    }

    pub(super) fn cache(&mut self, i: u8) -> I64 {
        self.param(i)
    }

    pub(super) fn changed_cache(&mut self, i: u8) -> I64 {
        self.buffer(format!("operand{i}"), Access::ReadWrite, Arg::Operand(i), None)
    }

    pub(super) fn changed_state(&mut self, i: u8) -> I64 {
        self.changed_cache(i)
    }

    pub(super) fn rope_table(&mut self) -> I64 {
        self.buffer("rope_table".to_owned(), Access::ReadOnly, Arg::RopeTable, None)
    }

    pub(super) fn position(&mut self) -> Position {
        Position { first: self.b.int_param("position"), tokens: self.spec.tokens }
    }

    pub(super) fn capacity(&mut self) -> I64 {
        self.b.int_param("capacity")
    }

    pub(super) fn scratch(&mut self, _bytes: u64) -> I64 {
        self.buffer("scratch".to_owned(), Access::ReadWrite, Arg::Scratch, None)
    }

    pub(super) fn workspace(&mut self, _bytes: WorkspaceBytes) -> I64 {
        self.buffer("workspace".to_owned(), Access::ReadWrite, Arg::Workspace, None)
    }

    /// The arguments that every kernel has after its own.
    pub(super) fn call(self) -> Call {
        Call {
            registers: self.registers,
            mode: self.spec.tokens,
            tokens: self.b.int_param("tokens"),
            unit_begin: self.b.int_param("unit_begin"),
            unit_end: self.b.int_param("unit_end"),
        }
    }
}

/// The rows of an activation, one for each token of the call.
#[derive(Clone, Copy)]
pub(super) struct TokenRows {
    base: I64,
    /// Bytes from row to row; none where there is one token.
    stride: Option<i64>,
}

impl TokenRows {
    /// Address of the row of the first token.
    pub(super) fn first(self) -> I64 {
        self.base
    }

    /// Address of the row of `token`.
    pub(super) fn of(self, b: &mut KernelBuilder, token: I64) -> I64 {
        match self.stride {
            None => self.base,
            Some(stride) => {
                let offset = b.mul(token, stride);
                b.add(self.base, offset)
            }
        }
    }

    /// Bytes from the row of a token to that of the next one; 0 where there is one token.
    pub(super) fn stride(self) -> i64 {
        self.stride.unwrap_or(0)
    }

    /// Addresses in `count` neighbouring rows, the first of which is `address`.
    pub(super) fn neighbours(self, b: &mut KernelBuilder, address: I64, count: usize) -> Vec<I64> {
        (0..count as i64).map(|i| b.add(address, i * self.stride())).collect()
    }

    /// What is left of each row from byte `offset` on.
    pub(super) fn skip(self, b: &mut KernelBuilder, offset: I64) -> Self {
        Self { base: b.add(self.base, offset), ..self }
    }
}

/// Where the tokens of the call stand in their sequence.
#[derive(Clone, Copy)]
pub(super) struct Position {
    first: I64,
    tokens: TokenMode,
}

impl Position {
    /// Position of the first token.
    pub(super) fn first(self) -> I64 {
        self.first
    }

    /// Position of `token`.
    pub(super) fn of(self, b: &mut KernelBuilder, token: I64) -> I64 {
        match self.tokens {
            TokenMode::One => self.first,
            TokenMode::Many => b.add(self.first, token),
        }
    }
}

/// What generators know of every call: how many tokens it has, its range of units, and the machine.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// What the selector has.
    pub(super) registers: Registers,
    mode: TokenMode,
    /// Number of tokens.
    pub(super) tokens: I64,
    /// First unit to do.
    pub(super) unit_begin: I64,
    /// First unit not to do.
    pub(super) unit_end: I64,
}

impl Call {
    /// Whether the kernel handles one token.
    pub(super) fn one(self) -> bool {
        self.mode == TokenMode::One
    }

    /// Runs `body` for each unit of the range.
    pub(super) fn for_units(self, b: &mut KernelBuilder, body: impl FnOnce(&mut KernelBuilder, I64)) {
        b.for_loop(self.unit_begin, self.unit_end, 1, (), |b, unit, ()| body(b, unit));
    }
}
