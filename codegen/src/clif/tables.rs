//! Look-ups of bytes in tables of 64: in four quarters of 16, of which bits 4 and 5 of the index choose one.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder, types};

use super::lower::Lower;
use crate::kir::Table;

impl Lower<'_> {
    /// The bytes of `table` that the lower six bits of the bytes of `index` name.
    pub(super) fn lookup(&mut self, index: ir::Value, table: Table) -> ir::Value {
        let index = self.cast(types::I8X16, index);
        let low = self.constant(types::I8X16, vec![0x0f; 16]);
        let low = self.b.ins().band(index, low);
        let [first, second, third, fourth] = std::array::from_fn(|quarter| {
            let quarter = table.0[16 * quarter..][..16].to_vec();
            let quarter = self.constant(types::I8X16, quarter);
            self.b.ins().swizzle(quarter, low)
        });
        let lower = self.by_bit(index, 4, second, first);
        let upper = self.by_bit(index, 4, fourth, third);
        self.by_bit(index, 5, upper, lower)
    }

    /// `set` where bit `bit` of a byte of `index` is set, else `clear`.
    fn by_bit(&mut self, index: ir::Value, bit: u8, set: ir::Value, clear: ir::Value) -> ir::Value {
        let bits = self.constant(types::I8X16, vec![1 << bit; 16]);
        let masked = self.b.ins().band(index, bits);
        let mask = self.b.ins().icmp(IntCC::Equal, masked, bits);
        self.b.ins().bitselect(mask, set, clear)
    }
}
