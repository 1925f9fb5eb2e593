//! The document as text: what fits on a terminal of 100 columns, or of 120 with measured times.

use std::fmt::Write;

use bitnetc_runtime::memory::in_units;
use bitnetc_tools::explain::{Document, Entry, Kind, OpInfo, Part, WorkInfo};

use crate::output::rounded;

/// Columns of the chart of the arena.
const CHART_COLUMNS: usize = 72;
/// Rows of it.
const CHART_ROWS: u64 = 12;

/// Text from a file, safe to print on a terminal.
fn safe(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Nanoseconds for people.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

fn or_dash(n: u64, show: impl Fn(u64) -> String) -> String {
    if n == 0 { "-".to_owned() } else { show(n) }
}

/// A ratio as a multiple: 1.25×, 12.3×, 285×.
fn multiple(ratio: f64) -> String {
    match ratio {
        r if r < 9.995 => format!("{r:.2}×"),
        r if r < 99.95 => format!("{r:.1}×"),
        r => format!("{r:.0}×"),
    }
}

/// A share of a whole in per cent; what exceeds the whole, as a multiple.
fn portion(share: f64) -> String {
    match share {
        s if s > 1.005 => multiple(s),
        s if s < 0.1 => format!("{:.1} %", 100.0 * s),
        s => format!("{:.0} %", 100.0 * s),
    }
}

/// The shares of values in their sum, in tenths of a per cent that add up to exactly 100 %: the largest remainders are rounded up.
fn shares(values: &[f64]) -> Vec<String> {
    let sum: f64 = values.iter().sum();
    if sum.is_nan() || sum <= 0.0 {
        return vec!["-".to_owned(); values.len()];
    }
    let exact: Vec<f64> = values.iter().map(|value| 1000.0 * value / sum).collect();
    let mut tenths: Vec<u32> = exact.iter().map(|x| x.floor() as u32).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let left = 1000u32.saturating_sub(tenths.iter().sum());
    order.iter().take(left as usize).for_each(|&i| tenths[i] += 1);
    tenths.iter().map(|n| format!("{}.{} %", n / 10, n % 10)).collect()
}

/// A line of `name: value`.
fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name:<12} {value}");
}

/// The kinds of memory, by their names in JSON and in text, in the order of all commands.
const MEMORY: &[(&str, &str)] = &[
    ("weights", "weights"),
    ("kv_cache", "KV cache"),
    ("activations", "activations"),
    ("other", "other buffers"),
];

/// The report.
pub(crate) fn report(document: &Document) -> String {
    let mut text = String::new();
    let model = &document.model;
    line(
        &mut text,
        "model",
        &format!("{}, {} ({})", safe(&model.name), safe(&model.architecture), safe(&document.file)),
    );
    let options = model.options.iter().filter(|(name, _)| *name != "passes");
    let options: Vec<String> =
        options.map(|(name, value)| format!("{} {}", name.replace('_', " "), safe(value))).collect();
    line(&mut text, "compiled", &options.join(", "));
    let machine = &document.machine;
    line(&mut text, "target", &format!("{}, {} threads", machine.target, machine.threads));
    let speeds = format!(
        "{}: {:.1} GB/s with one thread, {:.1} GB/s with all threads, {}MAC/s int8, {}-byte vectors",
        if machine.measured { "measured" } else { "assumed" },
        machine.read_one / 1e9,
        machine.read_all / 1e9,
        rounded(machine.int8_peak),
        machine.vector_bytes
    );
    line(&mut text, "speeds", &speeds);
    let memory =
        MEMORY.iter().filter_map(|(key, name)| Some(format!("{name} {}", in_units(*model.memory.get(key)?))));
    let memory: Vec<String> = memory.collect();
    let total: u64 = model.memory.values().sum();
    let memory = format!("{} at a context of {}: {}", in_units(total), model.context, memory.join(", "));
    line(&mut text, "memory", &memory);
    for entry in &document.entries {
        text.push('\n');
        text += &entry_text(document, entry);
    }
    if !document.stages.is_empty() {
        let _ = writeln!(text, "\n{:<20} {:>8} {:>12} {:>8}  stage", "pass", "patches", "ops", "weights");
        for stage in &document.stages {
            let ops = format!("{}→{}", stage.ops_before, stage.ops_after);
            let _ = writeln!(
                text,
                "{:<20} {:>8} {:>12} {:>8}  {}",
                stage.pass, stage.patches, ops, stage.weights_after, stage.stage
            );
        }
    }
    text
}

fn entry_text(document: &Document, entry: &Entry) -> String {
    let mut text = String::new();
    let what = match entry.tokens {
        1 => "one token".to_owned(),
        n => format!("{n} tokens"),
    };
    let after = if document.position > 0 { format!(" after {}", document.position) } else { String::new() };
    let _ = writeln!(text, "@{}: {what}{after}", entry.name);
    let p = &entry.predicted;
    let speed =
        |ns: f64| format!("{}, {} tokens/s", time(ns), rounded(f64::from(entry.tokens) / (ns * 1e-9)));
    line(&mut text, "  predicted", &speed(p.ns));
    if let Some(ns) = entry.measured_ns {
        let measured = format!("{}; {} the prediction", speed(ns), multiple(ns / p.ns.max(0.1)));
        line(&mut text, "  measured", &measured);
    }
    let of = entry.measured_ns.unwrap_or(p.ns).max(0.1);
    line(
        &mut text,
        "  roofline",
        &format!("{} by {}, {} of that", time(p.least_ns), p.bound, portion(p.least_ns / of)),
    );
    let w = &entry.work;
    let reads = format!(
        "{} of weights and {} of KV cache{}; {} multiply-adds",
        in_units(w.weight_bytes),
        in_units(w.kv_read_bytes),
        if entry.resident { ", which stay in the caches" } else { "" },
        rounded(w.macs() as f64)
    );
    line(&mut text, "  reads", &reads);
    let private = match entry.private_bytes {
        0 => String::new(),
        n => format!(", and {} per thread", in_units(n)),
    };
    line(&mut text, "  arena", &format!("{}{private}", in_units(entry.arena_bytes)));
    let ops = entry.ops.iter().filter(|op| !document.kinds[op.kind].kernels.is_empty()).count();
    line(&mut text, "  schedule", &schedule(ops, entry.barriers));
    text.push('\n');
    text += &by_op(document, entry);
    text += &parts_text(document, entry);
    text += &chart(document, entry);
    text
}

/// How ops are divided, with nouns in their number.
fn schedule(ops: usize, barriers: usize) -> String {
    let number = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let (phases, barriers) = (number(barriers + 1, "phase"), number(barriers, "barrier"));
    format!("{} in {phases}, {barriers} between them", number(ops, "op"))
}

/// The ops of one mnemonic together.
struct Row<'a> {
    op: &'a str,
    ops: usize,
    work: WorkInfo,
    ns: f64,
    least_ns: f64,
    measured_ns: f64,
    bound: &'a str,
    longest_ns: f64,
}

fn add(total: &mut WorkInfo, other: &WorkInfo) {
    total.weight_bytes += other.weight_bytes;
    total.kv_read_bytes += other.kv_read_bytes;
    total.kv_written_bytes += other.kv_written_bytes;
    total.read_bytes += other.read_bytes;
    total.written_bytes += other.written_bytes;
    total.ternary_macs += other.ternary_macs;
    total.dense_macs += other.dense_macs;
    total.attention_macs += other.attention_macs;
}

fn rows<'a>(document: &'a Document, entry: &'a Entry) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for op in &entry.ops {
        let kind = &document.kinds[op.kind];
        if kind.kernels.is_empty() {
            continue;
        }
        let at = rows.iter().position(|row| row.op == kind.op).unwrap_or_else(|| {
            rows.push(Row {
                op: kind.op,
                ops: 0,
                work: WorkInfo::default(),
                ns: 0.0,
                least_ns: 0.0,
                measured_ns: 0.0,
                bound: "",
                longest_ns: -1.0,
            });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.ops += 1;
        add(&mut row.work, &kind.work);
        row.ns += kind.predicted.ns;
        row.least_ns += kind.predicted.least_ns;
        row.measured_ns += op.measured.as_ref().map_or(0.0, |m| m.ns());
        if kind.predicted.ns > row.longest_ns {
            (row.longest_ns, row.bound) = (kind.predicted.ns, kind.predicted.bound);
        }
    }
    rows.sort_by(|a, b| b.ns.total_cmp(&a.ns));
    rows
}

/// A line of the table by op: name, number, weights, KV, other, MAC, predicted time, its share, bound, and the rest.
fn table_line(cells: [&str; 9], rest: &[String]) -> String {
    let [op, ops, weights, kv, other, macs, time, share, bound] = cells;
    let mut text = format!(
        "  {op:<16} {ops:>4} {weights:>9} {kv:>9} {other:>9} {macs:>8} {time:>10} {share:>7} {bound:<7}"
    );
    rest.iter().for_each(|cell| text += &format!(" {cell:>9}"));
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// The ops by mnemonic, and what is no op's: the rows add up to the time of a call.
fn by_op(document: &Document, entry: &Entry) -> String {
    let rows = rows(document, entry);
    let measured = entry.measured_ns.is_some();
    let (waited, dispatch) =
        (entry.measured_barrier_ns.unwrap_or(0.0), entry.measured_dispatch_ns.unwrap_or(0.0));
    let predicted: Vec<f64> = rows.iter().map(|row| row.ns).chain([entry.barrier_ns, 0.0]).collect();
    let taken: Vec<f64> = rows.iter().map(|row| row.measured_ns).chain([waited, dispatch]).collect();
    let (predicted_shares, taken_shares) = (shares(&predicted), shares(&taken));
    let rest = |i: usize, roofline: String| match measured {
        true => vec![time(taken[i]), taken_shares[i].clone(), roofline],
        false => vec![roofline],
    };
    let head: &[&str] = if measured { &["measured", "share", "roofline"] } else { &["roofline"] };
    let mut text = table_line(
        ["op", "ops", "weights", "KV", "other", "MAC", "predicted", "share", "bound"],
        &head.iter().map(|&title| title.to_owned()).collect::<Vec<_>>(),
    );
    for (i, row) in rows.iter().enumerate() {
        let w = &row.work;
        let of = if measured { row.measured_ns } else { row.ns };
        let roofline = if row.least_ns > 0.0 { portion(row.least_ns / of.max(0.1)) } else { "-".to_owned() };
        let cells = [
            row.ops.to_string(),
            or_dash(w.weight_bytes, in_units),
            or_dash(w.kv_read_bytes + w.kv_written_bytes, in_units),
            in_units(w.read_bytes + w.written_bytes),
            or_dash(w.macs(), |n| rounded(n as f64)),
            time(row.ns),
        ];
        let [ops, weights, kv, other, macs, ns] = cells.each_ref().map(String::as_str);
        let cells = [row.op, ops, weights, kv, other, macs, ns, &predicted_shares[i], row.bound];
        text += &table_line(cells, &rest(i, roofline));
    }
    let (barriers, dispatches) = (rows.len(), rows.len() + 1);
    if entry.barriers > 0 || waited > 0.0 {
        let (number, ns) = (entry.barriers.to_string(), time(entry.barrier_ns));
        let cells = ["barriers", &number, "-", "-", "-", "-", &ns, &predicted_shares[barriers], ""];
        text += &table_line(cells, &rest(barriers, String::new()));
    }
    if measured {
        let cells = ["dispatch", "", "-", "-", "-", "-", "-", &predicted_shares[dispatches], ""];
        text += &table_line(cells, &rest(dispatches, String::new()));
    }
    let whole = |values: &[f64]| time(values.iter().sum());
    let (ns, all) = (whole(&predicted), "100.0 %".to_owned());
    let cells = ["a call", "", "", "", "", "", &ns, &all, ""];
    let rest = if measured { vec![whole(&taken), all.clone()] } else { Vec::new() };
    text + &table_line(cells, &rest)
}

fn part_name(part: &Part) -> String {
    match (part.layer, part.count) {
        (None, _) => "no layer".to_owned(),
        (Some(layer), 1) => format!("layer {layer}"),
        (Some(layer), count) => format!("layers {layer}-{} (each)", layer + count - 1),
    }
}

fn op_line(document: &Document, op: &OpInfo, kind: &Kind) -> String {
    let kernels: Vec<&str> = kind.kernels.iter().map(|&k| document.kernels[k].name.as_str()).collect();
    let time = if kernels.is_empty() { "view".to_owned() } else { time(kind.predicted.ns) };
    let measured = op.measured.as_ref().map_or(String::new(), |m| format!(" {:>10}", self::time(m.ns())));
    let flag = if kind.replicated { " (every thread)" } else { "" };
    let mut text = format!("    {:<16} {time:>9}{measured}  {}{flag}\n", kind.op, kernels.join(", "));
    if op.barrier || op.inner_barrier {
        let waited =
            op.measured.as_ref().map_or(String::new(), |m| format!(" {:>10}", self::time(m.waited_ns())));
        let barriers = u8::from(op.barrier) + u8::from(op.inner_barrier);
        let name = if barriers == 1 { "barrier" } else { "barriers (2)" };
        let ns = f64::from(barriers) * document.machine.barrier_ns;
        text += &format!("    {:<16} {:>9}{waited}\n", name, self::time(ns));
    }
    text
}

/// The ops of each part, once for layers that are the same.
fn parts_text(document: &Document, entry: &Entry) -> String {
    let mut text = String::new();
    for part in &entry.parts {
        let ops = &entry.ops[part.start..part.start + part.length];
        let _ = writeln!(text, "  {}", part_name(part));
        for op in ops {
            text += &op_line(document, op, &document.kinds[op.kind]);
        }
    }
    text
}

/// The arena over the ops: a letter for each value, rows of equal bytes.
fn chart(document: &Document, entry: &Entry) -> String {
    let shown: Vec<usize> = entry
        .parts
        .iter()
        .flat_map(|part| part.start..part.start + part.length)
        .take(CHART_COLUMNS)
        .collect();
    if entry.arena_bytes == 0 || shown.is_empty() {
        return String::new();
    }
    let row_bytes = entry.arena_bytes.div_ceil(CHART_ROWS).max(1);
    let mut grid = vec![vec![b'.'; shown.len()]; CHART_ROWS as usize];
    let mut legend = Vec::new();
    let values = entry.values.iter().filter(|v| !v.private);
    let values = values.filter(|v| shown.iter().any(|op| (v.first..=v.last).contains(op)));
    for (number, value) in values.enumerate() {
        let letter = b'a' + (number % 26) as u8;
        let rows = value.offset / row_bytes..(value.offset + value.size).div_ceil(row_bytes).min(CHART_ROWS);
        for row in rows {
            for (column, op) in shown.iter().enumerate() {
                if (value.first..=value.last).contains(op) {
                    grid[row as usize][column] = letter;
                }
            }
        }
        let made = document.kinds[entry.ops[value.first].kind].op;
        legend.push(format!("{} {} of {made}, {}", char::from(letter), value.name, in_units(value.size)));
    }
    let mut text = "  arena over the ops above, one column each\n".to_owned();
    for (number, row) in grid.iter().enumerate() {
        let from = in_units(number as u64 * row_bytes);
        let _ = writeln!(text, "    {from:>9} {}", String::from_utf8_lossy(row));
    }
    for pair in legend.chunks(2) {
        let _ = match pair {
            [one, two] => writeln!(text, "    {one:<44} {two}"),
            _ => writeln!(text, "    {}", pair.concat()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_whatever_their_rounding() {
        let sum = |values: &[f64]| -> f64 {
            shares(values).iter().map(|s| s.trim_end_matches(" %").parse::<f64>().unwrap()).sum()
        };
        for values in [&[1.0, 1.0, 1.0][..], &[2.0, 0.001, 5.0, 7.3], &[1.0; 7], &[0.0, 3.0], &[1e12, 1.0]] {
            assert!((sum(values) - 100.0).abs() < 1e-9, "{values:?}: {:?}", shares(values));
        }
        assert_eq!(shares(&[1.0, 1.0, 1.0]), ["33.4 %", "33.3 %", "33.3 %"]);
        assert_eq!(shares(&[0.0, 0.0]), ["-", "-"]);
        assert_eq!(shares(&[f64::NAN]), ["-"]);
    }

    #[test]
    fn what_exceeds_the_whole_is_a_multiple() {
        assert_eq!([0.021, 0.5, 1.004, 1.25].map(portion), ["2.1 %", "50 %", "100 %", "1.25×"]);
        assert_eq!([284.97, 12.34, 9.999].map(multiple), ["285×", "12.3×", "10.0×"]);
    }
}
