//! Arguments of `bitnetc chat`, and of every command that applies a chat template.

use std::path::PathBuf;

use bitnetc::chat::{ChatEncoder, Wish};
use bitnetc::load::Loaded;
use clap::Args;

use crate::args::EngineArgs;
use crate::failure::Failure;
use crate::output;
use crate::run::read_text;
use crate::sampling::{GrammarArgs, SamplingArgs};
use crate::terminal::RawArgs;

/// Which chat template.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    /// A built-in chat template by name (bitnet, chatml, falcon3, gemma, llama2, llama3, mistral, phi3, plain, vicuna,
    /// zephyr), or the text of one (default: the model's)
    #[arg(long, value_name = "NAME|TEXT")]
    pub(crate) chat_template: Option<String>,
    /// A chat template in a file
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub(crate) chat_template_file: Option<PathBuf>,
}

/// How a prompt is put to the model.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// The system message
    #[arg(long, visible_alias = "sys", value_name = "TEXT")]
    pub(crate) system_prompt: Option<String>,
    /// Show on stderr the text that the model is given
    #[arg(long)]
    pub(crate) show_prompt: bool,
}

impl PromptArgs {
    /// Whether a chat is asked for.
    pub(crate) fn asked(&self) -> bool {
        self.template.asked() || self.system_prompt.is_some()
    }
}

impl TemplateArgs {
    /// Whether anything but the model's own template is asked for.
    pub(crate) fn asked(&self) -> bool {
        self.chat_template.is_some() || self.chat_template_file.is_some()
    }

    /// The template that is asked for.
    pub(crate) fn wish(&self) -> Result<Wish, Failure> {
        Ok(match (&self.chat_template, &self.chat_template_file) {
            (Some(text), _) => Wish::NameOrText(text.clone()),
            (None, Some(path)) => Wish::Text { name: path.display().to_string(), text: read_text(path)? },
            (None, None) => Wish::Model,
        })
    }

    /// What makes prompts for a model with that template; says which one where it is not the file's.
    pub(crate) fn encoder(&self, loaded: &Loaded, quiet: bool) -> Result<ChatEncoder, Failure> {
        let (encoder, note) = ChatEncoder::for_model(loaded, &self.wish()?).map_err(bitnetc::Error::from)?;
        if let Some(note) = note {
            output::say(quiet, note);
        }
        Ok(encoder)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Lines that begin with / are commands: /help lists them. Ctrl-C stops an answer; pressed again, it leaves.\nWithout a terminal every line of standard input is a message.\n\nExamples:\n  bitnetc chat model.plan\n  bitnetc chat model.gguf --sys \"You are brief.\" --temp 0.2\n  echo \"Hello\" | bitnetc chat model.gguf -s 1 -n 64"
)]
pub(crate) struct ChatArgs {
    /// A .gguf model or a plan (default: the built-in model)
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// The same, as an option
    #[arg(
        short = 'm',
        long = "model",
        value_name = "MODEL",
        conflicts_with = "model",
        env = "BITNETC_MODEL"
    )]
    pub(crate) model_option: Option<PathBuf>,
    /// The first message
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Leave after the answer to the first message
    #[arg(long, requires = "prompt")]
    pub(crate) single_turn: bool,
    #[command(flatten)]
    pub(crate) chat: PromptArgs,
    /// Tokens of an answer (-1: until the model ends or the context is full)
    #[arg(short, long = "n-predict", visible_alias = "predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) n_predict: i64,
    /// Room for this many tokens, all turns included (0: the model's own context, as far as it takes 2 GiB)
    #[arg(short, long, value_name = "N", default_value_t = 0, env = "BITNETC_CTX_SIZE")]
    pub(crate) ctx_size: u32,
    /// When the context is full, leave out the oldest turns instead of ending
    #[arg(long)]
    pub(crate) context_shift: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) grammar: GrammarArgs,
    /// Never end an answer by an end token
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Go on with a conversation from a file, as /save writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Neither read nor write the history of lines
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) text: RawArgs,
    /// Print one JSON object a turn instead of streaming text
    #[arg(long)]
    pub(crate) json: bool,
    /// Print times, speeds and memory to stderr after every answer
    #[arg(long)]
    pub(crate) perf: bool,
}
