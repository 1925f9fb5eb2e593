//! Files that appear whole or not at all: written beside their place, made durable, then renamed.
//!
//! Invariants: until [`WholeFile::commit`] has returned, what was at the path before is still there; after an error or a
//! drop nothing else remains; only a regular file is ever replaced (never a device, a pipe or a link to one).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

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
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WholeFileError {
    let path = path.to_owned();
    move |source| WholeFileError::Io { operation, path, source }
}

impl WholeFile {
    /// Starts a file that will stand at `path`.
    ///
    /// # Errors
    /// Something at the path that is no regular file; a directory that cannot be written to.
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
        let mut builder = tempfile::Builder::new();
        builder.prefix(".bitnetc-").suffix(".tmp").rand_bytes(16);
        // The usual mode of a new file, less the umask; it becomes the mode of the finished file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary =
            builder.tempfile_in(&directory).map_err(failed("create a temporary file in", &directory))?;
        Ok(Self { path: path.to_owned(), directory, temporary })
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
    /// The system refused; what was at the path before is still there.
    pub fn commit(self) -> Result<u64, WholeFileError> {
        let Self { path, directory, temporary } = self;
        temporary.as_file().sync_all().map_err(failed("write to the disk", &path))?;
        let file = temporary.persist(&path).map_err(|error| failed("replace", &path)(error.error))?;
        if cfg!(unix) {
            // Makes the rename survive a loss of power.
            File::open(&directory)
                .and_then(|d| d.sync_all())
                .map_err(failed("write to the disk", &directory))?;
        }
        Ok(file.metadata().map_err(failed("examine", &path))?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
