//! A batch from file to file, over the built-in model: how it is interrupted, what its progress says, and what refusals name.

use std::path::Path;

use bitnetc::api::{Defaults, Limits, Service};
use bitnetc::batch::{BatchError, Done, Format, Input, Job, Lines, Outcome, Output, Settings, Shard};
use bitnetc::chat::{ChatEncoder, Wish};
use bitnetc::engine::{EngineOptions, GenerateOptions};
use bitnetc::{Error, Model, SamplingParams};

/// A job over `lines` in a context; its results go to `output`.
fn job(model: &Model, lines: &str, output: &Path, context: u32) -> Job {
    let file = output.with_extension("in");
    std::fs::write(&file, lines).unwrap();
    let input = Input::open(&file, Format::Jsonl, Shard::ALL).unwrap();
    let options = GenerateOptions { limit: Some(4), ..GenerateOptions::default() };
    let defaults = Defaults { params: SamplingParams::greedy(), seed: Some(1), options, form: None };
    let lines = Lines::Prompts;
    let settings = Settings::new(model.loaded(), (Format::Jsonl, &lines), &defaults, &Wish::Model, 0);
    let service = Service {
        model: model.clone(),
        chat: ChatEncoder::for_model(model.loaded(), &Wish::Model).map(|(encoder, _)| encoder),
        id: "a model".to_owned(),
        created: 0,
        context,
        defaults,
        limits: Limits::default(),
        strict_model: false,
    };
    Job::new(input, (&Done::default(), output), service, lines, settings).unwrap()
}

fn good(prompt: &str) -> String {
    format!("{{\"url\":\"/v1/completions\",\"body\":{{\"prompt\":\"{prompt}\"}}}}\n")
}

/// Runs a job as long as it is allowed to; what came of it, and the lines of its output.
fn run(
    model: &Model,
    job: &Job,
    output: &Path,
    context: u32,
    keep_going: impl FnMut() -> bool,
    progress: impl FnMut(u64),
) -> (Result<(), BatchError>, Outcome, Vec<String>) {
    let mut scheduler = model.scheduler(EngineOptions::of(context, 1, 2)).unwrap();
    let (mut results, _) = Output::open(output, true).unwrap();
    let mut outcome = Outcome::default();
    let result = job.run(&mut scheduler, &mut results, &mut outcome, keep_going, progress);
    results.finish().unwrap();
    let text = std::fs::read_to_string(output).unwrap();
    (result, outcome, text.lines().map(str::to_owned).collect())
}

#[test]
fn an_interruption_is_looked_for_before_every_request() {
    let model = Model::builtin().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("results.jsonl");
    let job = job(&model, &"no JSON\n".repeat(1000), &output, 64);
    let mut left = 25;
    let mut allowed = || {
        left -= 1;
        left >= 0
    };
    let (result, outcome, lines) = run(&model, &job, &output, 64, &mut allowed, |_| ());
    assert!(matches!(result, Err(BatchError::Run(Error::Interrupted))), "{result:?}");
    assert!((10..=25).contains(&lines.len()), "{}", lines.len());
    assert_eq!(outcome.refused, lines.len() as u64);
    let mut left = 25;
    let result = job.context_needed(|| {
        left -= 1;
        left > 0
    });
    assert!(matches!(result, Err(BatchError::Run(Error::Interrupted))) && left == 0, "{left}");
}

#[test]
fn an_input_that_changes_ends_the_batch_after_what_is_under_way() {
    let model = Model::builtin().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("results.jsonl");
    let lines = [good("a"), good("b"), good("c"), good("d"), good("e")].concat();
    let job = job(&model, &lines, &output, 64);
    // The third line is another one now.
    std::fs::write(output.with_extension("in"), lines.replacen("\"c\"", "\"x\"", 1)).unwrap();
    let (result, outcome, lines) = run(&model, &job, &output, 64, || true, |_| ());
    assert!(matches!(result, Err(BatchError::InputChanged { .. })), "{result:?}");
    assert_eq!((outcome.answered, outcome.refused, lines.len()), (2, 0, 2));
}

#[test]
fn progress_counts_what_is_refused() {
    let model = Model::builtin().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("results.jsonl");
    let job = job(&model, &["no JSON\n", &good("a"), "none\n", "none\n", &good("b")].concat(), &output, 64);
    let mut seen = Vec::new();
    let (result, outcome, lines) = run(&model, &job, &output, 64, || true, |done| seen.push(done));
    result.unwrap();
    assert_eq!((outcome.answered, outcome.refused, lines.len()), (2, 3, 5));
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[test]
fn a_prompt_that_is_too_long_is_refused_by_the_limit_and_not_by_what_the_others_need() {
    let model = Model::builtin().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("results.jsonl");
    let long = "word ".repeat(400);
    let job = job(&model, &[good("a"), good(&long)].concat(), &output, 100);
    let context = job.context_needed(|| true).unwrap();
    assert!(context < 50, "{context}");
    let (result, outcome, lines) = run(&model, &job, &output, context, || true, |_| ());
    result.unwrap();
    assert_eq!((outcome.answered, outcome.refused), (1, 1));
    let refused = lines.iter().find(|line| line.contains("context_length_exceeded")).unwrap();
    assert!(refused.contains("maximum context length is 100 tokens"), "{refused}");
}
