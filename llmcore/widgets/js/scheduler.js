// The state of PipelineSchedule, and functions from state to state. Nothing here is changed in place.
import { format } from "./number.js";
import { bubble, holding, name, ordersOf, timeline } from "./schedule.js";

/** @typedef {import("./schedule.js").Span} Span */
/**
 * @typedef {{schedule: string, stages: number, microbatches: number, chunks: number, forward: number,
 *   backward: number, orders: import("./schedule.js").Schedules}} Shipped
 */
/**
 * p stages, m microbatches, v chunks; ratio: time of a backward in forwards. time: the moment that is read;
 * followed: a microbatch, -1 for none. note: how a choice was made to fit another.
 * @typedef {{shipped: Shipped, kind: string, p: number, m: number, v: number, ratio: number, time: number,
 *   followed: number, note: string}} State
 * @typedef {ReturnType<typeof run>} Run
 */

const MOST = 32; // microbatches
const NEAR = 1e-9; // moments nearer than this are one

/** @param {Shipped} shipped @param {number} time @returns {State} */
export function initial(shipped, time) {
  const { schedule: kind, stages: p, microbatches: m, chunks: v, forward, backward } = shipped;
  return settled({ shipped, kind, p, m, v, ratio: backward / forward, time, followed: -1, note: "" });
}

/** Is a stage made of several chunks? @param {State} state */
export const hasChunks = ({ kind }) => kind === "interleaved";

/**
 * Everything that follows from a state but the moment: the orders and when each piece of work runs.
 * @param {State} state
 */
export function run({ shipped, kind, p, m, v, ratio }) {
  const orders = ordersOf(shipped.orders[kind][v][p], m);
  const spans = timeline(orders, shipped.forward, shipped.forward * ratio);
  const all = spans.flat();
  const times = [0, ...all.flatMap((s) => [s.start, s.end])].map((t) => Number(t.toFixed(9)));
  return {
    orders,
    spans,
    end: Math.max(...all.map((s) => s.end)),
    moments: [...new Set(times)].sort((a, b) => a - b),
  };
}

/** Which of the moments is nearest. @param {number[]} moments @param {number} time */
export const nearest = (moments, time) =>
  moments.reduce((best, t, k) => (Math.abs(t - time) < Math.abs(moments[best] - time) ? k : best), 0);

/**
 * Chunks and microbatches as the schedule takes them: interleaved ones go in groups of p.
 * @param {State} state @returns {State}
 */
function fitted(state) {
  const { p, m, v } = state;
  if (!hasChunks(state)) return { ...state, v: 1, note: "" };
  const fit = Math.min(Math.ceil(m / p), Math.floor(MOST / p)) * p;
  const groups = `interleaved schedules run microbatches in groups of ${p}`;
  return { ...state, v: Math.max(2, v), m: fit, note: fit === m ? "" : `${groups}: ${m} became ${fit}` };
}

/**
 * Every choice fits the others: the moment is one at which something happens, who is followed exists.
 * @param {State} state
 */
function settled(state) {
  const fit = fitted(state);
  return atTime({ ...fit, followed: Math.min(fit.followed, fit.m - 1) }, fit.time);
}

/**
 * @param {State} state @param {number} time @returns {State} the nearest moment at which something happens
 */
export function atTime(state, time) {
  const { moments } = run(state);
  return { ...state, time: moments[nearest(moments, time)] };
}

/** So many moments on, or back. @param {State} state @param {number} by @returns {State} */
export function moved(state, by) {
  const { moments } = run(state);
  const k = nearest(moments, state.time) + by;
  return { ...state, time: moments[Math.max(0, Math.min(moments.length - 1, k))] };
}

/**
 * Another schedule, or number of stages, microbatches, chunks, or ratio.
 * @param {State} state @param {Partial<State>} choice
 */
export const withChoice = (state, choice) => settled({ ...state, ...choice });

/** @param {State} state @param {number} followed @returns {State} */
export const following = (state, followed) => ({ ...state, followed });

/**
 * A piece of work that was clicked: its microbatch is followed, or no more, and its start is the moment.
 * @param {State} state @param {Span} work
 */
export const clicked = (state, { microbatch, start }) =>
  atTime(following(state, state.followed === microbatch ? -1 : microbatch), start);

/**
 * The share that is idle, counted and by the formula, and what each stage holds at most.
 * @param {State} state @param {Run} made
 */
export function results({ p, m, v }, { spans }) {
  const predicted = (p - 1) / (v * m + p - 1);
  const counted = bubble(spans);
  return {
    counted,
    predicted,
    right: Math.abs(counted - predicted) < NEAR,
    held: spans.map((s) => most(s) / v),
  };
}

/** The most activations that a stage holds. @param {Span[]} spans */
export const most = (spans) => Math.max(...holding(spans));

/** What each stage does at the moment. @param {State} state @param {Run} made */
export function sentence({ time, v }, { spans }) {
  const ended = (/** @type {Span[]} */ list, /** @type {"F" | "B"} */ kind) =>
    list.filter((w) => w.kind === kind && w.end <= time + NEAR).length;
  const words = spans.map((list, s) => {
    const work = list.find((w) => w.start <= time + NEAR && time + NEAR < w.end);
    const idle = time >= list[list.length - 1].end - NEAR ? "is done" : "waits";
    const held = format((ended(list, "F") - ended(list, "B")) / v);
    return `stage ${s} ${work ? `does ${name(work)}` : idle}, holds ${held}`;
  });
  return `time ${format(time)}: ${words.join("; ")}`;
}
