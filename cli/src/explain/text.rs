//! The document as text: what fits on a terminal of 100 columns.

use std::fmt::Write;

use bitnetc_tools::explain::{Document, Entry, Kind, OpInfo, Part, WorkInfo};

use crate::output::bytes;

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

fn count(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n if n < 1e9 => format!("{:.1} M", n / 1e6),
        n => format!("{:.2} G", n / 1e9),
    }
}

fn or_dash(n: u64, show: impl Fn(u64) -> String) -> String {
    if n == 0 { "-".to_owned() } else { show(n) }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// A line of `name: value`.
fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name:<12} {value}");
}

/// The report.
pub(crate) fn report(document: &Document) -> String {
    let mut text = String::new();
    let model = &document.model;
    line(
        &mut text,
        "model",
        &format!("{}, {} ({})", safe(&model.name), safe(&model.architecture), safe(&model.file)),
    );
    let options = model.options.iter().filter(|(name, _)| *name != "passes");
    let options: Vec<String> =
        options.map(|(name, value)| format!("{} {}", name.replace('_', " "), safe(value))).collect();
    line(&mut text, "compiled", &options.join(", "));
    let machine = &document.machine;
    line(&mut text, "target", &format!("{}, {} threads", machine.target, machine.threads));
    let speeds = format!(
        "{}: {:.1} GB/s with one thread, {:.1} GB/s with all, {}MAC/s of int8, vectors of {} bytes",
        if machine.measured { "measured" } else { "assumed" },
        machine.read_one / 1e9,
        machine.read_all / 1e9,
        count(machine.int8_peak),
        machine.vector_bytes
    );
    line(&mut text, "speeds", &speeds);
    let memory: Vec<String> =
        model.memory.iter().map(|(name, n)| format!("{} {}", name.replace('_', " "), bytes(*n))).collect();
    let total: u64 = model.memory.values().sum();
    let memory = format!("{} at a context of {}: {}", bytes(total), model.context, memory.join(", "));
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
    let behind = if document.position > 0 { format!(" behind {}", document.position) } else { String::new() };
    let _ = writeln!(text, "@{}: {what}{behind}", entry.name);
    let p = &entry.predicted;
    let speed = |ns: f64| format!("{}, {} tokens/s", time(ns), count(f64::from(entry.tokens) / (ns * 1e-9)));
    line(&mut text, "  predicted", &speed(p.ns));
    if let Some(ns) = entry.measured_ns {
        let measured = format!("{}; {} of the prediction", speed(ns), percent(ns / p.ns.max(0.1)));
        line(&mut text, "  measured", &measured);
    }
    let of = entry.measured_ns.unwrap_or(p.ns).max(0.1);
    line(
        &mut text,
        "  roofline",
        &format!("{} by {}, {} of that", time(p.least_ns), p.bound, percent(p.least_ns / of)),
    );
    let w = &entry.work;
    let reads = format!(
        "{} of weights and {} of KV cache{}; {} multiply-adds",
        bytes(w.weight_bytes),
        bytes(w.kv_read_bytes),
        if entry.resident { ", which stay in the caches" } else { "" },
        count(w.macs() as f64)
    );
    line(&mut text, "  reads", &reads);
    let private = match entry.private_bytes {
        0 => String::new(),
        n => format!(", and {} for each thread", bytes(n)),
    };
    line(&mut text, "  arena", &format!("{}{private}", bytes(entry.arena_bytes)));
    let ops = entry.ops.iter().filter(|op| !document.kinds[op.kind].kernels.is_empty()).count();
    line(&mut text, "  schedule", &format!("{ops} ops in {} phases", entry.barriers + 1));
    text.push('\n');
    text += &by_op(document, entry);
    text += &parts_text(document, entry);
    text += &chart(document, entry);
    text
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

fn by_op(document: &Document, entry: &Entry) -> String {
    let measured = entry.measured_ns.is_some();
    let mut text = format!(
        "  {:<16} {:>4} {:>9} {:>9} {:>9} {:>8} {:>10} {:>6} {:<7}",
        "op", "ops", "weights", "KV", "other", "MAC", "predicted", "share", "bound"
    );
    text += if measured { "   measured  roofline\n" } else { " roofline\n" };
    for row in rows(document, entry) {
        let w = &row.work;
        let of = if measured { row.measured_ns } else { row.ns };
        let roofline = if row.least_ns > 0.0 { percent(row.least_ns / of.max(0.1)) } else { "-".to_owned() };
        let _ = write!(
            text,
            "  {:<16} {:>4} {:>9} {:>9} {:>9} {:>8} {:>10} {:>6} {:<7}",
            row.op,
            row.ops,
            or_dash(w.weight_bytes, bytes),
            or_dash(w.kv_read_bytes + w.kv_written_bytes, bytes),
            bytes(w.read_bytes + w.written_bytes),
            or_dash(w.macs(), |n| count(n as f64)),
            time(row.ns),
            percent(row.ns / entry.predicted.ns.max(0.1)),
            row.bound
        );
        let _ = match measured {
            true => writeln!(text, " {:>10} {roofline:>9}", time(row.measured_ns)),
            false => writeln!(text, " {roofline:>8}"),
        };
    }
    text
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
    let flags = [(kind.replicated, " (every thread)"), (op.barrier, " | meet")];
    let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
    format!("    {:<16} {:>9}{measured}  {}{flags}\n", kind.op, time, kernels.join(", "))
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
        legend.push(format!("{} {} of {made}, {}", char::from(letter), value.name, bytes(value.size)));
    }
    let mut text = "  arena over the ops above, one column each\n".to_owned();
    for (number, row) in grid.iter().enumerate() {
        let from = bytes(number as u64 * row_bytes);
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
