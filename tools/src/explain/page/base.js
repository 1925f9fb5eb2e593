// The state of the page, and what all views share.
const state = { entry: 0, tab: "overview", op: -1, kernel: -1, stage: -1, open: new Set(), view: null, scopes: { memory: "each", schedule: "layer" }, memory: "arena", clock: "predicted" };
if (doc.measurement) state.clock = "measured";

const CLASSES = {
  matrix: ["ternary matrices", ["bitlinear", "ternary_matmul"]],
  head: ["other matrices", ["matmul", "block_matmul", "matmul_rows", "screen", "merge_screened"]],
  attention: ["attention", ["attention", "causal_conv", "softplus_decay", "delta_rule"]],
  norm: ["norms and quantisation", ["rms_norm", "rms_norm_quant", "rms_norm_heads", "l2_norm_heads", "quant_absmax", "quant_blocks", "hadamard"]],
  cache: ["positions and cache", ["rope", "kv_append", "rope_kv_append"]],
  row: ["rows", ["embed", "add", "add_bias", "mul", "relu2", "silu", "sigmoid", "split", "transpose_heads"]],
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
const mean = (values) => values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
// Measured times are means over the threads, so that they add up to the time of a call.
const measuredNs = (op) => (op.measured ? mean(op.measured.busy_ns) : 0);
const waitNs = (op) => (op.measured ? mean(op.measured.wait_ns) : 0);
const clockNs = (op) => (state.clock === "measured" && op.measured ? measuredNs(op) : kindOf(op).predicted.ns);
const isView = (op) => kindOf(op).kernels.length === 0;
// The part and the layer that an op is in; `at` is its place among the ops of one layer.
function placeOf(e, index) {
  for (const part of e.parts) {
    const after = index - part.start;
    if (after >= 0 && after < part.length * part.count) {
      const turn = Math.floor(after / part.length);
      return { part, at: after % part.length, layer: part.layer === null ? null : part.layer + turn };
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
