// The page Logs.
import { el } from "./lib.js";

export const page = {
  id: "logs",
  title: "Logs",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
