//! Token ids compared with outside references, through the GGUF front-end.
//!
//! The small models' references are part of the repository. The vocabulary of LLaMA 3 is not (its licence), so those
//! tests look for it under `BITNETC_TEST_DATA`, by default `../shared/data` beside the repository, and say so when
//! they are skipped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnetc_frontend_gguf::{Gguf, PreTokenizer, TokenizerMeta};
use bitnetc_runtime::tokenizer::{
    Algorithm, TokenId, TokenType, Tokenize, Tokenizer, TokenizerSpec, pack_merges,
};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the outside data, or `None` with a notice.
fn outside(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("BITNETC_TEST_DATA")
        .map_or_else(|| repository().join("../shared/data"), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        println!("skipped: {} is not there (set BITNETC_TEST_DATA)", path.display());
        return None;
    }
    Some(path)
}

fn spec_of(gguf: &Path) -> TokenizerSpec {
    let bytes = std::fs::read(gguf).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let meta = TokenizerMeta::read(&gguf).unwrap();
    let types: Vec<TokenType> =
        meta.types().iter().map(|&kind| TokenType::from_gguf(kind as i64).unwrap()).collect();
    let algorithm = match meta.pre() {
        Some(PreTokenizer::LlamaBpe) => Algorithm::LlamaBpe,
        Some(PreTokenizer::Qwen35) => Algorithm::Qwen35,
        other => panic!("a reference with {other:?}"),
    };
    TokenizerSpec {
        tokens: meta.tokens().iter().map(|&token| token.to_owned()).collect(),
        merges: pack_merges(meta.tokens(), &types, meta.merges()).unwrap(),
        types,
        algorithm,
        bos: meta.special().bos,
        eos: meta.special().eos,
        eog: meta.end_of_generation().to_vec(),
        add_bos: meta.add_bos(),
        add_eos: meta.add_eos(),
    }
}

fn ids(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect()
}

/// Compares all of `cases` (`text` and `ids`) and returns how many there are.
fn compare(tokenizer: &Tokenizer, cases: &Value, parse_special: bool) -> usize {
    let cases = cases.as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, false, parse_special).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, true), text.as_bytes());
    }
    cases.len()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn small_models_match_their_reference() {
    let data = repository().join("tests/data");
    for (model, cases) in
        [("model_A_i2_s.gguf", "tokenizer_A.json"), ("model_C_i2_s.gguf", "tokenizer_C.json")]
    {
        let tokenizer = Tokenizer::new(&spec_of(&data.join(model))).unwrap();
        assert!(compare(&tokenizer, &json(&data.join(cases)), false) >= 5);
        let text = "The capital of France is";
        let with_bos = tokenizer.encode(text, true, false).unwrap();
        assert_eq!(Some(with_bos[0]), tokenizer.bos());
        assert_eq!(with_bos[1..], tokenizer.encode(text, false, false).unwrap());
    }
}

#[test]
fn special_tokens_at_the_end_of_a_small_vocabulary() {
    let model = repository().join("models/shakespeare/shakespeare-5m-i2_s.gguf");
    let spec = spec_of(&model);
    assert_eq!(spec.tokens.len(), 2048);
    let tokenizer = Tokenizer::new(&spec).unwrap();
    for id in [2046, 2047] {
        assert_eq!(tokenizer.token_type(id), Some(TokenType::Control));
        let text = String::from_utf8(tokenizer.token_bytes(id).to_vec()).unwrap();
        assert_eq!(tokenizer.encode(&text, false, true).unwrap(), [id]);
        assert!(tokenizer.encode(&text, false, false).unwrap().iter().all(|&id| id < 2046));
        assert!(tokenizer.piece(id, false).is_empty());
    }
    for prompt in json(&model.with_file_name("reference.json"))["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true, false).unwrap(), ids(&prompt["ids"]), "{text:?}");
    }
    // Blocks of 2048 tokens cut from one long text. Tokens next to the cuts may come out differently.
    let validation = ids(&json(&model.with_file_name("validation_ids.json")));
    for block in validation.chunks(2048) {
        let text = tokenizer.decode_lossy(block, true);
        let encoded = tokenizer.encode(&text, false, true).unwrap();
        let inner = &block[8..block.len() - 8];
        assert!(encoded.windows(inner.len()).any(|window| window == inner), "{text}");
    }
}

#[test]
fn llama_3_vectors() {
    let Some(model) = outside("tokenizer/llama3_vocab.gguf") else { return };
    let tokenizer = Tokenizer::new(&spec_of(&model)).unwrap();
    let vectors = json(&model.with_file_name("llama3_tokenizer_vectors.json"));
    assert_eq!(compare(&tokenizer, &vectors["plain"], false), 293);
    assert_eq!(compare(&tokenizer, &vectors["special"], true), 10);
    assert!(tokenizer.is_end(128_001) && tokenizer.is_end(128_009) && !tokenizer.is_end(128_000));

    let texts = std::fs::read_to_string(model.with_file_name("llama-bpe.inp")).unwrap();
    let lines = std::fs::read_to_string(model.with_file_name("llama-bpe.out")).unwrap();
    let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(texts.pop(), Some(""));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!((texts.len(), lines.len()), (46, 46));
    for (text, line) in texts.iter().zip(lines) {
        let expected: Vec<TokenId> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text, false, false).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn a_file_without_pre_tokenizer_gives_the_same_tokenizer() {
    let Some(named) = outside("tokenizer/llama3_vocab.gguf") else { return };
    let Some(unnamed) = outside("tokenizer/bitnet2b_vocab_nopre.gguf") else { return };
    let (named, unnamed) = (spec_of(&named), spec_of(&unnamed));
    assert_eq!(named.tokens, unnamed.tokens);
    assert_eq!(named.merges, unnamed.merges);
    assert_eq!(named.algorithm, unnamed.algorithm);
}

#[test]
fn the_stored_form_of_a_large_tokenizer_round_trips() {
    let Some(model) = outside("tokenizer/llama3_vocab.gguf") else { return };
    let spec = spec_of(&model);
    let bytes = postcard::to_stdvec(&spec).unwrap();
    assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
    assert_eq!(postcard::from_bytes::<TokenizerSpec>(&bytes).unwrap(), spec);
}

/// Processor time of this thread, which other processes do not lengthen.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A megabyte of each kind of text: twice the text takes not much more than twice the time, and none a second.
fn take_linear_time(tokenizer: &Tokenizer) {
    // An unoptimised build is slower by a factor, not by an order.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 10_000 } else { 1_000 });
    let units = [
        "a",
        " ",
        "\n",
        "^",
        "0",
        "'",
        "\t",
        " \n",
        "ab ",
        "日",
        "é\u{301}",
        "\u{a0}",
        "😀",
        " a",
        "<|",
        "a\r\n",
        "The 日本 fox, Привет 123!\n",
    ];
    for unit in units {
        let mut times = [Duration::ZERO; 2];
        for (time, size) in times.iter_mut().zip([500_000, 1_000_000]) {
            let text = unit.repeat(size / unit.len());
            let start = thread_time();
            let ids = tokenizer.encode(&text, false, true).unwrap();
            *time = thread_time() - start;
            assert!(!ids.is_empty() && ids.len() <= text.len() + 1);
            assert_eq!(tokenizer.decode(&ids, false), text.as_bytes());
        }
        println!("{unit:?}: {:?}, twice as long {:?}", times[0], times[1]);
        assert!(times[1] < limit, "{unit:?}: {:?}", times[1]);
        assert!(times[1] < times[0] * 5 + Duration::from_millis(100), "{unit:?}: {times:?}");
    }
}

#[test]
fn long_monotonous_texts_take_linear_time() {
    let builtin = repository().join("models/shakespeare/shakespeare-5m-i2_s.gguf");
    take_linear_time(&Tokenizer::new(&spec_of(&builtin)).unwrap());
    take_linear_time(&Tokenizer::new(&sentence_piece().0).unwrap());
}

#[test]
fn long_monotonous_texts_take_linear_time_with_a_large_vocabulary() {
    let Some(model) = outside("tokenizer/llama3_vocab.gguf") else { return };
    let spec = spec_of(&model);
    let start = thread_time();
    let tokenizer = Tokenizer::new(&spec).unwrap();
    println!("ready after {:?}", thread_time() - start);
    take_linear_time(&tokenizer);
}

/// A vocabulary that SentencePiece itself made (`tests/data/make_sentencepiece.py`), and its ids for many texts.
fn sentence_piece() -> (TokenizerSpec, Value) {
    let data = json(&repository().join("tests/data/sentencepiece.json"));
    let strings = |key: &str| -> Vec<String> {
        data[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let types = ids(&data["types"]).into_iter().map(|kind| TokenType::from_gguf(kind.into()).unwrap());
    let scores = data["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32);
    let spec = TokenizerSpec {
        tokens: strings("tokens"),
        types: types.collect(),
        merges: vec![],
        algorithm: Algorithm::SentencePiece {
            scores: scores.collect(),
            space_prefix: true,
            unknown: Some(0),
        },
        bos: Some(1),
        eos: Some(2),
        eog: vec![2],
        add_bos: true,
        add_eos: false,
    };
    (spec, data)
}

#[test]
fn sentence_piece_vectors() {
    let (spec, data) = sentence_piece();
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let cases = data["cases"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false, false).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode_lossy(&ids(&case["ids"]), false), text);
    }
    assert!(cases.len() > 300, "{}", cases.len());
}

#[test]
fn qwen35_matches_llama_cpp() {
    let (Some(vocabulary), Some(texts), Some(expected)) =
        (outside("qwen35/qwen35_vocab.gguf"), outside("qwen35/qwen35.inp"), outside("qwen35/qwen35.out"))
    else {
        return;
    };
    let tokenizer = Tokenizer::new(&spec_of(&vocabulary)).unwrap();
    let texts = std::fs::read_to_string(texts).unwrap();
    let expected = std::fs::read_to_string(expected).unwrap();
    let mut compared = 0;
    for (text, ids) in texts.split("\n__ggml_vocab_test__\n").zip(expected.lines()) {
        let ids: Vec<TokenId> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text, false, false).unwrap(), ids, "{text:?}");
        compared += 1;
    }
    assert!(compared >= 40, "{compared} texts");
}

#[test]
fn the_model_of_qwen35_matches_its_reference() {
    let (Some(model), Some(cases)) =
        (outside("qwen35/model_D_ptq1_0.gguf"), outside("qwen35/tokenizer_D.json"))
    else {
        return;
    };
    let tokenizer = Tokenizer::new(&spec_of(&model)).unwrap();
    let (mut special, mut plain) = (Vec::new(), Vec::new());
    for case in json(&cases).as_array().unwrap() {
        if case["special"] == true { &mut special } else { &mut plain }.push(case.clone());
    }
    assert!(compare(&tokenizer, &Value::Array(plain), false) >= 20);
    assert!(compare(&tokenizer, &Value::Array(special), true) >= 1);
    // Both ends of a text, of which the file names one.
    for end in ["<|im_end|>", "<|endoftext|>"] {
        let ids = tokenizer.encode(end, false, true).unwrap();
        assert!(ids.len() == 1 && tokenizer.is_end(ids[0]), "{end}: {ids:?}");
    }
}
