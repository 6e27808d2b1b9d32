// The playground's chat: a conversation with one model, or with two side by side on the same prompts.
// Answers are shown as text, as they come, with their times.
import { rate } from "./detail.js";
import { count, el, get, models, say, seconds } from "./lib.js";
import { images } from "./images.js";
import { events, program, send } from "./sending.js";

const PATH = "v1/chat/completions";

/** The parameters that have a field, and its step. */
const NUMBERS = { temperature: "0.1", top_p: "0.05", max_tokens: "1", seed: "1" };

/** The chat; `chosen` gives the names of the models, one or two. */
export function chat(chosen) {
  const system = el("textarea", { rows: "3", placeholder: "None" });
  const fields = Object.fromEntries(
    Object.entries(NUMBERS).map(([name, step]) => [name, el("input", { type: "number", placeholder: "default", min: "0", step })]),
  );
  const stops = el("textarea", { rows: "1", placeholder: "none; one a line" });
  const others = el("textarea", { rows: "2", class: "mono", placeholder: '{"top_k": 40}', spellcheck: "false" });
  const wrong = el("p", { class: "why", hidden: true });
  const prompt = el("textarea", { rows: "2", placeholder: "Enter sends, Shift+Enter begins a line", "aria-label": "Message" });
  const go = el("button", { type: "button", class: "main" }, "Send");
  const clear = el("button", { type: "button" }, "Clear");
  const talk = el("div", { class: "talk" });
  const pictures = images(prompt, async () => !(await Promise.all(chosen().map(sees))).includes(false));
  const code = program(() => ({ path: PATH, body: body(0, content()) }));
  const labelled = (name, field) => el("label", { class: "field" }, el("span", {}, name), field);
  const settings = el(
    "details",
    { class: "card pad settings", open: matchMedia("(min-width: 62rem)").matches },
    el("summary", {}, "Parameters"),
    labelled("System prompt", system),
    el("div", { class: "pairs" }, Object.entries(fields).map(([name, field]) => labelled(name, field))),
    labelled("stop", stops),
    labelled("Others, as JSON", others),
    wrong,
  );
  const box = el(
    "div",
    { class: "chat" },
    el(
      "div",
      { class: "main" },
      talk,
      el(
        "div",
        { class: "card composer" },
        pictures.box,
        prompt,
        el("div", { class: "row" }, pictures.button, el("span", { class: "grow" }), clear, go),
      ),
      code.box,
    ),
    settings,
  );

  /** Messages before the conversation, of a request that is repeated. */
  let before = [];
  /** The conversation: what was said, and the answers to it, one for each model. */
  let turns = [];
  /** Ends the answers that are coming; null if none is. */
  let running = null;

  // What is sent

  function content() {
    const text = prompt.value.trim();
    const list = pictures.list();
    if (!list.length) return text;
    return [{ type: "text", text }, ...list.map(({ url }) => ({ type: "image_url", image_url: { url } }))];
  }

  /** The messages for one of the models: a turn that it has not answered is left out. */
  function messages(number, last) {
    const said = system.value.trim();
    return [
      ...(said ? [{ role: "system", content: said }] : []),
      ...before,
      ...turns.flatMap(({ content: asked, answers }) => {
        const answer = answers[number] || answers[0];
        return answer.text ? [{ role: "user", content: asked }, { role: "assistant", content: answer.text }] : [];
      }),
      { role: "user", content: last },
    ];
  }

  /** @throws {Error} if a parameter is not what it should be */
  function parameters() {
    const found = {};
    for (const [name, field] of Object.entries(fields)) {
      if (!field.validity.valid) throw new Error(`${name}: ${field.validationMessage}`);
      if (field.value) found[name] = field.valueAsNumber;
    }
    const ends = stops.value.split("\n").filter(Boolean);
    if (ends.length) found.stop = ends;
    try {
      return { ...found, ...JSON.parse(others.value.trim() || "{}") };
    } catch (error) {
      throw new Error(`Others: no JSON such as {"top_k": 40}: ${error.message}`);
    }
  }

  function body(number, last) {
    const [model, asked] = [chosen()[number], messages(number, last)];
    return { model, messages: asked, stream: true, stream_options: { include_usage: true }, ...parameters() };
  }

  function check() {
    let why = "";
    try {
      parameters();
    } catch (error) {
      why = error.message;
    }
    say(wrong, why);
    wrong.hidden = !why;
    if (why) settings.open = true;
    else code.update();
    return !why;
  }

  async function submit() {
    if (running) return;
    if (!(prompt.value.trim() || pictures.list().length) || !check() || !chosen()[0]) return;
    const asked = content();
    const bodies = chosen().map((_, number) => body(number, asked));
    const made = turn(asked, prompt.value.trim(), pictures.list(), bodies.map(({ model }) => model));
    turns.push(made);
    talk.append(made.item);
    prompt.value = "";
    pictures.show([]);
    running = new AbortController();
    state();
    scrollDown(true);
    await Promise.all(made.answers.map((answer, number) => answer.take(bodies[number], running.signal)));
    running = null;
    state();
    code.update();
  }

  function stop() {
    running?.abort();
  }

  function state() {
    say(go, running ? "Stop" : "Send");
    go.classList.toggle("danger", Boolean(running));
    go.classList.toggle("main", !running);
    clear.hidden = !turns.length && !before.length;
    turns.forEach((one, number) => one.last(number === turns.length - 1 && !running));
  }

  // What is shown

  function turn(asked, text, list, names) {
    const edit = el("button", { type: "button", class: "plain", hidden: true, onclick: again }, "Edit");
    const answers = names.map((name) => reply(name, () => scrollDown(false)));
    const thumbs = list.map(({ canvas }) => canvas);
    const item = el(
      "div",
      { class: "turn" },
      el("div", { class: "said" }, el("div", { class: "text" }, text), el("div", { class: "thumbs" }, thumbs), edit),
      el("div", { class: "answers", "data-count": String(names.length) }, answers.map((one) => one.item)),
    );
    function again() {
      turns.pop();
      item.remove();
      prompt.value = text;
      pictures.show(list);
      state();
      prompt.focus();
    }
    return { content: asked, answers, item, last: (is) => (edit.hidden = !is) };
  }

  /** Keep the end of the conversation in sight, unless somebody has scrolled away from it. */
  function scrollDown(always) {
    const page = document.documentElement;
    const near = page.scrollHeight - page.scrollTop - page.clientHeight < 120;
    if (box.isConnected && (always || near)) page.scrollTop = page.scrollHeight;
  }

  go.addEventListener("click", () => (running ? stop() : submit()));
  clear.addEventListener("click", () => restart([]));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  box.addEventListener("keydown", ({ key }) => key === "Escape" && stop());
  box.addEventListener("input", check);
  state();

  /** Begin a conversation, after these messages. */
  function restart(messages) {
    stop();
    turns = [];
    before = messages;
    talk.replaceChildren(...before.map(earlier));
    state();
    check();
    prompt.focus();
  }

  /** Take over a request: its messages and its parameters. */
  function fill(request) {
    const { messages: list, model, stream, stream_options, ...more } = request;
    // What is no text is sent as it was.
    const isText = (message, role) => message?.role === role && typeof message.content === "string";
    system.value = isText(list[0], "system") ? list.shift().content : "";
    prompt.value = isText(list.at(-1), "user") ? list.pop().content : "";
    pictures.show([]);
    for (const [name, field] of Object.entries(fields)) {
      field.value = more[name] ?? "";
      delete more[name];
    }
    stops.value = [more.stop ?? []].flat().join("\n");
    delete more.stop;
    others.value = Object.keys(more).length ? JSON.stringify(more, null, 2) : "";
    restart(list);
  }

  return { box, fill, changed: check };
}

/** A message of a repeated request. */
function earlier({ role, content, tool_calls: calls }) {
  const text = typeof content === "string" ? content : JSON.stringify(content ?? calls ?? "", null, 2);
  return el("div", { class: "turn earlier" }, el("small", {}, role), el("div", { class: "text" }, text));
}

/** One answer: what it waits for, its text as it comes, its times. */
function reply(name, grown) {
  const status = el("span", { class: "quiet" });
  const bar = el("progress", { max: "1", hidden: true, "aria-label": `Load of ${name}` });
  const thought = document.createTextNode("");
  const thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Thinking"), el("div", { class: "text" }, thought));
  const words = document.createTextNode("");
  const why = el("p", { class: "why", hidden: true });
  const times = el("p", { class: "times quiet" });
  const item = el(
    "article",
    { class: "card answer", "aria-label": `Answer of ${name}`, "aria-live": "polite" },
    el("div", { class: "head" }, el("b", {}, name), status),
    bar,
    thinking,
    el("div", { class: "text" }, words),
    why,
    times,
  );
  const made = { item, text: "", take };

  async function take(body, signal) {
    const began = performance.now();
    const since = (time) => (time - began) / 1000;
    let first = null;
    let comment = "";
    let last = {};
    let id = null;
    const wait = () => first === null && waits(since(performance.now()), comment);
    const timer = setInterval(wait, 500);
    item.setAttribute("aria-busy", "true");
    wait();
    let end = "";
    try {
      const answer = await send(PATH, body, signal);
      id = answer.headers.get("X-Request-Id");
      for await (const { comment: told, json } of events(answer)) {
        if (told) comment = told;
        if (!json) continue;
        const choice = json.choices?.[0];
        last = { ...last, ...pick(json), finish: choice?.finish_reason || last.finish };
        const { content, reasoning_content: reasoning } = choice?.delta || {};
        if (!content && !reasoning) continue;
        if (first === null) {
          first = performance.now();
          bar.hidden = true;
          say(status, "answering…");
        }
        if (reasoning) thought.appendData(reasoning);
        if (content) {
          made.text += content;
          words.appendData(content);
        }
        thinking.hidden = !thought.length;
        grown();
      }
      end = last.finish === "length" ? "cut off at its most tokens" : "";
    } catch (error) {
      end = error.name === "AbortError" ? "stopped" : "failed";
      if (end === "failed") say(why, error.message);
      why.hidden = end !== "failed";
    }
    clearInterval(timer);
    bar.hidden = true;
    item.setAttribute("aria-busy", "false");
    say(status, end);
    tell(first === null ? null : since(first), since(performance.now()), last, id);
    grown();
  }

  /** What the answer waits for, as far as it is known. */
  function waits(elapsed, comment) {
    const { state, progress, usual_sec: usual, waiting_for: reason } = models.get(name) || {};
    const loads = state === "loading";
    const done = loads ? progress?.done ?? (usual ? Math.min(0.97, (progress?.elapsed_sec ?? elapsed) / usual) : null) : null;
    bar.hidden = done === null;
    if (done !== null) bar.value = done;
    let doing = "waiting for the answer";
    if (loads) doing = `loading${usual ? `, usually takes ${seconds(usual)}` : ""}`;
    else if (comment) doing = comment;
    else if (state !== "loaded" && reason) doing = `waiting for ${reason}`;
    else if (state === "loaded") doing = "reading the prompt";
    say(status, `${doing} · ${seconds(Math.floor(elapsed * 10) / 10)}`);
  }

  function tell(first, total, { timings, usage }, id) {
    const tokens = timings?.predicted_n ?? usage?.completion_tokens;
    const each = timings ? rate(tokens, timings.predicted_ms / 1000) : rate(tokens - 1, total - first);
    const prompt = usage?.prompt_tokens ?? (timings && timings.prompt_n + (timings.cache_n || 0));
    const cached = timings?.cache_n ?? usage?.prompt_tokens_details?.cached_tokens;
    const parts = [
      first !== null && `first token ${seconds(first)}`,
      each && `${each} tokens/s`,
      tokens && `${count(tokens)} tokens`,
      prompt && `prompt ${count(prompt)}${cached ? `, ${count(cached)} cached` : ""}`,
      `total ${seconds(total)}`,
    ];
    times.replaceChildren(...parts.filter(Boolean).map((part) => el("span", {}, part)));
    if (id) times.append(el("a", { href: `#/activity?text=${encodeURIComponent(id)}` }, "in Activity"));
  }

  return made;
}

const pick = ({ timings, usage }) => ({ ...(timings && { timings }), ...(usage && { usage }) });

/** Whether a model sees images; false only if that is known, and so not of one that is not loaded. */
async function sees(name) {
  if (models.get(name)?.state !== "loaded") return true;
  return get(`props?model=${encodeURIComponent(name)}`).then(({ modalities }) => modalities?.vision !== false, () => true);
}
