//! The results file: opened to be continued, appended to line by line.
//!
//! Invariants: every line of the file but perhaps the last is a complete result; a last line without its end, which a killed
//! process may have left, is cut off before anything is appended; one process at a time has the file, by an advisory lock. A file
//! changes when the first result is appended and not before, so that a command that fails at its start has lost nothing; what is no
//! file of results is never changed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{BatchError, Settings, response};

/// Results that the file held when it was opened.
#[derive(Debug, Default)]
pub struct Done {
    /// The hash of the request and the number of its settings, by `custom_id`.
    by_id: HashMap<String, (String, usize)>,
    /// The settings that there are, most often one.
    settings: Vec<Settings>,
}

impl Done {
    /// How many results there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The hash of the request with this id and the settings that its result was made with.
    pub(super) fn get(&self, id: &str) -> Option<(&str, &Settings)> {
        let (hash, settings) = self.by_id.get(id)?;
        Some((hash, self.settings.get(*settings)?))
    }

    fn insert(&mut self, id: String, hash: String, settings: Settings) {
        let found = self.settings.iter().position(|known| *known == settings);
        let number = found.unwrap_or_else(|| {
            self.settings.push(settings);
            self.settings.len() - 1
        });
        self.by_id.insert(id, (hash, number));
    }
}

/// A results file, or a stream of results.
pub struct Output {
    path: PathBuf,
    place: Place,
    line: Vec<u8>,
}

/// Where results go.
enum Place {
    /// A file that can be continued, with the bytes of its complete lines; `cut` once what stands after them is gone.
    File { file: File, length: u64, cut: bool },
    /// Standard output, or another stream: nothing is kept.
    Stream(Box<dyn Write>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("path", &self.path).finish_non_exhaustive()
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BatchError {
    let path = path.to_owned();
    move |source| BatchError::Io { operation, path, source }
}

impl Output {
    /// Opens the file, or makes it. With `overwrite` it begins empty; else its results are kept and named.
    ///
    /// # Errors
    /// Something that is no regular file, as a device or a pipe; a file that cannot be opened or is in use; one that holds
    /// something else than results.
    pub fn open(path: &Path, overwrite: bool) -> Result<(Self, Done), BatchError> {
        match path.metadata() {
            Ok(metadata) if !metadata.is_file() => {
                return Err(BatchError::NotAFile { path: path.to_owned() });
            }
            _ => {}
        }
        // Not by truncation: until the lock is held the file is another's.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BatchError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", path)(source)),
        }
        let (done, length) = if overwrite { (Done::default(), 0) } else { read_results(path, &file)? };
        let place = Place::File { file, length, cut: false };
        Ok((Self { path: path.to_owned(), place, line: Vec::new() }, done))
    }

    /// Results that go to a stream, one line after the other.
    pub fn stream(stream: Box<dyn Write>) -> Self {
        Self { path: PathBuf::from("standard output"), place: Place::Stream(stream), line: Vec::new() }
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a result as one line, in one call to the system.
    ///
    /// # Errors
    /// The system refused, for example because the disk is full; no part of the line is left then, if that can be had.
    pub fn append(&mut self, result: &Value) -> Result<(), BatchError> {
        self.line.clear();
        // Writing JSON to memory fails only where memory does.
        serde_json::to_writer(&mut self.line, result)
            .map_err(|e| failed("write to", &self.path)(e.into()))?;
        self.line.push(b'\n');
        let written = match &mut self.place {
            Place::Stream(stream) => stream.write_all(&self.line).and_then(|()| stream.flush()),
            Place::File { file, length, cut } => append_line(file, &self.line, length, cut),
        };
        written.map_err(failed("write to", &self.path))
    }

    /// Brings to the disk what was appended, and leaves the file as it is where nothing was: for a batch that has failed.
    pub fn abandon(self) {
        if let Place::File { file, cut: true, .. } = self.place {
            // The failure is told, and whole lines are there in any case.
            drop(file.sync_all());
        }
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// The system refused.
    pub fn finish(self) -> Result<(), BatchError> {
        match self.place {
            Place::File { file, length, cut } => {
                // A batch without a request to answer has a whole file too.
                let whole = if cut { Ok(()) } else { cut_after(&file, length) };
                whole.and_then(|()| file.sync_all()).map_err(failed("write to", &self.path))
            }
            Place::Stream(_) => Ok(()),
        }
    }
}

/// Longest line of a result, in bytes: far more than the text of any context.
const MAX_LINE: u64 = 256 << 20;

/// The results in the complete lines of a file, and where these end.
fn read_results(path: &Path, file: &File) -> Result<(Done, u64), BatchError> {
    let (mut done, mut length) = (Done::default(), 0);
    let mut reader = BufReader::new(file);
    let beginning = reader.fill_buf().map_err(failed("read", path))?;
    if !is_torn(beginning) {
        let why = "it is not the beginning of a result".to_owned();
        return Err(BatchError::NotResults { path: path.to_owned(), line: 1, why });
    }
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        let most = &mut (&mut reader).take(MAX_LINE);
        most.read_until(b'\n', &mut line).map_err(failed("read", path))?;
        number += 1;
        let wrong = |why| BatchError::NotResults { path: path.to_owned(), line: number, why };
        if line.last() != Some(&b'\n') {
            return match is_torn(&line) {
                true => Ok((done, length)),
                false => Err(wrong("it is not the beginning of a result".to_owned())),
            };
        }
        let (id, hash, settings) = result_of(&line).map_err(wrong)?;
        done.insert(id, hash, settings);
        length += line.len() as u64;
    }
}

/// Whether a last line without its end can be what a killed process left of a result.
fn is_torn(line: &[u8]) -> bool {
    let shared = line.len().min(response::BEGINNING.len());
    line[..shared] == response::BEGINNING.as_bytes()[..shared]
}

/// Appends a line to a file whose complete lines have `length` bytes.
fn append_line(file: &mut File, line: &[u8], length: &mut u64, cut: &mut bool) -> std::io::Result<()> {
    if !*cut {
        cut_after(file, *length)?;
        *cut = true;
    }
    match file.write_all(line) {
        Ok(()) => {
            *length += line.len() as u64;
            Ok(())
        }
        Err(source) => {
            let _ = cut_after(file, *length);
            Err(source)
        }
    }
}

/// Cuts off what stands after the complete lines.
fn cut_after(mut file: &File, length: u64) -> std::io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length)).map(drop)
}

/// The id, the request's hash and the settings of a line.
fn result_of(line: &[u8]) -> Result<(String, String, Settings), String> {
    let mut value: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let text = |key: &str| {
        let found = value.get(key).and_then(Value::as_str);
        found.map(str::to_owned).ok_or_else(|| format!("it has no `{key}`"))
    };
    let (id, hash) = (text("custom_id")?, text("request_hash")?);
    let settings = value.get_mut("settings").map(Value::take).and_then(Settings::from_json);
    Ok((id, hash, settings.ok_or("it has no `settings`")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(id: &str) -> Value {
        let response = json!({ "text": "a\nb" });
        json!({
            "id": "batch_req_0", "custom_id": id, "request_hash": "00", "settings": {}, "response": response,
        })
    }

    #[test]
    fn a_torn_line_is_cut_off_wherever_it_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let (mut output, done) = Output::open(&path, false).unwrap();
        assert!(done.is_empty());
        output.append(&result("a")).unwrap();
        output.append(&result("b")).unwrap();
        output.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut output, done) = Output::open(&path, false).unwrap();
            let expected = usize::from(length >= first) + usize::from(length == whole.len());
            assert_eq!(done.len(), expected, "{length}");
            for id in ["a", "b"] {
                if done.get(id).is_none() {
                    output.append(&result(id)).unwrap();
                }
            }
            drop(output);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        for text in [
            "dear diary\n",
            "{\"custom_id\":\"a\"}\n",
            "[]\n",
            "{\"custom_id\":1,\"request_hash\":\"\",\"settings\":{}}\n",
            "{\"custom_id\":\"a\",\"request_hash\":\"\"}\n",
            // One line without an end is no torn result.
            "{\"name\":\"my-app\"}",
            "x",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Output::open(&path, false).unwrap_err();
            assert!(matches!(error, BatchError::NotResults { line: 1, .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        // Overwriting begins with the first result, or with the end of a batch that has none.
        let (output, done) = Output::open(&path, true).unwrap();
        assert!(done.is_empty());
        drop(output);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        Output::open(&path, true).unwrap().0.finish().unwrap();
        assert!(std::fs::read(&path).unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_take_results() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/full", &link).unwrap();
        for path in [Path::new("/dev/full"), &link, folder.path()] {
            for overwrite in [false, true] {
                let error = Output::open(path, overwrite).unwrap_err();
                assert!(matches!(error, BatchError::NotAFile { .. }), "{path:?}: {error}");
            }
        }
    }

    #[test]
    fn one_process_at_a_time_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let (mut first, _) = Output::open(&path, false).unwrap();
        first.append(&result("a")).unwrap();
        for overwrite in [false, true] {
            assert!(matches!(Output::open(&path, overwrite), Err(BatchError::Busy { .. })));
        }
        drop(first);
        assert_eq!(Output::open(&path, false).unwrap().1.len(), 1);
    }
}
