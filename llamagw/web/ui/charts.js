// The page Charts: the last minutes to a day, from the gateway's own samples (/history).
// Below each chart stands what its lines are now, or where the pointer is: for screen readers too.
import { count, el, every, get, keep, onBack, say, seconds, size } from "./lib.js";

/* global uPlot -- index.html loads it: a classic script, which has no exports */

const SPANS = { 15: "15 min", 60: "1 h", 360: "6 h", 1440: "24 h" };
const EVERY = 10000;
const HEIGHT = 180;

const rate = (value) => (value < 10 ? value.toFixed(1) : count(Math.round(value)));
const whole = (value) => count(Math.round(value));
const perMinute = (values, step) => values.map((value) => (value === null ? null : (value * 60) / step));

/** Steps of an axis: of bytes, and of what has no fractions. */
const BYTES = Array.from({ length: 50 }, (_, power) => 2 ** power);
const WHOLE = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();

/** Each chart: what it is called, its unit, how a value reads, and its lines. */
const CHARTS = [
  {
    title: "Requests",
    unit: "a minute",
    reads: rate,
    lines: [
      ["requests", "all", perMinute, true],
      ["errors", "errors", perMinute],
    ],
  },
  {
    title: "Tokens",
    unit: "a second",
    reads: rate,
    lines: [
      ["tokens_per_sec", "generated", null, true],
      ["prompt_tokens_per_sec", "read (prompts)"],
    ],
  },
  {
    title: "Time to first byte",
    unit: "",
    reads: seconds,
    least: 0.1,
    lines: [
      ["first_byte_p50", "median"],
      ["first_byte_p95", "95 in 100"],
    ],
  },
  {
    title: "Queue",
    unit: "requests",
    reads: whole,
    marks: WHOLE,
    lines: [
      ["in_flight", "running"],
      ["waiting", "waiting"],
    ],
  },
  { title: "Memory", unit: "", reads: size, marks: BYTES, least: 2 ** 28, lines: [["memory_bytes", "of all engines"]] },
  {
    title: "Models",
    unit: "",
    reads: whole,
    marks: WHOLE,
    lines: [
      ["loaded", "in memory"],
      ["swaps", "swaps a minute", perMinute],
    ],
  },
];

export const page = { id: "charts", title: "Charts", show };

function show(root, params) {
  let minutes = params.get("minutes") in SPANS ? params.get("minutes") : "15";
  let wanted = params.get("model") || "";
  const spans = Object.entries(SPANS).map(([value, label]) =>
    el("button", { type: "button", "data-minutes": value, onclick: () => choose(value) }, label),
  );
  const model = el("select", { "aria-label": "Requests and tokens of which model", onchange: () => pick(model.value) });
  const fault = el("p", { class: "why", hidden: true, role: "status" });
  const charts = CHARTS.map((chart) => new Chart(chart));
  root.append(
    el("div", { class: "tools" }, el("div", { class: "row", role: "group", "aria-label": "Time shown" }, spans), model),
    fault,
    el("div", { class: "grid" }, charts.map((chart) => chart.box)),
  );
  let known = null;

  function choose(value) {
    minutes = value;
    keep("charts", { minutes, model: wanted });
    mark();
    ask();
  }

  function pick(name) {
    wanted = name;
    keep("charts", { minutes, model: wanted });
    draw();
  }

  function mark() {
    for (const button of spans) button.setAttribute("aria-pressed", String(button.dataset.minutes === minutes));
  }

  async function ask() {
    const span = minutes;
    let answer = null;
    let problem = "";
    try {
      answer = await get(`history?minutes=${span}`);
    } catch (error) {
      problem = error.message;
    }
    if (span !== minutes || !root.isConnected) return;
    say(fault, problem);
    fault.hidden = !problem;
    if (!answer) return;
    known = answer;
    offer(Object.keys(answer.models || {}));
    draw();
  }

  function offer(names) {
    if (wanted && !names.includes(wanted)) names.push(wanted);
    const now = JSON.stringify(names);
    if (model.dataset.names !== now) {
      model.dataset.names = now;
      model.replaceChildren(
        el("option", { value: "" }, "All models"),
        ...names.map((name) => el("option", { value: name }, name)),
      );
    }
    model.value = wanted;
  }

  function draw() {
    if (!known) return;
    const { step, series } = known;
    // Until its first sample a gateway has no end.
    const end = known.end ?? Date.now() / 1000;
    const length = Math.max(0, ...Object.values(series).map((values) => values.length));
    const times = Array.from({ length }, (_, number) => end - (length - 1 - number) * step);
    const none = times.map(() => null);
    const own = known.models?.[wanted] || {};
    const from = end - Number(minutes) * 60;
    for (const chart of charts) {
      const values = chart.lines.map(([key, , shape, perModel]) => {
        // Of one model only some series are kept.
        const found = (wanted && perModel ? own[key] : wanted && chart.splits ? null : series[key]) || none;
        return shape ? shape(found, step) : found;
      });
      chart.draw(times, values, from, end, wanted);
    }
  }

  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => {
    for (const chart of charts) chart.end();
    draw();
  };
  scheme.addEventListener("change", recolour);
  mark();
  offer([]);
  const stops = [every(EVERY, ask), onBack(ask)];
  return () => {
    for (const stop of stops) stop();
    scheme.removeEventListener("change", recolour);
    for (const chart of charts) chart.end();
  };
}

class Chart {
  #plot = null;
  #shown = [];
  #sized = new ResizeObserver(() => this.#plot?.setSize(this.#size()));

  constructor({ title, unit, reads, lines, marks = null, least = 1 }) {
    Object.assign(this, { title, unit, reads, lines, marks, least });
    this.splits = lines.some(([, , , perModel]) => perModel);
    this.values = lines.map(() => el("b"));
    this.of = el("small");
    this.canvas = el("div", { class: "plot", "aria-hidden": "true" });
    const legend = lines.map(([, label], number) => el("li", { style: { "--part": `var(--series-${number + 1})` } }, el("span", {}, label), " ", this.values[number]));
    this.box = el(
      "section",
      { class: "card pad chart", "aria-label": title },
      el("h2", {}, title, unit && el("small", {}, ` · ${unit}`), this.of),
      this.canvas,
      el("ul", { class: "legend" }, legend),
    );
  }

  #size() {
    return { width: Math.max(120, this.canvas.clientWidth), height: HEIGHT };
  }

  /** @param of the model whose values these are, if not of all */
  draw(times, values, from, to, of) {
    say(this.of, of && this.splits ? ` · ${of}` : "");
    this.#shown = values;
    if (!this.#plot) this.#make();
    this.#plot.setData([times, ...values], false);
    this.#plot.batch(() => {
      this.#plot.setScale("x", { min: from, max: to });
      this.#plot.setScale("y", { min: 0, max: this.#most(values) });
    });
    this.#tell(null);
  }

  #most(values) {
    const most = Math.max(0, ...values.flat().filter((value) => value !== null));
    return Math.max(most * 1.08, this.least);
  }

  /** Show the values at a place, or the last that are known. */
  #tell(at) {
    this.#shown.forEach((line, number) => {
      const value = at === null || at === undefined ? line.findLast((one) => one !== null) : line[at];
      say(this.values[number], value === null || value === undefined ? "–" : this.reads(value));
    });
  }

  #make() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const hour = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    this.#plot = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { sync: { key: "charts" }, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { x: { time: true }, y: { auto: false } },
        series: [
          {},
          ...this.lines.map((_, number) => ({
            stroke: colour(`--series-${number + 1}`),
            fill: number ? undefined : `${colour("--series-1")}1f`,
            width: 1.5,
            points: { size: 4 },
          })),
        ],
        axes: [
          { ...axis, size: 28, values: (_, marks) => marks.map((mark) => new Date(mark * 1000).toLocaleTimeString([], hour)) },
          {
            ...axis,
            size: 56,
            ...(this.marks && { incrs: this.marks }),
            values: (_, marks) => marks.map((mark) => (mark === 0 ? "0" : this.reads(mark))),
          },
        ],
        hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx)] },
      },
      [[], ...this.lines.map(() => [])],
      this.canvas,
    );
    this.#sized.observe(this.canvas);
  }

  end() {
    this.#sized.disconnect();
    this.#plot?.destroy();
    this.#plot = null;
  }
}
