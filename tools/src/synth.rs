//! Writing synthetic models to files.

use std::io::Write;
use std::path::Path;

use bitnetc_frontend_gguf::synth::SyntheticModel;
use bitnetc_runtime::file_stream::FileStream;
use bitnetc_runtime::whole_file::{WholeFile, WholeFileError};

use crate::error::Error;

/// Writes `model` to `path`, whole or not at all, and returns the length of the file; `progress` is told the bytes
/// written so far, and stops the work by returning false.
///
/// # Errors
/// A file that cannot be written; [`bitnetc::Error::Interrupted`]. What was at the path before is kept then.
pub fn write_synthetic(
    path: &Path,
    model: &SyntheticModel,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let file = WholeFile::create(path)?;
    let unwritable =
        |source| Error::from(WholeFileError::Io { operation: "write", path: path.to_owned(), source });
    let mut stream = FileStream::new(file.file());
    let mut done = 0;
    model.write(|piece| {
        stream.write_all(piece).map_err(unwritable)?;
        done += piece.len() as u64;
        if progress(done) { Ok(()) } else { Err(Error::INTERRUPTED) }
    })?;
    stream.finish().map_err(unwritable)?;
    Ok(file.commit()?)
}
