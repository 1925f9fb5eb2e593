//! Kernel IR to CLIF: control flow, integers and the ops that are the same on every instruction set.
//!
//! Virtual vectors are kept as four CLIF values, `f32x4`, `i32x4` or `i8x16` by their kernel IR type. Loops are
//! emitted with the test at the bottom and, unless both bounds are constants, a guard in front.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    self, AbiParam, Block, BlockArg, ConstantData, Function, InstBuilder, MemFlagsData, UserFuncName, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::isa::Features;
use crate::kir::{self, FloatCond, IntCond, Kernel, LANES, Op, Stmt, Type};

/// 128-bit parts of a virtual vector.
pub(super) const PARTS: usize = 4;

/// The parts of a vector; an integer is in the first.
pub(super) type Parts = [ir::Value; PARTS];

/// Lowers a verified kernel into `func`.
pub(super) fn lower(
    kernel: &Kernel,
    features: Features,
    isa: &dyn TargetIsa,
    func: &mut Function,
    ctx: &mut FunctionBuilderContext,
) {
    func.name = UserFuncName::default();
    func.signature = ir::Signature::new(isa.default_call_conv());
    func.signature.params.push(AbiParam::new(types::I64));
    let mut b = FunctionBuilder::new(func, ctx);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let args = b.block_params(entry)[0];
    let mut lower = Lower { b, kernel, features, values: vec![[args; PARTS]; kernel.types.len()] };
    for (i, param) in (0..).zip(&kernel.params) {
        let word = lower.b.ins().load(types::I64, memory_flags(), args, 8 * i);
        lower.values[param.value.index()] = [word; PARTS];
    }
    lower.block(&kernel.body);
    lower.b.ins().return_(&[]);
    lower.b.finalize(isa.frontend_config());
}

/// Accesses never fault (the caller vouches for the buffers) and need no alignment.
pub(super) fn memory_flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// CLIF type of a value, or of one part of it.
fn clif_type(ty: Type) -> ir::Type {
    match ty {
        Type::I64 => types::I64,
        Type::Vf => types::F32X4,
        Type::Vi => types::I32X4,
        Type::Vb => types::I8X16,
    }
}

fn int_cc(cond: IntCond) -> IntCC {
    match cond {
        IntCond::Eq => IntCC::Equal,
        IntCond::Ne => IntCC::NotEqual,
        IntCond::Lt => IntCC::SignedLessThan,
        IntCond::Le => IntCC::SignedLessThanOrEqual,
        IntCond::Gt => IntCC::SignedGreaterThan,
        IntCond::Ge => IntCC::SignedGreaterThanOrEqual,
    }
}

fn float_cc(cond: FloatCond) -> FloatCC {
    match cond {
        FloatCond::Eq => FloatCC::Equal,
        FloatCond::Lt => FloatCC::LessThan,
        FloatCond::Le => FloatCC::LessThanOrEqual,
        FloatCond::Gt => FloatCC::GreaterThan,
        FloatCond::Ge => FloatCC::GreaterThanOrEqual,
        FloatCond::Ord => FloatCC::Ordered,
        FloatCond::Uno => FloatCC::Unordered,
    }
}

/// State of one lowering.
pub(super) struct Lower<'a> {
    pub(super) b: FunctionBuilder<'a>,
    pub(super) kernel: &'a Kernel,
    pub(super) features: Features,
    values: Vec<Parts>,
}

impl Lower<'_> {
    pub(super) fn int(&self, value: kir::Value) -> ir::Value {
        self.values[value.index()][0]
    }

    pub(super) fn parts(&self, value: kir::Value) -> Parts {
        self.values[value.index()]
    }

    /// The CLIF values that hold `value`: one for an integer, four for a vector.
    fn flat(&self, value: kir::Value) -> &[ir::Value] {
        let n = if self.kernel.types[value.index()].is_vector() { PARTS } else { 1 };
        &self.values[value.index()][..n]
    }

    fn flat_args(&self, values: impl Iterator<Item = kir::Value>) -> Vec<BlockArg> {
        values.flat_map(|v| self.flat(v).iter().map(|&v| BlockArg::Value(v)).collect::<Vec<_>>()).collect()
    }

    /// Gives `value` fresh parameters of `block`.
    fn bind_params(&mut self, block: Block, value: kir::Value) {
        let ty = self.kernel.types[value.index()];
        let n = if ty.is_vector() { PARTS } else { 1 };
        for part in 0..n {
            self.values[value.index()][part] = self.b.append_block_param(block, clif_type(ty));
        }
    }

    fn constant_of(&self, value: kir::Value) -> Option<i64> {
        let inst = self.b.func.dfg.value_def(self.int(value)).inst()?;
        match self.b.func.dfg.insts[inst] {
            ir::InstructionData::UnaryImm { opcode: ir::Opcode::Iconst, imm } => Some(imm.bits()),
            _ => None,
        }
    }

    fn block(&mut self, block: &kir::Block) {
        for stmt in &block.stmts {
            match stmt {
                Stmt::Op { result, op } => {
                    let parts = self.op(op);
                    if let Some(result) = result {
                        self.values[result.index()] = parts;
                    }
                }
                Stmt::Loop(l) => self.loop_stmt(l),
                Stmt::If(i) => self.if_stmt(i),
            }
        }
    }

    fn loop_stmt(&mut self, l: &kir::Loop) {
        let (lo, hi) = (self.int(l.lo), self.int(l.hi));
        let certain =
            matches!((self.constant_of(l.lo), self.constant_of(l.hi)), (Some(lo), Some(hi)) if lo < hi);
        let inits = self.flat_args(l.carries.iter().map(|c| c.init));
        let (body, exit) = (self.b.create_block(), self.b.create_block());
        self.bind_params(body, l.index);
        for carry in &l.carries {
            self.bind_params(body, carry.param);
        }
        for carry in &l.carries {
            self.bind_params(exit, carry.result);
        }
        let enter: Vec<_> = std::iter::once(BlockArg::Value(lo)).chain(inits.iter().copied()).collect();
        if certain {
            self.b.ins().jump(body, &enter);
        } else {
            let runs = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
            self.b.ins().brif(runs, body, &enter, exit, &inits);
        }
        self.b.switch_to_block(body);
        self.block(&l.body);
        let index = self.int(l.index);
        let step = self.b.ins().iconst(types::I64, l.step);
        let next = self.b.ins().iadd(index, step);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next, hi);
        let yields = self.flat_args(l.body.yields.iter().copied());
        let repeat: Vec<_> = std::iter::once(BlockArg::Value(next)).chain(yields.iter().copied()).collect();
        self.b.ins().brif(again, body, &repeat, exit, &yields);
        self.b.seal_block(body);
        self.b.seal_block(exit);
        self.b.switch_to_block(exit);
    }

    fn if_stmt(&mut self, i: &kir::If) {
        let (a, c) = (self.int(i.a), self.int(i.b));
        let holds = self.b.ins().icmp(int_cc(i.cond), a, c);
        let (then, otherwise, join) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        for &result in &i.results {
            self.bind_params(join, result);
        }
        self.b.ins().brif(holds, then, &[], otherwise, &[]);
        for (block, arm) in [(then, &i.then), (otherwise, &i.otherwise)] {
            self.b.switch_to_block(block);
            self.b.seal_block(block);
            self.block(arm);
            let yields = self.flat_args(arm.yields.iter().copied());
            self.b.ins().jump(join, &yields);
        }
        self.b.seal_block(join);
        self.b.switch_to_block(join);
    }

    /// A constant of 16 bytes.
    pub(super) fn constant(&mut self, ty: ir::Type, bytes: Vec<u8>) -> ir::Value {
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty, handle)
    }

    /// A dword in all four lanes of a part.
    pub(super) fn dwords(&mut self, ty: ir::Type, word: u32) -> ir::Value {
        self.constant(ty, word.to_le_bytes().repeat(4))
    }

    /// The same bits as another type of 128 bits.
    pub(super) fn cast(&mut self, ty: ir::Type, v: ir::Value) -> ir::Value {
        if self.b.func.dfg.value_type(v) == ty {
            return v;
        }
        let flags = MemFlagsData::new().with_endianness(ir::Endianness::Little);
        self.b.ins().bitcast(ty, flags, v)
    }

    pub(super) fn each(
        &mut self,
        a: kir::Value,
        mut f: impl FnMut(&mut Self, ir::Value) -> ir::Value,
    ) -> Parts {
        self.parts(a).map(|a| f(self, a))
    }

    pub(super) fn zip(
        &mut self,
        a: kir::Value,
        b: kir::Value,
        mut f: impl FnMut(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let (a, b) = (self.parts(a), self.parts(b));
        std::array::from_fn(|i| f(self, a[i], b[i]))
    }

    pub(super) fn zip3(
        &mut self,
        [a, b, c]: [kir::Value; 3],
        mut f: impl FnMut(&mut Self, ir::Value, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let (a, b, c) = (self.parts(a), self.parts(b), self.parts(c));
        std::array::from_fn(|i| f(self, a[i], b[i], c[i]))
    }

    /// `mask ? a : b` for a mask of all-ones or all-zeros dwords.
    pub(super) fn select(&mut self, mask: ir::Value, a: ir::Value, b: ir::Value) -> ir::Value {
        let ty = self.b.func.dfg.value_type(a);
        let (a, b) = (self.cast(types::I32X4, a), self.cast(types::I32X4, b));
        let chosen = match self.features.x86 {
            true => self.b.ins().blendv(mask, a, b),
            false => self.b.ins().bitselect(mask, a, b),
        };
        self.cast(ty, chosen)
    }

    /// Lowers an op; for one without result the parts mean nothing.
    fn op(&mut self, op: &Op) -> Parts {
        match *op {
            Op::Int { value } => self.scalar(|l| l.b.ins().iconst(types::I64, value)),
            Op::Add { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().iadd(a, b)),
            Op::Sub { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().isub(a, b)),
            Op::Mul { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().imul(a, b)),
            Op::And { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().band(a, b)),
            Op::Min { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().smin(a, b)),
            Op::Max { a, b } => self.scalar2(a, b, |l, a, b| l.b.ins().smax(a, b)),
            Op::Shl { a, bits } => self.scalar_imm(a, bits.into(), |l, a, n| l.b.ins().ishl(a, n)),
            Op::Shr { a, bits } => self.scalar_imm(a, bits.into(), |l, a, n| l.b.ins().sshr(a, n)),
            Op::Udiv { a, divisor } => self.scalar_imm(a, divisor, |l, a, n| l.b.ins().udiv(a, n)),
            Op::Urem { a, divisor } => self.scalar_imm(a, divisor, |l, a, n| l.b.ins().urem(a, n)),

            Op::LoadScalar { ptr, offset, kind } => self.load_scalar(ptr, offset, kind),
            Op::StoreScalar { ptr, value, offset, kind } => self.store_scalar(ptr, value, offset, kind),
            Op::LoadF32 { ptr, offset, lanes } => {
                self.load_words(types::F32X4, ptr, offset, 4 * usize::from(lanes))
            }
            Op::LoadI32 { ptr, offset, lanes } => {
                self.load_words(types::I32X4, ptr, offset, 4 * usize::from(lanes))
            }
            Op::LoadBytes { ptr, offset, bytes } => self.load_words(types::I8X16, ptr, offset, bytes.into()),
            Op::LoadF16 { ptr, offset, lanes, finite } => self.load_f16(ptr, offset, lanes, finite),
            Op::LoadBf16 { ptr, offset, lanes } => self.load_bf16(ptr, offset, lanes),
            Op::LoadI8 { ptr, offset, lanes } => self.load_i8(ptr, offset, lanes),
            Op::StoreF32 { ptr, v, offset, lanes } | Op::StoreI32 { ptr, v, offset, lanes } => {
                self.store_words(ptr, v, offset, 4 * usize::from(lanes))
            }
            Op::StoreBytes { ptr, v, offset, bytes } => self.store_words(ptr, v, offset, bytes.into()),
            Op::StoreF16 { ptr, v, offset, lanes } => self.store_f16(ptr, v, offset, lanes),
            Op::StoreF16Strided { ptr, v, offset, stride, lanes } => {
                self.store_f16_strided(ptr, v, offset, stride, lanes)
            }
            Op::StoreI8 { ptr, v, offset, lanes } => self.store_i8(ptr, v, offset, lanes),
            Op::BroadcastF32 { ptr, offset } => self.broadcast(types::F32X4, ptr, offset),
            Op::BroadcastI32 { ptr, offset } => self.broadcast(types::I32X4, ptr, offset),
            // Cranelift has no prefetch, and the hint changes nothing.
            Op::Prefetch { .. } => self.nothing(),
            // Kernels with these are refused before.
            Op::TileBegin { .. }
            | Op::TileEnd {}
            | Op::TileZero { .. }
            | Op::TileLoad { .. }
            | Op::TileStore { .. }
            | Op::TileDot { .. } => self.nothing(),

            Op::SplatF32 { value } => [self.dwords(types::F32X4, value.bits()); PARTS],
            Op::SplatI32 { value } => [self.dwords(types::I32X4, value as u32); PARTS],
            Op::SplatI64 { a } => {
                let a = self.int(a);
                let low = self.b.ins().ireduce(types::I32, a);
                [self.b.ins().splat(types::I32X4, low); PARTS]
            }
            Op::Iota {} => {
                let bytes: Vec<u8> = (0..LANES as u32).flat_map(u32::to_le_bytes).collect();
                std::array::from_fn(|i| self.constant(types::I32X4, bytes[16 * i..16 * (i + 1)].to_vec()))
            }
            Op::SplatLaneF32 { v, lane } | Op::SplatLaneI32 { v, lane } => self.splat_lane(v, lane),
            Op::ExtractI32 { v, lane } => self.extract_lane(v, lane),
            Op::SwapPairsF32 { v } => self.each(v, |l, v| l.permute(v, [1, 0, 3, 2])),

            Op::AsVf { v } => self.each(v, |l, v| l.cast(types::F32X4, v)),
            Op::AsVi { v } => self.each(v, |l, v| l.cast(types::I32X4, v)),
            Op::AsVb { v } => self.each(v, |l, v| l.cast(types::I8X16, v)),

            Op::Fadd { a, b } => self.zip(a, b, |l, a, b| l.b.ins().fadd(a, b)),
            Op::Fsub { a, b } => self.zip(a, b, |l, a, b| l.b.ins().fsub(a, b)),
            Op::Fmul { a, b } => self.zip(a, b, |l, a, b| l.b.ins().fmul(a, b)),
            Op::Fdiv { a, b } => self.zip(a, b, |l, a, b| l.b.ins().fdiv(a, b)),
            Op::Sqrt { a } => self.each(a, |l, a| l.b.ins().sqrt(a)),
            Op::Fma { a, b, c } => self.zip3([a, b, c], Self::fma),
            Op::FmaxGt { a, b } => self.zip(a, b, Self::fmax_gt),
            Op::FminLt { a, b } => self.zip(a, b, Self::fmin_lt),
            Op::Fround { a } => self.each(a, |l, a| l.b.ins().nearest(a)),
            Op::Fcmp { a, b, cond } => self.zip(a, b, |l, a, b| l.b.ins().fcmp(float_cc(cond), a, b)),
            Op::Fselect { mask, a, b } | Op::Iselect { mask, a, b } => self.zip3([mask, a, b], Self::select),

            Op::Iadd { a, b } => self.zip(a, b, |l, a, b| l.b.ins().iadd(a, b)),
            Op::Isub { a, b } => self.zip(a, b, |l, a, b| l.b.ins().isub(a, b)),
            Op::Imul { a, b } => self.zip(a, b, |l, a, b| l.b.ins().imul(a, b)),
            Op::Band { a, b } => self.zip(a, b, |l, a, b| l.b.ins().band(a, b)),
            Op::Bor { a, b } => self.zip(a, b, |l, a, b| l.b.ins().bor(a, b)),
            Op::Bxor { a, b } => self.zip(a, b, |l, a, b| l.b.ins().bxor(a, b)),
            Op::Bandn { a, b } => self.zip(a, b, |l, a, b| l.b.ins().band_not(a, b)),
            Op::BxorMasked { a, b, mask } => self.zip3([a, b, mask], |l, a, b, mask| {
                let differ = l.b.ins().bxor(a, b);
                l.b.ins().band(differ, mask)
            }),
            Op::Ishl { a, bits } => self.each(a, |l, a| l.shift(a, bits, |b, a, n| b.ins().ishl(a, n))),
            Op::Ushr { a, bits } => self.each(a, |l, a| l.shift(a, bits, |b, a, n| b.ins().ushr(a, n))),
            Op::Sshr { a, bits } => self.each(a, |l, a| l.shift(a, bits, |b, a, n| b.ins().sshr(a, n))),
            Op::Umax { a, b } => self.zip(a, b, |l, a, b| l.b.ins().umax(a, b)),
            Op::Smax { a, b } => self.zip(a, b, |l, a, b| l.b.ins().smax(a, b)),
            Op::Smin { a, b } => self.zip(a, b, |l, a, b| l.b.ins().smin(a, b)),
            Op::Icmp { a, b, cond } => self.zip(a, b, |l, a, b| l.b.ins().icmp(int_cc(cond), a, b)),
            Op::Badd { a, b } => self.zip(a, b, |l, a, b| l.b.ins().iadd(a, b)),
            Op::Bsubs { a, b } => self.zip(a, b, |l, a, b| l.b.ins().usub_sat(a, b)),
            Op::Bavg { a, b } => self.zip(a, b, |l, a, b| l.b.ins().avg_round(a, b)),
            Op::Blookup { index, table } => self.each(index, |l, index| l.lookup(index, table)),
            Op::CvtF32I32 { a } => self.each(a, Self::cvt_f32_i32),
            Op::CvtI32F32 { a } => self.each(a, |l, a| l.b.ins().fcvt_from_sint(types::F32X4, a)),

            Op::DotU8I8 { acc, u, s, u_max } => {
                self.zip3([acc, u, s], |l, acc, u, s| l.dot_u8i8(acc, u, s, u_max))
            }
            Op::DotI8I8 { acc, a, b } => self.zip3([acc, a, b], Self::dot_i8i8),
            Op::ReduceAddF32 { v } => self.reduce(v, |l, lo, hi| l.b.ins().fadd(lo, hi)),
            Op::ReduceMaxF32 { v } => self.reduce(v, |l, lo, hi| l.fmax_gt(hi, lo)),
            Op::ReduceAddI32 { v } => self.reduce(v, |l, lo, hi| l.b.ins().iadd(lo, hi)),
            Op::ReduceUmaxI32 { v } => self.reduce(v, |l, lo, hi| l.b.ins().umax(lo, hi)),
        }
    }

    /// What an op without result returns; never used.
    pub(super) fn nothing(&self) -> Parts {
        self.values.first().copied().unwrap_or([ir::Value::from_u32(0); PARTS])
    }

    fn scalar(&mut self, f: impl FnOnce(&mut Self) -> ir::Value) -> Parts {
        [f(self); PARTS]
    }

    fn scalar2(
        &mut self,
        a: kir::Value,
        b: kir::Value,
        f: impl FnOnce(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let (a, b) = (self.int(a), self.int(b));
        [f(self, a, b); PARTS]
    }

    fn scalar_imm(
        &mut self,
        a: kir::Value,
        imm: i64,
        f: impl FnOnce(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let a = self.int(a);
        let imm = self.b.ins().iconst(types::I64, imm);
        [f(self, a, imm); PARTS]
    }

    /// A shift of all dwords of a part by a constant.
    pub(super) fn shift(
        &mut self,
        a: ir::Value,
        bits: u8,
        f: impl FnOnce(&mut FunctionBuilder<'_>, ir::Value, ir::Value) -> ir::Value,
    ) -> ir::Value {
        let bits = self.b.ins().iconst(types::I32, i64::from(bits));
        f(&mut self.b, a, bits)
    }
}
