//! The control groups that bound a process: its own and those around it, in both versions.
//!
//! Everything is read from files below a root directory, so that tests can give a tree of their own. Whatever cannot be
//! read or understood bounds nothing.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The directory of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where its files are; it need not be there.
    pub(crate) directory: PathBuf,
    /// Whether it is of version 2, which names its files in another way.
    pub(crate) unified: bool,
}

impl Group {
    /// The text of one of its files.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }
}

/// The groups of this process that a controller may bound it by, and those around them.
pub(crate) fn groups(root: &Path, controller: &str) -> Vec<Group> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        // Some systems mount the two controllers of CPUs together.
        let mounts: &[&str] =
            if unified { &["", "unified"] } else { &[controllers, controller, "cpu,cpuacct"] };
        for mount in mounts {
            let top = root.join("sys/fs/cgroup").join(mount);
            // In a container the path may be that of the host, of which only the top is mounted.
            let around = Path::new(path.trim_start_matches('/')).ancestors();
            let plain = around.filter(|group| group.components().all(|c| matches!(c, Component::Normal(_))));
            found.extend(plain.map(|group| Group { directory: top.join(group), unified }));
        }
    }
    found
}
