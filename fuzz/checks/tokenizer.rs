//! The property behind the fuzz target `tokenizer`, shared with the test that replays its seeds: a small vocabulary and a
//! text, both drawn from the input. Decoding gives the text back, ids are in range, control tokens come out only where they
//! were asked for, and a single word is cut as the definition of BPE has it, applied in the slowest way.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use bitnetc_runtime::tokenizer::{
    Algorithm, StreamDecoder, TokenId, TokenType, Tokenize, Tokenizer, TokenizerSpec, pack_merges,
};

/// What happened to an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The text was taken to ids and back.
    Round,
    /// The vocabulary is none.
    Refused,
}

/// The characters that stand for the bytes, as GPT-2 has it: printable ones for themselves, the others from U+0100 on.
static SPELLED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
            _ => others.next().expect("a character for each byte").to_string(),
        })
        .collect()
});

/// Merges of the vocabulary: pairs of tokens that give a new one.
struct Words {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

fn words(input: &mut &[u8], count: usize) -> Words {
    let mut tokens = SPELLED.clone();
    // A merge has two characters at least, so the tokens of bytes need not be known.
    let mut known: HashSet<String> = HashSet::new();
    let mut merges = Vec::new();
    for _ in 0..count {
        let Some((pair, rest)) = input.split_at_checked(2) else { break };
        *input = rest;
        // Letters half of the time, and tokens that were made before.
        let pick = |byte: u8| match byte {
            0..128 => usize::from(b'a' + byte % 26),
            _ => tokens.len() - 1 - usize::from(byte - 128) % 64.min(tokens.len()),
        };
        let (left, right) = (tokens[pick(pair[0])].clone(), tokens[pick(pair[1])].clone());
        let joined = format!("{left}{right}");
        if joined.len() <= 64 && known.insert(joined.clone()) {
            tokens.push(joined);
            merges.push((left, right));
        }
    }
    Words { tokens, merges }
}

/// The ids of one piece, by applying the merge of the lowest rank, leftmost first, until none applies.
fn naive(words: &Words, piece: &str, whole_pieces: bool) -> Vec<TokenId> {
    let id = |text: &str| words.tokens.iter().position(|t| t == text).map(|i| i as TokenId);
    let mut parts: Vec<String> = piece.bytes().map(|b| SPELLED[usize::from(b)].clone()).collect();
    let whole: String = parts.concat();
    if let Some(id) = id(&whole).filter(|_| whole_pieces) {
        return vec![id];
    }
    let ranks: HashMap<(&str, &str), usize> =
        words.merges.iter().enumerate().map(|(i, (l, r))| ((l.as_str(), r.as_str()), i)).collect();
    loop {
        let pairs = parts.windows(2).enumerate();
        let best = pairs.filter_map(|(i, p)| Some((*ranks.get(&(p[0].as_str(), p[1].as_str()))?, i))).min();
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    parts.iter().map(|p| id(p).expect("bytes and results of merges are tokens")).collect()
}

/// Runs the property on `input`.
///
/// # Panics
/// If it does not hold.
pub(crate) fn check(input: &[u8]) -> Outcome {
    let Some((&[kind, count], mut rest)) = input.split_first_chunk::<2>() else { return Outcome::Refused };
    let words = words(&mut rest, usize::from(count));
    let algorithm = if kind & 1 == 0 { Algorithm::LlamaBpe } else { Algorithm::Qwen2 };
    let (control, user) = ("<|end|>", "<user>");
    let mut tokens = words.tokens.clone();
    let mut types = vec![TokenType::Normal; tokens.len()];
    for (text, kind) in [(control, TokenType::Control), (user, TokenType::UserDefined)] {
        tokens.push(text.to_owned());
        types.push(kind);
    }
    if kind & 2 != 0 {
        // Bytes without a token: the last ones, which are no part of any letter.
        let from = 255 - usize::from(kind >> 4);
        types[from..256].fill(TokenType::Unused);
    }
    let special = tokens.len() as TokenId - 2;
    let merges = words.merges.iter().map(|(l, r)| (l.as_str(), r.as_str()));
    let Ok(merges) = pack_merges(&tokens, &types, merges) else { return Outcome::Refused };
    let spec = TokenizerSpec {
        tokens,
        types,
        merges,
        algorithm,
        bos: Some(special),
        eos: None,
        eog: vec![special],
        add_bos: kind & 4 != 0,
        add_eos: false,
    };
    let Ok(tokenizer) = Tokenizer::new(&spec) else { return Outcome::Refused };
    let text = String::from_utf8_lossy(rest);
    let missing = kind & 2 != 0;
    for (add_special, parse_special) in [(false, false), (false, true), (true, true)] {
        let ids = match tokenizer.encode(&text, add_special, parse_special) {
            Ok(ids) => ids,
            Err(error) => {
                assert!(missing, "{error}");
                continue;
            }
        };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "an id is out of range");
        let start = usize::from(add_special && spec.add_bos);
        assert!(parse_special || !ids.contains(&special), "a control token came out of plain text");
        assert!(start == 0 || ids[0] == special);
        let bytes = tokenizer.decode(&ids[start..], true);
        assert!(bytes == text.as_bytes(), "{text:?} came back as {:?}", String::from_utf8_lossy(&bytes));
        let mut decoder = StreamDecoder::new();
        let mut streamed = String::new();
        for &id in &ids[start..] {
            decoder.push(tokenizer.piece(id, true), &mut streamed);
        }
        decoder.finish(&mut streamed);
        assert!(streamed == text, "{text:?} was streamed as {streamed:?}");
    }
    // One word, which every rule takes as one piece.
    let word: String = text.chars().filter(char::is_ascii_alphabetic).take(200).collect();
    if let Ok(ids) = tokenizer.encode(&word, false, false) {
        assert_eq!(
            ids,
            if word.is_empty() {
                vec![]
            } else {
                naive(&words, &word, spec.algorithm == Algorithm::LlamaBpe)
            },
            "{word:?}"
        );
    }
    Outcome::Round
}
