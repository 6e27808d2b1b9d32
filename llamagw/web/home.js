// The page at /: the models, and how they are used.
import { follow, order, root } from "./models.js";

/** How many models are shown at most, and from how many on there is a filter. */
const SHOWN = 200;
const MANY = 10;

const $ = (id) => document.getElementById(id);

/** By name: what is known of each model, and its row once that is shown. */
const models = new Map();

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < 3) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function makeRow(model) {
  const row = {
    item: element("li", "model"),
    state: element("span", "state"),
    button: element("button", ""),
    why: element("p", "why"),
  };
  row.button.type = "button";
  row.button.addEventListener("click", () => act(model));
  const actions = element("span", "actions");
  if (model.remote) {
    actions.append(element("span", "quiet", "on another server"));
  } else {
    const link = element("a", "", "Engine's page");
    // Slashes as they are: a page below a path with %2F in it has no service worker.
    const path = model.name.split("/").map(encodeURIComponent).join("/");
    link.href = new URL(`upstream/${path}/`, root);
    link.setAttribute("aria-label", `Engine's page of ${model.name}`);
    actions.append(link, row.button);
  }
  row.item.append(
    element("strong", "name", model.name),
    row.state,
    element("span", "size", size(model.size)),
    actions,
    row.why,
  );
  model.row = row;
}

/** The button's text by state; one that is not here offers nothing meanwhile. */
const OFFERS = { unloaded: "Load", failed: "Load", loaded: "Unload" };
const MEANWHILE = { loading: "Loading…", stopping: "Unloading…" };

function show(model) {
  const row = model.row;
  if (!row) return;
  row.state.textContent = model.state;
  row.item.dataset.state = model.state;
  let label = OFFERS[model.state];
  const busy = model.pending || !label;
  if (busy) label = MEANWHILE[model.state] || "Waiting…";
  row.button.textContent = label;
  row.button.setAttribute("aria-label", `${label} ${model.name}`);
  // Not `disabled`, which would take the focus away from who uses the keyboard.
  row.button.setAttribute("aria-disabled", String(busy));
  let why = model.state === "failed" ? model.why : model.note || "";
  if (model.state === "failed" && model.since) {
    why = `Since ${new Date(model.since * 1000).toLocaleString()}: ${why}`;
  }
  row.why.textContent = why;
  row.why.hidden = !why;
}

async function act(model) {
  if (model.pending || !OFFERS[model.state]) return;
  const what = model.state === "loaded" ? "unload" : "load";
  model.pending = true;
  model.note = "";
  show(model);
  try {
    await order(what, model.name);
  } catch (error) {
    model.note = error.message;
  }
  model.pending = false;
  show(model);
}

function render() {
  const words = $("filter").value.trim().toLowerCase();
  const fitting = [...models.values()].filter((m) => m.name.toLowerCase().includes(words));
  const shown = fitting.slice(0, SHOWN);
  for (const model of shown) {
    if (!model.row) makeRow(model);
    show(model);
  }
  $("models").replaceChildren(...shown.map((model) => model.row.item));
  const more = fitting.length - shown.length;
  $("rest").textContent = more
    ? `and ${more} more: filter them by name`
    : fitting.length
      ? ""
      : `No model's name has “${words}” in it.`;
  $("rest").hidden = !$("rest").textContent;
}

function listed(list) {
  const before = new Map(models);
  models.clear();
  for (const model of list) {
    const known = before.get(model.name);
    const same = known && known.size === model.size && known.remote === model.remote;
    models.set(model.name, same ? Object.assign(known, model) : model);
  }
  $("filter").hidden = models.size < MANY;
  if (models.size < MANY) $("filter").value = "";
  render();
  choose();
}

function changed(name, told) {
  const model = models.get(name);
  if (!model || Object.keys(told).every((key) => model[key] === told[key])) return;
  if (told.state === "loading" || told.state === "loaded") model.note = "";
  Object.assign(model, told);
  show(model);
}

function connected(error) {
  $("live").textContent = error === null ? "" : `${error || "Not connected."} Trying again…`;
  document.body.classList.toggle("stale", error !== null);
}

// How they are used

function choose() {
  const choice = $("choice");
  const chosen = models.has(choice.value) ? choice.value : models.keys().next().value;
  const names = [...models.keys()].slice(0, SHOWN);
  choice.replaceChildren(
    ...names.map((name) => {
      const option = element("option", "", name);
      option.value = name;
      option.selected = name === chosen;
      return option;
    }),
  );
  choice.hidden = names.length < 2;
  $("use").hidden = !names.length;
  showRequest();
}

function showRequest() {
  const base = new URL("v1", root).href;
  const body = `{
  "model": ${JSON.stringify($("choice").value)},
  "messages": [{"role": "user", "content": "Hello!"}]
}`;
  $("base").textContent = base;
  $("curl").textContent = `curl ${base}/chat/completions -d '${body.replaceAll("'", "'\\''")}'`;
}

async function copy(button) {
  const from = $(button.dataset.copies);
  let copied = false;
  try {
    await navigator.clipboard.writeText(from.textContent);
    copied = true;
  } catch {
    // Without TLS there is no clipboard, but for localhost.
    getSelection().selectAllChildren(from);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Selected";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

$("filter").addEventListener("input", render);
$("choice").addEventListener("change", showRequest);
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}
follow({ listed, changed, connected });
