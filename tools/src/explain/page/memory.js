// Memory: which bytes hold which value, from the op that makes it to the last that reads it.
function memory(root) {
  const e = entry();
  const isPrivate = state.memory === "private";
  const height = isPrivate ? e.private_bytes : e.arena_bytes;
  const ops = scopeOps(e);
  const places = new Map(ops.map((index, i) => [index, i]));
  // A value lives from its first to its last op that is shown.
  const within = (value) => {
    const shown = ops.filter((index) => index >= value.first && index <= value.last);
    return shown.length ? [places.get(shown[0]), places.get(shown[shown.length - 1])] : null;
  };
  const values = e.values.filter((value) => value.private === isPrivate);
  const card = h("section", { class: "card" });
  const side = h("aside", { class: "card side", "aria-live": "polite" });
  root.append(h("div", { class: "split" }, card, side));
  card.append(h("h2", {}, `Memory of @${e.name}`), h("div", { class: "toolbar" },
    segments("Which memory", [["arena", `arena, ${bytes(e.arena_bytes)}`], ["private", `private to each thread, ${bytes(e.private_bytes)}`]], state.memory, (name) => { state.memory = name; draw(); }),
    scopeSelect(draw)));
  const describe = (value) => {
    side.replaceChildren(h("h2", {}, value.name), definitions([["type", h("span", { class: "mono" }, value.type)], ["bytes", `${value.size_bytes} (${bytes(value.size_bytes)})`],
      ["from byte", String(value.offset_bytes)], ["made by", opLink(value.first)], ["last used by", opLink(value.last)], ["in its place", value.holds.join(", ")]]));
    gloss(side);
  };
  const opLink = (index) => h("button", { type: "button", class: "chip", onclick: () => pickOp(index) }, `${kindOf(e.ops[index]).op} ${e.ops[index].results.join(", ")}`);
  side.append(h("h2", {}, "A value"), h("p", { class: "note" }, "Each box is a value: across, the ops in order; down, the bytes. Values that live in one phase share no bytes. Choose one."));
  if (!height || !values.length) { card.append(h("p", { class: "note" }, "Nothing lies here.")); return; }

  const left = 74, top = 14, right = 70, tall = 420;
  const room = card.clientWidth - 36 - left - right;
  const w = Math.max(room, ops.length * (ops.length > 80 ? 9 : 34));
  const step = w / ops.length, y = (byte) => top + tall * byte / height;
  const svg = s("svg", { viewBox: `0 0 ${left + w + right} ${top + tall + 105}`, width: left + w + right, height: top + tall + 105, role: "group", "aria-label": "Memory over ops" });
  for (let i = 0; i <= 8; i += 1) {
    const byte = height * i / 8;
    svg.append(s("line", { class: "axis", x1: left, x2: left + w, y1: y(byte), y2: y(byte) }), s("text", { class: "small", x: left - 8, y: y(byte) + 4, "text-anchor": "end" }, bytes(Math.round(byte))));
  }
  ops.forEach((index, i) => {
    if (e.ops[index].barrier) svg.append(s("line", { class: "barrier", x1: left + (i + 1) * step, x2: left + (i + 1) * step, y1: top, y2: top + tall }));
    if (ops.length <= 80) {
      const x = left + (i + 0.5) * step, at = top + tall + 10;
      svg.append(s("text", { class: "small", transform: `translate(${x + 4} ${at}) rotate(52)` }, kindOf(e.ops[index]).op));
    }
  });
  for (const value of values) {
    const shown = within(value);
    if (!shown) continue;
    const [first, last] = shown, x = left + first * step, wide = (last - first + 1) * step, high = Math.max(3, y(value.offset_bytes + value.size_bytes) - y(value.offset_bytes));
    svg.append(s("g", { class: "life", "data-value": value.name, "aria-label": `${value.name}, ${bytes(value.size_bytes)}`, ...press(() => {
      svg.querySelectorAll(".life.on").forEach((node) => node.classList.remove("on"));
      svg.querySelector(`[data-value="${CSS.escape(value.name)}"]`).classList.add("on");
      describe(value);
    }) },
    s("title", {}, `${value.name}: ${value.type}, ${bytes(value.size_bytes)} from byte ${value.offset_bytes}`),
    s("rect", { class: `fill c-${classOf(kindOf(e.ops[value.first]).op)}`, x: x + 0.5, y: y(value.offset_bytes), width: Math.max(2, wide - 1), height: high, rx: 3 }),
    wide > 44 && high > 15 ? s("text", { x: x + 6, y: y(value.offset_bytes) + Math.min(high / 2 + 4, 16) }, value.name) : null));
  }
  card.append(h("div", { class: "scroll" }, svg), legend(Object.keys(CLASSES).filter((name) => values.some((v) => classOf(kindOf(e.ops[v.first]).op) === name))),
    h("p", { class: "note" }, "Dotted lines are barriers."));
}
