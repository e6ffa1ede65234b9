// What every driver of Node has in common; tests/callers/drivers/stage.py says what a driver is.

import { readFileSync } from "node:fs";

export const QUESTION = "Why is the sky blue?";
export const CHAT_MODEL = "gpt-4o-mini";
export const CLAUDE_MODEL = "claude-haiku-4-5";
export const MESSAGES = [{ role: "user", content: QUESTION }];

/** Play the scenes that the command line names; a scene's name begins with its tag. */
export async function play(scenes, ...packages) {
  const [url, ...words] = process.argv.slice(2);
  const versions = Object.fromEntries(packages.map((name) => [name, versionOf(name)]));
  say({ versions, runtime: `Node ${process.versions.node}` });
  for (const word of words) {
    const [scene, key] = word.split("=");
    const mode = scene.split(",")[0];
    const headers = mode === "now" ? {} : { "X-Deferrable": mode };
    try {
      const told = await scenes[scene]({ url, key, mode, headers });
      say({ scene, ...(typeof told === "string" ? { answer: told } : told) });
    } catch (error) {
      say({ scene, raised: error.constructor.name, message: String(error.message) });
    }
  }
}

/** The scenes that two functions are enough for. */
export function usual(ask, stream) {
  return {
    now: ask,
    "now, streamed": stream,
    wait: ask,
    "wait, streamed": stream,
    raise: ask,
    // Only raw SDKs know what to do with a job.
    "job, an error there": ask,
  };
}

function versionOf(name) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(file)).version;
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
