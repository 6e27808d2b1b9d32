// Tries the Anthropic JavaScript SDK against a gateway, for test_anthropic_javascript.py:
// `node anthropic_js.mjs BASE_URL` prints what came back as one line of JSON.

import Anthropic from "@anthropic-ai/sdk";
import { describe, print } from "./look.mjs";

const root = process.argv[2].replace(/\/v1$/, "");
const client = new Anthropic({ baseURL: root, apiKey: "none", maxRetries: 0 });
const messages = [
  { role: "user", content: "What is the capital of France? Answer in one sentence." },
];
const ask = { model: "smollm2", messages, max_tokens: 24, temperature: 0 };
const town = { type: "object", properties: { name: { enum: ["Paris", "Rome"] } }, required: ["name"] };
const call = {
  ...ask,
  max_tokens: 80,
  tools: [{ name: "get_weather", description: "The weather.", input_schema: town }],
  tool_choice: { type: "any" },
};

await print({
  async message() {
    return client.messages.create(ask);
  },

  async streamOfEvents() {
    const kinds = [];
    for await (const event of await client.messages.create({ ...ask, stream: true })) {
      kinds.push(event.type);
    }
    return kinds;
  },

  async stream() {
    const pieces = [];
    const stream = client.messages.stream(ask).on("text", (piece) => pieces.push(piece));
    return { pieces, message: await stream.finalMessage() };
  },

  async tools() {
    return (await client.messages.create(call)).content;
  },

  async toolsStream() {
    let parts = 0;
    const stream = client.messages.stream(call).on("inputJson", () => parts++);
    const { content } = await stream.finalMessage();
    return { content, parts };
  },

  async count() {
    return client.messages.countTokens({ model: "smollm2", messages });
  },

  async models() {
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    return { models, one: (await client.models.retrieve("smollm2")).id };
  },

  async leftEarly() {
    const stream = client.messages.stream({ ...ask, max_tokens: 1500, ignore_eos: true });
    for await (const event of stream) {
      if (event.type !== "content_block_delta") continue;
      stream.abort();
      return event.type;
    }
  },

  async unknownModel() {
    return client.messages.create({ ...ask, model: "gpt-9" }).catch(describe);
  },

  async tooLong() {
    const long = [{ role: "user", content: "word ".repeat(4000) }];
    return client.messages.create({ ...ask, messages: long }).catch(describe);
  },
});
