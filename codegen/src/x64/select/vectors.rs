//! Ops that treat each lane by itself.

use iced_x86::Code as Opcode;

use super::super::forms::{self, Form};
use super::super::mach::{Class, Constant, First, MemoryForm, Operand, VReg, Width};
use super::{Held, Select};
use crate::kir::{FloatCond, IntCond, Op, Value};

/// Rounding to nearest even, without raising the inexact exception.
const ROUND_NEAREST: i64 = 8;

/// The truth table of `(first ^ second) & third`, the first operand's bit the highest of its index.
const XOR_MASKED: i64 = 0b0010_1000;

/// The comparison predicate that holds where neither operand is NaN.
const ORDERED: i64 = 7;

impl Select<'_> {
    /// An op whose result (if any) is a vector.
    pub(super) fn vector_op(&mut self, result: Option<Value>, op: &Op) -> Held {
        match *op {
            Op::LoadF32 { .. }
            | Op::LoadI32 { .. }
            | Op::LoadBytes { .. }
            | Op::LoadF16 { .. }
            | Op::LoadBf16 { .. }
            | Op::LoadI8 { .. }
            | Op::BroadcastF32 { .. }
            | Op::BroadcastI32 { .. } => self.load(op),

            Op::StoreScalar { .. }
            | Op::StoreF32 { .. }
            | Op::StoreI32 { .. }
            | Op::StoreBytes { .. }
            | Op::StoreF16 { .. }
            | Op::StoreF16Strided { .. }
            | Op::StoreI8 { .. }
            | Op::Prefetch { .. } => {
                self.store(op);
                Held::Not
            }

            Op::TileBegin { .. }
            | Op::TileEnd {}
            | Op::TileZero { .. }
            | Op::TileLoad { .. }
            | Op::TileStore { .. }
            | Op::TileDot { .. } => {
                self.tile_op(op);
                Held::Not
            }

            Op::SplatF32 { value } => Held::Constant(Constant::Splat(value.bits())),
            Op::SplatI32 { value } => Held::Constant(Constant::Splat(value as u32)),
            Op::Iota {} => Held::Constant(Constant::Iota(0)),
            Op::SplatI64 { a } => self.splat_int(a),
            Op::SplatLaneF32 { v, lane } | Op::SplatLaneI32 { v, lane } => self.splat_lane(v, lane),
            Op::SwapPairsF32 { v } => self.unary_imm(forms::PERMILPS, v, 0b10_11_00_01),

            Op::Fadd { a, b } => self.commutative(forms::ADDPS, a, b),
            Op::Fsub { a, b } => self.binary_vector(forms::SUBPS, a, b),
            Op::Fmul { a, b } => self.commutative(forms::MULPS, a, b),
            Op::Fdiv { a, b } => self.binary_vector(forms::DIVPS, a, b),
            Op::Sqrt { a } => self.unary(forms::SQRTPS, a),
            Op::Fma { a, b, c } => self.fma(a, b, c),
            Op::FmaxGt { a, b } => self.binary_vector(forms::MAXPS, a, b),
            Op::FminLt { a, b } => self.binary_vector(forms::MINPS, a, b),
            Op::Fround { a } => self.unary_imm(forms::ROUNDPS, a, ROUND_NEAREST),
            Op::Fcmp { a, b, cond } => {
                let predicate = match cond {
                    FloatCond::Eq => 0,
                    FloatCond::Lt => 17,
                    FloatCond::Le => 18,
                    FloatCond::Gt => 30,
                    FloatCond::Ge => 29,
                    FloatCond::Ord => ORDERED,
                    FloatCond::Uno => 3,
                };
                match self.wide() {
                    true => self.compare_wide(result, forms::CMPPS, a, b, predicate),
                    false => self.each_part(&[a, b], |s, part| {
                        let dst = s.new_vector();
                        let operands =
                            [s.vector(dst), s.source(a, part), s.source(b, part), Operand::Imm(predicate)];
                        s.form(forms::CMPPS, &operands, First::Write, 2);
                        dst
                    }),
                }
            }
            Op::Icmp { a, b, cond } if self.wide() => {
                let predicate = match cond {
                    IntCond::Eq => 0,
                    IntCond::Lt => 1,
                    IntCond::Le => 2,
                    IntCond::Ne => 4,
                    IntCond::Ge => 5,
                    IntCond::Gt => 6,
                };
                self.compare_wide(result, forms::PCMPD, a, b, predicate)
            }
            Op::Icmp { a, b, cond } => self.compare_ints(a, b, cond),
            Op::Fselect { mask, a, b } | Op::Iselect { mask, a, b } => self.choose_lanes(mask, a, b),

            Op::Iadd { a, b } => self.commutative(forms::PADDD, a, b),
            Op::Isub { a, b } => self.binary_vector(forms::PSUBD, a, b),
            Op::Imul { a, b } => self.commutative(forms::PMULLD, a, b),
            Op::Band { a, b } => self.commutative(forms::PAND, a, b),
            Op::Bor { a, b } => self.commutative(forms::POR, a, b),
            Op::Bxor { a, b } => self.commutative(forms::PXOR, a, b),
            Op::Bandn { a, b } => self.binary_vector(forms::PANDN, b, a),
            Op::BxorMasked { a, b, mask } => self.xor_masked(a, b, mask),
            Op::Ishl { a, bits } => self.unary_imm(forms::PSLLD, a, bits.into()),
            Op::Ushr { a, bits } => self.unary_imm(forms::PSRLD, a, bits.into()),
            Op::Sshr { a, bits } => self.unary_imm(forms::PSRAD, a, bits.into()),
            Op::Umax { a, b } => self.commutative(forms::PMAXUD, a, b),
            Op::Smax { a, b } => self.commutative(forms::PMAXSD, a, b),
            Op::Smin { a, b } => self.commutative(forms::PMINSD, a, b),
            Op::CvtF32I32 { a } => self.convert_to_ints(a),
            Op::CvtI32F32 { a } => self.unary(forms::CVTDQ2PS, a),

            Op::Badd { a, b } => self.commutative(forms::PADDB, a, b),
            Op::Bsubs { a, b } => self.binary_vector(forms::PSUBUSB, a, b),
            Op::Bavg { a, b } => self.commutative(forms::PAVGB, a, b),
            Op::Blookup { index, table } => self.lookup(index, table),
            Op::DotU8I8 { acc, u, s, u_max } => self.dot_u8i8(acc, u, s, u_max),
            Op::DotI8I8 { acc, a, b } => self.dot_i8i8(acc, a, b),
            Op::ReduceAddF32 { v } => self.reduce(v, forms::ADDPS, forms::NARROW_ADDPS),
            Op::ReduceMaxF32 { v } => self.reduce(v, forms::MAXPS, forms::NARROW_MAXPS),
            Op::ReduceAddI32 { v } => self.reduce(v, forms::PADDD, forms::NARROW_PADDD),
            Op::ReduceUmaxI32 { v } => self.reduce(v, forms::PMAXUD, forms::NARROW_PMAXUD),

            // Views, and ops with an integer result, which are not selected here.
            Op::AsVf { .. }
            | Op::AsVi { .. }
            | Op::AsVb { .. }
            | Op::Int { .. }
            | Op::Add { .. }
            | Op::Sub { .. }
            | Op::Mul { .. }
            | Op::And { .. }
            | Op::Min { .. }
            | Op::Max { .. }
            | Op::Shl { .. }
            | Op::Shr { .. }
            | Op::Udiv { .. }
            | Op::Urem { .. }
            | Op::LoadScalar { .. }
            | Op::ExtractI32 { .. } => Held::Not,
        }
    }

    pub(super) fn unary(&mut self, form: Form, a: Value) -> Held {
        self.each_part(&[a], |s, part| {
            let dst = s.new_vector();
            let operands = [s.vector(dst), s.source(a, part)];
            s.form(form, &operands, First::Write, 1);
            dst
        })
    }

    fn unary_imm(&mut self, form: Form, a: Value, imm: i64) -> Held {
        self.each_part(&[a], |s, part| {
            let dst = s.new_vector();
            let operands = [s.vector(dst), s.source(a, part), Operand::Imm(imm)];
            s.form(form, &operands, First::Write, 1);
            dst
        })
    }

    pub(super) fn binary_vector(&mut self, form: Form, a: Value, b: Value) -> Held {
        self.each_part(&[a, b], |s, part| {
            let dst = s.new_vector();
            let operands = [s.vector(dst), s.source(a, part), s.source(b, part)];
            s.form(form, &operands, First::Write, 2);
            dst
        })
    }

    /// Puts the operand last that is, or may be, memory.
    fn commutative(&mut self, form: Form, a: Value, b: Value) -> Held {
        let rank = |s: &Self, v| match s.held(v) {
            Held::Folded(_) => 2,
            Held::Constant(_) => 1,
            _ => 0,
        };
        let (a, b) = if rank(self, a) > rank(self, b) { (b, a) } else { (a, b) };
        self.binary_vector(form, a, b)
    }

    /// `(a ^ b) & mask`; one instruction for zmm.
    fn xor_masked(&mut self, a: Value, b: Value, mask: Value) -> Held {
        self.each_part(&[a, b, mask], |s, part| {
            if s.wide() {
                let dst = s.copied(b, part);
                let operands =
                    vec![s.vector(dst), s.source(a, part), s.source(mask, part), Operand::Imm(XOR_MASKED)];
                s.push(super::Inst::Op(super::MachOp {
                    opcode: Opcode::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8,
                    operands,
                    first: First::ReadWrite,
                    memory: Some((2, MemoryForm::Broadcast)),
                    mask: None,
                    zeroing: false,
                }));
                return dst;
            }
            let (differ, dst) = (s.new_vector(), s.new_vector());
            let operands = [s.vector(differ), s.source(a, part), s.source(b, part)];
            s.form(forms::PXOR, &operands, First::Write, 2);
            let operands = [s.vector(dst), s.vector(differ), s.source(mask, part)];
            s.form(forms::PAND, &operands, First::Write, 2);
            dst
        })
    }

    /// `a * b + c` in the register of the operand that is read only here: usually the accumulator `c`; where that is a
    /// constant or needed again, a factor.
    fn fma(&mut self, a: Value, b: Value, c: Value) -> Held {
        let dies = |s: &Self, v| matches!(s.held(v), Held::Vector(_)) && s.analysis.reads(v) == 1;
        let in_memory = |s: &Self, v| !matches!(s.held(v), Held::Vector(_));
        if !dies(self, c) && !matches!(self.held(c), Held::Folded(_)) {
            // Overwrite a factor and let the addend be memory.
            let factor = [(a, b), (b, a)].into_iter().find(|&(x, y)| dies(self, x) && !in_memory(self, y));
            if let Some((kept, other)) = factor {
                return self.each_part(&[a, b, c], |s, part| {
                    let dst = s.copied(kept, part);
                    let operands = [s.vector(dst), s.source(other, part), s.source(c, part)];
                    s.form(forms::FMADD213PS, &operands, First::ReadWrite, 2);
                    dst
                });
            }
        }
        let (x, y) = match (self.held(a), self.held(b)) {
            (Held::Folded(_), _) => (b, a),
            (Held::Constant(_), Held::Vector(_)) => (b, a),
            _ => (a, b),
        };
        self.each_part(&[a, b, c], |s, part| {
            let dst = s.copied(c, part);
            let operands = [s.vector(dst), s.source(x, part), s.source(y, part)];
            s.form(forms::FMADD231PS, &operands, First::ReadWrite, 2);
            dst
        })
    }

    /// A comparison of zmm: a mask register, expanded to a vector unless only selections read it.
    fn compare_wide(
        &mut self,
        result: Option<Value>,
        form: Form,
        a: Value,
        b: Value,
        predicate: i64,
    ) -> Held {
        let mask = self.code.new_reg(Class::Mask);
        let operands =
            [Operand::Reg(mask, Width::Mask), self.source(a, 0), self.source(b, 0), Operand::Imm(predicate)];
        self.form(form, &operands, First::Write, 2);
        if result.is_some_and(|r| self.analysis.is_mask_only(r)) {
            return Held::Mask(mask);
        }
        let dst = self.new_vector();
        let operands = [self.vector(dst), Operand::Reg(mask, Width::Mask)];
        self.op(Opcode::EVEX_Vpmovm2d_zmm_kr, operands, First::Write);
        Held::Vector([dst; 2])
    }

    /// A comparison of ymm, which has only `=` and `>`.
    fn compare_ints(&mut self, a: Value, b: Value, cond: IntCond) -> Held {
        let (form, swap, negate) = match cond {
            IntCond::Eq => (forms::PCMPD, false, false),
            IntCond::Ne => (forms::PCMPD, false, true),
            IntCond::Gt => (forms::PCMPGTD, false, false),
            IntCond::Le => (forms::PCMPGTD, false, true),
            IntCond::Lt => (forms::PCMPGTD, true, false),
            IntCond::Ge => (forms::PCMPGTD, true, true),
        };
        let (x, y) = if swap { (b, a) } else { (a, b) };
        self.each_part(&[a, b], |s, part| {
            let dst = s.new_vector();
            let operands = [s.vector(dst), s.source(x, part), s.source(y, part)];
            s.form(form, &operands, First::Write, 2);
            if !negate {
                return dst;
            }
            let negated = s.new_vector();
            let ones = Operand::Constant(Constant::Splat(u32::MAX));
            s.form(forms::PXOR, &[s.vector(negated), s.vector(dst), ones], First::Write, 2);
            negated
        })
    }

    /// The mask register for a selection by `mask`.
    fn mask_register(&mut self, mask: Value) -> VReg {
        if let Held::Mask(mask) = self.held(mask) {
            return mask;
        }
        let dst = self.code.new_reg(Class::Mask);
        let parts = self.parts(mask);
        let operands = [Operand::Reg(dst, Width::Mask), self.vector(parts[0])];
        self.op(Opcode::EVEX_Vpmovd2m_kr_zmm, operands, First::Write);
        dst
    }

    fn choose_lanes(&mut self, mask: Value, a: Value, b: Value) -> Held {
        if self.wide() {
            let mask = self.mask_register(mask);
            let dst = self.new_vector();
            let operands = [self.vector(dst), self.source(b, 0), self.source(a, 0)];
            self.form(forms::BLENDMPS, &operands, First::Write, 2);
            if let Some(super::Inst::Op(blend)) = self.code.insts.last_mut() {
                blend.mask = Some(mask);
            }
            return Held::Vector([dst; 2]);
        }
        self.each_part(&[mask, a, b], |s, part| {
            let dst = s.new_vector();
            let mask = s.parts(mask)[part];
            let operands = [s.vector(dst), s.source(b, part), s.source(a, part), s.vector(mask)];
            s.form(forms::BLENDMPS, &operands, First::Write, 2);
            dst
        })
    }

    /// f32 to i32. The instruction gives `i32::MIN` for what does not fit, and for NaN, which has to become 0.
    fn convert_to_ints(&mut self, a: Value) -> Held {
        self.each_part(&[a], |s, part| {
            let (converted, from) = (s.new_vector(), s.parts(a)[part]);
            let from = s.vector(from);
            if s.wide() {
                let number = s.code.new_reg(Class::Mask);
                let operands = [Operand::Reg(number, Width::Mask), from, from, Operand::Imm(ORDERED)];
                s.form(forms::CMPPS, &operands, First::Write, 2);
                let (opcode, _) = forms::CVTPS2DQ.at(true);
                s.masked(opcode, [s.vector(converted), from], First::Write, number);
                return converted;
            }
            let [number, dst] = std::array::from_fn(|_| s.new_vector());
            let operands = [s.vector(number), from, from, Operand::Imm(ORDERED)];
            s.form(forms::CMPPS, &operands, First::Write, 2);
            s.form(forms::CVTPS2DQ, &[s.vector(converted), from], First::Write, 1);
            let operands = [s.vector(dst), s.vector(converted), s.vector(number)];
            s.form(forms::PAND, &operands, First::Write, 2);
            dst
        })
    }
}
