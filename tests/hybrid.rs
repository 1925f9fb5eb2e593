//! Models with recurrent layers: whatever is done with a sequence, its logits are those of its tokens, by bits. States cannot be
//! cut back, so what is asked for beyond them is computed again.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnetc::Model;
use bitnetc::engine::{EngineOptions, GenerateOptions, Request};
use bitnetc::load::{Loaded, score_by_interpreter};
use bitnetc_frontend_gguf::ActivationFormat;
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::DType;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Feed, Machine, MachineOptions, Record, Wanted};
use bitnetc_runtime::sampling::SamplingParams;
use bitnetc_runtime::sequence::Sequence;
use common::*;

/// Long enough to cross a key block.
const LONG: usize = 90;

fn loaded(chunk: u32) -> Loaded {
    let file = write_model(&TinyModel::hybrid());
    open(file.path(), &options_with(DType::F16, |build| build.chunk = chunk))
}

fn tokens() -> Vec<u32> {
    random_tokens(3, LONG, 280)
}

fn machine(loaded: &Loaded, threads: u32, segments: u32) -> Machine {
    let options = MachineOptions { context: LONG as u32, threads, segments, record: Record::Nothing };
    Machine::new(Arc::clone(&loaded.model), options).unwrap()
}

/// Feeds the tokens to a sequence, and gives the logits after each of them.
fn fed(machine: &mut Machine, sequence: &mut Sequence, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut feeds = [Feed { sequence, tokens, logits: Wanted::All }];
    machine.step(&mut feeds, |_, logits| rows.push(logits.unwrap().to_vec())).unwrap();
    rows
}

#[test]
fn tokens_come_in_any_portions() {
    let tokens = tokens();
    let mut expected = Vec::new();
    score_by_interpreter(&loaded(16), &tokens, &mut |_, row| {
        expected.push(row.to_vec());
        true
    })
    .unwrap();
    for chunk in [1, 2, 3, 17, 64, 128] {
        let loaded = loaded(chunk);
        for threads in [1, 3] {
            let what = format!("chunks of {chunk}, {threads} threads");
            assert_same(&what, &expected, &score(&loaded, &tokens, threads));
            assert_same(
                &format!("{what}, decode"),
                &expected[..20],
                &decode(&loaded, &tokens[..20], threads),
            );
        }
    }
}

#[test]
fn what_is_cut_off_is_computed_again() {
    let loaded = loaded(17);
    let tokens = tokens();
    let expected = score(&loaded, &tokens, 1);
    let mut machine = machine(&loaded, 2, 1);
    let mut sequence = machine.sequence().unwrap();
    fed(&mut machine, &mut sequence, &tokens[..70]);
    // Other tokens in place of the last ones, then the right ones again; one token, and many.
    for (left, wrong, count) in [(69, 5, 1), (40, 30, 1), (40, 3, 20), (1, 9, 30), (0, 7, 1)] {
        sequence.truncate(left as u32);
        assert_eq!(sequence.position() as usize, left);
        let other: Vec<u32> = (0..wrong).map(|i| (tokens[left] + 1 + i) % 280).collect();
        fed(&mut machine, &mut sequence, &other);
        sequence.truncate(left as u32);
        let rows = fed(&mut machine, &mut sequence, &tokens[left..left + count]);
        assert_same(&format!("after {left} of {wrong}"), &expected[left..left + count], &rows);
        let at = left + count;
        assert_same(
            &format!("then {at}"),
            &expected[at..=at],
            &fed(&mut machine, &mut sequence, &tokens[at..=at]),
        );
        fed(&mut machine, &mut sequence, &tokens[at + 1..70.max(at + 2)]);
    }
    // A mark has copies of the states; that of other tokens is none.
    let mark = sequence.mark().unwrap();
    let at = sequence.position() as usize;
    fed(&mut machine, &mut sequence, &[3, 1, 4]);
    sequence.rewind(&mark);
    assert_eq!((sequence.position() as usize, sequence.forget_unheld() as usize), (at, at));
    assert_same("from a mark", &expected[at..at + 2], &fed(&mut machine, &mut sequence, &tokens[at..at + 2]));
    sequence.truncate(at as u32 - 3);
    fed(&mut machine, &mut sequence, &[7, 7, 7, 7]);
    sequence.rewind(&mark);
    assert_eq!((sequence.position() as usize, sequence.forget_unheld()), (at, 0));
    fed(&mut machine, &mut sequence, &tokens[..60]);
    // Those that would be computed again can be given up.
    let length = sequence.position();
    assert_eq!(sequence.forget_unheld(), length);
    sequence.truncate(20);
    assert_eq!((sequence.position(), sequence.forget_unheld()), (20, 0));
}

#[test]
fn beginnings_are_copied_as_far_as_there_is_a_state() {
    let loaded = loaded(17);
    let tokens = tokens();
    let expected = score(&loaded, &tokens, 1);
    let mut machine = machine(&loaded, 2, 2);
    let mut source = machine.sequence().unwrap();
    fed(&mut machine, &mut source, &tokens[..50]);
    let id = [7; 32];
    for (length, held) in [(50, 50), (60, 50), (30, 0)] {
        let other: Vec<u32> = tokens[..33].iter().map(|t| (t + 1) % 280).collect();
        for before in [&other[..], &tokens[..20], &tokens[..40], &[]] {
            let mut copy = machine.sequence().unwrap();
            if !before.is_empty() {
                fed(&mut machine, &mut copy, before);
            }
            copy.copy_prefix(&source, length).unwrap();
            assert_eq!(copy.tokens(), &tokens[..copy.position() as usize]);
            let at = copy.position() as usize;
            let rows = fed(&mut machine, &mut copy, &tokens[at..70]);
            assert_same(&format!("copy of {length}"), &expected[at..70], &rows);

            let saved = source.save(&id, length).unwrap();
            assert_eq!(saved.tokens().len(), held);
            let mut restored = machine.sequence().unwrap();
            if !before.is_empty() {
                fed(&mut machine, &mut restored, before);
            }
            for wanted in [length, 10] {
                restored.restore(&id, &saved, wanted).unwrap();
                let at = restored.position() as usize;
                assert_eq!(at, held.min(wanted as usize));
                let rows = fed(&mut machine, &mut restored, &tokens[at..at + 5]);
                assert_same(&format!("{wanted} of {held}"), &expected[at..at + 5], &rows);
            }
        }
    }
}

#[test]
fn a_step_that_does_not_end_leaves_no_state_behind() {
    let loaded = loaded(16);
    let tokens = tokens();
    let expected = score(&loaded, &tokens, 1);
    let mut machine = machine(&loaded, 1, 1);
    let mut sequence = machine.sequence().unwrap();
    fed(&mut machine, &mut sequence, &tokens[..10]);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    machine.set_keep_going(move || count.fetch_add(1, Ordering::Relaxed) != 2);
    let mut feeds = [Feed { sequence: &mut sequence, tokens: &tokens[10..80], logits: Wanted::None }];
    let interrupted = machine.step(&mut feeds, |_, _| ());
    assert!(matches!(interrupted, Err(SessionError::Interrupted)), "{interrupted:?}");
    assert_eq!(sequence.position(), 10);
    let rows = fed(&mut machine, &mut sequence, &tokens[10..60]);
    assert_same("after an interruption", &expected[10..60], &rows);
}

#[test]
fn sequences_that_run_together_give_what_each_gives_alone() {
    let loaded = loaded(24);
    let all: Vec<Vec<u32>> = (0..5).map(|seed| random_tokens(seed, 60, 280)).collect();
    let expected: Vec<_> = all.iter().map(|tokens| score(&loaded, tokens, 1)).collect();
    for threads in [1, 2, 3] {
        let mut machine = machine(&loaded, threads, 5);
        let mut sequences: Vec<Sequence> = (0..5).map(|_| machine.sequence().unwrap()).collect();
        // One has tokens to compute again in the midst of the others.
        fed(&mut machine, &mut sequences[3], &all[3][..9]);
        sequences[3].truncate(4);
        let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 5];
        found[3].extend_from_slice(&expected[3][..4]);
        let mut choices = random_tokens(threads.into(), 4096, 1 << 16).into_iter();
        while sequences.iter().any(|s| s.position() < 60) {
            let mut portions = Vec::new();
            for (number, tokens) in all.iter().enumerate() {
                let done = sequences[number].position() as usize;
                let count = [0, 1, 1, 1, 2, 7, 30][choices.next().unwrap() as usize % 7].min(60 - done);
                portions.push(&tokens[done..done + count]);
            }
            let mut feeds = Vec::new();
            let mut fed = Vec::new();
            for (number, (sequence, tokens)) in sequences.iter_mut().zip(portions).enumerate() {
                if !tokens.is_empty() {
                    feeds.push(Feed { sequence, tokens, logits: Wanted::All });
                    fed.push(number);
                }
            }
            if feeds.is_empty() {
                continue;
            }
            use bitnetc_ir::Entity;
            machine
                .step(&mut feeds, |row, logits| found[fed[row.feed.index()]].push(logits.unwrap().to_vec()))
                .unwrap();
        }
        for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_same(&format!("sequence {number}, {threads} threads"), expected, found);
        }
    }
}

/// The model in the exact format of the published files, which is not part of the repository, but looked for in the folder of
/// outside data.
fn published_format() -> Option<(std::path::PathBuf, serde_json::Value)> {
    let outside = root().join("../shared/data");
    let folder =
        std::env::var_os("BITNETC_TEST_DATA").map_or(outside, std::path::PathBuf::from).join("qwen35");
    let Ok(record) = std::fs::read(folder.join("logits_D.json")) else {
        println!("skipped: {} is not there (set BITNETC_TEST_DATA)", folder.display());
        return None;
    };
    Some((folder.join("model_D_ptq1_0.gguf"), serde_json::from_slice(&record).unwrap()))
}

#[test]
fn the_published_format_runs_as_it_is_interpreted() {
    let Some((path, record)) = published_format() else { return };
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts = record["prompts"].as_array().unwrap();
    for activations in [None, Some(ActivationFormat::F32)] {
        let loaded = open(&path, &options_with(DType::F32, |build| build.activations = activations));
        let tokens = ids(&prompts[1]["ids"]);
        let mut expected = Vec::new();
        score_by_interpreter(&loaded, &tokens, &mut |_, row| {
            expected.push(row.to_vec());
            true
        })
        .unwrap();
        let what = format!("{activations:?}");
        assert_same(&what, &expected, &score(&loaded, &tokens, 2));
        assert_same(&format!("{what}, decode"), &expected[..20], &decode(&loaded, &tokens[..20], 3));
    }
    // With float activations the text is that of the reference.
    let loaded =
        open(&path, &options_with(DType::F32, |build| build.activations = Some(ActivationFormat::F32)));
    for prompt in &prompts[..2] {
        let mut session = session(&loaded, 64, 2);
        let mut next = ids(&prompt["ids"]);
        for expected in ids(&prompt["greedy_24"]) {
            let row = session.feed(&next).unwrap();
            let found = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            assert_eq!(found as u32, expected, "prompt {}", prompt["index"]);
            next = vec![expected];
        }
    }
}

#[test]
fn prompts_go_on_where_there_is_a_state_and_are_computed_again_elsewhere() {
    let model: Model = loaded(24).into();
    let all = tokens();
    let params = |seed| SamplingParams { seed, ..SamplingParams::default() };
    let limit = || GenerateOptions { limit: Some(6), ignore_end: true, ..GenerateOptions::default() };
    for cache_ram in [0, 1 << 24] {
        let engine = EngineOptions { cache_ram, ..EngineOptions::of(128, 2, 2) };
        let mut scheduler = model.scheduler(engine).unwrap();
        let mut reused = Vec::new();
        let mut prompt = all[..40].to_vec();
        // The same prompt, a longer one, another end, the text with its answer, the first again.
        for (seed, turn) in (0..).zip(["first", "same", "longer", "other", "answered", "first"]) {
            match turn {
                "longer" => prompt.extend_from_slice(&all[40..50]),
                "other" => prompt.truncate(30),
                "first" => prompt = all[..40].to_vec(),
                _ => {}
            }
            let request = Request::new(prompt.clone(), params(seed), limit()).unwrap();
            let handle = scheduler.submit(request);
            let end = scheduler.follow(handle, || true, |_| true).unwrap();
            let expected = tokens_by_hand(model.loaded(), &prompt, params(seed), 6, true);
            assert_eq!(end.tokens, expected, "{turn}, {cache_ram} bytes");
            reused.push(end.reused_tokens);
            if turn == "other" {
                prompt.extend_from_slice(&end.tokens);
                prompt.push(all[60]);
            }
        }
        // What goes on where a text ended is not computed again.
        assert!(reused[4] >= 35, "{reused:?}");
    }
}
