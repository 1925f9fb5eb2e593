// What all pages share: elements, numbers, explanations of words, light and dark. Texts become text nodes, never markup.
const doc = JSON.parse(document.getElementById("data").textContent);

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
// A ratio as a multiple: 1.25×, 12.3×, 285×.
const multiple = (x) => digits(x) + "×";
// A share of a whole in per cent; what exceeds the whole, as a multiple.
const portion = (x) => (x > 1.005 ? multiple(x) : percent(x));
// Shares of the sum in tenths of a per cent that add up to exactly 100 %: the largest remainders are rounded up.
function shares(values) {
  const sum = values.reduce((a, b) => a + b, 0);
  if (!(sum > 0)) return values.map(() => "–");
  const exact = values.map((value) => 1000 * value / sum);
  const whole = exact.map(Math.floor);
  const order = exact.map((x, i) => [x - whole[i], i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  const left = 1000 - whole.reduce((a, b) => a + b, 0);
  for (const [, i] of order.slice(0, left)) whole[i] += 1;
  return whole.map((tenths) => (tenths / 10).toFixed(1) + " %");
}


// Words of the field, explained where they stand. What has an explanation shows it to the mouse, to the keyboard (it can be
// focused, and Escape hides it) and to a finger.
const GLOSSARY = {
  "roofline": "The least time that the work could take: the bytes to read divided by the bandwidth, or the multiply-adds divided by the peak, whichever is longer.",
  "barrier": "A point in the schedule that every thread has to reach before any of them goes on.",
  "phase": "The ops between two barriers. Threads work through a phase without waiting for one another.",
  "arena": "One piece of memory for all intermediate values. The memory plan gives each value a place in it, and values that are not needed at the same time share bytes.",
  "prefill": "Processing the prompt: many tokens in one call, so that weights are read once for all of them.",
  "decode": "Generating: one token for each call, which reads all weights.",
  "head": "The last matrix, which turns the hidden state into a score (logit) for every token of the vocabulary.",
  "logits": "The scores of all tokens of the vocabulary, from which the next token is chosen.",
  "KV cache": "Keys and values of all earlier tokens, kept so that attention need not compute them again. Attention reads all of them for every token.",
  "multiply-add": "One multiplication and one addition (MAC), the unit in which the arithmetic of matrices is counted.",
  "MAC": "Multiply-accumulate: one multiplication and one addition, the unit in which the arithmetic of matrices is counted.",
  "epilogue": "Work that a matrix kernel does on its result before it stores it, such as scaling, an activation or the addition of the residual.",
  "tile": "A block of a matrix whose weights are stored together, so that a kernel reads them in order and keeps their results in registers.",
  "dispatch": "Time outside of kernels and barriers: handing a call to the threads, looking up steps, and the clocks of the measurement.",
  "replicated": "Every thread does all of the op for itself, which is cheaper here than a barrier.",
  "view": "A name for a part of another value. It costs nothing.",
  "int8 peak": "Multiply-adds of 8-bit integers per second that this machine reached in a loop without memory accesses.",
  "resident": "Small enough to stay in the caches from one call to the next.",
  "kernel": "Generated machine code that computes an op, made for its exact shape.",
  "depth": "Tokens that are in the context already when a test starts.",
  "batch size": "Tokens of a prompt that one prefill call processes at most.",
  "bandwidth": "Bytes per second that the threads read from memory.",
  "arithmetic intensity": "Multiply-adds for each byte that is read from memory. Work with little of it is bound by the bandwidth, work with much of it by the peak.",
  "percentile": "p90 of a time: 90 of 100 tokens took at most that long.",
  "paired": "Each sample compared with the limits of the machine that were measured right before and after it, so that a machine whose speed drifts does not change the result.",
  "odds": "How often chance alone would give a difference as large as this one (permutation test).",
};
// The head of a model has no plural, and the heads of attention are something else.
const FORMS = Object.keys(GLOSSARY).sort((a, b) => b.length - a.length).map((word) => (word === "head" ? "head(?! dim)" : `${word}(?=(?:s|es)?\\b)`));
const WORD = new RegExp(`(?<!kv )\\b(${FORMS.join("|")})(?:s|es)?\\b`, "gi");
const MEANING = new Map(Object.entries(GLOSSARY).map(([word, meaning]) => [word.toLowerCase(), meaning]));

// Turns the words of the glossary in headings, labels and notes under `root` into elements with an explanation.
function gloss(root) {
  for (const element of root.querySelectorAll("h2, h3, th, dt, .tile > span, .note, .legend span, .bars > span, #subtitle")) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const known = new Set();
    for (const node of texts) {
      const pieces = [];
      let last = 0;
      for (const match of node.data.matchAll(WORD)) {
        const word = match[1].toLowerCase();
        if (known.has(word) || (word === "head" && match[0].length > 4)) continue;
        known.add(word);
        pieces.push(node.data.slice(last, match.index), h("span", { class: "term", tabindex: 0, "data-tip": MEANING.get(word) }, match[0]));
        last = match.index + match[0].length;
      }
      if (pieces.length) node.replaceWith(...pieces, node.data.slice(last));
    }
  }
}
// Attributes of an element that explains itself, such as a bar or a point of a chart.
const tip = (text) => ({ "data-tip": text, tabindex: 0, role: "img", "aria-label": text });

const tipBox = h("div", { id: "tip", role: "tooltip", hidden: true });
let tipFor = null;
function hideTip() {
  if (tipFor) tipFor.removeAttribute("aria-describedby");
  tipFor = null;
  tipBox.hidden = true;
}
function showTip(element) {
  if (tipFor === element) return;
  hideTip();
  tipFor = element;
  tipBox.textContent = element.dataset.tip;
  tipBox.hidden = false;
  element.setAttribute("aria-describedby", "tip");
  placeTip();
}
function placeTip() {
  const at = tipFor.getBoundingClientRect(), box = tipBox.getBoundingClientRect();
  const clamp = (x, least, most) => Math.max(least, Math.min(x, most));
  const below = at.bottom + 8, above = at.top - box.height - 8;
  tipBox.style.left = clamp(at.left + at.width / 2 - box.width / 2, 8, Math.max(8, innerWidth - box.width - 8)) + "px";
  tipBox.style.top = clamp(below + box.height <= innerHeight || above < 0 ? below : above, 8, Math.max(8, innerHeight - box.height - 8)) + "px";
}
function startTips() {
  document.body.append(tipBox);
  const over = (event) => {
    const element = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (element) showTip(element); else if (event.type !== "focusin" || tipFor) hideTip();
  };
  for (const type of ["pointerover", "focusin", "click"]) document.addEventListener(type, over);
  document.addEventListener("focusout", hideTip);
  // Focus scrolls what it reaches into view: its explanation goes with it.
  const moved = () => { if (tipFor && tipFor === document.activeElement) placeTip(); else hideTip(); };
  document.addEventListener("scroll", moved, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
}
function startTheme() {
  byId("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
}
const segments = (label, names, chosen, choose) => h("div", { class: "segments", role: "group", "aria-label": label },
  names.map(([name, text]) => h("button", { type: "button", "aria-pressed": String(name === chosen), onclick: () => choose(name) }, text)));
const definitions = (pairs) => h("dl", {}, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== "")
  .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
