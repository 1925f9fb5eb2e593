//! The imported module: it verifies, it prints and parses, and its parameters are those of the file.

use std::collections::BTreeMap;

use bitnetc_frontend_gguf::decode::FloatFormat;
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_frontend_gguf::{GgufWeights, LowerError, LowerOptions, Model};
use bitnetc_ir::{CacheType, ContentHash, Module, ParamDef, Stage, TokenCount, WeightSource, text, verify};

fn hashes(module: &Module) -> BTreeMap<String, ContentHash> {
    let hash = |def: &ParamDef| match def {
        ParamDef::File { hash, .. } => *hash,
        other => panic!("an imported parameter is in the file: {other:?}"),
    };
    module.params().values().map(|p| (p.name.clone(), hash(&p.def))).collect()
}

fn lower(bytes: &[u8]) -> Module {
    let module = Model::open(bytes).unwrap().lower(&LowerOptions::default()).unwrap();
    verify::verify(&module).unwrap();
    module
}

fn shape() -> TinyModel {
    TinyModel { layers: 2, heads: 2, kv_heads: 1, head_dim: 128, ..TinyModel::default() }
}

#[test]
fn a_layer_is_lowered_as_the_model_defines_it() {
    let bytes = TinyModel::default().to_gguf();
    let module = lower(&bytes);
    assert_eq!(module.stage, Stage::Imported);
    let func = &module.funcs()[module.func_named("decode").unwrap()];
    let ops: Vec<&str> = func.order().iter().map(|&n| func.node(n).op.info().mnemonic).collect();
    let attention = "rms_norm quant_absmax ternary_matmul ternary_matmul ternary_matmul rope rope kv_append attention \
                     rms_norm quant_absmax ternary_matmul add";
    let feed_forward = "rms_norm quant_absmax ternary_matmul ternary_matmul relu2 mul rms_norm quant_absmax \
                        ternary_matmul add";
    assert_eq!(ops.join(" "), format!("embed {attention} {feed_forward} rms_norm matmul"));
    let printed = text::print(&module);
    for line in [
        "param @token_embd: f16[288x128] = file \"token_embd.weight\"",
        "param @l0.k: ter[64x128]@i2s128 = file \"blk.0.attn_k.weight\"",
        "param @output_norm: f32[128] = file \"output_norm.weight\"",
        "%l0.kc: f16[2xCx32]",
        "{eps=1e-5}",
        "{theta=500000.0, head=32, rot=32, pairs=halves}",
        "{heads=4, kv_heads=2, scale=0.17677669}",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[test]
fn entry_points_and_options() {
    let bytes = shape().to_gguf();
    let model = Model::open(&bytes).unwrap();
    let module =
        model.lower(&LowerOptions { cache: CacheType::F32, chunk: 17, ..LowerOptions::default() }).unwrap();
    verify::verify(&module).unwrap();
    let func = |name: &str| &module.funcs()[module.func_named(name).unwrap()];
    assert_eq!((func("decode").inputs().len(), func("decode").outputs().len()), (2 + 4, 1 + 4));
    assert_eq!((func("prefill").inputs().len(), func("prefill").outputs().len()), (2 + 4, 1 + 4));
    assert_eq!((func("head").inputs().len(), func("head").outputs().len()), (1, 1));
    assert_eq!(func("decode").tokens(), TokenCount::One);
    assert_eq!(func("prefill").tokens(), TokenCount::UpTo(17));
    assert_eq!(func("head").tokens(), TokenCount::UpTo(17), "no more rows than a chunk has");
    let output = |name: &str| func(name).ty(func(name).outputs()[0]).to_string();
    assert_eq!(
        [output("decode"), output("prefill"), output("head")],
        ["f32[288]", "f32[Tx128]", "f32[Tx288]"]
    );
    assert_eq!(func("decode").ty(func("decode").inputs()[3]).to_string(), "f32[1xCx128]");
    for chunk in [0, 65_537] {
        let refused = model.lower(&LowerOptions { chunk, ..LowerOptions::default() });
        assert_eq!(refused.unwrap_err(), LowerError::Chunk { chunk });
    }
}

#[test]
fn the_text_form_is_complete() {
    for shape in [TinyModel::default(), TinyModel { tied: false, ..shape() }] {
        let printed = text::print(&lower(&shape.to_gguf()));
        assert_eq!(text::print(&text::parse(&printed).unwrap()), printed);
    }
}

#[test]
fn hashes_cover_the_content_and_nothing_else() {
    let good = shape().writer();
    let before = hashes(&lower(&good.build()));
    assert_eq!(before.len(), 2 + 2 * 11);
    // The undefined bytes after the scale.
    let mut w = good.clone();
    let q = &mut w.tensor_mut("blk.1.attn_q.weight").data;
    let end = q.len();
    q[end - 28..].fill(7);
    assert_eq!(hashes(&lower(&w.build())), before);
    // A code, a scale, a norm weight, an embedding element.
    for (tensor, param, at) in [
        ("blk.1.attn_q.weight", "l1.q", 0),
        ("blk.1.attn_q.weight", "l1.q", end - 32),
        ("blk.0.ffn_sub_norm.weight", "l0.ffn_sub_norm", 4),
        ("token_embd.weight", "token_embd", 9),
    ] {
        let mut w = good.clone();
        w.tensor_mut(tensor).data[at] ^= 1;
        let after = hashes(&lower(&w.build()));
        let changed: Vec<&String> = after.keys().filter(|name| after[*name] != before[*name]).collect();
        assert_eq!(changed, [param]);
    }
}

#[test]
fn a_head_equal_to_the_embedding_is_tied() {
    let mut w = TinyModel { tied: false, ..shape() }.writer();
    assert!(lower(&w.build()).param_named("output").is_some());
    w.tensor_mut("output.weight").data = w.tensor_mut("token_embd.weight").data.clone();
    assert!(lower(&w.build()).param_named("output").is_none());
}

#[test]
fn weights_are_served_in_the_declared_layout() {
    let mut w = TinyModel { tied: false, table: FloatFormat::Bf16, ..shape() }.writer();
    // A norm in F16: 1.0 and −2.0 in turn.
    let norm = w.tensor_mut("output_norm.weight");
    norm.ty = 1;
    norm.data = [0x3c00u16, 0xc000].map(u16::to_le_bytes).concat().repeat(64);
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    model.check_weights().unwrap();
    let module = lower(&bytes);
    let weights = GgufWeights::new(&model);
    for p in module.params().values() {
        let served = weights.weight(&p.name).unwrap();
        let size = match p.ty.dtype {
            bitnetc_ir::DType::Ter => {
                let (rows, cols) = p.ty.as_matrix().unwrap();
                assert_eq!(served.scales.len(), 1);
                bitnetc_ir::weights::ternary_bytes(p.ty.layout, rows, cols).unwrap()
            }
            dtype => {
                assert!(served.scales.is_empty());
                p.ty.elements().unwrap() * u64::from(dtype.element_bytes().unwrap())
            }
        };
        assert_eq!(served.bytes.len() as u64, size, "{}", p.name);
    }
    let norm = weights.weight("output_norm").unwrap();
    assert_eq!(norm.bytes[..8], [1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
    assert!(weights.weight("l2.q").is_none() && weights.weight("").is_none());
}
