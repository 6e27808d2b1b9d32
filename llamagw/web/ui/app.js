// The frame around the pages: who uses them, navigation by the address's hash, and whether the
// gateway answers.
import { page as activity } from "./activity.js";
import { page as charts } from "./charts.js";
import { page as config } from "./config.js";
import { askAnew, count, el, models, onBack, say } from "./lib.js";
import { askForKey } from "./login.js";
import { page as logs } from "./logs.js";
import { page as modelsPage } from "./models.js";
import { page as playground } from "./playground.js";
import { logOut, session, whoAmI } from "./session.js";
import { page as usage } from "./usage.js";

const PAGES = [modelsPage, activity, charts, logs, playground, usage, config];

/** What a key needs for a page; the others are for each key. And those that are of all models. */
const NEEDS = { activity: "observe", charts: "observe", logs: "observe", playground: "infer", config: "observe" };
const OF_ALL = ["charts", "config"];

/** Milliseconds until a gateway that does not answer is asked again who this is. */
const AGAIN = 1000;

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
  const why = missing(page);
  if (why) section.append(el("p", { class: "note" }, why));
  hide = (!why && page.show(section, params)) || (() => {});
  if (!moved) return;
  scrollTo(0, 0);
  $("main").focus();
}

/** Why a key has not this page; "" if it has. */
function missing({ id }) {
  if (id === "usage" && !session.name) return "There are no API keys here, and so nobody's usage is counted.";
  const scope = NEEDS[id];
  if (scope && !session.may(scope)) return `The key ${session.name} has not the right to ${scope}, which this page needs.`;
  if (session.everyModel || !OF_ALL.includes(id)) return "";
  return `This page is about all models together, and the key ${session.name} is for ${session.models.join(", ")}.`;
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

// Who uses it

const rights = () => JSON.stringify([session.name, session.scopes, session.models]);
let looking = false;

// A request was refused as if nobody were logged in: is it so?
addEventListener("doubt", async () => {
  if (looking) return;
  looking = true;
  const before = rights();
  try {
    const why = await whoAmI();
    if (why) {
      await askForKey(why);
      if (rights() === before) askAnew();
    }
  } catch {
    // That the gateway does not answer is told by the banner.
  }
  looking = false;
  // For another key, other pages; what was written is kept for the same one.
  if (rights() !== before) location.reload();
  else models.look();
});

async function begin() {
  looking = true;
  for (;;) {
    try {
      // Nobody has logged in yet: that needs no reason.
      if (await whoAmI()) await askForKey();
      break;
    } catch {
      say($("banner-text"), "The gateway does not answer. Trying again…");
      $("banner").dataset.state = "lost";
      await new Promise((done) => setTimeout(done, AGAIN));
    }
  }
  looking = false;
  banner();
  for (const page of PAGES) {
    if (NEEDS[page.id] ? !session.may(NEEDS[page.id]) : page === usage && !session.name) continue;
    const link = el("a", { href: `#/${page.id}` }, page.title);
    links.set(page.id, link);
    $("nav").append(el("li", {}, link));
  }
  if (session.csrf) $("who").append(el("b", { title: session.name }, session.name), el("button", { type: "button", onclick: logOut }, "Log out"));
  models.start();
  addEventListener("hashchange", () => go(true));
  go(false);
}

begin();
