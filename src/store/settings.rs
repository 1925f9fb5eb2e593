//! Where things are and what is allowed, from the environment, by the names that Hugging Face's own tools read.
//!
//! Invariant: the environment is read here and nowhere else in this module; tests give their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{StoreError, io_error};

/// Longest token that is read from a file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// What is to be known about the Hub.
#[derive(Clone)]
pub struct HubSettings {
    /// The Hub's address, without a slash at the end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The folder of the cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub cache: PathBuf,
    /// The user's access token (`HF_TOKEN`, or the file `token` in `HF_HOME`).
    pub token: Option<String>,
    /// Whether nothing may be fetched (`HF_HUB_OFFLINE`).
    pub offline: bool,
}

impl std::fmt::Debug for HubSettings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.is_some())
            .field("offline", &self.offline)
            .finish()
    }
}

/// Gives the value of an environment variable.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A variable that is set to something.
fn set(variable: Variable<'_>, name: &str) -> Option<OsString> {
    variable(name).filter(|value| !value.is_empty())
}

fn text(variable: Variable<'_>, name: &str) -> Option<String> {
    let value = set(variable, name)?.into_string().ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// A path, with `~` for the home directory.
fn path(variable: Variable<'_>, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(set(variable, name)?);
    match path.strip_prefix("~") {
        Ok(rest) => Some(PathBuf::from(set(variable, "HOME")?).join(rest)),
        Err(_) => Some(path),
    }
}

/// A folder of the XDG base directory specification: absolute, or it does not count.
fn xdg(variable: Variable<'_>, name: &str, in_home: &str) -> Option<PathBuf> {
    let given = set(variable, name).map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| Some(PathBuf::from(set(variable, "HOME")?).join(in_home)))
}

/// The folder of the user's caches: `XDG_CACHE_HOME`, or `.cache` in the home directory.
///
/// # Errors
/// Neither is known.
pub fn cache_home(variable: Variable<'_>) -> Result<PathBuf, StoreError> {
    let none = StoreError::NoHome { what: "caches", variable: "HOME or XDG_CACHE_HOME" };
    xdg(variable, "XDG_CACHE_HOME", ".cache").ok_or(none)
}

/// The folder of the user's settings: `XDG_CONFIG_HOME`, or `.config` in the home directory.
///
/// # Errors
/// Neither is known.
pub fn config_home(variable: Variable<'_>) -> Result<PathBuf, StoreError> {
    let none = StoreError::NoHome { what: "settings", variable: "HOME or XDG_CONFIG_HOME" };
    xdg(variable, "XDG_CONFIG_HOME", ".config").ok_or(none)
}

impl HubSettings {
    /// The settings of an environment.
    ///
    /// # Errors
    /// No folder for the cache; a token file that cannot be read.
    pub fn from_env(variable: Variable<'_>) -> Result<Self, StoreError> {
        let home = match path(variable, "HF_HOME") {
            Some(home) => home,
            None => cache_home(variable)?.join("huggingface"),
        };
        let cache = path(variable, "HF_HUB_CACHE").or_else(|| path(variable, "HUGGINGFACE_HUB_CACHE"));
        let token = match text(variable, "HF_TOKEN").or_else(|| text(variable, "HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(token),
            None => {
                let file = path(variable, "HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
                token_of(&file)?
            }
        };
        let endpoint = text(variable, "HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = text(variable, "HF_HUB_OFFLINE")
            .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token,
            offline,
        })
    }
}

/// The token in a file, if there is one.
fn token_of(file: &Path) -> Result<Option<String>, StoreError> {
    use std::io::Read;
    let mut text = String::new();
    match std::fs::File::open(file).and_then(|f| f.take(MAX_TOKEN).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read the token in", file)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, StoreError> {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        HubSettings::from_env(&|name| variables.get(name).map(OsString::from))
    }

    #[test]
    fn folders_are_those_of_the_hubs_own_tools() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/hf")]), "/hf/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/blobs")]), "/blobs");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert!(matches!(settings(&[]), Err(StoreError::NoHome { .. })));
        assert_eq!(settings(&[("HF_HOME", "/x")]).unwrap().endpoint, "https://huggingface.co");
        let mirror = settings(&[("HF_HOME", "/x"), ("HF_ENDPOINT", "http://mirror/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror/hf");
        for (value, offline) in [("1", true), ("true", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(settings(&[("HF_HOME", "/x"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline);
        }
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).unwrap().token, None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let from_file = settings(&[("HF_HOME", home)]).unwrap();
        assert_eq!(from_file.token.as_deref(), Some("hf_file"));
        assert!(!format!("{from_file:?}").contains("hf_file"));
        let from_variable = settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_variable ")]).unwrap();
        assert_eq!(from_variable.token.as_deref(), Some("hf_variable"));
        assert_eq!(
            config_home(&|name| (name == "HOME").then(|| "/h".into())).unwrap(),
            Path::new("/h/.config")
        );
    }
}
