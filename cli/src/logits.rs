//! `bitnetc logits`: the logits after every token, as .npy.

use std::io::Write;

use bitnetc::load::score_by_interpreter;
use bitnetc_runtime::npy::NpyWriter;
use bitnetc_runtime::session::{Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;
use bitnetc_runtime::whole_file::WholeFile;

use super::args::{EngineKind, LogitsArgs};
use super::failure::Failure;
use super::run::announce;
use super::{Outcome, input_file, interrupt, models, output, progress};
use crate::exit;

/// Runs the command.
pub(crate) fn run(args: &LogitsArgs, quiet: bool) -> Outcome {
    let name = args.model.name()?;
    input_file::refuse_inputs(&args.output, [name])?;
    let loaded = models::open(name, &args.engine.load_options()?, quiet)?;
    announce(&loaded, name.is_some(), quiet);
    let ids = match &args.text {
        Some(text) => loaded.tokenizer.encode(text, true, false)?,
        None => args.tokens.clone(),
    };
    if ids.is_empty() {
        return Err(Failure::new(exit::USAGE, "no tokens: give ids with --tokens or a text with --text"));
    }
    let unwritable = |e: &dyn std::fmt::Display| {
        Failure::new(exit::FAILURE, format!("cannot write {}: {e}", args.output.display()))
    };
    interrupt::listen();
    let to_stdout = input_file::is_standard(&args.output);
    if to_stdout && args.json {
        return Err(Failure::new(
            exit::USAGE,
            "--json and `--output -` both want standard output: give a file",
        ));
    }
    let file = match to_stdout {
        true => None,
        false => Some(WholeFile::create(&args.output).map_err(|e| Failure::new(exit::FAILURE, e))?),
    };
    let vocab = loaded.model.vocab() as usize;
    let out: Box<dyn Write + '_> = match &file {
        Some(file) => Box::new(file.file()),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut writer =
        NpyWriter::new(std::io::BufWriter::new(out), ids.len(), vocab).map_err(|e| unwritable(&e))?;
    let mut last = Vec::new();
    let mut failed = None;
    let bar = progress::bar("logits", ids.len() as u64, quiet || args.json);
    let mut sink = |_: usize, logits: &[f32]| {
        bar.inc(1);
        last.clear();
        last.extend_from_slice(logits);
        writer.row(logits).map_err(|e| failed = Some(e)).is_ok() && !interrupt::requested()
    };
    match args.engine_kind {
        EngineKind::Jit => {
            let context = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            let options = SessionOptions { context, threads: args.engine.build.threads() };
            let mut session = Session::new(loaded.model.clone(), options)?;
            session.set_keep_going(|| !interrupt::requested());
            session.score(&ids, &mut sink)?;
        }
        EngineKind::Interpreter => score_by_interpreter(&loaded, &ids, &mut sink)?,
    }
    bar.finish_and_clear();
    if interrupt::requested() {
        return Ok(exit::INTERRUPTED);
    }
    if let Some(e) = failed {
        return Err(unwritable(&e));
    }
    let mut buffered = writer.finish().map_err(|e| unwritable(&e))?;
    buffered.flush().map_err(|e| unwritable(&e))?;
    drop(buffered);
    match file {
        Some(file) => drop(file.commit().map_err(|e| Failure::new(exit::FAILURE, e))?),
        None => return Ok(exit::OK),
    }

    let mut order: Vec<u32> = (0..last.len() as u32).collect();
    order.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]).then(a.cmp(&b)));
    order.truncate(5);
    if args.json {
        let top: Vec<_> = order
            .iter()
            .map(|&id| {
                let text = loaded.tokenizer.decode_lossy(&[id], true);
                serde_json::json!({ "id": id, "logit": last[id as usize], "text": text })
            })
            .collect();
        output::print_json(&serde_json::json!({
            "schema": "bitnetc.logits/2",
            "model": loaded.name,
            "output": args.output.display().to_string(),
            "shape": [ids.len(), vocab],
            "ids": ids,
            "threads": args.engine.build.threads(),
            "top_next": top,
        }))?;
    } else {
        output::print(&format!("{}: f32 [{}, {vocab}]\n", args.output.display(), ids.len()))?;
    }
    Ok(exit::OK)
}
