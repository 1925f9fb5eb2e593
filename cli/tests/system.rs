//! What the system does to a command: signals, limits of threads and file sizes, a processor without AVX, a terminal.
#![cfg(target_os = "linux")]

#[path = "../../tests/common/signals.rs"]
#[allow(unreachable_pub)]
mod signals;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use signals::with_default_signals;

const BITNETC: &str = env!("CARGO_BIN_EXE_bitnetc");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/shakespeare/shakespeare-5m-i2_s.gguf");
/// What the built-in model says after `ROMEO:`, in 4 tokens.
const SAYS: [&str; 9] = ["run", "-q", "-p", "ROMEO:", "-n", "4", "--temp", "0", "-t1"];

fn bitnetc(args: &[&str]) -> Command {
    let mut command = with_default_signals(BITNETC);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Starts a command that writes a large file to `folder`, and sends it the signal while it does.
fn ended_while_writing(folder: &Path, signal: &str) -> Output {
    let place = folder.join("n.gguf");
    let args =
        ["synth", "--preset", "2b-4t", "--vocab", "small", "--layers", "8", "-o", place.to_str().unwrap()];
    let mut child = bitnetc(&args).spawn().unwrap();
    while !names(folder).iter().any(|name| name.ends_with(".tmp")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote");
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn a_writer_that_is_told_to_end_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, number) in [("-TERM", 15), ("-HUP", 1), ("-INT", 2)] {
        let output = ended_while_writing(folder.path(), name);
        match name {
            "-INT" => assert_eq!(output.status.code(), Some(130), "{}", stderr(&output)),
            _ => assert_eq!(output.status.signal(), Some(number), "{name}: {}", stderr(&output)),
        }
        assert!(names(folder.path()).is_empty(), "{name}: {:?}", names(folder.path()));
    }
}

#[test]
fn the_next_writer_removes_what_a_killed_one_left() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(ended_while_writing(folder.path(), "-KILL").status.signal(), Some(9));
    assert_eq!(names(folder.path()).len(), 1);
    let plan = folder.path().join("m.plan");
    let output = bitnetc(&["compile", "-q", MODEL, "-o", plan.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(folder.path()), ["m.plan"]);
}

/// The output of a command that is started with this signal ignored and gets it once it handles SIGTERM, or ends before.
fn that_ignores(signal: &str, folder: &Path) -> Output {
    let until = "[ ! -e /proc/$! ] || grep -qE '^SigCgt:.*4...$|^State:.Z' /proc/$!/status";
    let script =
        format!("trap '' {signal}; \"$0\" \"$@\" & until {until}; do :; done; kill -{signal} $! && wait $!");
    let mut command = Command::new("sh");
    command.args(["-c", &script, BITNETC]).args(SAYS).current_dir(folder);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_command_that_was_started_by_nohup_goes_on_after_a_hangup() {
    let folder = tempfile::tempdir().unwrap();
    let output = that_ignores("HUP", folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ROMEO:"));
}

#[test]
fn an_interrupt_that_was_ignored_at_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let output = that_ignores("INT", folder.path());
    assert!(output.status.success(), "{:?} {}", output.status, stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ROMEO:"));
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 100; exec \"$0\" compile -q \"$1\" -o m.plan", BITNETC, MODEL]);
    let output = command.current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{:?} {}", output.status, stderr(&output));
    assert!(stderr(&output).contains("File too large"), "{}", stderr(&output));
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

/// The command as a user with at most `processes` of them, or why that cannot be tried.
fn with_processes(processes: u32, variable: Option<&str>, args: &[&str]) -> Result<Output, &'static str> {
    let account = ["--reuid=64123", "--regid=64123", "--clear-groups"];
    let mut may_run = Command::new("setpriv");
    may_run.args(account).args([BITNETC, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    match may_run.status() {
        Err(_) => return Err("there is no setpriv"),
        Ok(status) if !status.success() => return Err("other accounts cannot run the command"),
        Ok(_) => {}
    }
    let mut command = Command::new("setpriv");
    command.args(account).args(["prlimit", &format!("--nproc={processes}"), BITNETC]).args(args);
    command.env("HOME", "/nowhere").env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    if let Some(threads) = variable {
        command.env("RAYON_NUM_THREADS", threads);
    }
    command.output().map_err(|_| "there is no prlimit")
}

#[test]
fn few_threads_are_enough_or_the_limit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let plan = folder.path().join("m.plan");
    let compile = ["compile", MODEL, "-o", plan.to_str().unwrap()];
    let two = ["run", "-p", "ROMEO:", "-n", "4", "--temp", "0", "-t", "2"];
    for (processes, threads, args) in [
        (1, None, &SAYS[..]),
        (2, None, &SAYS),
        (2, None, &compile),
        (40, Some("64"), &two),
        (3, None, &two),
        (2, None, &two),
    ] {
        let output = match with_processes(processes, threads, args) {
            Ok(output) => output,
            Err(why) => return println!("skipped: {why}"),
        };
        let said = stderr(&output);
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                assert!(said.contains("thread") && said.contains("ulimit -u"), "{processes} {args:?}: {said}")
            }
            code => panic!("{processes} {args:?}: {code:?} {said}"),
        }
        // One thread is there always.
        assert!(args != SAYS || output.status.success(), "{processes}: {said}");
        if threads.is_some() {
            assert!(output.status.success() && said.contains("of 64 threads"), "{said}");
        }
    }
}

/// Kernels that switch AVX off still show the bit of F16C; so does the processor of this emulator.
#[test]
fn a_processor_without_avx_runs_the_same_text() {
    let expected = bitnetc(&SAYS).output().unwrap();
    for cpu in ["Haswell,-xsave", "Westmere"] {
        let mut command = Command::new("qemu-x86_64");
        let Ok(output) = command.args(["-cpu", cpu, BITNETC]).args(SAYS).stdin(Stdio::null()).output() else {
            return println!("skipped: there is no qemu-x86_64");
        };
        assert!(output.status.success(), "{cpu}: {:?} {}", output.status, stderr(&output));
        assert_eq!(output.stdout, expected.stdout, "{cpu}");
    }
}

/// What the command sends to a terminal.
fn on_a_terminal(args: &str) -> Option<String> {
    let mut command = Command::new("script");
    command.args(["-qec", &format!("'{BITNETC}' {args}"), "/dev/null"]).stdin(Stdio::null());
    Some(String::from_utf8_lossy(&command.output().ok()?.stdout).into_owned())
}

#[test]
fn control_characters_of_a_text_are_shown_on_a_terminal() {
    // Token 215 is the byte 1B.
    let args = "run -q -p ROMEO: -n 2 --temp 0 -l 215+1000";
    let Some(shown) = on_a_terminal(args) else { return println!("skipped: there is no script") };
    assert!(shown.contains("ROMEO:\\u{1b}\\u{1b}") && !shown.contains('\u{1b}'), "{shown:?}");
    let raw = on_a_terminal(&format!("{args} --raw")).unwrap();
    assert!(raw.contains("ROMEO:\u{1b}\u{1b}"), "{raw:?}");
    let ids = on_a_terminal(&format!("detokenize {MODEL} 215 215")).unwrap();
    assert!(ids.contains("\\u{1b}\\u{1b}") && !ids.contains('\u{1b}'), "{ids:?}");
    let piped = bitnetc(&args.split(' ').collect::<Vec<_>>()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "ROMEO:\u{1b}\u{1b}\n");
}
