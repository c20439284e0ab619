// AttentionInspector: heads x queries x keys of any layer; a chosen
// cell shows its score and its weight computed. See attention.py.
import { scaleOf } from "./color.js";
import { choice, div, h, meter, note, slider, status } from "./dom.js";
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
  const score = (/** @type {number} */ t, /** @type {number} */ s) =>
    allowed(rule, t, s) ? dot(row(q, t), row(k, s)) / Math.sqrt(q.C) : -Infinity;
  const scores = q.rows.map((_, t) => k.rows.map((_name, s) => score(t, s)));
  return { scores, weights: scores.map(softmax) };
}

/** @param {Rule} rule @param {number} t @param {number} s */
export const allowed = (rule, t, s) =>
  s >= rule.start && s < rule.stop && (!rule.causal || s <= t + rule.before);

/** @typedef {ReturnType<typeof tensor>} Tensor */
/** @typedef {{name: string, q: Tensor, k: Tensor}} Layer */
/** @typedef {ReturnType<typeof attend>} Attended */

/**
 * @param {HTMLElement} root
 * @param {{layers: {name: string, q: Shipped, k: Shipped}[], rule: Rule}} state @param {Link} link
 */
export function attention(root, state, link) {
  const tip = tooltip(root);
  const layers = state.layers.map(({ name, q, k }) => ({ name, q: tensor(q), k: tensor(k) }));
  const { q, k } = layers[0];
  const heads = q.leading[0];
  let [layer, head, shown] = [0, 0, "weights"];
  let now = attend(q, k, head, state.rule);
  const [said, bars] = [status(), div("ll-reads")];
  const value = (/** @type {number} */ t, /** @type {number} */ s) =>
    shown === "weights" ? now.weights[t][s] : now.scores[t][s];
  const table = grid({
    label: "Attention: query by key",
    rows: q.rows,
    cols: k.rows,
    value,
    scale: scaleFor(shown, now),
    text: (x) => (shown === "weights" ? x.toFixed(2) : format(x, 3)),
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
    said.replaceChildren(...formulas(layers[layer], head, now, state.rule, [t, s], [q.rows[t], k.rows[s]]));
    bars.replaceChildren(...reads(q.rows[t], k.rows, now.weights[t]));
    table.mark(k.rows.map((_, j) => /** @type {[number, number]} */ ([t, j])));
  }

  function refresh() {
    now = attend(layers[layer].q, layers[layer].k, head, state.rule);
    table.show(value, scaleFor(shown, now));
    for (const [t, row] of table.cells.entries())
      for (const [s, cell] of row.entries()) cell.classList.toggle("ll-masked", !allowed(state.rule, t, s));
    say(table.cursor[0], table.cursor[1]);
  }

  const controls = settings(layers, heads, (change) => {
    ({ layer = layer, head = head, shown = shown } = change);
    refresh();
  });
  root.append(
    controls.element,
    note("Rows are queries, columns are keys. A row of weights sums to 1; masked keys have weight 0."),
    div("ll-panels", div("ll-panel", table.element), bars),
    said,
  );

  function follow() {
    const [l, i, t, s] = link.get("selection")?.length === 4 ? link.get("selection") : [0, 0, q.R - 1, 0];
    if (!layers[l] || i < 0 || i >= heads || !table.cells[t]?.[s]) return;
    [layer, head] = [l, i];
    controls.set(l, i);
    table.choose(t, s, false, true);
    refresh();
    reveal(table.element, table.cells[t][s]);
  }
  link.on("selection", follow);
  follow();
}

/**
 * Weights are coloured from 0 to 1.
 * @param {string} shown @param {Attended} now @returns {import("./color.js").Scale}
 */
const scaleFor = (shown, now) =>
  shown === "weights" ? { kind: "sequential", low: 0, high: 1 } : scaleOf("diverging", now.scores.flat());

/**
 * Layer, head, and which of weights and scores is shown.
 * @param {Layer[]} layers @param {number} heads
 * @param {(change: {layer?: number, head?: number, shown?: string}) => void} choose
 */
function settings(layers, heads, choose) {
  const layer = choice({
    label: "layer",
    options: layers.map((l, i) => /** @type {[string, string]} */ ([String(i), l.name])),
    value: "0",
    onchange: (i) => choose({ layer: Number(i) }),
  });
  const head = slider({
    label: "head",
    min: 0,
    max: heads - 1,
    value: 0,
    oninput: (i) => choose({ head: i }),
  });
  const show = choice({
    label: "show",
    options: [
      ["weights", "weights"],
      ["scores", "scores"],
    ],
    value: "weights",
    onchange: (shown) => choose({ shown }),
  });
  return {
    element: div("ll-tools", ...(layers.length > 1 ? [layer] : []), head.element, show),
    /** @param {number} l @param {number} i */
    set(l, i) {
      head.set(i);
      const select = layer.querySelector("select");
      if (select) select.value = String(l);
    },
  };
}

/**
 * The arithmetic of a chosen score and of its weight.
 * @param {Layer} layer @param {number} head @param {Attended} now @param {Rule} rule
 * @param {[number, number]} place query and key @param {[string, string]} names
 */
function formulas({ q, k }, head, now, rule, [t, s], [query, key]) {
  const score = OPERATIONS.scores.explain({ operands: { q, k }, options: rule, lead: [head], r: t, c: s });
  /** @type {Shipped} */
  const row = {
    name: "scores",
    shape: [1, k.R],
    full: [1, k.R],
    block: [1, 1],
    data: now.scores[t],
    labels: [[query], k.rows],
    axes: ["query", "key"],
    scale: "diverging",
  };
  const weight = OPERATIONS.softmax.explain({
    operands: { A: tensor(row) },
    options: {},
    lead: [],
    r: 0,
    c: s,
  });
  return [
    formula(`score of ${query} for ${key}`, now.scores[t][s], score),
    formula(`weight of ${key}`, now.weights[t][s], weight),
  ];
}

/**
 * The keys that a query reads most.
 * @param {string} query @param {string[]} keys @param {number[]} weights
 */
function reads(query, keys, weights) {
  const order = weights
    .map((w, j) => ({ w, j }))
    .filter(({ w }) => w > 0)
    .sort((a, b) => b.w - a.w)
    .slice(0, 8);
  const lines = order.map(({ w, j }) =>
    div("ll-read", h("span", {}, keys[j]), meter(w, 3), h("span", {}, w.toFixed(3))),
  );
  const none = h("div", {}, "nothing: every key is masked");
  return [div("ll-title", `${query} reads`), ...(lines.length ? lines : [none])];
}
