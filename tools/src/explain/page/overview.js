// Overview: what a call takes, by op, and what the model and the machine are.
function totals(e) {
  const rows = new Map();
  for (const op of e.ops) {
    const kind = kindOf(op);
    if (isView(op)) continue;
    const row = rows.get(kind.op) || { op: kind.op, ops: 0, weights: 0, kv: 0, acts: 0, macs: 0, ns: 0, least: 0, measured: 0, wait: 0, bound: new Map() };
    row.ops += 1;
    row.weights += kind.work.weight_bytes;
    row.kv += kind.work.kv_read_bytes + kind.work.kv_written_bytes;
    row.acts += kind.work.read_bytes + kind.work.written_bytes;
    row.macs += macs(kind.work);
    row.ns += kind.predicted.ns;
    row.least += kind.predicted.least_ns;
    row.measured += measuredNs(op);
    if (op.measured) row.wait += op.measured.wait_ns.reduce((a, b) => a + b, 0) / Math.max(1, op.measured.wait_ns.length);
    row.bound.set(kind.predicted.bound, (row.bound.get(kind.predicted.bound) || 0) + kind.predicted.ns);
    rows.set(kind.op, row);
  }
  return [...rows.values()].sort((a, b) => b.ns - a.ns);
}

function timeBar(rows, value, extra) {
  const parts = rows.map((row) => [row.op, value(row), classOf(row.op)]).filter((part) => part[1] > 0);
  if (extra > 0) parts.push(["barriers", extra, "barrier"]);
  const all = parts.reduce((sum, part) => sum + part[1], 0) || 1;
  return h("div", { class: "bar" }, parts.map(([name, ns, kind]) =>
    h("span", { class: `back c-${kind}`, style: { flex: `${ns / all} 1 0` }, title: `${name}: ${time(ns)}, ${percent(ns / all)}` },
      ns / all > 0.07 ? name : "")));
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
    measured ? tile("measured", time(measured), `${count(seconds(measured))} tokens/s`) : null,
    tile("roofline", time(e.predicted.least_ns), `${percent(e.predicted.least_ns / (measured || e.predicted.ns))} of the ${measured ? "measured" : "predicted"} time, by ${e.predicted.bound}`),
    tile("read from memory", bytes(fromMemory(e.work)), e.resident ? "stays in the caches" : `${bytes(e.work.kv_read_bytes)} of it keys and values`),
    tile("multiply-adds", count(macs(e.work)), one ? "for one token" : `${count(macs(e.work) / e.tokens)} a token`),
    tile("phases", String(e.barriers + 1), `${e.ops.filter((op) => !isView(op)).length} ops, ${doc.kernels.length} kernels in all`),
    tile("arena", bytes(e.arena_bytes), e.private_bytes ? `and ${bytes(e.private_bytes)} for each thread` : null)));

  const wait = rows.reduce((sum, row) => sum + row.wait, 0);
  root.append(h("section", { class: "card" }, h("h2", {}, `Where the time of @${e.name} goes`),
    h("div", { class: "bars" },
      h("span", {}, "predicted"), timeBar(rows, (row) => row.ns, e.barriers * doc.machine.barrier_ns), h("span", {}, time(e.predicted.ns)),
      measured ? [h("span", {}, "measured"), timeBar(rows, (row) => row.measured, wait), h("span", {}, time(measured))] : null),
    legend(Object.keys(CLASSES).filter((name) => rows.some((row) => classOf(row.op) === name)))));

  const whole = e.predicted.ns || 1;
  const bound = (row) => [...row.bound.entries()].sort((a, b) => b[1] - a[1])[0][0];
  root.append(h("section", { class: "card" }, h("h2", {}, "By op"), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["op", "ops", "weights", "keys, values", "activations", "multiply-adds", "predicted", "share", "bound by", "of roofline",
      ...(measured ? ["measured", "waiting behind", "of roofline"] : [])].map((text) => h("th", {}, text)))),
    h("tbody", {}, rows.map((row) => h("tr", { class: "pick", onclick: () => pickOp(e.ops.findIndex((op) => kindOf(op).op === row.op)) },
      h("td", {}, h("i", { class: `share back c-${classOf(row.op)}`, style: { width: ".7em" } }), row.op),
      [String(row.ops), orDash(row.weights, bytes), orDash(row.kv, bytes), bytes(row.acts), orDash(row.macs, count), time(row.ns)].map((text) => h("td", {}, text)),
      h("td", {}, h("span", { class: "share" }, h("i", { style: { width: width(row.ns / whole) } })), percent(row.ns / whole)),
      h("td", {}, bound(row)), h("td", {}, orDash(row.least, () => percent(row.least / row.ns))),
      measured ? [h("td", {}, time(row.measured)), h("td", {}, time(row.wait)), h("td", {}, orDash(row.least, () => percent(row.least / (row.measured || 1))))] : null)))))));

  const m = doc.machine;
  const list = (title, pairs) => h("section", { class: "card" }, h("h2", {}, title), definitions(pairs));
  root.append(h("div", { class: "columns" },
    list("Machine", [["target", m.target], ["threads", String(m.threads)], ["speeds", m.measured ? "measured" : "assumed"],
      ["read, one thread", rate(m.read_one)], ["read, all threads", rate(m.read_all)], ["int8 peak", count(m.int8_peak) + " multiply-adds/s"],
      ["vectors", `${m.vector_bytes} bytes`], ["second-level caches", bytes(m.cache_bytes)], ["barrier", time(m.barrier_ns)],
      doc.measurement && ["waiting at barriers", percent(doc.measurement.barrier_share)],
      doc.measurement && ["dispatch", percent(doc.measurement.dispatch_share)]]),
    list("Model", [["file", doc.model.file], ["architecture", doc.model.architecture], ...Object.entries(doc.model.hyper_parameters).map(([k, v]) => [words(k), v])]),
    list("Compiled", [...Object.entries(doc.model.options).map(([k, v]) => [words(k), v]),
      ...Object.entries(doc.model.memory).map(([k, v]) => [words(k) + " in memory", `${bytes(v)} at a context of ${doc.model.context}`]), ["by", doc.producer]])));
}
