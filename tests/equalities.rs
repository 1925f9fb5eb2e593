//! Right against ourselves, by bits: engine, chunk size, thread count, passes, plan file and feature level never change a
//! logit.

mod common;

use bitnetc::BuildOptions;
use bitnetc::compile::plan_model;
use bitnetc::load::{LoadOptions, Source, load, score_by_interpreter};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::{DType, TargetDesc};
use bitnetc_passes::{ALL_PASSES, HeadFormat, PassId, WeightPacking};
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
        assert_same(&format!("decode, {threads} threads"), &one, &decode(&loaded, &tokens, threads));
    }
}

#[test]
fn every_pass_can_be_left_out() {
    for model in [&shapes()[2], &shapes()[4]] {
        let file = write_model(model);
        let tokens = random_tokens(8, 70, model.vocab as u32);
        let expected = score(&open(file.path(), &options_stored_head(DType::F16)), &tokens, 2);
        let mut left_out = 0;
        for pass in ALL_PASSES.iter().filter(|p| !p.required) {
            let changed = options_with(DType::F16, |c| {
                // Without the pass, the head is the stored one whatever is asked for.
                c.head = Some(if pass.id == PassId::PackHead { HeadFormat::Q8 } else { HeadFormat::Stored });
                c.pipeline = c.pipeline.clone().without(pass.id).unwrap();
            });
            let loaded = open(file.path(), &changed);
            assert_same(&format!("without {}", pass.id), &expected, &score(&loaded, &tokens, 2));
            assert_same(
                &format!("decode without {}", pass.id),
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
fn packings_of_weights_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (i, model) in shapes().iter().enumerate() {
        let file = write_model(model);
        let tokens = random_tokens(17, 70, model.vocab as u32);
        let packed = |weights| options_with(DType::F16, |c| c.weights = Some(weights));
        let expected = score(&open(file.path(), &packed(WeightPacking::TwoBits)), &tokens, 2);
        let trits = open(file.path(), &packed(WeightPacking::Trits));
        let used: Vec<_> = trits.module.params().values().filter(|p| p.ty.layout.has_five_a_byte()).collect();
        assert!(!used.is_empty(), "shape {i}");
        assert_same(&format!("shape {i}, prefill"), &expected, &score(&trits, &tokens, 2));
        assert_same(&format!("shape {i}, decode"), &expected[..20], &decode(&trits, &tokens[..20], 3));
        let mut interpreted = Vec::new();
        score_by_interpreter(&trits, &tokens[..8], &mut |_, row| {
            interpreted.push(row.to_vec());
            true
        })
        .unwrap();
        assert_same(&format!("shape {i}, interpreter"), &expected[..8], &interpreted);

        // The same through a plan file, which knows how it is packed.
        let plan = folder.path().join(format!("{i}.plan"));
        let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
        let compile = BuildOptions { weights: Some(WeightPacking::Trits), ..BuildOptions::default() };
        let gguf = source.gguf_model().unwrap();
        let planned = plan_model(file.path(), &gguf, &compile).unwrap();
        let recorded = planned.meta.creation_options.iter().find(|(name, _)| name == "weights");
        assert_eq!(recorded.map(|(_, value)| value.as_str()), Some("1.6bit"));
        planned.write(&plan, |_| true).unwrap();
        let with = |build: BuildOptions| LoadOptions { build, ..LoadOptions::default() };
        let demand = |weights| with(BuildOptions { weights: Some(weights), ..BuildOptions::default() });
        assert_same(
            &format!("shape {i}, plan"),
            &expected,
            &score(&open(&plan, &options(DType::F16)), &tokens, 2),
        );
        for weights in [WeightPacking::Trits, WeightPacking::Auto] {
            load(Some(&plan), &demand(weights)).unwrap();
        }
        let error = load(Some(&plan), &demand(WeightPacking::TwoBits)).unwrap_err();
        assert!(error.to_string().contains("as 1.6bit, not 2bit"), "{error}");
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
        plan_model(file.path(), &gguf, &BuildOptions::default()).unwrap().write(&plan, |_| true).unwrap();
        let tokens = random_tokens(3, 40, model.vocab as u32);
        for kv_type in [DType::F16, DType::F32] {
            let memory = score(&open(file.path(), &options(kv_type)), &tokens, 2);
            let disk = score(&open(&plan, &options(kv_type)), &tokens, 2);
            assert_same(&format!("shape {i} {}", kv_type.name()), &memory, &disk);
        }
    }
}

#[test]
fn packed_heads_equal_the_interpreter_on_every_engine() {
    let folder = tempfile::tempdir().unwrap();
    for (i, model) in [&shapes()[2], &shapes()[4]].into_iter().enumerate() {
        let file = write_model(model);
        let tokens = random_tokens(31, 36, model.vocab as u32);
        let stored = score(&open(file.path(), &options_stored_head(DType::F16)), &tokens, 2);
        for head in ["q8", "q6", "q4", "screened:20", "screened"] {
            let head: HeadFormat = head.parse().unwrap();
            let changed = options_with(DType::F16, |c| c.head = Some(head));
            let loaded = open(file.path(), &changed);
            let mut expected = Vec::new();
            score_by_interpreter(&loaded, &tokens, &mut |_, row| {
                expected.push(row.to_vec());
                true
            })
            .unwrap();
            for threads in [1, 2, 3, 5] {
                let what = format!("{head}, {threads} threads");
                assert_same(&what, &expected, &score(&loaded, &tokens, threads));
                assert_same(&what, &expected[..12], &decode(&loaded, &tokens[..12], threads));
            }
            for target in feature_levels() {
                let what = format!("{head}, {target}");
                let loaded = open(
                    file.path(),
                    &options_with(DType::F16, |c| (c.head, c.target) = (Some(head), Some(target))),
                );
                assert_same(&what, &expected[..20], &score(&loaded, &tokens[..20], 2));
            }
            let plan = folder.path().join(format!("{i}.{head}.plan"));
            let source = Source::open(Some(file.path()), MapMode::Mapped).unwrap();
            let options = BuildOptions { head: Some(head), ..BuildOptions::default() };
            let gguf = source.gguf_model().unwrap();
            plan_model(file.path(), &gguf, &options).unwrap().write(&plan, |_| true).unwrap();
            let asked = LoadOptions { build: options, ..LoadOptions::default() };
            assert_same("plan", &expected, &score(&open(&plan, &asked), &tokens, 2));
            let stored_head = BuildOptions { head: Some(HeadFormat::Stored), ..BuildOptions::default() };
            let other = LoadOptions { build: stored_head, ..LoadOptions::default() };
            let refused = load(Some(&plan), &other).unwrap_err().to_string();
            assert!(refused.contains(&format!("the head {head}, not f16")), "{refused}");

            if let HeadFormat::Screened { rows } = head {
                for (row, (screened, stored)) in expected.iter().zip(&stored).enumerate() {
                    let exact =
                        screened.iter().zip(stored).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                    assert!(
                        exact >= rows.min(model.vocab as u32) as usize,
                        "row {row}: {exact} exact logits"
                    );
                }
            } else {
                assert!(expected != stored, "{head} changes something");
            }
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
        "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi",
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
        for weights in [WeightPacking::TwoBits, WeightPacking::Trits] {
            let options =
                options_with(DType::F16, |c| (c.target, c.weights) = (Some(target.clone()), Some(weights)));
            let loaded = open(file.path(), &options);
            let name = format!("{name}, {weights}");
            assert_same(&name, &expected, &score(&loaded, &tokens, 2));
            assert_same(&format!("{name}, decode"), &expected[..10], &decode(&loaded, &tokens[..10], 1));
        }
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
