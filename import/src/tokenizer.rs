//! `tokenizer.json`, `tokenizer_config.json` and the chat template as GGUF metadata.
//!
//! Only byte-level BPE is taken over, with the two rules for cutting text that the runtime has; anything else that would
//! give other tokens than the original is refused. Source: the format of the crate `tokenizers`, whose names the structures
//! here have.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bitnetc_frontend_gguf::write::MetaValue;
use bitnetc_frontend_gguf::{PreTokenizer, TokenType, printable};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::Config;
use crate::error::ImportError;
use crate::{json, limits};

/// The expressions by which a `tokenizer.json` says how text is cut.
const EXPRESSIONS: [(PreTokenizer, &str); 3] = [
    (
        PreTokenizer::LlamaBpe,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        PreTokenizer::Qwen35,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        PreTokenizer::Qwen2,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The files that say something about the tokenizer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) tokenizer: &'a [u8],
    pub(crate) config: Option<&'a [u8]>,
    pub(crate) template: Option<&'a [u8]>,
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    model: Bpe<'a>,
    #[serde(borrow, default)]
    added_tokens: Vec<Added<'a>>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<Pre>,
    post_processor: Option<Post>,
}

#[derive(Deserialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u64,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Normalizer {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Pre {
    Sequence {
        pretokenizers: Vec<Pre>,
    },
    Split {
        pattern: Pattern,
        #[serde(default)]
        invert: bool,
        behavior: Option<String>,
    },
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    #[serde(other)]
    Other,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
    String(#[expect(dead_code, reason = "any is refused")] String),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Post {
    Sequence {
        processors: Vec<Post>,
    },
    TemplateProcessing {
        single: Vec<Piece>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

/// Token texts with their ids, in the order of the file.
struct Vocabulary<'a>(Vec<(Cow<'a, str>, u64)>);

/// A string that is borrowed from the file where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, u64)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {} tokens", limits::MAX_TOKENS)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(Text(text)) = map.next_key()? {
                    if all.len() == limits::MAX_TOKENS {
                        return Err(A::Error::invalid_length(all.len() + 1, &self));
                    }
                    all.push((text, map.next_value()?));
                }
                Ok(all)
            }
        }
        deserializer.deserialize_map(Entries).map(Self)
    }
}

/// A merge: `"left right"`, or a list of both.
enum Merge<'a> {
    Joined(Cow<'a, str>),
    Pair(Cow<'a, str>, Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Merge::Joined(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Merge::Joined(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let missing = || A::Error::custom("a merge is not two tokens");
                let Text(left) = seq.next_element()?.ok_or_else(missing)?;
                let Text(right) = seq.next_element()?.ok_or_else(missing)?;
                match seq.next_element::<Text<'_>>()? {
                    None => Ok(Merge::Pair(left, right)),
                    Some(_) => Err(missing()),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize, Default)]
struct SideJson {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    pad_token: Option<Named>,
    chat_template: Option<Templates>,
}

/// A token by its text, or by an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Object { content: String },
}

impl Named {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// What the tokenizer becomes: metadata, and remarks.
pub(crate) struct Tokenizer {
    pub(crate) entries: Vec<(String, MetaValue)>,
    pub(crate) notes: Vec<String>,
}

/// Converts the tokenizer of a model with `config`; `pre` stands above what the expression says.
pub(crate) fn read(
    files: Files<'_>,
    config: &Config,
    pre: Option<PreTokenizer>,
) -> Result<Tokenizer, ImportError> {
    const FILE: &str = "tokenizer.json";
    let bytes = json::prepare(FILE, files.tokenizer, limits::MAX_TOKENIZER_BYTES)?;
    let json: Json<'_> = serde_json::from_slice(&bytes).map_err(|e| ImportError::json(FILE, &e))?;
    let side: SideJson = match files.config {
        Some(bytes) => json::parse("tokenizer_config.json", bytes, limits::MAX_SIDE_FILE_BYTES)?,
        None => SideJson::default(),
    };
    let mut notes = Vec::new();
    let pre = check_algorithm(&json, pre, &mut notes)?;
    let (tokens, types) = vocabulary(&json, config.vocab)?;
    let template = template(&files, &side, &mut notes)?;
    let find = |text: &str| tokens.iter().position(|t| t == text).map(|id| id as i64);
    let named = |name: &Option<Named>| name.as_ref().and_then(|name| find(name.text()));
    let bos = named(&side.bos_token).or(config.bos);
    let (template_bos, template_eos) = json.post_processor.as_ref().map_or((false, false), Post::adds);
    let string = |text: &str| MetaValue::String(text.to_owned());
    let mut entries = vec![
        ("tokenizer.ggml.model".to_owned(), string("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), string(pre.name())),
        ("tokenizer.ggml.tokens".to_owned(), MetaValue::strings(tokens.iter().map(|t| &**t))),
        ("tokenizer.ggml.token_type".to_owned(), MetaValue::I32s(types)),
        ("tokenizer.ggml.merges".to_owned(), merges(&json)?),
    ];
    let mut id = |key: &str, id: Option<i64>| {
        // An id outside of the vocabulary is refused by the front-end, which names the key.
        entries.extend(id.map(|id| (format!("tokenizer.ggml.{key}_token_id"), MetaValue::I64(id))));
    };
    let mut ends = config.eos.iter().copied();
    let eos = ends.next().or_else(|| named(&side.eos_token));
    id("bos", bos);
    id("eos", eos);
    id("eot", ends.next());
    id("eom", ends.next());
    id("padding", named(&side.pad_token).or(config.pad));
    // GGUF has keys for three; further ones go where Ollama writes them.
    if config.eos.len() > 3 {
        let all = config.eos.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
        entries.push(("tokenizer.ggml.eos_token_ids".to_owned(), MetaValue::I32s(all)));
    }
    let flag = |asked: Option<bool>, by_template: bool, id: Option<i64>| {
        asked.unwrap_or(by_template) && id.is_some()
    };
    // What the template of tokenizer.json adds is added whatever the flag of the older class says.
    let add_bos = template_bos || flag(side.add_bos_token, false, bos);
    let add_eos = template_eos || flag(side.add_eos_token, false, eos);
    entries.push(("tokenizer.ggml.add_bos_token".to_owned(), MetaValue::Bool(add_bos)));
    entries.push(("tokenizer.ggml.add_eos_token".to_owned(), MetaValue::Bool(add_eos)));
    entries.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), MetaValue::String(text))));
    Ok(Tokenizer { entries, notes })
}

/// Refuses all that would give other tokens; returns the rule for cutting text.
fn check_algorithm(
    json: &Json<'_>,
    asked: Option<PreTokenizer>,
    notes: &mut Vec<String>,
) -> Result<PreTokenizer, ImportError> {
    let refuse = |why: String| Err(ImportError::tokenizer(why));
    let model = &json.model;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        let kind = printable(model.kind.as_deref().unwrap_or_default());
        return refuse(format!("the model is {kind}; byte-level BPE is supported"));
    }
    let affix = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if model.byte_fallback || affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return refuse("the model is a SentencePiece-like BPE; byte-level BPE is supported".to_owned());
    }
    match json.normalizer.as_ref().map(|n| n.kind.as_str()) {
        None => {}
        Some("NFC") => {
            notes.push("tokenizer.json asks for NFC; text is taken as it is, as GGUF readers do".into())
        }
        Some(other) => return refuse(format!("the normalizer {} is not supported", printable(other))),
    }
    let mut found = Cut::default();
    if let Some(pre) = &json.pre_tokenizer {
        pre.collect(&mut found);
    }
    let known = match &found.expression[..] {
        [one] => EXPRESSIONS.iter().find(|(_, e)| e == one).map(|&(pre, _)| pre),
        _ => None,
    };
    let pre = match (asked, known) {
        (Some(asked), known) => {
            if known != Some(asked) {
                notes.push(format!(
                    "tokenizer.json does not cut text as {}, which is used as asked for",
                    asked.name()
                ));
            }
            asked
        }
        (None, Some(known)) if found.byte_level && !found.other => known,
        (None, _) => {
            let shown = found.expression.first().map_or("no expression", |e| e);
            return refuse(format!(
                "text is cut by \"{}\", which is not one of the known rules; if one of them fits, say which",
                printable(shown)
            ));
        }
    };
    let whole_pieces = pre == PreTokenizer::LlamaBpe;
    if model.ignore_merges != whole_pieces {
        notes.push(format!(
            "tokenizer.json has ignore_merges {}, {} models have {whole_pieces}, which is used",
            model.ignore_merges,
            pre.name()
        ));
    }
    Ok(pre)
}

/// The parts of a pre-tokenizer.
#[derive(Default)]
struct Cut<'a> {
    expression: Vec<&'a str>,
    byte_level: bool,
    other: bool,
}

impl Pre {
    fn collect<'a>(&'a self, found: &mut Cut<'a>) {
        match self {
            Self::Sequence { pretokenizers } => pretokenizers.iter().for_each(|p| p.collect(found)),
            Self::Split { pattern: Pattern::Regex(expression), invert: false, behavior }
                if behavior.as_deref() == Some("Isolated") =>
            {
                found.expression.push(expression);
            }
            Self::ByteLevel { add_prefix_space: false, use_regex: false } => found.byte_level = true,
            Self::Split { .. } | Self::ByteLevel { .. } | Self::Other => found.other = true,
        }
    }
}

impl Post {
    /// Whether a token stands before, and one after a text.
    fn adds(&self) -> (bool, bool) {
        match self {
            Self::Sequence { processors } => {
                let all = processors.iter().map(Self::adds);
                all.fold((false, false), |a, b| (a.0 || b.0, a.1 || b.1))
            }
            Self::TemplateProcessing { single } => {
                let special = |piece: Option<&Piece>| matches!(piece, Some(Piece::SpecialToken { id }) if !id.is_empty());
                (special(single.first()), special(single.last()))
            }
            Self::Other => (false, false),
        }
    }
}

/// Token texts and types by id, as many as the embedding has rows.
fn vocabulary<'j>(json: &'j Json<'_>, rows: usize) -> Result<(Vec<Cow<'j, str>>, Vec<i32>), ImportError> {
    let refuse = |why: String| Err(ImportError::tokenizer(why));
    let listed = json.model.vocab.0.len() + json.added_tokens.len();
    if rows > limits::MAX_TOKENS {
        return Err(ImportError::config(
            "vocab_size",
            format!("is {rows}, the limit is {}", limits::MAX_TOKENS),
        ));
    }
    // Published models pad their embedding by some hundred rows; a file of a few bytes cannot ask for millions.
    if rows > 2 * listed + 65_536 {
        let why = format!("is {rows}, but tokenizer.json has {listed} tokens");
        return Err(ImportError::config("vocab_size", why));
    }
    let mut texts: Vec<Option<&'j str>> = vec![None; rows];
    let mut types = vec![TokenType::Unused as i32; rows];
    let mut place = |id: u64, text: &'j str, ty: TokenType, added: bool| {
        let slot = usize::try_from(id).ok().filter(|&id| id < rows);
        let Some(slot) = slot else {
            return refuse(format!(
                "\"{}\" has the id {id}, but the model has {rows} tokens",
                printable(text)
            ));
        };
        match texts[slot] {
            // An added token may be in the vocabulary too.
            Some(other) if !added || other != text => {
                refuse(format!("\"{}\" and \"{}\" both have the id {id}", printable(other), printable(text)))
            }
            _ => {
                texts[slot] = Some(text);
                types[slot] = ty as i32;
                Ok(())
            }
        }
    };
    for (text, id) in &json.model.vocab.0 {
        place(*id, text, TokenType::Normal, false)?;
    }
    for token in &json.added_tokens {
        let ty = if token.special { TokenType::Control } else { TokenType::UserDefined };
        place(token.id, &token.content, ty, true)?;
    }
    let taken: HashSet<&str> = texts.iter().copied().flatten().collect();
    let name = |(id, text): (usize, &Option<&'j str>)| match text {
        Some(text) => Cow::Borrowed(*text),
        None => {
            let mut name = format!("[PAD{id}]");
            while taken.contains(name.as_str()) {
                name.push('_');
            }
            Cow::Owned(name)
        }
    };
    Ok((texts.iter().enumerate().map(name).collect(), types))
}

fn merges(json: &Json<'_>) -> Result<MetaValue, ImportError> {
    let mut joined = Vec::with_capacity(json.model.merges.len());
    for merge in &json.model.merges {
        joined.push(match merge {
            Merge::Joined(text) => Cow::Borrowed(&**text),
            Merge::Pair(left, right) if !left.contains(' ') && !right.contains(' ') => {
                Cow::Owned(format!("{left} {right}"))
            }
            Merge::Pair(left, right) => {
                let why =
                    format!("the merge of \"{}\" and \"{}\" has a space", printable(left), printable(right));
                return Err(ImportError::tokenizer(why));
            }
        });
    }
    Ok(MetaValue::strings(joined.iter().map(|m| &**m)))
}

/// The chat template: a file of its own, else the one of `tokenizer_config.json`.
fn template(
    files: &Files<'_>,
    side: &SideJson,
    notes: &mut Vec<String>,
) -> Result<Option<String>, ImportError> {
    if let Some(bytes) = files.template {
        const FILE: &str = "chat_template.jinja";
        let text = std::str::from_utf8(json::text(FILE, bytes, limits::MAX_SIDE_FILE_BYTES)?);
        let text = text.map_err(|e| ImportError::Json { file: FILE.into(), why: e.to_string() })?;
        return Ok(Some(text.to_owned()));
    }
    Ok(match &side.chat_template {
        None => None,
        Some(Templates::One(text)) => Some(text.clone()),
        Some(Templates::Named(all)) => {
            let default = all.iter().find(|t| t.name == "default");
            if all.len() > usize::from(default.is_some()) {
                notes.push(
                    "tokenizer_config.json has several chat templates; \"default\" is carried over".into(),
                );
            }
            default.map(|t| t.template.clone())
        }
    })
}
