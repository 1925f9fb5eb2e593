//! `bitnetc import`: a Hugging Face checkpoint becomes a GGUF file.

use std::path::PathBuf;
use std::time::Instant;

use bitnetc::import::{Files, Location, check, write_import};
use bitnetc_frontend_gguf::{PreTokenizer, TensorType};
use bitnetc_import::{Options, TARGETS};
use bitnetc_runtime::memory::in_units;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::failure::Failure;
use super::interrupt::Patience;
use super::suggest::{Suggested, suggested};
use super::{Outcome, input_file, interrupt, output, progress};
use crate::exit;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc import ./bitnet-b1.58-2B-4T -o 2b.gguf\n  bitnetc import hf:microsoft/bitnet-b1.58-2B-4T -o 2b.gguf --type tq2_0"
)]
pub(crate) struct ImportArgs {
    /// A directory with config.json, tokenizer.json and *.safetensors, or `hf:ORG/REPO[@REVISION]` in the Hugging Face cache
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: String,
    /// The .gguf to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Type of the ternary layers: i2_s, tq1_0, tq2_0, ptq1_0, pq2_0, iq2_bn, f16, bf16 or f32; all other tensors keep theirs
    #[arg(long = "type", value_name = "TYPE", default_value = "i2_s", hide_possible_values = true, value_parser = type_parser())]
    target: TensorType,
    /// Convert floating-point layers to ternary by their mean magnitude, even if config.json does not declare them as master weights
    #[arg(long)]
    absmean: bool,
    /// The pre-tokeniser, if tokenizer.json has an expression that is not recognised
    #[arg(long, value_name = "RULE")]
    pre: Option<PreArg>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PreArg {
    /// The rule of LLaMA 3, also of Falcon 3
    LlamaBpe,
    /// The rule of Qwen 2
    Qwen2,
}

fn type_parser() -> Suggested<TensorType, String> {
    suggested(parse_type, || TARGETS.iter().map(|&(name, _)| name).collect())
}

fn parse_type(name: &str) -> Result<TensorType, String> {
    let found = TARGETS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|&(_, ty)| ty).ok_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|&(name, _)| name).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Runs the command.
pub(crate) fn run(args: &ImportArgs, quiet: bool) -> Outcome {
    let location: Location = args.checkpoint.parse().map_err(|e| Failure::new(exit::USAGE, e))?;
    let directory = location.directory().map_err(bitnetc::Error::from)?;
    let options = Options {
        target: args.target,
        absmean: args.absmean,
        pre: args.pre.map(|pre| match pre {
            PreArg::LlamaBpe => PreTokenizer::LlamaBpe,
            PreArg::Qwen2 => PreTokenizer::Qwen2,
        }),
    };
    interrupt::listen();
    let clock = Instant::now();
    let files = Files::open(&directory)?;
    let import = progress::working("checking", quiet, || check(&directory, &files, &options))?;
    for note in import.notes() {
        output::say(quiet, format_args!("note: {note}"));
    }
    input_file::refuse_standard(&args.output)?;
    // An older GGUF beside the checkpoint may be replaced; nothing else there may.
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_checkpoint: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_none_or(|extension| extension != "gguf")).collect();
    input_file::refuse_inputs(&args.output, of_checkpoint.iter().map(|path| Some(path.as_path())))?;
    let _patience = Patience::new();
    let bar = progress::bar("importing", import.file_bytes(), quiet);
    let bytes = write_import(&directory, &import, &args.output, |done| {
        bar.set_position(done);
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    let seconds = clock.elapsed().as_secs_f64();
    let tensors = import.tensors().count();
    if args.json {
        output::print_json(&json!({
            "schema": "bitnetc.import/2",
            "checkpoint": args.checkpoint,
            "output": args.output.display().to_string(),
            "architecture": import.architecture(),
            "type": args.target.name(),
            "tensors": tensors,
            "file_bytes": bytes,
            "notes": import.notes(),
            "total_ms": 1e3 * seconds,
        }))?;
    } else {
        output::print(&format!(
            "{}: {}, {}, {tensors} tensors, layers in {}, in {seconds:.2} s\n",
            args.output.display(),
            in_units(bytes),
            import.architecture(),
            args.target.name(),
        ))?;
    }
    Ok(exit::OK)
}
