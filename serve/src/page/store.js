// What the browser keeps: conversations and settings in localStorage, the key until the tab is closed. A browser that keeps nothing
// (private windows, full storage) still shows the conversations of this page, and a notice says so.
const Store = (() => {
  const CHAT = "bitnetc.chat.", SETTINGS = "bitnetc.settings", KEY = "bitnetc.key", OPEN = "bitnetc.open";
  const chats = new Map();
  let onFull = () => {};

  function read(storage, name) {
    try { return JSON.parse(storage().getItem(name)); } catch { return null; }
  }
  function write(storage, name, value) {
    try {
      if (value === null) storage().removeItem(name); else storage().setItem(name, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }
  // Reading the property itself can be refused.
  const local = () => window.localStorage, session = () => window.sessionStorage;

  const isText = (value) => typeof value === "string";
  // A conversation as it should be, from what may be anything; null if it is none.
  function checked(value) {
    if (!value || !isText(value.id) || !Array.isArray(value.messages)) return null;
    const messages = value.messages.filter((m) => m && (m.role === "user" || m.role === "assistant") && isText(m.content));
    return {
      id: value.id, title: isText(value.title) ? value.title : "", named: value.named === true, system: isText(value.system) ? value.system : "",
      updated: Number.isFinite(value.updated) ? value.updated : 0, messages,
    };
  }

  function load() {
    chats.clear();
    try {
      for (let i = 0; i < local().length; i += 1) {
        const name = local().key(i);
        const chat = name.startsWith(CHAT) ? checked(read(local, name)) : null;
        if (chat && name === CHAT + chat.id) chats.set(chat.id, chat);
      }
    } catch { /* Nothing can be read: there are no conversations. */ }
  }

  const make = () => ({ id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`, title: "", named: false, system: "", updated: Date.now(), messages: [] });

  // Keeps a conversation. One without messages is not worth keeping.
  function save(chat) {
    chats.set(chat.id, chat);
    if (chat.messages.length || chat.named || chat.system) onFull(!write(local, CHAT + chat.id, chat));
  }
  function remove(id) {
    chats.delete(id);
    write(local, CHAT + id, null);
    onFull(false);
  }
  // Another tab changed something. The name of the conversation, or null.
  function changed(event) {
    if (!event.key?.startsWith(CHAT)) return null;
    const id = event.key.slice(CHAT.length), chat = checked(read(local, event.key));
    if (chat) chats.set(id, chat); else chats.delete(id);
    return id;
  }

  // The form that `bitnetc chat --load` reads, too.
  const exported = (chat, model) => `${JSON.stringify({
    schema: "bitnetc.chat/1", model, title: chat.title,
    messages: [...(chat.system ? [{ role: "system", content: chat.system }] : []),
      ...chat.messages.map(({ role, content, reasoning }) => (reasoning ? { role, content, reasoning_content: reasoning } : { role, content }))],
  }, null, 2)}\n`;
  // The conversation of a file. Throws words.
  function imported(text) {
    let value;
    try { value = JSON.parse(text); } catch { throw new Error("the file is not JSON"); }
    if (value?.schema !== "bitnetc.chat/1" || !Array.isArray(value.messages)) throw new Error("the file is not a conversation (bitnetc.chat/1)");
    const system = value.messages.find((m) => m?.role === "system" && isText(m.content));
    const messages = value.messages.map((m) => (isText(m?.reasoning_content) ? { role: m.role, content: m.content, reasoning: m.reasoning_content } : { role: m?.role, content: m?.content }));
    const chat = checked({ ...make(), title: value.title, system: system?.content, messages });
    if (!chat.messages.length) throw new Error("the file has no messages");
    chat.named = chat.title !== "";
    return chat;
  }

  return {
    load, make, save, remove, changed, exported, imported,
    get: (id) => chats.get(id),
    list: () => [...chats.values()].filter((c) => c.messages.length || c.named).sort((a, b) => b.updated - a.updated),
    settings: () => { const found = read(local, SETTINGS); return found && typeof found === "object" ? found : {}; },
    keepSettings: (settings) => write(local, SETTINGS, settings),
    key: () => { const found = read(session, KEY); return isText(found) ? found : ""; },
    keepKey: (key) => write(session, KEY, key || null),
    open: () => read(session, OPEN),
    keepOpen: (id) => write(session, OPEN, id),
    whenFull: (action) => { onFull = action; },
  };
})();
