// The frame around the pages: navigation by the address's hash, and whether the gateway answers.
import { page as activity } from "./activity.js";
import { page as charts } from "./charts.js";
import { page as config } from "./config.js";
import { count, el, models, onBack, say } from "./lib.js";
import { page as logs } from "./logs.js";
import { page as modelsPage } from "./models.js";
import { page as playground } from "./playground.js";

const PAGES = [modelsPage, activity, charts, logs, playground, config];

/** Milliseconds for which it is told that the gateway is back. */
const BACK = 4000;

const $ = (id) => document.getElementById(id);
const links = new Map();
let shown = "";
let hide = () => {};

/** The page and parameters that the address names: #/logs?model=x. */
function asked() {
  const [, id, query] = location.hash.match(/^#\/([a-z]*)(?:\?(.*))?$/) || [];
  return [PAGES.find((page) => page.id === id) || PAGES[0], new URLSearchParams(query || "")];
}

function go(moved) {
  if (location.hash === shown && shown) return;
  const [page, params] = asked();
  hide();
  shown = location.hash;
  document.title = `${page.title} – llamagw`;
  for (const [id, link] of links) {
    if (id === page.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const section = el("section", { class: `page ${page.id}`, "aria-labelledby": "page-title" });
  const title = el("h1", { id: "page-title", class: "unseen" }, page.title);
  $("main").replaceChildren(title, section);
  hide = page.show(section, params) || (() => {});
  if (!moved) return;
  scrollTo(0, 0);
  $("main").focus();
}

for (const page of PAGES) {
  const link = el("a", { href: `#/${page.id}` }, page.title);
  links.set(page.id, link);
  $("nav").append(el("li", {}, link));
}

// A hash of the skip link's own would be taken for a page.
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});

// Whether the gateway answers

let good = "";
let timer = 0;

function banner() {
  const lost = models.lost;
  const words = lost ? `${lost} Trying again…` : good;
  say($("banner-text"), words);
  $("banner").dataset.state = lost ? "lost" : words ? "back" : "";
  document.body.classList.toggle("stale", Boolean(lost));
}

onBack(() => {
  good = "The gateway is back.";
  clearTimeout(timer);
  timer = setTimeout(() => {
    good = "";
    banner();
  }, BACK);
  banner();
});

models.watch((list) => {
  banner();
  const loaded = list.filter((model) => model.state === "loaded").length;
  const running = list.reduce((sum, model) => sum + model.in_flight, 0);
  const waiting = list.reduce((sum, model) => sum + model.waiting, 0);
  const parts = [`${count(loaded)} of ${count(list.length)} loaded`, `${count(running)} running`];
  if (waiting) parts.push(`${count(waiting)} waiting`);
  say($("summary"), models.health && list.length ? parts.join(" · ") : "");
});

models.start();
addEventListener("hashchange", () => go(true));
go(false);
