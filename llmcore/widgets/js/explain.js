// "Explain this number": for each operation, which operand cells
// made a result's cell, and the arithmetic with their numbers.
import { dot, format } from "./number.js";

/** @typedef {ReturnType<typeof import("./tensor.js").tensor>} Tensor */
/** @typedef {{lead: number[], cells: [number, number][]}} Used */
/** @typedef {{formula: string, lines: string[], total: number, used: Record<string, Used>}} Explanation */
/**
 * @typedef {{operands: Record<string, Tensor>, options: Record<string,
 *   any>, lead: number[], r: number, c: number}} Question
 */

/** @param {number} x */
const n = (x) => (x < 0 ? `(${format(x)})` : format(x));
/** @param {number} count */
const upTo = (count) => Array.from({ length: count }, (_, i) => i);
/** @param {Tensor} t @param {number[]} lead @param {number} r */
const rowOf = (t, lead, r) => upTo(t.C).map((c) => t.at(lead, r, c));
/** @param {Tensor} t @param {number[]} lead @param {number} c */
const columnOf = (t, lead, c) => upTo(t.R).map((r) => t.at(lead, r, c));
/** @param {number[]} a @param {number[]} b */
const products = (a, b) => a.map((x, i) => `${n(x)}×${n(b[i])}`).join(" + ");
/** @param {number[]} terms */
const sum = (terms) => terms.map(n).join(" + ");
/** A batch of operands may share one matrix. @param {Tensor} t @param {number[]} lead */
const fit = (t, lead) => lead.slice(lead.length - t.leading.length);

/** @param {Question} q @returns {Explanation} */
function matmul({ operands, lead, r, c }) {
  const { A, B, b } = operands;
  const [la, lb] = [fit(A, lead), fit(B, lead)];
  const [row, column] = [rowOf(A, la, r), columnOf(B, lb, c)];
  const bias = b ? b.at([], 0, c) : 0;
  /** @type {Record<string, Used>} */
  const used = {
    A: { lead: la, cells: upTo(A.C).map((k) => [r, k]) },
    B: { lead: lb, cells: upTo(B.R).map((k) => [k, c]) },
  };
  if (b) used.b = { lead: [], cells: [[0, c]] };
  return {
    formula: `row ${A.rows[r]} of ${A.name} · column ${B.cols[c]} of ${B.name}${b ? ` + ${b.name}` : ""}`,
    lines: [
      products(row, column) + (b ? ` + ${n(bias)}` : ""),
      sum(row.map((x, i) => x * column[i])) + (b ? ` + ${n(bias)}` : ""),
    ],
    total: dot(row, column) + bias,
    used,
  };
}

/** @param {Question} q @returns {Explanation} */
function oneHot({ operands, r, c }) {
  const { A, B } = operands;
  const row = rowOf(A, [], r);
  const on = row.indexOf(1);
  return {
    formula: `row ${A.rows[r]} of ${A.name} · column ${B.cols[c]} of ${B.name}`,
    lines: [
      `1 × ${n(B.at([], on, c))} + ${row.length - 1} products with 0`,
      `the 1 stands at ${A.cols[on]}, so row ${B.rows[on]} of ${B.name} is copied`,
    ],
    total: dot(row, columnOf(B, [], c)),
    used: { A: { lead: [], cells: [[r, on]] }, B: { lead: [], cells: [[on, c]] } },
  };
}

/** @param {Question} q @returns {Explanation} */
function add({ operands, lead, r, c }) {
  const { A, B } = operands;
  const [la, lb] = [fit(A, lead), fit(B, lead)];
  const [x, y] = [A.at(la, r, c), B.at(lb, r, c)];
  return {
    formula: `${A.name} + ${B.name}, cell by cell`,
    lines: [`${n(x)} + ${n(y)}`],
    total: x + y,
    used: { A: { lead: la, cells: [[r, c]] }, B: { lead: lb, cells: [[r, c]] } },
  };
}

/** @param {Question} q @returns {Explanation} */
function softmaxRow({ operands, lead, r, c }) {
  const { A } = operands;
  const row = rowOf(A, lead, r);
  const top = Math.max(...row);
  /** @type {Record<string, Used>} */
  const used = { A: { lead, cells: upTo(A.C).map((k) => [r, k]) } };
  if (top === -Infinity)
    return { formula: "every key of this row is masked", lines: ["such a row is set to 0"], total: 0, used };
  const e = row.map((x) => Math.exp(x - top));
  const total = e.reduce((a, b) => a + b, 0);
  return {
    formula: `exp(x − m) / Σ exp(x − m) over row ${A.rows[r]}, m = ${format(top)} its largest`,
    lines: [
      `exp(${n(row[c])} − ${n(top)}) = ${format(e[c])}`,
      `Σ = ${sum(e)} = ${format(total)}`,
      `${format(e[c])} / ${format(total)}`,
    ],
    total: e[c] / total,
    used,
  };
}

/** @param {Question} q @returns {Explanation} */
function layerNorm({ operands, options, lead, r, c }) {
  const { A, weight, bias } = operands;
  const row = rowOf(A, lead, r);
  const mean = row.reduce((a, b) => a + b, 0) / row.length;
  const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length;
  const deviation = Math.sqrt(variance + options.eps);
  const [g, b] = [weight ? weight.at([], 0, c) : 1, bias ? bias.at([], 0, c) : 0];
  return {
    formula: `(x − mean) / √(variance + ε)${weight ? " × weight" : ""}${bias ? " + bias" : ""} over row ${A.rows[r]}, ε = ${options.eps}`,
    lines: [
      `mean = (${sum(row)}) / ${row.length} = ${format(mean)}`,
      `variance = (${row.map((x) => `${format((x - mean) ** 2)}`).join(" + ")}) / ${row.length} = ${format(variance)}`,
      `(${n(row[c])} − ${n(mean)}) / ${format(deviation)}${weight ? ` × ${n(g)}` : ""}${bias ? ` + ${n(b)}` : ""}`,
    ],
    total: ((row[c] - mean) / deviation) * g + b,
    used: withGains({ lead, cells: upTo(A.C).map((k) => [r, k]) }, { weight, bias }, c),
  };
}

/** @param {Question} q @returns {Explanation} */
function rmsNorm({ operands, options, lead, r, c }) {
  const { A, weight } = operands;
  const row = rowOf(A, lead, r);
  const square = row.reduce((a, x) => a + x * x, 0) / row.length;
  const size = Math.sqrt(square + options.eps);
  const g = weight ? weight.at([], 0, c) : 1;
  return {
    formula: `x / √(mean of squares + ε)${weight ? " × weight" : ""} over row ${A.rows[r]}, ε = ${options.eps}`,
    lines: [
      `mean of squares = (${row.map((x) => format(x * x)).join(" + ")}) / ${row.length} = ${format(square)}`,
      `${n(row[c])} / ${format(size)}${weight ? ` × ${n(g)}` : ""}`,
    ],
    total: (row[c] / size) * g,
    used: withGains({ lead, cells: upTo(A.C).map((k) => [r, k]) }, { weight }, c),
  };
}

/** @param {Used} A @param {Record<string, Tensor | undefined>} gains @param {number} c */
function withGains(A, gains, c) {
  /** @type {Record<string, Used>} */
  const used = { A };
  for (const [name, t] of Object.entries(gains)) if (t) used[name] = { lead: [], cells: [[0, c]] };
  return used;
}

/** @param {Question} q @returns {Explanation} */
function scores({ operands, options, lead, r, c }) {
  const { q, k } = operands;
  const [row, key] = [rowOf(q, lead, r), rowOf(k, lead, c)];
  const used = {
    q: { lead, cells: upTo(q.C).map((i) => /** @type {[number, number]} */ ([r, i])) },
    k: { lead, cells: upTo(k.C).map((i) => /** @type {[number, number]} */ ([c, i])) },
  };
  const root = Math.sqrt(q.C);
  const value = dot(row, key) / root;
  const late = options.causal && c > r + options.before;
  const padding = c < (options.start ?? 0) || c >= (options.stop ?? k.R);
  if (late || padding) {
    return {
      formula: padding ? `key ${k.rows[c]} is padding` : `key ${k.rows[c]} comes after query ${q.rows[r]}`,
      lines: [`masked: −inf instead of ${format(value)}, so that its weight is 0`],
      total: -Infinity,
      used,
    };
  }
  return {
    formula: `row ${q.rows[r]} of ${q.name} · row ${k.rows[c]} of ${k.name} / √${q.C}`,
    lines: [`(${products(row, key)}) / ${format(root)}`, `${format(dot(row, key))} / ${format(root)}`],
    total: value,
    used,
  };
}

/** @param {Question} q @returns {Explanation} */
function transpose({ operands, lead, r, c }) {
  return moved(
    operands.A,
    lead,
    c,
    r,
    `row ${operands.A.rows[c]}, column ${operands.A.cols[r]} of ${operands.A.name}: the two indices change places`,
  );
}

/** @param {Question} q @returns {Explanation} */
function splitHeads({ operands, options, lead, r, c }) {
  const at = lead[lead.length - 1] * options.d_head + c;
  return moved(
    operands.A,
    lead.slice(0, -1),
    r,
    at,
    `head ${lead[lead.length - 1]} is columns ${lead[lead.length - 1] * options.d_head} to ${(lead[lead.length - 1] + 1) * options.d_head - 1}: column ${at} of row ${operands.A.rows[r]}`,
  );
}

/** @param {Question} q @returns {Explanation} */
function concatHeads({ operands, options, lead, r, c }) {
  const [head, d] = [Math.floor(c / options.d_head), c % options.d_head];
  return moved(operands.A, [...lead, head], r, d, `column ${c} is dimension ${d} of head ${head}`);
}

/**
 * @param {Tensor} A @param {number[]} lead @param {number} r
 * @param {number} c @param {string} formula @returns {Explanation}
 */
function moved(A, lead, r, c, formula) {
  return {
    formula,
    lines: ["copied, not computed"],
    total: A.at(lead, r, c),
    used: { A: { lead, cells: [[r, c]] } },
  };
}

/** @param {Question} q @returns {Explanation} */
function relu({ operands, lead, r, c }) {
  const x = operands.A.at(lead, r, c);
  return {
    formula: "max(x, 0)",
    lines: [`max(${n(x)}, 0)`],
    total: Math.max(x, 0),
    used: { A: { lead, cells: [[r, c]] } },
  };
}

/** @type {Record<string, (q: Question) => Explanation>} */
export const EXPLAIN = {
  matmul,
  one_hot: oneHot,
  add,
  softmax: softmaxRow,
  layer_norm: layerNorm,
  rms_norm: rmsNorm,
  scores,
  transpose,
  split_heads: splitHeads,
  concat_heads: concatHeads,
  relu,
};

/** What stands between the operands on the page. */
/** @type {Record<string, string>} */
export const SIGN = { matmul: "@", one_hot: "@", add: "+", scores: "· each row" };
