//! The arguments of every command. Names, short forms and defaults are llama.cpp's where it has the option.

use std::path::PathBuf;

use bitnetc::BuildOptions;
use bitnetc::load::LoadOptions;
use bitnetc_frontend_gguf::{Activation, ActivationFormat, I2sLayout, ModelOptions, TensorType};
use bitnetc_passes::{HeadFormat, PassId};
use bitnetc_runtime::map::MapMode;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::build::{
    BuildArgs, CodegenArg, KvType, LoweringArgs, SelectorArgs, Weights, activations_parser, head_parser,
    parse_threads, pass_parser, target_parser,
};
use super::chat::ChatArgs;
use super::failure::Failure;
use super::generate::GenerateArgs;
use super::model_arg::ModelArg;
use super::models::{ListArgs, PullArgs, RmArgs};
use super::tokenize::{DetokenizeArgs, TokenizeArgs};

/// A compiler for ternary (BitNet b1.58) language models on CPUs.
#[derive(Debug, Parser)]
#[command(
    name = "bitnetc",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true,
    after_help = "Examples:\n  bitnetc run                                   the built-in model\n  bitnetc compile model.gguf -o model.plan      compile once\n  bitnetc run model.plan \"ROMEO:\" -n 64          run the plan\n  bitnetc chat hf:org/repo                      fetch a model and talk to it"
)]
pub(crate) struct Cli {
    /// Print only errors on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate text
    Run(Box<RunArgs>),
    /// Talk to a model
    Chat(ChatArgs),
    /// Convert text to token ids
    Tokenize(TokenizeArgs),
    /// Convert token ids to text
    Detokenize(DetokenizeArgs),
    /// Answer a file of prompts or requests, several at a time
    Batch(super::batch::BatchArgs),
    /// Serve models over HTTP: the APIs of OpenAI, Anthropic, llama.cpp and ollama, and a chat page
    #[cfg(feature = "serve")]
    Serve(Box<super::serve::ServeArgs>),
    /// Ask a server whether it is up
    Health(super::health::HealthArgs),
    /// Compile a GGUF model to a plan file
    Compile(CompileArgs),
    /// Convert a Hugging Face checkpoint to GGUF
    Import(super::import::ImportArgs),
    /// Show the contents of a GGUF model or a plan
    #[command(visible_alias = "show")]
    Inspect(InspectArgs),
    /// Explain a compiled model op by op: bytes, time, memory, schedule, kernels, passes
    Explain(super::explain::ExplainArgs),
    /// Dump, check, transform, compare and run the IR
    Ir(super::ir::IrArgs),
    /// Write the logits after every token as .npy
    Logits(LogitsArgs),
    /// Compute the perplexity of a text
    Perplexity(PerplexityArgs),
    /// Measure speed, absolute and as a share of the machine's limits
    Bench(Box<BenchArgs>),
    /// Compare every kernel of a model with the interpreter, bit by bit
    Verify(super::verify::VerifyArgs),
    /// Write a model with random weights
    Synth(SynthArgs),
    /// Fetch a model from the Hugging Face Hub (as `models pull`)
    Pull(PullArgs),
    /// List the cached models and plans, and the aliases (as `models list`)
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove a model, or compiled plans, from the caches (as `models rm`)
    Rm(RmArgs),
    /// Fetch, list and remove models of the Hugging Face Hub
    Models(super::models::ModelsArgs),
    /// Check this machine: CPU, memory, speed, and what slows it down
    Doctor(super::doctor::DoctorArgs),
    /// Show the configuration
    Config(super::config::ConfigArgs),
    /// Print the version
    Version(super::shell::VersionArgs),
    /// Print shell completions
    Completions(super::shell::CompletionsArgs),
    /// Print or write man pages
    Man(super::shell::ManArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineKind {
    /// Compiled kernels
    Jit,
    /// The IR interpreter: slow, and the definition of every op
    Interpreter,
}

/// Properties that a GGUF file does not state; ignored for a plan.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ModelArgs {
    /// Byte layout of I2_S tensors (default: x86-128, used by all published files)
    #[arg(long, value_name = "LAYOUT")]
    pub(crate) i2s_layout: Option<I2sLayoutArg>,
    /// Override the activation of the feed-forward gate
    #[arg(long, value_name = "NAME")]
    pub(crate) hidden_activation: Option<ActivationArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum I2sLayoutArg {
    /// Blocks of 128: x86 builds, converters, ARM builds before November 2025
    #[value(name = "x86-128")]
    X86,
    /// Blocks of 64: ARM builds since November 2025
    #[value(name = "arm-64")]
    Arm,
    /// Four rows per byte: x86 builds since November 2025 without ACT_PARALLEL
    #[value(name = "rows-1x4")]
    Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationArg {
    /// max(x, 0)²
    Relu2,
    /// x · sigmoid(x)
    Silu,
}

impl ModelArgs {
    /// As the front-end takes them.
    pub(crate) fn model_options(&self) -> ModelOptions {
        ModelOptions {
            i2s_layout: match self.i2s_layout {
                None | Some(I2sLayoutArg::X86) => I2sLayout::Blocks128,
                Some(I2sLayoutArg::Arm) => I2sLayout::Blocks64,
                Some(I2sLayoutArg::Rows) => I2sLayout::Rows4,
            },
            activation: self.hidden_activation.map(|activation| match activation {
                ActivationArg::Relu2 => Activation::Relu2,
                ActivationArg::Silu => Activation::Silu,
            }),
        }
    }
}

/// Options of every command that runs a model.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    #[command(flatten)]
    pub(crate) selector: SelectorArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
    /// First check the hash of a plan's weights (reads all of them)
    #[arg(long)]
    pub(crate) verify: bool,
}

impl EngineArgs {
    /// The library's options for these arguments.
    pub(crate) fn load_options(&self) -> Result<LoadOptions, Failure> {
        Ok(LoadOptions {
            build: BuildOptions { codegen: self.selector.codegen.into(), ..self.build.options("native")? },
            map_mode: self.memory.map_mode(),
            model: self.options.model_options(),
            verify: self.verify,
        })
    }
}

/// How files are loaded into memory.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Map files into memory (default): starts immediately and shares pages with other processes
    #[arg(long, overrides_with = "no_mmap")]
    pub(crate) mmap: bool,
    /// Copy files into private memory, on huge pages if the system has them
    #[arg(long, overrides_with = "mmap")]
    pub(crate) no_mmap: bool,
}

impl MemoryArgs {
    /// The last of the two options counts.
    pub(crate) fn map_mode(self) -> MapMode {
        if self.no_mmap && !self.mmap { MapMode::Copied } else { MapMode::Mapped }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without a prompt, a model with a chat template opens a chat on a terminal; elsewhere the prompt is read from standard input.\n\nExamples:\n  bitnetc run\n  bitnetc run model.plan \"ROMEO:\" -n 64 --temp 0\n  bitnetc run model.gguf -f prompt.txt --perf\n  bitnetc run model.gguf < prompt.txt\n  bitnetc run model.gguf --chat -p \"Name a colour as JSON\" -j '{\"type\":\"string\"}'"
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The prompt, used unchanged
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    pub(crate) words: Vec<String>,
    /// The text to continue (default: standard input if it is not a terminal, otherwise only the
    /// model's begin-of-text token)
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file (`-`: standard input)
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// Send the prompt as one message in the model's chat template (implied by the template options)
    #[arg(long)]
    pub(crate) chat: bool,
    /// Always open a chat, as `bitnetc chat` does
    #[arg(long, overrides_with = "no_conversation", conflicts_with_all = ["logprobs", "profile", "chat"])]
    pub(crate) conversation: bool,
    /// Never open a chat
    #[arg(long, overrides_with = "conversation")]
    pub(crate) no_conversation: bool,
    /// Report the log-probability of every token and of the N most likely ones (with --json)
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "json", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub(crate) logprobs: Option<u16>,
    /// Do not print the prompt before the generated text
    #[arg(long)]
    pub(crate) no_display_prompt: bool,
    /// Write a trace of every op and thread, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc compile model.gguf -o model.plan\n  bitnetc compile model.gguf --emit asm --target x86-64-v3\n  bitnetc compile model.gguf --emit all --emit-dir out\n  bitnetc compile model.gguf -o model.plan --time-passes --pass-stats"
)]
pub(crate) struct CompileArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The plan to write (default: the model's name with .plan)
    #[arg(short, long, value_name = "PLAN")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lowering: LoweringArgs,
    #[command(flatten)]
    pub(crate) selector: SelectorArgs,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// Compile for another machine: native, x86-64, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64, optionally with +FEATURES
    #[arg(long, value_name = "TARGET", default_value = "native", hide_possible_values = true, value_parser = target_parser())]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) emit: super::emit::EmitArgs,
    #[command(flatten)]
    pub(crate) observe: super::observe::ObserveArgs,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// List every tensor or weight
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Check everything, including every weight; exit code 3 if the file would be refused
    #[arg(long)]
    pub(crate) verify: bool,
    /// Hash, signs and magnitudes of every tensor of a .gguf
    #[arg(long)]
    pub(crate) stats: bool,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum StageArg {
    /// As imported by the front-end
    Imported,
    /// After the fusions
    Fused,
    /// With layouts chosen
    LaidOut,
    /// With the memory plan and the schedule
    Planned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EntryArg {
    /// One token
    Decode,
    /// A chunk of tokens
    Prefill,
    /// Logits from the residual stream
    Head,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bitnetc ir dump model.gguf --stage fused --entry decode --layer 0")]
pub(crate) struct IrDumpArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The stage to print (a plan is always `planned`)
    #[arg(long, value_name = "STAGE", default_value = "planned")]
    pub(crate) stage: StageArg,
    /// Print only this entry point
    #[arg(long, value_name = "ENTRY")]
    pub(crate) entry: Option<EntryArg>,
    /// Only this layer of the entry point (default entry: decode)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) layer: Option<u32>,
    /// Compile for another machine: native, x86-64, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64, optionally with +FEATURES
    #[arg(long, value_name = "TARGET", default_value = "native", hide_possible_values = true, value_parser = target_parser())]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) lowering: LoweringArgs,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
}

#[derive(Debug, Args)]
pub(crate) struct IrCheckArgs {
    /// A .bir file (`-`: standard input)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print one JSON object instead of the module
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bitnetc logits model.gguf --tokens 1,2,3 -o out.npy")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Token ids, used unchanged
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "text")]
    pub(crate) tokens: Vec<u32>,
    /// Text; the begin-of-text token is added if the model uses one
    #[arg(
        short = 'p',
        long = "prompt",
        visible_alias = "text",
        value_name = "TEXT",
        conflicts_with = "tokens",
        allow_hyphen_values = true
    )]
    pub(crate) text: Option<String>,
    /// The .npy to write: f32 [tokens, vocabulary] (`-`: standard output)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The engine to compute with
    #[arg(long = "engine", value_name = "ENGINE", default_value = "jit")]
    pub(crate) engine_kind: EngineKind,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Print the shape, the ids and the most likely next tokens as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bitnetc perplexity model.plan -f text.txt -c 512")]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// A text file, tokenised as a whole; the begin-of-text token is added if the model uses one (`-`: standard input)
    #[arg(short, long, value_name = "FILE", required_unless_present = "ids")]
    pub(crate) file: Option<PathBuf>,
    /// A JSON array of token ids, used unchanged (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) ids: Option<PathBuf>,
    /// Tokens per window (0: the model's own context, limited to 2.1 GB of KV cache)
    #[arg(
        short,
        long = "ctx-size",
        visible_alias = "ctx",
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub(crate) ctx: u32,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = super::synth::help())]
pub(crate) struct SynthArgs {
    /// The shape (see below)
    #[arg(long, value_name = "NAME", hide_possible_values = true, value_parser = super::synth::preset_parser())]
    pub(crate) preset: &'static bitnetc_frontend_gguf::synth::Preset,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Seed of weights and vocabulary: equal seeds give equal files
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Vocabulary size: `full` (the preset's), `small` (at most 4096) or a number
    #[arg(long, value_name = "SIZE", default_value = "full", value_parser = super::synth::parse_vocabulary)]
    pub(crate) vocab: super::synth::VocabularyArg,
    /// Layers instead of the preset's
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) layers: Option<u32>,
    /// Storage of the ternary matrices: i2_s, ptq1_0 or pq2_0 (default: the preset's)
    #[arg(long = "type", value_name = "TYPE", hide_possible_values = true, value_parser = super::synth::type_parser())]
    pub(crate) linear: Option<TensorType>,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A table with aligned columns
    Table,
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// One JSON object at the end
    Json,
    /// One JSON object per test, one per line
    Jsonl,
    /// A page for a browser: roofline, speed over depth, threads and batch size, percentiles
    Html,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Options that take lists (comma-separated or repeated) are combined: every combination is measured.\n\nExamples:\n  bitnetc bench model.plan\n  bitnetc bench --preset 2b-4t -p 128,512 -n 128 -d 0,2048 -t 1,2 --json\n  bitnetc bench model.plan -d 0,512,2048 -t 1,2 -o html > bench.html\n  bitnetc bench model.plan --json > before.json          and after a change:\n  bitnetc bench model.plan --compare before.json -o html > bench.html"
)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Measure a model with random weights of this shape instead (see `bitnetc synth --help`)
    #[arg(long, value_name = "NAME", conflicts_with = "MODEL", hide_possible_values = true, value_parser = super::synth::preset_parser())]
    pub(crate) preset: Option<&'static bitnetc_frontend_gguf::synth::Preset>,
    /// Tokens of the vocabulary of the preset: `full`, `small` or a number
    #[arg(long, value_name = "SIZE", default_value = "full", requires = "preset", value_parser = super::synth::parse_vocabulary)]
    pub(crate) vocab: super::synth::VocabularyArg,
    /// Layers instead of the preset's
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "preset", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) layers: Option<u32>,
    /// Tokens of a prompt, fed at once (0: none)
    #[arg(short = 'p', long = "n-prompt", value_name = "N", allow_negative_numbers = true, value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) prompt: Vec<u32>,
    /// Tokens to generate, one at a time (0: none)
    #[arg(short = 'n', long = "n-gen", value_name = "N", allow_negative_numbers = true, value_delimiter = ',', default_value = "128", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) generate: Vec<u32>,
    /// A prompt followed by generation, as 512,128 (may be repeated)
    #[arg(long = "pg", value_name = "P,N", value_parser = super::bench::parse_pair)]
    pub(crate) pairs: Vec<(u32, u32)>,
    /// Sequences that are fed together, each with a prompt and a generation of its own
    #[arg(long, alias = "np", value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) parallel: Vec<u32>,
    /// Compute the prompt once and copy it to the other sequences
    #[arg(long, alias = "pps")]
    pub(crate) prompt_shared: bool,
    /// Tokens in the context before a test starts
    #[arg(short = 'd', long = "n-depth", value_name = "N", allow_negative_numbers = true, value_delimiter = ',', default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub(crate) depth: Vec<u32>,
    /// Threads (default: the cores that this process may use)
    #[arg(short, long, value_name = "N", value_delimiter = ',', env = "BITNETC_THREADS", allow_negative_numbers = true, value_parser = parse_threads)]
    pub(crate) threads: Vec<u32>,
    /// Samples of each test
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Output format (default: `table` on a terminal, `md` otherwise)
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<ReportFormat>,
    /// Print one JSON object: the same as `-o json`
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Compare with an earlier report of `bitnetc bench --json`; exit code 5 if a test became slower
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
    /// The smallest change that `--compare` reports, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0, requires = "compare", value_parser = super::bench::parse_percent)]
    pub(crate) threshold: f64,
    /// Skip the untimed warm-up run of each test
    #[arg(long)]
    pub(crate) no_warmup: bool,
    /// Also show the time by op and barrier: each test runs once more with every step timed (not in CSV)
    #[arg(long)]
    pub(crate) profile: bool,
    /// Also measure compiling, loading to the first token, and peak memory
    #[arg(long)]
    pub(crate) startup: bool,
    /// Buffer size for measuring the read bandwidth (default: 4 times the last-level cache, at least 1024)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) limits_buffer: Option<u64>,
    /// Element types of the KV cache (default: the plan's; f16 for a .gguf)
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub(crate) kv_type: Vec<KvType>,
    /// Language-model heads, as for `run` (default: the plan's; q8 for a .gguf)
    #[arg(long, value_name = "HEAD", value_delimiter = ',', hide_possible_values = true, value_parser = head_parser())]
    pub(crate) head: Vec<HeadFormat>,
    /// The activations of ternary products, as for `run` (default: the plan's; for a .gguf those of its architecture)
    #[arg(long, value_name = "FORMAT", hide_possible_values = true, value_parser = activations_parser())]
    pub(crate) activations: Option<ActivationFormat>,
    /// Packings of the ternary weights (default: the plan's; auto for a .gguf)
    #[arg(long, value_name = "PACKING", value_delimiter = ',')]
    pub(crate) weights: Vec<Weights>,
    /// Maximum number of tokens per prefill step; not for a plan, which has its own
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch_size: Vec<u32>,
    /// Disable a pass (may be repeated); not for a plan
    #[arg(long, value_name = "PASS", hide_possible_values = true, value_parser = pass_parser())]
    pub(crate) disable_pass: Vec<PassId>,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) options: ModelArgs,
    /// What generates machine code
    #[arg(
        long,
        value_name = "SELECTOR",
        value_delimiter = ',',
        default_value = "auto",
        env = "BITNETC_CODEGEN"
    )]
    pub(crate) codegen: Vec<CodegenArg>,
    /// Use only these CPU features: `native`, or a list such as `avx2` or `avx512vnni` (each includes the features it implies; a leading `-`
    /// removes one: `native,-onestream`)
    #[arg(long, value_name = "LIST", default_value = "native", env = "BITNETC_CPU_FEATURES")]
    pub(crate) cpu_features: String,
}

/// Benchmarks of parts.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure every distinct kernel of the model, compared with the machine's bandwidth and peak
    Kernels(super::bench_kernels::BenchKernelsArgs),
    /// Measure the effect of each pass by disabling the optional passes in turn
    Passes(super::bench_passes::BenchPassesArgs),
    /// Measure a server under load: times to the first token, gaps between tokens, throughput, refusals
    Serve(super::bench_serve::BenchServeArgs),
    /// Measure compiling, the time to the first token, and peak memory
    Startup(StartupArgs),
}

/// What a startup is measured with.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc bench startup model.gguf\n  bitnetc bench startup model.plan --json"
)]
pub(crate) struct StartupArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Loads of the plan
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Maximum number of tokens per prefill step; not for a plan, which has its own
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch_size: Option<u32>,
    /// Disable a pass (may be repeated); not for a plan
    #[arg(long, value_name = "PASS", hide_possible_values = true, value_parser = pass_parser())]
    pub(crate) disable_pass: Vec<PassId>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_options_of_a_command_share_a_name() {
        super::Cli::command().debug_assert();
    }
}
