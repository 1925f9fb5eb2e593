// The page: conversations on the left, the open one in the middle, the field to write in below.
const SAMPLING = [
  // [name, label, least, most, step]
  ["temperature", "Temperature", 0, 2, "any"], ["top_p", "Top p", 0, 1, "any"], ["top_k", "Top k", 0, 1000, 1],
  ["min_p", "Min p", 0, 1, "any"], ["seed", "Seed", -1, 2 ** 53 - 1, 1], ["max_tokens", "Max tokens", 1, 1_000_000, 1],
];
let settings = {}, chat = null, running = null, messages = [], models = [];
const log = byId("log"), scroller = byId("scroll"), prompt = byId("prompt");

// ---- Words to the reader ----
const say = (text) => { byId("status").textContent = text; };
let noticeOwner = null;
function notice(owner, text) {
  // A notice stays until the same cause is gone.
  if (text === null && noticeOwner !== owner) return;
  noticeOwner = text === null ? null : owner;
  byId("notice").hidden = text === null;
  byId("notice").textContent = text ?? "";
}
// A question in a dialog: the text of its field, true if there is none, or null.
function ask({ title, text, value, ok }) {
  const dialog = byId("ask"), input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text ?? "";
  byId("ask-text").hidden = !text;
  input.hidden = value === undefined;
  input.value = value ?? "";
  byId("ask-ok").textContent = ok;
  dialog.returnValue = "";
  dialog.showModal();
  if (value !== undefined) input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? (value === undefined ? true : input.value.trim()) : null), { once: true });
  });
}

// ---- The end of the conversation stays in view unless the reader has scrolled away from it ----
let follows = true;
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
function toEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  byId("to-end").hidden = true;
}
scroller.addEventListener("scroll", () => {
  follows = atEnd();
  byId("to-end").hidden = follows;
}, { passive: true });
byId("to-end").addEventListener("click", () => { follows = true; toEnd(); prompt.focus(); });

// ---- Conversations ----
const titleOf = (c) => c.title || "New conversation";
function drawChats() {
  const focused = document.activeElement?.closest?.("#chats li")?.dataset.id;
  byId("chats").replaceChildren(...Store.list().map((c) => h("li", { "data-id": c.id, class: c.id === chat.id && "open" },
    button(titleOf(c), () => { open(c.id); narrow(false); prompt.focus(); }, { class: "title", title: titleOf(c), "aria-current": c.id === chat.id && "true" }),
    h("span", { class: "tools" },
      button("✎", () => rename(c), { class: "icon", "aria-label": `Rename ${titleOf(c)}`, title: "Rename" }),
      button("⤓", () => download(`${titleOf(c).replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 60) || "conversation"}.json`, "application/json", Store.exported(c, byId("model").value)),
        { class: "icon", "aria-label": `Export ${titleOf(c)}`, title: "Export" }),
      button("✕", () => discard(c), { class: "icon", "aria-label": `Delete ${titleOf(c)}`, title: "Delete" })))));
  if (focused) byId("chats").querySelector(`li[data-id="${CSS.escape(focused)}"] .title`)?.focus();
  document.title = chat.title ? `${chat.title} – bitnetc` : "bitnetc";
}
async function rename(c) {
  const title = await ask({ title: "Rename the conversation", value: titleOf(c), ok: "Rename" });
  if (!title) return;
  Object.assign(c, { title, named: true });
  Store.save(c);
  drawChats();
}
async function discard(c) {
  if (!(await ask({ title: "Delete this conversation?", text: `“${titleOf(c)}” is removed from this browser. This cannot be undone.`, ok: "Delete" }))) return;
  if (running?.chat === c) running.stop();
  Store.remove(c.id);
  if (c === chat) open(Store.list()[0]?.id); else drawChats();
  prompt.focus();
}
function open(id) {
  if (running && running.chat.id !== id) running.stop();
  chat = (id && Store.get(id)) || Store.make();
  Store.keepOpen(chat.id);
  follows = true;
  draw();
}
function draw() {
  messages = chat.messages.map(shown);
  log.replaceChildren(...(messages.length ? messages.map((m) => m.root)
    : [View.welcome((text) => { prompt.value = text; View.grow(prompt); prompt.focus(); }, models.length ? byId("model").value : "")]));
  drawChats();
  toEnd();
}
function shown(data) {
  return View.message(data, {
    isLast: () => chat.messages.at(-1) === data,
    isLastQuestion: () => chat.messages.indexOf(data) >= chat.messages.length - 2,
    regenerate: () => { cut(chat.messages.indexOf(data)); answer(); },
    edit: (text) => {
      running?.stop();
      cut(chat.messages.indexOf(data));
      send(text);
    },
  });
}
// Removes the messages from this one on.
function cut(at) {
  chat.messages.splice(at);
  for (const m of messages.splice(at)) m.root.remove();
}
function append(data) {
  if (!messages.length) log.replaceChildren();
  chat.messages.push(data);
  const view = shown(data);
  messages.at(-1)?.refresh(false);
  messages.push(view);
  log.append(view.root);
  return view;
}

// ---- Asking ----
function send(text) {
  append({ role: "user", content: text });
  if (!chat.named && !chat.title) {
    const line = text.trim().split("\n")[0];
    chat.title = line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
  }
  follows = true;
  answer();
}
function parameters() {
  const body = {};
  for (const [name] of SAMPLING) if (typeof settings[name] === "number") body[name] = settings[name];
  if (models.length) body.model = byId("model").value;
  return body;
}
// What is sent: an answer without a text tells the model nothing, and of `dropped` old messages it is not told.
function conversation(dropped) {
  const sent = chat.messages.filter((m) => m.role === "user" || m.content).slice(dropped).map(({ role, content }) => ({ role, content }));
  while (sent.length > 1 && sent[0].role === "assistant") sent.shift();
  return chat.system ? [{ role: "system", content: chat.system }, ...sent] : sent;
}

async function answer() {
  const data = { role: "assistant", content: "" }, own = chat, control = new AbortController(), begun = performance.now();
  const sent = conversation(0), view = append(data);
  const job = running = { chat: own, stop: () => control.abort() };
  let drawing = false, saved = begun;
  own.updated = Date.now();
  Store.save(own);
  drawChats();
  busy(true);
  view.refresh(true);
  if (follows) toEnd();
  const clock = setInterval(() => view.since(data.content ? 0 : performance.now() - begun), 500);
  // One drawing for each frame, whatever number of tokens arrives.
  const later = () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      if (running !== job) return;
      view.refresh(true);
      if (follows) toEnd();
      if (performance.now() - saved > 1000) { saved = performance.now(); Store.save(own); }
    });
  };
  const on = (event) => {
    data.stats ??= {};
    if (event.text || event.reasoning) data.stats.ttft ??= performance.now() - begun;
    if (event.text) data.content += event.text;
    if (event.reasoning) data.reasoning = (data.reasoning || "") + event.reasoning;
    if (event.finish) data.finish = event.finish;
    if (event.usage) data.stats.usage = event.usage;
    if (event.timings) data.stats.timings = event.timings;
    if (event.model) data.model = event.model;
    later();
  };
  try {
    await askWith(sent, control.signal, on, (dropped) => { data.dropped = dropped; });
  } catch (error) {
    if (error.name === "AbortError") data.finish = "stopped"; else data.error = error.message;
  }
  clearInterval(clock);
  if (data.stats) data.stats.elapsed = performance.now() - begun;
  own.updated = Date.now();
  if (Store.get(own.id) === own) Store.save(own);
  if (running !== job) return;
  running = null;
  busy(false);
  // An answer that was replaced or belongs to another conversation is not shown.
  if (own !== chat) return drawChats();
  view.refresh(false);
  drawChats();
  if (follows) toEnd();
  say(data.error ? "The answer failed." : data.finish === "stopped" ? "Stopped." : "The answer is complete.");
}
// Asks; where the context is too small, without the oldest questions and their answers.
async function askWith(sent, signal, on, tell) {
  const system = sent[0]?.role === "system" ? 1 : 0;
  for (let dropped = 0; ;) {
    try {
      return await Api.answer({ ...parameters(), messages: [...sent.slice(0, system), ...sent.slice(system + dropped)] }, signal, on);
    } catch (error) {
      const left = sent.length - system - dropped;
      if (error.code !== "context_length_exceeded" || settings.keep_all || left <= 1) throw error;
      // Half at a time, and up to a question.
      dropped += Math.max(1, Math.floor(left / 2));
      while (dropped < sent.length - system - 1 && sent[system + dropped].role === "assistant") dropped += 1;
      tell(dropped);
    }
  }
}
function busy(now) {
  byId("send").hidden = now;
  byId("stop").hidden = !now;
  log.setAttribute("aria-busy", String(now));
  if (now) say("The model is answering.");
}

// ---- Writing ----
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value;
  if (!text.trim() || running) return;
  prompt.value = "";
  View.grow(prompt);
  send(text);
});
prompt.addEventListener("input", () => View.grow(prompt));
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => { running?.stop(); prompt.focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (running) { running.stop(); prompt.focus(); } else narrow(false);
});

// ---- The list of conversations: beside the open one, or over it where there is little room ----
const isNarrow = () => matchMedia("(max-width: 760px)").matches;
function narrow(show) {
  if (!isNarrow()) return;
  document.body.classList.toggle("side-shown", show);
  byId("veil").hidden = !show;
  byId("side").inert = !show;
  byId("side-open").setAttribute("aria-expanded", String(show));
  if (show) byId("new").focus();
}
function side() {
  document.body.classList.remove("side-shown");
  byId("veil").hidden = true;
  const folded = isNarrow() || settings.folded === true;
  document.body.classList.toggle("side-folded", folded);
  byId("side").inert = folded;
  byId("side-open").setAttribute("aria-expanded", String(!folded));
}
byId("side-open").addEventListener("click", () => {
  if (isNarrow()) return narrow(!document.body.classList.contains("side-shown"));
  change({ folded: !settings.folded });
  side();
});
byId("side-close").addEventListener("click", () => { narrow(false); byId("side-open").focus(); });
byId("veil").addEventListener("click", () => narrow(false));
matchMedia("(max-width: 760px)").addEventListener("change", side);
byId("new").addEventListener("click", () => { open(null); narrow(false); prompt.focus(); });
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const found = Store.imported(await file.text());
    Store.save(found);
    notice("import", null);
    open(found.id);
  } catch (error) {
    notice("import", `${file.name} cannot be imported: ${error.message}.`);
  }
});

// ---- Settings ----
function change(more) {
  Object.assign(settings, more);
  for (const [name, value] of Object.entries(settings)) if (value === null || value === undefined) delete settings[name];
  Store.keepSettings(settings);
}
function theme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme; else delete document.documentElement.dataset.theme;
}
byId("theme").addEventListener("click", () => {
  const shows = settings.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  change({ theme: shows === "dark" ? "light" : "dark" });
  theme();
});
const fields = new Map(SAMPLING.map(([name, label, min, max, step]) => {
  const input = h("input", { type: "number", min, max, step, id: `set-${name}`, inputmode: "decimal", oninput: () => {
    const value = input.value === "" ? null : Number(input.value);
    if (input.validity.valid) change({ [name]: value });
  } });
  byId("sampling").append(h("label", {}, label, input));
  return [name, input];
}));
function showSettings() {
  for (const [name, input] of fields) input.value = settings[name] ?? "";
  byId("system").value = chat.system;
  byId("drop-oldest").checked = !settings.keep_all;
  byId("appearance").value = settings.theme ?? "";
  byId("key").value = Store.key();
}
byId("settings-open").addEventListener("click", () => { showSettings(); byId("settings").showModal(); byId("system").focus(); });
byId("settings").addEventListener("close", () => { if (Store.key() !== byId("key").value) { Store.keepKey(byId("key").value); connect(); } });
byId("system").addEventListener("input", (event) => { chat.system = event.target.value; Store.save(chat); });
byId("drop-oldest").addEventListener("change", (event) => change({ keep_all: !event.target.checked }));
byId("appearance").addEventListener("change", (event) => { change({ theme: event.target.value || null }); theme(); });
byId("reset").addEventListener("click", () => { change(Object.fromEntries(SAMPLING.map(([name]) => [name, null]))); change({ keep_all: null }); showSettings(); });
byId("ask-cancel").addEventListener("click", () => byId("ask").close());
byId("model").addEventListener("change", (event) => change({ model: event.target.value }));

// ---- The server ----
let retry = null;
async function connect() {
  clearTimeout(retry);
  try {
    models = await Api.models();
    const select = byId("model");
    select.replaceChildren(...models.map((id) => h("option", { value: id, selected: id === settings.model }, id)));
    select.disabled = models.length < 2;
    select.title = select.value;
    notice("server", null);
    if (!chat.messages.length) draw();
  } catch (error) {
    notice("server", error.message);
    // A model that is being loaded, or a server that is being started, is there soon.
    if (error.unreachable || error.status === 503) retry = setTimeout(connect, 2000);
    return;
  }
  try {
    const props = await Api.props(), defaults = props.default_generation_settings?.params ?? {};
    for (const [name, input] of fields) if (typeof defaults[name] === "number") input.placeholder = String(Number(defaults[name].toPrecision(6)));
    if (typeof props.build_info === "string") byId("version").textContent = props.build_info;
  } catch { /* A server without it has its defaults all the same. */ }
}

function start() {
  Store.whenFull((full) => notice("storage", full
    ? "The browser’s storage is full or not allowed: this conversation is lost when the page is closed. Export it, or delete older ones." : null));
  Store.load();
  settings = Store.settings();
  theme();
  side();
  open(Store.open());
  addEventListener("pagehide", () => { if (running) Store.save(running.chat); });
  addEventListener("storage", (event) => {
    const id = Store.changed(event);
    if (!id || (id === chat.id && running)) return;
    if (id === chat.id) { if (Store.get(id)) { chat = Store.get(id); draw(); } } else drawChats();
  });
  connect();
  prompt.focus();
}
start();
