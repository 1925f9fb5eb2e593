//! Specs that have no kernel are refused with a reason.

use bitnetc_codegen::kernels::{
    CacheShape, ElementwiseFn, KernelError, KernelKind, KernelSpec, RopeShape, TokenMode,
};
use bitnetc_ir::weights::TRITS_MAX_COLS;
use bitnetc_ir::{Arch, DType, Epilogue, Layout, Pairs, TargetDesc};

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
