//! The engine over models: texts are those of a session that is fed by hand, whatever runs beside them.

mod common;

use bitnetc::constraint::ConstraintError;
use bitnetc::engine::{EngineOptions, GenerateOptions, Request, Stop};
use bitnetc::perplexity::negative_log_likelihood;
use bitnetc::{Error, GrammarSource, Model};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::DType;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::{SamplingParams, TokenLogprobs};
use common::poisoned::model_with_nan_after;
use common::{open, options, random_tokens, score, tokens_by_hand, write_model};

fn tiny(model: &TinyModel) -> Model {
    open(write_model(model).path(), &options(DType::F16)).into()
}

fn params(seed: u64) -> SamplingParams {
    SamplingParams { seed, ..SamplingParams::default() }
}

fn limit(n: u64) -> GenerateOptions {
    GenerateOptions { limit: Some(n), ignore_end: true, ..GenerateOptions::default() }
}

#[test]
fn eight_texts_decode_while_a_prompt_of_4000_tokens_is_read() {
    let model = tiny(&TinyModel { context: 4096, ..TinyModel::default() });
    let vocab = model.loaded().model.vocab();
    let most = 40;
    let options = EngineOptions { max_prompt_rows: Some(most), ..EngineOptions::of(4096, 2, 9) };
    let mut scheduler = model.scheduler(options).unwrap();
    let short: Vec<_> = (0..8).map(|seed| random_tokens(seed, 6, vocab)).collect();
    let long = random_tokens(99, 4000, vocab);
    let submit = |prompt: &[u32], seed, n| Request::new(prompt.to_vec(), params(seed), limit(n)).unwrap();
    let mut handles: Vec<_> = (0..)
        .zip(&short)
        .map(|(seed, prompt)| scheduler.submit(submit(prompt, seed, 120).without_tokens()))
        .collect();
    while scheduler.step().prompt_rows > 0 {}
    handles.push(scheduler.submit(submit(&long, 99, 10).without_tokens()));
    let mut seen = 0;
    while scheduler.running() > 0 || scheduler.waiting() > 0 {
        let step = scheduler.step();
        assert!(step.prompt_rows <= most, "{step:?}");
        assert!(step.prompt_rows == 0 || step.decode_rows == 8, "{step:?}");
        seen += step.prompt_rows;
    }
    assert_eq!(seen, 4000);
    let prompts = short.iter().map(|prompt| (prompt, 120)).chain([(&long, 10)]);
    for (seed, (handle, (prompt, count))) in (0..).zip(handles.into_iter().zip(prompts)) {
        let seed = if seed == 8 { 99 } else { seed };
        let completion = scheduler.follow(handle, || true, |_| true).unwrap();
        assert_eq!(completion.tokens, tokens_by_hand(model.loaded(), prompt, params(seed), count, true));
    }
}

#[test]
fn probabilities_of_prompts_are_those_of_a_session_that_scores() {
    let model = tiny(&TinyModel { context: 512, ..TinyModel::default() });
    let vocab = model.loaded().model.vocab();
    let prompt = random_tokens(5, 150, vocab);
    let rows = score(model.loaded(), &prompt, 2);
    let expected: Vec<_> =
        rows.iter().zip(&prompt[1..]).map(|(row, &next)| TokenLogprobs::of(row, next, 3)).collect();
    for most in [None, Some(1), Some(7), Some(100)] {
        let options = EngineOptions { max_prompt_rows: most, ..EngineOptions::of(512, 2, 3) };
        let mut scheduler = model.scheduler(options).unwrap();
        let scored = |n| {
            let options = GenerateOptions { limit: Some(n), ignore_end: true, ..GenerateOptions::default() };
            let mut request = Request::new(prompt.clone(), params(1), options).unwrap();
            request.prompt_logprobs = Some(3);
            request
        };
        // Beside one that decodes, one without a text, and after one that has computed the beginning.
        let other = scheduler.submit(Request::new(prompt[..60].to_vec(), params(2), limit(200)).unwrap());
        scheduler.step();
        for n in [0, 5, 0] {
            let handle = scheduler.submit(scored(n));
            let end = scheduler.follow(handle, || true, |_| true).unwrap();
            assert_eq!((end.reused_tokens, end.tokens.len() as u64, end.finish), (0, n, Stop::Limit));
            assert_eq!(end.prompt_logprobs, expected, "{most:?}");
            let nll = |(row, &next): (&Vec<f32>, &u32)| negative_log_likelihood(row, next).to_bits();
            let by_hand: Vec<u64> = rows.iter().zip(&prompt[1..]).map(nll).collect();
            let found: Vec<u64> =
                end.prompt_logprobs.iter().map(|of| (-of.token.logprob).to_bits()).collect();
            assert_eq!(found, by_hand);
        }
        // What it has computed is there for others.
        let handle = scheduler.submit(Request::new(prompt.clone(), params(3), limit(4)).unwrap());
        let end = scheduler.follow(handle, || true, |_| true).unwrap();
        assert_eq!((end.reused_tokens, end.prompt_logprobs.len()), (149, 0));
        drop(other);
    }
}

#[test]
fn a_nan_within_a_prompt_that_is_scored_ends_its_request() {
    let model = poisoned(7);
    let mut scheduler = model.scheduler(EngineOptions::of(128, 2, 2)).unwrap();
    let mut request = Request::new(vec![1, 2, 3, 7, 5, 6, 1], params(1), limit(3)).unwrap();
    request.prompt_logprobs = Some(0);
    let handle = scheduler.submit(request);
    let error = scheduler.follow(handle, || true, |_| true).unwrap_err();
    assert!(matches!(error, Error::Session(SessionError::NotANumber { position: 3, .. })), "{error}");
    assert_eq!(scheduler.running(), 0);
}

/// A model that computes NaN after this token.
fn poisoned(token: usize) -> Model {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::io::Write::write_all(&mut file, &model_with_nan_after(token)).unwrap();
    open(file.path(), &options(DType::F16)).into()
}

#[test]
fn logits_that_are_nan_end_their_request_and_leave_no_trace() {
    let model = poisoned(7);
    let mut scheduler = model.scheduler(EngineOptions::of(128, 2, 2)).unwrap();
    // The good ones do not come to the token by themselves.
    let without = |seed| SamplingParams { logit_bias: [(7, f32::NEG_INFINITY)].into(), ..params(seed) };
    let submit = |prompt: &[u32], seed| Request::new(prompt.to_vec(), without(seed), limit(12)).unwrap();
    let good: Vec<_> = (0..6).map(|seed| random_tokens(seed + 50, 20, 6)).collect();
    let mut keyed = Vec::new();
    for (seed, prompt) in (0..).zip(&good) {
        keyed.push((Some(seed), submit(prompt, seed)));
        // A NaN in the middle of the keys and values of a sequence that the next ones use again.
        keyed.push((None, submit(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], seed)));
    }
    let mut bad = 0;
    let mut texts = Vec::new();
    let result = scheduler.complete_all(
        keyed,
        || true,
        |key, result| {
            match (key, result) {
                (Some(seed), Ok(completion)) => texts.push((seed, completion.tokens)),
                (None, Err(Error::Session(SessionError::NotANumber { position: 9, .. }))) => bad += 1,
                (key, result) => panic!("{key:?}: {result:?}"),
            }
            Ok::<(), Error>(())
        },
    );
    result.unwrap();
    assert_eq!((bad, texts.len()), (6, 6));
    for (seed, tokens) in texts {
        let expected = tokens_by_hand(model.loaded(), &good[seed as usize], without(seed), 12, true);
        assert_eq!(tokens, expected, "{seed}");
    }
}

#[test]
fn a_grammar_that_explodes_ends_its_request() {
    let model = Model::builtin().unwrap();
    let engine = model.engine(EngineOptions::of(256, 1, 2)).unwrap();
    let prompt = model.prompt("ROMEO:").unwrap();
    let request = |seed| {
        let options = GenerateOptions { limit: Some(20), ..GenerateOptions::default() };
        Request::new(prompt.clone(), params(seed), options).unwrap()
    };
    let schema = format!(r#"{{"type":"string","pattern":"{}"}}"#, ".*".repeat(200));
    let exploding = model.constraint(&GrammarSource::JsonSchema(schema));
    let good = engine.submit(request(1));
    match exploding {
        // Refused when it is read, or ended when it is followed.
        Err(error) => assert!(matches!(error, ConstraintError::Limit { .. }), "{error}"),
        Ok(constraint) => {
            let error = engine.submit(request(2).with_constraint(constraint)).complete().unwrap_err();
            assert!(matches!(error, Error::Constraint(ConstraintError::Limit { .. })), "{error}");
        }
    }
    let tokens = good.complete().unwrap().tokens;
    assert_eq!(tokens, tokens_by_hand(model.loaded(), &prompt, params(1), 20, false));
}

#[test]
fn many_threads_ask_one_engine() {
    let model = Model::builtin().unwrap();
    let engine = model.engine(EngineOptions::of(256, 1, 3)).unwrap();
    let schema = r#"{"enum":["Romeo","Juliet"]}"#;
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (engine, model) = (engine.clone(), model.clone());
            scope.spawn(move || {
                let prompt = model.prompt(&format!("Scene {seed}:")).unwrap();
                let options = GenerateOptions { limit: Some(16), ..GenerateOptions::default() };
                let request = Request::new(prompt.clone(), params(seed), options.clone()).unwrap();
                let tokens = engine.submit(request).complete().unwrap().tokens;
                assert_eq!(tokens, tokens_by_hand(model.loaded(), &prompt, params(seed), 16, false));
                let constraint = model.constraint(&GrammarSource::JsonSchema(schema.to_owned())).unwrap();
                let request =
                    Request::new(prompt, params(seed), options).unwrap().with_constraint(constraint);
                let text = engine.submit(request).complete().unwrap().text;
                assert!(["\"Romeo\"", "\"Juliet\""].contains(&text.trim()), "{text}");
            });
        }
    });
}

#[test]
fn an_answer_that_is_stopped_has_what_was_certain() {
    let model = Model::builtin().unwrap();
    let mut session = model.session_with(EngineOptions::single(128, 1)).unwrap();
    let prompt = model.prompt("JULIET:").unwrap();
    let whole = tokens_by_hand(model.loaded(), &prompt, params(3), 30, true);
    let mut pieces = 0;
    let request = Request::new(prompt, params(3), limit(30)).unwrap();
    let stopped = session.follow(
        request,
        || true,
        |_| {
            pieces += 1;
            pieces < 5
        },
    );
    let stopped = stopped.unwrap();
    assert_eq!((stopped.finish, &stopped.tokens[..]), (Stop::Interrupted, &whole[..5]));
    assert_eq!(stopped.text, model.tokenizer().decode_lossy(&whole[..5], false));
}
