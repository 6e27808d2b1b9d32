// The page Activity: the requests under way and the last ones that have ended, live. The gateway
// tells all of it (/activity/sse); here it is chosen from and shown. One request in full: detail.js.
import { detail, isWrong, rate, spent, words } from "./detail.js";
import { ask, count, el, every, follow, get, keep, models, offer, post, say, seconds, size, toast } from "./lib.js";
import { session } from "./session.js";

/** How many ended requests are known at most, and by how many rows a table grows. */
const MOST = 1000;
const SHOWN = 200;

/** Milliseconds between two renderings, however much happens. */
const PAUSE = 250;

/** Milliseconds between two looks, for a key that is not told what happens to all requests. */
const AGAIN = 3000;

/** The columns: the class of their cells, and their titles. */
const COLUMNS = [
  ["when", "Time"],
  ["model", "Model"],
  ["state", "State"],
  ["what", "Request"],
  ["number", "Waited"],
  ["number", "First byte"],
  ["number", "Total"],
  ["number", "Tokens"],
  ["number", "Tokens/s"],
  ["number", "Bytes"],
  ["act", ""],
];

/** What the filter of states offers: what it is called, and who fits. */
const STATES = {
  "": ["Any state", () => true],
  live: ["Under way", (request) => request.state],
  waiting: ["Waiting", ({ state }) => state === "waiting" || state === "loading"],
  ok: ["Answered", (request) => request.outcome === "ok" && !isWrong(request)],
  wrong: ["Errors", isWrong],
  client_left: ["Client left", ({ outcome }) => outcome === "client_left"],
};

/** By which a row is known: clients choose the ids, and may choose one twice. */
const keyOf = ({ id, time }) => `${id} ${time}`;

/** Whether both are one request: the time that is told of it may differ a little. */
const same = (a, b) => a.id === b.id && Math.abs(a.time - b.time) < 0.05;

export const page = { id: "activity", title: "Activity", show };

function show(root, params) {
  const model = el("select", { "aria-label": "Model" });
  const state = el(
    "select",
    { "aria-label": "State" },
    Object.entries(STATES).map(([value, [name]]) => el("option", { value }, name)),
  );
  const text = el("input", { type: "search", placeholder: "Filter: id, client, path, reason", "aria-label": "Filter by text", value: params.get("text") || "" });
  const pause = el("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const summary = el("p", { class: "quiet", role: "status" });
  const hint = el("p", { class: "empty", hidden: true });
  const live = group("Under way");
  const over = group("Ended");
  const titles = COLUMNS.map(([name, title]) =>
    el("th", { scope: "col", class: name }, title || el("span", { class: "unseen" }, "Actions")),
  );
  const table = el("table", { class: "requests" }, el("thead", {}, el("tr", {}, titles)), live.body, over.body);
  root.append(
    el("div", { class: "tools" }, el("div", { class: "row filters" }, model, state, text, pause), summary),
    el("div", { class: "card wide" }, table, hint),
  );

  /** What is known: the requests under way by key, those that have ended newest first. */
  const now = new Map();
  let ended = [];
  /** How many are under way that the gateway does not tell one by one. */
  let untold = 0;
  let asked = false;
  /** What is wrong with the stream; null before it has begun. */
  let lost = null;

  // What is shown

  const rows = new Map();
  /** The key of the request that is shown in full, and its part of the table. */
  let opened = null;
  let part = null;
  let timer = 0;
  /** While paused, how many have ended since; null while not. */
  let unseen = null;

  /** Render soon: once for all that happens until then. */
  function soon() {
    if (unseen === null) timer ||= setTimeout(render, PAUSE);
  }

  function fits(request) {
    if (model.value && model.value !== request.model && model.value !== request.asked) return false;
    if (!STATES[state.value][1](request)) return false;
    const wanted = text.value.trim().toLowerCase();
    const words = [...Object.values(request).filter((value) => typeof value === "string"), String(request.status)];
    return words.some((word) => word.toLowerCase().includes(wanted));
  }

  function render() {
    clearTimeout(timer);
    timer = 0;
    const focused = document.activeElement;
    const running = [...now.values()].reverse().filter(fits);
    const past = ended.filter(fits);
    const used = new Map();
    const inLive = live.show(running, now.size + untold, used);
    const inOver = over.show(past, ended.length, used);
    for (const [key] of rows) if (!used.has(key)) rows.delete(key);
    if (part && !inLive && !inOver) close();
    // A row that moves to another place loses the focus.
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    live.body.hidden = !running.length;
    over.body.hidden = !past.length;
    table.hidden = !running.length && !past.length;
    const known = now.size + ended.length;
    say(hint, lost === null ? "Asking for the requests…" : known ? "No request fits." : "No request yet. Each one for a model is listed here.");
    hint.hidden = !table.hidden;
    tell();
  }

  function tell() {
    const waiting = [...now.values()].filter(STATES.waiting[1]).length;
    const parts = [session.everyModel ? `${count(now.size + untold)} under way` : "ended ones only"];
    if (waiting) parts[0] += `, ${count(waiting)} of them waiting`;
    if (unseen) parts.push(`${count(unseen)} more ended while paused`);
    if (lost) parts.push(`${lost} Trying again…`);
    say(summary, lost === null ? "" : parts.join(" · "));
  }

  function group(title) {
    let shown = SHOWN;
    const head = el("th", { colspan: COLUMNS.length, scope: "rowgroup" });
    const button = el("button", { type: "button", onclick: grow });
    const rest = el("tr", { class: "rest" }, el("td", { colspan: COLUMNS.length }, button));
    const body = el("tbody", {}, el("tr", { class: "group" }, head));

    function grow() {
      shown += SHOWN;
      render();
    }

    /** Show requests; returns whether one of them is shown in full. */
    function showAll(list, known, used) {
      say(head, `${title}: ${list.length === known ? count(known) : `${count(list.length)} of ${count(known)}`}`);
      const left = list.length - shown;
      say(button, `Show ${count(Math.min(left, SHOWN))} more`);
      const wanted = [];
      let full = false;
      for (const request of list.slice(0, shown)) {
        const key = keyOf(request);
        if (used.has(key)) continue;
        used.set(key, request);
        if (!rows.has(key)) rows.set(key, row(key));
        const one = rows.get(key);
        one.update(request, key === opened);
        wanted.push(one.item);
        if (key !== opened) continue;
        part ||= detail(request, cancel, COLUMNS.length);
        part.update(request);
        wanted.push(part.item);
        full = true;
      }
      if (left > 0) wanted.push(rest);
      arrange(body, wanted);
      return full;
    }
    return { body, show: showAll };
  }

  function row(key) {
    const cells = COLUMNS.map(([name, title]) => el("td", { class: name, "data-label": title }));
    const open = el("button", { type: "button", class: "plain" });
    const chip = el("span", { class: "chip" });
    const path = el("span", { class: "mono" });
    const note = el("span", { class: "quiet" });
    const stop = el("button", { type: "button", class: "danger small" }, "Cancel");
    cells[0].append(open);
    cells[2].append(chip);
    cells[3].append(path, " ", note);
    cells.at(-1).append(stop);
    const item = el("tr", { class: "request" }, cells);
    let last = null;
    item.addEventListener("click", ({ target }) => {
      if (target === stop) cancel(last);
      else if (target === open || getSelection().isCollapsed) toggle(key);
    });

    function update(request, isOpen) {
      open.setAttribute("aria-expanded", String(isOpen));
      // What has ended does not change any more.
      if (request === last && !request.state) return;
      last = request;
      const [shown, name] = words(request);
      say(open, clock(request.time));
      open.setAttribute("aria-label", `${clock(request.time)}: details of request ${request.id}`);
      say(cells[1], request.model || request.asked || "");
      chip.dataset.state = shown;
      say(chip, name);
      say(path, request.path);
      say(note, request.reason || request.waiting_for || request.client);
      const { tokens } = request;
      const numbers = [
        request.waited_sec > 0.001 ? seconds(request.waited_sec) : "",
        seconds(request.first_byte_sec),
        seconds(spent(request)),
        tokens ? `${count(tokens.prompt)} → ${count(tokens.completion)}` : "",
        rate(tokens?.completion, request.completion_sec),
        request.bytes_out ? size(request.bytes_out) : "",
      ];
      numbers.forEach((number, index) => say(cells[4 + index], number));
      stop.hidden = !request.state || !session.may("manage");
      stop.setAttribute("aria-label", `Cancel request ${request.id}`);
    }
    return { item, update };
  }

  function close() {
    opened = part = null;
  }

  function toggle(key) {
    const again = opened === key;
    part?.item.remove();
    close();
    if (!again) opened = key;
    render();
  }

  async function cancel(request) {
    const name = request.model || request.asked;
    if (!(await ask(`Cancel this request for ${name}? Its client (${request.client}) gets an error.`, "Cancel the request"))) return;
    try {
      await post(`activity/${encodeURIComponent(request.id)}/cancel`, {});
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }

  // What is heard

  function hear(told) {
    if (told.event === "snapshot") {
      now.clear();
      for (const request of told.now) put(request);
      untold = told.more || 0;
      end(told.last);
      if (!asked) lookBack();
    } else if (told.event === "more") untold = told.more;
    else if (told.event === "ended") {
      const before = [...now.values()].find((request) => same(request, told.request));
      if (before) {
        told.request.time = before.time;
        now.delete(keyOf(before));
      }
      ended.unshift(told.request);
      if (ended.length > MOST) ended.pop();
      if (unseen !== null) unseen += 1;
    } else put(told.request);
    if (unseen === null) soon();
    else tell();
  }

  function put(request) {
    request.at = performance.now();
    now.set(keyOf(request), request);
  }

  /** Put the last ones that have ended, newest first, before those that are known; some are both. */
  function end(last) {
    const known = Map.groupBy(ended, ({ id }) => id);
    const fresh = last.filter((request) => !known.get(request.id)?.some((other) => same(request, other)));
    ended = [...fresh, ...ended].slice(0, MOST);
  }

  /** A snapshot has only some of those that have ended; ask for the others, once. */
  async function lookBack() {
    asked = true;
    try {
      const { data } = await get(`activity?limit=${MOST}`);
      end(data);
      ended.sort((a, b) => b.time + b.total_sec - a.time - a.total_sec);
      soon();
    } catch {
      asked = false; // with the next snapshot
    }
  }

  /** In the place of the stream, which is of all models: the requests that have ended. */
  async function look() {
    try {
      const { data } = await get(`activity?limit=${asked ? SHOWN : MOST}`);
      asked = true;
      lost = "";
      hear({ event: "snapshot", now: [], last: data });
    } catch (error) {
      lost = error.message;
      soon();
    }
  }

  // What is asked

  const offered = (list) => offer(model, list.map(({ name }) => name), "All models");

  if (STATES[params.get("state")]) state.value = params.get("state");
  for (const field of [model, state, text]) {
    field.addEventListener("input", () => {
      keep("activity", { model: model.value, state: state.value, text: text.value.trim() });
      render();
    });
  }
  pause.addEventListener("click", () => {
    unseen = unseen === null ? 0 : null;
    pause.setAttribute("aria-pressed", String(unseen !== null));
    say(pause, unseen === null ? "Pause" : "Go on");
    render();
  });

  offer(model, [], "All models", params.get("model") || "");
  offered(models.list);
  const stops = [
    models.watch(offered),
    session.everyModel
      ? follow("activity/sse", {
          message: hear,
          state: (connected, why) => {
            lost = connected ? "" : why;
            soon();
            tell();
          },
        })
      : every(AGAIN, look),
  ];
  // What is under way takes longer, though nothing is told of it.
  const ticking = setInterval(() => now.size && soon(), 1000);
  render();
  return () => {
    clearInterval(ticking);
    clearTimeout(timer);
    stops.forEach((stop) => stop());
  };
}

/** Have just these rows below the first one, with as few changes as that takes. */
function arrange(body, wanted) {
  const stay = new Set(wanted);
  for (const item of [...body.children].slice(1)) if (!stay.has(item)) item.remove();
  let next = body.firstElementChild.nextElementSibling;
  for (const item of wanted) {
    if (item === next) next = next.nextElementSibling;
    else body.insertBefore(item, next);
  }
}

const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");
