// A heat map that is a real table: mouse, touch and arrow keys move one cursor over its cells.
import { paint } from "./color.js";
import { h } from "./dom.js";
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

/**
 * The table, and how to choose a cell, mark cells, or show other values of the same shape.
 * @param {GridOptions} options
 */
export function grid(options) {
  const { label, rows, cols, onMove, onLeave, onChoose, digits = 4 } = options;
  const compact = options.compact ?? (cols.length > 24 || rows.length > 64);
  const write = options.text ?? ((/** @type {number} */ x) => format(x, digits));
  /** @type {HTMLElement[][]} */
  const cells = rows.map(() => []);
  let at = [0, 0];

  const body = rows.map((name, r) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", title: name }, name),
      ...cols.map((_, c) => {
        const cell = h("td", { role: "gridcell", tabindex: r + c === 0 ? 0 : -1, "data-r": r, "data-c": c });
        cells[r].push(cell);
        return cell;
      }),
    ),
  );
  const head = h(
    "tr",
    {},
    h("td", { class: "ll-corner" }),
    ...cols.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name))),
  );
  const table = h(
    "table",
    { role: "grid", "aria-label": label, class: compact ? "ll-grid ll-compact" : "ll-grid" },
    h("thead", {}, head),
    h("tbody", {}, ...body),
  );
  const element = h("div", { class: "ll-scroll" }, table);

  /** @param {EventTarget | null} target @returns {[number, number] | null} */
  const place = (target) => {
    const cell = target instanceof Element ? target.closest("td[data-r]") : null;
    return cell instanceof HTMLElement ? [Number(cell.dataset.r), Number(cell.dataset.c)] : null;
  };
  let pointer = "";
  table.addEventListener("pointerover", (event) => {
    const found = place(event.target);
    const now = `${event.screenX},${event.screenY}`;
    if (now === pointer) return; // the page moved under a resting pointer: the keyboard has the word
    pointer = now;
    if (found && event.pointerType !== "touch") onMove?.(found[0], found[1], cells[found[0]][found[1]]);
  });
  table.addEventListener("pointerleave", () => onLeave?.());
  table.addEventListener("focusout", () => onLeave?.());
  table.addEventListener("focusin", (event) => {
    const found = place(event.target);
    if (found) onMove?.(found[0], found[1], cells[found[0]][found[1]]);
  });
  table.addEventListener("click", (event) => {
    const found = place(event.target);
    if (found) api.choose(found[0], found[1]);
  });
  table.addEventListener("keydown", (event) => {
    const found = place(event.target);
    if (!found) return;
    const [r, c] = found;
    const last = [rows.length - 1, cols.length - 1];
    /** @type {Record<string, [number, number]>} */
    const moves = {
      ArrowUp: [r - 1, c],
      ArrowDown: [r + 1, c],
      ArrowLeft: [r, c - 1],
      ArrowRight: [r, c + 1],
      Home: event.ctrlKey ? [0, 0] : [r, 0],
      End: event.ctrlKey ? [last[0], last[1]] : [r, last[1]],
      PageUp: [r - 8, c],
      PageDown: [r + 8, c],
      Enter: [r, c],
      " ": [r, c],
    };
    const to = moves[event.key];
    if (!to) return;
    event.preventDefault();
    api.choose(Math.min(last[0], Math.max(0, to[0])), Math.min(last[1], Math.max(0, to[1])), true);
  });

  const api = {
    element,
    cells,
    get cursor() {
      return at;
    },
    /**
     * Put the cursor on a cell and tell the listener.
     * @param {number} r @param {number} c @param {boolean} [focus] @param {boolean} [silent]
     */
    choose(r, c, focus = false, silent = false) {
      cells[at[0]][at[1]].setAttribute("tabindex", "-1");
      cells[at[0]][at[1]].classList.remove("ll-cursor");
      cells[at[0]][at[1]].removeAttribute("aria-selected");
      at = [r, c];
      const cell = cells[r][c];
      cell.setAttribute("tabindex", "0");
      cell.setAttribute("aria-selected", "true");
      cell.classList.add("ll-cursor");
      if (focus) cell.focus();
      if (!silent) onChoose?.(r, c);
    },
    /**
     * Mark the cells that took part, and no others.
     * @param {[number, number][]} list @param {string} [name]
     */
    mark(list, name = "ll-mark") {
      for (const row of cells) for (const cell of row) cell.classList.remove(name);
      for (const [r, c] of list) cells[r]?.[c]?.classList.add(name);
    },
    /** Show values. @param {(r: number, c: number) => number} value @param {Scale} scale */
    show(value, scale) {
      for (let r = 0; r < rows.length; r += 1) {
        for (let c = 0; c < cols.length; c += 1) {
          const x = value(r, c);
          paint(cells[r][c], scale, x);
          if (compact) cells[r][c].setAttribute("aria-label", write(x, r, c));
          else cells[r][c].textContent = write(x, r, c);
        }
      }
    },
  };
  api.show(options.value, options.scale);
  return api;
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
