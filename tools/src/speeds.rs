//! The machine's speeds as the cost model takes them ([`Speeds`]): measured, and remembered in a file, so that measuring once is
//! enough for plans that do not differ from one compilation to the next.
//!
//! Plans are made with assumed speeds unless measured ones are asked for. The file is a cache: what cannot be read is measured again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::Speeds;
use bitnetc_runtime::roofline::{Roofline, default_buffer_bytes};
use bitnetc_runtime::whole_file::WholeFile;
use serde::{Deserialize, Serialize};

use crate::bench::machine::Machine;
use crate::error::Error;
use bitnetc::store::cache_home;

/// Passes of each measurement; the median counts.
const PASSES: u32 = 5;
/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// Measures what `target`'s threads and code reach on this machine, over a buffer of `buffer_bytes` or, if there is nothing,
/// [`default_buffer_bytes`].
///
/// # Errors
/// This machine cannot run the target, memory could not be allocated, or threads could not be started.
pub fn measure(target: &TargetDesc, buffer_bytes: Option<u64>) -> Result<Speeds, Error> {
    let mut roofline = Roofline::new(target, buffer_bytes.unwrap_or_else(default_buffer_bytes))?;
    let millions = |rate: f64| (rate / 1e6).round().clamp(1.0, f64::from(u32::MAX)) as u32;
    let read_one_mb_s = millions(roofline.bandwidth(1, PASSES)?.median());
    let read_all_mb_s = match target.threads {
        0 | 1 => read_one_mb_s,
        threads => millions(roofline.bandwidth(threads, PASSES)?.median()).max(read_one_mb_s),
    };
    Ok(Speeds {
        read_one_mb_s,
        read_all_mb_s,
        int8_core_mmac_s: millions(roofline.int8_peak(1, PASSES)?.median()),
        vector_bytes: Speeds::assumed(target).vector_bytes,
    })
}

/// Speeds as the file has them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    read_one_mb_s: u32,
    read_all_mb_s: u32,
    int8_core_mmac_s: u32,
    vector_bytes: u32,
}

/// The file that speeds are remembered in, by processor, features and threads.
#[derive(Clone, Debug)]
pub struct SpeedsFile {
    path: PathBuf,
}

impl SpeedsFile {
    /// The file at `path`, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The user's: `bitnetc/speeds.json` among their caches.
    ///
    /// # Errors
    /// No folder for caches is known.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        Ok(Self::new(cache_home(variable)?.join("bitnetc").join("speeds.json")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn key(target: &TargetDesc) -> String {
        format!("{} | {target} | {} threads", Machine::describe(target).cpu, target.threads)
    }

    fn all(&self) -> BTreeMap<String, Entry> {
        let small = std::fs::metadata(&self.path).is_ok_and(|m| m.is_file() && m.len() <= MOST_BYTES);
        let text = if small { std::fs::read(&self.path).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// What is remembered of this machine with `target`.
    pub fn get(&self, target: &TargetDesc) -> Option<Speeds> {
        let entry = *self.all().get(&Self::key(target))?;
        let there = [entry.read_one_mb_s, entry.read_all_mb_s, entry.int8_core_mmac_s].iter().all(|&n| n > 0);
        let Entry { read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes } = entry;
        (there && [16, 32, 64].contains(&vector_bytes)).then_some(Speeds {
            read_one_mb_s,
            read_all_mb_s,
            int8_core_mmac_s,
            vector_bytes,
        })
    }

    /// Remembers the speeds of this machine with `target`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn put(&self, target: &TargetDesc, speeds: Speeds) -> Result<(), Error> {
        let mut all = self.all();
        let Speeds { read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes } = speeds;
        all.insert(Self::key(target), Entry { read_one_mb_s, read_all_mb_s, int8_core_mmac_s, vector_bytes });
        let unwritable = |source| Error::Speeds { path: self.path.clone(), source };
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(unwritable)?;
        }
        let file = WholeFile::create(&self.path)?;
        let text = serde_json::to_vec_pretty(&all).map_err(|e| unwritable(e.into()))?;
        file.file().write_all(&text).map_err(unwritable)?;
        file.commit()?;
        Ok(())
    }

    /// What is remembered, or else measured now and remembered.
    ///
    /// # Errors
    /// As [`measure`] and [`SpeedsFile::put`].
    pub fn get_or_measure(&self, target: &TargetDesc) -> Result<Speeds, Error> {
        if let Some(speeds) = self.get(target) {
            return Ok(speeds);
        }
        let speeds = measure(target, None)?;
        self.put(target, speeds)?;
        Ok(speeds)
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_codegen::host;

    use super::*;

    #[test]
    fn speeds_are_measured_in_their_units() {
        let target = host::probe().unwrap();
        let speeds = measure(&target, Some(1 << 20)).unwrap();
        // From 100 MB/s to 10 TB/s; from 10 million to 10^13 multiply-adds a second.
        assert!((100..10_000_000).contains(&speeds.read_one_mb_s), "{speeds:?}");
        assert!(speeds.read_all_mb_s >= speeds.read_one_mb_s);
        assert!((10..10_000_000).contains(&speeds.int8_core_mmac_s), "{speeds:?}");
    }

    #[test]
    fn what_was_measured_is_remembered_by_target() {
        let folder = tempfile::tempdir().unwrap();
        let file = SpeedsFile::new(folder.path().join("new").join("speeds.json"));
        let target = host::probe().unwrap();
        let mut other = target.clone();
        other.threads += 1;
        let speeds = Speeds { read_one_mb_s: 10, read_all_mb_s: 20, int8_core_mmac_s: 30, vector_bytes: 32 };
        assert_eq!(file.get(&target), None);
        file.put(&target, speeds).unwrap();
        file.put(&other, Speeds { read_one_mb_s: 11, ..speeds }).unwrap();
        assert_eq!(file.get_or_measure(&target).unwrap(), speeds);
        assert_eq!(file.get(&other).map(|s| s.read_one_mb_s), Some(11));
        for damaged in ["", "{", "[]", "{\"x\": 1}"] {
            std::fs::write(file.path(), damaged).unwrap();
            assert_eq!(file.get(&target), None);
        }
        // Speeds that no machine has are not taken.
        file.put(&target, Speeds { int8_core_mmac_s: 0, ..speeds }).unwrap();
        assert_eq!(file.get(&target), None);
        file.put(&target, Speeds { vector_bytes: 24, ..speeds }).unwrap();
        assert_eq!(file.get(&target), None);
    }
}
