//! Importing Hugging Face checkpoints: which files they are, where they lie, and writing the GGUF file.
//!
//! The files are mapped and converted as a stream, so memory does not grow with the model. What has been written is read
//! back and checked before it takes its place under the name that was asked for.
//!
//! A checkpoint is a directory, or `hf:ORG/REPO[@REVISION]`: the snapshot of a repository in the cache that
//! `huggingface_hub` and other tools share (`HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`; the
//! layout is `models--ORG--REPO/{refs,snapshots}`). Nothing is downloaded.

use std::io::Write;
use std::path::{Path, PathBuf};

use bitnetc_import::{Checkpoint, Import, Options, shard_names};
use bitnetc_runtime::file_stream::FileStream;
use bitnetc_runtime::map::{self, MapError, MapMode, Mapping};
use bitnetc_runtime::whole_file::{WholeFile, WholeFileError};

use crate::error::Error;

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// A repository in the cache.
    Repository {
        /// `ORG/REPO`, or `REPO`.
        name: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Not the name of a repository.
    #[error(
        "\"{}\" is not the name of a repository: hf:ORG/REPO or hf:ORG/REPO@REVISION",
        bitnetc_frontend_gguf::printable(text)
    )]
    BadName {
        /// What was given.
        text: String,
    },
    /// The cache does not hold it.
    #[error("{name} ({revision}) is not in the cache at {}", cache.display())]
    NotCached {
        /// The repository.
        name: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// No environment variable says where the cache is.
    #[error("no directory for the model cache: set HF_HUB_CACHE, HF_HOME or HOME")]
    NoCache,
    /// What is no directory.
    #[error("{}: {}", path.display(), if *exists { "this is a file; a checkpoint is a directory with config.json, tokenizer.json and *.safetensors" } else { "there is no such directory" })]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// Whether there is something else.
        exists: bool,
    },
    /// A directory that is no checkpoint.
    #[error("{}: {file} is missing; a checkpoint is a directory with config.json, tokenizer.json and *.safetensors{hint}", directory.display())]
    NoFile {
        /// The directory.
        directory: PathBuf,
        /// What is missing.
        file: String,
        /// What to do.
        hint: &'static str,
    },
}

impl std::str::FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let Some(repository) = text.strip_prefix("hf:") else { return Ok(Self::Directory(text.into())) };
        let bad = || LocationError::BadName { text: text.to_owned() };
        let (name, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        let plain = |part: &str| {
            let known = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            known
                && !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("--")
                && !part.contains("..")
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| plain(part)) || !revision.split('/').all(plain) {
            return Err(bad());
        }
        Ok(Self::Repository { name: name.to_owned(), revision: revision.to_owned() })
    }
}

impl Location {
    /// The directory, which need not hold a checkpoint.
    ///
    /// # Errors
    /// A repository that is not in the cache.
    pub fn directory(&self) -> Result<PathBuf, LocationError> {
        match self {
            Self::Directory(path) => Ok(path.clone()),
            Self::Repository { name, revision } => snapshot(&cache()?, name, revision),
        }
    }
}

/// The cache of models, as `huggingface_hub` finds it.
fn cache() -> Result<PathBuf, LocationError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("huggingface/hub")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/huggingface/hub")))
        .ok_or(LocationError::NoCache)
}

/// The directory of a revision: a commit by itself, or the one that a file in `refs` names.
fn snapshot(cache: &Path, name: &str, revision: &str) -> Result<PathBuf, LocationError> {
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let named = std::fs::read_to_string(repository.join("refs").join(revision)).ok();
    let commit = named.as_deref().map_or(revision, str::trim);
    let found =
        Some(repository.join("snapshots").join(commit)).filter(|path| is_commit(commit) && path.is_dir());
    found.ok_or_else(|| LocationError::NotCached {
        name: name.to_owned(),
        revision: revision.to_owned(),
        cache: cache.to_owned(),
    })
}

/// The files of a checkpoint, mapped.
#[derive(Debug)]
pub struct Files {
    config: Mapping,
    generation_config: Option<Mapping>,
    tokenizer: Mapping,
    tokenizer_config: Option<Mapping>,
    chat_template: Option<Mapping>,
    index: Option<Mapping>,
    shards: Vec<(String, Mapping)>,
}

impl Files {
    /// Opens the files of the checkpoint in a directory.
    ///
    /// # Errors
    /// A file that is missing or cannot be read; an index that names files outside of the directory.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        if !directory.is_dir() {
            let exists = directory.exists();
            return Err(LocationError::NotADirectory { path: directory.to_owned(), exists }.into());
        }
        let optional = |file: &str| match Mapping::open(&directory.join(file), MapMode::Mapped) {
            Ok(mapping) => Ok(Some(mapping)),
            Err(MapError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Open(error)),
        };
        let required = |file: &str, hint| {
            optional(file)?.ok_or_else(|| {
                Error::from(LocationError::NoFile {
                    directory: directory.to_owned(),
                    file: file.to_owned(),
                    hint,
                })
            })
        };
        const SENTENCEPIECE: &str = " (a tokenizer.model alone, SentencePiece, is not supported)";
        let index = optional("model.safetensors.index.json")?;
        let names = match &index {
            Some(index) => shard_names(index.as_slice())
                .map_err(|source| Error::Import { path: directory.to_owned(), source })?,
            None => vec!["model.safetensors".to_owned()],
        };
        let config = required("config.json", "")?;
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            let file = required(&name, " (weights in other formats have to be converted first)")?;
            shards.push((name, file));
        }
        Ok(Self {
            config,
            generation_config: optional("generation_config.json")?,
            tokenizer: required("tokenizer.json", SENTENCEPIECE)?,
            tokenizer_config: optional("tokenizer_config.json")?,
            chat_template: optional("chat_template.jinja")?,
            index,
            shards,
        })
    }

    /// Their bytes.
    pub fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint {
            config: self.config.as_slice(),
            generation_config: self.generation_config.as_ref().map(Mapping::as_slice),
            tokenizer: self.tokenizer.as_slice(),
            tokenizer_config: self.tokenizer_config.as_ref().map(Mapping::as_slice),
            chat_template: self.chat_template.as_ref().map(Mapping::as_slice),
            index: self.index.as_ref().map(Mapping::as_slice),
            shards: self.shards.iter().map(|(name, file)| (name.as_str(), file.as_slice())).collect(),
        }
    }
}

/// Checks the checkpoint in `directory`.
///
/// # Errors
/// A checkpoint that is damaged, incomplete or not supported.
pub fn check<'a>(directory: &Path, files: &'a Files, options: &Options) -> Result<Import<'a>, Error> {
    Import::read(&files.checkpoint(), options)
        .map_err(|source| Error::Import { path: directory.to_owned(), source })
}

/// Writes the GGUF file to `path`, whole or not at all, and returns its length; `progress` is told the bytes written so
/// far, and stops the work by returning false. The finished file is opened and its weights are checked before it takes
/// its place.
///
/// # Errors
/// Weights that cannot be converted; a file that cannot be written; [`Error::Interrupted`]. What was at the path before is
/// kept then.
pub fn write_import(
    directory: &Path,
    import: &Import<'_>,
    path: &Path,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let file = WholeFile::create(path)?;
    let unwritable =
        |source| Error::File(WholeFileError::Io { operation: "write", path: path.to_owned(), source });
    let mut stream = FileStream::new(file.file());
    let mut done = 0;
    let written = import.write(|piece| {
        stream.write_all(piece).map_err(|source| Stopped::Write(unwritable(source)))?;
        done += piece.len() as u64;
        if progress(done) { Ok(()) } else { Err(Stopped::Write(Error::Interrupted)) }
    });
    written.map_err(|stopped| match stopped {
        Stopped::Write(error) => error,
        Stopped::Convert(source) => Error::Import { path: directory.to_owned(), source },
    })?;
    stream.finish().map_err(unwritable)?;
    let bytes = Mapping::open(file.temporary_path(), MapMode::Mapped)?;
    let refused = |source| Error::Gguf { path: path.to_owned(), source };
    let model = bitnetc_frontend_gguf::Model::open(bytes.as_slice()).map_err(refused)?;
    model.check_weights().map_err(refused)?;
    drop(model);
    drop(bytes);
    // What was read of a shard that was truncated meanwhile are zeros.
    if map::any_lost() {
        return Err(MapError::Lost { path: directory.to_owned() }.into());
    }
    Ok(file.commit()?)
}

/// Why writing ended.
enum Stopped {
    Convert(bitnetc_import::ImportError),
    Write(Error),
}

impl From<bitnetc_import::ImportError> for Stopped {
    fn from(error: bitnetc_import::ImportError) -> Self {
        Self::Convert(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_plain() {
        let repository = |name: &str, revision: &str| Location::Repository {
            name: name.into(),
            revision: revision.into(),
        };
        assert_eq!("hf:a/b".parse::<Location>().unwrap(), repository("a/b", "main"));
        assert_eq!("hf:gpt2@refs/pr/1".parse::<Location>().unwrap(), repository("gpt2", "refs/pr/1"));
        assert_eq!("./hf".parse::<Location>().unwrap(), Location::Directory("./hf".into()));
        for bad in [
            "hf:",
            "hf:a/../b",
            "hf:a/b/c",
            "hf:/etc",
            "hf:a/b@../..",
            "hf:a/b@",
            "hf:a b",
            "hf:a--b/c",
            "hf:.a",
        ] {
            assert!(matches!(bad.parse::<Location>(), Err(LocationError::BadName { .. })), "{bad}");
        }
    }

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repository = cache.path().join("models--a--b");
        let snapshot_dir = repository.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot_dir).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), format!("{commit}\n")).unwrap();
        std::fs::write(repository.join("refs/bad"), "../../..").unwrap();
        assert_eq!(snapshot(cache.path(), "a/b", "main").unwrap(), snapshot_dir);
        assert_eq!(snapshot(cache.path(), "a/b", commit).unwrap(), snapshot_dir);
        for (name, revision) in [("a/b", "bad"), ("a/b", "other"), ("a/c", "main")] {
            let error = snapshot(cache.path(), name, revision).unwrap_err().to_string();
            assert!(error.contains("is not in the cache"), "{error}");
        }
    }
}
