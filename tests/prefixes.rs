//! Beginnings of sequences that are copied instead of computed: the same bits, for every type of cache, at every length.

mod common;

use bitnetc::engine::{EngineOptions, Request};
use bitnetc::{GenerateOptions, Model, SamplingParams};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::DType;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Feed, Machine, MachineOptions, Record, Wanted};
use bitnetc_runtime::prefix;
use bitnetc_runtime::sequence::Sequence;
use common::{open, options, random_tokens, tokens_by_hand, write_model};

const CONTEXT: u32 = 200;

fn machine(model: &Model, context: u32) -> Machine {
    let options = MachineOptions { context, threads: 2, segments: 1, record: Record::Nothing };
    Machine::new(model.loaded().model.clone(), options).unwrap()
}

/// Feeds tokens; the logits after each, as bits.
fn feed(machine: &mut Machine, sequence: &mut Sequence, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    let sink =
        |_, logits: Result<&[f32], _>| rows.push(logits.unwrap().iter().map(|x| x.to_bits()).collect());
    machine.step(&mut [Feed { sequence, tokens, logits: Wanted::All }], sink).unwrap();
    rows
}

#[test]
fn a_copied_prefix_gives_the_bits_of_a_computed_one() {
    for dtype in [DType::F16, DType::F32] {
        let model: Model = open(write_model(&TinyModel::default()).path(), &options(dtype)).into();
        let vocab = model.loaded().model.vocab();
        let mut machine = machine(&model, CONTEXT);
        let tokens = random_tokens(1, 150, vocab);
        let mut source = machine.sequence().unwrap();
        let all = feed(&mut machine, &mut source, &tokens);
        for length in [0, 1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 100, 149, 150] {
            // Into an empty one, one with other tokens, and one that shares a part.
            for shared in [None, Some(0), Some(20), Some(150)] {
                let mut copy = machine.sequence().unwrap();
                if let Some(shared) = shared {
                    let others = [&tokens[..shared], &random_tokens(2, 40, vocab)].concat();
                    feed(&mut machine, &mut copy, &others);
                }
                copy.copy_prefix(&source, length).unwrap();
                let length = length as usize;
                assert_eq!(copy.tokens(), &tokens[..length]);
                let rest = &tokens[length..];
                if !rest.is_empty() {
                    let logits = feed(&mut machine, &mut copy, rest);
                    assert!(logits == all[length..], "{dtype:?}: {length} of {shared:?}");
                }
                let one = feed(&mut machine, &mut copy, &[3]);
                let mut alone = machine.sequence().unwrap();
                alone.copy_prefix(&source, u32::MAX).unwrap();
                assert!(one == feed(&mut machine, &mut alone, &[3]), "{dtype:?}: {length} of {shared:?}");
            }
        }
        // The source is what it was.
        let mut computed = machine.sequence().unwrap();
        feed(&mut machine, &mut computed, &tokens);
        assert!(feed(&mut machine, &mut source, &[5]) == feed(&mut machine, &mut computed, &[5]));
    }
}

#[test]
fn a_prefix_of_another_machine_is_refused() {
    let model = Model::builtin().unwrap();
    let mut large = machine(&model, CONTEXT);
    let mut source = large.sequence().unwrap();
    feed(&mut large, &mut source, &random_tokens(1, 70, 100));
    // Caches of another size, or of the same size with less room; another model.
    let mut small = machine(&model, 64).sequence().unwrap();
    assert!(matches!(small.copy_prefix(&source, 10), Err(SessionError::ForeignSequence)));
    let mut less = machine(&model, CONTEXT - 7).sequence().unwrap();
    less.copy_prefix(&source, 70).unwrap();
    assert_eq!(less.tokens(), source.tokens());
    let long = random_tokens(1, 199, 100);
    let mut full = large.sequence().unwrap();
    feed(&mut large, &mut full, &long);
    let refused = less.copy_prefix(&full, 199);
    assert!(matches!(refused, Err(SessionError::ContextFull { tokens: 199, context: 193, .. })));
    assert_eq!(less.tokens(), source.tokens());
    let tiny: Model = open(write_model(&TinyModel::default()).path(), &options(DType::F16)).into();
    let mut other = machine(&tiny, CONTEXT).sequence().unwrap();
    assert!(matches!(other.copy_prefix(&source, 10), Err(SessionError::ForeignSequence)));
}

#[test]
fn a_saved_prefix_gives_the_bits_of_a_computed_one() {
    let source = [5; 32];
    for dtype in [DType::F16, DType::F32] {
        let model: Model = open(write_model(&TinyModel::default()).path(), &options(dtype)).into();
        let vocab = model.loaded().model.vocab();
        let mut machine = machine(&model, CONTEXT);
        let tokens = random_tokens(1, 150, vocab);
        let mut computed = machine.sequence().unwrap();
        let all = feed(&mut machine, &mut computed, &tokens);
        for saved in [1, 15, 16, 17, 63, 64, 65, 149, 150] {
            let prefix = computed.save(&source, saved).unwrap();
            assert_eq!(&prefix.tokens()[..], &tokens[..saved as usize]);
            assert_eq!(prefix.bytes().len() as u64, prefix.format().bytes(u64::from(saved)));
            assert_eq!(*prefix.format(), machine.prefix_format(&source));
            // Of all of it or less, into an empty sequence, one with other tokens, and ones that share a part.
            for (length, shared) in [(saved, None), (saved, Some(0)), (saved, Some(20)), (saved / 2, Some(1))]
            {
                let mut copy = machine.sequence().unwrap();
                if let Some(shared) = shared {
                    let others = [&tokens[..shared], &random_tokens(2, 40, vocab)].concat();
                    feed(&mut machine, &mut copy, &others);
                }
                copy.restore(&source, &prefix, length).unwrap();
                assert_eq!(copy.tokens(), &tokens[..length as usize]);
                let rest = &tokens[length as usize..];
                if !rest.is_empty() {
                    let logits = feed(&mut machine, &mut copy, rest);
                    assert!(logits == all[length as usize..], "{dtype:?}: {length} of {saved}, {shared:?}");
                }
            }
        }
        // Into a sequence of another context, by way of a file; one that is too short refuses it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prefix");
        prefix::write(&path, &computed.save(&source, 150).unwrap(), None).unwrap();
        let mut long = self::machine(&model, 1000);
        let (found, _) = prefix::read(&path, &long.prefix_format(&source), 1000, vocab).unwrap();
        let mut copy = long.sequence().unwrap();
        copy.restore(&source, &found, 100).unwrap();
        assert!(feed(&mut long, &mut copy, &tokens[100..]) == all[100..]);
        let mut short = self::machine(&model, 60).sequence().unwrap();
        let refused = short.restore(&source, &found, 150);
        assert!(matches!(refused, Err(SessionError::ContextFull { tokens: 150, .. })), "{refused:?}");
        // Nor does another model, or caches of the other type.
        let foreign = copy.restore(&[6; 32], &found, 10);
        assert!(matches!(foreign, Err(SessionError::ForeignSequence)) && copy.tokens() == tokens);
        let other = if dtype == DType::F16 { DType::F32 } else { DType::F16 };
        let other: Model = open(write_model(&TinyModel::default()).path(), &options(other)).into();
        let mut foreign = self::machine(&other, CONTEXT).sequence().unwrap();
        assert!(matches!(foreign.restore(&source, &found, 10), Err(SessionError::ForeignSequence)));
    }
}

#[test]
fn conversations_that_take_turns_in_one_sequence_are_those_of_single_runs() {
    for dtype in [DType::F16, DType::F32] {
        let model: Model = open(write_model(&TinyModel::default()).path(), &options(dtype)).into();
        let vocab = model.loaded().model.vocab();
        let options = EngineOptions { cache_ram: 64 << 20, ..EngineOptions::of(512, 2, 1) };
        let mut scheduler = model.scheduler(options).unwrap();
        let params = |seed| SamplingParams { seed, ..SamplingParams::default() };
        let limit = GenerateOptions { limit: Some(6), ignore_end: true, ..GenerateOptions::default() };
        let mut talks: Vec<_> = (0..3).map(|of| random_tokens(of, 70 + of as usize * 9, vocab)).collect();
        for turn in 0..3 {
            for (seed, talk) in (0..).zip(&mut talks) {
                talk.extend(random_tokens(100 * turn + seed, 15, vocab));
                let handle =
                    scheduler.submit(Request::new(talk.clone(), params(seed), limit.clone()).unwrap());
                let end = scheduler.follow(handle, || true, |_| true).unwrap();
                assert_eq!(end.tokens, tokens_by_hand(model.loaded(), talk, params(seed), 6, true), "{seed}");
                assert_eq!(end.computed_tokens(), if turn == 0 { talk.len() } else { 16 });
                talk.extend(&end.tokens);
            }
        }
    }
}

#[test]
fn texts_after_copied_prefixes_and_of_parked_requests_are_those_of_single_runs() {
    let model = Model::builtin().unwrap();
    let vocab = model.loaded().model.vocab();
    let options = EngineOptions { events: 4, ..EngineOptions::of(256, 2, 2) };
    let mut scheduler = model.scheduler(options).unwrap();
    let params = |seed| SamplingParams { seed, ..SamplingParams::default() };
    let limit = GenerateOptions { limit: Some(24), ignore_end: true, ..GenerateOptions::default() };
    let system = random_tokens(7, 90, vocab);
    let ask = |of: u64| [&system[..], &random_tokens(of, 12, vocab)].concat();
    // Nobody reads before all have been submitted, so that texts have to give up their sequences.
    let handles: Vec<_> = (0..6)
        .map(|seed| {
            let handle = scheduler.submit(Request::new(ask(seed), params(seed), limit.clone()).unwrap());
            for _ in 0..12 {
                scheduler.step();
            }
            handle
        })
        .collect();
    assert!(scheduler.stats().parked >= 4, "{:?}", scheduler.stats());
    let mut copied = 0;
    for (seed, handle) in (0..).zip(handles) {
        let end = scheduler.follow(handle, || true, |_| true).unwrap();
        assert_eq!(end.tokens, tokens_by_hand(model.loaded(), &ask(seed), params(seed), 24, true), "{seed}");
        copied += usize::from(end.reused_tokens == system.len());
    }
    assert!(copied >= 4, "{copied}");
}
