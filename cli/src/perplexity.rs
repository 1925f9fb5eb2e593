//! `bitnetc perplexity`: how well a model predicts a text.

use std::time::Instant;

use bitnetc_runtime::session::{Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;

use super::args::PerplexityArgs;
use super::failure::Failure;
use super::run::announce;
use super::{Outcome, input_file, interrupt, models, output, progress};
use crate::exit;

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let name = args.model.name()?;
    let loaded = models::open(name, &args.engine.load_options()?, quiet)?;
    announce(&loaded, name.is_some(), quiet);
    let ids: Vec<u32> = match (&args.ids, &args.file) {
        (Some(path), _) => serde_json::from_slice(&input_file::json(path)?).map_err(|e| {
            let message = format!("{}: expected a JSON array of token ids: {e}", input_file::shown(path));
            Failure::new(exit::FAILURE, message)
        })?,
        (None, Some(path)) => {
            let text = input_file::text(path)?;
            loaded.tokenizer.encode(&text, true, false)?
        }
        (None, None) => {
            return Err(Failure::new(
                exit::USAGE,
                "nothing to score: use --file for a text or --ids for token ids",
            ));
        }
    };
    let window = if args.ctx == 0 { loaded.default_context() } else { args.ctx };
    if window < 2 {
        return Err(Failure::new(
            exit::USAGE,
            "--ctx-size must be at least 2: a window's first token is not scored",
        ));
    }
    if ids.len() < 2 {
        return Err(Failure::new(
            exit::FAILURE,
            format!("{} cannot be scored: at least 2 are needed", output::count(ids.len() as u64, "token")),
        ));
    }
    let context = window.min(u32::try_from(ids.len()).unwrap_or(u32::MAX));
    let options = SessionOptions { context, threads: args.engine.build.threads() };
    let mut session = Session::new(loaded.model.clone(), options)?;
    session.set_keep_going(|| !interrupt::requested());
    let clock = Instant::now();
    let bar = progress::bar("perplexity", ids.len() as u64, quiet || args.json);
    let result = bitnetc::perplexity::perplexity(&mut session, &ids, window as usize, |done| {
        bar.set_position(done as u64);
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    if interrupt::requested() {
        return Ok(exit::INTERRUPTED);
    }
    let seconds = clock.elapsed().as_secs_f64();
    if args.json {
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.perplexity/2",
            "model": loaded.name,
            "perplexity": result.perplexity(),
            "nll": result.nll(),
            "tokens": result.tokens,
            "windows": result.windows,
            "context": window,
            "threads": options.threads,
            "total_ms": 1e3 * seconds,
            "tokens_per_second": ids.len() as f64 / seconds.max(1e-9),
        }))?;
    } else {
        output::print(&format!(
            "perplexity {:.4} over {} in {} of {window} ({:.1} tokens/s)\n",
            result.perplexity(),
            output::count(result.tokens as u64, "token"),
            output::count(result.windows as u64, "window"),
            ids.len() as f64 / seconds.max(1e-9)
        ))?;
    }
    Ok(exit::OK)
}
