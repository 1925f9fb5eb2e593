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

/// The least byte with both upper bits.
const ESCAPE: Constant = Constant::Splat(0xc0c0_c0c0);

/// The predicate "not less than" of comparisons of integers.
const NOT_LESS: i64 = 5;

impl Select<'_> {
    /// For each byte of `index` the byte of `table` that its lower six bits name.
    pub(super) fn lookup(&mut self, index: Value, table: Table) -> Held {
        self.each_part(&[index], |this, part| {
            if !this.byte_permutes {
                return this.by_quarters(index, part, table);
            }
            let dst = this.new_vector();
            this.permute(dst, index, table, None);
            dst
        })
    }

    /// The same where the two upper bits of the index are set, elsewhere the byte of `other`.
    pub(super) fn lookup_escaped(&mut self, index: Value, other: Value, table: Table) -> Held {
        self.each_part(&[index, other], |this, part| {
            if this.byte_permutes {
                let escapes = this.escapes(index);
                let dst = this.copied(other, part);
                this.permute(dst, index, table, Some(escapes));
                return dst;
            }
            let looked_up = this.by_quarters(index, part, table);
            let other = this.source(other, part);
            if this.wide() {
                let escapes = this.escapes(index);
                return this.blend_by_mask(escapes, other, looked_up);
            }
            // Bit 7 of a byte and of the byte doubled, which is its bit 6.
            let doubled = this.words_left(index, part, 1);
            let both = this.new_vector();
            let operands = [this.vector(both), this.vector(doubled), this.source(index, part)];
            this.form(forms::PAND, &operands, First::Write, 2);
            this.blend_by_bit_7(both, other, looked_up)
        })
    }

    /// `vpermb` into `dst`, where the mask has ones if there is one.
    fn permute(&mut self, dst: VReg, index: Value, table: Table, mask: Option<VReg>) {
        let operands = vec![self.vector(dst), self.source(index, 0), Operand::Constant(Constant::Table(table))];
        self.push(Inst::Op(Op {
            opcode: Opcode::EVEX_Vpermb_zmm_k1z_zmm_zmmm512,
            operands,
            first: if mask.is_some() { First::ReadWrite } else { First::Write },
            memory: Some((2, MemoryForm::Whole)),
            mask,
            zeroing: false,
        }));
    }

    /// The bytes of a zmm with both upper bits, as a mask.
    fn escapes(&mut self, index: Value) -> VReg {
        let root = self.analysis.root(index);
        if let Some(&known) = self.escapes.get(&root) {
            return known;
        }
        let operands = [self.source(index, 0), Operand::Constant(ESCAPE), Operand::Imm(NOT_LESS)];
        let mask = self.mask_of(Opcode::EVEX_Vpcmpub_kr_k1_zmm_zmmm512_imm8, &operands);
        self.escapes.insert(root, mask);
        mask
    }

    /// The mask that an instruction makes of its sources, the second of which may be memory.
    fn mask_of(&mut self, opcode: Opcode, sources: &[Operand]) -> VReg {
        let mask = self.code.new_reg(Class::Mask);
        let operands = std::iter::once(Operand::Reg(mask, Width::Mask)).chain(sources.iter().copied()).collect();
        let memory = Some((2, MemoryForm::Whole));
        self.push(Inst::Op(Op { opcode, operands, first: First::Write, memory, mask: None, zeroing: false }));
        mask
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
        if self.wide() {
            let word = u32::from_le_bytes([1 << bit; 4]);
            let operands = [self.source(index, part), Operand::Constant(Constant::Splat(word))];
            let mask = self.mask_of(Opcode::EVEX_Vptestmb_kr_k1_zmm_zmmm512, &operands);
            let clear = self.vector(clear);
            return self.blend_by_mask(mask, clear, set);
        }
        let moved = self.words_left(index, part, 7 - bit);
        let clear = self.vector(clear);
        self.blend_by_bit_7(moved, clear, set)
    }

    /// Words shifted left, which bring a lower bit of a byte to its highest place.
    fn words_left(&mut self, v: Value, part: usize, bits: u8) -> VReg {
        let dst = self.new_vector();
        let operands = [self.vector(dst), self.source(v, part), Operand::Imm(bits.into())];
        self.form(forms::PSLLW, &operands, First::Write, 1);
        dst
    }

    fn blend_by_mask(&mut self, mask: VReg, clear: Operand, set: VReg) -> VReg {
        let dst = self.new_vector();
        let operands = [self.vector(dst), clear, self.vector(set)];
        self.form(forms::BLENDMB, &operands, First::Write, 2);
        if let Some(Inst::Op(blend)) = self.code.insts.last_mut() {
            blend.mask = Some(mask);
        }
        dst
    }

    fn blend_by_bit_7(&mut self, bits: VReg, clear: Operand, set: VReg) -> VReg {
        let dst = self.new_vector();
        let operands = [self.vector(dst), clear, self.vector(set), self.vector(bits)];
        self.form(forms::BLENDMB, &operands, First::Write, 2);
        dst
    }
}
