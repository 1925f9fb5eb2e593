//! The seeds of the fuzz target `gguf_parse`: they are what the writer makes today, and the target's property holds on
//! them, so that it is tested on stable Rust too. `BITNETC_BLESS=1` writes them again.

use std::path::Path;

use bitnetc_frontend_gguf::decode::FloatFormat;
use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, Outcome, TinyModel, check_parse};

/// The smallest model: 27 kB.
fn smallest() -> TinyModel {
    TinyModel { heads: 64, kv_heads: 1, head_dim: 2, ffn: 128, vocab: 8, ..TinyModel::default() }
}

fn all_value_types() -> GgufWriter {
    let mut w = GgufWriter { version: 2, ..GgufWriter::default() };
    w.set("general.architecture", MetaValue::String("none".into()));
    w.set("u8", MetaValue::U8(1));
    w.set("i8", MetaValue::I8(-1));
    w.set("u16", MetaValue::U16(1));
    w.set("i16", MetaValue::I16(-1));
    w.set("u32", MetaValue::U32(1));
    w.set("i32", MetaValue::I32(-1));
    w.set("f32", MetaValue::F32(1.5));
    w.set("bool", MetaValue::Bool(true));
    w.set("u64", MetaValue::U64(1));
    w.set("i64", MetaValue::I64(-1));
    w.set("f64", MetaValue::F64(0.5));
    w.set("strings", MetaValue::Strings(vec!["a".into(), String::new()]));
    w.set("f32s", MetaValue::F32s(vec![0.5, f32::NAN]));
    let inner = [&7u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0, 1]].concat();
    w.set("nested", MetaValue::Raw(9, [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &inner].concat()));
    w.set("general.alignment", MetaValue::U32(8));
    w.alignment = 8;
    w.f32_tensor("a", &[3, 2], &[0.5; 6]);
    w.i2s_tensor("b", 128, 2, &[1; 256], 0.25);
    w
}

fn vocabulary() -> GgufWriter {
    let mut w = TinyModel { vocab: 300, ..TinyModel::default() }.writer();
    w.tensors.clear();
    w
}

fn untied() -> TinyModel {
    TinyModel { arch: "bitnet-25", tied: false, table: FloatFormat::Bf16, ..smallest() }
}

fn with_code_3() -> GgufWriter {
    let mut w = smallest().writer();
    w.tensor_mut("blk.0.attn_k.weight").data[5] = 0xff;
    w
}

#[test]
fn seeds_are_current_and_hold_the_property() {
    let expected = [
        ("smallest-model", smallest().to_gguf(), Outcome::Complete),
        ("untied-bf16", untied().to_gguf(), Outcome::Complete),
        ("code-3", with_code_3().build(), Outcome::Model("BadWeights")),
        ("all-value-types", all_value_types().build(), Outcome::Container("UnsupportedArch")),
        ("vocabulary", vocabulary().build(), Outcome::Container("MissingTensor")),
        ("empty-container", GgufWriter::default().build(), Outcome::Container("MissingKey")),
        ("cut-short", smallest().to_gguf()[..900].to_vec(), Outcome::Refused("Truncated")),
    ];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/gguf_parse");
    for (name, bytes, outcome) in expected {
        assert_eq!(check_parse(&bytes), outcome, "{name}");
        let path = dir.join(format!("{name}.gguf"));
        if std::env::var_os("BITNETC_BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let seed = std::fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e} (BITNETC_BLESS=1 writes it)", path.display()));
        assert!(seed == bytes, "{name} is out of date (BITNETC_BLESS=1 writes it)");
    }
}

/// Every file among the seeds, among them inputs that once made the target fail.
#[test]
fn every_seed_holds_the_property() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/gguf_parse");
    let mut replayed = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        check_parse(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 7, "{replayed}");
}
