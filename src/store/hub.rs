//! The Hub: which files a repository has, and getting them into the cache.
//!
//! Invariants: nothing is asked of the network when offline; a name that is in the cache is found there without the network,
//! unless the newest is asked for; every part of a split model is there, or it is not found.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use bitnetc_frontend_gguf::split::PartName;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::download::{Patience, Progress, Wanted, Watch, fetch, status_error};
use super::http::{Ask, Client, encoded};
use super::reference::{is_commit, is_file_path};
use super::{HubCache, HubRef, HubSettings, RepoId, StoreError, printable};

/// Longest description of a repository that is read, in bytes.
const MAX_DESCRIPTION: usize = 32 << 20;
/// Most files of a repository.
const MAX_FILES: usize = 200_000;
/// Names that a message lists.
const NAMES_SHOWN: usize = 20;
/// Largest file that is believed in, in bytes.
const MAX_FILE: u64 = 1 << 46;

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its file, or the first of its files.
    pub path: PathBuf,
    /// The commit.
    pub commit: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Files that were not there before.
    pub fetched: usize,
    /// Of these, the ones for which the server had no hash, so that nothing says whether they are whole.
    pub unchecked: Vec<String>,
}

/// The Hub, and its cache.
pub struct Hub {
    settings: HubSettings,
    cache: HubCache,
    client: OnceCell<Client>,
    patience: Patience,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// The Hub of these settings.
    pub fn new(settings: HubSettings) -> Self {
        let cache = HubCache::new(settings.cache.clone());
        Self { settings, cache, client: OnceCell::new(), patience: Patience::default() }
    }

    /// The cache.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// A model that is in the cache, as it was when its revision was last asked for.
    ///
    /// # Errors
    /// Several models in the snapshot, of which the name says none.
    pub fn find(&self, name: &HubRef) -> Result<Option<Pulled>, StoreError> {
        let Some(commit) = self.cache.commit(&name.repo, &name.revision) else { return Ok(None) };
        let files = self.cache.files(&name.repo, &commit);
        let names: Vec<String> = files.iter().map(|f| f.file.clone()).collect();
        let parts = match choose(&name.repo, &names, name.file.as_deref()) {
            Ok(parts) => parts,
            Err(StoreError::NoFile { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found: Vec<_> = parts.iter().filter_map(|part| files.iter().find(|f| f.file == *part)).collect();
        match found.first() {
            Some(first) if found.len() == parts.len() => {
                let bytes = found.iter().map(|f| f.bytes).sum();
                Ok(Some(Pulled {
                    path: first.path.clone(),
                    commit,
                    bytes,
                    fetched: 0,
                    unchecked: Vec::new(),
                }))
            }
            _ => Ok(None),
        }
    }

    /// A model in the cache, fetched if it is not there. `watch` is told what is under way, and stops the work by returning
    /// false.
    ///
    /// # Errors
    /// As [`Hub::pull`].
    pub fn get(&self, name: &HubRef, watch: &mut dyn FnMut(&Progress) -> bool) -> Result<Pulled, StoreError> {
        match self.find(name)? {
            Some(found) => Ok(found),
            None => self.pull(name, watch),
        }
    }

    /// The newest of a model, fetched unless it is in the cache. When offline, what is there.
    ///
    /// # Errors
    /// A repository or file that is not there or not open to the user; a server that cannot be reached; bytes that are not the
    /// announced ones; files that cannot be written.
    pub fn pull(
        &self,
        name: &HubRef,
        watch: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<Pulled, StoreError> {
        if self.settings.offline {
            let missing =
                || StoreError::Offline { what: name.to_string(), cache: self.cache.root().to_owned() };
            return self.find(name)?.ok_or_else(missing);
        }
        let (commit, files) = self.describe(&name.repo, &name.revision, watch)?;
        let parts = choose(&name.repo, &files, name.file.as_deref())?;
        let mut pulled = Pulled { path: PathBuf::new(), commit, bytes: 0, fetched: 0, unchecked: Vec::new() };
        for (number, part) in parts.iter().enumerate() {
            let wanted = self.examine(&name.repo, &pulled.commit, part, watch)?;
            let blob = self.cache.blob(&name.repo, &wanted.hash);
            let there = std::fs::metadata(&blob).is_ok_and(|m| m.is_file() && m.len() == wanted.bytes);
            if !there {
                self.cache.check_links(&blob.with_added_extension("incomplete"))?;
                if !fetch(self.client(), &wanted, &blob, self.patience, watch)? {
                    pulled.unchecked.push(part.clone());
                }
                pulled.fetched += 1;
            }
            pulled.bytes += wanted.bytes;
            let revision = name.revision.as_str();
            let path = self.cache.link(&name.repo, revision, &pulled.commit, part, &wanted.hash)?;
            if number == 0 {
                pulled.path = path;
            }
        }
        Ok(pulled)
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| Client::new(&self.settings))
    }

    /// The commit of a revision and the files of the repository.
    fn describe(
        &self,
        repo: &RepoId,
        revision: &str,
        watch: &mut Watch<'_>,
    ) -> Result<(String, Vec<String>), StoreError> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.settings.endpoint, encoded(revision));
        let mut keep_going = || watch(&Progress::Asking);
        let answer = self.patience.ask(self.client(), &url, Ask::default(), &mut keep_going)?;
        if answer.status != 200 {
            return Err(status_error(&answer));
        }
        let wrong = |why: String| StoreError::Answer { url: url.clone(), why };
        let mut text = Vec::new();
        let mut body = answer.into_body().map_err(|failed| failed.into_error(&url))?;
        loop {
            let chunk = body.next(&mut keep_going).map_err(|failed| failed.into_error(&url))?;
            if chunk.is_empty() {
                break;
            }
            text.extend(chunk);
            if text.len() > MAX_DESCRIPTION {
                return Err(wrong(format!("its description is longer than {MAX_DESCRIPTION} bytes")));
            }
        }
        let description: Description = serde_json::from_slice(&text).map_err(|e| {
            let what = kind_of_body(&text).map_or_else(|| format!("it is not its JSON: {e}"), str::to_owned);
            wrong(format!("no description of a repository: {what}"))
        })?;
        if !is_commit(&description.sha) {
            return Err(wrong("it names no commit".to_owned()));
        }
        let files: Vec<String> =
            description.siblings.0.into_iter().filter(|file| is_file_path(file)).collect();
        if files.is_empty() {
            return Err(wrong(format!("it lists no files for {repo}: the repository is empty")));
        }
        Ok((description.sha, files))
    }

    /// What the server says about a file.
    fn examine(
        &self,
        repo: &RepoId,
        commit: &str,
        file: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Wanted, StoreError> {
        let url = format!("{}/{repo}/resolve/{commit}/{}", self.settings.endpoint, encoded(file));
        // The answer of the Hub itself, which is a redirect for large files.
        let ask = Ask { head: true, ..Ask::default() };
        let answer = self.patience.ask(self.client(), &url, ask, &mut || watch(&Progress::Asking))?;
        if !matches!(answer.status, 200 | 301 | 302 | 303 | 307 | 308) {
            return Err(status_error(&answer));
        }
        let wrong = |why: &str| StoreError::Answer { url: url.clone(), why: why.to_owned() };
        let hash = answer.header("x-linked-etag").or(answer.header("etag")).unwrap_or_default();
        let hash = hash.trim_start_matches("W/").trim_matches('"');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if hash.is_empty() || hash.len() > 128 || !hash.bytes().all(plain) {
            return Err(wrong("the file has no usable ETag"));
        }
        let linked = answer.header("x-linked-size");
        let own = answer.header("content-length").filter(|_| answer.status == 200);
        let bytes: Option<u64> = linked.or(own).and_then(|n| n.parse().ok());
        match bytes {
            Some(bytes) if bytes <= MAX_FILE => {
                Ok(Wanted { url, file: file.to_owned(), hash: hash.to_owned(), bytes })
            }
            _ => Err(wrong("the file has no usable size")),
        }
    }
}

/// What an answer is that should have been JSON, if its first bytes tell.
fn kind_of_body(body: &[u8]) -> Option<&'static str> {
    let text = body.trim_ascii_start();
    match body {
        [] => Some("the answer is empty"),
        [0x1f, 0x8b, ..] => Some("the answer is compressed (gzip), which was not requested"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("the answer is compressed (zstd), which was not requested"),
        _ if text.starts_with(b"<") => Some("the answer is an HTML page, as of a login or a proxy"),
        _ => None,
    }
}

/// What a message lists: the first names, and how many there are beside.
fn some(names: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let mut shown: Vec<String> = names.take(NAMES_SHOWN).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// What the Hub says of a repository: as much of it as is needed, in memory in proportion to the names of its files.
#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    sha: String,
    #[serde(default)]
    siblings: FileNames,
}

/// The names in a list of files; entries that are not files are skipped.
#[derive(Default)]
struct FileNames(Vec<String>);

impl<'de> Deserialize<'de> for FileNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = FileNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of files")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FileNames, A::Error> {
                let mut names = Vec::new();
                while let Some(FileName(name)) = list.next_element()? {
                    names.extend(name);
                    if names.len() > MAX_FILES {
                        return Err(A::Error::custom(format!("more than {MAX_FILES} files")));
                    }
                }
                Ok(FileNames(names))
            }
        }
        from.deserialize_seq(List)
    }
}

/// The name in the description of one file, if there is one.
struct FileName(Option<String>);

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            rfilename: Option<String>,
        }
        let raw = <&RawValue>::deserialize(from)?;
        Ok(FileName(serde_json::from_str::<Named>(raw.get()).ok().and_then(|named| named.rfilename)))
    }
}

/// The files of the model that `wanted` names, a file or a piece of the name of one; of the only model if it is `None`.
fn choose(repo: &RepoId, files: &[String], wanted: Option<&str>) -> Result<Vec<String>, StoreError> {
    let last = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
    let is_first = |file: &&String| PartName::parse(&last(file)).is_none_or(|part| part.number == 1);
    let models = || files.iter().filter(|file| file.to_ascii_lowercase().ends_with(".gguf")).filter(is_first);
    let missing = |what: String| {
        let names = some(files.iter().map(|file| printable(file)));
        StoreError::NoFile { repo: repo.to_string(), what, files: names.join(", ") }
    };
    let first = match wanted {
        Some(wanted) if files.iter().any(|file| file == wanted) => wanted.to_owned(),
        _ => {
            let piece = wanted.unwrap_or_default().to_ascii_lowercase();
            let matching: Vec<&String> =
                models().filter(|f| f.to_ascii_lowercase().contains(&piece)).collect();
            match &matching[..] {
                [one] => (*one).clone(),
                [] => return Err(missing(wanted.map_or("GGUF file".to_owned(), printable))),
                several => {
                    let files = some(several.iter().map(|file| format!("hf:{repo}:{}", printable(file))));
                    return Err(StoreError::Ambiguous { repo: repo.to_string(), files });
                }
            }
        }
    };
    let name = last(&first);
    let folder = &first[..first.len() - name.len()];
    match PartName::parse(&name).filter(|part| part.count > 1) {
        None => Ok(vec![first]),
        Some(part) => {
            let parts = (1..=part.count).map(|number| format!("{folder}{}", part.of_part(number)));
            let parts: Vec<String> = parts.collect();
            let there: HashSet<&String> = files.iter().collect();
            match parts.iter().find(|part| !there.contains(part)) {
                None => Ok(parts),
                Some(part) => Err(missing(printable(part))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
