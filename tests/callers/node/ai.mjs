// The AI SDK over its OpenAI provider: chat, unless a scene says Responses.

import { createOpenAI } from "@ai-sdk/openai";
import { Output, embed as embedValue, generateText, jsonSchema, streamText } from "ai";
import { CHAT_MODEL, QUESTION, play, usual } from "./stage.mjs";

const TICKET = jsonSchema({
  type: "object",
  properties: { kind: { type: "string" }, urgency: { type: "integer" } },
  required: ["kind", "urgency"],
  additionalProperties: false,
});

function provider({ url, key, headers }) {
  return createOpenAI({ baseURL: `${url}/v1`, apiKey: key, headers });
}

async function ask(call) {
  return (await generateText({ model: provider(call).chat(CHAT_MODEL), prompt: QUESTION })).text;
}

async function stream(call) {
  let failure;
  const result = streamText({
    model: provider(call).chat(CHAT_MODEL),
    prompt: QUESTION,
    // What fails in a stream is told here and not thrown.
    onError: ({ error }) => {
      failure = error;
    },
  });
  let text = "";
  for await (const piece of result.textStream) {
    text += piece;
  }
  if (failure) {
    throw failure;
  }
  return text;
}

async function parse(call) {
  const output = Output.object({ schema: TICKET });
  const model = provider(call).chat(CHAT_MODEL);
  return (await generateText({ model, output, prompt: QUESTION })).output.kind;
}

async function askByTier(call) {
  const model = provider(call).chat(CHAT_MODEL);
  const providerOptions = { openai: { serviceTier: "batch" } };
  return (await generateText({ model, prompt: QUESTION, providerOptions })).text;
}

async function respond(call) {
  const model = provider(call).responses(CHAT_MODEL);
  return (await generateText({ model, prompt: QUESTION })).text;
}

async function embed(call) {
  const model = provider(call).embedding("text-embedding-3-small");
  return JSON.stringify((await embedValue({ model, value: QUESTION })).embedding);
}

await play(
  {
    ...usual(ask, stream),
    "wait, typed output": parse,
    "wait, Responses": respond,
    "wait, embeddings": embed,
    "wait, unsent with an unknown service tier": askByTier,
  },
  "ai",
  "@ai-sdk/openai",
);
