// The toy decoder of llmcore.toy on the tape, and the optimizers
// of llmcore.optim: a whole training step in the page.
import { sinusoid } from "./position.js";
import { add, apply, columns, concat, crossEntropy, layerNorm, lookup, matmul } from "./tape.js";
import { relu, scores, softmaxRows, transpose, variable } from "./tape.js";

/** @typedef {import("./tape.js").Var} Var */
/** @typedef {{n_heads: number, norm_eps: number}} Config */
/** @typedef {{title: string, vars: Var[]}} Stage */

/** The parameters of one block and the output layer, by llmcore's names and by the short ones of the page. */
/** @type {[string, string][]} */
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

/**
 * @param {Record<string, {shape: number[], data: number[]}>} weights
 * @returns {Record<string, Var>} short name -> parameter
 */
export function parameters(weights) {
  return Object.fromEntries(
    NAMES.map(([long, short]) => {
      const { shape, data } = weights[long];
      return [short, variable(short, shape.length === 1 ? 1 : shape[0], shape[shape.length - 1], data)];
    }),
  );
}

/**
 * ids (T) -> loss, each tensor named, in stages.
 * @param {Record<string, Var>} w @param {number[]} ids @param {Config} config
 * @returns {{stages: Stage[], loss: Var, logits: Var}}
 */
export function forward(w, ids, { n_heads, norm_eps }) {
  for (const p of Object.values(w)) p.uses = [];
  const D = w.E.cols;
  const width = D / n_heads;
  const P = variable(
    "P",
    ids.length,
    D,
    ids.flatMap((_, p) => sinusoid(p, D, 10000)),
  );
  const tokens = apply(lookup, "E[ids]", [w.E], ids);
  const x = apply(add, "x", [tokens, P]);
  const n1 = apply(layerNorm, "LN(x)", [x, w["gain 1"], w["bias 1"]], norm_eps);
  const q = apply(matmul, "Q", [n1, w.W_q, w.b_q]);
  const k = apply(matmul, "K", [n1, w.W_k, w.b_k]);
  const v = apply(matmul, "V", [n1, w.W_v, w.b_v]);
  /** @type {Stage[]} */
  const heads = [];
  const parts = Array.from({ length: n_heads }, (_, h) => {
    const cut = { start: h * width, width };
    const [qh, kh, vh] = [
      apply(columns, `Q, head ${h}`, [q], cut),
      apply(columns, `K, head ${h}`, [k], cut),
      apply(columns, `V, head ${h}`, [v], cut),
    ];
    const s = apply(scores, `scores, head ${h}`, [qh, kh]);
    const p = apply(softmaxRows, `weights, head ${h}`, [s]);
    const out = apply(matmul, `head ${h}`, [p, vh]);
    heads.push({ title: `attention, head ${h}`, vars: [qh, kh, vh, s, p, out] });
    return out;
  });
  const joined = apply(concat, "concat", parts);
  const attended = apply(matmul, "attention", [joined, w.W_o, w.b_o]);
  const y = apply(add, "x + attention", [x, attended]);
  const n2 = apply(layerNorm, "LN(x + attention)", [y, w["gain 2"], w["bias 2"]], norm_eps);
  const up = apply(matmul, "up", [n2, w.W_up, w.b_up]);
  const hidden = apply(relu, "relu(up)", [up]);
  const down = apply(matmul, "FFN", [hidden, w.W_down, w.b_down]);
  const z = apply(add, "x + attention + FFN", [y, down]);
  const last = apply(layerNorm, "last norm", [z, w["gain 3"], w["bias 3"]], norm_eps);
  const UT = apply(transpose, "U^T", [w.U]);
  const logits = apply(matmul, "logits", [last, UT]);
  const loss = apply(crossEntropy, "loss", [logits], [...ids.slice(1), -1]);
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
 */

/** What each parameter becomes, as llmcore.optim computes it. State is kept between calls. */
/** @type {Record<string, () => (params: Var[], s: Settings) => Float64Array[]>} */
export const OPTIMIZERS = {
  sgd:
    () =>
    (params, { lr }) =>
      params.map((p) => p.data.map((x, i) => x - lr * p.grad[i])),
  momentum: () => {
    /** @type {Float64Array[]} */
    const past = [];
    return (params, { lr, momentum }) =>
      params.map((p, k) => {
        past[k] = (past[k] ?? new Float64Array(p.data.length)).map((m, i) => momentum * m + p.grad[i]);
        return p.data.map((x, i) => x - lr * past[k][i]);
      });
  },
  adamw: () => {
    /** @type {{m: Float64Array, v: Float64Array}[]} */
    const past = [];
    let t = 0;
    return (params, { lr, betas: [b1, b2], eps, weight_decay }) => {
      t += 1;
      return params.map((p, k) => {
        past[k] ??= { m: new Float64Array(p.data.length), v: new Float64Array(p.data.length) };
        const { m, v } = past[k];
        return p.data.map((x, i) => {
          m[i] = b1 * m[i] + (1 - b1) * p.grad[i];
          v[i] = b2 * v[i] + (1 - b2) * p.grad[i] ** 2;
          const size = Math.sqrt(v[i]) / Math.sqrt(1 - b2 ** t) + eps;
          return x * (1 - lr * weight_decay) - ((lr / (1 - b1 ** t)) * m[i]) / size;
        });
      });
    };
  },
};

/** The defaults of llmcore.optim. @type {Omit<Settings, "lr">} */
export const DEFAULTS = { momentum: 0.9, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
