// What the JavaScript clients share: where the servers are, and checks that all run before the first failure is reported.
import assert from "node:assert/strict";

export const BASE = process.env.BITNETC_URL;
export const TOOLS = process.env.BITNETC_TOOLS_URL;
export const SCHEMA = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const checks = [];
export const check = (name, run) => checks.push([name, run]);

export function isPerson(text) {
  const person = typeof text === "string" ? JSON.parse(text) : text;
  assert.deepEqual(Object.keys(person).sort(), ["age", "name"]);
  assert.equal(typeof person.name, "string");
  assert.ok(person.age >= 0 && person.age <= 150);
}

export async function main() {
  let failed = 0;
  for (const [name, run] of checks) {
    try {
      await run();
    } catch (error) {
      failed += 1;
      console.error(`FAILED ${name}\n${error.stack}`);
    }
  }
  console.log(`${checks.length - failed} of ${checks.length} checks passed`);
  process.exit(failed ? 1 : 0);
}
