// Reverse mode on matrices, as llmcore.autograd does it on arrays. The operations themselves: operations.js.

/** @typedef {import("./operations.js").Op} Op */
/**
 * What a row or column stands for: an entry of the vocabulary, a place in the sequence, or just its number.
 * @typedef {"vocabulary" | "place" | ""} Axis
 */
/**
 * A matrix with a gradient. `op` is how it was made, `uses` are the places where it was read.
 * @typedef {{name: string, kind: "parameter" | "constant" | "result", axes: [Axis, Axis],
 *   rows: number, cols: number, data: Float64Array, grad: Float64Array,
 *   op: Op | null, inputs: Var[], options: any, uses: {out: Var, index: number}[]}} Var
 */

/**
 * @param {string} name @param {Var["kind"]} kind @param {import("./operations.js").Matrix} matrix
 * @returns {Var}
 */
export function variable(name, kind, { rows, cols, data, axes }) {
  const grad = new Float64Array(rows * cols);
  return { name, kind, axes, rows, cols, data, grad, op: null, inputs: [], options: {}, uses: [] };
}

/**
 * Apply an operation.
 * @param {Op} op @param {string} name @param {Var[]} inputs @param {any} [options] @returns {Var}
 */
export function apply(op, name, inputs, options = {}) {
  const out = { ...variable(name, "result", op.forward(inputs, options)), op, inputs, options };
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
/** dL / d v[r, c] @param {Var} v @param {number} r @param {number} c */
export const slope = (v, r, c) => v.grad[r * v.cols + c];

/** A matrix as an operand of an explanation. @param {Var} v @returns {import("./operations.js").Operand} */
function operand(v) {
  const [rows, cols] = [v.rows, v.cols].map((count) => Array.from({ length: count }, (_, i) => String(i)));
  return { name: v.name, rows, cols, R: v.rows, C: v.cols, leading: [], at: (_lead, r, c) => at(v, r, c) };
}

/** How a value was made; null where it was given. @param {Var} v @param {number} r @param {number} c */
export function explained({ op, inputs, options }, r, c) {
  if (!op) return null;
  const named = inputs.map((input, i) => [op.operands[i] ?? String(i), operand(input)]);
  return op.explain({ operands: Object.fromEntries(named), options, lead: [], r, c });
}

/**
 * The gradient of one value: what each reader sends back.
 * @param {Var} v @param {number} r @param {number} c
 */
export const shares = (v, r, c) =>
  v.uses.map(({ out, index }) => ({ out, .../** @type {Op} */ (out.op).share(out, index, r, c) }));
