//! Beginnings of sequences outside of their caches: copied into memory of just their size, and kept in files.
//!
//! A [`Prefix`] has the tokens of a sequence up to a position and what the model has computed of them: of each cache, and in
//! it of each head, the bytes of these positions, in the order of the caches (whole blocks of 16 positions in the interleaved
//! K cache), and in its place each recurrent state after the last of them. So it does not depend on the context of the sequence that it came from, and fits every sequence of the same model
//! with caches of the same types. The bits are those that were computed.
//!
//! Files: `HEADER` bytes (magic and version, [`PrefixFormat::id`], tokens, whether there is a tag, bytes of the caches, the tag),
//! the tokens as u32, the caches, and the BLAKE3 hash of all of these; all numbers are little-endian. A file is written whole or not
//! at all. Reading trusts no number: what the header says has to follow from the format that is expected and from the length of
//! the file, before memory is taken for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bitnetc_ir::{Layout, Type, storage};

use crate::machine::vec_with_room;
use crate::whole_file::{WholeFile, WholeFileError};

/// Positions of a block of the interleaved K cache.
const BLOCK: u64 = 16;

/// What the bytes of a prefix mean: of which model, and in caches of which types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixFormat {
    id: [u8; 32],
    /// Bytes of one position in the caches whose positions stand one by one.
    row_bytes: u64,
    /// Bytes of a block of positions in the others.
    block_bytes: u64,
    /// Bytes of recurrent states, whatever the number of positions.
    state_bytes: u64,
}

impl PrefixFormat {
    /// A format of so many bytes a position, and a block of 16 positions, under an id of its own.
    pub fn new(id: [u8; 32], row_bytes: u64, block_bytes: u64) -> Self {
        Self { id, row_bytes, block_bytes, state_bytes: 0 }
    }

    /// The format of caches of these types, of the model that `source` identifies.
    pub(crate) fn of(source: &[u8; 32], types: &[Type]) -> Self {
        let mut id = blake3::Hasher::new();
        id.update(source);
        let (mut row_bytes, mut block_bytes, mut state_bytes) = (0, 0, 0);
        for ty in types {
            id.update(ty.to_string().as_bytes()).update(b";");
            state_bytes += storage::state_bytes(ty).unwrap_or(0);
            let Some(dims) = ty.as_cache() else { continue };
            let element = u64::from(ty.dtype.element_bytes().unwrap_or(0));
            let position = u64::from(dims.kv_heads) * u64::from(dims.head_dim) * element;
            match ty.layout {
                Layout::Keys16 => block_bytes += BLOCK * position,
                _ => row_bytes += position,
            }
        }
        Self { id: *id.finalize().as_bytes(), row_bytes, block_bytes, state_bytes }
    }

    /// What identifies it: the model and the types of its caches.
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Bytes of the caches of so many tokens.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let states = if tokens == 0 { 0 } else { self.state_bytes };
        let rows = tokens.saturating_mul(self.row_bytes).saturating_add(states);
        rows.saturating_add(tokens.div_ceil(BLOCK).saturating_mul(self.block_bytes))
    }
}

/// The beginning of a sequence. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    format: PrefixFormat,
    tokens: Arc<[u32]>,
    bytes: Vec<u8>,
}

impl Prefix {
    /// These tokens with these caches; `None` if there are not as many bytes as `format` has for them.
    pub fn new(format: PrefixFormat, tokens: &[u32], bytes: Vec<u8>) -> Option<Self> {
        let fits = bytes.len() as u64 == format.bytes(tokens.len() as u64);
        fits.then(|| Self { format, tokens: tokens.into(), bytes })
    }

    /// Its format.
    pub fn format(&self) -> &PrefixFormat {
        &self.format
    }

    /// Its tokens.
    pub fn tokens(&self) -> &Arc<[u32]> {
        &self.tokens
    }

    /// Its caches.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that it takes, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64 + 4 * self.tokens.len() as u64
    }
}

/// What the writer of a file adds to a prefix, for the reader.
pub type Tag = [u8; 32];

/// Why a file of a prefix could not be written or is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixFileError {
    /// It is something else.
    #[error("the file is not a saved sequence")]
    NotOne,
    /// Another version wrote it.
    #[error(
        "the saved sequence has format {found}, and this version reads format {}: compute it again",
        VERSION
    )]
    Version {
        /// Its version.
        found: u8,
    },
    /// It was saved of another model, or with KV caches of another type.
    #[error("the saved sequence is of another model or has a KV cache of another type: compute it again")]
    Foreign,
    /// There is no room for its tokens.
    #[error("the saved sequence has {tokens} tokens but the context holds {context}")]
    TooLong {
        /// Its tokens.
        tokens: u32,
        /// Room.
        context: u32,
    },
    /// It was cut short, or changed.
    #[error("the saved sequence is damaged: {what}; compute it again")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// Memory for it could not be had.
    #[error("cannot allocate {bytes} bytes for the saved sequence")]
    Memory {
        /// How much.
        bytes: u64,
    },
    /// The system refused to read it.
    #[error("cannot read the saved sequence: {0}")]
    Read(#[source] io::Error),
    /// The system refused to write it.
    #[error("cannot write the saved sequence: {0}")]
    Write(#[source] io::Error),
    /// It could not be put in its place.
    #[error(transparent)]
    File(#[from] WholeFileError),
}

const MAGIC: &[u8; 7] = b"BNPREFX";
const VERSION: u8 = 1;
const HEADER: usize = 96;
const HASH: usize = 32;

fn header(prefix: &Prefix, tag: Option<&Tag>) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..7].copy_from_slice(MAGIC);
    header[7] = VERSION;
    header[8..40].copy_from_slice(&prefix.format.id);
    header[40..44].copy_from_slice(&(prefix.tokens.len() as u32).to_le_bytes());
    header[44..48].copy_from_slice(&u32::from(tag.is_some()).to_le_bytes());
    header[48..56].copy_from_slice(&(prefix.bytes.len() as u64).to_le_bytes());
    if let Some(tag) = tag {
        header[64..].copy_from_slice(tag);
    }
    header
}

/// Writes a prefix to `path`, whole or not at all, and returns the length of the file, which only its owner can read.
///
/// # Errors
/// The system refused, or there is something else than a regular file at the path.
pub fn write(path: &Path, prefix: &Prefix, tag: Option<&Tag>) -> Result<u64, PrefixFileError> {
    let file = WholeFile::create(path)?;
    // It holds what users wrote.
    #[cfg(unix)]
    file.file()
        .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(PrefixFileError::Write)?;
    write_to(file.file(), prefix, tag).map_err(PrefixFileError::Write)?;
    Ok(file.commit()?)
}

/// Writes the contents of a file with a prefix.
///
/// # Errors
/// What `out` refuses.
pub fn write_to(mut out: impl Write, prefix: &Prefix, tag: Option<&Tag>) -> io::Result<()> {
    let tokens: Vec<u8> = prefix.tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut hash = blake3::Hasher::new();
    for part in [&header(prefix, tag)[..], &tokens, &prefix.bytes] {
        hash.update(part);
        out.write_all(part)?;
    }
    out.write_all(hash.finalize().as_bytes())
}

/// Reads a prefix of at most `context` tokens, all of them below `vocab`, and its tag.
///
/// # Errors
/// What [`PrefixFileError`] says.
pub fn read(
    path: &Path,
    format: &PrefixFormat,
    context: u32,
    vocab: u32,
) -> Result<(Prefix, Option<Tag>), PrefixFileError> {
    let file = open(path).map_err(PrefixFileError::Read)?;
    let metadata = file.metadata().map_err(PrefixFileError::Read)?;
    if !metadata.is_file() {
        return Err(PrefixFileError::NotOne);
    }
    read_from(file, metadata.len(), format, context, vocab)
}

/// Opens a file for reading. What is no regular file, a pipe without a writer above all, is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options.read(true).open(path)
}

/// As [`read`], from a source of `length` bytes.
///
/// # Errors
/// As [`read`].
pub fn read_from(
    mut source: impl Read,
    length: u64,
    format: &PrefixFormat,
    context: u32,
    vocab: u32,
) -> Result<(Prefix, Option<Tag>), PrefixFileError> {
    let mut header = [0; HEADER];
    let known = header.len().min(usize::try_from(length).unwrap_or(usize::MAX));
    source.read_exact(&mut header[..known]).map_err(PrefixFileError::Read)?;
    if !header.starts_with(MAGIC) {
        return Err(PrefixFileError::NotOne);
    }
    if header[7] != VERSION {
        return Err(PrefixFileError::Version { found: header[7] });
    }
    if known < HEADER {
        return Err(PrefixFileError::Damaged { what: "it ends within its header" });
    }
    if header[8..40] != format.id {
        return Err(PrefixFileError::Foreign);
    }
    let tokens = u32::from_le_bytes(field(&header, 40));
    let tagged = u32::from_le_bytes(field(&header, 44));
    let bytes = u64::from_le_bytes(field(&header, 48));
    if tagged > 1 || header[56..64] != [0; 8] || tagged == 0 && header[64..] != [0; 32] {
        return Err(PrefixFileError::Damaged { what: "its header has unknown marks" });
    }
    if tokens > context {
        return Err(PrefixFileError::TooLong { tokens, context });
    }
    if bytes != format.bytes(u64::from(tokens)) {
        return Err(PrefixFileError::Damaged { what: "its caches have another size than its tokens need" });
    }
    let expected = bytes.checked_add(4 * u64::from(tokens) + (HEADER + HASH) as u64);
    if expected != Some(length) {
        return Err(PrefixFileError::Damaged { what: "it is shorter or longer than its header says" });
    }
    let ids = read_part(&mut source, 4 * u64::from(tokens))?;
    let caches = read_part(&mut source, bytes)?;
    let hash = read_part(&mut source, HASH as u64)?;
    let mut found = blake3::Hasher::new();
    found.update(&header).update(&ids).update(&caches);
    if found.finalize().as_bytes()[..] != hash[..] {
        return Err(PrefixFileError::Damaged { what: "its contents do not match their hash" });
    }
    let (words, _) = ids.as_chunks::<4>();
    let ids: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
    if ids.iter().any(|&id| id >= vocab) {
        return Err(PrefixFileError::Damaged { what: "it has tokens that are not in the vocabulary" });
    }
    let tag = (tagged == 1).then(|| field(&header, 64));
    let prefix = Prefix::new(*format, &ids, caches);
    Ok((prefix.ok_or(PrefixFileError::Damaged { what: "its caches are incomplete" })?, tag))
}

/// The bytes of the header from `at` on; the header is longer than all places that are asked for.
fn field<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

/// The next `bytes` bytes, as many as were found to be there.
fn read_part(source: &mut impl Read, bytes: u64) -> Result<Vec<u8>, PrefixFileError> {
    let room = usize::try_from(bytes).ok().and_then(|n| vec_with_room("saved sequence", n).ok());
    let mut part = room.ok_or(PrefixFileError::Memory { bytes })?;
    source.take(bytes).read_to_end(&mut part).map_err(PrefixFileError::Read)?;
    match part.len() as u64 == bytes {
        true => Ok(part),
        false => Err(PrefixFileError::Damaged { what: "it became shorter while it was read" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: fn() -> PrefixFormat = || PrefixFormat::new([9; 32], 6, 32);

    fn prefix() -> Prefix {
        let tokens: Vec<u32> = (0..37).collect();
        let bytes = FORMAT().bytes(37);
        assert_eq!(bytes, 37 * 6 + 3 * 32);
        Prefix::new(FORMAT(), &tokens, (0..bytes).map(|n| n as u8).collect()).unwrap()
    }

    fn read_bytes(bytes: &[u8]) -> Result<(Prefix, Option<Tag>), PrefixFileError> {
        read_from(bytes, bytes.len() as u64, &FORMAT(), 40, 37)
    }

    #[test]
    fn what_is_written_is_read_and_whatever_is_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        for tag in [None, Some([3; 32])] {
            let length = write(&path, &prefix(), tag.as_ref()).unwrap();
            let (found, found_tag) = read(&path, &FORMAT(), 40, 37).unwrap();
            assert_eq!((&found, found_tag), (&prefix(), tag));
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, length);
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                assert!(read_bytes(&bad).is_err(), "byte {at}");
                assert!(read_bytes(&bytes[..at]).is_err(), "cut at {at}");
            }
            assert!(matches!(read_bytes(&[&bytes[..], &[0]].concat()), Err(PrefixFileError::Damaged { .. })));
            let other = PrefixFormat::new([8; 32], 6, 32);
            assert!(matches!(read(&path, &other, 40, 37), Err(PrefixFileError::Foreign)));
            let short = read(&path, &FORMAT(), 36, 37);
            assert!(matches!(short, Err(PrefixFileError::TooLong { tokens: 37, context: 36 })));
            assert!(matches!(read(&path, &FORMAT(), 40, 36), Err(PrefixFileError::Damaged { .. })));
        }
        assert!(matches!(read(folder.path(), &FORMAT(), 40, 37), Err(PrefixFileError::NotOne)));
        assert!(matches!(read_bytes(b"GGUF"), Err(PrefixFileError::NotOne)));
    }

    #[test]
    fn a_number_in_a_header_takes_no_memory() {
        // As many tokens as a context of four billion would hold, in a file of a few bytes.
        let huge = PrefixFormat::new([9; 32], 1 << 20, 0);
        let mut bytes = header(&prefix(), None).to_vec();
        bytes[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[48..56].copy_from_slice(&huge.bytes(u64::from(u32::MAX)).to_le_bytes());
        let refused = read_from(&bytes[..], bytes.len() as u64, &huge, u32::MAX, 37);
        assert!(matches!(refused, Err(PrefixFileError::Damaged { .. })), "{refused:?}");
    }

    #[test]
    fn a_prefix_has_the_bytes_of_its_tokens() {
        assert!(Prefix::new(FORMAT(), &[1, 2], vec![0; 44]).is_some());
        assert!(Prefix::new(FORMAT(), &[1, 2], vec![0; 45]).is_none());
        assert_eq!(prefix().size(), 37 * 6 + 3 * 32 + 37 * 4);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(read(&path, &FORMAT(), 100, 100), Err(PrefixFileError::NotOne)));
    }
}
