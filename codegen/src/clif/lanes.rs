//! Ops that move data between lanes.

use cranelift_codegen::ir::{self, ConstantData, InstBuilder, types};

use super::lower::{Lower, PARTS, Parts};
use crate::kir;

impl Lower<'_> {
    /// The dwords of a part in another order: lane l of the result is lane `order[l]`.
    pub(super) fn permute(&mut self, v: ir::Value, order: [u8; 4]) -> ir::Value {
        let ty = self.b.func.dfg.value_type(v);
        let bytes = self.cast(types::I8X16, v);
        let mask: Vec<u8> = order.iter().flat_map(|&lane| (0..4).map(move |i| 4 * lane + i)).collect();
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(mask));
        let shuffled = self.b.ins().shuffle(bytes, bytes, mask);
        self.cast(ty, shuffled)
    }

    /// The low halves of two parts, side by side.
    pub(super) fn low_halves(&mut self, a: ir::Value, b: ir::Value) -> ir::Value {
        let ty = self.b.func.dfg.value_type(a);
        let (a, b) = (self.cast(types::I8X16, a), self.cast(types::I8X16, b));
        let mask: Vec<u8> = (0..8).chain(16..24).collect();
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(mask));
        let joined = self.b.ins().shuffle(a, b, mask);
        self.cast(ty, joined)
    }

    pub(super) fn splat_lane(&mut self, v: kir::Value, lane: u8) -> Parts {
        let part = self.parts(v)[usize::from(lane / 4)];
        [self.permute(part, [lane % 4; 4]); PARTS]
    }

    pub(super) fn extract_lane(&mut self, v: kir::Value, lane: u8) -> Parts {
        let part = self.parts(v)[usize::from(lane / 4)];
        let word = self.b.ins().extractlane(part, lane % 4);
        [self.b.ins().sextend(types::I64, word); PARTS]
    }

    /// The fixed tree: `l[i] = f(l[i], l[i + d])` for d = 8, 4, 2, 1; lane 0 in all lanes.
    pub(super) fn reduce(
        &mut self,
        v: kir::Value,
        mut f: impl FnMut(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> Parts {
        let p = self.parts(v);
        let (q0, q1) = (f(self, p[0], p[2]), f(self, p[1], p[3]));
        let four = f(self, q0, q1);
        let upper = self.permute(four, [2, 3, 2, 3]);
        let two = f(self, four, upper);
        let second = self.permute(two, [1, 1, 1, 1]);
        let one = f(self, two, second);
        [self.permute(one, [0; 4]); PARTS]
    }
}
