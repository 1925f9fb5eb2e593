//! Vector instructions of the kernels, by op: estimates from how the generators in `codegen` write their inner loops, with
//! loads that are operands of other instructions left out.

use bitnetc_ir::{BlockFormat, DType, Extent, Feature, Layout, Op, Type, blocks};

use super::{CostModel, TILE_GAIN, TernaryShape};

/// Tokens for which a kernel of many tokens unpacks a vector of weights once.
const TOKENS_A_BLOCK: u64 = 12;
/// Tokens from which on tile registers are used.
const TILE_TOKENS: u32 = 16;
/// Instructions that bring a vector of codes into another form, stores among them.
const EXPANSION: f64 = 12.0;
/// Instructions to scale a vector of integer sums and add it to one of float sums: codes apart by powers of four are added up, the
/// offset is taken off, and two scales multiplied.
const SCALED_SUM: f64 = 12.0;
/// Instructions of `exp` on a vector.
const EXP: f64 = 16.0;
/// Instructions of log(1 + e) on a vector.
const LOG1P: f64 = 13.0;

/// Elements of a row.
fn width(ty: Option<&&Type>) -> f64 {
    ty.and_then(|ty| ty.as_rows()).map_or(0.0, |rows| f64::from(rows.width))
}

/// Elements of a matrix.
fn elements(ty: Option<&&Type>) -> f64 {
    ty.and_then(|ty| ty.as_matrix()).map_or(0.0, |(rows, cols)| f64::from(rows) * f64::from(cols))
}

impl CostModel<'_> {
    /// The layout for five ternary weights a byte: the one with fewer instructions.
    pub(super) fn five_a_byte(&self) -> Layout {
        if self.has_byte_permutes() { Layout::Lut16 } else { Layout::Trits16 }
    }

    /// What an instruction that multiplies nothing counts: where every vector unit multiplies, as one that does; where half of them
    /// do (AMD's cores with this tuning have four units and two multipliers), half.
    fn beside_products(&self) -> f64 {
        if self.target.has(Feature::OneStream) { 0.5 } else { 1.0 }
    }

    /// Instructions to bring a vector's worth of ternary weights into the form that is multiplied, counted as products.
    fn unpack_instructions(&self, layout: Layout) -> Option<f64> {
        let plain = self.beside_products();
        match layout {
            // A mask.
            Layout::Tile16 => Some(plain),
            // Two byte additions and another dot, or the digit itself.
            Layout::Trits16 if self.has_dot() => Some(2.0 * plain + self.dot_instructions()),
            Layout::Trits16 => Some(6.0 * plain),
            // A difference and two look-ups for five codes, and a mask for each.
            Layout::Lut16 if self.has_byte_permutes() => Some(8.0 / 5.0 * plain),
            // Two look-ups of four shuffles and what chooses among them; two instructions and a shift for each code.
            Layout::Lut16 => Some(8.0 * plain),
            _ => None,
        }
    }

    /// Whether ternary products of this number of tokens use tile registers.
    pub(super) fn uses_tiles(&self, tokens: u32) -> bool {
        tokens >= TILE_TOKENS && self.target.has(Feature::AmxInt8)
    }

    /// Instructions of a ternary product with `many` tokens; `None` for a layout that kernels do not read.
    pub(super) fn ternary_instructions(
        &self,
        layout: Layout,
        rows: u32,
        cols: u32,
        many: u32,
    ) -> Option<f64> {
        let unpack = self.unpack_instructions(layout)?;
        let vectors = f64::from(rows) * f64::from(cols) / self.vector_bytes();
        let tokens = u64::from(many);
        let dots = tokens as f64 * self.dot_instructions();
        let a_vector = match tokens {
            0 | 1 => unpack + self.dot_instructions(),
            // Unpacked once for all of them.
            _ if self.uses_tiles(many) => unpack + dots / TILE_GAIN,
            n => unpack * n.div_ceil(TOKENS_A_BLOCK) as f64 + dots,
        };
        Some(vectors * a_vector)
    }

    /// Instructions for the scales of groups in a product with one token: what they take off, convert and add up for 16 rows,
    /// and, where registers are not wide, the expansion of a layout with five codes a byte.
    pub(super) fn group_instructions(&self, layout: Layout, shape: TernaryShape) -> f64 {
        let TernaryShape { rows, cols, group } = shape;
        if group == 0 {
            return 0.0;
        }
        let sums = f64::from(rows) * f64::from(cols.div_ceil(group)) / self.lanes();
        let vectors = f64::from(rows) * f64::from(cols) / self.vector_bytes();
        let expansion = match layout.has_five_a_byte() && self.vector_bytes() < 64.0 {
            true => vectors * EXPANSION,
            false => 0.0,
        };
        sums * SCALED_SUM + expansion
    }

    /// Instructions of a block-quantised product with `tokens` tokens.
    fn block_instructions(&self, ty: &Type, tokens: f64) -> f64 {
        let Some((format, rows, cols)) = blocks::block_matrix(ty) else { return 0.0 };
        let elements = f64::from(rows) * f64::from(cols);
        let unpack = match format {
            BlockFormat::W8 => 0.0,
            BlockFormat::W4 => 1.0,
            BlockFormat::W6 => 3.0,
        };
        // A conversion, a product and a sum of f32 for each block of 32 columns of each row.
        let scales = elements / 32.0 * 3.0 / self.lanes();
        elements / self.vector_bytes() * (unpack + self.dot_instructions()) * tokens + scales * tokens
    }

    /// f32 in a vector.
    fn lanes(&self) -> f64 {
        (self.vector_bytes() / 4.0).max(1.0)
    }

    /// Instructions of attention: a product for the score and one for the sum for each element of a query and each key, the
    /// conversion of keys and values, which query heads of a key head share, and `exp`.
    fn attention_instructions(&self, heads: u32, kv_heads: u32, query: f64, call: Extent) -> f64 {
        let (p, n) = (f64::from(call.position), f64::from(call.tokens));
        let keys = n * p + n * (n + 1.0) / 2.0;
        let share = if heads == 0 { 1.0 } else { f64::from(kv_heads) / f64::from(heads) };
        let tiles = if call.tokens > 1 { 1.0 / 16.0 } else { 1.0 };
        let products = keys * query / self.lanes() * 2.0 * (1.0 + share * tiles);
        products + keys * f64::from(heads) / self.lanes() * EXP
    }

    /// Instructions of an op in a call.
    pub(super) fn op_instructions(
        &self,
        op: &Op,
        operands: &[&Type],
        results: &[&Type],
        call: Extent,
    ) -> f64 {
        let tokens = f64::from(call.tokens);
        let result = width(results.first());
        let first = width(operands.first());
        // Instructions for each vector of f32 of a row.
        let rows = |width: f64, each: f64| tokens * width / self.lanes() * each;
        let matrix = operands.get(1).copied();
        match op {
            Op::Split { .. } => 0.0,
            Op::TernaryMatmul {} | Op::Bitlinear { .. } => {
                let Some(((rows, cols), ty)) = matrix.and_then(|ty| Some((ty.as_matrix()?, ty))) else {
                    return 0.0;
                };
                let sums = self.ternary_instructions(ty.layout, rows, cols, call.tokens).unwrap_or(0.0);
                let shape = TernaryShape { rows, cols, group: ty.group };
                let scales = match operands.first().map(|x| (x.dtype, x.group)) {
                    // Of activations in blocks there are scales also where the matrix has none.
                    Some((DType::Q8b, block)) if ty.group == 0 => {
                        self.group_instructions(ty.layout, TernaryShape { group: block, ..shape })
                    }
                    _ => self.group_instructions(ty.layout, shape),
                };
                match operands.first().map(|x| x.dtype) {
                    // Each column's codes become f32, and a product each for 16 rows.
                    Some(DType::F32) => elements(operands.get(1)) / self.lanes() * (4.0 + tokens),
                    _ => sums + scales * tokens,
                }
            }
            Op::BlockMatmul {} => matrix.map_or(0.0, |ty| self.block_instructions(ty, tokens)),
            // Converted for every token.
            Op::Matmul {} => elements(operands.get(1)) / self.lanes() * 2.0 * tokens,
            Op::MatmulRows {} => {
                let cols = operands.get(2).and_then(|ty| ty.as_matrix()).map_or(0.0, |(_, c)| f64::from(c));
                tokens * result * cols / self.lanes() * 2.0
            }
            Op::Attention { heads, kv_heads, .. } => {
                self.attention_instructions(*heads, *kv_heads, result, call)
            }
            Op::Embed {} => rows(result, 2.0),
            Op::RmsNorm { .. } | Op::RmsNormHeads { .. } => rows(first, 6.0),
            Op::RmsNormQuant { .. } => rows(first, 12.0),
            Op::QuantAbsmax {} | Op::QuantBlocks { .. } => rows(first, 8.0),
            Op::Rope { .. } => rows(first, 6.0),
            Op::KvAppend {} => rows(width(operands.get(2)) + width(operands.get(3)), 4.0),
            Op::RopeKvAppend { .. } => {
                let kv = width(operands.get(1)) + width(operands.get(2));
                rows(first, 6.0) + rows(kv, 8.0)
            }
            Op::Add {} | Op::AddBias {} | Op::Mul {} | Op::Relu2 {} => rows(result, 3.0),
            Op::Silu {} => rows(result, 3.0 + EXP),
            Op::Sigmoid {} => rows(result, 3.0 + EXP),
            Op::SoftplusDecay {} => rows(result, 6.0 + 2.0 * EXP + LOG1P),
            Op::TransposeHeads { .. } => rows(result, 2.0),
            Op::L2NormHeads { .. } => rows(first, 6.0),
            // Two loads, two sums and two stores for two vectors in each pass; what lies within a vector is loaded three times.
            Op::Hadamard { block, .. } => {
                let passes = f64::from(block.max(&1).ilog2());
                rows(result, 3.0 * passes + 4.0 * passes.min(4.0))
            }
            Op::CausalConv {} => {
                let taps = matrix.and_then(|ty| ty.as_matrix()).map_or(0.0, |(taps, _)| f64::from(taps));
                rows(result, taps + 2.0)
            }
            // Per element of the state: decay and prediction, then decay, correction, read and store.
            Op::DeltaRule {} => {
                let states = operands.iter().filter_map(|ty| ty.as_state()?.elements()).sum::<u64>();
                tokens * states as f64 / self.lanes() * 8.0
            }
            Op::Screen { .. } => rows(first, 3.0),
            Op::MergeScreened {} => rows(result, 2.0),
        }
    }
}
