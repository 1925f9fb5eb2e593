//! `bitnetc ir run`: one call of a function, on inputs and weights from files or made from a seed.

mod inputs;

use std::path::PathBuf;

use bitnetc::load::Source;
use bitnetc_frontend_gguf::GgufWeights;
use bitnetc_ir::interp::{CacheData, Tensor};
use bitnetc_ir::sample::SampleWeights;
use bitnetc_ir::{Func, Module, WeightSource};
use bitnetc_runtime::map::MapMode;
use bitnetc_tools::run_ir::{Engine, Machine, run as run_function};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Outcome, read_module};
use crate::exit;
use crate::failure::Failure;
use crate::{build, models, output};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineArg {
    /// The IR interpreter: slow, and the definition of every op
    Interp,
    /// Compiled kernels
    Jit,
}

impl From<EngineArg> for Engine {
    fn from(arg: EngineArg) -> Self {
        match arg {
            EngineArg::Interp => Engine::Interpreter,
            EngineArg::Jit => Engine::Jit,
        }
    }
}

impl EngineArg {
    fn name(self) -> &'static str {
        match self {
            EngineArg::Interp => "interp",
            EngineArg::Jit => "jit",
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "An input is NAME=VALUE with a number, a JSON list, @FILE.npy, @FILE.json or seed:N as the value. Numbers for a quantised\nvalue are quantised as its op does it; {\"codes\": […], \"a\": […]} (q8b: \"scales\") gives it as it is. Inputs that are not\ngiven, and weights without --model, are made from --seed.\n\nExit code: 0, 3 where the module takes more than a call may (2.1 GB of values, 1,048,576 positions), or 4 where\n--compare finds a difference.\n\nExamples:\n  bitnetc ir run layer.bir\n  bitnetc ir run layer.bir --inputs v0=@x.npy --inputs pos=17 --engine jit\n  bitnetc ir run model.bir --entry decode --inputs tok=[5] --model model.gguf --compare interp,jit --json"
)]
pub(crate) struct RunIrArgs {
    /// A .bir file (`-`: standard input)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The function (default: the first of the file)
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// An input: NAME=NUMBER, NAME=[…], NAME=@FILE.npy, NAME=@FILE.json or NAME=seed:N (may be given more than once)
    #[arg(long, value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Tokens of the call, if no input determines them (default: 1)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    tokens: Option<u32>,
    /// Positions in the caches (default: enough for the call)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    capacity: Option<u32>,
    /// Seed for generating inputs and weights that are not given
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    seed: u64,
    /// Take the weights from this .gguf model (for a planned module, from its plan)
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// The engine to compute with
    #[arg(long, value_name = "ENGINE", default_value = "interp", conflicts_with = "compare")]
    engine: EngineArg,
    /// Run with each of these and compare the results bit by bit
    #[arg(long, value_name = "ENGINES", value_delimiter = ',', num_args = 1..)]
    compare: Vec<EngineArg>,
    /// Threads of compiled code
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Use only these CPU features: `native`, or a list such as `avx2` or `avx512vnni` (`-` before one takes it
    /// away: `native,-onestream`)
    #[arg(long, value_name = "LIST", default_value = "native", env = "BITNETC_CPU_FEATURES")]
    cpu_features: String,
    /// Elements of each result to print
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8)]
    show: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &RunIrArgs) -> Outcome {
    let module = read_module(&args.file)?;
    let func = entry(args, &module)?;
    let inputs = inputs::inputs(args, &module, func)?;
    let machine = Machine { target: build::target("native", &args.cpu_features)?, threads: args.threads };
    let engines = if args.compare.is_empty() { vec![args.engine] } else { args.compare.clone() };
    let run = |source: &dyn WeightSource| -> Result<Vec<Vec<Tensor>>, bitnetc_tools::Error> {
        let all = engines.iter().map(|&engine| {
            run_function(&module, func.name(), source, inputs.clone(), engine.into(), &machine)
        });
        all.collect()
    };
    let results = match &args.model {
        None => run(&SampleWeights::new(&module, args.seed))?,
        Some(model) => with_weights(model, &run)?,
    };
    let differences = differences(&engines, &results);
    match args.json {
        true => output::print_json(&json!({
            "schema": "bitnetc.ir-run/1",
            "entry": func.name(),
            "engines": engines.iter().map(|e| e.name()).collect::<Vec<_>>(),
            "results": results[0].iter().zip(func.outputs()).map(|(tensor, &value)| {
                json!({
                    "type": func.ty(value).to_string(),
                    "shape": shape(tensor),
                    "values": values(tensor, args.show),
                    "hash": hash(tensor),
                })
            }).collect::<Vec<_>>(),
            "differences": differences,
        }))?,
        false => {
            let mut text = String::new();
            for (i, (tensor, &value)) in results[0].iter().zip(func.outputs()).enumerate() {
                let some: Vec<String> = values(tensor, args.show).iter().map(Value::to_string).collect();
                text += &format!(
                    "result {i}: {} {:?} #{}\n  {}\n",
                    func.ty(value),
                    shape(tensor),
                    hash(tensor),
                    some.join(" ")
                );
            }
            if engines.len() > 1 {
                let names: Vec<&str> = engines.iter().map(|e| e.name()).collect();
                text += &match differences.is_empty() {
                    true => format!("{}: the same bits\n", names.join(", ")),
                    false => differences.join("\n") + "\n",
                };
            }
            output::print(&text)?;
        }
    }
    Ok(if differences.is_empty() { exit::OK } else { exit::VERIFY })
}

fn entry<'m>(args: &RunIrArgs, module: &'m Module) -> Result<&'m Func, Failure> {
    let names: Vec<String> = module.funcs().values().map(|f| format!("@{}", f.name())).collect();
    let found = match &args.entry {
        Some(name) => module.func_named(name).map(|id| &module.funcs()[id]),
        None => module.funcs().values().next(),
    };
    found.ok_or_else(|| {
        let asked = args.entry.as_deref().unwrap_or_default();
        Failure::new(exit::USAGE, format!("no function @{asked}: the module has {}", names.join(", ")))
    })
}

/// Gives `run` the weights of a model.
fn with_weights<T>(
    model: &std::path::Path,
    run: &dyn Fn(&dyn WeightSource) -> Result<T, bitnetc_tools::Error>,
) -> Result<T, Failure> {
    let path = models::resolve(Some(model), false)?;
    let source = Source::open(path.as_deref(), MapMode::Mapped)?;
    match &source {
        Source::Gguf { .. } => {
            let model = source.gguf_model()?;
            Ok(run(&GgufWeights::new(&model))?)
        }
        Source::Plan { .. } => {
            let loaded = bitnetc::load::load_source(source, &bitnetc::load::LoadOptions::default())?;
            Ok(run(&loaded)?)
        }
    }
}

/// Where results of the engines differ from those of the first.
fn differences(engines: &[EngineArg], results: &[Vec<Tensor>]) -> Vec<String> {
    let mut found = Vec::new();
    for (engine, outputs) in engines.iter().zip(results).skip(1) {
        for (i, (first, other)) in results[0].iter().zip(outputs).enumerate() {
            if let Some(difference) = first.first_difference(other) {
                found.push(format!(
                    "result {i}: {} and {} differ: {difference}",
                    engines[0].name(),
                    engine.name()
                ));
            }
        }
    }
    found
}

/// Sizes, the slowest first.
fn shape(tensor: &Tensor) -> Vec<usize> {
    match tensor {
        Tensor::F32 { rows, width, .. }
        | Tensor::Q8 { rows, width, .. }
        | Tensor::Q8b { rows, width, .. }
        | Tensor::I32 { rows, width, .. } => vec![*rows, *width],
        Tensor::Tokens(ids) => vec![ids.len()],
        Tensor::Position(_) => Vec::new(),
        Tensor::Cache(cache) => {
            vec![cache.dims.kv_heads as usize, cache.capacity as usize, cache.dims.head_dim as usize]
        }
        Tensor::State(state) => {
            [state.dims.heads, state.dims.rows, state.dims.cols].map(|n| n as usize).into()
        }
    }
}

/// The first elements: of quantised rows the codes.
fn values(tensor: &Tensor, count: usize) -> Vec<Value> {
    // JSON has no infinities and NaN: they are text.
    let float = |x: f32| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    match tensor {
        Tensor::F32 { data, .. } => data.iter().take(count).map(|&x| float(x)).collect(),
        Tensor::Q8 { codes, .. } | Tensor::Q8b { codes, .. } => {
            codes.iter().take(count).map(|&c| json!(c)).collect()
        }
        Tensor::I32 { data, .. } => data.iter().take(count).map(|&n| json!(n)).collect(),
        Tensor::Tokens(ids) => ids.iter().take(count).map(|&n| json!(n)).collect(),
        Tensor::Position(p) => vec![json!(p)],
        Tensor::Cache(cache) => match &cache.data {
            CacheData::F16(bits) => {
                bits.iter().take(count).map(|&b| float(bitnetc_ir::interp::scalar::f16_value(b))).collect()
            }
            CacheData::F32(data) => data.iter().take(count).map(|&x| float(x)).collect(),
        },
        Tensor::State(state) => state.data.iter().take(count).map(|&x| float(x)).collect(),
    }
}

/// First 128 bits of the BLAKE3 hash of the elements, little endian.
fn hash(tensor: &Tensor) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(bytes);
    };
    match tensor {
        Tensor::F32 { data, .. } => data.iter().for_each(|x| add(&x.to_le_bytes())),
        Tensor::Q8 { codes, a: factors, .. } | Tensor::Q8b { codes, scales: factors, .. } => {
            factors.iter().for_each(|x| add(&x.to_le_bytes()));
            codes.iter().for_each(|c| add(&c.to_le_bytes()));
        }
        Tensor::I32 { data, .. } => data.iter().for_each(|n| add(&n.to_le_bytes())),
        Tensor::Tokens(ids) => ids.iter().for_each(|n| add(&n.to_le_bytes())),
        Tensor::Position(p) => add(&p.to_le_bytes()),
        Tensor::Cache(cache) => match &cache.data {
            CacheData::F16(bits) => bits.iter().for_each(|b| add(&b.to_le_bytes())),
            CacheData::F32(data) => data.iter().for_each(|x| add(&x.to_le_bytes())),
        },
        Tensor::State(state) => state.data.iter().for_each(|x| add(&x.to_le_bytes())),
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
