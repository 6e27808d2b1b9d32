// The page Config: what is in force and where each value comes from; a changed text is checked
// here, and the file is read again. The file itself is changed by nobody here.
import { ask, count, el, get, onBack, post, say, toast } from "./lib.js";
import { session } from "./session.js";

/** How many values are shown at most. */
const SHOWN = 300;

const FROM = { file: "the file", default: "default", machine: "this machine" };

export const page = { id: "config", title: "Config", show };

function show(root) {
  const path = el("code");
  const reload = el("button", { type: "button", onclick: reloaded }, "Reload the file…");
  const fault = el("p", { class: "why", role: "status", hidden: true });
  const values = new Values();
  const text = new Checked();
  root.append(
    el("div", { class: "tools" }, el("p", {}, "The configuration in force, from ", path), session.may("manage") && reload),
    fault,
    el("div", { class: "halves" }, values.box, text.box),
  );

  async function load() {
    try {
      const answer = await get("config");
      if (!root.isConnected) return;
      say(path, answer.path);
      values.set([...answer.values, ...answer.models]);
      text.set(answer.text);
      say(fault, "");
    } catch (error) {
      say(fault, error.message);
    }
    fault.hidden = !fault.textContent;
  }

  async function reloaded() {
    const words = "Read the file again, and put it in force? Models that did not change go on; those that did finish what they are answering, and start anew.";
    if (!(await ask(words, "Reload"))) return;
    try {
      const answer = await post("config/reload", {});
      if (answer.ok) {
        toast(`Reloaded: ${answer.changes || "nothing has changed"}.`);
        text.show(null);
        await load();
      } else {
        const number = answer.faults.length;
        text.show(answer, `The file has ${number === 1 ? "a fault" : `${count(number)} faults`}; what was in force goes on.`);
      }
    } catch (error) {
      toast(error.message, { bad: true });
    }
    text.box.scrollIntoView({ block: "nearest" });
  }

  load();
  return onBack(load);
}

/** The table of values, with its filters. */
class Values {
  #all = [];

  constructor() {
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the values by key, model or value", oninput: () => this.#render() });
    this.from = el(
      "select",
      { "aria-label": "Values from where", onchange: () => this.#render() },
      el("option", { value: "" }, "From anywhere"),
      Object.entries(FROM).map(([value, label]) => el("option", { value }, `From ${label}`.replace("From default", "Defaults"))),
    );
    this.body = el("tbody");
    this.rest = el("p", { class: "empty", hidden: true });
    const heads = ["Key", "Value", "From"].map((name) => el("th", { scope: "col" }, name));
    this.box = el(
      "section",
      { "aria-label": "Values in force" },
      el("div", { class: "tools" }, el("h2", {}, "In force"), el("div", { class: "row" }, this.filter, this.from)),
      el("div", { class: "card" }, el("table", { class: "values" }, el("thead", {}, el("tr", {}, heads)), this.body), this.rest),
    );
  }

  set(values) {
    this.#all = values;
    this.#render();
  }

  #render() {
    const words = this.filter.value.trim().toLowerCase();
    const fits = (one) =>
      (!this.from.value || one.from === this.from.value) &&
      `${one.place} ${one.name || ""} ${written(one.value)}`.toLowerCase().includes(words);
    const fitting = this.#all.filter(fits);
    this.body.replaceChildren(...fitting.slice(0, SHOWN).map(line));
    const more = fitting.length - SHOWN;
    say(this.rest, more > 0 ? `and ${count(more)} more: filter them` : fitting.length ? "" : "No value fits.");
    this.rest.hidden = !this.rest.textContent;
  }
}

function written(value) {
  if (value === null || value === undefined) return "none";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function line({ place, name, value, from, line: number }) {
  const where = from === "file" && number ? `line ${number}` : FROM[from] || from;
  return el(
    "tr",
    { "data-from": from },
    el("th", { scope: "row" }, el("code", {}, place), name && el("small", {}, ` ${name}`)),
    el("td", { class: "mono" }, written(value)),
    el("td", { class: "nowrap" }, where),
  );
}

/** A text with its lines' numbers, and what is wrong with it. */
class Checked {
  constructor() {
    this.text = el("textarea", { class: "mono", wrap: "off", spellcheck: "false", autocapitalize: "off", "aria-label": "Text of the configuration", "aria-describedby": "faults", oninput: () => this.#number() });
    this.numbers = el("pre", { class: "numbers", "aria-hidden": "true" });
    this.text.addEventListener("scroll", () => (this.numbers.scrollTop = this.text.scrollTop));
    this.result = el("div", { id: "faults", role: "status" });
    this.box = el(
      "section",
      { "aria-label": "Check a text" },
      el(
        "div",
        { class: "tools" },
        el("h2", {}, "Check a change"),
        el("div", { class: "row" }, el("button", { type: "button", onclick: () => this.#revert() }, "Revert"), session.may("manage") && el("button", { type: "button", class: "main", onclick: () => this.#check() }, "Check")),
      ),
      this.result,
      el("div", { class: "card editor" }, this.numbers, this.text),
      el("p", { class: "quiet" }, "Only checked, never saved: change the file itself, then reload. Secrets are shown as ***."),
    );
    this.original = "";
    this.bad = new Set();
  }

  set(text) {
    const untouched = this.text.value === this.original;
    this.original = text;
    // What somebody is writing here stays.
    if (untouched) this.text.value = text;
    this.#number();
  }

  #revert() {
    this.text.value = this.original;
    this.show(null);
  }

  async #check() {
    this.result.replaceChildren();
    try {
      const answer = await post("config/check", this.text.value);
      const number = answer.faults?.length;
      this.show(answer, answer.ok ? "" : number === 1 ? "A fault:" : `${count(number)} faults:`);
    } catch (error) {
      this.show({ ok: false, faults: [] }, error.message);
    }
  }

  /** Show what a check or a reload has answered; null for nothing. */
  show(answer, words = "") {
    const faults = answer?.faults || [];
    this.bad = new Set(faults.map((fault) => fault.line));
    this.#number();
    if (!answer) return this.result.replaceChildren();
    if (answer.ok) {
      const changes = answer.changes ? `A reload would change: ${answer.changes}` : "A reload would change nothing.";
      return this.result.replaceChildren(el("p", { class: "fine" }, `No fault. ${changes}`));
    }
    const items = faults.map(({ place, line: number, message }) => {
      const what = place ? `${place}: ${message}` : message;
      if (!number) return el("li", {}, what);
      return el("li", {}, el("button", { type: "button", onclick: () => this.#goTo(number) }, `Line ${number}`), ` ${what}`);
    });
    this.result.replaceChildren(el("div", { class: "why" }, el("p", {}, words), el("ul", { class: "faults" }, items)));
  }

  #goTo(number) {
    const before = this.text.value.split("\n").slice(0, number - 1);
    const start = before.reduce((sum, one) => sum + one.length + 1, 0);
    const end = this.text.value.indexOf("\n", start);
    this.text.focus();
    this.text.setSelectionRange(start, end < 0 ? this.text.value.length : end);
    const height = this.text.scrollHeight / Math.max(1, this.text.value.split("\n").length);
    this.text.scrollTop = Math.max(0, (number - 4) * height);
    this.text.scrollLeft = 0;
  }

  #number() {
    const lines = this.text.value.split("\n").length;
    const marks = [];
    for (let number = 1; number <= lines; number += 1) {
      marks.push(this.bad.has(number) ? el("b", {}, `${number}\n`) : `${number}\n`);
    }
    this.numbers.replaceChildren(...marks);
    this.numbers.scrollTop = this.text.scrollTop;
  }
}
