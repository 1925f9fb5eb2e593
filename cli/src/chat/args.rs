//! Arguments of `bitnetc chat`, and of every command that applies a chat template.

use std::path::PathBuf;

use bitnetc::chat::{ChatEncoder, TEMPLATES, Wish};
use bitnetc::load::Loaded;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::escapes::EscapeArgs;
use crate::failure::Failure;
use crate::generate::GenerateArgs;
use crate::input_file;
use crate::model_arg::ModelArg;
use crate::output;
use crate::suggest::{as_text, suggested};

fn template_names() -> Vec<&'static str> {
    TEMPLATES.iter().map(|template| template.name).collect()
}

/// Which chat template.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    /// A built-in chat template by name (bitnet, chatml, falcon3, gemma, hermes, llama2, llama3, mistral, phi3, plain,
    /// vicuna, zephyr), or the text of one (default: the model's)
    #[arg(long, value_name = "NAME|TEXT", hide_possible_values = true, value_parser = suggested(as_text, template_names))]
    pub(crate) chat_template: Option<String>,
    /// A chat template in a file (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub(crate) chat_template_file: Option<PathBuf>,
}

/// The system message.
#[derive(Debug, Args)]
pub(crate) struct SystemArgs {
    /// The system message
    #[arg(long, visible_alias = "sys", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system_prompt: Option<String>,
    /// The system message from a file (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub(crate) system_prompt_file: Option<PathBuf>,
}

impl SystemArgs {
    /// Whether there is one.
    pub(crate) fn asked(&self) -> bool {
        self.system_prompt.is_some() || self.system_prompt_file.is_some()
    }

    /// Notes a system message that is the name of a file.
    pub(crate) fn note_file(&self, quiet: bool) {
        if let Some(text) = &self.system_prompt {
            let instead = "--system-prompt-file reads it";
            input_file::note_name_of_file(quiet, "--system-prompt", text, instead);
        }
    }

    /// The system message.
    pub(crate) fn text(&self, escapes: EscapeArgs) -> Result<Option<String>, Failure> {
        match &self.system_prompt_file {
            Some(path) => input_file::prompt(path).map(Some),
            None => escapes.optional("--system-prompt", self.system_prompt.as_deref()),
        }
    }
}

/// Whether the model thinks before it answers: variables of its chat template.
#[derive(Debug, Args)]
pub(crate) struct ThinkArgs {
    /// Have the model think before it answers, where its chat template leaves the choice
    #[arg(long, overrides_with = "no_think")]
    pub(crate) think: bool,
    /// Have the model answer without thinking, where its chat template leaves the choice
    #[arg(long, overrides_with = "think")]
    pub(crate) no_think: bool,
    /// How hard the model thinks, in the words of its chat template (Qwen 3.8: low, medium, xhigh)
    #[arg(long, value_name = "LEVEL")]
    pub(crate) reasoning_effort: Option<String>,
}

impl ThinkArgs {
    /// Whether anything is asked for.
    fn asked(&self) -> bool {
        self.think || self.no_think || self.reasoning_effort.is_some()
    }

    /// The variables for the template.
    pub(crate) fn variables(&self) -> Map<String, Value> {
        let mut variables = Map::new();
        if self.think || self.no_think {
            variables.insert("enable_thinking".to_owned(), json!(self.think));
        }
        if let Some(level) = &self.reasoning_effort {
            variables.insert("reasoning_effort".to_owned(), json!(level));
        }
        variables
    }
}

/// How a prompt is put to the model.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) system: SystemArgs,
    #[command(flatten)]
    pub(crate) think: ThinkArgs,
    /// Print the text that the model is given on stderr
    #[arg(long)]
    pub(crate) show_prompt: bool,
}

impl PromptArgs {
    /// Whether a chat is asked for.
    pub(crate) fn asked(&self) -> bool {
        self.template.asked() || self.system.asked() || self.think.asked()
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
            (None, Some(path)) => {
                Wish::Text { name: path.display().to_string(), text: input_file::text(path)? }
            }
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
    after_help = "Lines that begin with / are commands: /help lists them. Ctrl-C stops an answer; pressed again, it ends the chat.\nIf standard input is not a terminal, every line of it is a message.\n\nExamples:\n  bitnetc chat model.plan\n  bitnetc chat model.gguf --sys \"You are brief.\" --temp 0.2\n  echo \"Hello\" | bitnetc chat model.gguf -s 1 -n 64"
)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The first message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Exit after the answer to the first message
    #[arg(long, requires = "prompt")]
    pub(crate) single_turn: bool,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// When the context is full, drop the oldest turns (default)
    #[arg(long, overrides_with = "no_context_shift")]
    pub(crate) context_shift: bool,
    /// When the context is full, end the answer, or refuse the message, instead of dropping the oldest turns
    #[arg(long, overrides_with = "context_shift")]
    pub(crate) no_context_shift: bool,
    /// Continue a conversation that /save wrote to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Do not read or write the input history
    #[arg(long)]
    pub(crate) no_history: bool,
}

impl ChatArgs {
    /// Whether the oldest turns are dropped when the context is full. The last of the two options counts.
    pub(crate) fn shifts(&self) -> bool {
        self.context_shift || !self.no_context_shift
    }

    /// The chat that `bitnetc run` opens with these options.
    pub(crate) fn of_run(model: ModelArg, prompt: Option<String>, generate: GenerateArgs) -> Self {
        Self {
            model,
            prompt,
            single_turn: false,
            generate,
            context_shift: false,
            no_context_shift: false,
            load: None,
            no_history: false,
        }
    }
}
