//! Sequences that run together give the bits that each gives alone.

mod common;

use bitnetc::load::{Loaded, score_by_interpreter};
use bitnetc_ir::{DType, Entity};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Feed, FeedIndex, Machine, MachineOptions, Record, Row, Takers, Wanted};
use bitnetc_runtime::sequence::Sequence;
use common::*;

/// Tokens of each sequence: long enough to cross two key blocks.
const LONG: usize = 140;

/// A machine and as many empty sequences as one of its steps has.
fn machine(loaded: &Loaded, threads: u32, segments: u32) -> (Machine, Vec<Sequence>) {
    let options = MachineOptions { context: LONG as u32, threads, segments, record: Record::Nothing };
    let machine = Machine::new(loaded.model.clone(), options).unwrap();
    let sequences = (0..segments).map(|_| machine.sequence().unwrap()).collect();
    (machine, sequences)
}

/// The feeds of some sequences, by index in rising order.
fn feeds_of<'a>(sequences: &'a mut [Sequence], asked: &[(usize, &'a [u32], Wanted)]) -> Vec<Feed<'a>> {
    let mut asked = asked.iter().peekable();
    let mut feeds = Vec::new();
    for (number, sequence) in sequences.iter_mut().enumerate() {
        if let Some(&(_, tokens, logits)) = asked.next_if(|(of, ..)| *of == number) {
            feeds.push(Feed { sequence, tokens, logits });
        }
    }
    assert!(asked.next().is_none());
    feeds
}

/// Index of a feed, index of one of its tokens, and the logits after it.
type GivenRow = (usize, u32, Result<Vec<f32>, SessionError>);

/// The token of a row, and its logits.
type TakenRow = (u32, Result<Vec<f32>, SessionError>);

/// Rows of each feed.
struct Collected {
    feeds: Vec<Vec<TakenRow>>,
    is_open: bool,
}

impl Takers for Collected {
    type Taker = Vec<(u32, Result<Vec<f32>, SessionError>)>;

    fn open(&mut self) -> &mut [Self::Taker] {
        assert!(!std::mem::replace(&mut self.is_open, true));
        &mut self.feeds
    }
    fn take(taker: &mut Self::Taker, token: u32, logits: Result<&[f32], SessionError>) {
        taker.push((token, logits.map(<[f32]>::to_vec)));
    }
    fn close(&mut self) {
        assert!(std::mem::replace(&mut self.is_open, false));
    }
}

/// Feeds and returns all rows: as they come, or with several threads from takers.
fn step(machine: &mut Machine, feeds: &mut [Feed<'_>]) -> Result<Vec<GivenRow>, SessionError> {
    let mut rows = Vec::new();
    if machine.threads() > 1 {
        let mut collected = Collected { feeds: feeds.iter().map(|_| Vec::new()).collect(), is_open: false };
        machine.step_shared(feeds, &mut collected)?;
        assert!(!collected.is_open);
        for (feed, given) in collected.feeds.into_iter().enumerate() {
            rows.extend(given.into_iter().map(|(token, logits)| (feed, token, logits)));
        }
        return Ok(rows);
    }
    machine.step(feeds, |Row { feed, token }, logits| {
        rows.push((feed.index(), token, logits.map(<[f32]>::to_vec)));
    })?;
    Ok(rows)
}

/// Feeds all sequences to their ends in an order and in portions that `seed` decides, and compares all logits.
fn run_mixed(what: &str, loaded: &Loaded, threads: u32, seed: u64, all: &[(Vec<u32>, Vec<Vec<f32>>)]) {
    let (mut machine, mut sequences) = machine(loaded, threads, all.len() as u32);
    let mut choices = random_tokens(seed, 8192, 1 << 16).into_iter().cycle();
    let mut choose = |below: usize| choices.next().unwrap() as usize % below;
    let (mut steps, mut single, mut compared) = (0, 0, 0);
    while sequences.iter().zip(all).any(|(s, (tokens, _))| s.tokens().len() < tokens.len()) {
        let mut asked = Vec::new();
        for (number, (tokens, _)) in all.iter().enumerate() {
            let done = sequences[number].tokens().len();
            // Most often one token, as in generation.
            let wanted = [0, 1, 1, 1, 1, 1, 2, 1 + choose(90)][choose(8)].min(tokens.len() - done);
            if wanted > 0 {
                let logits = [Wanted::Last, Wanted::Last, Wanted::Last, Wanted::All, Wanted::None][choose(5)];
                asked.push((number, &tokens[done..done + wanted], logits));
            }
        }
        if asked.is_empty() {
            continue;
        }
        // The rows that are expected, in order: feed, token, sequence and position.
        let mut expected = Vec::new();
        for (feed, &(number, tokens, logits)) in asked.iter().enumerate() {
            let (done, last) = (sequences[number].tokens().len(), tokens.len() - 1);
            let rows = match logits {
                Wanted::None => 0..0,
                Wanted::Last => last..last + 1,
                Wanted::All => 0..last + 1,
            };
            expected.extend(rows.map(|token| (feed, token, number, done + token)));
        }
        let rows = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap();
        assert_eq!(rows.len(), expected.len(), "{what}");
        for ((feed, token, row), (of_feed, of_token, number, at)) in rows.into_iter().zip(expected) {
            assert_eq!((feed, token as usize), (of_feed, of_token), "{what}");
            let what = format!("{what}, sequence {number}, position {at}");
            assert_same(&what, &all[number].1[at..=at], &[row.unwrap()]);
            compared += 1;
        }
        for (sequence, (tokens, _)) in sequences.iter().zip(all) {
            assert_eq!(sequence.tokens(), &tokens[..sequence.position() as usize]);
        }
        steps += 1;
        single += usize::from(asked.len() == 1);
    }
    assert!(compared * 2 > steps, "{what}: {compared} rows in {steps} steps");
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
fn one_token_for_each_of_many_sequences_at_any_context() {
    let model = &shapes()[1];
    let file = write_model(model);
    // Before, in and after key blocks; a step takes one to three tokens more.
    let contexts = [1, 62, 63, 64, 65, 100, 126, 127, 128, 17, 136];
    for kv_type in [DType::F16, DType::F32] {
        let loaded = open(file.path(), &options_with(kv_type, |c| c.chunk = 64));
        let all: Vec<_> = (0..40)
            .map(|i| {
                let tokens =
                    random_tokens(700 + i as u64, contexts[i % contexts.len()] + 3, model.vocab as u32);
                let rows = score(&loaded, &tokens, 2);
                (tokens, rows)
            })
            .collect();
        for (threads, counts) in [(1, [1, 2, 16, 33]), (2, [5, 17, 32, 40]), (3, [3, 8, 31, 40])] {
            let (mut machine, mut sequences) = machine(&loaded, threads, 40);
            for count in counts {
                sequences.iter_mut().for_each(|sequence| sequence.truncate(0));
                let asked: Vec<_> =
                    (0..count).map(|i| (i, &all[i].0[..all[i].0.len() - 3], Wanted::None)).collect();
                assert!(step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap().is_empty());
                for left in (1..=3).rev() {
                    let at = |i: usize| all[i].0.len() - left;
                    let asked: Vec<_> =
                        (0..count).map(|i| (i, &all[i].0[at(i)..=at(i)], Wanted::Last)).collect();
                    let rows = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap();
                    assert_eq!(rows.len(), count);
                    for (i, (feed, _, row)) in rows.into_iter().enumerate() {
                        assert_eq!(feed, i);
                        let what =
                            format!("{kv_type:?}, {threads} threads, {i} of {count}, position {}", at(i));
                        assert_same(&what, &all[i].1[at(i)..=at(i)], &[row.unwrap()]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_machine_of_one_sequence_is_a_session() {
    let model = &shapes()[4];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(9, LONG, model.vocab as u32);
    let rows = score(&loaded, &tokens, 1);
    run_mixed("one sequence", &loaded, 2, 3, &[(tokens, rows)]);
}

#[test]
fn the_interpreter_says_what_a_machine_gives() {
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
fn every_pass_can_be_left_out_for_several_sequences() {
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
    let (mut machine, mut sequences) = machine(&loaded, 2, 2);
    let asked = [(0, &a[..], Wanted::None), (1, &a[..], Wanted::None)];
    assert!(step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap().is_empty());
    sequences[0].truncate(0);
    sequences[1].truncate(30);
    sequences[1].truncate(50);
    assert_eq!((sequences[0].tokens(), sequences[1].tokens()), (&[][..], &a[..30]));
    let asked = [(0, &b[..], Wanted::Last), (1, &b[..], Wanted::Last)];
    let rows = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(.., row)| row.unwrap()).collect();
    assert_same(
        "a new sequence and one that went back",
        &rows,
        &[alone_b[39].clone(), alone_joined[69].clone()],
    );
    assert_eq!((sequences[0].tokens(), sequences[1].tokens()), (&b[..], &joined[..]));
}

#[test]
fn a_sequence_goes_on_with_another_machine_and_on_another_thread() {
    let model = &shapes()[1];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(4, LONG, model.vocab as u32);
    let rows = score(&loaded, &tokens, 1);
    let (mut one, mut sequences) = machine(&loaded, 1, 1);
    step(&mut one, &mut feeds_of(&mut sequences, &[(0, &tokens[..77], Wanted::None)])).unwrap();
    let (mut other, _) = machine(&loaded, 2, 3);
    let rest = tokens[77..].to_vec();
    let found = std::thread::spawn(move || {
        drop(one);
        step(&mut other, &mut feeds_of(&mut sequences, &[(0, &rest, Wanted::Last)])).unwrap()
    });
    let [(0, 62, Ok(row))] = &found.join().unwrap()[..] else { panic!("one row") };
    assert_same("another machine", &rows[LONG - 1..], std::slice::from_ref(row));
}

#[test]
fn what_cannot_be_fed_is_refused_before_anything_runs() {
    let model = &shapes()[0];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let (mut machine, mut sequences) = machine(&loaded, 1, 3);
    step(&mut machine, &mut feeds_of(&mut sequences, &[(1, &[1, 2, 3], Wanted::Last)])).unwrap();
    let good = (0, &[1][..], Wanted::Last);
    let long = vec![1; LONG + 1];
    let mut refused = |asked: &[(usize, &[u32], Wanted)]| {
        let checked: Vec<_> =
            asked.iter().map(|&(of, tokens, _)| machine.check(&sequences[of], tokens).err()).collect();
        let mut feeds = feeds_of(&mut sequences, asked);
        let error = machine.step(&mut feeds, |_, _| panic!("nothing was to run")).unwrap_err();
        assert_eq!([0, 1, 2].map(|s| sequences[s].tokens().len()), [0, 3, 0]);
        match error {
            SessionError::Feed { feed, refusal } => {
                // The second feed, as `check` says of it.
                assert_eq!(feed, FeedIndex::from_index(1));
                assert_eq!(checked[1].as_ref().map(ToString::to_string), Some(refusal.to_string()));
                *refusal
            }
            other => other,
        }
    };
    assert!(matches!(refused(&[]), SessionError::Empty));
    assert!(matches!(refused(&[good, (1, &[], Wanted::None)]), SessionError::Empty));
    let vocab = model.vocab as u32;
    assert!(matches!(
        refused(&[good, (1, &[1, vocab], Wanted::All)]),
        SessionError::Token { position: 4, .. }
    ));
    assert!(matches!(
        refused(&[good, (2, &long, Wanted::Last)]),
        SessionError::ContextFull { position: 0, .. }
    ));
    assert!(matches!(
        refused(&[good, (1, &long[..LONG - 2], Wanted::Last)]),
        SessionError::ContextFull { position: 3, tokens: 138, .. }
    ));
}

#[test]
fn more_sequences_than_a_step_has_are_refused() {
    let file = write_model(&shapes()[0]);
    let loaded = open(file.path(), &options(DType::F16));
    let (mut machine, mut sequences) = machine(&loaded, 1, 1);
    sequences.push(machine.sequence().unwrap());
    let asked = [(0, &[1][..], Wanted::None), (1, &[1][..], Wanted::None)];
    let error = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap_err();
    assert!(matches!(error, SessionError::TooManyFeeds { feeds: 2, segments: 1 }));
    assert!(sequences.iter().all(|sequence| sequence.tokens().is_empty()));
}

#[test]
fn sequences_of_other_models_and_contexts_are_refused() {
    let file = write_model(&shapes()[0]);
    let loaded = open(file.path(), &options(DType::F16));
    // The same file, opened again: what computed its keys and values is not known to be the same.
    let again = open(file.path(), &options(DType::F16));
    let wide = open(file.path(), &options(DType::F32));
    let (mut machine, mut own) = machine(&loaded, 1, 2);
    let other = |loaded: &Loaded, context| {
        let options = MachineOptions { context, threads: 1, segments: 1, record: Record::Nothing };
        Machine::new(loaded.model.clone(), options).unwrap().sequence().unwrap()
    };
    let longer = other(&loaded, LONG as u32 + 64);
    let shorter = other(&loaded, 64);
    for mut foreign in [other(&again, LONG as u32), other(&wide, LONG as u32), longer, shorter] {
        let good = Feed { sequence: &mut own[0], tokens: &[1], logits: Wanted::Last };
        let bad = Feed { sequence: &mut foreign, tokens: &[1], logits: Wanted::Last };
        match step(&mut machine, &mut [good, bad]).unwrap_err() {
            SessionError::Feed { feed, refusal } => {
                assert_eq!(feed.index(), 1);
                assert!(matches!(*refusal, SessionError::ForeignSequence));
            }
            error => panic!("{error}"),
        }
        assert!(own[0].tokens().is_empty() && foreign.tokens().is_empty());
    }
}

/// The token that gives NaN, in the model of the next test.
const BROKEN: u32 = 3;

#[test]
fn nan_of_one_sequence_leaves_the_others_alone() {
    let model = &shapes()[2];
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    let bytes = common::poisoned::with_nan_after(model, BROKEN as usize);
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = |seed| -> Vec<u32> {
        let tokens = random_tokens(seed, 20, model.vocab as u32);
        tokens.into_iter().map(|id| if id == BROKEN { 0 } else { id }).collect()
    };
    let (a, c) = (tokens(1), tokens(2));
    let mut b = tokens(3);
    b[11] = BROKEN;
    let (rows_a, rows_c) = (score(&loaded, &a, 1), score(&loaded, &c, 1));
    for threads in [1, 2] {
        let (mut machine, mut sequences) = machine(&loaded, threads, 3);
        let asked = [(0, &a[..], Wanted::All), (1, &b[..], Wanted::All), (2, &c[..], Wanted::Last)];
        let rows = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap();
        let (mut of_a, mut of_b, mut of_c) = (Vec::new(), Vec::new(), Vec::new());
        for (feed, _, row) in rows {
            [&mut of_a, &mut of_b, &mut of_c][feed].push(row);
        }
        let good = |rows: Vec<Result<Vec<f32>, _>>| rows.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_same("before it", &rows_a, &good(of_a));
        assert_same("after it", &rows_c[19..], &good(of_c));
        assert_eq!(
            of_b.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [vec![true; 11], vec![false; 9]].concat()
        );
        assert!(matches!(of_b[11], Err(SessionError::NotANumber { position: 11, .. })));
        assert_eq!([0, 1, 2].map(|s| sequences[s].position()), [20, 0, 20]);
        // Alone, by @decode: the same error, and nothing is appended.
        let rows =
            step(&mut machine, &mut feeds_of(&mut sequences, &[(1, &[BROKEN], Wanted::Last)])).unwrap();
        assert!(matches!(rows[..], [(0, 0, Err(SessionError::NotANumber { position: 0, .. }))]));
        assert!(sequences[1].tokens().is_empty());
        // The sequence itself is well.
        let rows = step(&mut machine, &mut feeds_of(&mut sequences, &[(1, &a, Wanted::Last)])).unwrap();
        assert_same("afterwards", &rows_a[19..], &[rows.into_iter().next().unwrap().2.unwrap()]);
    }
}

#[test]
fn an_interruption_leaves_all_sequences_as_they_were() {
    let model = &shapes()[0];
    let file = write_model(model);
    let loaded = open(file.path(), &options_with(DType::F16, |c| c.chunk = 8));
    let (mut machine, mut sequences) = machine(&loaded, 1, 2);
    let (a, b) = (random_tokens(1, 30, model.vocab as u32), random_tokens(2, 12, model.vocab as u32));
    let expected = (score(&loaded, &a, 1), score(&loaded, &b, 1));
    let asked = [(0, &a[..], Wanted::Last), (1, &b[..], Wanted::Last)];
    // Before any chunk of the six, the last one too.
    for chunks in 0..6 {
        let asked_so_far = std::sync::atomic::AtomicU32::new(0);
        machine
            .set_keep_going(move || asked_so_far.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < chunks);
        let error = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap_err();
        assert!(matches!(error, SessionError::Interrupted));
        assert!(sequences.iter().all(|sequence| sequence.tokens().is_empty()));
    }
    machine.set_keep_going(|| false);
    let one = step(&mut machine, &mut feeds_of(&mut sequences, &[(0, &[1], Wanted::Last)]));
    assert!(matches!(one, Err(SessionError::Interrupted)) && sequences[0].tokens().is_empty());
    machine.set_keep_going(|| true);
    let rows = step(&mut machine, &mut feeds_of(&mut sequences, &asked)).unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(.., row)| row.unwrap()).collect();
    assert_same("after interruptions", &rows, &[expected.0[29].clone(), expected.1[11].clone()]);
    assert_eq!((sequences[0].tokens(), sequences[1].tokens()), (&a[..], &b[..]));
}

#[test]
fn machines_and_sequences_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Machine>();
    is_send::<Sequence>();
    is_send::<bitnetc_runtime::session::Session>();
}
