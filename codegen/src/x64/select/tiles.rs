//! Tile ops: one instruction each. Which tile is which is part of the op, so there is nothing to allocate.

use iced_x86::Code as Opcode;

use super::super::mach::{Class, First, Memory, Operand, Place, PoolEntry, Width};
use super::Select;
use crate::kir::{Op, Value};

impl Select<'_> {
    /// The rows of a tile at `ptr + offset`, `stride` bytes apart: the stride is the index register.
    fn tile_rows(&mut self, ptr: Value, offset: i32, stride: Value) -> Operand {
        let at = self.memory(ptr, offset);
        let (base, disp) = match at.place {
            Place::Address { base: Some(base), index: None, disp, .. } => (base, disp),
            _ => {
                let base = self.code.new_reg(Class::General);
                let operands = [Operand::Reg(base, Width::B64), Operand::Memory(at)];
                self.op(Opcode::Lea_r64_m, operands, First::Write);
                (base, 0)
            }
        };
        let index = Some(self.int(stride));
        let place = Place::Address { base: Some(base), index, scale: 1, disp };
        Operand::Memory(Memory { place, broadcast: false })
    }

    pub(super) fn tile_op(&mut self, op: &Op) {
        match *op {
            Op::TileBegin { rows } => {
                let place = Place::Pool(PoolEntry::Tiles(rows));
                let from = Operand::Memory(Memory { place, broadcast: false });
                self.op(Opcode::VEX_Ldtilecfg_m512, [from], First::Read);
            }
            Op::TileEnd {} => self.op(Opcode::VEX_Tilerelease, [], First::Read),
            Op::TileZero { tile } => self.op(Opcode::VEX_Tilezero_tmm, [Operand::Tile(tile)], First::Read),
            Op::TileLoad { ptr, stride, offset, tile } => {
                let from = self.tile_rows(ptr, offset, stride);
                self.op(Opcode::VEX_Tileloadd_tmm_sibmem, [Operand::Tile(tile), from], First::Read);
            }
            Op::TileStore { ptr, stride, offset, tile } => {
                let to = self.tile_rows(ptr, offset, stride);
                self.op(Opcode::VEX_Tilestored_sibmem_tmm, [to, Operand::Tile(tile)], First::Read);
            }
            Op::TileDot { acc, s, u } => {
                let operands = [acc, s, u].map(Operand::Tile);
                self.op(Opcode::VEX_Tdpbsud_tmm_tmm_tmm, operands, First::Read);
            }
            _ => {}
        }
    }
}
