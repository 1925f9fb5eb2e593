//! The command as a process: Ctrl-C, a reader that goes away, and where generation ends.
#![cfg(unix)]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/signals.rs"]
#[allow(unreachable_pub)]
mod signals;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bitnetc::engine::{EngineOptions, GenerateOptions, Request, Scheduler, Stop};
use bitnetc_ir::DType;
use bitnetc_runtime::sampling::SamplingParams;
use bitnetc_runtime::tokenizer::{TokenId, TokenType, Tokenize, Tokenizer, TokenizerError};
use common::{open, options, root};
use signals::with_default_signals;

fn bitnetc(args: &[&str]) -> Command {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_bitnetc"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn ctrl_c_ends_generation_with_130() {
    let mut child =
        bitnetc(&["-q", "run", "-p", "ROMEO:\n", "--ignore-eos", "-c", "100000", "-s", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    lines.read_to_string(&mut first).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{first}");
}

#[test]
fn ctrl_c_during_the_prompt_ends_it_before_the_next_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("long.txt");
    std::fs::write(&prompt, "To be, or not to be, that is the question.\n".repeat(6000)).unwrap();
    let args = ["run", "-f", prompt.to_str().unwrap(), "-c", "200000", "--no-display-prompt", "-s", "1"];
    let mut child = bitnetc(&args).spawn().unwrap();
    // The warning about the context is said right before the prompt is run.
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("--ctx-size") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
}

/// Waits until a process has a handler of its own for SIGINT; false if it has ended.
#[cfg(target_os = "linux")]
fn listens(child: &mut std::process::Child) -> bool {
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        if caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 2 != 0)) {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
fn interrupt(child: &std::process::Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// Work that asks nobody whether it may go on: a read from a pipe that gives nothing, and the measuring of limits.
#[test]
#[cfg(target_os = "linux")]
fn the_first_ctrl_c_ends_what_does_not_ask() {
    let limits = ["bench", "-p", "0", "-n", "1", "-r", "3", "--limits-buffer", "4096"];
    for args in [&["run"][..], &["run", "--json-schema-file", "-"], &["batch", "-", "-o", "-"], &limits] {
        let mut child = bitnetc(args).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        assert!(listens(&mut child), "{args:?}");
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}");
        drop(stdin);
    }
}

/// In a chat through pipes the first Ctrl-C stops the answer, and one that comes while it waits for a line ends it.
#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_ends_a_chat_that_waits_for_a_line() {
    let args = ["-q", "chat", "-s", "1", "--ignore-eos", "-c", "20000", "-r", "never there"];
    let mut child = bitnetc(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"Tell me everything\n").unwrap();
    let mut some = vec![0; 20];
    stdout.read_exact(&mut some).unwrap();
    let reader = std::thread::spawn(move || stdout.read_to_end(&mut some));
    interrupt(&child);
    // A command is answered: the chat goes on.
    std::io::Write::write_all(&mut stdin, b"/stats\n").unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("memory:") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    reader.join().unwrap().unwrap();
}

/// The command at a terminal of its own, if the system has `script`; what it shows. Once it has shown `until`, `input` is typed.
#[cfg(target_os = "linux")]
fn at_a_terminal(line: &str, (until, input): (&str, &str)) -> Option<String> {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_bitnetc"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env("BITNETC_CONFIG", "");
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no `script` to make a terminal");
        return None;
    };
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    loop {
        let read = stdout.read(&mut bytes).unwrap();
        if read == 0 {
            break;
        }
        shown += &String::from_utf8_lossy(&bytes[..read]);
        if shown.contains(until)
            && let Some(mut stdin) = stdin.take()
        {
            std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        }
    }
    child.wait().unwrap();
    Some(shown)
}

#[test]
#[cfg(target_os = "linux")]
fn work_without_steps_shows_that_it_goes_on() {
    let shown = at_a_terminal("bench -p 0 -n 1 -r 1 --limits-buffer 4096", ("measuring", ""));
    assert!(shown.is_none_or(|shown| shown.contains("measuring")));
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_with_a_template_opens_a_chat_at_a_terminal() {
    use bitnetc_frontend_gguf::testing::{MetaValue, TinyModel};
    let mut writer = TinyModel::default().writer();
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    writer.set("tokenizer.chat_template", MetaValue::String(template.into()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), writer.build()).unwrap();
    let path = file.path().display();
    let exit = ("> ", "/exit\r");
    let Some(shown) = at_a_terminal(&format!("run {path} -n 2 "), exit) else { return };
    assert!(shown.contains("/help"), "{shown}");
    let raw =
        at_a_terminal(&format!("run {path} -n 2 --ignore-eos --no-conversation"), exit).unwrap_or_default();
    assert!(!raw.contains("/help"), "{raw}");
    let builtin = at_a_terminal("run -n 2 --temp 0", exit).unwrap_or_default();
    assert!(builtin.contains("shakespeare") && !builtin.contains("/help"), "{builtin}");
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let mut child =
        bitnetc(&["-q", "run", "-p", "ROMEO:\n", "--ignore-eos", "-n", "400", "-s", "1"]).spawn().unwrap();
    let mut start = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn help_for_a_closed_pipe_is_no_failure() {
    for args in [&["help"][..], &["--help"], &["run", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bitnetc(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn text_on_standard_input_that_is_not_read_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "JULIET:").unwrap();
    let run = |args: &[&str], stdin: Stdio| {
        let args = [args, &["-n", "1", "-t", "1", "-s", "1"]].concat();
        let output = bitnetc(&args).stdin(stdin).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let file = || Stdio::from(std::fs::File::open(&text).unwrap());
    let note = "note: standard input is not read, because a prompt is given";
    let (stdout, stderr) = run(&["run", "-p", "ROMEO:"], file());
    assert!(stdout.starts_with("ROMEO:") && stderr.contains(note), "{stderr}");
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"JULIET:").unwrap();
    assert!(run(&["run", "-p", "ROMEO:"], reader.into()).1.contains(note));
    drop(writer);
    // What is read, and what is empty, is no matter for a note.
    let (stdout, stderr) = run(&["run"], file());
    assert!(stdout.starts_with("JULIET:") && !stderr.contains("standard input"), "{stderr}");
    assert!(!run(&["run", "-f", "-"], file()).1.contains("standard input"));
    for nothing in [Stdio::null(), Stdio::from(std::io::pipe().unwrap().0)] {
        assert!(!run(&["run", "-p", "ROMEO:"], nothing).1.contains("standard input"));
    }
    // A prompt that is the name of a file.
    let (_, stderr) = run(&["run", "-p", text.to_str().unwrap()], Stdio::null());
    assert!(stderr.contains("note: --prompt is used as text") && stderr.contains("-f reads it"), "{stderr}");
}

#[test]
fn a_device_is_not_replaced() {
    for command in [
        &["logits", "--tokens", "1", "-o", "/dev/null"][..],
        &["compile", "models/shakespeare/shakespeare-5m-i2_s.gguf", "-o", "/dev/null"],
    ] {
        let output = bitnetc(command).current_dir(root()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("regular file"));
    }
}

/// A tokenizer for which one more token ends a text.
struct EndsAt(Arc<Tokenizer>, TokenId);

impl Tokenize for EndsAt {
    fn encode(&self, text: &str, special: bool, parse: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.0.encode(text, special, parse)
    }
    fn encode_bytes(&self, bytes: &[u8], special: bool, parse: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.0.encode_bytes(bytes, special, parse)
    }
    fn encode_template(
        &self,
        text: &str,
        breaks: &[usize],
        start: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        self.0.encode_template(text, breaks, start)
    }
    fn token_bytes(&self, id: TokenId) -> &[u8] {
        self.0.token_bytes(id)
    }
    fn token_type(&self, id: TokenId) -> Option<TokenType> {
        self.0.token_type(id)
    }
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
    fn bos(&self) -> Option<TokenId> {
        self.0.bos()
    }
    fn eos(&self) -> Option<TokenId> {
        self.0.eos()
    }
    fn is_end(&self, id: TokenId) -> bool {
        id == self.1 || self.0.is_end(id)
    }
}

#[test]
fn generation_ends_at_any_end_token_unless_they_are_ignored() {
    let loaded = open(&root().join("models/shakespeare/shakespeare-5m-i2_s.gguf"), &options(DType::F16));
    let prompt = loaded.tokenizer.encode("ROMEO:\n", true, false).unwrap();
    let run = |tokenizer: Arc<dyn Tokenize>, ignore_end| {
        let options = GenerateOptions { limit: Some(24), ignore_end, ..GenerateOptions::default() };
        let request = Request::new(prompt.clone(), SamplingParams::greedy(), options).unwrap();
        let mut scheduler =
            Scheduler::new(loaded.model.clone(), loaded.source_hash, tokenizer, EngineOptions::single(64, 2))
                .unwrap();
        let handle = scheduler.submit(request);
        let end = scheduler.follow(handle, || true, |_| true).unwrap();
        (end.finish, end.tokens, end.text)
    };
    let (stop, free, text) = run(loaded.tokenizer.clone(), false);
    assert_eq!((stop, free.len()), (Stop::Limit, 24));
    assert_eq!(text, loaded.tokenizer.decode_lossy(&free, false));
    let end = free[9];
    let first = free.iter().position(|&t| t == end).unwrap();
    let ends = Arc::new(EndsAt(loaded.tokenizer.clone(), end));
    let (stop, stopped, text) = run(ends.clone(), false);
    assert_eq!(stop, Stop::EndToken(end));
    assert_eq!(stopped, free[..first], "the end token is no part of the text");
    assert_eq!(text, loaded.tokenizer.decode_lossy(&free[..first], false));
    let (stop, ignored, _) = run(ends, true);
    assert_eq!((stop, ignored.len()), (Stop::Limit, 24));
    assert!(!ignored.contains(&end) && ignored[..first] == free[..first]);
}
