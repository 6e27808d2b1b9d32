// The page Playground: models are tried here. Which model, and in which way: a chat (chat.js), or one
// of the forms (tools.js). What was written and answered stays when another page is looked at.
import { chat, sees } from "./chat.js";
import { el, get, models, say, seconds, toast } from "./lib.js";
import { anything, embeddings, rerank } from "./tools.js";

/** Names of models that can be chosen at most. */
const OFFERED = 500;

/** The ways to use a model: what the button says, what makes its part, whether two can be compared. */
const WAYS = {
  chat: ["Chat", chat, true],
  embeddings: ["Embeddings", embeddings, false],
  rerank: ["Rerank", rerank, false],
  request: ["Request", anything, false],
};

/** Which way a request that is repeated goes, by the end of its path. */
const REPEATS = [
  [/\/chat\/completions$/, "chat"],
  [/\/embeddings$/, "embeddings"],
  [/\/rerank(ing)?$/, "rerank"],
];

export const page = { id: "playground", title: "Playground", show };

let made = null;

function show(root, params) {
  made ||= make();
  root.append(made.box);
  made.begin(params);
  const stop = models.watch(made.offer);
  return () => {
    stop();
    made.box.remove();
  };
}

function make() {
  const first = el("select", { "aria-label": "Model" });
  const second = el("select", { "aria-label": "Compare with" });
  const state = el("span", { class: "chip" });
  const hint = el("span", { class: "quiet" });
  const compare = el("label", {}, "Compare with", second);
  const chosen = () => [first.value, way === "chat" ? second.value : ""].filter(Boolean);
  const parts = {};
  const buttons = {};
  let way = "chat";
  let seeing = "";

  for (const [name, [title, part]] of Object.entries(WAYS)) {
    parts[name] = part(chosen);
    buttons[name] = el("button", { type: "button", onclick: () => go(name) }, title);
  }
  const place = el("div", { class: "way" });
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
  first.addEventListener("change", changed);
  second.addEventListener("change", changed);

  function go(name) {
    way = name;
    for (const [other, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(other === name));
    compare.hidden = !WAYS[name][2];
    place.replaceChildren(parts[name].box);
    changed();
  }

  function changed() {
    tell();
    for (const part of Object.values(parts)) part.changed();
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
    if (model.state === "failed") words = `The next request tries to load it again. ${model.why}`;
    say(hint, words);
    hint.hidden = !words;
    const now = `${chosen().join("\n")} ${model.state}`;
    if (seeing === now) return;
    seeing = now;
    look(now);
  }

  async function look(now) {
    const all = await Promise.all(chosen().map(sees));
    if (seeing === now) parts.chat.sees(all.includes(false) ? false : all.includes(null) ? null : true);
  }

  function offer(list) {
    const names = list.slice(0, OFFERED).map(({ name }) => name);
    for (const [select, none] of [
      [first, null],
      [second, "nothing"],
    ]) {
      if (document.activeElement === select && select.options.length > 1) continue; // not while somebody chooses
      const chosenOne = select.value;
      const all = chosenOne && !names.includes(chosenOne) ? [chosenOne, ...names] : names;
      const had = [...select.options].map(({ value }) => value).filter(Boolean);
      if (had.join("\n") === all.join("\n")) continue;
      const loaded = list.find((model) => model.state === "loaded")?.name;
      select.replaceChildren(...(none ? [el("option", { value: "" }, none)] : []), ...all.map((name) => el("option", { value: name }, name)));
      select.value = chosenOne || (none ? "" : loaded || names[0] || "");
      changed();
    }
    tell();
  }

  function choose(name) {
    if (!name) return;
    if (![...first.options].some(({ value }) => value === name)) first.append(el("option", { value: name }, name));
    first.value = name;
  }

  /** The page is shown: with a model, or a request that is to be repeated. */
  function begin(params) {
    choose(params.get("model"));
    offer(models.list);
    go(way);
    if (params.has("repeat")) repeat(params.get("repeat"));
    else if (matchMedia("(pointer: fine)").matches && params.has("model")) parts[way].focus();
  }

  async function repeat(id) {
    try {
      const { path, request } = await get(`activity/${encodeURIComponent(id)}`);
      if (!request || request.truncated) throw new Error("What was asked is not kept, or not all of it.");
      const body = JSON.parse(request.body);
      const fits = (name) => name !== "chat" || Array.isArray(body.messages);
      const found = REPEATS.find(([end, name]) => end.test(path) && fits(name))?.[1] || "request";
      choose(body.model);
      go(found);
      parts[found].fill(body, path);
      changed();
    } catch (error) {
      toast(`This request cannot be repeated: ${error.message}`, { bad: true });
    }
  }

  return { box, offer, begin };
}
