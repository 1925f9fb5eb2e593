//! Right against ourselves, by bits: engine, chunk size, thread count, passes, plan file and feature level never change a
//! logit.

mod common;

use bitnetc::compile::{CompileOptions, plan_model};
use bitnetc::load::{Source, score_by_interpreter};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::{DType, TargetDesc};
use bitnetc_passes::ALL_PASSES;
use bitnetc_runtime::map::MapMode;
use common::*;

/// Long enough to cross two key blocks.
const LONG: usize = 140;

#[test]
fn compiled_code_equals_the_interpreter_on_every_shape() {
    for model in shapes() {
        let file = write_model(&model);
        for kv_type in [DType::F16, DType::F32] {
            let loaded = open(file.path(), &options(kv_type));
            let tokens = random_tokens(model.seed, 70, model.vocab as u32);
            let mut expected = Vec::new();
            score_by_interpreter(&loaded, &tokens, &mut |_, row| {
                expected.push(row.to_vec());
                true
            })
            .unwrap();
            assert_same(&format!("{model:?} {}", kv_type.name()), &expected, &score(&loaded, &tokens, 2));
        }
    }
}

#[test]
fn decoding_equals_prefill_in_chunks_of_any_size() {
    for model in &shapes()[..4] {
        let file = write_model(model);
        let tokens = random_tokens(11, LONG, model.vocab as u32);
        let one_by_one = decode(&open(file.path(), &options(DType::F16)), &tokens, 1);
        for chunk in [1, 2, 3, 7, 16, 33, 64, 200] {
            let loaded = open(file.path(), &options_with(DType::F16, |c| c.chunk = chunk));
            assert_same(&format!("chunks of {chunk}"), &one_by_one, &score(&loaded, &tokens, 1));
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let model = &shapes()[4];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(5, LONG, model.vocab as u32);
    let one = score(&loaded, &tokens, 1);
    for threads in [2, 3, 5, 16] {
        assert_same(&format!("prefill, {threads} threads"), &one, &score(&loaded, &tokens, threads));
        assert_same(
            &format!("decode, {threads} threads"),
            &one[..40],
            &decode(&loaded, &tokens[..40], threads),
        );
    }
}

#[test]
fn every_pass_can_be_left_out() {
    for model in [&shapes()[2], &shapes()[4]] {
        let file = write_model(model);
        let tokens = random_tokens(8, 70, model.vocab as u32);
        let expected = score(&open(file.path(), &options(DType::F16)), &tokens, 2);
        let mut left_out = 0;
        for pass in ALL_PASSES.iter().filter(|p| !p.required) {
            let changed =
                options_with(DType::F16, |c| c.pipeline = c.pipeline.clone().without(pass.name).unwrap());
            let loaded = open(file.path(), &changed);
            assert_same(&format!("without {}", pass.name), &expected, &score(&loaded, &tokens, 2));
            assert_same(
                &format!("decode without {}", pass.name),
                &expected[..20],
                &decode(&loaded, &tokens[..20], 2),
            );
            left_out += 1;
        }
        assert!(left_out >= 7);
        let bare = options_with(DType::F16, |c| c.pipeline = "assign-layout,plan-memory".parse().unwrap());
        assert_same("required passes only", &expected, &score(&open(file.path(), &bare), &tokens, 2));
    }
}

#[test]
fn a_plan_from_disk_equals_compiling_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (i, model) in shapes().iter().enumerate() {
        let file = write_model(model);
        let plan = folder.path().join(format!("{i}.plan"));
        let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
        let gguf = source.gguf_model().unwrap();
        plan_model(file.path(), &gguf, &CompileOptions::for_host().unwrap())
            .unwrap()
            .write(&plan, |_| true)
            .unwrap();
        let tokens = random_tokens(3, 40, model.vocab as u32);
        for kv_type in [DType::F16, DType::F32] {
            let memory = score(&open(file.path(), &options(kv_type)), &tokens, 2);
            let disk = score(&open(&plan, &options(kv_type)), &tokens, 2);
            assert_same(&format!("shape {i} {}", kv_type.name()), &memory, &disk);
        }
    }
}

/// Targets that this host can run, from the least to all of it.
fn feature_levels() -> Vec<TargetDesc> {
    let host = bitnetc_codegen::host::probe().unwrap();
    let levels = [
        "x86_64+sse4.1",
        "x86_64+sse4.1+sse4.2+avx+fma",
        "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c",
        "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avxvnni",
        "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni",
        "aarch64",
    ];
    let runs = |t: &TargetDesc| t.arch == host.arch && t.missing_on(&host).is_empty();
    levels.iter().map(|l| l.parse().unwrap()).filter(runs).chain([host.clone()]).collect()
}

#[test]
fn feature_levels_give_the_same_bits() {
    let model = TinyModel { layers: 2, ..shapes()[4].clone() };
    let file = write_model(&model);
    let tokens = random_tokens(21, 80, model.vocab as u32);
    let expected = score(&open(file.path(), &options(DType::F16)), &tokens, 2);
    let levels = feature_levels();
    println!("{} feature levels", levels.len());
    for target in levels {
        let name = target.to_string();
        let loaded = open(file.path(), &options_with(DType::F16, |c| c.target = target));
        assert_same(&name, &expected, &score(&loaded, &tokens, 2));
        assert_same(&format!("{name}, decode"), &expected[..10], &decode(&loaded, &tokens[..10], 1));
    }
}

#[test]
fn truncating_a_session_and_going_on_equals_a_new_one() {
    let model = &shapes()[1];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(4, 100, model.vocab as u32);
    let mut reused = session(&loaded, 128, 2);
    reused.feed(&random_tokens(9, 120, model.vocab as u32)).unwrap();
    reused.truncate(0);
    let first = reused.feed(&tokens[..90]).unwrap().to_vec();
    reused.feed(&random_tokens(10, 20, model.vocab as u32)).unwrap();
    reused.truncate(90);
    let second = reused.feed(&tokens[90..]).unwrap().to_vec();
    let expected = score(&loaded, &tokens, 1);
    assert_same("prefix", &[first], &expected[89..90]);
    assert_same("going on", &[second], &expected[99..]);
}

#[test]
fn selectors_give_the_same_bits() {
    use bitnetc_codegen::compile::Codegen;

    let model = TinyModel { layers: 2, ..shapes()[4].clone() };
    let file = write_model(&model);
    let tokens = random_tokens(22, 80, model.vocab as u32);
    let with = |codegen| open(file.path(), &options_with(DType::F16, |c| c.codegen = codegen));
    let expected = score(&with(Codegen::Cranelift), &tokens, 2);
    let host = bitnetc_codegen::host::probe().unwrap();
    let wide = bitnetc_codegen::x64::available() && bitnetc_codegen::x64::Level::of(&host).is_some();
    for codegen in [Codegen::Auto, Codegen::X64].into_iter().filter(|&c| wide || c == Codegen::Auto) {
        let loaded = with(codegen);
        assert_same(&format!("{codegen:?}"), &expected, &score(&loaded, &tokens, 2));
        assert_same(&format!("{codegen:?}, decode"), &expected[..10], &decode(&loaded, &tokens[..10], 1));
    }
}
