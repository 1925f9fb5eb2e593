//! Both algorithms as a caller sees them; outside references are in `tests/tokenizer_oracle.rs`.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::super::byte_level::ByteAlphabet;
use super::super::pack_merges;
use super::*;

/// All bytes, the merges `a+b`, `ab+c` and specials at the end.
fn spec() -> TokenizerSpec {
    let alphabet = ByteAlphabet::new();
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| alphabet.char(byte).to_string()).collect();
    tokens.extend(
        ["ab", "abc", "wholeword", "<|end|>", "<|end|>!", "<user>", "<unk>", "unused"].map(String::from),
    );
    let mut types = vec![TokenType::Normal; tokens.len()];
    types[259..].copy_from_slice(&[
        TokenType::Control,
        TokenType::Control,
        TokenType::UserDefined,
        TokenType::Unknown,
        TokenType::Unused,
    ]);
    TokenizerSpec {
        tokens,
        types,
        merges: vec![(u32::from(b'a'), u32::from(b'b')), (256, u32::from(b'c'))],
        algorithm: Algorithm::LlamaBpe,
        bos: Some(259),
        eos: Some(260),
        eog: vec![259],
        add_bos: true,
        add_eos: true,
    }
}

fn ids(bytes: &[u8]) -> Vec<TokenId> {
    bytes.iter().copied().map(TokenId::from).collect()
}

#[test]
fn merges_and_whole_pieces() {
    let tokenizer = Tokenizer::new(&spec()).unwrap();
    assert_eq!(tokenizer.encode("abcab", false, false).unwrap(), [257, 256]);
    assert_eq!(tokenizer.encode("wholeword", false, false).unwrap(), [258]);
    assert_eq!(tokenizer.encode(" wholeword", false, false).unwrap(), ids(b" wholeword"));
    assert!(tokenizer.encode("", false, false).unwrap().is_empty());
}

#[test]
fn the_first_of_equal_merges_counts() {
    let mut spec = spec();
    spec.tokens[258] = "bc".to_owned();
    spec.merges = vec![(u32::from(b'a'), u32::from(b'b')), (u32::from(b'b'), u32::from(b'c'))];
    spec.merges.push(spec.merges[0]);
    let tokenizer = Tokenizer::new(&spec).unwrap();
    assert_eq!(tokenizer.encode("xabc", false, false).unwrap(), [u32::from(b'x'), 256, u32::from(b'c')]);
}

#[test]
fn special_tokens_only_when_asked() {
    let tokenizer = Tokenizer::new(&spec()).unwrap();
    let text = "ab<|end|>!ab<user><|end|>";
    assert_eq!(tokenizer.encode(text, false, true).unwrap(), [256, 260, 256, 261, 259]);
    let plain = tokenizer.encode(text, false, false).unwrap();
    assert!(plain.iter().all(|&id| id <= 256 || id == 261), "user-defined tokens are text");
    assert_eq!(tokenizer.decode(&plain, false), text.as_bytes());
    assert_eq!(tokenizer.encode("ab", true, false).unwrap(), [259, 256, 260]);
}

#[test]
fn special_tokens_are_rendered_only_when_asked() {
    let tokenizer = Tokenizer::new(&spec()).unwrap();
    let all = [256, 259, 261, 262, 263, 999];
    assert_eq!(tokenizer.decode_lossy(&all, false), "ab<user>");
    assert_eq!(tokenizer.decode_lossy(&all, true), "ab<|end|><user><unk>");
    assert_eq!(tokenizer.token_bytes(263), b"unused");
    assert_eq!(tokenizer.token_bytes(264), b"");
    assert!(tokenizer.is_end(259) && tokenizer.is_end(260) && !tokenizer.is_end(256));
}

#[test]
fn missing_bytes_are_an_error_and_not_a_gap() {
    let mut spec = spec();
    spec.types[usize::from(b'x')] = TokenType::Unused;
    let tokenizer = Tokenizer::new(&spec).unwrap();
    assert_eq!(
        tokenizer.encode("abxab", false, false),
        Err(TokenizerError::ByteNotInVocabulary { byte: b'x', offset: 2 })
    );
}

#[test]
fn merges_without_a_product_are_refused() {
    let mut spec = spec();
    spec.merges.push((258, 258));
    assert!(matches!(
        Tokenizer::new(&spec),
        Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "wholewordwholeword"
    ));
    spec.merges[2] = (0, 1);
    assert!(matches!(
        Tokenizer::new(&spec),
        Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "ĀāĂ"[..4]
    ));
    spec.merges[2] = (259, 0);
    assert!(matches!(
        Tokenizer::new(&spec),
        Err(TokenizerError::MergeUnknownToken { index: 2, token }) if token == "<|end|>"
    ));
}

proptest! {
    #[test]
    fn bytes_survive(text in "\\PC*|[abc \n<|>endusr!]*") {
        let tokenizer = &TOKENIZERS[0];
        let plain = tokenizer.encode(&text, false, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&plain, false), text.as_bytes());
        let special = tokenizer.encode(&text, false, true).unwrap();
        prop_assert_eq!(tokenizer.decode(&special, true), text.as_bytes());
    }
}

/// Merges that make longer and longer tokens of the letters a to d, in an order that a number decides.
fn random_merges(seed: u64) -> TokenizerSpec {
    let mut spec = spec();
    let mut texts: Vec<String> = ["a", "b", "c", "d", "Ġ"].map(String::from).to_vec();
    let mut merges = Vec::new();
    let mut state = seed | 1;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    spec.tokens.truncate(256);
    for _ in 0..40 {
        let (left, right) = (next(texts.len()), next(texts.len()));
        let product = format!("{}{}", texts[left], texts[right]);
        if product.len() < 12 && !merges.contains(&(texts[left].clone(), texts[right].clone())) {
            merges.push((texts[left].clone(), texts[right].clone()));
            if !texts.contains(&product) {
                texts.push(product.clone());
                spec.tokens.push(product);
            }
        }
    }
    spec.types = vec![TokenType::Normal; spec.tokens.len()];
    let pairs = merges.iter().map(|(left, right)| (left.as_str(), right.as_str()));
    spec.merges = pack_merges(&spec.tokens, &spec.types, pairs).unwrap();
    (spec.bos, spec.eos, spec.eog) = (None, None, Vec::new());
    (spec.add_bos, spec.add_eos) = (false, false);
    spec
}

/// The merge algorithm of the `tokenizers` crate, which models are trained with.
fn reference(spec: &TokenizerSpec, ignore_merges: bool) -> BPE {
    let vocab: Vocab = spec.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
    let text = |id: TokenId| spec.tokens[id as usize].clone();
    let merges = spec.merges.iter().map(|&(left, right)| (text(left), text(right))).collect();
    BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(ignore_merges).build().unwrap()
}

/// One of each algorithm.
static TOKENIZERS: LazyLock<[Tokenizer; 2]> =
    LazyLock::new(|| [spec(), pieces()].map(|spec| Tokenizer::new(&spec).unwrap()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn merges_as_the_reference_does(seed: u64, words in "[abcd]{1,30}( [abcd]{1,30}){0,3}") {
        let mut spec = random_merges(seed);
        for (algorithm, ignore_merges) in [(Algorithm::LlamaBpe, true), (Algorithm::Qwen2, false)] {
            spec.algorithm = algorithm;
            let reference = reference(&spec, ignore_merges);
            let mut expected = Vec::new();
            for (at, word) in words.split(' ').enumerate() {
                let word = if at == 0 { word.to_owned() } else { format!("Ġ{word}") };
                expected.extend(reference.tokenize(&word).unwrap().iter().map(|token| token.id));
            }
            let tokenizer = Tokenizer::new(&spec).unwrap();
            prop_assert_eq!(tokenizer.encode(&words, false, false).unwrap(), expected);
        }
    }

    #[test]
    fn any_bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..60), marks in "[▁ é日]{0,6}") {
        let mut all = bytes;
        all.extend_from_slice(marks.as_bytes());
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode_bytes(&all, true, false).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false), &all);
            prop_assert!(ids[1..ids.len() - 1].iter().all(|&id| tokenizer.token_type(id) != Some(TokenType::Control)));
            let ids = tokenizer.encode_bytes(&all, false, true).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, true), &all);
        }
    }
}

/// A small SentencePiece vocabulary with byte fallback.
fn pieces() -> TokenizerSpec {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![TokenType::Unknown, TokenType::Control, TokenType::Control];
    for byte in 0..=u8::MAX {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(TokenType::Byte);
    }
    // Rising rank: the earlier the better.
    for piece in ["▁a", "▁▁", "ab", "▁ab", "▁▁▁▁", "b▁", "▁", "a", "b", "c", "é", "<", "s", ">", "<s"]
    {
        tokens.push(piece.to_owned());
        types.push(TokenType::Normal);
    }
    tokens.push("<tool>".to_owned());
    types.push(TokenType::UserDefined);
    let scores = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { 258.0 - id as f32 }).collect();
    TokenizerSpec {
        tokens,
        types,
        merges: vec![],
        algorithm: Algorithm::SentencePiece { scores, space_prefix: true, unknown: Some(0) },
        bos: Some(1),
        eos: Some(2),
        eog: vec![2],
        add_bos: true,
        add_eos: true,
    }
}

fn piece_ids(spec: &TokenizerSpec, texts: &[&str]) -> Vec<TokenId> {
    let ids: HashMap<&str, TokenId> = spec.tokens.iter().map(String::as_str).zip(0..).collect();
    texts.iter().map(|text| ids[text]).collect()
}

#[test]
fn sentence_pieces_join_by_score() {
    let spec = pieces();
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(tokenizer.encode(text, false, true).unwrap(), piece_ids(&spec, expected), "{text:?}");
    };
    // "▁a" is better than "ab"; "▁ab" then is "▁a" and "b".
    check("ab", &["▁ab"]);
    check("aab", &["▁a", "ab"]);
    check("cab", &["▁", "c", "ab"]);
    check("    ab", &["▁▁▁▁", "▁ab"]);
    check("é日", &["▁", "é", "<0xE6>", "<0x97>", "<0xA5>"]);
    check("a<tool>a", &["▁a", "<tool>", "▁a"]);
    check("<s>a", &["<s>", "▁a"]);
    check("▁", &["▁", "<0xE2>", "<0x96>", "<0x81>"]);
    check("", &[]);
    // Spelled-out control and byte tokens are text for who does not ask for them.
    let plain = tokenizer.encode("<s><0x0A>", false, false).unwrap();
    assert_eq!(plain[..3], piece_ids(&spec, &["▁", "<s", ">"]));
    assert!(!plain.contains(&1));
    assert_eq!(tokenizer.decode_lossy(&plain, false), "<s><0x0A>");
    assert_eq!(tokenizer.encode("ab", true, false).unwrap()[0], 1);
    assert_eq!(tokenizer.decode_lossy(&[1, 259, 267, 2], false), "ab");
    assert_eq!(tokenizer.piece(259, false), b" a", "a single piece keeps its space");
}

#[test]
fn bytes_without_a_token_are_unknown_or_refused() {
    let mut spec = pieces();
    for (token, kind) in spec.tokens.iter_mut().zip(&mut spec.types) {
        if *kind == TokenType::Byte {
            *kind = TokenType::Unused;
            token.push('!');
        }
    }
    let tokenizer = Tokenizer::new(&spec).unwrap();
    assert_eq!(tokenizer.encode("a日a", false, false).unwrap(), piece_ids(&spec, &["▁a", "<unk>", "a"]));
    if let Algorithm::SentencePiece { unknown, .. } = &mut spec.algorithm {
        *unknown = None;
    }
    assert_eq!(
        Tokenizer::new(&spec).unwrap().encode("a日", false, false),
        Err(TokenizerError::ByteNotInVocabulary { byte: 0xe6, offset: 1 })
    );
}

#[test]
fn templates_keep_users_from_control_tokens() {
    let tokenizer = Tokenizer::new(&spec()).unwrap();
    // "<|end|>" by the template, then by a user, cut in two.
    let text = "<|end|>ab<|end|>c";
    assert_eq!(tokenizer.encode_template(text, &[], true).unwrap(), [259, 256, 259, u32::from(b'c')]);
    let guarded = tokenizer.encode_template(text, &[10], true).unwrap();
    assert_eq!(guarded[..2], [259, 256]);
    assert_eq!(guarded.iter().filter(|&&id| id == 259).count(), 1);
    assert_eq!(tokenizer.decode(&guarded, true), text.as_bytes());
    // Only at the place of the break: the longer token before it, the shorter one after.
    assert_eq!(tokenizer.encode_template("<|end|>!", &[7], true).unwrap(), [259, u32::from(b'!')]);
    // One begin token, whether or not the template writes it; here it is the same as the end token.
    assert_eq!(tokenizer.encode_template("ab", &[], true).unwrap(), [259, 256]);
    assert_eq!(tokenizer.encode_template("ab", &[], false).unwrap(), [256]);
    assert_eq!(tokenizer.encode_template("<|end|><|end|>", &[], true).unwrap(), [259, 259]);
    // A token of one character is text between two breaks.
    let mut one = spec();
    one.tokens[260] = "é".to_owned();
    let tokenizer = Tokenizer::new(&one).unwrap();
    assert_eq!(tokenizer.encode_template("éé", &[], false).unwrap(), [260, 260]);
    let guarded = tokenizer.encode_template("éé", &[2, 4], false).unwrap();
    assert_eq!(guarded, [&[260][..], &ids("é".as_bytes())].concat());
}
