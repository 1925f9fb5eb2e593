//! How many threads pay off here: the CPUs that the process may run on, with the siblings of one core counted once, and
//! no more than its cgroups let it use.
//!
//! Everything is read from files below a root directory, so that tests can give a tree of their own. Whatever cannot be
//! read or understood limits nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::cgroups::{Group, groups};

/// What limits the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// CPUs that the process may be scheduled on.
    pub allowed: u32,
    /// Cores among them: hardware threads of one core are counted once.
    pub cores: u32,
    /// CPUs' worth of time that the cgroups of the process grant, rounded up.
    pub quota: Option<u32>,
}

impl Cpus {
    /// What this process has.
    pub fn probe() -> Self {
        Self::read(Path::new("/"), &affinity())
    }

    /// What a process that may run on the CPUs `allowed` has, by the files below `root`.
    pub fn read(root: &Path, allowed: &[u32]) -> Self {
        let cores: BTreeSet<String> = allowed.iter().map(|&cpu| core_of(root, cpu)).collect();
        Self {
            allowed: (allowed.len() as u32).max(1),
            cores: (cores.len() as u32).max(1),
            quota: quota(root),
        }
    }

    /// Threads to use when none are asked for: one for each core, within the quota.
    pub fn threads(&self) -> u32 {
        self.cores.min(self.quota.unwrap_or(u32::MAX)).max(1)
    }

    /// Threads that can run at the same time.
    pub fn at_once(&self) -> u32 {
        self.allowed.min(self.quota.unwrap_or(u32::MAX)).max(1)
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CPUs on {} cores", self.allowed, self.cores)?;
        match self.quota {
            Some(quota) => write!(f, ", a quota of {quota}"),
            None => Ok(()),
        }
    }
}

/// Processor time that the calling thread has had.
pub fn thread_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    std::time::Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Lets the calling thread run where the others leave time, as far as the system can do that.
pub fn lower_priority() {
    // The highest value of `nice`; in Linux it is of a thread.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
}

/// The CPUs that the process may be scheduled on.
fn affinity() -> Vec<u32> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        let all = 0..rustix::thread::CpuSet::MAX_CPU;
        let allowed: Vec<u32> = all.filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u32).collect();
        if !allowed.is_empty() {
            return allowed;
        }
    }
    (0..std::thread::available_parallelism().map_or(1, |n| n.get() as u32)).collect()
}

/// A name of the core that a CPU belongs to: the list of its hardware threads.
fn core_of(root: &Path, cpu: u32) -> String {
    let topology = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
    let list = ["core_cpus_list", "thread_siblings_list"]
        .iter()
        .find_map(|name| fs::read_to_string(topology.join(name)).ok())
        .map(|text| text.trim().to_owned());
    list.filter(|text| !text.is_empty()).unwrap_or_else(|| cpu.to_string())
}

/// The least quota of the cgroups of this process and of those around them.
fn quota(root: &Path) -> Option<u32> {
    let quota = |group: &Group| if group.unified { quota_of_v2(group) } else { quota_of_v1(group) };
    groups(root, "cpu").iter().filter_map(quota).min()
}

fn cpus(quota: u64, period: u64) -> Option<u32> {
    (period > 0 && quota > 0).then(|| u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX))
}

/// `cpu.max`: a quota or `max`, and a period, in microseconds.
fn quota_of_v2(group: &Group) -> Option<u32> {
    let text = group.text("cpu.max")?;
    let mut words = text.split_whitespace();
    let quota = words.next()?.parse().ok()?;
    cpus(quota, words.next().map_or(Some(100_000), |period| period.parse().ok())?)
}

/// Quota (−1: none) and period in a file each.
fn quota_of_v1(group: &Group) -> Option<u32> {
    let number = |name: &str| group.text(name)?.trim().parse::<i64>().ok();
    let quota = u64::try_from(number("cpu.cfs_quota_us")?).ok()?;
    cpus(quota, u64::try_from(number("cpu.cfs_period_us")?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(files: &[(&str, &str)], allowed: &[u32]) -> Cpus {
        Cpus::read(tree(files).path(), allowed)
    }

    #[test]
    fn nothing_to_read_limits_nothing() {
        let cpus = read(&[], &[0, 3, 5]);
        assert_eq!(cpus, Cpus { allowed: 3, cores: 3, quota: None });
        assert_eq!((cpus.threads(), cpus.at_once()), (3, 3));
        assert_eq!(read(&[], &[]).threads(), 1);
    }

    #[test]
    fn siblings_count_once() {
        let siblings = |cpu: u32| format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let files: Vec<(String, &str)> =
            (0..4).map(|cpu| (siblings(cpu), if cpu % 2 == 0 { "0,2\n" } else { "1,3\n" })).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let cpus = read(&files, &[0, 1, 2, 3]);
        assert_eq!((cpus.allowed, cpus.cores, cpus.threads(), cpus.at_once()), (4, 2, 2, 4));
        // One of two siblings is a core of its own.
        assert_eq!(read(&files, &[1, 2]).threads(), 2);
        assert_eq!(read(&files, &[1, 3]).threads(), 1);
    }

    #[test]
    fn a_quota_of_version_2_is_rounded_up_and_inherited() {
        let own = ("proc/self/cgroup", "0::/a/b\n");
        let of = |files: &[(&str, &str)]| read(&[&[own], files].concat(), &[0, 1, 2, 3]).quota;
        assert_eq!(of(&[("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n")]), Some(2));
        assert_eq!(of(&[("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")]), None);
        let both =
            [("sys/fs/cgroup/a/b/cpu.max", "300000 100000\n"), ("sys/fs/cgroup/a/cpu.max", "50000 100000\n")];
        assert_eq!(of(&both), Some(1));
        assert_eq!(of(&[("sys/fs/cgroup/cpu.max", "200000 100000")]), Some(2));
        for broken in ["", "x 100000", "100000 0", "100000 y", "-1 100000"] {
            assert_eq!(of(&[("sys/fs/cgroup/a/b/cpu.max", broken)]), None, "{broken}");
        }
    }

    #[test]
    fn a_quota_of_version_1_is_found_where_it_is_mounted() {
        let own = ("proc/self/cgroup", "7:memory:/m\n3:cpu,cpuacct:/docker/x\n");
        for mount in ["cpu,cpuacct", "cpu"] {
            for group in ["/docker/x", ""] {
                let at = |name: &str| format!("sys/fs/cgroup/{mount}{group}/{name}");
                let (quota, period) = (at("cpu.cfs_quota_us"), at("cpu.cfs_period_us"));
                let cpus = read(&[own, (&quota, "250000\n"), (&period, "100000\n")], &[0, 1, 2, 3]);
                assert_eq!((cpus.quota, cpus.threads()), (Some(3), 3));
                assert_eq!(read(&[own, (&quota, "-1\n"), (&period, "100000\n")], &[0]).quota, None);
            }
        }
    }

    #[test]
    fn paths_do_not_leave_the_tree() {
        let files = [("proc/self/cgroup", "0::/../../secret\n"), ("secret/cpu.max", "100000 100000")];
        assert_eq!(read(&files, &[0, 1]).quota, None);
    }

    #[test]
    fn this_machine_can_run_a_thread() {
        let cpus = Cpus::probe();
        assert!((1..=cpus.allowed).contains(&cpus.threads()), "{cpus}");
        assert!(cpus.threads() <= cpus.at_once().max(cpus.cores));
    }
}
