// Images for the playground's chat: chosen or pasted, read on this machine only, and made small
// enough to be sent. They are shown as canvases, since the page may load no image from data.
import { el, toast } from "./lib.js";

/** How many images a message has at most, and pixels of the longer edge. */
const MOST = 4;
const EDGE = 1280;

/**
 * @param field that images are pasted into
 * @param sees tells by a Promise whether the model sees images
 */
export function images(field, sees) {
  const input = el("input", { type: "file", accept: "image/*", multiple: true, hidden: true });
  const button = el("button", { type: "button", onclick: async () => (await may()) && input.click() }, "Image…");
  const box = el("div", { class: "thumbs" }, input);
  let list = [];

  async function may() {
    const can = await sees();
    if (!can) toast("This model does not see images.", { bad: true });
    return can;
  }

  async function add(files) {
    for (const file of files.slice(0, MOST - list.length)) {
      try {
        list.push(await read(file));
      } catch {
        toast(`${file.name} is no image that this browser can read.`, { bad: true });
      }
    }
    show(list);
  }

  /** Have these images, of a message that is written again. */
  function show(wanted) {
    list = wanted;
    const items = list.map((one) => {
      const gone = () => show(list.filter((other) => other !== one));
      return el("button", { type: "button", class: "plain", "aria-label": "Remove the image", title: "Remove", onclick: gone }, one.canvas);
    });
    box.replaceChildren(input, ...items);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  input.addEventListener("change", async () => {
    await add([...input.files]);
    input.value = "";
  });
  field.addEventListener("paste", async (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    if (await may()) add(files);
  });

  return { box, button, show, list: () => list };
}

/** A file as {url, canvas}: a JPEG of moderate size, which every engine can read. */
async function read(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
  const size = (pixels) => String(Math.ceil(pixels * scale));
  const canvas = el("canvas", { width: size(bitmap.width), height: size(bitmap.height) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // what is transparent would be black
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return { url: canvas.toDataURL("image/jpeg", 0.9), canvas };
}
