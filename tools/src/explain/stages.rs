//! Passes one by one: what each did, and the text that it changed.
//!
//! Of the text only an excerpt is shown: the first layer and what belongs to no layer, of every entry point.

use bitnetc_ir::{Module, text};
use bitnetc_passes::{PassContext, Pipeline};

use super::diff;
use super::document::StageInfo;
use super::entries::layers;
use crate::error::Error;

/// Longest line of an excerpt, in characters.
const MOST_CHARACTERS: usize = 240;

/// Runs the passes over `imported`; the planned module, and a line for the import and each pass. `texts`: with differences.
pub(super) fn run(
    pipeline: &Pipeline,
    imported: Module,
    context: &PassContext,
    texts: bool,
) -> Result<(Module, Vec<StageInfo>), Error> {
    let excerpt_of = |module: &Module| if texts { excerpt(module) } else { Vec::new() };
    let ops = |module: &Module| module.funcs().values().map(|f| f.order().len()).sum::<usize>();
    let mut module = imported;
    let mut before = excerpt_of(&module);
    let mut stages = vec![StageInfo {
        pass: "import".to_owned(),
        description: "The module as the front-end lowered the file.".to_owned(),
        stage: module.stage.name(),
        patches: 0,
        changed: true,
        ops_before: 0,
        ops_after: ops(&module),
        weights_after: module.params().len(),
        diff: before.iter().map(|line| format!(" {line}")).collect(),
    }];
    for pass in pipeline.passes() {
        let (next, report) = bitnetc_passes::run(&Pipeline::new(vec![pass.clone()]), module, context)?;
        let report = report.passes.first();
        let changed = report.is_some_and(|r| r.changed);
        let after = if changed { excerpt_of(&next) } else { before.clone() };
        stages.push(StageInfo {
            pass: pass.name().to_owned(),
            description: pass.description.to_owned(),
            stage: next.stage.name(),
            patches: report.map_or(0, |r| r.patches),
            changed,
            ops_before: report.map_or(0, |r| r.nodes_before),
            ops_after: report.map_or(0, |r| r.nodes_after),
            weights_after: next.params().len(),
            diff: if before == after { Vec::new() } else { diff::lines(&before, &after) },
        });
        (module, before) = (next, after);
    }
    Ok((module, stages))
}

/// Whether a name (without its sign) is of a layer that is left out.
fn left_out(name: &str) -> bool {
    let layer = name.strip_prefix('l').and_then(|rest| rest.split_once('.'));
    layer.is_some_and(|(digits, _)| digits.parse::<u32>().is_ok_and(|layer| layer > 0))
}

/// The lines of a module's text that are shown.
fn excerpt(module: &Module) -> Vec<String> {
    let mut lines = Vec::new();
    let all = text::print(module);
    let is_param = |line: &&str| line.starts_with("param @");
    let name = |line: &str| line.trim_start_matches("param @").split(':').next().map(str::to_owned);
    lines.extend(all.lines().next().map(shortened));
    let params = all.lines().filter(is_param).filter(|line| !name(line).is_some_and(|n| left_out(&n)));
    lines.extend(params.map(shortened));
    for func in module.funcs().values() {
        let layers = layers(module, func);
        let text = text::print_func(module, func);
        let (mut in_body, mut op) = (false, 0);
        for line in text.lines() {
            let shown = match in_body {
                true => {
                    let layer = layers.get(op).copied().flatten();
                    if layer == Some(1) && layers.get(op.wrapping_sub(1)) == Some(&Some(0)) {
                        lines.push("  ; further layers".to_owned());
                    }
                    op += 1;
                    layer.is_none_or(|layer| layer == 0)
                }
                false => !left_out(line.trim_start().trim_start_matches('%')),
            };
            if shown {
                lines.push(shortened(line));
            }
            in_body |= line.ends_with(" {");
        }
    }
    lines
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
