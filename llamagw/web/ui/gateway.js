// What is known of the gateway: questions to it, its streams, and the models as they are now.
import { session } from "./session.js";

/** The gateway's address, such as http://localhost:8000/; below a reverse proxy with its path. */
export const root = new URL("../", import.meta.url);

/** Milliseconds until what was lost is asked for again: at first, and at most. */
const SOON = 500;
const LATER = 5000;

/** Milliseconds between two looks at /health, and at the whole list of models. */
const HEALTH = 3000;
const LIST = 60000;

/** Milliseconds within which several changes are shown at once. */
const TOGETHER = 50;

// Asking

/** As `fetch`, for a path of the gateway's, with what proves a session. */
export function reach(path, { headers = {}, ...options } = {}) {
  const proof = session.csrf ? { "X-CSRF-Token": session.csrf } : {};
  return fetch(new URL(path, root), { ...options, headers: { ...headers, ...proof } });
}

/** Say that a session may have ended; app.js looks, and asks for a key. */
const doubt = () => dispatchEvent(new Event("doubt"));

async function send(path, options) {
  let answer;
  try {
    answer = await reach(path, options);
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
  // So does an engine elsewhere, for a key of its own; or another tab has logged in anew.
  if (answer.status === 401 || told?.code === "not_allowed") doubt();
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

/** Ask for all again. */
export function askAnew() {
  models.refresh();
  for (const call of [...backs]) call();
}

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
    const answer = await reach(path, { signal: over.signal });
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
    charge: entry.charge ?? null,
    charge_from: entry.charge_from ?? null,
    port: entry.port ?? null,
    unloads_in_sec: entry.unloads_in_sec ?? null,
    load_sec: entry.load_sec ?? null,
  };
}

/**
 * All models as they are now. Each has name, aliases, state (unloaded, loading, loaded, stopping,
 * failed), why and since (of a failure), size and context, remote, replicas, pinned, in_flight,
 * waiting, waiting_sec, waiting_for, memory, charge, charge_from, last_used, unloads_in_sec,
 * usual_sec, load_sec, and progress, the last event of that name.
 */
class Models {
  #known = new Map();
  #watchers = new Set();
  #streaming = false;
  #due = 0;
  #timer = 0;
  #round = 0;
  #asking = null;
  #early = null;

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
    // The stream is of all models; a key for some of them has only the list.
    if (!session.may("observe") || !session.everyModel) every(HEALTH, () => this.refresh());
    else follow("models/sse", {
      message: (event) => {
        this.#early?.push(event);
        this.#event(event);
      },
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
    }, TOGETHER);
  }

  /** Ask for the whole list again. */
  refresh() {
    this.#asking ??= this.#ask().finally(() => (this.#asking = null));
    return this.#asking;
  }

  async #ask() {
    let data;
    this.#early = [];
    try {
      ({ data } = await get("models"));
    } catch {
      this.#early = null;
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
    // What has changed since the list was made.
    for (const event of this.#early) this.#event(event);
    this.#early = null;
    this.#tell();
  }

  #event({ model: name, event, data }) {
    const model = this.#known.get(name);
    if (!model) return;
    if (event === "progress") {
      model.progress = data;
      model.usual_sec = data.usual_sec ?? model.usual_sec;
    } else {
      const { state, why } = model;
      Object.assign(model, told(data.status, data));
      if (state === model.state && why === model.why) return;
      Object.assign(model, { progress: null, waiting_for: null, waiting_sec: null });
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.look(), TOGETHER);
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
      if (!health.models) {
        // Who is not logged in is told that it is up, and nothing else.
        doubt();
        return;
      }
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
    if (back || restarted) askAnew();
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
