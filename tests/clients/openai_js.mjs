// Tries the OpenAI JavaScript SDK against a gateway, for test_openai_javascript.py:
// `node openai_js.mjs BASE_URL` prints what came back as one line of JSON.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const ask = {
  model: "smollm2",
  messages: [{ role: "user", content: "What is the capital of France? Answer in one sentence." }],
  max_tokens: 24,
  temperature: 0,
};

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const chat = await client.chat.completions.create(ask);

const pieces = [];
let finish = null;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  if (chunk.choices[0].delta.content) pieces.push(chunk.choices[0].delta.content);
  finish = chunk.choices[0].finish_reason ?? finish;
}

const embedding = await client.embeddings.create({ model: "embedder", input: "hello" });

let unknown = null;
try {
  await client.chat.completions.create({ ...ask, model: "gpt-9" });
} catch (error) {
  unknown = { notFound: error instanceof OpenAI.NotFoundError, message: error.message };
}

console.log(
  JSON.stringify({
    models,
    chat: chat.choices[0].message.content,
    pieces,
    finish,
    dimensions: embedding.data[0].embedding.length,
    unknown,
  }),
);
