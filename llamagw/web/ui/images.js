// Images for the playground's chat: chosen, pasted or dropped, read on this machine only, and made
// small enough to be sent. They are drawn on canvases, since the page may load none from data.
import { el, toast } from "./lib.js";

/** How many images a prompt has at most; bytes and pixels above which one is made smaller. */
const MOST = 4;
const BYTES = 1.5 * 1024 * 1024;
const EDGE = 1600;

/** What every engine can read; other kinds are turned into JPEG. */
const PLAIN = new Set(["image/png", "image/jpeg"]);

/** Pixels of a thumbnail's longer edge. */
const THUMB = 96;

/** @param prompt the field that images are pasted into */
export function images(prompt) {
  const input = el("input", { type: "file", accept: "image/*", multiple: true, hidden: true });
  const button = el("button", { type: "button", onclick: () => input.click() }, "Image…");
  const box = el("div", { class: "thumbs" }, input);
  let list = [];

  async function add(files) {
    for (const file of files) {
      if (list.length >= MOST) {
        toast(`${MOST} images at most.`, { bad: true });
        return;
      }
      try {
        keep(await read(file));
      } catch {
        toast(`${file.name || "This"} is no image that this browser can read.`, { bad: true });
      }
    }
  }

  function keep(url) {
    const place = el("span", { class: "thumbs" });
    const gone = el("button", { type: "button", class: "plain", "aria-label": "Take the image away" }, "×");
    const item = el("span", { class: "thumb" }, place, gone);
    const one = { url, item };
    gone.addEventListener("click", () => {
      list = list.filter((other) => other !== one);
      item.remove();
      changed();
    });
    list.push(one);
    box.append(item);
    draw(place, [url]);
    changed();
  }

  function changed() {
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function clear() {
    for (const { item } of list) item.remove();
    list = [];
  }

  input.addEventListener("change", async () => {
    await add([...input.files]);
    input.value = "";
  });
  prompt.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
    if (!files.length || button.disabled) return;
    event.preventDefault();
    add(files);
  });
  prompt.addEventListener("dragover", (event) => event.preventDefault());
  prompt.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    if (!button.disabled) add([...event.dataTransfer.files]);
  });

  return {
    box,
    button,
    clear,
    draw,
    urls: () => list.map(({ url }) => url),
    fill: (urls) => urls.slice(0, MOST).forEach(keep),
    /** Say whether the model sees: true, false, or null if that is not known. */
    sees(can) {
      button.disabled = can === false;
      button.title = can === false ? "This model does not see images." : can === null ? "Whether it sees images is known when it is loaded." : "";
    },
  };
}

/** A file as a data: URL that is small enough. */
async function read(file) {
  const bitmap = await createImageBitmap(file);
  if (PLAIN.has(file.type) && file.size <= BYTES) return asUrl(file);
  const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
  const canvas = painted(bitmap, scale);
  return asUrl(await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85)));
}

function painted(bitmap, scale) {
  const size = (pixels) => String(Math.max(1, Math.round(pixels * scale)));
  const canvas = el("canvas", { width: size(bitmap.width), height: size(bitmap.height) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function asUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = failed;
    reader.readAsDataURL(blob);
  });
}

/** Draw data: URLs as thumbnails. */
async function draw(place, urls) {
  for (const url of urls) {
    try {
      const [, kind, data] = /^data:([^;,]*);base64,(.*)$/s.exec(url);
      const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
      const bitmap = await createImageBitmap(new Blob([bytes], { type: kind }));
      place.append(painted(bitmap, Math.min(1, THUMB / Math.max(bitmap.width, bitmap.height))));
    } catch {
      place.append(el("small", {}, "[image]"));
    }
  }
}
