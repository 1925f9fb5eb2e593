//! What metadata keys mean: which are followed, which say nothing about the computation, and which would change it.
//!
//! One table ([`OF_ARCHITECTURE`], [`OF_FILE`]) is the only home of this. `check` holds a file against it: a key that
//! would change the results and is not followed refuses the file, unless it has a value that changes nothing; a key that
//! the table does not know is noted. Reading the keys that are followed is up to [`crate::hparams`],
//! [`crate::tokenizer_meta`] and the container.
//!
//! Some keys are followed for one family only ([`crate::arch::Hybrid::keys`]); what the table says of them holds for the others.
//!
//! Invariant: no key of an accepted file is ignored silently unless the table calls it harmless.

mod table;

use crate::arch::Family;
use crate::error::{GgufError, printable};
use crate::note::Note;
use crate::reader::{Entry, Gguf};
use crate::value::Value;

pub use table::{OF_ARCHITECTURE, OF_FILE};

/// A key, or all keys that begin alike, with what it means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// The name; with `*` at the end, all keys that begin with what stands before it. An exact name goes before these,
    /// and among these the first.
    pub name: &'static str,
    /// What happens when a file has it.
    pub meaning: Meaning,
    /// What it is about; part of messages.
    pub about: &'static str,
}

/// What happens when a file has a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// It is read and followed.
    Honoured,
    /// It says nothing that a result depends on.
    Harmless,
    /// It is not followed, which is noted unless it has a neutral value.
    Noted(Neutral),
    /// It changes the computation and is not followed: only neutral values are accepted.
    Refused(Neutral),
}

/// The values with which a key changes nothing. An array is neutral if all its elements are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Neutral {
    /// None.
    Never,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// One of these numbers, as integer or float.
    Numbers(&'static [f32]),
    /// This bool.
    Bool(bool),
    /// A number of positions that is not below the context length; 0 and −1 stand for no limit.
    AtLeastContext,
    /// 1/√(elements of a head), which is what attention has anyway; 0 stands for it.
    InverseRootOfHead,
    /// The width of the residual stream; 0 stands for it.
    EmbeddingLength,
}

impl Key {
    fn exactly(&self, name: &str) -> bool {
        self.name == name
    }

    fn begins(&self, name: &str) -> bool {
        self.name.strip_suffix('*').is_some_and(|start| name.starts_with(start))
    }
}

/// The entry of a table for a key.
fn find(table: &'static [Key], name: &str) -> Option<&'static Key> {
    table.iter().find(|key| key.exactly(name)).or_else(|| table.iter().find(|key| key.begins(name)))
}

/// What the table says of a key of a file with this architecture; `None` for a key that it does not know.
pub fn lookup(architecture: &str, name: &str) -> Option<&'static Key> {
    match suffix_of(architecture, name) {
        Some(suffix) => find(OF_ARCHITECTURE, suffix),
        None => find(OF_FILE, name),
    }
}

fn suffix_of<'n>(architecture: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(architecture).and_then(|rest| rest.strip_prefix('.'))
}

/// Whether models of the family follow a key that others refuse.
fn is_of_family(family: &Family, architecture: &str, name: &str) -> bool {
    let keys = family.hybrid.map_or(&[][..], |hybrid| hybrid.keys);
    suffix_of(architecture, name).is_some_and(|suffix| keys.contains(&suffix))
}

/// What neutral values depend on, as the file has it; whether it can be used is checked elsewhere.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    context: Option<i128>,
    embedding: Option<i128>,
    head: Option<i128>,
}

impl Sizes {
    fn of(gguf: &Gguf<'_>, architecture: &str) -> Self {
        let number = |suffix: &str| gguf.integer(&format!("{architecture}.{suffix}")).ok().flatten();
        let embedding = number("embedding_length");
        let heads = number("attention.head_count");
        let derived = embedding.zip(heads).and_then(|(width, heads)| width.checked_div(heads));
        Self {
            context: number("context_length"),
            embedding,
            head: number("attention.key_length").or(derived),
        }
    }
}

/// Holds all keys of a file against the table; returns what there is to say about those that are not followed.
///
/// # Errors
/// `BadHyperparam` for a key that changes the results, `WrongKeyType` for one whose value is of another type.
pub(crate) fn check(gguf: &Gguf<'_>, family: &Family, architecture: &str) -> Result<Vec<Note>, GgufError> {
    let sizes = Sizes::of(gguf, architecture);
    let mut notes = Vec::new();
    let mut unknown = Vec::new();
    for entry in gguf.entries().iter().filter(|entry| !is_of_family(family, architecture, entry.key)) {
        let Some(key) = lookup(architecture, entry.key) else {
            unknown.push(entry.key);
            continue;
        };
        match key.meaning {
            Meaning::Honoured | Meaning::Harmless => {}
            Meaning::Noted(neutral) => {
                if !neutral.holds(entry, sizes).unwrap_or(false) {
                    let text = format!("is not followed: {}", key.about);
                    notes.push(Note::warning(printable(entry.key), text));
                }
            }
            Meaning::Refused(neutral) => {
                if !neutral.holds(entry, sizes)? {
                    return Err(refusal(entry, key));
                }
            }
        }
    }
    notes.extend(note_on_unknown(&unknown));
    Ok(notes)
}

fn refusal(entry: &Entry<'_>, key: &Key) -> GgufError {
    GgufError::BadHyperparam {
        key: printable(entry.key),
        value: shown(&entry.value),
        why: format!("it changes what the model computes ({}), and this variant is not supported", key.about),
    }
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Bool(b) => b.to_string(),
        Value::Array(array) => format!("an array of {} values", array.len()),
        number => match (number.as_integer(), number.as_f32()) {
            (Some(n), _) => n.to_string(),
            (None, Some(x)) => x.to_string(),
            (None, None) => String::new(),
        },
    }
}

fn note_on_unknown(keys: &[&str]) -> Option<Note> {
    /// Keys that are named one by one.
    const NAMED: usize = 8;
    let named: Vec<String> = keys.iter().take(NAMED).map(|key| printable(key)).collect();
    let more = match keys.len().checked_sub(NAMED) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    let text = format!("has keys that are not known and not followed: {}{more}", named.join(", "));
    (!keys.is_empty()).then(|| Note::warning("metadata", text))
}

impl Neutral {
    /// Whether the value changes nothing.
    ///
    /// # Errors
    /// `WrongKeyType` for a value of a type that the key does not have.
    fn holds(self, entry: &Entry<'_>, sizes: Sizes) -> Result<bool, GgufError> {
        let wrong_type = |expected| GgufError::WrongKeyType {
            offset: entry.offset,
            key: printable(entry.key),
            found: entry.value.type_name(),
            expected,
        };
        if let Value::Array(array) = &entry.value {
            return Ok(match self {
                Self::Never => false,
                _ => array.numbers().is_some_and(|mut all| all.all(|x| self.holds_for(x, sizes))),
            });
        }
        match (self, &entry.value) {
            (Self::Never, _) => Ok(false),
            (Self::OneOf(accepted), Value::String(text)) => Ok(accepted.contains(text)),
            (Self::OneOf(_), _) => Err(wrong_type("a string")),
            (Self::Bool(accepted), Value::Bool(b)) => Ok(accepted == *b),
            (Self::Bool(_), _) => Err(wrong_type("a bool")),
            (_, value) => {
                let number = value.as_number().ok_or_else(|| wrong_type("a number"))?;
                Ok(self.holds_for(number, sizes))
            }
        }
    }

    fn holds_for(self, x: f64, sizes: Sizes) -> bool {
        let is = |n: Option<i128>| n.is_some_and(|n| x == n as f64);
        match self {
            Self::Never | Self::OneOf(_) => false,
            Self::Bool(accepted) => x == f64::from(u8::from(accepted)),
            Self::Numbers(accepted) => accepted.iter().any(|&n| x == f64::from(n)),
            Self::AtLeastContext => x == 0.0 || x == -1.0 || sizes.context.is_some_and(|n| x >= n as f64),
            Self::InverseRootOfHead => {
                let own = sizes.head.map(|n| 1.0 / (n as f64).sqrt());
                x == 0.0 || own.is_some_and(|own| (x / own - 1.0).abs() < 1e-6)
            }
            Self::EmbeddingLength => x == 0.0 || is(sizes.embedding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_go_before_families_of_names() {
        let meaning = |name| lookup("llama", name).map(|key| key.meaning);
        assert_eq!(meaning("llama.expert_count"), Some(Meaning::Refused(Neutral::Numbers(&[0.0]))));
        assert_eq!(meaning("llama.expert_used_count"), Some(Meaning::Harmless));
        assert_eq!(meaning("general.name"), Some(Meaning::Harmless));
        assert_eq!(meaning("general.sampling.temp"), Some(Meaning::Noted(Neutral::Never)));
        assert_eq!(meaning("prism.hadamard.signs"), Some(Meaning::Refused(Neutral::Never)));
        // Keys of another architecture, and names that only begin alike, are not known.
        assert_eq!(meaning("qwen3.context_length"), None);
        assert_eq!(meaning("llama2.context_length"), None);
        assert_eq!(meaning("llama"), None);
        assert_eq!(meaning("llama.expertise"), None);
    }

    #[test]
    fn no_name_stands_in_a_table_twice() {
        for table in [OF_ARCHITECTURE, OF_FILE] {
            for (i, key) in table.iter().enumerate() {
                assert!(!key.about.is_empty(), "{}", key.name);
                assert!(table[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            }
        }
    }
}
