// The stock `openai` SDK of Node.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError } from "openai";
import { CHAT_MODEL, MESSAGES, QUESTION, play, usual } from "./stage.mjs";

const CHAT = { model: CHAT_MODEL, messages: MESSAGES };
const EMBED = { model: "text-embedding-3-small", input: QUESTION };

function client({ url, key, headers }) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: key, defaultHeaders: headers });
}

async function ask(call) {
  return (await client(call).chat.completions.create(CHAT)).choices[0].message.content;
}

async function stream(call) {
  const options = { stream: true, stream_options: { include_usage: true } };
  let text = "";
  for await (const chunk of await client(call).chat.completions.create({ ...CHAT, ...options })) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  return text;
}

async function job(call) {
  const sdk = client(call);
  const accepted = await sdk.chat.completions.create(CHAT);
  const retrieved = await sdk.chat.completions.retrieve(accepted.id);
  return { job: accepted.id, answer: retrieved.choices[0].message.content };
}

async function respond(call) {
  return (await client(call).responses.create({ model: CHAT_MODEL, input: QUESTION })).output_text;
}

async function respondLater(call) {
  const sdk = client(call);
  const accepted = await sdk.responses.create({ model: CHAT_MODEL, input: QUESTION });
  let answer = accepted;
  while (["queued", "in_progress"].includes(answer.status)) {
    answer = await sdk.responses.retrieve(accepted.id);
  }
  return { job: accepted.id, answer: answer.output_text };
}

async function embed(call) {
  return JSON.stringify((await client(call).embeddings.create(EMBED)).data[0].embedding);
}

async function embedAsAJob(call) {
  const sdk = client(call);
  try {
    await sdk.embeddings.create(EMBED);
  } catch (error) {
    assert(error instanceof BadRequestError);
    const id = error.headers.get("x-deferrable-job");
    assert.equal((await sdk.get(`/embeddings/${id}`)).data.length, 1);
    throw error;
  }
  return "nothing was raised";
}

async function tagByEnvironment({ url, key, mode }) {
  process.env.OPENAI_CUSTOM_HEADERS = `X-Deferrable: ${mode}`;
  try {
    const sdk = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
    const models = (await sdk.models.list()).data.map((model) => model.id);
    assert(models.includes(CHAT_MODEL));
    const content = new File(["{}\n"], "a.jsonl");
    const file = await sdk.files.create({ file: content, purpose: "batch" });
    assert.equal(await (await sdk.files.content(file.id)).text(), "{}\n");
    return (await sdk.chat.completions.create(CHAT)).choices[0].message.content;
  } finally {
    delete process.env.OPENAI_CUSTOM_HEADERS;
  }
}

await play(
  {
    ...usual(ask, stream),
    job,
    "wait, Responses": respond,
    "wait, embeddings": embed,
    "job, Responses": respondLater,
    "job, refused for a stream": stream,
    "job, raised for embeddings": embedAsAJob,
    "background, fetched": respondLater,
    "wait, tag by environment": tagByEnvironment,
  },
  "openai",
);
