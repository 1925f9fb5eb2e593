//! Compiled plans of models from the Hub: compiled once, then found by what they were made from and how.
//!
//! A plan's name ends in two hashes: of what identifies the model file's bytes, by which all plans of a model are found, and
//! over that, every option that changes the plan, the target, and the version of this program. So another option or version finds
//! no plan and makes its own.
//!
//! A plan holds the second hash too, so another model's plan under the name is noticed. Its weights are checked against their hash by a
//! thread of low priority while the model is already used ([`crate::WeightsCheck`]): at the first use, after every change of the file,
//! and once a week, which a small file beside the plan remembers. What is damaged is removed, so that the next use makes it again.
//!
//! Invariants: a plan appears whole or not at all; a plan that does not load, whatever the reason, is made again.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::plan::MAGIC;

use super::{StoreError, cache_home, io_error};
use crate::compile::plan_model;
use crate::error::Error;
use crate::load::{LoadOptions, Loaded, Source, load};
use crate::plan_in_use::{CheckState, WeightsCheck};

/// The option of a plan in the cache that says what it was made from and how.
const KEY_OPTION: &str = "cache_key";
/// How long the weights of a plan that nothing has changed are taken to be sound.
const CHECK_AGAIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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

    /// That the folder is one and not a link to another, in which nothing is written or removed.
    fn check_link(&self) -> Result<(), StoreError> {
        match self.root.symlink_metadata() {
            Ok(found) if found.is_symlink() => Err(StoreError::Link { path: self.root.clone() }),
            _ => Ok(()),
        }
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
        self.check_link()?;
        let (mut count, mut bytes) = (0, 0);
        for plan in self.list()? {
            if wanted(&plan.path.file_name().unwrap_or_default().to_string_lossy()) {
                clear(&plan.path)?;
                (count, bytes) = (count + 1, bytes + plan.bytes);
            }
        }
        self.sweep_stamps();
        Ok((count, bytes))
    }

    /// Removes what is remembered of plans that are gone. A stamp that cannot be removed does no harm.
    fn sweep_stamps(&self) {
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let stamp = entry.path();
            let plan = stamp.with_extension("");
            let is_stamp = plan.extension().is_some_and(|e| e == "plan") && stamp_of(&plan) == stamp;
            if is_stamp && plan.symlink_metadata().is_err() {
                let _ = std::fs::remove_file(stamp);
            }
        }
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
        let content = content_of(gguf, options.map_mode)?;
        let key = key_of(options, &content)?;
        let path = self.place(gguf, &content, &key);
        if path.symlink_metadata().is_ok() {
            match self.open(&path, options, &key) {
                Ok(Some(loaded)) => return Ok((loaded, Used::Found)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                // Whatever is wrong with it, it can be made again.
                Ok(None) | Err(_) => clear(&path)?,
            }
        }
        self.check_link()?;
        std::fs::create_dir_all(&self.root).map_err(io_error("create", &self.root))?;
        let source = Source::open(Some(gguf), options.map_mode)?.with_options(options.model);
        let model = source.gguf_model()?;
        let mut planned = plan_model(gguf, &model, &options.build)?;
        planned.meta.creation_options.push((KEY_OPTION.to_owned(), key));
        let total = planned.weight_bytes();
        let written = planned.write(&path, |done| source.check().is_ok() && progress(done, total));
        source.check()?;
        written?;
        Ok((load(Some(&path), options)?, Used::Compiled))
    }

    /// Opens what stands under the name of a plan; `None` if it is no plan of this cache that was made for `key`.
    fn open(&self, path: &Path, options: &LoadOptions, key: &str) -> Result<Option<Loaded>, Error> {
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Ok(None);
        }
        let mut loaded = load(Some(path), options)?;
        let Some(plan) = loaded.plan.clone() else { return Ok(None) };
        let made_for =
            plan.plan().index().meta().creation_options.iter().find(|(name, _)| name == KEY_OPTION);
        if made_for.is_none_or(|(_, made_for)| made_for != key) {
            return Ok(None);
        }
        let (stamp, state) = (stamp_of(path), state_of(path));
        if !options.verify && !was_checked(&stamp, state.as_deref()) {
            let path = path.to_owned();
            loaded.check = WeightsCheck::start(&plan, move |result| match result {
                CheckState::Damaged => {
                    // The next use makes it again. Where it cannot be removed, the next use finds the damage again.
                    let _ = clear(&path);
                }
                // No more than a saving of work.
                CheckState::Sound if state.is_some() && state_of(&path) == state => {
                    let _ = std::fs::write(&stamp, state.unwrap_or_default());
                }
                _ => {}
            });
        }
        Ok(Some(loaded))
    }

    /// Where the plan of a model stands.
    fn place(&self, gguf: &Path, content: &str, key: &str) -> PathBuf {
        let stem = gguf.file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        let name = format!("{}-{}-{}.plan", stem.trim_start_matches('.'), short_hash(content), &key[..16]);
        self.root.join(name)
    }
}

/// First 48 bits of the hash of what identifies a model file, in hexadecimal.
fn short_hash(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex()[..12].to_owned()
}

/// Removes what stands under the name of a plan, of a link the link, and what is remembered of it.
fn clear(path: &Path) -> Result<(), StoreError> {
    let _ = std::fs::remove_file(stamp_of(path));
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Where it is remembered in what state the weights of a plan were checked.
fn stamp_of(plan: &Path) -> PathBuf {
    plan.with_extension("plan.checked")
}

/// Length and time of the last change of a file. Tools that change bytes can set the time of the change back, but not the time of
/// the change of the file's entry, which Unix has too.
fn state_of(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let changed = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(format!("{} {}{}", metadata.len(), changed.as_nanos(), entry_state(&metadata)))
}

/// File system, number and time of the last change of a file's entry.
#[cfg(unix)]
fn entry_state(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
    format!(" {} {} {seconds}.{nanoseconds:09}", metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn entry_state(_: &std::fs::Metadata) -> String {
    String::new()
}

/// Whether the weights of a plan in this state were checked a short time ago.
fn was_checked(stamp: &Path, state: Option<&str>) -> bool {
    let is_recent = |written: SystemTime| written.elapsed().is_ok_and(|age| age < CHECK_AGAIN);
    let written = stamp.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(is_recent)
        && state.is_some_and(|state| std::fs::read(stamp).is_ok_and(|s| s == state.as_bytes()))
}

/// A hash over what a plan is made from and how.
fn key_of(options: &LoadOptions, content: &str) -> Result<String, Error> {
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
        ("activations", build.activations.map(|format| format.to_string()).unwrap_or_default()),
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
    Ok(hasher.finalize().to_hex().to_string())
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

    /// A cached plan of the tiny model, in a folder of its own.
    fn cached() -> (tempfile::TempDir, PathBuf, PlanCache, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("tiny.gguf");
        std::fs::write(&gguf, TinyModel::default().to_gguf()).unwrap();
        let cache = PlanCache::new(folder.path().join("plans"));
        cache.load(&gguf, &LoadOptions::default(), |_, _| true).unwrap();
        let plan = cache.list().unwrap()[0].path.clone();
        (folder, gguf, cache, plan)
    }

    /// The plan of the tiny model with another module, index of weights or key, and all hashes right.
    fn write_changed(gguf: &Path, plan: &Path, change: impl FnOnce(&mut crate::compile::Planned<'_, '_>)) {
        let source = Source::open(Some(gguf), bitnetc_runtime::map::MapMode::Mapped).unwrap();
        let model = source.gguf_model().unwrap();
        let mut planned = plan_model(gguf, &model, &BuildOptions::default()).unwrap();
        change(&mut planned);
        planned.write(plan, |_| true).unwrap();
    }

    /// A name, and what is done to a plan.
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);

    #[test]
    fn whatever_stands_in_the_place_of_a_plan_it_is_made_again() {
        let (folder, gguf, cache, plan) = cached();
        let sound = std::fs::read(&plan).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "kept").unwrap();
        let mut other_version = sound.clone();
        other_version[8] = 99;
        let damages: &[Damage<'_>] = &[
            ("empty", Box::new(|| std::fs::write(&plan, "").unwrap())),
            ("foreign", Box::new(|| std::fs::write(&plan, "no plan of ours, nor a model").unwrap())),
            ("a model", Box::new(|| assert!(std::fs::copy(&gguf, &plan).unwrap() > 0))),
            ("version", Box::new(|| std::fs::write(&plan, &other_version).unwrap())),
            (
                "another head",
                Box::new(|| {
                    write_changed(&gguf, &plan, |planned| {
                        let text =
                            bitnetc_ir::text::print(&planned.module).replace("func @head(", "func @tail(");
                        planned.module = bitnetc_ir::text::parse(&text).unwrap();
                    })
                }),
            ),
            ("no key", Box::new(|| write_changed(&gguf, &plan, |_| {}))),
            (
                "a folder",
                Box::new(|| {
                    std::fs::remove_file(&plan).unwrap();
                    std::fs::create_dir(&plan).unwrap();
                    std::fs::write(plan.join("inside"), "x").unwrap();
                }),
            ),
            #[cfg(unix)]
            (
                "a link",
                Box::new(|| {
                    std::fs::remove_file(&plan).unwrap();
                    std::os::unix::fs::symlink(&elsewhere, &plan).unwrap();
                }),
            ),
        ];
        for (what, damage) in damages {
            damage();
            let (loaded, used) = cache.load(&gguf, &LoadOptions::default(), |_, _| true).unwrap();
            assert_eq!(used, Used::Compiled, "{what}");
            drop(loaded);
            assert!(std::fs::read(&plan).unwrap() == sound, "{what}");
            assert!(plan.symlink_metadata().unwrap().is_file(), "{what}");
        }
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"kept");
        #[cfg(unix)]
        {
            std::fs::remove_file(&plan).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&plan).status().unwrap().success());
            assert_eq!(cache.load(&gguf, &LoadOptions::default(), |_, _| true).unwrap().1, Used::Compiled);
        }
    }

    #[test]
    fn the_plan_of_another_model_is_noticed() {
        let (folder, gguf, cache, plan) = cached();
        let sound = std::fs::read(&plan).unwrap();
        let other = folder.path().join("other.gguf");
        std::fs::write(&other, TinyModel { seed: 77, ..TinyModel::default() }.to_gguf()).unwrap();
        cache.load(&other, &LoadOptions::default(), |_, _| true).unwrap();
        let of_other = cache.list().unwrap().into_iter().find(|p| p.path != plan).unwrap();
        std::fs::copy(&of_other.path, &plan).unwrap();
        assert_eq!(cache.load(&gguf, &LoadOptions::default(), |_, _| true).unwrap().1, Used::Compiled);
        assert!(std::fs::read(&plan).unwrap() == sound);
    }

    #[test]
    fn weights_are_checked_beside_the_work_and_once() {
        let (_folder, gguf, cache, plan) = cached();
        let sound = std::fs::read(&plan).unwrap();
        let open = || cache.load(&gguf, &LoadOptions::default(), |_, _| true).unwrap();
        let (loaded, used) = open();
        let check = loaded.weights_check().expect("a first use is checked");
        assert_eq!((used, check.wait(&|| true)), (Used::Found, CheckState::Sound));
        loaded.model.check_weights().unwrap();
        assert!(open().0.weights_check().is_none(), "it was checked a moment ago");
        let stamp = stamp_of(&plan);
        assert!(stamp.exists());

        // Bytes that are written with the time of the change set back are checked again.
        #[cfg(unix)]
        {
            let time = plan.metadata().unwrap().modified().unwrap();
            std::fs::write(&plan, &sound).unwrap();
            std::fs::File::options().write(true).open(&plan).unwrap().set_modified(time).unwrap();
            let (loaded, _) = open();
            let check = loaded.weights_check().expect("the file was written");
            assert_eq!(check.wait(&|| true), CheckState::Sound);
        }

        // A flipped bit in the middle of the longest weight.
        let parsed = bitnetc_runtime::plan::Plan::load(&plan, &Default::default()).unwrap();
        let longest = parsed.index().weights().iter().max_by_key(|entry| entry.length).unwrap();
        let at = parsed.index().weights_range().start + (longest.offset + longest.length / 2) as usize;
        drop(parsed);
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        std::fs::remove_file(&plan).unwrap();
        std::fs::write(&plan, &flipped).unwrap();
        let (loaded, used) = open();
        assert_eq!(used, Used::Found);
        assert_eq!(loaded.weights_check().unwrap().wait(&|| true), CheckState::Damaged);
        assert!(!stamp.exists(), "it is remembered of a plan that is gone");
        let fault = loaded.model.check_weights().unwrap_err();
        assert!(fault.to_string().contains("do not match their hash"), "{fault}");
        drop(loaded);
        assert_eq!(open().1, Used::Compiled);
        assert!(std::fs::read(&plan).unwrap() == sound);

        // A stamp whose plan was removed by other means goes with the next removal.
        std::fs::write(&stamp, "x").unwrap();
        let orphan = stamp_of(&plan.with_file_name("gone.plan"));
        std::fs::write(&orphan, "x").unwrap();
        assert_eq!(cache.remove_all().unwrap().0, 1);
        assert!(!stamp.exists() && !orphan.exists());
    }
}
