//! `bitnetc bench`: what is counted, against numbers made by hand; and what it prints.

#[path = "../../tests/common/signals.rs"]
#[allow(unreachable_pub)]
mod signals;

use std::process::{Command, Stdio};

use bitnetc::BuildOptions;
use bitnetc::compile::import;
use bitnetc::load::{LoadOptions, load};
use bitnetc_frontend_gguf::synth::{ModelShape, SyntheticModel, preset};
use bitnetc_ir::work::{Accounts, Work};
use bitnetc_ir::{CacheType, Module};
use bitnetc_passes::{HeadFormat, PassContext, WeightPacking};
use bitnetc_runtime::map::{MapMode, Mapping};
use bitnetc_tools::bench::kernels::{KernelsOptions, measure};
use bitnetc_tools::bench::limits_of_machine;
use serde_json::Value;
use signals::with_default_signals;

/// The planned module of a shape. The file's data are a hole: no weight is looked at.
fn planned(shape: ModelShape, head: HeadFormat, cache: CacheType) -> Module {
    let model = SyntheticModel::new(shape, 1).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let header = model.header();
    std::fs::write(file.path(), &header).unwrap();
    file.as_file().set_len(header.len() as u64 + model.data_bytes()).unwrap();
    let bytes = Mapping::open(file.path(), MapMode::Mapped).unwrap();
    let gguf = bitnetc_frontend_gguf::Model::open(bytes.as_slice()).unwrap();
    let options = BuildOptions { cache: Some(cache), chunk: 64, ..BuildOptions::default() };
    let imported = import(&gguf, &options).unwrap();
    let context =
        PassContext { head, weights: WeightPacking::TwoBits, ..PassContext::new(options.target().unwrap()) };
    bitnetc_passes::run(&options.pipeline, imported, &context).unwrap().0
}

const LAYERS: u64 = 30;
/// Ternary weights of a 2B-4T layer: q, k, v, o, gate, up, down.
const LAYER_WEIGHTS: u64 = 2560 * 2560 + 2 * 640 * 2560 + 2560 * 2560 + 2 * 6912 * 2560 + 2560 * 6912;
/// Rows of all ternary matrices of a layer, each with an f32 scale.
const LAYER_ROWS: u64 = 2560 + 2 * 640 + 2560 + 2 * 6912 + 2560;
/// Norm weights of a layer.
const LAYER_NORMS: u64 = 3 * 2560 + 6912;
const TABLE: u64 = 128_256 * 2560;
/// Keys and values of a position, in elements.
const KV: u64 = LAYERS * 2 * 5 * 128;

#[test]
fn a_2b_4t_step_is_counted_right() {
    let shape = preset("2b-4t").unwrap().shape();
    let accounts = Accounts::of(&planned(shape, HeadFormat::Stored, CacheType::F16));
    let ternary = LAYERS * LAYER_WEIGHTS;
    assert_eq!(ternary, 2_084_044_800);
    let (scales, norms) = (4 * LAYERS * LAYER_ROWS, 4 * (LAYERS * LAYER_NORMS + 2560));

    let step = accounts.step(0);
    // Two bits a weight and the F16 head alone are the often quoted 1,178 MB.
    assert_eq!(ternary / 4 + 2 * TABLE, 1_177_681_920);
    assert_eq!(step.weight_bytes, ternary / 4 + 2 * TABLE + scales + norms);
    assert_eq!(step.weight_bytes, 1_182_177_280);
    assert_eq!(step.kv_bytes, 2 * KV);
    assert_eq!(accounts.kv_bytes_per_position(), 76_800);
    assert_eq!((step.ternary_macs, step.dense_macs), (ternary, TABLE));
    // One key: score and sum over 20 heads of 128, in 30 layers.
    assert_eq!(step.attention_macs, 30 * 2 * 2560);

    let deep = accounts.step(2048);
    assert_eq!(deep.kv_bytes, 2049 * 76_800);
    assert_eq!(deep.attention_macs, 2049 * 30 * 2 * 2560);
    assert_eq!((deep.weight_bytes, deep.ternary_macs), (step.weight_bytes, step.ternary_macs));
    assert_eq!(deep.bytes(), 1_339_540_480);

    // 128 steps after 2,048 tokens see 2,112.5 keys on average.
    let generation = accounts.generation(2048, 128);
    assert_eq!(2 * generation.kv_bytes, 128 * 4225 * 76_800);
    assert_eq!(generation.weight_bytes, 128 * step.weight_bytes);

    // 512 tokens in eight chunks: all layers are read eight times, the head and its norm once, a row of the table for each token.
    let prompt = accounts.prompt(0, 512);
    let layers = ternary / 4 + scales + 4 * LAYERS * LAYER_NORMS;
    assert_eq!(prompt.weight_bytes, 8 * layers + (2 * TABLE + 4 * 2560) + 512 * 2 * 2560);
    assert_eq!(prompt.kv_bytes, (1..=8).map(|chunk| 64 * chunk * 76_800).sum::<u64>());
    assert_eq!(prompt.ternary_macs, 512 * ternary);
    assert_eq!(prompt.dense_macs, TABLE);
    assert_eq!(prompt.attention_macs, (1..=512).sum::<u64>() * 30 * 2 * 2560);
    // The same tokens after others see those too.
    assert_eq!(accounts.prompt(100, 512).attention_macs - prompt.attention_macs, 512 * 100 * 30 * 2 * 2560);
    // Sixteen sequences read the weights once, the head too, and each its own cache; 33 read the head twice.
    let batch = accounts.batch(255, 1, 16);
    assert_eq!(batch.weight_bytes, layers + (2 * TABLE + 4 * 2560) + 16 * 2 * 2560);
    assert_eq!(batch.kv_bytes, 16 * 256 * 76_800);
    assert_eq!((batch.ternary_macs, batch.dense_macs), (16 * ternary, 16 * TABLE));
    assert_eq!(batch.attention_macs, 16 * 256 * 30 * 2 * 2560);
    let (full, more) = (accounts.batch(255, 1, 32), accounts.batch(255, 1, 33));
    assert_eq!(full.weight_bytes, batch.weight_bytes + 16 * 2 * 2560);
    assert_eq!(more.weight_bytes, full.weight_bytes + 2 * TABLE + 4 * 2560 + 2 * 2560);
    assert_eq!(accounts.batch(0, 512, 1), prompt);
    // Three prompts of 40 tokens are two chunks of 64 rows; the second prompt is in both.
    let prompts = accounts.batch(0, 40, 3);
    assert_eq!(prompts.weight_bytes, 2 * layers + (2 * TABLE + 4 * 2560) + 120 * 2 * 2560);
    assert_eq!(prompts.kv_bytes, (40 + 24 + 40 + 40) * 76_800);
    assert_eq!(accounts.batched_generation(255, 2, 16).kv_bytes, 16 * (256 + 257) * 76_800);
    // A prompt of one token is a step.
    assert_eq!(accounts.prompt(7, 1), accounts.step(7));
    assert_eq!(accounts.prompt(7, 0).macs(), 0);
}

#[test]
fn packed_heads_and_wide_caches_are_counted_as_stored() {
    let shape = || ModelShape { layers: 1, vocab: 1024, ..preset("2b-4t").unwrap().shape() };
    let count = |head, kv| Accounts::of(&planned(shape(), head, kv));
    let (f16, q8) = (count(HeadFormat::Stored, CacheType::F16), count(HeadFormat::Q8, CacheType::F16));
    let table = 1024 * 2560;
    // Of a packed head's embedding one row is read; the head has 8.5 bits an element and a factor for each row.
    let saved = f16.step(0).weight_bytes - q8.step(0).weight_bytes;
    assert_eq!(saved, 2 * table - (table * 17 / 16 + 4 * 1024) - 2 * 2560);
    assert_eq!(f16.step(0).macs(), q8.step(0).macs());

    let screened = count(HeadFormat::Screened { rows: 16 }, CacheType::F16).step(0);
    let q4 = count(HeadFormat::Q4, CacheType::F16).step(0);
    assert_eq!(screened.weight_bytes - q4.weight_bytes, 16 * 2 * 2560);
    assert_eq!(screened.dense_macs - q4.dense_macs, 16 * 2560);

    let wide = count(HeadFormat::Stored, CacheType::F32);
    assert_eq!(wide.kv_bytes_per_position(), 2 * f16.kv_bytes_per_position());
}

fn bench(args: &[&str]) -> Command {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_bitnetc"));
    command.args([
        "-q",
        "bench",
        "--preset",
        "tiny",
        "--layers",
        "1",
        "--vocab",
        "300",
        "--limits-buffer",
        "1",
    ]);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Everything that the format promises of a test.
fn check_test(test: &Value) {
    let samples: Vec<f64> = test["samples"].as_array().unwrap().iter().map(number).collect();
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    assert!(samples.iter().all(|&s| s > 0.0));
    assert!((number(&test["tokens_per_second"]) - mean).abs() <= 1e-9 * mean);
    let limit = number(&test["limit_value"]);
    let per_token = match test["limit"].as_str().unwrap() {
        "bandwidth" => number(&test["bytes_per_token"]),
        "int8" => number(&test["macs_per_token"]),
        other => panic!("limit {other}"),
    };
    // The share is the limit's time over the measured time; per-token figures are rounded down.
    let share = per_token / limit * mean;
    assert!((number(&test["share_of_limit"]) / share - 1.0).abs() < 1e-3, "{test:#}");
    assert!(number(&test["share_paired"]) > 0.0);
    assert_eq!(test["limit_samples"].as_array().unwrap().len(), samples.len() + 1);
    assert!(test["test"].is_string() && test["threads"].is_u64() && test["depth"].is_u64());
    let latency = &test["token_latency_ms"];
    match test["generated_tokens"].as_u64() {
        Some(0) => assert!(latency.is_null()),
        _ => {
            let times = ["p50", "p90", "p99", "max"].map(|p| number(&latency[p]));
            assert!(times.is_sorted() && times[0] > 0.0, "{latency}");
            // The fastest repetition has a token that is no slower than its mean.
            let best = samples.iter().copied().fold(0.0, f64::max);
            assert!(test["prompt_tokens"] != 0 || times[3] >= 1e3 / best * 0.99, "{latency} at {best}/s");
        }
    }
}

#[test]
fn json_holds_what_the_format_says() {
    let output =
        bench(&["-p", "3,8", "-n", "2", "--pg", "4,2", "-d", "0,5", "-t", "1,2", "-r", "2", "--json"])
            .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "bitnetc.bench/2");
    assert!(document["machine"]["cpu"].is_string() && document["build"]["version"].is_string());
    let tests = document["tests"].as_array().unwrap();
    tests.iter().for_each(check_test);
    let names: Vec<String> = tests
        .iter()
        .map(|t| format!("{} {} {}", t["test"].as_str().unwrap(), t["depth"], t["threads"]))
        .collect();
    let mut expected = Vec::new();
    for threads in [1, 2] {
        for depth in [0, 5] {
            expected.extend(["pp3", "pp8", "tg2", "pp4+tg2"].map(|t| format!("{t} {depth} {threads}")));
        }
    }
    assert_eq!(names, expected);
    assert_eq!(document["limits"].as_array().unwrap().len(), 2);
}

#[test]
fn a_profile_covers_the_time() {
    let args = ["-p", "40", "-n", "8", "-t", "2", "-r", "1", "-o", "json", "--profile"];
    let output = bench(&args).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = |test: usize| document["tests"][test]["profile"].as_array().unwrap().clone();
    let names = |test: usize| entries(test).iter().map(|e| e["entry"].clone()).collect::<Vec<_>>();
    assert_eq!((names(0), names(1)), (vec!["prefill".into(), "head".into()], vec!["decode".into()]));
    let decode = &entries(1)[0];
    assert_eq!(decode["calls"], 8);
    let ops = decode["ops"].as_array().unwrap();
    let named = |name: &str| ops.iter().any(|op| op["op"] == name);
    assert!(named("bitlinear") && named("attention") && named("embed"), "{decode:#}");
    let inside: f64 = ops.iter().map(|op| number(&op["busy_ns"])).sum();
    let outside = number(&decode["barrier_share"]) + number(&decode["dispatch_share"]);
    assert!((inside / number(&decode["wall_ns"]) + outside - 1.0).abs() < 0.02, "{decode:#}");
}

#[test]
fn heads_packings_and_chunks_multiply() {
    let lists =
        ["--head", "f16,q4,screened:8", "--weights", "2bit,1.6bit", "--kv-type", "f16,f32", "-b", "16,32"];
    let mut command = bench(&["-p", "0", "-n", "1", "-t", "1", "-r", "1", "-o", "json", "--no-warmup"]);
    let output = command.args(lists).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = document["tests"].as_array().unwrap();
    let found: Vec<String> = tests
        .iter()
        .map(|t| {
            let option = |name: &str| t["options"][name].as_str().unwrap().to_owned();
            format!("{} {} {} {}", option("head"), option("weights"), option("kv"), t["chunk"])
        })
        .collect();
    let mut expected = Vec::new();
    for head in ["f16", "q4", "screened"] {
        for weights in ["2bit", "1.6bit"] {
            for kv in ["f16", "f32"] {
                expected.extend([16, 32].map(|chunk| format!("{head} {weights} {kv} {chunk}")));
            }
        }
    }
    assert_eq!(found, expected);
    // What a token reads follows the packing.
    let bytes = |i: usize| number(&tests[i]["bytes_per_token"]);
    assert!(bytes(4) < bytes(0) && bytes(8) < bytes(0) && bytes(2) > bytes(0));
}

#[test]
fn lines_of_json_and_csv_come_one_for_each_test() {
    let lines = |format: &str| {
        let output = bench(&["-p", "4", "-n", "2", "-t", "1", "-r", "1", "-o", format]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let json = lines("jsonl");
    assert_eq!(json.len(), 2);
    json.iter().for_each(|line| check_test(&serde_json::from_str(line).unwrap()));
    let csv = lines("csv");
    assert_eq!(csv.len(), 3);
    let fields = |line: &str| line.split(',').count();
    assert!(csv.iter().all(|line| fields(line) == fields(&csv[0])), "{csv:?}");
}

#[test]
fn forms_are_chosen_by_name_and_markdown_where_nobody_looks() {
    let text = |args: &[&str]| {
        let output =
            bench(&[&["-p", "4", "-n", "2", "-t", "1", "-r", "1"][..], args].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, markdown) = text(&[]);
    assert_eq!(code, Some(0));
    for part in ["| model | threads | test ", "| threads | read bandwidth", "| p50 ms |", "|---|"] {
        assert!(markdown.contains(part), "{part} in {markdown}");
    }
    assert_eq!(text(&["--json", "-o", "csv"]).0, Some(2));
    let (_, aligned) = text(&["-o", "table"]);
    assert!(!aligned.contains('|'), "{aligned}");
    // Titles stand over their columns: numbers end where their titles end.
    let line = |start: &str| aligned.lines().find(|l| l.trim_start().starts_with(start)).unwrap();
    let title = line("threads  test");
    let row = aligned.lines().skip_while(|l| *l != title).nth(1).unwrap();
    let end = title.find("tokens/s").unwrap() + "tokens/s".len();
    let chars: Vec<char> = row.chars().collect();
    assert!(chars[end - 1].is_ascii_digit() && chars.get(end) == Some(&' '), "{title}\n{row}");
}

#[test]
fn a_page_shows_two_runs() {
    let folder = tempfile::tempdir().unwrap();
    let before = folder.path().join("before.json");
    let args = ["-p", "4", "-n", "2", "-d", "0,5", "-t", "1", "-r", "2"];
    let output = bench(&[&args[..], &["--json"]].concat()).output().unwrap();
    std::fs::write(&before, &output.stdout).unwrap();
    let compared = [&args[..], &["-o", "html", "--compare", before.to_str().unwrap()]].concat();
    let output = bench(&compared).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", String::from_utf8_lossy(&output.stderr));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("default-src 'none'"));
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    let data: Value = serde_json::from_str(&page[start..end]).unwrap();
    assert_eq!(data["baseline"], serde_json::from_slice::<Value>(&std::fs::read(&before).unwrap()).unwrap());
    assert_eq!(data["keys"], data["baseline_keys"]);
    assert_eq!(data["run"]["comparison"].as_array().unwrap().len(), 4);
    data["run"]["tests"].as_array().unwrap().iter().for_each(check_test);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    use std::io::{BufRead, BufReader, Read};
    let mut child = bench(&["-p", "4", "-n", "400000", "-t", "1", "-r", "3", "-o", "jsonl"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    // The prompts come first; the generations would take long.
    out.read_line(&mut first).unwrap();
    check_test(&serde_json::from_str(&first).unwrap());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // What was done of the second test is kept, if one of its repetitions was.
    for line in rest.lines() {
        check_test(&serde_json::from_str(line).unwrap());
    }
}

#[test]
fn kernels_add_up_to_the_calls_that_they_are_in() {
    let loaded = load(None, &LoadOptions::default()).unwrap();
    let mut roofline = limits_of_machine(Some(1 << 20)).unwrap();
    let options = KernelsOptions {
        prompt: 24,
        generate: 3,
        depth: 70,
        threads: 2,
        repetitions: 2,
        keep_going: (|| true).into(),
    };
    let mut heard = Vec::new();
    let outcome = measure(&loaded, &mut roofline, &options, &mut |done| heard.push(done)).unwrap();
    assert_eq!((heard, outcome.rounds.len(), outcome.interrupted), (vec![1, 2], 3, false));

    let entries: Vec<(&str, u32)> = outcome.entries.iter().map(|e| (e.entry.as_str(), e.tokens)).collect();
    assert_eq!(entries, [("decode", 1), ("prefill", 24), ("head", 1)]);
    let accounts = Accounts::of(&loaded.module);
    let programs = loaded.model.programs();
    for entry in &outcome.entries {
        let of_entry: Vec<_> = outcome.kernels.iter().filter(|k| k.entry == entry.entry).collect();
        let mut work = Work::default();
        of_entry.iter().for_each(|k| work += k.work.work);
        if entry.entry == "decode" {
            assert_eq!(work, accounts.step(70));
        }
        let program = programs.programs.iter().find(|p| p.name == entry.entry).unwrap();
        assert_eq!(of_entry.iter().map(|k| k.steps as usize).sum::<usize>(), program.steps.len());
        // Threads are in one kernel at a time, and not in any for the rest of the call.
        for repetition in 0..2 {
            let inside: f64 = of_entry.iter().map(|k| k.seconds[repetition]).sum();
            let call = of_entry[0].call_seconds[repetition];
            assert!(inside > 0.0 && inside <= call, "{}: {inside} of {call}", entry.entry);
        }
        let times: Vec<f64> = of_entry.iter().map(|k| k.median_seconds()).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    }
    // A prompt and the logits after its last token are a chunk and a head.
    let mut prompt = Work::default();
    outcome.kernels.iter().filter(|k| k.entry != "decode").for_each(|k| prompt += k.work.work);
    assert_eq!(prompt, accounts.prompt(70, 24));
}
