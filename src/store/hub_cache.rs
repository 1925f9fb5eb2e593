//! The cache of the Hub on this machine, in the layout of Hugging Face's own tools:
//!
//! ```text
//! models--org--repo/refs/main                        the commit that `main` was when it was asked for
//! models--org--repo/snapshots/<commit>/<file>        a link to
//! models--org--repo/blobs/<hash>                     the bytes
//! ```
//!
//! Invariants: a blob appears under its name complete; a snapshot's links lead to blobs of the same repository; what other
//! tools have put there is used and, when a repository is removed, removed with it. Files are read through any link, but only a
//! snapshot's last one may be a link where something is written or removed, so that nothing outside of the cache is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitnetc_runtime::whole_file::WholeFile;

use super::reference::{is_commit, is_revision};
use super::{RepoId, StoreError, io_error};

/// Folders below a snapshot that are looked into.
const MAX_DEPTH: usize = 16;

/// A file in the cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CachedFile {
    /// Its repository.
    pub repo: RepoId,
    /// Its path in the repository.
    pub file: String,
    /// The commit of the snapshot.
    pub commit: String,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// The cache in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// The cache in `root`, which need not be there yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn repo(&self, repo: &RepoId) -> PathBuf {
        self.root.join(repo.folder())
    }

    /// The place of a blob.
    pub(super) fn blob(&self, repo: &RepoId, hash: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(hash)
    }

    /// That no folder between the cache and `path`, nor what is there, is a link.
    pub(super) fn check_links(&self, path: &Path) -> Result<(), StoreError> {
        let below = path.ancestors().take_while(|ancestor| *ancestor != self.root);
        let is_link = |path: &&Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        match below.filter(is_link).last() {
            Some(link) => Err(StoreError::Link { path: link.to_owned() }),
            None => Ok(()),
        }
    }

    /// The commit that a revision was when it was last asked for.
    pub fn commit(&self, repo: &RepoId, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        if !is_revision(revision) {
            return None;
        }
        let text = fs::read_to_string(self.repo(repo).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The files of a snapshot that are there, by path.
    pub fn files(&self, repo: &RepoId, commit: &str) -> Vec<CachedFile> {
        let root = self.repo(repo).join("snapshots").join(commit);
        let mut found = Vec::new();
        collect(&root, "", 0, &mut |file, path, bytes| {
            let (repo, commit) = (repo.clone(), commit.to_owned());
            found.push(CachedFile { repo, file, commit, bytes, path });
        });
        found.sort();
        found
    }

    /// All repositories with their snapshots' files.
    ///
    /// # Errors
    /// A cache that is there and cannot be read.
    pub fn list(&self) -> Result<Vec<CachedFile>, StoreError> {
        let mut all = Vec::new();
        for repo in self.repos()? {
            for commit in names(&self.repo(&repo).join("snapshots")) {
                if is_commit(&commit) {
                    all.extend(self.files(&repo, &commit));
                }
            }
        }
        all.sort();
        Ok(all)
    }

    fn repos(&self) -> Result<Vec<RepoId>, StoreError> {
        match fs::read_dir(&self.root) {
            Ok(_) => Ok(names(&self.root).iter().filter_map(|folder| RepoId::of_folder(folder)).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(io_error("read", &self.root)(error)),
        }
    }

    /// Makes a complete blob a file of a snapshot, and the snapshot what `revision` is.
    ///
    /// # Errors
    /// Files that cannot be made.
    pub(super) fn link(
        &self,
        repo: &RepoId,
        revision: &str,
        commit: &str,
        file: &str,
        hash: &str,
    ) -> Result<PathBuf, StoreError> {
        let snapshot = self.repo(repo).join("snapshots").join(commit);
        let place = snapshot.join(file);
        let folder = place.parent().unwrap_or(&snapshot);
        self.check_links(folder)?;
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let up = "../".repeat(file.split('/').count() + 1);
        let target = format!("{up}blobs/{hash}");
        link_to(&target, &self.blob(repo, hash), &place).map_err(io_error("link", &place))?;
        if revision != commit {
            let place = self.repo(repo).join("refs").join(revision);
            self.check_links(&place)?;
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder).map_err(io_error("create", folder))?;
            }
            if fs::read_to_string(&place).ok().as_deref() != Some(commit) {
                let whole = WholeFile::create(&place)?;
                whole.file().write_all(commit.as_bytes()).map_err(io_error("write", &place))?;
                whole.commit()?;
            }
        }
        Ok(place)
    }

    /// Removes a file from all snapshots of a repository, or the whole repository, and the blobs that nothing links to any
    /// more. Returns the number of bytes freed.
    ///
    /// # Errors
    /// Nothing of the kind in the cache; files that cannot be removed.
    pub fn remove(&self, repo: &RepoId, file: Option<&str>) -> Result<u64, StoreError> {
        let root = self.repo(repo);
        let missing = || StoreError::NotCached {
            what: file.map_or_else(|| repo.to_string(), |file| format!("{repo}:{file}")),
            cache: self.root.clone(),
        };
        if !root.is_dir() {
            return Err(missing());
        }
        for folder in ["blobs", "snapshots"] {
            self.check_links(&root.join(folder))?;
        }
        let before = size_of_blobs(&root);
        let Some(file) = file else {
            fs::remove_dir_all(&root).map_err(io_error("remove", &root))?;
            return Ok(before.values().sum());
        };
        let commits = names(&root.join("snapshots"));
        let places = commits.iter().map(|commit| root.join("snapshots").join(commit).join(file));
        let places: Vec<PathBuf> = places.filter(|place| place.symlink_metadata().is_ok()).collect();
        if places.is_empty() {
            return Err(missing());
        }
        for place in &places {
            self.check_links(place.parent().unwrap_or(place))?;
        }
        for place in &places {
            fs::remove_file(place).map_err(io_error("remove", place))?;
        }
        let mut linked = BTreeSet::new();
        for commit in &commits {
            collect(&root.join("snapshots").join(commit), "", 0, &mut |_, path, _| {
                linked.extend(fs::canonicalize(path).ok());
            });
        }
        let mut freed = 0;
        for (blob, bytes) in before {
            let is_linked = fs::canonicalize(&blob).is_ok_and(|blob| linked.contains(&blob));
            if !is_linked {
                fs::remove_file(&blob).map_err(io_error("remove", &blob))?;
                freed += bytes;
            }
        }
        Ok(freed)
    }
}

/// The blobs of a repository with their sizes, half fetched ones too.
fn size_of_blobs(root: &Path) -> BTreeMap<PathBuf, u64> {
    let folder = root.join("blobs");
    let blobs = names(&folder).into_iter().map(|name| folder.join(name));
    blobs.filter_map(|blob| Some((blob.clone(), fs::metadata(&blob).ok()?.len()))).collect()
}

/// The names in a folder that are UTF-8; none if there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Calls `visit` with the relative path, the path and the size of every file below a folder.
fn collect(folder: &Path, below: &str, depth: usize, visit: &mut dyn FnMut(String, PathBuf, u64)) {
    if depth > MAX_DEPTH {
        return;
    }
    for name in names(folder) {
        let path = folder.join(&name);
        let relative = if below.is_empty() { name } else { format!("{below}/{name}") };
        // A dangling link is not a file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let is_link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
        if metadata.is_file() {
            visit(relative, path, metadata.len());
        } else if metadata.is_dir() && !is_link {
            collect(&path, &relative, depth + 1, visit);
        }
    }
}

#[cfg(unix)]
fn link_to(target: &str, _: &Path, place: &Path) -> std::io::Result<()> {
    match fs::read_link(place) {
        Ok(there) if there == Path::new(target) => return Ok(()),
        Ok(_) => fs::remove_file(place)?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(target, place)
}

/// Where there are no links for everybody, the tools of the Hub have the bytes in the snapshot.
#[cfg(not(unix))]
fn link_to(_: &str, blob: &Path, place: &Path) -> std::io::Result<()> {
    match fs::hard_link(blob, place) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(blob, place).map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";
    const OTHER: &str = "9876543210987654321098765432109876543210";

    fn repo() -> RepoId {
        RepoId { owner: "org".to_owned(), name: "repo".to_owned() }
    }

    fn with_blobs(cache: &HubCache, blobs: &[(&str, &str)]) {
        for (hash, bytes) in blobs {
            let blob = cache.blob(&repo(), hash);
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::write(blob, bytes).unwrap();
        }
    }

    #[test]
    fn links_lead_to_blobs_from_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path().to_owned());
        assert_eq!(cache.list().unwrap(), []);
        with_blobs(&cache, &[("aa", "first"), ("bb", "second")]);
        let a = cache.link(&repo(), "main", COMMIT, "a.gguf", "aa").unwrap();
        let b = cache.link(&repo(), "refs/pr/1", COMMIT, "x/y/b.gguf", "bb").unwrap();
        assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"first".to_vec(), b"second".to_vec()));
        assert_eq!(cache.commit(&repo(), "main").as_deref(), Some(COMMIT));
        assert_eq!(cache.commit(&repo(), "refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(cache.commit(&repo(), OTHER).as_deref(), Some(OTHER));
        assert_eq!(cache.commit(&repo(), "v2"), None);
        let files: Vec<_> = cache.list().unwrap().into_iter().map(|f| (f.file, f.bytes)).collect();
        assert_eq!(files, [("a.gguf".to_owned(), 5), ("x/y/b.gguf".to_owned(), 6)]);
        // A new blob under the same name.
        cache.link(&repo(), "main", COMMIT, "a.gguf", "bb").unwrap();
        assert_eq!(fs::read(&a).unwrap(), b"second");
    }

    #[test]
    fn blobs_go_with_their_last_link() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path().to_owned());
        assert!(matches!(cache.remove(&repo(), None), Err(StoreError::NotCached { .. })));
        with_blobs(&cache, &[("aa", "first"), ("bb", "second"), ("cc.incomplete", "ha")]);
        cache.link(&repo(), "main", COMMIT, "a.gguf", "aa").unwrap();
        cache.link(&repo(), "main", OTHER, "a.gguf", "aa").unwrap();
        cache.link(&repo(), "main", OTHER, "same.gguf", "aa").unwrap();
        cache.link(&repo(), "main", OTHER, "b.gguf", "bb").unwrap();
        assert!(matches!(cache.remove(&repo(), Some("z.gguf")), Err(StoreError::NotCached { .. })));
        assert_eq!(cache.remove(&repo(), Some("a.gguf")).unwrap(), 2);
        assert!(cache.blob(&repo(), "aa").exists());
        assert_eq!(cache.remove(&repo(), Some("same.gguf")).unwrap(), 5);
        assert!(!cache.blob(&repo(), "aa").exists());
        assert_eq!(cache.list().unwrap().len(), 1);
        assert_eq!(cache.remove(&repo(), None).unwrap(), 6);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_folders_and_dangling_links_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path().to_owned());
        fs::create_dir_all(folder.path().join("datasets--o--r/snapshots")).unwrap();
        fs::write(folder.path().join("version.txt"), "1").unwrap();
        with_blobs(&cache, &[("aa", "first")]);
        cache.link(&repo(), "main", COMMIT, "a.gguf", "aa").unwrap();
        fs::remove_file(cache.blob(&repo(), "aa")).unwrap();
        assert_eq!(cache.list().unwrap(), []);
    }
}
