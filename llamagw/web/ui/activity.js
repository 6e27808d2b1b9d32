// The page Activity.
import { el } from "./lib.js";

export const page = {
  id: "activity",
  title: "Activity",
  show(root) {
    root.append(el("p", { class: "quiet" }, "Nothing here yet."));
    return () => {};
  },
};
