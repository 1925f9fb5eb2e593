//! A byte-level BPE vocabulary of any size: a token for each byte, merges, then control tokens.
//!
//! The first merges are of English, so that short words become tokens; the others are random. With fewer than 259 tokens
//! the last bytes have none.

use std::collections::HashSet;

use super::Rng;
use crate::tokenizer_meta::byte_level;
use crate::write::MetaValue;

/// The control tokens, the last of the vocabulary.
pub(crate) const CONTROL: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];

/// The tokenizer's keys and values for a vocabulary of `size` tokens; `seed` decides the random merges.
pub(crate) fn metadata(size: usize, seed: u64) -> Vec<(&'static str, MetaValue)> {
    let normal = size.saturating_sub(CONTROL.len());
    let alphabet = (0..=255).map(|b| byte_level::char_of_byte(b).to_string());
    let mut tokens: Vec<String> = alphabet.take(normal).collect();
    let merges = extend_by_merges(&mut tokens, normal, seed);
    tokens.extend(CONTROL.map(String::from));
    let types = (0..tokens.len()).map(|id| if id < normal { 1 } else { 3 }).collect();
    let template = "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim \
                    + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
    vec![
        ("tokenizer.ggml.model", MetaValue::String("gpt2".into())),
        ("tokenizer.ggml.pre", MetaValue::String("llama-bpe".into())),
        ("tokenizer.ggml.tokens", MetaValue::Strings(tokens)),
        ("tokenizer.ggml.token_type", MetaValue::I32s(types)),
        ("tokenizer.ggml.merges", MetaValue::Strings(merges)),
        ("tokenizer.ggml.bos_token_id", MetaValue::U32(normal as u32)),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(normal as u32 + 1)),
        ("tokenizer.ggml.padding_token_id", MetaValue::U32(normal as u32 + 1)),
        ("tokenizer.ggml.add_bos_token", MetaValue::Bool(true)),
        ("tokenizer.chat_template", MetaValue::String(template.into())),
    ]
}

/// Adds merged tokens until there are `target`: first some of English, then random ones; returns the merges.
fn extend_by_merges(tokens: &mut Vec<String>, target: usize, seed: u64) -> Vec<String> {
    const ENGLISH: [(&str, &str); 12] = [
        ("Ġ", "t"),
        ("h", "e"),
        ("Ġ", "a"),
        ("i", "n"),
        ("Ġt", "he"),
        ("r", "e"),
        ("o", "n"),
        ("e", "r"),
        ("Ġ", "s"),
        ("Ġ", "Ġ"),
        ("in", "g"),
        ("Ċ", "Ċ"),
    ];
    let mut rng = Rng::new(seed ^ 0x6d65_7267);
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let mut merges = Vec::new();
    let mut english = ENGLISH.into_iter();
    while tokens.len() < target {
        let (left, right) = match english.next() {
            Some((left, right)) => (left.to_owned(), right.to_owned()),
            None => {
                let pick = |rng: &mut Rng| match rng.below(4) {
                    0 if tokens.len() > 256 => tokens[256 + rng.below(tokens.len() - 256)].clone(),
                    _ => char::from(b'a' + rng.below(26) as u8).to_string(),
                };
                (pick(&mut rng), pick(&mut rng))
            }
        };
        let joined = format!("{left}{right}");
        if joined.chars().count() <= 16 && known.insert(joined.clone()) {
            merges.push(format!("{left} {right}"));
            tokens.push(joined);
        }
    }
    merges
}
