//! Loads and stores.
//!
//! An access of a part that is not 16 bytes long is put together from scalar accesses of 8, 4, 2 and 1 bytes, so that
//! no byte outside of the op's range is touched.

use cranelift_codegen::ir::{self, InstBuilder, types};

use super::lower::{Lower, PARTS, Parts, memory_flags};
use crate::kir::{self, Scalar};

/// Bytes of a part.
const PART_BYTES: usize = 16;

/// The scalar accesses that make up `bytes` (below 16): offset and type of each.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, ir::Type)> {
    let mut offset = 0;
    [(8, types::I64), (4, types::I32), (2, types::I16), (1, types::I8)].into_iter().filter_map(
        move |(size, ty)| {
            let here = offset;
            (bytes & size != 0).then(|| {
                offset += size;
                (here, ty)
            })
        },
    )
}

/// The 128-bit vector of `ty`.
fn vector_of(ty: ir::Type) -> ir::Type {
    match ty {
        types::I64 => types::I64X2,
        types::I32 => types::I32X4,
        types::I16 => types::I16X8,
        _ => types::I8X16,
    }
}

impl Lower<'_> {
    pub(super) fn load_scalar(&mut self, ptr: kir::Value, offset: i32, kind: Scalar) -> Parts {
        let (ptr, flags) = (self.int(ptr), memory_flags());
        let word = match kind {
            Scalar::U8 => self.b.ins().uload8(types::I64, flags, ptr, offset),
            Scalar::I8 => self.b.ins().sload8(types::I64, flags, ptr, offset),
            Scalar::U16 => self.b.ins().uload16(types::I64, flags, ptr, offset),
            Scalar::I32 => self.b.ins().sload32(flags, ptr, offset),
            Scalar::I64 => self.b.ins().load(types::I64, flags, ptr, offset),
        };
        [word; PARTS]
    }

    pub(super) fn store_scalar(
        &mut self,
        ptr: kir::Value,
        value: kir::Value,
        offset: i32,
        kind: Scalar,
    ) -> Parts {
        let (ptr, value, flags) = (self.int(ptr), self.int(value), memory_flags());
        match kind {
            Scalar::U8 | Scalar::I8 => self.b.ins().istore8(flags, value, ptr, offset),
            Scalar::U16 => self.b.ins().istore16(flags, value, ptr, offset),
            Scalar::I32 => self.b.ins().istore32(flags, value, ptr, offset),
            Scalar::I64 => self.b.ins().store(flags, value, ptr, offset),
        };
        self.nothing()
    }

    /// The first `bytes` bytes of a part, the rest zero.
    fn load_part(&mut self, ty: ir::Type, ptr: ir::Value, offset: i32, bytes: usize) -> ir::Value {
        if bytes >= PART_BYTES {
            return self.b.ins().load(ty, memory_flags(), ptr, offset);
        }
        let mut part = None;
        for (at, piece) in pieces(bytes) {
            let scalar = self.b.ins().load(piece, memory_flags(), ptr, offset + at as i32);
            let lanes = vector_of(piece);
            part = Some(match part {
                None if piece == types::I64 || piece == types::I32 => {
                    self.b.ins().scalar_to_vector(lanes, scalar)
                }
                before => {
                    let before = match before {
                        Some(before) => self.cast(lanes, before),
                        None => self.constant(lanes, vec![0; PART_BYTES]),
                    };
                    self.b.ins().insertlane(before, scalar, (at / piece.bytes() as usize) as u8)
                }
            });
        }
        match part {
            Some(part) => self.cast(ty, part),
            None => self.constant(ty, vec![0; PART_BYTES]),
        }
    }

    /// Stores the first `bytes` bytes of a part.
    fn store_part(&mut self, part: ir::Value, ptr: ir::Value, offset: i32, bytes: usize) {
        if bytes >= PART_BYTES {
            self.b.ins().store(memory_flags(), part, ptr, offset);
            return;
        }
        for (at, piece) in pieces(bytes) {
            let lanes = self.cast(vector_of(piece), part);
            let scalar = self.b.ins().extractlane(lanes, (at / piece.bytes() as usize) as u8);
            self.b.ins().store(memory_flags(), scalar, ptr, offset + at as i32);
        }
    }

    /// A vector of `bytes` bytes as they are in memory.
    pub(super) fn load_words(&mut self, ty: ir::Type, ptr: kir::Value, offset: i32, bytes: usize) -> Parts {
        let ptr = self.int(ptr);
        std::array::from_fn(|i| {
            let left = bytes.saturating_sub(PART_BYTES * i).min(PART_BYTES);
            self.load_part(ty, ptr, offset + (PART_BYTES * i) as i32, left)
        })
    }

    /// Stores the first `bytes` bytes of a vector as they are.
    pub(super) fn store_words(&mut self, ptr: kir::Value, v: kir::Value, offset: i32, bytes: usize) -> Parts {
        let (ptr, parts) = (self.int(ptr), self.parts(v));
        for (i, part) in parts.into_iter().enumerate() {
            let left = bytes.saturating_sub(PART_BYTES * i).min(PART_BYTES);
            self.store_part(part, ptr, offset + (PART_BYTES * i) as i32, left);
        }
        self.nothing()
    }

    /// Words of 16 bits, sign-extended to dwords.
    fn load_i16(&mut self, ptr: kir::Value, offset: i32, lanes: u8) -> Parts {
        let ptr = self.int(ptr);
        std::array::from_fn(|i| {
            let left = usize::from(lanes).saturating_sub(4 * i).min(4);
            let at = offset + 8 * i as i32;
            match left {
                0 => self.dwords(types::I32X4, 0),
                4 => self.b.ins().sload16x4(memory_flags(), ptr, at),
                _ => {
                    let words = self.load_part(types::I16X8, ptr, at, 2 * left);
                    self.b.ins().swiden_low(words)
                }
            }
        })
    }

    pub(super) fn load_f16(&mut self, ptr: kir::Value, offset: i32, lanes: u8, finite: bool) -> Parts {
        self.load_i16(ptr, offset, lanes).map(|words| self.f16_to_f32(words, finite))
    }

    pub(super) fn load_bf16(&mut self, ptr: kir::Value, offset: i32, lanes: u8) -> Parts {
        self.load_i16(ptr, offset, lanes).map(|words| {
            let bits = self.shift(words, 16, |b, a, n| b.ins().ishl(a, n));
            self.cast(types::F32X4, bits)
        })
    }

    pub(super) fn load_i8(&mut self, ptr: kir::Value, offset: i32, lanes: u8) -> Parts {
        let ptr = self.int(ptr);
        let bytes = self.load_part(types::I8X16, ptr, offset, lanes.into());
        let (low, high) = (self.b.ins().swiden_low(bytes), self.b.ins().swiden_high(bytes));
        [
            self.b.ins().swiden_low(low),
            self.b.ins().swiden_high(low),
            self.b.ins().swiden_low(high),
            self.b.ins().swiden_high(high),
        ]
    }

    /// The f16 of a vector, eight to a part.
    fn halves(&mut self, v: kir::Value) -> [ir::Value; 2] {
        let [p0, p1, p2, p3] = self.each(v, Self::f32_to_f16);
        [self.b.ins().unarrow(p0, p1), self.b.ins().unarrow(p2, p3)]
    }

    pub(super) fn store_f16(&mut self, ptr: kir::Value, v: kir::Value, offset: i32, lanes: u8) -> Parts {
        let ptr = self.int(ptr);
        let bytes = 2 * usize::from(lanes);
        for (i, part) in self.halves(v).into_iter().enumerate() {
            let left = bytes.saturating_sub(PART_BYTES * i).min(PART_BYTES);
            self.store_part(part, ptr, offset + (PART_BYTES * i) as i32, left);
        }
        self.nothing()
    }

    pub(super) fn store_f16_strided(
        &mut self,
        ptr: kir::Value,
        v: kir::Value,
        offset: i32,
        stride: i32,
        lanes: u8,
    ) -> Parts {
        let base = self.int(ptr);
        let halves = self.halves(v);
        for lane in 0..lanes {
            let half = self.b.ins().extractlane(halves[usize::from(lane / 8)], lane % 8);
            // The distance may leave the 32 bits of an instruction's offset.
            let distance = i64::from(offset) + i64::from(lane) * i64::from(stride);
            match i32::try_from(distance) {
                Ok(distance) => self.b.ins().store(memory_flags(), half, base, distance),
                Err(_) => {
                    let distance = self.b.ins().iconst(types::I64, distance);
                    let at = self.b.ins().iadd(base, distance);
                    self.b.ins().store(memory_flags(), half, at, 0)
                }
            };
        }
        self.nothing()
    }

    pub(super) fn store_i8(&mut self, ptr: kir::Value, v: kir::Value, offset: i32, lanes: u8) -> Parts {
        let (ptr, [p0, p1, p2, p3]) = (self.int(ptr), self.parts(v));
        let (low, high) = (self.b.ins().snarrow(p0, p1), self.b.ins().snarrow(p2, p3));
        let bytes = self.b.ins().snarrow(low, high);
        self.store_part(bytes, ptr, offset, lanes.into());
        self.nothing()
    }

    /// One dword of memory in all lanes. It is loaded as f32 whatever it is: an i32 would go through a general register.
    pub(super) fn broadcast(&mut self, ty: ir::Type, ptr: kir::Value, offset: i32) -> Parts {
        let ptr = self.int(ptr);
        let scalar = self.b.ins().load(types::F32, memory_flags(), ptr, offset);
        let splat = self.b.ins().splat(types::F32X4, scalar);
        [self.cast(ty, splat); PARTS]
    }
}
