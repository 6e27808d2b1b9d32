// The page Charts.
import { el } from "./lib.js";

export const page = {
  id: "charts",
  title: "Charts",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
