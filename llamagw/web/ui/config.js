// The page Config.
import { el } from "./lib.js";

export const page = {
  id: "config",
  title: "Config",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
