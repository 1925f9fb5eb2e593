// A benchmark: what was measured, beside the limits of the machine and, if there is one, an earlier run.
const run = doc.run, baseline = doc.baseline, comparison = run.comparison || [];
const latencies = ["p50", "p90", "p99", "max"];

// Which of the options differ between tests, and so belong to their names.
const optionNames = [...new Set(run.tests.flatMap((t) => Object.keys(t.options || {})))];
const varying = optionNames.filter((name) => new Set(run.tests.map((t) => t.options[name])).size > 1);
const severalModels = new Set(run.tests.map((t) => t.model)).size > 1;
const severalChunks = new Set(run.tests.map((t) => t.chunk)).size > 1;
const severalThreads = new Set(run.tests.map((t) => t.threads)).size > 1;
const threadsOf = (n) => (n === 1 ? "1 thread" : `${n} threads`);
// The name of a test without what `left` names.
function nameOf(t, ...left) {
  const parts = [t.test];
  if (severalModels) parts.unshift(t.model);
  if (!left.includes("depth") && t.depth > 0) parts.push(`after ${t.depth}`);
  if (!left.includes("threads") && severalThreads) parts.push(threadsOf(t.threads));
  if (!left.includes("chunk") && severalChunks) parts.push(`batch ${t.chunk}`);
  for (const option of varying) parts.push(`${option} ${(t.options || {})[option]}`);
  return parts.join(", ");
}
const speed = (t) => `${digits(t.tokens_per_second)} tokens/s`;
const latencyText = (l) => latencies.map((p) => `${p} ${digits(l[p])} ms`).join(", ");
function describe(t, which) {
  const parts = [`${which}${nameOf(t)}, ${threadsOf(t.threads)}: ${speed(t)} ± ${digits(t.stddev || 0)}`];
  if (Number.isFinite(t.share_of_limit)) parts.push(`${portion(t.share_of_limit)} of the ${t.limit === "int8" ? "int8 peak" : "bandwidth"}`);
  if (Number.isFinite(t.bytes_per_token)) parts.push(`${bytes(t.bytes_per_token)} and ${count(t.macs_per_token)} multiply-adds a token`);
  return parts.join("; ");
}
// Earlier tests that have a partner in this run.
const keys = new Set(doc.keys);
const earlier = baseline ? baseline.tests.filter((t, i) => keys.has(doc.baseline_keys[i]) && Number.isFinite(t.tokens_per_second)) : [];
const kindOfTest = (t) => (t.prompt_tokens && t.generated_tokens ? "prompt and generation" : t.generated_tokens ? "generation" : "prompts");

// Tests that differ in one thing only, as lines over it.
function seriesOver(field, kind) {
  const lines = new Map();
  const add = (t, old) => {
    if (kindOfTest(t) !== kind) return;
    const name = nameOf(t, field), key = `${old}/${name}`;
    const line = lines.get(key) || { name, old, points: [] };
    line.points.push({ x: t[field], y: t.tokens_per_second, error: t.stddev || 0, text: describe(t, old ? "baseline: " : "") });
    lines.set(key, line);
  };
  run.tests.forEach((t) => add(t, false));
  earlier.forEach((t) => add(t, true));
  const names = [...new Set([...lines.values()].map((line) => line.name))];
  return [...lines.values()].map((line) => ({ ...line, color: names.indexOf(line.name) % 6 }));
}
function over(root, title, field, unit, option) {
  const kinds = ["generation", "prompts", "prompt and generation"].filter((kind) => run.tests.some((t) => kindOfTest(t) === kind));
  const section = h("section", { class: "charts", "data-over": field });
  root.append(h("h2", {}, title), section);
  const values = new Set(run.tests.map((t) => t[field]));
  const cards = kinds.map((kind) => h("div", { class: "card" }, h("h3", {}, `${kind}: tokens per second`)));
  // All cards first: their width follows from their number.
  section.append(...cards);
  kinds.forEach((kind, i) => {
    const series = seriesOver(field, kind);
    lineChart(cards[i], `${title}, ${kind}`, unit, series);
    cards[i].append(h("div", { class: "legend" }, series.filter((line) => !line.old).map((line) => h("span", {}, h("i", { class: `back c${line.color}` }), line.name)),
      series.some((line) => line.old) ? h("span", {}, "dashed: the baseline") : null));
  });
  if (values.size === 1) section.append(h("p", { class: "note" }, `All tests have the same value here; ${option} takes a list.`));
}

function tiles(root) {
  root.append(h("div", { class: "tiles" }, run.tests.slice(0, 8).map((t) => h("div", { class: "tile" },
    h("span", {}, nameOf(t)), h("b", {}, digits(t.tokens_per_second)), h("span", {}, `tokens/s, ${portion(t.share_of_limit)} of the ${t.limit === "int8" ? "int8 peak" : "bandwidth"}`)))));
  if (run.tests.length > 8) root.append(h("p", { class: "note" }, `The first 8 of ${run.tests.length} tests; the charts show all of them.`));
}

function roofline(root) {
  const card = h("section", { class: "card", "data-chart": "roofline" }, h("h2", {}, "Roofline"));
  root.append(card);
  const at = (t, old) => ({ x: t.macs_per_token / t.bytes_per_token, y: t.macs_per_token * t.tokens_per_second, old, name: t.test + (t.depth ? ` after ${t.depth}` : ""), text: describe(t, old ? "baseline: " : "") });
  const color = (t) => ["prompts", "generation", "prompt and generation"].indexOf(kindOfTest(t));
  const points = [...earlier.map((t) => ({ ...at(t, true), color: color(t) })), ...run.tests.map((t) => ({ ...at(t, false), color: color(t) }))]
    .filter((p) => p.x > 0 && p.y > 0 && Number.isFinite(p.x) && Number.isFinite(p.y));
  const limits = run.limits.filter((l) => l.read_bytes_per_second > 0 && l.int8_macs_per_second > 0);
  if (!points.length || !limits.length) { card.append(h("p", { class: "note" }, "Nothing was measured.")); return; }
  rooflineChart(card, limits, points);
  card.append(h("div", { class: "legend" }, [...new Set(run.tests.map(kindOfTest))].map((kind) => h("span", {}, h("i", { class: `back c${["prompts", "generation", "prompt and generation"].indexOf(kind)}` }), kind)),
    earlier.length ? h("span", {}, "hollow points: the baseline") : null),
  h("p", { class: "note" }, "The rising line is the measured bandwidth, the level one the measured int8 peak. A point near a line is as fast as the machine allows; above the rising line, the caches helped."));
}

function percentiles(root) {
  const tests = run.tests.filter((t) => t.token_latency_ms);
  if (!tests.length) return;
  const old = new Map(earlier.map((t) => [doc.baseline_keys[baseline.tests.indexOf(t)], t.token_latency_ms]));
  const most = Math.max(...tests.flatMap((t) => [t.token_latency_ms, old.get(doc.keys[run.tests.indexOf(t)])]).filter(Boolean).map((l) => l.max)) || 1;
  const card = h("section", { class: "card", "data-chart": "percentiles" }, h("h2", {}, "Time of a token"));
  const rail = (l, was) => h("div", { class: `rail c0${was ? " was" : ""}`, ...tip(`${was ? "baseline: " : ""}${latencyText(l)}`) },
    h("u", { style: { left: width(l.p50 / most), width: width((l.max - l.p50) / most) } }),
    latencies.map((p) => h("em", { class: p, style: { left: width(l[p] / most) } })));
  card.append(h("div", { class: "runs" }, tests.map((t) => {
    const before = old.get(doc.keys[run.tests.indexOf(t)]);
    return [h("span", { class: "what" }, nameOf(t)), h("div", { class: "rails" }, before ? rail(before, true) : null, rail(t.token_latency_ms, false)), h("span", { class: "ratio" }, latencyText(t.token_latency_ms))];
  })), h("p", { class: "note" }, `Percentiles p50, p90, p99 and, in red, the slowest token, from 0 to ${digits(most)} ms.${old.size ? " Hollow: the baseline." : ""}`));
  root.append(card);
}

// The two runs of a comparison, test by test, with every sample.
function sideBySide(root) {
  if (!comparison.length) return;
  const card = h("section", { class: "card", "data-chart": "comparison" }, h("h2", {}, "Two runs side by side"));
  const find = (tests, all, key) => tests[all.indexOf(key)];
  card.append(h("div", { class: "runs" }, comparison.map((c) => {
    const now = find(run.tests, doc.keys, c.test), was = find(baseline.tests, doc.baseline_keys, c.test);
    const most = Math.max(...now.samples, ...was.samples) || 1;
    const rail = (t, mean, old) => h("div", { class: `rail c0${old ? " was" : ""}`, ...tip(`${old ? "baseline" : "now"}: ${digits(mean)} tokens/s; samples ${t.samples.map(digits).join(", ")}`) },
      h("i", { style: { width: width(mean / most) } }), t.samples.map((sample) => h("b", { style: { left: width(sample / most) } })));
    const tone = c.verdict === "slower" ? "slow" : c.verdict === "faster" ? "good" : "";
    return [h("span", { class: "what" }, nameOf(now)), h("div", { class: "rails" }, rail(was, c.baseline_tokens_per_second, true), rail(now, c.tokens_per_second, false)),
      h("span", { class: "ratio" }, `${digits(c.baseline_tokens_per_second)} → ${digits(c.tokens_per_second)} tokens/s, ${(1 + c.change).toFixed(3)}×, paired ${(1 + c.share_change).toFixed(3)}×, `, h("span", { class: `verdict ${tone}` }, c.verdict))];
  })));
  const builds = [["baseline", baseline.build], ["now", run.build]].filter(([, b]) => b);
  card.append(h("p", { class: "note" }, `Above the baseline, below this run; each mark is a sample. The paired ratio compares shares of the machine’s limits. ${builds.map(([name, b]) => `${name}: ${b.version} of ${b.date}`).join("; ")}.`));
  root.append(card);
}

function table(root) {
  const head = ["test", "threads", "depth", "batch size", "tokens/s", "±", "a token reads", "multiply-adds", "limit", "of the limit", "paired", ...latencies];
  const body = run.tests.map((t) => [nameOf(t), t.threads, t.depth, t.chunk, digits(t.tokens_per_second), digits(t.stddev), bytes(t.bytes_per_token), count(t.macs_per_token),
    t.limit === "int8" ? `${count(t.limit_value)} MAC/s` : rate(t.limit_value), portion(t.share_of_limit), portion(t.share_paired),
    ...latencies.map((p) => (t.token_latency_ms ? `${digits(t.token_latency_ms[p])} ms` : "–"))]);
  root.append(h("section", { class: "card" }, h("h2", {}, "All tests"), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", {}, text)))),
    h("tbody", {}, body.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))))));
}

function machine(root) {
  const m = run.machine, b = run.build;
  const card = (title, pairs) => h("section", { class: "card" }, h("h2", {}, title), definitions(pairs));
  const options = optionNames.filter((name) => !varying.includes(name)).map((name) => [words(name), run.tests[0].options[name]]);
  root.append(h("div", { class: "columns" },
    card("Machine", [["CPU", m.cpu], ["target", m.target], ["threads", m.threads], ["caches", `L1d ${bytes(m.l1d_bytes)}, L2 ${bytes(m.l2_bytes)}, last ${bytes(m.last_cache_bytes)}`], ["memory", bytes(m.memory_bytes)], ["system", m.os]]),
    card("Limits", run.limits.flatMap((l) => [[`bandwidth, ${threadsOf(l.threads)}`, rate(l.read_bytes_per_second)], [`int8 peak, ${threadsOf(l.threads)}`, `${count(l.int8_macs_per_second)} MAC/s`], [`f32 peak, ${threadsOf(l.threads)}`, `${count(l.f32_macs_per_second)} MAC/s`]])),
    card("Model and build", [["model", [...new Set(run.tests.map((t) => t.model))].join(", ")], ["weights", run.tests.length ? bytes(run.tests[0].weight_bytes) : ""], ...options, ["bitnetc", `${b.version} (${b.profile} build)`], ["date", b.date]])));
}

function draw() {
  const main = byId("main"), scroll = window.scrollY;
  hideTip();
  main.replaceChildren();
  if (!run.tests.length) main.append(h("p", { class: "note" }, "No test was measured."));
  else {
    tiles(main);
    sideBySide(main);
    roofline(main);
    over(main, "Over the depth of the context", "depth", "tokens in the context before the test", "-d");
    over(main, "Over threads", "threads", "threads", "-t");
    over(main, "Over the batch size", "chunk", "tokens of a prompt that one call processes at most", "-b");
    percentiles(main);
    table(main);
    machine(main);
  }
  gloss(main);
  window.scrollTo(0, scroll);
}
byId("name").textContent = [...new Set(run.tests.map((t) => t.model))].join(", ") || "bitnetc bench";
byId("subtitle").textContent = `${run.machine.cpu} · bitnetc ${run.build.version} (${run.build.profile}) · ${run.build.date}${run.build.profile === "debug" ? " · a debug build: its figures mean little" : ""}`;
startTheme();
startTips();
let drawnAt = innerWidth;
window.addEventListener("resize", () => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; draw(); } });
draw();
