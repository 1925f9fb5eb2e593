//! Packs the language-model head: the dense product that makes the logits becomes a product in fewer bits.
//!
//! This is the one pass that changes numbers. [`PassContext::head`](crate::PassContext::head) asks for it; with
//! [`HeadFormat::Stored`] nothing happens.
//!
//! - `q8`, `q6`, `q4`: `matmul` becomes `quant_blocks` and a `block_matmul` with the matrix quantised to `w8`, `w6` or `w4`.
//! - `screened`: a `w4` copy gives approximate logits, the rows of the greatest ones are chosen (`screen`) and computed again
//!   from the stored matrix by the sum of `matmul` (`matmul_rows`); `merge_screened` keeps the others below them.
//!
//! Products that gate a recurrent state stay as they are: what is lost in one step is never made good.
//!
//! A tied embedding is looked up in the stored matrix as before, so that stays in memory, of which a token reads one row.

use bitnetc_ir::{DType, Func, Module, NodeId, Op, Operand, ParamDecl, ParamDef, QuantBlock, Type, ValueId};

use crate::choices::HeadFormat;
use crate::context::PassContext;
use crate::pass::Rewrite;
use crate::pass_id::PassId;
use crate::patch::Patch;

/// See the module.
#[derive(Debug, Default)]
pub struct PackHead {
    format: HeadFormat,
}

impl Rewrite for PackHead {
    fn configure(&mut self, context: &PassContext) {
        self.format = context.head;
    }

    fn matches(&self, module: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let product = func.node(node);
        let (Op::Matmul {}, &[Operand::Value(x), Operand::Param(w)]) = (&product.op, &product.operands[..])
        else {
            return None;
        };
        if gates_a_state(func, product.results[0]) {
            return None;
        }
        let format = self.format.blocks()?;
        let table = &module.params()[w];
        let (rows, cols) = table.ty.as_matrix()?;
        let dtype: DType = format.dtype();
        let mut patch = Patch::new(PassId::PackHead, node);
        let packed = patch.param(ParamDecl {
            name: format!("{}.{}", table.name, dtype.name()),
            ty: Type::matrix(dtype, rows, cols),
            def: ParamDef::Quantise(w),
        });
        let q = patch.op(Op::QuantBlocks { block: QuantBlock::Cols32 }, vec![x.into()]);
        let mut y = patch.op(Op::BlockMatmul {}, vec![q, packed]);
        if let HeadFormat::Screened { rows: exact } = self.format {
            let chosen = patch.op(Op::Screen { n: exact.clamp(1, rows) }, vec![y]);
            let exact = patch.op(Op::MatmulRows {}, vec![x.into(), chosen, Operand::Param(w).into()]);
            y = patch.op(Op::MergeScreened {}, vec![y, chosen, exact]);
        }
        patch.replace(product.results[0], y);
        patch.remove(node);
        Some(patch)
    }
}

/// Whether `value` is a gate of a recurrent state, or a decay, before its function is applied.
fn gates_a_state(func: &Func, value: ValueId) -> bool {
    let gate = |user: &NodeId| match func.node(*user).op {
        Op::SoftplusDecay {} => true,
        Op::Sigmoid {} => {
            let open = func.node(*user).results[0];
            func.users(open).iter().any(|&user| matches!(func.node(user).op, Op::DeltaRule {}))
        }
        _ => false,
    };
    func.users(value).iter().any(gate)
}
