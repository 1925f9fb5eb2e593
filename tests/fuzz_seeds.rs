//! The seeds of the fuzz targets, replayed as ordinary tests with the oracles of the targets.

mod common;

use bitnetc_ir::text;
use bitnetc_runtime::plan::{LoadOptions, PlanIndex};
use common::root;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("fuzz/seeds").join(target);
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{target} has no seeds");
    all
}

#[test]
fn ir_text_seeds_round_trip() {
    for (name, bytes) in seeds("ir_text") {
        let module =
            text::parse(std::str::from_utf8(&bytes).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let printed = text::print(&module);
        assert_eq!(text::print(&text::parse(&printed).unwrap()), printed, "{name}");
        bitnetc_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
}

#[test]
fn plan_seeds_load_and_every_flipped_bit_is_refused() {
    let options = LoadOptions { verify_weights: true, ..LoadOptions::default() };
    for (name, bytes) in seeds("plan_load") {
        let index = PlanIndex::parse(&bytes, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!index.weights().is_empty());
        for position in (0..bytes.len()).step_by(97) {
            let mut bad = bytes.clone();
            bad[position] ^= 1 << (position % 8);
            assert!(PlanIndex::parse(&bad, &options).is_err(), "{name}: byte {position}");
        }
    }
}
