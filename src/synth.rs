//! Writing synthetic models to files.

use std::io::{BufWriter, Write};
use std::path::Path;

use bitnetc_frontend_gguf::synth::SyntheticModel;
use bitnetc_runtime::whole_file::{WholeFile, WholeFileError};

use crate::error::Error;

/// Writes `model` to `path`, whole or not at all, and returns the length of the file; `progress` is told the bytes
/// written so far, and stops the work by returning false.
///
/// # Errors
/// A file that cannot be written; [`Error::Interrupted`]. What was at the path before is kept then.
pub fn write_synthetic(
    path: &Path,
    model: &SyntheticModel,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let file = WholeFile::create(path)?;
    let unwritable =
        |source| Error::File(WholeFileError::Io { operation: "write", path: path.to_owned(), source });
    let mut buffered = BufWriter::with_capacity(1 << 20, file.file());
    let mut done = 0;
    model.write(|piece| {
        buffered.write_all(piece).map_err(unwritable)?;
        done += piece.len() as u64;
        if progress(done) { Ok(()) } else { Err(Error::Interrupted) }
    })?;
    buffered.flush().map_err(unwritable)?;
    drop(buffered);
    Ok(file.commit()?)
}
