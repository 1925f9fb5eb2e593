// Graph: the ops of an entry point, layer by layer; equal layers are folded into one.
const NODE = { w: 218, h: 46, dx: 26, dy: 24 };

// Rows of a part by the longest way from its inputs.
function layered(e, part) {
  const made = new Map();
  const rows = [];
  const nodes = [];
  for (let at = 0; at < part.length; at += 1) {
    const index = part.start + at;
    const op = e.ops[index];
    const inside = op.operands.filter((name) => made.has(name)).map((name) => made.get(name));
    const row = inside.reduce((most, from) => Math.max(most, nodes[from].row + 1), 0);
    const outside = op.operands.filter((name, i) => !made.has(name) && !kindOf(op).operands[i].weight && !/^%.*[kv]c$|^%pos$/.test(name));
    nodes.push({ at, index, row, inside: [...new Set(inside)], outside: outside.length > 0 });
    (rows[row] = rows[row] || []).push(at);
    op.results.forEach((name) => made.set(name, at));
  }
  return { nodes, rows };
}

function graph(root) {
  const e = entry();
  const key = (number) => `${e.name}/${number}`;
  const canvas = h("section", { class: "card canvas" });
  const side = h("aside", { class: "card side", "aria-live": "polite" });
  root.append(h("div", { class: "split" }, canvas, side));
  detail(side);

  const layer = s("g", {});
  const svg = s("svg", { role: "group", "aria-label": `Graph of @${e.name}` }, layer);
  let y = 0, widest = 0;
  const ends = [];
  e.parts.forEach((part, number) => {
    const open = state.open.has(key(number)) || (part.layer === null);
    const sum = (of) => Array.from({ length: part.length }, (_, i) => of(e.ops[part.start + i])).reduce((a, b) => a + b, 0);
    const group = s("g", {});
    const most = Math.max(1, ...Array.from({ length: part.length }, (_, i) => clockNs(e.ops[part.start + i])));
    let inner = NODE.w + 60, height = 34;
    if (open) {
      const { nodes, rows } = layered(e, part);
      inner = Math.max(inner, ...rows.map((row) => row.length * (NODE.w + NODE.dx) - NODE.dx + 76));
      for (const node of nodes) {
        const row = rows[node.row];
        node.x = (row.indexOf(node.at) - (row.length - 1) / 2) * (NODE.w + NODE.dx);
        node.y = 52 + node.row * (NODE.h + NODE.dy);
      }
      height = 52 + rows.length * (NODE.h + NODE.dy);
      const edge = (x1, y1, x2, y2, skip, on) => {
        const out = skip ? (x1 + x2) / 2 + NODE.w / 2 + 24 : null;
        const d = skip ? `M${x1 + 60} ${y1} C${out} ${y1 + 10},${out} ${y1 + 10},${out} ${y1 + 34} L${out} ${y2 - 34} C${out} ${y2 - 10},${out} ${y2 - 10},${x2 + 60} ${y2}`
          : `M${x1} ${y1} C${x1} ${(y1 + y2) / 2},${x2} ${(y1 + y2) / 2},${x2} ${y2}`;
        return s("path", { class: `edge${skip ? " skip" : ""}${on ? " on" : ""}`, d });
      };
      const chosen = (node) => state.op >= 0 && copies(e, state.op).includes(node.index);
      for (const node of nodes) {
        if (node.outside) group.append(edge(0, 34, node.x, node.y, node.row > 1, chosen(node)));
        for (const from of node.inside) {
          const n = nodes[from];
          group.append(edge(n.x, n.y + NODE.h, node.x, node.y, node.row - n.row > 1, chosen(node) || chosen(n)));
        }
      }
      for (const node of nodes) {
        const op = e.ops[node.index], kind = kindOf(op), c = classOf(kind.op);
        const weight = op.operands.find((_, i) => kind.operands[i].weight);
        const shown = weight ? weight.replace(/^@l\d+\./, "@") : kind.results[0] || "";
        const note = shown.length > 32 ? shown.slice(0, 31) + "…" : shown;
        const ns = clockNs(op);
        group.append(s("g", { class: `node${chosen(node) ? " on" : ""}${isView(op) ? " view" : ""}`, "data-op": node.index,
          transform: `translate(${node.x - NODE.w / 2} ${node.y})`, "aria-label": `${kind.op} ${op.results.join(", ")}`, ...press(() => select(node.index)) },
          s("rect", { class: "box", width: NODE.w, height: NODE.h, rx: 7 }),
          s("rect", { class: `fill c-${c}`, width: 5, height: NODE.h, rx: 2 }),
          s("text", { class: "strong", x: 15, y: 19 }, kind.op),
          s("text", { class: "small", x: NODE.w - 10, y: 19, "text-anchor": "end" }, isView(op) ? "view" : time(ns)),
          s("text", { class: "small", x: 15, y: 35 }, note),
          isView(op) ? null : s("rect", { class: `fill c-${c}`, x: 14, y: NODE.h - 6, height: 2.5, rx: 1, width: Math.max(1.5, (NODE.w - 24) * ns / most) })));
        if (op.barrier) group.append(s("line", { class: "barrier", x1: -inner / 2 + 12, x2: inner / 2 - 12, y1: node.y + NODE.h + NODE.dy / 2, y2: node.y + NODE.h + NODE.dy / 2 }, s("title", {}, "barrier")));
      }
    }
    const title = `${open ? "▾" : "▸"} ${partName(part)}${part.count > 1 ? `  ×${part.count}` : ""}`;
    const toggle = () => { const k = key(number); if (state.open.has(k)) state.open.delete(k); else state.open.add(k); draw(); };
    const fixed = part.layer === null;
    const head = s("g", { class: "part-head", "data-part": number, transform: `translate(${-inner / 2} 0)`, "aria-expanded": String(open), ...(fixed ? {} : press(toggle)) },
      s("rect", { width: inner, height: 34, rx: 8 }),
      s("text", { class: "strong", x: 12, y: 22 }, fixed ? partName(part) : title),
      s("text", { class: "small", x: inner - 12, y: 22, "text-anchor": "end" },
        `${part.length} ops · ${time(sum(clockNs) * (state.clock === "measured" ? 1 : part.count))}`));
    if (state.clock === "measured") {
      const all = Array.from({ length: part.length * part.count }, (_, i) => clockNs(e.ops[part.start + i])).reduce((a, b) => a + b, 0);
      head.lastChild.textContent = `${part.length} ops · ${time(all)}`;
    }
    const box = s("g", { transform: `translate(0 ${y})` }, open ? s("rect", { class: "part-box", x: -inner / 2, y: 0, width: inner, height: height + 4, rx: 10 }) : null, head, group);
    ends.push([y, open ? height + 4 : 34]);
    layer.append(box);
    widest = Math.max(widest, inner);
    y += (open ? height + 4 : 34) + 26;
  });
  for (let i = 1; i < ends.length; i += 1) {
    const from = ends[i - 1][0] + ends[i - 1][1];
    layer.prepend(s("path", { class: "edge", d: `M0 ${from} L0 ${ends[i][0]}` }));
  }
  canvas.append(svg, h("div", { class: "tools" },
    [["+", "Larger", () => zoom(1.3)], ["−", "Smaller", () => zoom(1 / 1.3)], ["Fit", "Show all", () => fit()],
      ["Fold", "Fold all layers", () => { state.open.clear(); draw(); }]].map(([text, title, action]) => h("button", { type: "button", title, onclick: action }, text))));

  let view = state.view && state.view.name === e.name ? state.view : null;
  const apply = () => { layer.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`); state.view = view; };
  const fit = (top) => {
    const box = svg.getBoundingClientRect();
    const k = Math.min(1, (box.width - 30) / widest, top ? 1 : (box.height - 30) / y);
    view = { name: e.name, k: Math.max(0.02, k), x: box.width / 2, y: 15 };
    apply();
  };
  const zoom = (factor, x, y0) => {
    const box = svg.getBoundingClientRect();
    const px = x === undefined ? box.width / 2 : x - box.left, py = y0 === undefined ? box.height / 2 : y0 - box.top;
    const k = Math.min(4, Math.max(0.02, view.k * factor));
    view = { ...view, x: px - (px - view.x) * k / view.k, y: py - (py - view.y) * k / view.k, k };
    apply();
  };
  svg.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY); }, { passive: false });
  const held = new Map();
  let spread = 0;
  svg.addEventListener("pointerdown", (event) => { held.set(event.pointerId, [event.clientX, event.clientY]); spread = 0; });
  svg.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last || event.buttons === 0) { held.delete(event.pointerId); return; }
    const dx = event.clientX - last[0], dy = event.clientY - last[1];
    held.set(event.pointerId, [event.clientX, event.clientY]);
    if (held.size === 2) {
      const [a, b] = [...held.values()];
      const now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread > 0) zoom(now / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = now;
    } else {
      svg.classList.add("drag");
      view = { ...view, x: view.x + dx, y: view.y + dy };
      apply();
    }
  });
  const release = (event) => { held.delete(event.pointerId); svg.classList.remove("drag"); };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointerleave", release);
  svg.addEventListener("pointercancel", release);
  if (view) apply(); else fit(true);
}

// Everything about one op.
function detail(side) {
  const e = entry();
  const op = e.ops[state.op];
  if (!op) {
    side.append(h("h2", {}, "An op"), h("p", { class: "note" }, "Choose an op in the graph, in a chart or in a table. Drag to move, scroll to zoom; a click on a layer folds or unfolds it."),
      legend(Object.keys(CLASSES)));
    return;
  }
  const kind = kindOf(op), work = kind.work, p = kind.predicted;
  const { part, layer } = placeOf(e, state.op);
  const all = copies(e, state.op);
  side.append(h("h2", {}, h("span", { class: `chip c-${classOf(kind.op)}` }, kind.op), ` ${op.results.join(", ")}`),
    h("p", {}, kind.doc),
    definitions([["in", layer === null ? `@${e.name}` : part.count > 1 ? `@${e.name}, layer ${layer}, as in ${part.count} layers` : `@${e.name}, layer ${layer}`],
      ...kind.attrs.map(([name, value]) => [words(name), value])]));
  side.append(h("h3", {}, "Operands"), definitions(op.operands.map((name, i) => [words(kind.operands[i].name || "operand"), h("span", { class: "mono" }, `${name}: ${kind.operands[i].type}`)])));
  side.append(h("h3", {}, "Results"), definitions(op.results.map((name, i) => [name, [h("span", { class: "mono" }, kind.results[i]), h("br"), op.places[i]]])));
  if (isView(op)) { side.append(h("p", { class: "note" }, "A view: it names parts of a value and costs nothing.")); return; }
  const measured = op.measured && all.map((i) => measuredNs(e.ops[i]));
  const average = measured ? mean(measured) : 0;
  side.append(h("h3", {}, "Needs"), definitions([
    ["weights", orDash(work.weight_bytes, bytes)], ["KV cache", work.kv_read_bytes || work.kv_written_bytes ? `${bytes(work.kv_read_bytes)} read, ${bytes(work.kv_written_bytes)} written` : "–"],
    ["activations", `${bytes(work.read_bytes)} read, ${bytes(work.written_bytes)} written`], ["multiply-adds", orDash(macs(work), count)]]));
  side.append(h("h3", {}, "Time"), definitions([
    ["predicted", `${time(p.ns)}, bound by ${p.bound}`], ["of it memory", time(p.memory_ns)], ["of it computing", time(p.compute_ns)], ["of it calls", time(p.overhead_ns)],
    ["roofline", p.least_ns ? `${time(p.least_ns)}, ${portion(p.least_ns / p.ns)} of the predicted time` : "–"],
    measured && ["measured", `${time(average)}${all.length > 1 ? " on average" : ""}, ${multiple(average / p.ns)} the prediction`],
    measured && p.least_ns > 0 && ["of roofline", portion(p.least_ns / average)],
    op.measured && ["waiting after it", op.measured.wait_ns.map(time).join(", ")]]));
  if (measured && measured.length > 1) {
    const top = Math.max(...measured);
    side.append(h("h3", {}, "Measured, layer by layer"), h("div", { class: "history" }, measured.map((ns, i) =>
      h("i", { style: { height: width(Math.max(0.03, ns / top)) }, ...tip(`layer ${part.layer + i}: ${time(ns)}`) }))));
  }
  const shares = kind.shares;
  side.append(h("h3", {}, "Threads"), definitions([
    ["units", `${kind.units[0]} for each ${kind.units[1]}`], ["shares", kind.replicated ? "every thread does all of it" : shares.slice(0, 8).join(", ") + (shares.length > 8 ? ", …" : "")],
    ["phase", `${op.phase + 1}${op.barrier ? ", then a barrier" : ""}`]]));
  side.append(h("h3", {}, kind.kernels.length > 1 ? "Kernels, with a barrier between them" : "Kernel"),
    ...kind.kernels.map((k) => h("button", { type: "button", class: "chip", onclick: () => { state.kernel = k; go("kernels"); } }, doc.kernels[k].name)));
}
