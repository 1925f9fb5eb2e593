// The AI SDK by its provider for servers that are compatible with OpenAI's: texts, streams, objects, tools, refusals.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { z } from "zod";
import { BASE, SCHEMA, TOOLS, WEATHER, check, isPerson, main } from "../checks.mjs";

const provider = (base, more) => createOpenAICompatible({ name: "bitnetc", baseURL: `${base}/v1`, apiKey: "none", includeUsage: true, ...more });
const model = provider(BASE)("bitnetc");
const short = { model, prompt: "Speak!", maxOutputTokens: 12, temperature: 0, maxRetries: 0 };

check("texts and streams", async () => {
  const whole = await generateText(short);
  const stream = streamText(short);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});
check("objects by schema and as JSON", async () => {
  const structured = provider(BASE, { supportsStructuredOutputs: true })("bitnetc");
  isPerson((await generateObject({ ...short, model: structured, schema: jsonSchema(SCHEMA), maxOutputTokens: 120 })).object);
  const { object } = await generateObject({ ...short, model: structured, schema: z.object({ warm: z.boolean() }), maxOutputTokens: 60 });
  assert.equal(typeof object.warm, "boolean");
});
check("tools", async () => {
  const weather = tool({ description: "The weather", inputSchema: jsonSchema(WEATHER) });
  const answer = await generateText({ ...short, model: provider(TOOLS)("bitnetc"), tools: { weather }, toolChoice: "required", maxOutputTokens: 400 });
  assert.equal(answer.toolCalls[0].toolName, "weather");
  assert.ok(["Paris", "Rome"].includes(answer.toolCalls[0].input.city));
});
check("refusals", async () => {
  await assert.rejects(generateText({ ...short, prompt: "word ".repeat(9000) }), { statusCode: 400 });
});
await main();
