// Messages as they are shown: the text, what can be done with it, and what it took.
const View = (() => {
  // What an answer took, for people.
  function statistics(message) {
    const { usage, timings, ttft, elapsed } = message.stats || {}, parts = [];
    const made = usage?.completion_tokens;
    if (made !== undefined) parts.push(plural(made, "token"));
    let rate = timings?.predicted_per_second;
    if (!(rate > 0) && made > 1 && elapsed > ttft) rate = (made - 1) / ((elapsed - ttft) / 1000);
    if (rate > 0) parts.push(`${rate.toFixed(rate < 10 ? 2 : 1)} tokens/s`);
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      parts.push(`prompt ${usage.prompt_tokens.toLocaleString("en")} (${cached.toLocaleString("en")} cached)`);
    }
    if (ttft !== undefined) parts.push(`first token after ${seconds(ttft)}`);
    return parts.join(" · ");
  }

  const NOTES = {
    length: "The answer ended at the limit of tokens or of the context.",
    stopped: "Stopped.",
    content_filter: "The answer was withheld.",
  };

  // One message. `act` has what its buttons do; `refresh` draws what has changed while it streams.
  function message(data, act) {
    const user = data.role === "user";
    const body = h("div", { class: "body" }), reasoning = h("details", { class: "reasoning" }), thought = h("div", { class: "body" });
    const summary = h("summary", {}, "Reasoning");
    reasoning.append(summary, thought);
    const wait = h("p", { class: "wait" }, h("i"), h("i"), h("i"), h("span"));
    const notes = h("div", { class: "notes" }), stats = h("span", { class: "stats" }), actions = h("div", { class: "actions" });
    const root = h("article", { class: `message ${data.role}`, "aria-label": user ? "You" : "Model" },
      !user && reasoning, body, wait, notes, h("div", { class: "foot" }, actions, stats));

    function refresh(live) {
      if (user) body.textContent = data.content; else Markdown.draw(body, data.content);
      reasoning.hidden = !data.reasoning;
      if (data.reasoning) {
        Markdown.draw(thought, data.reasoning);
        summary.textContent = live && !data.content ? "Reasoning…" : "Reasoning";
      }
      wait.hidden = !live || data.content !== "";
      root.classList.toggle("live", Boolean(live));
      const note = [
        data.dropped && `The context was full: the oldest ${plural(data.dropped, "message")} were left out.`.replace("1 message were", "message was"),
        NOTES[data.finish],
      ].filter(Boolean);
      notes.replaceChildren(...note.map((text) => h("p", { class: "note" }, text)), ...(data.error ? [h("p", { class: "error", role: "alert" }, data.error)] : []));
      stats.textContent = live ? "" : statistics(data);
      actions.replaceChildren(...(live ? [] : buttons()));
    }
    function buttons() {
      const list = [];
      if (data.content) list.push(copyButton(() => data.content, { "aria-label": user ? "Copy the message" : "Copy the answer" }));
      if (user) list.push(button("Edit", edit, { "data-do": "edit" }));
      if (!user && act.isLast()) list.push(button(data.error ? "Try again" : "Regenerate", act.regenerate, { "data-do": "regenerate" }));
      return list;
    }
    function edit() {
      const area = h("textarea", { class: "edit", "aria-label": "The changed message" });
      area.value = data.content;
      const leave = () => { refresh(false); form.replaceWith(body); root.querySelector("[data-do=edit]")?.focus(); };
      const done = () => { if (area.value.trim()) act.edit(area.value); };
      const form = h("div", { class: "editing" }, area,
        h("div", { class: "row" }, h("span", { class: "note" }, act.isLastQuestion() ? "" : "The messages after it are replaced."),
          button("Cancel", leave), button("Send", done, { class: "primary" })));
      area.addEventListener("keydown", (event) => {
        if (event.key === "Escape") { event.stopPropagation(); leave(); }
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(); }
      });
      area.addEventListener("input", () => grow(area));
      body.replaceWith(form);
      actions.replaceChildren();
      grow(area);
      area.focus();
    }
    const since = (ms) => { wait.lastChild.textContent = ms < 2000 ? "" : `reading the messages, ${Math.floor(ms / 1000)} s`; };
    refresh(false);
    return { root, refresh, since };
  }

  // A text field as tall as its text.
  function grow(area) {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  }

  function welcome(suggest, model) {
    return h("div", { class: "welcome" }, h("h1", {}, "What can I do for you?"),
      h("p", { class: "note" }, model ? `${model} answers on this machine.` : "The model answers on this machine.", " Nothing that you write leaves the server."),
      h("div", { class: "ideas" }, ["Explain how a cache works", "Write a haiku about winter", "Show a table of three planets"].map((text) =>
        button(text, () => suggest(text)))));
  }
  return { message, grow, welcome };
})();
