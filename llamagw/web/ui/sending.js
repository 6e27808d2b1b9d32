// What the playground sends: requests whose answers are read as they come, and the same requests as
// a command and a program to copy.
import { copying, el, reach, refusal, root, say } from "./lib.js";
import { session } from "./session.js";

/** What is an argument of OpenAI's Python library; all else goes into its extra_body. */
const OPENAI = new Set("model messages input temperature top_p max_tokens seed stop stream stream_options".split(" "));

/**
 * Send JSON; gives the answer, not yet read.
 *
 * @throws {Error} with the gateway's or the engine's message, if it is an error or there is none
 */
export async function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const answer = await reach(path, { method: "POST", headers, body: JSON.stringify(body), signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The gateway does not answer.");
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** The lines of an answer as they come, in lists; the last line without an end is left out. */
export async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const found = (rest + value).split("\n");
    rest = found.pop();
    yield found;
  }
}

/**
 * The events of a stream: {comment} or {json}, to its "[DONE]".
 *
 * @throws {Error} with the message of an event that is an error, or if it ends before it is done
 */
export async function* events(answer) {
  try {
    for await (const found of lines(answer)) {
      for (const line of found) {
        if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const json = JSON.parse(data);
        if (json.error) throw Object.assign(new Error(json.error.message), { told: true });
        yield { json };
      }
    }
  } catch (error) {
    if (error.told || error.name === "AbortError") throw error;
  }
  throw new Error("The answer broke off.");
}

/** A part of a page with the equivalent curl and Python; `request` gives {path, body} when asked. */
export function program(request) {
  const curl = el("pre", { tabindex: "0", class: "curl", "aria-label": "As a command" });
  const python = el("pre", { tabindex: "0", class: "python", "aria-label": "As a program" });
  const copies = [curl, python].map((from) => el("div", { class: "copy" }, from, copying(from, from.ariaLabel.toLowerCase())));
  const box = el("details", { class: "program", ontoggle: update }, el("summary", {}, "As curl and Python"), copies);
  function update() {
    if (!box.open) return;
    let asked;
    try {
      asked = request();
    } catch {
      return; // what is wrong with it is told elsewhere
    }
    const { path, body } = asked;
    // Of an image only the beginning is shown.
    const short = JSON.stringify(body, (_, value) => (/^data:/.test(value) ? `${value.slice(0, 40)}…` : value), 2);
    const text = short.replaceAll("'", "'\\''");
    say(curl, `curl ${body.stream ? "-N " : ""}'${new URL(path, root)}' -H 'Content-Type: application/json' ${keyHeader()}-d '${text}'`);
    say(python, asPython(path, JSON.parse(short)));
  }
  return { box, update };
}

/** What a command for curl has for the key; the key itself is not known here. */
export function keyHeader() {
  return session.name === null ? "" : '-H "Authorization: Bearer $LLAMAGW_API_KEY" ';
}

function asPython(path, body) {
  const entries = Object.entries(body);
  const known = entries.filter(([name]) => OPENAI.has(name));
  const other = entries.filter(([name]) => !OPENAI.has(name));
  if (other.length) known.push(["extra_body", Object.fromEntries(other)]);
  const call = { "v1/chat/completions": "chat.completions", "v1/embeddings": "embeddings" }[path];
  const values = known.map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
  const keyed = session.name !== null;
  return `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${new URL("v1", root)}", api_key=${keyed ? 'os.environ["LLAMAGW_API_KEY"]' : '"none"'})
answer = client.${call ? `${call}.create(\n${values}` : `post("${path.slice(2)}", cast_to=object, body=${literal(body)}`})
${
  body.stream
    ? `for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)`
    : "print(answer)"
}`;
}

/** A value of JSON as Python writes it. A string of JSON is one of Python's. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const inner = `${indent}    `;
  const parts = Object.entries(value).map(([key, one]) => `${list ? "" : `${JSON.stringify(key)}: `}${literal(one, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  const short = `${open}${parts.join(", ")}${close}`;
  return short.length > 72 ? `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}` : short;
}
