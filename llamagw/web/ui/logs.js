// The page Logs: what the engines print, live, of one model or of all. One stream (/models/logs) is
// open at a time: a browser has six connections for all its tabs.
import { count, el, keep, models, refusal, root as gateway, say, toast } from "./lib.js";

/** How many lines are kept and shown, and how many the gateway is asked to begin with. */
const MOST = 2000;
const FIRST = 200;

/** Milliseconds of silence after which the lines that a stream begins with have all come. */
const SETTLED = 150;

/** Milliseconds until a lost stream is asked for again: at first, and at most. */
const SOON = 500;
const LATER = 5000;

/** How many lines before a line are compared when it is looked for in what came again. */
const ALIKE = 20;

/** Names of models that can be chosen at most. */
const OFFERED = 500;

/** An engine's line with the level that it marks, and the line that the gateway begins a run with. */
const LEVEL = /^\d\d:\d\d:\d\d [\d.]+ ([DWE]) /;
const RUN = /^── run /;

export const page = { id: "logs", title: "Logs", show };

function show(root, params) {
  const choice = el("select", { "aria-label": "Model", onchange: () => {
    keepAddress();
    begin();
  } });
  const search = el("input", {
    type: "search",
    placeholder: "Search",
    "aria-label": "Show the lines with this text",
    value: params.get("text") || "",
  });
  const pause = el("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const wrap = el("input", { type: "checkbox", checked: true });
  const copy = el("button", { type: "button" }, "Copy");
  const save = el("button", { type: "button" }, "Download");
  const status = el("p", { class: "quiet", role: "status" });
  const lines = el("ol", { class: "lines wrap" });
  const none = el("p", { class: "empty", hidden: true });
  const box = el("div", { class: "card log", tabindex: "0", role: "region", "aria-label": "The engine's output" }, lines, none);
  const newest = el("button", { type: "button", class: "main newest", hidden: true }, "Newest lines");
  root.append(
    el(
      "div",
      { class: "tools" },
      el("div", { class: "row filters" }, choice, search, pause),
      el("div", { class: "row" }, el("label", {}, wrap, "Wrap"), copy, save),
    ),
    status,
    el("div", { class: "frame" }, box, newest),
  );

  const keepAddress = () => keep("logs", { model: choice.value, text: search.value });

  /** What has come, oldest first: {model, text, item}; the model is "" if only one is followed. */
  let kept = [];
  /** While paused, what has come since; null while not. */
  let held = null;
  /** What the stream has begun with, until it has all come; null after that. */
  let early = null;
  let settling = 0;
  let follows = true;
  let due = 0;
  let over = new AbortController();

  // What is shown

  const fits = ({ model, text }) => {
    const wanted = search.value.toLowerCase();
    return !wanted || text.toLowerCase().includes(wanted) || model.toLowerCase().includes(wanted);
  };

  function item(line) {
    const level = line.note ? "note" : RUN.test(line.text) ? "run" : LEVEL.exec(line.text)?.[1];
    const made = el("li", { "data-level": level || null });
    if (line.model) made.append(el("b", {}, line.model), " ");
    made.append(...marked(line.text, search.value));
    return made;
  }

  function showAll() {
    const items = [];
    for (const line of kept) {
      line.item = fits(line) ? item(line) : null;
      if (line.item) items.push(line.item);
    }
    lines.replaceChildren(...items);
    after();
  }

  /** Keep and show new lines. */
  function add(found) {
    if (held) {
      held.push(...found);
      if (held.length > MOST) held.splice(0, held.length - MOST);
      tell();
      return;
    }
    kept.push(...found);
    for (const line of kept.splice(0, Math.max(0, kept.length - MOST))) line.item?.remove();
    const items = found.slice(-MOST).filter(fits).map((line) => (line.item = item(line)));
    lines.append(...items);
    due ||= requestAnimationFrame(after);
  }

  function after() {
    cancelAnimationFrame(due);
    due = 0;
    if (follows) box.scrollTop = box.scrollHeight;
    newest.hidden = follows;
    const shown = lines.childElementCount;
    none.hidden = shown > 0;
    say(none, early ? "" : kept.length ? "No line has this text." : choice.value ? "It has printed nothing yet." : "No engine has printed anything yet.");
    tell();
  }

  let state = "";
  function tell() {
    const shown = lines.childElementCount;
    const parts = [shown === kept.length ? `${count(shown)} lines` : `${count(shown)} of ${count(kept.length)} lines`];
    if (held) parts.push(`paused, ${count(held.length)} more have come`);
    if (state) parts.push(state);
    say(status, parts.join(" · "));
  }

  box.addEventListener("scroll", () => {
    follows = box.scrollTop + box.clientHeight > box.scrollHeight - 8;
    newest.hidden = follows;
  });
  newest.addEventListener("click", () => {
    follows = true;
    after();
    box.focus();
  });
  search.addEventListener("input", () => {
    keepAddress();
    showAll();
  });
  wrap.addEventListener("change", () => {
    lines.classList.toggle("wrap", wrap.checked);
    after();
  });
  pause.addEventListener("click", () => {
    const came = held;
    held = held ? null : [];
    pause.setAttribute("aria-pressed", String(held !== null));
    say(pause, held ? "Go on" : "Pause");
    if (came) add(came);
    tell();
  });

  const text = () =>
    kept
      .filter(({ item: made }) => made)
      .map(({ model, text: line }) => `${model && `${model}\t`}${line}\n`)
      .join("");

  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      toast(`${count(lines.childElementCount)} lines are copied.`);
    } catch {
      // Without TLS there is no clipboard, but for localhost.
      getSelection().selectAllChildren(lines);
      const copied = document.execCommand("copy");
      toast(copied ? "The lines are copied." : "The lines are selected.");
    }
  });
  save.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([text()], { type: "text/plain" }));
    const name = (choice.value || "llamagw").replace(/[^\w.-]+/g, "-");
    el("a", { href: address, download: `${name}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });

  // What comes

  /** Follow what is chosen, from the beginning. */
  function begin() {
    clearTimeout(settling);
    early = null;
    kept = [];
    held = held && [];
    follows = true;
    showAll();
    open();
  }

  async function open() {
    over.abort();
    const own = (over = new AbortController());
    const ended = () => own.signal.aborted;
    let wait = SOON;
    while (!ended()) {
      let why = "The stream has ended.";
      try {
        const which = choice.value ? `model=${encodeURIComponent(choice.value)}&lines=${FIRST}` : `all=true&lines=${FIRST}`;
        const answer = await fetch(new URL(`models/logs?follow=true&${which}`, gateway), { signal: own.signal });
        if (!answer.ok) throw await refusal(answer);
        wait = SOON;
        state = "";
        await read(answer.body, !choice.value, ended);
      } catch (error) {
        why = error.status ? error.message : "The gateway does not answer.";
      }
      if (ended()) return;
      settle();
      state = `${why} Trying again…`;
      tell();
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(2 * wait, LATER);
    }
  }

  async function read(body, named, ended) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    early = [];
    hasCome([]);
    for (;;) {
      const { done, value } = await reader.read();
      if (done || ended()) return;
      const found = (rest + value).split("\n");
      rest = found.pop();
      if (found.length) hasCome(found.map((line) => parsed(line, named)));
    }
  }

  function hasCome(found) {
    if (!early) {
      add(found);
      return;
    }
    early.push(...found);
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED);
  }

  /** What the stream has begun with has come: of it, add what was not there already. */
  function settle() {
    clearTimeout(settling);
    if (!early) return;
    const [found, had] = [early, [...kept, ...(held || [])]];
    early = null;
    const fresh = [...Map.groupBy(found, ({ model }) => model)].flatMap(([model, list]) =>
      news(had.filter((line) => line.model === model && !line.note), list),
    );
    add(fresh);
    after();
  }

  function look() {
    if (document.hidden) over.abort();
    else open();
  }

  function offer(list) {
    if (document.activeElement === choice) return; // not while somebody chooses
    const local = list.filter(({ remote }) => !remote);
    const runs = ({ state: now }) => now !== "unloaded";
    const names = [...local.filter(runs), ...local.filter((one) => !runs(one))].slice(0, OFFERED).map(({ name }) => name);
    const first = !choice.options.length;
    const chosen = first ? params.get("model") || "" : choice.value;
    if (chosen && !names.includes(chosen)) names.push(chosen);
    choice.replaceChildren(el("option", { value: "" }, "All models"), ...names.map((name) => el("option", { value: name }, name)));
    choice.value = chosen;
    if (first) begin();
  }

  offer(models.list);
  const stop = models.watch(offer);
  document.addEventListener("visibilitychange", look);
  return () => {
    document.removeEventListener("visibilitychange", look);
    stop();
    over.abort();
    clearTimeout(settling);
    cancelAnimationFrame(due);
  };
}

/** A line as it came: of all models, with the model's name and a tab before it. */
function parsed(line, named) {
  const at = named ? line.indexOf("\t") : -1;
  return at < 0 ? { model: "", text: line } : { model: line.slice(0, at), text: line.slice(at + 1) };
}

/** Those of the last lines that have come since `had`, with a note if some between are missing. */
function news(had, last) {
  if (!had.length) return last;
  const alike = (end) => {
    for (let back = 0; back < Math.min(ALIKE, had.length, end + 1); back += 1) {
      if (had.at(-1 - back).text !== last[end - back].text) return false;
    }
    return true;
  };
  for (let end = last.length - 1; end >= 0; end -= 1) if (alike(end)) return last.slice(end + 1);
  return last.length ? [{ model: last[0].model, text: "[lines may be missing here: nobody followed]", note: true }, ...last] : [];
}

/** A text with what was searched for marked. */
function marked(text, wanted) {
  if (!wanted) return [text];
  const low = text.toLowerCase();
  const sought = wanted.toLowerCase();
  const parts = [];
  let at = 0;
  for (let found = low.indexOf(sought); found >= 0; found = low.indexOf(sought, at)) {
    parts.push(text.slice(at, found), el("mark", {}, text.slice(found, found + sought.length)));
    at = found + sought.length;
  }
  return [...parts, text.slice(at)];
}
