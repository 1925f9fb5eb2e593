//! Compiled plans of models from the Hub: compiled once, then found by what they were made from and how.
//!
//! A plan's name ends in two hashes: of what identifies the model file's bytes, by which all plans of a model are found, and
//! over that, every option that changes the plan, the target, and the version of this program. So another option or version finds no plan and makes its own; nothing is ever found that was made
//! otherwise.
//!
//! Invariants: a plan appears whole or not at all; a plan that does not load is made again.

use std::path::{Path, PathBuf};

use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::plan::MAGIC;

use super::{StoreError, cache_home, io_error};
use crate::compile::plan_model;
use crate::error::Error;
use crate::load::{LoadOptions, Loaded, Source, load};

/// A plan in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedPlan {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What became of a request for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// It was there.
    Found,
    /// It was made now.
    Compiled,
}

/// Plans in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanCache {
    root: PathBuf,
}

impl PlanCache {
    /// The cache in `root`, which need not be there yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache of the user: `bitnetc/plans` among their caches.
    ///
    /// # Errors
    /// No folder for caches is known.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, StoreError> {
        Ok(Self::new(cache_home(variable)?.join("bitnetc").join("plans")))
    }

    /// The folder of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The plans that are there, by name.
    ///
    /// # Errors
    /// A folder that is there and cannot be read.
    pub fn list(&self) -> Result<Vec<CachedPlan>, StoreError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &self.root)(error)),
        };
        let mut plans = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
                && path.extension().is_some_and(|e| e == "plan")
            {
                plans.push(CachedPlan { path, bytes: metadata.len() });
            }
        }
        plans.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(plans)
    }

    /// Removes all plans. Returns how many there were, and their bytes.
    ///
    /// # Errors
    /// A plan that cannot be removed.
    pub fn remove_all(&self) -> Result<(usize, u64), StoreError> {
        self.remove(|_| true)
    }

    /// Removes the plans of the model file `gguf`, however they were compiled. Returns how many there were, and their bytes.
    ///
    /// # Errors
    /// A model file that cannot be read; a plan that cannot be removed.
    pub fn remove_of(&self, gguf: &Path) -> Result<(usize, u64), Error> {
        let content = content_of(gguf, MapMode::Mapped)?;
        let part = format!("-{}-", short_hash(&content));
        Ok(self.remove(|name| name.contains(&part))?)
    }

    fn remove(&self, wanted: impl Fn(&str) -> bool) -> Result<(usize, u64), StoreError> {
        let (mut count, mut bytes) = (0, 0);
        for plan in self.list()? {
            if wanted(&plan.path.file_name().unwrap_or_default().to_string_lossy()) {
                std::fs::remove_file(&plan.path).map_err(io_error("remove", &plan.path))?;
                (count, bytes) = (count + 1, bytes + plan.bytes);
            }
        }
        Ok((count, bytes))
    }

    /// Opens the model file `gguf` by its plan, which is made first if it is not there. `progress` is told the bytes of weights
    /// that are packed, of how many, and stops the work by returning false.
    ///
    /// # Errors
    /// A model that cannot be opened or compiled; a plan that cannot be written.
    pub fn load(
        &self,
        gguf: &Path,
        options: &LoadOptions,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<(Loaded, Used), Error> {
        let path = self.place(gguf, options, &content_of(gguf, options.map_mode)?)?;
        if path.is_file() {
            match load(Some(&path), options) {
                Err(Error::Plan(_) | Error::PlanModule { .. } | Error::PlanLacks { .. }) => {}
                opened => return Ok((opened?, Used::Found)),
            }
        }
        std::fs::create_dir_all(&self.root).map_err(io_error("create", &self.root))?;
        let source = Source::open(Some(gguf), options.map_mode)?.with_options(options.model);
        let model = source.gguf_model()?;
        let planned = plan_model(gguf, &model, &options.build)?;
        let total = planned.weight_bytes();
        planned.write(&path, |done| progress(done, total))?;
        Ok((load(Some(&path), options)?, Used::Compiled))
    }

    /// Where the plan of a model stands.
    fn place(&self, gguf: &Path, options: &LoadOptions, content: &str) -> Result<PathBuf, Error> {
        let build = &options.build;
        let target = build.target()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&MAGIC);
        let parts = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("content", content.to_owned()),
            ("target", target.to_string()),
            ("threads", target.threads.to_string()),
            ("codegen", format!("{:?}", build.codegen)),
            ("kv_type", build.cache_type().name().to_owned()),
            ("head", build.head_format().to_string()),
            ("chunk", build.chunk.to_string()),
            ("passes", build.pipeline.to_string()),
            ("weights", build.packing().to_string()),
            ("model", format!("{:?}", options.model)),
            ("speeds", target.measured.map(|speeds| format!("{speeds:?}")).unwrap_or_default()),
        ];
        for (name, value) in parts {
            // Lengths first, so that no two lists of parts run together.
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value.as_bytes());
        }
        let key = &hasher.finalize().to_hex()[..16];
        let stem = gguf.file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        let name = format!("{}-{}-{key}.plan", stem.trim_start_matches('.'), short_hash(content));
        Ok(self.root.join(name))
    }
}

/// First 48 bits of the hash of what identifies a model file, in hexadecimal.
fn short_hash(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex()[..12].to_owned()
}

/// What identifies the bytes of a model file: the name of the blob that it links to, which is the hash that they were checked
/// against, or the hash of the bytes of all its parts.
fn content_of(gguf: &Path, map_mode: MapMode) -> Result<String, Error> {
    let canonical = std::fs::canonicalize(gguf).unwrap_or_else(|_| gguf.to_owned());
    let in_blobs = canonical.parent().and_then(Path::file_name).is_some_and(|folder| folder == "blobs");
    let name = canonical.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_hash = matches!(name.len(), 40 | 64) && name.bytes().all(|b| b.is_ascii_hexdigit());
    let source = Source::open(Some(gguf), map_mode)?;
    if in_blobs && is_hash && source.parts().len() == 1 {
        return Ok(format!("blob {name}"));
    }
    let mut hasher = blake3::Hasher::new();
    for part in source.parts() {
        hasher.update(&(part.len() as u64).to_le_bytes());
        bitnetc_threads::install(|| hasher.update_rayon(part));
    }
    Ok(format!("blake3 {}", hasher.finalize().to_hex()))
}

#[cfg(test)]
mod tests {
    use bitnetc_frontend_gguf::testing::TinyModel;
    use bitnetc_ir::CacheType;
    use bitnetc_passes::HeadFormat;

    use super::*;
    use crate::build::BuildOptions;

    #[test]
    fn a_model_is_compiled_once_for_each_set_of_options() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("tiny.gguf");
        std::fs::write(&gguf, TinyModel::default().to_gguf()).unwrap();
        let cache = PlanCache::new(folder.path().join("plans"));
        let plain = LoadOptions::default();
        let get = |options: &LoadOptions| cache.load(&gguf, options, |_, _| true).unwrap().1;
        assert_eq!(cache.list().unwrap(), []);
        assert_eq!((get(&plain), get(&plain)), (Used::Compiled, Used::Found));
        let with = |build: BuildOptions| LoadOptions { build, ..LoadOptions::default() };
        let head = with(BuildOptions { head: Some(HeadFormat::Stored), ..BuildOptions::default() });
        assert_eq!((get(&head), get(&head), get(&plain)), (Used::Compiled, Used::Found, Used::Found));
        let kv = with(BuildOptions { cache: Some(CacheType::F32), ..BuildOptions::default() });
        assert_eq!(get(&kv), Used::Compiled);
        let plans = cache.list().unwrap();
        assert_eq!(plans.len(), 3);
        assert!(plans.iter().all(|p| p.path.file_name().unwrap().to_str().unwrap().starts_with("tiny-")));

        // Another file under the same name.
        std::fs::write(&gguf, TinyModel { seed: 77, ..TinyModel::default() }.to_gguf()).unwrap();
        assert_eq!(get(&plain), Used::Compiled);
        assert_eq!(cache.remove_of(&gguf).unwrap().0, 1, "those of the other content stay");
        std::fs::write(&gguf, TinyModel::default().to_gguf()).unwrap();
        let renamed = folder.path().join("other.gguf");
        std::fs::rename(&gguf, &renamed).unwrap();
        assert_eq!(cache.remove_of(&renamed).unwrap().0, 3);
        assert_eq!(cache.list().unwrap(), []);
        cache.load(&renamed, &plain, |_, _| true).unwrap();
        assert_eq!(cache.remove_all().unwrap().0, 1);
    }

    #[test]
    fn a_damaged_plan_is_made_again_and_an_interruption_leaves_none() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("tiny.gguf");
        std::fs::write(&gguf, TinyModel::default().to_gguf()).unwrap();
        let cache = PlanCache::new(folder.path().join("plans"));
        let options = LoadOptions::default();
        let stopped = cache.load(&gguf, &options, |_, _| false);
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(cache.list().unwrap(), []);
        cache.load(&gguf, &options, |_, _| true).unwrap();
        let plan = &cache.list().unwrap()[0].path;
        let bytes = std::fs::read(plan).unwrap();
        std::fs::write(plan, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(cache.load(&gguf, &options, |_, _| true).unwrap().1, Used::Compiled);
        assert_eq!(std::fs::read(plan).unwrap(), bytes);
    }
}
