// Tries the JavaScript SDKs of OpenAI and Anthropic with keys, for test_keys_javascript.py:
// `node keys_js.mjs '{"url": …, "alice": …, "wrong": …, "openai": …, "anthropic": …}'`, a URL and
// keys, prints what came back as one line of JSON.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { describe, print } from "./look.mjs";

const { url, alice, wrong, ...limited } = JSON.parse(process.argv[2]);
const user = (content) => [{ role: "user", content }];
const question = user("What is the capital of France? Answer in one sentence.");
const ask = { model: "smollm2", messages: question, max_tokens: 24, temperature: 0 };
// Takes long whatever the slot has cached; the engine's Messages API has no `ignore_eos`.
const long = { messages: user("Write the numbers from 1 to 500, one a line."), max_tokens: 1500, stream: true };

const openai = (options) => new OpenAI({ baseURL: `${url}/v1`, maxRetries: 0, ...options });
const anthropic = (options) => new Anthropic({ baseURL: url, maxRetries: 0, ...options });
const chat = (client, more) => client.chat.completions.create({ ...ask, ...more });
const message = (client, more) => client.messages.create({ ...ask, ...more });

// With a key for one request at once: a second one while the first, a stream, is under way; and a
// third, during whose wait the first is left. `statuses` are those of all answers.
async function limit(make, send, apiKey) {
  const statuses = [];
  let leave = () => {};
  const noted = async (...request) => {
    const response = await fetch(...request);
    statuses.push(response.status);
    if (response.status === 429) leave();
    return response;
  };
  const client = make({ apiKey, fetch: noted, maxRetries: 1 });
  const stream = await send(client, long);
  for await (const _ of stream) {
    const error = await send(client).catch(describe);
    leave = () => stream.controller.abort();
    const begun = performance.now();
    const answer = JSON.stringify(await send(client).catch(describe));
    return { error, answer, seconds: (performance.now() - begun) / 1000, statuses };
  }
}

await print({
  async openaiChat() {
    return (await chat(openai({ apiKey: alice }))).choices[0].message.content;
  },

  async openaiStream() {
    const pieces = [];
    for await (const chunk of await chat(openai({ apiKey: alice }), { stream: true })) {
      if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    }
    return pieces;
  },

  async openaiWrong() {
    return chat(openai({ apiKey: wrong })).catch(describe);
  },

  async openaiOther() {
    return chat(openai({ apiKey: alice }), { model: "embedder" }).catch(describe);
  },

  async anthropicChat() {
    return (await message(anthropic({ apiKey: alice }))).content[0].text;
  },

  async anthropicStream() {
    const pieces = [];
    const stream = anthropic({ apiKey: alice }).messages.stream(ask);
    stream.on("text", (piece) => pieces.push(piece));
    await stream.finalMessage();
    return pieces;
  },

  async anthropicWrong() {
    return message(anthropic({ apiKey: wrong })).catch(describe);
  },

  async anthropicOther() {
    return message(anthropic({ apiKey: alice }), { model: "embedder" }).catch(describe);
  },

  async limits() {
    const looks = { openai: [openai, chat], anthropic: [anthropic, message] };
    const seen = Object.entries(looks).map(async ([sdk, look]) => [
      sdk,
      await limit(...look, limited[sdk]),
    ]);
    return Object.fromEntries(await Promise.all(seen));
  },
});
