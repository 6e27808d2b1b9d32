// The offer to load a model, in place of its engine's page; goes on to that page when it is loaded.
// Names and engines' words are text: they are shown by textContent only.

const root = new URL("../", import.meta.url);

/** Milliseconds between two looks at the model. */
const AGAIN = 1000;

const $ = (id) => document.getElementById(id);
const name = $("model").textContent;

const SAYS = {
  unloaded: "This model is not loaded, so its engine's page cannot be shown.",
  loading: "This model is being loaded. Its engine's page follows.",
  loaded: "This model is loaded.",
  stopping: "This model is being unloaded.",
  failed: "This model could not be loaded.",
};

let state = null;
let why = "";
let lost = "";
let pending = false;

function show() {
  const waits = pending && state !== "loading";
  $("state").textContent = lost || (waits ? "Waiting until this model can be loaded…" : SAYS[state] || state);
  $("load").hidden = state === null;
  $("load").textContent = state === "loaded" ? "Open its page" : pending ? "Loading…" : "Load it";
  $("load").setAttribute("aria-disabled", String(pending || state === "loading"));
  $("why").textContent = why;
  $("why").hidden = !why;
}

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(new URL("health", root));
      const { models } = await answer.json();
      // One that is not told there is not in memory, and has not failed.
      const model = models.find((one) => one.id === name) || { status: "unloaded" };
      // Not if it was loaded from the first: it may be on its way out, and this page come again.
      if (model.status === "loaded" && state !== null && state !== "loaded") return location.reload();
      state = model.status;
      why = model.error || (pending ? "" : why);
      lost = "";
    } catch {
      lost = "The gateway does not answer. Trying again…";
    }
    show();
  }
  setTimeout(look, AGAIN);
}

$("load").addEventListener("click", async () => {
  if (pending || state === "loading") return;
  if (state === "loaded") return location.reload();
  pending = true;
  why = "";
  show();
  try {
    const answer = await fetch(new URL("models/load", root), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: name, wait: true }),
    });
    if (answer.ok) return location.reload();
    why = (await answer.json()).error.message;
  } catch {
    why = "The gateway does not answer.";
  }
  pending = false;
  show();
});

look();
