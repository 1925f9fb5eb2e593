// Kernels: kernel IR, CLIF and machine code side by side.
const PANES = [["kernel", "Kernel IR"], ["clif", "CLIF"], ["asm", "Assembly"]];
const shownPanes = new Set(PANES.map(([name]) => name));

// Words of a listing, coloured without markup.
function listing(text) {
  const pre = h("pre", { tabindex: 0 });
  const flush = (name, word) => pre.append(name ? h("span", { class: name }, word) : word);
  const pattern = /(;[^\n]*|\/\/[^\n]*)|(\b(?:loop|if|else|yield|kernel|function|block\d+|return|jump|brif|ret|j[a-z]{1,3}|call)\b)|([%@]?\bv?\d+\b|\b[xyz]mm\d+\b|\btmm\d+\b)/g;
  let last = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > last) flush("", text.slice(last, match.index));
    flush(match[1] ? "c" : match[2] ? "a" : text.length > 60000 ? "" : "b", match[0]);
    last = match.index + match[0].length;
  }
  flush("", text.slice(last));
  return pre;
}

function kernels(root) {
  const used = doc.kernels.map(() => ({ ops: 0, ns: 0, by: new Set() }));
  for (const e of doc.entries) for (const op of e.ops) for (const k of kindOf(op).kernels) {
    used[k].ops += 1;
    used[k].by.add(`@${e.name}`);
    if (e === entry()) used[k].ns += clockNs(op);
  }
  const order = doc.kernels.map((_, i) => i).sort((a, b) => used[b].ns - used[a].ns || a - b);
  if (state.kernel < 0) state.kernel = order[0];
  const list = h("section", { class: "card list", "aria-label": "Kernels" }, order.map((k) => h("button", { type: "button", "data-kernel": k, "aria-pressed": String(k === state.kernel), onclick: () => { state.kernel = k; draw(); } },
    h("span", { class: "mono" }, doc.kernels[k].name), h("small", {}, `${[...used[k].by].join(", ")} · ${used[k].ops} ops${used[k].ns ? " · " + time(used[k].ns) : ""}`))));
  const k = doc.kernels[state.kernel];
  const card = h("section", { class: "card" });
  root.append(h("div", { class: "kernels" }, list, card));
  if (!k) return;
  card.append(h("h2", { class: "mono" }, k.name), definitions([["selector", k.selector + (k.refusal ? `; the wide one did not: ${k.refusal}` : "")], ["code", bytes(k.code_bytes)]]));
  if (!k.asm) { card.append(h("p", { class: "note" }, "The texts of kernels were left out.")); return; }
  card.append(h("div", { class: "toolbar" }, PANES.map(([name, text]) => h("label", {}, h("input", { type: "checkbox", checked: shownPanes.has(name), onchange: () => {
    if (shownPanes.has(name) && shownPanes.size > 1) shownPanes.delete(name); else shownPanes.add(name);
    draw();
  } }), " ", text))));
  card.append(h("div", { class: "panes" }, PANES.filter(([name]) => shownPanes.has(name)).map(([name, text]) => h("div", { class: "pane" },
    h("h3", {}, text, name === "clif" && k.selector !== "cranelift" ? " (as Cranelift would get it; the code is from the wide selector)" : ""),
    k[name] ? listing(k[name]) : h("p", { class: "note" }, "Cranelift does not make this kernel.")))));
}
