//! `bitnetc chat` through pipes: messages in, answers out; commands, Ctrl-C, and what a bad template does.
#![cfg(unix)]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/signals.rs"]
#[allow(unreachable_pub)]
mod signals;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

use common::root;
use serde_json::Value;
use signals::with_default_signals;

fn chat(args: &[&str]) -> Command {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_bitnetc"));
    command.arg("chat").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn turns(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_is_answered_and_only_new_tokens_are_computed() {
    let args = ["--json", "--temp", "0", "-n", "8", "-c", "256"];
    let output = with_input(chat(&args), "Good morrow\n\nWhat news?\\\nSpeak!\n\"\"\"\nOne\ntwo\n\"\"\"\n");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let turns = turns(&output);
    assert_eq!(turns.len(), 3);
    let number = |turn: usize, name: &str| turns[turn][name].as_u64().unwrap();
    assert_eq!(number(0, "reused_tokens"), 0);
    for turn in 1..3 {
        let before = number(turn - 1, "prompt_tokens") + number(turn - 1, "generated_tokens");
        assert_eq!(number(turn, "reused_tokens"), before - 1);
    }
    // The texts are those that stream.
    let streamed = with_input(chat(&["-q", "--temp", "0", "-n", "8", "-c", "256"]), "Good morrow\n");
    let text = String::from_utf8(streamed.stdout).unwrap();
    assert_eq!(text, format!("{}\n", turns[0]["text"].as_str().unwrap()));
}

#[test]
fn commands_work_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved chat.json");
    let file = file.to_str().unwrap();
    let input = format!(
        "Good morrow\n/stats\n/retry\n/set temp 0.5\n/set\n/system Be brief.\n/system\nHello\n/save {file}\n/undo\n/help\n//slash\n/exit\nnever read\n"
    );
    let output = with_input(chat(&["-s", "3", "-n", "4", "-c", "256"]), &input);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["of 256 tokens", "temp 0.5", "Be brief.", "saved 3 messages", "took back: Hello", "/retry "]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let saved: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(saved["schema"], "bitnetc.chat/1");
    assert_eq!(saved["messages"][1], serde_json::json!({ "role": "user", "content": "Hello" }));

    let output = with_input(
        chat(&[
            "--json",
            "-s",
            "3",
            "-n",
            "4",
            "-c",
            "256",
            "--load",
            file,
            "-p",
            "And then?",
            "--single-turn",
        ]),
        "",
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(turns(&output).len(), 1);

    for bad in ["/nonsense\n", "/load /nowhere\n", "/set top_p -1\n", "/retry\n"] {
        let output = with_input(chat(&["-c", "64"]), bad);
        assert_ne!(output.status.code(), Some(0), "{bad}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn stats_say_what_came_from_the_cache() {
    let input = "Good morrow\nWhat news?\n/stats\n";
    let output = with_input(chat(&["-q", "--temp", "0", "-n", "8", "-c", "256"]), input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with("last prompt:")).unwrap();
    let numbers: Vec<u32> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [all, cached, computed] = numbers[..3] else { panic!("{line}") };
    assert_eq!(all, cached + computed, "{line}");
    // The second question is shorter than what came before it.
    assert!(cached > computed && computed > 0, "{line}");
    assert!(said.contains("planned, peak RSS"), "{said}");
}

#[test]
fn perf_and_json_tell_times_and_memory() {
    let output =
        with_input(chat(&["-q", "-s", "1", "-n", "6", "--ignore-eos", "--json", "--perf"]), "Hello\nAgain\n");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    for part in ["load time", "prompt eval time", "p99", "planned", "peak RSS"] {
        assert_eq!(said.matches(part).count(), 2, "{part}: {said}");
    }
    for turn in turns(&output) {
        let timings = &turn["timings"];
        for name in ["load_ms", "prompt_ms", "decode_ms", "decode_tokens_per_second", "sampling_ms"] {
            assert!(timings[name].as_f64().unwrap() > 0.0, "{name}: {turn}");
        }
        let latency = |name: &str| timings["token_latency_ms"][name].as_f64().unwrap();
        assert!(latency("p50") <= latency("p90") && latency("p99") <= latency("max"), "{turn}");
        assert!(turn["memory"]["planned_bytes"].as_u64().unwrap() > 0, "{turn}");
        assert!(turn["memory"]["peak_rss_bytes"].is_u64() || !cfg!(target_os = "linux"), "{turn}");
    }
}

#[test]
fn ctrl_c_stops_the_answer_and_the_chat_goes_on() {
    let mut child =
        chat(&["-q", "-s", "1", "--ignore-eos", "-c", "20000", "-r", "never there"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"Tell me everything\n").unwrap();
    let mut first = vec![0; 20];
    stdout.read_exact(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    stdin.write_all(b"/set n 3\nAgain\n/stats\n").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("last answer: 3 tokens"), "{said}");
}

/// Sends Ctrl-C.
fn interrupt(process: u32) {
    assert!(Command::new("kill").args(["-INT", &process.to_string()]).status().unwrap().success());
}

#[test]
fn ctrl_c_in_a_single_turn_is_an_exit_code() {
    let mut command = chat(&["-q", "-s", "1", "--ignore-eos", "-c", "20000", "-r", "never there"]);
    let mut child = command.args(["-p", "Tell me everything", "--single-turn"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_exact(&mut [0; 20]).unwrap();
    interrupt(child.id());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn ctrl_c_before_the_first_answer_counts() {
    // Pressed when the model has been loaded, just before the answer.
    let mut command = chat(&["-s", "1", "--ignore-eos", "-c", "20000", "-r", "never there", "--show-prompt"]);
    let mut child = command.args(["-p", "Tell me everything", "--single-turn"]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    assert!(stderr.read_line(&mut line).unwrap() > 0);
    interrupt(child.id());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(stdout.len() < 2000, "{stdout}");
}

#[test]
fn the_last_message_is_edited_and_models_are_switched() {
    let input = "Hello\n/edit Where art thou?\n/edit\n/model\n/set temp 0.5\n/model shakespeare-5m\n/set\nAgain\n/save saved.json\n";
    let folder = tempfile::tempdir().unwrap();
    let mut command = chat(&["-s", "3", "-n", "4", "-c", "256", "--json"]);
    command.current_dir(folder.path()).env_remove("VISUAL").env("EDITOR", "sed -i s/art/is/");
    let output = with_input(command, input);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("using shakespeare-5m (built in)") && said.contains("temp 0.5"), "{said}");
    assert_eq!(turns(&output).len(), 4);
    let saved = std::fs::read_to_string(folder.path().join("saved.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    let texts: Vec<&str> = saved["messages"]
        .as_array()
        .unwrap()
        .iter()
        .step_by(2)
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["Where is thou?", "Again"]);

    // An editor that fails changes nothing, and an absent model neither.
    for (line, part) in [("/edit", "cannot edit the message"), ("/model absent.gguf", "absent.gguf")] {
        let mut command = chat(&["-q", "-s", "3", "-n", "4", "-c", "256"]);
        command.env_remove("VISUAL").env("EDITOR", "false");
        let output = with_input(command, &format!("Hello\n{line}\n"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(part), "{said}");
    }
}

#[test]
fn old_turns_are_dropped_unless_that_is_disabled() {
    let input = "Tell me of Verona\n".repeat(6);
    let args = ["-s", "3", "-n", "16", "-c", "80", "--ignore-eos", "-r", "never there", "--json"];
    let output = with_input(chat(&args), &input);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), turns(&output).len()), (Some(0), 6), "{said}");
    assert_eq!(said.matches("dropped the oldest").count(), 1, "{said}");
    assert!(turns(&output).iter().any(|turn| turn["dropped_messages"].as_u64() > Some(0)));
    let output = with_input(chat(&[&args[..], &["--no-context-shift"]].concat()), &input);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("without --no-context-shift"), "{said}");
    assert!(turns(&output).len() < 7 && !said.contains("dropped the oldest"), "{said}");
}

#[test]
fn answers_begin_with_a_word() {
    let output = with_input(chat(&["-q", "--temp", "0", "-n", "8", "-c", "256"]), "Good morrow\n");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(|c: char| !c.is_whitespace()) && text.len() > 2, "{text:?}");
}

#[test]
fn a_bad_template_refuses_chat_and_not_the_model() {
    let output = with_input(chat(&["-c", "64", "--chat-template", "{% for %}"]), "Hello\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--chat-template"));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let output = with_input(chat(&["-c", "64", "--chat-template", endless]), "Hello\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("too many steps"));
    let output = with_input(chat(&["-c", "64", "--chat-template", "gema"]), "Hello\n");
    assert_eq!(output.status.code(), Some(2));

    // A model file with such a template runs.
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let bytes = {
        use bitnetc_frontend_gguf::testing::{MetaValue, TinyModel};
        let mut writer = TinyModel::default().writer();
        writer.set("tokenizer.chat_template", MetaValue::String("{% if %}".into()));
        writer.build()
    };
    std::fs::write(&model, bytes).unwrap();
    let model = model.to_str().unwrap();
    let output = with_input(chat(&[model]), "Hello\n");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Command::new(env!("CARGO_BIN_EXE_bitnetc"))
        .args(["run", model, "-p", "he", "-n", "2", "-s", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn answers_follow_a_schema() {
    let schema = r#"{"type":"object","properties":{"name":{"enum":["Romeo","Juliet"]},"alive":{"type":"boolean"}},"required":["name","alive"],"additionalProperties":false}"#;
    let output = with_input(
        chat(&["-q", "-s", "5", "-n", "200", "-c", "512", "-j", schema, "-p", "Who?", "--single-turn"]),
        "",
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value["alive"].is_boolean() && value["name"].is_string(), "{text}");
    let mut lines = BufReader::new(text.as_bytes()).lines();
    assert!(lines.next().is_some());
}

/// Texts through `tokenize --jsonl` and back through `detokenize --jsonl`, with a file that has a vocabulary alone.
#[test]
fn texts_go_through_tokenize_and_back() {
    let model = root().join("models/shakespeare/shakespeare-5m-i2_s.gguf");
    let command = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        command.arg(name).arg(&model).arg("--jsonl");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let texts = ["", "To be, or not to be", "Grüße 😀\n\t", "line\r\nline", "\u{0}\u{7f}"];
    let input: String = texts.iter().map(|text| format!("{}\n", serde_json::json!(text))).collect();
    let mut tokenize = command("tokenize");
    tokenize.arg("--no-bos");
    let ids = with_input(tokenize, &input);
    assert_eq!(ids.status.code(), Some(0), "{}", String::from_utf8_lossy(&ids.stderr));
    let lines = String::from_utf8(ids.stdout).unwrap();
    assert_eq!(lines.lines().next(), Some(r#"{"ids":[]}"#));
    let back = with_input(command("detokenize"), &lines);
    let back: Vec<Value> = turns(&back);
    assert_eq!(back.len(), texts.len());
    for (value, text) in back.iter().zip(texts) {
        assert_eq!(value["text"], text);
    }
    let bad = with_input(command("tokenize"), "\"ok\"\nnot json\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("line 2"));
}
