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
  const boxes = [], barriers = [], rows = [];
  let now = Array(threads).fill(0), phase = null;
  // Ends a phase: threads wait for the last one, and `barrier` says what the barrier itself takes.
  const close = (last, barrier) => {
    const waits = measured ? now.map((_, t) => (last.measured ? last.measured.wait_ns[t] || 0 : 0)) : now.map(() => barrier);
    const end = Math.max(...now.map((at, t) => at + waits[t]));
    now.forEach((at, thread) => { if (end - at > 0) boxes.push({ thread, from: at, to: end, wait: true }); });
    phase.busy = now.map((at, thread) => at - phase.starts[thread]);
    // As in the table by op: predictions are for the thread that has most to do, measured times are means over the threads.
    phase.ns = measured ? mean(phase.busy) : Math.max(...phase.busy);
    const waited = phase.waited + (measured ? mean(waits) : barrier);
    if (waited > 0) rows.push({ after: phase.number, ns: waited });
    now = now.map(() => end);
    phase = null;
    return end;
  };
  // The predicted time of a barrier inside an op, which no thread computes in.
  const inside = (ns) => {
    now.forEach((at, thread) => { if (ns > 0) boxes.push({ thread, from: at, to: at + ns, wait: true }); });
    now = now.map((at) => at + ns);
    phase.starts = phase.starts.map((at) => at + ns);
    phase.waited += ns;
  };
  for (const index of ops) {
    const op = e.ops[index];
    if (!phase) rows.push(phase = { number: op.phase + 1, count: 1, ops: [], starts: [...now], waited: 0 });
    phase.ops.push(index);
    phase.count += op.inner_barrier ? 1 : 0;
    for (let t = 0; t < threads; t += 1) {
      const ns = taken(index, t);
      if (ns > 0) boxes.push({ thread: t, from: now[t], to: now[t] + ns, index });
      now[t] += ns;
    }
    if (op.inner_barrier && !measured) inside(doc.machine.barrier_ns);
    if (op.barrier) barriers.push(close(op, doc.machine.barrier_ns));
    // Threads wait at the barrier inside an op too.
    else if (measured) phase.waited += index === ops[ops.length - 1] ? 0 : waitNs(op);
  }
  if (phase) close(e.ops[ops[ops.length - 1]], 0);
  // What is neither in kernels nor at barriers is known of whole calls only.
  if (measured && e.measured_dispatch_ns > 0 && ops.length === e.ops.filter((op) => !isView(op)).length) rows.push({ dispatch: true, ns: e.measured_dispatch_ns });
  const phases = rows.reduce((total, row) => total + (row.ops ? row.count : 0), 0);
  const whole = Math.max(...now, 1), sum = rows.reduce((total, row) => total + row.ns, 0);

  const card = h("section", { class: "card" });
  const side = h("aside", { class: "card side", "aria-live": "polite" });
  root.append(h("div", { class: "split" }, card, side));
  detail(side);
  card.append(h("h2", {}, `Schedule of @${e.name}`), h("div", { class: "toolbar" },
    doc.measurement ? segments("Which times", [["predicted", "predicted"], ["measured", "measured"]], state.clock, (name) => { state.clock = name; draw(); }) : null,
    scopeSelect(draw), h("span", { class: "note" }, `${phases} ${phases === 1 ? "phase" : "phases"} shown, ${time(sum)}`)));
  const left = 74, row = 34, w = Math.max(620, card.clientWidth - 36 - left - 12, state.scopes.schedule === "all" ? Math.min(24000, ops.length * 26) : 0);
  const x = (ns) => left + w * ns / whole;
  const svg = s("svg", { viewBox: `0 0 ${left + w + 10} ${threads * row + 44}`, width: left + w + 10, height: threads * row + 44, role: "group", "aria-label": "Threads over time" });
  for (let t = 0; t < threads; t += 1) svg.append(s("text", { class: "small", x: left - 8, y: t * row + 22, "text-anchor": "end" }, `thread ${t}`));
  for (const box of boxes) {
    const wide = Math.max(0.6, x(box.to) - x(box.from)), at = { x: x(box.from), y: box.thread * row + 4, width: wide, height: row - 8 };
    if (box.wait) { svg.append(s("rect", { class: "wait", ...at }, s("title", {}, `waits at the barrier for ${time(box.to - box.from)}`))); continue; }
    const kind = kindOf(e.ops[box.index]);
    svg.append(s("g", { class: "lane", "data-op": box.index, "aria-label": `${kind.op}, thread ${box.thread}, ${time(box.to - box.from)}`, ...press(() => select(box.index)) },
      s("title", {}, `${kind.op} ${e.ops[box.index].results.join(", ")}: ${time(box.to - box.from)}`),
      s("rect", { class: `fill c-${classOf(kind.op)}`, rx: 2, ...at }),
      wide > kind.op.length * 6.6 + 10 ? s("text", { x: at.x + 5, y: at.y + 17 }, kind.op) : null));
  }
  for (const at of barriers) svg.append(s("line", { class: "barrier", x1: x(at), x2: x(at), y1: 0, y2: threads * row + 4 }));
  for (let i = 0; i <= 6; i += 1) svg.append(s("text", { class: "small", x: x(whole * i / 6), y: threads * row + 26, "text-anchor": i === 0 ? "start" : i === 6 ? "end" : "middle" }, time(whole * i / 6)));
  card.append(h("div", { class: "scroll" }, svg), legend(Object.keys(CLASSES).filter((name) => ops.some((index) => classOf(kindOf(e.ops[index]).op) === name))),
    h("p", { class: "note" }, "Dotted lines are barriers; grey, a thread waits. A replicated op (all) is computed by every thread for itself."));
  const percents = shares(rows.map((row) => row.ns));
  const cells = (row, i) => {
    if (row.dispatch) return [h("td", {}, "dispatch"), h("td", { class: "left" }), h("td", {}, time(row.ns)), h("td", {}, percents[i]), h("td")];
    if (!row.ops) return [h("td", {}, "barrier"), h("td", { class: "left note" }, `after phase ${row.after}`), h("td", {}, time(row.ns)), h("td", {}, percents[i]), h("td")];
    const chips = row.ops.map((index) => h("button", { type: "button", class: "chip", onclick: () => select(index) }, kindOf(e.ops[index]).op + (kindOf(e.ops[index]).replicated ? " (all)" : "")));
    const numbers = row.count > 1 ? `${row.number}–${row.number + row.count - 1}` : String(row.number);
    return [h("td", {}, numbers), h("td", { class: "left" }, chips), h("td", {}, time(row.ns)), h("td", {}, percents[i]),
      h("td", {}, percent(Math.min(...row.busy) / Math.max(...row.busy, 1)))];
  };
  card.append(h("h3", {}, "Phases and barriers"), h("div", { class: "scroll" }, h("table", { class: "phases" },
    h("thead", {}, h("tr", {}, ["phase", "ops", "time", "share", "least to most busy"].map((text, i) => h("th", { class: i === 1 ? "left" : null }, text)))),
    h("tbody", {}, rows.map((row, i) => h("tr", {}, cells(row, i)))),
    h("tfoot", {}, h("tr", {}, ["what is shown", "", time(sum), rows.length ? "100.0 %" : "–", ""].map((text) => h("td", {}, text)))))));
}
