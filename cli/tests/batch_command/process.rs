//! `bitnetc batch` as a process, and the texts that it has to give.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bitnetc::Model;
use bitnetc::engine::{EngineOptions, GenerateOptions, Request, Stop};
use bitnetc_runtime::sampling::SamplingParams;
use serde_json::Value;

use crate::common::tokens_by_hand;

pub(crate) fn builtin() -> Model {
    Model::builtin().unwrap()
}

/// Prompts of many lengths.
pub(crate) fn prompts(count: usize) -> Vec<String> {
    let words =
        "ROMEO: what light through yonder window breaks, it is the east and JULIET is the sun arise fair";
    let words: Vec<&str> = words.split(' ').collect();
    (0..count)
        .map(|i| words.iter().cycle().skip(i * 3).take(1 + i * 7 % 29).copied().collect::<Vec<_>>().join(" "))
        .collect()
}

pub(crate) fn params() -> SamplingParams {
    SamplingParams { seed: 7, ..SamplingParams::default() }
}

/// The text of a prompt by a session of its own, as `bitnetc run` makes it, which is that of a session fed by hand.
pub(crate) fn alone(
    model: &Model,
    prompt: &str,
    params: SamplingParams,
    limit: u64,
) -> (String, Vec<u32>, Stop) {
    let ids = model.prompt(prompt).unwrap();
    let expected = tokens_by_hand(model.loaded(), &ids, params.clone(), limit as usize, false);
    let mut session = model.session_with(EngineOptions::single(model.context(), 1)).unwrap();
    let options = GenerateOptions { limit: Some(limit), ..GenerateOptions::default() };
    let end = session.follow(Request::new(ids, params, options).unwrap(), || true, |_| true).unwrap();
    assert_eq!(end.tokens, expected, "{prompt}");
    (end.text, end.tokens, end.finish)
}

pub(crate) fn bitnetc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
    command.args(args).env("BITNETC_CONFIG", "").stdin(Stdio::null());
    command
}

pub(crate) fn start(input: &Path, output: &Path, more: &[&str]) -> Child {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let args = [&["-q", "batch", input, "-o", output, "-s", "7"], more].concat();
    bitnetc(&args).stdout(Stdio::null()).spawn().unwrap()
}

pub(crate) fn finish(input: &Path, output: &Path, more: &[&str]) {
    assert!(start(input, output, more).wait().unwrap().success());
}

/// The results of a file by their ids; each is there once.
pub(crate) fn results(output: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(output).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    let mut results = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let id = value["custom_id"].as_str().unwrap().to_owned();
        assert!(results.insert(id.clone(), value).is_none(), "{id} is there twice");
    }
    results
}

pub(crate) fn text_of(result: &Value) -> &str {
    result["response"]["body"]["choices"][0]["text"].as_str().unwrap()
}
