// Passes: what each one did, and the text that it changed.
function stages(root) {
  if (!doc.stages.length) {
    root.append(h("section", { class: "card" }, h("h2", {}, "Passes"), h("p", {}, "A plan holds the planned module only. Explain the .gguf file to see how the passes made it."),
      definitions([["passes", doc.model_info.options.passes]])));
    return;
  }
  if (state.stage < 0) state.stage = Math.max(0, doc.stages.findIndex((stage, i) => i > 0 && stage.changed));
  const most = Math.max(...doc.stages.map((stage) => stage.ops_after), 1);
  const list = h("section", { class: "card list", "aria-label": "Passes" }, doc.stages.map((stage, i) => h("button", { type: "button", "data-stage": i, "aria-pressed": String(i === state.stage), onclick: () => { state.stage = i; draw(); } },
    stage.pass, h("small", {}, stage.changed ? `${stage.stage} · ${stage.ops_after} ops · ${stage.patches ? stage.patches + " patches" : "no patches"}` : "changed nothing"),
    h("span", { class: "share", style: { width: "100%", margin: ".2rem 0 0" } }, h("i", { style: { width: width(stage.ops_after / most) } })))));
  const stage = doc.stages[state.stage];
  const card = h("section", { class: "card" }, h("h2", {}, stage.pass), h("p", {}, stage.description), definitions([["stage", words(stage.stage)],
    ["ops", state.stage ? `${stage.ops_before} before, ${stage.ops_after} after` : String(stage.ops_after)], ["weights", String(stage.weights_after)], ["patches", String(stage.patches)]]));
  root.append(h("div", { class: "stage" }, list, card));
  if (!stage.diff) { card.append(h("p", { class: "note" }, stage.changed ? "Nothing of the first layer and of what is outside of layers changed but its stage." : "It changed nothing.")); return; }
  card.append(h("h3", {}, state.stage ? "What changed, in the first layer and outside of layers" : "The first layer, and what is outside of layers"));
  const pre = h("pre", { class: "diff", tabindex: 0 });
  const line = (text) => h("span", { class: text[0] === "+" ? "plus" : text[0] === "-" ? "minus" : "same" }, text);
  const near = stage.diff.map((_, i) => state.stage === 0 || stage.diff.slice(Math.max(0, i - 3), i + 4).some((other) => other[0] !== " "));
  for (let i = 0; i < stage.diff.length;) {
    if (near[i]) { pre.append(line(stage.diff[i])); i += 1; continue; }
    let end = i;
    while (end < stage.diff.length && !near[end]) end += 1;
    const hidden = stage.diff.slice(i, end);
    const gap = h("span", { class: "gap", ...press(() => gap.replaceWith(...hidden.map(line))) }, `⋯ ${hidden.length} lines as before`);
    pre.append(gap);
    i = end;
  }
  card.append(pre);
}
