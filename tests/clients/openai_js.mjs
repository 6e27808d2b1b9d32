// Tries the OpenAI JavaScript SDK against a gateway, for test_openai_javascript.py:
// `node openai_js.mjs BASE_URL` prints what came back as one line of JSON.

import OpenAI from "openai";
import { describe, print } from "./look.mjs";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [
  { role: "user", content: "What is the capital of France? Answer in one sentence." },
];
const ask = { model: "smollm2", messages, max_tokens: 24, temperature: 0 };
const town = { type: "object", properties: { name: { enum: ["Paris", "Rome"] } }, required: ["name"] };
const call = {
  ...ask,
  max_tokens: 80,
  tools: [{ type: "function", function: { name: "get_weather", parameters: town } }],
  tool_choice: "required",
};
const question = { model: "smollm2", input: messages[0].content, temperature: 0 };

const seen = {
  async models() {
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    return { models, one: (await client.models.retrieve("smollm2")).id };
  },

  async chat() {
    return (await client.chat.completions.create(ask)).choices[0].message.content;
  },

  async chatStream() {
    const stream = await client.chat.completions.create({
      ...ask,
      stream: true,
      stream_options: { include_usage: true },
    });
    const pieces = [];
    let finish, usage;
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      if (choice?.delta.content) pieces.push(choice.delta.content);
      finish = choice?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    return { pieces, finish, tokens: usage.completion_tokens };
  },

  async chatStreamHelper() {
    return client.chat.completions.stream(ask).finalContent();
  },

  async tools() {
    return (await client.chat.completions.create(call)).choices[0].message.tool_calls;
  },

  async toolsStream() {
    const parts = [];
    for await (const chunk of await client.chat.completions.create({ ...call, stream: true })) {
      parts.push(...(chunk.choices[0]?.delta.tool_calls ?? []));
    }
    return parts;
  },

  async jsonSchema() {
    const format = { type: "json_schema", json_schema: { name: "town", schema: town } };
    const answer = await client.chat.completions.parse({ ...ask, response_format: format });
    return JSON.parse(answer.choices[0].message.content);
  },

  async logprobs() {
    const answer = await client.chat.completions.create({
      ...ask,
      logprobs: true,
      top_logprobs: 3,
    });
    return answer.choices[0].logprobs.content.map((token) => token.top_logprobs.length);
  },

  async rawResponse() {
    const { data, response } = await client.chat.completions.create(ask).withResponse();
    return { type: response.headers.get("content-type"), id: data.id };
  },

  async completion() {
    const ask = { model: "smollm2", prompt: "One, two, three, four,", max_tokens: 8, temperature: 0 };
    const whole = (await client.completions.create(ask)).choices[0].text;
    const pieces = [];
    for await (const chunk of await client.completions.create({ ...ask, stream: true })) {
      pieces.push(chunk.choices[0].text);
    }
    return { whole, pieces };
  },

  async embeddings() {
    const ask = { model: "embedder", input: "hello" };
    const base64 = await client.embeddings.create(ask); // the SDK asks for base64 by itself
    const floats = await client.embeddings.create({ ...ask, encoding_format: "float" });
    return { base64: base64.data[0].embedding, floats: floats.data[0].embedding };
  },

  async responses() {
    const whole = await client.responses.create(question);
    const count = await client.responses.inputTokens.count({
      model: "smollm2",
      input: question.input,
    });
    const kinds = [];
    for await (const event of await client.responses.create({ ...question, stream: true })) {
      kinds.push(event.type);
    }
    return { whole: whole.output_text, used: whole.usage.input_tokens, count, kinds };
  },

  async leftEarly() {
    const stream = await client.chat.completions.create({
      ...ask,
      max_tokens: 1500,
      stream: true,
      ignore_eos: true, // llama-server's own keys pass as well
    });
    for await (const chunk of stream) {
      stream.controller.abort();
      return chunk.object;
    }
  },

  async timeout() {
    const long = { ...ask, max_tokens: 80, ignore_eos: true };
    return client.chat.completions.create(long, { timeout: 300 }).catch(describe);
  },

  async unknownModel() {
    return client.chat.completions.create({ ...ask, model: "gpt-9" }).catch(describe);
  },

  async badRequest() {
    return client.chat.completions.create({ ...ask, temperature: "hot" }).catch(describe);
  },
};

await print(seen);
