//! THE table of the kernel IR's straight-line ops.
//!
//! One entry gives an op's mnemonic (which is also the builder method), its meaning, operands, attributes and result.
//! The table yields [`Op`], the builder methods, the printer's spelling, and the arity and type rules of the verifier.
//! Written by hand elsewhere are only the interpreter and the instruction selectors, whose exhaustive matches stop
//! compiling when an entry is added.
//!
//! Conventions. Vectors have 16 lanes of 32 bits, or 64 bytes in four consecutive bytes per lane (lane 0 first,
//! little endian). Memory ops address `ptr + offset`; no alignment is required. A load or store with `lanes` or
//! `bytes` touches exactly the first that many elements: the rest of a loaded vector is zero, the rest of the stored
//! memory is untouched. Integer arithmetic wraps. f32 arithmetic is IEEE-754 round-to-nearest-even with subnormals;
//! NaN payloads are unspecified. A *mask* is a `Vi` whose lanes are all ones or all zeros.

use std::fmt;

use super::build::KernelBuilder;
use super::types::{
    AnyVec, F32, FloatCond, Handle, I64, IntCond, IntoOperand, Scalar, Table, Type, VECTOR_BYTES, Value, Vb,
    Vf, Vi,
};

/// What an operand may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandType {
    /// Exactly this type.
    Exactly(Type),
    /// Any view of a vector.
    AnyVector,
}

impl OperandType {
    /// Whether a value of type `ty` may stand here.
    pub fn accepts(self, ty: Type) -> bool {
        match self {
            OperandType::Exactly(t) => t == ty,
            OperandType::AnyVector => ty.is_vector(),
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// Name in printed kernels, and of the builder method.
    pub mnemonic: &'static str,
    /// The meaning, as documented on the variant of [`Op`].
    pub doc: &'static str,
    /// Names and types of the operands, in order.
    pub operands: &'static [(&'static str, OperandType)],
    /// Names of the attributes, in order.
    pub attrs: &'static [&'static str],
    /// Type of the result, if there is one.
    pub result: Option<Type>,
}

macro_rules! operand_type {
    (AnyVec) => {
        OperandType::AnyVector
    };
    ($t:ident) => {
        OperandType::Exactly(Type::$t)
    };
}

macro_rules! result_type {
    (Unit) => {
        None
    };
    ($t:ident) => {
        Some(Type::$t)
    };
}

macro_rules! result_handle {
    (Unit) => {
        ()
    };
    ($t:ident) => {
        $t
    };
}

macro_rules! attr_argument {
    (F32) => {
        f32
    };
    ($t:ident) => {
        $t
    };
}

macro_rules! emit {
    ($b:ident, $op:expr, Unit) => {
        $b.push(None, $op)
    };
    ($b:ident, $op:expr, $t:ident) => {{
        let result = $b.new_value(Type::$t);
        $b.push(Some(result), $op);
        $t::from_value(result)
    }};
}

macro_rules! define_ops {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:ident
        ($($operand:ident: $operand_ty:ident),*) {$($attr:ident: $attr_ty:ident),*} -> $result:ident; )+) => {
        /// A straight-line op. Fields named by a [`Value`] are operands, the others attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the fields are documented by the op's own text")]
        pub enum Op {
            $( $(#[doc = $doc])+ $variant { $($operand: Value,)* $($attr: $attr_ty,)* }, )+
        }

        /// The table as data, in the order of its definition.
        pub const OPS: &[OpInfo] = &[
            $( OpInfo {
                mnemonic: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                operands: &[$((stringify!($operand), operand_type!($operand_ty)),)*],
                attrs: &[$(stringify!($attr),)*],
                result: result_type!($result),
            }, )+
        ];

        impl Op {
            /// The op's row of the table.
            pub fn info(&self) -> &'static OpInfo {
                &OPS[self.row()]
            }

            fn row(&self) -> usize {
                enum Row { $($variant,)+ }
                match self { $(Op::$variant { .. } => Row::$variant as usize,)+ }
            }

            /// The operands, in the order of the table.
            pub fn operands(&self) -> Vec<Value> {
                match *self { $(Op::$variant { $($operand,)* .. } => vec![$($operand,)*],)+ }
            }

            fn fmt_attrs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Op::$variant { $($attr,)* .. } => {
                        let attrs: &[(&str, &dyn fmt::Display)] = &[$((stringify!($attr), $attr),)*];
                        for (i, (name, value)) in attrs.iter().enumerate() {
                            write!(f, "{}{name}={value}", if i == 0 { " {" } else { ", " })?;
                        }
                        if attrs.is_empty() { Ok(()) } else { f.write_str("}") }
                    })+
                }
            }
        }

        impl KernelBuilder {
            $( $(#[doc = $doc])+
            pub fn $name(&mut self, $($operand: impl IntoOperand<$operand_ty>,)* $($attr: attr_argument!($attr_ty),)*)
                -> result_handle!($result)
            {
                $(let $operand = $operand.into_operand(self).value();)*
                let op = Op::$variant { $($operand,)* $($attr: $attr.into(),)* };
                emit!(self, op, $result)
            } )+
        }
    };
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().mnemonic)?;
        for (i, value) in self.operands().into_iter().enumerate() {
            write!(f, "{} {value}", if i == 0 { "" } else { "," })?;
        }
        self.fmt_attrs(f)
    }
}

define_ops! {
    /// An integer constant. Prefer [`KernelBuilder::int`], which reuses constants in scope.
    Int = int_const() {value: i64} -> I64;
    /// `a + b`.
    Add = add(a: I64, b: I64) {} -> I64;
    /// `a - b`.
    Sub = sub(a: I64, b: I64) {} -> I64;
    /// `a * b`, low 64 bits.
    Mul = mul(a: I64, b: I64) {} -> I64;
    /// Bitwise and.
    And = and(a: I64, b: I64) {} -> I64;
    /// Signed minimum.
    Min = min(a: I64, b: I64) {} -> I64;
    /// Signed maximum.
    Max = max(a: I64, b: I64) {} -> I64;
    /// `a << bits`, 0 <= bits <= 63.
    Shl = shl(a: I64) {bits: u8} -> I64;
    /// `a >> bits` with the sign kept, 0 <= bits <= 63.
    Shr = shr(a: I64) {bits: u8} -> I64;
    /// Unsigned quotient by a constant, 1 <= divisor.
    Udiv = udiv(a: I64) {divisor: i64} -> I64;
    /// Unsigned remainder by a constant, 1 <= divisor.
    Urem = urem(a: I64) {divisor: i64} -> I64;

    /// The scalar at `ptr + offset`, extended to 64 bits (with its sign if the kind has one).
    LoadScalar = load_scalar(ptr: I64) {offset: i32, kind: Scalar} -> I64;
    /// Stores the low bits of `value` at `ptr + offset`.
    StoreScalar = store_scalar(ptr: I64, value: I64) {offset: i32, kind: Scalar} -> Unit;

    /// `lanes` f32 (1..=16).
    LoadF32 = load_f32(ptr: I64) {offset: i32, lanes: u8} -> Vf;
    /// `lanes` i32 (1..=16).
    LoadI32 = load_i32(ptr: I64) {offset: i32, lanes: u8} -> Vi;
    /// `bytes` bytes (1..=64).
    LoadBytes = load_bytes(ptr: I64) {offset: i32, bytes: u8} -> Vb;
    /// `lanes` f16 (1..=16, two bytes each), converted exactly. `finite` promises that none is infinite or NaN,
    /// which saves instructions; the promise broken, those lanes hold unspecified finite numbers.
    LoadF16 = load_f16(ptr: I64) {offset: i32, lanes: u8, finite: bool} -> Vf;
    /// `lanes` bf16 (1..=16, two bytes each), converted exactly.
    LoadBf16 = load_bf16(ptr: I64) {offset: i32, lanes: u8} -> Vf;
    /// `lanes` signed bytes (1..=16), sign-extended to i32.
    LoadI8 = load_i8(ptr: I64) {offset: i32, lanes: u8} -> Vi;
    /// Stores `lanes` f32 (1..=16).
    StoreF32 = store_f32(ptr: I64, v: Vf) {offset: i32, lanes: u8} -> Unit;
    /// Stores `lanes` i32 (1..=16).
    StoreI32 = store_i32(ptr: I64, v: Vi) {offset: i32, lanes: u8} -> Unit;
    /// Stores `bytes` bytes (1..=64).
    StoreBytes = store_bytes(ptr: I64, v: Vb) {offset: i32, bytes: u8} -> Unit;
    /// Rounds `lanes` f32 (1..=16) to f16, to nearest even, and stores them. Overflow gives infinity, NaN a quiet NaN.
    StoreF16 = store_f16(ptr: I64, v: Vf) {offset: i32, lanes: u8} -> Unit;
    /// As `store_f16`, but lane l goes to `ptr + offset + l * stride` (bytes; stride >= 2).
    StoreF16Strided = store_f16_strided(ptr: I64, v: Vf) {offset: i32, stride: i32, lanes: u8} -> Unit;
    /// Saturates `lanes` i32 (1..=16) to i8 and stores one byte each.
    StoreI8 = store_i8(ptr: I64, v: Vi) {offset: i32, lanes: u8} -> Unit;
    /// One f32 from memory to all lanes.
    BroadcastF32 = broadcast_f32(ptr: I64) {offset: i32} -> Vf;
    /// One dword from memory to all lanes.
    BroadcastI32 = broadcast_i32(ptr: I64) {offset: i32} -> Vi;
    /// Hint that the cache line at `ptr + offset` will be read, for the cache of level `level` (1 or 2). Never faults,
    /// changes nothing.
    Prefetch = prefetch(ptr: I64) {offset: i32, level: u8} -> Unit;

    /// A constant in all lanes.
    SplatF32 = splat_f32() {value: F32} -> Vf;
    /// A constant in all lanes.
    SplatI32 = splat_i32() {value: i32} -> Vi;
    /// The low 32 bits of `a` in all lanes.
    SplatI64 = splat_i64(a: I64) {} -> Vi;
    /// Lane l holds l.
    Iota = iota() {} -> Vi;
    /// Lane `lane` (0..=15) of `v` in all lanes.
    SplatLaneF32 = splat_lane_f32(v: Vf) {lane: u8} -> Vf;
    /// Lane `lane` (0..=15) of `v` in all lanes.
    SplatLaneI32 = splat_lane_i32(v: Vi) {lane: u8} -> Vi;
    /// Lane `lane` (0..=15) of `v`, sign-extended.
    ExtractI32 = extract_i32(v: Vi) {lane: u8} -> I64;
    /// Exchanges lanes 2j and 2j + 1.
    SwapPairsF32 = swap_pairs_f32(v: Vf) {} -> Vf;

    /// The same bits as 16 × f32.
    AsVf = as_vf(v: AnyVec) {} -> Vf;
    /// The same bits as 16 × i32.
    AsVi = as_vi(v: AnyVec) {} -> Vi;
    /// The same bits as 64 bytes.
    AsVb = as_vb(v: AnyVec) {} -> Vb;

    /// `a + b`.
    Fadd = fadd(a: Vf, b: Vf) {} -> Vf;
    /// `a - b`.
    Fsub = fsub(a: Vf, b: Vf) {} -> Vf;
    /// `a * b`.
    Fmul = fmul(a: Vf, b: Vf) {} -> Vf;
    /// `a / b`.
    Fdiv = fdiv(a: Vf, b: Vf) {} -> Vf;
    /// Square root.
    Sqrt = sqrt(a: Vf) {} -> Vf;
    /// `a * b + c`, rounded once. Costly on x86-64 without the `fma` feature.
    Fma = fma(a: Vf, b: Vf, c: Vf) {} -> Vf;
    /// `if a > b { a } else { b }` (so `b` when one is NaN or both are zeros).
    FmaxGt = fmax_gt(a: Vf, b: Vf) {} -> Vf;
    /// `if a < b { a } else { b }` (so `b` when one is NaN or both are zeros).
    FminLt = fmin_lt(a: Vf, b: Vf) {} -> Vf;
    /// Rounds to an integral number, half to even.
    Fround = fround(a: Vf) {} -> Vf;
    /// Mask of the lanes where the comparison holds.
    Fcmp = fcmp(a: Vf, b: Vf) {cond: FloatCond} -> Vi;
    /// `mask ? a : b` per lane.
    Fselect = fselect(mask: Vi, a: Vf, b: Vf) {} -> Vf;

    /// `a + b`.
    Iadd = iadd(a: Vi, b: Vi) {} -> Vi;
    /// `a - b`.
    Isub = isub(a: Vi, b: Vi) {} -> Vi;
    /// `a * b`, low 32 bits.
    Imul = imul(a: Vi, b: Vi) {} -> Vi;
    /// Bitwise and.
    Band = band(a: Vi, b: Vi) {} -> Vi;
    /// Bitwise or.
    Bor = bor(a: Vi, b: Vi) {} -> Vi;
    /// Bitwise exclusive or.
    Bxor = bxor(a: Vi, b: Vi) {} -> Vi;
    /// `a & !b`.
    Bandn = bandn(a: Vi, b: Vi) {} -> Vi;
    /// `(a ^ b) & mask`.
    BxorMasked = bxor_masked(a: Vi, b: Vi, mask: Vi) {} -> Vi;
    /// Shift left by a constant (0..=31).
    Ishl = ishl(a: Vi) {bits: u8} -> Vi;
    /// Shift right by a constant (0..=31), filling with zeros.
    Ushr = ushr(a: Vi) {bits: u8} -> Vi;
    /// Shift right by a constant (0..=31), filling with the sign.
    Sshr = sshr(a: Vi) {bits: u8} -> Vi;
    /// Unsigned maximum.
    Umax = umax(a: Vi, b: Vi) {} -> Vi;
    /// Signed maximum.
    Smax = smax(a: Vi, b: Vi) {} -> Vi;
    /// Signed minimum.
    Smin = smin(a: Vi, b: Vi) {} -> Vi;
    /// Mask of the lanes where the signed comparison holds.
    Icmp = icmp(a: Vi, b: Vi) {cond: IntCond} -> Vi;
    /// `mask ? a : b` per lane.
    Iselect = iselect(mask: Vi, a: Vi, b: Vi) {} -> Vi;

    /// `a + b` of bytes, low 8 bits.
    Badd = badd(a: Vb, b: Vb) {} -> Vb;
    /// `a - b` of unsigned bytes, 0 where `b` is greater.
    Bsubs = bsubs(a: Vb, b: Vb) {} -> Vb;
    /// Average of unsigned bytes, rounded up: `(a + b + 1) / 2`.
    Bavg = bavg(a: Vb, b: Vb) {} -> Vb;
    /// For each byte of `index` the byte of `table` that its lower six bits name.
    Blookup = blookup(index: Vb) {table: Table} -> Vb;

    /// f32 to i32, half to even. NaN gives 0; what does not fit in i32 gives `i32::MIN`.
    CvtF32I32 = cvt_f32_i32(a: Vf) {} -> Vi;
    /// i32 to the nearest f32, half to even.
    CvtI32F32 = cvt_i32_f32(a: Vi) {} -> Vf;

    /// Per lane, `acc` plus the sum of four products of an unsigned byte of `u` and a signed byte of `s`; exact.
    ///
    /// Contract: no byte of `u` is above `u_max`. Where `u_max <= 128`, two neighbouring products add up to something
    /// between -2·128·128 = -32768 and 2·128·127 = 32512, which fits in 16 bits, so that `pmaddubsw` (which saturates)
    /// is exact too; beyond, it is exact for the lower seven bits and the highest bit apart, at twice the cost.
    DotU8I8 = dot_u8i8(acc: Vi, u: Vb, s: Vb) {u_max: u8} -> Vi;
    /// Per lane, `acc` plus the sum of four products of signed bytes of `a` and `b`; exact for all values.
    DotI8I8 = dot_i8i8(acc: Vi, a: Vb, b: Vb) {} -> Vi;

    /// Configures the tile registers: the tiles 0 to 5 have `rows` rows (1..=16) of 64 bytes, the tiles 6 and 7 have 16.
    /// What is in them is unspecified until they are written. Tile ops need targets with tile registers.
    TileBegin = tile_begin() {rows: u8} -> Unit;
    /// Gives the tile registers back: no tile op may follow but `tile_begin`.
    TileEnd = tile_end() {} -> Unit;
    /// Zeros in all of tile `tile`.
    TileZero = tile_zero() {tile: u8} -> Unit;
    /// Row r of tile `tile` becomes the 64 bytes at `ptr + offset + r * stride`, for all its rows.
    TileLoad = tile_load(ptr: I64, stride: I64) {offset: i32, tile: u8} -> Unit;
    /// Row r of tile `tile` goes to the 64 bytes at `ptr + offset + r * stride`, for all its rows.
    TileStore = tile_store(ptr: I64, stride: I64) {offset: i32, tile: u8} -> Unit;
    /// Per row m and dword n of tile `acc` (0..=3): plus the sum over k (0..16) of the four products of the signed bytes of
    /// dword k in row m of tile `s` (4 or 5) with the unsigned bytes of dword n in row k of tile `u` (6 or 7). Exact;
    /// wraps.
    TileDot = tile_dot() {acc: u8, s: u8, u: u8} -> Unit;

    /// Sum of the lanes in every lane, in the fixed order `l[i] += l[i+8]`, `+4`, `+2`, `+1`.
    ReduceAddF32 = reduce_add_f32(v: Vf) {} -> Vf;
    /// Maximum of the lanes in every lane: `l[i] = if l[i+8] > l[i] { l[i+8] } else { l[i] }`, then `+4`, `+2`, `+1`.
    ReduceMaxF32 = reduce_max_f32(v: Vf) {} -> Vf;
    /// Sum of the lanes in every lane.
    ReduceAddI32 = reduce_add_i32(v: Vi) {} -> Vi;
    /// Unsigned maximum of the lanes in every lane.
    ReduceUmaxI32 = reduce_umax_i32(v: Vi) {} -> Vi;
}

/// How an op uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The address operand.
    pub ptr: Value,
    /// What is added to it, in bytes.
    pub offset: i32,
    /// Bytes from the first to the last that is accessed.
    pub bytes: u64,
    /// Whether memory is written; otherwise it is read.
    pub write: bool,
}

impl Op {
    /// How the op uses memory, if it does. A prefetch is a read of nothing: it never faults.
    pub fn memory_use(&self) -> Option<MemoryUse> {
        let lanes_of = |lanes: u8, size: u64| u64::from(lanes) * size;
        let (ptr, offset, bytes, write) = match *self {
            Op::LoadScalar { ptr, offset, kind } => (ptr, offset, kind.bytes() as u64, false),
            Op::LoadF32 { ptr, offset, lanes } | Op::LoadI32 { ptr, offset, lanes } => {
                (ptr, offset, lanes_of(lanes, 4), false)
            }
            Op::LoadF16 { ptr, offset, lanes, .. } | Op::LoadBf16 { ptr, offset, lanes } => {
                (ptr, offset, lanes_of(lanes, 2), false)
            }
            Op::LoadI8 { ptr, offset, lanes } => (ptr, offset, lanes.into(), false),
            Op::LoadBytes { ptr, offset, bytes } => (ptr, offset, bytes.into(), false),
            Op::BroadcastF32 { ptr, offset } | Op::BroadcastI32 { ptr, offset } => (ptr, offset, 4, false),
            // Of the first row; the distance of the others is a number of the kernel.
            Op::TileLoad { ptr, offset, .. } => (ptr, offset, VECTOR_BYTES as u64, false),
            Op::Prefetch { ptr, offset, .. } => (ptr, offset, 0, false),
            Op::StoreScalar { ptr, offset, kind, .. } => (ptr, offset, kind.bytes() as u64, true),
            Op::StoreF32 { ptr, offset, lanes, .. } | Op::StoreI32 { ptr, offset, lanes, .. } => {
                (ptr, offset, lanes_of(lanes, 4), true)
            }
            Op::StoreF16 { ptr, offset, lanes, .. } => (ptr, offset, lanes_of(lanes, 2), true),
            Op::StoreF16Strided { ptr, offset, lanes, stride, .. } => {
                let apart = u64::from(stride.unsigned_abs());
                (ptr, offset, lanes_of(lanes.saturating_sub(1), apart) + 2, true)
            }
            Op::StoreI8 { ptr, offset, lanes, .. } => (ptr, offset, lanes.into(), true),
            Op::StoreBytes { ptr, offset, bytes, .. } => (ptr, offset, bytes.into(), true),
            Op::TileStore { ptr, offset, .. } => (ptr, offset, VECTOR_BYTES as u64, true),
            _ => return None,
        };
        Some(MemoryUse { ptr, offset, bytes, write })
    }

    /// Whether the op is about tile registers.
    pub fn uses_tiles(&self) -> bool {
        matches!(
            self,
            Op::TileBegin { .. }
                | Op::TileEnd {}
                | Op::TileZero { .. }
                | Op::TileLoad { .. }
                | Op::TileStore { .. }
                | Op::TileDot { .. }
        )
    }
}
