// The page Models.
import { el } from "./lib.js";

export const page = {
  id: "models",
  title: "Models",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
