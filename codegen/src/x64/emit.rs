//! Encoding: machine instructions with physical registers to bytes.
//!
//! A kernel's bytes are a prologue (System V: saves the general registers that belong to the caller, and makes a frame of
//! 64-byte slots if one is needed), the instructions, an epilogue with `vzeroupper`, and the constants, which
//! instructions address relative to themselves. Innermost loops start at multiples of 32 bytes.

use std::collections::BTreeSet;

use iced_x86::{Code as Opcode, Encoder, Instruction, OpKind, Register};

use super::forms;
use super::mach::{
    Class, Code, Constant, Inst, Label, Memory, Operand, Place, PoolEntry, Slot, VReg, Width, loops,
};
use super::regalloc::Assignment;
use crate::kir::{TILE_ROWS, TILES, VECTOR_BYTES};

/// Alignment of the code and of its constants.
pub(super) const ALIGN: u32 = 64;

/// Alignment of innermost loops.
const LOOP_ALIGN: usize = 32;

/// Bytes that the stack pointer moves at most without touching what it passes, so that it cannot jump over the page that
/// guards the end of the stack.
const PAGE: u32 = 4096;

/// The general registers that belong to the caller (rbx, rbp, r12 to r15).
const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

const GENERAL_64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// `nop` of 1 to 9 bytes.
const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Encodes allocated code.
///
/// # Errors
/// What the encoder refuses, which is a defect of instruction selection.
pub(super) fn emit(code: &Code, assignment: &Assignment, wide: bool) -> Result<Vec<u8>, String> {
    let mut used = [false; 16];
    for (class, &reg) in code.classes.iter().zip(assignment) {
        if *class == Class::General {
            used[usize::from(reg)] = true;
        }
    }
    let (slots, frame) = frame(code);
    let saved: Vec<Register> = CALLEE_SAVED
        .iter()
        .filter(|&&reg| used[usize::from(reg)])
        .map(|&reg| GENERAL_64[usize::from(reg)])
        .collect();
    let mut emit = Emit {
        encoder: Encoder::new(64),
        bytes: 0,
        classes: &code.classes,
        assignment,
        wide,
        slots,
        labels: vec![None; code.labels as usize],
        jumps: Vec::new(),
        pool: BTreeSet::new(),
        pool_uses: Vec::new(),
    };
    emit.prologue(&saved, frame)?;
    let (ranges, _) = loops(&code.insts);
    let aligned: Vec<usize> = ranges.iter().filter(|r| r.innermost).map(|r| r.start).collect();
    for (at, inst) in code.insts.iter().enumerate() {
        if aligned.binary_search(&at).is_ok() {
            emit.align(LOOP_ALIGN);
        }
        emit.inst(inst)?;
    }
    emit.epilogue(&saved, frame)?;
    emit.finish()
}

/// The offset of each slot from `rsp`, and the bytes of all of them.
pub(super) fn frame(code: &Code) -> (Vec<u32>, u32) {
    let mut slots = Vec::new();
    let mut bytes = 0u32;
    for &slot in &code.slots {
        bytes = bytes.next_multiple_of(if slot >= 32 { 64 } else { 8 });
        slots.push(bytes);
        bytes += slot;
    }
    (slots, bytes.next_multiple_of(64))
}

struct Emit<'a> {
    encoder: Encoder,
    bytes: usize,
    classes: &'a [Class],
    assignment: &'a Assignment,
    wide: bool,
    /// Offset of each slot from `rsp`.
    slots: Vec<u32>,
    labels: Vec<Option<usize>>,
    /// Position of the 32-bit distance of each jump.
    jumps: Vec<(usize, Label)>,
    pool: BTreeSet<PoolEntry>,
    /// Position of the 32-bit displacement, end of the instruction.
    pool_uses: Vec<(usize, usize, PoolEntry)>,
}

impl Emit<'_> {
    fn general(&self, reg: VReg) -> Register {
        GENERAL_64[usize::from(self.assignment[reg.index()]) & 15]
    }

    fn register(&self, reg: VReg, width: Width) -> Register {
        let assigned = self.assignment[reg.index()];
        let number = u32::from(assigned);
        match width {
            Width::B64 => self.general(reg),
            Width::B32 => self.general(reg).full_register32(),
            Width::B16 => word_register(assigned),
            Width::B8 => byte_register(assigned),
            Width::Xmm => Register::XMM0 + number,
            Width::Ymm => Register::YMM0 + number,
            Width::Zmm => Register::ZMM0 + number,
            Width::Mask => Register::K0 + number,
        }
    }

    /// Encodes an instruction; returns the position of its displacement and its end.
    fn encode(&mut self, instruction: &Instruction) -> Result<(usize, usize), String> {
        let start = self.bytes;
        let len = self.encoder.encode(instruction, start as u64).map_err(|e| e.to_string())?;
        self.bytes += len;
        let displacement = start + self.encoder.get_constant_offsets().displacement_offset();
        Ok((displacement, self.bytes))
    }

    fn align(&mut self, to: usize) {
        let mut left = self.bytes.next_multiple_of(to) - self.bytes;
        while left > 0 {
            let nop = NOPS[left.min(NOPS.len()) - 1];
            nop.iter().for_each(|&byte| self.encoder.write_u8(byte));
            self.bytes += nop.len();
            left -= nop.len();
        }
    }

    /// Encodes `opcode` with its operands.
    fn op(
        &mut self,
        opcode: Opcode,
        operands: &[Operand],
        mask: Option<VReg>,
        zeroing: bool,
    ) -> Result<(), String> {
        let mut instruction = Instruction::default();
        instruction.set_code(opcode);
        let mut pool = None;
        for (i, operand) in (0..).zip(operands) {
            match *operand {
                Operand::Reg(reg, width) => {
                    instruction.set_op_kind(i, OpKind::Register);
                    instruction.set_op_register(i, self.register(reg, width));
                }
                Operand::Memory(memory) => {
                    instruction.set_op_kind(i, OpKind::Memory);
                    pool = self.memory(&mut instruction, memory);
                }
                Operand::Tile(number) => {
                    instruction.set_op_kind(i, OpKind::Register);
                    instruction.set_op_register(i, Register::TMM0 + u32::from(number));
                }
                Operand::Imm(number) => set_immediate(&mut instruction, i, opcode, number),
                Operand::Constant(_) => return Err("a constant without a place".to_owned()),
            }
        }
        if let Some(mask) = mask {
            instruction.set_op_mask(self.register(mask, Width::Mask));
            instruction.set_zeroing_masking(zeroing);
        }
        let (displacement, end) =
            self.encode(&instruction).map_err(|e| format!("{opcode:?} {operands:?}: {e}"))?;
        if let Some(entry) = pool {
            self.pool_uses.push((displacement, end, entry));
        }
        Ok(())
    }

    fn memory(&mut self, instruction: &mut Instruction, memory: Memory) -> Option<PoolEntry> {
        instruction.set_is_broadcast(memory.broadcast);
        let (base, index, scale, disp) = match memory.place {
            Place::Address { base, index, scale, disp } => {
                let general = |r: Option<VReg>| r.map_or(Register::None, |r| self.general(r));
                (general(base), general(index), scale, i64::from(disp))
            }
            Place::Frame(slot, disp) => {
                let at = i64::from(self.slots[slot.0 as usize]) + i64::from(disp);
                (Register::RSP, Register::None, 1, at)
            }
            Place::Pool(entry) => {
                self.pool.insert(entry);
                instruction.set_memory_base(Register::RIP);
                instruction.set_memory_displ_size(8);
                // Any target near the code; `finish` writes the distance.
                instruction.set_memory_displacement64(self.bytes as u64);
                return Some(entry);
            }
        };
        instruction.set_memory_base(base);
        instruction.set_memory_index(index);
        instruction.set_memory_index_scale(scale.into());
        instruction.set_memory_displacement64(disp as u64);
        let size = match (base, disp) {
            (Register::None, _) => 8,
            (_, 0) => 0,
            _ => 1,
        };
        instruction.set_memory_displ_size(size);
        None
    }

    fn prologue(&mut self, saved: &[Register], frame: u32) -> Result<(), String> {
        for &reg in saved {
            self.raw(Opcode::Push_r64, &[Raw::Reg(reg)])?;
        }
        if frame > 0 {
            // The caller's stack pointer is kept above the slots.
            for page in 1..=frame / PAGE {
                let below = Raw::Below(page * PAGE);
                self.raw(Opcode::Mov_rm64_r64, &[below, Raw::Reg(Register::RAX)])?;
            }
            self.raw(Opcode::Mov_r64_rm64, &[Raw::Reg(Register::RAX), Raw::Reg(Register::RSP)])?;
            self.raw(Opcode::Sub_rm64_imm32, &[Raw::Reg(Register::RSP), Raw::Imm(i64::from(frame) + 64)])?;
            self.raw(Opcode::And_rm64_imm8, &[Raw::Reg(Register::RSP), Raw::Imm(-64)])?;
            self.raw(Opcode::Mov_rm64_r64, &[Raw::Stack(frame), Raw::Reg(Register::RAX)])?;
        }
        Ok(())
    }

    fn epilogue(&mut self, saved: &[Register], frame: u32) -> Result<(), String> {
        if frame > 0 {
            self.raw(Opcode::Mov_r64_rm64, &[Raw::Reg(Register::RSP), Raw::Stack(frame)])?;
        }
        for &reg in saved.iter().rev() {
            self.raw(Opcode::Pop_r64, &[Raw::Reg(reg)])?;
        }
        self.raw(Opcode::VEX_Vzeroupper, &[])?;
        self.raw(Opcode::Retnq, &[])
    }

    /// An instruction on physical registers.
    fn raw(&mut self, opcode: Opcode, operands: &[Raw]) -> Result<(), String> {
        let mut instruction = Instruction::default();
        instruction.set_code(opcode);
        for (i, operand) in (0..).zip(operands) {
            match *operand {
                Raw::Reg(reg) => {
                    instruction.set_op_kind(i, OpKind::Register);
                    instruction.set_op_register(i, reg);
                }
                Raw::Imm(number) => set_immediate(&mut instruction, i, opcode, number),
                Raw::Stack(_) | Raw::Below(_) => {
                    let offset = match *operand {
                        Raw::Below(bytes) => -i64::from(bytes),
                        Raw::Stack(bytes) => i64::from(bytes),
                        Raw::Reg(_) | Raw::Imm(_) => 0,
                    };
                    instruction.set_op_kind(i, OpKind::Memory);
                    instruction.set_memory_base(Register::RSP);
                    instruction.set_memory_displacement64(offset as u64);
                    instruction.set_memory_displ_size(1);
                }
            }
        }
        self.encode(&instruction).map(|_| ()).map_err(|e| format!("{opcode:?}: {e}"))
    }

    fn slot(&self, slot: Slot, word: u32) -> Raw {
        Raw::Stack(self.slots[slot.0 as usize] + 8 * word)
    }

    fn inst(&mut self, inst: &Inst) -> Result<(), String> {
        match inst {
            Inst::Op(op) => self.op(op.opcode, &op.operands, op.mask, op.zeroing),
            Inst::Copy { dst, src } => self.copy(*dst, *src),
            Inst::Constant { dst, constant } => self.constant(*dst, *constant),
            Inst::Reload { dst, slot } => self.reload(*dst, *slot),
            Inst::Spill { src, slot } => self.spill(*src, *slot),
            Inst::Arguments { dst } => {
                let dst = self.general(*dst);
                if dst == Register::RDI {
                    return Ok(());
                }
                self.raw(Opcode::Mov_r64_rm64, &[Raw::Reg(dst), Raw::Reg(Register::RDI)])
            }
            Inst::Divide { dst, src, divisor, remainder, saved } => {
                self.divide(*dst, *src, *divisor, *remainder, *saved)
            }
            Inst::LoopStart { label } | Inst::Label(label) => {
                self.labels[label.0 as usize] = Some(self.bytes);
                Ok(())
            }
            Inst::LoopEnd => Ok(()),
            Inst::Jump { opcode, target } => {
                let mut instruction = Instruction::default();
                instruction.set_code(*opcode);
                instruction.set_op0_kind(OpKind::NearBranch64);
                instruction.set_near_branch64(self.bytes as u64);
                let (_, end) = self.encode(&instruction)?;
                self.jumps.push((end - 4, *target));
                Ok(())
            }
        }
    }

    fn copy(&mut self, dst: VReg, src: VReg) -> Result<(), String> {
        if self.assignment[dst.index()] == self.assignment[src.index()] {
            return Ok(());
        }
        let (opcode, width) = match self.classes[dst.index()] {
            Class::General => (Opcode::Mov_r64_rm64, Width::B64),
            Class::Mask => (Opcode::VEX_Kmovq_kr_km64, Width::Mask),
            Class::Vector => {
                let (opcode, _) = forms::MOVAPS.at(self.wide);
                (opcode, if self.wide { Width::Zmm } else { Width::Ymm })
            }
        };
        self.op(opcode, &[Operand::Reg(dst, width), Operand::Reg(src, width)], None, false)
    }

    fn constant(&mut self, dst: VReg, constant: Constant) -> Result<(), String> {
        let width = if self.wide { Width::Zmm } else { Width::Ymm };
        let reg = Operand::Reg(dst, width);
        match constant {
            Constant::Splat(0) if self.assignment[dst.index()] < 16 => {
                let low = Operand::Reg(dst, Width::Xmm);
                self.op(Opcode::VEX_Vpxor_xmm_xmm_xmmm128, &[low; 3], None, false)
            }
            Constant::Splat(0) => self.op(forms::PXOR.at(self.wide).0, &[reg; 3], None, false),
            Constant::Splat(word) => {
                let from = Memory { place: Place::Pool(PoolEntry::Dword(word)), broadcast: false };
                let (opcode, _) = forms::BROADCASTSS_LOAD.at(self.wide);
                self.op(opcode, &[reg, Operand::Memory(from)], None, false)
            }
            _ => {
                let entry = PoolEntry::Vector(constant, if self.wide { 16 } else { 8 });
                let from = Memory { place: Place::Pool(entry), broadcast: false };
                let (opcode, _) = forms::MOVUPS.at(self.wide);
                self.op(opcode, &[reg, Operand::Memory(from)], None, false)
            }
        }
    }

    fn reload(&mut self, dst: VReg, slot: Slot) -> Result<(), String> {
        let from = Operand::Memory(Memory { place: Place::Frame(slot, 0), broadcast: false });
        let (opcode, width) = match self.classes[dst.index()] {
            Class::General => (Opcode::Mov_r64_rm64, Width::B64),
            Class::Mask => (Opcode::VEX_Kmovq_kr_km64, Width::Mask),
            Class::Vector if self.wide => (forms::MOVAPS.at(true).0, Width::Zmm),
            Class::Vector => (forms::MOVUPS.at(false).0, Width::Ymm),
        };
        self.op(opcode, &[Operand::Reg(dst, width), from], None, false)
    }

    fn spill(&mut self, src: VReg, slot: Slot) -> Result<(), String> {
        let to = Operand::Memory(Memory { place: Place::Frame(slot, 0), broadcast: false });
        let (opcode, width) = match self.classes[src.index()] {
            Class::General => (Opcode::Mov_rm64_r64, Width::B64),
            Class::Mask => (Opcode::VEX_Kmovq_m64_kr, Width::Mask),
            Class::Vector => {
                (forms::MOVUPS_STORE.at(self.wide).0, if self.wide { Width::Zmm } else { Width::Ymm })
            }
        };
        self.op(opcode, &[to, Operand::Reg(src, width)], None, false)
    }

    /// Division works in `rdx:rax`, which are put aside; the operands may be these registers too.
    fn divide(
        &mut self,
        dst: VReg,
        src: VReg,
        divisor: u64,
        remainder: bool,
        saved: Slot,
    ) -> Result<(), String> {
        let (rax, rdx) = (Raw::Reg(Register::RAX), Raw::Reg(Register::RDX));
        let [old_rax, old_rdx, result] = [0, 1, 2].map(|word| self.slot(saved, word));
        self.raw(Opcode::Mov_rm64_r64, &[old_rax, rax])?;
        self.raw(Opcode::Mov_rm64_r64, &[old_rdx, rdx])?;
        self.raw(Opcode::Mov_r64_rm64, &[rax, Raw::Reg(self.general(src))])?;
        self.raw(Opcode::Xor_r32_rm32, &[Raw::Reg(Register::EDX), Raw::Reg(Register::EDX)])?;
        let by = Memory { place: Place::Pool(PoolEntry::Qword(divisor)), broadcast: false };
        self.op(Opcode::Div_rm64, &[Operand::Memory(by)], None, false)?;
        self.raw(Opcode::Mov_rm64_r64, &[result, if remainder { rdx } else { rax }])?;
        self.raw(Opcode::Mov_r64_rm64, &[rdx, old_rdx])?;
        self.raw(Opcode::Mov_r64_rm64, &[rax, old_rax])?;
        self.raw(Opcode::Mov_r64_rm64, &[Raw::Reg(self.general(dst)), result])
    }

    /// Appends the constants, the largest first, and writes all distances.
    fn finish(mut self) -> Result<Vec<u8>, String> {
        let mut bytes = self.encoder.take_buffer();
        if !self.pool.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(ALIGN as usize), 0xcc);
        }
        let mut offsets = std::collections::BTreeMap::new();
        for entry in self.pool {
            offsets.insert(entry, bytes.len());
            match entry {
                PoolEntry::Tiles(rows) => bytes.extend(tile_configuration(rows)),
                PoolEntry::Vector(constant, lanes) => {
                    bytes.extend((0..lanes).flat_map(|lane| constant.lane(lane).to_le_bytes()));
                }
                PoolEntry::Qword(word) => bytes.extend(word.to_le_bytes()),
                PoolEntry::Dword(word) => bytes.extend(word.to_le_bytes()),
            }
        }
        let mut write = |at: usize, distance: i64| -> Result<(), String> {
            let distance = i32::try_from(distance).map_err(|_| "a distance beyond 32 bits".to_owned())?;
            bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
            Ok(())
        };
        for (at, end, entry) in self.pool_uses {
            write(at, offsets[&entry] as i64 - end as i64)?;
        }
        for (at, label) in self.jumps {
            let target = self.labels[label.0 as usize].ok_or("a jump to nowhere")?;
            write(at, target as i64 - (at as i64 + 4))?;
        }
        Ok(bytes)
    }
}

/// What `ldtilecfg` reads (Intel SDM, volume 2A): palette 1, the bytes of a row of each tile as words from byte 16 on, its
/// rows as bytes from byte 48 on.
fn tile_configuration(rows: u8) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for tile in 0..TILES {
        bytes[16 + 2 * tile] = VECTOR_BYTES as u8;
        bytes[48 + tile] = if tile < 6 { rows } else { TILE_ROWS as u8 };
    }
    bytes
}

/// An operand on a physical register.
#[derive(Clone, Copy)]
enum Raw {
    Reg(Register),
    Imm(i64),
    /// A word at an offset from `rsp`.
    Stack(u32),
    /// A word below `rsp`.
    Below(u32),
}

/// Sets operand `i` to a number, in the encoding that `opcode` has (or its short form, if the number fits).
fn set_immediate(instruction: &mut Instruction, i: u32, opcode: Opcode, number: i64) {
    let short = match opcode {
        Opcode::Add_rm64_imm32 => Some(Opcode::Add_rm64_imm8),
        Opcode::And_rm64_imm32 => Some(Opcode::And_rm64_imm8),
        Opcode::Cmp_rm64_imm32 => Some(Opcode::Cmp_rm64_imm8),
        Opcode::Imul_r64_rm64_imm32 => Some(Opcode::Imul_r64_rm64_imm8),
        Opcode::And_rm64_imm8 => Some(opcode),
        _ => None,
    };
    match opcode {
        _ if short.is_some() && i8::try_from(number).is_ok() => {
            instruction.set_code(short.unwrap_or(opcode));
            instruction.set_op_kind(i, OpKind::Immediate8to64);
            instruction.set_immediate8to64(number);
        }
        Opcode::Add_rm64_imm32
        | Opcode::And_rm64_imm32
        | Opcode::Cmp_rm64_imm32
        | Opcode::Sub_rm64_imm32
        | Opcode::Mov_rm64_imm32
        | Opcode::Imul_r64_rm64_imm32 => {
            instruction.set_op_kind(i, OpKind::Immediate32to64);
            instruction.set_immediate32to64(number);
        }
        Opcode::Mov_r32_imm32 => {
            instruction.set_op_kind(i, OpKind::Immediate32);
            instruction.set_immediate32(number as u32);
        }
        Opcode::Mov_r64_imm64 => {
            instruction.set_op_kind(i, OpKind::Immediate64);
            instruction.set_immediate64(number as u64);
        }
        _ => {
            instruction.set_op_kind(i, OpKind::Immediate8);
            instruction.set_immediate8(number as u8);
        }
    }
}

/// The 16-bit part of a general register.
fn word_register(number: u8) -> Register {
    const WORDS: [Register; 16] = [
        Register::AX,
        Register::CX,
        Register::DX,
        Register::BX,
        Register::SP,
        Register::BP,
        Register::SI,
        Register::DI,
        Register::R8W,
        Register::R9W,
        Register::R10W,
        Register::R11W,
        Register::R12W,
        Register::R13W,
        Register::R14W,
        Register::R15W,
    ];
    WORDS[usize::from(number) & 15]
}

/// The low byte of a general register.
fn byte_register(number: u8) -> Register {
    const BYTES: [Register; 16] = [
        Register::AL,
        Register::CL,
        Register::DL,
        Register::BL,
        Register::SPL,
        Register::BPL,
        Register::SIL,
        Register::DIL,
        Register::R8L,
        Register::R9L,
        Register::R10L,
        Register::R11L,
        Register::R12L,
        Register::R13L,
        Register::R14L,
        Register::R15L,
    ];
    BYTES[usize::from(number) & 15]
}
