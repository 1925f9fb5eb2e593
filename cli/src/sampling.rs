//! Options of every command that samples: how tokens are chosen, what ends a text, what it has to follow.

use std::path::PathBuf;

use bitnetc::Model;
use bitnetc::constraint::{Constraint, GrammarSource};
use bitnetc::engine::GenerateOptions;
use bitnetc_runtime::sampling::{Mirostat, SamplingParams, Stage};
use clap::Args;

use super::escapes::EscapeArgs;
use super::failure::Failure;
use super::generate::LengthArgs;
use super::input_file;
use crate::exit;

/// How tokens are chosen. Names and defaults are llama.cpp's.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Seed (-1: a random one)
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) seed: i64,
    /// Temperature (0: always the most likely token)
    #[arg(
        long = "temp",
        visible_alias = "temperature",
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    pub(crate) temp: f32,
    /// Choose among the K most likely tokens (0 or less: all)
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    pub(crate) top_k: i32,
    /// Choose among the most likely tokens up to this total probability (1: all, 0: only the most likely)
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Choose among tokens at least this likely, relative to the most likely one (0: all, 1: only that one)
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Choose among the most typical tokens up to this total probability (1: all, 0: only the most typical)
    #[arg(
        long = "typical",
        visible_alias = "typical-p",
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub(crate) typical: f32,
    /// Divide the logits of recent tokens by this (1: off)
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: f32,
    /// How many tokens count as recent (0: none, -1: the whole context)
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) repeat_last_n: i64,
    /// Subtract this once from the logit of a recent token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Subtract this from the logit of a recent token per occurrence
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Add to the logit of a token, e.g. `15043+1`, `15043-2.5`, or `15043-inf` to forbid it (may be given more than once)
    #[arg(short, long, value_name = "ID(+/-)BIAS", value_parser = parse_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// The sampler stages, in order: `penalties`, `top_k`, `typ_p`, `top_p`, `min_p`, `temperature`
    #[arg(long, value_name = "NAMES", default_value_t = StageList::default(), value_parser = parse_stages)]
    pub(crate) samplers: StageList,
    /// 2: keep the surprise of the text near a target (Mirostat 2) instead of top-k, typical, top-p and min-p
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = parse_mirostat)]
    pub(crate) mirostat: u8,
    /// Target surprise of Mirostat, in bits per token
    #[arg(long, value_name = "TAU", default_value_t = 5.0, allow_negative_numbers = true)]
    pub(crate) mirostat_ent: f32,
    /// Learning rate of Mirostat
    #[arg(long, value_name = "ETA", default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) mirostat_lr: f32,
    /// Stop at this string, which is not printed (may be repeated)
    #[arg(short = 'r', long = "reverse-prompt", visible_alias = "stop", value_name = "TEXT", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
}

/// Stages of the sampler in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StageList(pub(crate) Vec<Stage>);

impl Default for StageList {
    fn default() -> Self {
        Self(Stage::DEFAULT_ORDER.to_vec())
    }
}

impl std::fmt::Display for StageList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(";"))
    }
}

fn parse_stages(text: &str) -> Result<StageList, String> {
    let stage = |name: &str| {
        Stage::named(name).ok_or_else(|| {
            let known = Stage::DEFAULT_ORDER.map(Stage::name).join(", ");
            format!("unknown stage `{name}`: known are {known}")
        })
    };
    let names = text.split([';', ',']).map(str::trim).filter(|name| !name.is_empty());
    names.map(stage).collect::<Result<_, _>>().map(StageList)
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || "expected a token id and a bias, such as 15043+1 or 15043-inf".to_owned();
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let (id, bias) = text.split_at(at);
    Ok((id.parse().map_err(|_| wrong())?, bias.parse().map_err(|_| wrong())?))
}

fn parse_mirostat(text: &str) -> Result<u8, String> {
    match text {
        "0" => Ok(0),
        "2" => Ok(2),
        "1" => Err("only version 2 is supported".to_owned()),
        _ => Err("expected 0 (off) or 2 (Mirostat 2)".to_owned()),
    }
}

impl SamplingArgs {
    /// The settings, and whether the seed was chosen at random.
    pub(crate) fn params(&self) -> Result<(SamplingParams, bool), Failure> {
        let random = self.seed < 0;
        let seed = match u64::try_from(self.seed) {
            Ok(seed) => seed,
            Err(_) => bitnetc::api::random_seed(),
        };
        let params = SamplingParams {
            temperature: self.temp,
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            typical_p: self.typical,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(SamplingParams::MAX_LAST_N),
            logit_bias: self.logit_bias.as_slice().into(),
            mirostat: (self.mirostat == 2)
                .then_some(Mirostat { tau: self.mirostat_ent, eta: self.mirostat_lr }),
            seed,
            stages: self.samplers.0.clone(),
        };
        params.validate().map_err(|error| {
            // The settings are called like the options.
            let option = format!("--{}", error.name.replace('_', "-"));
            let message = format!("{option} is {}, but must be {}", error.value, error.range);
            Failure::new(exit::USAGE, message)
        })?;
        Ok((params, random))
    }

    /// The options of a generation.
    pub(crate) fn options(
        &self,
        length: &LengthArgs,
        escapes: EscapeArgs,
    ) -> Result<GenerateOptions, Failure> {
        let stops = self.stop.iter().map(|text| escapes.text("--reverse-prompt", text));
        Ok(GenerateOptions {
            limit: u64::try_from(length.n_predict).ok(),
            ignore_end: length.ignore_eos,
            stop: stops.collect::<Result<_, _>>()?,
            ..GenerateOptions::default()
        })
    }
}

/// What the text has to follow.
#[derive(Debug, Args)]
pub(crate) struct GrammarArgs {
    /// Generate JSON that conforms to this schema
    #[arg(short, long, value_name = "SCHEMA", group = "constraint", allow_hyphen_values = true)]
    pub(crate) json_schema: Option<String>,
    /// Read it from a file (`-`: standard input)
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub(crate) json_schema_file: Option<PathBuf>,
    /// Generate text that conforms to this grammar, in GBNF (llama.cpp's notation) or Lark
    #[arg(long, value_name = "GRAMMAR", group = "constraint", allow_hyphen_values = true)]
    pub(crate) grammar: Option<String>,
    /// Read it from a file (`-`: standard input)
    #[arg(long, value_name = "FILE", group = "constraint")]
    pub(crate) grammar_file: Option<PathBuf>,
    /// Generate text that matches this whole regular expression
    #[arg(long, value_name = "REGEX", group = "constraint", allow_hyphen_values = true)]
    pub(crate) regex: Option<String>,
}

impl GrammarArgs {
    /// What was asked for, if anything.
    pub(crate) fn source(&self) -> Result<Option<GrammarSource>, Failure> {
        let text = |text: &Option<String>, file: &Option<PathBuf>| match (text, file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => input_file::text(path).map(Some),
            (None, None) => Ok(None),
        };
        Ok(if let Some(schema) = text(&self.json_schema, &self.json_schema_file)? {
            Some(GrammarSource::JsonSchema(schema))
        } else if let Some(grammar) = text(&self.grammar, &self.grammar_file)? {
            Some(GrammarSource::of_grammar(grammar))
        } else {
            self.regex.clone().map(GrammarSource::Regex)
        })
    }

    /// The grammar at its start, if one was asked for.
    pub(crate) fn open(&self, model: &Model) -> Result<Option<Box<dyn Constraint>>, Failure> {
        let Some(source) = self.source()? else { return Ok(None) };
        self.start(model, &source).map(Some)
    }

    /// Notes an expression that is the name of a file: it matches the text of the name.
    pub(crate) fn note_file(&self, quiet: bool) {
        if let Some(regex) = &self.regex {
            let instead = "--regex takes the expression itself";
            input_file::note_name_of_file(quiet, "--regex", regex, instead);
        }
    }

    /// What was asked for, tried with the model: a grammar that cannot be used is refused now, not at the first text.
    pub(crate) fn checked(&self, model: &Model) -> Result<Option<GrammarSource>, Failure> {
        let source = self.source()?;
        source.as_ref().map_or(Ok(()), |source| self.start(model, source).map(drop))?;
        Ok(source)
    }

    fn start(&self, model: &Model, source: &GrammarSource) -> Result<Box<dyn Constraint>, Failure> {
        model.constraint(source).map_err(|why| {
            let message = format!("{}: {why}", self.given_by());
            Failure::with_hint(exit::code(&bitnetc::Error::from(why)), message, self.file_hint())
        })
    }

    /// What to do where the text of a grammar is the name of a file.
    fn file_hint(&self) -> Option<String> {
        let given = [(&self.json_schema, "--json-schema-file"), (&self.grammar, "--grammar-file")];
        let (text, option) = given.into_iter().find_map(|(text, option)| Some((text.as_ref()?, option)))?;
        input_file::is_name_of_file(text).then(|| format!("to read the file, use {option} {text}"))
    }

    /// The option that asks for a form, with the file if it has one.
    fn given_by(&self) -> String {
        match (&self.json_schema_file, &self.grammar_file) {
            (Some(path), _) => format!("--json-schema-file {}", path.display()),
            (None, Some(path)) => format!("--grammar-file {}", path.display()),
            (None, None) if self.json_schema.is_some() => "--json-schema".to_owned(),
            (None, None) if self.grammar.is_some() => "--grammar".to_owned(),
            (None, None) => "--regex".to_owned(),
        }
    }
}

/// A grammar at its start, if there is one.
pub(crate) fn constraint(
    model: &Model,
    source: Option<&GrammarSource>,
) -> Result<Option<Box<dyn Constraint>>, Failure> {
    let made = source.map(|source| model.constraint(source).map_err(bitnetc::Error::from));
    Ok(made.transpose()?)
}

/// Refuses biases for tokens that a model does not have.
pub(crate) fn check_biases(params: &SamplingParams, vocab: u32) -> Result<(), Failure> {
    match params.logit_bias.iter().find(|&&(id, _)| id >= vocab) {
        Some((id, _)) => Err(Failure::new(
            exit::USAGE,
            format!("--logit-bias: there is no token {id}; the model has {vocab} tokens"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::args::{Cli, Command};

    #[test]
    fn errors_of_the_sampler_name_options_that_exist() {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").unwrap();
        for option in [
            "--temp=nan",
            "--top-p=-1",
            "--typical=-1",
            "--min-p=-1",
            "--repeat-penalty=0",
            "--frequency-penalty=inf",
            "--presence-penalty=inf",
            "--mirostat-ent=0",
            "--mirostat-lr=-1",
            "--repeat-last-n=9999999",
            "--logit-bias=3+inf",
        ] {
            let line = Cli::try_parse_from(["bitnetc", "run", "--mirostat", "2", option]).unwrap();
            let Command::Run(args) = line.command else { unreachable!() };
            let message = format!("{:?}", args.generate.sampling.params().unwrap_err());
            let named =
                message.split("--").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let known = run.get_arguments().any(|arg| {
                arg.get_long() == Some(named) || arg.get_all_aliases().is_some_and(|all| all.contains(&named))
            });
            assert!(known && message.contains("must be"), "{option}: {message}");
        }
    }
}
