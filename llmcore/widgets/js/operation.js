// OperationInspector: operands and result side by side; a chosen
// result cell shows where it came from. See operation.py.
import { scaleOf } from "./color.js";
import { div, h, span, status } from "./dom.js";
import { formula } from "./formula.js";
import { grid, reveal } from "./grid.js";
import { format } from "./number.js";
import { OPERATIONS } from "./operations.js";
import { leads, tensor } from "./tensor.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./tensor.js").Shipped} Shipped */

/** @typedef {import("./operations.js").Tensor} Tensor */
/** @typedef {(lead: number[], r: number, c: number) => void} OnChoose */

/**
 * @param {HTMLElement} root
 * @param {{op: string, operands: Record<string, Shipped>, result: Shipped,
 *   options: Record<string, any>}} state @param {Link} link
 */
export function operation(root, state, link) {
  const tip = tooltip(root);
  const shipped = Object.entries(state.operands);
  const operands = Object.fromEntries(shipped.map(([name, array]) => [name, tensor(array)]));
  const panels = Object.fromEntries(Object.entries(operands).map(([name, t]) => [name, panel(t, tip)]));
  const result = tensor(state.result);
  const { explain: explanation, sign = "," } = OPERATIONS[state.op];
  const said = status();
  const out = panel(result, tip, (lead, r, c) => {
    explain(lead, r, c);
    link.set("selection", result.index(lead, r, c));
  });

  /** @type {OnChoose} */
  function explain(lead, r, c) {
    const found = explanation({ operands, options: state.options, lead: [...lead], r, c });
    for (const [name, shown] of Object.entries(panels)) light(shown, found.used[name]);
    said.replaceChildren(formula(result.where(lead, r, c), result.at(lead, r, c), found));
  }

  function follow() {
    const [lead, r, c] = result.find(link.get("selection") ?? []) ?? [result.leading.map(() => 0), 0, 0];
    out.sliders.set(lead);
    out.refresh(false);
    out.table.choose(r, c, false, true);
    explain(lead, r, c);
  }

  const between = (/** @type {string} */ text) => h("div", { class: "ll-sign", "aria-hidden": "true" }, text);
  const row = Object.values(panels).flatMap(({ element }, i) =>
    i ? [between(i === 1 ? sign : "+"), element] : [element],
  );
  root.append(div("ll-panels", ...row, between("="), out.element), said);
  link.on("selection", follow);
  follow();
}

/**
 * An array with its sliders and its table.
 * @param {Tensor} t @param {ReturnType<typeof tooltip>} tip @param {OnChoose} [onChoose]
 */
function panel(t, tip, onChoose) {
  const sliders = leads(t, () => refresh(true));
  const value = (/** @type {number} */ r, /** @type {number} */ c) => t.at(sliders.lead, r, c);
  const table = grid({
    label: t.name,
    rows: t.rows,
    cols: t.cols,
    value,
    scale: scaleOf(t.scale, t.values),
    compact: t.C > 24,
    onMove: (r, c, cell) => tip.show(cell, `${t.where(sliders.lead, r, c)} = ${format(value(r, c))}`),
    onLeave: () => tip.hide(),
    onChoose: (r, c) => onChoose?.(sliders.lead, r, c),
  });
  /** @param {boolean} speak */
  function refresh(speak) {
    table.show(value, scaleOf(t.scale, t.values));
    if (speak) onChoose?.(sliders.lead, table.cursor[0], table.cursor[1]);
  }
  const title = div("ll-title", t.name, span("ll-shape", ` ${[...t.leading, t.R, t.C].join(" × ")}`));
  const element = div("ll-panel", title, ...sliders.elements, table.element);
  return { element, table, sliders, refresh };
}

/**
 * Show the cells of an operand that were read.
 * @param {ReturnType<typeof panel>} panel_ @param {import("./operations.js").Used} [used]
 */
function light({ table, sliders, refresh }, used) {
  if (used) {
    sliders.set(used.lead);
    refresh(false);
  }
  table.mark(used?.cells ?? []);
  if (used?.cells.length) reveal(table.element, table.cells[used.cells[0][0]][used.cells[0][1]]);
}
