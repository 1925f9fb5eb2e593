//! Files that appear whole or not at all: written beside their place, made durable, then renamed.
//!
//! Invariants:
//! - Until [`WholeFile::commit`] replaces it, what was at the path before is still there; after an error or a drop nothing
//!   else remains. Only a regular file is ever replaced (never a device, a pipe or a link to one).
//! - Code that ends the process while files are in the making calls [`abandon_all`], and nothing remains either.
//! - A process that is killed outright leaves its temporary file. Each has the lock of the process that writes it, which the
//!   system takes back; the next one that writes to the folder removes those that nobody has locked ([`sweep`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the name of a temporary file begins with.
const PREFIX: &str = ".bitnetc-";
/// What it ends with.
const SUFFIX: &str = ".tmp";
/// Characters between them.
const RANDOM: usize = 16;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WholeFileError {
    /// There is something else than a regular file at the path.
    #[error("{path:?} is not a regular file and is not replaced; give another name")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// There is no folder for the file.
    #[error("cannot write {path:?}: the folder {folder:?} does not exist; create it first")]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The file is there, but may not survive a loss of power.
    #[error("{path:?} is written, but its folder cannot be written to the disk: {source}")]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A file in the making.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    directory: PathBuf,
    temporary: tempfile::NamedTempFile,
    _listed: Listed,
}

/// The temporary files of this process.
static IN_THE_MAKING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn in_the_making() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    IN_THE_MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file's place in the list.
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        in_the_making().remove(&self.0);
    }
}

/// Removes the files that this process has in the making, before it ends: from then on none can be begun, and a thread that
/// tries waits for that end.
pub fn abandon_all() {
    let files = in_the_making();
    for file in &*files {
        // What is not there any more has been put in its place.
        drop(fs::remove_file(file));
    }
    std::mem::forget(files);
}

/// Removes temporary files from `directory` whose process has ended without doing so, and returns their number and their bytes.
/// What cannot be looked at or removed stays.
pub fn sweep(directory: &Path) -> (usize, u64) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let left = entries.filter(|entry| is_temporary(&entry.file_name()));
    left.filter_map(|entry| remove_if_left(&entry.path()))
        .fold((0, 0), |(n, sum), bytes| (n + 1, sum + bytes))
}

fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The bytes of the file, if nobody is writing it and it was removed.
fn remove_if_left(path: &Path) -> Option<u64> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let file = File::options().write(true).open(path).ok()?;
    file.try_lock().ok()?;
    // The lock is kept until the name is gone: a writer that has just created this file and has not locked it yet notices that.
    fs::remove_file(path).ok()?;
    Some(metadata.len())
}

/// The error without the path of the temporary file, which means nothing to anybody, where its kind says the rest.
fn without_path(error: io::Error) -> io::Error {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        kind @ (NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem | StorageFull) => {
            kind.into()
        }
        _ => error,
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WholeFileError {
    let path = path.to_owned();
    move |source| WholeFileError::Io { operation, path, source }
}

impl WholeFile {
    /// Starts a file that will stand at `path`.
    ///
    /// # Errors
    /// The path is not a regular file, or the directory is not writable.
    pub fn create(path: &Path) -> Result<Self, WholeFileError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(WholeFileError::NotAFile { path: path.to_owned() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("examine", path)(error)),
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if fs::metadata(&directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(WholeFileError::NoFolder { path: path.to_owned(), folder: directory });
        }
        sweep(&directory);
        let (temporary, listed) = Self::temporary_in(&directory)
            .map_err(|error| failed("create a temporary file in", &directory)(without_path(error)))?;
        Ok(Self { path: path.to_owned(), directory, temporary, _listed: listed })
    }

    /// A temporary file that is listed and locked.
    fn temporary_in(directory: &Path) -> io::Result<(tempfile::NamedTempFile, Listed)> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
        // The usual mode of a new file, less the umask; it becomes the mode of the finished file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        loop {
            let mut files = in_the_making();
            let temporary = builder.tempfile_in(directory)?;
            files.insert(temporary.path().to_owned());
            drop(files);
            let listed = Listed(temporary.path().to_owned());
            match temporary.as_file().try_lock() {
                Ok(()) if temporary.path().exists() => return Ok((temporary, listed)),
                // Another process took it for one that was left before it had its lock.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // A file system without locks: nobody sweeps there.
                Err(TryLockError::Error(_)) => return Ok((temporary, listed)),
            }
        }
    }

    /// The file, to be written.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// Where the file will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file is until [`WholeFile::commit`], to be read back.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Makes the contents durable, puts the file in its place and returns its length.
    ///
    /// # Errors
    /// The system refused; what was at the path before is still there, except after
    /// [`NotDurable`](WholeFileError::NotDurable).
    pub fn commit(self) -> Result<u64, WholeFileError> {
        let Self { path, directory, temporary, _listed } = self;
        temporary.as_file().sync_all().map_err(failed("write to the disk", &path))?;
        let length = temporary.as_file().metadata().map_err(failed("examine", temporary.path()))?.len();
        let file = temporary.persist(&path).map_err(|error| failed("replace", &path)(error.error))?;
        // A finished file is nobody's.
        drop(file.unlock());
        if cfg!(unix) {
            // Makes the rename survive a loss of power.
            let synced = File::open(&directory).and_then(|d| d.sync_all());
            synced.map_err(|source| WholeFileError::NotDurable { path, source })?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = WholeFile::create(&folder.path().join("none/a.plan")).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, WholeFileError::NoFolder { .. }) && text.contains("none\" does not exist"),
            "{text}"
        );
        assert!(!text.contains(PREFIX), "{text}");
    }

    #[test]
    fn a_dropped_file_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let file = WholeFile::create(&path).unwrap();
        file.file().write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = WholeFile::create(&path).unwrap();
        file.file().write_all(b"new").unwrap();
        assert_eq!(file.commit().unwrap(), 3);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    /// Names in a folder.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = entries.collect();
        all.sort();
        all
    }

    #[test]
    fn what_a_dead_process_left_is_removed_by_the_next_writer_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let live = WholeFile::create(&folder.path().join("live")).unwrap();
        live.file().write_all(b"in the making").unwrap();
        let others =
            [".bitnetc-0123.tmp", ".bitnetc-0123456789abcde-.tmp", ".other-0123456789abcdef.tmp", "a.tmp"];
        for name in others.iter().chain(&[".bitnetc-0123456789abcdef.tmp"]) {
            fs::write(folder.path().join(name), "left").unwrap();
        }
        fs::create_dir(folder.path().join(".bitnetc-0123456789abcdeg.tmp")).unwrap();
        assert_eq!(sweep(folder.path()), (1, 4));
        let file = WholeFile::create(&folder.path().join("next")).unwrap();
        file.commit().unwrap();
        live.commit().unwrap();
        let mut left: Vec<&str> = others.to_vec();
        left.extend([".bitnetc-0123456789abcdeg.tmp", "live", "next"]);
        left.sort();
        assert_eq!(names(folder.path()), left);
        assert_eq!(fs::read(folder.path().join("live")).unwrap(), b"in the making");
    }

    #[test]
    fn a_finished_file_can_be_locked_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        WholeFile::create(&path).unwrap().commit().unwrap();
        File::open(&path).unwrap().try_lock().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [link.as_path(), folder.path(), Path::new("/dev/null")] {
            assert!(matches!(WholeFile::create(path), Err(WholeFileError::NotAFile { .. })), "{path:?}");
        }
    }
}
