//! Writing plans: a streaming encoder, and its use with a temporary file.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::layout::{ALIGN, Prelude, RECORD, SectionKind, TableRow, Trailer, check_limit, limit};
use super::{PlanError, PlanMeta, PlanSettings, WeightEntry};
use crate::file_stream::FileStream;
use crate::tokenizer::TokenizerSpec;
use crate::whole_file::WholeFile;

/// Bytes of a weight that are hashed and then written.
const PIECE_BYTES: usize = 1 << 20;
/// Chunks from this size on are hashed by several threads.
const PARALLEL_HASH_BYTES: usize = 512 << 10;

pub(super) fn hash_chunk(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    if bytes.len() >= PARALLEL_HASH_BYTES {
        bitnetc_threads::install(|| hasher.update_rayon(bytes));
    } else {
        hasher.update(bytes);
    }
}

/// Writes the parts of a plan, one after the other, to any writer. Nothing is held in memory but the table.
pub struct PlanEncoder<'w> {
    out: &'w mut (dyn Write + Send),
    position: u64,
    table: Vec<TableRow>,
    /// Covers prelude, settings, table and trailer.
    frame: blake3::Hasher,
}

impl<'w> PlanEncoder<'w> {
    /// Starts a plan.
    pub fn new(out: &'w mut (dyn Write + Send), settings: &PlanSettings) -> Result<Self, PlanError> {
        let encoded = to_postcard("settings", settings)?;
        check_limit("the length of the settings", encoded.len() as u64, limit::SETTINGS_BYTES)?;
        let prelude = Prelude { settings_length: encoded.len() as u32 }.encode();
        let mut frame = blake3::Hasher::new();
        frame.update(&prelude).update(&encoded);
        let mut encoder = Self { out, position: 0, table: Vec::new(), frame };
        encoder.put("settings", &prelude)?;
        encoder.put("settings", &encoded)?;
        encoder.pad("settings")?;
        Ok(encoder)
    }

    /// Writes the planned module.
    pub fn module(&mut self, text: &str) -> Result<(), PlanError> {
        self.section(SectionKind::Module, text.as_bytes())
    }

    /// Writes the tokenizer.
    pub fn tokenizer(&mut self, tokenizer: &TokenizerSpec) -> Result<(), PlanError> {
        self.section(SectionKind::Tokenizer, &to_postcard("tokenizer", tokenizer)?)
    }

    /// Writes the chat template.
    pub fn chat_template(&mut self, template: &str) -> Result<(), PlanError> {
        self.section(SectionKind::ChatTemplate, template.as_bytes())
    }

    /// Writes the description.
    pub fn meta(&mut self, meta: &PlanMeta) -> Result<(), PlanError> {
        self.section(SectionKind::Meta, &to_postcard("description", meta)?)
    }

    /// Writes the packed weights, which `fill` gives one after the other, and their index.
    pub fn weights<E: From<PlanError>>(
        &mut self,
        fill: impl FnOnce(&mut WeightSink<'_, 'w>) -> Result<(), E>,
    ) -> Result<(), E> {
        let offset = self.begin(SectionKind::Weights)?;
        let mut sink = WeightSink {
            encoder: self,
            start: offset,
            hasher: blake3::Hasher::new(),
            entries: Vec::new(),
            names: HashSet::new(),
        };
        fill(&mut sink)?;
        let WeightSink { hasher, entries, .. } = sink;
        self.end(SectionKind::Weights, offset, &hasher)?;
        self.section(SectionKind::WeightIndex, &to_postcard(SectionKind::WeightIndex.name(), &entries)?)?;
        Ok(())
    }

    /// Writes the table and the trailer. Fails if a section that every plan needs was not written.
    pub fn finish(mut self) -> Result<(), PlanError> {
        for kind in SectionKind::ALL {
            if kind.is_required() && !self.table.iter().any(|row| row.kind == kind) {
                return Err(PlanError::MissingSection { section: kind });
            }
        }
        let table_offset = self.position;
        for row in std::mem::take(&mut self.table) {
            let record = row.encode();
            self.frame.update(&record);
            self.put("table", &record)?;
        }
        let sections = (self.position - table_offset) / RECORD as u64;
        let mut trailer = Trailer {
            table_offset,
            sections: sections as u32,
            file_length: self.position + RECORD as u64,
            hash: [0; 32],
        };
        self.frame.update(&trailer.encode()[..Trailer::HASHED]);
        trailer.hash = *self.frame.finalize().as_bytes();
        self.put("trailer", &trailer.encode())?;
        self.out.flush().map_err(|source| PlanError::Write { section: "trailer".to_owned(), source })
    }

    /// Writes any bytes as a section, for tests of what a reader must refuse.
    #[cfg(test)]
    pub(super) fn raw_section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<(), PlanError> {
        self.section(kind, bytes)
    }

    fn section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<(), PlanError> {
        let offset = self.begin(kind)?;
        let mut hasher = blake3::Hasher::new();
        hash_chunk(&mut hasher, bytes);
        self.put(kind.name(), bytes)?;
        self.end(kind, offset, &hasher)
    }

    fn begin(&mut self, kind: SectionKind) -> Result<u64, PlanError> {
        if self.table.iter().any(|row| row.kind == kind) {
            return Err(PlanError::Duplicate { what: format!("the {kind}") });
        }
        Ok(self.position)
    }

    fn end(&mut self, kind: SectionKind, offset: u64, hasher: &blake3::Hasher) -> Result<(), PlanError> {
        let length = self.position - offset;
        check_limit("the length of a section", length, kind.max_bytes())?;
        self.table.push(TableRow { kind, offset, length, hash: *hasher.finalize().as_bytes() });
        self.pad(kind.name())?;
        Ok(())
    }

    fn put(&mut self, section: &str, bytes: &[u8]) -> Result<(), PlanError> {
        self.out
            .write_all(bytes)
            .map_err(|source| PlanError::Write { section: section.to_owned(), source })?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to the next multiple of [`ALIGN`] and returns how many.
    fn pad(&mut self, section: &str) -> Result<usize, PlanError> {
        let padding = padding(self.position);
        self.put(section, &ZEROS[..padding])?;
        Ok(padding)
    }
}

const ZEROS: [u8; ALIGN as usize] = [0; ALIGN as usize];

fn padding(position: u64) -> usize {
    (position.next_multiple_of(ALIGN) - position) as usize
}

fn to_postcard<T: Serialize>(section: &str, value: &T) -> Result<Vec<u8>, PlanError> {
    postcard::to_stdvec(value)
        .map_err(|error| PlanError::Encode { section: section.to_owned(), reason: error.to_string() })
}

/// Takes the weights of a plan, in pieces of any size.
pub struct WeightSink<'e, 'w> {
    encoder: &'e mut PlanEncoder<'w>,
    /// Position of the section in the file.
    start: u64,
    hasher: blake3::Hasher,
    entries: Vec<WeightEntry>,
    names: HashSet<String>,
}

impl WeightSink<'_, '_> {
    /// Begins the next range. `kind` is what it holds, as a word; see `WeightEntry::kind`.
    pub fn begin(&mut self, name: &str, kind: &str) -> Result<(), PlanError> {
        if !self.names.insert(name.to_owned()) {
            return Err(PlanError::Duplicate { what: format!("the weight {name:?}") });
        }
        let padded = self.encoder.pad("weights")?;
        self.hasher.update(&ZEROS[..padded]);
        let offset = self.encoder.position - self.start;
        self.entries.push(WeightEntry { name: name.to_owned(), kind: kind.to_owned(), offset, length: 0 });
        check_limit("the number of weights", self.entries.len() as u64, limit::WEIGHTS)
    }

    /// Appends bytes to the weight begun last.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PlanError> {
        let entry = self.entries.last_mut().ok_or(PlanError::UnnamedWeight)?;
        entry.length += bytes.len() as u64;
        // By one thread, since others pack the next weights meanwhile, and in pieces, so that the file gets the first ones soon.
        bytes.chunks(PIECE_BYTES).try_for_each(|piece| {
            self.hasher.update(piece);
            self.encoder.put("weights", piece)
        })
    }

    /// Writes a whole weight.
    pub fn push(&mut self, name: &str, kind: &str, bytes: &[u8]) -> Result<(), PlanError> {
        self.begin(name, kind)?;
        self.write(bytes)
    }
}

/// Writes a plan to `path`, with the contents that `fill` gives, and returns its length in bytes.
///
/// The bytes go to a temporary file in the same directory, which takes the place of `path` when all of it is on
/// the disk. After an error, or if the process is killed, what was at `path` before is still there and whole. After
/// an error nothing else remains either.
pub fn write_plan<E: From<PlanError>>(
    path: &Path,
    settings: &PlanSettings,
    fill: impl FnOnce(&mut PlanEncoder<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let file = WholeFile::create(path).map_err(PlanError::from)?;
    let mut out = FileStream::new(file.file());
    let mut encoder = PlanEncoder::new(&mut out, settings)?;
    fill(&mut encoder)?;
    encoder.finish()?;

    out.finish().map_err(|source| PlanError::Io { operation: "write", path: path.to_owned(), source })?;
    Ok(file.commit().map_err(PlanError::from)?)
}
