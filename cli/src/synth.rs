//! `bitnetc synth`: a model with random weights.

use std::time::Instant;

use bitnetc_frontend_gguf::TensorType;
use bitnetc_frontend_gguf::synth::{
    LINEAR_TYPES, ModelShape, PRESETS, Preset, SMALL_VOCABULARY, SyntheticModel, preset,
};

use super::args::SynthArgs;
use super::failure::Failure;
use super::interrupt::Patience;
use super::suggest::{Suggested, suggested};
use super::{Outcome, input_file, interrupt, output, progress};
use crate::exit;

/// Parses `--preset`.
pub(crate) fn preset_parser() -> Suggested<&'static Preset, String> {
    suggested(parse_preset, || PRESETS.iter().map(|preset| preset.name).collect())
}

fn parse_preset(name: &str) -> Result<&'static Preset, String> {
    preset(name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
        format!("unknown preset: use one of {}", names.join(", "))
    })
}

/// Parses `--type`.
pub(crate) fn type_parser() -> Suggested<TensorType, String> {
    suggested(parse_type, || LINEAR_TYPES.iter().map(|ty| ty.name()).collect())
}

fn parse_type(name: &str) -> Result<TensorType, String> {
    let found = LINEAR_TYPES.iter().find(|ty| ty.name().eq_ignore_ascii_case(name));
    found.copied().ok_or_else(|| "expected i2_s, ptq1_0 or pq2_0".to_owned())
}

/// The text after the options in `--help`.
pub(crate) fn help() -> String {
    let mut text = "Presets:\n".to_owned();
    for p in PRESETS {
        text += &format!("  {:<11} {}\n", p.name, p.about);
    }
    text + "\nPresets but bonsai2-* have the architecture bitnet-b1.58, whatever the published model's is: the sizes are what\n\
            a benchmark needs. Weights are random, so the text is noise.\n\n\
            Example:\n  bitnetc synth --preset 2b-4t -o 2b.gguf"
}

/// Tokens of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VocabularyArg {
    /// As the preset has it.
    Full,
    /// At most 4096.
    Small,
    /// This number of tokens.
    Tokens(usize),
}

/// Parses `--vocab`.
pub(crate) fn parse_vocabulary(text: &str) -> Result<VocabularyArg, String> {
    match text {
        "full" => Ok(VocabularyArg::Full),
        "small" => Ok(VocabularyArg::Small),
        n => {
            match n.parse() {
                Ok(n) if n >= 260 => Ok(VocabularyArg::Tokens(n)),
                _ => Err("expected `full`, `small` or a number from 260 (one token per byte, and four more)"
                    .into()),
            }
        }
    }
}

/// The preset's shape, with what was asked to be different.
pub(crate) fn shape(preset: &Preset, vocabulary: VocabularyArg, layers: Option<u32>) -> ModelShape {
    let shape = preset.shape();
    let vocab = match vocabulary {
        VocabularyArg::Full => shape.vocab,
        VocabularyArg::Small => SMALL_VOCABULARY.min(shape.vocab),
        VocabularyArg::Tokens(n) => n,
    };
    let layers = layers.map_or(shape.layers, |n| n as usize);
    ModelShape { vocab, layers, ..shape }
}

/// Runs the command.
pub(crate) fn run(args: &SynthArgs, quiet: bool) -> Outcome {
    let shape = shape(args.preset, args.vocab, args.layers);
    let linear = args.linear.unwrap_or(shape.linear);
    let shape = ModelShape { linear, ..shape };
    let model = SyntheticModel::new(shape, args.seed).map_err(|e| Failure::new(exit::USAGE, e))?;
    input_file::refuse_standard(&args.output)?;
    interrupt::listen();
    let _patience = Patience::new();
    let clock = Instant::now();
    let bar = progress::bar("writing", model.data_bytes(), quiet);
    let bytes = bitnetc_tools::synth::write_synthetic(&args.output, &model, |done| {
        bar.set_position(done);
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    let s = model.shape();
    let time = clock.elapsed();
    match args.json {
        true => output::print_json(&serde_json::json!({
            "schema": "bitnetc.synth/1",
            "output": args.output.display().to_string(),
            "preset": args.preset.name,
            "file_bytes": bytes,
            "parameters": model.parameters(),
            "layers": s.layers,
            "vocab": s.vocab,
            "seed": args.seed,
            "total_ms": output::ms(time),
        }))?,
        false => output::print(&format!(
            "{}: {}, {:.1} M parameters, {}, vocabulary {}, seed {}, in {:.2} s\n",
            args.output.display(),
            output::bytes(bytes),
            model.parameters() as f64 / 1e6,
            output::count(s.layers as u64, "layer"),
            s.vocab,
            args.seed,
            time.as_secs_f64()
        ))?,
    }
    Ok(exit::OK)
}
