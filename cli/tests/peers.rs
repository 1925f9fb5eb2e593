//! Hands that know llama.cpp and ollama: their options, their commands, their ways to name a model; and text as editors and
//! other programs write it.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::root;
use serde_json::Value;

const MODEL: &str = "models/shakespeare/shakespeare-5m-i2_s.gguf";

fn bitnetc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
    command.args(args).current_dir(root()).env("BITNETC_CONFIG", "").env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(args: &[&str]) -> Output {
    bitnetc(args).output().unwrap()
}

/// What a command says on stderr, on one line.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace('│', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn stdout(args: &[&str]) -> String {
    let output = output(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// What a command prints that is given `input`.
fn piped(args: &[&str], input: &[u8]) -> Output {
    let mut child = bitnetc(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that refuses its line does not read.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Number of tokens of the prompt, and the text, of a run with `-n 4 --temp 0`.
fn run(args: &[&str]) -> (u64, String) {
    let report = json(&[&["run", "-n", "4", "--temp", "0", "--json"], args].concat());
    (report["prompt_tokens"].as_u64().unwrap(), report["text"].as_str().unwrap().to_owned())
}

fn romeo() -> (u64, String) {
    (6, "  I\nH".to_owned())
}

#[test]
fn options_without_effect_are_accepted_with_a_remark() {
    let line = "run -p ROMEO: -n 4 --temp 0 -ngl 99 --mlock -fa on -tb 4 --numa distribute --jinja -co --no-warmup -lv 3";
    let words: Vec<&str> = line.split(' ').collect();
    let with = output(&words);
    assert_eq!(with.status.code(), Some(0), "{}", said(&with));
    for name in ["-ngl", "--mlock", "-fa", "-tb", "--numa", "--jinja", "-co", "--no-warmup", "-lv"] {
        assert!(said(&with).contains(&format!("note: {name} has no effect: ")), "{name}: {}", said(&with));
    }
    assert_eq!(with.stdout, output(&words[..7]).stdout);
    for quiet in ["-q", "--log-disable"] {
        assert_eq!(said(&output(&[&words[..], &[quiet]].concat())), "", "{quiet}");
    }
}

#[test]
fn what_would_change_the_result_is_refused_with_what_to_use() {
    for (line, words) in [
        ("run --lora a.gguf", "--lora: adapters are not supported: merge"),
        ("run -ctk q8_0", "-ctk: only f16 and f32 are supported, not q8_0"),
        ("run --rope-scale 2", "--rope-scale: the model file "),
        ("chat -no-cnv", "-no-cnv: use `bitnetc run`"),
        ("run -sp", "-sp: control tokens are not printed"),
        ("bench -oe md", "-oe: results go to standard output"),
        ("server", "`server`: the server is `bitnetc serve`"),
        ("ps", "`ps`: only `bitnetc serve` keeps models loaded"),
        ("stop llama3", "`stop`: only `bitnetc serve` keeps models loaded"),
        ("run --frobnicate", "unexpected argument '--frobnicate'"),
        ("tokenize --frobnicate", "unexpected argument '--frobnicate'"),
    ] {
        let refused = output(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(refused.status.code(), Some(2), "{line}");
        assert!(
            said(&refused).contains(words) && !said(&refused).contains("as a value"),
            "{}",
            said(&refused)
        );
    }
}

#[test]
fn options_with_another_name_do_the_same() {
    let romeo = &["-p", "ROMEO:"][..];
    let same = |theirs: &[&str], ours: &[&str]| {
        assert_eq!(run(&[romeo, theirs].concat()), run(&[romeo, ours].concat()), "{theirs:?}");
    };
    same(&["-ctk", "f32", "-ctv", "f32"], &["--kv-type", "f32"]);
    same(&["-sys", "Be brief.", "-st"], &["--system-prompt", "Be brief.", "--chat"]);
    same(&["-e", "--repeat-last-n", "-1", "-s", "-1", "-t", "-1", "-c", "0"], &[]);
    let shown = output(&["run", "-hf", "org/repo:q4", "-n", "1"]);
    assert!(shown.status.code() == Some(1) && said(&shown).contains("hf:org/repo:q4"), "{}", said(&shown));
    // -1 is no limit, a temperature below zero is greedy, and so is a share of nothing.
    assert_eq!(run(&["-p", "ROMEO:", "--temp", "-1"]), self::romeo());
    for greedy in [["--top-p", "0"], ["--top-p", "0.0"], ["--min-p", "1"], ["--min-p", "2"]] {
        assert_eq!(
            run(&[&["-p", "ROMEO:", "--temp", "0.9", "-s", "3"], &greedy[..]].concat()),
            self::romeo()
        );
    }
    // The last of an option counts.
    assert_eq!(run(&["-p", "JULIET:", "-n", "9", "-p", "ROMEO:", "-n", "4"]), self::romeo());
}

#[test]
fn escapes_are_read_in_the_command_line_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (broken, plain) = (file("a.txt", "To be,\nor"), file("b.txt", r"To be,\nor"));
    assert_eq!(run(&["-p", r"To be,\nor"]), run(&["-f", &broken]));
    assert_eq!(run(&["-p", r"To be,\x0Aor", "-e"]), run(&["-f", &broken]));
    assert_eq!(run(&["-p", r"To be,\nor", "--no-escape"]), run(&["-f", &plain]));
    assert_ne!(run(&["-f", &plain]).0, run(&["-f", &broken]).0);
    assert_eq!(run(&[MODEL, r"To be,\nor"]), run(&["-f", &plain]), "a positional prompt is taken as it is");
    assert_eq!(run(&["-p", "ROMEO:", "-r", r"I\n"]).1, "  ");
    let shown = |args: &[&str]| said(&output(&[&["run", "-n", "0", "--show-prompt", "-q"], args].concat()));
    let system = shown(&["-p", "x", "--chat-template", "chatml", "-sys", r"a\tb", "--no-escape"]);
    assert!(system.contains(r"a\tb"), "{system}");
    assert!(!shown(&["-p", "x", "--chat-template", "chatml", "-sys", r"a\tb"]).contains(r"a\tb"));
    assert_eq!(output(&["run", "-p", r"\xff"]).status.code(), Some(2));
    assert_eq!(run(&["-p", "-ngl"]).0, run(&["--prompt=-ngl"]).0, "a value is no option");
}

#[test]
fn a_model_and_a_prompt_stand_where_one_expects_them() {
    let expected = romeo();
    for args in [
        &[MODEL, "ROMEO:"][..],
        &["-m", MODEL, "ROMEO:"],
        &["-m", MODEL, "-p", "ROMEO:"],
        &[MODEL, "-p", "ROMEO:"],
    ] {
        assert_eq!(run(args), expected, "{args:?}");
    }
    let with_variable = |args: &[&str]| bitnetc(args).env("BITNETC_MODEL", "absent.gguf").output().unwrap();
    assert_eq!(with_variable(&["run", MODEL, "ROMEO:", "-n", "1"]).status.code(), Some(0));
    assert_eq!(with_variable(&["run", "-p", "ROMEO:", "-n", "1"]).status.code(), Some(1));
    assert_eq!(output(&["inspect", "a.gguf", "-m", "b.gguf"]).status.code(), Some(2));
    assert_eq!(output(&["run", MODEL, "a", "-p", "b"]).status.code(), Some(2));
    // What is piped in is the prompt.
    let args = ["run", "-n", "4", "--temp", "0", "--json"];
    for args in [&args[..], &[&args[..], &["-f", "-"]].concat(), &[&args[..], &["-m", MODEL]].concat()] {
        let answer = piped(args, b"ROMEO:\n");
        let report: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!((report["prompt_tokens"].as_u64(), report["text"].as_str()), (Some(6), Some("  I\nH")));
    }
    let twice = piped(&["run", "-f", "-", "--grammar-file", "-"], b"start: \"a\"");
    assert!(twice.status.code() == Some(2) && said(&twice).contains("only one option"), "{}", said(&twice));
    // Every command that takes a model has the built-in one, and the option.
    for (command, more) in [("inspect", &[][..]), ("show", &[]), ("tokenize", &["-p", "ROMEO:"])] {
        let named = stdout(&[&[command, "-m", MODEL], more].concat());
        assert_eq!(named, stdout(&[&[command, MODEL], more].concat()));
        stdout(&[&[command], more].concat());
    }
    assert_eq!(
        stdout(&["tokenize", "-m", MODEL, "To", "be", "--ids"]),
        stdout(&["tokenize", "-p", "To be", "--ids"])
    );
    assert_eq!(stdout(&["detokenize", "50,47"]), stdout(&["detokenize", MODEL, "50,47"]));
    assert_eq!(stdout(&["detokenize", "50", "47"]), stdout(&["detokenize", "-m", MODEL, "50", "47"]));
    let npy = tempfile::tempdir().unwrap();
    let file = npy.path().join("a.npy");
    stdout(&["logits", "--tokens", "1,2", "-o", file.to_str().unwrap()]);
    assert_eq!(output(&["logits", "--tokens", "1,2", "-o", "-"]).stdout, std::fs::read(&file).unwrap());
    assert_eq!(output(&["compile", "-o", "-"]).status.code(), Some(2));
}

#[test]
fn commands_of_others_are_names_of_ours() {
    assert_eq!(stdout(&["version"]), stdout(&["--version"]));
    for (theirs, ours) in [
        (&["list", "--json"][..], &["models", "list", "--json"][..]),
        (&["ls", "--json"], &["models", "ls", "--json"]),
        (&["show", "--json"], &["inspect", "--json"]),
    ] {
        assert_eq!(stdout(theirs), stdout(ours));
    }
    let talk = |command: &[&str]| {
        piped(&[command, &["-q", "-n", "3", "--temp", "0"]].concat(), b"Good morrow\n").stdout
    };
    assert_eq!(talk(&["run", "--conversation"]), talk(&["chat"]));
    assert_ne!(talk(&["run", "--no-conversation"]), talk(&["chat"]));
    for line in [&["pull", "org/repo"][..], &["models", "pull", "hf.co/org/repo"], &["rm", "org/repo"]] {
        let refused = output(line);
        assert!(
            refused.status.code() == Some(1) && said(&refused).contains("org/repo"),
            "{}",
            said(&refused)
        );
    }
}

#[test]
fn what_is_no_model_file_is_answered_with_the_command_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (directory, file) in
        [("checkpoint", "model.safetensors"), ("models", "tiny.gguf"), ("empty", "README.md")]
    {
        std::fs::create_dir(at(directory)).unwrap();
        std::fs::write(Path::new(&at(directory)).join(file), "x").unwrap();
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    std::fs::write(at("pointer.gguf"), pointer).unwrap();
    for (model, code, words) in [
        ("org/repo", 1, "named hf:org/repo here".to_owned()),
        ("https://example.com/a.gguf", 1, "from the Hugging Face Hub only".to_owned()),
        ("https://huggingface.co/org/repo/blob/main/a.gguf", 1, "hf:org/repo:a.gguf".to_owned()),
        ("nonsense", 1, "the aliases are 2b-4t".to_owned()),
        (&at("checkpoint"), 3, format!("`bitnetc import {} -o checkpoint.gguf`", at("checkpoint"))),
        (&at("models"), 3, format!("give the file: {}/tiny.gguf", at("models"))),
        (&at("empty"), 3, "is a directory, not a model".to_owned()),
        (&at("pointer.gguf"), 3, "lfs pull --include pointer.gguf".to_owned()),
    ] {
        for command in ["run", "inspect"] {
            let refused = output(&[command, model]);
            let said = said(&refused);
            assert_eq!(refused.status.code(), Some(code), "{command} {model}: {said}");
            // Long names are broken at hyphens and slashes.
            assert!(said.replace(' ', "").contains(&words.replace(' ', "")), "{command} {model}: {said}");
        }
    }
}

#[test]
fn more_threads_than_cpus_are_warned_of_once() {
    let cpus = std::thread::available_parallelism().unwrap().get() as u32 + 1;
    let warned = output(&["run", "-p", "a", "-n", "1", "-t", &cpus.to_string()]);
    assert_eq!(said(&warned).matches("warning:").count(), 1, "{}", said(&warned));
    let silent = output(&["-q", "run", "-p", "a", "-n", "1", "-t", &cpus.to_string()]);
    assert_eq!((said(&silent).as_str(), silent.status.code()), ("", Some(0)));
}

/// Files as Notepad, PowerShell and Excel write them: a byte order mark in front, CR LF at the ends of lines.
#[test]
fn marks_and_line_ends_are_no_part_of_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (name, text) in [
        ("mark.txt", "\u{feff}ROMEO:"),
        ("crlf.txt", "ROMEO:\r\n"),
        ("lf.txt", "ROMEO:\n"),
        ("both.txt", "\u{feff}ROMEO:\r\n"),
    ] {
        assert_eq!(run(&["-f", &file(name, text)]), romeo(), "{name}");
    }
    assert_eq!(
        run(&["-f", &file("a.txt", "To be,\r\nor\r\n")]),
        run(&["-f", &file("b.txt", "To be,\nor\n")])
    );
    let plain = [
        ("--json-schema-file", "{\"enum\":[\"yes\"]}"),
        ("--grammar-file", "start: \"yes\"\n"),
        ("--chat-template-file", "{{ messages[0].content }}:\n"),
        ("--system-prompt-file", "Be brief.\n"),
    ];
    for (option, text) in plain {
        let marked = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        let more = ["-p", "ROMEO:"];
        let with = |path: &str| run(&[&more[..], &[option, path]].concat());
        assert_eq!(with(&file("marked", &marked)), with(&file("plain", text)), "{option}");
    }
    let ids = file("ids.json", "\u{feff}[1, 2, 3]\r\n");
    assert_eq!(json(&["perplexity", "--ids", &ids, "--json"])["tokens"], 2);
    let half = piped(&["tokenize", "--jsonl"], "\u{feff}\"a\\ud800\"\r\n\"a\\ufffd\"\n".as_bytes());
    let lines: Vec<&str> = std::str::from_utf8(&half.stdout).unwrap().lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?} {}", said(&half));
}

/// The same in a batch: the first request keeps its id and is answered as the second.
#[test]
fn marks_are_no_part_of_requests() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let line = |id: &str| {
        format!(
            r#"{{"custom_id":"{id}","url":"/v1/completions","body":{{"prompt":"ROMEO:","max_tokens":4,"temperature":0}}}}"#
        )
    };
    std::fs::write(at("requests.jsonl"), format!("\u{feff}{}\r\n{}\r\n", line("first"), line("second")))
        .unwrap();
    std::fs::write(at("prompts.txt"), "\u{feff}ROMEO:\r\nROMEO:\r\n").unwrap();
    for (input, ids) in [("requests.jsonl", ["first", "second"]), ("prompts.txt", ["line-1", "line-2"])] {
        let output = format!("{input}.out");
        stdout(&["-q", "batch", &at(input), "-o", &at(&output), "-n", "4", "--temp", "0"]);
        let text = std::fs::read_to_string(at(&output)).unwrap();
        let mut found = Vec::new();
        for line in text.lines() {
            let result: Value = serde_json::from_str(line).unwrap();
            let body = &result["response"]["body"];
            assert_eq!(
                (&body["choices"][0]["text"], &body["usage"]["prompt_tokens"]),
                (&"  I\nH".into(), &6.into())
            );
            found.push(result["custom_id"].as_str().unwrap().to_owned());
        }
        found.sort();
        assert_eq!(found, ids);
    }
}

#[test]
fn shells_complete_values_and_other_names() {
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&["completions", shell]);
        for word in ["screened", "chatml", "x86-64-v3", "fuse-norm-quant", "2b-4t", "ls", "show"] {
            assert!(text.contains(word), "{shell} does not complete {word}");
        }
    }
}
