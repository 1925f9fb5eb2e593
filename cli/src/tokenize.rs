//! `bitnetc tokenize` and `bitnetc detokenize`: text to token ids and back, without the model's weights.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use bitnetc::load::Source;
use bitnetc::tokenizer_spec::open_tokenizer;
use bitnetc_frontend_gguf::text;
use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize, Tokenizer};
use clap::Args;
use serde_json::{Value, json};

use super::escapes::EscapeArgs;
use super::failure::Failure;
use super::model_arg::ModelArg;
use super::{Outcome, input_file, models, output, progress};
use crate::exit;
use crate::terminal::RawArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc tokenize model.gguf \"Hello world\"\n  bitnetc tokenize -p \"ROMEO:\"\n  bitnetc tokenize model.gguf --ids < text.txt\n  bitnetc tokenize model.gguf --jsonl --no-bos < texts.jsonl"
)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The text, used unchanged (default: all of standard input)
    #[arg(value_name = "TEXT", conflicts_with = "jsonl")]
    pub(crate) words: Vec<String>,
    /// The text, with escapes
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["words", "jsonl"])]
    pub(crate) prompt: Option<String>,
    /// Read the text from a file, unchanged (`-`: standard input)
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["words", "jsonl", "prompt"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) escapes: EscapeArgs,
    /// Do not add the begin-of-text and end-of-text tokens
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Treat control tokens that are spelled out in the text as plain text
    #[arg(long)]
    pub(crate) no_parse_special: bool,
    /// Print only the ids, as a list
    #[arg(long, conflicts_with = "json")]
    pub(crate) ids: bool,
    /// Print one JSON object with ids and pieces
    #[arg(long)]
    pub(crate) json: bool,
    /// Read one JSON string per line and write one {"ids":[…]} per line
    #[arg(long, conflicts_with_all = ["json", "ids"])]
    pub(crate) jsonl: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc detokenize model.gguf 128000,9906,1917\n  bitnetc detokenize 50,47,45                 with the built-in model\n  bitnetc detokenize model.gguf --jsonl < ids.jsonl"
)]
pub(crate) struct DetokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Token ids, separated by commas or spaces (default: standard input)
    #[arg(value_name = "IDS", conflicts_with = "jsonl")]
    pub(crate) ids: Vec<String>,
    /// Print control tokens too
    #[arg(long)]
    pub(crate) special: bool,
    #[command(flatten)]
    pub(crate) text: RawArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Read one {"ids":[…]} or [...] per line and write one {"text":…} per line
    #[arg(long, conflicts_with = "json")]
    pub(crate) jsonl: bool,
}

/// The tokenizer of a model; of a .gguf, one with a vocabulary and nothing else is enough.
fn open(name: Option<&Path>, quiet: bool) -> Result<Tokenizer, Failure> {
    let path = models::resolve(name, quiet)?;
    let open = || open_tokenizer(&Source::open(path.as_deref(), MapMode::Mapped)?);
    let (tokenizer, notes) = progress::working("loading", quiet, open)?;
    notes.iter().for_each(|note| output::say(quiet, note));
    Ok(tokenizer)
}

/// Whether the name of a model is none but token ids.
fn is_ids(name: &Path) -> bool {
    let text = name.to_str().unwrap_or_default();
    let of_ids = |c: char| c.is_ascii_digit() || matches!(c, ',' | '[' | ']' | ' ');
    !text.is_empty() && text.chars().all(of_ids) && !name.exists()
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::new(exit::FAILURE, format!("cannot read standard input: {error}"))
}

/// The text that is to be tokenised.
fn text_of(args: &TokenizeArgs, words: &[String]) -> Result<Vec<u8>, Failure> {
    match (&args.prompt, &args.file) {
        (Some(_), _) | (_, Some(_)) if !words.is_empty() => Err(Failure::new(
            exit::USAGE,
            "the text is given twice: as an argument and by an option; omit one",
        )),
        (Some(text), _) => Ok(args.escapes.text("--prompt", text)?.into_bytes()),
        (None, Some(path)) => input_file::bytes(path),
        (None, None) if words.is_empty() => input_file::bytes(Path::new(input_file::STANDARD)),
        (None, None) => Ok(words.join(" ").into_bytes()),
    }
}

/// Runs `tokenize`.
pub(crate) fn tokenize(args: &TokenizeArgs, quiet: bool) -> Outcome {
    let (name, words) = args.model.with_words(&args.words);
    let tokenizer = open(name, quiet)?;
    let encode = |bytes: &[u8]| tokenizer.encode_bytes(bytes, !args.no_bos, !args.no_parse_special);
    if args.jsonl {
        return each_line(|line| {
            let text: String = serde_json::from_slice(line)
                .map_err(|error| format!("expected one JSON string per line: {error}"))?;
            let ids = encode(text.as_bytes()).map_err(|error| error.to_string())?;
            Ok(json!({ "ids": ids }))
        });
    }
    let text = text_of(args, &words)?;
    input_file::note_unread_stdin(quiet, "a text", "-f");
    let ids = encode(&text)?;
    let piece = |id: TokenId| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    if args.json {
        let pieces: Vec<String> = ids.iter().map(|&id| piece(id)).collect();
        output::print_json(&json!({
            "schema": "bitnetc.tokenize/2",
            "tokens": ids.len(),
            "ids": ids,
            "pieces": pieces,
        }))?;
    } else if args.ids {
        output::print(&format!("{}\n", json!(ids)))?;
    } else {
        let lines: String = ids.iter().map(|&id| format!("{id:6} -> {:?}\n", piece(id))).collect();
        output::print(&lines)?;
    }
    Ok(exit::OK)
}

/// Runs `detokenize`.
pub(crate) fn detokenize(args: &DetokenizeArgs, quiet: bool) -> Outcome {
    let (name, words) = match args.model.with_words(&args.ids) {
        // Ids alone are those of the built-in model.
        (Some(first), words) if is_ids(first) => (None, [vec![first.display().to_string()], words].concat()),
        named => named,
    };
    let tokenizer = open(name, quiet)?;
    let decode = |ids: &[TokenId]| match ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
        Some(id) => Err(format!(
            "token id {id} is out of range: the vocabulary has {} tokens",
            tokenizer.vocab_size()
        )),
        None => Ok(tokenizer.decode(ids, args.special)),
    };
    if args.jsonl {
        return each_line(|line| {
            let wrong =
                |error: serde_json::Error| format!("expected one list of token ids per line: {error}");
            let value: Value = serde_json::from_slice(line).map_err(wrong)?;
            let list = value.get("ids").cloned().unwrap_or(value);
            let ids: Vec<TokenId> = serde_json::from_value(list).map_err(wrong)?;
            Ok(json!({ "text": String::from_utf8_lossy(&decode(&ids)?) }))
        });
    }
    let given = match words.is_empty() {
        true => input_file::text(Path::new(input_file::STANDARD))?,
        false => words.join(" "),
    };
    let numbers = given.split(|ch: char| ch == ',' || ch == '[' || ch == ']' || ch.is_whitespace());
    let parse = |number: &str| {
        number
            .parse::<TokenId>()
            .map_err(|_| Failure::new(exit::USAGE, format!("invalid token id `{}`", number.escape_debug())))
    };
    let ids: Vec<TokenId> =
        numbers.filter(|number| !number.is_empty()).map(parse).collect::<Result<_, _>>()?;
    let bytes = decode(&ids).map_err(|why| Failure::new(exit::USAGE, why))?;
    if args.json {
        output::print_json(&json!({
            "schema": "bitnetc.detokenize/2",
            "tokens": ids.len(),
            "text": String::from_utf8_lossy(&bytes),
        }))?;
        return Ok(exit::OK);
    }
    let mut out = std::io::stdout().lock();
    // The text alone goes into a file or a pipe; a terminal wants its line ended.
    if out.is_terminal() {
        args.text.print(&(String::from_utf8_lossy(&bytes) + "\n"))?;
    } else {
        out.write_all(&bytes)?;
        out.flush()?;
    }
    Ok(exit::OK)
}

/// Answers every line of standard input with a line, in order; the first that cannot be answered ends it.
fn each_line(answer: impl Fn(&[u8]) -> Result<Value, String>) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(unreadable)?;
        let line = if number == 0 { text::text_without_mark(&line) } else { &line };
        if line.trim().is_empty() {
            continue;
        }
        match answer(&text::json(line.as_bytes())) {
            Ok(value) => writeln!(out, "{value}")?,
            Err(why) => {
                out.flush()?;
                return Err(Failure::new(exit::FAILURE, format!("line {}: {why}", number + 1)));
            }
        }
    }
    out.flush()?;
    Ok(exit::OK)
}
