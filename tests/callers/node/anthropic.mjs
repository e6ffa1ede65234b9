// The stock `@anthropic-ai/sdk`.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { CLAUDE_MODEL, MESSAGES, play, usual } from "./stage.mjs";

const ASKED = { model: CLAUDE_MODEL, max_tokens: 500, messages: MESSAGES };

function client({ url, key, headers }) {
  return new Anthropic({ baseURL: url, apiKey: key, defaultHeaders: headers });
}

async function ask(call) {
  return (await client(call).messages.create(ASKED)).content[0].text;
}

async function stream(call) {
  const events = client(call).messages.stream(ASKED);
  let text = "";
  events.on("text", (piece) => {
    text += piece;
  });
  assert.equal((await events.finalMessage()).content[0].text, text);
  return text;
}

async function askForMuch(call) {
  const message = await client(call).messages.create({ ...ASKED, max_tokens: 64_000 });
  return message.content[0].text;
}

async function job(call) {
  const sdk = client(call);
  const accepted = await sdk.messages.create(ASKED);
  const retrieved = await sdk.get(`/v1/messages/${accepted.id}`);
  return { job: accepted.id, answer: retrieved.content[0].text };
}

async function tagByEnvironment({ url, key, mode }) {
  process.env.ANTHROPIC_CUSTOM_HEADERS = `X-Deferrable: ${mode}`;
  try {
    const sdk = new Anthropic({ baseURL: url, apiKey: key });
    const models = (await sdk.models.list()).data.map((model) => model.id);
    assert(models.includes(CLAUDE_MODEL));
    const counted = await sdk.messages.countTokens({ model: CLAUDE_MODEL, messages: MESSAGES });
    const message = await sdk.messages.create(ASKED);
    assert.equal(counted.input_tokens, message.usage.input_tokens);
    return message.content[0].text;
  } finally {
    delete process.env.ANTHROPIC_CUSTOM_HEADERS;
  }
}

await play(
  {
    ...usual(ask, stream),
    job,
    "job, refused for a stream": stream,
    "wait, tag by environment": tagByEnvironment,
    "wait, unsent with many tokens and no timeout": askForMuch,
  },
  "@anthropic-ai/sdk",
);
