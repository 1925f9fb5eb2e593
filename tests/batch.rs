//! Sequences that run together give the bits that each gives alone.

mod common;

use bitnetc::load::{Loaded, score_by_interpreter};
use bitnetc_ir::DType;
use bitnetc_runtime::batch::{Batch, BatchOptions, Feed};
use bitnetc_runtime::session::SessionError;
use common::*;

/// Tokens of each sequence: long enough to cross two key blocks.
const LONG: usize = 140;

fn batch(loaded: &Loaded, threads: u32, sequences: u32) -> Batch {
    let options = BatchOptions { context: LONG as u32, threads, sequences };
    Batch::new(loaded.model.clone(), options).unwrap()
}

/// Feeds all sequences to their ends in an order and in portions that `seed` decides, and compares all logits.
fn run_mixed(what: &str, loaded: &Loaded, threads: u32, seed: u64, all: &[(Vec<u32>, Vec<Vec<f32>>)]) {
    let mut batch = batch(loaded, threads, all.len() as u32);
    let mut choices = random_tokens(seed, 4096, 1 << 16).into_iter().cycle();
    let mut choose = |below: usize| choices.next().unwrap() as usize % below;
    let mut done = vec![0; all.len()];
    let (mut steps, mut single, mut compared) = (0, 0, 0);
    while done.iter().zip(all).any(|(&n, (tokens, _))| n < tokens.len()) {
        let mut feeds = Vec::new();
        for (sequence, (tokens, _)) in all.iter().enumerate() {
            let left = tokens.len() - done[sequence];
            // Most often one token, as in generation.
            let wanted = [0, 1, 1, 1, 1, 1, 2, 1 + choose(90)][choose(8)].min(left);
            if wanted > 0 {
                let tokens = &tokens[done[sequence]..done[sequence] + wanted];
                feeds.push(Feed { sequence: sequence as u32, tokens });
            }
        }
        if feeds.is_empty() {
            continue;
        }
        let mut next = 0;
        batch
            .feed(&feeds, |index, logits| {
                assert_eq!(index, next, "{what}");
                next += 1;
                let sequence = feeds[index].sequence as usize;
                let at = done[sequence] + feeds[index].tokens.len() - 1;
                let what = format!("{what}, sequence {sequence}, position {at}");
                assert_same(&what, &all[sequence].1[at..=at], &[logits.to_vec()]);
                compared += 1;
            })
            .unwrap();
        assert_eq!(next, feeds.len());
        for feed in &feeds {
            done[feed.sequence as usize] += feed.tokens.len();
            assert_eq!(batch.position(feed.sequence), done[feed.sequence as usize] as u32);
        }
        steps += 1;
        single += usize::from(feeds.len() == 1);
    }
    assert!(compared > steps || all.len() == 1, "{what}: {compared} rows in {steps} steps");
    assert!(all.len() > 2 || single > 0);
}

#[test]
fn sequences_together_give_the_bits_of_each_alone() {
    for (number, model) in shapes().iter().enumerate() {
        let file = write_model(model);
        for (chunk, kv_type) in [(64, DType::F16), (7, DType::F32)] {
            let loaded = open(file.path(), &options_with(kv_type, |c| c.chunk = chunk));
            let sequences = |count: u64, lengths: &[usize]| {
                let one = |i: u64| {
                    let length = lengths[i as usize % lengths.len()];
                    let tokens = random_tokens(100 * number as u64 + i, length, model.vocab as u32);
                    let rows = score(&loaded, &tokens, 2);
                    (tokens, rows)
                };
                (0..count).map(one).collect::<Vec<_>>()
            };
            for (threads, all) in
                [(1, sequences(5, &[LONG, 3, 70])), (2, sequences(19, &[20, 65])), (3, sequences(2, &[90]))]
            {
                let what = format!("shape {number}, chunks of {chunk}, {threads} threads");
                run_mixed(&what, &loaded, threads, number as u64, &all);
            }
        }
    }
}

#[test]
fn a_batch_of_one_is_a_session() {
    let model = &shapes()[4];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(9, LONG, model.vocab as u32);
    let rows = score(&loaded, &tokens, 1);
    run_mixed("one sequence", &loaded, 2, 3, &[(tokens, rows)]);
}

#[test]
fn the_interpreter_says_what_a_batch_gives() {
    let model = &shapes()[1];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let of = |seed| {
        let tokens = random_tokens(seed, 24, model.vocab as u32);
        let mut rows = Vec::new();
        score_by_interpreter(&loaded, &tokens, &mut |_, row| {
            rows.push(row.to_vec());
            true
        })
        .unwrap();
        (tokens, rows)
    };
    run_mixed("interpreter", &loaded, 2, 1, &[of(1), of(2), of(3)]);
}

#[test]
fn every_pass_can_be_left_out_of_a_batch() {
    let model = &shapes()[2];
    let file = write_model(model);
    let expected = open(file.path(), &options_stored_head(DType::F16));
    let of = |seed: u64| {
        let tokens = random_tokens(seed, 70, model.vocab as u32);
        let rows = score(&expected, &tokens, 2);
        (tokens, rows)
    };
    let all = [of(1), of(2), of(3), of(4)];
    for passes in ["assign-layout,plan-memory", "fuse-rope-kv,assign-layout,schedule,plan-memory"] {
        let loaded = open(file.path(), &options_with(DType::F16, |c| c.pipeline = passes.parse().unwrap()));
        run_mixed(passes, &loaded, 2, 5, &all);
    }
}

#[test]
fn a_sequence_starts_anew_and_goes_back() {
    let model = &shapes()[0];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let (a, b) = (random_tokens(1, 80, model.vocab as u32), random_tokens(2, 40, model.vocab as u32));
    let joined: Vec<u32> = a[..30].iter().chain(&b).copied().collect();
    let (alone_b, alone_joined) = (score(&loaded, &b, 1), score(&loaded, &joined, 1));
    let mut batch = batch(&loaded, 2, 2);
    let feeds = [Feed { sequence: 0, tokens: &a }, Feed { sequence: 1, tokens: &a }];
    batch.feed(&feeds, |_, _| ()).unwrap();
    batch.truncate(0, 0);
    batch.truncate(1, 30);
    assert_eq!((batch.position(0), batch.position(1)), (0, 30));
    let mut rows = Vec::new();
    let feeds = [Feed { sequence: 0, tokens: &b }, Feed { sequence: 1, tokens: &b }];
    batch.feed(&feeds, |_, row| rows.push(row.to_vec())).unwrap();
    assert_same(
        "a new sequence and one that went back",
        &rows,
        &[alone_b[39].clone(), alone_joined[69].clone()],
    );
}

#[test]
fn what_cannot_be_fed_is_refused_before_anything_runs() {
    let model = &shapes()[0];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let mut batch = batch(&loaded, 1, 3);
    batch.feed(&[Feed { sequence: 1, tokens: &[1, 2, 3] }], |_, _| ()).unwrap();
    let good = Feed { sequence: 0, tokens: &[1][..] };
    let long = vec![1; LONG + 1];
    let mut refused = |feeds: &[Feed<'_>]| {
        let error = batch.feed(feeds, |_, _| panic!("nothing was to run")).unwrap_err();
        assert_eq!([0, 1, 2].map(|s| batch.position(s)), [0, 3, 0]);
        error
    };
    assert!(matches!(refused(&[]), SessionError::Empty));
    assert!(matches!(refused(&[good, Feed { sequence: 1, tokens: &[] }]), SessionError::Empty));
    assert!(matches!(
        refused(&[good, Feed { sequence: 3, tokens: &[1] }]),
        SessionError::Sequence { sequence: 3, sequences: 3 }
    ));
    assert!(matches!(refused(&[good, good]), SessionError::SequenceTwice(0)));
    let vocab = model.vocab as u32;
    assert!(matches!(
        refused(&[good, Feed { sequence: 1, tokens: &[1, vocab] }]),
        SessionError::Token { position: 4, .. }
    ));
    assert!(matches!(
        refused(&[good, Feed { sequence: 2, tokens: &long }]),
        SessionError::ContextFull { position: 0, .. }
    ));
    assert!(matches!(
        refused(&[good, Feed { sequence: 1, tokens: &long[..LONG - 2] }]),
        SessionError::ContextFull { position: 3, .. }
    ));
}

#[test]
fn an_interruption_leaves_all_positions() {
    let model = &shapes()[0];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let mut batch = batch(&loaded, 1, 2);
    batch.set_keep_going(|| false);
    let feeds = [Feed { sequence: 0, tokens: &[1, 2] }, Feed { sequence: 1, tokens: &[3] }];
    assert!(matches!(batch.feed(&feeds, |_, _| ()), Err(SessionError::Interrupted)));
    assert_eq!((batch.position(0), batch.position(1)), (0, 0));
    batch.set_keep_going(|| true);
    batch.feed(&feeds, |_, _| ()).unwrap();
    assert_eq!((batch.position(0), batch.position(1)), (2, 1));
}
