// The page Playground.
import { el } from "./lib.js";

export const page = {
  id: "playground",
  title: "Playground",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
