// MatrixInspector: an array of 1 to 4 axes as a heat map. See matrix.py for the state.
import { legend, scaleOf } from "./color.js";
import { choice, copyButton, div, h, note, status, svg } from "./dom.js";
import { grid, reveal } from "./grid.js";
import { format, histogram, summary } from "./number.js";
import { leads, tensor } from "./tensor.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */

/**
 * @param {HTMLElement} root
 * @param {{array: import("./tensor.js").Shipped, note: string}} state @param {Link} link
 */
export function matrix(root, state, link) {
  const t = tensor(state.array);
  const tip = tooltip(root);
  let kind = t.scale;
  const sliders = leads(t, () => refresh(true));
  const [readout, key, bars] = [status(), h("div", {}), div("ll-histogram")];
  const value = (/** @type {number} */ r, /** @type {number} */ c) => t.at(sliders.lead, r, c);
  const slice = () => t.values.slice(t.base(sliders.lead), t.base(sliders.lead) + t.R * t.C);
  const scale = () => scaleOf(kind, t.values);
  const where = (/** @type {number} */ r, /** @type {number} */ c) => t.where(sliders.lead, r, c);
  const say = (/** @type {number} */ r, /** @type {number} */ c) =>
    readout.replaceChildren(...summaries(t, value, where(r, c), r, c));
  const table = grid({
    label: `${t.name}: ${t.axes[t.axes.length - 2] || "row"} by ${t.axes[t.axes.length - 1]}`,
    rows: t.rows,
    cols: t.cols,
    value,
    scale: scale(),
    onMove: (r, c, cell) => {
      tip.show(cell, `${where(r, c)} = ${format(value(r, c))}`);
      say(r, c);
    },
    onLeave: () => tip.hide(),
    onChoose: (r, c) => {
      say(r, c);
      link.set("selection", t.index(sliders.lead, r, c));
    },
  });

  /** @param {boolean} speak */
  function refresh(speak) {
    table.show(value, scale());
    key.replaceChildren(legend(scale()));
    bars.replaceChildren(...columns(slice()));
    if (speak) say(table.cursor[0], table.cursor[1]);
  }

  function follow() {
    const found = t.find(link.get("selection") ?? []);
    if (!found) return;
    const [lead, r, c] = found;
    sliders.set(lead);
    refresh(false);
    table.choose(r, c, false, true);
    reveal(table.element, table.cells[r][c]);
    say(r, c);
  }

  const colours = scaleChoice(kind, (next) => {
    kind = next;
    refresh(true);
  });
  const copy = copyButton("copy as text", () => tsv(t, value));
  root.append(div("ll-tools", ...sliders.elements, colours, copy), table.element);
  root.append(div("ll-below", key, bars), readout);
  if (state.note) root.append(note(state.note));
  refresh(false);
  const how = "Choose a cell with the mouse, a finger or the arrow keys.";
  readout.textContent = `${t.R} × ${t.C}: ${summary(slice())}. ${how}`;
  link.on("selection", follow);
  follow();
}

/** @typedef {ReturnType<typeof tensor>} Tensor */
/** @typedef {(r: number, c: number) => number} Value */

/**
 * A cell, its row and its column.
 * @param {Tensor} t @param {Value} value @param {string} where @param {number} r @param {number} c
 */
const summaries = (t, value, where, r, c) => [
  h("strong", {}, `${where} = ${format(value(r, c), 5)}`),
  h("div", {}, `row ${t.rows[r]}: ${summary(t.cols.map((_, j) => value(r, j)))}`),
  h("div", {}, `column ${t.cols[c]}: ${summary(t.rows.map((_, i) => value(i, c)))}`),
];

/** The table as lines of numbers between tabulators. @param {Tensor} t @param {Value} value */
function tsv(t, value) {
  const line = (/** @type {number} */ r) => t.cols.map((_, c) => format(value(r, c), 6)).join("\t");
  return t.rows.map((_, r) => line(r)).join("\n");
}

/** @param {Tensor["scale"]} value @param {(kind: Tensor["scale"]) => void} onchange */
const scaleChoice = (value, onchange) =>
  choice({
    label: "colours",
    options: [
      ["diverging", "around 0"],
      ["sequential", "low to high"],
    ],
    value,
    onchange: (kind) => onchange(kind === "sequential" ? "sequential" : "diverging"),
  });

/** A small histogram, with its counts in words. @param {number[]} values */
function columns(values) {
  const { counts, min, width } = histogram(values, 24);
  const top = Math.max(...counts, 1);
  const parts = counts.map((n, i) =>
    svg(
      "rect",
      { x: i * 8, y: 40 - (38 * n) / top, width: 7, height: (38 * n) / top },
      svg("title", {}, `${format(min + i * width, 3)} to ${format(min + (i + 1) * width, 3)}: ${n}`),
    ),
  );
  const most = counts.indexOf(top);
  const words = Number.isFinite(min)
    ? `Histogram of ${values.length} values; most, ${top}, lie near ${format(min + (most + 0.5) * width, 3)}`
    : "Histogram: no finite value";
  return [
    svg("svg", { viewBox: "0 0 192 40", role: "img", "aria-label": words, class: "ll-bars" }, ...parts),
    h("div", { class: "ll-caption", "aria-hidden": "true" }, "histogram"),
  ];
}
