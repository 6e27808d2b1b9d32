// The playground's forms beside the chat: embeddings and rerank.
import { count, el, say, seconds } from "./lib.js";
import { program, send } from "./sending.js";

/** How many numbers of a vector are shown. */
const NUMBERS = 6;

/**
 * A form with a button that sends, and stops while it is under way.
 *
 * @param ask gives {path, body}
 * @param show gives an element for the answer's JSON
 */
function form(label, fields, ask, show) {
  const go = el("button", { class: "main" }, label);
  const status = el("p", { class: "quiet", role: "status" });
  const why = el("p", { class: "why", hidden: true });
  const result = el("div");
  const code = program(ask);
  const box = el("form", { class: "tool" }, el("div", { class: "card pad tool" }, fields, el("div", { class: "row" }, go, status)), why, result, code.box);
  let running = null;

  async function submit() {
    const { path, body } = ask();
    running = new AbortController();
    why.hidden = true;
    result.replaceChildren();
    say(go, "Stop");
    const began = performance.now();
    say(status, "waiting for the answer…");
    let end = "";
    try {
      const answer = await send(path, body, running.signal);
      result.append(show(await answer.json(), body));
      end = `done in ${seconds((performance.now() - began) / 1000)}`;
    } catch (error) {
      if (error.name === "AbortError") end = "stopped";
      else say(why, error.message);
      why.hidden = end !== "";
    }
    running = null;
    say(status, end);
    say(go, label);
  }

  box.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else submit();
  });
  box.addEventListener("input", code.update);
  return { box, changed: code.update, focus: () => fields[0].control.focus() };
}

const field = (name, input) => el("label", { class: "field" }, el("span", {}, name), input);

/** Embeddings of one text or two, and how alike these are. */
export function embeddings(chosen) {
  const fields = ["Text", "Compared with"].map((name) => field(name, el("textarea", { rows: "3" })));
  const texts = () => fields.map(({ control }) => control.value).filter(Boolean);
  const ask = () => ({ path: "v1/embeddings", body: { model: chosen()[0], input: texts() } });
  const made = form("Embed", fields, ask, ({ data, usage }) => {
    const vectors = data.map(({ embedding }) => embedding);
    const facts = vectors.map((vector, number) => [
      `Vector ${number + 1}`,
      `${count(vector.length)} numbers, norm ${norm(vector).toFixed(3)}: ${vector.slice(0, NUMBERS).map((one) => one.toFixed(4)).join(", ")}, …`,
    ]);
    if (vectors[1]) facts.unshift(["Cosine", (dot(...vectors) / (norm(vectors[0]) * norm(vectors[1]) || 1)).toFixed(4)]);
    if (usage) facts.push(["Tokens", count(usage.prompt_tokens)]);
    return el("dl", { class: "card pad facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  });
  const fill = ({ input }) => fields.forEach(({ control }, number) => (control.value = [input].flat()[number] ?? ""));
  return { ...made, fill };
}

const dot = (a, b) => a.reduce((sum, one, index) => sum + one * b[index], 0);
const norm = (vector) => Math.sqrt(dot(vector, vector));

/** Documents in the order of what they have to do with a query. */
export function rerank(chosen) {
  const query = field("Query", el("input"));
  const documents = field("Documents, one a line", el("textarea", { rows: "6" }));
  const list = () => documents.control.value.split("\n").filter((line) => line.trim());
  const ask = () => ({ path: "v1/rerank", body: { model: chosen()[0], query: query.control.value, documents: list() } });
  const made = form("Rank", [query, documents], ask, ({ results }, asked) => {
    const found = results.sort((a, b) => b.relevance_score - a.relevance_score);
    return el(
      "ol",
      { class: "card pad ranks" },
      found.map(({ index, relevance_score: score }) => el("li", {}, el("b", { class: "number" }, score.toFixed(4)), el("span", {}, asked.documents[index]))),
    );
  });
  function fill(asked) {
    query.control.value = asked.query ?? "";
    documents.control.value = (asked.documents || []).map((one) => (one.text ?? one).replaceAll("\n", " ")).join("\n");
  }
  return { ...made, fill };
}
