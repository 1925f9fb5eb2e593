//! Input and output of batches: shards, resumption, pipes, kills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::common;
use crate::process::{bitnetc, finish, prompts, results, start, text_of};

#[test]
fn shards_together_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    std::fs::write(&input, prompts(7).join("\n")).unwrap();
    let whole = folder.path().join("whole.jsonl");
    finish(&input, &whole, &["-n", "4"]);
    let mut parts = BTreeMap::new();
    for index in 1..=3 {
        let part = folder.path().join(format!("part-{index}.jsonl"));
        finish(&input, &part, &["-n", "4", "--shard", &format!("{index}/3")]);
        for (id, result) in results(&part) {
            assert!(parts.insert(id, text_of(&result).to_owned()).is_none());
        }
    }
    let whole: BTreeMap<_, _> =
        results(&whole).into_iter().map(|(id, r)| (id, text_of(&r).to_owned())).collect();
    assert_eq!(parts, whole);
}

#[test]
fn files_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    let run = |args: &[&str]| {
        let out = bitnetc(&[&["batch"], args].concat()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).replace(['\n', '│'], " "))
    };
    let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
    assert_eq!(run(&[i, "-o", i]).0, Some(2));
    assert_eq!(run(&["absent.txt", "-o", o]).0, Some(1));
    assert!(!output.exists());
    assert_eq!(run(&[i, "-o", o, "-n", "2"]).0, Some(0));
    std::fs::write(&input, "ROMEO:\nMERCUTIO:\n").unwrap();
    let (code, message) = run(&[i, "-o", o, "-n", "2"]);
    assert!(code == Some(1) && message.contains("line-2"), "{message}");
    assert_eq!(run(&[i, "-o", o, "-n", "2", "--overwrite"]).0, Some(0));
    assert_eq!(results(&output).len(), 2);
}

#[test]
fn results_of_other_settings_are_not_taken_for_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    std::fs::write(folder.path().join("t.jinja"), "{{ messages[0].content }}").unwrap();
    let tiny = bitnetc_frontend_gguf::testing::TinyModel::default().to_gguf();
    std::fs::write(folder.path().join("tiny.gguf"), tiny).unwrap();
    let run = |more: &[&str]| {
        let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
        let args = [&["batch", i, "-o", o, "-n", "2", "-s", "7", "--temp", "0.5"], more].concat();
        let out = bitnetc(&args).current_dir(folder.path()).output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr).replace('│', " ");
        (out.status.code(), message.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(run(&[]).0, Some(0));
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(results(&output)["line-1"]["settings"]["temperature"], 0.5);
    for (change, setting) in [
        (&["-n", "3"][..], "n_predict (2; this run has 3)"),
        (&["-s", "8"], "seed (7; this run has 8)"),
        (&["-s", "-1"], "seed (7; this run has the default)"),
        (&["--temp", "0"], "temperature (0.5; this run has 0.0)"),
        (&["--top-k", "3"], "top_k"),
        (&["--regex", "a+"], "regex"),
        (&["--head", "q4"], "head"),
        (&["--kv-type", "f32"], "kv_type"),
        (&["--chat"], "chat (the default; this run has true)"),
        (&["--chat-template-file", "t.jinja"], "chat_template"),
        (&["--ignore-eos"], "ignore_eos"),
        (&["-r", "x"], "reverse_prompt"),
        (&["-c", "40"], "ctx_size"),
        (&["-m", "tiny.gguf"], "model"),
    ] {
        let (code, message) = run(change);
        assert!(code == Some(1) && message.contains(setting), "{change:?}: {message}");
        assert!(message.contains("--overwrite"), "{message}");
        assert_eq!(std::fs::read(&output).unwrap(), bytes, "nothing is lost");
    }
    // What does not change an answer is no reason, and new lines are gone on with.
    std::fs::write(&input, "ROMEO:\nJULIET:\nFirst Witch:\n").unwrap();
    assert_eq!(run(&["-t", "1", "--parallel", "1", "--codegen", "cranelift"]).0, Some(0));
    assert_eq!(results(&output).len(), 3);
    assert_eq!(run(&["-n", "3", "--overwrite"]).0, Some(0));
    assert_eq!(results(&output)["line-1"]["settings"]["n_predict"], 3);
}

#[test]
fn a_plan_goes_on_with_what_its_model_began() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let compiled = bitnetc(&["compile", "-o", &at("m.plan"), "--weights", "1.6bit"]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::write(at("in.txt"), "ROMEO:\n").unwrap();
    let (input, results) = (at("in.txt"), at("out.jsonl"));
    let run = |more: &[&str]| {
        let args = [&["batch", &input, "-o", &results, "-n", "2", "-s", "7"], more].concat();
        let out = bitnetc(&args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(run(&[]).0, Some(0));
    let (code, message) = run(&["-m", &at("m.plan")]);
    assert!(code == Some(0) && message.contains("1 result is in"), "{message}");
}

#[test]
fn pipes_are_read_and_written() {
    let mut command = bitnetc(&["-q", "batch", "-", "-o", "-", "-s", "7", "-n", "4", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, "\u{feff}ROMEO:\r\nJULIET:\r\n".as_bytes()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let summary: Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(summary["answered"], 2);
    let folder = tempfile::tempdir().unwrap();
    let piped = folder.path().join("piped.jsonl");
    std::fs::write(&piped, &out.stdout).unwrap();
    let (input, output) = (folder.path().join("in.txt"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "ROMEO:\nJULIET:\n").unwrap();
    finish(&input, &output, &["-n", "4"]);
    let texts = |path: &Path| results(path).values().map(|r| text_of(r).to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(&piped), texts(&output));
}

/// Kills runs at random times until `kills` have been killed, and looks at the output after each.
fn kill_and_resume(kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.txt");
    let prompts = prompts(40);
    std::fs::write(&input, prompts.join("\n")).unwrap();
    // Long enough that most kills find results in the output.
    let args = ["-n", "60", "--ignore-eos", "--parallel", "4"];
    let whole = folder.path().join("whole.jsonl");
    finish(&input, &whole, &args);
    let texts = |output: &Path| -> BTreeMap<String, String> {
        results(output).into_iter().map(|(id, result)| (id, text_of(&result).to_owned())).collect()
    };
    let expected = texts(&whole);
    assert_eq!(expected.len(), prompts.len());

    let mut random = common::random_tokens(99, 1000, 1000).into_iter().cycle();
    let (mut killed, mut torn, mut resumed, mut round) = (0, 0, 0, 0);
    while killed < kills {
        round += 1;
        let output: PathBuf = folder.path().join(format!("out-{round}.jsonl"));
        let mut had = 0;
        loop {
            resumed += usize::from(had > 0);
            let mut child = start(&input, &output, &args);
            // Some time after it has written some more results, however long it takes for them.
            let more = had + random.next().unwrap() as usize % 8;
            let delay = Duration::from_micros(10 * u64::from(random.next().unwrap()));
            let written =
                || std::fs::read(&output).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count());
            let done = loop {
                if child.try_wait().unwrap().is_some() {
                    break true;
                }
                if written() >= more {
                    std::thread::sleep(delay);
                    break false;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            if done {
                assert!(child.wait().unwrap().success());
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            // What is there is right, but for the end of a line.
            let text = std::fs::read_to_string(&output).unwrap_or_default();
            torn += usize::from(!text.is_empty() && !text.ends_with('\n'));
            let complete = text.rfind('\n').map_or("", |at| &text[..=at]);
            let lines: Vec<&str> = complete.lines().collect();
            assert!(lines.len() >= had, "results were lost");
            had = lines.len();
            if killed >= kills {
                finish(&input, &output, &args);
                break;
            }
        }
        assert_eq!(texts(&output), expected, "round {round}");
    }
    eprintln!("{killed} kills in {round} rounds, {torn} torn lines, {resumed} runs that went on");
    assert!(resumed > 0 || kills < 5);
}

#[test]
fn a_killed_batch_goes_on_without_loss() {
    kill_and_resume(6);
}

#[test]
#[ignore = "two minutes: .ci/soak has it"]
fn a_hundred_kills_lose_nothing() {
    kill_and_resume(100);
}
