// One request of the page Activity in full: what it waited for and how long each part of it took,
// its tokens, why it failed, and what was asked and answered where that is kept (`capture`).
import { wayOf } from "./playground.js";
import { copying, count, el, get, say, seconds, size } from "./lib.js";
import { session } from "./session.js";

const ENDS = {
  client_left: "client left",
  refused: "refused",
  backend_lost: "engine lost",
  timeout: "timeout",
};

/** Whether a request has ended with an error; that a client leaves is none. */
export function isWrong({ state, outcome, status }) {
  return !state && outcome !== "client_left" && (outcome !== "ok" || status >= 400);
}

/** The state of a request, as a chip has it: its name, and what it says. */
export function words(request) {
  const { state, position, outcome, status } = request;
  if (state === "waiting" || state === "loading") return [state, position ? `${state} · ${position}` : state];
  if (state) return [state, state];
  if (request.error === "cancelled") return ["refused", "cancelled"];
  if (outcome === "ok") return [isWrong(request) ? "refused" : "ok", String(status)];
  return [outcome, status ? `${ENDS[outcome] || outcome} · ${status}` : ENDS[outcome] || outcome];
}

/** Seconds that a request has taken, by now or in all. */
export function spent(request) {
  if (!request.state) return request.total_sec;
  return request.elapsed_sec + (performance.now() - request.at) / 1000;
}

/** So many in so many seconds, for one second; "" if that is not known. */
export function rate(number, duration) {
  if (!number || !duration) return "";
  const each = number / duration;
  return each < 9.95 ? each.toFixed(1) : count(Math.round(each));
}

/** The parts of a request's time one after the other: name, what is known of it, begin and end. */
function parts(request) {
  const { state, stream, tokens } = request;
  const end = spent(request);
  const waits = state === "waiting" || state === "loading";
  const waited = waits ? end : Math.min(request.waited_sec || 0, end);
  const load = state === "loading" ? null : Math.min(request.load_sec || 0, waited);
  const found = [];
  if (state === "loading") found.push(["loading", wait(request), 0, end]);
  else {
    if (waited - load > 0.0005 || waits) found.push(["queue", waits ? wait(request) : "", 0, waited - load]);
    if (load) found.push(["load", "", waited - load, waited]);
  }
  if (waits) return found;
  const first = request.first_byte_sec ?? null;
  const fresh = tokens ? tokens.prompt - (tokens.cached || 0) : null;
  const prompt = tokens ? speed(fresh, request.prompt_sec, tokens.cached ? `, ${count(tokens.cached)} more cached` : "") : "";
  const answer = tokens ? speed(tokens.completion, request.completion_sec, "") : "";
  // Of an answer in one piece the first byte comes when it is done; the engine's times divide it.
  const known = !stream && request.completion_sec !== null && request.completion_sec !== undefined;
  const prefill = known ? Math.min(waited + (request.prompt_sec || 0), end) : first;
  if (prefill === null) found.push([state ? "prefill" : "no answer", state ? "so far" : "", waited, end]);
  else if (!stream && !known) found.push(["answer", answer, waited, end]);
  else found.push(["prefill", prompt, waited, prefill], ["generation", answer, prefill, end]);
  return found;
}

/** What is known of the wait of a request. */
function wait({ position, waiting_for: reason, usual_sec: usual }) {
  return [position && `position ${position}`, reason, usual && `a load usually takes ${seconds(usual)}`].filter(Boolean).join(", ");
}

function speed(number, duration, more) {
  const each = rate(number, duration);
  return `${count(number)} token${number === 1 ? "" : "s"}${more}${each && `, ${each} tokens/s`}`;
}

/** What is told beside the times, as pairs; those without a value are left out. */
function facts(request) {
  const { asked, model } = request;
  return [
    ["Id", request.id],
    ["Client", request.client],
    ["Request", `${request.method} ${request.path}${request.stream ? ", as a stream" : ""}`],
    ["Model", asked && model && asked !== model ? `${model}, asked for as ${asked}` : model || asked],
    ["Began", new Date(request.time * 1000).toLocaleString("en-GB")],
    ["Status", request.status],
    ["Error", request.error],
    ["Tries", request.tries > 1 ? request.tries : null],
    ["Bytes", [request.bytes_in && `${size(request.bytes_in)} in`, request.bytes_out && `${size(request.bytes_out)} out`].filter(Boolean).join(", ")],
  ].filter(([, value]) => value);
}

/** A row of the table with a request in full; `cancel` is called with the request. */
export function detail(request, cancel, colspan) {
  const times = el("ol", { class: "waterfall", "aria-label": "Where the time went" });
  const list = el("dl", { class: "facts" });
  const why = el("p", { class: "why", hidden: true });
  const stop = el("button", { type: "button", class: "danger", onclick: () => cancel(last) }, "Cancel the request");
  const again = el("a", { hidden: true }, "Repeat in the playground");
  const logs = el("a", { hidden: true }, "Engine’s log");
  const content = el("div", { class: "captured" });
  const box = el("div", { class: "detail" }, times, why, list, content, el("div", { class: "row" }, stop, again, logs));
  const item = el("tr", { class: "full" }, el("td", { colspan }, box));
  let last = request;
  let asked = false;

  function update(next) {
    last = next;
    waterfall(times, parts(next), spent(next));
    const told = facts(next);
    const now = JSON.stringify(told);
    if (list.dataset.shows !== now) {
      list.dataset.shows = now;
      list.replaceChildren(...told.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
    }
    say(why, next.reason || "");
    why.hidden = !next.reason;
    stop.hidden = !next.state || !session.may("manage");
    logs.hidden = !next.model;
    if (next.model) logs.href = `#/logs?model=${encodeURIComponent(next.model)}`;
    if (next.captured && !next.state && !asked) {
      asked = true;
      look();
    }
  }

  /** What was asked and answered. */
  async function look() {
    try {
      const told = await get(`activity/${encodeURIComponent(last.id)}`);
      if (!told.captured) throw new Error("What was asked and answered is not kept any more.");
      content.replaceChildren(captured("Request", told.request), captured("Answer", told.response));
      again.hidden = told.request.truncated || !wayOf(told.path) || !session.may("infer");
      again.href = `#/playground?repeat=${encodeURIComponent(last.id)}`;
    } catch (error) {
      content.replaceChildren(el("p", { class: "why" }, error.message));
    }
  }

  return { item, update };
}

/** One side of what is kept, its headers before it. */
function captured(name, told) {
  const headers = Object.entries(told.headers || {}).map(([key, value]) => `${key}: ${value}\n`);
  const text = el("pre", { tabindex: "0", "aria-label": name }, ...headers, headers.length > 0 && "\n", pretty(told.body));
  const cut = told.truncated && el("small", {}, " of which the beginning was kept");
  return el("details", { open: true }, el("summary", {}, name, cut), el("div", { class: "copy" }, text, copying(text, name)));
}

/** JSON with line breaks; other text as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function waterfall(list, found, total) {
  const share = (value) => `${total > 0 ? (100 * value) / total : 0}%`;
  const items = found.map(([name, note, begin, end]) => {
    const bar = el("span", { style: { left: share(begin), width: share(end - begin) } });
    const track = el("span", { class: "track", "aria-hidden": "true" }, bar);
    return el("li", { "data-part": name }, el("b", {}, name), track, el("span", { class: "number" }, seconds(end - begin)), el("small", {}, note));
  });
  list.replaceChildren(...items);
}
