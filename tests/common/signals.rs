//! Commands whose signals tests send: included by each of them (`#[path]`).

use std::process::Command;

/// Signals that a shell may have ignored in what it starts: `nohup` SIGHUP, a script SIGINT in the background.
#[cfg(target_os = "linux")]
fn any_is_ignored() -> bool {
    const HUP_INT_TERM: u64 = 1 << 0 | 1 << 1 | 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & HUP_INT_TERM != 0
}

#[cfg(not(target_os = "linux"))]
fn any_is_ignored() -> bool {
    false
}

/// `program`, started with no signal ignored, though the tests may have been: what is ignored at the start stays ignored.
pub fn with_default_signals(program: &str) -> Command {
    if !any_is_ignored() {
        return Command::new(program);
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", program]);
    command
}
