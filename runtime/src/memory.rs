//! The memory of the machine and of this process, as the system reports it. What a control group grants (`docker run --memory`, a
//! limit of Kubernetes, `MemoryMax=` of systemd) bounds it: the process is killed for more, whatever the machine has left.

use std::fs;
use std::path::Path;

use crate::cgroups::{Group, groups};

/// Bytes of memory; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In all.
    pub total: Option<u64>,
    /// That can be taken without something else being swapped out.
    pub available: Option<u64>,
}

impl Memory {
    /// What this process has.
    pub fn probe() -> Self {
        Self::read(Path::new("/"))
    }

    /// What a process has, by the files below `root`.
    pub fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let all = Self { total: bytes(&text, "MemTotal:"), available: bytes(&text, "MemAvailable:") };
        groups(root, "memory").iter().filter_map(granted).fold(all, |least, (limit, left)| Self {
            total: Some(least.total.map_or(limit, |total| total.min(limit))),
            available: Some(least.available.map_or(left, |available| available.min(left))),
        })
    }
}

/// Bytes that this process is resident with; `None` where the system does not say.
pub fn resident() -> Option<u64> {
    bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// A number of bytes for people, in decimal units: `1.2 GB`.
pub fn in_units(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A number of kB in a text of `/proc`, in bytes.
fn bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a group grants, and what is left of it. Cached files that were not used lately are given up before anything else.
fn granted(group: &Group) -> Option<(u64, u64)> {
    let (limit, usage, cached) = match group.unified {
        true => ("memory.max", "memory.current", "inactive_file"),
        false => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    };
    let number = |name: &str| group.text(name)?.trim().parse::<u64>().ok();
    // `max` is no number.
    let (limit, used) = (number(limit)?, number(usage)?);
    let stat = group.text("memory.stat").unwrap_or_default();
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let cached = lines.find(|(name, _)| *name == cached).and_then(|(_, value)| value.trim().parse().ok());
    Some((limit, limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Memory {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Memory::read(root.path())
    }

    const MACHINE: (&str, &str) =
        ("proc/meminfo", "MemTotal:       24689764 kB\nMemFree:  1 kB\nMemAvailable:   22334455 kB\n");

    #[test]
    fn the_machine_and_the_groups_bound_it() {
        let whole = Memory { total: Some(24_689_764 * 1024), available: Some(22_334_455 * 1024) };
        assert_eq!(read(&[MACHINE]), whole);
        assert_eq!(read(&[]), Memory::default());
        let own = ("proc/self/cgroup", "0::/a/b\n");
        let unbounded = [MACHINE, own, ("sys/fs/cgroup/a/b/memory.max", "max\n")];
        assert_eq!(read(&unbounded), whole);
        let bounded = [
            MACHINE,
            own,
            ("sys/fs/cgroup/a/b/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100\n"),
            // The group around it has less left.
            ("sys/fs/cgroup/a/memory.max", "6000\n"),
            ("sys/fs/cgroup/a/memory.current", "5500\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 700\nactive_file 9\n"),
        ];
        assert_eq!(read(&bounded), Memory { total: Some(5000), available: Some(1200) });
        let first = [
            ("proc/self/cgroup", "7:memory:/m\n3:cpu,cpuacct:/x\n"),
            ("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "900"),
            ("sys/fs/cgroup/memory/m/memory.usage_in_bytes", "1000"),
        ];
        assert_eq!(read(&first), Memory { total: Some(900), available: Some(0) });
    }

    #[test]
    fn bytes_are_shown_in_decimal_units() {
        assert_eq!(
            [0, 999, 1_500, 2_000_000, 3_210_000_000].map(in_units),
            ["0 B", "999 B", "1.5 kB", "2.0 MB", "3.21 GB"]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        let Memory { total, available } = Memory::probe();
        assert!(available > Some(0) && total >= available && resident() > Some(1 << 20));
    }
}
