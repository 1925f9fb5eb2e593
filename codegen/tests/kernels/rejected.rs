//! Specs that have no kernel are refused with a reason.

use bitnetc_codegen::kernels::{
    ActivationScale, CacheShape, ElementwiseFn, KernelError, KernelKind, KernelSpec, Registers, RopeShape,
    TokenMode,
};
use bitnetc_ir::limits::{GROUPS, MAX_HEAD, MAX_HEADS, MAX_WIDTH};
use bitnetc_ir::weights::TRITS_MAX_COLS;
use bitnetc_ir::{Arch, BlockFormat, DType, Epilogue, Layout, Pairs, TargetDesc};

fn refused(kind: KernelKind) -> KernelError {
    let spec = KernelSpec { kind, tokens: TokenMode::One, strides: Vec::new() };
    spec.build(&TargetDesc::baseline(Arch::X86_64)).unwrap_err()
}

#[test]
fn sizes_out_of_range() {
    let rope = RopeShape { head: 64, rot: 64, pairs: Pairs::Halves };
    let cache = CacheShape { kv_heads: 1, head_dim: 64, dtype: DType::F16 };
    let kinds = [
        KernelKind::QuantAbsmax { width: 0 },
        KernelKind::QuantAbsmax { width: u32::MAX },
        KernelKind::Elementwise { op: ElementwiseFn::Add, width: 0 },
        KernelKind::Bitlinear { rows: 0, cols: 16, layout: Layout::Tile16, epilogue: Epilogue::None },
        KernelKind::Bitlinear { rows: 16, cols: u32::MAX, layout: Layout::Tile16, epilogue: Epilogue::None },
        KernelKind::Bitlinear {
            rows: 16,
            cols: TRITS_MAX_COLS + 1,
            layout: Layout::Trits16,
            epilogue: Epilogue::None,
        },
        KernelKind::Bitlinear {
            rows: 16,
            cols: TRITS_MAX_COLS + 1,
            layout: Layout::Lut16,
            epilogue: Epilogue::None,
        },
        KernelKind::Matmul { rows: 16, cols: 0, dtype: DType::F16 },
        KernelKind::Rope { width: 0, rope },
        KernelKind::KvAppend { cache: CacheShape { kv_heads: 0, ..cache } },
        KernelKind::KvAppend { cache: CacheShape { head_dim: 0, ..cache } },
        KernelKind::KvAppend { cache: CacheShape { kv_heads: u32::MAX, ..cache } },
        KernelKind::AttentionBlocks { heads: 0, cache, scale: 0 },
        KernelKind::AttentionBlocks { heads: u32::MAX, cache, scale: 0 },
    ];
    for kind in kinds {
        let error = refused(kind);
        assert!(matches!(error, KernelError::Size { .. }), "{kind:?}: {error}");
    }
}

#[test]
fn sizes_that_do_not_go_together() {
    let rope = RopeShape { head: 64, rot: 64, pairs: Pairs::Halves };
    let cache = CacheShape { kv_heads: 3, head_dim: 32, dtype: DType::F16 };
    let kinds = [
        KernelKind::Bitlinear { rows: 48, cols: 16, layout: Layout::Tile16, epilogue: Epilogue::Relu2Mul },
        KernelKind::Rope { width: 65, rope },
        KernelKind::Rope { width: 64, rope: RopeShape { rot: 63, ..rope } },
        KernelKind::Rope { width: 64, rope: RopeShape { rot: 66, ..rope } },
        KernelKind::Rope { width: 64, rope: RopeShape { rot: 0, ..rope } },
        KernelKind::RopeKvAppend { q_width: 64, rope, cache },
        KernelKind::AttentionBlocks { heads: 4, cache, scale: 0 },
    ];
    for kind in kinds {
        let error = refused(kind);
        assert!(matches!(error, KernelError::Shape { .. }), "{kind:?}: {error}");
    }
}

/// One token and a chunk have kernels of their own: neither is made in the place of the other.
#[test]
fn attention_in_the_wrong_mode() {
    let cache = CacheShape { kv_heads: 1, head_dim: 64, dtype: DType::F16 };
    let (one, many) = (TokenMode::One, TokenMode::Many);
    let cases = [
        (KernelKind::AttentionBlocks { heads: 1, cache, scale: 0 }, many, one, vec![]),
        (KernelKind::AttentionMerge { heads: 1, cache }, many, one, vec![]),
        (KernelKind::AttentionTiles { heads: 1, cache, scale: 0 }, one, many, vec![256, 256]),
    ];
    let target = TargetDesc::baseline(Arch::X86_64);
    for (kind, wrong, right, strides) in cases {
        let error = KernelSpec { kind, tokens: wrong, strides: Vec::new() }.build(&target).unwrap_err();
        assert!(matches!(error, KernelError::Shape { .. }), "{kind:?}: {error}");
        KernelSpec { kind, tokens: right, strides }.build(&target).unwrap();
    }
}

#[test]
fn dtypes_without_loads() {
    let cache = CacheShape { kv_heads: 1, head_dim: 64, dtype: DType::Bf16 };
    let kinds = [
        KernelKind::Embed { width: 64, dtype: DType::Ter },
        KernelKind::Matmul { rows: 16, cols: 64, dtype: DType::I8 },
        KernelKind::KvAppend { cache },
        KernelKind::AttentionBlocks { heads: 1, cache, scale: 0 },
    ];
    for kind in kinds {
        let error = refused(kind);
        assert!(matches!(error, KernelError::DType { .. }), "{kind:?}: {error}");
    }
}

#[test]
fn strides_that_do_not_fit() {
    let kind = KernelKind::QuantAbsmax { width: 64 };
    let cases = [
        (TokenMode::One, vec![256]),
        (TokenMode::Many, vec![256]),
        (TokenMode::Many, vec![256, 128, 128]),
        (TokenMode::Many, vec![256, 0]),
        (TokenMode::Many, vec![252, 128]),
        (TokenMode::Many, vec![256, 124]),
        (TokenMode::Many, vec![255, 128]),
        (TokenMode::Many, vec![u64::MAX - 3, 128]),
    ];
    for (tokens, strides) in cases {
        let spec = KernelSpec { kind, tokens, strides };
        let error = spec.build(&TargetDesc::baseline(Arch::X86_64)).unwrap_err();
        assert!(
            matches!(error, KernelError::Strides { expected, .. } if expected == 2 * usize::from(tokens == TokenMode::Many)),
            "{error}"
        );
    }
}

#[test]
fn groups_that_no_file_has() {
    // Of 2^26 columns a kernel would be unrolled for minutes before its size was known.
    let (rows, layout, epilogue) = (16, Layout::Tile16, Epilogue::None);
    for (cols, group) in [(512, 0), (512, 32), (512, 512), (1 << 26, 1 << 18), (1 << 26, 1 << 26), (192, 128)]
    {
        let activation = ActivationScale::Token;
        let mut kinds =
            vec![KernelKind::BitlinearGrouped { rows, cols, layout, group, activation, epilogue }];
        if group > 0 {
            let activation = ActivationScale::Block;
            kinds.push(KernelKind::BitlinearGrouped { rows, cols, layout, group, activation, epilogue });
            kinds.push(KernelKind::BitlinearF32 { rows, cols, layout, group, epilogue });
            kinds.push(KernelKind::EmbedTernary { width: cols, layout, group });
        }
        for kind in kinds {
            let error = refused(kind);
            assert!(matches!(error, KernelError::Shape { .. }), "{kind:?}: {error}");
        }
    }
}

/// The largest shapes that the checks let through, and some beside them.
fn extremes() -> Vec<KernelKind> {
    let mut all = Vec::new();
    let ends = [1, 2, 63, MAX_WIDTH - 1, MAX_WIDTH];
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        all.extend(ends.map(|width| KernelKind::Embed { width, dtype }));
        for (rows, cols) in [(1, MAX_WIDTH), (MAX_WIDTH, 1), (MAX_WIDTH, MAX_WIDTH)] {
            all.push(KernelKind::Matmul { rows, cols, dtype });
            all.push(KernelKind::MatmulRows { rows, cols, dtype, n: rows.min(MAX_WIDTH) });
        }
    }
    for width in ends {
        let eps = 1e-5f32.to_bits();
        all.push(KernelKind::RmsNorm { width, eps });
        all.push(KernelKind::RmsNormQuant { width, eps });
        all.push(KernelKind::QuantAbsmax { width });
        all.extend([32, 128].map(|block| KernelKind::QuantBlocks { width, block }));
        all.push(KernelKind::Elementwise { op: ElementwiseFn::Silu, width });
        all.push(KernelKind::Screen { width, n: width });
        all.push(KernelKind::MergeScreened { width, n: width });
        for layout in [Layout::Tile16, Layout::Trits16, Layout::Lut16] {
            let cols = if layout == Layout::Tile16 { width } else { width.min(TRITS_MAX_COLS) };
            all.push(KernelKind::Bitlinear { rows: MAX_WIDTH, cols, layout, epilogue: Epilogue::SiluMul });
        }
        for format in BlockFormat::ALL {
            all.push(KernelKind::BlockMatmul { rows: MAX_WIDTH, cols: width, format: *format });
        }
    }
    for group in GROUPS {
        let (rows, cols, epilogue) = (MAX_WIDTH, MAX_WIDTH, Epilogue::Add);
        for layout in [Layout::Tile16, Layout::Trits16, Layout::Lut16] {
            let cols = if layout == Layout::Tile16 { cols } else { TRITS_MAX_COLS };
            all.push(KernelKind::EmbedTernary { width: cols, layout, group });
            all.push(KernelKind::BitlinearF32 { rows, cols, layout, group, epilogue });
            for activation in [ActivationScale::Token, ActivationScale::Block] {
                all.push(KernelKind::BitlinearGrouped { rows, cols, layout, group, activation, epilogue });
            }
        }
    }
    for (head, heads) in [(MAX_HEAD, MAX_HEADS), (MAX_HEAD - 1, 1), (2, MAX_HEADS), (MAX_HEAD, 2)] {
        for dtype in [DType::F16, DType::F32] {
            for kv_heads in [1, heads] {
                let cache = CacheShape { kv_heads, head_dim: head, dtype };
                all.push(KernelKind::KvAppend { cache });
                all.push(KernelKind::AttentionBlocks { heads, cache, scale: 1f32.to_bits() });
                all.push(KernelKind::AttentionMerge { heads, cache });
                all.push(KernelKind::AttentionTiles { heads, cache, scale: 1f32.to_bits() });
                let rope = RopeShape { head, rot: head & !1, pairs: Pairs::Interleaved };
                all.push(KernelKind::RopeKvAppend { q_width: head, rope, cache });
                all.push(KernelKind::Rope { width: head * heads.min(16), rope });
                all.push(KernelKind::RmsNormHeads { width: head * heads.min(16), head, eps: 1 });
            }
        }
    }
    all
}

/// At the ends of what is accepted nothing wraps, leaves a buffer or grows without end: a kernel of bounded length, or one that
/// is refused for its length.
#[test]
fn the_largest_shapes_make_bounded_kernels() {
    let all = extremes();
    let mut made = 0;
    for registers in [Registers::new(128, 16), Registers::new(256, 16), Registers::new(512, 32).with_tiles()]
    {
        for &kind in &all {
            for tokens in [TokenMode::One, TokenMode::Many] {
                for stride in [64u64, 1 << 14, 1 << 31, 1 << 40] {
                    let rows = if tokens == TokenMode::One { 0 } else { 5 };
                    // The number of rows is the spec's to say.
                    let built = (0..=rows).map(|rows| {
                        KernelSpec { kind, tokens, strides: vec![stride; rows] }.build_for(registers)
                    });
                    for result in built {
                        match result {
                            Ok(_) => made += 1,
                            Err(KernelError::Malformed(error)) => {
                                panic!("{kind:?} {tokens:?} {stride}: {error}")
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
        }
    }
    assert!(made > 3 * all.len(), "{made} of {}", all.len());
}
