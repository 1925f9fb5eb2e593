// Overview: what a call takes, by op, and what the model and the machine are.
function totals(e) {
  const rows = new Map();
  for (const op of e.ops) {
    const kind = kindOf(op);
    if (isView(op)) continue;
    const row = rows.get(kind.op) || { op: kind.op, ops: 0, weights: 0, kv: 0, acts: 0, macs: 0, ns: 0, least: 0, measured: 0, bound: new Map() };
    row.ops += 1;
    row.weights += kind.work.weight_bytes;
    row.kv += kind.work.kv_read_bytes + kind.work.kv_written_bytes;
    row.acts += kind.work.read_bytes + kind.work.written_bytes;
    row.macs += macs(kind.work);
    row.ns += kind.predicted.ns;
    row.least += kind.predicted.least_ns;
    row.measured += measuredNs(op);
    row.bound.set(kind.predicted.bound, (row.bound.get(kind.predicted.bound) || 0) + kind.predicted.ns);
    rows.set(kind.op, row);
  }
  const all = [...rows.values()].sort((a, b) => b.ns - a.ns);
  // What is no op's: with these rows the table adds up to the time of a call.
  const other = (name, ns, measured) => all.push({ op: name, other: true, ops: 0, ns, measured, least: 0 });
  if (e.barriers > 0 || e.measured_barrier_ns > 0) other("barriers", e.barrier_ns, e.measured_barrier_ns || 0);
  if (e.measured_ns) other("dispatch", 0, e.measured_dispatch_ns || 0);
  return all;
}
const rowClass = (row) => (row.other ? "barrier" : classOf(row.op));

function timeBar(rows, value) {
  const parts = rows.filter((row) => value(row) > 0);
  const percents = shares(parts.map(value));
  const all = parts.reduce((sum, row) => sum + value(row), 0) || 1;
  return h("div", { class: "bar" }, parts.map((row, i) =>
    h("span", { class: `back c-${rowClass(row)}`, style: { flex: `${value(row) / all} 1 0` }, ...tip(`${row.op}: ${time(value(row))}, ${percents[i]}`) },
      value(row) / all > 0.07 ? row.op : "")));
}

function overview(root) {
  const e = entry();
  const rows = totals(e);
  const measured = e.measured_ns;
  const seconds = (ns) => e.tokens / (ns * 1e-9);
  const tile = (text, value, more) => h("div", { class: "tile" }, h("span", {}, text), h("b", {}, value), more ? h("span", {}, more) : null);
  const one = e.tokens === 1;
  root.append(h("div", { class: "tiles" },
    tile(one ? "predicted for a call" : `predicted for ${e.tokens} tokens`, time(e.predicted.ns), `${count(seconds(e.predicted.ns))} tokens/s`),
    measured ? tile("measured", time(measured), `${count(seconds(measured))} tokens/s, ${multiple(measured / (e.predicted.ns || 1))} the prediction`) : null,
    tile("roofline", time(e.predicted.least_ns), `${portion(e.predicted.least_ns / (measured || e.predicted.ns))} of the ${measured ? "measured" : "predicted"} time, by ${e.predicted.bound}`),
    tile("read from memory", bytes(fromMemory(e.work)), e.resident ? "stays in the caches" : `${bytes(e.work.kv_read_bytes)} of it from the KV cache`),
    tile("multiply-adds", count(macs(e.work)), one ? "for one token" : `${count(macs(e.work) / e.tokens)} a token`),
    tile("phases", String(e.barriers + 1), `${e.ops.filter((op) => !isView(op)).length} ops, ${doc.kernels.length} kernels in all`),
    tile("arena", bytes(e.arena_bytes), e.private_bytes ? `and ${bytes(e.private_bytes)} for each thread` : null)));

  root.append(h("section", { class: "card" }, h("h2", {}, `Where the time of @${e.name} goes`),
    h("div", { class: "bars" },
      h("span", {}, "predicted"), timeBar(rows, (row) => row.ns), h("span", {}, time(e.predicted.ns)),
      measured ? [h("span", {}, "measured"), timeBar(rows, (row) => row.measured), h("span", {}, time(measured))] : null),
    legend(Object.keys(CLASSES).filter((name) => rows.some((row) => rowClass(row) === name)))));

  const bound = (row) => [...row.bound.entries()].sort((a, b) => b[1] - a[1])[0][0];
  const predictedShares = shares(rows.map((row) => row.ns)), measuredShares = shares(rows.map((row) => row.measured));
  const share = (row, value, sum, text) => h("td", {}, h("span", { class: "share" }, h("i", { style: { width: width(value / (sum || 1)) } })), text);
  const sums = { ns: rows.reduce((a, row) => a + row.ns, 0), measured: rows.reduce((a, row) => a + row.measured, 0) };
  const cells = (texts) => texts.map((text) => h("td", {}, text));
  const pick = (row) => {
    if (row.other) return {};
    // A row stays a row of its table, also where it answers to the keyboard.
    const { role, ...answers } = press(() => pickOp(e.ops.findIndex((op) => kindOf(op).op === row.op)));
    return { class: "pick", ...answers };
  };
  root.append(h("section", { class: "card" }, h("h2", {}, "By op"), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["op", "ops", "weights", "KV cache", "activations", "multiply-adds", "predicted", "share", "bound by", "of roofline",
      ...(measured ? ["measured", "share", "of roofline"] : [])].map((text) => h("th", {}, text)))),
    h("tbody", {}, rows.map((row, i) => h("tr", pick(row),
      h("td", {}, h("i", { class: `share back c-${rowClass(row)}`, style: { width: ".7em" } }), row.op),
      row.other ? cells([row.op === "barriers" ? String(e.barriers) : "", "", "", "", ""])
        : cells([String(row.ops), orDash(row.weights, bytes), orDash(row.kv, bytes), bytes(row.acts), orDash(row.macs, count)]),
      h("td", {}, orDash(row.ns, time)), share(row, row.ns, sums.ns, predictedShares[i]),
      cells(row.other ? ["", ""] : [bound(row), orDash(row.least, () => portion(row.least / row.ns))]),
      measured ? [h("td", {}, time(row.measured)), share(row, row.measured, sums.measured, measuredShares[i]),
        h("td", {}, row.other ? "" : orDash(row.least, () => portion(row.least / (row.measured || 1))))] : null))),
    h("tfoot", {}, h("tr", {}, cells(["a call", "", bytes(e.work.weight_bytes), bytes(e.work.kv_read_bytes + e.work.kv_written_bytes), "", count(macs(e.work)),
      time(sums.ns), "100.0 %", "", portion(e.predicted.least_ns / (sums.ns || 1)), ...(measured ? [time(sums.measured), "100.0 %", portion(e.predicted.least_ns / (sums.measured || 1))] : [])]))))),
    measured ? h("p", { class: "note" }, "Measured times are means over the threads. The row of barriers has the time that threads waited for one another, dispatch what is left of the time of a call.") : null));

  const m = doc.machine;
  const list = (title, pairs) => h("section", { class: "card" }, h("h2", {}, title), definitions(pairs));
  root.append(h("div", { class: "columns" },
    list("Machine", [["target", m.target], ["threads", String(m.threads)], ["speeds", m.measured ? "measured" : "assumed"],
      ["read, one thread", rate(m.read_one_bytes_per_second)], ["read, all threads", rate(m.read_all_bytes_per_second)], ["int8 peak", count(m.int8_macs_per_second) + " multiply-adds/s"],
      ["vectors", `${m.vector_bytes} bytes`], ["second-level caches", bytes(m.cache_bytes)], ["barrier", time(m.barrier_ns)],
      doc.measurement && ["waiting at barriers", percent(doc.measurement.barrier_share)],
      doc.measurement && ["dispatch", percent(doc.measurement.dispatch_share)]]),
    list("Model", [["file", doc.model], ["architecture", doc.model_info.architecture], ...Object.entries(doc.model_info.hyper_parameters).map(([k, v]) => [words(k), v])]),
    list("Compiled", [...Object.entries(doc.model_info.options).map(([k, v]) => [words(k), v]),
      ...Object.entries(doc.model_info.memory_bytes).map(([k, v]) => [words(k) + " in memory", `${bytes(v)} at a context of ${doc.model_info.context}`]), ["by", doc.producer]])));
}
