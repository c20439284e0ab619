// TraceExplorer: a forward pass as a foldable tree of named
// tensors; each opens in the matrix inspector. See trace.py.
import { h } from "./dom.js";
import { matrix } from "./matrix.js";
import { memory } from "./memory.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {{path: string, shape: number[], array: import("./tensor.js").Shipped, note: string}} Entry */
/** @typedef {{entry: Entry | null, children: Map<string, Node>}} Node */

/** Paths as a tree, in the order in which the modules ran. @param {Entry[]} entries */
export function tree(entries) {
  /** @type {Node} */
  const root = { entry: null, children: new Map() };
  for (const entry of entries) {
    let node = root;
    for (const part of entry.path.split(".")) {
      const next = node.children.get(part) ?? { entry: null, children: new Map() };
      node.children.set(part, next);
      node = next;
    }
    node.entry = entry;
  }
  return root;
}

/** @param {HTMLElement} root @param {{entries: Entry[]}} state @param {Link} link */
export function trace(root, state, link) {
  const place = h("div", { class: "ll-opened" });
  /** @type {Map<string, HTMLElement>} */
  const buttons = new Map();

  /** @param {string} path */
  function open(path) {
    const entry = state.entries.find((e) => e.path === path);
    if (!entry) return;
    for (const [name, b] of buttons) b.setAttribute("aria-pressed", String(name === path));
    for (let up = buttons.get(path)?.parentElement; up && up !== root; up = up.parentElement)
      if (up instanceof HTMLDetailsElement) up.open = true;
    const inner = h("div", { class: "ll-sub" });
    place.replaceChildren(
      h("div", { class: "ll-title" }, path, h("span", { class: "ll-shape" }, ` (${entry.shape.join(", ")})`)),
      inner,
    );
    matrix(inner, { array: entry.array, note: entry.note }, memory());
  }

  /** @param {string} name @param {Node} node @param {number} depth @returns {HTMLElement} */
  function branch(name, node, depth) {
    const label = [];
    if (node.entry) {
      const { path, shape } = node.entry;
      const b = h(
        "button",
        { type: "button", class: "ll-leaf", "aria-pressed": "false" },
        name,
        h("span", { class: "ll-shape" }, ` (${shape.join(", ")})`),
      );
      b.addEventListener("click", (event) => {
        event.preventDefault(); // a button in a summary must not fold it
        open(path);
        link.set("path", path);
      });
      buttons.set(path, b);
      label.push(b);
    } else label.push(h("span", {}, name));
    if (!node.children.size) return h("li", {}, ...label);
    const list = h("ul", {}, ...[...node.children].map(([n, child]) => branch(n, child, depth + 1)));
    // a button may not stand inside a summary, so the fold's own handle stands before it
    return h(
      "li",
      {},
      ...(node.entry ? label : []),
      h("details", { open: depth < 2 }, h("summary", {}, node.entry ? `inside ${name}` : name), list),
    );
  }

  root.append(
    h(
      "div",
      { class: "ll-trace" },
      h(
        "ul",
        { class: "ll-tree", "aria-label": "Tensors by the module that made them" },
        ...[...tree(state.entries).children].map(([n, node]) => branch(n, node, 0)),
      ),
      place,
    ),
  );
  link.on("path", () => open(link.get("path")));
  open(link.get("path") || state.entries[0].path);
}
