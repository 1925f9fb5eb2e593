//! The seeds of the fuzz targets, replayed as ordinary tests with the oracles of the targets.

#[path = "../fuzz/checks/api.rs"]
mod api;
mod common;
#[path = "../fuzz/checks/grammar.rs"]
mod grammar;
#[path = "../fuzz/checks/import.rs"]
mod import;
#[path = "../fuzz/checks/kernels.rs"]
mod kernels;
#[path = "../fuzz/checks/template.rs"]
mod template;
#[path = "../fuzz/checks/tokenizer.rs"]
mod tokenizer;

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

#[test]
fn grammar_seeds_hold_the_property() {
    let (mut gbnf, mut schemas) = (0, 0);
    for (name, bytes) in seeds("grammar") {
        println!("{name}");
        let outcome = grammar::check(&bytes);
        gbnf += u32::from(outcome.gbnf);
        schemas += u32::from(outcome.schema);
        // Damaged ones too.
        for position in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[position] = b"(){}[]|*\"\\:,x0"[position % 14];
            grammar::check(&bad);
            grammar::check(&bytes[..position]);
        }
    }
    assert!(gbnf >= 6 && schemas >= 6, "{gbnf} {schemas}");
}

#[test]
fn api_seeds_hold_the_property() {
    let service = api::builtin(512);
    let mut accepted = 0;
    for (name, bytes) in seeds("api") {
        println!("{name}");
        let (&first, body) = bytes.split_first().unwrap();
        let route = bitnetc::api::Route::ALL[usize::from(first)];
        accepted += u32::from(api::check(&service, route, body));
        // Damaged ones too.
        for position in (0..body.len()).step_by(5) {
            let mut bad = body.to_vec();
            bad[position] = b"0[]{}\",:-n"[position % 10];
            api::check(&service, route, &bad);
            api::check(&service, route, &body[..position]);
        }
    }
    assert!(accepted >= 6, "{accepted}");
}

#[test]
fn template_seeds_hold_the_property() {
    for (name, bytes) in seeds("template") {
        println!("{name}");
        let _ = template::check(&bytes);
    }
}

/// Inputs of the target `tokenizer`: merges of letters, then texts that are hard to cut.
fn tokenizer_inputs() -> Vec<(&'static str, Vec<u8>)> {
    let merges: Vec<u8> = (0..60u8)
        .flat_map(|i| [i % 26, if i % 3 == 0 { 128 + i % 40 } else { (u16::from(i) * 7 % 26) as u8 }])
        .collect();
    let input = |kind: u8, text: &[u8]| [&[kind, 60][..], &merges, text].concat();
    vec![
        ("word", input(0, b"abcabcabdefghabcaabbccddzzyx")),
        ("sentence", input(4, "It's  the year\u{a0}2024,\r\n\n\tGr\u{fc}\u{df}e \u{65e5}\u{672c}\u{8a9e} e\u{301} \u{1f600}\u{200d}!".as_bytes())),
        ("special", input(4, b"a<|end|><user>b<|end|")),
        ("qwen2", input(1, b"12345 'LL 're don't   x\n\n  y ")),
        ("bytes", input(2, b"\xff\xfe plain \xc3")),
        ("bytes-missing", input(0xf2, "\u{3ff}\u{10ffff}\u{7f0}".as_bytes())),
        ("spaces", input(0, &[b' '; 300])),
        ("empty", vec![]),
    ]
}

#[test]
fn tokenizer_seeds_hold_the_property() {
    let dir = root().join("fuzz/seeds/tokenizer");
    for (name, input) in tokenizer_inputs() {
        if std::env::var_os("BITNETC_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), &input).unwrap();
        }
        assert_eq!(
            std::fs::read(dir.join(name)).unwrap(),
            input,
            "{name} is out of date (BITNETC_BLESS=1 writes it)"
        );
    }
    let mut round = 0;
    for (name, bytes) in seeds("tokenizer") {
        println!("{name}");
        round += u32::from(tokenizer::check(&bytes) == tokenizer::Outcome::Round);
    }
    // Vocabularies in which a byte has no token may be refused.
    assert!(round >= 5, "{round}");
}

/// Random vocabularies and texts, the same on every run.
#[test]
fn tokenizers_of_random_inputs_hold_the_property() {
    let (mut state, mut round) = (1u64, 0);
    for _ in 0..1500 {
        let mut bytes = Vec::new();
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32
        };
        bytes.extend([next() as u8, next() as u8]);
        let len = next() % 400;
        // Mostly letters and spaces, and some of everything.
        bytes.extend((0..len).map(|_| match next() % 8 {
            0 => next() as u8,
            1 => b' ',
            _ => b'a' + (next() % 6) as u8,
        }));
        round += u32::from(tokenizer::check(&bytes) == tokenizer::Outcome::Round);
    }
    assert!(round > 1000, "{round}");
}

#[test]
fn import_seeds_hold_the_property() {
    let good = import::good();
    assert!(import::check(&good));
    let changed = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&good[8..]).replace(from, to);
        [&good[..8], text.as_bytes()].concat()
    };
    let inputs = [
        ("good", good.clone(), true),
        ("bitlinear", changed("autobitlinear", "bitlinear    "), false),
        ("no-layer", changed("\"num_hidden_layers\":1", "\"num_hidden_layers\":2"), false),
        ("wide", changed("\"hidden_size\":128", "\"hidden_size\":999"), false),
        ("huge-id", changed("\"id\":4", "\"id\":9"), false),
        ("cut", good[..good.len() / 2].to_vec(), false),
    ];
    let dir = root().join("fuzz/seeds/import");
    for (name, input, accepted) in inputs {
        assert_eq!(import::check(&input), accepted, "{name}");
        if std::env::var_os("BITNETC_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), &input).unwrap();
        }
    }
    for (name, bytes) in seeds("import") {
        println!("{name}");
        import::check(&bytes);
    }
}

/// The seeds, and inputs near them.
#[test]
fn kernel_seeds_hold_the_property() {
    let mut random = bitnetc_ir::random::SplitMix::new(18);
    let mut ran = 0;
    for (name, bytes) in seeds("kernels") {
        println!("{name}");
        ran += usize::from(kernels::check(&bytes));
        for _ in 0..20 {
            let mut other = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = 1 + random.below(other.len() - 1);
                other[at] = random.next_u64() as u8;
            }
            ran += usize::from(kernels::check(&other));
        }
    }
    assert!(ran >= 40, "only {ran} functions were run");
}
