//! Every stage from the file to a token, each by itself: `cargo bench -p bitnetc-tools --bench stages [-- FILTER]`.
//!
//! Parsing, lowering, each pass, the whole pipeline, code generation of each kernel, packing, loading a plan, a decode
//! step and choosing a token, for models of the shapes in `BITNETC_BENCH_PRESETS` (names of `bitnetc synth`, separated by commas; default:
//! `tiny,700m,2b-4t`, which needs 1.3 GB of temporary space). Random weights are written once, at the start.
//!
//! The first group prints what the stages of a compilation take together, so that "where does the time go" has an answer
//! in one line for each model.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bitnetc::BuildOptions;
use bitnetc::compile::{import, plan_model};
use bitnetc::load::{LoadOptions, load};
use bitnetc_codegen::compile::{compile_kernel, compile_with};
use bitnetc_codegen::{pack, program};
use bitnetc_frontend_gguf::synth::{SyntheticModel, preset};
use bitnetc_frontend_gguf::{Gguf, GgufWeights, Model};
use bitnetc_ir::weights::packed_bytes;
use bitnetc_ir::{Module, ParamId};
use bitnetc_passes::{PassContext, Pipeline, VerifyEach};
use bitnetc_runtime::map::{MapMode, Mapping};
use bitnetc_runtime::sampling::{Sampler, SamplingParams};
use bitnetc_runtime::session::{Session, SessionOptions};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn context(options: &BuildOptions) -> PassContext {
    PassContext {
        verify_each: VerifyEach::Off,
        ..options.pass_context().expect("a machine to generate code for")
    }
}

fn passes(group: &mut Group<'_>, imported: &Module, options: &BuildOptions) -> Module {
    let context = context(options);
    let run = |pipeline: &Pipeline, module: Module| {
        bitnetc_passes::run(pipeline, module, &context).expect("the default pipeline works").0
    };
    let mut module = imported.clone();
    for pass in Pipeline::default().passes() {
        let only = Pipeline::new(vec![pass.clone()]);
        group.bench_function(format!("pass/{}", pass.name()), |b| {
            b.iter_batched(|| module.clone(), |module| run(&only, module), BatchSize::LargeInput);
        });
        module = run(&only, module);
    }
    let all = Pipeline::default();
    group.bench_function("pipeline", |b| {
        b.iter_batched(|| imported.clone(), |module| run(&all, module), BatchSize::LargeInput);
    });
    run(&all, imported.clone())
}

fn codegen(group: &mut Group<'_>, planned: &Module, options: &BuildOptions) {
    let target = options.target().expect("a machine to generate code for");
    group.bench_function("steps", |b| {
        b.iter(|| program::lower(black_box(planned)).expect("a planned module"))
    });
    let programs = program::lower(planned).expect("a planned module");
    for spec in programs.kernels.values() {
        group.bench_function(format!("codegen/{}", spec.name()), |b| {
            b.iter(|| compile_kernel(spec, &target, options.codegen).expect("a kernel"));
        });
    }
    group.bench_function("codegen", |b| {
        b.iter(|| compile_with(planned, &target, options.codegen).expect("kernels"));
    });
}

/// The largest weight of each way to pack.
fn packing(group: &mut Group<'_>, planned: &Module, model: &Model<'_>) {
    let source = GgufWeights::new(model);
    let programs = program::lower(planned).expect("a planned module");
    let mut largest: Vec<(String, ParamId, u64)> = Vec::new();
    for &param in programs.weights.values() {
        let ty = &planned.params()[param].ty;
        let (name, size) =
            (format!("{}@{}", ty.dtype.name(), ty.layout.name()), packed_bytes(ty).map_or(0, |(b, s)| b + s));
        match largest.iter_mut().find(|(known, ..)| *known == name) {
            Some(known) if known.2 >= size => {}
            Some(known) => *known = (name, param, size),
            None => largest.push((name, param, size)),
        }
    }
    for (name, param, size) in largest {
        group.throughput(Throughput::Bytes(size));
        group.bench_function(format!("pack/{name}"), |b| {
            b.iter(|| pack::pack_param(planned, param, &source).expect("weights of the file"));
        });
    }
}

fn running(group: &mut Group<'_>, plan: &Path) {
    let options = LoadOptions {
        build: BuildOptions { threads: Some(1), ..BuildOptions::default() },
        ..LoadOptions::default()
    };
    group.bench_function("load", |b| b.iter(|| load(Some(plan), &options).expect("a plan")));
    let loaded = load(Some(plan), &options).expect("a plan");
    let session = SessionOptions { context: 256, threads: 1 };
    let mut session = Session::new(loaded.model.clone(), session).expect("a session");
    group.throughput(Throughput::Bytes(loaded.model.bytes_per_token()));
    group.bench_function("decode", |b| {
        b.iter(|| {
            session.truncate(16);
            session.feed(&[1]).map(|logits| logits[0]).expect("a step")
        });
    });
    session.truncate(16);
    let logits = session.feed(&[1]).map(<[f32]>::to_vec).expect("a step");
    group.throughput(Throughput::Elements(logits.len() as u64));
    // A bias, even of nothing, asks for a list of all tokens.
    let biased = SamplingParams { logit_bias: vec![(0, 0.0)].into(), ..SamplingParams::default() };
    for (name, params) in
        [("chain", SamplingParams::default()), ("greedy", SamplingParams::greedy()), ("biased", biased)]
    {
        let mut sampler = Sampler::new(params).expect("valid settings");
        group.bench_function(format!("sample/{name}"), |b| {
            b.iter(|| sampler.sample(black_box(&logits)).expect("a token"));
        });
    }
}

/// The stages of a compilation, once, in one line.
fn in_one_line(name: &str, bytes: &[u8], options: &BuildOptions) {
    let target = options.target().expect("a machine to generate code for");
    let mut line = format!("{name}:");
    let mut timed =
        |what: &str, time: Duration| line += &format!(" {what} {:.1} ms,", time.as_secs_f64() * 1e3);
    let clock = Instant::now();
    let model = Model::open(bytes).expect("a model");
    timed("parse", clock.elapsed());
    let clock = Instant::now();
    model.check_weights().expect("weights");
    timed("check weights", clock.elapsed());
    let clock = Instant::now();
    let module = import(&model, options).expect("a model");
    timed("lower", clock.elapsed());
    let clock = Instant::now();
    let (planned, _) =
        bitnetc_passes::run(&Pipeline::default(), module, &context(options)).expect("the default pipeline");
    timed("passes", clock.elapsed());
    let clock = Instant::now();
    let compiled = compile_with(&planned, &target, options.codegen).expect("kernels");
    timed(&format!("code of {} kernels", compiled.kernels.len()), clock.elapsed());
    println!("{}", line.trim_end_matches(','));
}

fn stages(criterion: &mut Criterion, name: &str, folder: &Path) {
    let shape = preset(name).unwrap_or_else(|| panic!("no preset {name}")).shape();
    let path = folder.join("model.gguf");
    let model = SyntheticModel::new(shape, 1).expect("a preset");
    bitnetc_tools::synth::write_synthetic(&path, &model, |_| true).expect("space for the model");
    let file = Mapping::open(&path, MapMode::Mapped).expect("the file");
    let bytes: &[u8] = file.as_slice();
    let options = BuildOptions::default();
    in_one_line(name, bytes, &options);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.bench_function("parse", |b| b.iter(|| Gguf::parse(black_box(bytes)).expect("a file")));
    group.bench_function("open", |b| b.iter(|| Model::open(black_box(bytes)).expect("a model")));
    let model = Model::open(bytes).expect("a model");
    group.bench_function("lower", |b| b.iter(|| import(&model, &options).expect("a model")));
    let imported = import(&model, &options).expect("a model");
    let planned = passes(&mut group, &imported, &options);
    codegen(&mut group, &planned, &options);
    packing(&mut group, &planned, &model);
    let plan = folder.join("model.plan");
    let made = plan_model(&path, &model, &options).expect("a model");
    made.write(&plan, |_| true).expect("space for the plan");
    running(&mut group, &plan);
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    // `cargo test --benches` only asks whether it runs.
    let default = if std::env::args().any(|a| a == "--test") { "tiny" } else { "tiny,700m,2b-4t" };
    let presets = std::env::var("BITNETC_BENCH_PRESETS").unwrap_or_else(|_| default.to_owned());
    for name in presets.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        stages(&mut criterion, name, folder.path());
    }
    criterion.final_summary();
}
