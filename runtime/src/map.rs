//! Files in memory, and aligned anonymous memory.
//!
//! [`Mapping`] gives the bytes of a file either by mapping it (nothing is read until it is used, and the pages are
//! shared with other processes) or by reading it into memory. [`AlignedBuffer`] is zeroed memory of its own for
//! arenas and caches. This is the only file of the crate that maps memory.
//!
//! Invariants: only regular files are opened, a named pipe or device is refused without blocking, and the length
//! never changes after opening.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut, MmapOptions};
use rayon::prelude::*;

/// How the bytes of a file get into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MapMode {
    /// Map the file; pages are read when first used.
    #[default]
    Mapped,
    /// Map the file and read all its pages now, where the system can do that.
    Populated,
    /// Read the file into memory of our own, with several threads. Later changes of the file have no effect.
    Copied,
}

/// Why a file could not be brought into memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The system refused an operation.
    #[error("cannot {operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason (errno).
        source: io::Error,
    },
    /// Mapping failed though the file is readable.
    #[error("cannot map {path:?} into memory: {source}; read it into memory instead")]
    Map {
        /// The file.
        path: PathBuf,
        /// The system's reason (errno).
        source: io::Error,
    },
    /// Not a regular file.
    #[error("{path:?} is {kind}, not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file does not fit in the address space.
    #[error("{path:?} has {bytes} bytes, more than this machine can address")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file became shorter while it was read.
    #[error(
        "{path:?} was {expected} bytes long, but only {found} could be read; it changed meanwhile, try again"
    )]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Size when it was opened.
        expected: usize,
        /// Bytes read.
        found: usize,
    },
}

/// The bytes of a file, read only.
#[derive(Debug)]
pub struct Mapping {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(AlignedBuffer),
}

impl Mapping {
    /// Opens the regular file at `path`.
    ///
    /// While a mapped file is in use it must not be shortened: the system then ends the process on an access to the
    /// lost pages (SIGBUS). Writers that replace a file by renaming another one over it, as this crate does, are
    /// harmless. Where that cannot be relied on use [`MapMode::Copied`].
    pub fn open(path: &Path, mode: MapMode) -> Result<Self, MapError> {
        let io_error = |operation, source| MapError::Io { operation, path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true);
        // Without this, opening a named pipe waits for a writer.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
        );
        let file = options.open(path).map_err(|source| io_error("open", source))?;
        let metadata = file.metadata().map_err(|source| io_error("examine", source))?;
        if !metadata.is_file() {
            return Err(MapError::NotAFile { path: path.to_owned(), kind: kind_of(metadata.file_type()) });
        }
        let length = usize::try_from(metadata.len())
            .map_err(|_| MapError::TooLarge { path: path.to_owned(), bytes: metadata.len() })?;
        let bytes = if length == 0 || mode == MapMode::Copied {
            Bytes::Owned(read_all(&file, length, path)?)
        } else {
            Bytes::Mapped(map_file(&file, length, mode, path)?)
        };
        Ok(Self { bytes })
    }

    /// The bytes of the file. Their address is a multiple of 64.
    pub fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(buffer) => buffer.as_slice(),
        }
    }

    /// Whether the bytes are those of the file itself and not a copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File, length: usize, mode: MapMode, path: &Path) -> Result<Mmap, MapError> {
    let mut options = MmapOptions::new();
    options.len(length);
    if mode == MapMode::Populated {
        options.populate();
    }
    // SAFETY: the mapping is private and read only, `file` is a regular file of at least `length` bytes, and the
    // mapping keeps it alive. What cannot be proved is that no other process changes the file while it is mapped:
    // - shortening it makes accesses beyond its new end fault (SIGBUS ends the process, no wrong value is read);
    // - writing to it in place changes bytes under a `&[u8]`. All readers of mappings treat the bytes as untrusted,
    //   check every offset that they take from them once, keep the checked value and not the bytes, and never take
    //   a second reading of the same bytes for the first; so a change can make numbers wrong but not break memory.
    // Plans are replaced by rename and never written in place. `MapMode::Copied` has neither risk.
    let map = unsafe { options.map(file) };
    let map = map.map_err(|source| MapError::Map { path: path.to_owned(), source })?;
    // Advice: what has to be read from the disk comes in huge pages, where the file system can keep them.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// Bytes that one thread reads at a time: some huge pages.
const READ_AT_ONCE: usize = 8 << 20;

fn read_all(file: &File, length: usize, path: &Path) -> Result<AlignedBuffer, MapError> {
    let io_error = |source| MapError::Io { operation: "read", path: path.to_owned(), source };
    let mut buffer = AlignedBuffer::zeroed(length).map_err(io_error)?;
    let parts = buffer.as_mut_slice().par_chunks_mut(READ_AT_ONCE).enumerate();
    let read = parts.map(|(i, part)| read_part(file, part, i * READ_AT_ONCE));
    // The first part that ends early says how long the file is now.
    let read: io::Result<Vec<Option<usize>>> = bitnetc_threads::install(|| read.collect());
    let short = read.map_err(io_error)?.into_iter().flatten().min();
    match short {
        Some(found) => Err(MapError::Shrunk { path: path.to_owned(), expected: length, found }),
        None => Ok(buffer),
    }
}

/// Fills `part` with the bytes of the file from `start` on; returns where the file ends if that is earlier.
fn read_part(file: &File, part: &mut [u8], start: usize) -> io::Result<Option<usize>> {
    let mut found = 0;
    while found < part.len() {
        match read_at(file, &mut part[found..], (start + found) as u64) {
            Ok(0) => return Ok(Some(start + found)),
            Ok(count) => found += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

fn kind_of(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_dir() {
        return "a directory";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a named pipe";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
        if file_type.is_socket() {
            return "a socket";
        }
    }
    "something else"
}

/// Zeroed memory of its own, aligned to at least 64 bytes and not moved while it lives.
///
/// Pages take up memory only when first written. Large buffers ask for huge pages, which saves most misses of the
/// address translation when weights or caches are streamed.
#[derive(Debug)]
pub struct AlignedBuffer {
    map: MmapMut,
    address: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Alignment that every buffer has, in bytes.
    pub const ALIGNMENT: usize = 64;
    /// Buffers from this size on ask for huge pages.
    #[cfg(target_os = "linux")]
    const HUGE_PAGE: usize = 2 << 20;

    /// A buffer of `len` bytes, all 0.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(len.max(1))?;
        let address = map.as_mut_ptr().expose_provenance();
        #[cfg(target_os = "linux")]
        if len >= Self::HUGE_PAGE {
            // Advice: a kernel without huge pages refuses it and everything works as well, only slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, address, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[..self.len]
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }

    /// Address of the first byte, a multiple of [`AlignedBuffer::ALIGNMENT`].
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// Address of the first byte, for writing; a multiple of [`AlignedBuffer::ALIGNMENT`].
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Address of the first byte for code that Rust does not see, such as generated kernels, to read and write. It was
    /// taken, with its provenance exposed, when the memory was made, and stays the same for the buffer's life.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// The bytes as f32, as many as are whole.
    pub fn as_f32(&self) -> &[f32] {
        let bytes = self.as_slice();
        // SAFETY: the bytes are initialised (zeroed when mapped), aligned to pages, and every bit pattern is an f32; the
        // slice covers at most the bytes and borrows them.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), bytes.len() / 4) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn every_mode_gives_the_bytes() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        let file = file_with(&bytes);
        for mode in [MapMode::Mapped, MapMode::Populated, MapMode::Copied] {
            let mapping = Mapping::open(file.path(), mode).unwrap();
            assert_eq!(mapping.as_slice(), bytes);
            assert_eq!(mapping.is_mapped(), mode != MapMode::Copied);
            assert_eq!(mapping.as_slice().as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    fn copies_are_whole_at_every_border_of_parts() {
        for length in [READ_AT_ONCE - 1, READ_AT_ONCE, 2 * READ_AT_ONCE + 5] {
            let bytes: Vec<u8> = (0..length as u32).map(|i| (i ^ (i >> 7) ^ (i >> 17)) as u8).collect();
            let file = file_with(&bytes);
            assert!(Mapping::open(file.path(), MapMode::Copied).unwrap().as_slice() == bytes);
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_named() {
        let file = file_with(&[7; 100]);
        let opened = File::open(file.path()).unwrap();
        for length in [101, READ_AT_ONCE + 1, 3 * READ_AT_ONCE] {
            match read_all(&opened, length, file.path()) {
                Err(MapError::Shrunk { expected, found, .. }) => assert_eq!((expected, found), (length, 100)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_copy_does_not_follow_the_file() {
        let file = file_with(b"before");
        let mapping = Mapping::open(file.path(), MapMode::Copied).unwrap();
        std::fs::write(file.path(), b"after!").unwrap();
        assert_eq!(mapping.as_slice(), b"before");
    }

    #[test]
    fn empty_files_are_empty() {
        let file = file_with(b"");
        for mode in [MapMode::Mapped, MapMode::Copied] {
            assert_eq!(Mapping::open(file.path(), mode).unwrap().as_slice(), b"");
        }
    }

    #[test]
    fn missing_files_are_named() {
        let error = Mapping::open(Path::new("/no/such/model.gguf"), MapMode::Mapped).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/no/such/model.gguf") && text.contains("os error 2"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn other_kinds_of_files_are_refused_at_once() {
        let kind = |path: &Path| match Mapping::open(path, MapMode::Mapped) {
            Err(MapError::NotAFile { kind, .. }) => kind,
            other => panic!("{other:?}"),
        };
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kind(directory.path()), "a directory");
        assert_eq!(kind(Path::new("/dev/zero")), "a device");
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(kind(&pipe), "a named pipe");
    }

    #[test]
    fn buffers_are_zeroed_aligned_and_writable() {
        for len in [0, 1, 63, 4096, 5 << 20] {
            let mut buffer = AlignedBuffer::zeroed(len).unwrap();
            assert_eq!((buffer.len(), buffer.is_empty()), (len, len == 0));
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            assert_eq!(buffer.as_ptr().addr() % AlignedBuffer::ALIGNMENT, 0);
            buffer.as_mut_slice().fill(7);
            assert_eq!(buffer.as_slice().iter().filter(|&&byte| byte == 7).count(), len);
            assert_eq!(buffer.as_mut_ptr().cast_const(), buffer.as_ptr());
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(AlignedBuffer::zeroed(usize::MAX).is_err());
    }
}
