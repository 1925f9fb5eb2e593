//! Fetching one file: resumed where it broke, checked, and put in its place when it is complete.
//!
//! Invariants: what has arrived stays in a file of its own, `.incomplete`, until the hash of all of it is right; bytes are asked
//! for from where that file ends; one process at a time writes it; nothing is asked for that the disk has no room for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::{Answer, Ask, Body, Client, Failed, KeepGoing, LOOK};
use super::{StoreError, io_error};

/// What is under way; told whenever it changes, and ten times a second while a server says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A server was asked about the model and has not answered yet.
    Asking,
    /// A file arrives.
    File {
        /// Its name in the repository.
        file: String,
        /// Bytes that are here.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },
}

/// Is told what is under way; stops the work by returning false.
pub(super) type Watch<'w> = dyn FnMut(&Progress) -> bool + 'w;

/// What the server says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Where it is.
    pub(super) url: String,
    /// Its name in the repository.
    pub(super) file: String,
    /// Its hash, by which the blob is called: SHA-256 of the bytes, or what git calls the file.
    pub(super) hash: String,
    /// Its size.
    pub(super) bytes: u64,
}

/// How often, and after which times, something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// Tries without any progress.
    pub(super) attempts: u32,
    /// Before the second one; each further wait is twice as long.
    pub(super) first_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_secs(1) }
    }
}

impl Patience {
    /// Waits before try number `attempt`, from 1 on.
    fn wait(self, attempt: u32, keep_going: &mut KeepGoing<'_>) -> Result<(), StoreError> {
        let mut left =
            if attempt > 1 { self.first_wait * (1 << (attempt - 2).min(5)) } else { Duration::ZERO };
        while !left.is_zero() {
            let part = left.min(LOOK);
            std::thread::sleep(part);
            left -= part;
            if !keep_going() {
                return Err(StoreError::Interrupted);
            }
        }
        Ok(())
    }

    /// Asks until there is an answer that another try would not change.
    pub(super) fn ask(
        self,
        client: &Client,
        url: &str,
        ask: Ask,
        keep_going: &mut KeepGoing<'_>,
    ) -> Result<Answer, StoreError> {
        let mut attempt = 1;
        loop {
            self.wait(attempt, keep_going)?;
            let why = match client.ask(url, ask, keep_going) {
                Ok(answer) if is_passing(answer.status) => format!("status {}", answer.status),
                Ok(answer) => return Ok(answer),
                Err(Failed::Again(why)) => why,
                Err(Failed::Store(error)) => return Err(error),
            };
            if attempt >= self.attempts {
                return Err(StoreError::Unreachable { url: url.to_owned(), why, attempts: attempt });
            }
            attempt += 1;
        }
    }
}

/// Whether a status may be another one soon.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// What a refusal means.
pub(super) fn status_error(answer: &Answer) -> StoreError {
    let advice = match answer.status {
        401 => {
            "the repository is private or gated, or there is none of this name: see its page, and set HF_TOKEN"
        }
        403 => "the token gives no access: accept the model's terms on its page, or use another HF_TOKEN",
        404 => "there is no such repository, revision or file",
        _ => "the server refused",
    };
    StoreError::Status { url: answer.url.clone(), status: answer.status, advice }
}

/// The hash that a blob is called by.
enum Hash {
    Sha256(Box<Sha256>),
    /// SHA-1 of a header with the size, and the bytes.
    Git(Box<Sha1>),
    /// Something else that only the server knows.
    Opaque,
}

impl Hash {
    fn new(wanted: &Wanted) -> Self {
        let hexadecimal = wanted.hash.bytes().all(|b| b.is_ascii_hexdigit());
        match wanted.hash.len() {
            64 if hexadecimal => Hash::Sha256(Box::new(Sha256::new())),
            40 if hexadecimal => {
                let header = format!("blob {}\0", wanted.bytes);
                Hash::Git(Box::new(Sha1::new().chain_update(header)))
            }
            _ => Hash::Opaque,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Git(hash) => hash.update(bytes),
            Hash::Opaque => {}
        }
    }

    /// The hash's name and value; `None` where there is nothing to compare.
    fn finish(self) -> Option<(&'static str, String)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self {
            Hash::Sha256(hash) => Some(("SHA-256", hex(&hash.finalize()))),
            Hash::Git(hash) => Some(("git hash", hex(&hash.finalize()))),
            Hash::Opaque => None,
        }
    }
}

/// A file that is arriving.
struct Arriving<'a> {
    wanted: &'a Wanted,
    file: File,
    path: &'a Path,
    done: u64,
    /// The most that was ever here: less than that, again, is no progress.
    most: u64,
    hash: Hash,
}

impl Arriving<'_> {
    /// Hashes what is here already, which takes seconds per gigabyte; more than the file has is dropped.
    fn take_up(&mut self, watch: &mut Watch<'_>) -> Result<(), StoreError> {
        let length = self.file.metadata().map_err(io_error("examine", self.path))?.len();
        if length > self.wanted.bytes {
            return self.restart();
        }
        self.file.seek(SeekFrom::Start(0)).map_err(io_error("read", self.path))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = self.file.read(&mut buffer).map_err(io_error("read", self.path))?;
            if read == 0 {
                self.most = self.done;
                return Ok(());
            }
            self.hash.update(&buffer[..read]);
            self.done += read as u64;
            self.tell(watch)?;
        }
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(io_error("write", self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(io_error("write", self.path))?;
        self.done = 0;
        self.hash = Hash::new(self.wanted);
        Ok(())
    }

    /// Appends the body of an answer. An answer that ends early is not an error: the rest is requested again.
    fn receive(&mut self, body: &mut Body, watch: &mut Watch<'_>) -> Result<(), Failed> {
        while self.done < self.wanted.bytes {
            self.tell(watch)?;
            let mut bytes = body.next(&mut || watch(&self.progress()))?;
            if bytes.is_empty() {
                return Err(Failed::Again("the connection ended early".to_owned()));
            }
            let room = usize::try_from(self.wanted.bytes - self.done).unwrap_or(usize::MAX);
            bytes.truncate(room);
            self.file.write_all(&bytes).map_err(io_error("write", self.path))?;
            self.hash.update(&bytes);
            self.done += bytes.len() as u64;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress::File { file: self.wanted.file.clone(), done: self.done, total: self.wanted.bytes }
    }

    fn tell(&self, watch: &mut Watch<'_>) -> Result<(), StoreError> {
        if watch(&self.progress()) { Ok(()) } else { Err(StoreError::Interrupted) }
    }

    /// Whether the disk has room for what is missing.
    fn check_room(&self) -> Result<(), StoreError> {
        let needed = self.wanted.bytes - self.done;
        match free_bytes(self.path) {
            Some(free) if free < needed => Err(StoreError::NoRoom {
                path: self.path.to_owned(),
                file: self.wanted.file.clone(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }

    /// One request for what is missing.
    fn ask(&mut self, client: &Client, watch: &mut Watch<'_>) -> Result<(), Failed> {
        let from = Some(self.done).filter(|&done| done > 0);
        let ask = Ask { from, abroad: true, head: false };
        let answer = client.ask(&self.wanted.url, ask, &mut || watch(&self.progress()))?;
        match answer.status {
            200 => self.restart()?,
            206 if range_start(&answer) == Some(self.done) => {}
            206 => {
                let why = "another range of bytes than the one asked for".to_owned();
                return Err(StoreError::Answer { url: answer.url, why }.into());
            }
            // What is here is no beginning of what is there.
            416 => {
                self.restart()?;
                return Err(Failed::Again("the server refused to go on in the middle".to_owned()));
            }
            status if is_passing(status) => return Err(Failed::Again(format!("status {status}"))),
            _ => return Err(status_error(&answer).into()),
        }
        self.receive(&mut answer.into_body()?, watch)
    }
}

/// The first byte of a `Content-Range`.
fn range_start(answer: &Answer) -> Option<u64> {
    answer.header("content-range")?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Bytes of a file of this machine that are read at a time.
const BUFFER: usize = 1 << 20;

/// Free bytes on the file system of a file, for unprivileged users; `None` if the system does not report them.
fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let system = rustix::fs::statvfs(path).ok()?;
        system.f_bavail.checked_mul(system.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Fetches a file to `blob`, and says whether there was a hash to check it with. `watch` is told how far it is, and stops the work
/// by returning false.
///
/// # Errors
/// A disk without room; files that cannot be written or are in use; a server that refuses, cannot be reached or sends other bytes than it announced.
pub(super) fn fetch(
    client: &Client,
    wanted: &Wanted,
    blob: &Path,
    patience: Patience,
    watch: &mut Watch<'_>,
) -> Result<bool, StoreError> {
    if let Some(folder) = blob.parent() {
        std::fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    }
    let path = blob.with_added_extension("incomplete");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { path: blob.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
    }
    let mut arriving = Arriving { wanted, file, path: &path, done: 0, most: 0, hash: Hash::new(wanted) };
    arriving.take_up(watch)?;
    arriving.check_room()?;
    let mut attempt = 1;
    while arriving.done < wanted.bytes {
        patience.wait(attempt, &mut || watch(&arriving.progress()))?;
        match arriving.ask(client, watch) {
            Ok(()) => {}
            Err(Failed::Store(error)) => return Err(error),
            Err(Failed::Again(why)) => {
                attempt = if arriving.done > arriving.most { 1 } else { attempt + 1 };
                arriving.most = arriving.most.max(arriving.done);
                if attempt > patience.attempts {
                    let (url, attempts) = (wanted.url.clone(), patience.attempts);
                    return Err(StoreError::Unreachable { url, why, attempts });
                }
            }
        }
    }
    arriving.tell(watch)?;
    let Arriving { file, hash, .. } = arriving;
    let checked = hash.finish();
    if let Some((algorithm, found)) = &checked
        && *found != wanted.hash.to_ascii_lowercase()
    {
        std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        let (url, expected) = (wanted.url.clone(), wanted.hash.clone());
        return Err(StoreError::Checksum { url, algorithm, expected, found: found.clone() });
    }
    file.sync_all().map_err(io_error("write", &path))?;
    std::fs::rename(&path, blob).map_err(io_error("rename", &path))?;
    Ok(checked.is_some())
}
