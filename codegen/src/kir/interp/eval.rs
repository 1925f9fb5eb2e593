//! The meaning of each straight-line op. Every op of the table is here; nothing is approximated.

use std::array::from_fn;

use half::{bf16, f16};

use super::super::ops::Op;
use super::super::types::{FloatCond, LANES, Scalar, VECTOR_BYTES, Value};
use super::{Datum, Fault, Machine};

type Lanes = [u32; LANES];

fn bytes_of(v: Lanes) -> [u8; VECTOR_BYTES] {
    from_fn(|i| v[i / 4].to_le_bytes()[i % 4])
}

fn from_bytes(bytes: &[u8]) -> Lanes {
    from_fn(|l| u32::from_le_bytes(from_fn(|i| bytes.get(4 * l + i).copied().unwrap_or(0))))
}

fn contract<T>(what: String) -> Result<T, Fault> {
    Err(Fault::Contract(what))
}

impl Machine<'_> {
    pub(super) fn address(&self, ptr: Value, offset: i32) -> i64 {
        self.int(ptr).wrapping_add(i64::from(offset))
    }

    fn float1(&self, a: Value, f: impl Fn(f32) -> f32) -> Lanes {
        self.vector(a).map(|x| f(f32::from_bits(x)).to_bits())
    }

    fn float2(&self, a: Value, b: Value, f: impl Fn(f32, f32) -> f32) -> Lanes {
        self.word2(a, b, |x, y| f(f32::from_bits(x), f32::from_bits(y)).to_bits())
    }

    fn word2(&self, a: Value, b: Value, f: impl Fn(u32, u32) -> u32) -> Lanes {
        let (a, b) = (self.vector(a), self.vector(b));
        from_fn(|l| f(a[l], b[l]))
    }

    fn word3(&self, values: [Value; 3], f: impl Fn(u32, u32, u32) -> u32) -> Lanes {
        let [a, b, c] = values.map(|v| self.vector(v));
        from_fn(|l| f(a[l], b[l], c[l]))
    }

    fn byte2(&self, a: Value, b: Value, f: impl Fn(u8, u8) -> u8) -> Lanes {
        self.word2(a, b, |x, y| {
            let (x, y) = (x.to_le_bytes(), y.to_le_bytes());
            u32::from_le_bytes(from_fn(|i| f(x[i], y[i])))
        })
    }

    fn signed2(&self, a: Value, b: Value, f: impl Fn(i32, i32) -> i32) -> Lanes {
        self.word2(a, b, |x, y| f(x as i32, y as i32) as u32)
    }

    /// Loads `lanes` elements of `size` bytes and converts each; the missing lanes are zero.
    fn load_lanes(
        &self,
        at: i64,
        lanes: u8,
        size: usize,
        convert: impl Fn(&[u8]) -> Result<u32, Fault>,
    ) -> Result<Lanes, Fault> {
        let mut v = [0; LANES];
        for (lane, bytes) in v.iter_mut().zip(self.memory.load(at, usize::from(lanes) * size)?.chunks(size)) {
            *lane = convert(bytes)?;
        }
        Ok(v)
    }

    fn select(&self, mask: Value, a: Value, b: Value) -> Result<Lanes, Fault> {
        let (mask, a, b) = (self.vector(mask), self.vector(a), self.vector(b));
        if let Some(bad) = mask.iter().find(|&&m| m != 0 && m != u32::MAX) {
            return contract(format!("mask lane {bad:#010x} is neither all ones nor all zeros"));
        }
        Ok(from_fn(|l| if mask[l] != 0 { a[l] } else { b[l] }))
    }

    /// The fixed reduction tree: distances 8, 4, 2, 1; the result in all lanes.
    fn reduce(&self, v: Value, f: impl Fn(u32, u32) -> u32) -> Lanes {
        let mut v = self.vector(v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = f(v[i], v[i + half]);
            }
        }
        [v[0]; LANES]
    }

    fn dot(&self, acc: Value, a: Value, b: Value, product: impl Fn(u8, u8) -> i32) -> Lanes {
        let (acc, a, b) = (self.vector(acc), bytes_of(self.vector(a)), bytes_of(self.vector(b)));
        from_fn(|l| {
            let sum: i32 = (4 * l..4 * l + 4).map(|i| product(a[i], b[i])).sum();
            acc[l].wrapping_add(sum as u32)
        })
    }

    fn halves(&self, v: Value) -> [u16; LANES] {
        self.vector(v).map(|x| f16::from_f32(f32::from_bits(x)).to_bits())
    }
}

fn mask(holds: bool) -> u32 {
    if holds { u32::MAX } else { 0 }
}

fn f16_bits(b: &[u8]) -> f16 {
    f16::from_le_bytes([b[0], b[1]])
}

/// Round half to even into i32; NaN is 0, the rest of what does not fit is `i32::MIN`.
fn to_i32(x: f32) -> i32 {
    let r = f64::from(x.round_ties_even());
    match r {
        r if r.is_nan() => 0,
        r if !(-2147483648.0..=2147483647.0).contains(&r) => i32::MIN,
        r => r as i32,
    }
}

pub(super) fn eval(m: &mut Machine<'_>, op: &Op) -> Result<Option<Datum>, Fault> {
    let lanes: Lanes = match *op {
        Op::Int { .. }
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
        | Op::ExtractI32 { .. } => return Ok(Some(Datum::Int(scalar(m, op)?))),

        Op::StoreScalar { .. }
        | Op::StoreF32 { .. }
        | Op::StoreI32 { .. }
        | Op::StoreBytes { .. }
        | Op::StoreF16 { .. }
        | Op::StoreF16Strided { .. }
        | Op::StoreI8 { .. }
        | Op::Prefetch { .. } => return store(m, op).map(|()| None),

        Op::TileBegin { .. }
        | Op::TileEnd {}
        | Op::TileZero { .. }
        | Op::TileLoad { .. }
        | Op::TileStore { .. }
        | Op::TileDot { .. } => return super::tiles::eval(m, op).map(|()| None),

        Op::LoadF32 { ptr, offset, lanes } | Op::LoadI32 { ptr, offset, lanes } => {
            from_bytes(m.memory.load(m.address(ptr, offset), 4 * usize::from(lanes))?)
        }
        Op::LoadBytes { ptr, offset, bytes } => {
            from_bytes(m.memory.load(m.address(ptr, offset), bytes.into())?)
        }
        Op::LoadF16 { ptr, offset, lanes, finite } => {
            m.load_lanes(m.address(ptr, offset), lanes, 2, |b| {
                let half = f16_bits(b);
                match finite && !half.is_finite() {
                    true => contract(format!("f16 {half} where finite numbers were promised")),
                    false => Ok(half.to_f32().to_bits()),
                }
            })?
        }
        Op::LoadBf16 { ptr, offset, lanes } => m.load_lanes(m.address(ptr, offset), lanes, 2, |b| {
            Ok(u32::from(bf16::from_le_bytes([b[0], b[1]]).to_bits()) << 16)
        })?,
        Op::LoadI8 { ptr, offset, lanes } => {
            m.load_lanes(m.address(ptr, offset), lanes, 1, |b| Ok(b[0] as i8 as i32 as u32))?
        }
        Op::BroadcastF32 { ptr, offset } | Op::BroadcastI32 { ptr, offset } => {
            [from_bytes(m.memory.load(m.address(ptr, offset), 4)?)[0]; LANES]
        }

        Op::SplatF32 { value } => [value.bits(); LANES],
        Op::SplatI32 { value } => [value as u32; LANES],
        Op::SplatI64 { a } => [m.int(a) as u32; LANES],
        Op::Iota {} => from_fn(|l| l as u32),
        Op::SplatLaneF32 { v, lane } | Op::SplatLaneI32 { v, lane } => {
            [m.vector(v)[usize::from(lane)]; LANES]
        }
        Op::SwapPairsF32 { v } => {
            let v = m.vector(v);
            from_fn(|l| v[l ^ 1])
        }
        Op::AsVf { v } | Op::AsVi { v } | Op::AsVb { v } => m.vector(v),

        Op::Fadd { a, b } => m.float2(a, b, |x, y| x + y),
        Op::Fsub { a, b } => m.float2(a, b, |x, y| x - y),
        Op::Fmul { a, b } => m.float2(a, b, |x, y| x * y),
        Op::Fdiv { a, b } => m.float2(a, b, |x, y| x / y),
        Op::Sqrt { a } => m.float1(a, f32::sqrt),
        Op::Fma { a, b, c } => {
            let (a, b, c) = (m.vector(a), m.vector(b), m.vector(c));
            from_fn(|l| f32::from_bits(a[l]).mul_add(f32::from_bits(b[l]), f32::from_bits(c[l])).to_bits())
        }
        Op::FmaxGt { a, b } => m.float2(a, b, |x, y| if x > y { x } else { y }),
        Op::FminLt { a, b } => m.float2(a, b, |x, y| if x < y { x } else { y }),
        Op::Fround { a } => m.float1(a, f32::round_ties_even),
        Op::Fcmp { a, b, cond } => m.word2(a, b, |x, y| {
            let (x, y) = (f32::from_bits(x), f32::from_bits(y));
            mask(match cond {
                FloatCond::Eq => x == y,
                FloatCond::Lt => x < y,
                FloatCond::Le => x <= y,
                FloatCond::Gt => x > y,
                FloatCond::Ge => x >= y,
                FloatCond::Ord => !x.is_nan() && !y.is_nan(),
                FloatCond::Uno => x.is_nan() || y.is_nan(),
            })
        }),
        Op::Fselect { mask, a, b } | Op::Iselect { mask, a, b } => m.select(mask, a, b)?,

        Op::Iadd { a, b } => m.word2(a, b, u32::wrapping_add),
        Op::Isub { a, b } => m.word2(a, b, u32::wrapping_sub),
        Op::Imul { a, b } => m.word2(a, b, u32::wrapping_mul),
        Op::Band { a, b } => m.word2(a, b, |x, y| x & y),
        Op::Bor { a, b } => m.word2(a, b, |x, y| x | y),
        Op::Bxor { a, b } => m.word2(a, b, |x, y| x ^ y),
        Op::Bandn { a, b } => m.word2(a, b, |x, y| x & !y),
        Op::BxorMasked { a, b, mask } => m.word3([a, b, mask], |x, y, mask| (x ^ y) & mask),
        Op::Ishl { a, bits } => m.vector(a).map(|x| x << bits),
        Op::Ushr { a, bits } => m.vector(a).map(|x| x >> bits),
        Op::Sshr { a, bits } => m.vector(a).map(|x| (x as i32 >> bits) as u32),
        Op::Umax { a, b } => m.word2(a, b, u32::max),
        Op::Smax { a, b } => m.signed2(a, b, i32::max),
        Op::Smin { a, b } => m.signed2(a, b, i32::min),
        Op::Icmp { a, b, cond } => m.word2(a, b, |x, y| mask(cond.holds(x as i32, y as i32))),
        Op::Badd { a, b } => m.byte2(a, b, u8::wrapping_add),
        Op::Bsubs { a, b } => m.byte2(a, b, u8::saturating_sub),
        Op::Bavg { a, b } => m.byte2(a, b, |x, y| (u16::from(x) + u16::from(y)).div_ceil(2) as u8),
        Op::Blookup { index, table } => m.byte2(index, index, |i, _| table.0[usize::from(i & 63)]),
        Op::CvtF32I32 { a } => m.vector(a).map(|x| to_i32(f32::from_bits(x)) as u32),
        Op::CvtI32F32 { a } => m.vector(a).map(|x| (x as i32 as f32).to_bits()),

        Op::DotU8I8 { acc, u, s, u_max } => {
            if let Some(bad) = bytes_of(m.vector(u)).into_iter().find(|&b| b > u_max) {
                return contract(format!("unsigned byte {bad} above u_max = {u_max}"));
            }
            m.dot(acc, u, s, |u, s| i32::from(u) * i32::from(s as i8))
        }
        Op::DotI8I8 { acc, a, b } => m.dot(acc, a, b, |a, b| i32::from(a as i8) * i32::from(b as i8)),
        Op::ReduceAddF32 { v } => m.reduce(v, |x, y| (f32::from_bits(x) + f32::from_bits(y)).to_bits()),
        Op::ReduceMaxF32 { v } => {
            m.reduce(v, |x, y| if f32::from_bits(y) > f32::from_bits(x) { y } else { x })
        }
        Op::ReduceAddI32 { v } => m.reduce(v, u32::wrapping_add),
        Op::ReduceUmaxI32 { v } => m.reduce(v, u32::max),
    };
    Ok(Some(Datum::Vector(lanes)))
}

fn scalar(m: &Machine<'_>, op: &Op) -> Result<i64, Fault> {
    Ok(match *op {
        Op::Int { value } => value,
        Op::Add { a, b } => m.int(a).wrapping_add(m.int(b)),
        Op::Sub { a, b } => m.int(a).wrapping_sub(m.int(b)),
        Op::Mul { a, b } => m.int(a).wrapping_mul(m.int(b)),
        Op::And { a, b } => m.int(a) & m.int(b),
        Op::Min { a, b } => m.int(a).min(m.int(b)),
        Op::Max { a, b } => m.int(a).max(m.int(b)),
        Op::Shl { a, bits } => m.int(a) << bits,
        Op::Shr { a, bits } => m.int(a) >> bits,
        Op::Udiv { a, divisor } => (m.int(a) as u64 / divisor as u64) as i64,
        Op::Urem { a, divisor } => (m.int(a) as u64 % divisor as u64) as i64,
        Op::LoadScalar { ptr, offset, kind } => {
            let loaded = m.memory.load(m.address(ptr, offset), kind.bytes())?;
            let word = u64::from_le_bytes(from_fn(|i| loaded.get(i).copied().unwrap_or(0)));
            match kind {
                Scalar::U8 | Scalar::U16 | Scalar::I64 => word as i64,
                Scalar::I8 => i64::from(word as i8),
                Scalar::I32 => i64::from(word as i32),
            }
        }
        Op::ExtractI32 { v, lane } => i64::from(m.vector(v)[usize::from(lane)] as i32),
        _ => return contract(format!("`{op}` gives no number")),
    })
}

fn store(m: &mut Machine<'_>, op: &Op) -> Result<(), Fault> {
    match *op {
        Op::StoreScalar { ptr, value, offset, kind } => {
            let bytes = m.int(value).to_le_bytes();
            m.memory.store(m.address(ptr, offset), &bytes[..kind.bytes()])
        }
        Op::StoreF32 { ptr, v, offset, lanes } | Op::StoreI32 { ptr, v, offset, lanes } => {
            let bytes = bytes_of(m.vector(v));
            m.memory.store(m.address(ptr, offset), &bytes[..4 * usize::from(lanes)])
        }
        Op::StoreBytes { ptr, v, offset, bytes } => {
            let all = bytes_of(m.vector(v));
            m.memory.store(m.address(ptr, offset), &all[..usize::from(bytes)])
        }
        Op::StoreF16 { ptr, v, offset, lanes } => {
            let bytes: Vec<u8> =
                m.halves(v)[..usize::from(lanes)].iter().flat_map(|h| h.to_le_bytes()).collect();
            m.memory.store(m.address(ptr, offset), &bytes)
        }
        Op::StoreF16Strided { ptr, v, offset, stride, lanes } => {
            let halves = m.halves(v);
            for (l, half) in (0i64..).zip(&halves[..usize::from(lanes)]) {
                let at = m.address(ptr, offset).wrapping_add(l * i64::from(stride));
                m.memory.store(at, &half.to_le_bytes())?;
            }
            Ok(())
        }
        Op::StoreI8 { ptr, v, offset, lanes } => {
            let bytes = m.vector(v).map(|x| (x as i32).clamp(-128, 127) as u8);
            m.memory.store(m.address(ptr, offset), &bytes[..usize::from(lanes)])
        }
        Op::Prefetch { .. } => Ok(()),
        _ => contract(format!("`{op}` stores nothing")),
    }
}
