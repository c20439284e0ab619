// OperationInspector: operands and result side by side; a chosen
// result cell shows where it came from. See operation.py.
import { scaleOf } from "./color.js";
import { h } from "./dom.js";
import { formula } from "./formula.js";
import { grid, reveal } from "./grid.js";
import { format } from "./number.js";
import { OPERATIONS } from "./operations.js";
import { leads, tensor } from "./tensor.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./tensor.js").Shipped} Shipped */

/**
 * @param {HTMLElement} root
 * @param {{op: string, operands: Record<string, Shipped>, result: Shipped,
 *   options: Record<string, any>}} state @param {Link} link
 */
export function operation(root, state, link) {
  const tip = tooltip(root);
  const operands = Object.fromEntries(
    Object.entries(state.operands).map(([name, shipped]) => [name, tensor(shipped)]),
  );
  const result = tensor(state.result);
  const said = h("div", { class: "ll-readout", role: "status" });

  /**
   * A panel: title, sliders, table.
   * @param {import("./operations.js").Tensor} t
   * @param {(lead: number[], r: number, c: number) => void} [onChoose]
   */
  function panel(t, onChoose) {
    const sliders = leads(t, () => refresh(true));
    const table = grid({
      label: t.name,
      rows: t.rows,
      cols: t.cols,
      value: (r, c) => t.at(sliders.lead, r, c),
      scale: scaleOf(t.scale, t.values),
      compact: t.C > 24,
      onMove: (r, c, cell) =>
        tip.show(cell, `${t.where(sliders.lead, r, c)} = ${format(t.at(sliders.lead, r, c))}`),
      onLeave: () => tip.hide(),
      onChoose: (r, c) => onChoose?.(sliders.lead, r, c),
    });
    const refresh = (/** @type {boolean} */ speak) => {
      table.show((r, c) => t.at(sliders.lead, r, c), scaleOf(t.scale, t.values));
      if (speak) onChoose?.(sliders.lead, table.cursor[0], table.cursor[1]);
    };
    const element = h(
      "div",
      { class: "ll-panel" },
      h(
        "div",
        { class: "ll-title" },
        t.name,
        h("span", { class: "ll-shape" }, ` ${[...t.leading, t.R, t.C].join(" × ")}`),
      ),
      ...sliders.elements,
      table.element,
    );
    return { element, table, sliders, refresh };
  }

  const panels = Object.fromEntries(Object.entries(operands).map(([name, t]) => [name, panel(t)]));
  const out = panel(result, (lead, r, c) => {
    explain(lead, r, c);
    link.set("selection", result.index(lead, r, c));
  });

  /** @param {number[]} lead @param {number} r @param {number} c */
  function explain(lead, r, c) {
    const found = OPERATIONS[state.op].explain({ operands, options: state.options, lead: [...lead], r, c });
    for (const [name, p] of Object.entries(panels)) {
      const used = found.used[name];
      if (used) {
        p.sliders.set(used.lead);
        p.refresh(false);
      }
      p.table.mark(used ? used.cells : []);
      if (used?.cells.length) reveal(p.table.element, p.table.cells[used.cells[0][0]][used.cells[0][1]]);
    }
    said.replaceChildren(formula(result.where(lead, r, c), result.at(lead, r, c), found));
  }

  const names = Object.keys(panels);
  const row = names.flatMap((name, i) =>
    i
      ? [
          h(
            "div",
            { class: "ll-sign", "aria-hidden": "true" },
            i === 1 ? (OPERATIONS[state.op].sign ?? ",") : "+",
          ),
          panels[name].element,
        ]
      : [panels[name].element],
  );
  root.append(
    h(
      "div",
      { class: "ll-panels" },
      ...row,
      h("div", { class: "ll-sign", "aria-hidden": "true" }, "="),
      out.element,
    ),
    said,
  );

  function follow() {
    const found = result.find(link.get("selection") ?? []) ?? [result.leading.map(() => 0), 0, 0];
    out.sliders.set(found[0]);
    out.refresh(false);
    out.table.choose(found[1], found[2], false, true);
    explain(found[0], found[1], found[2]);
  }
  link.on("selection", follow);
  follow();
}
