//! What a type id of a file means, where writers disagree.
//!
//! The same number stands for different types in ggml, in bitnet.cpp and in other forks, and no key of a file says who
//! wrote it. But tensors lie one after the other, so the distance to the next one tells the size, and the sizes differ.
//! An id is one type throughout a file: the only one whose sizes fit all tensors with the id. If none fits, or more
//! than one, the file is refused; what was decided between several is on record as a note.

use std::collections::HashMap;

use crate::error::{GgufError, printable};
use crate::note::Note;
use crate::tensor_type::{TensorType, candidates, rivals, unreadable};
use crate::tensors::Entry;

/// The types of the ids that occur in a file.
pub(crate) struct Types {
    of: HashMap<u32, TensorType>,
    notes: Vec<Note>,
}

impl Types {
    /// The type of an id that occurs.
    pub(crate) fn of(&self, id: u32) -> TensorType {
        // Every id of the entries was resolved; F32 stands for none that does not occur.
        self.of.get(&id).copied().unwrap_or(TensorType::F32)
    }

    /// What was decided by size.
    pub(crate) fn into_notes(self) -> Vec<Note> {
        self.notes
    }
}

/// Resolves the ids of all entries of a file whose data section has `data_len` bytes.
pub(crate) fn resolve(entries: &[Entry<'_>], alignment: u64, data_len: u64) -> Result<Types, GgufError> {
    let mut types = Types { of: HashMap::new(), notes: Vec::new() };
    let mut spans: Option<HashMap<u64, Span>> = None;
    for (i, entry) in entries.iter().enumerate() {
        if types.of.contains_key(&entry.id) {
            continue;
        }
        let known = candidates(entry.id);
        let contested = known.len() > 1 || !rivals(entry.id, 256, 4).is_empty();
        let ty = match known {
            [] => return Err(unknown(entry, &named(entry, entries, alignment, data_len))),
            [one] if !contested => *one,
            _ => {
                let spans = spans.get_or_insert_with(|| measure(entries, data_len));
                let same: Vec<&Entry<'_>> = entries[i..].iter().filter(|e| e.id == entry.id).collect();
                decide(&same, known, spans, alignment, &mut types.notes)?
            }
        };
        types.of.insert(entry.id, ty);
    }
    Ok(types)
}

/// Bytes from the start of a tensor to the next one, or to the end of the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    bytes: u64,
    last: bool,
}

impl Span {
    /// Whether a tensor of `size` bytes may be here. After the last one there may be anything.
    fn fits(self, size: u64, alignment: u64) -> bool {
        match self.last {
            true => size <= self.bytes,
            false => size <= self.bytes && self.bytes - size < alignment,
        }
    }
}

/// The span of every start offset.
fn measure(entries: &[Entry<'_>], data_len: u64) -> HashMap<u64, Span> {
    let mut starts: Vec<u64> = entries.iter().map(|e| e.start).collect();
    starts.sort_unstable();
    starts.dedup();
    let next = starts.iter().skip(1).map(|&s| (s, false)).chain([(data_len, true)]);
    starts
        .iter()
        .zip(next)
        .map(|(&s, (end, last))| (s, Span { bytes: end.saturating_sub(s), last }))
        .collect()
}

fn decide(
    same: &[&Entry<'_>],
    known: &'static [TensorType],
    spans: &HashMap<u64, Span>,
    alignment: u64,
    notes: &mut Vec<Note>,
) -> Result<TensorType, GgufError> {
    let fits = |size: &dyn Fn(&Entry<'_>) -> Option<u64>| {
        same.iter().all(|entry| {
            let span = spans.get(&entry.start);
            size(entry).zip(span).is_some_and(|(size, span)| span.fits(size, alignment))
        })
    };
    let size = |ty: TensorType| move |e: &Entry<'_>| ty.tensor_bytes(e.dims.row(), e.dims.rows());
    let fitting: Vec<TensorType> = known.iter().copied().filter(|&ty| fits(&size(ty))).collect();
    let entry = same[0];
    match (&fitting[..], known) {
        ([one], [_]) => Ok(*one),
        ([one], _) => {
            let subject = format!("tensor type {}", entry.id);
            notes.push(Note::inferred(
                subject,
                format!("is taken as {}, by the size of the tensors", one.name()),
            ));
            Ok(*one)
        }
        ([], _) => {
            let rival =
                rivals(entry.id, entry.dims.row(), entry.dims.rows()).into_iter().find(|&(name, _)| {
                    fits(&|e: &Entry<'_>| {
                        let of_entry = rivals(e.id, e.dims.row(), e.dims.rows());
                        of_entry.into_iter().find(|(n, _)| *n == name).map(|(_, size)| size)
                    })
                });
            match (rival, known) {
                (Some((name, _)), _) => Err(unknown(entry, name)),
                // I2_S is what the id stands for wherever models are published: the layout check says what is wrong.
                (None, [TensorType::I2S]) => Ok(TensorType::I2S),
                (None, _) => Err(unknown(entry, &format!("not of the size of {}", names(known, "or")))),
            }
        }
        (several, _) => Err(GgufError::AmbiguousTensorType {
            offset: entry.id_offset,
            tensor: printable(entry.name),
            id: entry.id,
            why: format!("its size is that of {}", names(several, "and")),
        }),
    }
}

fn names(types: &[TensorType], joint: &str) -> String {
    types.iter().map(|t| t.name()).collect::<Vec<_>>().join(&format!(" {joint} of "))
}

/// The name of an unreadable type: by its size, if that tells it.
fn named(entry: &Entry<'_>, entries: &[Entry<'_>], alignment: u64, data_len: u64) -> String {
    let spans = measure(entries, data_len);
    let mut fitting = rivals(entry.id, entry.dims.row(), entry.dims.rows());
    fitting.retain(|&(_, size)| spans.get(&entry.start).is_some_and(|s| !s.last && s.fits(size, alignment)));
    match fitting[..] {
        [(name, _)] => format!("{name}, by its size"),
        _ => unreadable(entry.id).0.to_owned(),
    }
}

fn unknown(entry: &Entry<'_>, name: &str) -> GgufError {
    GgufError::UnknownTensorType {
        offset: entry.id_offset,
        tensor: printable(entry.name),
        id: entry.id,
        name: if name.is_empty() { String::new() } else { format!(" ({name})") },
        remedy: unreadable(entry.id).1,
    }
}
