// The operations of a model, one entry each: forward, backward, and both explained with their numbers.
// An operation that the page only explains (its values come from Python) has no forward and no backward.
import { dot, format, softmax } from "./number.js";
import { at, slope } from "./tape.js";

/** @typedef {ReturnType<typeof import("./tensor.js").tensor>} Tensor */
/** @typedef {import("./tape.js").Var} Var */
/** @typedef {import("./tape.js").Axis} Axis */
/** @typedef {{rows: number, cols: number, data: Float64Array, axes: [Axis, Axis]}} Matrix */
/**
 * @typedef {{name: string, rows: string[], cols: string[], R: number, C: number, leading: number[]}} Named
 */
/** @typedef {Named & {at: (lead: number[], r: number, c: number) => number}} Operand */
/** @typedef {{lead: number[], cells: [number, number][]}} Used which cells of an operand were read */
/** @typedef {{formula: string, lines: string[], total: number, used: Record<string, Used>}} Explanation */
/**
 * @typedef {{operands: Record<string, Operand>, options: any, lead: number[], r: number, c: number}} Question
 */
/**
 * explain: which operand cells made a cell of the result, and the arithmetic with their numbers.
 * sign: what stands between the operands on the page.
 * @typedef {{explain: (q: Question) => Explanation, sign?: string}} Explained
 */
/**
 * operands: the names of the inputs in `explain`. backward adds to the gradients of `out.inputs`.
 * share: what `out` adds to the gradient of one cell of its input `index`.
 * @typedef {Explained & {
 *   operands: string[],
 *   forward: (inputs: Var[], options: any) => Matrix,
 *   backward: (out: Var) => void,
 *   share: (out: Var, index: number, r: number, c: number) => {text: string, value: number},
 * }} Op
 */

/** A number as it stands inside of a sum. @param {number} x */
const n = (x) => (x < 0 ? `(${format(x)})` : format(x));
/** @param {number} count */
const upTo = (count) => Array.from({ length: count }, (_, i) => i);
/** @param {number[]} a @param {number[]} b */
const products = (a, b) => a.map((x, i) => `${n(x)}×${n(b[i])}`).join(" + ");
/** @param {number[]} terms */
const sum = (terms) => terms.map(n).join(" + ");
/** @param {number[]} terms */
const total = (terms) => terms.reduce((a, b) => a + b, 0);

/** @param {number[]} list */
const average = (list) => total(list) / list.length;

/** @param {Operand} t @param {number[]} lead @param {number} r */
const rowOf = (t, lead, r) => upTo(t.C).map((c) => t.at(lead, r, c));
/** @param {Operand} t @param {number[]} lead @param {number} c */
const columnOf = (t, lead, c) => upTo(t.R).map((r) => t.at(lead, r, c));
/** @param {Operand} t @param {number} r @returns {[number, number][]} */
const cellsOfRow = (t, r) => upTo(t.C).map((c) => [r, c]);
/** A batch of operands may share one matrix. @param {Operand} t @param {number[]} lead */
const fit = (t, lead) => lead.slice(lead.length - t.leading.length);
/** @param {number[]} lead @param {number} r @param {number} c @returns {Used} */
const one = (lead, r, c) => ({ lead, cells: [[r, c]] });

/** Numbers of a row. @param {Var} v @param {number} r */
const values = (v, r) => upTo(v.cols).map((c) => at(v, r, c));
/** Gradients of a row. @param {Var} v @param {number} r */
const slopes = (v, r) => upTo(v.cols).map((c) => slope(v, r, c));
/**
 * A matrix by its cells.
 * @param {number} rows @param {number} cols @param {[Axis, Axis]} axes
 * @param {(r: number, c: number) => number} f @returns {Matrix}
 */
const matrix = (rows, cols, axes, f) => ({
  rows,
  cols,
  axes,
  data: Float64Array.from({ length: rows * cols }, (_, i) => f(Math.floor(i / cols), i % cols)),
});
/** A matrix of the same shape. @param {Var} a @param {(r: number, c: number) => number} f */
const like = (a, f) => matrix(a.rows, a.cols, a.axes, f);
/** @param {Var} v @param {number} r @param {number} c @param {number} d */
const send = (v, r, c, d) => void (v.grad[r * v.cols + c] += d);
/** @param {{rows: number, cols: number}} m @param {(r: number, c: number) => void} f */
const each = ({ rows, cols }, f) => upTo(rows).forEach((r) => upTo(cols).forEach((c) => f(r, c)));

/** y = A B (+ b, one row) @type {Op} */
const matmul = {
  sign: "@",
  operands: ["A", "B", "b"],
  forward([a, b, bias]) {
    return matrix(a.rows, b.cols, [a.axes[0], b.axes[1]], (r, c) => {
      let y = bias ? bias.data[c] : 0;
      for (let k = 0; k < a.cols; k += 1) y += at(a, r, k) * at(b, k, c);
      return y;
    });
  },
  backward(out) {
    const [a, b, bias] = out.inputs;
    each(out, (r, c) => {
      const d = slope(out, r, c);
      if (d === 0) return;
      for (let k = 0; k < a.cols; k += 1) {
        a.grad[r * a.cols + k] += d * at(b, k, c);
        b.grad[k * b.cols + c] += d * at(a, r, k);
      }
      if (bias) bias.grad[c] += d;
    });
  },
  explain({ operands: { A, B, b }, lead, r, c }) {
    const [la, lb] = [fit(A, lead), fit(B, lead)];
    const [row, column] = [rowOf(A, la, r), columnOf(B, lb, c)];
    const bias = b ? b.at([], 0, c) : 0;
    const plus = b ? ` + ${n(bias)}` : "";
    /** @type {Record<string, Used>} */
    const used = {
      A: { lead: la, cells: cellsOfRow(A, r) },
      B: { lead: lb, cells: upTo(B.R).map((k) => [k, c]) },
    };
    if (b) used.b = one([], 0, c);
    return {
      formula: `row ${A.rows[r]} of ${A.name} · column ${B.cols[c]} of ${B.name}${b ? ` + ${b.name}` : ""}`,
      lines: [products(row, column) + plus, sum(row.map((x, i) => x * column[i])) + plus],
      total: dot(row, column) + bias,
      used,
    };
  },
  share(out, index, r, c) {
    const [a, b] = out.inputs;
    if (index === 2) {
      const column = upTo(out.rows).map((i) => slope(out, i, c));
      return { text: `the sum of column ${c} of d ${out.name}: ${sum(column)}`, value: total(column) };
    }
    const left = index === 0;
    const [name, x, y] = left
      ? [`row ${r} of d ${out.name} · row ${c} of ${b.name}`, slopes(out, r), values(b, c)]
      : [
          `column ${r} of ${a.name} · column ${c} of d ${out.name}`,
          upTo(out.rows).map((i) => at(a, i, r)),
          upTo(out.rows).map((i) => slope(out, i, c)),
        ];
    const shown = x.length > 24 ? `${products(x.slice(0, 3), y)} + … (${x.length} products)` : products(x, y);
    return { text: `${name}: ${shown}`, value: dot(x, y) };
  },
};

/** A row of ones and zeros by a table: a row of the table is copied. @type {Explained} */
const oneHot = {
  sign: "@",
  explain({ operands: { A, B }, r, c }) {
    const row = rowOf(A, [], r);
    const on = row.indexOf(1);
    return {
      formula: `row ${A.rows[r]} of ${A.name} · column ${B.cols[c]} of ${B.name}`,
      lines: [
        `1 × ${n(B.at([], on, c))} + ${row.length - 1} products with 0`,
        `the 1 stands at ${A.cols[on]}, so row ${B.rows[on]} of ${B.name} is copied`,
      ],
      total: dot(row, columnOf(B, [], c)),
      used: { A: one([], r, on), B: one([], on, c) },
    };
  },
};

/** y[t] = table[ids[t]]; options: ids @type {Op} */
const lookup = {
  operands: ["table"],
  forward: ([table], { ids }) =>
    matrix(ids.length, table.cols, ["place", table.axes[1]], (t, c) => at(table, ids[t], c)),
  backward(out) {
    each(out, (t, c) => send(out.inputs[0], out.options.ids[t], c, slope(out, t, c)));
  },
  explain({ operands: { table }, options: { ids }, r, c }) {
    return copied(table, "table", [], ids[r], c, `row ${ids[r]} of ${table.name}, copied`);
  },
  share(out, _index, r, c) {
    const places = upTo(out.rows).filter((t) => out.options.ids[t] === r);
    if (!places.length) return { text: `id ${r} stands nowhere: 0`, value: 0 };
    const sent = places.map((t) => slope(out, t, c));
    return { text: `id ${r} stands at ${places.join(", ")}: ${sum(sent)}`, value: total(sent) };
  },
};

/**
 * A cell that is copied, not computed.
 * @param {Operand} A @param {string} key @param {number[]} lead @param {number} r @param {number} c
 * @param {string} formula @returns {Explanation}
 */
function copied(A, key, lead, r, c, formula) {
  return {
    formula,
    lines: ["copied, not computed"],
    total: A.at(lead, r, c),
    used: { [key]: one(lead, r, c) },
  };
}

/** y = A + B @type {Op} */
const add = {
  sign: "+",
  operands: ["A", "B"],
  forward: ([a, b]) => like(a, (r, c) => at(a, r, c) + at(b, r, c)),
  backward(out) {
    for (const input of out.inputs) each(out, (r, c) => send(input, r, c, slope(out, r, c)));
  },
  explain({ operands: { A, B }, lead, r, c }) {
    const [la, lb] = [fit(A, lead), fit(B, lead)];
    const [x, y] = [A.at(la, r, c), B.at(lb, r, c)];
    return {
      formula: `${A.name} + ${B.name}, cell by cell`,
      lines: [`${n(x)} + ${n(y)}`],
      total: x + y,
      used: { A: one(la, r, c), B: one(lb, r, c) },
    };
  },
  share(out, _index, r, c) {
    const d = slope(out, r, c);
    return { text: `d ${out.name}, passed on unchanged: ${format(d)}`, value: d };
  },
};

/** exp(x − max) of a row and their sum; zeros where every key is masked. @param {number[]} row */
function exponentials(row) {
  const top = Math.max(...row);
  const e = row.map((x) => (top === -Infinity ? 0 : Math.exp(x - top)));
  return { top, e, norm: total(e) };
}

/** y = exp(x − max) / Σ over each row @type {Op} */
const softmaxRows = {
  operands: ["A"],
  forward([a]) {
    const rows = upTo(a.rows).map((r) => exponentials(values(a, r)));
    return like(a, (r, c) => (rows[r].norm ? rows[r].e[c] / rows[r].norm : 0));
  },
  backward(out) {
    upTo(out.rows).forEach((r) => {
      const mean = dot(slopes(out, r), values(out, r));
      upTo(out.cols).forEach((c) => send(out.inputs[0], r, c, at(out, r, c) * (slope(out, r, c) - mean)));
    });
  },
  explain({ operands: { A }, lead, r, c }) {
    const row = rowOf(A, lead, r);
    const { top, e, norm } = exponentials(row);
    const used = { A: { lead, cells: cellsOfRow(A, r) } };
    if (top === -Infinity)
      return {
        formula: "every key of this row is masked",
        lines: ["such a row is set to 0"],
        total: 0,
        used,
      };
    return {
      formula: `exp(x − m) / Σ exp(x − m) over row ${A.rows[r]}, m = ${format(top)} its largest`,
      lines: [
        `exp(${n(row[c])} − ${n(top)}) = ${format(e[c])}`,
        `Σ = ${sum(e)} = ${format(norm)}`,
        `${format(e[c])} / ${format(norm)}`,
      ],
      total: e[c] / norm,
      used,
    };
  },
  share(out, _index, r, c) {
    const mean = dot(slopes(out, r), values(out, r));
    const [p, d] = [at(out, r, c), slope(out, r, c)];
    return { text: `p (dp − Σ p dp): ${n(p)} × (${n(d)} − ${n(mean)})`, value: p * (d - mean) };
  },
};

/** Mean, variance and normalised numbers of a row. @param {number[]} row @param {number} eps */
function normalised(row, eps) {
  const mean = average(row);
  const variance = average(row.map((x) => (x - mean) ** 2));
  const deviation = Math.sqrt(variance + eps);
  return { mean, variance, deviation, z: row.map((x) => (x - mean) / deviation) };
}

/** y = (x − mean) / √(variance + ε) × weight + bias over each row; options: eps @type {Op} */
const layerNorm = {
  operands: ["A", "weight", "bias"],
  forward([a, weight, bias], { eps }) {
    const rows = upTo(a.rows).map((r) => normalised(values(a, r), eps).z);
    return like(a, (r, c) => rows[r][c] * weight.data[c] + bias.data[c]);
  },
  backward(out) {
    const [a, weight, bias] = out.inputs;
    upTo(a.rows).forEach((r) => {
      const { z, deviation, d, m, mz } = normSlopes(out, r);
      upTo(a.cols).forEach((c) => {
        send(a, r, c, (d[c] - m - z[c] * mz) / deviation);
        send(weight, 0, c, slope(out, r, c) * z[c]);
        send(bias, 0, c, slope(out, r, c));
      });
    });
  },
  explain({ operands: { A, weight, bias }, options: { eps }, lead, r, c }) {
    const row = rowOf(A, lead, r);
    const { mean, variance, deviation } = normalised(row, eps);
    const [w, b] = [weight ? weight.at([], 0, c) : 1, bias ? bias.at([], 0, c) : 0];
    const times = `${weight ? " × weight" : ""}${bias ? " + bias" : ""}`;
    const squares = row.map((x) => format((x - mean) ** 2)).join(" + ");
    const gained = `${weight ? ` × ${n(w)}` : ""}${bias ? ` + ${n(b)}` : ""}`;
    return {
      formula: `(x − mean) / √(variance + ε)${times} over row ${A.rows[r]}, ε = ${eps}`,
      lines: [
        `mean = (${sum(row)}) / ${row.length} = ${format(mean)}`,
        `variance = (${squares}) / ${row.length} = ${format(variance)}`,
        `(${n(row[c])} − ${n(mean)}) / ${format(deviation)}${gained}`,
      ],
      total: ((row[c] - mean) / deviation) * w + b,
      used: withGains({ lead, cells: cellsOfRow(A, r) }, { weight, bias }, c),
    };
  },
  share(out, index, r, c) {
    const { eps } = out.options;
    const column = upTo(out.rows).map((i) => slope(out, i, c));
    if (index === 2) return { text: `the sum of column ${c} of d ${out.name}`, value: total(column) };
    if (index === 1) {
      const z = upTo(out.rows).map((i) => normalised(values(out.inputs[0], i), eps).z[c]);
      const text = `Σ over rows of d ${out.name} × normalised x: ${products(column, z)}`;
      return { text, value: dot(column, z) };
    }
    const { z, deviation, d, m, mz } = normSlopes(out, r);
    const terms = `${n(d[c])} − ${n(m)} − ${n(z[c])}×${n(mz)}`;
    return {
      text: `(d − mean d − z mean(d z)) / deviation: (${terms}) / ${format(deviation)}`,
      value: (d[c] - m - z[c] * mz) / deviation,
    };
  },
};

/**
 * The parts of a row of a layer norm's gradient: z and its deviation, d = dL/dz, m = mean d, mz = mean d z.
 * @param {Var} out @param {number} r
 */
function normSlopes(out, r) {
  const [a, weight] = out.inputs;
  const { z, deviation } = normalised(values(a, r), out.options.eps);
  const d = slopes(out, r).map((x, c) => x * weight.data[c]);
  return { z, deviation, d, m: average(d), mz: dot(d, z) / d.length };
}

/** y = x / √(mean of squares + ε) × weight; options: eps @type {Explained} */
const rmsNorm = {
  explain({ operands: { A, weight }, options: { eps }, lead, r, c }) {
    const row = rowOf(A, lead, r);
    const square = average(row.map((x) => x * x));
    const size = Math.sqrt(square + eps);
    const w = weight ? weight.at([], 0, c) : 1;
    const squares = row.map((x) => format(x * x)).join(" + ");
    return {
      formula: `x / √(mean of squares + ε)${weight ? " × weight" : ""} over row ${A.rows[r]}, ε = ${eps}`,
      lines: [
        `mean of squares = (${squares}) / ${row.length} = ${format(square)}`,
        `${n(row[c])} / ${format(size)}${weight ? ` × ${n(w)}` : ""}`,
      ],
      total: (row[c] / size) * w,
      used: withGains({ lead, cells: cellsOfRow(A, r) }, { weight }, c),
    };
  },
};

/** @param {Used} A @param {Record<string, Operand | undefined>} gains @param {number} c */
function withGains(A, gains, c) {
  /** @type {Record<string, Used>} */
  const used = { A };
  for (const [name, t] of Object.entries(gains)) if (t) used[name] = one([], 0, c);
  return used;
}

/**
 * May a query not read a key? causal: keys after the query, which stands `before` places later than its row
 * says; start, stop: the keys that are no padding.
 * @param {{causal?: boolean, before?: number, start?: number, stop?: number}} options @param {number} t
 * @param {number} s
 */
const masked = ({ causal, before = 0, start = 0, stop = Infinity }, t, s) =>
  (causal && s > t + before) || s < start || s >= stop;

/** y = q kᵀ / √Dh, -inf where the query may not read the key; options: those of `masked` @type {Op} */
const scores = {
  sign: "· each row",
  operands: ["q", "k"],
  forward([q, k], options) {
    const score = (/** @type {number} */ t, /** @type {number} */ s) =>
      dot(values(q, t), values(k, s)) / Math.sqrt(q.cols);
    return matrix(q.rows, k.rows, [q.axes[0], k.axes[0]], (t, s) =>
      masked(options, t, s) ? -Infinity : score(t, s),
    );
  },
  backward(out) {
    const [q, k] = out.inputs;
    const root = Math.sqrt(q.cols);
    each(out, (t, s) => {
      if (masked(out.options, t, s)) return;
      for (let i = 0; i < q.cols; i += 1) {
        send(q, t, i, (slope(out, t, s) * at(k, s, i)) / root);
        send(k, s, i, (slope(out, t, s) * at(q, t, i)) / root);
      }
    });
  },
  explain({ operands: { q, k }, options, lead, r, c }) {
    const [row, key] = [rowOf(q, lead, r), rowOf(k, lead, c)];
    const used = { q: { lead, cells: cellsOfRow(q, r) }, k: { lead, cells: cellsOfRow(k, c) } };
    const root = Math.sqrt(q.C);
    const value = dot(row, key) / root;
    if (masked(options, r, c)) {
      const padding = masked({ ...options, causal: false }, r, c);
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
  },
  share(out, index, r, c) {
    const [q, k] = out.inputs;
    const root = Math.sqrt(q.cols);
    const pairs = upTo(index === 0 ? out.cols : out.rows)
      .map((i) => (index === 0 ? { t: r, s: i, x: at(k, i, c) } : { t: i, s: r, x: at(q, i, c) }))
      .filter(({ t, s }) => !masked(out.options, t, s));
    const [d, x] = [pairs.map(({ t, s }) => slope(out, t, s)), pairs.map((p) => p.x)];
    return { text: `(${products(d, x)}) / ${format(root)}`, value: dot(d, x) / root };
  },
};

/** y = Aᵀ @type {Op} */
const transpose = {
  operands: ["A"],
  forward: ([a]) => matrix(a.cols, a.rows, [a.axes[1], a.axes[0]], (r, c) => at(a, c, r)),
  backward(out) {
    each(out, (r, c) => send(out.inputs[0], c, r, slope(out, r, c)));
  },
  explain({ operands: { A }, lead, r, c }) {
    const place = `row ${A.rows[c]}, column ${A.cols[r]} of ${A.name}`;
    return copied(A, "A", lead, c, r, `${place}: the two indices change places`);
  },
  share(out, _index, r, c) {
    const d = slope(out, c, r);
    return { text: `d ${out.name}[${c}, ${r}]: ${format(d)}`, value: d };
  },
};

/** Columns of A become heads; options: d_head @type {Explained} */
const splitHeads = {
  explain({ operands: { A }, options: { d_head }, lead, r, c }) {
    const head = lead[lead.length - 1];
    const column = head * d_head + c;
    const range = `columns ${head * d_head} to ${(head + 1) * d_head - 1}`;
    const formula = `head ${head} is ${range}: column ${column} of row ${A.rows[r]}`;
    return copied(A, "A", lead.slice(0, -1), r, column, formula);
  },
};

/** Heads side by side; options: d_head @type {Explained} */
const concatHeads = {
  explain({ operands: { A }, options: { d_head }, lead, r, c }) {
    const [head, d] = [Math.floor(c / d_head), c % d_head];
    return copied(A, "A", [...lead, head], r, d, `column ${c} is dimension ${d} of head ${head}`);
  },
};

/** y = columns start .. start + width - 1 of A; options: start, width @type {Op} */
const columns = {
  operands: ["A"],
  forward: ([a], { start, width }) => matrix(a.rows, width, [a.axes[0], ""], (r, c) => at(a, r, start + c)),
  backward(out) {
    each(out, (r, c) => send(out.inputs[0], r, out.options.start + c, slope(out, r, c)));
  },
  explain({ operands: { A }, options: { start }, lead, r, c }) {
    return copied(A, "A", lead, r, start + c, `column ${start + c} of ${A.name}, copied`);
  },
  share(out, _index, r, c) {
    const { start, width } = out.options;
    if (c < start || c >= start + width)
      return { text: `${out.name} does not read this column: 0`, value: 0 };
    const d = slope(out, r, c - start);
    return { text: `d ${out.name}: ${format(d)}`, value: d };
  },
};

/**
 * Which of several matrices side by side holds a column, and where.
 * @param {number[]} widths @param {number} c
 */
function placeOf(widths, c) {
  let [index, column] = [0, c];
  while (column >= widths[index]) column -= widths[index++];
  return { index, column };
}

/** y = the inputs side by side @type {Op} */
const concat = {
  operands: [],
  forward(parts) {
    const widths = parts.map((p) => p.cols);
    return matrix(parts[0].rows, total(widths), [parts[0].axes[0], ""], (r, c) => {
      const { index, column } = placeOf(widths, c);
      return at(parts[index], r, column);
    });
  },
  backward(out) {
    const widths = out.inputs.map((p) => p.cols);
    each(out, (r, c) => {
      const { index, column } = placeOf(widths, c);
      send(out.inputs[index], r, column, slope(out, r, c));
    });
  },
  explain({ operands, lead, r, c }) {
    const parts = Object.values(operands);
    const { index, column } = placeOf(
      parts.map((p) => p.C),
      c,
    );
    const part = parts[index];
    return copied(part, String(index), lead, r, column, `column ${column} of ${part.name}, copied`);
  },
  share(out, index, r, c) {
    const start = total(out.inputs.slice(0, index).map((p) => p.cols));
    const d = slope(out, r, start + c);
    return { text: `d ${out.name}, column ${start + c}: ${format(d)}`, value: d };
  },
};

/** y = max(x, 0) @type {Op} */
const relu = {
  operands: ["A"],
  forward: ([a]) => like(a, (r, c) => Math.max(at(a, r, c), 0)),
  backward(out) {
    each(out, (r, c) => send(out.inputs[0], r, c, at(out.inputs[0], r, c) > 0 ? slope(out, r, c) : 0));
  },
  explain({ operands: { A }, lead, r, c }) {
    const x = A.at(lead, r, c);
    const used = { A: one(lead, r, c) };
    return { formula: "max(x, 0)", lines: [`max(${n(x)}, 0)`], total: Math.max(x, 0), used };
  },
  share(out, _index, r, c) {
    if (at(out.inputs[0], r, c) <= 0) return { text: "the neuron is off: 0", value: 0 };
    const d = slope(out, r, c);
    return { text: `the neuron is on, d passes: ${format(d)}`, value: d };
  },
};

/** ln softmax(row)[v] @param {number[]} row @param {number} v */
function logProbability(row, v) {
  const { top, norm } = exponentials(row);
  return row[v] - top - Math.log(norm);
}

/**
 * L = mean over t of −ln softmax(logits[t])[targets[t]]; options: targets, -1 where there is none
 * @type {Op}
 */
const crossEntropy = {
  operands: ["logits"],
  forward: ([logits], { targets }) =>
    matrix(1, 1, ["", ""], () => average(losses(targets, (t) => values(logits, t)))),
  backward(out) {
    const [logits] = out.inputs;
    const { targets } = out.options;
    const kept = countOf(targets);
    targets.forEach((/** @type {number} */ y, /** @type {number} */ t) => {
      if (y < 0) return;
      const p = softmax(values(logits, t));
      p.forEach((x, v) => send(logits, t, v, ((x - Number(v === y)) / kept) * out.grad[0]));
    });
  },
  explain({ operands: { logits }, options: { targets }, lead }) {
    const terms = losses(targets, (t) => rowOf(logits, lead, t));
    const rows = upTo(targets.length).filter((t) => targets[t] >= 0);
    return {
      formula: "mean of −ln p(next token) over the places that have a next token",
      lines: [`(${sum(terms)}) / ${terms.length}`],
      total: average(terms),
      used: { logits: { lead, cells: rows.flatMap((t) => cellsOfRow(logits, t)) } },
    };
  },
  share(out, _index, r, c) {
    const { targets } = out.options;
    if (targets[r] < 0) return { text: "this place has no next token: 0", value: 0 };
    const kept = countOf(targets);
    const p = softmax(values(out.inputs[0], r))[c];
    const y = Number(c === targets[r]);
    return { text: `(p − y) / ${kept}: (${format(p)} − ${y}) / ${kept}`, value: (p - y) / kept };
  },
};
/** Places that have a next token. @param {number[]} targets */
const countOf = (targets) => targets.filter((y) => y >= 0).length;
/**
 * −ln p(target) at each place that has one.
 * @param {number[]} targets @param {(t: number) => number[]} row
 */
const losses = (targets, row) => targets.flatMap((y, t) => (y < 0 ? [] : [-logProbability(row(t), y)]));

/** Operations of the tape: their arithmetic runs in the page. */
export const TAPED = {
  add,
  columns,
  concat,
  cross_entropy: crossEntropy,
  layer_norm: layerNorm,
  lookup,
  matmul,
  relu,
  scores,
  softmax: softmaxRows,
  transpose,
};

/** All operations, by the names that operation.py ships. @type {Record<string, Explained>} */
export const OPERATIONS = {
  ...TAPED,
  concat_heads: concatHeads,
  one_hot: oneHot,
  rms_norm: rmsNorm,
  split_heads: splitHeads,
};
