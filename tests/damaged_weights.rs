//! Weights that are not what kernels take them to be, and model files that are cut short: errors that say so, in the place of
//! numbers that the interpreter would not compute.

mod common;

use std::path::{Path, PathBuf};

use bitnetc::compile::plan_model;
use bitnetc::load::{LoadOptions, Loaded, Source, load, load_source};
use bitnetc::{BuildOptions, Error};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::DType;
use bitnetc_passes::HeadFormat;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::map::{MapError, MapMode};
use bitnetc_runtime::model::ModelError;
use bitnetc_runtime::plan::{LoadOptions as PlanOptions, Plan};
use common::{decode, session};

/// A plan of the tiny model with this head.
fn plan_of(folder: &Path, head: HeadFormat) -> PathBuf {
    let gguf = folder.join("tiny.gguf");
    std::fs::write(&gguf, TinyModel::default().to_gguf()).unwrap();
    let source = Source::open(Some(&gguf), MapMode::Mapped).unwrap();
    let model = source.gguf_model().unwrap();
    let build = BuildOptions { head: Some(head), ..BuildOptions::default() };
    let plan = folder.join("tiny.plan");
    plan_model(&gguf, &model, &build).unwrap().write(&plan, |_| true).unwrap();
    plan
}

/// The names and types of the weights of a plan.
fn weights(loaded: &Loaded, dtype: DType) -> Vec<String> {
    let params = loaded.module.params().values();
    params.filter(|decl| decl.ty.dtype == dtype).map(|decl| decl.name.clone()).collect()
}

/// Changes two bytes of a weight in the file; the hash of the weights is not checked where it is opened.
fn change(plan: &Path, weight: &str, at: usize, half: u16) {
    let index = Plan::load(plan, &PlanOptions::default()).unwrap();
    let (_, range) = index.index().weight(weight).unwrap();
    drop(index);
    let mut bytes = std::fs::read(plan).unwrap();
    bytes[range.start + at..][..2].copy_from_slice(&half.to_le_bytes());
    std::fs::write(plan, bytes).unwrap();
}

const BAD: [u16; 4] = [0x7c00, 0xfc00, 0x7e00, 0xffff];

#[test]
fn scales_of_blocks_that_are_not_finite_are_refused_by_name() {
    for (head, dtype) in [(HeadFormat::Q8, DType::W8), (HeadFormat::Q4, DType::W4)] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan_of(folder.path(), head);
        let loaded = load(Some(&plan), &LoadOptions::default()).unwrap();
        let stored: Vec<String> = weights(&loaded, dtype);
        let weight = stored.iter().find(|name| {
            let index = Plan::load(&plan, &PlanOptions::default()).unwrap();
            index.index().weight(name).is_some()
        });
        let weight = weight.expect("the head is stored").clone();
        drop(loaded);
        let sound = std::fs::read(&plan).unwrap();
        for (i, half) in BAD.into_iter().enumerate() {
            // The scales of row i, in the first group.
            change(&plan, &weight, 2 * i, half);
            match load(Some(&plan), &LoadOptions::default()) {
                Err(Error::Model(ModelError::NotFinite { name, .. })) => assert_eq!(name, weight),
                other => panic!("{head:?} {half:x}: {other:?}"),
            }
            std::fs::write(&plan, &sound).unwrap();
        }
        // The largest finite scale is no error.
        change(&plan, &weight, 0, 0x7bff);
        load(Some(&plan), &LoadOptions::default()).unwrap();
    }
}

#[test]
fn rows_of_the_embedding_that_are_not_finite_are_refused_as_they_are_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(folder.path(), HeadFormat::Q8);
    let sound = load(Some(&plan), &LoadOptions::default()).unwrap();
    let [table] = &weights(&sound, DType::F16)[..] else { panic!("one table of f16") };
    let cols =
        sound.module.params()[sound.module.param_named(table).unwrap()].ty.as_matrix().unwrap().1 as usize;
    let expected = decode(&sound, &[5, 6, 7], 1);
    for half in BAD {
        change(&plan, table, 2 * (9 * cols + cols - 1), half);
        let loaded = load(Some(&plan), &LoadOptions::default()).unwrap();
        assert_eq!(decode(&loaded, &[5, 6, 7], 1), expected);
        let mut session = session(&loaded, 64, 1);
        for tokens in [&[9][..], &[5, 9, 6]] {
            match session.feed(tokens).unwrap_err() {
                SessionError::NotFinite { weight, token: 9, position } => {
                    assert_eq!((weight, position), (table.clone(), tokens.len() as u32 / 2));
                }
                other => panic!("{other:?}"),
            }
        }
        // Nothing was fed.
        assert_eq!(session.feed(&[5]).unwrap(), expected[0]);
    }
}

/// A table that is also the head is read whole, and so checked as it is loaded.
#[test]
fn an_f16_head_that_is_not_finite_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(folder.path(), HeadFormat::Stored);
    let loaded = load(Some(&plan), &LoadOptions::default()).unwrap();
    let tables = weights(&loaded, DType::F16);
    drop(loaded);
    for table in tables {
        let sound = std::fs::read(&plan).unwrap();
        change(&plan, &table, 1000, 0x7e00);
        match load(Some(&plan), &LoadOptions::default()) {
            Err(Error::Model(ModelError::NotFinite { name, .. })) => assert_eq!(name, table),
            other => panic!("{table}: {other:?}"),
        }
        std::fs::write(&plan, &sound).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn files_that_are_cut_short_while_they_are_used_are_errors() {
    bitnetc_runtime::map::survive_truncation().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = |path: &Path, length: u64| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    };
    // A model that is being loaded, at every page that it can lose.
    let gguf = folder.path().join("cut.gguf");
    let bytes = TinyModel::default().to_gguf();
    for length in (0..bytes.len()).step_by(4096) {
        std::fs::write(&gguf, &bytes).unwrap();
        let source = Source::open(Some(&gguf), MapMode::Mapped).unwrap();
        cut(&gguf, length as u64);
        match load_source(source, &LoadOptions::default()) {
            Err(Error::Open(MapError::Lost { path })) => assert_eq!(path, gguf),
            other => panic!("{length}: {other:?}"),
        }
    }
    // A plan that is running.
    let plan = plan_of(folder.path(), HeadFormat::Q8);
    let loaded = load(Some(&plan), &LoadOptions::default()).unwrap();
    let mut session = session(&loaded, 64, 2);
    session.feed(&[5]).unwrap();
    cut(&plan, 0);
    for _ in 0..2 {
        let error = session.feed(&[6]).unwrap_err();
        assert!(matches!(error, SessionError::Weights(_)), "{error}");
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}

/// Sizes of weights are compared with the module, so code of another one would read other bytes.
#[test]
fn code_of_another_module_makes_no_model() {
    let bytes = TinyModel::default().to_gguf();
    let path = Path::new("tiny.gguf");
    let model = bitnetc_frontend_gguf::Model::open(&bytes).unwrap();
    let [one, other] = [HeadFormat::Q8, HeadFormat::Q4].map(|head| {
        let build = BuildOptions { head: Some(head), ..BuildOptions::default() };
        plan_model(path, &model, &build).unwrap()
    });
    let target = BuildOptions::default().target().unwrap();
    let code = |planned: &bitnetc::compile::Planned<'_, '_>| {
        bitnetc_codegen::compile::compile(&planned.module, &target).unwrap()
    };
    let (blob, ranges) = one.pack().unwrap();
    let blob = std::sync::Arc::new(blob);
    let model = bitnetc_runtime::model::Model::new(&one.module, code(&one), blob.clone(), &ranges);
    assert!(model.is_ok(), "{:?}", model.err());
    let refused = bitnetc_runtime::model::Model::new(&one.module, code(&other), blob, &ranges);
    assert!(matches!(refused, Err(ModelError::OtherModule)), "{refused:?}");
}
