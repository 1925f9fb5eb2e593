// Tabs, choices and the address, which says what is shown.
const TABS = [["overview", "Overview", overview], ["graph", "Graph", graph], ["memory", "Memory", memory], ["schedule", "Schedule", schedule], ["kernels", "Kernels", kernels], ["stages", "Passes", stages]];

function address() {
  const parts = [state.tab, entry().name];
  if (state.op >= 0) parts.push(String(state.op));
  history.replaceState(null, "", "#" + parts.map(encodeURIComponent).join("/"));
}
function draw() {
  const scroll = window.scrollY;
  const main = byId("main");
  main.replaceChildren();
  byId("tabs").replaceChildren(...TABS.map(([name, text]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(name === state.tab), onclick: () => go(name) }, text)));
  byId("entries").replaceChildren(...doc.entries.map((e, i) => h("button", { type: "button", "data-entry": e.name, "aria-pressed": String(i === state.entry), onclick: () => { state.entry = i; state.op = -1; draw(); } }, `@${e.name}`)));
  const e = entry();
  if (!e) return;
  hideTip();
  TABS.find(([name]) => name === state.tab)[2](main);
  gloss(main);
  byId(`tab-${state.tab}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  address();
  window.scrollTo(0, scroll);
}
function go(tab) { state.tab = tab; draw(); window.scrollTo(0, 0); }
// Shows an op beside the present chart.
function select(index) { state.op = index; draw(); }
// Shows an op in the graph.
function pickOp(index) {
  if (index < 0) return;
  state.op = index;
  const e = entry();
  const number = e.parts.indexOf(placeOf(e, index).part);
  state.open.add(`${e.name}/${number}`);
  go("graph");
}
function start() {
  byId("name").textContent = doc.model_info.name;
  byId("subtitle").textContent = `${doc.model_info.architecture} · ${doc.model} · ${doc.machine.threads} threads · position ${doc.position} · ${doc.measurement ? "measured" : doc.machine.measured ? "predicted from measured speeds" : "predicted from assumed speeds"}`;
  startTheme();
  startTips();
  document.querySelector(".switches").prepend(h("div", { id: "entries", class: "segments", role: "group", "aria-label": "Entry point" }));
  document.querySelector("header").append(h("nav", { id: "tabs", role: "tablist", "aria-label": "Views" }));
  // The first fold of layers is open.
  doc.entries.forEach((e) => { const first = e.parts.findIndex((part) => part.layer !== null); if (first >= 0) state.open.add(`${e.name}/${first}`); });
  let hash = "";
  try { hash = decodeURIComponent(location.hash.slice(1)); } catch { hash = ""; }
  const [tab, name, op] = hash.split("/");
  if (TABS.some(([known]) => known === tab)) state.tab = tab;
  state.entry = Math.max(0, doc.entries.findIndex((e) => e.name === name));
  const index = Number.parseInt(op, 10);
  if (index >= 0 && index < entry().ops.length) state.op = index;
  document.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const number = Number.parseInt(event.key, 10);
    if (number >= 1 && number <= TABS.length && !event.ctrlKey && !event.metaKey && !event.altKey) go(TABS[number - 1][0]);
  });
  draw();
}
start();
