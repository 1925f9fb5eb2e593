//! `bitnetc doctor`: what this machine can do, what bitnetc makes of it, and what stands in the way.
//!
//! Invariant: every finding comes with what to do about it, and the verdict is one line.

use std::path::Path;

use bitnetc::BuildOptions;
use bitnetc::store::{HubCache, HubSettings, PlanCache, missing_for_tls};
use bitnetc_codegen::x64::{self, Level};
use bitnetc_frontend_gguf::synth::preset;
use bitnetc_ir::work::Work;
use bitnetc_ir::{Feature, TargetDesc};
use bitnetc_passes::WeightPacking;
use bitnetc_runtime::cpus::Cpus;
use bitnetc_runtime::memory::{Memory, in_units};
use bitnetc_runtime::roofline::{Roofline, default_buffer_bytes};
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::step::decode_step;
use bitnetc_tools::bench::{LimitKind, Limits};
use clap::Args;
use serde_json::{Value, json};

use super::build::{host, parse_threads, threads};
use super::config::Config;
use super::failure::Failure;
use super::models::variable;
use super::{Outcome, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bitnetc doctor\n  bitnetc doctor --no-measure --json")]
pub(crate) struct DoctorArgs {
    /// Skip measuring the read bandwidth and the int8 peak, which takes a second or two
    #[arg(long)]
    pub(crate) no_measure: bool,
    /// Threads to measure with (default: the cores that this process may use)
    #[arg(short, long, value_name = "N", env = "BITNETC_THREADS", allow_negative_numbers = true, value_parser = parse_threads)]
    pub(crate) threads: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Passes of a measurement.
const PASSES: u32 = 5;

/// The widest code that is generated for a target, for people.
fn code_level(target: &TargetDesc) -> &'static str {
    match Level::of(target).filter(|_| x64::available()) {
        Some(Level::Amx) => "x64: AVX-512 with VNNI, 512-bit vectors, and AMX tiles",
        Some(Level::Avx512Vnni) if target.has(Feature::Avx512vbmi) => {
            "x64: AVX-512 with VNNI and VBMI, 512-bit vectors"
        }
        Some(Level::Avx512Vnni) => "x64: AVX-512 with VNNI, 512-bit vectors",
        Some(Level::Avx512) => "x64: AVX-512, 512-bit vectors",
        Some(Level::AvxVnni) => "x64: AVX2 with VNNI, 256-bit vectors",
        Some(Level::Avx2) => "x64: AVX2, 256-bit vectors",
        None => "cranelift: 128-bit vectors",
    }
}

/// What was measured.
struct Measured {
    threads: u32,
    bandwidth: f64,
    int8: f64,
}

fn measure(target: &TargetDesc, threads: u32) -> Result<Measured, Failure> {
    // As much as is there, if that is less than it should be.
    let mut roofline = Roofline::new(target, default_buffer_bytes()).map_err(bitnetc_tools::Error::from)?;
    let bandwidth = roofline.bandwidth(threads, PASSES).map_err(bitnetc_tools::Error::from)?.median();
    let int8 = roofline.int8_peak(threads, PASSES).map_err(bitnetc_tools::Error::from)?.median();
    Ok(Measured { threads, bandwidth, int8 })
}

/// Processes that were running or waiting for a CPU in the last minute, on average.
fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// A finding if other programs keep the CPUs busy.
fn busy(load: f64, cpus: u32) -> Option<Finding> {
    (load > f64::from(cpus)).then(|| {
        Finding::new(
            format!(
                "a load of {load:.1} on {}: other programs use the CPUs",
                output::count(u64::from(cpus), "CPU")
            ),
            "close them or wait; what is measured here is less than the machine can do",
        )
    })
}

/// Whether the system provides huge pages on request.
fn huge_pages() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let chosen = text.split('[').nth(1)?.split(']').next()?;
    Some(chosen.to_owned())
}

/// A cache's place and size.
struct Place {
    path: String,
    files: usize,
    bytes: u64,
}

fn caches() -> Result<(Place, Place, HubSettings), Failure> {
    let settings = HubSettings::from_env(&variable)?;
    let models = HubCache::new(settings.cache.clone());
    let files = models.list()?;
    let hub = Place {
        path: models.root().display().to_string(),
        files: files.len(),
        bytes: files.iter().map(|f| f.bytes).sum(),
    };
    let plans = PlanCache::from_env(&variable)?;
    let list = plans.list()?;
    let plans = Place {
        path: plans.root().display().to_string(),
        files: list.len(),
        bytes: list.iter().map(|p| p.bytes).sum(),
    };
    Ok((hub, plans, settings))
}

/// Something that costs speed or a feature, or stands in the way.
struct Finding {
    what: String,
    /// What to do about it.
    advice: &'static str,
    /// Whether no model of the reference's class runs before that is done.
    blocks: bool,
}

impl Finding {
    fn new(what: impl Into<String>, advice: &'static str) -> Self {
        Self { what: what.into(), advice, blocks: false }
    }

    fn blocking(self) -> Self {
        Self { blocks: true, ..self }
    }
}

/// The shape that the verdict is about.
const REFERENCE: &str = "2b-4t";

/// What a decode step of the reference needs with this machine's default head and two bits a weight.
fn reference_step(target: &TargetDesc) -> Result<Work, Failure> {
    let preset = preset(REFERENCE)
        .ok_or_else(|| Failure::new(exit::FAILURE, format!("there is no preset {REFERENCE}")))?;
    let weights = Some(WeightPacking::TwoBits);
    let options = BuildOptions { weights, target: Some(target.clone()), ..BuildOptions::default() };
    Ok(decode_step(&preset.shape(), &options)?)
}

/// What is worth knowing. `needed`: bytes of the reference's weights.
fn findings(
    cpus: &Cpus,
    machine: &Machine,
    config: &Result<Config, Failure>,
    free: Option<u64>,
    load: Option<f64>,
    needed: u64,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.is_err() {
        let finding = Finding::new(
            "the configuration file is not valid",
            "run `bitnetc config`, which shows what is wrong and where, and fix the file",
        );
        found.push(finding.blocking());
    }
    // Weights, and room for the KV cache and buffers of a short context.
    let least = needed + needed / 4;
    if let Some(free) = free.filter(|&free| free < least) {
        let finding = Finding::new(
            format!(
                "{} of memory are available: a model of the {REFERENCE} class needs about {}",
                in_units(free),
                in_units(least)
            ),
            "close other programs, raise the memory limit of the container, or use a smaller model",
        );
        found.push(finding.blocking());
    }
    found.extend(load.and_then(|load| busy(load, cpus.at_once())));
    if Build::this().profile != "release" {
        found.push(Finding::new(
            "this is a debug build: compiling models is slow",
            "build with `cargo build --release`, or install a release",
        ));
    }
    if let Some(quota) = cpus.quota.filter(|&quota| quota < cpus.cores) {
        found.push(Finding::new(
            format!("a cgroup quota of {quota} CPUs: of {} cores only {quota} threads are used", cpus.cores),
            "raise the quota (`--cpus` of docker, `cpu.max` of the cgroup) to use the other cores",
        ));
    }
    if cpus.allowed > cpus.cores {
        let (allowed, cores) = (cpus.allowed, cpus.cores);
        found.push(Finding::new(
            format!("{allowed} hardware threads on {cores} cores: one thread per core is used"),
            "nothing: a second thread on a core rarely helps; `-t` sets a different number",
        ));
    }
    if machine.target.starts_with("x86_64") && !machine.target.contains("avx2") {
        found.push(Finding::new(
            "no AVX2: generated code uses 128-bit vectors",
            "in a virtual machine, pass the host's CPU features through; otherwise use a newer CPU",
        ));
    }
    if huge_pages().as_deref() == Some("never") {
        found.push(Finding::new(
            "transparent huge pages are off: reading weights is slower (address translation)",
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ));
    }
    if let Some(feature) = missing_for_tls() {
        found.push(Finding::new(
            format!("https needs a CPU with {feature}: models cannot be fetched here"),
            "fetch the .gguf file on another machine and give its path",
        ));
    }
    found
}

/// Whether models of the reference's class run here, and how fast.
struct Verdict {
    ready: bool,
    text: String,
    /// Upper limit of the reference's decode speed, in tokens per second, and what sets it.
    decode: Option<(f64, &'static str)>,
}

fn verdict(findings: &[Finding], measured: Option<&Measured>, step: &Work) -> Verdict {
    if let Some(finding) = findings.iter().find(|finding| finding.blocks) {
        let text = format!("not ready: {}; {}", finding.what, finding.advice);
        return Verdict { ready: false, text, decode: None };
    }
    let Some(m) = measured else {
        let text = format!(
            "ready; the speed has not been measured: omit --no-measure to estimate the speed of {REFERENCE}"
        );
        return Verdict { ready: true, text, decode: None };
    };
    let (kind, seconds) = Limits { bandwidth: m.bandwidth, int8: m.int8 }.least_time(step);
    let bound = match kind {
        LimitKind::Bandwidth => "memory bandwidth",
        LimitKind::Int8 => "int8 multiply-adds",
    };
    let speed = 1.0 / seconds;
    let digits = if speed < 10.0 { 1 } else { 0 };
    let text = format!(
        "ready: models of the {REFERENCE} class should decode at up to about {speed:.digits$} tokens/s here, bound by {bound} \
         ({} read per token at {:.1} GB/s)",
        in_units(step.bytes()),
        m.bandwidth / 1e9
    );
    Verdict { ready: true, text, decode: Some((speed, kind.name())) }
}

/// Runs the command. `config` is what was read of the configuration, or why it could not be.
pub(crate) fn run(args: &DoctorArgs, config: &Result<Config, Failure>) -> Outcome {
    let target = host()?;
    let machine = Machine::describe(&target);
    let cpus = Cpus::probe();
    let threads = threads(args.threads);
    // Before the measurement, which is a load of its own.
    let load = load_average();
    let measured = if args.no_measure {
        None
    } else {
        Some(progress::working("measuring", args.json, || measure(&target, threads))?)
    };
    let (hub, plans, settings) = caches()?;
    let free = Memory::probe().available;
    let step = reference_step(&target)?;
    let findings = findings(&cpus, &machine, config, free, load, step.weight_bytes);
    let verdict = verdict(&findings, measured.as_ref(), &step);
    if args.json {
        let place =
            |place: &Place| json!({ "path": place.path, "files": place.files, "total_bytes": place.bytes });
        output::print_json(&json!({
            "schema": "bitnetc.doctor/2",
            "version": Build::this().version,
            "profile": Build::this().profile,
            "os": machine.os,
            "cpu": machine.cpu,
            "target": machine.target,
            "code": code_level(&target),
            "cpus": { "allowed": cpus.allowed, "cores": cpus.cores, "quota": cpus.quota, "threads": threads },
            "caches": {
                "l1d_bytes": machine.l1d_bytes,
                "l2_bytes": machine.l2_bytes,
                "last_cache_bytes": machine.last_cache_bytes,
            },
            "memory": { "total_bytes": machine.memory_bytes, "available_bytes": free, "huge_pages": huge_pages() },
            "load_average": load,
            "measured": measured.as_ref().map_or(Value::Null, |m| json!({
                "threads": m.threads,
                "read_bytes_per_second": m.bandwidth,
                "int8_macs_per_second": m.int8,
            })),
            "models": place(&hub),
            "plans": place(&plans),
            "hub": {
                "endpoint": settings.endpoint,
                "token": settings.token.is_some(),
                "offline": settings.offline,
            },
            "config": config.as_ref().ok().and_then(Config::path).map(|path: &Path| path.display().to_string()),
            "findings": findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>(),
            "advice": findings.iter().map(|finding| json!({
                "finding": finding.what,
                "advice": finding.advice,
                "blocks": finding.blocks,
            })).collect::<Vec<_>>(),
            "verdict": {
                "ready": verdict.ready,
                "text": verdict.text,
                "model": REFERENCE,
                "bytes_per_token": step.bytes(),
                "decode_tokens_per_second": verdict.decode.map(|(speed, _)| speed),
                "limit": verdict.decode.map(|(_, limit)| limit),
            },
        }))?;
        return Ok(exit::OK);
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<12} {value}\n");
    let build = Build::this();
    line("bitnetc", format!("{} ({} build), {}", build.version, build.profile, machine.os));
    line("CPU", machine.cpu.clone());
    line("features", machine.target.clone());
    line("code", code_level(&target).to_owned());
    line("threads", format!("{threads}, by {cpus}"));
    line(
        "caches",
        format!(
            "L1d {}, L2 {}, last {}",
            in_units(machine.l1d_bytes),
            in_units(machine.l2_bytes),
            in_units(machine.last_cache_bytes)
        ),
    );
    let free_text = free.map_or(String::new(), |free| format!(", {} available", in_units(free)));
    line("memory", format!("{}{free_text}", in_units(machine.memory_bytes)));
    line("huge pages", huge_pages().unwrap_or_else(|| "unknown".to_owned()));
    if let Some(m) = &measured {
        line(
            "reading",
            format!("{:.1} GB/s with {}", m.bandwidth / 1e9, output::count(u64::from(m.threads), "thread")),
        );
        line("int8", format!("{:.0} billion multiply-adds per second", m.int8 / 1e9));
    }
    for (name, place) in [("models", &hub), ("plans", &plans)] {
        line(
            name,
            format!(
                "{}: {}, {}",
                place.path,
                output::count(place.files as u64, "file"),
                in_units(place.bytes)
            ),
        );
    }
    let token = if settings.token.is_some() { "with a token" } else { "without a token" };
    let offline = if settings.offline { ", offline" } else { "" };
    line("hub", format!("{} {token}{offline}", settings.endpoint));
    let file = config
        .as_ref()
        .ok()
        .and_then(Config::path)
        .map_or("none".to_owned(), |path| path.display().to_string());
    line("config", file);
    if findings.is_empty() {
        line("findings", output::NONE.to_owned());
    }
    for finding in &findings {
        line("finding", finding.what.clone());
        line("  advice", finding.advice.to_owned());
    }
    line("verdict", verdict.text);
    output::print(&text)?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_a_finding() {
        assert!(busy(0.3, 2).is_none() && busy(2.0, 2).is_none());
        let finding = busy(6.77, 2).unwrap();
        assert!(finding.what.starts_with("a load of 6.8 on 2 CPUs") && !finding.blocks, "{}", finding.what);
        assert!(busy(1.5, 1).unwrap().what.contains("on 1 CPU:"));
    }
}
