//! Names of models.
//!
//! Invariants: the parts of a [`HubRef`] are safe as parts of paths and of URLs: no empty part, no `.` or `..`, no separators or
//! control characters where they do not belong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{StoreError, printable};

/// What names a model on the Hub.
const SCHEME: &str = "hf:";

/// Hosts of the Hub in addresses of its pages.
const HOSTS: &[&str] = &["huggingface.co", "www.huggingface.co", "hf.co"];

/// The name in [`SCHEME`] for the address of a page or a file of the Hub: `https://huggingface.co/org/repo/blob/main/a.gguf`,
/// `hf.co/org/repo`, `hf.co/org/repo:a.gguf`, `hf://org/repo`. Nothing if it is none.
fn name_of_address(text: &str) -> Option<String> {
    let without_query = text.split(['?', '#']).next().unwrap_or_default();
    let path = match without_query.strip_prefix("hf://") {
        Some(path) => path,
        None => {
            let rest =
                without_query.strip_prefix("https://").or_else(|| without_query.strip_prefix("http://"));
            let (host, path) = rest.unwrap_or(without_query).split_once('/')?;
            HOSTS.iter().any(|known| host.eq_ignore_ascii_case(known)).then_some(path)?
        }
    };
    let mut parts = path.trim_end_matches('/').splitn(5, '/');
    let repo = format!("{}/{}", parts.next()?, parts.next().unwrap_or_default());
    Some(match (parts.next(), parts.next(), parts.next()) {
        (Some("blob" | "resolve" | "raw"), Some(revision), Some(file)) => {
            let file = file.replace("%20", " ");
            format!("{SCHEME}{repo}@{revision}:{file}")
        }
        (Some("tree"), Some(revision), _) => format!("{SCHEME}{repo}@{revision}"),
        _ => format!("{SCHEME}{repo}"),
    })
}

/// Aliases that are always there, with what they stand for.
pub const ALIASES: &[(&str, &str)] =
    &[("2b-4t", "hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf")];

/// A repository of the Hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId {
    /// User or organisation.
    pub owner: String,
    /// Name.
    pub name: String,
}

impl RepoId {
    /// The folder of the repository in the cache.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }

    /// The repository of a folder in the cache.
    pub fn of_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        let both = is_repo_part(owner) && is_repo_part(name);
        both.then(|| Self { owner: owner.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A model on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRef {
    /// Its repository.
    pub repo: RepoId,
    /// A branch, tag or commit.
    pub revision: String,
    /// Its file, or the first of its files; the only model of the repository if there is nothing.
    pub file: Option<String>,
}

/// A letter, digit, `-`, `_` or `.`, as names of the Hub have.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_repo_part(text: &str) -> bool {
    let edges = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 96
        && text.chars().all(is_name_char)
        && text.starts_with(edges)
        && text.ends_with(edges)
        && !text.contains("..")
        && !text.contains("--")
}

/// Whether a path of a repository's file is relative, plain, and stays inside.
pub(super) fn is_file_path(path: &str) -> bool {
    let part =
        |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\');
    path.len() <= 1024 && path.split('/').all(part)
}

/// Whether a revision can stand in a URL and below `refs`.
pub(super) fn is_revision(text: &str) -> bool {
    text.len() <= 200
        && text.split('/').all(|part| !matches!(part, "" | "." | "..") && part.chars().all(is_name_char))
}

/// Whether a revision is a commit, which never changes.
#[cfg(feature = "hub")]
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl FromStr for HubRef {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let wrong = |why| StoreError::Name { name: printable(text), why };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with hf:"))?;
        let (repo, file) = match rest.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (rest, None),
        };
        let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let (owner, name) = repo.split_once('/').ok_or_else(|| wrong("there is no org/repo"))?;
        if !is_repo_part(owner) || !is_repo_part(name) {
            return Err(wrong("org/repo has characters that the Hub does not allow"));
        }
        if !is_revision(revision) {
            return Err(wrong("the revision is no branch, tag or commit"));
        }
        if file.is_some_and(|file| !is_file_path(file)) {
            return Err(wrong("the file is no relative path"));
        }
        Ok(Self {
            repo: RepoId { owner: owner.to_owned(), name: name.to_owned() },
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

/// What a command was given as its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A file of this machine.
    File(PathBuf),
    /// A model of the Hub.
    Hub(HubRef),
}

/// Whether a name can be an alias: no path, no scheme.
pub fn is_alias(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name_char) && !name.starts_with(['.', '-'])
}

impl ModelRef {
    /// What `name` stands for: `hf:org/repo[@revision][:file]`, the address of a page or a file of the Hub, a file, or an
    /// alias. A file that is there counts before an alias of the same name; `aliases` count before [`ALIASES`], and may name files
    /// too.
    ///
    /// # Errors
    /// A name, or the meaning of an alias, that begins with `hf:` and goes on wrongly.
    pub fn parse(name: &std::path::Path, aliases: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        let Some(text) = name.to_str() else { return Ok(ModelRef::File(name.to_owned())) };
        if text.starts_with(SCHEME) && !text.starts_with("hf://") {
            return text.parse().map(ModelRef::Hub);
        }
        if name.exists() {
            return Ok(ModelRef::File(name.to_owned()));
        }
        if let Some(name) = name_of_address(text) {
            return name.parse().map(ModelRef::Hub);
        }
        let own = aliases.get(text).map(String::as_str);
        let built_in = || ALIASES.iter().find(|(alias, _)| *alias == text).map(|(_, meaning)| *meaning);
        match own.or_else(built_in) {
            Some(meaning) if meaning.starts_with(SCHEME) => meaning.parse().map(ModelRef::Hub),
            Some(meaning) => Ok(ModelRef::File(PathBuf::from(meaning))),
            None => Ok(ModelRef::File(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn addresses_are_names() {
        for (address, name) in [
            ("https://huggingface.co/o/r", "hf:o/r"),
            ("https://huggingface.co/o/r/", "hf:o/r"),
            ("http://www.huggingface.co/o/r", "hf:o/r"),
            ("hf.co/o/r", "hf:o/r"),
            ("hf.co/o/r:a.gguf", "hf:o/r:a.gguf"),
            ("hf://o/r", "hf:o/r"),
            ("huggingface.co/o/r/tree/v1", "hf:o/r@v1"),
            ("https://huggingface.co/o/r/blob/main/sub/a%20b.gguf", "hf:o/r:sub/a b.gguf"),
            ("https://huggingface.co/o/r/resolve/v1/a.gguf?download=true", "hf:o/r@v1:a.gguf"),
        ] {
            let found = ModelRef::parse(Path::new(address), &BTreeMap::new()).unwrap();
            assert_eq!(found, ModelRef::Hub(name.parse().unwrap()), "{address}");
        }
        for other in ["https://example.com/o/r", "huggingface.co", "o/r", "hf.co.example/o/r"] {
            let found = ModelRef::parse(Path::new(other), &BTreeMap::new()).unwrap();
            assert_eq!(found, ModelRef::File(other.into()), "{other}");
        }
        for bad in ["hf.co/o", "https://huggingface.co/o/../x", "hf://"] {
            assert!(ModelRef::parse(Path::new(bad), &BTreeMap::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_taken_apart_and_put_together() {
        for text in [
            "hf:microsoft/bitnet-b1.58-2B-4T-gguf",
            "hf:o/r:a.gguf",
            "hf:o/r@v1.0:sub/folder/a b.gguf",
            "hf:o/r@refs/pr/3",
            "hf:o_1/r.x@0123456789012345678901234567890123456789:f",
        ] {
            let parsed: HubRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(RepoId::of_folder(&parsed.repo.folder()), Some(parsed.repo));
        }
        let parsed: HubRef = "hf:o/r@main:x:y".parse().unwrap();
        assert_eq!((parsed.revision.as_str(), parsed.file.as_deref()), ("main", Some("x:y")));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in [
            "",
            "o/r",
            "hf:",
            "hf:r",
            "hf:/r",
            "hf:o/",
            "hf:o/r/x",
            "hf:../r",
            "hf:o/..",
            "hf:o/r:",
            "hf:o/r:/etc/passwd",
            "hf:o/r:../x",
            "hf:o/r:a/../b",
            "hf:o/r:a//b",
            "hf:o/r:a\\b",
            "hf:o/r:a\nb",
            "hf:o/r@",
            "hf:o/r@../x",
            "hf:o/r@a b",
            "hf:o--x/r",
            "hf:o/r?x=1",
            "hf:o/r%2e",
            "hf:-o/r",
            "hf:o/r.",
        ] {
            assert!(text.parse::<HubRef>().is_err(), "{text}");
        }
        for folder in ["models--o", "models--..--r", "datasets--o--r", "models--o--r--x/y"] {
            assert_eq!(RepoId::of_folder(folder), None, "{folder}");
        }
    }

    #[test]
    fn aliases_stand_for_names() {
        let own = BTreeMap::from([
            ("mine".to_owned(), "hf:o/r".to_owned()),
            ("local".to_owned(), "/models/a.gguf".to_owned()),
            ("bad".to_owned(), "hf:nonsense".to_owned()),
        ]);
        let parse = |name: &str| ModelRef::parse(Path::new(name), &own);
        assert_eq!(parse("mine").unwrap(), ModelRef::Hub("hf:o/r".parse().unwrap()));
        assert_eq!(parse("local").unwrap(), ModelRef::File("/models/a.gguf".into()));
        assert!(parse("bad").is_err());
        assert!(matches!(parse("2b-4t").unwrap(), ModelRef::Hub(hub) if hub.repo.owner == "microsoft"));
        assert_eq!(parse("other.gguf").unwrap(), ModelRef::File("other.gguf".into()));
        for (alias, meaning) in ALIASES {
            assert!(is_alias(alias) && meaning.parse::<HubRef>().is_ok(), "{alias}");
        }
        assert!(!is_alias("a/b") && !is_alias("hf:o") && !is_alias(""));
    }
}
