//! Writing a plan under adverse conditions: a file size limit and a kill at any moment. The old plan must survive.
//!
//! Each test runs this test binary again as a child process, told by an environment variable what to do.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bitnetc_runtime::plan::{
    LoadOptions, Plan, PlanEncoder, PlanError, PlanMeta, PlanSettings, SourceFile, write_plan,
};

/// Holds the path that the child process writes to.
const TARGET: &str = "BITNETC_TEST_PLAN_TARGET";

fn fill(module: &str, weights: usize) -> impl FnOnce(&mut PlanEncoder<'_>) -> Result<(), PlanError> {
    move |plan| {
        plan.module(module)?;
        plan.meta(&PlanMeta {
            model_name: "test".to_owned(),
            architecture: "bitnet-b1.58".to_owned(),
            hyper_parameters: vec![],
            source: SourceFile { hash: [0; 32], bytes: 0 },
            defaults_used: vec![],
            creation_options: vec![],
            producer: "test".to_owned(),
        })?;
        plan.weights(|sink| {
            for name in 0..weights {
                sink.push(&name.to_string(), "u8[65536]", &[name as u8; 65_536])?;
            }
            Ok(())
        })
    }
}

fn write(path: &Path, module: &str, weights: usize) -> Result<u64, PlanError> {
    write_plan(path, &PlanSettings::default(), fill(module, weights))
}

fn load(path: &Path) -> Plan {
    let options = LoadOptions { verify_weights: true, ..LoadOptions::default() };
    Plan::load(path, &options).unwrap_or_else(|error| panic!("{error}"))
}

fn target() -> Option<PathBuf> {
    std::env::var_os(TARGET).map(PathBuf::from)
}

/// `sh -c script` with this binary as `$0` and the name of a test in it.
fn child(script: &str, test: &str, target: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(TARGET, target);
    command
}

#[test]
fn file_size_limit() {
    if let Some(path) = target() {
        let error = write(&path, "new", 64).unwrap_err();
        assert!(matches!(error, PlanError::Write { .. } | PlanError::Io { .. }), "{error}");
        assert!(error.to_string().contains("os error 27"), "{error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.plan");
    write(&path, "old", 4).unwrap();
    // 2048 blocks of 512 or 1024 bytes: less than the 4 MiB of weights. The signal is ignored so that the write fails.
    let script = r#"trap '' XFSZ; ulimit -f 2048; exec "$0" "$@""#;
    let output = child(script, "file_size_limit", &path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(load(&path).index().module_text(), "old");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left behind");
}

#[test]
fn killed_at_any_moment() {
    if let Some(path) = target() {
        loop {
            write(&path, "new", 8).unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.plan");
    write(&path, "old", 4).unwrap();
    let (mut replaced, mut round) = (false, 0);
    // On a slow machine until a write was finished.
    while round < 40 || !replaced {
        assert!(round < 2000, "no write was finished, so that nothing was tested");
        let mut process = child(r#"exec "$0" "$@""#, "killed_at_any_moment", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first rounds wait until the child has begun to write; then the delays sweep over a few writes.
        let start = Instant::now();
        while std::fs::read_dir(directory.path()).unwrap().count() < 2
            && start.elapsed() < Duration::from_secs(5)
        {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(round * 300));
        round += 1;
        process.kill().unwrap();
        process.wait().unwrap();
        replaced |= load(&path).index().module_text() == "new";
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let left = entry.unwrap().path();
            if left != path {
                std::fs::remove_file(left).unwrap();
            }
        }
    }
}
