//! 64-bit integers.

use iced_x86::Code as Opcode;

use super::super::mach::{Class, First, Inst, Memory, Operand, Place, VReg, Width};
use super::Select;
use crate::kir::{Op, Scalar, Value};

impl Select<'_> {
    fn word(reg: VReg) -> Operand {
        Operand::Reg(reg, Width::B64)
    }

    fn new_int(&mut self) -> VReg {
        self.code.new_reg(Class::General)
    }

    /// `dst = number`, without touching the flags.
    pub(super) fn load_imm(&mut self, dst: VReg, number: i64) {
        if u32::try_from(number).is_ok() {
            let operands = [Operand::Reg(dst, Width::B32), Operand::Imm(number)];
            self.op(Opcode::Mov_r32_imm32, operands, First::Write);
        } else if i32::try_from(number).is_ok() {
            self.op(Opcode::Mov_rm64_imm32, [Self::word(dst), Operand::Imm(number)], First::Write);
        } else {
            self.op(Opcode::Mov_r64_imm64, [Self::word(dst), Operand::Imm(number)], First::Write);
        }
    }

    /// The register of an integer; a constant is loaded.
    pub(super) fn int(&mut self, v: Value) -> VReg {
        match (self.analysis.constant(v), self.held(v)) {
            (None, super::Held::Int(reg)) => reg,
            (constant, _) => {
                let dst = self.new_int();
                self.load_imm(dst, constant.unwrap_or(0));
                dst
            }
        }
    }

    /// The integer as an immediate of 32 bits if it is one, else its register.
    pub(super) fn int_or_imm(&mut self, v: Value) -> Operand {
        match self.analysis.constant(v) {
            Some(number) if i32::try_from(number).is_ok() => Operand::Imm(number),
            _ => Self::word(self.int(v)),
        }
    }

    /// `dst = v`.
    pub(super) fn move_int(&mut self, dst: VReg, v: Value) {
        match self.analysis.constant(v) {
            Some(number) => self.load_imm(dst, number),
            None => {
                let src = self.int(v);
                self.push(Inst::Copy { dst, src });
            }
        }
    }

    /// Sets the flags for `a - b`.
    pub(super) fn compare(&mut self, a: VReg, b: Operand) {
        let opcode = match b {
            Operand::Imm(_) => Opcode::Cmp_rm64_imm32,
            _ => Opcode::Cmp_r64_rm64,
        };
        self.op(opcode, [Self::word(a), b], First::Read);
    }

    /// `reg += number`.
    pub(super) fn add_imm(&mut self, reg: VReg, number: i64) {
        if i32::try_from(number).is_ok() {
            self.op(Opcode::Add_rm64_imm32, [Self::word(reg), Operand::Imm(number)], First::ReadWrite);
        } else {
            let step = self.new_int();
            self.load_imm(step, number);
            self.op(Opcode::Add_r64_rm64, [Self::word(reg), Self::word(step)], First::ReadWrite);
        }
    }

    /// A fresh register with the integer, to be changed.
    fn int_copy(&mut self, v: Value) -> VReg {
        let dst = self.new_int();
        self.move_int(dst, v);
        dst
    }

    /// `dst = a op b` where the instruction writes its first operand.
    fn binary(&mut self, opcode: Opcode, imm: Option<Opcode>, a: Value, b: Value) -> VReg {
        let b = match imm {
            Some(_) => self.int_or_imm(b),
            None => Self::word(self.int(b)),
        };
        let dst = self.int_copy(a);
        let opcode = match (b, imm) {
            (Operand::Imm(_), Some(imm)) => imm,
            _ => opcode,
        };
        self.op(opcode, [Self::word(dst), b], First::ReadWrite);
        dst
    }

    fn shift(&mut self, opcode: Opcode, a: Value, bits: u32) -> VReg {
        let dst = self.int_copy(a);
        if bits > 0 {
            self.op(opcode, [Self::word(dst), Operand::Imm(bits.into())], First::ReadWrite);
        }
        dst
    }

    /// The smaller (by `Cmovg`) or greater (by `Cmovl`) of two numbers.
    fn choose(&mut self, opcode: Opcode, a: Value, b: Value) -> VReg {
        let b = self.int(b);
        let dst = self.int_copy(a);
        self.compare(dst, Self::word(b));
        self.op(opcode, [Self::word(dst), Self::word(b)], First::ReadWrite);
        dst
    }

    fn divide(&mut self, a: Value, divisor: i64, remainder: bool) -> VReg {
        if divisor.count_ones() == 1 {
            let bits = divisor.trailing_zeros();
            if !remainder {
                return self.shift(Opcode::Shr_rm64_imm8, a, bits);
            }
            let mask = self.new_int();
            self.load_imm(mask, divisor - 1);
            let dst = self.int_copy(a);
            self.op(Opcode::And_r64_rm64, [Self::word(dst), Self::word(mask)], First::ReadWrite);
            return dst;
        }
        let (src, dst, saved) = (self.int(a), self.new_int(), self.code.new_slot(24));
        self.push(Inst::Divide { dst, src, divisor: divisor as u64, remainder, saved });
        dst
    }

    /// An op with an integer result.
    pub(super) fn integer(&mut self, result: Value, op: &Op) -> VReg {
        if op.memory_use().is_none()
            && let Some(linear) = self.analysis.linear(result, self.block)
        {
            return self.linear(&linear);
        }
        match *op {
            Op::Sub { a, b } => self.binary(Opcode::Sub_r64_rm64, None, a, b),
            Op::Mul { a, b } => {
                let (a, b) = if self.analysis.constant(a).is_some() { (b, a) } else { (a, b) };
                match self.int_or_imm(b) {
                    imm @ Operand::Imm(_) => {
                        let (dst, a) = (self.new_int(), self.int(a));
                        let operands = [Self::word(dst), Self::word(a), imm];
                        self.op(Opcode::Imul_r64_rm64_imm32, operands, First::Write);
                        dst
                    }
                    b => {
                        let dst = self.int_copy(a);
                        self.op(Opcode::Imul_r64_rm64, [Self::word(dst), b], First::ReadWrite);
                        dst
                    }
                }
            }
            Op::And { a, b } => self.binary(Opcode::And_r64_rm64, Some(Opcode::And_rm64_imm32), a, b),
            Op::Add { a, b } => self.binary(Opcode::Add_r64_rm64, Some(Opcode::Add_rm64_imm32), a, b),
            Op::Min { a, b } => self.choose(Opcode::Cmovg_r64_rm64, a, b),
            Op::Max { a, b } => self.choose(Opcode::Cmovl_r64_rm64, a, b),
            Op::Shl { a, bits } => self.shift(Opcode::Shl_rm64_imm8, a, bits.into()),
            Op::Shr { a, bits } => self.shift(Opcode::Sar_rm64_imm8, a, bits.into()),
            Op::Udiv { a, divisor } => self.divide(a, divisor, false),
            Op::Urem { a, divisor } => self.divide(a, divisor, true),
            Op::LoadScalar { ptr, offset, kind } => {
                let (dst, from) = (self.new_int(), self.memory(ptr, offset));
                let (opcode, width) = match kind {
                    Scalar::U8 => (Opcode::Movzx_r32_rm8, Width::B32),
                    Scalar::U16 => (Opcode::Movzx_r32_rm16, Width::B32),
                    Scalar::I8 => (Opcode::Movsx_r64_rm8, Width::B64),
                    Scalar::I32 => (Opcode::Movsxd_r64_rm32, Width::B64),
                    Scalar::I64 => (Opcode::Mov_r64_rm64, Width::B64),
                };
                self.op(opcode, [Operand::Reg(dst, width), Operand::Memory(from)], First::Write);
                dst
            }
            Op::ExtractI32 { v, lane } => self.extract(v, lane),
            // `int` loads constants where they are used; nothing else has an integer result.
            _ => self.new_int(),
        }
    }

    /// A sum of multiples, by `lea` unless less will do.
    fn linear(&mut self, linear: &super::super::analysis::Linear) -> VReg {
        let dst = self.new_int();
        match linear.terms[..] {
            [] => self.load_imm(dst, linear.disp),
            [(value, 1)] if linear.disp == 0 => self.move_int(dst, value),
            _ => {
                let from = Memory { place: self.place(linear), broadcast: false };
                self.op(Opcode::Lea_r64_m, [Self::word(dst), Operand::Memory(from)], First::Write);
            }
        }
        dst
    }

    /// `linear` as an address.
    pub(super) fn place(&mut self, linear: &super::super::analysis::Linear) -> Place {
        let (mut base, mut index, mut scale) = (None, None, 1);
        for &(value, factor) in &linear.terms {
            let reg = self.int(value);
            if factor == 1 && base.is_none() {
                base = Some(reg);
            } else {
                (index, scale) = (Some(reg), factor as u8);
            }
        }
        // A displacement beyond 32 bits is not made by `Analysis`.
        Place::Address { base, index, scale, disp: linear.disp as i32 }
    }
}
