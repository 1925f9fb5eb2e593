//! Reading plans. The input is untrusted.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::layout::{ALIGN, Prelude, RECORD, SectionKind, TableRow, Trailer, check_limit, limit, range};
use super::write::hash_chunk;
use super::{PlanError, PlanMeta, PlanSettings, WeightEntry};
use crate::map::{MapError, MapMode, Mapping};
use crate::tokenizer::TokenizerSpec;

/// How a plan is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Whether the hash of the weights is checked, which reads all of them.
    pub verify_weights: bool,
    /// How the file is brought into memory.
    pub map_mode: MapMode,
}

impl Default for LoadOptions {
    /// Weights not verified, file mapped.
    fn default() -> Self {
        Self { verify_weights: false, map_mode: MapMode::Mapped }
    }
}

/// Everything about a plan but the bytes of weights and tokenizer. All ranges are checked against the file and
/// refer to the whole of it.
#[derive(Debug)]
pub struct PlanIndex {
    settings: PlanSettings,
    meta: PlanMeta,
    module_text: String,
    chat_template: Option<String>,
    tokenizer: Option<Range<usize>>,
    weights: Range<usize>,
    weights_hash: [u8; 32],
    entries: Vec<WeightEntry>,
    by_name: HashMap<String, usize>,
}

impl PlanIndex {
    /// Reads the plan that `file` is, from the first byte to the last.
    pub fn parse(file: &[u8], options: &LoadOptions) -> Result<Self, PlanError> {
        let prelude = Prelude::decode(file)?;
        let trailer = Trailer::decode(file)?;
        let trailer_at = file.len() - RECORD;
        let settings_range =
            range("the settings", RECORD as u64, prelude.settings_length.into(), trailer_at)?;
        let table_range = range(
            "the table",
            trailer.table_offset,
            u64::from(trailer.sections) * RECORD as u64,
            trailer_at,
        )?;
        if table_range.end != trailer_at {
            return Err(damaged("the table does not end where the trailer begins"));
        }

        let mut frame = blake3::Hasher::new();
        frame.update(&file[..RECORD]).update(&file[settings_range.clone()]);
        frame.update(&file[table_range.clone()]).update(&file[trailer_at..trailer_at + Trailer::HASHED]);
        if frame.finalize() != trailer.hash {
            return Err(PlanError::HashMismatch { section: "settings and table".to_owned() });
        }
        // The features come first: they can be told even if a later version of a section is not readable.
        let settings: PlanSettings = from_postcard("settings", &file[settings_range.clone()])?;

        let sections = Sections::locate(file, settings_range.end, table_range)?;
        for (row, bytes) in &sections.found {
            if row.kind != SectionKind::Weights || options.verify_weights {
                verify_hash(row.kind, &file[bytes.clone()], &row.hash)?;
            }
        }
        let text = |kind: SectionKind, bytes: Range<usize>| match std::str::from_utf8(&file[bytes]) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(PlanError::Decode { section: kind.to_string(), reason: error.to_string() }),
        };
        let (_, module) = sections.required(SectionKind::Module)?;
        let (weights_row, weights) = sections.required(SectionKind::Weights)?;
        let (_, index) = sections.required(SectionKind::WeightIndex)?;
        let (_, meta) = sections.required(SectionKind::Meta)?;
        let chat_template = sections.optional(SectionKind::ChatTemplate);
        let entries: Vec<WeightEntry> = from_postcard(SectionKind::WeightIndex.name(), &file[index])?;
        let by_name = check_entries(&entries, weights.len())?;
        Ok(Self {
            settings,
            meta: from_postcard(SectionKind::Meta.name(), &file[meta])?,
            module_text: text(SectionKind::Module, module)?,
            chat_template: chat_template
                .map(|(_, bytes)| text(SectionKind::ChatTemplate, bytes))
                .transpose()?,
            tokenizer: sections.optional(SectionKind::Tokenizer).map(|(_, bytes)| bytes),
            weights,
            weights_hash: weights_row.hash,
            entries,
            by_name,
        })
    }

    /// Settings that decide whether the plan fits a machine.
    pub fn settings(&self) -> &PlanSettings {
        &self.settings
    }

    /// Description of the model and of the plan.
    pub fn meta(&self) -> &PlanMeta {
        &self.meta
    }

    /// The planned module.
    pub fn module_text(&self) -> &str {
        &self.module_text
    }

    /// The chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Decodes the tokenizer; `None` if the plan has none. `file` is the file that was parsed.
    pub fn tokenizer(&self, file: &[u8]) -> Result<Option<TokenizerSpec>, PlanError> {
        let Some(bytes) = &self.tokenizer else { return Ok(None) };
        let bytes = range("the tokenizer", bytes.start as u64, bytes.len() as u64, file.len())?;
        let spec: TokenizerSpec = from_postcard(SectionKind::Tokenizer.name(), &file[bytes])?;
        spec.validate()?;
        Ok(Some(spec))
    }

    /// The weights in the order in which they were written.
    pub fn weights(&self) -> &[WeightEntry] {
        &self.entries
    }

    /// Place of the weights section in the file. Its start is a multiple of 64.
    pub fn weights_range(&self) -> Range<usize> {
        self.weights.clone()
    }

    /// The weight of this name and its place in the file. The start is a multiple of 64.
    pub fn weight(&self, name: &str) -> Option<(&WeightEntry, Range<usize>)> {
        let entry = &self.entries[*self.by_name.get(name)?];
        // Both numbers were checked against the length of the section, which is a `usize`.
        let start = self.weights.start + entry.offset as usize;
        Some((entry, start..start + entry.length as usize))
    }
}

/// The sections of a file, located.
struct Sections {
    found: Vec<(TableRow, Range<usize>)>,
}

impl Sections {
    /// Reads the table and checks that the sections fill the room between the settings and the table exactly.
    fn locate(file: &[u8], settings_end: usize, table: Range<usize>) -> Result<Self, PlanError> {
        let mut found: Vec<(TableRow, Range<usize>)> = Vec::new();
        let mut end = settings_end;
        for record in file[table.clone()].as_chunks::<RECORD>().0 {
            let row = TableRow::decode(record)?;
            if found.iter().any(|(other, _)| other.kind == row.kind) {
                return Err(PlanError::Duplicate { what: format!("the {}", row.kind) });
            }
            let bytes = range(row.kind.name(), row.offset, row.length, table.start)?;
            check_gap(file, end, bytes.start)?;
            end = bytes.end;
            found.push((row, bytes));
        }
        check_gap(file, end, table.start)?;
        Ok(Self { found })
    }

    fn optional(&self, kind: SectionKind) -> Option<(&TableRow, Range<usize>)> {
        self.found.iter().find(|(row, _)| row.kind == kind).map(|(row, bytes)| (row, bytes.clone()))
    }

    fn required(&self, kind: SectionKind) -> Result<(&TableRow, Range<usize>), PlanError> {
        self.optional(kind).ok_or(PlanError::MissingSection { section: kind })
    }
}

/// Checks that the next part starts at the first multiple of [`ALIGN`] and that zeros lead up to it.
fn check_gap(file: &[u8], end: usize, next: usize) -> Result<(), PlanError> {
    if end.checked_next_multiple_of(ALIGN as usize) != Some(next) {
        return Err(damaged("the sections do not follow one another"));
    }
    match file.get(end..next) {
        Some(gap) if gap.iter().all(|&byte| byte == 0) => Ok(()),
        _ => Err(damaged("there is something between the sections")),
    }
}

fn damaged(what: &str) -> PlanError {
    PlanError::Damaged { what: what.to_owned() }
}

fn verify_hash(kind: SectionKind, bytes: &[u8], expected: &[u8; 32]) -> Result<(), PlanError> {
    let mut hasher = blake3::Hasher::new();
    hash_chunk(&mut hasher, bytes);
    if hasher.finalize() == *expected {
        Ok(())
    } else {
        Err(PlanError::HashMismatch { section: kind.to_string() })
    }
}

/// Checks that the weights lie in their section, aligned and one after the other.
fn check_entries(entries: &[WeightEntry], room: usize) -> Result<HashMap<String, usize>, PlanError> {
    check_limit("the number of weights", entries.len() as u64, limit::WEIGHTS)?;
    let mut by_name = HashMap::with_capacity(entries.len());
    let mut end = 0;
    for (at, entry) in entries.iter().enumerate() {
        let bytes = range("a weight", entry.offset, entry.length, room)?;
        if !entry.offset.is_multiple_of(ALIGN) || bytes.start < end {
            return Err(PlanError::Damaged {
                what: format!("the weight {:?} is misplaced", entry.name.escape_debug().to_string()),
            });
        }
        end = bytes.end;
        if by_name.insert(entry.name.clone(), at).is_some() {
            return Err(PlanError::Duplicate { what: format!("the weight {:?}", entry.name) });
        }
    }
    Ok(by_name)
}

/// Decodes all of `bytes`.
fn from_postcard<T: DeserializeOwned>(section: &str, bytes: &[u8]) -> Result<T, PlanError> {
    let error = |reason: String| PlanError::Decode { section: section.to_owned(), reason };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|cause| error(cause.to_string()))?;
    if !rest.is_empty() {
        return Err(error(format!("{} bytes are left over", rest.len())));
    }
    Ok(value)
}

/// A plan in memory.
#[derive(Debug)]
pub struct Plan {
    file: Mapping,
    index: PlanIndex,
}

impl Plan {
    /// Loads the plan at `path`.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, PlanError> {
        Self::from_file(Mapping::open(path, options.map_mode)?, path, options)
    }

    /// The plan in a file that has been opened; `path` is for messages.
    pub fn from_file(file: Mapping, path: &Path, options: &LoadOptions) -> Result<Self, PlanError> {
        let index = PlanIndex::parse(file.as_slice(), options)
            .map_err(|source| PlanError::InFile { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { file, index })
    }

    /// Everything but the bytes of weights and tokenizer.
    pub fn index(&self) -> &PlanIndex {
        &self.index
    }

    /// The whole file.
    pub fn file(&self) -> &[u8] {
        self.file.as_slice()
    }

    /// The bytes of the weight of this name, at an address that is a multiple of 64.
    pub fn weight(&self, name: &str) -> Option<&[u8]> {
        self.index.weight(name).map(|(_, range)| &self.file()[range])
    }

    /// The bytes of all weights.
    pub fn weights(&self) -> &[u8] {
        &self.file()[self.index.weights_range()]
    }

    /// The BLAKE3 hash that [`Plan::weights`] had when they were written.
    pub fn weights_hash(&self) -> [u8; 32] {
        self.index.weights_hash
    }

    /// Whether no bytes of the file have been lost ([`Mapping::is_whole`]).
    pub fn is_whole(&self) -> bool {
        self.file.is_whole()
    }

    /// Fails if bytes of the file have been lost ([`Mapping::check`]).
    ///
    /// # Errors
    /// [`crate::map::MapError::Lost`].
    pub fn check(&self) -> Result<(), MapError> {
        self.file.check()
    }

    /// The tokenizer; `None` if the plan has none.
    pub fn tokenizer(&self) -> Result<Option<TokenizerSpec>, PlanError> {
        self.index.tokenizer(self.file())
    }

    /// Checks the hash of the weights, reading all of them, with several threads.
    pub fn verify_weights(&self) -> Result<(), PlanError> {
        verify_hash(SectionKind::Weights, self.weights(), &self.index.weights_hash)
    }
}
