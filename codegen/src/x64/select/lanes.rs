//! Ops that move data between lanes, or between lanes and integers.

use iced_x86::Code as Opcode;

use super::super::forms::{self, Form, Narrow};
use super::super::mach::{Class, Constant, First, Operand, VReg, Width};
use super::{Held, Select};
use crate::kir::{LANES, Value};

impl Select<'_> {
    /// An integer's low dword in all lanes.
    pub(super) fn splat_int(&mut self, a: Value) -> Held {
        let (dst, from) = (self.new_vector(), self.int(a));
        let from = Operand::Reg(from, Width::B32);
        if self.wide() {
            self.op(Opcode::EVEX_Vpbroadcastd_zmm_k1z_r32, [self.vector(dst), from], First::Write);
        } else {
            let low = Operand::Reg(self.new_vector(), Width::Xmm);
            self.op(Opcode::VEX_Vmovd_xmm_rm32, [low, from], First::Write);
            self.form(forms::PBROADCASTD, &[self.vector(dst), low], First::Write, 1);
        }
        Held::Vector([dst; 2])
    }

    /// The lowest lane of `v` in all lanes.
    fn splat_lowest(&mut self, v: VReg) -> Held {
        let dst = self.new_vector();
        let low = Operand::Reg(v, Width::Xmm);
        self.form(forms::BROADCASTSS, &[self.vector(dst), low], First::Write, 1);
        Held::Vector([dst; 2])
    }

    /// The register that holds a lane, and the lane's number in it.
    fn locate(&mut self, v: Value, lane: u8) -> (VReg, u8) {
        let parts = self.parts(v);
        match self.wide() {
            true => (parts[0], lane),
            false => (parts[usize::from(lane) / (LANES / 2)], lane % (LANES as u8 / 2)),
        }
    }

    pub(super) fn splat_lane(&mut self, v: Value, lane: u8) -> Held {
        let (reg, lane) = self.locate(v, lane);
        if lane == 0 {
            return self.splat_lowest(reg);
        }
        let dst = self.new_vector();
        let indices = Operand::Constant(Constant::Splat(lane.into()));
        let operands = [self.vector(dst), indices, self.vector(reg)];
        self.form(forms::PERMPS, &operands, First::Write, 2);
        Held::Vector([dst; 2])
    }

    /// A lane, sign-extended.
    pub(super) fn extract(&mut self, v: Value, lane: u8) -> VReg {
        let (reg, lane) = self.locate(v, lane);
        let quarter = match lane / 4 {
            0 => reg,
            quarter => {
                let dst = self.new_vector();
                let operands =
                    [Operand::Reg(dst, Width::Xmm), self.vector(reg), Operand::Imm(quarter.into())];
                let width = if self.wide() { Width::Xmm } else { Width::Ymm };
                self.op(forms::EXTRACT128.at(self.wide(), width), operands, First::Write);
                dst
            }
        };
        let (word, result) = (self.code.new_reg(Class::General), self.code.new_reg(Class::General));
        let opcode = match self.wide() {
            true => Opcode::EVEX_Vpextrd_rm32_xmm_imm8,
            false => Opcode::VEX_Vpextrd_rm32_xmm_imm8,
        };
        let word = Operand::Reg(word, Width::B32);
        let operands = [word, Operand::Reg(quarter, Width::Xmm), Operand::Imm((lane % 4).into())];
        self.op(opcode, operands, First::Write);
        let operands = [Operand::Reg(result, Width::B64), word];
        self.op(Opcode::Movsxd_r64_rm32, operands, First::Write);
        result
    }

    /// The fixed tree: `l[i] = f(l[i + d], l[i])` for d = 8, 4, 2, 1; lane 0 in all lanes. For the maximum the order of
    /// the operands matters: the second is kept where neither is greater.
    pub(super) fn reduce(&mut self, v: Value, form: Form, narrow: Narrow) -> Held {
        let wide = self.wide();
        let parts = self.parts(v);
        let eight = self.new_vector();
        if wide {
            let upper = Operand::Reg(self.new_vector(), Width::Ymm);
            let operands = [upper, self.vector(parts[0]), Operand::Imm(1)];
            self.op(Opcode::EVEX_Vextractf32x8_ymmm256_k1z_zmm_imm8, operands, First::Write);
            let operands = [Operand::Reg(eight, Width::Ymm), upper, Operand::Reg(parts[0], Width::Ymm)];
            self.op(narrow.at(true, Width::Ymm), operands, First::Write);
        } else {
            let operands = [self.vector(eight), self.vector(parts[1]), self.vector(parts[0])];
            self.form(form, &operands, First::Write, 2);
        }
        let (upper, four) = (self.new_vector(), self.new_vector());
        let operands = [Operand::Reg(upper, Width::Xmm), Operand::Reg(eight, Width::Ymm), Operand::Imm(1)];
        self.op(forms::EXTRACT128.at(wide, Width::Ymm), operands, First::Write);
        let xmm = |reg| Operand::Reg(reg, Width::Xmm);
        self.op(narrow.at(wide, Width::Xmm), [xmm(four), xmm(upper), xmm(eight)], First::Write);
        let mut low = four;
        // Lanes 2 and 3 to the places of 0 and 1, then lane 1 to the place of 0.
        for order in [0b11_10_11_10, 0b01_01_01_01] {
            let (moved, next) = (self.new_vector(), self.new_vector());
            let operands = [xmm(moved), xmm(low), Operand::Imm(order)];
            self.op(forms::NARROW_PERMILPS.at(wide, Width::Xmm), operands, First::Write);
            self.op(narrow.at(wide, Width::Xmm), [xmm(next), xmm(moved), xmm(low)], First::Write);
            low = next;
        }
        self.splat_lowest(low)
    }
}
