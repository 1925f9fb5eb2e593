//! What instruction selection has to know before it starts: which values are needed in registers, how addresses
//! decompose, and which loads become operands of the instruction that reads them.
//!
//! One walk from the front finds definitions, one from the back counts the reads by statements that are needed
//! themselves. Selection asks the same functions ([`Analysis::address`], [`Analysis::linear`]) as the count did, so both
//! see the same reads.

use std::collections::HashMap;

use super::forms;
use super::levels::Level;
use super::mach::MemoryForm;
use crate::kir::{Block, Kernel, LANES, Op, Stmt, Type, VECTOR_BYTES, Value};

/// Displacements stay this far from the ends of 32 bits, so that a part of a vector can be added.
const DISP_LIMIT: i64 = i32::MAX as i64 - (1 << 16);

/// A sum of multiples of integer values and a constant, of a shape that an x86 address has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linear {
    /// At most two; at most one factor is not 1, and it is 2, 4 or 8.
    pub(super) terms: Vec<(Value, i64)>,
    pub(super) disp: i64,
}

#[derive(Clone, Copy)]
struct Definition<'k> {
    op: Option<&'k Op>,
    block: u32,
}

/// The one statement that reads a value.
#[derive(Clone, Copy)]
struct Reader {
    block: u32,
    stmt: usize,
    operand: usize,
}

pub(super) struct Analysis<'k> {
    kernel: &'k Kernel,
    level: Level,
    blocks: HashMap<usize, u32>,
    definitions: Vec<Definition<'k>>,
    roots: Vec<Value>,
    reads: Vec<u32>,
    mask_reads: Vec<u32>,
    readers: Vec<Option<Reader>>,
    folded: Vec<bool>,
    /// Statements that have a memory operand from a folded load.
    taken: HashMap<(u32, usize), ()>,
}

fn block_key(block: &Block) -> usize {
    std::ptr::from_ref(block) as usize
}

impl<'k> Analysis<'k> {
    pub(super) fn new(kernel: &'k Kernel, level: Level) -> Self {
        let n = kernel.types.len();
        let nowhere = Definition { op: None, block: u32::MAX };
        let mut this = Self {
            kernel,
            level,
            blocks: HashMap::new(),
            definitions: vec![nowhere; n],
            roots: (0..n as u32).map(Value).collect(),
            reads: vec![0; n],
            mask_reads: vec![0; n],
            readers: vec![None; n],
            folded: vec![false; n],
            taken: HashMap::new(),
        };
        this.define(&kernel.body);
        this.count(&kernel.body);
        this
    }

    fn define(&mut self, block: &'k Block) {
        let number = self.blocks.len() as u32;
        self.blocks.insert(block_key(block), number);
        for stmt in &block.stmts {
            match stmt {
                Stmt::Op { result: Some(result), op } => {
                    self.definitions[result.index()] = Definition { op: Some(op), block: number };
                    if let Op::AsVf { v } | Op::AsVi { v } | Op::AsVb { v } = *op {
                        self.roots[result.index()] = self.roots[v.index()];
                    }
                }
                Stmt::Op { .. } => {}
                Stmt::Loop(l) => self.define(&l.body),
                Stmt::If(i) => {
                    self.define(&i.then);
                    self.define(&i.otherwise);
                }
            }
        }
    }

    /// The number of a block of the kernel.
    pub(super) fn block(&self, block: &Block) -> u32 {
        self.blocks.get(&block_key(block)).copied().unwrap_or(u32::MAX)
    }

    /// The value whose bits `v` has: `v`, or what it is a view of.
    pub(super) fn root(&self, v: Value) -> Value {
        self.roots[v.index()]
    }

    /// The number, if `v` is a constant integer.
    pub(super) fn constant(&self, v: Value) -> Option<i64> {
        match self.definitions[v.index()].op {
            Some(Op::Int { value }) => Some(*value),
            _ => None,
        }
    }

    /// How often a needed statement reads `v` from a register (or as a folded operand).
    pub(super) fn reads(&self, v: Value) -> u32 {
        self.reads[self.root(v).index()]
    }

    /// Whether the load that defines `v` becomes an operand of its only reader.
    pub(super) fn is_folded(&self, v: Value) -> bool {
        self.folded[self.root(v).index()]
    }

    /// Whether `v` is a comparison that is read only as the mask of selections.
    pub(super) fn is_mask_only(&self, v: Value) -> bool {
        let i = self.root(v).index();
        self.mask_reads[i] > 0 && self.mask_reads[i] == self.reads[i]
    }

    /// Whether a statement without result, or a result that somebody needs.
    pub(super) fn is_needed(&self, result: Option<Value>) -> bool {
        result.is_none_or(|r| self.reads[self.root(r).index()] > 0)
    }

    /// The address `ptr + offset`, as seen from `block`.
    pub(super) fn address(&self, ptr: Value, offset: i32, block: u32) -> Linear {
        self.expand(Linear { terms: vec![(ptr, 1)], disp: offset.into() }, block)
    }

    /// The integer `v` that an op of `block` defines as one address computation, if it can be that.
    pub(super) fn linear(&self, v: Value, block: u32) -> Option<Linear> {
        let own = Linear { terms: vec![(v, 1)], disp: 0 };
        let first = self.replace(&own, 0, block)?;
        Some(self.expand(first, block))
    }

    fn expand(&self, mut linear: Linear, block: u32) -> Linear {
        while let Some(next) = (0..linear.terms.len()).find_map(|i| self.replace(&linear, i, block)) {
            linear = next;
        }
        linear
    }

    /// `linear` with its `i`-th term replaced by its definition, unless the result would be no address. A sum of two
    /// values is taken apart only in the block that makes it, where its parts are at hand anyway.
    fn replace(&self, linear: &Linear, i: usize, block: u32) -> Option<Linear> {
        let (value, factor) = linear.terms[i];
        let definition = self.definitions[value.index()];
        let local = definition.block == block;
        let scaled = |k: i64| k.checked_mul(factor);
        let (terms, disp): (Vec<(Value, i64)>, i64) = match *definition.op? {
            Op::Int { value } => (vec![], scaled(value)?),
            Op::Add { a, b } => match (self.constant(a), self.constant(b)) {
                (_, Some(k)) => (vec![(a, factor)], scaled(k)?),
                (Some(k), _) => (vec![(b, factor)], scaled(k)?),
                _ if local => (vec![(a, factor), (b, factor)], 0),
                _ => return None,
            },
            Op::Sub { a, b } => (vec![(a, factor)], scaled(self.constant(b)?.checked_neg()?)?),
            Op::Shl { a, bits } if local && bits <= 3 => (vec![(a, scaled(1 << bits)?)], 0),
            Op::Mul { a, b } if local => match (self.constant(a), self.constant(b)) {
                (_, Some(k)) => (vec![(a, scaled(k)?)], 0),
                (Some(k), _) => (vec![(b, scaled(k)?)], 0),
                _ => return None,
            },
            _ => return None,
        };
        let mut merged: Vec<(Value, i64)> = linear.terms.clone();
        merged.remove(i);
        for (value, factor) in terms {
            match merged.iter_mut().find(|(known, _)| *known == value) {
                Some(known) => known.1 = known.1.checked_add(factor)?,
                None => merged.push((value, factor)),
            }
        }
        let disp = linear.disp.checked_add(disp)?;
        let sound = merged.len() <= 2
            && merged.iter().all(|(_, f)| matches!(f, 1 | 2 | 4 | 8))
            && merged.iter().filter(|(_, f)| *f != 1).count() <= 1
            && (-DISP_LIMIT..=DISP_LIMIT).contains(&disp);
        sound.then_some(Linear { terms: merged, disp })
    }

    fn read_int(&mut self, v: Value) {
        if self.constant(v).is_none() {
            self.reads[v.index()] += 1;
        }
    }

    fn read(&mut self, v: Value) {
        if self.kernel.types[v.index()] == Type::I64 { self.read_int(v) } else { self.read_vector(v, None) }
    }

    fn read_vector(&mut self, v: Value, reader: Option<Reader>) {
        let root = self.root(v).index();
        self.reads[root] += 1;
        self.readers[root] = reader;
    }

    fn read_linear(&mut self, linear: &Linear) {
        for &(value, _) in &linear.terms {
            self.read_int(value);
        }
    }

    fn count(&mut self, block: &'k Block) {
        let number = self.block(block);
        block.yields.iter().for_each(|&v| self.read(v));
        for (at, stmt) in block.stmts.iter().enumerate().rev() {
            match stmt {
                Stmt::Op { result, op } => self.count_op(block, number, at, *result, op),
                Stmt::Loop(l) => {
                    self.count(&l.body);
                    self.read_int(l.lo);
                    self.read_int(l.hi);
                    l.carries.iter().for_each(|c| self.read(c.init));
                }
                Stmt::If(i) => {
                    self.count(&i.then);
                    self.count(&i.otherwise);
                    self.read_int(i.a);
                    self.read_int(i.b);
                }
            }
        }
    }

    fn count_op(&mut self, block: &'k Block, number: u32, at: usize, result: Option<Value>, op: &Op) {
        if matches!(op, Op::AsVf { .. } | Op::AsVi { .. } | Op::AsVb { .. }) || !self.is_needed(result) {
            return;
        }
        if let Some(result) = result {
            self.try_fold(block, number, at, result, op);
        }
        let memory = op.memory_use();
        if let Some(memory) = memory {
            self.read_linear(&self.address(memory.ptr, memory.offset, number));
        } else if let Some(linear) =
            result.filter(|r| self.kernel.types[r.index()] == Type::I64).and_then(|r| self.linear(r, number))
        {
            return self.read_linear(&linear);
        }
        for (i, operand) in op.operands().into_iter().enumerate() {
            if i == 0 && memory.is_some() {
                continue;
            }
            match self.kernel.types[operand.index()] {
                Type::I64 => self.read_int(operand),
                _ => {
                    self.read_vector(operand, Some(Reader { block: number, stmt: at, operand: i }));
                    if i == 0 && matches!(op, Op::Fselect { .. } | Op::Iselect { .. }) {
                        self.mask_reads[self.roots[operand.index()].index()] += 1;
                    }
                }
            }
        }
    }

    /// Folds the load `op` into its reader if there is only one, in the same block, which can have it as its memory
    /// operand, and nothing is stored in between.
    fn try_fold(&mut self, block: &'k Block, number: u32, at: usize, result: Value, op: &Op) {
        let broadcast = match *op {
            Op::LoadF32 { lanes, .. } | Op::LoadI32 { lanes, .. } if usize::from(lanes) == LANES => false,
            Op::LoadBytes { bytes, .. } if usize::from(bytes) == VECTOR_BYTES => false,
            Op::BroadcastF32 { .. } | Op::BroadcastI32 { .. } => true,
            _ => return,
        };
        let Some(reader) = self.readers[result.index()] else { return };
        if self.reads[result.index()] != 1 || reader.block != number || reader.stmt <= at {
            return;
        }
        let Stmt::Op { op: consumer, .. } = &block.stmts[reader.stmt] else { return };
        let form = memory_form(consumer, reader.operand, self.level);
        let fits = form == MemoryForm::Broadcast || (!broadcast && form == MemoryForm::Whole);
        let undisturbed = block.stmts[at + 1..reader.stmt].iter().all(|stmt| match stmt {
            Stmt::Op { op, .. } => !op.memory_use().is_some_and(|m| m.write),
            Stmt::Loop(_) | Stmt::If(_) => false,
        });
        if fits && undisturbed && self.taken.insert((number, reader.stmt), ()).is_none() {
            self.folded[result.index()] = true;
        }
    }
}

/// How operand `i` of `op` may be memory. Selection puts it last.
fn memory_form(op: &Op, i: usize, level: Level) -> MemoryForm {
    let form = match (op, i) {
        (Op::Fadd { .. }, _) => forms::ADDPS,
        (Op::Fmul { .. }, _) => forms::MULPS,
        (Op::Fsub { .. }, 1) => forms::SUBPS,
        (Op::Fdiv { .. }, 1) => forms::DIVPS,
        (Op::FmaxGt { .. }, 1) => forms::MAXPS,
        (Op::FminLt { .. }, 1) => forms::MINPS,
        (Op::Fma { .. }, 0 | 1) => forms::FMADD231PS,
        (Op::Sqrt { .. }, _) => forms::SQRTPS,
        (Op::Fround { .. }, _) => forms::ROUNDPS,
        (Op::CvtI32F32 { .. }, _) => forms::CVTDQ2PS,
        (Op::SwapPairsF32 { .. }, _) => forms::PERMILPS,
        (Op::Iadd { .. }, _) => forms::PADDD,
        (Op::Isub { .. }, 1) => forms::PSUBD,
        (Op::Imul { .. }, _) => forms::PMULLD,
        (Op::Band { .. }, _) => forms::PAND,
        (Op::Bor { .. }, _) => forms::POR,
        (Op::Bxor { .. }, _) => forms::PXOR,
        (Op::Bandn { .. }, 0) => forms::PANDN,
        (Op::Umax { .. }, _) => forms::PMAXUD,
        (Op::Smax { .. }, _) => forms::PMAXSD,
        (Op::Smin { .. }, _) => forms::PMINSD,
        (Op::DotU8I8 { .. }, 2) if level.vnni() => forms::PDPBUSD,
        (Op::DotU8I8 { .. }, 2) => forms::PMADDUBSW,
        _ => return MemoryForm::No,
    };
    form.at(level.wide()).1
}
