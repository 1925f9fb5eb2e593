//! Numbers and fixed-size records of the plan format, and the one function that checks ranges.

use std::fmt;
use std::ops::Range;

use super::PlanError;

/// The first bytes of every plan file.
pub const MAGIC: [u8; 8] = *b"BNPLAN\0\x01";
pub(super) const END_MAGIC: [u8; 8] = *b"BNPLEND\x01";
pub(super) const VERSION: u32 = 2;
/// Alignment of all parts of the file and of the weights within their section.
pub(super) const ALIGN: u64 = 64;
/// Size of prelude, trailer and one row of the table.
pub(super) const RECORD: usize = 64;

/// Largest sizes, checked before anything is allocated.
pub(super) mod limit {
    pub(in super::super) const SETTINGS_BYTES: u64 = 64 << 10;
    pub(in super::super) const SECTIONS: u64 = 16;
    pub(in super::super) const MODULE_BYTES: u64 = 256 << 20;
    pub(in super::super) const WEIGHTS_BYTES: u64 = 1 << 44;
    pub(in super::super) const WEIGHT_INDEX_BYTES: u64 = 64 << 20;
    pub(in super::super) const WEIGHTS: u64 = 1 << 20;
    pub(in super::super) const TOKENIZER_BYTES: u64 = 1 << 30;
    pub(in super::super) const CHAT_TEMPLATE_BYTES: u64 = 1 << 20;
    pub(in super::super) const META_BYTES: u64 = 16 << 20;
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// The planned module as IR text.
    Module,
    /// The packed weights.
    Weights,
    /// Names and places of the packed weights.
    WeightIndex,
    /// The tokenizer.
    Tokenizer,
    /// The chat template.
    ChatTemplate,
    /// The description of the model and of how the plan was made.
    Meta,
}

impl SectionKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Module, Self::Weights, Self::WeightIndex, Self::Tokenizer, Self::ChatTemplate, Self::Meta];

    pub(super) fn id(self) -> u32 {
        match self {
            Self::Module => 1,
            Self::Weights => 2,
            Self::WeightIndex => 3,
            Self::Tokenizer => 4,
            Self::ChatTemplate => 5,
            Self::Meta => 6,
        }
    }

    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    pub(super) fn max_bytes(self) -> u64 {
        match self {
            Self::Module => limit::MODULE_BYTES,
            Self::Weights => limit::WEIGHTS_BYTES,
            Self::WeightIndex => limit::WEIGHT_INDEX_BYTES,
            Self::Tokenizer => limit::TOKENIZER_BYTES,
            Self::ChatTemplate => limit::CHAT_TEMPLATE_BYTES,
            Self::Meta => limit::META_BYTES,
        }
    }

    pub(super) fn is_required(self) -> bool {
        !matches!(self, Self::Tokenizer | Self::ChatTemplate)
    }

    /// What messages call the section.
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Weights => "weights",
            Self::WeightIndex => "index of the weights",
            Self::Tokenizer => "tokenizer",
            Self::ChatTemplate => "chat template",
            Self::Meta => "description",
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The range of `length` bytes from `offset`, if it lies within `room` bytes. Everything that a plan says about
/// places goes through here.
pub(super) fn range(
    what: &'static str,
    offset: u64,
    length: u64,
    room: usize,
) -> Result<Range<usize>, PlanError> {
    let error = || PlanError::OutOfBounds { what, offset, length, room: room as u64 };
    let start = usize::try_from(offset).map_err(|_| error())?;
    let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length)).ok_or_else(error)?;
    if end > room {
        return Err(error());
    }
    Ok(start..end)
}

/// Fails if `value` is above `limit`.
pub(super) fn check_limit(what: &'static str, value: u64, limit: u64) -> Result<(), PlanError> {
    if value > limit { Err(PlanError::LimitExceeded { what, value, limit }) } else { Ok(()) }
}

/// First and fixed part of the file.
pub(super) struct Prelude {
    pub(super) settings_length: u32,
}

impl Prelude {
    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&MAGIC);
        record[8..12].copy_from_slice(&VERSION.to_le_bytes());
        record[12..16].copy_from_slice(&self.settings_length.to_le_bytes());
        record
    }

    /// Reads the start of a file of any length.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        if bytes.len() >= MAGIC.len() && !bytes.starts_with(&MAGIC)
            || !MAGIC.starts_with(&bytes[..bytes.len().min(8)])
        {
            return Err(PlanError::NotAPlan);
        }
        let record = record(bytes).ok_or_else(|| too_short(bytes.len()))?;
        let version = u32_at(record, 8);
        if version != VERSION {
            return Err(PlanError::UnsupportedVersion { found: version, supported: VERSION });
        }
        let settings_length = u32_at(record, 12);
        check_limit("the length of the settings", settings_length.into(), limit::SETTINGS_BYTES)?;
        if record[16..].iter().any(|&byte| byte != 0) {
            return Err(PlanError::Damaged {
                what: "the first 64 bytes are not as they are written".to_owned(),
            });
        }
        Ok(Self { settings_length })
    }
}

pub(super) fn too_short(length: usize) -> PlanError {
    PlanError::Incomplete { what: format!("it has only {length} bytes") }
}

/// A row of the table of sections.
#[derive(Debug, Clone)]
pub(super) struct TableRow {
    pub(super) kind: SectionKind,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) hash: [u8; 32],
}

impl TableRow {
    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&self.kind.id().to_le_bytes());
        record[8..16].copy_from_slice(&self.offset.to_le_bytes());
        record[16..24].copy_from_slice(&self.length.to_le_bytes());
        record[32..].copy_from_slice(&self.hash);
        record
    }

    pub(super) fn decode(record: &[u8; RECORD]) -> Result<Self, PlanError> {
        let id = u32_at(record, 0);
        let damaged = |what| PlanError::Damaged { what };
        let kind =
            SectionKind::from_id(id).ok_or_else(|| damaged(format!("section kind {id} is unknown")))?;
        if record[4..8].iter().chain(&record[24..32]).any(|&byte| byte != 0) {
            return Err(damaged(format!("the table row of the {kind} is not as it is written")));
        }
        let length = u64_at(record, 16);
        check_limit("the length of a section", length, kind.max_bytes())?;
        Ok(Self { kind, offset: u64_at(record, 8), length, hash: hash_at_end(record) })
    }
}

/// Last and fixed part of the file.
pub(super) struct Trailer {
    pub(super) table_offset: u64,
    pub(super) sections: u32,
    pub(super) file_length: u64,
    pub(super) hash: [u8; 32],
}

impl Trailer {
    /// Bytes of the trailer that its own hash covers.
    pub(super) const HASHED: usize = 32;

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&END_MAGIC);
        record[8..16].copy_from_slice(&self.table_offset.to_le_bytes());
        record[16..20].copy_from_slice(&self.sections.to_le_bytes());
        record[24..32].copy_from_slice(&self.file_length.to_le_bytes());
        record[32..].copy_from_slice(&self.hash);
        record
    }

    /// Reads the end of a file.
    pub(super) fn decode(file: &[u8]) -> Result<Self, PlanError> {
        let record = file.last_chunk::<RECORD>().ok_or_else(|| too_short(file.len()))?;
        if !record.starts_with(&END_MAGIC) {
            return Err(PlanError::Incomplete { what: "its trailer is missing".to_owned() });
        }
        let trailer = Self {
            table_offset: u64_at(record, 8),
            sections: u32_at(record, 16),
            file_length: u64_at(record, 24),
            hash: hash_at_end(record),
        };
        if trailer.file_length != file.len() as u64 {
            return Err(PlanError::Incomplete {
                what: format!("it has {} bytes and was written with {}", file.len(), trailer.file_length),
            });
        }
        check_limit("the number of sections", trailer.sections.into(), limit::SECTIONS)?;
        Ok(trailer)
    }
}

/// The first record of `bytes`.
pub(super) fn record(bytes: &[u8]) -> Option<&[u8; RECORD]> {
    bytes.first_chunk::<RECORD>()
}

fn u32_at(record: &[u8; RECORD], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(record: &[u8; RECORD], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn hash_at_end(record: &[u8; RECORD]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(&record[32..]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_without_overflow() {
        assert_eq!(range("x", 3, 4, 7).unwrap(), 3..7);
        assert_eq!(range("x", 7, 0, 7).unwrap(), 7..7);
        for (offset, length) in [(3, 5), (8, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(matches!(range("x", offset, length, 7), Err(PlanError::OutOfBounds { .. })));
        }
    }

    #[test]
    fn kinds_have_distinct_ids() {
        for kind in SectionKind::ALL {
            assert_eq!(SectionKind::from_id(kind.id()), Some(kind));
        }
        assert_eq!(SectionKind::from_id(0), None);
        assert_eq!(SectionKind::from_id(7), None);
    }
}
