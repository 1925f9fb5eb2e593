//! Look-ups of bytes in tables of 64.
//!
//! With AVX-512 VBMI one instruction takes the whole table (`vpermb`); without, the table is looked up in quarters of 16
//! within 128 bits (`vpshufb`), and bits 4 and 5 of the index choose among the four results.

use iced_x86::Code as Opcode;

use super::super::forms;
use super::super::mach::{
    Class, Constant, First, Inst, Memory, MemoryForm, Op, Operand, Place, PoolEntry, VReg, Width,
};
use super::{Held, Select};
use crate::kir::{Table, Value};

/// The bits that name a byte of a quarter.
const LOW_BITS: Constant = Constant::Splat(0x0f0f_0f0f);

impl Select<'_> {
    /// For each byte of `index` the byte of `table` that its lower six bits name.
    pub(super) fn lookup(&mut self, index: Value, table: Table) -> Held {
        self.each_part(&[index], |this, part| {
            if !this.byte_permutes {
                return this.by_quarters(index, part, table);
            }
            let dst = this.new_vector();
            let operands =
                vec![this.vector(dst), this.source(index, part), Operand::Constant(Constant::Table(table))];
            this.plain(Opcode::EVEX_Vpermb_zmm_k1z_zmm_zmmm512, operands);
            dst
        })
    }

    /// An instruction that writes its first operand and whose third may be memory.
    fn plain(&mut self, opcode: Opcode, operands: Vec<Operand>) {
        let memory = Some((2, MemoryForm::Whole));
        self.push(Inst::Op(Op { opcode, operands, first: First::Write, memory, mask: None, zeroing: false }));
    }

    fn by_quarters(&mut self, index: Value, part: usize, table: Table) -> VReg {
        let low = self.new_vector();
        let operands = [self.vector(low), self.source(index, part), Operand::Constant(LOW_BITS)];
        self.form(forms::PAND, &operands, First::Write, 2);
        let [lower, upper] = [[0, 1], [2, 3]].map(|pair| {
            let [a, b] = pair.map(|quarter| self.shuffled(Constant::Quarter(table, quarter), low));
            self.by_index_bit(index, part, 4, a, b)
        });
        self.by_index_bit(index, part, 5, lower, upper)
    }

    /// The bytes of a quarter that `low` names. The quarter is loaded here: it is needed once, and the registers are not.
    fn shuffled(&mut self, quarter: Constant, low: VReg) -> VReg {
        let lanes = if self.wide() { 16 } else { 8 };
        let from = Memory { place: Place::Pool(PoolEntry::Vector(quarter, lanes)), broadcast: false };
        let (loaded, dst) = (self.new_vector(), self.new_vector());
        let operands = [self.vector(loaded), Operand::Memory(from)];
        self.form(forms::MOVUPS, &operands, First::Write, 1);
        let operands = [self.vector(dst), self.vector(loaded), self.vector(low)];
        self.form(forms::PSHUFB, &operands, First::Write, 2);
        dst
    }

    /// Bytes of `set` where bit `bit` of the index is set, else of `clear`.
    fn by_index_bit(&mut self, index: Value, part: usize, bit: u8, clear: VReg, set: VReg) -> VReg {
        let dst = self.new_vector();
        let mut operands = vec![self.vector(dst), self.vector(clear), self.vector(set)];
        if self.wide() {
            let mask = self.code.new_reg(Class::Mask);
            let word = Constant::Splat(u32::from_le_bytes([1 << bit; 4]));
            let sources =
                vec![Operand::Reg(mask, Width::Mask), self.source(index, part), Operand::Constant(word)];
            self.plain(Opcode::EVEX_Vptestmb_kr_k1_zmm_zmmm512, sources);
            self.form(forms::BLENDMB, &operands, First::Write, 2);
            if let Some(Inst::Op(blend)) = self.code.insts.last_mut() {
                blend.mask = Some(mask);
            }
            return dst;
        }
        // The highest bit of each byte decides. Words shifted left bring the bit there.
        let moved = self.new_vector();
        let shift = [self.vector(moved), self.source(index, part), Operand::Imm((7 - bit).into())];
        self.form(forms::PSLLW, &shift, First::Write, 1);
        operands.push(self.vector(moved));
        self.form(forms::BLENDMB, &operands, First::Write, 2);
        dst
    }
}
