//! Sums of products of bytes, for each instruction set.
//!
//! CLIF has no such op. The tree of widenings, products and pairwise sums that defines it is recognised by Cranelift
//! and becomes one instruction, but only in the exact form, which differs by architecture: on x86-64 the signed operand
//! comes first in each product (`vpdpbusd`), on aarch64 the unsigned one (`usdot`); `sdot` wants both sign-extended.

use cranelift_codegen::ir::{self, InstBuilder, types};

use super::isa::DotIsa;
use super::lower::Lower;

/// How an operand of a product is widened.
#[derive(Clone, Copy)]
enum Widen {
    Signed,
    Unsigned,
}

impl Lower<'_> {
    /// `acc` plus four products `u * s` per dword, with every byte of `u` at most `u_max`.
    pub(super) fn dot_u8i8(&mut self, acc: ir::Value, u: ir::Value, s: ir::Value, u_max: u8) -> ir::Value {
        use Widen::{Signed, Unsigned};
        match self.features.dot {
            DotIsa::Vnni => self.dot_tree(acc, (s, Signed), (u, Unsigned)),
            DotIsa::I8mm | DotIsa::Neon => self.dot_tree(acc, (u, Unsigned), (s, Signed)),
            DotIsa::Maddubs if u_max <= 128 => self.dot_maddubs(acc, u, s),
            DotIsa::Maddubs => {
                let (low, high) = (
                    self.constant(types::I8X16, vec![0x7f; 16]),
                    self.constant(types::I8X16, vec![0x80; 16]),
                );
                let (low, high) = (self.b.ins().band(u, low), self.b.ins().band(u, high));
                let acc = self.dot_maddubs(acc, low, s);
                self.dot_maddubs(acc, high, s)
            }
            DotIsa::Dotprod if u_max <= 127 => self.dot_tree(acc, (u, Signed), (s, Signed)),
            DotIsa::Dotprod => self.dot_offset(acc, u, s, (Signed, Signed)),
        }
    }

    /// `acc` plus four products `u * s` per dword for `u` up to 128: two products of one lane of `pmaddubsw` are between
    /// -2*128*128 and 2*128*127, so nothing saturates.
    fn dot_maddubs(&mut self, acc: ir::Value, u: ir::Value, s: ir::Value) -> ir::Value {
        let pairs = self.b.ins().x86_pmaddubsw(s, u);
        let ones = self.constant(types::I16X8, [1, 0].repeat(8));
        let quads = self.madd_words(pairs, ones);
        self.b.ins().iadd(acc, quads)
    }

    /// `acc` plus four products `a * b` of signed bytes per dword.
    pub(super) fn dot_i8i8(&mut self, acc: ir::Value, a: ir::Value, b: ir::Value) -> ir::Value {
        use Widen::{Signed, Unsigned};
        match self.features.dot {
            DotIsa::I8mm | DotIsa::Dotprod | DotIsa::Neon => self.dot_tree(acc, (a, Signed), (b, Signed)),
            DotIsa::Vnni => {
                // (a + 128) * b - 128 * b, the first factor unsigned.
                let offset = self.constant(types::I8X16, vec![0x80; 16]);
                let u = self.b.ins().bxor(a, offset);
                let sum = self.dot_tree(acc, (b, Signed), (u, Unsigned));
                let zero = self.dwords(types::I32X4, 0);
                let excess = self.dot_tree(zero, (b, Signed), (offset, Unsigned));
                self.b.ins().isub(sum, excess)
            }
            DotIsa::Maddubs => {
                let (a_low, b_low) = (self.b.ins().swiden_low(a), self.b.ins().swiden_low(b));
                let (a_high, b_high) = (self.b.ins().swiden_high(a), self.b.ins().swiden_high(b));
                let (low, high) = (self.madd_words(a_low, b_low), self.madd_words(a_high, b_high));
                let quads = self.b.ins().iadd_pairwise(low, high);
                self.b.ins().iadd(acc, quads)
            }
        }
    }

    /// `acc + u * s` for all unsigned bytes where only signed factors are multiplied: (u - 128) * s + 64 * s + 64 * s.
    fn dot_offset(&mut self, acc: ir::Value, u: ir::Value, s: ir::Value, widen: (Widen, Widen)) -> ir::Value {
        let offset = self.constant(types::I8X16, vec![0x80; 16]);
        let shifted = self.b.ins().bxor(u, offset);
        let sum = self.dot_tree(acc, (shifted, widen.0), (s, widen.1));
        let half = self.constant(types::I8X16, vec![64; 16]);
        let zero = self.dwords(types::I32X4, 0);
        let deficit = self.dot_tree(zero, (half, widen.0), (s, widen.1));
        let deficit = self.dot_tree(deficit, (half, widen.0), (s, widen.1));
        self.b.ins().iadd(sum, deficit)
    }

    /// `pmaddwd`: products of words, neighbours added.
    fn madd_words(&mut self, x: ir::Value, y: ir::Value) -> ir::Value {
        let (x_low, y_low) = (self.b.ins().swiden_low(x), self.b.ins().swiden_low(y));
        let (x_high, y_high) = (self.b.ins().swiden_high(x), self.b.ins().swiden_high(y));
        let (low, high) = (self.b.ins().imul(x_low, y_low), self.b.ins().imul(x_high, y_high));
        self.b.ins().iadd_pairwise(low, high)
    }

    fn dot_tree(&mut self, acc: ir::Value, x: (ir::Value, Widen), y: (ir::Value, Widen)) -> ir::Value {
        let low = {
            let (x, y) = (self.widen(x, false), self.widen(y, false));
            self.b.ins().imul(x, y)
        };
        let high = {
            let (x, y) = (self.widen(x, true), self.widen(y, true));
            self.b.ins().imul(x, y)
        };
        let low = self.add_pairs(low);
        let high = self.add_pairs(high);
        let quads = self.b.ins().iadd_pairwise(low, high);
        self.b.ins().iadd(quads, acc)
    }

    fn add_pairs(&mut self, words: ir::Value) -> ir::Value {
        let (low, high) = (self.b.ins().swiden_low(words), self.b.ins().swiden_high(words));
        self.b.ins().iadd_pairwise(low, high)
    }

    fn widen(&mut self, (bytes, widen): (ir::Value, Widen), high: bool) -> ir::Value {
        match (widen, high) {
            (Widen::Signed, false) => self.b.ins().swiden_low(bytes),
            (Widen::Signed, true) => self.b.ins().swiden_high(bytes),
            (Widen::Unsigned, false) => self.b.ins().uwiden_low(bytes),
            (Widen::Unsigned, true) => self.b.ins().uwiden_high(bytes),
        }
    }
}
