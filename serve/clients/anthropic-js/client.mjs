// The `@anthropic-ai/sdk` package: messages, streams, tools, refusals.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { BASE, TOOLS, WEATHER, check, main } from "../checks.mjs";

const client = new Anthropic({ baseURL: BASE, apiKey: "none", maxRetries: 0 });
const tools = new Anthropic({ baseURL: TOOLS, apiKey: "none", maxRetries: 0 });
const short = { model: "bitnetc", max_tokens: 16, temperature: 0, messages: [{ role: "user", content: "Speak!" }] };

check("messages and streams", async () => {
  const whole = await client.messages.create(short);
  assert.equal(whole.type, "message");
  const final = await client.messages.stream(short).finalMessage();
  assert.deepEqual([final.content[0].text, final.stop_reason, final.usage.output_tokens], [whole.content[0].text, whole.stop_reason, whole.usage.output_tokens]);
});
check("tools", async () => {
  const request = { ...short, max_tokens: 400, tools: [{ name: "weather", input_schema: WEATHER }], tool_choice: { type: "any", disable_parallel_tool_use: true } };
  const whole = await tools.messages.create(request);
  const use = whole.content.find((block) => block.type === "tool_use");
  assert.ok(["Paris", "Rome"].includes(use.input.city));
  const streamed = await tools.messages.stream(request).finalMessage();
  assert.deepEqual(streamed.content.find((block) => block.type === "tool_use").input, use.input);
});
check("counts and refusals", async () => {
  assert.ok((await client.messages.countTokens({ model: short.model, messages: short.messages })).input_tokens > 0);
  await assert.rejects(client.messages.create({ ...short, messages: [] }), Anthropic.BadRequestError);
});
await main();
