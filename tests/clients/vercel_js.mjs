// Tries Vercel's AI SDK against a gateway, for test_vercel.py: `node vercel_js.mjs BASE_URL` prints
// what came back as one line of JSON.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embed, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { describe, print } from "./look.mjs";

const provider = createOpenAICompatible({
  name: "llamagw",
  baseURL: process.argv[2],
  apiKey: "none",
  supportsStructuredOutputs: true,
});
const ask = {
  model: provider("smollm2"),
  prompt: "What is the capital of France? Answer in one sentence.",
  maxOutputTokens: 80,
  temperature: 0,
  maxRetries: 0,
};
const output = Output.object({ schema: z.object({ name: z.enum(["Paris", "Rome"]) }) });
const weather = tool({
  description: "The weather.",
  inputSchema: z.object({ town: z.enum(["Paris", "Rome"]) }),
  execute: async ({ town }) => `Sunny in ${town}.`,
});
const call = { ...ask, tools: { weather }, toolChoice: "required" };

await print({
  async text() {
    const { text, usage } = await generateText(ask);
    return { text, tokens: usage.outputTokens };
  },

  async stream() {
    const pieces = [];
    for await (const piece of streamText(ask).textStream) pieces.push(piece);
    return pieces;
  },

  async object() {
    return (await generateText({ ...ask, output })).output;
  },

  async objectStream() {
    const stream = streamText({ ...ask, output });
    let last;
    for await (const part of stream.partialOutputStream) last = part;
    return last;
  },

  async tools() {
    return (await generateText(call)).toolResults.map((result) => result.output);
  },

  async toolsStream() {
    const kinds = [];
    for await (const part of streamText(call).fullStream) kinds.push(part.type);
    return kinds;
  },

  async embedding() {
    const { embedding } = await embed({ model: provider.embeddingModel("embedder"), value: "hello" });
    return embedding.length;
  },

  async unknownModel() {
    return generateText({ ...ask, model: provider("gpt-9") }).catch(describe);
  },
});
