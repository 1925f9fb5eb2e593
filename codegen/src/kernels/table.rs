//! THE kernel table. A kernel is defined here once: its shape, its arguments with the memory that they need, its name, what has
//! to hold of its shape, and its generator. `define.rs` says what the columns mean and what becomes of them.
//!
//! A new kernel is a file with its generator and a row here. Which op becomes which kernel is decided in
//! [`KernelSpec::of`], the only place outside of this table that names kernels one by one.

use bitnetc_ir::blocks::{BLOCK, TERNARY_BLOCK};
use bitnetc_ir::limits::{MAX_HADAMARD, MAX_HEADS, MAX_TAPS};
use bitnetc_ir::partition::Per;
use bitnetc_ir::weights::TILE_ROWS;
use bitnetc_ir::{BlockFormat, DType, Direction, Epilogue, Layout, Units};

use super::args::{Call, Parameters, Position, Signature, TokenRows};
use super::{
    ActivationScale, CacheShape, ElementwiseFn, KernelError, KernelSpec, Registers, RopeShape, TokenMode,
    attention, bitlinear, blocks, elementwise, embed, hadamard, kv_append, matmul, norm, recurrent, rope,
    screen,
};
use crate::kir::{I64, KernelBuilder};

define_kernels! {
    |spec|

    /// Table rows of `width` elements of `dtype`.
    Embed {
        /// Columns.
        width: u32,
        /// Of the table.
        dtype: DType,
    }
    args { ids: token_ids(0), table: param(1), y: result_rows(0) }
    name format!("embed_{}_{width}", dtype.name());
    check { spec.width("the width", width), spec.dense("the table", dtype) }
    generator embed::embed;

    /// Rows of `width` elements of a ternary table.
    EmbedTernary {
        /// Columns.
        width: u32,
        /// Of the table: `tile16`, `trits16` or `lut16`.
        layout: Layout,
        /// Columns that share a scale; 0: all of a row.
        group: u32,
    }
    args {
        ids: token_ids(0),
        table: param(1),
        scales: scales(1),
        y: result_rows(0),
        scratch: scratch(embed::scratch_bytes(width)),
    }
    name format!("embed_{}_{width}{}", layout.name(), bitlinear::group_suffix(group));
    check {
        spec.ternary_columns(width, layout),
        spec.packed_ternary(layout),
        spec.groups(width, group),
    }
    generator embed::embed_ternary;

    /// RMSNorm.
    RmsNorm {
        /// Columns.
        width: u32,
        /// Bits of eps.
        eps: u32,
    }
    args { x: operand_rows(0), weights: param(1), y: result_rows(0) }
    name format!("rms_norm_{width}_eps{:?}", f32::from_bits(eps));
    check { spec.width("the width", width) }
    generator norm::rms_norm;

    /// RMSNorm with the result quantised to q8.
    RmsNormQuant {
        /// Columns.
        width: u32,
        /// Bits of eps.
        eps: u32,
    }
    args {
        x: operand_rows(0),
        weights: param(1),
        q: result_rows(0),
        scratch: scratch(norm::scratch_bytes(width)),
    }
    name format!("rms_norm_quant_{width}_eps{:?}", f32::from_bits(eps));
    check { spec.width("the width", width) }
    generator norm::rms_norm_quant;

    /// RMSNorm of each head.
    RmsNormHeads {
        /// Columns.
        width: u32,
        /// Elements of a head.
        head: u32,
        /// Bits of eps.
        eps: u32,
    }
    args { x: operand_rows(0), weights: param(1), y: result_rows(0) }
    name format!("rms_norm_heads_{width}of{head}_eps{:?}", f32::from_bits(eps));
    check {
        spec.width("the width", width),
        spec.head(head),
        spec.rule(width.is_multiple_of(head), "heads divide the width"),
    }
    generator norm::rms_norm_heads;

    /// Absmax quantisation.
    QuantAbsmax {
        /// Columns.
        width: u32,
    }
    args { x: operand_rows(0), q: result_rows(0) }
    name format!("quant_absmax_{width}");
    check { spec.width("the width", width) }
    generator norm::quant_absmax;

    /// Ternary matrix times q8.
    Bitlinear {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix: `tile16`, `trits16` or `lut16`.
        layout: Layout,
        /// What happens to the sums.
        epilogue: Epilogue,
    }
    args {
        x: operand_rows(0),
        w: param(1),
        scales: scales(1),
        residual: operand_rows(2) if epilogue == Epilogue::Add,
        y: result_rows(0),
        scratch: scratch(bitlinear::scratch_bytes(cols, layout)) if spec.tokens == TokenMode::Many,
    }
    name format!("bitlinear_{}_{rows}x{cols}{}", layout.name(), bitlinear::suffix(epilogue));
    check {
        spec.width("the number of rows", rows),
        spec.ternary_columns(cols, layout),
        spec.packed_ternary(layout),
        spec.gated(rows, epilogue),
    }
    generator bitlinear::bitlinear;

    /// Ternary matrix with a scale for each group of columns, times q8 or q8b, or with one for each row, times q8b.
    BitlinearGrouped {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix: `tile16`, `trits16` or `lut16`.
        layout: Layout,
        /// Columns of a group; 0: all of a row.
        group: u32,
        /// Of the activation.
        activation: ActivationScale,
        /// What happens to the sums.
        epilogue: Epilogue,
    }
    args {
        x: operand_rows(0),
        w: param(1),
        scales: scales(1),
        residual: operand_rows(2) if epilogue == Epilogue::Add,
        y: result_rows(0),
        scratch: scratch(bitlinear::grouped_scratch_bytes(cols, layout, spec.tokens == TokenMode::Many))
            if layout.has_five_a_byte() || spec.tokens == TokenMode::Many,
    }
    name format!(
        "bitlinear_{}_{rows}x{cols}{}{}{}",
        layout.name(), bitlinear::group_suffix(group), activation.suffix(), bitlinear::suffix(epilogue)
    );
    check {
        spec.width("the number of rows", rows),
        spec.ternary_columns(cols, layout),
        spec.packed_ternary(layout),
        spec.groups(cols, group),
        spec.rule(group > 0 || activation == ActivationScale::Block, "one scale for all is no group"),
        spec.gated(rows, epilogue),
    }
    generator bitlinear::bitlinear_grouped;

    /// Ternary matrix times f32.
    BitlinearF32 {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix: `tile16`, `trits16` or `lut16`.
        layout: Layout,
        /// Columns that share a scale; 0: all of a row.
        group: u32,
        /// What happens to the sums.
        epilogue: Epilogue,
    }
    args {
        x: operand_rows(0),
        w: param(1),
        scales: scales(1),
        residual: operand_rows(2) if epilogue == Epilogue::Add,
        y: result_rows(0),
        scratch: scratch(bitlinear::float_scratch_bytes(cols, layout)) if layout.has_five_a_byte(),
    }
    name format!(
        "bitlinear_f32_{}_{rows}x{cols}{}{}",
        layout.name(), bitlinear::group_suffix(group), bitlinear::suffix(epilogue)
    );
    check {
        spec.width("the number of rows", rows),
        spec.ternary_columns(cols, layout),
        spec.packed_ternary(layout),
        spec.groups(cols, group),
        spec.gated(rows, epilogue),
    }
    generator bitlinear::bitlinear_f32;

    /// Dense matrix times f32.
    Matmul {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix.
        dtype: DType,
    }
    args { x: operand_rows(0), w: param(1), y: result_rows(0) }
    name format!("matmul_{}_{rows}x{cols}", dtype.name());
    check {
        spec.width("the number of rows", rows),
        spec.width("the number of columns", cols),
        spec.dense("the matrix", dtype),
    }
    generator matmul::matmul;

    /// Quantisation in blocks.
    QuantBlocks {
        /// Columns.
        width: u32,
        /// Columns of a block: 32 or 128.
        block: u32,
    }
    args { x: operand_rows(0), q: result_rows(0) }
    name match block {
        BLOCK => format!("quant_blocks_{width}"),
        _ => format!("quant_blocks{block}_{width}"),
    };
    check {
        spec.width("the width", width),
        spec.rule(matches!(block, BLOCK | TERNARY_BLOCK), "blocks are 32 or 128 columns"),
    }
    generator blocks::quant_blocks;

    /// Block-quantised matrix in `tile16` times q8b.
    BlockMatmul {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// How its elements are coded.
        format: BlockFormat,
    }
    args {
        x: operand_rows(0),
        w: param(1),
        factors: scales(1),
        y: result_rows(0),
        scratch: scratch(blocks::scratch_bytes(cols, format)) if spec.tokens == TokenMode::Many,
    }
    name format!("block_matmul_{}_{rows}x{cols}", format.dtype().name());
    check { spec.width("the number of rows", rows), spec.width("the number of columns", cols) }
    generator blocks::block_matmul;

    /// The numbers of the greatest elements of a row.
    Screen {
        /// Columns.
        width: u32,
        /// How many.
        n: u32,
    }
    args { y: operand_rows(0), chosen: result_rows(0), scratch: scratch(screen::scratch_bytes(width)) }
    name format!("screen_{n}of{width}");
    check { spec.width("the width", width), spec.size("the number of rows to choose", n, width.into()) }
    generator screen::screen;

    /// Some rows of a dense matrix times f32.
    MatmulRows {
        /// Rows of the matrix.
        rows: u32,
        /// Columns.
        cols: u32,
        /// Of the matrix.
        dtype: DType,
        /// How many rows.
        n: u32,
    }
    args { x: operand_rows(0), chosen: operand_rows(1), w: param(2), y: result_rows(0) }
    name format!("matmul_rows_{}_{n}of{rows}x{cols}", dtype.name());
    check {
        spec.width("the number of rows", rows),
        spec.width("the number of columns", cols),
        spec.width("the number of chosen rows", n),
        spec.dense("the matrix", dtype),
    }
    generator screen::matmul_rows;

    /// Exact elements among approximate ones.
    MergeScreened {
        /// Columns.
        width: u32,
        /// Exact elements.
        n: u32,
    }
    args { y: operand_rows(0), chosen: operand_rows(1), exact: operand_rows(2), z: result_rows(0) }
    name format!("merge_screened_{n}of{width}");
    check { spec.width("the width", width), spec.width("the number of exact elements", n) }
    generator screen::merge_screened;

    /// RoPE of every head in a row of `width`.
    Rope {
        /// Columns.
        width: u32,
        /// The turning.
        rope: RopeShape,
    }
    args { x: operand_rows(0), y: result_rows(0), rope_table: rope_table, position: position }
    name format!("rope_{width}_{}", rope.name());
    check { spec.rope(width, rope) }
    generator rope::rope;

    /// Keys and values into the caches (K in `keys16`, V in rows).
    KvAppend {
        /// The caches.
        cache: CacheShape,
    }
    args {
        k_cache: changed_cache(0),
        v_cache: changed_cache(1),
        k: operand_rows(2),
        v: operand_rows(3),
        position: position,
        capacity: capacity,
    }
    name format!("kv_append_{}", cache.name());
    check { spec.cache(cache) }
    generator kv_append::kv_append;

    /// RoPE of queries and keys, then [`KernelKind::KvAppend`].
    RopeKvAppend {
        /// Columns of the queries.
        q_width: u32,
        /// The turning.
        rope: RopeShape,
        /// The caches.
        cache: CacheShape,
    }
    args {
        q: operand_rows(0),
        k: operand_rows(1),
        v: operand_rows(2),
        k_cache: changed_cache(3),
        v_cache: changed_cache(4),
        y: result_rows(0),
        rope_table: rope_table,
        position: position,
        capacity: capacity,
    }
    name format!("rope_kv_append_{q_width}_{}_{}", rope.name(), cache.name());
    check {
        spec.rope(q_width, rope),
        spec.cache(cache),
        spec.rule(rope.head == cache.head_dim, "the heads of keys and of the cache are equally wide"),
    }
    generator rope::rope_kv_append;

    /// Causal attention of one token over the caches, as far as threads can do it for themselves: what each block of keys
    /// contributes.
    AttentionBlocks {
        /// Query heads.
        heads: u32,
        /// The caches.
        cache: CacheShape,
        /// Bits of the scale.
        scale: u32,
    }
    args {
        q: operand_rows(0),
        k_cache: cache(1),
        v_cache: cache(2),
        workspace: workspace(attention::workspace_bytes(heads, cache)),
        position: position,
        capacity: capacity,
        scratch: scratch(attention::blocks_scratch_bytes(heads, cache)),
    }
    name format!("attention_h{heads}_{}_scale{:?}", cache.name(), f32::from_bits(scale));
    check { spec.attention(heads, cache), spec.only_for(TokenMode::One) }
    then ("attention_merge", KernelKind::AttentionMerge { heads, cache }, Units { count: heads, per: Per::Call });
    generator attention::blocks;

    /// What is left of attention of one token when all threads have done their blocks of keys.
    AttentionMerge {
        /// Query heads.
        heads: u32,
        /// The caches.
        cache: CacheShape,
    }
    args {
        workspace: workspace(attention::workspace_bytes(heads, cache)),
        y: result_rows(0),
        position: position,
        capacity: capacity,
    }
    name format!("attention_merge_h{heads}_{}", cache.name());
    check { spec.attention(heads, cache), spec.only_for(TokenMode::One) }
    generator attention::merge;

    /// Causal attention of a chunk of tokens over the caches.
    AttentionTiles {
        /// Query heads.
        heads: u32,
        /// The caches.
        cache: CacheShape,
        /// Bits of the scale.
        scale: u32,
    }
    args {
        q: operand_rows(0),
        k_cache: cache(1),
        v_cache: cache(2),
        y: result_rows(0),
        position: position,
        capacity: capacity,
        scratch: scratch(attention::tiles_scratch_bytes(heads, cache)),
    }
    name format!("attention_h{heads}_{}_scale{:?}", cache.name(), f32::from_bits(scale));
    check { spec.attention(heads, cache), spec.only_for(TokenMode::Many) }
    generator attention::tiles;

    /// Element by element.
    Elementwise {
        /// The function.
        op: ElementwiseFn,
        /// Columns.
        width: u32,
    }
    args { x: operand_rows(0), other: operand_rows(1) if op.is_binary(), y: result_rows(0) }
    name format!("{}_{width}", op.name());
    check { spec.width("the width", width) }
    generator elementwise::elementwise;

    /// A row and a vector.
    AddBias {
        /// Columns.
        width: u32,
    }
    args { x: operand_rows(0), bias: param(1), y: result_rows(0) }
    name format!("add_bias_{width}");
    check { spec.width("the width", width) }
    generator elementwise::add_bias;

    /// By what recurrent states decay.
    SoftplusDecay {
        /// Columns.
        width: u32,
    }
    args { x: operand_rows(0), bias: param(1), rate: param(2), y: result_rows(0) }
    name format!("softplus_decay_{width}");
    check { spec.width("the width", width) }
    generator elementwise::softplus_decay;

    /// The Walsh-Hadamard transform of each block.
    Hadamard {
        /// Columns.
        width: u32,
        /// Columns of a block.
        block: u32,
        /// On which side the signs are.
        direction: Direction,
        /// Whether there are signs.
        signed: bool,
    }
    args {
        x: operand_rows(0),
        signs: param(1) if signed,
        y: result_rows(0),
        scratch: scratch(hadamard::scratch_bytes(width, block)),
    }
    name hadamard::name(width, block, direction, signed);
    check {
        spec.width("the width", width),
        spec.size("the block", block, MAX_HADAMARD.into()),
        spec.rule(block.is_power_of_two() && width.is_multiple_of(block), "blocks are powers of two and divide the width"),
    }
    generator hadamard::hadamard;

    /// The heads of a row in the order of the transposed matrix of heads.
    TransposeHeads {
        /// Columns.
        width: u32,
        /// Elements of a head.
        head: u32,
        /// Rows of the matrix of heads.
        rows: u32,
    }
    args { x: operand_rows(0), y: result_rows(0) }
    name format!("transpose_heads_{width}of{head}_{rows}rows");
    check {
        spec.width("the width", width),
        spec.head(head),
        spec.size("the rows of heads", rows, MAX_HEADS.into()),
        spec.rule(
            u64::from(width).is_multiple_of(u64::from(head) * u64::from(rows)),
            "rows of heads divide the width",
        ),
    }
    generator hadamard::transpose_heads;

    /// Heads of one length.
    L2NormHeads {
        /// Columns.
        width: u32,
        /// Elements of a head.
        head: u32,
        /// Bits of eps.
        eps: u32,
        /// Bits of the length.
        scale: u32,
    }
    args { x: operand_rows(0), y: result_rows(0) }
    name format!(
        "l2_norm_heads_{width}of{head}_eps{:?}_scale{:?}",
        f32::from_bits(eps),
        f32::from_bits(scale)
    );
    check {
        spec.width("the width", width),
        spec.head(head),
        spec.rule(width.is_multiple_of(head), "heads divide the width"),
    }
    generator norm::l2_norm_heads;

    /// Convolution of each channel over the tokens.
    CausalConv {
        /// Channels.
        channels: u32,
        /// Tokens that are looked at.
        taps: u32,
    }
    args { x: operand_rows(0), w: param(1), state: changed_state(2), y: result_rows(0), position: position }
    name format!("causal_conv_{channels}x{taps}");
    check {
        spec.width("the channels", channels),
        spec.size("the tokens looked at", taps, MAX_TAPS.into()),
        spec.rule(taps > 1 && channels.is_multiple_of(TILE_ROWS), "two taps at least, channels in 16s"),
    }
    generator recurrent::causal_conv;

    /// The gated delta rule.
    DeltaRule {
        /// Heads of queries and keys.
        key_heads: u32,
        /// Heads of values.
        heads: u32,
        /// Elements of a head.
        d: u32,
    }
    args {
        q: operand_rows(0),
        k: operand_rows(1),
        v: operand_rows(2),
        decay: operand_rows(3),
        beta: operand_rows(4),
        state: changed_state(5),
        y: result_rows(0),
        position: position,
    }
    name format!("delta_rule_{heads}of{key_heads}x{d}");
    check {
        spec.head(d),
        spec.size("the heads", heads, MAX_HEADS.into()),
        spec.size("the key heads", key_heads, heads.into()),
        spec.rule(heads.is_multiple_of(key_heads.max(1)), "key heads divide the heads"),
        spec.rule(d.is_multiple_of(TILE_ROWS), "heads come in 16s"),
    }
    generator recurrent::delta_rule;
}
