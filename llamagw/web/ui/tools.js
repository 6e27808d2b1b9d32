// The playground's forms beside the chat: embeddings, rerank, and any request as JSON.
import { count, el, say, seconds, size } from "./lib.js";
import { program, send, texts } from "./sending.js";

/** How many numbers of a vector are shown, and how many characters of an answer. */
const NUMBERS = 6;
const SHOWN = 256 * 1024;

/** Paths that a request as JSON is offered for. */
const PATHS = [
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/messages",
  "/v1/embeddings",
  "/v1/rerank",
  "/tokenize",
  "/apply-template",
  "/infill",
];

/**
 * A form with a button that sends, and stops while it is under way.
 *
 * @param label of the button
 * @param ask gives {path, body}; throws an Error if that cannot be sent
 * @param show called with the answer when its head has come, the seconds until then, and an element
 */
function form(label, fields, ask, show) {
  const go = el("button", { type: "submit", class: "main" }, label);
  const status = el("p", { class: "quiet", role: "status" });
  const why = el("p", { class: "why", hidden: true });
  const result = el("div", { class: "result" });
  const code = program(ask);
  const box = el("form", { class: "tool" }, el("div", { class: "card pad fields" }, fields, el("div", { class: "row" }, go, status)), why, result, code.box);
  let running = null;

  function fail(error) {
    say(why, error.message);
    why.hidden = false;
  }

  async function submit() {
    why.hidden = true;
    result.replaceChildren();
    say(status, "");
    let asked;
    try {
      asked = ask();
    } catch (error) {
      fail(error);
      return;
    }
    running = new AbortController();
    say(go, "Stop");
    const began = performance.now();
    const spent = () => (performance.now() - began) / 1000;
    const timer = setInterval(() => say(status, `waiting for the answer · ${seconds(Math.floor(spent()))}`), 1000);
    try {
      const answer = await send(asked.path, asked.body, running.signal);
      await show(answer, result);
      say(status, `done in ${seconds(spent())}`);
    } catch (error) {
      say(status, error.name === "AbortError" ? "stopped" : "");
      if (error.name !== "AbortError") fail(error);
    }
    clearInterval(timer);
    running = null;
    say(go, label);
  }

  box.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else submit();
  });
  box.addEventListener("input", code.update);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
    else if (event.key === "Enter" && event.ctrlKey) box.requestSubmit();
  });
  return { box, changed: code.update };
}

const field = (name, input) => el("label", { class: "field" }, el("span", {}, name), input);
const area = (rows, more = {}) => el("textarea", { rows: String(rows), ...more });

/** Embeddings of one text or two, and how alike these are. */
export function embeddings(chosen) {
  const texts = [area(3, { placeholder: "A text" }), area(3, { placeholder: "Another one, to compare with (or nothing)" })];
  const fields = el("div", { class: "halves" }, field("Text", texts[0]), field("Compared with", texts[1]));
  const ask = () => ({ path: "v1/embeddings", body: { model: chosen()[0], input: texts.map(({ value }) => value).filter(Boolean) } });
  const made = form("Embed", fields, ask, async (answer, result) => {
    const { data, usage } = await answer.json();
    const vectors = data.map(({ embedding }) => embedding);
    const facts = vectors.map((vector, number) => [
      vectors.length > 1 ? `Vector ${number + 1}` : "Vector",
      `${count(vector.length)} numbers, length ${norm(vector).toFixed(3)}: ${vector.slice(0, NUMBERS).map((one) => one.toFixed(4)).join(", ")}, …`,
    ]);
    if (vectors.length > 1) facts.unshift(["Cosine similarity", cosine(vectors[0], vectors[1]).toFixed(4)]);
    if (usage?.prompt_tokens) facts.push(["Tokens", count(usage.prompt_tokens)]);
    result.append(el("dl", { class: "card pad facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
  });
  const fill = ({ input }) => [input ?? ""].flat().slice(0, 2).forEach((text, number) => (texts[number].value = String(text)));
  return { ...made, fill, focus: () => texts[0].focus() };
}

const dot = (a, b) => a.reduce((sum, one, index) => sum + one * b[index], 0);
const norm = (vector) => Math.sqrt(dot(vector, vector));
const cosine = (a, b) => dot(a, b) / (norm(a) * norm(b) || 1);

/** Documents in the order of what they have to do with a query. */
export function rerank(chosen) {
  const query = el("input", { type: "text", placeholder: "What is asked" });
  const documents = area(6, { placeholder: "One document a line" });
  const list = () => documents.value.split("\n").filter((line) => line.trim());
  const ask = () => ({ path: "v1/rerank", body: { model: chosen()[0], query: query.value, documents: list() } });
  const made = form("Rank", [field("Query", query), field("Documents", documents)], ask, async (answer, result) => {
    const asked = list();
    const found = (await answer.json()).results.sort((a, b) => b.relevance_score - a.relevance_score);
    const scores = found.map(({ relevance_score: score }) => score);
    const [low, high] = [Math.min(...scores, 0), Math.max(...scores, 0)];
    const items = found.map(({ index, relevance_score: score }) =>
      el(
        "li",
        {},
        el("span", { class: "number" }, score.toFixed(4)),
        el("span", { class: "track", "aria-hidden": "true" }, el("span", { style: { width: `${(100 * (score - low)) / (high - low || 1)}%` } })),
        el("span", {}, asked[index]),
      ),
    );
    result.append(el("ol", { class: "card pad ranks" }, items));
  });
  function fill({ query: asked, documents: told }) {
    query.value = asked ?? "";
    documents.value = (told || []).map((one) => (typeof one === "string" ? one : one.text || "").replaceAll("\n", " ")).join("\n");
  }
  return { ...made, fill, focus: () => query.focus() };
}

/** Any request: its path and its body as JSON, and the answer as it comes. */
export function anything(chosen) {
  const paths = el("datalist", { id: "paths" }, PATHS.map((path) => el("option", { value: path })));
  const path = el("input", { type: "text", list: "paths", class: "mono", value: "/v1/completions", spellcheck: "false" });
  const body = area(8, { class: "mono", spellcheck: "false" });
  body.value = JSON.stringify({ prompt: "Once upon a time", max_tokens: 32, stream: true }, null, 2);
  const hint = el("small", {}, "The model that is chosen above is put in if the body names none. Ctrl+Enter sends.");
  function ask() {
    let asked;
    try {
      asked = JSON.parse(body.value);
    } catch (error) {
      throw new Error(`The body is no JSON: ${error.message}`);
    }
    if (asked === null || typeof asked !== "object" || Array.isArray(asked)) throw new Error("The body must be a JSON object.");
    return { path: path.value.replace(/^\/+/, ""), body: { model: chosen()[0], ...asked } };
  }
  const made = form("Send", [field("Path", path), paths, field("Body", body), hint], ask, async (answer, result) => {
    const text = document.createTextNode("");
    const status = el("small", {}, String(answer.status));
    result.append(el("div", { class: "card pad" }, status, el("pre", { tabindex: "0", "aria-label": "Answer" }, text)));
    let length = 0;
    for await (const piece of texts(answer)) {
      length += piece.length;
      if (text.length < SHOWN) text.appendData(piece.slice(0, SHOWN - text.length));
    }
    say(status, `status ${answer.status}, ${size(length)}${length > SHOWN ? ", of which the beginning is shown" : ""}`);
  });
  function fill(request, where) {
    path.value = where;
    const { model, ...more } = request;
    body.value = JSON.stringify(more, null, 2);
  }
  return { ...made, fill, focus: () => body.focus() };
}
