//! Loads and stores.
//!
//! Whole vectors are one instruction a register. Parts of vectors touch exactly their bytes: by masked instructions for
//! 512 bits; for 256 bits by `vmaskmovps` where the elements are dwords, and otherwise through a buffer in the frame,
//! which scalar accesses of 8, 4, 2 and 1 bytes fill and empty.

use iced_x86::Code as Opcode;

use super::super::forms;
use super::super::mach::{Class, Constant, First, Memory, Operand, Place, VReg, Width};
use super::{Held, Parts, Select};
use crate::kir::{LANES, Op, Scalar, VECTOR_BYTES, Value};

impl Select<'_> {
    /// The dword, qword or vector at `base + disp`.
    pub(super) fn at(&mut self, base: VReg, disp: i32) -> Operand {
        let place = Place::Address { base: Some(base), index: None, scale: 1, disp };
        Operand::Memory(Memory { place, broadcast: false })
    }

    /// The memory at `ptr + offset`.
    pub(super) fn memory(&mut self, ptr: Value, offset: i32) -> Memory {
        let linear = self.analysis.address(ptr, offset, self.block);
        Memory { place: self.place(&linear), broadcast: false }
    }

    /// `memory` moved by a few bytes.
    fn moved(memory: Memory, by: i32) -> Operand {
        let place = match memory.place {
            Place::Address { base, index, scale, disp } => {
                Place::Address { base, index, scale, disp: disp + by }
            }
            Place::Frame(slot, at) => Place::Frame(slot, at + by),
            pool => pool,
        };
        Operand::Memory(Memory { place, ..memory })
    }

    /// The operand that part `part` of a folded load is.
    pub(super) fn part_of_memory(&self, memory: Memory, part: usize) -> Memory {
        match Self::moved(memory, if memory.broadcast { 0 } else { part as i32 * self.part_bytes() }) {
            Operand::Memory(memory) => memory,
            _ => memory,
        }
    }

    /// The memory that a folded load reads.
    pub(super) fn folded(&mut self, op: &Op) -> Memory {
        let broadcast = matches!(op, Op::BroadcastF32 { .. } | Op::BroadcastI32 { .. });
        match op.memory_use() {
            Some(read) => Memory { broadcast, ..self.memory(read.ptr, read.offset) },
            None => Memory { place: Place::Frame(self.buffer(), 0), broadcast },
        }
    }

    fn buffer(&mut self) -> super::Slot {
        let slot = self.buffer.unwrap_or_else(|| self.code.new_slot(VECTOR_BYTES as u32));
        self.buffer = Some(slot);
        slot
    }

    fn buffer_memory(&mut self) -> Memory {
        Memory { place: Place::Frame(self.buffer(), 0), broadcast: false }
    }

    /// A mask register with ones in the first `n` places.
    pub(super) fn first(&mut self, n: u32) -> VReg {
        if let Some(&mask) = self.masks.get(&n) {
            return mask;
        }
        let (word, mask) = (self.code.new_reg(Class::General), self.code.new_reg(Class::Mask));
        let ones = if n >= 64 { u64::MAX } else { (1 << n) - 1 };
        self.load_imm(word, ones as i64);
        let operands = [Operand::Reg(mask, Width::Mask), Operand::Reg(word, Width::B64)];
        self.op(Opcode::VEX_Kmovq_kr_r64, operands, First::Write);
        self.masks.insert(n, mask);
        mask
    }

    /// The scalar accesses that make up `bytes`: offset and size of each.
    fn pieces(bytes: usize) -> Vec<(i32, usize)> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for size in [8, 4, 2, 1] {
            while bytes - at >= size {
                pieces.push((at as i32, size));
                at += size;
            }
        }
        pieces
    }

    /// Copies `bytes` bytes by scalar moves.
    fn copy_bytes(&mut self, from: Memory, to: Memory, bytes: usize) {
        for (at, size) in Self::pieces(bytes) {
            let word = self.code.new_reg(Class::General);
            let (load, loaded, store, stored) = match size {
                8 => (Opcode::Mov_r64_rm64, Width::B64, Opcode::Mov_rm64_r64, Width::B64),
                4 => (Opcode::Mov_r32_rm32, Width::B32, Opcode::Mov_rm32_r32, Width::B32),
                2 => (Opcode::Movzx_r32_rm16, Width::B32, Opcode::Mov_rm16_r16, Width::B16),
                _ => (Opcode::Movzx_r32_rm8, Width::B32, Opcode::Mov_rm8_r8, Width::B8),
            };
            self.op(load, [Operand::Reg(word, loaded), Self::moved(from, at)], First::Write);
            self.op(store, [Self::moved(to, at), Operand::Reg(word, stored)], First::Read);
        }
    }

    /// `bytes` bytes (fewer than 64) of memory in the frame's buffer, zeros after them.
    fn buffered(&mut self, from: Memory, bytes: usize) -> Memory {
        let buffer = self.buffer_memory();
        let zero = self.new_vector();
        self.push(super::Inst::Constant { dst: zero, constant: Constant::Splat(0) });
        for part in 0..self.level.parts() {
            let operands = [Self::moved(buffer, part as i32 * self.part_bytes()), self.vector(zero)];
            self.form(forms::MOVUPS_STORE, &operands, First::Read, 0);
        }
        self.copy_bytes(from, buffer, bytes);
        buffer
    }

    /// The first `bytes` bytes of memory, zeros after them.
    fn load_bytes(&mut self, from: Memory, bytes: usize) -> Parts {
        let parts = self.new_parts();
        if self.wide() {
            let to = self.vector(parts[0]);
            if bytes == VECTOR_BYTES {
                self.form(forms::MOVUPS, &[to, Operand::Memory(from)], First::Write, 1);
            } else if bytes.is_multiple_of(4) {
                let mask = self.first(bytes as u32 / 4);
                let operands = [to, Operand::Memory(from)];
                self.masked(Opcode::EVEX_Vmovups_zmm_k1z_zmmm512, operands, First::Write, mask);
            } else {
                let mask = self.first(bytes as u32);
                let operands = [to, Operand::Memory(from)];
                self.masked(Opcode::EVEX_Vmovdqu8_zmm_k1z_zmmm512, operands, First::Write, mask);
            }
            return parts;
        }
        let from = if bytes.is_multiple_of(4) { from } else { self.buffered(from, bytes) };
        let bytes = bytes.next_multiple_of(4);
        for (part, dst) in parts.into_iter().enumerate() {
            let at = Self::moved(from, 32 * part as i32);
            let to = self.vector(dst);
            match bytes.saturating_sub(32 * part) {
                0 => self.push(super::Inst::Constant { dst, constant: Constant::Splat(0) }),
                32.. => self.form(forms::MOVUPS, &[to, at], First::Write, 1),
                some => {
                    let lanes = Operand::Constant(Constant::Lanes((some / 4) as u8));
                    self.op(Opcode::VEX_Vmaskmovps_ymm_ymm_m256, [to, lanes, at], First::Write);
                }
            }
        }
        parts
    }

    /// Stores the first `bytes` bytes of a vector.
    fn store_bytes(&mut self, v: Value, to: Memory, bytes: usize) {
        let parts = self.parts(v);
        if self.wide() {
            let from = self.vector(parts[0]);
            let to = Operand::Memory(to);
            if bytes == VECTOR_BYTES {
                self.form(forms::MOVUPS_STORE, &[to, from], First::Read, 0);
            } else if bytes == 4 {
                let low = Operand::Reg(parts[0], Width::Xmm);
                self.op(Opcode::EVEX_Vmovss_m32_k1_xmm, [to, low], First::Read);
            } else if bytes.is_multiple_of(4) {
                let mask = self.first(bytes as u32 / 4);
                self.masked(Opcode::EVEX_Vmovups_zmmm512_k1z_zmm, [to, from], First::Read, mask);
            } else {
                let mask = self.first(bytes as u32);
                self.masked(Opcode::EVEX_Vmovdqu8_zmmm512_k1z_zmm, [to, from], First::Read, mask);
            }
            return;
        }
        if !bytes.is_multiple_of(4) {
            let buffer = self.buffer_memory();
            for (part, reg) in parts.into_iter().enumerate() {
                let operands = [Self::moved(buffer, 32 * part as i32), self.vector(reg)];
                self.form(forms::MOVUPS_STORE, &operands, First::Read, 0);
            }
            return self.copy_bytes(buffer, to, bytes);
        }
        for (part, reg) in parts.into_iter().enumerate() {
            let at = Self::moved(to, 32 * part as i32);
            let from = self.vector(reg);
            match bytes.saturating_sub(32 * part) {
                0 => {}
                32.. => self.form(forms::MOVUPS_STORE, &[at, from], First::Read, 0),
                4 => {
                    let low = Operand::Reg(reg, Width::Xmm);
                    self.op(Opcode::VEX_Vmovss_m32_xmm, [at, low], First::Read);
                }
                some => {
                    let lanes = Operand::Constant(Constant::Lanes((some / 4) as u8));
                    self.op(Opcode::VEX_Vmaskmovps_m256_ymm_ymm, [at, lanes, from], First::Read);
                }
            }
        }
    }

    /// `lanes` elements of `size` bytes (1 or 2), each widened to a lane by `form`; the missing lanes are zero.
    fn load_narrow(&mut self, from: Memory, lanes: u8, size: usize, form: forms::Form) -> Parts {
        let parts = self.new_parts();
        let bytes = usize::from(lanes) * size;
        if self.wide() {
            let to = self.vector(parts[0]);
            let source = if usize::from(lanes) == LANES {
                Operand::Memory(from)
            } else {
                let (opcode, width) = match size {
                    2 => (Opcode::EVEX_Vmovdqu16_ymm_k1z_ymmm256, Width::Ymm),
                    _ => (Opcode::EVEX_Vmovdqu8_xmm_k1z_xmmm128, Width::Xmm),
                };
                let loaded = Operand::Reg(self.new_vector(), width);
                let mask = self.first(lanes.into());
                self.masked(opcode, [loaded, Operand::Memory(from)], First::Write, mask);
                loaded
            };
            self.form(form, &[to, source], First::Write, 1);
            return parts;
        }
        let from = if usize::from(lanes) == LANES { from } else { self.buffered(from, bytes) };
        for (part, dst) in parts.into_iter().enumerate() {
            let operands = [self.vector(dst), Self::moved(from, (8 * size * part) as i32)];
            self.form(form, &operands, First::Write, 1);
        }
        parts
    }

    pub(super) fn load(&mut self, op: &Op) -> Held {
        let Some(read) = op.memory_use() else { return Held::Not };
        let from = self.memory(read.ptr, read.offset);
        Held::Vector(match *op {
            Op::LoadF32 { lanes, .. } | Op::LoadI32 { lanes, .. } => {
                self.load_bytes(from, 4 * usize::from(lanes))
            }
            Op::LoadBytes { bytes, .. } => self.load_bytes(from, bytes.into()),
            Op::LoadF16 { lanes, .. } => self.load_narrow(from, lanes, 2, forms::CVTPH2PS),
            Op::LoadBf16 { lanes, .. } => {
                let words = self.load_narrow(from, lanes, 2, forms::PMOVZXWD);
                let parts = self.new_parts();
                for part in 0..self.level.parts() {
                    let operands = [self.vector(parts[part]), self.vector(words[part]), Operand::Imm(16)];
                    self.form(forms::PSLLD, &operands, First::Write, 1);
                }
                parts
            }
            Op::LoadI8 { lanes, .. } => self.load_narrow(from, lanes, 1, forms::PMOVSXBD),
            _ => {
                let dst = self.new_vector();
                let operands = [self.vector(dst), Operand::Memory(from)];
                self.form(forms::BROADCASTSS_LOAD, &operands, First::Write, 1);
                [dst; 2]
            }
        })
    }

    /// The f16 of a vector: 16 in a ymm, or twice 8 in an xmm.
    fn halves(&mut self, v: Value) -> Parts {
        let (parts, halves) = (self.parts(v), self.new_parts());
        let width = if self.wide() { Width::Ymm } else { Width::Xmm };
        for part in 0..self.level.parts() {
            // Immediate 0: to nearest even.
            let to = Operand::Reg(halves[part], width);
            let (opcode, _) = forms::CVTPS2PH.at(self.wide());
            self.op(opcode, [to, self.vector(parts[part]), Operand::Imm(0)], First::Write);
        }
        halves
    }

    fn store_f16(&mut self, v: Value, to: Memory, lanes: u8) {
        let wide = self.wide();
        let (opcode, _) = forms::CVTPS2PH.at(wide);
        if usize::from(lanes) == LANES {
            let parts = self.parts(v);
            for (part, reg) in parts.into_iter().enumerate().take(self.level.parts()) {
                let at = Self::moved(to, 16 * part as i32);
                self.op(opcode, [at, self.vector(reg), Operand::Imm(0)], First::Read);
            }
            return;
        }
        let halves = self.halves(v);
        if wide {
            let mask = self.first(lanes.into());
            let operands = [Operand::Memory(to), Operand::Reg(halves[0], Width::Ymm)];
            self.masked(Opcode::EVEX_Vmovdqu16_ymmm256_k1z_ymm, operands, First::Read, mask);
            return;
        }
        let buffer = self.buffer_memory();
        for (part, half) in halves.into_iter().enumerate() {
            let operands = [Self::moved(buffer, 16 * part as i32), Operand::Reg(half, Width::Xmm)];
            self.op(Opcode::VEX_Vmovups_xmmm128_xmm, operands, First::Read);
        }
        self.copy_bytes(buffer, to, 2 * usize::from(lanes));
    }

    fn store_f16_strided(&mut self, v: Value, ptr: Value, offset: i32, stride: i32, lanes: u8) {
        let to = self.memory(ptr, 0);
        let halves = self.halves(v);
        let wide = self.wide();
        let mut upper = None;
        for lane in 0..lanes {
            let half = match (lane < 8, wide) {
                (true, _) => halves[0],
                (false, false) => halves[1],
                (false, true) => match upper {
                    Some(upper) => upper,
                    None => {
                        let dst = self.new_vector();
                        let operands = [
                            Operand::Reg(dst, Width::Xmm),
                            Operand::Reg(halves[0], Width::Ymm),
                            Operand::Imm(1),
                        ];
                        self.op(forms::EXTRACT128.at(true, Width::Ymm), operands, First::Write);
                        upper = Some(dst);
                        dst
                    }
                },
            };
            // The distance may leave the 32 bits of a displacement.
            let distance = i64::from(offset) + i64::from(lane) * i64::from(stride);
            let at = match to.place {
                Place::Address { base, index, scale, disp } => {
                    match i32::try_from(i64::from(disp) + distance) {
                        Ok(disp) => Place::Address { base, index, scale, disp },
                        Err(_) => {
                            let base = self.code.new_reg(Class::General);
                            let operands = [Operand::Reg(base, Width::B64), Operand::Memory(to)];
                            self.op(Opcode::Lea_r64_m, operands, First::Write);
                            self.add_imm(base, distance);
                            Place::Address { base: Some(base), index: None, scale: 1, disp: 0 }
                        }
                    }
                }
                place => place,
            };
            let opcode =
                if wide { Opcode::EVEX_Vpextrw_r32m16_xmm_imm8 } else { Opcode::VEX_Vpextrw_r32m16_xmm_imm8 };
            let at = Operand::Memory(Memory { place: at, broadcast: false });
            let operands = [at, Operand::Reg(half, Width::Xmm), Operand::Imm((lane % 8).into())];
            self.op(opcode, operands, First::Read);
        }
    }

    /// Saturates to bytes and stores them.
    fn store_i8(&mut self, v: Value, to: Memory, lanes: u8) {
        let parts = self.parts(v);
        if self.wide() {
            let from = self.vector(parts[0]);
            if usize::from(lanes) == LANES {
                self.op(Opcode::EVEX_Vpmovsdb_xmmm128_k1z_zmm, [Operand::Memory(to), from], First::Read);
                return;
            }
            let bytes = Operand::Reg(self.new_vector(), Width::Xmm);
            self.op(Opcode::EVEX_Vpmovsdb_xmmm128_k1z_zmm, [bytes, from], First::Write);
            let mask = self.first(lanes.into());
            self.masked(
                Opcode::EVEX_Vmovdqu8_xmmm128_k1z_xmm,
                [Operand::Memory(to), bytes],
                First::Read,
                mask,
            );
            return;
        }
        // Packing works within the 128-bit halves; the permutation puts the quarters in order.
        let [mixed, ordered, upper, bytes] = std::array::from_fn(|_| self.new_vector());
        let operands = [self.vector(mixed), self.vector(parts[0]), self.vector(parts[1])];
        self.op(Opcode::VEX_Vpackssdw_ymm_ymm_ymmm256, operands, First::Write);
        let operands = [self.vector(ordered), self.vector(mixed), Operand::Imm(0b11_01_10_00)];
        self.op(Opcode::VEX_Vpermq_ymm_ymmm256_imm8, operands, First::Write);
        let operands = [Operand::Reg(upper, Width::Xmm), self.vector(ordered), Operand::Imm(1)];
        self.op(Opcode::VEX_Vextracti128_xmmm128_ymm_imm8, operands, First::Write);
        let operands = [bytes, ordered, upper].map(|reg| Operand::Reg(reg, Width::Xmm));
        self.op(Opcode::VEX_Vpacksswb_xmm_xmm_xmmm128, operands, First::Write);
        let bytes = Operand::Reg(bytes, Width::Xmm);
        if usize::from(lanes) == LANES {
            self.op(Opcode::VEX_Vmovups_xmmm128_xmm, [Operand::Memory(to), bytes], First::Read);
            return;
        }
        let buffer = self.buffer_memory();
        self.op(Opcode::VEX_Vmovups_xmmm128_xmm, [Operand::Memory(buffer), bytes], First::Read);
        self.copy_bytes(buffer, to, lanes.into());
    }

    pub(super) fn store(&mut self, op: &Op) {
        match *op {
            Op::StoreScalar { ptr, value, offset, kind } => {
                let (opcode, width) = match kind {
                    Scalar::U8 | Scalar::I8 => (Opcode::Mov_rm8_r8, Width::B8),
                    Scalar::U16 => (Opcode::Mov_rm16_r16, Width::B16),
                    Scalar::I32 => (Opcode::Mov_rm32_r32, Width::B32),
                    Scalar::I64 => (Opcode::Mov_rm64_r64, Width::B64),
                };
                let (value, to) = (self.int(value), self.memory(ptr, offset));
                self.op(opcode, [Operand::Memory(to), Operand::Reg(value, width)], First::Read);
            }
            Op::StoreF16Strided { ptr, v, offset, stride, lanes } => {
                self.store_f16_strided(v, ptr, offset, stride, lanes);
            }
            Op::StoreF32 { ptr, v, offset, lanes } | Op::StoreI32 { ptr, v, offset, lanes } => {
                let to = self.memory(ptr, offset);
                self.store_bytes(v, to, 4 * usize::from(lanes));
            }
            Op::StoreBytes { ptr, v, offset, bytes } => {
                let to = self.memory(ptr, offset);
                self.store_bytes(v, to, bytes.into());
            }
            Op::StoreF16 { ptr, v, offset, lanes } => {
                let to = self.memory(ptr, offset);
                self.store_f16(v, to, lanes);
            }
            Op::StoreI8 { ptr, v, offset, lanes } => {
                let to = self.memory(ptr, offset);
                self.store_i8(v, to, lanes);
            }
            Op::Prefetch { ptr, offset, level } => {
                let at = self.memory(ptr, offset);
                let opcode = if level == 1 { Opcode::Prefetcht0_m8 } else { Opcode::Prefetcht1_m8 };
                self.op(opcode, [Operand::Memory(at)], First::Read);
            }
            _ => {}
        }
    }
}
