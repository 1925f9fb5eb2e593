//! The merge list of byte-level BPE.

use super::vocab::TokenIds;
use super::{MERGES, bad, string_array};
use crate::error::{GgufError, printable};
use crate::reader::Gguf;
use crate::value::{Array, Strings};

/// Iterator over the merges as (left, right), highest priority first.
#[derive(Debug, Clone)]
pub struct Merges<'a> {
    strings: Option<Strings<'a>>,
}

impl<'a> Merges<'a> {
    pub(super) fn new(array: Option<&Array<'a>>) -> Self {
        Self { strings: array.and_then(Array::strings) }
    }
}

impl<'a> Iterator for Merges<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.strings.as_mut()?.next()?.split_once(' ')
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.strings.as_ref().map_or((0, Some(0)), Strings::size_hint)
    }
}

impl ExactSizeIterator for Merges<'_> {}

/// Reads the list and checks that every merge is two known tokens, split at exactly one space, whose concatenation is a
/// known token. A merge that occurs twice is let pass: the first one wins.
pub(super) fn read<'a>(gguf: &Gguf<'a>, ids: &TokenIds<'_>) -> Result<Array<'a>, GgufError> {
    let array = string_array(gguf, MERGES)?;
    let mut joined = String::new();
    for (i, merge) in array.strings().into_iter().flatten().enumerate() {
        let refuse = |why: &str| Err(bad(MERGES, format!("merge {i}, \"{}\", {why}", printable(merge))));
        let Some((left, right)) = merge.split_once(' ').filter(|(_, right)| !right.contains(' ')) else {
            return refuse("is not two tokens with one space between them");
        };
        if !ids.contains_key(left) || !ids.contains_key(right) {
            return refuse("joins text that is not in the vocabulary");
        }
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if !ids.contains_key(joined.as_str()) {
            return refuse("gives a token that is not in the vocabulary");
        }
    }
    Ok(array)
}
