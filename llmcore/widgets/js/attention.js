// AttentionInspector: heads x queries x keys of any layer; a chosen
// cell shows its score and its weight computed. See attention.py.
import { scaleOf } from "./color.js";
import { choice, h, slider } from "./dom.js";
import { formula } from "./formula.js";
import { grid, reveal } from "./grid.js";
import { dot, format, softmax } from "./number.js";
import { OPERATIONS } from "./operations.js";
import { tensor } from "./tensor.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./tensor.js").Shipped} Shipped */
/**
 * @typedef {{causal: boolean, before: number, start: number, stop: number}} Rule which keys a query may read
 */

/**
 * scores[t][s] and weights[t][s] of one head, as llmcore.attention computes them.
 * @param {ReturnType<typeof tensor>} q @param {ReturnType<typeof tensor>} k
 * @param {number} head @param {Rule} rule
 */
export function attend(q, k, head, rule) {
  const row = (/** @type {ReturnType<typeof tensor>} */ t, /** @type {number} */ r) =>
    Array.from({ length: t.C }, (_, c) => t.at([head], r, c));
  const scores = Array.from({ length: q.R }, (_, t) =>
    Array.from({ length: k.R }, (_unused, s) =>
      allowed(rule, t, s) ? dot(row(q, t), row(k, s)) / Math.sqrt(q.C) : -Infinity,
    ),
  );
  return { scores, weights: scores.map(softmax) };
}

/** @param {Rule} rule @param {number} t @param {number} s */
export const allowed = (rule, t, s) =>
  s >= rule.start && s < rule.stop && (!rule.causal || s <= t + rule.before);

/**
 * @param {HTMLElement} root
 * @param {{layers: {name: string, q: Shipped, k: Shipped}[], rule: Rule}} state @param {Link} link
 */
export function attention(root, state, link) {
  const tip = tooltip(root);
  const layers = state.layers.map(({ name, q, k }) => ({ name, q: tensor(q), k: tensor(k) }));
  const { q, k } = layers[0];
  const heads = q.leading[0];
  let layer = 0;
  let head = 0;
  let shown = "weights";
  let now = attend(q, k, head, state.rule);
  const said = h("div", { class: "ll-readout", role: "status" });
  const bars = h("div", { class: "ll-reads" });
  const value = (/** @type {number} */ t, /** @type {number} */ s) =>
    shown === "weights" ? now.weights[t][s] : now.scores[t][s];
  const scale = () =>
    shown === "weights"
      ? { kind: /** @type {const} */ ("sequential"), low: 0, high: 1 }
      : scaleOf("diverging", now.scores.flat());
  const text = (/** @type {number} */ x) => (shown === "weights" ? x.toFixed(2) : format(x, 3));

  const table = grid({
    label: "Attention: query by key",
    rows: q.rows,
    cols: k.rows,
    value,
    scale: scale(),
    text,
    compact: k.R > 20,
    onMove: (t, s, cell) => tip.show(cell, `${q.rows[t]} reads ${k.rows[s]}: ${format(value(t, s))}`),
    onLeave: () => tip.hide(),
    onChoose: (t, s) => {
      say(t, s);
      link.set("selection", [layer, head, t, s]);
    },
  });

  /** @param {number} t @param {number} s */
  function say(t, s) {
    const here = layers[layer];
    const score = OPERATIONS.scores.explain({
      operands: { q: here.q, k: here.k },
      options: state.rule,
      lead: [head],
      r: t,
      c: s,
    });
    const row = /** @type {Shipped} */ ({
      name: "scores",
      shape: [1, k.R],
      full: [1, k.R],
      block: [1, 1],
      data: now.scores[t],
      labels: [[q.rows[t]], k.rows],
      axes: ["query", "key"],
      scale: "diverging",
    });
    const weight = OPERATIONS.softmax.explain({
      operands: { A: tensor(row) },
      options: {},
      lead: [],
      r: 0,
      c: s,
    });
    said.replaceChildren(
      formula(`score of ${q.rows[t]} for ${k.rows[s]}`, now.scores[t][s], score),
      formula(`weight of ${k.rows[s]}`, now.weights[t][s], weight),
    );
    const order = now.weights[t]
      .map((w, j) => ({ w, j }))
      .filter(({ w }) => w > 0)
      .sort((a, b) => b.w - a.w)
      .slice(0, 8);
    bars.replaceChildren(
      h("div", { class: "ll-title" }, `${q.rows[t]} reads`),
      ...order.map(({ w, j }) =>
        h(
          "div",
          { class: "ll-read" },
          h("span", {}, k.rows[j]),
          h("span", { class: "ll-meter", style: `--v:${w.toFixed(3)}`, "aria-hidden": "true" }),
          h("span", {}, w.toFixed(3)),
        ),
      ),
      ...(order.length ? [] : [h("div", {}, "nothing: every key is masked")]),
    );
    table.mark(k.rows.map((_, j) => /** @type {[number, number]} */ ([t, j])));
  }

  function refresh() {
    now = attend(layers[layer].q, layers[layer].k, head, state.rule);
    table.show(value, scale());
    for (const [t, row] of table.cells.entries())
      for (const [s, cell] of row.entries()) cell.classList.toggle("ll-masked", !allowed(state.rule, t, s));
    say(table.cursor[0], table.cursor[1]);
  }

  const layerChoice = choice({
    label: "layer",
    options: layers.map((l, i) => /** @type {[string, string]} */ ([String(i), l.name])),
    value: "0",
    onchange: (i) => {
      layer = Number(i);
      refresh();
    },
  });
  const headSlider = slider({
    label: "head",
    min: 0,
    max: heads - 1,
    value: 0,
    oninput: (i) => {
      head = i;
      refresh();
    },
  });
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      ...(layers.length > 1 ? [layerChoice] : []),
      headSlider.element,
      choice({
        label: "show",
        options: [
          ["weights", "weights"],
          ["scores", "scores"],
        ],
        value: shown,
        onchange: (next) => {
          shown = next;
          refresh();
        },
      }),
    ),
    h(
      "p",
      { class: "ll-note" },
      "Rows are queries, columns are keys. A row of weights sums to 1; masked keys have weight 0.",
    ),
    h("div", { class: "ll-panels" }, h("div", { class: "ll-panel" }, table.element), bars),
    said,
  );

  function follow() {
    const [l, i, t, s] = link.get("selection")?.length === 4 ? link.get("selection") : [0, 0, q.R - 1, 0];
    if (!layers[l] || i < 0 || i >= heads || !table.cells[t]?.[s]) return;
    [layer, head] = [l, i];
    headSlider.set(i);
    const select = layerChoice.querySelector("select");
    if (select) select.value = String(l);
    table.choose(t, s, false, true);
    refresh();
    reveal(table.element, table.cells[t][s]);
  }
  link.on("selection", follow);
  follow();
}
