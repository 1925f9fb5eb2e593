//! Rotated weights: the keys `prism.hadamard.*`, read and checked.
//!
//! A matrix W may be stored as W·R, where R is a Hadamard transform of neighbouring columns in blocks, with a sign for each column.
//! Its input then has to go through the same rotation; an embedding whose rows are rotated is rotated back after it is looked up.
//! Text from a model that is rotated by half is fluent and wrong, so a declaration that is not understood, or that does not cover
//! every matrix, refuses the file. `docs/hadamard.md` explains what this is good for.
//!
//! Invariants of a [`Rotation`] that has passed `check`: the block divides the input width of every rotated matrix, and
//! there are as many signs as columns for each of these widths, or none at all.

use std::collections::{BTreeMap, BTreeSet};

use bitnetc_ir::limits::MAX_HADAMARD;

use crate::arch::TensorClass;
use crate::error::{GgufError, printable};
use crate::model::{OUTPUT, TOKEN_EMBD};
use crate::reader::Gguf;
use crate::value::{Array, Value};

/// What the keys begin with.
const PREFIX: &str = "prism.hadamard.";
/// The one transform that there is.
const TRANSFORM: &str = "normalized-sylvester-walsh-hadamard";
/// The one axis that there is.
const AXIS: &str = "input-last-dimension";

/// How the weights of a model are rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    block: u32,
    /// By width; empty where all signs are +1.
    signs: BTreeMap<usize, Vec<i8>>,
    /// Names of the matrices whose input is rotated.
    weights: BTreeSet<String>,
    /// Whether the rows of the embedding are rotated back.
    embedding: bool,
    /// Whether value heads are grouped by key heads in the columns of the output of recurrent layers.
    grouped: bool,
    /// Whether the head is the rotated embedding.
    tied: bool,
}

/// A matrix that the model multiplies with, as the check sees it.
pub(crate) struct Matrix<'m> {
    pub(crate) name: &'m str,
    pub(crate) class: TensorClass,
    /// Columns.
    pub(crate) inputs: u64,
}

impl Rotation {
    /// Columns that are mixed with each other: a power of two.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// The signs of a width, if not all are +1.
    pub fn signs(&self, width: usize) -> Option<&[i8]> {
        self.signs.get(&width).map(Vec::as_slice)
    }

    /// The widths that have signs.
    pub fn sign_widths(&self) -> impl Iterator<Item = usize> + '_ {
        self.signs.keys().copied()
    }

    /// Whether the input of the matrix with this name in the file is rotated.
    pub fn covers(&self, tensor: &str) -> bool {
        self.weights.contains(tensor) || (self.tied && tensor == TOKEN_EMBD)
    }

    /// Whether the rows of the embedding are rotated back after they are looked up.
    pub fn rotates_embedding(&self) -> bool {
        self.embedding
    }

    /// Whether the value heads of rotated outputs of recurrent layers are grouped by key heads, and not tiled.
    pub fn groups_value_heads(&self) -> bool {
        self.grouped
    }

    /// The declaration of a file; `None` in a file without any.
    ///
    /// # Errors
    /// `MissingKey`, `WrongKeyType` or `BadHyperparam` for one that is not understood.
    pub(crate) fn read(gguf: &Gguf<'_>) -> Result<Option<Self>, GgufError> {
        let keys = Keys(gguf);
        if !gguf.entries().iter().any(|entry| entry.key.starts_with(PREFIX)) {
            return Ok(None);
        }
        let version = keys.integer("version")?;
        let tied = keys.0.bool(&key("tied_output"))?.unwrap_or(false);
        match (version, tied) {
            (1, false) | (2, true) => {}
            (1, true) => return Err(keys.bad("tied_output", "true", "it needs version 2")),
            (2, false) => {
                return Err(keys.bad("version", 2, "version 2 is for models with tied_output only"));
            }
            (other, _) => return Err(keys.bad("version", other, "versions 1 and 2 are supported")),
        }
        let found = keys.integer("block_size")?;
        let block = u32::try_from(found).ok().filter(|n| n.is_power_of_two() && *n <= MAX_HADAMARD);
        let block = block.ok_or_else(|| {
            keys.bad("block_size", found, format!("it must be a power of two up to {MAX_HADAMARD}"))
        })?;
        keys.one("transform", TRANSFORM)?;
        keys.one("axis", AXIS)?;
        let signs = keys.signs(block)?;
        let weights = keys.names("weight_names")?;
        if weights.is_empty() {
            return Err(keys.bad("weight_names", "an empty array", "it must name the rotated matrices"));
        }
        let inverse = keys.names("inverse_weight_names")?;
        if let Some(name) = inverse.iter().find(|name| *name != TOKEN_EMBD) {
            return Err(keys.bad(
                "inverse_weight_names",
                printable(name),
                format!("only {TOKEN_EMBD} is supported"),
            ));
        }
        let grouped = keys.0.bool(&key("gdn_v_grouped"))?.unwrap_or(false);
        Ok(Some(Self { block, signs, weights, embedding: !inverse.is_empty(), grouped, tied }))
    }

    /// Holds the declaration against the matrices of the model, and against names of tensors that are skipped.
    ///
    /// # Errors
    /// `BadHyperparam` with key and tensor: a name that is no matrix of the model, a matrix without its name, a width that the block
    /// or the signs do not fit.
    pub(crate) fn check(
        &self,
        matrices: &[Matrix<'_>],
        hidden: usize,
        has_head: bool,
        is_skipped: impl Fn(&str) -> bool,
    ) -> Result<(), GgufError> {
        let bad = |suffix: &str, value: String, why: String| GgufError::BadHyperparam {
            key: key(suffix),
            value,
            why,
        };
        let known: BTreeMap<&str, &Matrix<'_>> = matrices.iter().map(|m| (m.name, m)).collect();
        for name in &self.weights {
            let shown = printable(name);
            let matrix = known.get(name.as_str());
            match matrix {
                None if is_skipped(name) => {}
                None => {
                    let why =
                        "the model multiplies with no tensor of this name, so its rotation cannot be applied";
                    return Err(bad("weight_names", shown, why.to_owned()));
                }
                Some(matrix) => self.check_width("weight_names", matrix.name, matrix.inputs)?,
            }
        }
        let bare = |m: &&Matrix<'_>| matches!(m.class, TensorClass::Linear) && !self.weights.contains(m.name);
        let head = matrices.iter().find(|m| m.name == OUTPUT && !self.weights.contains(m.name));
        if let Some(matrix) = matrices.iter().find(bare).or(head) {
            let why =
                format!("tensor \"{}\" is not among them, and a model is rotated as a whole", matrix.name);
            return Err(bad("weight_names", format!("an array of {} names", self.weights.len()), why));
        }
        match (self.tied, has_head, self.embedding) {
            (true, true, _) => {
                let why = format!("there is a tensor \"{OUTPUT}\" too");
                Err(bad("tied_output", "true".to_owned(), why))
            }
            (true, false, false) => {
                let why = format!("inverse_weight_names does not have \"{TOKEN_EMBD}\", which is the head");
                Err(bad("tied_output", "true".to_owned(), why))
            }
            (false, false, true) => {
                let why = format!(
                    "\"{TOKEN_EMBD}\" is the head too, whose input would have to be rotated: that is tied_output in version 2"
                );
                Err(bad("inverse_weight_names", printable(TOKEN_EMBD), why))
            }
            (_, _, true) => self.check_width("inverse_weight_names", TOKEN_EMBD, hidden as u64),
            (_, _, false) => Ok(()),
        }
    }

    fn check_width(&self, suffix: &str, tensor: &str, inputs: u64) -> Result<(), GgufError> {
        if !inputs.is_multiple_of(u64::from(self.block)) {
            return Err(GgufError::BadHyperparam {
                key: key("block_size"),
                value: self.block.to_string(),
                why: format!(
                    "tensor \"{}\" has {inputs} columns, which are not in such blocks",
                    printable(tensor)
                ),
            });
        }
        let signed = usize::try_from(inputs).is_ok_and(|width| self.signs.contains_key(&width));
        if !self.signs.is_empty() && !signed {
            return Err(GgufError::BadHyperparam {
                key: key("sign_widths"),
                value: format!("{:?}", self.signs.keys().collect::<Vec<_>>()),
                why: format!("tensor \"{}\" of {suffix} has {inputs} columns", printable(tensor)),
            });
        }
        Ok(())
    }
}

fn key(suffix: &str) -> String {
    format!("{PREFIX}{suffix}")
}

/// Reads keys below [`PREFIX`].
struct Keys<'g, 'a>(&'g Gguf<'a>);

impl Keys<'_, '_> {
    fn bad(&self, suffix: &str, value: impl ToString, why: impl Into<String>) -> GgufError {
        GgufError::BadHyperparam { key: key(suffix), value: value.to_string(), why: why.into() }
    }

    fn missing(&self, suffix: &str) -> GgufError {
        GgufError::MissingKey {
            key: key(suffix),
            remedy: "there are other keys of prism.hadamard, so the weights are rotated, and it is not known how: \
                     download the file again or convert the model again",
        }
    }

    fn integer(&self, suffix: &str) -> Result<i128, GgufError> {
        self.0.integer(&key(suffix))?.ok_or_else(|| self.missing(suffix))
    }

    /// Checks a string that has one value.
    fn one(&self, suffix: &str, accepted: &'static str) -> Result<(), GgufError> {
        match self.0.string(&key(suffix))? {
            Some(found) if found == accepted => Ok(()),
            Some(found) => Err(self.bad(suffix, printable(found), format!("only {accepted} is supported"))),
            None => Err(self.missing(suffix)),
        }
    }

    fn array(&self, suffix: &str, expected: &'static str) -> Result<Option<Array<'_>>, GgufError> {
        let Some(entry) = self.0.entry(&key(suffix)) else { return Ok(None) };
        match &entry.value {
            Value::Array(array) => Ok(Some(*array)),
            other => Err(GgufError::WrongKeyType {
                offset: entry.offset,
                key: key(suffix),
                found: other.type_name(),
                expected,
            }),
        }
    }

    fn integers(&self, suffix: &str) -> Result<Vec<i128>, GgufError> {
        let Some(array) = self.array(suffix, "an array of integers")? else { return Ok(Vec::new()) };
        match array.integers() {
            Some(all) => Ok(all.collect()),
            None if array.is_empty() => Ok(Vec::new()),
            None => {
                Err(self.bad(suffix, format!("an array of {} values", array.len()), "they must be integers"))
            }
        }
    }

    /// Names, none of them twice.
    fn names(&self, suffix: &str) -> Result<BTreeSet<String>, GgufError> {
        let Some(array) = self.array(suffix, "an array of strings")? else { return Ok(BTreeSet::new()) };
        let mut names = BTreeSet::new();
        for value in array.values() {
            let Value::String(name) = value else {
                return Err(self.bad(suffix, value.type_name(), "it must hold names of tensors"));
            };
            if !names.insert(name.to_owned()) {
                return Err(self.bad(suffix, printable(name), "this name is there twice"));
            }
        }
        Ok(names)
    }

    /// The signs by width; none where all are +1.
    fn signs(&self, block: u32) -> Result<BTreeMap<usize, Vec<i8>>, GgufError> {
        let (widths, values) = (self.integers("sign_widths")?, self.integers("sign_values")?);
        match self.0.string(&key("sign_mode"))? {
            Some("explicit") => {}
            Some("identity") if widths.is_empty() && values.is_empty() => return Ok(BTreeMap::new()),
            Some("identity") => {
                return Err(self.bad("sign_mode", "identity", "but there are sign_widths or sign_values"));
            }
            Some(other) => {
                return Err(self.bad("sign_mode", printable(other), "identity and explicit are supported"));
            }
            None => return Err(self.missing("sign_mode")),
        }
        if widths.is_empty() {
            return Err(self.bad(
                "sign_widths",
                "an empty array",
                "with sign_mode explicit it must name widths",
            ));
        }
        let mut left = &values[..];
        let mut signs = BTreeMap::new();
        for width in widths {
            let size = usize::try_from(width).ok().filter(|&n| n > 0 && n.is_multiple_of(block as usize));
            let Some(size) = size else {
                let why = format!("widths are multiples of the block of {block}");
                return Err(self.bad("sign_widths", width, why));
            };
            let Some((own, rest)) = left.split_at_checked(size) else {
                let why = format!("there are {} for the width {size}, which needs {size}", left.len());
                return Err(self.bad("sign_values", format!("an array of {} values", values.len()), why));
            };
            if let Some(value) = own.iter().find(|&&sign| sign != 1 && sign != -1) {
                return Err(self.bad("sign_values", value, "signs are 1 and -1"));
            }
            if signs.insert(size, own.iter().map(|&sign| sign as i8).collect()).is_some() {
                return Err(self.bad("sign_widths", size, "this width is there twice"));
            }
            left = rest;
        }
        match left.is_empty() {
            true => Ok(signs),
            false => {
                let why = format!("{} of them are left after all widths", left.len());
                Err(self.bad("sign_values", format!("an array of {} values", values.len()), why))
            }
        }
    }
}
