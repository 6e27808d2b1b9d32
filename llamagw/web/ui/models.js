// The page Models: what is in memory, what it takes, who waits for what; to load, unload and pin.
import { ago, ask, choose, count, el, every, models, post, root, say, seconds, size, tell } from "./lib.js";
import { charged, devices } from "./memory.js";
import { session } from "./session.js";
import { use } from "./use.js";

/** How many models are shown at most, and from how many on there are filters. */
const SHOWN = 200;
const MANY = 10;

const IN_MEMORY = new Set(["loaded", "loading", "stopping"]);
const SHOWS = {
  all: () => true,
  memory: (model) => IN_MEMORY.has(model.state) || model.waiting > 0,
  failed: (model) => model.state === "failed",
};

export const page = { id: "models", title: "Models", show };

function show(root) {
  const memory = el("div", { class: "devices" });
  const showDevices = devices(memory);
  const filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the models by name" });
  const which = el(
    "select",
    { "aria-label": "Which models are shown" },
    el("option", { value: "all" }, "All models"),
    el("option", { value: "memory" }, "In memory or wanted"),
    el("option", { value: "failed" }, "Failed"),
  );
  const filters = el("div", { class: "row", hidden: true }, filter, which);
  const limit = el("p", { class: "quiet" });
  const columns = ["Model", "State", "File", "Context", "Memory", "Running", "Waiting", "Last use", ""];
  const table = el(
    "table",
    { class: "models" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        columns.map((name, number) =>
          el("th", { scope: "col", class: number > 1 && number < 7 ? "number" : null }, name || el("span", { class: "unseen" }, "Actions")),
        ),
      ),
    ),
  );
  const rest = el("p", { class: "empty", hidden: true });
  const news = el("p", { class: "unseen", role: "status" });
  root.append(
    memory,
    el(
      "section",
      { "aria-label": "The models" },
      el("div", { class: "tools" }, limit, filters),
      el("div", { class: "card" }, table, rest),
    ),
    news,
    use(),
  );

  const rows = new Map();
  let order = "";

  function render() {
    const words = filter.value.trim().toLowerCase();
    const list = models.list;
    const fitting = list.filter((m) => SHOWS[which.value](m) && m.name.toLowerCase().includes(words));
    const shown = fitting.slice(0, SHOWN);
    for (const model of shown) {
      if (!rows.has(model.name)) rows.set(model.name, row(model));
      rows.get(model.name).update(model);
    }
    // Nodes that are put in again lose the focus: only if the list is another.
    const now = JSON.stringify(shown.map((model) => model.name));
    if (now !== order) {
      for (const body of [...table.tBodies]) body.remove();
      table.append(...shown.map((model) => rows.get(model.name).body));
      order = now;
    }
    const more = fitting.length - shown.length;
    const none = list.length ? "No model fits." : models.health ? "Asking for the models…" : "Waiting for the gateway…";
    say(rest, more ? `and ${count(more)} more: filter them by name` : fitting.length ? "" : none);
    rest.hidden = !rest.textContent;
    filters.hidden = list.length < MANY;
    const most = models.health?.max_loaded_models;
    // Where bytes are counted, there is no such number.
    const counted = most === null ? "As many in memory as fit." : "";
    say(limit, most ? `At most ${count(most)} in memory at once.` : counted);
    showDevices(models.health);
    announce(list);
  }

  // What is read out: a model that has come to another state for good.
  let before = null;
  function announce(list) {
    const states = new Map(list.map((model) => [model.name, model.state]));
    if (before?.size) {
      const changed = list.filter((m) => before.has(m.name) && before.get(m.name) !== m.state && m.state !== "loading" && m.state !== "stopping");
      if (changed.length) say(news, changed.slice(0, 3).map((m) => `${m.name}: ${m.state}`).join(", "));
    }
    before = states;
  }

  filter.addEventListener("input", render);
  which.addEventListener("change", render);
  const stops = [models.watch(render), every(1000, () => models.list.some((m) => m.state === "loading") && render())];
  render();
  return () => stops.forEach((stop) => stop());
}

// One model

function row({ name, remote }) {
  const state = el("span", { class: "chip" });
  const cell = (label) => el("td", { class: "number", "data-label": label });
  const file = cell("File");
  const context = cell("Context");
  const memory = cell("Memory");
  const rss = el("span");
  const charge = el("small");
  const running = cell("Running");
  const waiting = cell("Waiting");
  const used = el("td", { class: "used", "data-label": "Last use" });
  const button = el("button", { type: "button", onclick: () => act(models.get(name)) });
  const pin = el("button", { type: "button", onclick: () => pinned(models.get(name)) }, "Pin");
  const pinWords = el("span", { class: "quiet", hidden: true }, " · pinned");
  // Slashes as they are: a page below a path with %2F in it has no service worker.
  const path = name.split("/").map(encodeURIComponent).join("/");
  const query = encodeURIComponent(name);
  const links = [
    session.may("infer") && el("a", { href: `#/playground?model=${query}`, "aria-label": `Try ${name}` }, "Try"),
    !remote && session.may("observe") && el("a", { href: `#/logs?model=${query}`, "aria-label": `Logs of ${name}` }, "Logs"),
    // Its scripts would act with the session, which does not open it.
    !remote && !session.csrf && el("a", { href: new URL(`upstream/${path}/`, root).href, "aria-label": `Engine's page of ${name}` }, "Engine’s page"),
  ];
  const bar = el("progress", { max: "1", "aria-label": `Load of ${name}` });
  const progress = el("p", { class: "progress" });
  const wait = el("p", { class: "note" });
  const why = el("p", { class: "why" });
  const details = el(
    "tr",
    { class: "details" },
    el("td", { colspan: "9" }, el("div", {}, bar, progress, wait, why)),
  );
  const body = el(
    "tbody",
    { class: "model" },
    el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el("span", { class: "name" }, name),
        pinWords,
        el("span", { class: "links" }, remote && el("span", { class: "quiet" }, "on another server"), links),
      ),
      el("td", {}, state),
      file,
      context,
      memory,
      running,
      waiting,
      used,
      el("td", { class: "actions" }, !remote && session.may("manage") && [pin, button]),
    ),
    details,
  );
  let since = null;

  async function act(model) {
    if (button.getAttribute("aria-disabled") === "true") return;
    if (!IN_MEMORY.has(model.state)) return order(model, "load");
    if (model.state === "loading" || model.drains) {
      const lost = model.drains ? model.in_flight : model.waiting;
      const words = model.drains ? `${requests(lost)} of ${name} will break off.` : `${requests(lost)} for ${name} will be refused.`;
      if (lost && !(await ask(words, OFFERS.drains))) return;
      return order(model, "unload", { force: true });
    }
    if (!model.in_flight) return order(model, "unload");
    const choice = await choose(`${name} is answering ${requests(model.in_flight)}.`, {
      after: "Unload when answered",
      force: "Break off and unload",
    });
    model.drains = choice === "after";
    if (choice) await order(model, "unload", { force: choice === "force" });
  }

  async function order(model, what, more) {
    model.problem = "";
    model.ordered = what;
    update(model);
    let lacks = false;
    try {
      await post(`models/${what}`, { model: name, ...more }, { signal: AbortSignal.timeout(PATIENCE) });
    } catch (error) {
      // Not answered yet is no failure: a run ends when its answers are out, and that is shown.
      if (error.name !== "TimeoutError") model.problem = error.message;
      lacks = error.code === "insufficient_memory" && !more;
    }
    model.ordered = "";
    update(model);
    if (lacks && (await ask(`${model.problem}\n\n${ANYWAY}`, "Load anyway"))) return order(model, what, { anyway: true });
    await models.look();
    update(model);
  }

  async function pinned(model) {
    if (pin.getAttribute("aria-disabled") === "true") return;
    const wanted = !model.pinned;
    model.problem = "";
    try {
      await post("models/pin", { model: name, pinned: wanted });
      model.pinned = wanted;
    } catch (error) {
      model.problem = error.message;
    }
    update(model);
  }

  function update(model) {
    body.dataset.state = model.state;
    if (model.state !== "loaded" || !model.in_flight) model.drains = false;
    say(state, model.state);
    state.dataset.state = model.state;
    say(file, size(model.size));
    say(context, count(model.context));
    say(rss, size(model.memory?.rss));
    say(charge, charged(model));
    // A cell without a child is left out on a narrow screen.
    memory.replaceChildren(...[rss, charge].filter((part) => part.textContent));
    say(running, model.in_flight ? count(model.in_flight) : "");
    say(waiting, model.waiting ? count(model.waiting) : "");
    const left = model.state === "loaded" && !model.in_flight ? model.unloads_in_sec : null;
    say(used, ago(model.last_used) + (left === null ? "" : `${model.last_used ? ", " : ""}unloads in ${seconds(Math.round(left))}`));
    pinWords.hidden = !model.pinned;
    say(pin, model.pinned ? "Unpin" : "Pin");
    pin.setAttribute("aria-label", `${pin.textContent} ${name}`);
    pin.title = model.pinned ? "Pinned: never unloaded to make room" : "Keep it in memory when others need room";
    const offer = model.drains ? "drains" : model.state;
    say(button, OFFERS[offer] || OFFERS.unloaded);
    button.setAttribute("aria-label", `${button.textContent} ${name}`);
    // Not `disabled`, which would take the focus away from who uses the keyboard.
    const busy = model.state === "stopping" || (model.ordered && !model.drains && model.state !== "loading");
    button.setAttribute("aria-disabled", String(Boolean(busy)));
    explain(model);
  }

  function explain(model) {
    const loading = model.state === "loading";
    if (!loading) since = null;
    else since ??= performance.now();
    const elapsed = model.progress?.elapsed_sec ?? (since === null ? 0 : (performance.now() - since) / 1000);
    const usual = model.usual_sec;
    const done = model.progress?.done ?? (usual ? Math.min(0.97, elapsed / usual) : null);
    bar.hidden = !loading || done === null;
    if (!bar.hidden) bar.value = done;
    const exact = typeof model.progress?.done === "number" ? `${Math.round(100 * model.progress.done)}%; ` : "";
    const soFar = elapsed < 1 ? "loading" : `loading for ${seconds(Math.floor(elapsed))}`;
    say(progress, loading ? `${exact}${soFar}${usual ? `; usually takes ${seconds(usual)}` : ""}` : "");
    progress.hidden = !loading;
    let waits = "";
    const reason = model.progress?.waiting_for ?? model.waiting_for;
    if (model.waiting && reason && !loading) {
      const time = model.progress?.waiting_sec ?? model.waiting_sec;
      const first = time === null || time === undefined ? "" : `, the first for ${seconds(Math.floor(time))}`;
      waits = `${requests(model.waiting)} ${model.waiting === 1 ? "waits" : "wait"}${first}, for ${reason}`;
    } else if (model.drains) {
      waits = `Unloads when ${requests(model.in_flight)} ${model.in_flight === 1 ? "is" : "are"} answered.`;
    }
    tell(wait, waits);
    wait.hidden = !waits;
    const broken = (model.replicas || []).filter((one) => one.error).map((one) => `${one.url}: ${one.error}`);
    let fault = model.problem || "";
    if (model.state === "failed" && model.why) {
      const when = model.since ? `Failed ${ago(model.since)}: ` : "";
      // What the gateway answers to the order is the same sentence once more.
      fault = `${when}${model.why}`;
    } else if (broken.length && !fault) fault = broken.join("\n");
    tell(why, fault);
    why.hidden = !fault;
    details.hidden = bar.hidden && progress.hidden && wait.hidden && why.hidden;
  }

  return { body, update };
}

/** The text of the button, by state; "drains" unloads when its answers are out. */
const OFFERS = {
  unloaded: "Load",
  failed: "Load",
  loading: "Stop",
  loaded: "Unload",
  stopping: "Unloading…",
  drains: "Break off",
};

/** What becomes of a load that the figures are against. */
const ANYWAY = "If it is loaded anyway, all models that are not pinned make room for it, and it may run out of memory.";

/** Milliseconds that the answer to an order is waited for: a browser has six connections. */
const PATIENCE = 10000;

function requests(number) {
  return number === 1 ? "1 request" : `${count(number)} requests`;
}
