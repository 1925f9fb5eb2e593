//! Packs the language-model head: the dense product that makes the logits becomes a product in fewer bits.
//!
//! This is the one pass that changes numbers. [`PassContext::head`](crate::PassContext::head) asks for it; with
//! [`HeadFormat::Stored`] nothing happens.
//!
//! - `q8`, `q6`, `q4`: `matmul` becomes `quant_blocks` and a `block_matmul` with the matrix quantised to `w8`, `w6` or `w4`.
//! - `screened`: a `w4` copy gives approximate logits, the rows of the greatest ones are chosen (`screen`) and computed again
//!   from the stored matrix by the sum of `matmul` (`matmul_rows`); `merge_screened` keeps the others below them.
//!
//! A tied embedding is looked up in the stored matrix as before, so that stays in memory, of which a token reads one row.

use std::fmt;
use std::str::FromStr;

use bitnetc_ir::{BlockFormat, DType, Func, Module, NodeId, Op, Operand, ParamDecl, ParamDef, Type};

use crate::manager::PassContext;
use crate::patch::Patch;
use crate::pipeline::Rewrite;

/// How the head is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HeadFormat {
    /// From the matrix as the model file has it.
    #[default]
    Stored,
    /// 8.5 bits an element.
    Q8,
    /// 6.5 bits an element.
    Q6,
    /// 4.5 bits an element.
    Q4,
    /// 4.5 bits an element for all rows, and the best ones exactly.
    Screened {
        /// Rows that are computed exactly, at least 1; all if the matrix has no more.
        rows: u32,
    },
}

impl HeadFormat {
    /// Rows that a screened head computes exactly, unless asked otherwise.
    pub const SCREENED_ROWS: u32 = 256;
}

/// A text that names no head format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown head `{text}`: expected f16, q8, q6, q4, screened, or screened:N with N exact rows from 1 on"
)]
pub struct HeadFormatError {
    /// As written.
    pub text: String,
}

impl fmt::Display for HeadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFormat::Stored => f.write_str("f16"),
            HeadFormat::Q8 => f.write_str("q8"),
            HeadFormat::Q6 => f.write_str("q6"),
            HeadFormat::Q4 => f.write_str("q4"),
            HeadFormat::Screened { rows: Self::SCREENED_ROWS } => f.write_str("screened"),
            HeadFormat::Screened { rows } => write!(f, "screened:{rows}"),
        }
    }
}

impl FromStr for HeadFormat {
    type Err = HeadFormatError;

    fn from_str(text: &str) -> Result<Self, HeadFormatError> {
        let unknown = || HeadFormatError { text: text.to_owned() };
        Ok(match text {
            "f16" => HeadFormat::Stored,
            "q8" => HeadFormat::Q8,
            "q6" => HeadFormat::Q6,
            "q4" => HeadFormat::Q4,
            "screened" => HeadFormat::Screened { rows: Self::SCREENED_ROWS },
            _ => {
                let rows = text.strip_prefix("screened:").and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                HeadFormat::Screened { rows: rows.ok_or_else(unknown)? }
            }
        })
    }
}

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
        let format = match self.format {
            HeadFormat::Stored => return None,
            HeadFormat::Q8 => BlockFormat::W8,
            HeadFormat::Q6 => BlockFormat::W6,
            HeadFormat::Q4 | HeadFormat::Screened { .. } => BlockFormat::W4,
        };
        let table = &module.params()[w];
        let (rows, cols) = table.ty.as_matrix()?;
        let dtype: DType = format.dtype();
        let mut patch = Patch::new("pack-head", node);
        let packed = patch.param(ParamDecl {
            name: format!("{}.{}", table.name, dtype.name()),
            ty: Type::matrix(dtype, rows, cols),
            def: ParamDef::Quantise(w),
        });
        let q = patch.op(Op::QuantBlocks {}, vec![x.into()]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_and_nothing_else_is() {
        for text in ["f16", "q8", "q6", "q4", "screened", "screened:1", "screened:4096"] {
            assert_eq!(text.parse::<HeadFormat>().unwrap().to_string(), text);
        }
        assert_eq!("screened:256".parse::<HeadFormat>().unwrap().to_string(), "screened");
        for text in ["", "f32", "q5", "screened:", "screened:0", "screened:-1", "screened:x", "Q8"] {
            assert!(text.parse::<HeadFormat>().unwrap_err().to_string().contains(&format!("`{text}`")));
        }
    }
}
