// A heat map that is a real table: mouse, touch and arrow keys move one cursor over its cells.
import { paint } from "./color.js";
import { div, h } from "./dom.js";
import { format } from "./number.js";

/** @typedef {import("./color.js").Scale} Scale */
/**
 * @typedef {{
 *   label: string, rows: string[], cols: string[], value: (r: number, c: number) => number, scale: Scale,
 *   onMove?: (r: number, c: number, cell: HTMLElement) => void, onLeave?: () => void,
 *   onChoose?: (r: number, c: number) => void, digits?: number, compact?: boolean,
 *   text?: (x: number, r: number, c: number) => string,
 * }} GridOptions
 */

/** @typedef {[number, number]} Cell row, column */

/**
 * The table, and how to choose a cell, mark cells, or show other values of the same shape.
 * @param {GridOptions} options
 */
export function grid(options) {
  const { rows, cols, onMove, onLeave, onChoose, digits = 4 } = options;
  const compact = options.compact ?? (cols.length > 24 || rows.length > 64);
  const write = options.text ?? ((/** @type {number} */ x) => format(x, digits));
  const { table, cells } = tableOf(options, compact);
  /** @type {Cell} */
  let at = [0, 0];
  const api = {
    element: div("ll-scroll", table),
    cells,
    get cursor() {
      return at;
    },
    /**
     * Put the cursor on a cell and tell the listener.
     * @param {number} r @param {number} c @param {boolean} [focus] @param {boolean} [silent]
     */
    choose(r, c, focus = false, silent = false) {
      leave(cells[at[0]][at[1]]);
      at = [r, c];
      enter(cells[r][c]);
      if (focus) cells[r][c].focus();
      if (!silent) onChoose?.(r, c);
    },
    /** Mark the cells that took part, and no others. @param {Cell[]} list @param {string} [name] */
    mark(list, name = "ll-mark") {
      for (const row of cells) for (const cell of row) cell.classList.remove(name);
      for (const [r, c] of list) cells[r]?.[c]?.classList.add(name);
    },
    /** Show values. @param {(r: number, c: number) => number} value @param {Scale} scale */
    show(value, scale) {
      cells.forEach((row, r) =>
        row.forEach((cell, c) => {
          const x = value(r, c);
          paint(cell, scale, x);
          if (compact) cell.setAttribute("aria-label", write(x, r, c));
          else cell.textContent = write(x, r, c);
        }),
      );
    },
  };
  table.addEventListener("pointerleave", () => onLeave?.());
  table.addEventListener("focusout", () => onLeave?.());
  if (onMove) hover(table, (r, c) => onMove(r, c, cells[r][c]));
  table.addEventListener("click", (event) => {
    const found = place(event.target);
    if (found) api.choose(...found);
  });
  walk(table, [rows.length - 1, cols.length - 1], (r, c) => api.choose(r, c, true));
  api.show(options.value, options.scale);
  return api;
}

/** @param {HTMLElement} cell */
function leave(cell) {
  cell.setAttribute("tabindex", "-1");
  cell.classList.remove("ll-cursor");
  cell.removeAttribute("aria-selected");
}

/** @param {HTMLElement} cell */
function enter(cell) {
  cell.setAttribute("tabindex", "0");
  cell.setAttribute("aria-selected", "true");
  cell.classList.add("ll-cursor");
}

/**
 * A table with its headings, and its cells by row and column.
 * @param {GridOptions} options @param {boolean} compact
 */
function tableOf({ label, rows, cols }, compact) {
  const cells = rows.map((_, r) =>
    cols.map((_name, c) =>
      h("td", { role: "gridcell", tabindex: r + c === 0 ? 0 : -1, "data-r": r, "data-c": c }),
    ),
  );
  const body = rows.map((name, r) => h("tr", {}, h("th", { scope: "row", title: name }, name), ...cells[r]));
  const heads = cols.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name)));
  const table = h(
    "table",
    { role: "grid", "aria-label": label, class: compact ? "ll-grid ll-compact" : "ll-grid" },
    h("thead", {}, h("tr", {}, h("td", { class: "ll-corner" }), ...heads)),
    h("tbody", {}, ...body),
  );
  return { table, cells };
}

/** The cell of an event. @param {EventTarget | null} target @returns {Cell | null} */
function place(target) {
  const cell = target instanceof Element ? target.closest("td[data-r]") : null;
  return cell instanceof HTMLElement ? [Number(cell.dataset.r), Number(cell.dataset.c)] : null;
}

/** By pointer and by focus. @param {HTMLElement} table @param {(r: number, c: number) => void} onMove */
function hover(table, onMove) {
  let pointer = "";
  table.addEventListener("pointerover", (event) => {
    const found = place(event.target);
    const now = `${event.screenX},${event.screenY}`;
    if (now === pointer) return; // the page moved under a resting pointer: the keyboard has the word
    pointer = now;
    if (found && event.pointerType !== "touch") onMove(...found);
  });
  table.addEventListener("focusin", (event) => {
    const found = place(event.target);
    if (found) onMove(...found);
  });
}

/**
 * By arrow keys.
 * @param {HTMLElement} table @param {Cell} last @param {(r: number, c: number) => void} choose
 */
function walk(table, last, choose) {
  table.addEventListener("keydown", (event) => {
    const found = place(event.target);
    if (!found) return;
    const [r, c] = found;
    /** @type {Record<string, Cell>} */
    const moves = {
      ArrowUp: [r - 1, c],
      ArrowDown: [r + 1, c],
      ArrowLeft: [r, c - 1],
      ArrowRight: [r, c + 1],
      Home: event.ctrlKey ? [0, 0] : [r, 0],
      End: event.ctrlKey ? last : [r, last[1]],
      PageUp: [r - 8, c],
      PageDown: [r + 8, c],
      Enter: [r, c],
      " ": [r, c],
    };
    const to = moves[event.key];
    if (!to) return;
    event.preventDefault();
    choose(Math.min(last[0], Math.max(0, to[0])), Math.min(last[1], Math.max(0, to[1])));
  });
}

/**
 * Keep a chosen cell in view inside its scrolling box, without moving the page.
 * @param {HTMLElement} box @param {HTMLElement} cell
 */
export function reveal(box, cell) {
  const a = cell.getBoundingClientRect();
  const b = box.getBoundingClientRect();
  if (a.top < b.top + 24 || a.bottom > b.bottom) box.scrollTop += a.top - b.top - box.clientHeight / 2;
  if (a.left < b.left + 48 || a.right > b.right) box.scrollLeft += a.left - b.left - box.clientWidth / 2;
}
