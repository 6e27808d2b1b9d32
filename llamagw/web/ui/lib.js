// What the pages share: all of gateway.js, parts of a page, and words for figures.
// Names, engines' words and answers are text: they are shown by text nodes only.
export * from "./gateway.js";

// Parts of a page

/**
 * Make an element.
 *
 * @param attributes text; true and false set or leave out; a function is a listener ("onclick");
 *   "class", "style" (an object of properties), "value" and "checked" as their names say
 * @param children nodes, texts, lists of them; null and false are left out
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") {
      for (const [property, wanted] of Object.entries(value)) made.style.setProperty(property, wanted);
    } else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Change an element's text only if it is another: nothing flickers, nothing is read out twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for words with code between backticks, as the gateway's messages have it. */
export function tell(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...text.split("`").map((part, number) => (number % 2 ? el("code", {}, part) : part)));
}

/** Ask before something is done: true if it may be. Escape and Cancel say no. */
export async function ask(text, label) {
  return (await choose(text, { yes: label })) === "yes";
}

/**
 * Ask which of several things is to be done.
 *
 * @param labels the buttons' texts, by what is given back; "" is given for Cancel and Escape
 * @returns {Promise<string>}
 */
export function choose(text, labels) {
  return new Promise((resolve) => {
    const closed = () => {
      dialog.remove();
      resolve(dialog.returnValue);
    };
    const button = (value, label, more = {}) =>
      el("button", { type: "button", onclick: () => dialog.close(value), ...more }, label);
    const asked = el("p", { id: "asked" });
    tell(asked, text);
    const dialog = el(
      "dialog",
      { "aria-labelledby": "asked", onclose: closed },
      asked,
      el(
        "div",
        { class: "row end" },
        button("", "Cancel"),
        Object.entries(labels).map(([value, label], number) =>
          button(value, label, { class: number ? "danger" : "main" }),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Tell something for some seconds; read out by screen readers. */
export function toast(text, { bad = false } = {}) {
  const box = document.getElementById("toasts");
  const made = el("p", { class: bad ? "toast bad" : "toast" }, text);
  box.append(made);
  while (box.children.length > 4) box.firstChild.remove();
  setTimeout(() => made.remove(), bad ? 12000 : 5000);
}

/** A button that copies the text of an element. */
export function copying(from, what) {
  const button = el("button", { type: "button", "aria-label": `Copy ${what}`, onclick: copy }, "Copy");
  async function copy() {
    let copied = true;
    try {
      await navigator.clipboard.writeText(from.textContent);
    } catch {
      // Without TLS there is no clipboard, but for localhost.
      getSelection().selectAllChildren(from);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
  return button;
}

/**
 * Offer models in a select, 500 at most, but not while somebody chooses there.
 *
 * @param none what no model is called; "" if there must be one
 * @param wanted which is chosen
 */
export function offer(select, names, none, wanted = select.value) {
  if (document.activeElement === select && select.options.length > 1) return;
  const all = [...new Set([...(none ? [""] : []), ...names.slice(0, 500), ...(wanted ? [wanted] : [])])];
  if (all.join("\n") !== [...select.options].map(({ value }) => value).join("\n")) {
    select.replaceChildren(...all.map((name) => el("option", { value: name }, name || none)));
  }
  select.value = wanted;
}

/** Keep a page's parameters in the address, for a reload of it; the page stays as it is. */
export function keep(id, params) {
  const told = new URLSearchParams(Object.entries(params).filter(([, value]) => value));
  history.replaceState(null, "", `#/${id}${told.size ? `?${told}` : ""}`);
}

// Words

/** Bytes, such as 1.4 GiB; "" if they are not known. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** A duration, such as 0.31 s, 12 s, 3 min 20 s, 2 h 5 min, 3 days; "" if it is not known. */
export function seconds(duration) {
  if (duration === null || duration === undefined) return "";
  if (duration > 0 && duration < 60 && Number.isInteger(duration)) return `${duration} s`;
  if (duration < 0.0995) return `${Math.round(duration * 1000)} ms`;
  if (duration < 9.95) return `${duration < 0.995 ? duration.toFixed(2) : duration.toFixed(1)} s`;
  const whole = Math.round(duration);
  if (whole < 60) return `${whole} s`;
  if (whole < 600 && whole % 60) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  const minutes = Math.floor(whole / 60) % 60;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  const days = Math.floor(whole / 86400);
  return days === 1 ? "1 day" : `${count(days)} days`;
}

/** How long ago a time (seconds since the epoch) was, such as "3 min ago"; "" if never. */
export function ago(time) {
  if (time === null || time === undefined) return "";
  const past = Date.now() / 1000 - time;
  return past < 5 ? "just now" : `${seconds(past < 60 ? Math.floor(past) : past - (past % 60))} ago`;
}

/** A number with separators, such as 12,345; "" if it is not known. */
export function count(number) {
  return number === null || number === undefined ? "" : number.toLocaleString("en");
}
