// The toy decoder of llmcore.toy on the tape, and the optimizers of llmcore.optim:
// a whole training step in the page.
import { TAPED } from "./operations.js";
import { sinusoid } from "./position.js";
import { apply, variable } from "./tape.js";

/** @typedef {import("./tape.js").Var} Var */
/** @typedef {{n_heads: number, norm_eps: number}} Config */
/** @typedef {{title: string, vars: Var[]}} Stage */

/**
 * The parameters of one block and the output layer, by llmcore's names and by the short ones of the page.
 * @type {[string, string][]}
 */
export const NAMES = [
  ["embedding.table", "E"],
  ["decoder.blocks.0.attention_norm.weight", "gain 1"],
  ["decoder.blocks.0.attention_norm.bias", "bias 1"],
  ["decoder.blocks.0.attention.W_q.weight", "W_q"],
  ["decoder.blocks.0.attention.W_q.bias", "b_q"],
  ["decoder.blocks.0.attention.W_k.weight", "W_k"],
  ["decoder.blocks.0.attention.W_k.bias", "b_k"],
  ["decoder.blocks.0.attention.W_v.weight", "W_v"],
  ["decoder.blocks.0.attention.W_v.bias", "b_v"],
  ["decoder.blocks.0.attention.W_o.weight", "W_o"],
  ["decoder.blocks.0.attention.W_o.bias", "b_o"],
  ["decoder.blocks.0.feed_forward_norm.weight", "gain 2"],
  ["decoder.blocks.0.feed_forward_norm.bias", "bias 2"],
  ["decoder.blocks.0.feed_forward.up.weight", "W_up"],
  ["decoder.blocks.0.feed_forward.up.bias", "b_up"],
  ["decoder.blocks.0.feed_forward.down.weight", "W_down"],
  ["decoder.blocks.0.feed_forward.down.bias", "b_down"],
  ["decoder.norm.weight", "gain 3"],
  ["decoder.norm.bias", "bias 3"],
  ["head.table", "U"],
];

/** Tables that have a row for each entry of the vocabulary. */
const TABLES = new Set(["embedding.table", "head.table"]);

/**
 * @param {Record<string, {shape: number[], data: ArrayLike<number>}>} weights by llmcore's names
 * @returns {Record<string, Var>} by short names
 */
export function parameters(weights) {
  return Object.fromEntries(
    NAMES.map(([long, short]) => {
      const { shape, data } = weights[long];
      const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape;
      /** @type {[import("./tape.js").Axis, import("./tape.js").Axis]} */
      const axes = [TABLES.has(long) ? "vocabulary" : "", ""];
      return [short, variable(short, "parameter", { rows, cols, axes, data: Float64Array.from(data) })];
    }),
  );
}

/** Sinusoidal positions. @param {number} T @param {number} D */
function positions(T, D) {
  const rows = Array.from({ length: T }, (_, t) => sinusoid(t, D, 10000));
  return variable("P", "constant", {
    rows: T,
    cols: D,
    axes: ["place", ""],
    data: Float64Array.from(rows.flat()),
  });
}

/**
 * One head of causal attention, its output last.
 * @param {number} h @param {number} width of a head @param {Var[]} qkv of all heads @returns {Stage}
 */
function head(h, width, qkv) {
  const cut = { start: h * width, width };
  const [q, k, v] = qkv.map((x) => apply(TAPED.columns, `${x.name}, head ${h}`, [x], cut));
  const s = apply(TAPED.scores, `scores, head ${h}`, [q, k], { causal: true });
  const p = apply(TAPED.softmax, `weights, head ${h}`, [s]);
  const out = apply(TAPED.matmul, `head ${h}`, [p, v]);
  return { title: `attention, head ${h}`, vars: [q, k, v, s, p, out] };
}

/**
 * ids (T) -> loss, each tensor named, in stages.
 * @param {Record<string, Var>} w @param {number[]} ids @param {Config} config
 * @returns {{stages: Stage[], loss: Var, logits: Var}}
 */
export function forward(w, ids, { n_heads, norm_eps }) {
  for (const p of Object.values(w)) p.uses = [];
  const { add, concat, cross_entropy, layer_norm, lookup, matmul, relu, transpose } = TAPED;
  const eps = { eps: norm_eps };
  const D = w.E.cols;
  const P = positions(ids.length, D);
  const tokens = apply(lookup, "E[ids]", [w.E], { ids });
  const x = apply(add, "x", [tokens, P]);
  const n1 = apply(layer_norm, "LN(x)", [x, w["gain 1"], w["bias 1"]], eps);
  const q = apply(matmul, "Q", [n1, w.W_q, w.b_q]);
  const k = apply(matmul, "K", [n1, w.W_k, w.b_k]);
  const v = apply(matmul, "V", [n1, w.W_v, w.b_v]);
  const heads = Array.from({ length: n_heads }, (_, h) => head(h, D / n_heads, [q, k, v]));
  const outputs = heads.map(({ vars }) => vars[vars.length - 1]);
  const joined = apply(concat, "concat", outputs);
  const attended = apply(matmul, "attention", [joined, w.W_o, w.b_o]);
  const y = apply(add, "x + attention", [x, attended]);
  const n2 = apply(layer_norm, "LN(x + attention)", [y, w["gain 2"], w["bias 2"]], eps);
  const up = apply(matmul, "up", [n2, w.W_up, w.b_up]);
  const hidden = apply(relu, "relu(up)", [up]);
  const down = apply(matmul, "FFN", [hidden, w.W_down, w.b_down]);
  const z = apply(add, "x + attention + FFN", [y, down]);
  const last = apply(layer_norm, "last norm", [z, w["gain 3"], w["bias 3"]], eps);
  const UT = apply(transpose, "U^T", [w.U]);
  const logits = apply(matmul, "logits", [last, UT]);
  const loss = apply(cross_entropy, "loss", [logits], { targets: [...ids.slice(1), -1] });
  return {
    stages: [
      { title: "embedding", vars: [tokens, P, x] },
      { title: "queries, keys, values", vars: [n1, q, k, v] },
      ...heads,
      { title: "output of attention", vars: [joined, attended, y] },
      { title: "feed-forward", vars: [n2, up, hidden, down, z] },
      { title: "output layer", vars: [last, UT, logits, loss] },
    ],
    loss,
    logits,
  };
}

/**
 * @typedef {{lr: number, momentum: number, betas: [number,
 *   number], eps: number, weight_decay: number}} Settings
 * @typedef {{data: Float64Array, grad: Float64Array}} Parameter
 * @typedef {{steps: number, m: Float64Array[],
 *   v: Float64Array[]}} Memory what an optimizer keeps between steps
 * @typedef {(memory: Memory, params: Parameter[],
 *   s: Settings) => {memory: Memory, data: Float64Array[]}} Optimizer
 */

/** The memory before the first step. @param {Parameter[]} params @returns {Memory} */
export function remembered(params) {
  const zeros = () => params.map((p) => new Float64Array(p.data.length));
  return { steps: 0, m: zeros(), v: zeros() };
}

/**
 * For each optimizer of llmcore.optim what the parameters become, and what it remembers; nothing is changed.
 * @type {Record<string, Optimizer>}
 */
export const OPTIMIZERS = {
  sgd: (memory, params, { lr }) => ({
    memory,
    data: params.map((p) => p.data.map((x, i) => x - lr * p.grad[i])),
  }),
  momentum: (memory, params, { lr, momentum }) => {
    const m = memory.m.map((past, k) => past.map((x, i) => momentum * x + params[k].grad[i]));
    return { memory: { ...memory, m }, data: params.map((p, k) => p.data.map((x, i) => x - lr * m[k][i])) };
  },
  adamw: (memory, params, { lr, betas: [b1, b2], eps, weight_decay }) => {
    const steps = memory.steps + 1;
    const m = memory.m.map((past, k) => past.map((x, i) => b1 * x + (1 - b1) * params[k].grad[i]));
    const v = memory.v.map((past, k) => past.map((x, i) => b2 * x + (1 - b2) * params[k].grad[i] ** 2));
    const data = params.map((p, k) =>
      p.data.map((x, i) => {
        const size = Math.sqrt(v[k][i]) / Math.sqrt(1 - b2 ** steps) + eps;
        return x * (1 - lr * weight_decay) - ((lr / (1 - b1 ** steps)) * m[k][i]) / size;
      }),
    );
    return { memory: { steps, m, v }, data };
  },
};

/** The defaults of llmcore.optim. @type {Omit<Settings, "lr">} */
export const DEFAULTS = { momentum: 0.9, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
