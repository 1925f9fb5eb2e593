//! The verifier. Every kernel that an instruction selector or the interpreter sees has passed it.
//!
//! Rules, each of which is named by the [`Rule`] that its violation reports:
//!
//! Names
//! - `name`: the kernel's name and every parameter's name are `[A-Za-z_][A-Za-z0-9_.]*`; parameter names differ.
//!
//! Values
//! - `single-definition`: every value of the type table is defined exactly once: as a parameter, a result, a loop
//!   counter or a loop-carried name.
//! - `definition-before-use`: a used value is defined earlier in the same block or in a block around it.
//! - `operand-type`: operands have the types of the op table; loop bounds and `if` operands are `i64`.
//! - `result-type`: an op has a result exactly if the table says so, of the table's type; counters and parameters are
//!   `i64`.
//!
//! Structure
//! - `loop-step`: the step of a loop is at least 1.
//! - `loop-carry`: per carried value, initial value, name in the body, yielded value and result have one type; the
//!   body yields exactly one value per carried value.
//! - `if-results`: both arms yield exactly the types of the results.
//! - `body-yield`: the body of the kernel yields nothing.
//!
//! Attributes
//! - `attribute`: lanes are 1..=16, bytes 1..=64, lane numbers 0..=15, shifts below the width, divisors at least 1,
//!   strides at least 2, levels of caches 1 or 2; offsets and strides are at most 2^30 in magnitude.
//!
//! Memory
//! - `address`: the address of a memory op derives from exactly one pointer parameter, through `add` and `sub` of
//!   numbers, loop-carried values and `if` results. A loaded number is never an address.
//! - `read-only`: a store's address derives from a `readwrite` parameter.
//! - `bounds`: an access at a known distance from the start of a buffer lies in the buffer, whose size the parameter knows; at any
//!   other distance its offset is no larger than the buffer, as there is no place in it from which that would be inside. Up to
//!   2^16 bytes it may be larger: what is for whole blocks of rows is there, and never run, where a matrix has fewer rows. A
//!   prefetch may point anywhere.

use std::collections::HashSet;
use std::fmt;

use super::kernel::{Access, Block, If, Kernel, Loop, ParamKind, Stmt};
use super::ops::{MemoryUse, Op};
use super::print::headline;
use super::types::{LANES, TILE_ROWS, TILES, Type, VECTOR_BYTES, Value};

macro_rules! rules {
    ($($variant:ident = $name:literal,)+) => {
        /// A rule of the verifier; the module says what each demands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the module's text lists the rules")]
        pub enum Rule { $($variant,)+ }

        impl Rule {
            /// All rules.
            pub const ALL: &[Rule] = &[$(Rule::$variant,)+];
            /// The rule's name, as the module's text has it.
            pub fn name(self) -> &'static str { match self { $(Rule::$variant => $name,)+ } }
        }
    };
}

rules! {
    Name = "name",
    SingleDefinition = "single-definition",
    DefinitionBeforeUse = "definition-before-use",
    OperandType = "operand-type",
    ResultType = "result-type",
    LoopStep = "loop-step",
    LoopCarry = "loop-carry",
    IfResults = "if-results",
    BodyYield = "body-yield",
    Attribute = "attribute",
    Address = "address",
    ReadOnly = "read-only",
    Bounds = "bounds",
}

/// Largest magnitude of an offset or stride whatever the buffer, so that the end of an access fits in an instruction's displacement.
pub const OFFSET_LIMIT: i32 = 1 << 30;

/// How far apart the rows of a block are at most that a generator addresses by constant offsets, whatever the buffer.
const BLOCK_REACH: i128 = 1 << 16;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule that does not hold.
    pub rule: Rule,
    /// The statement, as printed (without its inner blocks), or the kernel's head.
    pub at: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] at `{}`", self.message, self.rule.name(), self.at)
    }
}

/// A kernel that breaks rules. It is a defect of the generator, not of the model or the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The kernel's name.
    pub kernel: String,
    /// All violations, in the order of the kernel's text; never empty.
    pub violations: Vec<Violation>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel `{}` is malformed (a defect of its generator):", self.kernel)?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyError {}

impl VerifyError {
    /// A kernel that asked for an offset that is none.
    pub(super) fn too_far(kernel: String, bytes: i64) -> Self {
        let message = format!("{bytes} bytes are no offset");
        let at = format!("kernel @{kernel}");
        Self { kernel, violations: vec![Violation { rule: Rule::Bounds, at, message }] }
    }
}

/// Checks every rule.
pub fn verify(kernel: &Kernel) -> Result<(), VerifyError> {
    let mut v = Verifier {
        kernel,
        origin: vec![Origin::Number; kernel.types.len()],
        known: vec![None; kernel.types.len()],
        defined: vec![false; kernel.types.len()],
        visible: vec![false; kernel.types.len()],
        at: None,
        violations: Vec::new(),
    };
    v.kernel();
    match v.violations.is_empty() {
        true => Ok(()),
        false => Err(VerifyError { kernel: kernel.name.clone(), violations: v.violations }),
    }
}

/// Where an `i64` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Arithmetic, a counter, a load.
    Number,
    /// The pointer parameter at this position, plus a number.
    Pointer(usize),
    /// Arithmetic on pointers that gives no address.
    Mixed,
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    origin: Vec<Origin>,
    /// Numbers that are the same in every call, and of addresses the distance from the start of the buffer, where it is.
    known: Vec<Option<i64>>,
    defined: Vec<bool>,
    visible: Vec<bool>,
    /// The statement that is looked at; none: the kernel as a whole.
    at: Option<&'a Stmt>,
    violations: Vec<Violation>,
}

impl<'a> Verifier<'a> {
    fn kernel(&mut self) {
        let kernel = self.kernel;
        if !is_name(&kernel.name) {
            self.report(Rule::Name, format!("`{}` is no name", kernel.name));
        }
        let mut names = HashSet::new();
        for (position, param) in kernel.params.iter().enumerate() {
            if !is_name(&param.name) || !names.insert(&param.name) {
                self.report(
                    Rule::Name,
                    format!("parameter name `{}` is malformed or used twice", param.name),
                );
            }
            self.define(param.value, Some(Type::I64));
            if let ParamKind::Ptr(_) = param.kind {
                self.set_origin(param.value, Origin::Pointer(position));
                self.set_known(param.value, Some(0));
            }
        }
        self.block(&kernel.body);
        self.at = None;
        if !kernel.body.yields.is_empty() {
            self.report(Rule::BodyYield, "the body yields values".to_owned());
        }
        for (i, defined) in std::mem::take(&mut self.defined).into_iter().enumerate() {
            if !defined {
                self.report(Rule::SingleDefinition, format!("%{i} is in the type table but never defined"));
            }
        }
    }

    fn report(&mut self, rule: Rule, message: String) {
        let at = match self.at {
            Some(stmt) => headline(self.kernel, stmt),
            None => format!("kernel @{}", self.kernel.name),
        };
        self.violations.push(Violation { rule, at, message });
    }

    /// Marks `value` as defined here; its type must be `ty` if one is given.
    fn define(&mut self, value: Value, ty: Option<Type>) {
        let Some(actual) = self.kernel.type_of(value) else {
            return self.report(Rule::SingleDefinition, format!("{value} is not in the type table"));
        };
        if std::mem::replace(&mut self.defined[value.index()], true) {
            self.report(Rule::SingleDefinition, format!("{value} is defined twice"));
        }
        self.visible[value.index()] = true;
        if let Some(ty) = ty
            && ty != actual
        {
            self.report(Rule::ResultType, format!("{value} is {actual}, not {ty}"));
        }
    }

    /// The type of a used value, or `None` (reported) if it cannot be used here.
    fn use_value(&mut self, value: Value) -> Option<Type> {
        if self.visible.get(value.index()).copied().unwrap_or(false) {
            return self.kernel.type_of(value);
        }
        self.report(Rule::DefinitionBeforeUse, format!("{value} is not defined here"));
        None
    }

    fn use_int(&mut self, value: Value, what: &str) {
        if let Some(ty) = self.use_value(value)
            && ty != Type::I64
        {
            self.report(Rule::OperandType, format!("{what} {value} is {ty}, not i64"));
        }
    }

    fn origin_of(&self, value: Value) -> Origin {
        self.origin.get(value.index()).copied().unwrap_or(Origin::Number)
    }

    fn known(&self, value: Value) -> Option<i64> {
        self.known.get(value.index()).copied().flatten()
    }

    fn set_known(&mut self, value: Value, known: Option<i64>) {
        if let Some(slot) = self.known.get_mut(value.index()) {
            *slot = known;
        }
    }

    fn set_origin(&mut self, value: Value, origin: Origin) {
        if let Some(slot) = self.origin.get_mut(value.index()) {
            *slot = origin;
        }
    }

    /// Checks a block; what it defines goes out of sight at its end. Returns the yields' types and origins.
    fn block(&mut self, block: &'a Block) -> Vec<(Option<Type>, Origin)> {
        let outside = self.visible.clone();
        for stmt in &block.stmts {
            self.at = Some(stmt);
            match stmt {
                Stmt::Op { result, op } => self.op(*result, op),
                Stmt::Loop(l) => self.loop_stmt(stmt, l),
                Stmt::If(i) => self.if_stmt(stmt, i),
            }
        }
        let yields = block.yields.iter().map(|&v| (self.use_value(v), self.origin_of(v))).collect();
        self.visible = outside;
        yields
    }

    fn loop_stmt(&mut self, stmt: &'a Stmt, l: &'a Loop) {
        self.use_int(l.lo, "bound");
        self.use_int(l.hi, "bound");
        if l.step < 1 {
            self.report(Rule::LoopStep, format!("the step is {}", l.step));
        }
        let outside = self.visible.clone();
        self.define(l.index, Some(Type::I64));
        for carry in &l.carries {
            let ty = self.use_value(carry.init);
            self.define(carry.param, None);
            if ty.is_some() && self.kernel.type_of(carry.param) != ty {
                self.report(Rule::LoopCarry, format!("{} and {} differ in type", carry.init, carry.param));
            }
            self.set_origin(carry.param, self.origin_of(carry.init));
        }
        let yields = self.block(&l.body);
        self.visible = outside;
        self.at = Some(stmt);
        if yields.len() != l.carries.len() {
            let (carried, yielded) = (l.carries.len(), yields.len());
            self.report(Rule::LoopCarry, format!("{carried} values are carried but {yielded} yielded"));
        }
        for (carry, (ty, origin)) in l.carries.iter().zip(&yields) {
            let expected = self.kernel.type_of(carry.param);
            if ty.is_some() && *ty != expected {
                self.report(Rule::LoopCarry, format!("what is yielded for {} has another type", carry.param));
            }
            if *origin != self.origin_of(carry.param) {
                let message = format!("{} does not stay in the buffer it points into", carry.param);
                self.report(Rule::Address, message);
            }
        }
        for carry in &l.carries {
            self.define(carry.result, None);
            if self.kernel.type_of(carry.result) != self.kernel.type_of(carry.param) {
                self.report(Rule::LoopCarry, format!("{} and {} differ in type", carry.param, carry.result));
            }
            self.set_origin(carry.result, self.origin_of(carry.param));
        }
    }

    fn if_stmt(&mut self, stmt: &'a Stmt, i: &'a If) {
        self.use_int(i.a, "operand");
        self.use_int(i.b, "operand");
        let then = self.block(&i.then);
        let otherwise = self.block(&i.otherwise);
        self.at = Some(stmt);
        if then.len() != i.results.len() || otherwise.len() != i.results.len() {
            let (a, b, n) = (then.len(), otherwise.len(), i.results.len());
            self.report(Rule::IfResults, format!("the arms yield {a} and {b} values for {n} results"));
        }
        for (&result, (t, o)) in i.results.iter().zip(then.iter().zip(&otherwise)) {
            self.define(result, None);
            let ty = self.kernel.type_of(result);
            if [t.0, o.0].iter().any(|arm| arm.is_some() && *arm != ty) {
                self.report(Rule::IfResults, format!("an arm yields another type for {result}"));
            }
            self.set_origin(result, if t.1 == o.1 { t.1 } else { Origin::Mixed });
        }
        for &result in i.results.iter().skip(then.len().min(otherwise.len())) {
            self.define(result, None);
        }
    }

    fn op(&mut self, result: Option<Value>, op: &Op) {
        let info = op.info();
        for (value, (name, expected)) in op.operands().into_iter().zip(info.operands) {
            if let Some(ty) = self.use_value(value)
                && !expected.accepts(ty)
            {
                self.report(Rule::OperandType, format!("operand `{name}` {value} is {ty}"));
            }
        }
        self.attributes(op);
        if let Some(memory) = op.memory_use() {
            if !(-OFFSET_LIMIT..=OFFSET_LIMIT).contains(&memory.offset) {
                self.report(Rule::Attribute, "the offset is out of range".to_owned());
            }
            match self.origin_of(memory.ptr) {
                Origin::Pointer(position) => {
                    let param = &self.kernel.params[position];
                    if memory.write && param.kind != ParamKind::Ptr(Access::ReadWrite) {
                        self.report(Rule::ReadOnly, format!("stores to the read-only `{}`", param.name));
                    }
                    if let (Some(size), false) = (param.bytes, matches!(op, Op::Prefetch { .. })) {
                        self.bounds(&memory, &param.name, size);
                    }
                }
                Origin::Number | Origin::Mixed => {
                    self.report(Rule::Address, format!("{} derives from no single buffer", memory.ptr));
                }
            }
        }
        match (result, info.result) {
            (Some(value), Some(ty)) => {
                self.define(value, Some(ty));
                self.set_origin(value, self.result_origin(op));
                self.set_known(value, self.result_known(op));
            }
            (None, None) => {}
            (Some(value), None) => {
                self.define(value, None);
                self.report(Rule::ResultType, format!("{} has no result", info.mnemonic));
            }
            (None, Some(_)) => self.report(Rule::ResultType, format!("{} needs a result", info.mnemonic)),
        }
    }

    /// An access to the buffer `name` of `size` bytes.
    fn bounds(&mut self, memory: &MemoryUse, name: &str, size: u64) {
        let (offset, size) = (i128::from(memory.offset), i128::from(size));
        let inside = match self.known(memory.ptr) {
            Some(start) => {
                let first = i128::from(start) + offset;
                first >= 0 && first + i128::from(memory.bytes) <= size
            }
            None => {
                let size = size.max(BLOCK_REACH);
                offset >= -size && offset + i128::from(memory.bytes) <= size
            }
        };
        if !inside {
            let message =
                format!("{} bytes at {offset} are outside of `{name}`, which has {size}", memory.bytes);
            self.report(Rule::Bounds, message);
        }
    }

    fn result_known(&self, op: &Op) -> Option<i64> {
        match *op {
            Op::Int { value } => Some(value),
            Op::Add { a, b } => self.known(a)?.checked_add(self.known(b)?),
            Op::Sub { a, b } => self.known(a)?.checked_sub(self.known(b)?),
            Op::Mul { a, b } => self.known(a)?.checked_mul(self.known(b)?),
            _ => None,
        }
    }

    fn result_origin(&self, op: &Op) -> Origin {
        use Origin::{Mixed, Number, Pointer};
        match *op {
            Op::Add { a, b } => match (self.origin_of(a), self.origin_of(b)) {
                (Number, other) | (other, Number) => other,
                _ => Mixed,
            },
            Op::Sub { a, b } => match (self.origin_of(a), self.origin_of(b)) {
                (origin, Number) => origin,
                (Pointer(a), Pointer(b)) if a == b => Number,
                _ => Mixed,
            },
            _ if op.memory_use().is_some() => Number,
            _ => match op.operands().iter().all(|&v| self.origin_of(v) == Number) {
                true => Number,
                false => Mixed,
            },
        }
    }

    fn attributes(&mut self, op: &Op) {
        let mut bad = |ok: bool, what: &str| {
            if !ok {
                self.report(Rule::Attribute, format!("{what} is out of range"));
            }
        };
        let lane_count = |n: u8| (1..=LANES).contains(&usize::from(n));
        match *op {
            Op::LoadF32 { lanes, .. }
            | Op::LoadI32 { lanes, .. }
            | Op::LoadF16 { lanes, .. }
            | Op::LoadBf16 { lanes, .. }
            | Op::LoadI8 { lanes, .. }
            | Op::StoreF32 { lanes, .. }
            | Op::StoreI32 { lanes, .. }
            | Op::StoreF16 { lanes, .. }
            | Op::StoreI8 { lanes, .. } => bad(lane_count(lanes), "the lane count"),
            Op::StoreF16Strided { lanes, stride, .. } => {
                bad(lane_count(lanes), "the lane count");
                bad((2..=OFFSET_LIMIT).contains(&stride), "the stride");
            }
            Op::LoadBytes { bytes, .. } | Op::StoreBytes { bytes, .. } => {
                bad((1..=VECTOR_BYTES).contains(&usize::from(bytes)), "the byte count");
            }
            Op::SplatLaneF32 { lane, .. } | Op::SplatLaneI32 { lane, .. } | Op::ExtractI32 { lane, .. } => {
                bad(usize::from(lane) < LANES, "the lane");
            }
            Op::Shl { bits, .. } | Op::Shr { bits, .. } => bad(bits < 64, "the shift"),
            Op::Ishl { bits, .. } | Op::Ushr { bits, .. } | Op::Sshr { bits, .. } => {
                bad(bits < 32, "the shift")
            }
            Op::Prefetch { level, .. } => bad(matches!(level, 1 | 2), "the level"),
            Op::TileBegin { rows } => bad((1..=TILE_ROWS).contains(&usize::from(rows)), "the row count"),
            Op::TileZero { tile } | Op::TileLoad { tile, .. } | Op::TileStore { tile, .. } => {
                bad(usize::from(tile) < TILES, "the tile");
            }
            Op::TileDot { acc, s, u } => {
                bad(acc < 4 && matches!(s, 4 | 5) && matches!(u, 6 | 7), "a tile");
            }
            Op::Udiv { divisor, .. } | Op::Urem { divisor, .. } => bad(divisor >= 1, "the divisor"),
            _ => {}
        }
    }
}

fn is_name(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}
