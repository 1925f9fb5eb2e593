// The server: its models, its defaults, and answers as they are made.
const Api = (() => {
  // A failure with words for the reader.
  class Failure extends Error {
    constructor(message, more) { super(message); Object.assign(this, more); }
  }

  function headers() {
    const key = Store.key();
    return key ? { authorization: `Bearer ${key}` } : {};
  }

  // What a refusal means, and what helps.
  async function refusal(response) {
    let error = null;
    try { error = (await response.json()).error; } catch { /* No JSON: the status has to do. */ }
    const said = typeof error?.message === "string" ? error.message : "", more = { status: response.status, code: error?.code, error };
    const wait = Number.parseInt(response.headers.get("retry-after") || "", 10);
    const again = Number.isFinite(wait) ? ` Try again in ${plural(wait, "second")}.` : " Try again soon.";
    switch (response.status) {
      case 401: return new Failure(`The server wants an API key${Store.key() ? " and does not accept this one" : ""}: set it in Settings.`, more);
      case 429: return new Failure(`The server is busy: its queue is full.${again}`, more);
      case 503: return new Failure(`${said || "The server cannot answer at present"}.`.replace(/\.\.$/, ".") + again, more);
      default: return new Failure(said || `The server answered with status ${response.status}.`, more);
    }
  }

  // Paths are relative to the page, which may be below a path of a proxy.
  async function request(path, options) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...headers(), ...options?.headers }, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The server cannot be reached. Check that bitnetc serve is still running.", { unreachable: true });
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
  const json = async (path) => (await request(path)).json();

  // The payloads of an event stream. Lines may arrive in pieces; comments keep the connection alive.
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", data = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) { yield data.join("\n"); data = []; }
      }
    }
  }

  // Streams an answer: calls `on` with { text }, { reasoning }, { finish }, { usage, timings }; ends when the answer does.
  async function answer(body, signal, on) {
    const response = await request("v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json" }, signal,
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    });
    let complete = false, finished = false;
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") { complete = true; break; }
        let chunk;
        try { chunk = JSON.parse(data); } catch { throw new Failure("The server sent something that is not JSON."); }
        if (chunk.error) throw new Failure(chunk.error.message || "The server could not finish the answer.", { code: chunk.error.code });
        const choice = chunk.choices?.[0], delta = choice?.delta || {};
        if (typeof delta.reasoning_content === "string" && delta.reasoning_content) on({ reasoning: delta.reasoning_content });
        if (typeof delta.content === "string" && delta.content) on({ text: delta.content });
        if (choice?.finish_reason) { finished = true; on({ finish: choice.finish_reason }); }
        if (chunk.usage || chunk.timings) on({ usage: chunk.usage, timings: chunk.timings, model: chunk.model });
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof Failure) throw error;
      throw new Failure("The connection was lost before the answer was complete.");
    }
    if (!complete && !finished) throw new Failure("The connection ended before the answer was complete.");
  }

  return {
    Failure, answer,
    models: async () => (await json("v1/models")).data.map((model) => String(model.id)),
    props: () => json("props"),
  };
})();
