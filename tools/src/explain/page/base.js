// Elements, numbers, and what all views share. Texts become text nodes, never markup.
const doc = JSON.parse(document.getElementById("data").textContent);
const state = { entry: 0, tab: "overview", op: -1, kernel: -1, stage: -1, open: new Set(), view: null, scopes: { memory: "each", schedule: "layer" }, memory: "arena", clock: "predicted" };
if (doc.measurement) state.clock = "measured";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}
const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const byId = (id) => document.getElementById(id);
// A group that answers to the mouse and to the keyboard.
const press = (action) => ({
  tabindex: 0, role: "button", onclick: action,
  onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); action(event); } },
});

function digits(x) { return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2); }
function scaled(x, base, units) {
  let i = 0;
  while (x >= base && i < units.length - 1) { x /= base; i += 1; }
  return (i === 0 && Number.isInteger(x) ? String(x) : digits(x)) + " " + units[i];
}
const bytes = (n) => scaled(n, 1000, ["B", "kB", "MB", "GB", "TB"]);
const count = (n) => scaled(n, 1000, ["", "k", "M", "G", "T"]).trim();
const time = (ns) => scaled(ns, 1000, ["ns", "µs", "ms", "s"]);
const rate = (n) => bytes(n) + "/s";
const percent = (x) => (100 * x).toFixed(x < 0.1 ? 1 : 0) + " %";
const width = (share) => (100 * Math.min(1, share)).toFixed(1) + "%";
const words = (name) => name.replaceAll("_", " ");
const orDash = (n, show) => (n ? show(n) : "–");

const CLASSES = {
  matrix: ["ternary matrices", ["bitlinear", "ternary_matmul"]],
  head: ["other matrices", ["matmul", "block_matmul", "matmul_rows", "screen", "merge_screened"]],
  attention: ["attention", ["attention"]],
  norm: ["norms and quantisation", ["rms_norm", "rms_norm_quant", "rms_norm_heads", "quant_absmax", "quant_blocks"]],
  cache: ["positions and cache", ["rope", "kv_append", "rope_kv_append"]],
  row: ["rows", ["embed", "add", "mul", "relu2", "silu", "split"]],
};
function classOf(op) {
  for (const [name, [, ops]] of Object.entries(CLASSES)) if (ops.includes(op)) return name;
  return "row";
}
const legend = (names) => h("div", { class: "legend" },
  names.map((name) => h("span", {}, h("i", { class: `back c-${name}` }), CLASSES[name] ? CLASSES[name][0] : name)));

const entry = () => doc.entries[state.entry];
const kindOf = (op) => doc.kinds[op.kind];
const macs = (work) => work.ternary_macs + work.dense_macs + work.attention_macs;
const fromMemory = (work) => work.weight_bytes + work.kv_read_bytes;
const measuredNs = (op) => (op.measured ? Math.max(0, ...op.measured.busy_ns) : 0);
const clockNs = (op) => (state.clock === "measured" && op.measured ? measuredNs(op) : kindOf(op).predicted.ns);
const isView = (op) => kindOf(op).kernels.length === 0;
// The part and the layer that an op is in; `at` is its place among the ops of one layer.
function placeOf(e, index) {
  for (const part of e.parts) {
    const behind = index - part.start;
    if (behind >= 0 && behind < part.length * part.count) {
      const turn = Math.floor(behind / part.length);
      return { part, at: behind % part.length, layer: part.layer === null ? null : part.layer + turn };
    }
  }
  return { part: e.parts[0], at: 0, layer: null };
}
// The same op in all layers that are folded with this one.
function copies(e, index) {
  const { part, at } = placeOf(e, index);
  return Array.from({ length: part.count }, (_, turn) => part.start + turn * part.length + at);
}
function partName(part) {
  if (part.layer === null) return "outside of layers";
  if (part.count === 1) return `layer ${part.layer}`;
  return `layers ${part.layer}–${part.layer + part.count - 1}`;
}
// Ops of the first copy of each part ("each"), of layers only ("layer"), or all.
function scopeOps(e) {
  const scope = state.scopes[state.tab];
  if (scope === "all") return e.ops.map((_, i) => i);
  const layers = e.parts.filter((part) => part.layer !== null);
  const parts = scope === "layer" && layers.length ? layers : e.parts;
  return parts.flatMap((part) => Array.from({ length: part.length }, (_, i) => part.start + i));
}
function scopeSelect(redraw) {
  if (!entry().parts.some((part) => part.layer !== null)) return null;
  const names = [["layer", "one of equal layers"], ["each", "one of equal layers, and what is outside"], ["all", "all ops"]];
  const select = h("select", { "aria-label": "Which ops", onchange: () => { state.scopes[state.tab] = select.value; redraw(); } },
    names.map(([name, text]) => h("option", { value: name, selected: state.scopes[state.tab] === name }, text)));
  return select;
}
const segments = (label, names, chosen, choose) => h("div", { class: "segments", role: "group", "aria-label": label },
  names.map(([name, text]) => h("button", { type: "button", "aria-pressed": String(name === chosen), onclick: () => choose(name) }, text)));
const definitions = (pairs) => h("dl", {}, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== "")
  .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
