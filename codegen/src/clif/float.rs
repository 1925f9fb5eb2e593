//! f32 ops that an instruction set lacks, and the conversions between f32 and f16.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, types};

use super::lower::Lower;

impl Lower<'_> {
    /// `if a > b { a } else { b }`: `maxps` on x86-64, which takes the second operand for NaN and for zeros.
    pub(super) fn fmax_gt(&mut self, a: ir::Value, b: ir::Value) -> ir::Value {
        self.pick(b, a, a, b)
    }

    /// `if a < b { a } else { b }`: `minps` on x86-64.
    pub(super) fn fmin_lt(&mut self, a: ir::Value, b: ir::Value) -> ir::Value {
        self.pick(a, b, a, b)
    }

    /// `if x < y { a } else { b }`, in the form that Cranelift recognises as `minps` and `maxps`.
    fn pick(&mut self, x: ir::Value, y: ir::Value, a: ir::Value, b: ir::Value) -> ir::Value {
        let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
        let less = self.cast(types::F32X4, less);
        self.b.ins().bitselect(less, a, b)
    }

    /// f32 to i32, half to even; NaN gives 0 and what does not fit `i32::MIN`.
    pub(super) fn cvt_f32_i32(&mut self, a: ir::Value) -> ir::Value {
        let whole = self.b.ins().nearest(a);
        if self.features.x86 {
            // The conversion gives i32::MIN for NaN and for all that does not fit.
            let converted = self.b.ins().x86_cvtt2dq(types::I32X4, whole);
            let number = self.b.ins().fcmp(FloatCC::Ordered, a, a);
            self.b.ins().band(converted, number)
        } else {
            // The conversion gives 0 for NaN and saturates: i32::MAX from above is turned into i32::MIN.
            let converted = self.b.ins().fcvt_to_sint_sat(types::I32X4, whole);
            let limit = self.dwords(types::F32X4, 2147483648f32.to_bits());
            let above = self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, whole, limit);
            self.b.ins().bxor(converted, above)
        }
    }

    /// `a * b + c` with one rounding.
    pub(super) fn fma(&mut self, a: ir::Value, b: ir::Value, c: ir::Value) -> ir::Value {
        if self.features.fma {
            return self.b.ins().fma(a, b, c);
        }
        let low = self.fma_low(a, b, c);
        let [a, b, c] = [a, b, c].map(|v| self.permute(v, [2, 3, 2, 3]));
        let high = self.fma_low(a, b, c);
        self.low_halves(low, high)
    }

    /// `a * b + c` of the two low lanes, through f64.
    ///
    /// The product of two f32 is exact in f64. Its sum with `c` is rounded to odd (an inexact sum has its last bit set),
    /// which keeps what the rounding to f32 needs to know: f64 has more than two bits more than f32, so the second
    /// rounding gives what a single one would have given.
    fn fma_low(&mut self, a: ir::Value, b: ir::Value, c: ir::Value) -> ir::Value {
        let [a, b, c] = [a, b, c].map(|v| self.b.ins().fvpromote_low(v));
        let product = self.b.ins().fmul(a, b);
        let sum = self.b.ins().fadd(product, c);
        // TwoSum (Knuth): product + c = sum + error, exactly. The error of an infinite sum is NaN.
        let c_share = self.b.ins().fsub(sum, product);
        let product_share = self.b.ins().fsub(sum, c_share);
        let product_error = self.b.ins().fsub(product, product_share);
        let c_error = self.b.ins().fsub(c, c_share);
        let error = self.b.ins().fadd(product_error, c_error);
        // The sign of sum * error says whether the sum was rounded away from zero (negative) or towards it. All
        // magnitudes are between 2^-298 and 2^257, so the product neither underflows nor overflows; zero and NaN mean
        // that nothing is to be done.
        let zero = self.constant(types::F64X2, vec![0; 16]);
        let direction = self.b.ins().fmul(sum, error);
        let away = self.b.ins().fcmp(FloatCC::LessThan, direction, zero);
        let towards = self.b.ins().fcmp(FloatCC::GreaterThan, direction, zero);
        let inexact = self.b.ins().bor(away, towards);
        let bits = self.cast(types::I64X2, sum);
        // `away` is -1 where the sum has to be truncated to its predecessor in magnitude.
        let truncated = self.b.ins().iadd(bits, away);
        let one = self.constant(types::I64X2, [1, 0, 0, 0, 0, 0, 0, 0].repeat(2));
        let sticky = self.b.ins().band(inexact, one);
        let odd = self.b.ins().bor(truncated, sticky);
        let odd = self.cast(types::F64X2, odd);
        self.b.ins().fvdemote(odd)
    }

    /// Four f16, sign-extended to dwords, to f32.
    ///
    /// Exponent and fraction, moved into the place of those of an f32, mean the number times 2^-112, for subnormals
    /// too; the multiplication undoes that exactly.
    pub(super) fn f16_to_f32(&mut self, words: ir::Value, finite: bool) -> ir::Value {
        let moved = self.shift(words, 13, |b, a, n| b.ins().ishl(a, n));
        let keep = self.dwords(types::I32X4, 0x8fff_e000);
        let scaled = self.b.ins().band(moved, keep);
        let scaled = self.cast(types::F32X4, scaled);
        let factor = self.dwords(types::F32X4, (127 + 112) << 23);
        let number = self.b.ins().fmul(scaled, factor);
        if finite {
            return number;
        }
        let magnitude = self.dwords(types::I32X4, 0x0fff_e000);
        let magnitude = self.b.ins().band(moved, magnitude);
        let largest = self.dwords(types::I32X4, 0x0f7f_ffff);
        let special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);
        let exponent = self.dwords(types::I32X4, 0x7f80_0000);
        let exponent = self.b.ins().band(special, exponent);
        let number = self.cast(types::I32X4, number);
        let fixed = self.b.ins().bor(number, exponent);
        self.cast(types::F32X4, fixed)
    }

    /// Four f32 to f16, to nearest even, in the low halves of dwords (the high halves are zero).
    pub(super) fn f32_to_f16(&mut self, v: ir::Value) -> ir::Value {
        let bits = self.cast(types::I32X4, v);
        let magnitude_mask = self.dwords(types::I32X4, 0x7fff_ffff);
        let magnitude = self.b.ins().band(bits, magnitude_mask);

        // Normal results: move the exponent's bias from 127 to 15 and round half to even, carrying into the exponent
        // (which also makes infinity out of what rounds up to 2^16).
        let odd = self.shift(magnitude, 13, |b, a, n| b.ins().ushr(a, n));
        let one = self.dwords(types::I32X4, 1);
        let odd = self.b.ins().band(odd, one);
        let rebias = self.dwords(types::I32X4, (15u32.wrapping_sub(127) << 23).wrapping_add(0xfff));
        let normal = self.b.ins().iadd(magnitude, rebias);
        let normal = self.b.ins().iadd(normal, odd);
        let normal = self.shift(normal, 13, |b, a, n| b.ins().ushr(a, n));

        // Subnormal results: adding 0.5 shifts the fraction to its place, rounding half to even.
        let half_bits = 0.5f32.to_bits();
        let half = self.dwords(types::F32X4, half_bits);
        let value = self.cast(types::F32X4, magnitude);
        let subnormal = self.b.ins().fadd(value, half);
        let subnormal = self.cast(types::I32X4, subnormal);
        let half = self.dwords(types::I32X4, half_bits);
        let subnormal = self.b.ins().isub(subnormal, half);

        // From 2^16 up: infinity, or a quiet NaN.
        let infinity = self.dwords(types::I32X4, 0x7f80_0000);
        let nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let quiet = self.dwords(types::I32X4, 0x0200);
        let quiet = self.b.ins().band(nan, quiet);
        let infinite = self.dwords(types::I32X4, 0x7c00);
        let special = self.b.ins().bor(infinite, quiet);

        let smallest_normal = self.dwords(types::I32X4, 113 << 23);
        let is_subnormal = self.b.ins().icmp(IntCC::SignedLessThan, magnitude, smallest_normal);
        let largest = self.dwords(types::I32X4, (143 << 23) - 1);
        let is_special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);
        let finite = self.select(is_subnormal, subnormal, normal);
        let unsigned = self.select(is_special, special, finite);
        let sign = self.b.ins().bxor(bits, magnitude);
        let sign = self.shift(sign, 16, |b, a, n| b.ins().ushr(a, n));
        self.b.ins().bor(unsigned, sign)
    }
}
