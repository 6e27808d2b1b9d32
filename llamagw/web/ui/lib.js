// What the pages share: asking the gateway, the models as they are now, and parts of a page.
// Names, engines' words and answers are text: they are shown by text nodes only.

/** The gateway's address, such as http://localhost:8000/; below a reverse proxy with its path. */
export const root = new URL("../", import.meta.url);

/** Milliseconds until what was lost is asked for again: at first, and at most. */
const SOON = 500;
const LATER = 5000;

/** Milliseconds between two looks at /health, and at the whole list of models. */
const HEALTH = 3000;
const LIST = 60000;

// Asking

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(new URL(path, root), options);
  } catch (error) {
    if (error.name === "AbortError" || error.name === "TimeoutError") throw error;
    throw Object.assign(new Error("The gateway does not answer."), { status: 0 });
  }
  if (!answer.ok) throw await refusal(answer);
  const json = answer.headers.get("Content-Type")?.startsWith("application/json");
  return json ? answer.json() : answer.text();
}

/**
 * Why a request was refused, from its answer.
 *
 * @returns {Promise<Error>} with the envelope's message, and `status` and `code`
 */
export async function refusal(answer) {
  let told = null;
  try {
    told = (await answer.json()).error;
  } catch {
    // No envelope: something in between has answered.
  }
  const error = new Error(told?.message || `The answer has status ${answer.status}.`);
  return Object.assign(error, { status: answer.status, code: told?.code || null });
}

/** Ask for a path; gives the JSON or the text, or throws an Error with the gateway's message. */
export function get(path, { signal } = {}) {
  return send(path, { signal });
}

/** Send JSON, or a text as it is; see `get`. */
export function post(path, body, { signal } = {}) {
  const text = typeof body === "string";
  return send(path, {
    method: "POST",
    headers: { "Content-Type": text ? "text/plain; charset=utf-8" : "application/json" },
    body: text ? body : JSON.stringify(body),
    signal,
  });
}

/** Called when the gateway answers again: what was shown may be of its predecessor. */
const backs = new Set();

/** @returns {() => void} ends it */
export function onBack(call) {
  backs.add(call);
  return () => backs.delete(call);
}

/**
 * Follow a stream of events for as long as the page is visible.
 *
 * @param path of the stream
 * @param message called with each event's JSON
 * @param state called with (true, "") when it has begun, (false, why) when it was lost
 * @returns {() => void} ends it
 */
export function follow(path, { message, state = () => {} }) {
  let source = null;
  let timer = 0;
  let pause = SOON;

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  function open() {
    close();
    const own = (source = new EventSource(new URL(path, root)));
    own.onopen = () => {
      pause = SOON;
      state(true, "");
    };
    own.onmessage = ({ data }) => message(JSON.parse(data));
    own.onerror = async () => {
      // Closed: the answer was no stream. An EventSource does not say why; the same GET does.
      const refused = own.readyState === EventSource.CLOSED;
      close();
      timer = setTimeout(open, pause);
      pause = Math.min(2 * pause, LATER);
      state(false, refused ? await reason(path) : "The connection was lost.");
    };
  }

  function look() {
    if (document.hidden) close();
    else open();
  }

  const stopBack = onBack(() => {
    if (!document.hidden && source?.readyState !== EventSource.OPEN) open();
  });
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    stopBack();
    close();
  };
}

async function reason(path) {
  const over = new AbortController();
  try {
    const answer = await fetch(new URL(path, root), { signal: over.signal });
    return answer.ok ? "The connection was lost." : (await refusal(answer)).message;
  } catch {
    return "The gateway does not answer.";
  } finally {
    over.abort();
  }
}

/** Call a function each so many milliseconds, and at once, while the page is visible. */
export function every(milliseconds, call) {
  let timer = 0;
  function look() {
    clearInterval(timer);
    if (document.hidden) return;
    timer = setInterval(call, milliseconds);
    call();
  }
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    clearInterval(timer);
  };
}

// The models

/** What a status of /models or of an event says; `since` is in seconds since the epoch. */
function told(state, status) {
  return {
    state: status.failed ? "failed" : state,
    why: status.error || "",
    since: status.failed_at ?? null,
  };
}

/** What changes while a model runs, of an entry of /models or /health; {} for one that is idle. */
function numbers(entry) {
  return {
    in_flight: entry.in_flight ?? 0,
    waiting: entry.waiting ?? 0,
    waiting_sec: entry.waiting_sec ?? null,
    waiting_for: entry.waiting_for ?? null,
    memory: entry.memory ?? null,
    port: entry.port ?? null,
    unloads_in_sec: entry.unloads_in_sec ?? null,
    load_sec: entry.load_sec ?? null,
  };
}

/**
 * All models as they are now. Each has name, aliases, state (unloaded, loading, loaded, stopping,
 * failed), why and since (of a failure), size and context, remote, replicas, pinned, in_flight,
 * waiting, waiting_sec, waiting_for, memory, last_used, unloads_in_sec, usual_sec, load_sec, and
 * progress, the last event of that name.
 */
class Models {
  #known = new Map();
  #watchers = new Set();
  #streaming = false;
  #due = 0;
  #timer = 0;
  #round = 0;

  /** The last answer of /health, when it came (Date.now()), and why there is none (or ""). */
  health = null;
  at = 0;
  lost = "";

  /** In the order of the configuration. */
  get list() {
    return [...this.#known.values()];
  }

  get(name) {
    return this.#known.get(name);
  }

  /** Call a function with the list, now if it is known and after each change; returns the end. */
  watch(call) {
    this.#watchers.add(call);
    if (this.health) call(this.list);
    return () => this.#watchers.delete(call);
  }

  /** Begin; called once, by app.js. */
  start() {
    follow("models/sse", {
      message: (event) => this.#event(event),
      state: (connected) => {
        this.#streaming = connected;
        if (connected) this.refresh();
        else this.look();
      },
    });
    every(LIST, () => this.refresh());
    document.addEventListener("visibilitychange", () => this.look());
    this.look();
  }

  #tell() {
    if (this.#due) return;
    this.#due = setTimeout(() => {
      this.#due = 0;
      for (const call of this.#watchers) call(this.list);
    }, 30);
  }

  /** Ask for the whole list again. */
  async refresh() {
    let data;
    try {
      ({ data } = await get("models"));
    } catch {
      return; // that the gateway does not answer is told by `look`
    }
    const before = this.#known;
    this.#known = new Map();
    for (const entry of data) {
      const model = before.get(entry.id) || { name: entry.id, progress: null, usual_sec: null };
      Object.assign(model, numbers(entry), told(entry.status.value, entry.status), {
        aliases: entry.aliases || [],
        size: entry.size,
        context: entry.context_size,
        remote: Boolean(entry.replicas),
        replicas: entry.replicas || [],
        pinned: Boolean(entry.pinned),
        last_used: entry.last_used ?? null,
      });
      this.#known.set(model.name, model);
    }
    this.#tell();
  }

  #event({ model: name, event, data }) {
    const model = this.#known.get(name);
    if (!model) return;
    if (event === "progress") {
      model.progress = data;
      model.usual_sec = data.usual_sec ?? model.usual_sec;
    } else {
      const before = model.state;
      Object.assign(model, told(data.status, data));
      if (before === model.state) return;
      model.progress = null;
      this.look();
    }
    this.#tell();
  }

  /** Look at /health now, and then from time to time. */
  async look() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const round = ++this.#round;
    let health = null;
    let lost = "";
    try {
      health = await get("health", { signal: AbortSignal.timeout(2 * LATER) });
    } catch (error) {
      lost = error.status ? error.message : "The gateway does not answer.";
    }
    if (round !== this.#round) return;
    this.#timer = setTimeout(() => this.look(), lost ? 2 * SOON : HEALTH);
    const back = this.lost && !lost;
    const restarted = health && this.health && health.uptime_sec < this.health.uptime_sec;
    this.lost = lost;
    if (health) {
      this.health = health;
      this.at = Date.now();
      this.#counted(health.models);
    }
    this.#tell();
    if (back || restarted) {
      this.refresh();
      for (const call of [...backs]) call();
    }
  }

  #counted(entries) {
    const busy = new Map(entries.map((entry) => [entry.id, entry]));
    let unknown = false;
    for (const [name, entry] of busy) unknown ||= !this.#known.has(name);
    for (const model of this.#known.values()) {
      const entry = busy.get(model.name) || {};
      Object.assign(model, numbers(entry));
      model.last_used = entry.last_used ?? model.last_used;
      model.usual_sec = entry.usual_sec ?? model.usual_sec;
      if (!entry.id) continue;
      model.pinned = Boolean(entry.pinned);
      // Events are newer; without them this is all there is.
      if (this.#streaming) continue;
      Object.assign(model, { state: entry.status, why: entry.error || "" });
      model.since = entry.failed_at ?? null;
    }
    if (unknown && this.#known.size) this.refresh();
  }
}

export const models = new Models();

// Parts of a page

/**
 * Make an element.
 *
 * @param attributes text; true and false set or leave out; a function is a listener ("onclick");
 *   "class", "style" (an object of properties), "value" and "checked" as their names say
 * @param children nodes, texts, lists of them; null and false are left out
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") {
      for (const [property, wanted] of Object.entries(value)) made.style.setProperty(property, wanted);
    } else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Change an element's text only if it is another: nothing flickers, nothing is read out twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Ask before something is done: true if it may be. Escape and Cancel say no. */
export async function ask(text, label) {
  return (await choose(text, { yes: label })) === "yes";
}

/**
 * Ask which of several things is to be done.
 *
 * @param labels the buttons' texts, by what is given back; "" is given for Cancel and Escape
 * @returns {Promise<string>}
 */
export function choose(text, labels) {
  return new Promise((resolve) => {
    const closed = () => {
      dialog.remove();
      resolve(dialog.returnValue);
    };
    const button = (value, label, more = {}) =>
      el("button", { type: "button", onclick: () => dialog.close(value), ...more }, label);
    const dialog = el(
      "dialog",
      { "aria-labelledby": "asked", onclose: closed },
      el("p", { id: "asked" }, text),
      el(
        "div",
        { class: "row end" },
        button("", "Cancel"),
        Object.entries(labels).map(([value, label], number) =>
          button(value, label, { class: number ? "danger" : "main" }),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Tell something for some seconds; read out by screen readers. */
export function toast(text, { bad = false } = {}) {
  const box = document.getElementById("toasts");
  const made = el("p", { class: bad ? "toast bad" : "toast" }, text);
  box.append(made);
  while (box.children.length > 4) box.firstChild.remove();
  setTimeout(() => made.remove(), bad ? 12000 : 5000);
}

/** A button that copies the text of an element. */
export function copying(from, what) {
  const button = el("button", { type: "button", "aria-label": `Copy ${what}`, onclick: copy }, "Copy");
  async function copy() {
    let copied = true;
    try {
      await navigator.clipboard.writeText(from.textContent);
    } catch {
      // Without TLS there is no clipboard, but for localhost.
      getSelection().selectAllChildren(from);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
  return button;
}

// Words

/** Bytes, such as 1.4 GiB; "" if they are not known. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** A duration, such as 0.31 s, 12 s, 3 min 20 s, 2 h 5 min, 3 days; "" if it is not known. */
export function seconds(duration) {
  if (duration === null || duration === undefined) return "";
  if (duration < 0.0995) return `${Math.round(duration * 1000)} ms`;
  if (duration < 9.95) return `${duration < 0.995 ? duration.toFixed(2) : duration.toFixed(1)} s`;
  const whole = Math.round(duration);
  if (whole < 60) return `${whole} s`;
  if (whole < 600 && whole % 60) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  const minutes = Math.floor(whole / 60) % 60;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  const days = Math.floor(whole / 86400);
  return days === 1 ? "1 day" : `${count(days)} days`;
}

/** How long ago a time (seconds since the epoch) was, such as "3 min ago"; "" if never. */
export function ago(time) {
  if (time === null || time === undefined) return "";
  const past = Date.now() / 1000 - time;
  return past < 5 ? "now" : `${seconds(past < 60 ? Math.floor(past) : past - (past % 60))} ago`;
}

/** A number with separators, such as 12,345; "" if it is not known. */
export function count(number) {
  return number === null || number === undefined ? "" : number.toLocaleString("en");
}
