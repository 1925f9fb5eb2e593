//! The IR is readable: a two-layer model in each stage, as text under `snapshots/ir`.

mod common;

use std::io::Write;

use bitnetc::BuildOptions;
use bitnetc::load::{Source, dump_module};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::{Stage, extract, text};
use bitnetc_runtime::map::MapMode;

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots/ir");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A two-layer model with grouped heads.
fn model() -> (tempfile::NamedTempFile, BuildOptions) {
    let model = TinyModel {
        layers: 2,
        hidden: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        ffn: 384,
        ..TinyModel::default()
    };
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(&model.to_gguf()).unwrap();
    // The same text on every machine.
    let target = Some("x86_64+sse4.1+avx+avx2+fma".parse().unwrap());
    let options = BuildOptions { target, chunk: 32, ..BuildOptions::default() };
    (file, options)
}

#[test]
fn each_stage_of_a_two_layer_model() {
    let (file, options) = model();
    let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
    for &stage in Stage::ALL {
        let module = dump_module(&source, stage, &options).unwrap();
        let printed = text::print(&module);
        assert_eq!(text::print(&text::parse(&printed).unwrap()), printed, "{stage} round trip");
        snapshot(stage.name(), &printed);
    }
}

#[test]
fn one_layer_of_each_stage_stands_alone() {
    let (file, options) = model();
    let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
    for &stage in Stage::ALL {
        let module = dump_module(&source, stage, &options).unwrap();
        let decode = module.func_named("decode").unwrap();
        let layer = extract::layer(&module, decode, 1).unwrap();
        bitnetc_ir::verify::verify(&layer).unwrap();
        snapshot(&format!("layer1_{stage}"), &text::print(&layer));
        assert!(extract::layer(&module, decode, 2).is_none());
    }
}

#[test]
fn each_stage_of_a_hybrid_model() {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(&TinyModel::hybrid().to_gguf()).unwrap();
    let target = Some("x86_64+sse4.1+avx+avx2+fma".parse().unwrap());
    let options = BuildOptions { target, chunk: 32, ..BuildOptions::default() };
    let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
    for &stage in Stage::ALL {
        let module = dump_module(&source, stage, &options).unwrap();
        let printed = text::print(&module);
        assert_eq!(text::print(&text::parse(&printed).unwrap()), printed, "{stage} round trip");
        // Three recurrent layers and one with attention, for one token.
        let decode = printed.split("func @prefill").next().unwrap();
        snapshot(&format!("hybrid_{stage}"), decode);
    }
}
