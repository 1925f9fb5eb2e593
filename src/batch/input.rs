//! The requests of an input file: which lines they are, what they are called, and their bytes when they are needed.
//!
//! The file is read once to find the requests and to see that no two have the same id, and each request again when its turn
//! comes, so that a file of any size takes little memory.
//!
//! A byte order mark at the beginning of the file and the end of each line, LF or CR LF, are no part of a request
//! ([`bitnetc_frontend_gguf::text`]).
//!
//! Invariants: an id is unique among the items; a line longer than [`MAX_LINE`] is an item whose bytes are never held.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bitnetc_frontend_gguf::text;

use super::{BatchError, line_hash, printable};

/// Longest line, in bytes. Far more than the text of any context.
pub(super) const MAX_LINE: u64 = 16 << 20;

/// What the lines of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Each line is a prompt.
    Text,
    /// Each line is a request of OpenAI's batch files.
    Jsonl,
}

impl Format {
    /// Its name, as `--format` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Jsonl => "jsonl",
        }
    }

    /// By the name of the file: JSONL if it ends in `.jsonl`, `.ndjson` or `.json`, else text.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            _ => Format::Text,
        }
    }
}

/// One of several parts of an input that are run apart: each n-th request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    pub index: u64,
    /// At least `index`.
    pub count: u64,
}

impl Shard {
    /// The whole input.
    pub const ALL: Shard = Shard { index: 1, count: 1 };

    /// Whether the part holds request `number`, from 0 on.
    pub fn holds(self, number: u64) -> bool {
        number % self.count.max(1) + 1 == self.index
    }
}

/// Text that names no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid shard `{0}`: expected i/n with 1 <= i <= n, for example 1/4")]
pub struct ShardError(String);

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count => Ok(Shard { index, count }),
            _ => Err(ShardError(text.to_owned())),
        }
    }
}

/// A request that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Line of the file, from 1 on.
    pub line: u64,
    /// The request's `custom_id`, or `line-` and the line where it has none.
    pub custom_id: String,
    /// Of the line's bytes.
    pub hash: String,
    /// Whether the line is too long to be read.
    pub too_long: bool,
    offset: u64,
    bytes: u64,
}

/// An input file and its requests.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    file: BufReader<File>,
    format: Format,
    items: Vec<Item>,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BatchError {
    let path = path.to_owned();
    move |source| BatchError::Io { operation, path, source }
}

impl Input {
    /// Opens a file and finds the requests of a shard of it. Blank lines are none.
    ///
    /// # Errors
    /// A file that cannot be read, or that has an id twice.
    pub fn open(path: &Path, format: Format, shard: Shard) -> Result<Self, BatchError> {
        // Before it is opened, which would wait for who writes to a pipe.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(BatchError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(failed("open", path))?;
        Self::of_file(file, path, format, shard)
    }

    /// As [`Input::open`], for a file that is open; `path` is for messages.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn of_file(file: File, path: &Path, format: Format, shard: Shard) -> Result<Self, BatchError> {
        if !file.metadata().map_err(failed("examine", path))?.is_file() {
            return Err(BatchError::NotAFile { path: path.to_owned() });
        }
        let mut file = BufReader::new(file);
        let mut items: Vec<Item> = Vec::new();
        let mut lines: HashMap<String, u64> = HashMap::new();
        let beginning = file.fill_buf().map_err(failed("read", path))?;
        if beginning.starts_with(b"GGUF") || beginning.starts_with(&bitnetc_runtime::plan::MAGIC) {
            return Err(BatchError::InputIsModel { path: path.to_owned() });
        }
        if beginning.starts_with(&[0xff, 0xfe]) || beginning.starts_with(&[0xfe, 0xff]) {
            return Err(BatchError::Utf16 { path: path.to_owned() });
        }
        let mark = text::mark_length(beginning);
        file.consume(mark);
        let (mut offset, mut line, mut requests) = (mark as u64, 0, 0);
        let mut bytes = Vec::new();
        loop {
            let (read, too_long) = read_line(&mut file, &mut bytes).map_err(failed("read", path))?;
            if read == 0 {
                break;
            }
            line += 1;
            let start = offset;
            offset += read;
            if !too_long && bytes.trim_ascii().is_empty() {
                continue;
            }
            let custom_id = id_of(&bytes, format, too_long).unwrap_or_else(|| format!("line-{line}"));
            if let Some(first) = lines.insert(custom_id.clone(), line) {
                let id = printable(&custom_id);
                return Err(BatchError::TwoOfAnId { path: path.to_owned(), id, first, second: line });
            }
            if shard.holds(requests) {
                let hash = line_hash(&bytes);
                let bytes = bytes.len() as u64;
                items.push(Item { line, custom_id, hash, too_long, offset: start, bytes });
            }
            requests += 1;
        }
        Ok(Self { path: path.to_owned(), file, format, items })
    }

    /// What the lines are.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The requests in the order of the file.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The bytes of a request, without the line end; nothing for one that is too long.
    ///
    /// # Errors
    /// The file cannot be read, or it changed.
    pub fn read(&mut self, item: &Item) -> Result<Vec<u8>, BatchError> {
        if item.too_long {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::with_capacity(item.bytes as usize);
        self.file.seek(SeekFrom::Start(item.offset)).map_err(failed("read", &self.path))?;
        (&mut self.file).take(item.bytes).read_to_end(&mut bytes).map_err(failed("read", &self.path))?;
        match line_hash(&bytes) == item.hash {
            true => Ok(bytes),
            false => Err(BatchError::InputChanged { path: self.path.clone() }),
        }
    }
}

/// Reads a line into `bytes`, without its end: `\n` or `\r\n`. Returns how many bytes it took in the file, 0 at the end, and
/// whether it was longer than [`MAX_LINE`], of which `bytes` then holds the beginning.
fn read_line(file: &mut impl BufRead, bytes: &mut Vec<u8>) -> std::io::Result<(u64, bool)> {
    bytes.clear();
    let mut read = file.take(MAX_LINE + 1).read_until(b'\n', bytes)? as u64;
    let too_long = bytes.last() != Some(&b'\n') && read > MAX_LINE;
    if too_long {
        bytes.truncate(1 << 10);
        read += file.skip_until(b'\n')? as u64;
    }
    bytes.truncate(text::without_line_end(bytes).len());
    Ok((read, too_long))
}

/// The `custom_id` of a JSONL line.
fn id_of(bytes: &[u8], format: Format, too_long: bool) -> Option<String> {
    if format == Format::Text || too_long {
        return None;
    }
    let line: serde_json::Value = serde_json::from_slice(&text::json(bytes)).ok()?;
    line.get("custom_id")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn lines_are_requests_whatever_their_ends() {
        let file = file("one\r\n\n  \ntwo\nthrée".as_bytes());
        let mut input = Input::open(file.path(), Format::Text, Shard::ALL).unwrap();
        let items = input.items().to_vec();
        let lines: Vec<_> = items.iter().map(|i| (i.line, i.custom_id.as_str())).collect();
        assert_eq!(lines, [(1, "line-1"), (4, "line-4"), (5, "line-5")]);
        let texts: Vec<_> = items.iter().rev().map(|i| input.read(i).unwrap()).collect();
        assert_eq!(texts, ["thrée".as_bytes(), b"two", b"one"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_request() {
        let marked = file("\u{feff}one\r\ntwo\r\n".as_bytes());
        let mut input = Input::open(marked.path(), Format::Text, Shard::ALL).unwrap();
        let items = input.items().to_vec();
        let texts: Vec<_> = items.iter().map(|i| input.read(i).unwrap()).collect();
        assert_eq!(texts, [b"one", b"two"]);
        let marked = file("\u{feff}{\"custom_id\":\"a\\ud800\"}\n".as_bytes());
        let input = Input::open(marked.path(), Format::Jsonl, Shard::ALL).unwrap();
        assert_eq!(input.items()[0].custom_id, "a\u{fffd}");
    }

    #[test]
    fn ids_are_taken_from_the_lines_and_must_differ() {
        let good = file(b"{\"custom_id\":\"a\"}\n{\"custom_id\":7}\nnonsense\n");
        let input = Input::open(good.path(), Format::Jsonl, Shard::ALL).unwrap();
        let ids: Vec<_> = input.items().iter().map(|i| i.custom_id.as_str()).collect();
        assert_eq!(ids, ["a", "line-2", "line-3"]);
        let bad = file(b"{\"custom_id\":\"line-2\"}\n{}\n");
        let error = Input::open(bad.path(), Format::Jsonl, Shard::ALL).unwrap_err().to_string();
        assert!(error.contains("\"line-2\" is on line 1 and on line 2"), "{error}");
    }

    #[test]
    fn shards_divide_the_requests() {
        let file = file(b"a\n\nb\nc\nd\ne\n");
        let mut seen = Vec::new();
        for index in 1..=3 {
            let input = Input::open(file.path(), Format::Text, Shard { index, count: 3 }).unwrap();
            seen.extend(input.items().iter().map(|i| i.line));
        }
        assert_eq!(seen, [1, 5, 3, 6, 4]);
        for bad in ["", "0/2", "3/2", "1", "a/b", "1/0", "-1/2"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
        assert_eq!("2/5".parse(), Ok(Shard { index: 2, count: 5 }));
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let mut text = vec![b'x'; MAX_LINE as usize + 5];
        text.extend(b"\nnext\n");
        let file = file(&text);
        let mut input = Input::open(file.path(), Format::Text, Shard::ALL).unwrap();
        let items = input.items().to_vec();
        assert_eq!(items.iter().map(|i| (i.line, i.too_long)).collect::<Vec<_>>(), [(1, true), (2, false)]);
        assert_eq!(input.read(&items[0]).unwrap(), b"");
        assert_eq!(input.read(&items[1]).unwrap(), b"next");
        // Exactly the longest.
        let mut text = vec![b'x'; MAX_LINE as usize];
        text.push(b'\n');
        std::fs::write(file.path(), &text).unwrap();
        let input = Input::open(file.path(), Format::Text, Shard::ALL).unwrap();
        assert!(!input.items()[0].too_long);
    }

    #[test]
    fn a_changed_input_is_noticed() {
        let file = file(b"one\ntwo\n");
        let mut input = Input::open(file.path(), Format::Text, Shard::ALL).unwrap();
        std::fs::write(file.path(), b"one\nToo\n").unwrap();
        let items = input.items().to_vec();
        assert!(matches!(input.read(&items[1]), Err(BatchError::InputChanged { .. })));
    }

    #[test]
    fn formats_follow_from_names() {
        for (name, format) in [("a.jsonl", Format::Jsonl), ("a.JSON", Format::Jsonl), ("a", Format::Text)] {
            assert_eq!(Format::of(Path::new(name)), format);
        }
    }
}
