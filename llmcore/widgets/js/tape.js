// Reverse mode on matrices, as llmcore.autograd does it on arrays: each
// operation beside what it sends back, and both explain themselves.
import { format } from "./number.js";

/**
 * A matrix with a gradient. `op` is how it was made, `uses` are the places where it was read.
 * @typedef {{name: string, rows: number, cols: number, data:
 *   Float64Array, grad: Float64Array, op: Op | null, inputs: Var[],
 *   uses: {out: Var, index: number}[], extra: any}} Var
 * @typedef {{forward: (inputs: Var[], extra: any) => {rows: number, cols: number, data: Float64Array},
 *   backward: (out: Var) => void,
 *   why: (out: Var, r: number, c: number) => string[],
 *   share: (out: Var, index: number, r: number, c: number) => {text: string, value: number}}} Op
 * why: the arithmetic of one value. share: what this use adds to the gradient of one cell of input `index`.
 */

/**
 * @param {string} name @param {number} rows @param {number} cols
 * @param {ArrayLike<number>} [data] @returns {Var}
 */
export function variable(name, rows, cols, data) {
  const size = rows * cols;
  return {
    name,
    rows,
    cols,
    data: data ? Float64Array.from(data) : new Float64Array(size),
    grad: new Float64Array(size),
    op: null,
    inputs: [],
    uses: [],
    extra: null,
  };
}

/**
 * Apply an operation.
 * @param {Op} op @param {string} name @param {Var[]} inputs @param {any} [extra] @returns {Var}
 */
export function apply(op, name, inputs, extra = null) {
  const { rows, cols, data } = op.forward(inputs, extra);
  const out = { ...variable(name, rows, cols, data), op, inputs, extra };
  inputs.forEach((input, index) => input.uses.push({ out, index }));
  return out;
}

/** Everything that a result was made of, in the order of making. @param {Var} result @returns {Var[]} */
export function order(result) {
  /** @type {Var[]} */
  const done = [];
  const seen = new Set();
  /** @type {[Var, number][]} */
  const stack = [[result, 0]];
  seen.add(result);
  while (stack.length) {
    const top = stack[stack.length - 1];
    if (top[1] < top[0].inputs.length) {
      const next = top[0].inputs[top[1]];
      top[1] += 1;
      if (!seen.has(next)) {
        seen.add(next);
        stack.push([next, 0]);
      }
    } else {
      done.push(top[0]);
      stack.pop();
    }
  }
  return done;
}

/** dL/dx for every x that a 1 x 1 result was made of. @param {Var} result */
export function backward(result) {
  const all = order(result);
  for (const v of all) v.grad.fill(0);
  result.grad[0] = 1;
  for (const v of all.reverse()) v.op?.backward(v);
}

/** @param {Var} v @param {number} r @param {number} c */
export const at = (v, r, c) => v.data[r * v.cols + c];
/** @param {Var} v @param {number} r @param {number} c */
const g = (v, r, c) => v.grad[r * v.cols + c];
/** @param {number} x */
const n = (x) => (x < 0 ? `(${format(x)})` : format(x));
/** @param {number} count */
const upTo = (count) => Array.from({ length: count }, (_, i) => i);
/** @param {[number, number][]} pairs */
const products = (pairs) => pairs.map(([a, b]) => `${n(a)}×${n(b)}`).join(" + ");
/** @param {[number, number][]} pairs */
const total = (pairs) => pairs.reduce((s, [a, b]) => s + a * b, 0);
/** @param {Var} a @param {(r: number, c: number) => number} f */
const like = (a, f) => ({
  rows: a.rows,
  cols: a.cols,
  data: Float64Array.from({ length: a.rows * a.cols }, (_, i) => f(Math.floor(i / a.cols), i % a.cols)),
});

/** y = a @ b (+ bias, one row) @type {Op} */
export const matmul = {
  forward([a, b, bias]) {
    const data = new Float64Array(a.rows * b.cols);
    for (let r = 0; r < a.rows; r += 1)
      for (let c = 0; c < b.cols; c += 1) {
        let sum = bias ? bias.data[c] : 0;
        for (let k = 0; k < a.cols; k += 1) sum += at(a, r, k) * at(b, k, c);
        data[r * b.cols + c] = sum;
      }
    return { rows: a.rows, cols: b.cols, data };
  },
  backward(out) {
    const [a, b, bias] = out.inputs;
    for (let r = 0; r < out.rows; r += 1)
      for (let c = 0; c < out.cols; c += 1) {
        const d = g(out, r, c);
        if (d === 0) continue;
        for (let k = 0; k < a.cols; k += 1) {
          a.grad[r * a.cols + k] += d * at(b, k, c);
          b.grad[k * b.cols + c] += d * at(a, r, k);
        }
        if (bias) bias.grad[c] += d;
      }
  },
  why(out, r, c) {
    const [a, b, bias] = out.inputs;
    const pairs = upTo(a.cols).map((k) => /** @type {[number, number]} */ ([at(a, r, k), at(b, k, c)]));
    return [
      `row ${r} of ${a.name} · column ${c} of ${b.name}${bias ? ` + ${bias.name}` : ""}`,
      products(pairs) + (bias ? ` + ${n(bias.data[c])}` : ""),
    ];
  },
  share(out, index, r, c) {
    const [a, b] = out.inputs;
    if (index === 2) {
      const column = upTo(out.rows).map((i) => g(out, i, c));
      return {
        text: `the sum of column ${c} of d ${out.name}: ${column.map(n).join(" + ")}`,
        value: column.reduce((x, y) => x + y, 0),
      };
    }
    const pairs =
      index === 0
        ? upTo(out.cols).map((j) => /** @type {[number, number]} */ ([g(out, r, j), at(b, c, j)]))
        : upTo(out.rows).map((i) => /** @type {[number, number]} */ ([at(a, i, r), g(out, i, c)]));
    const name =
      index === 0
        ? `row ${r} of d ${out.name} · row ${c} of ${b.name}`
        : `column ${r} of ${a.name} · column ${c} of d ${out.name}`;
    const shown =
      pairs.length > 24 ? `${products(pairs.slice(0, 3))} + … (${pairs.length} products)` : products(pairs);
    return { text: `${name}: ${shown}`, value: total(pairs) };
  },
};

/** y = a + b @type {Op} */
export const add = {
  forward: ([a, b]) => like(a, (r, c) => at(a, r, c) + at(b, r, c)),
  backward(out) {
    for (const input of out.inputs) out.grad.forEach((d, i) => (input.grad[i] += d));
  },
  why: (out, r, c) => [
    `${out.inputs[0].name} + ${out.inputs[1].name}`,
    `${n(at(out.inputs[0], r, c))} + ${n(at(out.inputs[1], r, c))}`,
  ],
  share: (out, _index, r, c) => ({
    text: `d ${out.name}, passed on unchanged: ${format(g(out, r, c))}`,
    value: g(out, r, c),
  }),
};

/** y[t] = table[ids[t]]; extra: ids @type {Op} */
export const lookup = {
  forward: ([table], ids) => ({
    rows: ids.length,
    cols: table.cols,
    data: Float64Array.from(
      ids.flatMap((/** @type {number} */ i) => upTo(table.cols).map((c) => at(table, i, c))),
    ),
  }),
  backward(out) {
    const [table] = out.inputs;
    out.extra.forEach((/** @type {number} */ i, /** @type {number} */ t) =>
      upTo(table.cols).forEach((c) => (table.grad[i * table.cols + c] += g(out, t, c))),
    );
  },
  why: (out, r, c) => [
    `row ${out.extra[r]} of ${out.inputs[0].name}, copied`,
    n(at(out.inputs[0], out.extra[r], c)),
  ],
  share(out, _index, r, c) {
    const places = upTo(out.rows).filter((t) => out.extra[t] === r);
    return {
      text: places.length
        ? `id ${r} stands at ${places.join(", ")}: ${places.map((t) => n(g(out, t, c))).join(" + ")}`
        : `id ${r} stands nowhere: 0`,
      value: places.reduce((s, t) => s + g(out, t, c), 0),
    };
  },
};

/** y = columns start .. start + width - 1 of a; extra: {start, width} @type {Op} */
export const columns = {
  forward: ([a], { start, width }) => ({
    rows: a.rows,
    cols: width,
    data: Float64Array.from(upTo(a.rows).flatMap((r) => upTo(width).map((c) => at(a, r, start + c)))),
  }),
  backward(out) {
    const [a] = out.inputs;
    out.grad.forEach(
      (d, i) => (a.grad[Math.floor(i / out.cols) * a.cols + out.extra.start + (i % out.cols)] += d),
    );
  },
  why: (out, r, c) => [
    `column ${out.extra.start + c} of ${out.inputs[0].name}, copied`,
    n(at(out.inputs[0], r, out.extra.start + c)),
  ],
  share(out, _index, r, c) {
    const inside = c >= out.extra.start && c < out.extra.start + out.cols;
    const value = inside ? g(out, r, c - out.extra.start) : 0;
    return {
      text: inside ? `d ${out.name}: ${format(value)}` : `${out.name} does not read this column: 0`,
      value,
    };
  },
};

/** y = the inputs side by side @type {Op} */
export const concat = {
  forward: (parts) => ({
    rows: parts[0].rows,
    cols: parts.reduce((s, p) => s + p.cols, 0),
    data: Float64Array.from(
      upTo(parts[0].rows).flatMap((r) => parts.flatMap((p) => upTo(p.cols).map((c) => at(p, r, c)))),
    ),
  }),
  backward(out) {
    let start = 0;
    for (const p of out.inputs) {
      for (let r = 0; r < p.rows; r += 1)
        for (let c = 0; c < p.cols; c += 1) p.grad[r * p.cols + c] += g(out, r, start + c);
      start += p.cols;
    }
  },
  why(out, r, c) {
    let start = 0;
    for (const p of out.inputs) {
      if (c < start + p.cols) return [`column ${c - start} of ${p.name}, copied`, n(at(p, r, c - start))];
      start += p.cols;
    }
    return [];
  },
  share(out, index, r, c) {
    const start = out.inputs.slice(0, index).reduce((s, p) => s + p.cols, 0);
    return {
      text: `d ${out.name}, column ${start + c}: ${format(g(out, r, start + c))}`,
      value: g(out, r, start + c),
    };
  },
};

/** y = q k^T / sqrt(Dh), -inf where the key comes after the query @type {Op} */
export const scores = {
  forward: ([q, k]) =>
    like({ ...q, cols: k.rows }, (t, s) =>
      s > t
        ? -Infinity
        : upTo(q.cols).reduce((sum, i) => sum + at(q, t, i) * at(k, s, i), 0) / Math.sqrt(q.cols),
    ),
  backward(out) {
    const [q, k] = out.inputs;
    for (let t = 0; t < out.rows; t += 1)
      for (let s = 0; s <= t; s += 1)
        for (let i = 0; i < q.cols; i += 1) {
          q.grad[t * q.cols + i] += (g(out, t, s) * at(k, s, i)) / Math.sqrt(q.cols);
          k.grad[s * k.cols + i] += (g(out, t, s) * at(q, t, i)) / Math.sqrt(q.cols);
        }
  },
  why(out, t, s) {
    const [q, k] = out.inputs;
    if (s > t) return [`key ${s} comes after query ${t}: masked`, "-inf"];
    return [
      `row ${t} of ${q.name} · row ${s} of ${k.name} / √${q.cols}`,
      `(${products(upTo(q.cols).map((i) => [at(q, t, i), at(k, s, i)]))}) / ${format(Math.sqrt(q.cols))}`,
    ];
  },
  share(out, index, r, c) {
    const [q, k] = out.inputs;
    const pairs = /** @type {[number, number][]} */ (
      index === 0
        ? upTo(out.cols)
            .filter((s) => s <= r)
            .map((s) => [g(out, r, s), at(k, s, c)])
        : upTo(out.rows)
            .filter((t) => t >= r)
            .map((t) => [g(out, t, r), at(q, t, c)])
    );
    return {
      text: `(${products(pairs)}) / ${format(Math.sqrt(q.cols))}`,
      value: total(pairs) / Math.sqrt(q.cols),
    };
  },
};

/** y = exp(x - max) / sum over each row @type {Op} */
export const softmaxRows = {
  forward([a]) {
    const data = new Float64Array(a.data.length);
    for (let r = 0; r < a.rows; r += 1) {
      const row = upTo(a.cols).map((c) => at(a, r, c));
      const top = Math.max(...row);
      const e = row.map((x) => Math.exp(x - top));
      const sum = e.reduce((x, y) => x + y, 0);
      e.forEach((x, c) => (data[r * a.cols + c] = x / sum));
    }
    return { rows: a.rows, cols: a.cols, data };
  },
  backward(out) {
    const [a] = out.inputs;
    for (let r = 0; r < out.rows; r += 1) {
      const mean = total(upTo(out.cols).map((j) => [g(out, r, j), at(out, r, j)]));
      for (let c = 0; c < out.cols; c += 1) a.grad[r * a.cols + c] += at(out, r, c) * (g(out, r, c) - mean);
    }
  },
  why(out, r, c) {
    const row = upTo(out.cols).map((j) => at(out.inputs[0], r, j));
    const top = Math.max(...row);
    const e = row.map((x) => Math.exp(x - top));
    return [`exp(x − ${format(top)}) / Σ over row ${r}`, `${format(e[c])} / (${e.map(n).join(" + ")})`];
  },
  share(out, _index, r, c) {
    const mean = total(upTo(out.cols).map((j) => [g(out, r, j), at(out, r, j)]));
    return {
      text: `p (dp − Σ p dp): ${n(at(out, r, c))} × (${n(g(out, r, c))} − ${n(mean)})`,
      value: at(out, r, c) * (g(out, r, c) - mean),
    };
  },
};

/** y = (x - mean) / sqrt(var + eps) * gain + bias; inputs x, gain, bias; extra: eps @type {Op} */
export const layerNorm = {
  forward([a, gain, bias], eps) {
    return like(a, (r, c) => normalised(a, r, eps).z[c] * gain.data[c] + bias.data[c]);
  },
  backward(out) {
    const [a, gain, bias] = out.inputs;
    for (let r = 0; r < a.rows; r += 1) {
      const { z, deviation } = normalised(a, r, out.extra);
      const d = upTo(a.cols).map((c) => g(out, r, c) * gain.data[c]);
      const m = d.reduce((x, y) => x + y, 0) / a.cols;
      const mz = d.reduce((s, x, c) => s + x * z[c], 0) / a.cols;
      for (let c = 0; c < a.cols; c += 1) {
        a.grad[r * a.cols + c] += (d[c] - m - z[c] * mz) / deviation;
        gain.grad[c] += g(out, r, c) * z[c];
        bias.grad[c] += g(out, r, c);
      }
    }
  },
  why(out, r, c) {
    const [a, gain, bias] = out.inputs;
    const { mean, deviation } = normalised(a, r, out.extra);
    return [
      `(x − mean) / √(variance + ε) × gain + bias over row ${r}`,
      `(${n(at(a, r, c))} − ${n(mean)}) / ${format(deviation)} × ${n(gain.data[c])} + ${n(bias.data[c])}`,
    ];
  },
  share(out, index, r, c) {
    const [a, gain] = out.inputs;
    if (index > 0) {
      const pairs = /** @type {[number, number][]} */ (
        upTo(a.rows).map((i) => [g(out, i, c), index === 1 ? normalised(a, i, out.extra).z[c] : 1])
      );
      return {
        text:
          index === 1
            ? `Σ over rows of d ${out.name} × normalised x: ${products(pairs)}`
            : `the sum of column ${c} of d ${out.name}`,
        value: total(pairs),
      };
    }
    const { z, deviation } = normalised(a, r, out.extra);
    const d = upTo(a.cols).map((j) => g(out, r, j) * gain.data[j]);
    const m = d.reduce((x, y) => x + y, 0) / a.cols;
    const mz = d.reduce((s, x, j) => s + x * z[j], 0) / a.cols;
    return {
      text: `(d − mean d − z mean(d z)) / deviation: (${n(d[c])} − ${n(m)} − ${n(z[c])}×${n(mz)}) / ${format(deviation)}`,
      value: (d[c] - m - z[c] * mz) / deviation,
    };
  },
};

/** Mean, deviation and normalised numbers of a row. @param {Var} a @param {number} r @param {number} eps */
function normalised(a, r, eps) {
  const row = upTo(a.cols).map((c) => at(a, r, c));
  const mean = row.reduce((x, y) => x + y, 0) / a.cols;
  const deviation = Math.sqrt(row.reduce((s, x) => s + (x - mean) ** 2, 0) / a.cols + eps);
  return { mean, deviation, z: row.map((x) => (x - mean) / deviation) };
}

/** y = max(x, 0) @type {Op} */
export const relu = {
  forward: ([a]) => like(a, (r, c) => Math.max(at(a, r, c), 0)),
  backward(out) {
    out.grad.forEach((d, i) => (out.inputs[0].grad[i] += out.inputs[0].data[i] > 0 ? d : 0));
  },
  why: (out, r, c) => [`max(x, 0)`, `max(${n(at(out.inputs[0], r, c))}, 0)`],
  share(out, _index, r, c) {
    const on = at(out.inputs[0], r, c) > 0;
    return {
      text: on ? `the neuron is on, d passes: ${format(g(out, r, c))}` : "the neuron is off: 0",
      value: on ? g(out, r, c) : 0,
    };
  },
};

/** L = mean over t of -ln softmax(logits[t])[target[t]]; extra: targets, -1 where there is none @type {Op} */
export const crossEntropy = {
  forward([logits], targets) {
    const kept = targets.filter((/** @type {number} */ t) => t >= 0).length;
    const sum = targets.reduce(
      (/** @type {number} */ s, /** @type {number} */ y, /** @type {number} */ t) =>
        y < 0 ? s : s - logProbability(logits, t, y),
      0,
    );
    return { rows: 1, cols: 1, data: Float64Array.of(sum / kept) };
  },
  backward(out) {
    const [logits] = out.inputs;
    const kept = out.extra.filter((/** @type {number} */ t) => t >= 0).length;
    out.extra.forEach((/** @type {number} */ y, /** @type {number} */ t) => {
      if (y < 0) return;
      for (let v = 0; v < logits.cols; v += 1)
        logits.grad[t * logits.cols + v] +=
          ((Math.exp(logProbability(logits, t, v)) - Number(v === y)) / kept) * out.grad[0];
    });
  },
  why(out) {
    const each = out.extra
      .map((/** @type {number} */ y, /** @type {number} */ t) =>
        y < 0 ? null : -logProbability(out.inputs[0], t, y),
      )
      .filter((/** @type {number | null} */ x) => x !== null);
    return [
      "mean of −ln p(next token) over the places that have a next token",
      `(${each.map(n).join(" + ")}) / ${each.length}`,
    ];
  },
  share(out, _index, r, c) {
    const y = out.extra[r];
    const kept = out.extra.filter((/** @type {number} */ t) => t >= 0).length;
    if (y < 0) return { text: "this place has no next token: 0", value: 0 };
    const p = Math.exp(logProbability(out.inputs[0], r, c));
    return {
      text: `(p − y) / ${kept}: (${format(p)} − ${Number(c === y)}) / ${kept}`,
      value: (p - Number(c === y)) / kept,
    };
  },
};

/** @param {Var} logits @param {number} t @param {number} v */
function logProbability(logits, t, v) {
  const row = logits.data.subarray(t * logits.cols, (t + 1) * logits.cols);
  const top = Math.max(...row);
  return row[v] - top - Math.log(row.reduce((s, x) => s + Math.exp(x - top), 0));
}

/** y = a^T @type {Op} */
export const transpose = {
  forward: ([a]) => ({
    rows: a.cols,
    cols: a.rows,
    data: Float64Array.from({ length: a.data.length }, (_, i) => at(a, i % a.rows, Math.floor(i / a.rows))),
  }),
  backward(out) {
    const [a] = out.inputs;
    out.grad.forEach((d, i) => (a.grad[(i % a.rows) * a.cols + Math.floor(i / a.rows)] += d));
  },
  why: (out, r, c) => [`row ${c}, column ${r} of ${out.inputs[0].name}`, n(at(out.inputs[0], c, r))],
  share: (out, _index, r, c) => ({
    text: `d ${out.name}[${c}, ${r}]: ${format(g(out, c, r))}`,
    value: g(out, c, r),
  }),
};
