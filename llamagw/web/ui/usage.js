// The page Usage: what keys have used today and in the last days, by model on demand, and how much
// the caller's own may use. It is there where the gateway wants keys; whose use is told, it decides.
import { count, el, every, get, keep, onBack, say } from "./lib.js";
import { session } from "./session.js";

/** Milliseconds between two looks. */
const LOOK = 10000;

/** How many keys are shown at most: those that have used the most tokens. */
const SHOWN = 200;

const LIMITS = {
  requests_per_min: "requests a minute",
  tokens_per_min: "tokens a minute",
  tokens_per_day: "tokens a day",
  parallel: "requests at once",
  max_body_mb: "MiB a request",
  max_tokens: "tokens an answer",
};

export const page = { id: "usage", title: "Usage", show };

function show(root, params) {
  const days = el("select", { "aria-label": "Days", onchange: chosen }, [7, 30].map((number) => el("option", { value: number }, `Last ${number} days`)));
  if (params.get("days") === "30") days.value = "30";
  const limits = el("p", { class: "quiet" });
  const fault = el("p", { class: "why", role: "status", hidden: true });
  const period = el("th", { scope: "col", class: "number" });
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Key"), el("th", { scope: "col", class: "number" }, "Today"), period));
  const table = el("table", { class: "usage" }, head);
  const rest = el("p", { class: "empty" });
  const rows = new Map();
  root.append(
    el("div", { class: "tools" }, limits, days),
    fault,
    el("div", { class: "card" }, table, rest),
    el("p", { class: "quiet" }, "Tokens of prompts + answers. A day is one of UTC."),
  );

  function chosen() {
    keep("usage", { days: days.value });
    load();
  }

  async function load() {
    const asked = days.value;
    try {
      const answer = await get(`usage?days=${asked}`);
      if (!root.isConnected || asked !== days.value) return;
      say(period, `Last ${asked} days`);
      render(answer);
      say(fault, answer.more ? "There is more than is counted here: choose fewer days." : "");
    } catch (error) {
      say(fault, error.message);
    }
    fault.hidden = !fault.textContent;
  }

  function render({ data, limits: own }) {
    const keys = used(data);
    const today = keys.find(({ name }) => name === session.name)?.today || new Sum();
    const parts = Object.entries(own || {}).map(([limit, most]) => {
      const words = `${count(most)} ${LIMITS[limit] || limit}`;
      return limit === "tokens_per_day" ? `${words} (${count(today.tokens)} used)` : words;
    });
    say(limits, parts.length ? `${session.name} may use ${parts.join(" · ")}` : `${session.name} may use as much as it likes`);
    const shown = keys.slice(0, SHOWN);
    for (const name of rows.keys()) if (!shown.some((key) => key.name === name)) rows.delete(name);
    for (const key of shown) {
      if (!rows.has(key.name)) rows.set(key.name, new Row(key.name));
      rows.get(key.name).set(key);
    }
    const bodies = [head, ...shown.map(({ name }) => rows.get(name).body)];
    // Moved only if the order is another, and then what has the focus keeps it.
    if (bodies.length !== table.children.length || bodies.some((body, number) => body !== table.children[number])) {
      const focus = document.activeElement;
      table.replaceChildren(...bodies);
      if (table.contains(focus)) focus.focus({ preventScroll: true });
    }
    const more = keys.length - SHOWN;
    say(rest, more > 0 ? `and ${count(more)} more, which have used less` : keys.length ? "" : "Nothing was used.");
    rest.hidden = !rest.textContent;
  }

  const ends = [every(LOOK, load), onBack(load)];
  return () => ends.forEach((end) => end());
}

/** Requests, and tokens of prompts and answers. */
class Sum {
  requests = 0;
  prompt = 0;
  answer = 0;

  get tokens() {
    return this.prompt + this.answer;
  }

  add({ requests, prompt_tokens: prompt, completion_tokens: answer }) {
    this.requests += requests;
    this.prompt += prompt;
    this.answer += answer;
  }
}

const most = (one, other) => other.all.tokens - one.all.tokens || other.all.requests - one.all.requests;
const named = (name) => ({ name, today: new Sum(), all: new Sum() });

/** What each key has used, and of each of its models, from the rows of /usage; the most first. */
function used(data) {
  const now = new Date().toISOString().slice(0, 10);
  const keys = new Map();
  for (const row of data) {
    if (!keys.has(row.key)) keys.set(row.key, { ...named(row.key), models: new Map() });
    const key = keys.get(row.key);
    if (!key.models.has(row.model)) key.models.set(row.model, named(row.model));
    for (const sums of [key, key.models.get(row.model)]) {
      sums.all.add(row);
      if (row.day === now) sums.today.add(row);
    }
  }
  return [...keys.values()].sort(most);
}

/** A key's row, and below it those of its models while it is open. */
class Row {
  #cells = cells();
  #models = [];

  constructor(name) {
    this.open = el("details", { ontoggle: () => this.#show() }, el("summary", {}, name));
    this.first = el("tr", {}, el("th", { scope: "row" }, this.open), this.#cells);
    this.body = el("tbody", {}, this.first);
  }

  set(key) {
    fill(this.#cells, key);
    this.#models = [...key.models.values()].sort(most);
    this.#show();
  }

  #show() {
    const models = this.open.open ? this.#models : [];
    const lines = models.map((model) => el("tr", { class: "of" }, el("th", { scope: "row" }, model.name), fill(cells(), model)));
    this.body.replaceChildren(this.first, ...lines);
  }
}

const cells = () => [1, 2].map(() => el("td", { class: "number" }, el("span"), el("small")));

function fill(made, { today, all }) {
  made.forEach((cell, number) => {
    const { requests, prompt, answer } = number ? all : today;
    say(cell.firstChild, requests ? `${count(requests)} ${requests === 1 ? "request" : "requests"}` : "none");
    say(cell.lastChild, requests ? `${count(prompt)} + ${count(answer)} tokens` : "");
  });
  return made;
}
