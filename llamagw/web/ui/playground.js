// The page Playground: models are tried here. Which model, and in which way: a chat (chat.js), or one
// of the forms (tools.js). What was written and answered stays when another page is looked at.
import { chat } from "./chat.js";
import { el, get, models, offer, say, seconds, toast } from "./lib.js";
import { embeddings, rerank } from "./tools.js";

/** The ways to use a model: what the button says, and what makes its part. */
const WAYS = { chat: ["Chat", chat], embeddings: ["Embeddings", embeddings], rerank: ["Rerank", rerank] };

export const page = { id: "playground", title: "Playground", show };

let made = null;

function show(root, params) {
  made ||= make();
  root.append(made.box);
  made.begin(params);
  return models.watch(made.offered);
}

function make() {
  const first = el("select", { "aria-label": "Model", onchange: changed });
  const second = el("select", { "aria-label": "Compare with", onchange: changed });
  const state = el("span", { class: "chip" });
  const hint = el("p", { class: "quiet" });
  const compare = el("label", {}, "Compare with", second);
  const place = el("div");
  const chosen = () => [first.value, way === "chat" && second.value].filter(Boolean);
  const parts = {};
  const buttons = {};
  let way = "chat";

  for (const [name, [title, part]] of Object.entries(WAYS)) {
    parts[name] = part(chosen);
    buttons[name] = el("button", { type: "button", onclick: () => go(name) }, title);
  }
  const box = el(
    "div",
    { class: "play" },
    el(
      "div",
      { class: "tools" },
      el("div", { class: "row ways", role: "group", "aria-label": "What is tried" }, Object.values(buttons)),
      el("div", { class: "row" }, el("label", {}, "Model", first), state, compare),
    ),
    hint,
    place,
  );

  function go(name) {
    way = name;
    for (const [other, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(other === name));
    compare.hidden = name !== "chat";
    place.replaceChildren(parts[name].box);
    changed();
  }

  function changed() {
    tell();
    parts[way].changed();
  }

  /** How the chosen model is. */
  function tell() {
    const model = models.get(first.value);
    state.hidden = !model;
    if (!model) return;
    say(state, model.state);
    state.dataset.state = model.state;
    let words = "";
    if (model.state === "unloaded") words = `The first request loads it${model.usual_sec ? `, which usually takes ${seconds(model.usual_sec)}` : ""}.`;
    if (model.state === "failed") words = model.why;
    say(hint, words);
    hint.hidden = !words;
  }

  function offered(list) {
    const names = list.map(({ name }) => name);
    const loaded = list.find((model) => model.state === "loaded")?.name;
    offer(first, names, "", first.value || loaded || names[0] || "");
    offer(second, names, "nothing");
    tell();
  }

  /** The page is shown: with a model, or a request that is to be repeated. */
  function begin(params) {
    const model = params.get("model");
    if (model) offer(first, [], "", model);
    offered(models.list);
    go(way);
    if (params.has("repeat")) repeat(params.get("repeat"));
  }

  async function repeat(id) {
    try {
      const { path, request } = await get(`activity/${encodeURIComponent(id)}`);
      const body = JSON.parse(request.body);
      offer(first, [], "", body.model);
      offered(models.list);
      go(wayOf(path));
      parts[way].fill(body);
      changed();
    } catch (error) {
      toast(`This request cannot be repeated: ${error.message}`, { bad: true });
    }
  }

  return { box, offered, begin };
}

/** Which way a request of this path goes; "" for one that is not tried here. */
export function wayOf(path) {
  const [, end] = /\/(chat\/completions|embeddings|rerank)(?:ing)?$/.exec(path) || [];
  return end ? end.split("/")[0] : "";
}
