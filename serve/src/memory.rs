//! The memory of the machine and of this process, as the system tells them.

/// A number of kB in a file of `/proc`, in bytes.
fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes that can be taken without others being swapped out; `None` where the system does not say.
pub(crate) fn available() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// Bytes that this process is resident with.
pub(crate) fn resident() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// Bytes of prefixes that are kept where nobody says how many: a tenth of the memory, at most 2 GiB.
pub(crate) fn default_cache() -> u64 {
    kilobytes("/proc/meminfo", "MemTotal:").unwrap_or(0).div_euclid(10).min(2 << 30)
}

/// Bytes in decimal units.
pub(crate) fn shown(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        assert!(available().unwrap() > 0 && resident().unwrap() > 1 << 20);
        assert!(default_cache() <= 2 << 30);
        assert_eq!(kilobytes("/proc/meminfo", "NoSuchThing:"), None);
        assert_eq!(
            (shown(1_500), shown(2_000_000), shown(3_210_000_000)),
            ("1.5 kB".into(), "2.0 MB".into(), "3.21 GB".into())
        );
    }
}
