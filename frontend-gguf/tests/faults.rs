//! Every class of fault that a GGUF file can have, made one at a time from a good file (`cases`): each is refused with the
//! right kind of error, and its message names what is wrong.

mod cases;

use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_frontend_gguf::{GgufError, Model};
use cases::{CONTAINER, Case, MODEL, TOKENIZER, WEIGHTS, all};

fn open(bytes: &[u8]) -> Result<(), GgufError> {
    Model::open(bytes)?.check_weights()
}

fn check(cases: &[Case]) {
    let good = TinyModel { vocab: 288, ..TinyModel::default() }.writer();
    assert_eq!(open(&good.build()), Ok(()));
    for (i, (kind, text, change)) in cases.iter().enumerate() {
        let mut w = good.clone();
        change(&mut w);
        let err = open(&w.build()).expect_err(&format!("case {i}: {kind} {text}"));
        assert_eq!(err.kind(), *kind, "case {i}: {err}");
        let message = err.to_string();
        assert!(message.contains(text), "case {i}: \"{text}\" is not in: {message}");
    }
}

#[test]
fn container_faults() {
    check(CONTAINER);
}

#[test]
fn model_faults() {
    check(MODEL);
}

#[test]
fn tokenizer_faults() {
    check(TOKENIZER);
}

#[test]
fn weight_faults() {
    check(WEIGHTS);
}

/// Every kind of error that a file in one part can have is among the cases, or among the files of the other tests here.
#[test]
fn every_kind_of_error_is_made() {
    const ELSEWHERE: [&str; 2] = ["BadMagic", "Truncated"];
    let made: Vec<&str> = all().map(|(kind, ..)| kind).chain(ELSEWHERE).collect();
    for kind in cases::KINDS {
        assert!(made.contains(kind), "no case is refused with {kind}");
    }
}

#[test]
fn files_that_are_no_gguf() {
    for bytes in [&b""[..], b"GG", b"GGUF", b"{\"a\":1}......................", &[0; 4096], b"FUGG\x03\0\0\0"]
    {
        let err = open(bytes).unwrap_err();
        assert!(["Truncated", "BadMagic"].contains(&err.kind()), "{err}");
    }
}

/// A file cut anywhere is refused: at every start of a structure, one byte before and one after, and on a grid.
#[test]
fn truncation() {
    let (bytes, marks) = TinyModel::default().writer().build_marked();
    let end = marks.iter().filter(|m| m.what == "tensor data end").map(|m| m.offset).max().unwrap();
    let around = marks.iter().flat_map(|m| [m.offset.saturating_sub(1), m.offset, m.offset + 1]);
    let mut cuts: Vec<usize> = around.chain((0..end).step_by(997)).filter(|&cut| cut < end).collect();
    cuts.sort_unstable();
    cuts.dedup();
    assert!(cuts.len() > 400);
    for cut in cuts {
        let err = open(&bytes[..cut]).expect_err(&format!("cut at {cut}"));
        let kinds = ["Truncated", "CountTooLarge", "OutOfRange", "BadMagic"];
        assert!(kinds.contains(&err.kind()), "cut at {cut}: {err}");
    }
    assert_eq!(open(&bytes[..end]), Ok(()));
}

/// Single flipped bits in header, metadata and directory: accepted or refused, never a panic.
#[test]
fn bit_flips() {
    let (bytes, marks) = TinyModel::default().writer().build_marked();
    let header = marks.iter().find(|m| m.what == "padding").unwrap().offset;
    let mut rng = bitnetc_frontend_gguf::testing::Rng::new(7);
    let mut refused = 0;
    let fixed = (0..24 * 8).chain(header * 8 - 200..header * 8);
    let random: Vec<usize> = (0..1000).map(|_| rng.below(header * 8)).collect();
    for bit in fixed.chain(random) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Err(e) = open(&damaged) {
            refused += 1;
            assert!(!e.to_string().is_empty() && !e.kind().is_empty());
        }
    }
    assert!(refused > 500, "{refused}");
}

/// Headers put together from pieces of good ones.
#[test]
fn splices() {
    let a = TinyModel::default().writer().build();
    let b = TinyModel { layers: 2, tied: false, arch: "bitnet-25", seed: 9, ..TinyModel::default() }
        .writer()
        .build();
    let mut rng = bitnetc_frontend_gguf::testing::Rng::new(11);
    for _ in 0..500 {
        let (at, to) = (rng.below(9000), rng.below(9000));
        let spliced = [&a[..at], &b[to..]].concat();
        if let Err(e) = open(&spliced) {
            assert!(!e.to_string().is_empty());
        }
    }
}
