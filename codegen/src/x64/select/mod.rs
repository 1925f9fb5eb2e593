//! Instruction selection: kernel IR to machine instructions over virtual registers.
//!
//! A virtual vector is one zmm or two ymm. A value that is the same in all lanes (a broadcast, a sum) has one ymm that
//! stands for both halves, and what is computed from such values only is computed once. Constants get no register here:
//! they are operands whose place [`constants`](super::constants) chooses. Integers that only form addresses disappear
//! into addressing modes.

mod dot;
mod integers;
mod lanes;
mod memory;
mod tables;
mod tiles;
mod vectors;

use std::collections::HashMap;

use iced_x86::Code as Opcode;

use super::analysis::Analysis;
use super::forms::Form;
use super::levels::Level;
use super::mach::{
    Class, Code, Constant, First, Inst, Memory, MemoryForm, Op as MachOp, Operand, Slot, VReg, Width,
};
use crate::kir::{self, Block, IntCond, Kernel, LANES, Op, Stmt, Type};

/// Registers of a vector; for 512 bits the second is the first.
type Parts = [VReg; 2];

/// Where a value is.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// Nowhere: it is not needed, or only as a part of addresses.
    Not,
    Int(VReg),
    Vector(Parts),
    /// A constant of the vector (of its first lanes, for an iota).
    Constant(Constant),
    /// A comparison that only selections read.
    Mask(VReg),
    /// A load that is an operand of its reader.
    Folded(Memory),
}

/// The machine code of a verified kernel. `byte_permutes`: whether one instruction looks a vector of bytes up in a table of
/// 64 (AVX-512 VBMI).
pub(super) fn select(kernel: &Kernel, level: Level, byte_permutes: bool) -> Code {
    let analysis = Analysis::new(kernel, level);
    let mut select = Select {
        kernel,
        level,
        byte_permutes: byte_permutes && level.wide(),
        analysis,
        code: Code::default(),
        held: vec![Held::Not; kernel.types.len()],
        block: 0,
        masks: HashMap::new(),
        excess: HashMap::new(),
        buffer: None,
    };
    select.kernel();
    select.code
}

pub(super) struct Select<'k> {
    kernel: &'k Kernel,
    level: Level,
    byte_permutes: bool,
    analysis: Analysis<'k>,
    code: Code,
    held: Vec<Held>,
    /// The block that is being selected.
    block: u32,
    /// Mask registers of this block that hold this number of ones from the lowest bit up.
    masks: HashMap<u32, VReg>,
    /// Corrections of signed products in this block, by their signed factor.
    excess: HashMap<kir::Value, Parts>,
    /// 64 bytes of the frame through which vectors pass whose length has no instruction.
    buffer: Option<Slot>,
}

impl<'k> Select<'k> {
    fn kernel(&mut self) {
        let kernel = self.kernel;
        let arguments = self.code.new_reg(Class::General);
        self.push(Inst::Arguments { dst: arguments });
        for (i, param) in (0i32..).zip(&kernel.params) {
            if self.analysis.reads(param.value) > 0 {
                let word = self.code.new_reg(Class::General);
                let at = self.at(arguments, 8 * i);
                self.op(Opcode::Mov_r64_rm64, [Operand::Reg(word, Width::B64), at], First::Write);
                self.held[param.value.index()] = Held::Int(word);
            }
        }
        self.block(&kernel.body);
    }

    fn push(&mut self, inst: Inst) {
        self.code.insts.push(inst);
    }

    /// An instruction whose operands have their final places.
    fn op<const N: usize>(&mut self, opcode: Opcode, operands: [Operand; N], first: First) {
        self.push(Inst::Op(MachOp {
            opcode,
            operands: operands.to_vec(),
            first,
            memory: None,
            mask: None,
            zeroing: false,
        }));
    }

    /// As [`Self::op`], in the lanes of `mask` only: the others are zero, or kept in memory.
    fn masked<const N: usize>(&mut self, opcode: Opcode, operands: [Operand; N], first: First, mask: VReg) {
        let zeroing = first != First::Read;
        let operands = operands.to_vec();
        self.push(Inst::Op(MachOp { opcode, operands, first, memory: None, mask: Some(mask), zeroing }));
    }

    /// A vector instruction; operand `last` is the one that may be memory.
    fn form(&mut self, form: Form, operands: &[Operand], first: First, last: usize) {
        let (opcode, memory) = form.at(self.wide());
        let operands = operands.to_vec();
        let memory = (memory != MemoryForm::No).then_some((last, memory));
        self.push(Inst::Op(MachOp { opcode, operands, first, memory, mask: None, zeroing: false }));
    }

    fn wide(&self) -> bool {
        self.level.wide()
    }

    /// Bytes of a physical vector register.
    fn part_bytes(&self) -> i32 {
        if self.wide() { 64 } else { 32 }
    }

    /// Width of a physical vector register.
    fn width(&self) -> Width {
        if self.wide() { Width::Zmm } else { Width::Ymm }
    }

    fn vector(&self, reg: VReg) -> Operand {
        Operand::Reg(reg, self.width())
    }

    fn new_vector(&mut self) -> VReg {
        self.code.new_reg(Class::Vector)
    }

    /// A register for each part of a vector.
    fn new_parts(&mut self) -> Parts {
        let low = self.new_vector();
        let high = if self.level.parts() == 2 { self.new_vector() } else { low };
        [low, high]
    }

    fn set(&mut self, result: Option<kir::Value>, held: Held) {
        if let Some(result) = result {
            let root = self.analysis.root(result);
            self.held[root.index()] = held;
        }
    }

    fn held(&self, v: kir::Value) -> Held {
        self.held[self.analysis.root(v).index()]
    }

    fn ty(&self, v: kir::Value) -> Type {
        self.kernel.types[v.index()]
    }

    fn block(&mut self, block: &Block) {
        let (outer, masks, excess) =
            (self.block, std::mem::take(&mut self.masks), std::mem::take(&mut self.excess));
        self.block = self.analysis.block(block);
        for stmt in &block.stmts {
            match stmt {
                Stmt::Op { result, op } if self.analysis.is_needed(*result) => self.select_op(*result, op),
                Stmt::Op { .. } => {}
                Stmt::Loop(l) => self.loop_stmt(l),
                Stmt::If(i) => self.if_stmt(i),
            }
        }
        (self.block, self.masks, self.excess) = (outer, masks, excess);
    }

    fn select_op(&mut self, result: Option<kir::Value>, op: &Op) {
        if matches!(op, Op::AsVf { .. } | Op::AsVi { .. } | Op::AsVb { .. }) {
            return;
        }
        let held = match result {
            Some(r) if self.ty(r) == Type::I64 => Held::Int(self.integer(r, op)),
            Some(r) if self.analysis.is_folded(r) => Held::Folded(self.folded(op)),
            _ => self.vector_op(result, op),
        };
        self.set(result, held);
    }

    /// Registers that hold `value` before a loop, and carry it through.
    fn carrier(&mut self, value: kir::Value) -> Held {
        match self.ty(value) {
            Type::I64 => Held::Int(self.code.new_reg(Class::General)),
            _ => Held::Vector(self.new_parts()),
        }
    }

    fn loop_stmt(&mut self, l: &kir::Loop) {
        let (lo, hi) = (self.analysis.constant(l.lo), self.analysis.constant(l.hi));
        if let (Some(lo), Some(hi)) = (lo, hi)
            && lo >= hi
        {
            // It never runs: the results are the values before it.
            let carriers: Vec<Held> = l.carries.iter().map(|c| self.carrier(c.init)).collect();
            self.copy_all(&carriers, &l.carries.iter().map(|c| c.init).collect::<Vec<_>>());
            for (carry, carrier) in l.carries.iter().zip(carriers) {
                self.set(Some(carry.result), carrier);
            }
            return;
        }
        let end = self.int_or_imm(l.hi);
        let carriers: Vec<Held> = l.carries.iter().map(|c| self.carrier(c.init)).collect();
        self.copy_all(&carriers, &l.carries.iter().map(|c| c.init).collect::<Vec<_>>());
        let counter = self.code.new_reg(Class::General);
        self.move_int(counter, l.lo);
        let (label, exit) = (self.code.new_label(), self.code.new_label());
        if lo.is_none() || hi.is_none() {
            self.compare(counter, end);
            self.push(Inst::Jump { opcode: Opcode::Jge_rel32_64, target: exit });
        }
        self.held[l.index.index()] = Held::Int(counter);
        for (carry, &carrier) in l.carries.iter().zip(&carriers) {
            self.held[carry.param.index()] = carrier;
        }
        self.push(Inst::LoopStart { label });
        self.block(&l.body);
        self.copy_all(&carriers, &l.body.yields);
        self.add_imm(counter, l.step);
        self.compare(counter, end);
        self.push(Inst::Jump { opcode: Opcode::Jl_rel32_64, target: label });
        self.push(Inst::LoopEnd);
        self.push(Inst::Label(exit));
        for (carry, carrier) in l.carries.iter().zip(carriers) {
            let result = self.carrier(carry.result);
            let pairs = match (result, carrier) {
                (Held::Int(dst), Held::Int(src)) => vec![(dst, src)],
                (Held::Vector(dst), Held::Vector(src)) => dst.into_iter().zip(src).collect(),
                _ => Vec::new(),
            };
            for (dst, src) in pairs.into_iter().take(self.level.parts()) {
                self.push(Inst::Copy { dst, src });
                self.code.loop_results.insert(dst);
            }
            self.held[carry.result.index()] = result;
        }
    }

    fn if_stmt(&mut self, i: &kir::If) {
        let results: Vec<Held> = i.results.iter().map(|&r| self.carrier(r)).collect();
        let (otherwise, join) = (self.code.new_label(), self.code.new_label());
        let a = self.int(i.a);
        let b = self.int_or_imm(i.b);
        self.compare(a, b);
        let opcode = match i.cond {
            IntCond::Eq => Opcode::Jne_rel32_64,
            IntCond::Ne => Opcode::Je_rel32_64,
            IntCond::Lt => Opcode::Jge_rel32_64,
            IntCond::Le => Opcode::Jg_rel32_64,
            IntCond::Gt => Opcode::Jle_rel32_64,
            IntCond::Ge => Opcode::Jl_rel32_64,
        };
        self.push(Inst::Jump { opcode, target: otherwise });
        self.block(&i.then);
        self.copy_all(&results, &i.then.yields);
        let no_else = i.otherwise.stmts.is_empty() && i.otherwise.yields.is_empty();
        if !no_else {
            self.push(Inst::Jump { opcode: Opcode::Jmp_rel32_64, target: join });
        }
        self.push(Inst::Label(otherwise));
        if !no_else {
            self.block(&i.otherwise);
            self.copy_all(&results, &i.otherwise.yields);
            self.push(Inst::Label(join));
        }
        for (&result, held) in i.results.iter().zip(results) {
            self.held[result.index()] = held;
        }
    }

    /// Copies values into registers, all at once: a source that is also a target is read before it is written.
    fn copy_all(&mut self, targets: &[Held], sources: &[kir::Value]) {
        let mut pairs: Vec<(VReg, VReg)> = Vec::new();
        let mut constants = Vec::new();
        for (target, &source) in targets.iter().zip(sources) {
            match (*target, self.held(source)) {
                (Held::Int(dst), _) => match self.analysis.constant(source) {
                    Some(number) => constants.push((dst, Err(number))),
                    None => pairs.push((dst, self.int(source))),
                },
                (Held::Vector(parts), Held::Constant(constant)) => {
                    let parts = parts.into_iter().enumerate().take(self.level.parts());
                    constants.extend(parts.map(|(part, dst)| (dst, Ok(part_of(constant, part)))));
                }
                (Held::Vector(parts), Held::Vector(from)) => {
                    pairs.extend((0..self.level.parts()).map(|part| (parts[part], from[part])));
                }
                (Held::Vector(parts), _) => {
                    let from = self.parts(source);
                    pairs.extend((0..self.level.parts()).map(|part| (parts[part], from[part])));
                }
                _ => {}
            }
        }
        pairs.retain(|(dst, src)| dst != src);
        let written: Vec<VReg> = pairs.iter().map(|p| p.0).chain(constants.iter().map(|c| c.0)).collect();
        for (_, src) in &mut pairs {
            if written.contains(src) {
                let saved = self.code.new_reg(self.code.class(*src));
                self.push(Inst::Copy { dst: saved, src: *src });
                *src = saved;
            }
        }
        for (dst, src) in pairs {
            self.push(Inst::Copy { dst, src });
        }
        for (dst, constant) in constants {
            match constant {
                Ok(constant) => self.push(Inst::Constant { dst, constant }),
                Err(number) => self.load_imm(dst, number),
            }
        }
    }

    /// The vector's registers; a constant is loaded, a mask expanded.
    fn parts(&mut self, v: kir::Value) -> Parts {
        match self.held(v) {
            Held::Vector(parts) => parts,
            Held::Constant(constant) => {
                let parts = self.new_parts();
                for (part, dst) in parts.into_iter().enumerate().take(self.level.parts()) {
                    self.push(Inst::Constant { dst, constant: part_of(constant, part) });
                }
                parts
            }
            Held::Mask(mask) => {
                let dst = self.new_vector();
                let operands = [self.vector(dst), Operand::Reg(mask, Width::Mask)];
                self.op(Opcode::EVEX_Vpmovm2d_zmm_kr, operands, First::Write);
                [dst; 2]
            }
            Held::Folded(memory) => {
                let parts = self.new_parts();
                for (part, dst) in parts.into_iter().enumerate().take(self.level.parts()) {
                    let from = Operand::Memory(self.part_of_memory(memory, part));
                    let operands = [self.vector(dst), from];
                    let form =
                        if memory.broadcast { super::forms::BROADCASTSS_LOAD } else { super::forms::MOVUPS };
                    self.form(form, &operands, First::Write, 1);
                }
                parts
            }
            Held::Not | Held::Int(_) => [VReg(0); 2],
        }
    }

    /// One part of a vector as an operand that may be a constant or memory.
    fn source(&mut self, v: kir::Value, part: usize) -> Operand {
        match self.held(v) {
            Held::Constant(constant) => Operand::Constant(part_of(constant, part)),
            Held::Folded(memory) => Operand::Memory(self.part_of_memory(memory, part)),
            Held::Vector(parts) => self.vector(parts[part]),
            _ => {
                let parts = self.parts(v);
                self.vector(parts[part])
            }
        }
    }

    /// Whether both parts of `v` are the same.
    fn is_uniform(&self, v: kir::Value) -> bool {
        match self.held(v) {
            Held::Vector(parts) => parts[0] == parts[1],
            Held::Constant(Constant::Splat(_)) => true,
            _ => self.wide(),
        }
    }

    /// Runs `f` for each part of a vector that is computed from `inputs`: once if they are uniform.
    fn each_part(&mut self, inputs: &[kir::Value], mut f: impl FnMut(&mut Self, usize) -> VReg) -> Held {
        let low = f(self, 0);
        let uniform = inputs.iter().all(|&v| self.is_uniform(v));
        let high = if uniform { low } else { f(self, 1) };
        Held::Vector([low, high])
    }

    /// A fresh register that holds part `part` of `v`, for an instruction that changes it.
    fn copied(&mut self, v: kir::Value, part: usize) -> VReg {
        let dst = self.new_vector();
        match self.source(v, part) {
            Operand::Constant(constant) => self.push(Inst::Constant { dst, constant }),
            Operand::Reg(src, _) => self.push(Inst::Copy { dst, src }),
            memory => {
                let operands = [self.vector(dst), memory];
                self.form(super::forms::MOVUPS, &operands, First::Write, 1);
            }
        }
        dst
    }
}

/// What part `part` of a ymm pair holds of a constant.
fn part_of(constant: Constant, part: usize) -> Constant {
    let first = (part * LANES / 2) as u32;
    match constant {
        Constant::Splat(_) | Constant::Table(_) | Constant::Quarter(..) => constant,
        Constant::Iota(from) => Constant::Iota(from + first),
        Constant::Lanes(n) => Constant::Lanes(n.saturating_sub(first as u8)),
    }
}
