//! The table of metadata keys, held against what is done with files: each key that it calls honoured is read, each that it
//! calls refused is refused but with its neutral values, and each that it calls noted is.

use bitnetc_frontend_gguf::keys::{Key, Meaning, Neutral, OF_ARCHITECTURE, OF_FILE};
use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel};
use bitnetc_frontend_gguf::{GgufError, Model, arch};

/// A model of the architecture's first family that has it; only its metadata matters.
fn writer(arch: &'static str) -> GgufWriter {
    TinyModel { arch, ..TinyModel::default() }.writer()
}

/// What is said about the file, or why it is refused. `llama` and `qwen3` need other tensors than the writer makes, so that
/// an error about tensors means that all keys were accepted.
fn open(w: &GgufWriter) -> Result<Vec<String>, GgufError> {
    let bytes = w.build();
    match Model::open(&bytes) {
        Ok(model) => Ok(model.notes().iter().map(ToString::to_string).collect()),
        Err(e) if matches!(e.kind(), "NoTensors" | "MissingTensor" | "UnsupportedTensor") => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// A key that an entry stands for.
fn name(key: &Key) -> String {
    key.name.replace('*', "x")
}

fn keys(arch: &str) -> Vec<(String, &'static Key)> {
    let own = OF_ARCHITECTURE.iter().map(|key| (format!("{arch}.{}", name(key)), key));
    own.chain(OF_FILE.iter().map(|key| (name(key), key))).collect()
}

/// Values that change nothing, and one that does; of each type that the key may have.
fn values(neutral: Neutral) -> (Vec<MetaValue>, Vec<MetaValue>) {
    let number = |x: f32| match x.fract() == 0.0 {
        true => vec![MetaValue::F32(x), MetaValue::F64(f64::from(x)), MetaValue::I64(x as i64)],
        false => vec![MetaValue::F32(x)],
    };
    match neutral {
        Neutral::Never => (vec![], vec![MetaValue::U32(0), MetaValue::I32s(vec![1]), MetaValue::Bool(false)]),
        Neutral::OneOf(names) => {
            let strings = names.iter().map(|name| MetaValue::String((*name).to_owned())).collect();
            (strings, vec![MetaValue::String("another".into())])
        }
        Neutral::Numbers(all) => {
            let mut good: Vec<_> = all.iter().flat_map(|&x| number(x)).collect();
            good.push(MetaValue::F32s(vec![all[0]; 3]));
            (good, vec![MetaValue::F32(0.5), MetaValue::U32(7), MetaValue::F32s(vec![all[0], 0.5])])
        }
        Neutral::Bool(b) => (vec![MetaValue::Bool(b)], vec![MetaValue::Bool(!b)]),
        // The model's context is 256, its heads have 32 elements and its residual stream 128.
        Neutral::AtLeastContext => (
            vec![MetaValue::U32(256), MetaValue::U32(0), MetaValue::I32(-1), MetaValue::U32(u32::MAX)],
            vec![MetaValue::U32(255), MetaValue::U32(1), MetaValue::I32s(vec![256, 64])],
        ),
        Neutral::InverseRootOfHead => (
            vec![MetaValue::F32(0.0), MetaValue::F32(1.0 / 32f32.sqrt())],
            vec![MetaValue::F32(1.0), MetaValue::F32(0.1767)],
        ),
        Neutral::EmbeddingLength => (vec![MetaValue::U32(128), MetaValue::U32(0)], vec![MetaValue::U32(64)]),
    }
}

#[test]
fn keys_that_change_results_are_refused_unless_they_are_neutral() {
    // Hybrid families have keys of their own, which `hybrid.rs` tries.
    for arch in
        arch::FAMILIES.iter().filter(|family| family.hybrid.is_none()).map(|family| family.architectures[0])
    {
        for (name, key) in keys(arch) {
            let Meaning::Refused(neutral) = key.meaning else { continue };
            let (good, bad) = values(neutral);
            let mut w = writer(arch);
            let before = open(&w).unwrap();
            for value in good {
                w.set(&name, value.clone());
                assert_eq!(open(&w).as_ref(), Ok(&before), "{name}: {value:?}");
            }
            for value in bad {
                w.set(&name, value.clone());
                let error = open(&w).expect_err(&format!("{name}: {value:?}"));
                assert_eq!(error.kind(), "BadHyperparam", "{name}: {error}");
                let text = error.to_string();
                assert!(text.contains(&name) && text.contains(key.about), "{text}");
            }
        }
    }
}

#[test]
fn keys_that_are_noted_are_noted_unless_they_are_neutral() {
    for (name, key) in keys("bitnet-b1.58") {
        let Meaning::Noted(neutral) = key.meaning else { continue };
        let (good, bad) = values(neutral);
        let mut w = writer("bitnet-b1.58");
        for value in good {
            w.set(&name, value);
            assert_eq!(open(&w), Ok(vec![]), "{name}");
        }
        for value in bad {
            w.set(&name, value);
            let notes = open(&w).unwrap();
            assert!(
                notes.len() == 1 && notes[0].contains(&name) && notes[0].contains(key.about),
                "{notes:?}"
            );
        }
    }
}

/// A key that is read notices a value that it cannot have: an array of arrays.
#[test]
fn honoured_keys_are_read() {
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &8u32.to_le_bytes(), &0u64.to_le_bytes()];
    let nested = MetaValue::Raw(9, nested.concat());
    for (name, key) in keys("bitnet-b1.58") {
        // What declares a rotation is read together, which `hybrid.rs` tries.
        if key.meaning != Meaning::Honoured
            || name.starts_with("split.")
            || name.starts_with("prism.hadamard.")
        {
            continue;
        }
        let mut w = writer("bitnet-b1.58");
        w.set("bitnet-b1.58.rope.scaling.type", MetaValue::String("yarn".into()));
        w.set("bitnet-b1.58.rope.scaling.factor", MetaValue::F32(2.0));
        let sentence_piece = name == "tokenizer.ggml.add_space_prefix";
        if sentence_piece {
            w.set("tokenizer.ggml.model", MetaValue::String("llama".into()));
            w.set("tokenizer.ggml.scores", MetaValue::F32s(vec![0.0; 288]));
        }
        open(&w).unwrap();
        w.set(&name, nested.clone());
        let error = open(&w).expect_err(&format!("{name} is not read"));
        assert!(matches!(error.kind(), "WrongKeyType" | "BadAlignment"), "{name}: {error}");
    }
}

#[test]
fn harmless_keys_are_let_pass_silently() {
    for (name, key) in keys("bitnet-b1.58") {
        if key.meaning != Meaning::Harmless {
            continue;
        }
        let mut w = writer("bitnet-b1.58");
        for value in [MetaValue::U32(3), MetaValue::String("x".into()), MetaValue::F32s(vec![1.0])] {
            w.set(&name, value);
            assert_eq!(open(&w), Ok(vec![]), "{name}");
        }
    }
}

#[test]
fn keys_that_nobody_knows_are_named_in_one_note() {
    let mut w = writer("bitnet-b1.58");
    for name in ["bitnet-b1.58.a_new_scale", "vendor.rotation\u{202e}", "llama.context_length"] {
        w.set(name, MetaValue::U32(1));
    }
    let notes = open(&w).unwrap();
    let expected = "warning: metadata has keys that are not known and not followed: bitnet-b1.58.a_new_scale, \
                    vendor.rotation\\u{202e}, llama.context_length";
    assert_eq!(notes, [expected]);
    for i in 0..20 {
        w.set(&format!("vendor.{i}"), MetaValue::U32(1));
    }
    assert!(open(&w).unwrap()[0].ends_with("vendor.4 and 15 more"));
}
