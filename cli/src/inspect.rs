//! `bitnetc inspect`: what a GGUF model or a plan holds.
//!
//! Any GGUF that is well-formed is shown, also one that cannot be run: then a line says why not. Nothing of a file reaches the
//! terminal but as escaped text.

mod metadata;
mod parameters;

use std::collections::BTreeMap;

use bitnetc::load::Source;
use bitnetc_frontend_gguf::stats::TensorStats;
use bitnetc_frontend_gguf::{Form, Model, Outline, PreTokenizer, TensorInfo};
use bitnetc_runtime::map::MapMode;
use bitnetc_runtime::memory::in_units;
use bitnetc_runtime::plan::Plan;
use bitnetc_tools::check_file::check_file;
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::failure::Failure;
use super::{Outcome, models, output, progress};
use crate::exit;
use parameters::Parameters;

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, quiet: bool) -> Outcome {
    let path = models::resolve(args.model.name()?, quiet)?;
    let source = Source::open(path.as_deref(), MapMode::Mapped)?.with_options(args.options.model_options());
    let plan = matches!(source, Source::Plan { .. });
    if plan && args.stats {
        let message = "--stats shows the tensors of a GGUF, but this is a plan: use the .gguf file";
        return Err(Failure::new(exit::USAGE, message));
    }
    let verdict = match args.verify {
        true => Some(progress::working("checking", quiet, || check_file(&source))?),
        false => None,
    };
    let refused = verdict.as_ref().is_some_and(|v| !v.errors.is_empty());
    let report = progress::working("reading", quiet, || match &source {
        Source::Gguf { .. } => gguf_report(&source, args),
        Source::Plan { plan, .. } => plan_report(&source.name(), plan, args.tensors),
    });
    let mut report = match report {
        // The verdict says why.
        Err(_) if refused => json!({ "schema": SCHEMA, "model": safe(&source.name()) }),
        report => report?,
    };
    if let Some(verdict) = verdict {
        report["verify"] = json!({
            "would_run": verdict.errors.is_empty(),
            "errors": verdict.errors,
            "warnings": verdict.warnings,
        });
    }
    if args.json {
        output::print_json(&report)?;
    } else {
        let mut text = String::new();
        render(&report, 0, &mut text);
        output::print(&text)?;
    }
    Ok(if refused { exit::MODEL } else { exit::OK })
}

/// Name and version of the form of the report.
const SCHEMA: &str = "bitnetc.inspect/2";

/// Text from a file, safe to print on a terminal.
fn safe(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Any GGUF: what its metadata and its directory say and, if it can be run, the model that they make.
fn gguf_report(source: &Source, args: &InspectArgs) -> Result<Value, bitnetc::Error> {
    let outline = source.gguf_outline()?;
    let model = source.gguf_model();
    let file_bytes = source.parts().iter().map(|part| part.len() as u64).sum();
    let sizes: Option<Vec<u64>> =
        model.as_ref().ok().map(|m| m.gguf().tensors().iter().map(|t| t.range().len() as u64).collect());
    let mut report = json!({
        "schema": SCHEMA,
        "kind": "gguf",
        "model": safe(&source.name()),
        "file_bytes": file_bytes,
        "version": outline.version,
        "name": outline.string("general.name").map(safe),
        "architecture": outline.string("general.architecture").map(safe),
        "would_run": model.is_ok(),
        "cannot_run": model.as_ref().err().map(reason),
        "parameters": Parameters::of_gguf(&outline, sizes.as_deref()).json(file_bytes),
        "tensors": tensors(&outline, sizes.as_deref(), args.tensors),
    });
    if let Ok(model) = &model {
        add_model(&mut report, model, args.stats);
    }
    report["metadata"] = match args.json {
        true => metadata::json(&outline.entries),
        false => metadata::short(&outline.entries),
    };
    Ok(report)
}

/// Why a file cannot be run. What messages quote of a file is escaped already.
fn reason(error: &bitnetc::Error) -> String {
    match error {
        bitnetc::Error::Gguf { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// The tensors by type, and one by one if `list`; bytes where they are known.
fn tensors(outline: &Outline<'_>, sizes: Option<&[u64]>, list: bool) -> Value {
    let size = |index: usize| sizes.and_then(|sizes| sizes.get(index)).copied();
    let mut types: BTreeMap<String, (u64, Option<u64>)> = BTreeMap::new();
    for (index, tensor) in outline.tensors.iter().enumerate() {
        let entry = types.entry(tensor.type_name()).or_insert((0, Some(0)));
        entry.0 += 1;
        entry.1 = entry.1.zip(size(index)).map(|(all, one)| all + one);
    }
    let by_type = types.iter().map(|(name, (count, bytes))| {
        let value = match bytes {
            Some(bytes) => json!({ "count": count, "bytes": bytes }),
            None => json!({ "count": count }),
        };
        (name.clone(), value)
    });
    let mut value = json!({
        "count": outline.tensors.len(),
        "by_type": by_type.collect::<serde_json::Map<_, _>>(),
    });
    if list {
        let one = |(index, t): (usize, &bitnetc_frontend_gguf::ListedTensor<'_>)| {
            json!({
                "name": safe(t.name),
                "type": t.type_name(),
                "dims": t.dims.to_string(),
                "bytes": size(index),
            })
        };
        value["list"] = outline.tensors.iter().enumerate().map(one).collect();
    }
    value
}

/// What the program takes the file for.
fn add_model(report: &mut Value, model: &Model<'_>, stats: bool) {
    let hparams = model.hparams();
    let tokenizer = model.tokenizer();
    let special = tokenizer.special();
    report["hyper_parameters"] = json!({
        "vocab": hparams.vocab,
        "context": hparams.context,
        "hidden": hparams.hidden,
        "layers": hparams.layers,
        "ffn": hparams.ffn,
        "heads": hparams.heads,
        "kv_heads": hparams.kv_heads,
        "head_dim": hparams.head_dim,
        "rope_dim": hparams.rope_dim,
        "rope_theta": hparams.rope_theta,
        "eps": shortest(hparams.eps),
        "activation": hparams.activation.name(),
        "tied_head": model.output().is_none(),
    });
    report["tokenizer"] = json!({
        "model": tokenizer.model().name(),
        "pre": tokenizer.pre().map(PreTokenizer::name),
        "tokens": tokenizer.tokens().len(),
        "merges": tokenizer.merges().count(),
        "bos": special.bos,
        "eos": special.eos,
        "end_tokens": tokenizer.end_of_generation(),
        "add_bos": tokenizer.add_bos(),
        "chat_template_bytes": tokenizer.chat_template().map(str::len),
    });
    report["notes"] = model.notes().iter().map(|n| n.to_string()).collect();
    if stats {
        report["stats"] = model.tensors().filter_map(|t| Some(tensor_stats(t, &model.stats(t)?))).collect();
    }
}

/// The number of f64 that is written like the one of f32, with the fewest digits that tell it from its neighbours.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn tensor_stats(tensor: &TensorInfo<'_>, stats: &TensorStats) -> Value {
    let form = stats.form.map(|form| match form {
        Form::I2s128 => "ternary".to_owned(),
        Form::Ternary { group: None } => "ternary, one scale per row".to_owned(),
        Form::Ternary { group: Some(group) } => format!("ternary, one scale per {group} columns"),
        Form::Dense(format) => format!("dense {}", format.tensor_type().name()),
    });
    json!({
        "name": safe(tensor.name()),
        "hash": stats.hash.iter().map(|b| format!("{b:02x}")).collect::<String>(),
        "negative": stats.signs[0],
        "zero": stats.signs[1],
        "positive": stats.signs[2],
        "not_finite": stats.not_finite,
        "min": stats.min,
        "max": stats.max,
        "rms": stats.rms,
        "form": form,
    })
}

fn plan_report(name: &str, plan: &Plan, list: bool) -> Result<Value, bitnetc::Error> {
    let index = plan.index();
    let meta = index.meta();
    let module = bitnetc::load::plan_module(std::path::Path::new(name), plan)?;
    let tokenizer = plan.tokenizer()?;
    let pairs = |pairs: &[(String, String)]| -> Value {
        pairs.iter().map(|(k, v)| (safe(k), Value::String(safe(v)))).collect::<serde_json::Map<_, _>>().into()
    };
    let functions: serde_json::Map<_, _> = module
        .funcs()
        .values()
        .map(|f| {
            let plan = f.plan.as_ref();
            let value = json!({
                "ops": f.order().len(),
                "tokens": f.tokens().max(),
                "arena_bytes": plan.map(|p| p.arena_bytes),
                "barriers": f.barriers(),
            });
            (f.name().to_owned(), value)
        })
        .collect();
    let mut report = json!({
        "schema": SCHEMA,
        "kind": "plan",
        "model": safe(name),
        "file_bytes": plan.file().len(),
        "name": safe(&meta.model_name),
        "architecture": safe(&meta.architecture),
        "producer": safe(&meta.producer),
        "source": {
            "bytes": meta.source.bytes,
            "hash": meta.source.hash.iter().map(|b| format!("{b:02x}")).collect::<String>(),
        },
        "options": pairs(&meta.creation_options),
        "hyper_parameters": pairs(&meta.hyper_parameters),
        "parameters": Parameters::of_plan(&module, index.weights()).json(plan.file().len() as u64),
        "module": {
            "stage": module.stage.name(),
            "target": module.target.as_ref().map(ToString::to_string),
            "functions": functions,
        },
        "weights": {
            "count": index.weights().len(),
            "bytes": index.weights().iter().map(|w| w.length).sum::<u64>(),
        },
        "tokenizer": tokenizer.map(|t| json!({
            "tokens": t.tokens.len(),
            "merges": t.merges.len(),
            "bos": t.bos,
            "eos": t.eos,
            "end_tokens": t.eog,
            "add_bos": t.add_bos,
            "chat_template_bytes": index.chat_template().map(str::len),
        })),
        "defaults_used": meta.defaults_used.iter().map(|d| safe(d)).collect::<Vec<_>>(),
    });
    if list {
        report["weights"]["list"] = index
            .weights()
            .iter()
            .map(|w| json!({ "name": safe(&w.name), "kind": safe(&w.kind), "bytes": w.length }))
            .collect();
    }
    Ok(report)
}

/// The report as indented text.
fn render(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    let Value::Object(map) = value else { return };
    for (key, value) in map.iter().filter(|(key, value)| *key != "schema" && !value.is_null()) {
        // Keys of ours are words; names of types stay as they are.
        let is_word = key.chars().all(|c| c.is_lowercase() || c == '_');
        if key == "metadata" {
            *out += &format!("{pad}{key}\n{}", scalar(value));
            continue;
        }
        let title = if is_word { key.replace('_', " ") } else { key.clone() };
        match value {
            Value::Object(_) => {
                *out += &format!("{pad}{title}\n");
                render(value, indent + 2, out);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                *out += &format!("{pad}{title}\n");
                *out += &rows(items, &format!("{pad}  "));
            }
            Value::Array(items)
                if ["notes", "defaults_used", "errors", "warnings"].contains(&key.as_str()) =>
            {
                for item in items {
                    *out += &format!("{pad}{}\n", scalar(item));
                }
            }
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) => {
                let cells: Vec<String> = items.iter().map(scalar).collect();
                *out += &format!("{pad}{title:<18} {}\n", cells.join(" "));
            }
            Value::Number(n) if ["total", "ternary", "embedding", "other"].contains(&key.as_str()) => {
                let human = output::rounded(n.as_f64().unwrap_or_default());
                *out += &format!("{pad}{title:<18} {n} ({human})\n");
            }
            Value::Number(n) if key.starts_with("bits_per") => {
                *out += &format!("{pad}{title:<18} {:.2}\n", n.as_f64().unwrap_or_default());
            }
            Value::Number(n) if key.ends_with("bytes") => {
                let human = n.as_u64().map(in_units).unwrap_or_default();
                *out += &format!("{pad}{title:<18} {n} ({human})\n");
            }
            other => *out += &format!("{pad}{title:<18} {}\n", scalar(other)),
        }
    }
}

/// Objects of the same keys as rows of columns: numbers to the right.
fn rows(items: &[Value], pad: &str) -> String {
    let cells: Vec<Vec<(String, bool)>> = items
        .iter()
        .filter_map(Value::as_object)
        .map(|item| item.values().map(|value| (scalar(value), value.is_number())).collect())
        .collect();
    let width = |column: usize| {
        let of = |row: &Vec<(String, bool)>| row.get(column).map_or(0, |(cell, _)| cell.chars().count());
        cells.iter().map(of).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..cells.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let padded = row.iter().zip(&widths).map(|((cell, is_number), &width)| match is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text += &format!("{pad}{}\n", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        // A small number is a power of ten more legibly than a row of zeros.
        Value::Number(n) if n.as_f64().is_some_and(|x| x != 0.0 && x.abs() < 1e-3) => {
            format!("{:e}", n.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_more_digits_than_they_need() {
        assert_eq!(shortest(1e-5), 1e-5);
        assert_eq!(scalar(&json!(shortest(1e-5))), "1e-5");
        assert_eq!(scalar(&json!(shortest(1e-6))), "1e-6");
        assert_eq!(
            (scalar(&json!(500_000.0)), scalar(&json!(0)), scalar(&json!(0.5))),
            ("500000.0".to_owned(), "0".to_owned(), "0.5".to_owned())
        );
    }

    #[test]
    fn rows_stand_in_columns() {
        let items = [json!({ "name": "a", "bytes": 7 }), json!({ "name": "longer", "bytes": 1234 })];
        // The keys of an object are in the order of their names or of their insertion, as serde_json is built.
        let text = rows(&items, "  ");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            text == "     7  a\n  1234  longer\n" || lines == ["  a          7", "  longer  1234"],
            "{text}"
        );
    }
}
