//! The text form over random modules: printing and parsing are inverse, and no text makes the parser panic.

use bitnetc_ir::cache::{CacheType, set_cache_type};
use bitnetc_ir::extract::layer;
use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::limits::{MAX_FUNCS, MAX_OPS};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::text::{parse, print, print_func};
use bitnetc_ir::verify::verify;
use bitnetc_ir::{Entity, FuncId, Stage, TokenCount};
use proptest::prelude::*;

fn options() -> impl Strategy<Value = GenOptions> {
    let tokens = prop_oneof![Just(TokenCount::One), (1u32..100).prop_map(TokenCount::UpTo)];
    (0usize..4, tokens, 1u32..3, 1u32..40, any::<bool>()).prop_map(
        |(stage, tokens, funcs, ops, stored_tiles)| GenOptions {
            stage: Stage::ALL[stage],
            tokens,
            funcs,
            ops,
            stored_tiles,
            ..GenOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn parsing_undoes_printing(seed: u64, options in options()) {
        let (module, _) = random_module(seed, &options);
        let text = print(&module);
        let parsed = match parse(&text) {
            Ok(parsed) => parsed,
            Err(e) => return Err(TestCaseError::fail(format!("{e}\n{text}"))),
        };
        prop_assert_eq!(print(&parsed), text.clone());
        prop_assert_eq!(verify(&parsed), Ok(()));
        prop_assert_eq!(parsed.params(), module.params());
        for (id, func) in parsed.funcs().iter() {
            let places = |m: &bitnetc_ir::Module| m.funcs()[id].plan.as_ref().map(|p| (p.places.len(), p.barriers.len()));
            prop_assert_eq!(places(&parsed), places(&module));
            prop_assert!(text.contains(&print_func(&parsed, func)));
        }
    }
}

/// Changes some bytes: cuts, repeats, swaps and overwrites, mostly by what has a meaning in the text form.
fn mutate(text: &str, rng: &mut SplitMix) -> String {
    const PIECES: &[&str] = &[
        "%",
        "@",
        "#",
        "\"",
        "\\",
        ";",
        "\n",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "=",
        "+",
        "->",
        "<=",
        "x",
        "T",
        "C",
        "0",
        "-1",
        "4294967296",
        "18446744073709551615",
        "1e999",
        "nan",
        "\u{e9}",
        "param @a: f32[1] = file \"\" #",
        "func @f(",
        "%0, %0 = ",
        "split",
        "bitlinear",
        "at 0+0",
        "view %0+0",
        "alias %0",
        "arena=0",
        "tokens<=0",
        "return",
        "barrier",
        "@tile16",
        "@trits16",
        "@lut16",
        "@keys16",
        "planned",
        "{sizes=[0,1,]}",
        "{epilogue=add}",
    ];
    let mut text = text.to_owned();
    let boundary = |text: &str, mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    for _ in 0..1 + rng.below(4) {
        let from = boundary(&text, rng.below(text.len() + 1));
        let to = boundary(&text, (from + rng.below(30)).min(text.len()));
        match rng.below(5) {
            0 => text.truncate(from),
            1 => text.replace_range(from..to, ""),
            2 => text.replace_range(from..from, rng.pick(PIECES)),
            3 => text.replace_range(from..to, rng.pick(PIECES)),
            _ => {
                let piece = text[from..to].to_owned();
                let at = boundary(&text, rng.below(text.len() + 1));
                text.insert_str(at, &piece);
            }
        }
    }
    text
}

#[test]
fn damaged_text_is_refused_or_stable() {
    let mut rng = SplitMix::new(1);
    let (mut refused, mut accepted, mut sound) = (0, 0, 0);
    for seed in 0..50 {
        let options = GenOptions { stage: Stage::ALL[seed as usize % 4], ops: 12, ..GenOptions::default() };
        let text = print(&random_module(seed, &options).0);
        for _ in 0..200 {
            let damaged = mutate(&text, &mut rng);
            match parse(&damaged) {
                Ok(mut module) => {
                    accepted += 1;
                    let printed = print(&module);
                    assert_eq!(print(&parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"))), printed);
                    if verify(&module).is_ok() {
                        sound += 1;
                        set_cache_type(&mut module, CacheType::F32).unwrap();
                        assert_eq!(verify(&module), Ok(()));
                        let part = layer(&module, FuncId::from_index(0), 0);
                        assert!(part.is_none_or(|part| verify(&part).is_ok()), "{}", print(&module));
                    }
                }
                Err(e) => {
                    refused += 1;
                    assert!(damaged.get(e.span.clone()).is_some(), "{e}: {:?}", e.span);
                    assert!(e.line <= damaged.matches('\n').count() + 1 && !e.message.is_empty());
                }
            }
        }
    }
    assert!(
        refused > 5000 && accepted > sound && sound > 100,
        "{refused} refused, {accepted} accepted, {sound} sound"
    );
}

#[test]
fn every_prefix_is_refused() {
    let options = GenOptions { stage: Stage::Planned, ops: 10, ..GenOptions::default() };
    let text = print(&random_module(3, &options).0);
    let body = text.find("\nfunc").unwrap() + 2;
    for end in body..text.len() - 1 {
        let error = parse(&text[..end]).unwrap_err();
        assert!(error.span.end <= end, "{error}");
    }
}

#[test]
fn limits_are_kept() {
    let many = |n: usize, line: &dyn Fn(usize) -> String| -> String { (0..n).map(line).collect() };
    let head = "bir 1 stage=imported\n";
    let name = "n".repeat(257);
    let error = parse(&format!("{head}func @{name}() -> () tokens=1 {{ return }}")).unwrap_err();
    assert!(error.message.contains("at most 256"), "{error}");
    let error = parse(&" ".repeat(bitnetc_ir::text::MAX_TEXT + 1)).unwrap_err();
    assert!(error.message.contains("the most that is read"), "{error}");
    let funcs = many(MAX_FUNCS + 1, &|i| format!("func @f{i}()->()tokens=1{{return}}\n"));
    let error = parse(&format!("{head}{funcs}")).unwrap_err();
    assert_eq!((error.line, error.message.as_str()), (MAX_FUNCS + 2, "more than 256 functions"));
    // A word of a megabyte is not quoted whole.
    let error = parse(&format!("{head}{}", "w".repeat(1 << 20))).unwrap_err();
    assert!(error.message.len() < 4096);
}

#[test]
fn time_grows_with_length_only() {
    // Quadratic work on these sizes takes minutes.
    let n = MAX_OPS;
    let mut text = "bir 1 stage=imported\n".to_owned();
    for i in 0..n {
        text.push_str(&format!("param @p{i}: f32[8] = file \"p{i}\" #00112233445566778899aabbccddeeff\n"));
    }
    text.push_str("\nfunc @f(\n  %x: f32[8]\n) -> (f32[8]) tokens=1 {\n  %0 = relu2 %x : f32[8]\n");
    for i in 1..n {
        text.push_str(&format!("  %{i} = rms_norm %{}, @p{i} {{eps=1e-5}} : f32[8]\n", i - 1));
    }
    text.push_str(&format!("  return %{}\n}}\n", n - 1));
    let start = std::time::Instant::now();
    let module = parse(&text).unwrap();
    assert_eq!(verify(&module), Ok(()));
    assert_eq!(print(&module), text);
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}
