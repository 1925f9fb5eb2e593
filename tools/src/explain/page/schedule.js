// Schedule: what each thread does, one phase after the other.
function schedule(root) {
  const e = entry();
  const ops = scopeOps(e).filter((index) => !isView(e.ops[index]));
  const measured = state.clock === "measured" && ops.some((index) => e.ops[index].measured);
  const threads = Math.min(16, Math.max(1, ...ops.map((index) => kindOf(e.ops[index]).shares.length)));
  const taken = (index, thread) => {
    const op = e.ops[index], kind = kindOf(op);
    if (measured && op.measured) return op.measured.busy_ns[thread] || 0;
    const most = Math.max(...kind.shares, 1);
    return kind.replicated ? kind.predicted.ns : kind.predicted.ns * (kind.shares[thread] || 0) / most;
  };
  const boxes = [], meets = [], phases = [];
  let now = Array(threads).fill(0), phase = null;
  const close = () => {
    const end = Math.max(...now);
    now.forEach((at, thread) => { if (end - at > 0) boxes.push({ thread, from: at, to: end, wait: true }); });
    phase.ns = end - phase.from;
    phase.busy = now.map((at, thread) => at - phase.starts[thread]);
    return end;
  };
  for (const index of ops) {
    if (!phase) phases.push(phase = { number: e.ops[index].phase + 1, ops: [], from: Math.max(...now), starts: [...now] });
    phase.ops.push(index);
    for (let t = 0; t < threads; t += 1) {
      const ns = taken(index, t);
      if (ns > 0) boxes.push({ thread: t, from: now[t], to: now[t] + ns, index });
      now[t] += ns;
    }
    if (e.ops[index].barrier) {
      const end = close();
      meets.push(end);
      now = now.map(() => end + doc.machine.barrier_ns);
      phase = null;
    }
  }
  if (phase) close();
  const whole = Math.max(...now, 1);

  const card = h("section", { class: "card" });
  const side = h("aside", { class: "card side", "aria-live": "polite" });
  root.append(h("div", { class: "split" }, card, side));
  detail(side);
  card.append(h("h2", {}, `Schedule of @${e.name}`), h("div", { class: "toolbar" },
    doc.measurement ? segments("Which times", [["predicted", "predicted"], ["measured", "measured"]], state.clock, (name) => { state.clock = name; draw(); }) : null,
    scopeSelect(draw), h("span", { class: "note" }, `${phases.length} phases shown, ${time(whole)}`)));
  const left = 74, row = 34, w = Math.max(620, card.clientWidth - 36 - left - 12, state.scopes.schedule === "all" ? Math.min(24000, ops.length * 26) : 0);
  const x = (ns) => left + w * ns / whole;
  const svg = s("svg", { viewBox: `0 0 ${left + w + 10} ${threads * row + 44}`, width: left + w + 10, height: threads * row + 44, role: "group", "aria-label": "Threads over time" });
  for (let t = 0; t < threads; t += 1) svg.append(s("text", { class: "small", x: left - 8, y: t * row + 22, "text-anchor": "end" }, `thread ${t}`));
  for (const box of boxes) {
    const wide = Math.max(0.6, x(box.to) - x(box.from)), at = { x: x(box.from), y: box.thread * row + 4, width: wide, height: row - 8 };
    if (box.wait) { svg.append(s("rect", { class: "wait", ...at }, s("title", {}, `waits ${time(box.to - box.from)}`))); continue; }
    const kind = kindOf(e.ops[box.index]);
    svg.append(s("g", { class: "lane", "data-op": box.index, onclick: () => select(box.index) },
      s("title", {}, `${kind.op} ${e.ops[box.index].results.join(", ")}: ${time(box.to - box.from)}`),
      s("rect", { class: `fill c-${classOf(kind.op)}`, rx: 2, ...at }),
      wide > kind.op.length * 6.6 + 10 ? s("text", { x: at.x + 5, y: at.y + 17 }, kind.op) : null));
  }
  for (const at of meets) svg.append(s("line", { class: "meet", x1: x(at), x2: x(at), y1: 0, y2: threads * row + 4 }));
  for (let i = 0; i <= 6; i += 1) svg.append(s("text", { class: "small", x: x(whole * i / 6), y: threads * row + 26, "text-anchor": i === 0 ? "start" : i === 6 ? "end" : "middle" }, time(whole * i / 6)));
  card.append(h("div", { class: "scroll" }, svg), legend(Object.keys(CLASSES).filter((name) => ops.some((index) => classOf(kindOf(e.ops[index]).op) === name))),
    h("p", { class: "note" }, "Dotted lines: all threads meet. Grey: a thread waits. A replicated op is done by every thread for itself."));
  const table = h("tbody", {}, phases.map((p) => h("tr", {},
    h("td", {}, String(p.number)), h("td", { class: "left" }, p.ops.map((index) => h("button", { type: "button", class: "chip", onclick: () => select(index) }, kindOf(e.ops[index]).op + (kindOf(e.ops[index]).replicated ? " (all)" : "")))),
    h("td", {}, time(p.ns)), h("td", {}, percent(p.ns / whole)), h("td", {}, percent(Math.min(...p.busy) / Math.max(...p.busy, 1))))));
  card.append(h("h3", {}, "Phases"), h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["phase", "ops", "time", "share", "least to most busy"].map((text, i) => h("th", { class: i === 1 ? "left" : null }, text)))), table)));
}
