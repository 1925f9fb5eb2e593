//! `bitnetc tokenize` and `bitnetc detokenize`: text to token ids and back, without the model's weights.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use bitnetc::load::Source;
use bitnetc::tokenizer_spec::open_tokenizer;
use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::tokenizer::{TokenId, Tokenize, Tokenizer};
use clap::Args;
use serde_json::{Value, json};

use super::failure::Failure;
use super::{Outcome, models, output};
use crate::exit;
use crate::terminal::RawArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc tokenize model.gguf \"Hello world\"\n  bitnetc tokenize model.gguf --ids < text.txt\n  bitnetc tokenize model.gguf --jsonl --no-bos < texts.jsonl"
)]
pub(crate) struct TokenizeArgs {
    /// A .gguf (one with a vocabulary and nothing else is enough) or a plan
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The text (default: standard input, all of it, bytes as they are)
    #[arg(value_name = "TEXT", conflicts_with = "jsonl")]
    pub(crate) text: Option<String>,
    /// Do not put the begin-of-text token in front, nor the end-of-text token behind
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Take control tokens that are spelled out in the text as text
    #[arg(long)]
    pub(crate) no_parse_special: bool,
    /// Print the ids alone, as a list
    #[arg(long, conflicts_with = "json")]
    pub(crate) ids: bool,
    /// Print one JSON object with ids and pieces
    #[arg(long)]
    pub(crate) json: bool,
    /// Read one JSON string a line and write one {"ids":[…]} a line
    #[arg(long, conflicts_with_all = ["json", "ids"])]
    pub(crate) jsonl: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc detokenize model.gguf 128000,9906,1917\n  bitnetc detokenize model.gguf --jsonl < ids.jsonl"
)]
pub(crate) struct DetokenizeArgs {
    /// A .gguf (one with a vocabulary and nothing else is enough) or a plan
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
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
    /// Read one {"ids":[…]} or [...] a line and write one {"text":…} a line
    #[arg(long, conflicts_with = "json")]
    pub(crate) jsonl: bool,
}

fn open(path: &std::path::Path, quiet: bool) -> Result<Tokenizer, Failure> {
    let path = models::resolve(Some(path), quiet)?;
    let (tokenizer, notes) = open_tokenizer(&Source::open(path.as_deref(), MapMode::Mapped)?)?;
    notes.iter().for_each(|note| output::say(quiet, note));
    Ok(tokenizer)
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::new(exit::FAILURE, format!("cannot read standard input: {error}"))
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Runs `tokenize`.
pub(crate) fn tokenize(args: &TokenizeArgs, quiet: bool) -> Outcome {
    let tokenizer = open(&args.model, quiet)?;
    let encode = |bytes: &[u8]| tokenizer.encode_bytes(bytes, !args.no_bos, !args.no_parse_special);
    if args.jsonl {
        return each_line(|line| {
            let text: String = serde_json::from_str(line)
                .map_err(|error| format!("a JSON string is wanted on every line: {error}"))?;
            let ids = encode(text.as_bytes()).map_err(|error| error.to_string())?;
            Ok(json!({ "ids": ids }))
        });
    }
    let ids = match &args.text {
        Some(text) => encode(text.as_bytes())?,
        None => encode(&standard_input()?)?,
    };
    let piece = |id: TokenId| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    if args.json {
        let pieces: Vec<String> = ids.iter().map(|&id| piece(id)).collect();
        output::print_json(&json!({
            "schema": "bitnetc.tokenize/1",
            "count": ids.len(),
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
    let tokenizer = open(&args.model, quiet)?;
    let decode = |ids: &[TokenId]| match ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
        Some(id) => {
            Err(format!("there is no token {id}; the vocabulary has {} tokens", tokenizer.vocab_size()))
        }
        None => Ok(tokenizer.decode(ids, args.special)),
    };
    if args.jsonl {
        return each_line(|line| {
            let wrong =
                |error: serde_json::Error| format!("a list of token ids is wanted on every line: {error}");
            let value: Value = serde_json::from_str(line).map_err(wrong)?;
            let list = value.get("ids").cloned().unwrap_or(value);
            let ids: Vec<TokenId> = serde_json::from_value(list).map_err(wrong)?;
            Ok(json!({ "text": String::from_utf8_lossy(&decode(&ids)?) }))
        });
    }
    let given = match args.ids.is_empty() {
        true => String::from_utf8(standard_input()?).map_err(unreadable)?,
        false => args.ids.join(" "),
    };
    let numbers = given.split(|ch: char| ch == ',' || ch == '[' || ch == ']' || ch.is_whitespace());
    let parse = |number: &str| {
        number
            .parse::<TokenId>()
            .map_err(|_| Failure::new(exit::USAGE, format!("`{}` is no token id", number.escape_debug())))
    };
    let ids: Vec<TokenId> =
        numbers.filter(|number| !number.is_empty()).map(parse).collect::<Result<_, _>>()?;
    let bytes = decode(&ids).map_err(|why| Failure::new(exit::USAGE, why))?;
    if args.json {
        output::print_json(&json!({
            "schema": "bitnetc.detokenize/1",
            "count": ids.len(),
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
fn each_line(answer: impl Fn(&str) -> Result<Value, String>) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        match answer(&line) {
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
