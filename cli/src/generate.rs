//! What `run`, `chat` and `batch` share: options of a generation, and opening the model for one.

use std::path::Path;
use std::time::Instant;

use bitnetc::Model;
use bitnetc_runtime::sampling::SamplingParams;
use clap::Args;

use super::args::EngineArgs;
use super::chat::PromptArgs;
use super::escapes::EscapeArgs;
use super::failure::Failure;
use super::run::announce;
use super::sampling::{GrammarArgs, SamplingArgs, check_biases};
use super::terminal::RawArgs;
use super::{models, output};

/// How long texts become.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LengthArgs {
    /// Maximum tokens per text (-1: until the model ends or the context is full)
    #[arg(short, long = "n-predict", visible_alias = "predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) n_predict: i64,
    /// Context size in tokens, prompts included (0: the model's own, limited to 2.1 GB of KV cache; in a batch, what the
    /// requests need)
    #[arg(
        short,
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0,
        env = "BITNETC_CTX_SIZE"
    )]
    pub(crate) ctx_size: u32,
    /// Do not stop at end tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// Options of a single text and of a chat.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    #[command(flatten)]
    pub(crate) escapes: EscapeArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) grammar: GrammarArgs,
    #[command(flatten)]
    pub(crate) chat: PromptArgs,
    #[command(flatten)]
    pub(crate) text: RawArgs,
    /// Print JSON instead of streaming text: one object, or one per turn
    #[arg(long)]
    pub(crate) json: bool,
    /// Print times, speeds and memory to stderr
    #[arg(long)]
    pub(crate) perf: bool,
}

/// A model, opened to generate.
pub(crate) struct Opened {
    /// The model.
    pub(crate) model: Model,
    /// The settings of the sampler.
    pub(crate) params: SamplingParams,
    /// Whether the seed was chosen at random.
    pub(crate) random_seed: bool,
    /// When opening began.
    pub(crate) begun: Instant,
}

impl GenerateArgs {
    /// Opens the model that `name` stands for, and says which it is.
    pub(crate) fn open(&self, name: Option<&Path>, quiet: bool) -> Result<Opened, Failure> {
        let (params, random_seed) = self.sampling.params()?;
        self.grammar.note_file(quiet);
        self.chat.system.note_file(quiet);
        let begun = Instant::now();
        let model = Model::from(models::open(name, &self.engine.load_options()?, quiet)?);
        announce(model.loaded(), name.is_some(), quiet);
        check_biases(&params, model.loaded().model.vocab())?;
        Ok(Opened { model, params, random_seed, begun })
    }
}

impl Opened {
    /// The context of a session, for `asked` tokens or the default.
    pub(crate) fn context(&self, asked: u32) -> u32 {
        if asked == 0 { self.model.loaded().default_context() } else { asked }
    }

    /// Says the seed that was chosen at random, if texts depend on it.
    pub(crate) fn announce_seed(&self, quiet: bool) {
        if self.random_seed && self.params.temperature > 0.0 {
            output::say(quiet, format!("seed: {}", self.params.seed));
        }
    }
}
