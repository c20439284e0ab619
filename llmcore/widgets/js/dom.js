// Elements. Text is always text: a token "<img onerror=…>" becomes a text node, never markup.

/** @typedef {string | number | Node} Child */
/**
 * What a widget reads and writes beside its state: traits
 * in a live kernel, plain memory in a page without one.
 * @typedef {{get: (name: string) => any, set: (name: string,
 *   value: any) => void, on: (name: string, listener: () => void) => void}} Link
 */

/**
 * h("button", {class: "x", onclick: f}, "text"): an element, its attributes or listeners, its children.
 * @param {string} tag @param {Record<string, any>} [attributes]
 * @param {...Child} children @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  return /** @type {HTMLElement} */ (fill(document.createElement(tag), attributes, children));
}

/** A box of a class. @param {string} className @param {...Child} children */
export const div = (className, ...children) => h("div", { class: className }, ...children);

/** A piece of text of a class. @param {string} className @param {...Child} children */
export const span = (className, ...children) => h("span", { class: className }, ...children);

/** A remark below or beside a figure. @param {...Child} children */
export const note = (...children) => h("p", { class: "ll-note" }, ...children);

/** What a screen reader reads out when it changes. @param {string} [className] */
export const status = (className = "ll-readout") => h("div", { class: className, role: "status" });

/**
 * A table that scrolls inside its figure.
 * @param {{region: string, label?: string, heads: Child[], body: HTMLElement}} o heads: "" for a corner
 */
export function listing({ region, label, heads, body }) {
  const head = heads.map((t) => (t === "" ? h("td", {}) : h("th", { scope: "col" }, t)));
  const table = h(
    "table",
    { class: "ll-list", "aria-label": label },
    h("thead", {}, h("tr", {}, ...head)),
    body,
  );
  return h("div", { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": region }, table);
}

/** A bar of a share of the cell's width. @param {number} share @param {number} [digits] */
export const meter = (share, digits = 4) =>
  h("span", { class: "ll-meter", style: `--v:${share.toFixed(digits)}`, "aria-hidden": "true" });

/**
 * A number beside what its arithmetic gives: "✓ the value shown", or what is shown instead.
 * @param {boolean} ok @param {string} right @param {string} wrong
 */
export const verdict = (ok, right, wrong) =>
  h("span", { class: ok ? "ll-ok" : "ll-wrong" }, ok ? `✓ ${right}` : `✗ ${wrong}`);

/**
 * The same for SVG.
 * @param {string} tag @param {Record<string, any>} [attributes]
 * @param {...Child} children @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return /** @type {SVGElement} */ (
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children)
  );
}

// what a browser would load or run; no widget needs it
const NEVER = /^(href|xlink:href|src|srcset|srcdoc|data|action|formaction|is)$/i;

/** @param {Element} element @param {Record<string, any>} attributes @param {Child[]} children */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (NEVER.test(name)) throw new Error(`an element with ${name} could load or run what it names`);
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

let count = 0;
/** A fresh id for label/for and aria-labelledby. @param {string} prefix */
export function unique(prefix) {
  count += 1;
  return `llmcore-${prefix}-${count}`;
}

/**
 * A labelled range with its value written beside it. A first value
 * outside the range widens it: what is written is what is used.
 * @param {{label: string, min: number, max: number, step?: number, value: number,
 *   format?: (x: number) => string, oninput: (x: number) => void}} o
 */
export function slider({ label, min, max, step = 1, value, format = String, oninput }) {
  const id = unique("slider");
  const output = h("output", { for: id });
  const input = /** @type {HTMLInputElement} */ (
    h("input", { type: "range", id, min: Math.min(min, value), max: Math.max(max, value), step, value })
  );
  // of a value between two steps the handle stands at the nearer, but the words say the value
  const show = (/** @type {number} */ x) => {
    output.textContent = format(x);
    input.setAttribute("aria-valuetext", format(x));
  };
  input.addEventListener("input", () => {
    show(Number(input.value));
    oninput(Number(input.value));
  });
  show(value);
  return {
    element: h("div", { class: "ll-control" }, h("label", { for: id }, label), input, output),
    input,
    /** @param {number} x */
    set(x) {
      input.value = String(x);
      show(x);
    },
  };
}

/**
 * A labelled list of options.
 * @param {{label: string, options: [string, string][], value: string,
 *   onchange: (value: string) => void}} o pairs of value and text
 */
export function choice({ label, options, value, onchange }) {
  const id = unique("choice");
  const select = /** @type {HTMLSelectElement} */ (
    h("select", { id }, ...options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)))
  );
  select.addEventListener("change", () => onchange(select.value));
  return h("div", { class: "ll-control" }, h("label", { for: id }, label), select);
}

/** @param {string} label @param {boolean} value @param {(on: boolean) => void} onchange */
export function checkbox(label, value, onchange) {
  const input = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox", checked: value }));
  input.addEventListener("change", () => onchange(input.checked));
  return h("label", { class: "ll-control ll-check" }, input, label);
}

/** @param {string} label @param {() => void} onclick */
export function button(label, onclick) {
  return h("button", { type: "button", class: "ll-button", onclick }, label);
}

/**
 * A button that copies a text and says so; where the
 * clipboard is closed to a page it offers the text selected.
 * @param {string} label @param {() => string} text
 */
export function copyButton(label, text) {
  const said = h("span", { role: "status", class: "ll-said" });
  const area = /** @type {HTMLTextAreaElement} */ (
    h("textarea", {
      class: "ll-copy",
      readonly: true,
      hidden: true,
      rows: 4,
      "aria-label": "The values as text",
    })
  );
  const element = button(label, async () => {
    try {
      await navigator.clipboard.writeText(text());
      said.textContent = "copied";
    } catch {
      area.hidden = false;
      area.value = text();
      area.select();
      said.textContent = "the text is selected below: copy it";
    }
  });
  return h("span", { class: "ll-copying" }, element, said, area);
}
