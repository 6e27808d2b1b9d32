// What the playground sends: requests whose answers are read as they come, and the same requests as
// commands and programs to copy.
import { copying, el, refusal, root } from "./lib.js";

/** Names of OpenAI's own that its Python library takes; all others go into its extra_body. */
const OPENAI = new Set(
  `model messages input temperature top_p max_tokens max_completion_tokens seed stop stream stream_options
  tools tool_choice parallel_tool_calls response_format n presence_penalty frequency_penalty logit_bias
  logprobs top_logprobs user reasoning_effort dimensions encoding_format`.split(/\s+/),
);

/** Characters of a data: URL that are shown. */
const SHOWN = 40;

/**
 * Send JSON.
 *
 * @param path without a slash before it
 * @returns {Promise<Response>} its answer, not yet read
 * @throws {Error} with the gateway's or the engine's message, if it is an error or there is none
 */
export async function send(path, body, signal) {
  let answer;
  try {
    const headers = { "Content-Type": "application/json" };
    answer = await fetch(new URL(path, root), { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The gateway does not answer.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** The text of an answer, piece by piece. */
export async function* texts(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The answer broke off.");
  } finally {
    reader.releaseLock();
  }
}

/**
 * The events of a stream: {comment} or {json}, to its "[DONE]".
 *
 * @throws {Error} with the message of an event that is an error, or if it ends before it is done
 */
export async function* events(answer) {
  let rest = "";
  for await (const text of texts(answer)) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      const [, kind, data] = /^(data|error):\s*(.*)$/.exec(line) || [];
      if (!kind) continue;
      if (data === "[DONE]") return;
      const json = JSON.parse(data);
      const error = kind === "error" ? json : json.error;
      if (error) throw new Error(error.message || String(error));
      yield { json };
    }
  }
  throw new Error("The answer broke off.");
}

// As commands and programs

/** A part of a page with the equivalent curl and Python; `request` gives {path, body} when asked. */
export function program(request) {
  const curl = el("pre", { tabindex: "0", class: "curl", "aria-label": "As a command" });
  const python = el("pre", { tabindex: "0", class: "python", "aria-label": "As a program" });
  const note = el("p", { class: "quiet", hidden: true }, "The images are left out here.");
  const box = el(
    "details",
    { class: "program" },
    el("summary", {}, "As curl and Python"),
    note,
    el("div", { class: "copy" }, curl, copying(curl, "the command")),
    el("div", { class: "copy" }, python, copying(python, "the program")),
  );
  function update() {
    if (!box.open) return;
    let asked;
    try {
      asked = request();
    } catch (error) {
      curl.textContent = python.textContent = `# ${error.message}`;
      return;
    }
    const body = shortened(asked.body);
    note.hidden = JSON.stringify(body) === JSON.stringify(asked.body);
    curl.textContent = asCurl(asked.path, body);
    python.textContent = asPython(asked.path, body);
  }
  box.addEventListener("toggle", update);
  return { box, update };
}

/** A value without the bulk of its data: URLs. */
function shortened(value) {
  if (typeof value === "string") return value.startsWith("data:") ? `${value.slice(0, SHOWN)}…` : value;
  if (Array.isArray(value)) return value.map(shortened);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, shortened(one)]));
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function asCurl(path, body) {
  const address = quoted(new URL(path, root).href);
  return `curl ${body.stream ? "-N " : ""}${address} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body, null, 2))}`;
}

function asPython(path, body) {
  const call = { "v1/chat/completions": "chat.completions", "v1/embeddings": "embeddings" }[path];
  if (!call) {
    return `import json
from urllib.request import Request, urlopen

body = ${literal(body)}
request = Request(${literal(new URL(path, root).href)}, json.dumps(body).encode(), {"Content-Type": "application/json"})
print(urlopen(request).read().decode())`;
  }
  const entries = Object.entries(body);
  const known = entries.filter(([name]) => OPENAI.has(name));
  const other = entries.filter(([name]) => !OPENAI.has(name));
  if (other.length) known.push(["extra_body", Object.fromEntries(other)]);
  const values = known.map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
  return `from openai import OpenAI

client = OpenAI(base_url=${literal(new URL("v1", root).href)}, api_key="none")
answer = client.${call}.create(
${values})
${after(call, body)}`;
}

function after(call, body) {
  if (call === "embeddings") return "print([len(one.embedding) for one in answer.data])";
  if (!body.stream) return "print(answer.choices[0].message.content)";
  return `for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()`;
}

/** A value of JSON as Python writes it. A string of JSON is one of Python's. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const parts = Array.isArray(value)
    ? value.map((one) => literal(one, `${indent}    `))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${literal(one, `${indent}    `)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const short = `${open}${parts.join(", ")}${close}`;
  if (short.length <= 72 && !short.includes("\n")) return short;
  return `${open}\n${parts.map((part) => `${indent}    ${part},\n`).join("")}${indent}${close}`;
}
