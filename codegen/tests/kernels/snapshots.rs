//! The text of a few kernels, so that a change of a generator is seen as a change of its kernels.

use bitnetc_codegen::kernels::{CacheShape, KernelKind, KernelSpec, Registers, RopeShape, TokenMode};
use bitnetc_ir::{BlockFormat, DType, Epilogue, Layout, Pairs};

const NARROW: Registers = Registers::new(128, 16);
const WIDE: Registers = Registers::new(512, 32);

fn check(name: &str, kind: KernelKind, tokens: TokenMode, strides: &[u64], registers: Registers) {
    let spec = KernelSpec { kind, tokens, strides: strides.to_vec() };
    let text = spec.build_for(registers).unwrap().to_string();
    insta::with_settings!({ snapshot_path => "../../../snapshots/kernels", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn gemv() {
    let kind = KernelKind::Bitlinear { rows: 24, cols: 320, layout: Layout::Tile16, epilogue: Epilogue::Add };
    check("gemv_add_narrow", kind, TokenMode::One, &[], NARROW);
    check("gemv_add_wide", kind, TokenMode::One, &[], WIDE);
}

#[test]
fn gemv_of_trits() {
    let kind =
        KernelKind::Bitlinear { rows: 16, cols: 60, layout: Layout::Trits16, epilogue: Epilogue::None };
    check("gemv_trits_wide", kind, TokenMode::One, &[], WIDE);
    check("gemv_trits_digits", kind, TokenMode::One, &[], NARROW.without_whole_byte_dot());
    check("gemm_trits_narrow", kind, TokenMode::Many, &[128, 64], NARROW);
}

#[test]
fn gated_gemm() {
    let kind =
        KernelKind::Bitlinear { rows: 64, cols: 160, layout: Layout::Tile16, epilogue: Epilogue::Relu2Mul };
    check("gemm_relu2_mul_narrow", kind, TokenMode::Many, &[256, 128], NARROW);
}

#[test]
fn matmul() {
    let kind = KernelKind::Matmul { rows: 100, cols: 40, dtype: DType::F16 };
    check("matmul_narrow", kind, TokenMode::One, &[], NARROW);
}

#[test]
fn block_matmul() {
    for (name, format) in [("w8", BlockFormat::W8), ("w6", BlockFormat::W6), ("w4", BlockFormat::W4)] {
        let kind = KernelKind::BlockMatmul { rows: 40, cols: 192, format };
        check(&format!("block_matmul_{name}_narrow"), kind, TokenMode::One, &[], NARROW);
    }
}

#[test]
fn screen() {
    check("screen", KernelKind::Screen { width: 200, n: 8 }, TokenMode::One, &[], NARROW);
}

#[test]
fn rms_norm_quant() {
    let kind = KernelKind::RmsNorm { width: 70, eps: 1e-5f32.to_bits(), quant: true };
    check("rms_norm_quant", kind, TokenMode::One, &[], NARROW);
}

#[test]
fn rope_kv_append() {
    let rope = RopeShape { head: 32, rot: 32, pairs: Pairs::Halves };
    let cache = CacheShape { kv_heads: 2, head_dim: 32, dtype: DType::F16 };
    let kind = KernelKind::RopeKvAppend { q_width: 64, rope, cache };
    check("rope_kv_append", kind, TokenMode::Many, &[256, 256, 256, 256], NARROW);
}

#[test]
fn attention() {
    let cache = CacheShape { kv_heads: 2, head_dim: 32, dtype: DType::F16 };
    let kind = KernelKind::Attention { heads: 4, cache, scale: 0.125f32.to_bits() };
    check("attention_narrow", kind, TokenMode::One, &[], NARROW);
}
