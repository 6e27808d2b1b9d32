// How the models are used from a program: base URL, a request, all endpoints. Part of the page Models.
import { copying, el, models, root } from "./lib.js";
import { keyHeader } from "./sending.js";
import { session } from "./session.js";

/** How many models can be chosen for the request. */
const OFFERED = 200;

/** The part, closed. */
export function use() {
  const choice = el("select", { "aria-label": "Model of the request", onchange: request });
  const base = el("pre", { tabindex: "0", id: "base" }, new URL("v1", root).href);
  const curl = el("pre", { tabindex: "0", id: "curl" });
  const list = el("details", {}, el("summary", {}, "All endpoints"));
  list.addEventListener("toggle", () => {
    if (list.open && !list.querySelector("table")) {
      const table = document.getElementById("endpoints").content.cloneNode(true);
      list.append(el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Endpoints" }, table));
    }
  });

  function request() {
    const body = `{
  "model": ${JSON.stringify(choice.value)},
  "messages": [{"role": "user", "content": "Hello!"}]
}`;
    curl.textContent = `curl ${base.textContent}/chat/completions ${keyHeader()}-d '${body.replaceAll("'", "'\\''")}'`;
  }

  function open() {
    const names = models.list.slice(0, OFFERED).map((model) => model.name);
    choice.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    choice.hidden = names.length < 2;
    request();
  }

  const box = el(
    "details",
    { class: "card pad use" },
    el("summary", {}, "Use them from a program"),
    el("p", {}, `Base URL for clients of OpenAI's API; ${session.name === null ? "any API key will do" : "the key is the one that you log in with"}:`),
    el("div", { class: "copy" }, base, copying(base, "the base URL")),
    el("div", { class: "row" }, "Or from a terminal; the first request loads the model:", choice),
    el("div", { class: "copy" }, curl, copying(curl, "the request")),
    list,
  );
  box.addEventListener("toggle", () => box.open && open());
  return box;
}
