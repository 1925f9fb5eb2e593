//! The text of a few kernels, so that a change of a generator is seen as a change of its kernels, and the instructions of
//! those that take the time, so that a change of the wide selector is seen too.

use bitnetc_codegen::kernels::{CacheShape, KernelKind, KernelSpec, Registers, RopeShape, TokenMode};
use bitnetc_codegen::x64;
use bitnetc_ir::{BlockFormat, DType, Epilogue, Layout, Pairs, TargetDesc};

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
fn gemv_of_tables() {
    let kind = KernelKind::Bitlinear { rows: 16, cols: 60, layout: Layout::Lut16, epilogue: Epilogue::None };
    check("gemv_lut_wide", kind, TokenMode::One, &[], WIDE);
    check("gemv_lut_narrow", kind, TokenMode::One, &[], NARROW);
    check("gemm_lut_narrow", kind, TokenMode::Many, &[128, 64], NARROW);
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
    let kind = KernelKind::RmsNormQuant { width: 70, eps: 1e-5f32.to_bits() };
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
    let kind = KernelKind::AttentionBlocks { heads: 4, cache, scale: 0.125f32.to_bits() };
    check("attention_narrow", kind, TokenMode::One, &[], NARROW);
}

/// Lines of a snapshot of code: enough for the loops of the largest block, which comes first.
const LINES: usize = 420;

/// The instructions of a kernel by the wide selector, without and with 512-bit registers.
fn check_code(name: &str, kind: KernelKind, tokens: TokenMode, strides: &[u64]) {
    let levels = [
        ("avx2", "x86_64+avx+avx2+fma+f16c"),
        ("avx512vnni", "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni"),
    ];
    for level in levels {
        check_code_at(level, name, kind, tokens, strides);
    }
}

/// The same for one target and its name.
fn check_code_at(
    (level, target): (&str, &str),
    name: &str,
    kind: KernelKind,
    tokens: TokenMode,
    strides: &[u64],
) {
    let target: TargetDesc = target.parse().unwrap();
    let registers = x64::Level::of(&target).unwrap().registers().tuned_for(&target);
    let spec = KernelSpec { kind, tokens, strides: strides.to_vec() };
    let code = x64::compile(&spec.build_for(registers).unwrap(), &target).unwrap();
    let text = code.disassemble();
    // Code with tile registers stands after that for a few tokens.
    let from = text.lines().position(|line| line.contains("ldtilecfg")).unwrap_or(0);
    assert_eq!(from > 0, level == "amx", "{name}");
    let text: Vec<&str> = text.lines().skip(from).take(LINES).collect();
    let text = text.join("\n");
    insta::with_settings!({ snapshot_path => "../../../snapshots/code", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(format!("{name}_{level}"), text);
    });
}

/// Where memory is read fastest in one sequence.
const ONE_STREAM: (&str, &str) =
    ("onestream", "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+onestream");

#[test]
fn code_of_gemv() {
    let kind =
        KernelKind::Bitlinear { rows: 64, cols: 320, layout: Layout::Tile16, epilogue: Epilogue::None };
    check_code("gemv", kind, TokenMode::One, &[]);
    check_code_at(ONE_STREAM, "gemv", kind, TokenMode::One, &[]);
}

#[test]
fn code_of_tables() {
    let kind = KernelKind::Bitlinear { rows: 64, cols: 320, layout: Layout::Lut16, epilogue: Epilogue::None };
    let vbmi = ("avx512vbmi", "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi");
    check_code_at(vbmi, "gemv_lut", kind, TokenMode::One, &[]);
    let avx2 = ("avx2", "x86_64+avx+avx2+fma+f16c");
    check_code_at(avx2, "gemv_lut", kind, TokenMode::One, &[]);
    let one = ("onestream", "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi+onestream");
    check_code_at(one, "gemv_lut", kind, TokenMode::One, &[]);
}

#[test]
fn code_of_gemm() {
    let kind =
        KernelKind::Bitlinear { rows: 64, cols: 320, layout: Layout::Tile16, epilogue: Epilogue::None };
    check_code("gemm", kind, TokenMode::Many, &[384, 256]);
    // With tile registers, for 16 tokens and more.
    let amx = ("amx", "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+amxint8");
    check_code_at(amx, "gemm", kind, TokenMode::Many, &[384, 256]);
}

#[test]
fn code_of_the_head() {
    let kind = KernelKind::Matmul { rows: 64, cols: 320, dtype: DType::F16 };
    check_code("matmul_f16", kind, TokenMode::One, &[]);
    let kind = KernelKind::BlockMatmul { rows: 64, cols: 320, format: BlockFormat::W8 };
    check_code("block_matmul_w8", kind, TokenMode::One, &[]);
    check_code_at(ONE_STREAM, "block_matmul_w8", kind, TokenMode::One, &[]);
}

#[test]
fn code_of_attention() {
    let cache = CacheShape { kv_heads: 5, head_dim: 128, dtype: DType::F16 };
    let kind = KernelKind::AttentionBlocks { heads: 20, cache, scale: 0.125f32.to_bits() };
    check_code("attention", kind, TokenMode::One, &[]);
}
