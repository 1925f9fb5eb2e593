//! The machine and the build that figures belong to.

use std::time::{SystemTime, UNIX_EPOCH};

use bitnetc_codegen::host;
use bitnetc_ir::TargetDesc;
use bitnetc_runtime::memory::Memory;

/// The machine, as far as the system says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Architecture and features that code is generated for.
    pub target: String,
    /// Threads that this process may run at once.
    pub threads: u32,
    /// Level-1 data cache of a core, in bytes.
    pub l1d_bytes: u64,
    /// Level-2 cache of a core, in bytes.
    pub l2_bytes: u64,
    /// The largest cache, in bytes; it may be shared with other machines on the same host.
    pub last_cache_bytes: u64,
    /// Main memory, in bytes.
    pub memory_bytes: u64,
    /// Operating system.
    pub os: &'static str,
}

impl Machine {
    /// This machine, for code for `target`.
    pub fn describe(target: &TargetDesc) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_name(&read("/proc/cpuinfo")),
            target: target.to_string(),
            threads: target.threads,
            l1d_bytes: target.l1d_bytes.into(),
            l2_bytes: target.l2_bytes.into(),
            last_cache_bytes: host::last_cache_bytes().unwrap_or(0).into(),
            memory_bytes: Memory::probe().total.unwrap_or(0),
            os: std::env::consts::OS,
        }
    }
}

/// The build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Version of bitnetc.
    pub version: &'static str,
    /// `release`, or `debug` for a build with assertions, whose figures mean little.
    pub profile: &'static str,
}

impl Build {
    /// This build.
    pub fn this() -> Self {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        Self { version: env!("CARGO_PKG_VERSION"), profile }
    }
}

/// Name and family of the first processor in the text of `/proc/cpuinfo`.
fn cpu_name(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| "unknown".to_owned());
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

/// Today in UTC, as `2026-11-22`.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds / 86_400)
}

/// The date this number of days after 1970-01-01.
fn date(mut days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (days, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (365, "1971-01-01"),
            (11_016, "2000-02-29"),
            (20_779, "2026-11-22"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn the_processor_is_named() {
        let text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some CPU\n";
        assert_eq!(cpu_name(text), "Some CPU (family 6, model 207)");
        assert_eq!(cpu_name(""), "unknown");
    }
}
