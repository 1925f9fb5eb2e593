//! Sums of products of bytes.

use super::super::forms;
use super::super::mach::{Constant, First, Operand, VReg};
use super::{Held, Parts, Select};
use crate::kir::Value;

/// 16 times the word 1.
const ONES: Constant = Constant::Splat(0x0001_0001);

/// 64 times the byte 127.
const LOW_BITS: Constant = Constant::Splat(0x7f7f_7f7f);

/// 64 times the byte 128, which as an exclusive or adds 128 to a signed byte and makes it unsigned.
const OFFSET: Constant = Constant::Splat(0x8080_8080);

impl Select<'_> {
    /// `acc` plus four products of unsigned bytes (at most `u_max`) and signed bytes.
    pub(super) fn dot_u8i8(&mut self, acc: Value, u: Value, s: Value, u_max: u8) -> Held {
        if self.level.vnni() {
            return self.each_part(&[acc, u, s], |this, part| {
                let dst = this.copied(acc, part);
                let operands = [this.vector(dst), this.source(u, part), this.source(s, part)];
                this.form(forms::PDPBUSD, &operands, First::ReadWrite, 2);
                dst
            });
        }
        if u_max > 128 {
            return self.dot_split(acc, u, s);
        }
        // Two products of a word are between -2*128*128 and 2*128*127: nothing saturates.
        self.each_part(&[acc, u, s], |this, part| {
            let [pairs, quads] = std::array::from_fn(|_| this.new_vector());
            let operands = [this.vector(pairs), this.source(u, part), this.source(s, part)];
            this.form(forms::PMADDUBSW, &operands, First::Write, 2);
            let operands = [this.vector(quads), this.vector(pairs), Operand::Constant(ONES)];
            this.form(forms::PMADDWD, &operands, First::Write, 2);
            // Into the accumulator's own register, so that it stays in one for the length of a loop.
            let dst = this.copied(acc, part);
            let operands = [this.vector(dst), this.vector(dst), this.vector(quads)];
            this.form(forms::PADDD, &operands, First::Write, 2);
            dst
        })
    }

    /// `acc` plus four products of unsigned bytes and signed bytes, the lower seven bits and the highest bit of `u` apart,
    /// so that the two products of a word never saturate.
    fn dot_split(&mut self, acc: Value, u: Value, s: Value) -> Held {
        self.each_part(&[acc, u, s], |this, part| {
            let mut sum = this.source(acc, part);
            let mut dst = None;
            for bits in [LOW_BITS, OFFSET] {
                let [masked, pairs, quads, next] = std::array::from_fn(|_| this.new_vector());
                let operands = [this.vector(masked), this.source(u, part), Operand::Constant(bits)];
                this.form(forms::PAND, &operands, First::Write, 2);
                let operands = [this.vector(pairs), this.vector(masked), this.source(s, part)];
                this.form(forms::PMADDUBSW, &operands, First::Write, 2);
                let operands = [this.vector(quads), this.vector(pairs), Operand::Constant(ONES)];
                this.form(forms::PMADDWD, &operands, First::Write, 2);
                this.form(forms::PADDD, &[this.vector(next), this.vector(quads), sum], First::Write, 2);
                sum = this.vector(next);
                dst = Some(next);
            }
            dst.unwrap_or_else(|| this.new_vector())
        })
    }

    /// `acc` plus four products of signed bytes.
    pub(super) fn dot_i8i8(&mut self, acc: Value, a: Value, b: Value) -> Held {
        if !self.level.vnni() {
            return self.dot_words(acc, a, b);
        }
        // (a + 128) * b - 128 * b. What is subtracted depends on one factor only, which is the one that is read more
        // often, so that its products share it.
        let (u, s) = if self.analysis.reads(a) > self.analysis.reads(b) { (b, a) } else { (a, b) };
        let excess = self.excess(s);
        self.each_part(&[acc, u, s], |this, part| {
            let unsigned = this.new_vector();
            let operands = [this.vector(unsigned), this.source(u, part), Operand::Constant(OFFSET)];
            this.form(forms::PXOR, &operands, First::Write, 2);
            let sum = this.copied(acc, part);
            let operands = [this.vector(sum), this.vector(unsigned), this.source(s, part)];
            this.form(forms::PDPBUSD, &operands, First::ReadWrite, 2);
            let dst = this.new_vector();
            let operands = [this.vector(dst), this.vector(sum), this.vector(excess[part])];
            this.form(forms::PSUBD, &operands, First::Write, 2);
            dst
        })
    }

    /// 128 times the sums of four signed bytes.
    fn excess(&mut self, s: Value) -> Parts {
        let root = self.analysis.root(s);
        if let Some(&known) = self.excess.get(&root) {
            return known;
        }
        let held = self.each_part(&[s], |this, part| {
            let dst = this.new_vector();
            this.push(super::Inst::Constant { dst, constant: Constant::Splat(0) });
            let operands = [this.vector(dst), Operand::Constant(OFFSET), this.source(s, part)];
            this.form(forms::PDPBUSD, &operands, First::ReadWrite, 2);
            dst
        });
        let parts = match held {
            Held::Vector(parts) => parts,
            _ => self.new_parts(),
        };
        self.excess.insert(root, parts);
        parts
    }

    /// By words: the even and the odd bytes, sign-extended in place.
    fn dot_words(&mut self, acc: Value, a: Value, b: Value) -> Held {
        self.each_part(&[acc, a, b], |this, part| {
            let [a, b] = [a, b].map(|v| {
                let reg = this.parts(v)[part];
                let shifted = this.shift_words(forms::PSLLW, reg);
                [this.shift_words(forms::PSRAW, shifted), this.shift_words(forms::PSRAW, reg)]
            });
            let mut sum = this.source(acc, part);
            for (a, b) in a.into_iter().zip(b) {
                let (products, next) = (this.new_vector(), this.new_vector());
                let operands = [this.vector(products), this.vector(a), this.vector(b)];
                this.form(forms::PMADDWD, &operands, First::Write, 2);
                this.form(forms::PADDD, &[this.vector(next), this.vector(products), sum], First::Write, 2);
                sum = this.vector(next);
            }
            match sum {
                Operand::Reg(reg, _) => reg,
                _ => this.new_vector(),
            }
        })
    }

    /// Every word shifted by a byte.
    fn shift_words(&mut self, form: forms::Form, v: VReg) -> VReg {
        let dst = self.new_vector();
        let operands = [self.vector(dst), self.vector(v), Operand::Imm(8)];
        self.form(form, &operands, First::Write, 1);
        dst
    }
}
