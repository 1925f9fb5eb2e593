//! Every architecture and every storage through the whole product: compiled code equals the interpreter by bits, a plan
//! file equals its model, and the same weights stored in any way give the same logits by bits.

mod common;

use std::io::Write;
use std::path::Path;

use bitnetc::BuildOptions;
use bitnetc::compile::plan_model;
use bitnetc::load::{Loaded, Source, dump_module, score_by_interpreter};
use bitnetc_frontend_gguf::TensorType;
use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel, store};
use bitnetc_ir::{DType, Stage, extract, text};
use bitnetc_passes::PassId::{FuseBitlinear, FuseNormQuant, FuseRopeKv, MergeProjections};
use bitnetc_runtime::map::MapMode;
use common::*;

const MODELS: [&str; 4] = ["bitnet_silu", "bitnet_relu2", "llama", "qwen3"];

fn architecture(name: &str) -> std::path::PathBuf {
    data(&format!("architectures/{name}.gguf"))
}

fn interpreted(loaded: &Loaded, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    score_by_interpreter(loaded, tokens, &mut |_, row| {
        rows.push(row.to_vec());
        true
    })
    .unwrap();
    rows
}

#[test]
fn compiled_code_equals_the_interpreter_for_every_architecture() {
    for name in MODELS {
        let loaded = open(&architecture(name), &options(DType::F16));
        let tokens = random_tokens(7, 70, 300);
        let expected = interpreted(&loaded, &tokens);
        assert_same(name, &expected, &score(&loaded, &tokens, 2));
        assert_same(&format!("{name}, decode"), &expected[..20], &decode(&loaded, &tokens[..20], 1));
        // Without the fusions, every op has a kernel of its own.
        let plain = options_with(DType::F16, |c| {
            for pass in [MergeProjections, FuseBitlinear, FuseNormQuant, FuseRopeKv] {
                c.pipeline = c.pipeline.clone().without(pass).unwrap();
            }
        });
        let plain = open(&architecture(name), &plain);
        assert_same(&format!("{name}, unfused"), &expected, &score(&plain, &tokens, 2));
    }
}

#[test]
fn plans_of_every_architecture_equal_their_models() {
    for name in MODELS {
        let path = architecture(name);
        let source = Source::open(Some(&path), MapMode::Mapped).unwrap();
        let model = source.gguf_model().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("model.plan");
        let compile = BuildOptions::default();
        plan_model(&path, &model, &compile).unwrap().write(&plan, |_| true).unwrap();
        let tokens = random_tokens(9, 20, 300);
        let direct = open(&path, &options(DType::F16));
        let planned = open(&plan, &options(DType::F16));
        assert_same(name, &score(&direct, &tokens, 1), &score(&planned, &tokens, 1));
        assert_same(
            &format!("{name}, interpreter"),
            &interpreted(&planned, &tokens),
            &score(&planned, &tokens, 1),
        );
    }
}

#[test]
fn the_decoder_layer_of_every_architecture() {
    for name in MODELS {
        let source = Source::open(Some(&architecture(name)), MapMode::Mapped).unwrap();
        // The same text on every machine.
        let target = Some("x86_64+sse4.1+avx+avx2+fma".parse().unwrap());
        let options = BuildOptions { target, chunk: 32, ..BuildOptions::default() };
        for stage in [Stage::Imported, Stage::Fused] {
            let module = dump_module(&source, stage, &options).unwrap();
            let layer = extract::layer(&module, module.func_named("decode").unwrap(), 1).unwrap();
            let mut settings = insta::Settings::clone_current();
            settings.set_snapshot_path("../snapshots/ir");
            settings.set_prepend_module_to_snapshot(false);
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(format!("{name}_layer1_{stage}"), text::print(&layer)));
        }
    }
}

/// A model whose scales are f16 numbers, so that every storage holds its weights exactly.
fn portable() -> GgufWriter {
    let model =
        TinyModel { hidden: 256, heads: 4, kv_heads: 2, head_dim: 64, ffn: 512, ..TinyModel::default() };
    let mut w = model.writer();
    for t in w.tensors.iter_mut().filter(|t| t.ty == TensorType::I2S.id()) {
        let end = t.data.len() - 32;
        t.data[end..end + 4].copy_from_slice(&0.0625f32.to_le_bytes());
    }
    w
}

fn written(w: &GgufWriter) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(&w.build()).unwrap();
    file
}

#[test]
fn the_same_weights_in_any_storage_give_the_same_bits() {
    let original = portable();
    let tokens = random_tokens(3, 40, 288);
    let expected = score(&open(written(&original).path(), &options(DType::F16)), &tokens, 2);
    for ty in [
        TensorType::F32,
        TensorType::F16,
        TensorType::Bf16,
        TensorType::Q8_0,
        TensorType::Tq1_0,
        TensorType::Tq2_0,
        TensorType::Iq1Bn,
        TensorType::Iq2Bn,
        TensorType::Iq2BnR4,
        TensorType::Q2_0,
        TensorType::Q2_0G128,
        TensorType::Pq2_0,
        TensorType::Ptq1_0,
    ] {
        let mut w = original.clone();
        for t in w.tensors.iter_mut().filter(|t| t.ty == TensorType::I2S.id()) {
            store::convert_i2s(t, ty);
        }
        let loaded = open(written(&w).path(), &options(DType::F16));
        assert_same(ty.name(), &expected, &score(&loaded, &tokens, 2));
    }
}

#[test]
fn layers_that_are_not_ternary_run_as_floats() {
    let mut w = portable();
    // One weight of another magnitude: no scale fits the row.
    for name in ["blk.0.attn_v.weight", "blk.0.ffn_down.weight"] {
        let t = w.tensor_mut(name);
        store::convert_i2s(t, TensorType::F32);
        t.data[..4].copy_from_slice(&0.5f32.to_le_bytes());
    }
    let file = written(&w);
    let loaded = open(file.path(), &options(DType::F16));
    assert!(loaded.notes.iter().any(|n| n.contains("weights of 2 matrices of the layers are not ternary")));
    let tokens = random_tokens(4, 30, 288);
    let expected = interpreted(&loaded, &tokens);
    assert_same("compiled", &expected, &score(&loaded, &tokens, 2));
    let ternary = score(&open(written(&portable()).path(), &options(DType::F16)), &tokens, 2);
    assert_ne!(expected, ternary);
}

/// Writes the model in `count` parts and returns the path of the last one.
fn split(dir: &Path, w: &GgufWriter, count: usize) -> std::path::PathBuf {
    let per_part = w.tensors.len().div_ceil(count - 1);
    let path = |i: usize| dir.join(format!("model-{:05}-of-{count:05}.gguf", i + 1));
    for i in 0..count {
        let mut part = GgufWriter { tensors: Vec::new(), ..w.clone() };
        if i > 0 {
            part.entries.clear();
            let tensors = w.tensors.chunks(per_part).nth(i - 1).unwrap_or_default();
            part.tensors = tensors.to_vec();
        }
        part.set("split.no", MetaValue::I32(i as i32));
        part.set("split.count", MetaValue::I32(count as i32));
        part.set("split.tensors.count", MetaValue::I32(w.tensors.len() as i32));
        std::fs::write(path(i), part.build()).unwrap();
    }
    path(count - 1)
}

#[test]
fn a_split_file_is_opened_by_any_of_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let w = portable();
    let last = split(dir.path(), &w, 4);
    let tokens = random_tokens(6, 20, 288);
    let expected = score(&open(written(&w).path(), &options(DType::F16)), &tokens, 1);
    assert_same("split", &expected, &score(&open(&last, &options(DType::F16)), &tokens, 1));

    // A part that is missing, and one that belongs to another file.
    std::fs::remove_file(dir.path().join("model-00002-of-00004.gguf")).unwrap();
    let error = bitnetc::load::load(Some(&last), &options(DType::F16)).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00004.gguf"), "{error}");
    std::fs::copy(&last, dir.path().join("model-00002-of-00004.gguf")).unwrap();
    let error = bitnetc::load::load(Some(&last), &options(DType::F16)).unwrap_err().to_string();
    assert!(error.contains("split.no is 3 in part 2 of 4"), "{error}");
    // A part on its own.
    let alone = dir.path().join("renamed.gguf");
    std::fs::copy(&last, &alone).unwrap();
    let error = bitnetc::load::load(Some(&alone), &options(DType::F16)).unwrap_err().to_string();
    assert!(error.contains("the file is one of 4 parts"), "{error}");
}
