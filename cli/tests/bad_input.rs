//! Bad input through the whole front door: typed refusals that name what, where and why, and the right exit code; never
//! a crash, a hang or a large allocation.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bitnetc_frontend_gguf::testing::TinyModel;
use common::{random_tokens, write_model};

fn bitnetc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnetc")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn refusals_have_the_exit_code_of_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let good = TinyModel::default().to_gguf();
    write("good.gguf", &good);
    write("short.gguf", &good[..good.len() / 2]);
    write("empty.gguf", b"");
    write("text.txt", b"hello, this is no model");
    for command in ["run", "inspect", "logits"] {
        let mut more = Vec::new();
        let out = path("out.npy");
        if command == "logits" {
            more = vec!["--tokens", "1", "-o", &out];
        }
        for (file, code, words) in [
            ("short.gguf", 3, vec!["short.gguf"]),
            ("empty.gguf", 3, vec!["empty.gguf"]),
            ("text.txt", 3, vec!["text.txt", "neither", "GGUF", "compile"]),
            ("absent.gguf", 1, vec!["absent.gguf"]),
        ] {
            let file = path(file);
            let output = bitnetc(&[&[command, &file][..], &more].concat());
            let text = stderr(&output).replace('\n', " ");
            assert_eq!(output.status.code(), Some(code), "{command} {file}: {text}");
            for word in words {
                assert!(text.contains(word), "{command} {file} does not say {word}: {text}");
            }
            assert!(output.stdout.is_empty());
        }
    }
    assert!(!Path::new(&path("out.npy")).exists());
    let usage = bitnetc(&["run", "--temp", "hot"]);
    assert_eq!(usage.status.code(), Some(2));
    let range = bitnetc(&["run", "--min-p", "-0.5"]);
    assert_eq!(range.status.code(), Some(2), "{}", stderr(&range));
    let token = bitnetc(&["logits", &path("good.gguf"), "--tokens", "1,999999", "-o", &path("out.npy")]);
    assert_eq!(token.status.code(), Some(1));
    assert!(stderr(&token).contains("999999"), "{}", stderr(&token));
}

#[test]
fn what_stands_in_the_place_of_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let good = TinyModel::default().to_gguf();
    write("empty.gguf", b"");
    write("page.gguf", b"\n<!DOCTYPE html><html>");
    write("packed.gguf", b"\x1f\x8b\x08\0\0\0\0\0");
    for name in ["none", "one", "several", "checkpoint"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    write("one/a.gguf", &good);
    for n in 0..12 {
        write(&format!("several/{n:02}.gguf"), &good);
    }
    write("checkpoint/model.safetensors", b"");
    for (args, code, words) in [
        (&["run", &path("empty.gguf")][..], 3, &["this is not a model", "empty"][..]),
        (&["run", &path("page.gguf")], 3, &["this is not a model", "an HTML page"]),
        (&["run", &path("packed.gguf")], 3, &["this is not a model", "gzip"]),
        (&["run", &path("none")], 3, &["is a directory", "give a .gguf file"]),
        (&["run", &path("one")], 3, &["is a directory", "give the file", "a.gguf"]),
        (&["run", &path("several")], 3, &["give one of its models", "00.gguf", "09.gguf", "and 2 more"]),
        (&["run", &path("checkpoint")], 3, &["bitnetc import"]),
        (
            &["import", &path("one/a.gguf"), "-o", "x.gguf"],
            3,
            &["this is a file", "needs no import", "bitnetc run"],
        ),
        (&["import", &path("absent"), "-o", "x.gguf"], 1, &["there is no such directory"]),
        (&["import", &path("none"), "-o", "x.gguf"], 3, &["config.json is missing"]),
        (
            &["compile", &path("one/a.gguf"), "-o", &path("nowhere/x.plan")],
            1,
            &["nowhere\" does not exist", "create it"],
        ),
        (&["rm", &path("one/a.gguf")], 2, &["is a file of yours"]),
    ] {
        let output = bitnetc(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{args:?} without {word:?}: {text}"));
    }
}

#[test]
fn a_file_is_not_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("schema.json", b"{\"type\":\"string\"}");
    write("x.gbnf", b"root ::= \"a\"");
    for (option, file, instead) in
        [("-j", "schema.json", "--json-schema-file"), ("--grammar", "x.gbnf", "--grammar-file")]
    {
        let output = bitnetc(&["run", "-p", "x", "-n", "1", option, &path(file)]);
        let hint = format!("hint: to read the file, use {instead} {}", path(file));
        assert!(output.status.code() == Some(2) && stderr(&output).contains(&hint), "{}", stderr(&output));
    }
    let output =
        bitnetc(&["run", "-p", "x", "-n", "1", "--regex", &path("x.gbnf"), "--sys", &path("x.gbnf")]);
    for option in ["--regex", "--system-prompt"] {
        assert!(stderr(&output).contains(&format!("note: {option} is used as text")), "{}", stderr(&output));
    }
}

#[test]
fn a_damaged_plan_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_model(&TinyModel::default());
    let plan = folder.path().join("model.plan").display().to_string();
    let compiled = bitnetc(&["compile", file.path().to_str().unwrap(), "-o", &plan]);
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    let good = std::fs::read(&plan).unwrap();
    let weights = good.len() * 3 / 4;
    // The header, the tables, the trailer, and weights.
    for position in [0, 4, 9, 70, 200, good.len() - 1, good.len() - 40, weights, weights / 2 + 5000] {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        std::fs::write(&plan, &bad).unwrap();
        let output = bitnetc(&["run", &plan, "-n", "1", "--verify"]);
        assert_eq!(output.status.code(), Some(3), "byte {position}: {}", stderr(&output));
        // Unverified weights may make other numbers, and nothing worse.
        if position >= weights / 2 && position <= weights {
            let output = bitnetc(&["run", &plan, "-n", "1"]);
            assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "byte {position}: {output:?}");
        }
    }
    for length in [0, 1, 63, 64, weights, good.len() - 1] {
        std::fs::write(&plan, &good[..length]).unwrap();
        let output = bitnetc(&["run", &plan, "-n", "1"]);
        assert_eq!(output.status.code(), Some(3), "cut at {length}: {}", stderr(&output));
    }
}

/// A plan whose module was changed by `change` and sealed again, as a hostile writer would.
fn hostile_plan(folder: &Path, change: impl Fn(String) -> String) -> String {
    use bitnetc_runtime::plan::{LoadOptions, Plan, PlanError, write_plan};
    let file = write_model(&TinyModel::default());
    let plan = folder.join("honest.plan");
    assert!(
        bitnetc(&["compile", file.path().to_str().unwrap(), "-o", plan.to_str().unwrap()]).status.success()
    );
    let honest = Plan::load(&plan, &LoadOptions::default()).unwrap();
    let hostile = folder.join("hostile.plan");
    let index = honest.index();
    let text = change(index.module_text().to_owned());
    assert_ne!(text, index.module_text(), "the change must change something");
    write_plan(&hostile, index.settings(), |out| -> Result<(), PlanError> {
        out.meta(index.meta())?;
        out.module(&text)?;
        out.tokenizer(&honest.tokenizer()?.unwrap())?;
        out.weights(|sink| -> Result<(), PlanError> {
            for entry in index.weights() {
                sink.push(&entry.name, &entry.kind, honest.weight(&entry.name).unwrap())?;
            }
            Ok(())
        })
    })
    .unwrap();
    hostile.display().to_string()
}

#[test]
fn a_sealed_plan_with_a_hostile_module_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let barrier = |text: String| text.replacen(" barrier", "", 1);
    let renamed = |text: String| text.replace("func @head(", "func @tail(");
    let second = |text: String| {
        let (before, head) = text.split_once("func @head(").unwrap();
        format!("{before}func @head(\n  %g: f32[Tx16777216],{head}")
    };
    let arena = |text: String| text.replacen(" at 0+", " at 1099511627776+", 1);
    // Fewer bytes than are there, more, and a matrix in no layout that kernels read.
    let (fewer, more) = (
        |text: String| text.replace("w8", "w4"),
        |text: String| text.replace(": w8[288x128]", ": w8[288x256]"),
    );
    let logical = |text: String| text.replace("@token_embd.w8.tile16 : f32", "@token_embd.w8 : f32");
    let changes: [(&str, &dyn Fn(String) -> String); 7] = [
        ("barrier", &barrier),
        ("renamed", &renamed),
        ("second input", &second),
        ("arena", &arena),
        ("narrower head", &fewer),
        ("wider head", &more),
        ("logical head", &logical),
    ];
    for (what, change) in changes {
        let plan = hostile_plan(folder.path(), change);
        let output = bitnetc(&["run", &plan, "-n", "1", "--temp", "0", "-p", "ab"]);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", stderr(&output));
    }
}

#[test]
fn an_interrupted_compile_keeps_the_old_plan() {
    let folder = tempfile::tempdir().unwrap();
    let good = write_model(&TinyModel::default());
    let plan = folder.path().join("model.plan");
    let plan_text = plan.display().to_string();
    assert!(bitnetc(&["compile", good.path().to_str().unwrap(), "-o", &plan_text]).status.success());
    let before = std::fs::read(&plan).unwrap();
    let mut bytes = TinyModel { seed: 9, ..TinyModel::default() }.to_gguf();
    bytes.truncate(bytes.len() - 100);
    let bad = folder.path().join("bad.gguf");
    std::fs::write(&bad, bytes).unwrap();
    assert_eq!(bitnetc(&["compile", bad.to_str().unwrap(), "-o", &plan_text]).status.code(), Some(3));
    assert_eq!(std::fs::read(&plan).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn corrupted_headers_never_crash_the_command() {
    let good = TinyModel { layers: 2, ..TinyModel::default() }.to_gguf();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.gguf");
    let positions = random_tokens(99, 24, 6000);
    for (i, position) in positions.into_iter().enumerate() {
        let mut bad = good.clone();
        bad[position as usize % good.len()] ^= 1 << (i % 8);
        std::fs::write(&path, &bad).unwrap();
        let clock = Instant::now();
        let output = bitnetc(&["inspect", path.to_str().unwrap()]);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "flip at {position}: {code:?} {}", stderr(&output));
        assert!(clock.elapsed() < Duration::from_secs(20), "flip at {position} hangs");
    }
}

#[test]
fn weights_that_overflow_give_an_error_and_no_token() {
    // An embedding of 6e4 with norms of 1e38 makes the residual stream infinite and the logits NaN.
    let model = TinyModel::default();
    let mut writer = model.writer();
    let norm = vec![3.0e38f32; model.hidden];
    writer.tensor_mut("output_norm.weight").data = norm.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::io::Write::write_all(&mut file, &writer.build()).unwrap();
    let output = bitnetc(&["run", file.path().to_str().unwrap(), "-n", "2", "--temp", "0"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stderr(&output).replace('\n', " ");
    assert!(text.contains("NaN") || text.contains("infinite") || text.contains("inf"), "{text}");
}

/// A result never takes the place of what it is made of, whatever names the two have.
#[test]
fn outputs_are_not_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    let bytes = TinyModel::default().to_gguf();
    std::fs::write(&model, &bytes).unwrap();
    let (link, hard) = (folder.path().join("link.gguf"), folder.path().join("hard.gguf"));
    std::os::unix::fs::symlink(&model, &link).unwrap();
    std::fs::hard_link(&model, &hard).unwrap();
    let roundabout = folder.path().join("../").join(folder.path().file_name().unwrap()).join("m.gguf");
    let texts = [&model, &link, &hard, &roundabout].map(|path| path.to_str().unwrap().to_owned());
    let [m, link, hard, roundabout] = &texts;
    for (read, written) in [(m, m), (m, roundabout), (link, m), (m, hard)] {
        for command in [
            &["compile", read, "-o", written][..],
            &["logits", read, "--tokens", "1", "-o", written],
            &["explain", read, "--html", written],
            &["run", read, "-p", "a", "-n", "1", "--profile", written],
        ] {
            let output = bitnetc(command);
            assert_eq!(output.status.code(), Some(2), "{command:?}: {}", stderr(&output));
            assert!(stderr(&output).contains("is an input of this command"), "{}", stderr(&output));
        }
        let output = bitnetc(&["batch", "-", "-m", read, "-o", written, "--overwrite"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert_eq!(std::fs::read(&model).unwrap(), bytes, "{read} {written}");
    }
}

/// What a name, a text or an option holds is told without a control character.
#[test]
fn messages_hold_no_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("a\u{1b}[31m\u{9b}\u{202e}.gguf");
    std::fs::write(&named, "GGUF").unwrap();
    let text = folder.path().join("a.bir");
    std::fs::write(&text, "bir 1 \u{1b}[31m\u{202e}\n").unwrap();
    let (named, text) = (named.to_str().unwrap(), text.to_str().unwrap());
    for command in [
        &["run", named, "-p", "a"][..],
        &["inspect", named],
        &["compile", named],
        &["explain", named],
        &["ir", "check", named],
        &["ir", "check", text],
        &["run", "--frobnicate\u{1b}[31m"],
        &["frobnicate\u{1b}[31m"],
        &["run", "-p", "a", "-n", "\u{1b}[31m"],
        &["run", "-p", "a", "--grammar", "start: \"\u{1b}[31m"],
        &["run", "-p", "a", "--chat-template", "{{ raise_exception('\u{1b}[31m') }}"],
        &["run", "no\u{1b}[31msuch"],
        &["pull", "no\u{1b}[31msuch"],
    ] {
        let output = bitnetc(command);
        assert!(!output.status.success(), "{command:?}");
        let said = stderr(&output);
        let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!said.is_empty() && !said.contains(obeyed), "{command:?}: {said:?}");
    }
}

/// What is wrong with the files or the model is said before anything is changed.
#[test]
fn a_batch_that_fails_at_its_start_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at("in.txt"), "a\nb\n").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        command.args(["-q", "batch"]).args(args).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (input, out) = (at("in.txt"), at("out.jsonl"));
    // By another name, and by a link to the same bytes.
    let link = at("link.txt");
    std::fs::hard_link(&input, &link).unwrap();
    for overwrite in [&[][..], &["--overwrite"]] {
        let (code, said) = run(&[&[&*input, "-o", &link], overwrite].concat());
        assert!(code == Some(2) && said.contains("is the input"), "{code:?} {said}");
        for device in ["/dev/full", "/dev/stdout"] {
            let (code, said) = run(&[&[&*input, "-o", device], overwrite].concat());
            assert!(code == Some(1) && said.contains("is not a regular file"), "{device}: {code:?} {said}");
        }
    }
    let (code, said) = run(&["/dev/stdin", "-o", &out]);
    assert!(code == Some(1) && said.contains("is not a regular file"), "{code:?} {said}");
    std::fs::write(at("package.json"), "{\"name\":\"my-app\"}").unwrap();
    let (code, said) = run(&[&input, "-o", &at("package.json"), "-n", "2"]);
    assert!(code == Some(1) && said.contains("not a result of a batch"), "{code:?} {said}");
    assert_eq!(std::fs::read_to_string(at("package.json")).unwrap(), "{\"name\":\"my-app\"}");
    // Old results stay until there is a new one.
    assert_eq!(run(&[&input, "-o", &out, "-n", "2", "--temp", "0"]).0, Some(0));
    let results = std::fs::read(&out).unwrap();
    assert_eq!(run(&[&input, "-o", &out, "--overwrite", "-m", "/nowhere.gguf"]).0, Some(1));
    assert_eq!(run(&[&input, "-o", &out, "--overwrite", "-j", "{"]).0, Some(2));
    assert_eq!(std::fs::read(&out).unwrap(), results);
    assert_eq!(std::fs::read_to_string(&input).unwrap(), "a\nb\n");
}
