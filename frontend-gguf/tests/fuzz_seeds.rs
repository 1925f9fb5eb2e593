//! The seeds of the fuzz targets `gguf_parse`, `gguf_struct` and `lower`: they are what is made today, and the targets'
//! properties hold on them, so that they are tested on stable Rust too. `BITNETC_BLESS=1` writes them again.

use std::path::Path;

use bitnetc_frontend_gguf::TensorType;
use bitnetc_frontend_gguf::decode::FloatFormat;
use bitnetc_frontend_gguf::testing::{
    GgufWriter, MetaValue, Outcome, Rng, STRUCT_BYTES, TinyModel, check_lower, check_parse, check_struct,
    store,
};

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

/// The smallest model with its layers in another type.
fn stored_as(ty: TensorType) -> GgufWriter {
    let mut w = smallest().writer();
    for t in w.tensors.iter_mut().filter(|t| t.ty == TensorType::I2S.id()) {
        store::convert_i2s(t, ty);
    }
    w
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
        ("ptq1_0", stored_as(TensorType::Ptq1_0).build(), Outcome::Complete),
        ("pq2_0", stored_as(TensorType::Pq2_0).build(), Outcome::Complete),
        ("code-3", with_code_3().build(), Outcome::Model("BadWeights")),
        ("all-value-types", all_value_types().build(), Outcome::Container("UnsupportedArch")),
        ("vocabulary", vocabulary().build(), Outcome::Container("NoTensors")),
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

/// Seeds of a structured target: strings of bytes from a generator, of which as many as needed are kept.
fn random_seeds(seed: u64, count: u64, most: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |i| {
        let mut rng = Rng::new(seed ^ i);
        let len = 1 + rng.below(most);
        (0..len).map(|_| rng.bits() as u8).collect()
    })
}

fn is_accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Model(_) | Outcome::Complete)
}

/// Writes what the two structured targets start from, and checks that enough of their inputs get through.
#[test]
fn structured_targets_accept_a_third_of_their_inputs() {
    type Target = (&'static str, fn(&[u8]) -> Outcome, usize);
    let targets: [Target; 2] = [("gguf_struct", check_struct, STRUCT_BYTES), ("lower", check_lower, 200)];
    for (name, check, most) in targets {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
        let (mut accepted, mut count) = (0, 0);
        let mut kept: Vec<(Outcome, Vec<u8>)> = vec![(check(&[]), Vec::new())];
        for input in random_seeds(most as u64, 600, most) {
            let outcome = check(&input);
            (accepted, count) = (accepted + u32::from(is_accepted(&outcome)), count + 1);
            // One of each outcome.
            if !kept.iter().any(|(other, _)| *other == outcome) {
                kept.push((outcome, input));
            }
        }
        println!("{name}: {accepted} of {count} accepted, {} outcomes", kept.len());
        assert!(accepted * 10 >= count * 3, "{name}: {accepted} of {count} accepted");
        assert!(kept.len() >= 8, "{name}: {} outcomes", kept.len());
        if std::env::var_os("BITNETC_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            for (outcome, input) in &kept {
                let outcome = format!("{outcome:?}").replace(['(', ')', '"'], "-");
                std::fs::write(dir.join(outcome.trim_matches('-')), input).unwrap();
            }
        }
    }
}

/// Every file among the seeds, among them inputs that once made a target fail.
#[test]
fn every_seed_holds_the_property() {
    type Check = fn(&[u8]) -> Outcome;
    let targets: [(&str, Check); 3] =
        [("gguf_parse", check_parse), ("gguf_struct", check_struct), ("lower", check_lower)];
    for (name, check) in targets {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
        let mut replayed = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            check(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 7, "{name}: {replayed}");
    }
}
