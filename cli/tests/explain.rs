//! What `bitnetc explain` says: sums that agree with the counts of the whole, layers that are folded, plans and GGUFs alike, and
//! pages that hold what they were given.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::Command;

use bitnetc::BuildOptions;
use bitnetc::compile::plan_model;
use bitnetc::load::{Source, load_source};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::DType;
use bitnetc_ir::target::Speeds;
use bitnetc_ir::work::Accounts;
use bitnetc_runtime::map::MapMode;
use bitnetc_tools::explain::{Document, ExplainOptions, MeasureOptions, explain, measure, page};
use bitnetc_tools::speeds::SpeedsFile;
use common::*;

fn source(path: &Path) -> Source {
    Source::open(Some(path), MapMode::Mapped).unwrap()
}

fn compile(threads: u32) -> BuildOptions {
    BuildOptions { threads: Some(threads), ..BuildOptions::default() }
}

fn explained(path: &Path, position: u32, texts: bool) -> Document {
    let compile = compile(2);
    let options = ExplainOptions { position, texts, timings: None };
    explain(&source(path), &compile, &compile.target().unwrap(), &options).unwrap()
}

#[test]
fn the_ops_add_up_to_what_a_step_needs() {
    for model in shapes() {
        let file = write_model(&model);
        for position in [0, 5, 70] {
            let document = explained(file.path(), position, false);
            let loaded = open(file.path(), &options_with(DType::F16, |c| c.threads = Some(2)));
            let accounts = Accounts::of(&loaded.module);
            let entry = |name: &str| document.entries.iter().find(|e| e.name == name).unwrap();
            let (e, expected) = (entry("decode"), accounts.step(document.position));
            // Ops that share a parameter (signs of rotations) read it once each, a step reads it once.
            match model.hybrid.is_some() {
                true => assert!(e.work.weight_bytes >= expected.weight_bytes),
                false => assert_eq!(e.work.weight_bytes, expected.weight_bytes),
            }
            assert_eq!(e.work.kv_read_bytes, expected.kv_bytes + expected.state_bytes);
            assert_eq!(e.work.macs(), expected.macs());
            for e in &document.entries {
                // Every op is in one part, every part in order.
                let mut next = 0;
                for part in &e.parts {
                    assert_eq!(part.start, next);
                    next += part.length * part.count as usize;
                }
                assert_eq!(next, e.ops.len());
                let kinds = || e.ops.iter().map(|op| &document.kinds[op.kind]);
                let sum: u64 = kinds().map(|k| k.work.weight_bytes).sum();
                assert_eq!(sum, e.work.weight_bytes);
                let after = e.ops.iter().filter(|op| op.barrier).count();
                let inside = e.ops.iter().filter(|op| op.inner_barrier).count();
                // A hybrid model has attention in some of its layers.
                let attention = match (e.name.as_str(), model.hybrid.is_some()) {
                    ("decode", false) => model.layers,
                    ("decode", true) => kinds().filter(|kind| kind.op == "attention").count(),
                    _ => 0,
                };
                assert_eq!(inside, attention, "attention of one token");
                assert_eq!((after + inside, e.ops.last().unwrap().phase as usize), (e.barriers, e.barriers));
                let steps = loaded
                    .model
                    .programs()
                    .entry_point(bitnetc_ir::EntryPoint::Decode)
                    .unwrap()
                    .1
                    .steps
                    .iter();
                let compiled = steps.filter(|step| step.barrier).count();
                assert!(e.name != "decode" || e.barriers == compiled, "{} of {compiled}", e.barriers);
                // With the barriers, the predictions of the ops are that of the call (each is rounded to a tenth).
                let sum: f64 = kinds().map(|k| k.predicted.ns).sum::<f64>() + e.barrier_ns;
                assert!((sum - e.predicted.ns).abs() <= 0.1 * e.ops.len() as f64 + 0.2, "{}: {sum}", e.name);
                assert!(kinds().all(|k| k.entry == e.name && k.predicted.ns >= k.predicted.least_ns - 0.2));
                for value in &e.values {
                    let memory = if value.private { e.private_bytes } else { e.arena_bytes };
                    assert!(value.first <= value.last && value.offset + value.size <= memory);
                }
            }
            let layers = entry("decode").parts.iter().filter(|part| part.layer.is_some());
            assert_eq!(layers.map(|part| part.count).sum::<u32>() as usize, model.layers);
        }
    }
}

#[test]
fn equal_layers_are_one_part_and_their_kinds_one_kind() {
    let model = TinyModel { layers: 5, ..TinyModel::default() };
    let file = write_model(&model);
    let document = explained(file.path(), 0, false);
    let decode = document.entries.iter().find(|e| e.name == "decode").unwrap();
    let folded: Vec<u32> = decode.parts.iter().filter(|p| p.layer.is_some()).map(|p| p.count).collect();
    assert_eq!(folded, [5]);
    let one = TinyModel { layers: 1, ..model };
    let file = write_model(&one);
    let small = explained(file.path(), 0, false);
    assert_eq!(small.kinds.len(), document.kinds.len());
    assert_eq!(small.kernels.len(), document.kernels.len());
}

#[test]
fn a_plan_is_explained_like_its_model_but_for_the_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_model(&shapes()[2]);
    let compile = compile(2);
    let gguf = source(file.path());
    let model = gguf.gguf_model().unwrap();
    let plan = folder.path().join("model.plan");
    plan_model(file.path(), &model, &compile).unwrap().write(&plan, |_| true).unwrap();
    // The model is not needed any more.
    let of_model = serde_json::to_value(explained(file.path(), 9, true)).unwrap();
    file.close().unwrap();
    let of_plan = serde_json::to_value(explained(&plan, 9, true)).unwrap();
    for part in ["entries", "kinds", "kernels", "machine", "position"] {
        assert_eq!(of_plan[part], of_model[part], "{part}");
    }
    for part in ["name", "architecture", "hyper_parameters", "options", "memory_bytes", "context"] {
        assert_eq!(of_plan["model_info"][part], of_model["model_info"][part], "{part}");
    }
    assert_eq!(of_plan["model_info"]["source"], "plan");
    assert_eq!(of_plan["stages"], serde_json::json!([]));
    let passes: Vec<_> = of_model["stages"].as_array().unwrap().iter().map(|s| s["pass"].clone()).collect();
    assert_eq!(passes.len(), bitnetc_passes::ALL_PASSES.len() + 1);
    // The module in the document is the one that a usual compilation makes.
    let text = of_model["stages"][11]["diff"].as_array().unwrap();
    assert!(
        text.iter()
            .any(|line| line.as_str().unwrap().starts_with('+') && line.as_str().unwrap().contains(" at 0+"))
    );
}

#[test]
fn the_document_depends_on_nothing_but_model_options_and_target() {
    let file = write_model(&shapes()[0]);
    let json = |document: Document| serde_json::to_string(&document).unwrap();
    assert_eq!(json(explained(file.path(), 3, true)), json(explained(file.path(), 3, true)));
    // Measured speeds change predictions, and the plan does not follow them.
    let compile = compile(2);
    let mut machine = compile.target().unwrap();
    machine.measured =
        Some(Speeds { read_one_mb_s: 1, read_all_mb_s: 1, int8_core_mmac_s: 1, vector_bytes: 64 });
    let options = ExplainOptions { position: 3, texts: false, timings: None };
    let slow = explain(&source(file.path()), &compile, &machine, &options).unwrap();
    let usual = explained(file.path(), 3, false);
    assert!(slow.machine.measured && !usual.machine.measured);
    let names = |d: &Document| d.kernels.iter().map(|k| k.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&slow), names(&usual));
    assert!(slow.entries[0].predicted.ns > 100.0 * usual.entries[0].predicted.ns);
}

#[test]
fn speeds_that_were_measured_once_are_taken_where_they_are_asked_for() {
    let caches = tempfile::tempdir().unwrap();
    let target = compile(2).target().unwrap();
    let speeds =
        Speeds { read_one_mb_s: 123_000, read_all_mb_s: 456_000, int8_core_mmac_s: 7_000, vector_bytes: 64 };
    let variable = |name: &str| (name == "XDG_CACHE_HOME").then(|| caches.path().as_os_str().to_owned());
    SpeedsFile::from_env(&variable).unwrap().put(&target, speeds).unwrap();
    let machine = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        command.args(["-q", "explain", "--json", "-t", "2"]).args(arguments);
        let output = command.env("XDG_CACHE_HOME", caches.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["machine"].clone()
    };
    let measured = machine(&["--speeds", "measured"]);
    assert_eq!(
        (&measured["measured"], &measured["read_one_bytes_per_second"]),
        (&true.into(), &123e9.into())
    );
    assert_eq!(measured["int8_macs_per_second"], serde_json::json!(14e9));
    assert_eq!(machine(&[])["measured"], false);
    assert_eq!(machine(&["--speeds", "assumed"]), machine(&[]));
}

#[test]
fn measured_times_stand_beside_every_op_that_ran() {
    let file = write_model(&shapes()[4]);
    let compile = compile(2);
    let loaded =
        load_source(source(file.path()), &options_with(DType::F16, |c| c.threads = Some(2))).unwrap();
    let options = MeasureOptions { threads: 2, position: 40, steps: 3, keep_going: (|| true).into() };
    let timings = measure(&loaded, &options).unwrap();
    let options = ExplainOptions { position: 40, texts: false, timings: Some(&timings) };
    let document = explain(&source(file.path()), &compile, &compile.target().unwrap(), &options).unwrap();
    for e in &document.entries {
        assert!(e.measured_ns.is_some_and(|ns| ns > 0.0), "{}", e.name);
        for op in &e.ops {
            let view = document.kinds[op.kind].kernels.is_empty();
            assert_eq!(op.measured.is_none(), view);
            assert!(op.measured.iter().all(|m| m.busy_ns.len() == 2 && m.wait_ns.len() == 2));
        }
        let busy: f64 = e.ops.iter().filter_map(|op| op.measured.as_ref()).map(|m| m.busy_ns[0]).sum();
        assert!(busy > 0.0 && busy <= e.measured_ns.unwrap() * 1.001, "{busy} of {:?}", e.measured_ns);
        // Ops, barriers and dispatch are the whole of a call.
        let ops: f64 = e.ops.iter().filter_map(|op| op.measured.as_ref()).map(|m| m.ns()).sum();
        let whole = ops + e.measured_barrier_ns.unwrap() + e.measured_dispatch_ns.unwrap();
        assert!((whole / e.measured_ns.unwrap() - 1.0).abs() < 0.01, "{whole} of {:?}", e.measured_ns);
    }
    let measurement = document.measurement.unwrap();
    assert!(measurement.steps == 3 && (0.0..1.0).contains(&measurement.barrier_share));
    // An interruption ends it.
    let stopped = MeasureOptions { threads: 2, position: 0, steps: 3, keep_going: (|| false).into() };
    assert!(measure(&loaded, &stopped).is_err());
}

/// The shares of each table of the text, by entry point and column; in a row they stand before the share of the roofline.
fn columns_of_shares(text: &str) -> Vec<Vec<f64>> {
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut table = None;
    for line in text.lines() {
        if line.starts_with("  op ") {
            let number = line.matches("share").count();
            table = Some(columns.len());
            columns.extend(vec![Vec::new(); number]);
        } else if line.starts_with("  a call ") {
            table = None;
        } else if let Some(first) = table {
            let shares =
                line.split(" %").filter_map(|part| part.split_whitespace().last()?.parse::<f64>().ok());
            for (column, share) in columns[first..].iter_mut().zip(shares) {
                column.push(share);
            }
        }
    }
    columns
}

#[test]
fn the_rows_of_a_table_add_up() {
    for measure in [&[][..], &["--measure", "-r", "2", "--limits-buffer", "1"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        let output = command.args(["-q", "explain", "-t", "2"]).args(measure).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let columns = columns_of_shares(&text);
        assert_eq!(columns.len(), if measure.is_empty() { 3 } else { 6 }, "{text}");
        for column in columns {
            let sum: f64 = column.iter().sum();
            assert!(column.len() > 2 && (sum - 100.0).abs() < 1e-6, "{sum}: {column:?}\n{text}");
        }
        let row = |name: &str| text.lines().any(|line| line.trim_start().starts_with(name));
        assert!(row("barriers ") && row("barrier ") && row("dispatch ") != measure.is_empty(), "{text}");
        assert!(!text.contains("meet") && !text.contains("behind"), "{text}");
    }
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_model(&shapes()[2]);
    let plan = folder.path().join("model.plan");
    let gguf = source(file.path());
    plan_model(file.path(), &gguf.gguf_model().unwrap(), &compile(2))
        .unwrap()
        .write(&plan, |_| true)
        .unwrap();
    let explain = |model: &Path, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
        let command = command.args(["-q", "explain", "--json", "-t", "2"]).arg(model).args(args);
        let output = command.env("BITNETC_HEAD", "q8").output().unwrap();
        let words: Vec<&str> = std::str::from_utf8(&output.stderr).unwrap().split_whitespace().collect();
        (output.status.code(), words.join(" "))
    };
    for args in [
        &["--head", "q4"][..],
        &["--weights", "2bit"],
        &["--kv-type", "f32"],
        &["-b", "16"],
        &["-O", "0"],
        &["--disable-pass", "schedule"],
        &["--i2s-layout", "arm-64"],
        &["--measure", "-r", "1", "--limits-buffer", "1", "--speeds", "assumed"],
    ] {
        let (code, message) = explain(&plan, args);
        assert!(code == Some(2) && message.contains("does nothing here"), "{args:?}: {message}");
        assert!(message.contains("give the .gguf file") || message.contains("leave one"), "{message}");
    }
    // A default that the user has set for all commands is no mistake, nor is what a GGUF makes use of.
    assert_eq!(explain(&plan, &[]).0, Some(0));
    assert_eq!(explain(file.path(), &["--head", "q4", "-O", "1"]).0, Some(0));
    for option in [&["-r", "3"][..], &["--limits-buffer", "1"]] {
        let (code, message) = explain(file.path(), option);
        assert!(code == Some(2) && message.contains("--measure"), "{message}");
    }
    let (code, message) = explain(file.path(), &["-d", "100000"]);
    assert!(code == Some(2) && message.contains("give at most"), "{message}");
}

#[test]
fn a_page_holds_its_document_and_names_nothing_outside() {
    let document = explained(write_model(&shapes()[1]).path(), 0, true);
    let page = page::page(&document).unwrap();
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    let data: serde_json::Value = serde_json::from_str(&page[start..end]).unwrap();
    assert_eq!(data, serde_json::to_value(&document).unwrap());
    for word in ["src=", "href=", "@import", "url(", "https:"] {
        assert!(!page[..start].contains(word) && !page[end..].contains(word), "{word}");
    }
    assert!(page.contains("default-src 'none'"));
}
