//! Good files: what is read from them, and what is said about their oddities.

use std::path::{Path, PathBuf};

use bitnetc_frontend_gguf::decode::FloatFormat;
use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel};
use bitnetc_frontend_gguf::{Gguf, LayerRole, Model, NoteLevel, TokenType, TokenizerMeta, Value, Weights};

/// A change to a good file.
type Change = fn(&mut GgufWriter);

fn notes(model: &Model<'_>, level: NoteLevel) -> Vec<String> {
    model.notes().iter().filter(|n| n.level == level).map(ToString::to_string).collect()
}

#[test]
fn a_model_of_every_option_is_read_back() {
    let shapes = [
        TinyModel::default(),
        TinyModel { tied: false, arch: "bitnet-25", layers: 3, ..TinyModel::default() },
        TinyModel { heads: 2, kv_heads: 1, head_dim: 128, table: FloatFormat::Bf16, ..TinyModel::default() },
        TinyModel {
            hidden: 384,
            ffn: 640,
            heads: 8,
            kv_heads: 8,
            head_dim: 16,
            vocab: 300,
            ..TinyModel::default()
        },
        TinyModel {
            table: FloatFormat::F32,
            context: 8,
            rope_theta: 10_000.0,
            eps: 1e-6,
            ..TinyModel::default()
        },
        TinyModel { vocab: 259, ..TinyModel::default() },
    ];
    for shape in shapes {
        let bytes = shape.to_gguf();
        let model = Model::open(&bytes).unwrap();
        model.check_weights().unwrap();
        assert_eq!(model.notes(), []);
        let h = model.hparams();
        assert_eq!(
            (h.architecture, h.vocab, h.context, h.hidden, h.layers, h.ffn),
            (shape.arch, shape.vocab, shape.context, shape.hidden, shape.layers, shape.ffn)
        );
        assert_eq!((h.heads, h.kv_heads, h.head_dim), (shape.heads, shape.kv_heads, shape.head_dim));
        assert_eq!((h.rope_dim, h.rope_theta, h.eps), (shape.head_dim, shape.rope_theta, shape.eps));
        assert_eq!(model.output().is_none(), shape.tied);
        assert_eq!(model.tensors().count(), model.gguf().tensors().len());
        let last = shape.layers - 1;
        let k = model.layer(last, LayerRole::AttnK).unwrap();
        assert_eq!(k.name(), format!("blk.{last}.attn_k.weight"));
        let Some(Weights::Ternary(k)) = model.weights(k) else { panic!("K is ternary") };
        assert_eq!((k.rows(), k.cols()), (h.kv_width(), h.hidden));
        assert!(model.layer(shape.layers, LayerRole::AttnK).is_none());
        let Some(Weights::Floats(table)) = model.weights(model.token_embd()) else {
            panic!("the table is dense")
        };
        assert_eq!((table.rows(), table.cols(), table.format()), (shape.vocab, shape.hidden, shape.table));
    }
}

#[test]
fn the_tokenizer_is_read_back() {
    let bytes = TinyModel { vocab: 320, ..TinyModel::default() }.to_gguf();
    let model = Model::open(&bytes).unwrap();
    let t = model.tokenizer();
    assert_eq!(t.tokens().len(), 320);
    assert_eq!(t.tokens()[317..], ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]);
    assert_eq!((t.types()[0], t.types()[319]), (TokenType::Normal, TokenType::Control));
    assert_eq!(t.merges().len(), 320 - 259);
    assert_eq!(t.merges().next(), Some(("Ġ", "t")));
    assert_eq!((t.special().bos, t.special().eos, t.special().eot), (Some(317), Some(318), None));
    // The end of a turn is found by its name.
    assert_eq!(t.end_of_generation(), [318, 319]);
    assert!(t.add_bos() && !t.add_eos());
    assert!(t.missing_bytes().is_empty());
    assert!(t.chat_template().unwrap().contains("Assistant"));
}

#[test]
fn a_sentence_piece_vocabulary_is_read() {
    use bitnetc_frontend_gguf::testing::MetaValue;
    use bitnetc_frontend_gguf::{PreTokenizer, TokenizerModel};
    let mut w = TinyModel { vocab: 320, ..TinyModel::default() }.writer();
    w.set("tokenizer.ggml.model", MetaValue::String("llama".into()));
    w.set("tokenizer.ggml.scores", MetaValue::F32s((0..320).map(|id| -(id as f32)).collect()));
    w.remove("tokenizer.ggml.merges");
    w.remove("tokenizer.ggml.add_bos_token");
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    let t = model.tokenizer();
    assert_eq!(t.model(), TokenizerModel::SentencePiece { space_prefix: true });
    assert_eq!((t.pre(), t.merges().count(), t.scores()[319]), (None, 0, -319.0));
    assert_eq!(t.missing_bytes().len(), 256, "there are no byte tokens");
    assert!(t.add_bos());
    w.set("tokenizer.ggml.add_space_prefix", MetaValue::Bool(false));
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    assert_eq!(model.tokenizer().model(), TokenizerModel::SentencePiece { space_prefix: false });

    // The rules of byte-level BPE, by all the names that files have for them.
    for (name, pre) in [
        ("llama-bpe", PreTokenizer::LlamaBpe),
        ("falcon3", PreTokenizer::LlamaBpe),
        ("qwen2", PreTokenizer::Qwen2),
        ("gpt-2", PreTokenizer::Gpt2),
        ("default", PreTokenizer::Default),
        ("falcon", PreTokenizer::Falcon),
    ] {
        let mut w = TinyModel::default().writer();
        w.set("tokenizer.ggml.pre", MetaValue::String(name.into()));
        assert_eq!(Model::open(&w.build()).unwrap().tokenizer().pre(), Some(pre), "{name}");
    }
}

#[test]
fn defaults_are_used_and_reported() {
    let mut w = TinyModel::default().writer();
    for suffix in ["context_length", "attention.head_count_kv", "rope.dimension_count", "rope.freq_base"] {
        w.remove(&format!("bitnet-b1.58.{suffix}"));
    }
    w.remove("tokenizer.ggml.add_bos_token");
    // As many key/value heads as heads, so K and V grow.
    for name in ["blk.0.attn_k.weight", "blk.0.attn_v.weight"] {
        w.remove_tensor(name);
        w.i2s_tensor(name, 128, 128, &[0; 128 * 128], 1.0);
    }
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    let h = model.hparams();
    assert_eq!((h.context, h.kv_heads, h.rope_dim, h.rope_theta), (4096, 4, 32, 10_000.0));
    assert!(model.tokenizer().add_bos());
    let defaults = notes(&model, NoteLevel::Default);
    assert_eq!(defaults.len(), 5, "{defaults:?}");
    for key in ["context_length", "head_count_kv", "dimension_count", "freq_base", "add_bos_token"] {
        assert!(defaults.iter().any(|n| n.contains(key)), "{key}: {defaults:?}");
    }
}

#[test]
fn oddities_are_let_pass_and_reported() {
    let cases: &[(&str, Change)] = &[
        ("taken as 1048576", |w| w.set("bitnet-b1.58.context_length", MetaValue::U64(u64::MAX))),
        ("\"extra\" is not part", |w| w.f32_tensor("extra", &[1], &[0.0])),
        ("no tensor uses", |w| w.tensors.last_mut().unwrap().offset = Some(320_000)),
        ("not followed: unknown.key", |w| w.set("unknown.key", MetaValue::F64(1.5))),
        ("has empty tokens (1)", |w| {
            // A token of the last bytes; no merge has it.
            let entry = w.entries.iter_mut().find(|(k, _)| k == b"tokenizer.ggml.tokens").unwrap();
            let MetaValue::Strings(tokens) = &mut entry.1 else { panic!("tokens are strings") };
            tokens[7].clear();
        }),
        ("is ignored", |w| w.set("tokenizer.chat_template", MetaValue::String("x".repeat(65_537)))),
    ];
    for (text, change) in cases {
        let mut w = TinyModel::default().writer();
        change(&mut w);
        let mut bytes = w.build();
        if *text == "no tensor uses" {
            bytes.resize(bytes.len() + 400_000, 0);
        }
        let model = Model::open(&bytes).unwrap();
        let warnings = notes(&model, NoteLevel::Warning);
        assert!(warnings.iter().any(|n| n.contains(text)), "{text}: {warnings:?}");
    }
    let mut bytes = TinyModel::default().to_gguf();
    bytes.extend([1; 77]);
    let model = Model::open(&bytes).unwrap();
    assert!(notes(&model, NoteLevel::Warning)[0].contains("77 bytes"));
}

#[test]
fn harmless_variants_are_accepted_silently() {
    let cases: &[Change] = &[
        |w| w.version = 2,
        |w| {
            w.alignment = 64;
            w.set("general.alignment", MetaValue::U32(64));
        },
        |w| {
            w.alignment = 8;
            w.set("general.alignment", MetaValue::U32(8));
        },
        |w| w.tensors.reverse(),
        |w| w.set("bitnet-b1.58.block_count", MetaValue::I64(1)),
        |w| w.set("bitnet-b1.58.rope.scaling.type", MetaValue::String("linear".into())),
        |w| w.set("bitnet-b1.58.rope.scaling.factor", MetaValue::F32(1.0)),
        |w| w.set("bitnet-b1.58.hidden_activation", MetaValue::String("relu2".into())),
        |w| w.set("tokenizer.ggml.pre", MetaValue::String("llama3".into())),
        |w| w.remove("tokenizer.chat_template"),
        |w| w.set("bitnet-b1.58.feed_forward_length", MetaValue::I32s(vec![256])),
        |w| {
            w.set("bitnet-b1.58.rope.scaling.factor", MetaValue::F32(2.0));
            w.set("bitnet-b1.58.rope.scale_linear", MetaValue::F32(2.0));
        },
        |w| {
            let q = &mut w.tensor_mut("blk.0.attn_q.weight").data;
            let end = q.len();
            q[end - 28..].fill(0xff);
        },
        |w| {
            let q = &mut w.tensor_mut("blk.0.attn_q.weight").data;
            let end = q.len();
            q[end - 32..end - 28].copy_from_slice(&(-0.0f32).to_le_bytes());
        },
    ];
    for change in cases {
        let mut w = TinyModel::default().writer();
        change(&mut w);
        let bytes = w.build();
        let model = Model::open(&bytes).unwrap();
        model.check_weights().unwrap();
        assert_eq!(model.notes(), []);
    }
}

#[test]
fn absent_vocabulary_size_and_split_rule_have_defaults_on_record() {
    let mut w = TinyModel::default().writer();
    w.remove("bitnet-b1.58.vocab_size");
    w.remove("tokenizer.ggml.pre");
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    assert_eq!(model.hparams().vocab, TinyModel::default().vocab);
    let defaults = notes(&model, NoteLevel::Default).join("; ");
    assert!(defaults.contains("vocab_size") && defaults.contains("tokenizer.ggml.pre"), "{defaults}");
    assert!(defaults.contains("llama-bpe"), "{defaults}");
}

#[test]
fn every_value_type_is_read() {
    let mut w = GgufWriter::default();
    let numbers = [
        MetaValue::U8(200),
        MetaValue::I8(-3),
        MetaValue::U16(65_000),
        MetaValue::I16(-9),
        MetaValue::U32(7),
        MetaValue::I32(-7),
        MetaValue::U64(1 << 40),
        MetaValue::I64(-1 << 40),
    ];
    let expected = [200, -3, 65_000, -9, 7, -7, 1 << 40, -1 << 40];
    for (i, value) in numbers.into_iter().enumerate() {
        w.set(&format!("n{i}"), value);
    }
    w.set("f32", MetaValue::F32(1.5));
    w.set("f64", MetaValue::F64(2.5));
    w.set("b", MetaValue::Bool(true));
    w.set("strings", MetaValue::Strings(vec!["a".into(), String::new(), "ü".into()]));
    w.set("i32s", MetaValue::I32s(vec![1, -2]));
    let inner = [&5u32.to_le_bytes()[..], &1u64.to_le_bytes(), &3i32.to_le_bytes()].concat();
    let nested = [&9u32.to_le_bytes()[..], &2u64.to_le_bytes(), &inner, &inner].concat();
    w.set("nested", MetaValue::Raw(9, nested));
    let bytes = w.build();
    let gguf = Gguf::parse(&bytes).unwrap();
    for (i, n) in expected.into_iter().enumerate() {
        assert_eq!(gguf.integer(&format!("n{i}")), Ok(Some(n)));
    }
    assert_eq!((gguf.float("f32"), gguf.float("f64")), (Ok(Some(1.5)), Ok(Some(2.5))));
    assert_eq!((gguf.bool("b"), gguf.bool("absent")), (Ok(Some(true)), Ok(None)));
    let Some(Value::Array(strings)) = gguf.entry("strings").map(|e| e.value) else { panic!("an array") };
    assert_eq!(strings.strings().unwrap().collect::<Vec<_>>(), ["a", "", "ü"]);
    let Some(Value::Array(i32s)) = gguf.entry("i32s").map(|e| e.value) else { panic!("an array") };
    assert_eq!(i32s.i32s().unwrap().collect::<Vec<_>>(), [1, -2]);
    assert!(i32s.strings().is_none());
    let Some(Value::Array(nested)) = gguf.entry("nested").map(|e| e.value) else { panic!("an array") };
    assert_eq!((nested.len(), nested.raw().len()), (2, 32));
    assert_eq!(gguf.integer("f32").unwrap_err().kind(), "WrongKeyType");
    assert_eq!(GgufWriter::of(&gguf).build(), bytes);
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(file)
}

/// The ternary matrices of the reference models, against sums and first elements written by their maker.
#[test]
fn reference_models_decode_to_the_recorded_weights() {
    for name in ["A", "C"] {
        let bytes = std::fs::read(data(&format!("model_{name}_i2_s.gguf"))).unwrap();
        let model = Model::open(&bytes).unwrap();
        model.check_weights().unwrap();
        assert_eq!(model.notes(), []);
        assert_eq!(model.output().is_some(), name == "C");
        let json = std::fs::read(data(&format!("logits_{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let recorded = json["weights"].as_object().unwrap();
        assert_eq!(recorded.len(), 7 * model.hparams().layers);
        for (stem, expected) in recorded {
            let id = model.gguf().find(&format!("{stem}.weight")).unwrap();
            let Some(Weights::Ternary(w)) = model.weights(model.gguf().tensor(id)) else { panic!("{stem}") };
            let decoded = w.decode().unwrap();
            assert_eq!(f64::from(w.scale()), expected["scale"].as_f64().unwrap(), "{stem}");
            let sum: i64 = decoded.iter().map(|&t| i64::from(t)).sum();
            assert_eq!(Some(sum), expected["sum"].as_i64(), "{stem}");
            let first: Vec<i64> = decoded[..16].iter().map(|&t| i64::from(t)).collect();
            assert_eq!(serde_json::json!(first), expected["first16"], "{stem}");
        }
    }
}

/// The vocabulary of LLaMA 3 cannot be part of the repository; it is read where it is at hand.
#[test]
fn the_llama_3_vocabulary() {
    let dir = match std::env::var_os("BITNETC_TEST_DATA") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
    };
    let dir = dir.join("tokenizer");
    if !dir.join("llama3_vocab.gguf").is_file() {
        println!("skipped: no vocabulary (set BITNETC_TEST_DATA)");
        return;
    }
    for (file, defaults) in [("llama3_vocab.gguf", 0), ("bitnet2b_vocab_nopre.gguf", 1)] {
        let bytes = std::fs::read(dir.join(file)).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let t = TokenizerMeta::read(&gguf).unwrap();
        assert_eq!((t.tokens().len(), t.merges().len()), (128_256, 280_147));
        assert_eq!(t.end_of_generation(), [128_001, 128_009]);
        assert_eq!(t.notes().len(), defaults, "{:?}", t.notes());
        assert!(t.missing_bytes().is_empty());
    }
}
