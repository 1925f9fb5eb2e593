//! Machine instructions over virtual registers: what instruction selection makes, register allocation assigns, and
//! emission encodes.
//!
//! A [`Code`] is a flat list of instructions with labels. Virtual registers may be written more than once (loop-carried
//! values are), so nothing here is SSA; liveness comes from the control flow alone.
//!
//! Invariants: an instruction that reads and writes its first operand is directly after the copy into it, or the
//! operand is a register that lives across iterations; between an instruction that sets flags and the one that reads
//! them there is none that changes them.

use std::collections::BTreeSet;

use iced_x86::Code as Opcode;

use crate::kir::Table;

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct VReg(pub(super) u32);

impl VReg {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A file of physical registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// 64-bit general registers.
    General,
    /// xmm, ymm or zmm.
    Vector,
    /// k1 to k7.
    Mask,
}

/// Which part of a register an operand names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Width {
    B8,
    B16,
    B32,
    B64,
    Xmm,
    Ymm,
    Zmm,
    Mask,
}

/// A vector constant, by its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Constant {
    /// The same dword in all lanes.
    Splat(u32),
    /// Lane l holds `first + l`.
    Iota(u32),
    /// All ones in the first that many lanes, zeros after.
    Lanes(u8),
    /// The bytes of a table; zmm only.
    Table(Table),
    /// A quarter of a table (0..4), in every 128 bits.
    Quarter(Table, u8),
}

impl Constant {
    /// The dword in a lane.
    pub(super) fn lane(self, lane: u32) -> u32 {
        match self {
            Constant::Splat(word) => word,
            Constant::Iota(first) => first + lane,
            Constant::Table(table) => table_word(table, lane),
            Constant::Quarter(table, quarter) => table_word(table, 4 * u32::from(quarter) + lane % 4),
            Constant::Lanes(n) => {
                if lane < u32::from(n) {
                    u32::MAX
                } else {
                    0
                }
            }
        }
    }
}

/// Four bytes of a table.
fn table_word(table: Table, word: u32) -> u32 {
    table.0.as_chunks::<4>().0.get(word as usize).map_or(0, |&bytes| u32::from_le_bytes(bytes))
}

/// Bytes after the code, which are sorted by falling size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PoolEntry {
    /// The configuration of tile registers of which the first six have this number of rows.
    Tiles(u8),
    /// A whole ymm or zmm: the constant and the number of its lanes.
    Vector(Constant, u32),
    /// One qword.
    Qword(u64),
    /// One dword, for an instruction that broadcasts it.
    Dword(u32),
}

/// A place in the kernel's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

/// Where a memory operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `base + index * scale + disp`.
    Address { base: Option<VReg>, index: Option<VReg>, scale: u8, disp: i32 },
    /// A byte of a slot of the frame.
    Frame(Slot, i32),
    /// A constant after the code.
    Pool(PoolEntry),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) place: Place,
    /// Whether one dword is broadcast to all lanes.
    pub(super) broadcast: bool,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Reg(VReg, Width),
    Memory(Memory),
    /// A tile register, by its number.
    Tile(u8),
    Imm(i64),
    /// A vector constant whose place (register or memory) is not decided yet.
    Constant(Constant),
}

/// What an instruction does with its first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Read,
    Write,
    ReadWrite,
}

/// In which forms an instruction takes its last register-or-memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryForm {
    /// Only as a register.
    No,
    /// As a whole vector.
    Whole,
    /// As a whole vector, or as one dword that is broadcast.
    Broadcast,
}

/// Where control goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label(pub(super) u32);

/// An encodable instruction.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) opcode: Opcode,
    pub(super) operands: Vec<Operand>,
    pub(super) first: First,
    /// Which operand may be memory, and how.
    pub(super) memory: Option<(usize, MemoryForm)>,
    /// The lanes that are written, and read from memory.
    pub(super) mask: Option<VReg>,
    /// Whether the other lanes become zero (else they are kept).
    pub(super) zeroing: bool,
}

/// An instruction.
#[derive(Clone, Debug)]
pub(super) enum Inst {
    Op(Op),
    /// `dst = src`, of one class; nothing if they are assigned the same register.
    Copy {
        dst: VReg,
        src: VReg,
    },
    /// `dst = constant`.
    Constant {
        dst: VReg,
        constant: Constant,
    },
    /// `dst = slot`.
    Reload {
        dst: VReg,
        slot: Slot,
    },
    /// `slot = src`.
    Spill {
        src: VReg,
        slot: Slot,
    },
    /// The argument array's address.
    Arguments {
        dst: VReg,
    },
    /// `dst = src / divisor` or `src % divisor`, unsigned; `saved` has three words for the registers that division needs.
    Divide {
        dst: VReg,
        src: VReg,
        divisor: u64,
        remainder: bool,
        saved: Slot,
    },
    /// The head of a loop; what is between it and its `LoopEnd` runs again and again.
    LoopStart {
        label: Label,
    },
    LoopEnd,
    Label(Label),
    /// A jump by `opcode`, which is one of the 32-bit relative forms.
    Jump {
        opcode: Opcode,
        target: Label,
    },
}

/// How an instruction uses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    ReadWrite,
}

impl Memory {
    fn registers(&self) -> impl Iterator<Item = VReg> {
        let (base, index) = match self.place {
            Place::Address { base, index, .. } => (base, index),
            Place::Frame(..) | Place::Pool(_) => (None, None),
        };
        base.into_iter().chain(index)
    }
}

impl Inst {
    /// Visits the registers, reads before writes.
    pub(super) fn registers(&self, mut visit: impl FnMut(VReg, Use)) {
        match self {
            Inst::Op(op) => {
                for (i, operand) in op.operands.iter().enumerate() {
                    match operand {
                        Operand::Reg(r, _) if i > 0 || op.first == First::Read => visit(*r, Use::Read),
                        Operand::Memory(m) => m.registers().for_each(|r| visit(r, Use::Read)),
                        _ => {}
                    }
                }
                if let Some(mask) = op.mask {
                    visit(mask, Use::Read);
                }
                if let Some(Operand::Reg(r, _)) = op.operands.first() {
                    match op.first {
                        First::Read => {}
                        First::Write => visit(*r, Use::Write),
                        First::ReadWrite => visit(*r, Use::ReadWrite),
                    }
                }
            }
            Inst::Copy { dst, src } => {
                visit(*src, Use::Read);
                visit(*dst, Use::Write);
            }
            Inst::Divide { dst, src, .. } => {
                visit(*src, Use::Read);
                visit(*dst, Use::Write);
            }
            Inst::Constant { dst, .. } | Inst::Reload { dst, .. } | Inst::Arguments { dst } => {
                visit(*dst, Use::Write);
            }
            Inst::Spill { src, .. } => visit(*src, Use::Read),
            Inst::LoopStart { .. } | Inst::LoopEnd | Inst::Label(_) | Inst::Jump { .. } => {}
        }
    }

    /// Replaces every register.
    pub(super) fn rename(&mut self, mut to: impl FnMut(VReg) -> VReg) {
        match self {
            Inst::Op(op) => {
                for operand in &mut op.operands {
                    match operand {
                        Operand::Reg(r, _) => *r = to(*r),
                        Operand::Memory(Memory { place: Place::Address { base, index, .. }, .. }) => {
                            *base = base.map(&mut to);
                            *index = index.map(&mut to);
                        }
                        _ => {}
                    }
                }
                op.mask = op.mask.map(to);
            }
            Inst::Copy { dst, src } | Inst::Divide { dst, src, .. } => {
                (*dst, *src) = (to(*dst), to(*src));
            }
            Inst::Constant { dst, .. } | Inst::Reload { dst, .. } | Inst::Arguments { dst } => {
                *dst = to(*dst)
            }
            Inst::Spill { src, .. } => *src = to(*src),
            Inst::LoopStart { .. } | Inst::LoopEnd | Inst::Label(_) | Inst::Jump { .. } => {}
        }
    }
}

/// Machine code before it is bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    pub(super) insts: Vec<Inst>,
    /// Class of every virtual register.
    pub(super) classes: Vec<Class>,
    /// Bytes of every slot of the frame.
    pub(super) slots: Vec<u32>,
    pub(super) labels: u32,
    /// Registers that a copy after a loop gives the loop's results.
    pub(super) loop_results: BTreeSet<VReg>,
}

impl Code {
    pub(super) fn new_reg(&mut self, class: Class) -> VReg {
        self.classes.push(class);
        VReg(self.classes.len() as u32 - 1)
    }

    pub(super) fn new_slot(&mut self, bytes: u32) -> Slot {
        self.slots.push(bytes);
        Slot(self.slots.len() as u32 - 1)
    }

    pub(super) fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(super) fn class(&self, reg: VReg) -> Class {
        self.classes[reg.index()]
    }
}

/// A stretch of instructions that is a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoopRange {
    /// Position of the `LoopStart`.
    pub(super) start: usize,
    /// Position of the `LoopEnd`.
    pub(super) end: usize,
    /// Whether there is no loop inside.
    pub(super) innermost: bool,
}

/// The loops, in the order of their starts, and the depth of every instruction.
pub(super) fn loops(insts: &[Inst]) -> (Vec<LoopRange>, Vec<u32>) {
    let (mut ranges, mut open, mut depths) = (Vec::new(), Vec::new(), Vec::with_capacity(insts.len()));
    for (at, inst) in insts.iter().enumerate() {
        if let Inst::LoopStart { .. } = inst {
            if let Some(&outer) = open.last() {
                let outer: &mut LoopRange = &mut ranges[outer];
                outer.innermost = false;
            }
            open.push(ranges.len());
            ranges.push(LoopRange { start: at, end: at, innermost: true });
        }
        depths.push(open.len() as u32);
        if let Inst::LoopEnd = inst
            && let Some(closed) = open.pop()
        {
            ranges[closed].end = at;
        }
    }
    (ranges, depths)
}
