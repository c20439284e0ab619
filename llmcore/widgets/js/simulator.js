// The collectives, the state of CollectiveSimulator, and functions from state to state.
// Nothing here is changed in place. The schedules come from llmcore/distributed/schedules.py.

/**
 * source, destination, chunk (null: all of them), 1 to add or 0 to overwrite
 * @typedef {[number, number, number | null, number]} Send
 */
/** @typedef {{value: number, from: number[]}} Held a chunk of a rank: its value, and whose parts are in it */
/** @typedef {(Held | null)[][]} Buffers rank, chunk */
/**
 * starts: does rank r hold chunk c before the first step? halves: of an all-reduce, one after the other.
 * share: of the buffer, what the busiest rank sends; formula: the same as it is written.
 * @typedef {{topology: "ring" | "tree", starts: (r: number, c: number) => boolean, result: string,
 *   halves?: [string, string], other?: string, formula: string, share: (p: number) => number}} Collective
 */

const every = () => true;
const ownChunk = (/** @type {number} */ r, /** @type {number} */ c) => r === c;
const root = (/** @type {number} */ r) => r === 0;
const SUM = "every rank holds the sum";
const doublings = (/** @type {number} */ p) => Math.ceil(Math.log2(p));

/** By the names that Python ships. @type {Record<string, Collective>} */
export const COLLECTIVES = {
  "ring reduce-scatter": {
    topology: "ring",
    starts: every,
    result: "rank r holds chunk r of the sum",
    formula: "(p − 1) / p × n",
    share: (p) => (p - 1) / p,
  },
  "ring all-gather": {
    topology: "ring",
    starts: ownChunk,
    result: "every rank holds every chunk",
    formula: "(p − 1) / p × n",
    share: (p) => (p - 1) / p,
  },
  "ring all-reduce": {
    topology: "ring",
    starts: every,
    result: SUM,
    halves: ["reduce-scatter", "all-gather"],
    other: "tree all-reduce",
    formula: "2 (p − 1) / p × n",
    share: (p) => (2 * (p - 1)) / p,
  },
  "tree broadcast": {
    topology: "tree",
    starts: root,
    result: "every rank holds what the root had",
    formula: "⌈log₂ p⌉ × n",
    share: doublings,
  },
  "tree reduce": {
    topology: "tree",
    starts: every,
    result: "rank 0 holds the sum",
    formula: "n",
    share: () => 1,
  },
  "tree all-reduce": {
    topology: "tree",
    starts: every,
    result: SUM,
    halves: ["reduce", "broadcast"],
    other: "ring all-reduce",
    formula: "⌈log₂ p⌉ × n",
    share: doublings,
  },
};

/**
 * What every rank holds before the first step.
 * @param {string} name @param {number} p @param {number[][]} values @returns {Buffers}
 */
export function buffers(name, p, values) {
  const { starts } = COLLECTIVES[name];
  const row = (/** @type {number} */ r) =>
    Array.from({ length: p }, (_, c) => (starts(r, c) ? { value: values[r][c], from: [r] } : null));
  return Array.from({ length: p }, (_, r) => row(r));
}

/**
 * One step: every send reads what its source held before it.
 * @param {Buffers} before @param {Send[]} step @returns {Buffers}
 */
export function advance(before, step) {
  const next = before.map((row) => [...row]);
  for (const [source, destination, chunk, add] of step) {
    for (let c = 0; c < before.length; c += 1) {
      if (chunk !== null && c !== chunk) continue;
      const arrived = before[source][c];
      const own = next[destination][c];
      if (arrived) next[destination][c] = add && own ? added(own, arrived) : arrived;
    }
  }
  return next;
}

/** @param {Held} a @param {Held} b @returns {Held} */
const added = (a, b) => ({
  value: a.value + b.value,
  from: [...a.from, ...b.from].sort((x, y) => x - y),
});

/**
 * Bytes that each rank has sent in the first `steps` steps.
 * @param {Send[][]} schedule @param {number} steps @param {number} p @param {number} n
 */
export function sent(schedule, steps, p, n) {
  const total = Array(p).fill(0);
  for (const step of schedule.slice(0, steps))
    for (const [source, , chunk] of step) total[source] += chunk === null ? n : n / p;
  return total;
}

/**
 * Bytes of one message: a chunk in a ring, the buffer in a tree.
 * @param {string} name @param {number} p @param {number} n
 */
export const message = (name, p, n) => (COLLECTIVES[name].topology === "ring" ? n / p : n);

/**
 * steps x (latency + message / bandwidth)
 * @param {string} name @param {number} steps @param {number} p
 * @param {number} n @param {number} latency @param {number} bandwidth
 */
export const duration = (name, steps, p, n, latency, bandwidth) =>
  steps * (latency + message(name, p, n) / bandwidth);

/**
 * @typedef {{collective: string, ranks: number, values: number[][], n_bytes: number, latency: number,
 *   bandwidth: number, schedules: Record<string, Record<string, Send[][]>>}} Shipped
 * @typedef {{shipped: Shipped, name: string, ranks: number, n: number, step: number,
 *   chosen: [number, number]}} State n: bytes of a buffer; step: steps made; chosen: rank and chunk explained
 */

/** @param {Shipped} shipped @param {number} step @returns {State} */
export function initial(shipped, step) {
  const { collective, ranks, n_bytes } = shipped;
  return atStep({ shipped, name: collective, ranks, n: n_bytes, step: 0, chosen: [0, 0] }, step);
}

/** @param {State} state */
export const scheduleOf = ({ shipped, name, ranks }) => shipped.schedules[name][ranks];

/** What every rank holds after each step. @param {State} state @returns {Buffers[]} */
export function played(state) {
  const history = [buffers(state.name, state.ranks, state.shipped.values)];
  for (const step of scheduleOf(state)) history.push(advance(history[history.length - 1], step));
  return history;
}

/** @param {State} state @param {number} step @returns {State} */
export const atStep = (state, step) => ({
  ...state,
  step: Math.max(0, Math.min(scheduleOf(state).length, step)),
});

/** From its first step. @param {State} state @param {string} name @returns {State} */
export const withCollective = (state, name) => ({ ...state, name, step: 0 });

/**
 * From the first step; the chosen cell stays inside.
 * @param {State} state @param {number} ranks @returns {State}
 */
export function withRanks(state, ranks) {
  const [r, c] = state.chosen;
  return { ...state, ranks, step: 0, chosen: [Math.min(r, ranks - 1), Math.min(c, ranks - 1)] };
}

/** @param {State} state @param {number} n @returns {State} */
export const withBytes = (state, n) => ({ ...state, n });

/** @param {State} state @param {number} r @param {number} c @returns {State} */
export const choosing = (state, r, c) => ({ ...state, chosen: [r, c] });

/** What happens in the step that was made last. @param {State} state */
export function phase(state) {
  const schedule = scheduleOf(state);
  const { result, halves } = COLLECTIVES[state.name];
  if (!state.step) return `before the first step; after the last, ${result}`;
  const half = halves ? `${halves[state.step <= schedule.length / 2 ? 0 : 1]}: ` : "";
  const sends = schedule[state.step - 1].map(
    ([a, b, chunk, add]) =>
      `${a} → ${b} ${chunk === null ? "all" : `chunk ${chunk}`} ${add ? "(added)" : "(copied)"}`,
  );
  return `step ${state.step} of ${schedule.length} — ${half}${sends.join(", ")}`;
}
