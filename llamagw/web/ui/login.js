// Logging in: a dialog over the page, until a key is given that is valid.
import { el, say, tell } from "./lib.js";
import { logIn } from "./session.js";

/**
 * Ask for a key; done when somebody is logged in.
 *
 * @param why nobody is, if that is to be told
 */
export function askForKey(why = "") {
  return new Promise((done) => {
    const icon = new URL("../web/icon.svg", import.meta.url).href;
    // For who lets the browser keep the key: it wants a name with it.
    const name = el("input", { class: "unseen", name: "username", autocomplete: "username", tabindex: "-1", "aria-hidden": "true", value: location.host });
    const key = el("input", {
      type: "password", id: "key", name: "key", autocomplete: "current-password", required: true, autofocus: true,
      spellcheck: "false", autocapitalize: "off", "aria-describedby": "login-why",
    });
    const fault = el("p", { class: "why", id: "login-why", role: "alert", hidden: !why });
    tell(fault, why);
    const go = el("button", { class: "main" }, "Log in");
    const form = el(
      "form",
      { onsubmit: submit },
      el("h1", { id: "login-title" }, el("img", { src: icon, alt: "", width: "28", height: "28" }), "llamagw"),
      el("p", { class: "quiet" }, "This server wants an API key. The browser does not keep it, but a session that ends 12 hours after its last use."),
      name,
      el("label", { class: "field", for: "key" }, el("span", {}, "API key"), key),
      fault,
      go,
    );
    const dialog = el("dialog", { id: "login", "aria-labelledby": "login-title", oncancel: (event) => event.preventDefault(), onclose: again }, form);
    let busy = false;
    let over = false;

    async function submit(event) {
      event.preventDefault();
      if (busy) return;
      busy = true;
      go.setAttribute("aria-disabled", "true");
      say(go, "Logging in…");
      const wrong = await logIn(key.value);
      busy = false;
      go.removeAttribute("aria-disabled");
      say(go, "Log in");
      tell(fault, wrong);
      fault.hidden = !wrong;
      if (wrong) return key.select();
      over = true;
      dialog.close();
    }

    // Escape closes it all the same, if it is pressed twice.
    function again() {
      if (!over) return dialog.showModal();
      dialog.remove();
      done();
    }

    document.body.append(dialog);
    dialog.showModal();
    key.focus();
  });
}
