//! What can be wrong with a GGUF file, said so that the reader of the message knows where, why, and what to do.
//!
//! Text that comes from the file (keys, tensor names, strings) is stored escaped and cut, so that printing an error
//! can neither send control sequences to a terminal nor fill a log.

use thiserror::Error;

/// The reason for refusing a file.
///
/// `offset` is the byte position in the file (in its part, if the file is split) of the field that is wrong. [`GgufError::kind`] gives a short word
/// that does not change with the wording of the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum GgufError {
    #[error("not a GGUF file: it starts with \"{found}\" instead of \"GGUF\"; {hint}")]
    BadMagic { found: String, hint: &'static str },
    #[error("GGUF version {version} at byte 4 is not supported (1 to 3 are); {hint}")]
    BadVersion { version: u32, hint: &'static str },
    #[error(
        "this is a big-endian GGUF file (the version field at byte 4 is {version:#010x}); \
         only little-endian files are read: convert it again on, or for, a little-endian machine"
    )]
    WrongEndian { version: u32 },
    #[error(
        "the file ends too early: {what} at byte {offset} needs {needed} bytes, {available} are left; \
         download or copy it again"
    )]
    Truncated { offset: u64, what: String, needed: u64, available: u64 },
    #[error("{what} at byte {offset} is {count}, but at most {limit} {reason}; the file is damaged")]
    CountTooLarge { offset: u64, what: String, count: u64, limit: u64, reason: &'static str },
    #[error("{what} at byte {offset} is {length} bytes long, the limit is {limit}; the file is damaged")]
    StringTooLong { offset: u64, what: String, length: u64, limit: u64 },
    #[error("{what} is not UTF-8 (first bad byte at {offset}); the file is damaged or was written wrongly")]
    BadUtf8 { offset: u64, what: String },
    #[error("{what} at byte {offset} is {id}, and value types are 0 to 12; the file is damaged")]
    BadValueType { offset: u64, what: String, id: u32 },
    #[error("{what} nests arrays more than {limit} deep (byte {offset}); no known model does that")]
    NestingTooDeep { offset: u64, what: String, limit: u32 },
    #[error("{what} at byte {offset} is the bool {byte}; a bool is 0 or 1, so the file is damaged")]
    BadBool { offset: u64, what: String, byte: u8 },
    #[error("the metadata key \"{key}\" at byte {offset} {why}; the file is damaged or was written wrongly")]
    BadKey { offset: u64, key: String, why: &'static str },
    #[error(
        "the metadata key \"{key}\" occurs a second time at byte {offset}; readers would disagree about its \
         value: write the file again with one of the two"
    )]
    DuplicateKey { offset: u64, key: String },
    #[error(
        "general.alignment at byte {offset} is {found}; it must be a u32, a power of two from 8 to 65536: \
         write the file again"
    )]
    BadAlignment { offset: u64, found: String },
    #[error("the tensor name \"{name}\" at byte {offset} {why}; the file is damaged or was written wrongly")]
    BadTensorName { offset: u64, name: String, why: &'static str },
    #[error("the tensor name \"{name}\" occurs a second time at byte {offset}; write the file again")]
    DuplicateTensor { offset: u64, name: String },
    #[error(
        "tensor \"{tensor}\" has {found} (byte {offset}); a tensor has 1 to 4 dimensions, none of them zero"
    )]
    BadDims { offset: u64, tensor: String, found: String },
    #[error("tensor \"{tensor}\" with the shape {dims} (byte {offset}) {why}; the file is damaged")]
    ShapeOverflow { offset: u64, tensor: String, dims: String, why: &'static str },
    #[error("tensor \"{tensor}\" has the type {id}{name} (byte {offset}), which is not supported; {remedy}")]
    UnknownTensorType { offset: u64, tensor: String, id: u32, name: String, remedy: &'static str },
    #[error(
        "tensor \"{tensor}\" has the type {id} (byte {offset}), which stands for several types, and {why}; the file \
         is damaged, or convert the model again to I2_S or TQ2_0"
    )]
    AmbiguousTensorType { offset: u64, tensor: String, id: u32, why: String },
    #[error("in part {part}: {source}")]
    InPart { part: usize, source: Box<GgufError> },
    #[error("{found}; {remedy}")]
    BadSplit { found: String, remedy: &'static str },
    #[error(
        "tensor \"{tensor}\" (byte {offset}) has rows of {row} elements, and {ty} stores blocks of {block}; \
         this model cannot be stored in this type"
    )]
    BadBlock { offset: u64, tensor: String, row: u64, ty: &'static str, block: u64 },
    #[error(
        "tensor \"{tensor}\" has its data at the relative offset {start} (byte {offset}), which is not a \
         multiple of the alignment {alignment}; the file was written wrongly"
    )]
    MisalignedOffset { offset: u64, tensor: String, start: u64, alignment: u64 },
    #[error(
        "tensor \"{tensor}\" (entry at byte {offset}) needs {size} bytes from the relative offset {start}, the \
         data section has {available}; the file is truncated or damaged: download or copy it again"
    )]
    OutOfRange { offset: u64, tensor: String, start: u64, size: u64, available: u64 },
    #[error(
        "tensors \"{first}\" and \"{second}\" share bytes from byte {offset} on; the file was written wrongly"
    )]
    Overlap { offset: u64, first: String, second: String },

    #[error("the architecture \"{found}\" is not supported (supported: {supported}){hint}")]
    UnsupportedArch { found: String, supported: String, hint: &'static str },
    #[error("the metadata key \"{key}\" is missing; {remedy}")]
    MissingKey { key: String, remedy: &'static str },
    #[error("the metadata key \"{key}\" (value at byte {offset}) is {found}, but must be {expected}")]
    WrongKeyType { offset: u64, key: String, found: String, expected: &'static str },
    #[error("the metadata key \"{key}\" is {value}, which cannot be used: {why}")]
    BadHyperparam { key: String, value: String, why: String },
    #[error(
        "the file has no tensors: it holds a vocabulary or metadata only, without weights; give the file of the model \
         itself"
    )]
    NoTensors,
    #[error("the tensor \"{tensor}\" is missing; the file is incomplete or has a different architecture")]
    MissingTensor { tensor: String },
    #[error(
        "tensor \"{tensor}\" (entry at byte {offset}) has the shape {found}, but the hyper-parameters require {expected}"
    )]
    WrongShape { offset: u64, tensor: String, found: String, expected: String },
    #[error("tensor \"{tensor}\" (entry at byte {offset}) is {found}, in this place {expected}; {remedy}")]
    WrongTensorType {
        offset: u64,
        tensor: String,
        found: &'static str,
        expected: &'static str,
        remedy: &'static str,
    },
    #[error(
        "tensor \"{tensor}\" (entry at byte {offset}) {why}; computing without it would give wrong results"
    )]
    UnsupportedTensor { offset: u64, tensor: String, why: &'static str },
    #[error("the tokenizer cannot be used: {key}: {why}")]
    BadTokenizer { key: &'static str, why: String },
    #[error(
        "tensor \"{tensor}\" holds {found} in element {element} (byte {offset}); the file is damaged or was \
         quantised wrongly: download it again or convert it again"
    )]
    BadWeights { offset: u64, tensor: String, element: u64, found: String },
}

impl GgufError {
    /// One stable word for the kind of fault, for tests and machine-readable output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadMagic { .. } => "BadMagic",
            Self::BadVersion { .. } => "BadVersion",
            Self::WrongEndian { .. } => "WrongEndian",
            Self::Truncated { .. } => "Truncated",
            Self::CountTooLarge { .. } => "CountTooLarge",
            Self::StringTooLong { .. } => "StringTooLong",
            Self::BadUtf8 { .. } => "BadUtf8",
            Self::BadValueType { .. } => "BadValueType",
            Self::NestingTooDeep { .. } => "NestingTooDeep",
            Self::BadBool { .. } => "BadBool",
            Self::BadKey { .. } => "BadKey",
            Self::DuplicateKey { .. } => "DuplicateKey",
            Self::BadAlignment { .. } => "BadAlignment",
            Self::BadTensorName { .. } => "BadTensorName",
            Self::DuplicateTensor { .. } => "DuplicateTensor",
            Self::BadDims { .. } => "BadDims",
            Self::ShapeOverflow { .. } => "ShapeOverflow",
            Self::UnknownTensorType { .. } => "UnknownTensorType",
            Self::AmbiguousTensorType { .. } => "AmbiguousTensorType",
            Self::InPart { source, .. } => source.kind(),
            Self::BadSplit { .. } => "BadSplit",
            Self::BadBlock { .. } => "BadBlock",
            Self::MisalignedOffset { .. } => "MisalignedOffset",
            Self::OutOfRange { .. } => "OutOfRange",
            Self::Overlap { .. } => "Overlap",
            Self::UnsupportedArch { .. } => "UnsupportedArch",
            Self::MissingKey { .. } => "MissingKey",
            Self::WrongKeyType { .. } => "WrongKeyType",
            Self::BadHyperparam { .. } => "BadHyperparam",
            Self::NoTensors => "NoTensors",
            Self::MissingTensor { .. } => "MissingTensor",
            Self::WrongShape { .. } => "WrongShape",
            Self::WrongTensorType { .. } => "WrongTensorType",
            Self::UnsupportedTensor { .. } => "UnsupportedTensor",
            Self::BadTokenizer { .. } => "BadTokenizer",
            Self::BadWeights { .. } => "BadWeights",
        }
    }

    /// Byte offset in the file of the field that is wrong, where there is one.
    pub fn offset(&self) -> Option<u64> {
        match *self {
            Self::BadMagic { .. } => Some(0),
            Self::BadVersion { .. } | Self::WrongEndian { .. } => Some(4),
            Self::Truncated { offset, .. }
            | Self::CountTooLarge { offset, .. }
            | Self::StringTooLong { offset, .. }
            | Self::BadUtf8 { offset, .. }
            | Self::BadValueType { offset, .. }
            | Self::NestingTooDeep { offset, .. }
            | Self::BadBool { offset, .. }
            | Self::BadKey { offset, .. }
            | Self::DuplicateKey { offset, .. }
            | Self::BadAlignment { offset, .. }
            | Self::BadTensorName { offset, .. }
            | Self::DuplicateTensor { offset, .. }
            | Self::BadDims { offset, .. }
            | Self::ShapeOverflow { offset, .. }
            | Self::UnknownTensorType { offset, .. }
            | Self::AmbiguousTensorType { offset, .. }
            | Self::BadBlock { offset, .. }
            | Self::MisalignedOffset { offset, .. }
            | Self::OutOfRange { offset, .. }
            | Self::Overlap { offset, .. }
            | Self::WrongKeyType { offset, .. }
            | Self::WrongShape { offset, .. }
            | Self::WrongTensorType { offset, .. }
            | Self::UnsupportedTensor { offset, .. }
            | Self::BadWeights { offset, .. } => Some(offset),
            Self::InPart { ref source, .. } => source.offset(),
            Self::BadSplit { .. }
            | Self::UnsupportedArch { .. }
            | Self::MissingKey { .. }
            | Self::BadHyperparam { .. }
            | Self::NoTensors
            | Self::MissingTensor { .. }
            | Self::BadTokenizer { .. } => None,
        }
    }
}

/// Characters of file text that an error shows.
const SHOWN_CHARS: usize = 80;

/// Text of the file as it may be printed: control and other invisible characters escaped, and cut to 80 characters.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_CHARS {
            out.push('…');
            break;
        }
        out.extend(c.escape_debug());
    }
    out
}

/// As [`printable`], for bytes that need not be UTF-8.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    let head = bytes.get(..SHOWN_CHARS * 4).unwrap_or(bytes);
    printable(&String::from_utf8_lossy(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_is_escaped_and_cut() {
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("Ġt"), "Ġt");
        let long = "x".repeat(1000);
        assert_eq!(printable(&long), format!("{}…", "x".repeat(80)));
        assert_eq!(printable_bytes(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn errors_stay_small() {
        assert!(size_of::<GgufError>() <= 128, "{}", size_of::<GgufError>());
    }
}
