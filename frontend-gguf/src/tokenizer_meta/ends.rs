//! The tokens that end a text: those that keys name, and those that are known by their text.
//!
//! A converter that does not know the end of a turn leaves it an ordinary token, and a chat would never end. The names go
//! before the types, therefore, as in llama.cpp (`src/llama-vocab.cpp`, `special_eog_ids`), whose names these are; what was
//! told from a name is noted.

use super::special::{EOS, token};
use super::vocab::TokenIds;
use super::{Merges, SpecialIds, TOKEN_TYPE, TokenId, TokenType};
use crate::error::{GgufError, printable};
use crate::note::Note;
use crate::reader::Gguf;
use crate::value::{Array, Value};

/// Tokens that end a text, a turn or a message, by their texts.
pub const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
];

/// Tokens for filling in text after which nothing comes, each with the key that names it: the first of its texts that is
/// in the vocabulary where the file does not have the key.
const FILL_IN: &[(&str, &[&str])] = &[
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// Lists of ids that end a text.
const LISTS: [&str; 3] = [EOS, "tokenizer.ggml.eos_token_ids", "tokenizer.ggml.eog_token_ids"];

/// Vocabularies in which one of the names is no end: it is not, where all of `beside` are in the vocabulary too.
struct Exception {
    name: &'static str,
    beside: &'static [&'static str],
}

const EXCEPTIONS: &[Exception] = &[
    Exception { name: "<|end|>", beside: &["<|return|>", "<|call|>"] },
    Exception { name: "<|end|>", beside: &["<|calls|>", "<|flush|>"] },
    Exception { name: "</s>", beside: &["<|tool_response>"] },
];

/// The integers of a key that holds a list of them; `None` if it holds something else or is absent.
pub(super) fn list(gguf: &Gguf<'_>, key: &'static str) -> Result<Option<Vec<i128>>, GgufError> {
    if !matches!(gguf.entry(key).map(|entry| entry.value), Some(Value::Array(_))) {
        return Ok(None);
    }
    let array = gguf.array(key, "an array of integers", |a| a.integers().is_some())?;
    Ok(array.as_ref().and_then(Array::integers).map(Iterator::collect))
}

/// All tokens that end a text, ascending.
pub(super) fn read(
    gguf: &Gguf<'_>,
    special: &SpecialIds,
    ids: &TokenIds<'_>,
    tokens: usize,
    notes: &mut Vec<Note>,
) -> Result<Vec<TokenId>, GgufError> {
    let mut ends: Vec<TokenId> = [special.eos, special.eot, special.eom].into_iter().flatten().collect();
    for key in LISTS {
        for id in list(gguf, key)?.into_iter().flatten() {
            match token(key, id, tokens)? {
                Some(end) => ends.push(end),
                None => notes.push(Note::warning(key, format!("holds {id}, which is taken for none"))),
            }
        }
    }
    for (key, names) in FILL_IN {
        let by_key = gguf.integer(key)?;
        let by_name = || names.iter().find_map(|name| ids.get(name).copied());
        ends.extend(match by_key {
            Some(id) => token(key, id, tokens)?,
            None => by_name(),
        });
    }
    let is_end = |name: &&&str| {
        let excepted = |e: &Exception| e.name == **name && e.beside.iter().all(|text| ids.contains_key(text));
        !EXCEPTIONS.iter().any(excepted)
    };
    ends.extend(END_NAMES.iter().filter(is_end).filter_map(|name| ids.get(name)));
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// Makes control tokens of ends that the file calls something else, so that a template can write them and a user cannot. A
/// token that merges give or take stays text, since models were trained with it as such.
pub(super) fn mark_as_control(
    ends: &[TokenId],
    tokens: &[&str],
    types: &mut [TokenType],
    merges: Option<&Array<'_>>,
    notes: &mut Vec<Note>,
) {
    for &end in ends {
        let (Some(text), Some(ty)) = (tokens.get(end as usize), types.get_mut(end as usize)) else {
            continue;
        };
        let said = match ty {
            TokenType::Normal => "text",
            TokenType::UserDefined => "user-defined",
            TokenType::Unused => "unused",
            TokenType::Unknown | TokenType::Control | TokenType::Byte => continue,
        };
        if !END_NAMES.contains(text) {
            continue;
        }
        let merged = |(left, right): (&str, &str)| {
            left == *text || right == *text || text.strip_prefix(left) == Some(right)
        };
        let taken = match Merges::new(merges).any(merged) {
            true => "",
            false => {
                *ty = TokenType::Control;
                " and is taken as a control token"
            }
        };
        let text = printable(text);
        let text = format!("says that \"{text}\" (token {end}) is {said}; by its name it ends a text{taken}");
        notes.push(Note::inferred(TOKEN_TYPE, text));
    }
}
