// Memory on the page Models: of each device a bar of who has how much, and what a model is counted with.
import { count, el, size } from "./lib.js";

/** How many models have a part and a colour of their own in a bar: the largest. */
const NAMED = 6;

/** Bytes from which on a part is told. */
const LEAST = 2 ** 20;

/** Where a charge is from, in a word. */
const FROM = { estimate: "estimated", config: "configured" };

/** What a model is counted with while it is in memory, and where that is from; "" if it is not. */
export function charged({ charge, charge_from: from }) {
  const taken = Object.entries(charge || {}).filter(([, bytes]) => bytes);
  if (!taken.length) return "";
  const sizes = taken.map(([device, bytes]) => size(bytes) + (device === "host" ? "" : ` on ${device}`));
  // Lines break between devices only.
  return `counted ${sizes.map((one) => one.replaceAll(" ", "\u00a0")).join(" + ")}, ${FROM[from] || from}`;
}

/** @returns {(health: object) => void} shows in a box the memory that /health tells of */
export function devices(box) {
  const colours = new Map();
  let before = "";
  return (health) => {
    const { memory, models = [], devices: read = [] } = health || {};
    const cards = memory ? Object.values(memory).map((account) => counted(account, models)) : read.map(used);
    // Made anew only if it reads otherwise; there is nothing in it that could have the focus.
    const now = JSON.stringify(cards, (key, value) => (key === "width" ? 0 : typeof value === "number" ? size(value) : value));
    if (before === now) return;
    before = now;
    paint(cards, colours);
    box.replaceChildren(...cards.map(card));
  };
}

/** What is in use: where bytes are not counted. */
function used({ device, total, free, used_by_models: ours }) {
  const parts = [
    ["models", ours, "by models"],
    ["others", Math.max(0, total - free - ours), "by others"],
    ["free", free, "free"],
  ];
  return { device, total, parts: parts.map(([kind, bytes, words]) => ({ kind, bytes, words, width: bytes })) };
}

/**
 * What is counted: from the left the models', from the right what others hold, and a mark where the
 * budget ends.
 */
function counted({ device, total, budget, reserve, ours, others, free }, all) {
  const bytes = (model) => model.charge?.[device] || 0;
  const sum = (models) => models.reduce((total, model) => total + bytes(model), 0);
  const models = all.filter(bytes).sort((one, other) => bytes(other) - bytes(one));
  const more = models.slice(NAMED);
  // What several models map of one file counts once: together they have less than each alone.
  const shared = sum(models) - ours;
  const share = shared > 0 ? ours / (ours + shared) : 1;
  const rest = [
    ["more", sum(more), `${count(more.length)} more`, share],
    ["more", -shared, "of models no longer configured"],
    ["free", free, "free"],
    ["reserve", reserve - others, "left to others"],
    ["others", others, "held by others"],
    // What follows is told, but no part of the bar.
    ["budget", budget, "may be used by models", 0],
    ["shared", shared, "of files that models share, counted once", 0],
    ["lacking", ours + Math.max(others - reserve, 0) - budget, "too much, nothing more is loaded", 0],
  ];
  const parts = [...models.slice(0, NAMED).map((model) => ["model", bytes(model), model.id, share]), ...rest]
    .filter(([, bytes]) => bytes >= LEAST)
    .map(([kind, bytes, words, share = 1]) => ({ kind, bytes, words, width: bytes * share }));
  return { device, total, parts, mark: budget };
}

/** Give the models colours: on all devices the same, for as long as they are shown. */
function paint(cards, colours) {
  const models = cards.flatMap(({ parts }) => parts).filter(({ kind }) => kind === "model");
  const names = new Set(models.map(({ words }) => words));
  for (const name of colours.keys()) if (!names.has(name)) colours.delete(name);
  for (const part of models) {
    const taken = new Set(colours.values());
    const free = [1, 2, 3, 4, 5, 6].find((number) => !taken.has(number));
    if (!colours.has(part.words)) colours.set(part.words, free || (colours.size % NAMED) + 1);
    part.style = { "--part": `var(--series-${colours.get(part.words)})` };
  }
}

function card({ device, total, parts, mark }) {
  const shown = parts.filter(({ width }) => width);
  const end = mark / Math.max(total, shown.reduce((all, { width }) => all + width, 0));
  return el(
    "section",
    { class: "card pad device", "aria-label": `Memory of ${device}` },
    el("h2", {}, device === "host" ? "Memory" : device, el("small", {}, ` ${size(total)}`)),
    el(
      "div",
      { class: mark === undefined ? "scale" : "scale counted", "aria-hidden": "true" },
      el(
        "div",
        { class: "bar" },
        shown.map(({ kind, bytes, words, width, style }) =>
          el("span", { "data-part": kind, title: `${size(bytes)} ${words}`, style: { ...style, "flex-grow": String(width) } }),
        ),
      ),
      mark !== undefined && el("span", { class: "mark", style: { left: `${(100 * end).toFixed(2)}%` } }),
    ),
    el("ul", { class: "legend" }, parts.map(({ kind, bytes, words, style = {} }) => el("li", { "data-part": kind, style }, el("b", {}, size(bytes)), ` ${words}`))),
  );
}
