//! The options of llama-cli, llama-completion, llama-server, llama-bench, llama-perplexity and llama-tokenize that have another
//! name here, no effect, or no counterpart. Options that have the same name here are not listed: clap reads them.

use Meaning::{KvType, Nothing, Off, Option, Refused, Repo, RepoFile, Switch, Words};
use Tool::{Batch, Bench, Chat, Perplexity, Run, Serve, Tokenize};
use Values::{None, One, OneOf, Two};

/// A command, for which an option has a meaning of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Run,
    Chat,
    Batch,
    Serve,
    Bench,
    Perplexity,
    Tokenize,
}

impl Tool {
    /// All of them.
    pub(super) const ALL: [Tool; 7] = [Run, Chat, Batch, Serve, Bench, Perplexity, Tokenize];

    /// The command's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Run => "run",
            Chat => "chat",
            Batch => "batch",
            Serve => "serve",
            Bench => "bench",
            Perplexity => "perplexity",
            Tokenize => "tokenize",
        }
    }

    /// The command of this name, if others have one like it.
    pub(super) fn of(name: &str) -> std::option::Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }
}

/// Words after an option that belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    None,
    One,
    Two,
    /// One of these, or none.
    OneOf(&'static [&'static str]),
}

/// What an option means here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    /// An option of ours, with the same values.
    Option(&'static str),
    /// Options of ours, without the values.
    Words(&'static [&'static str]),
    /// One option of ours if the value is on, another if it is off.
    Switch { on: &'static str, off: &'static str },
    /// It has no effect, for this reason.
    Nothing(&'static str),
    /// There is no such thing; what to do instead.
    Refused(&'static str),
    /// A value that turns it off has no effect, and needs no remark; another is refused.
    Off(&'static str),
    /// A repository of the Hugging Face Hub.
    Repo,
    /// A file of that repository.
    RepoFile,
    /// The type of the KV cache.
    KvType,
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Its names, with their dashes.
    pub(super) names: &'static [&'static str],
    /// Where it means this.
    pub(super) tools: &'static [Tool],
    /// What follows it.
    pub(super) values: Values,
    /// What it means.
    pub(super) meaning: Meaning,
}

const fn flag(
    names: &'static [&'static str],
    tools: &'static [Tool],
    values: Values,
    meaning: Meaning,
) -> Flag {
    Flag { names, tools, values, meaning }
}

const ALL: &[Tool] = &Tool::ALL;
/// Commands that run a model.
const ENGINE: &[Tool] = &[Run, Chat, Batch, Serve, Bench, Perplexity];
/// Commands of which llama-bench is none.
const COMMON: &[Tool] = &[Run, Chat, Batch, Serve, Perplexity, Tokenize];
/// Commands that run a model, of which llama-bench is none.
const RUNNING: &[Tool] = &[Run, Chat, Batch, Serve, Perplexity];
/// Commands that generate.
const TEXT: &[Tool] = &[Run, Chat, Batch, Serve];
/// Those of them that are given the prompts.
const PROMPTED: &[Tool] = &[Run, Chat, Batch];

const SWITCH: Values = OneOf(&["on", "off", "auto", "0", "1", "true", "false"]);

const CPU: &str = "everything runs on the CPU";
const PINNING: &str = "the system places the threads: use `taskset -c 0-3 bitnetc …` to choose CPUs";
const ATTENTION: &str = "attention never stores its scores (as with flash attention)";
const STEPS: &str =
    "a prompt is read in steps of the size that the plan was compiled with (`bitnetc compile -b`)";
const DRAFT: &str = "speculative decoding is not supported; the text is the same without it";
const CACHES: &str = "the KV cache is allocated for the requested context";
const LOGS: &str = "notes go to stderr; -q suppresses them";
const POSITIONS: &str =
    "the model file determines how positions are encoded: convert the model with the settings you need";
const STAGES: &str = "the sampler has no such stage: `bitnetc run --help` lists them at --samplers";
const ADAPTER: &str = "adapters are not supported: merge them into the checkpoint and use `bitnetc import`";
const TEXT_ONLY: &str = "only text models are supported";
const TEMPLATES: &str = "the chat template formats messages: use --chat-template";
const NO_REASONING: &str = "answers are printed unchanged";
const HELD: &str =
    "no state is kept between commands: `bitnetc chat --load FILE` continues a saved conversation";

/// The table.
pub(super) const FLAGS: &[Flag] = &[
    // Models.
    flag(&["-hf", "-hfr", "--hf-repo"], ALL, One, Repo),
    flag(&["-hff", "--hf-file"], ALL, One, RepoFile),
    flag(&["-mu", "--model-url"], COMMON, One, Option("-m")),
    flag(
        &["-hft", "--hf-token"],
        ALL,
        One,
        Refused("set HF_TOKEN instead: other users of the machine can see command lines"),
    ),
    flag(
        &["-dr", "--docker-repo"],
        COMMON,
        One,
        Refused("models come from files or the Hugging Face Hub: use -m hf:org/repo"),
    ),
    flag(&["--offline"], ALL, None, Refused("set HF_HUB_OFFLINE=1")),
    flag(&["-cl", "--cache-list"], COMMON, None, Refused("use `bitnetc list`")),
    flag(&["--list-devices"], ALL, None, Refused("use `bitnetc doctor`")),
    flag(
        &["--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"],
        RUNNING,
        One,
        Refused(ADAPTER),
    ),
    flag(&["--lora-init-without-apply"], RUNNING, None, Refused(ADAPTER)),
    flag(&["--control-vector-layer-range"], RUNNING, Two, Refused(ADAPTER)),
    flag(
        &["--override-kv"],
        COMMON,
        One,
        Refused(
            "write the metadata into the file (gguf_new_metadata.py of llama.cpp); `bitnetc inspect` shows it",
        ),
    ),
    flag(&["--check-tensors"], RUNNING, None, Nothing("`bitnetc inspect --verify` checks a file")),
    flag(
        &["-mm", "--mmproj", "-mmu", "--mmproj-url", "--image", "--audio", "--video"],
        TEXT,
        One,
        Refused(TEXT_ONLY),
    ),
    flag(
        &["--mmproj-auto", "--no-mmproj", "--no-mmproj-auto", "--mmproj-offload", "--no-mmproj-offload"],
        TEXT,
        None,
        Nothing(TEXT_ONLY),
    ),
    // Memory.
    flag(
        &["--mlock"],
        RUNNING,
        None,
        Nothing("the system keeps pages that are in use; --no-mmap copies the model into memory"),
    ),
    flag(&["-mmp"], &[Bench], One, Switch { on: "--mmap", off: "--no-mmap" }),
    flag(&["-lm", "--load-mode"], ENGINE, One, Nothing("files are mapped, or copied with --no-mmap")),
    flag(
        &["-dio", "--direct-io", "-ndio", "--no-direct-io"],
        RUNNING,
        None,
        Nothing("files are mapped, or copied with --no-mmap"),
    ),
    flag(
        &["-lzm", "--lazy-mode"],
        ENGINE,
        One,
        Nothing("pages of a mapped file are read when they are needed"),
    ),
    flag(&["--numa"], ENGINE, One, Nothing("`numactl bitnetc …` chooses memory nodes")),
    flag(&["-ctk", "--cache-type-k"], ENGINE, One, KvType),
    flag(&["-ctv", "--cache-type-v"], ENGINE, One, KvType),
    flag(&["-dt", "--defrag-thold"], ENGINE, One, Nothing(CACHES)),
    flag(
        &["--swa-full", "-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified"],
        RUNNING,
        None,
        Nothing(CACHES),
    ),
    flag(
        &[
            "-ctxcp",
            "--ctx-checkpoints",
            "--swa-checkpoints",
            "-cms",
            "--checkpoint-min-step",
            "-cram",
            "--cache-ram",
            "--cache-reuse",
        ],
        PROMPTED,
        One,
        Nothing(CACHES),
    ),
    flag(
        &["--cache-prompt", "--no-cache-prompt", "--cache-idle-slots", "--no-cache-idle-slots"],
        PROMPTED,
        None,
        Nothing(CACHES),
    ),
    flag(&["--prompt-cache"], PROMPTED, One, Nothing(HELD)),
    flag(&["--prompt-cache-all", "--prompt-cache-ro"], PROMPTED, None, Nothing(HELD)),
    flag(&["--slot-save-path"], PROMPTED, One, Nothing(HELD)),
    // Devices.
    flag(&["-ngl", "--gpu-layers", "--n-gpu-layers"], ENGINE, One, Nothing(CPU)),
    flag(
        &[
            "-sm",
            "--split-mode",
            "-ts",
            "--tensor-split",
            "-mg",
            "--main-gpu",
            "-dev",
            "--device",
            "-ot",
            "--override-tensor",
        ],
        ENGINE,
        One,
        Nothing(CPU),
    ),
    flag(
        &[
            "-ncmoe",
            "--n-cpu-moe",
            "-ncffn",
            "--n-cpu-ffn",
            "--moe-cache-mib",
            "-fitt",
            "--fit-target",
            "-fitc",
            "--fit-ctx",
        ],
        ENGINE,
        One,
        Nothing(CPU),
    ),
    flag(&["-fit", "--fit"], ENGINE, SWITCH, Nothing(CPU)),
    flag(&["-cmoe", "--cpu-moe"], RUNNING, None, Nothing(CPU)),
    flag(
        &[
            "-kvo",
            "--kv-offload",
            "-nkvo",
            "--no-kv-offload",
            "--op-offload",
            "-nopo",
            "--no-op-offload",
            "--no-host",
        ],
        RUNNING,
        None,
        Nothing(CPU),
    ),
    flag(&["-nkvo", "--no-kv-offload", "-nopo", "--no-op-offload", "--no-host"], &[Bench], One, Nothing(CPU)),
    flag(
        &["--rpc", "-rpc"],
        ENGINE,
        One,
        Refused(
            "a model runs on one machine: use `bitnetc batch --shard i/n` to divide requests among several",
        ),
    ),
    flag(
        &["-nr", "--no-repack"],
        ENGINE,
        None,
        Nothing("weights are packed when a model is compiled (--weights)"),
    ),
    flag(&["--repack"], ENGINE, SWITCH, Nothing("weights are packed when a model is compiled (--weights)")),
    flag(&["-fa", "--flash-attn"], ENGINE, SWITCH, Nothing(ATTENTION)),
    flag(&["-bs", "--backend-sampling"], TEXT, None, Nothing(CPU)),
    // Threads and steps.
    flag(&["-tb", "--threads-batch"], RUNNING, One, Nothing("prompts are read with the threads of -t")),
    flag(
        &[
            "-C",
            "--cpu-mask",
            "-Cr",
            "--cpu-range",
            "--cpu-strict",
            "-Cb",
            "--cpu-mask-batch",
            "-Crb",
            "--cpu-range-batch",
            "--cpu-strict-batch",
        ],
        ENGINE,
        One,
        Nothing(PINNING),
    ),
    flag(&["--prio", "--prio-batch"], ENGINE, One, Nothing("`nice bitnetc …` sets a priority")),
    flag(&["--poll", "--poll-batch"], ENGINE, One, Nothing("waiting threads poll first and then sleep")),
    flag(&["-b", "--batch-size", "-ub", "--ubatch-size"], RUNNING, One, Nothing(STEPS)),
    flag(&["-ub", "--ubatch-size"], &[Bench], One, Option("--batch-size")),
    flag(&["-np"], &[Batch, Bench, Serve], One, Option("--parallel")),
    flag(&["-npl"], &[Bench], One, Option("--parallel")),
    flag(&["-pps"], &[Bench], None, Option("--prompt-shared")),
    flag(
        &["-np", "--parallel", "-ns", "--sequences"],
        &[Run, Chat],
        One,
        Nothing("`bitnetc batch` generates several texts at a time"),
    ),
    flag(
        &["-cb", "--cont-batching", "-nocb", "--no-cont-batching"],
        TEXT,
        None,
        Nothing("texts of a batch always start and end independently"),
    ),
    flag(&["--warmup", "--no-warmup"], RUNNING, None, Nothing("there is no warm-up run")),
    flag(&["--warmup"], &[Bench], None, Nothing("every test is run once before it is timed")),
    // Prompts and output.
    flag(&["-bf", "--binary-file"], &[Run], One, Option("--file")),
    flag(&["-sys"], PROMPTED, One, Option("--system-prompt")),
    flag(&["-sysf"], PROMPTED, One, Option("--system-prompt-file")),
    flag(&["-jf"], PROMPTED, One, Option("--json-schema-file")),
    flag(&["-cnv"], &[Run], None, Words(&["--conversation"])),
    flag(
        &["-i", "--interactive", "-if", "--interactive-first", "-ins", "--instruct"],
        &[Run],
        None,
        Words(&["--conversation"]),
    ),
    flag(&["-cml", "--chatml"], &[Run], None, Words(&["--chat-template", "chatml", "--conversation"])),
    flag(&["-no-cnv"], &[Run], None, Words(&["--no-conversation"])),
    flag(&["-st", "--single-turn"], &[Run], None, Words(&["--chat"])),
    flag(
        &["-cnv", "--conversation", "-i", "--interactive", "-if", "--interactive-first"],
        &[Chat],
        None,
        Nothing("this is a conversation"),
    ),
    flag(&["-no-cnv", "--no-conversation"], &[Chat], None, Refused("use `bitnetc run`")),
    flag(&["-st"], &[Chat], None, Words(&["--single-turn"])),
    flag(&["--verbose-prompt"], &[Run, Chat], None, Words(&["--show-prompt"])),
    flag(
        &["--display-prompt"],
        &[Run],
        None,
        Nothing("the prompt is printed unless --no-display-prompt is given"),
    ),
    flag(
        &["--display-prompt", "--no-display-prompt"],
        &[Chat],
        None,
        Nothing("answers are printed without the prompt"),
    ),
    flag(&["--show-timings"], &[Run, Chat], None, Words(&["--perf"])),
    flag(
        &["--no-show-timings", "--no-perf"],
        &[Run, Chat],
        None,
        Nothing("times are printed with --perf only"),
    ),
    flag(
        &["-o", "--output", "--output-file"],
        &[Run, Chat],
        One,
        Refused("redirect standard output: `bitnetc … > FILE`"),
    ),
    flag(&["--in-prefix", "--in-suffix"], &[Run, Chat], One, Refused(TEMPLATES)),
    flag(&["--in-prefix-bos"], &[Run, Chat], None, Refused(TEMPLATES)),
    flag(
        &["--spm-infill"],
        TEXT,
        None,
        Refused("there is no infilling: write the model's control tokens into the prompt"),
    ),
    flag(
        &["-sp", "--special"],
        TEXT,
        None,
        Refused(
            "control tokens are not printed: `bitnetc run --json` lists the ids, and `bitnetc detokenize --special` their texts",
        ),
    ),
    flag(
        &["-mli", "--multiline-input"],
        &[Run, Chat],
        None,
        Nothing("in a chat, enclose a message of several lines in lines of \"\"\""),
    ),
    flag(&["-co", "--color"], TEXT, SWITCH, Nothing("colour follows the terminal and NO_COLOR")),
    flag(&["--simple-io"], TEXT, None, Nothing("a terminal is used only where there is one")),
    flag(
        &["--keep"],
        TEXT,
        One,
        Nothing("a chat whose context is full keeps its system message, and a text ends"),
    ),
    flag(
        &["--context-shift", "--no-context-shift"],
        &[Run, Batch, Serve],
        None,
        Nothing("a text ends when its context is full"),
    ),
    flag(&["-gan", "--grp-attn-n", "-gaw", "--grp-attn-w"], TEXT, One, Refused(POSITIONS)),
    flag(
        &[
            "--rope-scaling",
            "--rope-scale",
            "--rope-freq-base",
            "--rope-freq-scale",
            "--yarn-orig-ctx",
            "--yarn-ext-factor",
            "--yarn-attn-factor",
            "--yarn-beta-slow",
            "--yarn-beta-fast",
        ],
        RUNNING,
        One,
        Refused(POSITIONS),
    ),
    // Templates.
    flag(&["--jinja", "--no-jinja"], TEXT, None, Nothing("chat templates are always Jinja")),
    flag(&["--chat-template-kwargs"], TEXT, One, Refused("requests have chat_template_kwargs in their body")),
    flag(
        &["--reasoning-format", "--reasoning-budget", "--reasoning-budget-message"],
        PROMPTED,
        One,
        Nothing(NO_REASONING),
    ),
    flag(&["--reasoning-effort"], &[Batch], One, Nothing(NO_REASONING)),
    flag(&["-rea", "--reasoning"], PROMPTED, SWITCH, Nothing(NO_REASONING)),
    flag(
        &["--skip-chat-parsing", "--no-skip-chat-parsing", "--reasoning-preserve", "--no-reasoning-preserve"],
        PROMPTED,
        None,
        Nothing(NO_REASONING),
    ),
    // Sampling.
    flag(
        &["--sampler-seq", "--sampling-seq"],
        TEXT,
        One,
        Refused("--samplers lists the stages by their names"),
    ),
    flag(
        &[
            "--top-nsigma",
            "--top-n-sigma",
            "--xtc-probability",
            "--dry-multiplier",
            "--dynatemp-range",
            "--adaptive-target",
            "--tfs",
        ],
        TEXT,
        One,
        Off(STAGES),
    ),
    flag(
        &[
            "--xtc-threshold",
            "--dry-base",
            "--dry-allowed-length",
            "--dry-penalty-last-n",
            "--dry-sequence-breaker",
            "--dynatemp-exp",
            "--adaptive-decay",
        ],
        TEXT,
        One,
        Nothing("the stage that it belongs to is off"),
    ),
    flag(
        &["--penalize-nl", "--no-penalize-nl"],
        TEXT,
        None,
        Nothing("line ends are treated like other tokens"),
    ),
    // Speculative decoding.
    flag(
        &[
            "-md",
            "--model-draft",
            "--spec-draft-model",
            "-hfd",
            "-hfrd",
            "--hf-repo-draft",
            "--spec-draft-hf",
            "--spec-type",
        ],
        TEXT,
        One,
        Nothing(DRAFT),
    ),
    flag(
        &[
            "--draft",
            "--draft-n",
            "--draft-max",
            "--draft-min",
            "--draft-n-min",
            "--draft-p-min",
            "--draft-p-split",
            "--spec-draft-n-max",
            "--spec-draft-n-min",
            "--spec-draft-p-min",
            "--spec-draft-p-split",
        ],
        TEXT,
        One,
        Nothing(DRAFT),
    ),
    flag(
        &[
            "-cd",
            "--ctx-size-draft",
            "-td",
            "--threads-draft",
            "-tbd",
            "--threads-batch-draft",
            "-devd",
            "--device-draft",
            "-ngld",
            "--gpu-layers-draft",
            "--n-gpu-layers-draft",
            "-ctkd",
            "--cache-type-k-draft",
            "-ctvd",
            "--cache-type-v-draft",
            "-otd",
            "--override-tensor-draft",
        ],
        TEXT,
        One,
        Nothing(DRAFT),
    ),
    flag(&["-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic"], TEXT, One, Nothing(DRAFT)),
    flag(&["--spec-default"], TEXT, None, Nothing(DRAFT)),
    // Logs.
    flag(&["--log-disable"], ALL, None, Words(&["--quiet"])),
    flag(&["--log-file"], COMMON, One, Refused("redirect standard error: `bitnetc … 2> FILE`")),
    flag(&["--log-colors"], COMMON, SWITCH, Nothing(LOGS)),
    flag(
        &[
            "--log-prefix",
            "--no-log-prefix",
            "--log-timestamps",
            "--no-log-timestamps",
            "--log-jsonl",
            "--no-log-jsonl",
            "-v",
            "--verbose",
            "--log-verbose",
        ],
        COMMON,
        None,
        Nothing(LOGS),
    ),
    flag(&["-lv", "--verbosity", "--log-verbosity"], COMMON, One, Nothing(LOGS)),
    // llama-server.
    flag(&["-cram"], &[Serve], One, Option("--cache-ram")),
    flag(
        &[
            "-ctxcp",
            "--ctx-checkpoints",
            "--swa-checkpoints",
            "-cms",
            "--checkpoint-min-step",
            "--cache-reuse",
            "-sps",
            "--slot-prompt-similarity",
        ],
        &[Serve],
        One,
        Nothing("a prompt always resumes from the longest prefix that any sequence holds"),
    ),
    flag(
        &["--cache-prompt", "--cache-idle-slots", "--no-cache-idle-slots"],
        &[Serve],
        None,
        Nothing("a prompt always resumes from the longest prefix that any sequence holds"),
    ),
    flag(&["--no-cache-prompt"], &[Serve], None, Refused("requests have cache_prompt in their body")),
    flag(&["--metrics"], &[Serve], None, Nothing("/metrics is always there")),
    flag(&["--slots", "--no-slots"], &[Serve], None, Nothing("/slots is always there, without prompts")),
    flag(&["--props"], &[Serve], None, Nothing("/props can be read and not written")),
    flag(
        &["--webui", "--no-webui", "--ui", "--no-ui"],
        &[Serve],
        None,
        Nothing("the chat page is at / and costs nothing until it is opened"),
    ),
    flag(
        &["--threads-http"],
        &[Serve],
        One,
        Nothing("two threads read and write sockets, and compute nothing"),
    ),
    flag(
        &["-to", "--timeout"],
        &[Serve],
        One,
        Refused("--read-timeout and --write-timeout set how long the server waits for clients"),
    ),
    flag(
        &["--embedding", "--embeddings", "--rerank", "--reranking"],
        &[Serve],
        None,
        Refused("models only generate text: there are no embeddings"),
    ),
    flag(&["--path"], &[Serve], One, Refused("no files are served: put them on a web server")),
    flag(&["--api-prefix"], &[Serve], One, Refused("a reverse proxy can remove the prefix")),
    flag(&["--models-max"], &[Serve], One, Option("--max-models")),
    flag(
        &["--models-dir", "--models-preset"],
        &[Serve],
        One,
        Refused("name the models: `bitnetc serve A B`"),
    ),
    flag(
        &["--reasoning-format", "--reasoning-budget", "-rea", "--reasoning"],
        &[Serve],
        One,
        Nothing("thoughts that a template marks are the answer's reasoning_content"),
    ),
    // llama-bench.
    flag(&["-pg"], &[Bench], One, Option("--pg")),
    flag(
        &["-oe", "--output-err"],
        &[Bench],
        One,
        Refused("results go to standard output; -o names their form"),
    ),
    flag(&["--delay"], &[Bench], One, Nothing("tests follow each other at once")),
    flag(&["--progress", "-v", "--verbose"], &[Bench], None, Nothing("progress is shown on a terminal")),
    flag(&["-embd", "--embeddings"], &[Bench], One, Off("there are no embeddings")),
    flag(&["--n-gen-warmup"], &[Bench], One, Nothing("every test is run once before it is timed")),
    // llama-perplexity and llama-tokenize.
    flag(
        &["--chunks", "--ppl-stride", "--ppl-output-type"],
        &[Perplexity],
        One,
        Refused("all of the text is scored, window by window: cut the text, or choose -c"),
    ),
    flag(
        &["--hellaswag", "--winogrande", "--multiple-choice", "--kl-divergence"],
        &[Perplexity],
        None,
        Refused("perplexity is all that is measured; `bitnetc logits` writes logits for more"),
    ),
    flag(&["--stdin"], &[Tokenize], None, Words(&["--file", "-"])),
    flag(&["--show-count"], &[Tokenize], None, Refused("--json contains the count")),
];
