//! The tokenizer's tables as the metadata holds them, borrowed from the file and fully checked.
//!
//! Known are byte-level BPE (`tokenizer.ggml.model` = `gpt2`) with the rules that cut text in `tokenizer.ggml.pre`
//! ([`PreTokenizer`]), and SentencePiece (`llama`); anything else is refused by name instead of giving other token ids
//! than the model was trained with.
//!
//! Invariants of a [`TokenizerMeta`]: token strings are unique, but for empty ones; there is a type for every token; every
//! merge is two known tokens whose concatenation is a known token; every id is below the number of tokens.

pub mod byte_level;
mod ends;
mod merges;
mod special;
mod vocab;

use crate::error::{GgufError, printable};
use crate::limits;
use crate::note::Note;
use crate::reader::Gguf;
use crate::text::text_without_mark;
use crate::value::{Array, ValueType};

pub use ends::END_NAMES;
pub use merges::Merges;
pub use special::is_none;

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// What a token is for; the discriminant is the number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenType {
    /// Text, written in the byte-level alphabet.
    Normal = 1,
    /// The token for what has no other.
    Unknown = 2,
    /// A control token: literal text that only a template may produce.
    Control = 3,
    /// Literal text that is matched before the vocabulary is applied.
    UserDefined = 4,
    /// Not in use.
    Unused = 5,
    /// A single byte.
    Byte = 6,
}

impl TokenType {
    /// The type with this number.
    pub fn from_id(id: i32) -> Option<Self> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|&t| t as i32 == id)
    }
}

/// How text is split before merges apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreTokenizer {
    /// The LLaMA-3 expression; a piece that is a token as a whole is not merged (`ignore_merges`).
    LlamaBpe,
    /// The Qwen-2 expression: as LLaMA 3's, but digits stand alone, and every piece is merged.
    Qwen2,
    /// The Qwen-3.5 expression: as Qwen 2's, with marks counted as letters.
    Qwen35,
    /// The GPT-2 expression.
    Gpt2,
    /// What llama.cpp does where a file says `default`: punctuation apart, then as GPT-2, digits by threes.
    Default,
    /// The expressions of the first Falcon models.
    Falcon,
}

impl PreTokenizer {
    /// All of them, each with the names that files have for it; the first is llama.cpp's.
    const NAMES: [(Self, &'static [&'static str]); 6] = [
        (
            Self::LlamaBpe,
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon_e",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
            ],
        ),
        (Self::Qwen2, &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"]),
        (Self::Qwen35, &["qwen35"]),
        (Self::Gpt2, &["gpt-2", "phi-2", "exaone4"]),
        (Self::Default, &["default"]),
        (Self::Falcon, &["falcon"]),
    ];

    /// The rule with this name in `tokenizer.ggml.pre`.
    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, names)| names.contains(&name)).map(|&(pre, _)| pre)
    }

    /// Its name in `tokenizer.ggml.pre`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(pre, _)| pre == self).map_or("", |(_, names)| names[0])
    }
}

/// What makes tokens of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenizerModel {
    /// Byte-level BPE (`gpt2`), with the rule that splits the text.
    ByteLevelBpe(PreTokenizer),
    /// SentencePiece's BPE by scores (`llama`).
    SentencePiece {
        /// Whether a space goes in front of a text.
        space_prefix: bool,
    },
}

impl TokenizerModel {
    /// Its name in `tokenizer.ggml.model`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteLevelBpe(_) => "gpt2",
            Self::SentencePiece { .. } => "llama",
        }
    }
}

/// Ids of tokens with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// End of a turn.
    pub eot: Option<TokenId>,
    /// End of a message that expects a tool's answer.
    pub eom: Option<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Unknown.
    pub unk: Option<TokenId>,
}

/// A checked view of the tokenizer metadata.
#[derive(Debug, Clone)]
pub struct TokenizerMeta<'a> {
    model: TokenizerModel,
    tokens: Vec<&'a str>,
    types: Vec<TokenType>,
    merges: Option<Array<'a>>,
    scores: Vec<f32>,
    special: SpecialIds,
    end_of_generation: Vec<TokenId>,
    add_bos: bool,
    add_eos: bool,
    missing_bytes: Vec<u8>,
    chat_template: Option<&'a str>,
    notes: Vec<Note>,
}

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

impl<'a> TokenizerMeta<'a> {
    /// Reads and checks the tokenizer metadata of a file, which may hold a vocabulary and nothing else.
    ///
    /// # Errors
    /// `MissingKey`, `WrongKeyType` or `BadTokenizer`.
    pub fn read(gguf: &Gguf<'a>) -> Result<Self, GgufError> {
        let mut notes = Vec::new();
        let named = gguf.string(MODEL)?.ok_or_else(|| missing(MODEL))?;
        if named != "gpt2" && named != "llama" {
            let why = format!("\"{}\" is not supported, \"gpt2\" and \"llama\" are", printable(named));
            return Err(bad(MODEL, why));
        }
        let tokens = vocab::read_tokens(gguf)?;
        let mut types = vocab::read_types(gguf, named, &tokens, &mut notes)?;
        let scores = vocab::read_scores(gguf, tokens.len())?;
        let ids = vocab::index(&tokens, &mut notes)?;
        let (model, merges, missing_bytes) = if named == "gpt2" {
            let merges = merges::read(gguf, &ids)?;
            let missing_bytes = vocab::check_alphabet(&tokens, &types, &ids, &mut notes);
            (TokenizerModel::ByteLevelBpe(read_pre(gguf, &tokens, &mut notes)?), Some(merges), missing_bytes)
        } else {
            if scores.is_empty() {
                return Err(missing(SCORES));
            }
            let space_prefix = gguf.bool(SPACE_PREFIX)?.unwrap_or(true);
            let missing_bytes = vocab::check_byte_tokens(&types, &ids, &mut notes);
            (TokenizerModel::SentencePiece { space_prefix }, None, missing_bytes)
        };
        let special = special::read(gguf, &types, named, &mut notes)?;
        let end_of_generation = ends::read(gguf, &special, &ids, tokens.len(), &mut notes)?;
        ends::mark_as_control(&end_of_generation, &tokens, &mut types, merges.as_ref(), &mut notes);
        if end_of_generation.is_empty() {
            notes.push(Note::warning(
                special::EOS,
                "is absent and no token is known to end a text; generation will not end by itself",
            ));
        }
        let add_bos = match gguf.bool(ADD_BOS)? {
            Some(add) => add,
            None => {
                let wanted = match model {
                    TokenizerModel::ByteLevelBpe(pre) => pre == PreTokenizer::LlamaBpe,
                    TokenizerModel::SentencePiece { .. } => true,
                };
                let add = special.bos.is_some() && wanted;
                let name = match model {
                    TokenizerModel::ByteLevelBpe(pre) => pre.name(),
                    TokenizerModel::SentencePiece { .. } => "SentencePiece",
                };
                let why = match wanted {
                    true => format!("as {name} models do if they have the token"),
                    false => format!("as {name} models do"),
                };
                notes.push(Note::default_used(ADD_BOS, add, why));
                add
            }
        };
        let add_eos = gguf.bool(ADD_EOS)?.unwrap_or(false);
        for (add, id, key, id_key) in
            [(add_bos, special.bos, ADD_BOS, special::BOS), (add_eos, special.eos, ADD_EOS, special::EOS)]
        {
            if add && id.is_none() {
                return Err(bad(key, format!("is true, but {id_key} names no token")));
            }
        }
        let chat_template = read_template(gguf, &mut notes)?;
        Ok(Self {
            model,
            tokens,
            types,
            merges,
            scores,
            special,
            end_of_generation,
            add_bos,
            add_eos,
            missing_bytes,
            chat_template,
            notes,
        })
    }

    /// What makes tokens of text.
    pub fn model(&self) -> TokenizerModel {
        self.model
    }

    /// How text is split; `None` for SentencePiece, which does not.
    pub fn pre(&self) -> Option<PreTokenizer> {
        match self.model {
            TokenizerModel::ByteLevelBpe(pre) => Some(pre),
            TokenizerModel::SentencePiece { .. } => None,
        }
    }

    /// The scores by token id, each a number; as many as there are tokens, or none. SentencePiece has them.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// The token strings by id. Normal tokens are in the byte-level alphabet ([`byte_level`]), those of SentencePiece
    /// have U+2581 for the space.
    pub fn tokens(&self) -> &[&'a str] {
        &self.tokens
    }

    /// The token types by id; as many as there are tokens.
    pub fn types(&self) -> &[TokenType] {
        &self.types
    }

    /// The merges, highest priority first; none for SentencePiece.
    pub fn merges(&self) -> Merges<'a> {
        Merges::new(self.merges.as_ref())
    }

    /// Special ids.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// Ids after which generation stops, ascending.
    pub fn end_of_generation(&self) -> &[TokenId] {
        &self.end_of_generation
    }

    /// Whether a text starts with the begin-of-sequence token, which then exists.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a text ends with the end-of-sequence token, which then exists.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Bytes that no token stands for, ascending: a text that contains one cannot be encoded.
    pub fn missing_bytes(&self) -> &[u8] {
        &self.missing_bytes
    }

    /// The chat template; at most [`limits::MAX_TEMPLATE_BYTES`] bytes, otherwise unchecked.
    pub fn chat_template(&self) -> Option<&'a str> {
        self.chat_template
    }

    /// Defaults used and oddities let pass.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Refuses a vocabulary that is not as large as the model's embedding.
    pub(crate) fn require_len(&self, vocab: usize) -> Result<(), GgufError> {
        if self.tokens.len() == vocab {
            return Ok(());
        }
        Err(bad(TOKENS, format!("there are {} tokens, but the model has {vocab}", self.tokens.len())))
    }
}

pub(crate) fn bad(key: &'static str, why: impl Into<String>) -> GgufError {
    GgufError::BadTokenizer { key, why: why.into() }
}

pub(crate) fn missing(key: &'static str) -> GgufError {
    GgufError::MissingKey {
        key: key.into(),
        remedy: "the tokenizer cannot be built without it: convert the model again together with its tokenizer",
    }
}

/// An array of strings that has to be there.
pub(crate) fn string_array<'a>(gguf: &Gguf<'a>, key: &'static str) -> Result<Array<'a>, GgufError> {
    let array = gguf.array(key, "an array of strings", |a| a.elem() == ValueType::String)?;
    array.ok_or_else(|| missing(key))
}

fn read_pre(gguf: &Gguf<'_>, tokens: &[&str], notes: &mut Vec<Note>) -> Result<PreTokenizer, GgufError> {
    if let Some(name) = gguf.string(PRE)? {
        return PreTokenizer::named(name).ok_or_else(|| {
            let known = PreTokenizer::NAMES.map(|(_, names)| format!("\"{}\"", names[0])).join(", ");
            bad(PRE, format!("\"{}\" is not supported; known are {known}", printable(name)))
        });
    }
    // The published 2B-4T file has no such key, and llama.cpp then splits otherwise than the model was trained.
    let architecture = gguf.string("general.architecture")?.unwrap_or_default();
    let llama3 = tokens.len() == 128_256 && tokens.get(128_000) == Some(&"<|begin_of_text|>");
    let (pre, why) = match (architecture, llama3) {
        (_, true) => (PreTokenizer::LlamaBpe, "the vocabulary is that of LLaMA 3".to_owned()),
        ("qwen2" | "qwen3", _) => {
            (PreTokenizer::Qwen2, format!("the rule of the architecture {}", printable(architecture)))
        }
        ("qwen35", _) => {
            (PreTokenizer::Qwen35, format!("the rule of the architecture {}", printable(architecture)))
        }
        _ => (PreTokenizer::LlamaBpe, "the rule of the architectures read here".to_owned()),
    };
    notes.push(Note::default_used(PRE, pre.name(), why));
    Ok(pre)
}

fn read_template<'a>(gguf: &Gguf<'a>, notes: &mut Vec<Note>) -> Result<Option<&'a str>, GgufError> {
    let template = gguf.string(CHAT_TEMPLATE)?.map(text_without_mark);
    if let Some(text) = template
        && text.len() > limits::MAX_TEMPLATE_BYTES
    {
        let limit = limits::MAX_TEMPLATE_BYTES;
        let text = format!("has {} bytes, more than {limit}, and is ignored", text.len());
        notes.push(Note::warning(CHAT_TEMPLATE, text));
        return Ok(None);
    }
    Ok(template)
}
