//! What the command line does around models: names, configuration, environment, reports, shells.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/hub_server.rs"]
#[allow(dead_code, unreachable_pub)]
mod hub_server;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_runtime::plan::{self, Plan};
use common::root;
use hub_server::{Fault, Server};
use serde_json::Value;

/// A command with a home of its own.
fn bitnetc(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnetc"));
    command.args(args).env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn json(command: &mut Command) -> Value {
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_trace_shows_every_thread() {
    let home = home();
    let file = home.path().join("trace.json");
    let args = ["run", "-p", "To be", "-n", "3", "-t", "2", "--temp", "0", "--profile"];
    let (code, with, stderr) = output(bitnetc(home.path(), &args).arg(&file));
    assert!(code == Some(0) && stderr.contains("events to"), "{stderr}");
    let (_, without, _) = output(&mut bitnetc(home.path(), &args[..args.len() - 1]));
    assert_eq!(with, without);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(trace["dropped_events"], 0);
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |category: &str, tid: u64| {
        let wanted = |e: &&Value| e["cat"] == category && e["tid"] == tid;
        events.iter().filter(wanted).collect::<Vec<_>>()
    };
    // The prompt, the head after it, and a step for each token but the last.
    let calls: Vec<&str> = of("call", 2).iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(calls, ["prefill", "head", "decode", "decode"]);
    for tid in [0, 1] {
        let kernels = of("kernel", tid);
        assert!(kernels.iter().any(|e| e["name"] == "bitlinear"), "{kernels:?}");
        assert!(!of("wait", tid).is_empty());
        // One after the other, inside of the calls.
        let ends = |e: &Value| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap();
        assert!(kernels.windows(2).all(|pair| ends(pair[0]) <= pair[1]["ts"].as_f64().unwrap() + 0.002));
    }
    let folder = home.path().join("none/trace.json");
    let (code, stdout, stderr) = output(bitnetc(home.path(), &args).arg(&folder));
    assert!(code == Some(1) && stdout.is_empty() && stderr.contains("none"), "{stderr}");
}

#[test]
fn a_baseline_tells_slower_from_faster() {
    let home = home();
    let args = ["bench", "-p", "0", "-n", "4", "-r", "5", "-t", "1", "--limits-buffer", "1", "-o", "json"];
    let report = json(&mut bitnetc(home.path(), &args));
    let file = home.path().join("before.json");
    // A sample during which the machine does something else may be a hundred times as slow as the others.
    for (factor, code, verdict) in [(1e4, 5, "slower"), (1e-4, 0, "faster")] {
        let mut old = report.clone();
        for sample in old["tests"][0]["samples"].as_array_mut().unwrap() {
            *sample = (sample.as_f64().unwrap() * factor).into();
        }
        std::fs::write(&file, old.to_string()).unwrap();
        let mut command = bitnetc(home.path(), &args);
        let (found, stdout, stderr) = output(command.arg("--compare").arg(&file));
        let new: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(new["comparison"][0]["verdict"], verdict, "{stdout}");
        assert_eq!(found, Some(code), "{stderr}");
    }
    // Nothing of it has a partner.
    let other = ["bench", "-p", "0", "-n", "5", "-r", "1", "-t", "1", "--limits-buffer", "1", "--compare"];
    let (code, _, stderr) = output(bitnetc(home.path(), &other).arg(&file));
    assert!(code == Some(1) && stderr.contains("no test of this run is in the baseline"), "{stderr}");
}

#[test]
fn a_test_that_the_baseline_does_not_have_is_named() {
    let home = home();
    let common = ["-p", "0", "-r", "1", "-t", "1", "--limits-buffer", "1"];
    let args = [&["bench", "-n", "4", "-o", "json"][..], &common].concat();
    let file = home.path().join("before.json");
    std::fs::write(&file, json(&mut bitnetc(home.path(), &args)).to_string()).unwrap();
    let run = |format: &str| {
        let args = [&["bench", "-n", "4,5", "-o", format][..], &common].concat();
        let (code, stdout, stderr) = output(bitnetc(home.path(), &args).arg("--compare").arg(&file));
        assert!(code == Some(0) || code == Some(5), "{stderr}");
        stdout
    };
    let report: Value = serde_json::from_str(&run("json")).unwrap();
    let missing = report["not_compared"].as_array().unwrap();
    assert!(missing.len() == 1 && missing[0].as_str().unwrap().contains(" tg5 "), "{report:#}");
    assert_eq!(report["comparison"].as_array().unwrap().len(), 1);
    let text = run("md");
    let (_, after) = text.split_once("Not compared, because the baseline does not have").unwrap();
    assert!(after.contains(" tg5 ") && !after.contains(" tg4 "), "{text}");
}

#[test]
fn models_of_different_batch_sizes_are_told_apart() {
    let home = home();
    let run = |sizes: &str, format: &str| {
        let args = [
            "bench",
            "-p",
            "4",
            "-n",
            "0",
            "-r",
            "1",
            "-t",
            "1",
            "--limits-buffer",
            "1",
            "-ub",
            sizes,
            "-o",
            format,
        ];
        let (code, stdout, stderr) = output(&mut bitnetc(home.path(), &args));
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    for format in ["md", "table"] {
        let text = run("16,32", format);
        assert!(text.contains(", batch size 16") && text.contains(", batch size 32"), "{text}");
        assert!(!run("16", format).contains("batch size"));
    }
    let csv = run("16,32", "csv");
    let last = |line: &str| line.rsplit(',').next().unwrap_or_default().to_owned();
    assert_eq!(csv.lines().map(last).collect::<Vec<_>>(), ["chunk", "16", "32"], "{csv}");
}

#[test]
fn the_source_of_a_wrong_value_is_named() {
    let home = home();
    let file = home.path().join(".config/bitnetc/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "[run]\ntop-k = \"few\"\n").unwrap();
    let run = |args: &[&str], variable: Option<(&str, &str)>| {
        let mut command = bitnetc(home.path(), &[&["run"][..], args].concat());
        command.envs(variable);
        let (code, _, stderr) = output(&mut command);
        assert_eq!(code, Some(2), "{stderr}");
        stderr
    };
    let text = run(&[], None);
    assert!(
        text.contains(&format!("from {}:2, `[run] top-k`: expected a whole number", file.display())),
        "{text}"
    );
    let text = run(&["--top-k", "3"], Some(("BITNETC_THREADS", "many")));
    assert!(text.contains("'--threads <N>', from the variable BITNETC_THREADS: expected"), "{text}");
    let text = run(&["--top-k", "3"], Some(("BITNETC_KV_TYPE", "q3")));
    assert!(text.contains("tip: the value is from the variable BITNETC_KV_TYPE"), "{text}");
    // A mistake of the command line is not looked for elsewhere.
    let text = run(&["--top-k", "3", "-t", "x"], Some(("BITNETC_THREADS", "many")));
    assert!(text.contains("'x'") && !text.contains("BITNETC_THREADS"), "{text}");
    // A file that cannot be read is a note; one that was named is an error.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let (code, _, stderr) = output(&mut bitnetc(home.path(), &["tokenize", "-p", "hi"]));
    assert!(code == Some(0) && stderr.contains("config.toml is not used: "), "{stderr}");
    let (code, _, _) = output(bitnetc(home.path(), &["tokenize", "-p", "hi"]).env("BITNETC_CONFIG", &file));
    assert_ne!(code, Some(0));
}

#[test]
fn an_alias_of_a_file_is_no_model_of_the_hub() {
    let home = home();
    let config = home.path().join("config.toml");
    std::fs::write(&config, "[aliases]\nmine = \"/models/mine.gguf\"\n").unwrap();
    for command in [&["rm", "mine"][..], &["pull", "mine"], &["models", "path", "mine"]] {
        let (code, _, stderr) = output(bitnetc(home.path(), command).env("BITNETC_CONFIG", &config));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("mine is an alias of the file /models/mine.gguf"), "{stderr}");
    }
}

#[test]
fn settings_are_started_once() {
    let home = home();
    let (code, _, stderr) = output(&mut bitnetc(home.path(), &["config", "init"]));
    let file = home.path().join(".config/bitnetc/config.toml");
    assert!(code == Some(0) && stderr.contains(file.to_str().unwrap()), "{stderr}");
    let text = std::fs::read_to_string(&file).unwrap();
    let (code, _, stderr) = output(&mut bitnetc(home.path(), &["config", "init"]));
    assert!(code == Some(1) && stderr.contains("already exists"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert_eq!(output(&mut bitnetc(home.path(), &["config"])).0, Some(0));
}

#[test]
fn a_model_of_the_hub_is_fetched_and_compiled_once() {
    let bytes = TinyModel::default().to_gguf();
    let server = Server::new(&[("tiny.gguf", bytes.clone()), ("README.md", b"hi".to_vec())]);
    server.faults(&[Fault::CutAfter(bytes.len() / 2)]);
    let home = home();
    let hub = |args: &[&str]| {
        let mut command = bitnetc(home.path(), args);
        command.env("HF_ENDPOINT", &server.endpoint);
        command
    };
    let run = ["run", "hf:org/repo", "--ignore-eos", "-n", "3", "-s", "1", "--json", "-t", "1"];
    let first = json(&mut hub(&run));
    assert_eq!(first["ids"].as_array().unwrap().len(), 3);
    let plan = first["model"].as_str().unwrap().to_owned();
    let plans = home.path().join(".cache/bitnetc/plans");
    assert!(Path::new(&plan).starts_with(&plans) && plan.ends_with(".plan"), "{plan}");
    assert_eq!(server.ranges().len(), 2);
    let made = std::fs::metadata(&plan).unwrap().modified().unwrap();

    // Again: no request, no compilation, the same text.
    let requests = server.state().requests.len();
    let (_, _, stderr) = output(&mut hub(&run));
    assert!(!stderr.contains("compiled"), "{stderr}");
    let second = json(hub(&run).env("HF_HUB_OFFLINE", "1"));
    assert_eq!((&second["ids"], &second["model"]), (&first["ids"], &first["model"]));
    assert_eq!(server.state().requests.len(), requests);
    assert_eq!(std::fs::metadata(&plan).unwrap().modified().unwrap(), made);

    // As a file of that content.
    let file = home.path().join("own.gguf");
    std::fs::write(&file, &bytes).unwrap();
    let own = ["run", file.to_str().unwrap(), "--ignore-eos", "-n", "3", "-s", "1", "--json", "-t", "1"];
    assert_eq!(json(&mut hub(&own))["ids"], first["ids"]);

    let (_, path, _) = output(&mut hub(&["models", "path", "hf:org/repo:tiny"]));
    assert_eq!(std::fs::read(path.trim()).unwrap(), bytes);
    let (code, inspected, _) = output(&mut hub(&["inspect", "hf:org/repo", "--json"]));
    assert!(code == Some(0) && inspected.contains(path.trim()), "{inspected}");
    let pulled = json(&mut hub(&["models", "pull", "hf:org/repo", "--json"]));
    assert_eq!((&pulled["files_fetched"], &pulled["file_bytes"]), (&0.into(), &bytes.len().into()));
    let list = json(&mut hub(&["models", "list", "--json"]));
    assert_eq!(list["models"][0]["name"], "hf:org/repo:tiny.gguf");
    assert_eq!(list["plans"].as_array().unwrap().len(), 1);
    assert!(list["aliases"]["2b-4t"].as_str().unwrap().starts_with("hf:microsoft/"));

    // Removing a model frees what was compiled of it, under the shorter names too.
    assert_eq!(json(&mut hub(&["ls", "--json"])), list);
    let (code, _, stderr) = output(&mut hub(&["rm", "org/repo"]));
    assert!(code == Some(0) && stderr.contains("and 1 plan:"), "{stderr}");
    assert_eq!(json(&mut hub(&["list", "--json"]))["plans"], serde_json::json!([]));
    let (code, path, stderr) =
        output(&mut hub(&["pull", "https://huggingface.co/org/repo/blob/main/tiny.gguf"]));
    assert_eq!((code, std::fs::read(path.trim()).unwrap()), (Some(0), bytes.clone()), "{stderr}");
    assert_eq!(output(&mut hub(&["models", "rm", "hf:org/repo"])).0, Some(0));
    assert_eq!(output(&mut hub(&["models", "rm", "--plans"])).0, Some(0));
    assert_eq!(output(&mut hub(&["models", "path", "hf:org/repo"])).0, Some(1));
    let (code, _, stderr) = output(hub(&["run", "hf:org/repo"]).env("HF_HUB_OFFLINE", "1"));
    assert!(code == Some(1) && stderr.contains("HF_HUB_OFFLINE"), "{stderr}");
    assert_eq!(output(&mut hub(&["run", "hf:nonsense"])).0, Some(2));
    assert_eq!(output(&mut hub(&["models", "pull", "nonsense"])).0, Some(2));
}

#[test]
fn a_name_that_nobody_can_look_up_fails_at_once() {
    let home = home();
    let mut command = bitnetc(home.path(), &["pull", "org/repo"]);
    let (code, _, stderr) = output(command.env("HF_ENDPOINT", "http://nowhere.invalid"));
    let stderr = stderr.replace(['\n', '│'], " ");
    assert!(code == Some(1) && !stderr.contains("tried"), "{stderr}");
    assert!(
        stderr.split_whitespace().collect::<Vec<_>>().join(" ").contains("cannot reach the server"),
        "{stderr}"
    );
}

#[test]
fn https_works_with_the_systems_certificates_only() {
    let data = root().join("tests/data/tls");
    let bytes = TinyModel::default().to_gguf();
    let server = Server::with_tls(&[("tiny.gguf", bytes.clone())], &data);
    server.faults(&[Fault::CutAfter(1000)]);
    let home = home();
    let pull = |certificates: &str| {
        let mut command = bitnetc(home.path(), &["models", "pull", "hf:org/repo"]);
        command.env("HF_ENDPOINT", &server.endpoint).env("SSL_CERT_FILE", data.join(certificates));
        output(command.env("HF_TOKEN", "secret"))
    };
    let (code, path, stderr) = pull("ca.pem");
    if stderr.contains("https needs a CPU") {
        eprintln!("skipped: {stderr}");
        return;
    }
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(std::fs::read(path.trim()).unwrap(), bytes);
    assert_eq!(server.ranges().len(), 2);
    // Over https the token goes along, and not to the storage.
    assert!(server.state().requests.iter().all(|r| r.token.is_some() != r.storage));

    // A server that nobody vouches for gets no request.
    let requests = server.state().requests.len();
    let mut command = bitnetc(home.path(), &["models", "pull", "hf:org/repo"]);
    command.env("HF_ENDPOINT", &server.endpoint).env("SSL_CERT_DIR", home.path());
    let empty = home.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let (code, _, stderr) = output(command.env("SSL_CERT_FILE", empty));
    assert!(code == Some(1) && stderr.contains("https failed"), "{stderr}");
    assert_eq!(server.state().requests.len(), requests);
}

#[test]
fn the_command_line_counts_before_variables_and_these_before_the_file() {
    let home = home();
    let config = home.path().join(".config/bitnetc/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let model = home.path().join("mine.gguf");
    std::fs::write(&model, TinyModel::default().to_gguf()).unwrap();
    let text = format!(
        "ignore-eos = true\nno-display-prompt = true\n[run]\nn-predict = 4\nseed = 3\ntop-k = 5\n[aliases]\nmine = {model:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let tokens = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = bitnetc(home.path(), &[&["run", "mine", "--json"], args].concat());
        let report = json(command.envs(variables.iter().copied()));
        (report["ids"].as_array().unwrap().len(), report["seed"].as_u64().unwrap())
    };
    assert_eq!(tokens(&[], &[]), (4, 3));
    assert_eq!(tokens(&[], &[("BITNETC_N_PREDICT", "5"), ("BITNETC_SEED", "8")]), (5, 8));
    assert_eq!(
        tokens(&["-n", "2", "--seed", "9"], &[("BITNETC_N_PREDICT", "5"), ("BITNETC_SEED", "8")]),
        (2, 9)
    );

    let shown = json(&mut bitnetc(home.path(), &["config", "--json"]));
    assert_eq!((&shown["exists"], &shown["settings"]["run.n-predict"]), (&true.into(), &"4".into()));
    let (_, path, _) = output(&mut bitnetc(home.path(), &["config", "path"]));
    assert_eq!(Path::new(path.trim()), config);

    // A mistake stops the commands that would follow it, and not those that help to find it.
    std::fs::write(&config, "[run]\ntempo = 1\n").unwrap();
    let (code, _, stderr) = output(&mut bitnetc(home.path(), &["run", "-n", "1"]));
    assert!(code == Some(2) && stderr.contains("tempo") && stderr.contains("config.toml"), "{stderr}");
    assert_eq!(output(&mut bitnetc(home.path(), &["config"])).0, Some(2));
    assert_eq!(output(&mut bitnetc(home.path(), &["config", "path"])).0, Some(0));
    assert_eq!(output(&mut bitnetc(home.path(), &["completions", "bash"])).0, Some(0));
    let doctor = json(&mut bitnetc(home.path(), &["doctor", "--no-measure", "--json"]));
    assert!(doctor["findings"].to_string().contains("configuration"), "{doctor}");
    assert_eq!(doctor["verdict"]["ready"], false);
    let text = doctor["verdict"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("not ready: the configuration file") && text.contains("bitnetc config"),
        "{text}"
    );
    assert_eq!(output(bitnetc(home.path(), &["run", "-n", "1"]).env("BITNETC_CONFIG", "")).0, Some(0));
    std::fs::write(&config, "[run\n").unwrap();
    assert!(output(&mut bitnetc(home.path(), &["run", "-n", "1"])).2.contains("not TOML"));
}

#[test]
fn run_reports_where_the_time_went() {
    let home = home();
    let run = ["run", "-p", "ROMEO:", "-n", "12", "--temp", "0", "-t", "2"];
    let report = json(&mut bitnetc(home.path(), &[&run[..], &["--json"]].concat()));
    let timings = &report["timings"];
    let ms = |name: &str| timings[name].as_f64().unwrap();
    assert!(ms("load_ms") > 0.0 && ms("prompt_ms") > 0.0 && ms("decode_ms") > 0.0 && ms("sampling_ms") > 0.0);
    assert_eq!(timings["decode_steps"], 11);
    let latency = ["p50", "p90", "p99", "max"].map(|p| timings["token_latency_ms"][p].as_f64().unwrap());
    assert!(latency.is_sorted() && latency[0] > 0.0, "{latency:?}");
    // The slowest token took no longer than all together, and all no longer than the slowest each.
    assert!(latency[3] <= ms("decode_ms") + ms("sampling_ms"));
    assert!(latency[3] * 11.0 >= ms("decode_ms"));
    let memory = &report["memory"];
    assert!(memory["planned_bytes"].as_u64().unwrap() > 0 && memory["peak_rss_bytes"].as_u64().unwrap() > 0);

    let (code, _, stderr) = output(&mut bitnetc(home.path(), &[&run[..], &["--perf"]].concat()));
    assert_eq!(code, Some(0));
    for word in
        ["load time", "prompt eval time", "eval time", "sampling time", "per token", "planned", "peak RSS"]
    {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
}

#[test]
fn the_doctor_measures_this_machine() {
    let home = home();
    let report = json(&mut bitnetc(home.path(), &["doctor", "--json", "-t", "1"]));
    assert_eq!((&report["schema"], &report["measured"]["threads"]), (&"bitnetc.doctor/2".into(), &1.into()));
    assert!(report["measured"]["read_bytes_per_second"].as_f64().unwrap() > 1e8);
    assert!(report["measured"]["int8_macs_per_second"].as_f64().unwrap() > 1e8);
    assert!(
        report["cpus"]["threads"].as_u64().unwrap() == 1 && report["cpus"]["cores"].as_u64().unwrap() >= 1
    );
    assert!(report["models"]["path"].as_str().unwrap().ends_with(".cache/huggingface/hub"));
    let (code, text, _) = output(&mut bitnetc(home.path(), &["doctor", "--no-measure"]));
    assert_eq!(code, Some(0));
    for word in ["CPU", "features", "code", "threads", "memory", "models", "plans", "config"] {
        assert!(text.lines().any(|line| line.starts_with(word)), "{word}: {text}");
    }
    // The last line is the verdict, and each finding has its advice.
    assert!(text.lines().last().unwrap().starts_with("verdict"), "{text}");
    let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(lines("finding"), lines("  advice"));

    let verdict = &report["verdict"];
    let bytes = verdict["bytes_per_token"].as_f64().unwrap();
    // Two bits for each of 2.08 billion weights, and a head of 8.5 bits an element.
    let expected = 2_084_044_800.0 / 4.0 + 128_256.0 * 2560.0 * 17.0 / 16.0;
    assert!((bytes / expected - 1.0).abs() < 0.01, "{bytes}, not about {expected}");
    if verdict["ready"] == true {
        let speed = verdict["decode_tokens_per_second"].as_f64().unwrap();
        let by_bandwidth = report["measured"]["read_bytes_per_second"].as_f64().unwrap() / bytes;
        assert!(speed <= by_bandwidth * 1.001, "{verdict}");
        assert!(verdict["limit"] != "bandwidth" || speed >= by_bandwidth * 0.999, "{verdict}");
        assert!(verdict["text"].as_str().unwrap().contains("tokens/s here, bound by"), "{verdict}");
    }
    let (findings, advice) = (report["findings"].as_array().unwrap(), report["advice"].as_array().unwrap());
    assert_eq!(findings.len(), advice.len());
    for (finding, advice) in findings.iter().zip(advice) {
        assert_eq!(finding, &advice["finding"]);
        assert!(advice["advice"].as_str().is_some_and(|text| text.len() > 10), "{advice}");
    }
}

#[test]
fn man_pages_are_written() {
    let home = home();
    let folder = home.path().join("man1");
    let (code, _, stderr) = output(&mut bitnetc(home.path(), &["man", "-o", folder.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{stderr}");
    for name in ["bitnetc.1", "bitnetc-run.1", "bitnetc-models-pull.1"] {
        assert!(std::fs::read_to_string(folder.join(name)).unwrap().contains(".SH OPTIONS"), "{name}");
    }
    let (_, page, _) = output(&mut bitnetc(home.path(), &["man", "batch"]));
    assert!(page.contains("shard"));
    assert_eq!(output(&mut bitnetc(home.path(), &["man", "nonsense"])).0, Some(2));
}

/// The command waits for the check of the plan that it ran from, however short it was.
#[test]
fn flipped_bits_of_a_cached_plan_are_told_by_the_command_that_ran_from_it() {
    let server = Server::new(&[("tiny.gguf", TinyModel::default().to_gguf())]);
    let home = home();
    let run = || {
        let mut command =
            bitnetc(home.path(), &["run", "hf:org/repo", "--ignore-eos", "-n", "1", "-t", "1", "--json"]);
        command.env("HF_ENDPOINT", &server.endpoint);
        command
    };
    let made = json(&mut run());
    let plan = std::path::PathBuf::from(made["model"].as_str().unwrap());
    assert_eq!(json(&mut run())["model"], made["model"]);
    let weight = {
        let opened = Plan::load(&plan, &plan::LoadOptions::default()).unwrap();
        opened.weights().as_ptr().addr() - opened.file().as_ptr().addr() + 70
    };
    let mut bytes = std::fs::read(&plan).unwrap();
    bytes[weight] ^= 0x10;
    // The time of the change is another one, so that the weights are checked again.
    std::fs::write(&plan, &bytes).unwrap();
    let (code, _, stderr) = output(&mut run());
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("do not match their hash") && !plan.exists(), "{stderr}");
    assert_eq!(json(&mut run())["ids"], made["ids"]);
}

#[test]
fn lists_without_entries_are_marked() {
    let home = home();
    let show = |command: &mut Command| {
        let (code, stdout, stderr) = output(command);
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    // The lines after the title of a list, to the next title.
    let section = |text: &str, title: &str| -> Vec<String> {
        let after = text.lines().skip_while(|line| !line.starts_with(title)).skip(1);
        after.take_while(|line| line.starts_with(' ')).map(str::to_owned).collect()
    };
    let none = ["  (none)"];
    let list = show(&mut bitnetc(home.path(), &["models", "list"]));
    assert_eq!(section(&list, "models in "), none, "{list}");
    assert_eq!(section(&list, "plans in "), none, "{list}");
    let config = show(&mut bitnetc(home.path(), &["config"]));
    assert_eq!(section(&config, "settings of the file"), none, "{config}");
    assert_eq!(section(&config, "environment"), none, "{config}");
    // There are always aliases, and what has entries is not marked.
    let folder = home.path().join(".config/bitnetc");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "threads = 2\n").unwrap();
    let config = show(bitnetc(home.path(), &["config"]).env("BITNETC_HEAD", "q8"));
    assert_eq!(section(&config, "settings of the file"), ["  threads = 2"]);
    assert_eq!(section(&config, "environment"), ["  BITNETC_HEAD = q8"]);
    assert!(!section(&config, "aliases").is_empty() && !config.contains(none[0]), "{config}");
}

#[test]
fn memory_has_one_order_in_all_reports() {
    let home = home();
    let plan = home.path().join("model.plan");
    let plan = plan.to_str().unwrap();
    for args in [
        &["compile", "-o", plan][..],
        &["explain"],
        &["run", "-p", "To be", "-n", "2", "-t", "1", "--temp", "0", "--perf"],
    ] {
        let (code, stdout, stderr) = output(&mut bitnetc(home.path(), args));
        assert_eq!(code, Some(0), "{stderr}");
        let all = stdout + &stderr;
        let lines: Vec<&str> = all.lines().filter(|line| line.contains(": weights ")).collect();
        let [line] = lines[..] else { panic!("{args:?}: {all}") };
        let (_, kinds) = line.split_once(": weights ").unwrap();
        let at = [", KV cache ", ", activations ", ", other buffers "].map(|kind| kinds.find(kind));
        assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{args:?}: {line}");
    }
}
