// The `openai` package for JavaScript: chats, completions, streams, tools, structured output, refusals.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { BASE, SCHEMA, TOOLS, WEATHER, check, isPerson, main } from "../checks.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "none", maxRetries: 0 });
const tools = new OpenAI({ baseURL: `${TOOLS}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Speak!" }];
const short = { model, messages, max_tokens: 12, temperature: 0, seed: 7 };

check("chat and stream", async () => {
  const whole = await client.chat.completions.create(short);
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...short, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});
check("a stream that is aborted", async () => {
  const stream = await client.chat.completions.create({ ...short, max_tokens: 500, stream: true });
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  assert.ok((await client.chat.completions.create(short)).choices.length === 1);
});
check("completions", async () => {
  const answer = await client.completions.create({ model, prompt: "ROMEO:", max_tokens: 8, temperature: 0, logprobs: 2 });
  assert.equal(answer.choices[0].logprobs.tokens.join(""), answer.choices[0].text);
});
check("structured output", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "person", schema: SCHEMA, strict: true } };
  isPerson((await client.chat.completions.create({ ...short, max_tokens: 120, response_format })).choices[0].message.content);
});
check("tools", async () => {
  const request = { ...short, max_tokens: 400, parallel_tool_calls: false, tools: [{ type: "function", function: { name: "weather", parameters: WEATHER } }], tool_choice: "required" };
  const whole = await tools.chat.completions.create(request);
  const call = whole.choices[0].message.tool_calls[0];
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  assert.ok(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));
  const streamed = await tools.chat.completions.stream(request).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});
check("responses", async () => {
  const request = { model, input: "Speak!", max_output_tokens: 16, temperature: 0, store: false };
  const whole = await client.responses.create(request);
  const final = await client.responses.stream(request).finalResponse();
  assert.equal(final.output_text, whole.output_text);
});
check("refusals", async () => {
  await assert.rejects(client.chat.completions.create({ ...short, messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ ...short, messages: [{ role: "user", content: "word ".repeat(9000) }] }), { status: 400, code: "context_length_exceeded" });
  await assert.rejects(client.embeddings.create({ model, input: "x" }), (error) => error.status >= 400 && error.status < 500);
});
await main();
