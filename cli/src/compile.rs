//! `bitnetc compile`: a GGUF model to a plan file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnetc::compile::{PlanSummary, plan_model_with};
use bitnetc::load::Source;
use bitnetc_runtime::memory::in_units;

use super::args::CompileArgs;
use super::failure::Failure;
use super::interrupt::Patience;
use super::{Outcome, input_file, interrupt, models, output, progress};
use crate::exit;

/// Runs the command.
pub(crate) fn run(args: &CompileArgs, quiet: bool) -> Outcome {
    let mut options = args.lowering.options(&args.target)?;
    options.verify_each = args.observe.verify_each;
    options.stop_after = args.observe.stop_after;
    options.codegen = args.selector.codegen.into();
    let name = args.model.name()?;
    let model_path = models::resolve(name, quiet)?;
    let open = || {
        let source = Source::open(model_path.as_deref(), args.memory.map_mode())?;
        Ok::<_, Failure>(source.with_options(args.options.model_options()))
    };
    if args.emit.is_given() {
        interrupt::listen();
        return super::emit::run(args, &open()?, &options);
    }
    let output_path = match &args.output {
        Some(path) => path.clone(),
        None => plan_beside(name, model_path.as_deref()),
    };
    input_file::refuse_standard(&output_path)?;
    interrupt::listen();
    let clock = Instant::now();
    let source = open()?;
    if matches!(source, Source::Gguf { .. }) {
        input_file::refuse_inputs(&output_path, [model_path.as_deref()])?;
    }
    if model_path.is_none() {
        output::say(quiet, format!("no model given: using {}", source.name()));
    }
    let model = progress::working("reading", quiet || args.json, || source.gguf_model())?;
    let named = PathBuf::from(source.name());
    let lower = || {
        args.observe.watch(args.json, |instruments| {
            let planned = plan_model_with(&named, &model, &options, instruments)?;
            let report = planned.passes.clone();
            Ok((planned, report))
        })
    };
    let (planned, _) = progress::working("compiling", quiet || args.json, lower)?;
    for note in &planned.notes {
        output::say(quiet, note);
    }
    let _patience = Patience::new();
    let bar = progress::bar("packing", planned.weight_bytes(), quiet || args.json);
    let written = planned.write(&output_path, |done| {
        bar.set_position(done);
        !interrupt::requested() && source.check().is_ok()
    });
    source.check()?;
    let summary = written?;
    bar.finish_and_clear();
    let seconds = clock.elapsed().as_secs_f64();
    if args.json {
        output::print_json(&json(&summary, &output_path, seconds))?;
    } else {
        output::print(&text(&summary, &output_path, seconds))?;
    }
    Ok(exit::OK)
}

/// Where a plan goes for which no place is given: beside the model; that of a cached or the built-in model, into the current
/// directory.
fn plan_beside(name: Option<&Path>, model: Option<&Path>) -> PathBuf {
    match model {
        Some(path) if Some(path) == name => path.with_extension("plan"),
        Some(path) => PathBuf::from(path.file_name().unwrap_or_default()).with_extension("plan"),
        None => PathBuf::from("builtin.plan"),
    }
}

fn text(summary: &PlanSummary, path: &std::path::Path, seconds: f64) -> String {
    let mut text = format!("{:<20} {:>8} {:>9} {:>12}\n", "pass", "patches", "ops", "time");
    for pass in &summary.passes.passes {
        text += &format!(
            "{:<20} {:>8} {:>9} {:>9.2} ms\n",
            pass.pass.name(),
            pass.patches,
            format!("{}→{}", pass.nodes_before, pass.nodes_after),
            pass.seconds * 1e3
        );
    }
    let s = summary;
    text += &format!(
        "\nkernels          {} distinct, {} steps per token, {} barriers\n",
        s.kernels, s.steps, s.barriers
    );
    text += &format!(
        "bytes per token  {} of weights, and {} of KV cache per position\n",
        in_units(s.bytes_per_token),
        in_units(s.kv_bytes_per_position)
    );
    text += &format!(
        "peak memory      {} at a context of {}: weights {}, KV cache {}, activations {}, other buffers {}\n",
        in_units(s.memory.total()),
        s.context,
        in_units(s.memory.weights),
        in_units(s.memory.kv_cache),
        in_units(s.memory.arena),
        in_units(s.memory.io)
    );
    text += &format!("plan             {} ({}), in {seconds:.2} s\n", path.display(), in_units(s.file_bytes));
    text
}

fn json(s: &PlanSummary, path: &std::path::Path, seconds: f64) -> serde_json::Value {
    serde_json::json!({
        "schema": "bitnetc.compile/2",
        "plan": path.display().to_string(),
        "plan_bytes": s.file_bytes,
        "total_ms": 1e3 * seconds,
        "passes": s.passes.passes.iter().map(|p| serde_json::json!({
            "name": p.pass.name(),
            "patches": p.patches,
            "changed": p.changed,
            "ops_before": p.nodes_before,
            "ops_after": p.nodes_after,
            "time_ms": p.seconds * 1e3,
        })).collect::<Vec<_>>(),
        "kernels": s.kernels,
        "steps_per_token": s.steps,
        "barriers_per_token": s.barriers,
        "weight_bytes_per_token": s.bytes_per_token,
        "kv_bytes_per_position": s.kv_bytes_per_position,
        "context": s.context,
        "memory": {
            "planned_bytes": s.memory.total(),
            "weights_bytes": s.memory.weights,
            "kv_cache_bytes": s.memory.kv_cache,
            "activation_bytes": s.memory.arena,
            "other_bytes": s.memory.io,
        },
    })
}
