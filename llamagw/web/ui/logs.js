// The page Logs: what the engines print, live, of one model or of all. One stream (/models/logs) is
// open at a time, also for all models: a browser has six connections for all its tabs.
import { copying, count, el, keep, models, offer, reach, refusal, say } from "./lib.js";
import { lines as linesOf } from "./sending.js";
import { session } from "./session.js";

/** How many lines are kept and shown, and how many of a model a stream begins with. */
const MOST = 2000;
const FIRST = 200;

/** Milliseconds of silence after which the lines that a stream begins with have all come. */
const SETTLED = 150;

/** Milliseconds until a lost stream is asked for again. */
const AGAIN = 1000;

/** How many lines before a line are compared when it is looked for in what came again. */
const ALIKE = 20;

/** An engine's line with the level that it marks, and the line that a run begins with. */
const LEVEL = /^\d\d:\d\d:\d\d [\d.]+ ([DWE]) |^── (run) /;

export const page = { id: "logs", title: "Logs", show };

function show(root, params) {
  // What no model is called, for who may see all of them.
  const all = session.everyModel ? "All models" : "";
  const choice = el("select", { "aria-label": "Model", onchange: begin });
  const search = el("input", { type: "search", placeholder: "Search", "aria-label": "Show the lines with this text", value: params.get("text") || "", oninput: find });
  const pause = el("button", { type: "button", "aria-pressed": "false", onclick: pauses });
  const wrap = el("input", { type: "checkbox", checked: true, onchange: wraps });
  const save = el("button", { type: "button", onclick: download }, "Download");
  const status = el("p", { class: "quiet", role: "status" });
  const lines = el("ol", { class: "lines wrap" });
  const none = el("p", { class: "empty" });
  const box = el("div", { class: "card log", tabindex: "0", role: "region", "aria-label": "The engine's output", onscroll: scrolled }, lines, none);
  root.append(
    el(
      "div",
      { class: "tools" },
      el("div", { class: "row filters" }, choice, search, pause, status),
      el("div", { class: "row" }, el("label", {}, wrap, "Wrap"), copying(lines, "the lines"), save),
    ),
    box,
  );

  /** What has come, oldest first: {model, text, item}; the model is "" if only one is followed. */
  let kept = [];
  /** While paused, what has come since; null while not. */
  let held = null;
  /** What the stream has begun with, until all of that has come; null after that. */
  let early = null;
  let settling = 0;
  let follows = true;
  let due = 0;
  let lost = "";
  let over = new AbortController();

  // What is shown

  function item({ model, text, note }) {
    const wanted = search.value.toLowerCase();
    if (!`${model} ${text}`.toLowerCase().includes(wanted)) return null;
    const found = LEVEL.exec(text);
    const level = note ? "note" : found && (found[1] || found[2]);
    // Line breaks for who copies.
    return el("li", { "data-level": level }, model && el("b", {}, model), model && " ", marked(text, wanted), "\n");
  }

  function add(found) {
    if (held) held = [...held, ...found].slice(-MOST);
    else {
      kept.push(...found);
      for (const line of kept.splice(0, Math.max(0, kept.length - MOST))) line.item?.remove();
      const fresh = found.slice(-MOST);
      for (const line of fresh) line.item = item(line);
      lines.append(...fresh.map((line) => line.item).filter(Boolean));
    }
    due ||= requestAnimationFrame(after);
  }

  function showAll() {
    const all = kept;
    kept = [];
    lines.replaceChildren();
    const paused = held;
    held = null;
    add(all);
    held = paused;
  }

  function after() {
    due = 0;
    if (follows) box.scrollTop = box.scrollHeight;
    const shown = lines.childElementCount;
    none.hidden = shown > 0;
    say(none, early ? "" : kept.length ? "No line has this text." : "Nothing has been printed yet.");
    const parts = [`${shown === kept.length ? "" : `${count(shown)} of `}${count(kept.length)} lines`, held && `${count(held.length)} more have come`, lost];
    say(status, parts.filter(Boolean).join(" · "));
    say(pause, held ? "Go on" : "Pause");
  }

  function scrolled() {
    follows = box.scrollTop + box.clientHeight > box.scrollHeight - 8;
  }

  function find() {
    keep("logs", { model: choice.value, text: search.value });
    showAll();
  }

  function wraps() {
    lines.classList.toggle("wrap", wrap.checked);
    after();
  }

  function pauses() {
    const came = held || [];
    held = held ? null : [];
    pause.setAttribute("aria-pressed", String(held !== null));
    add(came);
  }

  function download() {
    const href = URL.createObjectURL(new Blob([lines.textContent], { type: "text/plain" }));
    el("a", { href, download: `${(choice.value || "llamagw").replace(/[^\w.-]+/g, "-")}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  // What comes

  /** Follow what is chosen, from the beginning. */
  function begin() {
    keep("logs", { model: choice.value, text: search.value });
    clearTimeout(settling);
    early = null;
    kept = [];
    held &&= [];
    follows = true;
    showAll();
    open();
  }

  async function open() {
    over.abort();
    const { signal } = (over = new AbortController());
    if (!choice.value && !all) return;
    const named = !choice.value;
    const which = named ? "all=true" : `model=${encodeURIComponent(choice.value)}`;
    for (;;) {
      try {
        const answer = await reach(`models/logs?follow=true&lines=${FIRST}&${which}`, { signal });
        if (!answer.ok) throw await refusal(answer);
        early = [];
        hear([]);
        for await (const found of linesOf(answer)) if (!signal.aborted) hear(found.map((line) => parsed(line, named)));
        lost = "The stream has ended.";
      } catch (error) {
        lost = error.status ? error.message : "The gateway does not answer.";
      }
      if (signal.aborted) return;
      settle();
      await new Promise((done) => setTimeout(done, AGAIN));
      if (signal.aborted) return;
    }
  }

  function hear(found) {
    lost = "";
    if (!early) return add(found);
    early.push(...found);
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED);
  }

  /** What the stream has begun with has come: of it, add what was not there already. */
  function settle() {
    clearTimeout(settling);
    const found = Map.groupBy(early || [], ({ model }) => model);
    early = null;
    const had = [...kept, ...(held || [])].filter(({ note }) => !note);
    add([...found].flatMap(([model, list]) => news(had.filter((line) => line.model === model), list)));
  }

  function look() {
    if (document.hidden) over.abort();
    else open();
  }

  function offered(list) {
    const names = list.filter(({ remote }) => !remote).map(({ name }) => name);
    const before = choice.value;
    offer(choice, names, all, before || all ? before : names[0] || "");
    if (choice.value !== before) begin();
  }

  offer(choice, [], all, params.get("model") || "");
  offered(models.list);
  begin();
  const stop = models.watch(offered);
  document.addEventListener("visibilitychange", look);
  return () => {
    document.removeEventListener("visibilitychange", look);
    stop();
    over.abort();
    clearTimeout(settling);
  };
}

/** A line as it came: of all models, with the model's name and a tab before it. */
function parsed(line, named) {
  const at = named ? line.indexOf("\t") : -1;
  return { model: line.slice(0, Math.max(0, at)), text: line.slice(at + 1) };
}

/** Those of the last lines that have come since `had`, with a note if some between are missing. */
function news(had, last) {
  if (!had.length) return last;
  for (let end = last.length; end > 0; end -= 1) {
    const most = Math.min(ALIKE, had.length, end);
    const alike = last.slice(end - most, end).every(({ text }, index) => text === had[had.length - most + index].text);
    if (alike) return last.slice(end);
  }
  return [{ model: last[0].model, text: "[lines may be missing here: nobody followed]", note: true }, ...last];
}

/** A text with what was searched for, in lower case, marked. */
function marked(text, wanted) {
  const parts = [];
  const low = text.toLowerCase();
  let at = 0;
  for (let found = low.indexOf(wanted); wanted && found >= 0; found = low.indexOf(wanted, at)) {
    parts.push(text.slice(at, found), el("mark", {}, text.slice(found, found + wanted.length)));
    at = found + wanted.length;
  }
  return [...parts, text.slice(at)];
}
