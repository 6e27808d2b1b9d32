// The offer to load a model, in place of its engine's page; goes on to that page when it is loaded.
import { follow, order } from "./models.js";

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
let pending = false;
let note = "";
let why = "";

function show() {
  $("state").textContent =
    pending && state !== "loading" ? "Waiting until this model can be loaded…" : SAYS[state] || state;
  $("load").hidden = state === null;
  $("load").textContent = state === "loaded" ? "Open its page" : pending ? "Loading…" : "Load it";
  $("load").setAttribute("aria-disabled", String(pending || state === "loading"));
  $("why").textContent = why || note;
  $("why").hidden = !$("why").textContent;
}

function changed(model, told) {
  if (model !== name || (told.state === state && told.why === why)) return;
  // Not if it was loaded from the first: it may be on its way out, and this page come again.
  if (told.state === "loaded" && state !== null) location.reload();
  ({ state, why } = told);
  show();
}

$("load").addEventListener("click", async () => {
  if (pending || state === "loading") return;
  if (state === "loaded") return location.reload();
  pending = true;
  note = "";
  show();
  try {
    await order("load", name);
    location.reload();
  } catch (error) {
    note = error.message;
    pending = false;
    show();
  }
});

follow({
  listed: (models) => {
    for (const model of models) changed(model.name, model);
  },
  changed,
  connected: (error) => {
    if (error === null) return show();
    $("state").textContent = `${error || "Not connected."} Trying again…`;
  },
});
