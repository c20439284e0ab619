// The state of TrainingStep, and functions from state to state. Nothing here is changed in place.
import { format } from "./number.js";
import { backward } from "./tape.js";
import { DEFAULTS, NAMES, OPTIMIZERS, forward, parameters, remembered } from "./toy.js";

/** @typedef {import("./tape.js").Var} Var */
/** @typedef {Record<string, {shape: number[], data: ArrayLike<number>}>} Weights by llmcore's names */
/**
 * @typedef {{weights: Weights, ids: number[], vocabulary: [number, string][], lr: number,
 *   config: import("./toy.js").Config}} Shipped
 */
/**
 * kind: which optimizer; losses: before each update so far and after the last. moment: 0 to n - 1 forward,
 * n to 2 n - 1 backward (last made first), 2 n the update. open: the name of the tensor that is shown;
 * chosen: the number that is explained. said: what the last change did to the loss.
 * @typedef {{shipped: Shipped, weights: Weights, ids: number[], lr: number, kind: string,
 *   memory: import("./toy.js").Memory, losses: number[], moment: number, said: string, open: string,
 *   chosen: {part: "value" | "gradient", r: number, c: number}}} State
 * @typedef {ReturnType<typeof compute>} Step all tensors of
 *   one step, their gradients, and the weights after it
 */

/** @param {Weights} weights */
const forgotten = (weights) => remembered(Object.values(parameters(weights)));

/** @param {Shipped} shipped @returns {State} */
export function initial(shipped) {
  const { weights, ids, lr, config } = shipped;
  const made = forward(parameters(weights), ids, config).stages.flatMap((s) => s.vars);
  return {
    shipped,
    weights,
    ids,
    lr,
    kind: "sgd",
    memory: forgotten(weights),
    losses: [],
    moment: made.length - 1,
    said: "",
    open: "scores, head 0",
    chosen: { part: "value", r: 0, c: 0 },
  };
}

/** Forward, backward and the update that would follow. @param {State} state */
export function compute({ shipped, weights, ids, lr, kind, memory }) {
  const w = parameters(weights);
  const { stages, loss } = forward(w, ids, shipped.config);
  backward(loss);
  const params = NAMES.map(([, short]) => w[short]);
  const next = OPTIMIZERS[kind](memory, params, { ...DEFAULTS, lr });
  const after = Object.fromEntries(params.map((p, i) => [p.name, next.data[i]]));
  const made = stages.flatMap((s) => s.vars);
  return { stages, loss, made, params, after, memory: next.memory };
}

/** Do two states compute the same step? @param {State} a @param {State} b */
export const sameStep = (a, b) =>
  a.weights === b.weights && a.ids === b.ids && a.lr === b.lr && a.kind === b.kind && a.memory === b.memory;

/** @param {State} state */
export const lossOf = ({ shipped, weights, ids }) =>
  forward(parameters(weights), ids, shipped.config).loss.data[0];

/** @param {State} state @returns {State} */
function updatedOnce(state) {
  const { loss, after, memory } = compute(state);
  const losses = state.losses.length ? state.losses : [loss.data[0]];
  const weights = Object.fromEntries(
    NAMES.map(([long, short]) => [long, { ...state.weights[long], data: after[short] }]),
  );
  const next = { ...state, weights, memory };
  return { ...next, losses: [...losses, lossOf(next)] };
}

/**
 * The same state, and how the loss came there from another.
 * @param {State} before @param {State} after @param {string} what @returns {State}
 */
const told = (before, after, what) => ({
  ...after,
  said: `${what}: loss ${format(lossOf(before))} → ${format(lossOf(after))}`,
});

/**
 * Several updates; the walk through a step begins anew after its forward.
 * @param {State} state @param {number} count
 */
export function updated(state, count) {
  let next = state;
  for (let i = 0; i < count; i += 1) next = updatedOnce(next);
  const { moment } = initial(state.shipped);
  return told(state, { ...next, moment }, `${count} ${count === 1 ? "update" : "updates"}`);
}

/**
 * Another optimizer remembers nothing, and its losses are counted anew.
 * @param {State} state @param {string} kind
 */
export const withOptimizer = (state, kind) => ({
  ...state,
  kind,
  memory: forgotten(state.weights),
  losses: [],
});

/** @param {State} state @param {number} lr @returns {State} */
export const withRate = (state, lr) => ({ ...state, lr });

/** The text of an id. @param {Shipped} shipped @param {number} id */
export const tokenOf = ({ vocabulary }, id) => vocabulary.find(([i]) => i === id)?.[1] ?? `id ${id}`;

/** @param {State} state @param {number} place @param {number} id @returns {State} */
export function withToken(state, place, id) {
  const after = { ...state, ids: state.ids.with(place, id) };
  return told(state, after, `token ${place} is now ${tokenOf(state.shipped, id)}`);
}

/**
 * One weight set by hand: the chosen number of the open parameter.
 * @param {State} state @param {number} x @returns {State}
 */
export function withWeight(state, x) {
  const long = NAMES.find(([, short]) => short === state.open)?.[0];
  if (long === undefined) return state;
  const { shape, data } = state.weights[long];
  const { r, c } = state.chosen;
  const moved = Float64Array.from(data);
  moved[r * shape[shape.length - 1] + c] = x;
  const after = { ...state, weights: { ...state.weights, [long]: { shape, data: moved } } };
  return told(state, after, `${state.open}[${r}, ${c}] = ${format(x)}`);
}

/**
 * The shipped weights and ids again; optimizer, rate and what is open stay.
 * @param {State} state @returns {State}
 */
export function reset(state) {
  const { ids, weights, moment } = initial(state.shipped);
  return withOptimizer({ ...state, ids, weights, moment, said: "" }, state.kind);
}

/** @param {State} state @param {string} name @returns {State} */
export const opened = (state, name) => ({ ...state, open: name, chosen: { part: "value", r: 0, c: 0 } });

/** @param {State} state @param {State["chosen"]} chosen @returns {State} */
export const choosing = (state, chosen) => ({ ...state, chosen });

/** @param {State} state @param {number} moment @returns {State} */
export const atMoment = (state, moment) => ({ ...state, moment });

/**
 * Has a tensor been made at a moment? Parameters always are.
 * @param {Step} step @param {number} moment @param {Var} v
 */
export const hasValue = ({ made }, moment, v) => v.kind === "parameter" || made.indexOf(v) <= moment;

/**
 * A tensor has its gradient once everything that reads it has sent its share back.
 * @param {Step} step @param {number} moment @param {Var} v
 */
export function hasGradient({ made, loss }, moment, v) {
  if (v.kind === "constant" || moment < made.length) return false;
  const sentAt = (/** @type {Var} */ out) => 2 * made.length - 1 - made.indexOf(out);
  return v === loss || (v.uses.length > 0 && v.uses.every(({ out }) => sentAt(out) <= moment));
}

/** What happens at a moment. @param {Step} step @param {number} moment */
export function phase({ made }, moment) {
  const n = made.length;
  const words =
    moment < n
      ? `forward: ${made[moment].name} is made`
      : moment < 2 * n
        ? `backward: ${made[2 * n - 1 - moment].name} sends its gradient to what it read`
        : "update: every parameter moves";
  return `moment ${moment + 1} of ${2 * n + 1} — ${words}`;
}
