//! Files in memory, and aligned anonymous memory.
//!
//! [`Mapping`] gives the bytes of a file either by mapping it (nothing is read until it is used, and the pages are
//! shared with other processes) or by reading it into memory. [`AlignedBuffer`] is zeroed memory of its own for
//! arenas and caches. This is the only file of the crate that maps memory.
//!
//! A mapped file that becomes shorter leaves pages without contents, and an access to one raises SIGBUS, which ends the
//! process. A program that calls [`survive_truncation`] gets pages of zeros in their place, and [`Mapping::check`] says so.
//! Handling a signal is a decision of the whole program, so a library's user makes it.
//!
//! Invariants: only regular files are opened, a named pipe or device is refused without blocking, and the length
//! never changes after opening.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    #[error("cannot map {path:?} into memory: {source}")]
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
    /// The file became shorter, or the disk failed, while the file was mapped.
    #[error("{path:?} was truncated, or became unreadable, while it was in use; discard all results")]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The file became shorter while it was read.
    #[error(
        "{path:?} was {expected} bytes long, but only {found} could be read: it changed while it was being read, try again"
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
    path: PathBuf,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Watched),
    Owned(AlignedBuffer),
}

/// A mapping that the handler of [`survive_truncation`] knows of.
#[derive(Debug)]
struct Watched {
    map: Mmap,
    /// `None` where there are more mappings than places.
    place: Option<&'static Place>,
}

impl Watched {
    fn new(map: Mmap) -> Self {
        let start = map.as_ptr().addr();
        let place = Place::take(start, start + map.len());
        Self { map, place }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The mapping itself is dropped after this.
        if let Some(place) = self.place {
            place.end.store(0, Ordering::Release);
        }
    }
}

/// Where a mapping lies, for the handler: it may neither wait nor allocate.
#[derive(Debug)]
struct Place {
    start: AtomicUsize,
    /// 0: nothing lies here.
    end: AtomicUsize,
    /// Whether pages of it were lost.
    lost: AtomicBool,
}

/// Parts of split models, and more.
static PLACES: [Place; 2048] = [const { Place::new() }; 2048];
/// Held while a place is taken.
static TAKING: Mutex<()> = Mutex::new(());
/// Whether pages of any mapping were lost.
static ANY_LOST: AtomicBool = AtomicBool::new(false);

impl Place {
    const fn new() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), lost: AtomicBool::new(false) }
    }

    fn take(start: usize, end: usize) -> Option<&'static Self> {
        let _taking = TAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let place = PLACES.iter().find(|place| place.end.load(Ordering::Acquire) == 0)?;
        // In this order, by which the handler tells a place that is being taken from one that is.
        place.start.store(start, Ordering::Release);
        place.lost.store(false, Ordering::Relaxed);
        place.end.store(end, Ordering::Release);
        Some(place)
    }
}

/// Whether a mapped file has lost pages since [`survive_truncation`] was called, in this process. [`Mapping::check`] tells of
/// one file.
pub fn any_lost() -> bool {
    ANY_LOST.load(Ordering::Acquire)
}

impl Mapping {
    /// Opens the regular file at `path`.
    ///
    /// While a mapped file is in use it must not be shortened: the system then ends the process on an access to the
    /// lost pages (SIGBUS), unless the program has called [`survive_truncation`]. Writers that replace a file by renaming
    /// another one over it, as this crate does, are harmless. Where that cannot be relied on use [`MapMode::Copied`].
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
            Bytes::Mapped(Watched::new(map_file(&file, length, mode, path)?))
        };
        Ok(Self { bytes, path: path.to_owned() })
    }

    /// The bytes of the file. Their address is a multiple of 64.
    pub fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(watched) => &watched.map,
            Bytes::Owned(buffer) => buffer.as_slice(),
        }
    }

    /// Whether the bytes are those of the file itself and not a copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Whether no bytes have been lost: where [`survive_truncation`] is in force, lost ones read as zeros.
    pub fn is_whole(&self) -> bool {
        match &self.bytes {
            Bytes::Mapped(Watched { place: Some(place), .. }) => !place.lost.load(Ordering::Acquire),
            _ => true,
        }
    }

    /// Fails if bytes have been lost. The reader of a mapping asks once more after the last byte.
    ///
    /// # Errors
    /// [`MapError::Lost`].
    pub fn check(&self) -> Result<(), MapError> {
        match self.is_whole() {
            true => Ok(()),
            false => Err(MapError::Lost { path: self.path.clone() }),
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// Handles SIGBUS from now on: an access to a page of a [`Mapping`] that its file has lost finds zeros there and in what follows,
/// and [`Mapping::check`] fails. What else raises SIGBUS goes to the handler that there was before. Calling it again changes
/// nothing; where there are no such signals it does nothing.
///
/// # Errors
/// The system refused.
#[cfg(not(unix))]
pub fn survive_truncation() -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
pub use bus_errors::survive_truncation;

#[cfg(unix)]
#[allow(unsafe_code)]
mod bus_errors {
    //! The handler of SIGBUS. It runs wherever an access faults, also inside the allocator or while locks are held, so
    //! everything here is async-signal-safe: loads and stores of atomics, and system calls.

    use std::ffi::{c_int, c_void};
    use std::io;
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

    use super::{ANY_LOST, PLACES};

    struct Previous(libc::sigaction);

    /// What handled the signal before; set before the handler is.
    static PREVIOUS: OnceLock<Previous> = OnceLock::new();
    /// Whether the handler is there; held while it is being installed.
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    /// Bytes of a page, asked for before the handler is there: the first to ask may allocate.
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// Handles SIGBUS from now on: an access to a page of a [`super::Mapping`] that its file has lost finds zeros there and in what
    /// follows, and [`super::Mapping::check`] fails. What else raises SIGBUS goes to the handler that there was before. Calling
    /// it again changes nothing.
    ///
    /// # Errors
    /// The system refused.
    pub fn survive_truncation() -> io::Result<()> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if *installed {
            return Ok(());
        }
        // SAFETY: `sysconf` reads a constant of the system.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
        let page = page.ok().filter(|page| page.is_power_of_two()).ok_or_else(io::Error::last_os_error)?;
        PAGE.store(page, Ordering::Release);
        let mut previous = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: a null new action only asks; `previous` is valid for a write of its type.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded and so has written all of it.
        let previous = unsafe { previous.assume_init() };
        // Set already where an earlier call got no further than this.
        PREVIOUS.get_or_init(|| Previous(previous));
        // SAFETY: an all-zero `sigaction` is a valid value of this C struct of integers: no flags, nothing blocked.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
        action.sa_sigaction = handler as *const () as usize;
        // On the thread's own stack: the one that the standard library gives a thread for signals holds what the kernel saves there
        // and little more, and with tile registers in use that is 11 KB.
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: `handle` has the signature that SA_SIGINFO asks for and is async-signal-safe; `action` is valid.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
            0 => {
                *installed = true;
                Ok(())
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: with SA_SIGINFO the system passes a valid `siginfo_t`.
        let was_sent = unsafe { (*info).si_code } <= 0;
        // SAFETY: as above; a SIGBUS that was not sent by a process has an address.
        if was_sent || !put_zeros(unsafe { (*info).si_addr() }.addr()) {
            chain(signal, info, context, was_sent);
        }
    }

    /// Puts pages of zeros from the one of `address` to the end of the mapping in which it lies; returns whether it lies in one.
    fn put_zeros(address: usize) -> bool {
        for place in &PLACES {
            // A place is emptied before it gets another start, so with one start before and after, the end is of that start or 0.
            let start = place.start.load(Ordering::Acquire);
            let end = place.end.load(Ordering::Acquire);
            if place.start.load(Ordering::Acquire) != start || !(start..end).contains(&address) {
                continue;
            }
            let page = PAGE.load(Ordering::Acquire);
            let from = address & !(page - 1);
            let length = end.next_multiple_of(page) - from;
            let at = ptr::with_exposed_provenance_mut(from);
            // SAFETY: the pages from `from` to the last one of `end` belong to a live mapping of `Watched`, read only and of
            // this process alone, since the thread that has just read from it keeps it alive; nothing but their contents
            // changes. Its owner unmaps them by address and length, whatever is mapped there.
            let mapped =
                unsafe { mmap_anonymous(at, length, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED) };
            if mapped.is_err() {
                return false;
            }
            place.lost.store(true, Ordering::Release);
            ANY_LOST.store(true, Ordering::Release);
            return true;
        }
        false
    }

    /// Does what would have been done without this handler; `was_sent` by a process, as against raised by an access.
    fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, was_sent: bool) {
        let Some(Previous(previous)) = PREVIOUS.get() else { return };
        match previous.sa_sigaction {
            libc::SIG_IGN if was_sent => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                // SAFETY: an all-zero `sigaction` is a valid value, and is the default action.
                let default: libc::sigaction = unsafe { std::mem::zeroed() };
                // The access is tried again after the return, and then ends the process; what was sent is sent again.
                // SAFETY: `default` is valid; the old action is not asked for.
                unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
                if was_sent {
                    // SAFETY: `raise` is async-signal-safe.
                    unsafe { libc::raise(signal) };
                }
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                // SAFETY: it was installed with SA_SIGINFO, and so is a function of this signature.
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: it was installed without SA_SIGINFO, and so is a function of this signature.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
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
    // - shortening it makes accesses beyond its new end fault (SIGBUS ends the process, or the handler of
    //   `survive_truncation` puts zeros there, which is as if they were written);
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
    /// Where the bytes begin in the mapping: 0, but for guarded ones.
    start: usize,
    address: usize,
    len: usize,
}

/// Whether buffers are made between pages that nothing may touch.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// Makes every [`AlignedBuffer`] from now on end where a page begins that nothing may touch, and begin after another one, so that
/// generated code that leaves its buffers ends the process. For tests of generated code; it costs two pages a buffer.
pub fn guard_buffers() {
    GUARDED.store(true, Ordering::Release);
}

/// Zeroed memory in which `len` bytes from a multiple of [`AlignedBuffer::ALIGNMENT`] on end, but for what fills up the last 64,
/// before a page without access; and where they begin.
#[cfg(unix)]
#[allow(unsafe_code)]
fn map_guarded(len: usize) -> io::Result<(MmapMut, usize)> {
    let page = rustix::param::page_size();
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let used = len.checked_next_multiple_of(AlignedBuffer::ALIGNMENT).ok_or_else(too_large)?;
    let pages = used.checked_next_multiple_of(page).ok_or_else(too_large)?;
    let mut map = MmapMut::map_anon(pages.checked_add(2 * page).ok_or_else(too_large)?)?;
    for guard in [0, page + pages] {
        let at = map.as_mut_ptr().wrapping_add(guard);
        // SAFETY: `guard` is the first or the last page of the mapping, which is of this function alone, and no reference to
        // these bytes is ever made: `AlignedBuffer` hands out `used` bytes at most, which end before the last page.
        unsafe { rustix::mm::mprotect(at.cast(), page, rustix::mm::MprotectFlags::empty()) }?;
    }
    Ok((map, page + pages - used))
}

#[cfg(not(unix))]
fn map_guarded(len: usize) -> io::Result<(MmapMut, usize)> {
    Ok((MmapMut::map_anon(len)?, 0))
}

impl AlignedBuffer {
    /// Alignment that every buffer has, in bytes.
    pub const ALIGNMENT: usize = 64;
    /// Buffers from this size on ask for huge pages.
    #[cfg(target_os = "linux")]
    const HUGE_PAGE: usize = 2 << 20;

    /// A buffer of `len` bytes, all 0.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let buffer = Self::sparse(len)?;
        #[cfg(target_os = "linux")]
        if len >= Self::HUGE_PAGE {
            // Advice: a kernel without huge pages refuses it and everything works as well, only slower.
            let _ = buffer.map.advise(memmap2::Advice::HugePage);
        }
        Ok(buffer)
    }

    /// As [`AlignedBuffer::zeroed`], for a buffer of which only few places far from each other may ever be used: it asks for no
    /// huge pages, each of which would take memory for all that is near such a place.
    pub fn sparse(len: usize) -> io::Result<Self> {
        let (mut map, start) = match GUARDED.load(Ordering::Acquire) {
            true => map_guarded(len.max(1))?,
            false => (MmapMut::map_anon(len.max(1))?, 0),
        };
        let address = map.as_mut_ptr().expose_provenance() + start;
        Ok(Self { map, start, address, len })
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
        &self.map[self.start..self.start + self.len]
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }

    /// Address of the first byte, a multiple of [`AlignedBuffer::ALIGNMENT`].
    pub fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    /// Address of the first byte, for writing; a multiple of [`AlignedBuffer::ALIGNMENT`].
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }

    /// Address of the first byte for code that Rust does not see, such as generated kernels, to read and write. It was
    /// taken, with its provenance exposed, when the memory was made, and stays the same for the buffer's life.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// The bytes as f32; an incomplete element at the end is ignored.
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
mod tests;
