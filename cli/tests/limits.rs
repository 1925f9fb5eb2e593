//! What costs time or memory out of proportion to the bytes of a file is refused, and what happens to a file while it is used is
//! an error: never a hang, an exhausted machine or a signal.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bitnetc_frontend_gguf::testing::TinyModel;
use common::write_model;

fn bitnetc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnetc")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).replace('\n', " ")
}

/// What a command says of this text.
fn of_text(text: &str, args: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.bir");
    std::fs::write(&file, text).unwrap();
    let output = bitnetc(&[args, &[file.to_str().unwrap()]].concat());
    (output.status.code(), stderr(&output))
}

const HEAD: &str = "bir 1 stage=planned target=x86_64+sse4.1\n";

/// One op with this number of parts.
fn split_bomb(n: usize) -> String {
    let names: Vec<String> = (1..=n).map(|i| format!("%{i}")).collect();
    let places: Vec<String> = (0..n).map(|i| format!("view %0+{}", 4 * i)).collect();
    let (types, ones, arena) =
        (vec!["f32[1]"; n].join(", "), vec!["1"; n].join(","), (4 * n).next_multiple_of(64));
    format!(
        "{HEAD}func @decode(%x: f32[{n}]) -> (f32[1]) tokens=1 arena={arena} {{\n  %0 = relu2 %x : f32[{n}] at 0+{arena} \
         barrier\n  {} = split %0 {{sizes=[{ones}]}} : {types} {}\n  %{} = relu2 %1 : f32[1] extern\n  return %{}\n}}\n",
        names.join(", "),
        places.join(", "),
        n + 1,
        n + 1
    )
}

/// Functions of independent ops without a barrier.
fn race(n: usize, funcs: usize) -> String {
    let mut text = HEAD.to_owned();
    for f in 0..funcs {
        writeln!(text, "func @f{f}(%x: f32[16]) -> (f32[16]) tokens=1 arena={} {{", 64 * n).unwrap();
        for i in 0..n - 1 {
            writeln!(text, "  %{i} = add %x, %x : f32[16] at {}+64", 64 * i).unwrap();
        }
        writeln!(text, "  %{} = add %x, %x : f32[16] extern\n  return %{}\n}}", n - 1, n - 1).unwrap();
    }
    text
}

/// Ops of different shapes, each of which would need a kernel.
fn kernels(n: usize) -> String {
    let inputs: Vec<String> = (1..=n).map(|w| format!("%x{w}: f32[{w}]")).collect();
    let mut text = format!("bir 1 stage=imported\nfunc @f({}) -> (f32[1]) tokens=1 {{\n", inputs.join(", "));
    for w in 1..=n {
        writeln!(text, "  %y{w} = add %x{w}, %x{w} : f32[{w}]").unwrap();
    }
    text + "  return %y1\n}\n"
}

#[test]
fn modules_take_time_in_proportion_to_their_text_or_are_refused() {
    let (code, said) = of_text(&split_bomb(300_000), &["ir", "check"]);
    assert!(
        code == Some(1) && said.contains("more than 64 results of an op") && said.len() < 1000,
        "{code:?} {said}"
    );
    assert_eq!(of_text(&race(16_000, 1), &["ir", "check"]).0, Some(0));
    assert_eq!(of_text(&race(16_000, 4), &["ir", "check"]).0, Some(0));
    let (code, said) = of_text(&race(16_000, 5), &["ir", "check"]);
    assert!(code == Some(1) && said.contains("more than 65536 ops"), "{code:?} {said}");
    let planned = race(20_000, 1).replace("stage=planned target=x86_64+sse4.1", "stage=imported");
    let places = |line: &str| line.split(" at ").next().unwrap_or_default().replace(" extern", "");
    let imported: Vec<String> = planned.lines().map(places).collect();
    let imported = imported.join("\n").replace(" arena=1280000", "");
    assert_eq!(of_text(&imported, &["ir", "run", "--engine", "jit"]).0, Some(0));
    // Unread ops need no kernels; read ones do, and those are too many.
    assert_eq!(of_text(&kernels(2_000), &["ir", "run", "--engine", "jit"]).0, Some(0));
}

#[test]
fn sizes_of_a_call_are_compared_before_anything_is_allocated() {
    let wide = "bir 1 stage=imported\nfunc @f(%x: f32[4294967295]) -> (f32[4294967295]) tokens=1 {\n  %0 = relu2 %x : \
                f32[4294967295]\n  return %0\n}\n";
    let hash = "#00000000000000000000000000000000";
    let param = format!(
        "bir 1 stage=imported\nparam @w: f32[67108864x64] = file \"w\" {hash}\nfunc @f(%x: f32[64]) -> (f32[67108864]) \
         tokens=1 {{\n  %0 = matmul %x, @w : f32[67108864]\n  return %0\n}}\n"
    );
    let made = format!(
        "bir 1 stage=imported\nparam @w: f32[67108864x1] = file \"w\" {hash}\nfunc @f(%x: f32[Tx1]) -> (f32[Tx67108864]) \
         tokens<=64 {{\n  %0 = matmul %x, @w : f32[Tx67108864]\n  return %0\n}}\n"
    );
    for (text, more) in [(wide, &[][..]), (&param, &[]), (&made, &["--tokens", "64"])] {
        for engine in ["interp", "jit"] {
            let (code, said) = of_text(text, &[&["ir", "run", "--engine", engine], more].concat());
            assert!(code == Some(3) && said.contains("the most is 2147483648"), "{engine}: {code:?} {said}");
        }
    }
}

#[test]
fn positions_that_no_model_has_are_refused() {
    let rope = "bir 1 stage=imported\nfunc @f(%x: f32[64], %pos: idx) -> (f32[64]) tokens=1 {\n  %0 = rope %x, %pos \
                {theta=10000.0, head=64, rot=64, pairs=halves} : f32[64]\n  return %0\n}\n";
    for engine in ["interp", "jit"] {
        let run = |pos: &str| of_text(rope, &["ir", "run", "--engine", engine, "--inputs", pos]);
        assert_eq!(run("pos=1048575").0, Some(0), "{engine}");
        for pos in ["pos=1048576", "pos=4294967290", "pos=4294967295"] {
            let (code, said) = run(pos);
            assert!(
                code == Some(3) && said.contains("the most is 1048576"),
                "{engine} {pos}: {code:?} {said}"
            );
            assert!(!said.contains("caches"), "{said}");
        }
    }
}

#[test]
fn groups_that_no_file_has_are_refused() {
    for group in [262_144, 512, 32] {
        let text = format!(
            "{HEAD}param @w: ter[16x262144]@tile16_g{group} = file \"w\" #00000000000000000000000000000000\nfunc @f(%x: \
             q8[262144]) -> (f32[16]) tokens=1 arena=0 {{\n  %0 = bitlinear %x, @w {{epilogue=none}} : f32[16] extern\n  \
             return %0\n}}\n"
        );
        let (code, said) = of_text(&text, &["ir", "run", "--engine", "jit"]);
        assert!(code == Some(1) && said.contains("groups are 64,"), "{group}: {code:?} {said}");
    }
}

/// Weights and norms so large that squares overflow: every way to compute says NaN, and `inspect --verify` warns of it.
#[test]
fn weights_that_overflow_are_told_before_and_after() {
    let model = TinyModel::default();
    let mut writer = model.writer();
    let norm = vec![3.0e38f32; model.hidden];
    writer.tensor_mut("output_norm.weight").data = norm.iter().flat_map(|x| x.to_le_bytes()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.gguf");
    std::fs::write(&file, writer.build()).unwrap();
    let file = file.to_str().unwrap();
    for engine in ["jit", "interpreter"] {
        let out = folder.path().join("out.npy");
        let args = ["logits", file, "--tokens", "5,6", "-o", out.to_str().unwrap(), "--engine", engine];
        let output = bitnetc(&args);
        assert_eq!(output.status.code(), Some(1), "{engine}: {}", stderr(&output));
        assert!(stderr(&output).contains("NaN") && !out.exists(), "{engine}: {}", stderr(&output));
    }
    let verdict = bitnetc(&["inspect", file, "--verify", "--json"]);
    assert_eq!(verdict.status.code(), Some(0), "{}", stderr(&verdict));
    let verdict: serde_json::Value = serde_json::from_slice(&verdict.stdout).unwrap();
    let warnings = verdict["verify"]["warnings"].to_string();
    assert!(warnings.contains("output_norm.weight") && warnings.contains("NaN"), "{warnings}");
    let sound = write_model(&TinyModel::default());
    let verdict = bitnetc(&["inspect", sound.path().to_str().unwrap(), "--verify"]);
    assert!(!String::from_utf8_lossy(&verdict.stdout).contains("NaN"));
}

/// The most memory that the process had, in bytes, as the system counts it.
#[cfg(target_os = "linux")]
fn peak(mut child: std::process::Child) -> (u64, Output) {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        most = most.max(kib << 10);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    (most, child.wait_with_output().unwrap())
}

/// 4096 key/value heads of two elements: the first token writes to as many places of caches of two GiB.
#[cfg(target_os = "linux")]
#[test]
fn caches_of_many_heads_take_memory_as_they_are_used() {
    let heads = TinyModel::many_heads();
    let file = write_model(&heads);
    let args = ["run", file.path().to_str().unwrap(), "-p", "ab", "-n", "3", "-t", "2", "--ignore-eos"];
    let child = Command::new(env!("CARGO_BIN_EXE_bitnetc"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (most, output) = peak(child);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(most > 1 << 20 && most < 400 << 20, "{} MiB", most >> 20);
}

/// A plan that is cut short while it runs, at different moments and to different lengths.
#[cfg(unix)]
#[test]
fn a_plan_that_is_cut_short_ends_the_command_with_an_error() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.plan");
    let gguf = folder.path().join("builtin.gguf");
    std::fs::write(&gguf, bitnetc::builtin::GGUF).unwrap();
    let compiled = bitnetc(&["compile", gguf.to_str().unwrap(), "-o", whole.to_str().unwrap()]);
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    let length = std::fs::metadata(&whole).unwrap().len();
    let cut = |path: &Path, length: u64| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    };
    for round in 0..100u64 {
        let plan = folder.path().join(format!("{round}.plan"));
        std::fs::copy(&whole, &plan).unwrap();
        let args =
            ["-q", "run", plan.to_str().unwrap(), "-p", "ROMEO:", "--ignore-eos", "-c", "100000", "-s", "1"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_bitnetc"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = vec![0; 8 + (round as usize * 7) % 40];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut said).unwrap();
        cut(&plan, [0, 4096, length / 2 / 4096 * 4096][round as usize % 3]);
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{round}: {:?} {}", output.status, stderr(&output));
        assert!(stderr(&output).contains("truncated"), "{round}: {}", stderr(&output));
        std::fs::remove_file(&plan).unwrap();
    }
}
