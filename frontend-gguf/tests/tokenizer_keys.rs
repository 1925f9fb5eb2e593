//! What tokenizer metadata of all kinds of writers is read as: ends of texts by key, list and name, ids that stand for none,
//! and keys that are left out.

use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue, TinyModel};
use bitnetc_frontend_gguf::tokenizer_meta::END_NAMES;
use bitnetc_frontend_gguf::{Model, TokenType, TokenizerMeta};

const TOKENS: usize = 320;

/// A file whose last tokens are `<|begin_of_text|>`, `<|end_of_text|>` and, instead of `<|eot_id|>`, `last`.
fn with_last(last: &str, ty: TokenType) -> GgufWriter {
    let mut w = TinyModel { vocab: TOKENS, ..TinyModel::default() }.writer();
    set_token(&mut w, TOKENS - 1, last, ty);
    w
}

fn set_token(w: &mut GgufWriter, id: usize, text: &str, ty: TokenType) {
    for (key, value) in &mut w.entries {
        match value {
            MetaValue::Strings(tokens) if key == b"tokenizer.ggml.tokens" => tokens[id] = text.to_owned(),
            MetaValue::I32s(types) if key == b"tokenizer.ggml.token_type" => types[id] = ty as i32,
            _ => {}
        }
    }
}

/// Gives the tokenizer and its notes to `check`.
fn read(w: &GgufWriter, check: impl FnOnce(&TokenizerMeta<'_>, &str)) {
    let bytes = w.build();
    let model = Model::open(&bytes).unwrap();
    let notes: Vec<String> = model.notes().iter().map(ToString::to_string).collect();
    check(model.tokenizer(), &notes.join("\n"));
}

#[test]
fn names_end_a_text_whatever_the_type_is() {
    for name in END_NAMES.iter().filter(|name| **name != "<|end_of_text|>") {
        for ty in [TokenType::Normal, TokenType::UserDefined, TokenType::Control, TokenType::Unused] {
            read(&with_last(name, ty), |t, notes| {
                assert_eq!(t.end_of_generation(), [318, 319], "{name} {ty:?}");
                assert_eq!(t.types()[319], TokenType::Control, "{name} {ty:?}");
                assert_eq!(notes.contains("by its name it ends a text"), ty != TokenType::Control, "{notes}");
            });
        }
    }
    read(&with_last("<|other|>", TokenType::UserDefined), |t, _| {
        assert_eq!((t.end_of_generation(), t.types()[319]), (&[318][..], TokenType::UserDefined));
    });
}

#[test]
fn what_merges_make_stays_text() {
    let mut w = with_last("</s>", TokenType::Normal);
    set_token(&mut w, 260, "</", TokenType::Normal);
    set_token(&mut w, 261, "s>", TokenType::Normal);
    w.set("tokenizer.ggml.merges", MetaValue::Strings(vec!["< /".into(), "s >".into(), "</ s>".into()]));
    read(&w, |t, notes| {
        assert_eq!((t.end_of_generation(), t.types()[319]), (&[318, 319][..], TokenType::Normal));
        assert!(notes.contains("is text; by its name it ends a text"), "{notes}");
        assert!(!notes.contains("control token"), "{notes}");
    });
}

/// The end of a message is no end of a text in vocabularies that have other ends beside it.
#[test]
fn vocabularies_with_channels_go_on_after_a_message() {
    let mut w = with_last("<|end|>", TokenType::Control);
    set_token(&mut w, 270, "<|return|>", TokenType::Control);
    w.set("tokenizer.ggml.merges", MetaValue::Strings(vec![]));
    read(&w, |t, _| assert_eq!(t.end_of_generation(), [270, 318, 319]));
    set_token(&mut w, 271, "<|call|>", TokenType::Control);
    read(&w, |t, _| assert_eq!(t.end_of_generation(), [270, 271, 318]));
    let mut w = with_last("</s>", TokenType::Control);
    set_token(&mut w, 270, "<|tool_response>", TokenType::Control);
    w.set("tokenizer.ggml.merges", MetaValue::Strings(vec![]));
    read(&w, |t, _| assert_eq!(t.end_of_generation(), [270, 318]));
}

#[test]
fn keys_and_lists_of_ids_end_a_text() {
    let good = with_last("<|other|>", TokenType::Control);
    let u32s = |ids: &[u32]| {
        let body = ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let head = [&4u32.to_le_bytes()[..], &(ids.len() as u64).to_le_bytes()].concat();
        MetaValue::Raw(9, [head, body].concat())
    };
    for (key, value, expected) in [
        ("eos_token_ids", MetaValue::I32s(vec![5, 318, -1]), &[5, 318][..]),
        ("eos_token_ids", u32s(&[7, 6]), &[6, 7, 318]),
        ("eog_token_ids", u32s(&[9]), &[9, 318]),
        ("eos_token_id", MetaValue::I32s(vec![3, 4]), &[3, 4, 318]),
        ("eot_token_id", MetaValue::I64(8), &[8, 318]),
        ("eom_token_id", MetaValue::U16(8), &[8, 318]),
        ("fim_pad_token_id", MetaValue::U32(8), &[8, 318]),
    ] {
        let mut w = good.clone();
        w.set(&format!("tokenizer.ggml.{key}"), value);
        read(&w, |t, _| assert_eq!(t.end_of_generation(), expected, "{key}"));
    }
    let mut w = good.clone();
    w.set("tokenizer.ggml.eos_token_id", MetaValue::I32s(vec![3, 4]));
    read(&w, |t, _| assert_eq!(t.special().eos, Some(3)));
    // Tokens for filling in text by name, unless a key says which.
    read(&with_last("<|file_sep|>", TokenType::Control), |t, _| {
        assert_eq!(t.end_of_generation(), [318, 319])
    });
}

#[test]
fn ids_that_stand_for_none_are_absent() {
    let none = [
        MetaValue::U32(u32::MAX),
        MetaValue::I32(-1),
        MetaValue::I64(-1),
        MetaValue::U64(u64::MAX),
        MetaValue::I8(-1),
    ];
    for value in none {
        for role in ["seperator", "padding", "cls", "mask", "unknown", "eot", "eom", "eos"] {
            let mut w = TinyModel { vocab: TOKENS, ..TinyModel::default() }.writer();
            let key = format!("tokenizer.ggml.{role}_token_id");
            w.set(&key, value.clone());
            read(&w, |t, notes| {
                assert!(notes.contains(&key) && notes.contains("taken for none"), "{notes}");
                assert_eq!(t.end_of_generation(), [318, 319]);
                assert_eq!(t.special().eos.is_none(), role == "eos");
            });
        }
        // A begin token that is asked for is needed.
        let mut w = TinyModel { vocab: TOKENS, ..TinyModel::default() }.writer();
        w.set("tokenizer.ggml.bos_token_id", value);
        assert_eq!(Model::open(&w.build()).unwrap_err().kind(), "BadTokenizer");
        w.set("tokenizer.ggml.add_bos_token", MetaValue::Bool(false));
        read(&w, |t, _| assert_eq!((t.special().bos, t.add_bos()), (None, false)));
    }
}

#[test]
fn absent_types_and_ids_have_defaults_on_record() {
    let mut w = TinyModel { vocab: TOKENS, ..TinyModel::default() }.writer();
    w.remove("tokenizer.ggml.token_type");
    read(&w, |t, notes| {
        assert!(notes.contains("token_type is absent"), "{notes}");
        assert_eq!((t.types()[0], t.types()[319]), (TokenType::Normal, TokenType::Control));
    });
    // The same for SentencePiece, whose first tokens are always the same.
    w.set("tokenizer.ggml.model", MetaValue::String("llama".into()));
    w.set("tokenizer.ggml.scores", MetaValue::I32s((0..TOKENS as i32).map(|id| -id).collect()));
    for key in ["merges", "add_bos_token", "bos_token_id", "eos_token_id"] {
        w.remove(&format!("tokenizer.ggml.{key}"));
    }
    for (id, text) in ["<unk>", "<s>", "</s>", "<0x0A>"].into_iter().enumerate() {
        set_token(&mut w, id, text, TokenType::Normal);
    }
    read(&w, |t, notes| {
        use TokenType::*;
        assert_eq!(t.types()[..5], [Unknown, Control, Control, Byte, Normal]);
        assert_eq!((t.special().unk, t.special().bos, t.special().eos), (Some(0), Some(1), Some(2)));
        assert_eq!((t.add_bos(), t.scores()[9]), (true, -9.0));
        assert!(notes.contains("eos_token_id is absent; 2 is used"), "{notes}");
    });
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_template() {
    let mut w = TinyModel::default().writer();
    w.set("tokenizer.chat_template", MetaValue::String("\u{feff}{{ messages }}".into()));
    read(&w, |t, _| assert_eq!(t.chat_template(), Some("{{ messages }}")));
}
