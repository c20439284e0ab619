// Pipeline schedules: the orders that llmcore/widgets/pipeline.py ships, when each piece of work starts,
// what is idle, what is held.

/** @typedef {{kind: "F" | "B", microbatch: number, chunk: number}} Work */
/** @typedef {Work & {start: number, end: number}} Span */
/**
 * forwards, backwards: "0 1 0.1 1.1", the microbatches in order, after the point the chunk of layers.
 * stages: "F1 FB2 B1" reads F, FB FB, B: how each stage takes turns between both.
 * @typedef {{forwards: string, backwards: string, stages: string[]}} Orders
 * @typedef {Record<string, Record<string, Record<string, Orders>>>} Schedules by schedule, chunks, stages
 */

/** "3.1" is microbatch 3, chunk 1. @param {"F" | "B"} kind @param {string} list @returns {Work[]} */
const pieces = (kind, list) =>
  list.split(" ").map((text) => {
    const [microbatch, chunk = 0] = text.split(".").map(Number);
    return { kind, microbatch, chunk };
  });

/** "F1 FB2 B1" is FFBFBB. @param {string} runs */
const turns = (runs) => runs.replace(/([FB]+)(\d+) ?/g, (_, unit, count) => unit.repeat(Number(count)));

/**
 * Each stage's order of work: that of the most microbatches, without those from m on.
 * @param {Orders} shipped @param {number} m @returns {Work[][]}
 */
export function ordersOf({ forwards, backwards, stages }, m) {
  return stages.map((runs) => {
    const left = { F: pieces("F", forwards), B: pieces("B", backwards) };
    const all = [...turns(runs)].map((kind) => left[/** @type {"F" | "B"} */ (kind)].shift());
    return /** @type {Work[]} */ (all).filter((work) => work.microbatch < m);
  });
}

/**
 * When each work runs: as soon as its stage is free and its input is there.
 * @param {Work[][]} orders @param {number} forward @param {number} backward @returns {Span[][]}
 */
export function timeline(orders, forward, backward) {
  const p = orders.length;
  const v = 1 + Math.max(...orders.flat().map((w) => w.chunk));
  const parts = p * v;
  const lasts = { F: forward / v, B: backward / v };
  /** @type {Map<string, number>} */
  const done = new Map();
  /** @type {Span[][]} */
  const spans = orders.map(() => []);
  /** @param {number} stage @param {Work} w @returns {number | undefined} */
  const ready = (stage, w) => {
    const part = w.chunk * p + stage;
    if (w.kind === "F") return part === 0 ? 0 : done.get(`F${w.microbatch},${part - 1}`);
    const own = done.get(`F${w.microbatch},${part}`);
    const after = part === parts - 1 ? own : done.get(`B${w.microbatch},${part + 1}`);
    return own === undefined || after === undefined ? undefined : Math.max(own, after);
  };
  for (let moved = true; moved;) {
    moved = false;
    orders.forEach((order, stage) => {
      const mine = spans[stage];
      while (mine.length < order.length) {
        const w = order[mine.length];
        const arrived = ready(stage, w);
        if (arrived === undefined) break;
        const start = Math.max(arrived, mine.length ? mine[mine.length - 1].end : 0);
        mine.push({ ...w, start, end: start + lasts[w.kind] });
        done.set(`${w.kind}${w.microbatch},${w.chunk * p + stage}`, start + lasts[w.kind]);
        moved = true;
      }
    });
  }
  return spans;
}

/** The share of all stages' time in which they wait. @param {Span[][]} spans */
export function bubble(spans) {
  const all = spans.flat();
  const length = Math.max(...all.map((s) => s.end));
  return 1 - all.reduce((sum, s) => sum + s.end - s.start, 0) / (length * spans.length);
}

/** Forwards made and backwards not yet, after each work. @param {Work[]} order */
export function holding(order) {
  let now = 0;
  return order.map((w) => (now += w.kind === "F" ? 1 : -1));
}

/** @param {Work} w */
export const name = (w) => `${w.kind}${w.microbatch}${w.chunk ? `.${w.chunk}` : ""}`;
