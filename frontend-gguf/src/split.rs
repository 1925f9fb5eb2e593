//! Split files: one model in several GGUF files, named `<name>-00001-of-00003.gguf` and so on.
//!
//! Every part is a container of its own. The first one holds the metadata of the model; each holds `split.no` (from 0),
//! `split.count` and, of those that `split.tensors.count` says there are in all, some tensors. Source:
//! `tools/gguf-split` of llama.cpp.
//!
//! Invariants: the parts of a joined file are complete and in order, and no two of their tensors share a name.

use crate::error::{GgufError, printable};
use crate::limits;
use crate::note::Note;
use crate::reader::Gguf;
use crate::tensors::{Directory, TensorId};

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// The name of a part, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartName<'n> {
    /// What stands before the numbers.
    pub prefix: &'n str,
    /// Number of the part, from 1.
    pub number: usize,
    /// Number of parts.
    pub count: usize,
}

impl<'n> PartName<'n> {
    /// Takes a file name apart; `None` if it is not that of a part.
    pub fn parse(name: &'n str) -> Option<Self> {
        let rest = name.strip_suffix(".gguf")?;
        let (rest, count) = rest.split_at_checked(rest.len().checked_sub(5)?)?;
        let rest = rest.strip_suffix("-of-")?;
        let (rest, number) = rest.split_at_checked(rest.len().checked_sub(5)?)?;
        let prefix = rest.strip_suffix('-')?;
        let digits =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (number, count): (usize, usize) = (digits(number)?, digits(count)?);
        (1..=count.min(limits::MAX_PARTS)).contains(&number).then_some(Self { prefix, number, count })
    }

    /// The name of another part.
    pub fn of_part(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

impl<'a> Gguf<'a> {
    /// Number of parts that the file says it is split into; 1 if it is not split.
    ///
    /// # Errors
    /// `WrongKeyType` or `BadSplit`.
    pub fn split_count(&self) -> Result<usize, GgufError> {
        match self.integer(COUNT)? {
            None | Some(0 | 1) => Ok(1),
            Some(n) => usize::try_from(n).ok().filter(|&n| n <= limits::MAX_PARTS).ok_or_else(|| {
                let found = format!("{COUNT} is {n}, and at most {} parts are read", limits::MAX_PARTS);
                GgufError::BadSplit { found, remedy: "the file is damaged" }
            }),
        }
    }

    /// Parses the parts of a split file, in order, and joins them; one part is a file that is not split.
    ///
    /// # Errors
    /// As [`Gguf::parse`], wrapped in `InPart`; `BadSplit` if parts are missing or do not belong together.
    pub fn parse_parts(parts: &[&'a [u8]]) -> Result<Self, GgufError> {
        let [first, others @ ..] = parts else {
            return Err(bad("there is no file", "give the parts of a GGUF file"));
        };
        if others.is_empty() {
            let gguf = Self::parse(first)?;
            return match gguf.split_count()? {
                1 => Ok(gguf),
                count => Err(bad(
                    format!("the file is one of {count} parts"),
                    "put all parts next to each other, with the names that they were published with",
                )),
            };
        }
        let in_part =
            |part: usize| move |source| GgufError::InPart { part: part + 1, source: Box::new(source) };
        let mut joined = Self::parse(first).map_err(in_part(0))?;
        joined.check_part(0, parts.len())?;
        for (part, &bytes) in parts.iter().enumerate().skip(1) {
            let other = Self::parse(bytes).map_err(in_part(part))?;
            other.check_part(part, parts.len())?;
            joined.append(part, other).map_err(in_part(part))?;
        }
        let tensors = joined.tensors().len();
        match joined.integer(TENSORS)? {
            Some(n) if n != tensors as i128 => Err(bad(
                format!("{TENSORS} is {n}, but the parts have {tensors} tensors"),
                "the parts are not of one model: download them again",
            )),
            _ => Ok(joined),
        }
    }

    /// Checks that this is the part with the number `part` (from 0) of `count`.
    fn check_part(&self, part: usize, count: usize) -> Result<(), GgufError> {
        for (key, expected) in [(COUNT, count), (NUMBER, part)] {
            let found = self.integer(key)?;
            if found != Some(expected as i128) {
                let found = found.map_or("absent".to_owned(), |n| n.to_string());
                return Err(bad(
                    format!("{key} is {found} in part {} of {count}, expected {expected}", part + 1),
                    "the parts are not of one model, or were renamed: download them again",
                ));
            }
        }
        Ok(())
    }

    fn append(&mut self, part: usize, other: Self) -> Result<(), GgufError> {
        let Self { parts, directory, .. } = other;
        let Directory { tensors, notes, .. } = directory;
        let all = &mut self.directory;
        if all.tensors.len() + tensors.len() > limits::MAX_TENSORS as usize {
            let found = format!("the parts have more than {} tensors", limits::MAX_TENSORS);
            return Err(bad(found, "the file is damaged"));
        }
        for tensor in tensors {
            let id = TensorId::from_index(all.tensors.len());
            if all.by_name.insert(tensor.name(), id).is_some() {
                let (offset, name) = (tensor.entry_offset(), printable(tensor.name()));
                return Err(GgufError::DuplicateTensor { offset, name });
            }
            all.tensors.push(tensor.in_part(part));
        }
        all.notes.extend(
            notes.into_iter().map(|n| Note { subject: format!("part {}: {}", part + 1, n.subject), ..n }),
        );
        self.parts.extend(parts);
        Ok(())
    }
}

fn bad(found: impl Into<String>, remedy: &'static str) -> GgufError {
    GgufError::BadSplit { found: found.into(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names() {
        let name = PartName::parse("model-a-00002-of-00003.gguf");
        assert_eq!(name, Some(PartName { prefix: "model-a", number: 2, count: 3 }));
        assert_eq!(name.map(|n| n.of_part(3)), Some("model-a-00003-of-00003.gguf".into()));
        for other in [
            "model.gguf",
            "-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-0+002-of-00003.gguf",
            "a-00002-of-99999.gguf.tmp",
            "é00002-of-00003.gguf",
        ] {
            assert_eq!(PartName::parse(other), None, "{other}");
        }
    }
}
