// Pipeline schedules as llmcore/distributed/schedules.py makes them:
// orders of work, when each starts, what is idle, what is held.

/** @typedef {{kind: "F" | "B", microbatch: number, chunk: number}} Work */
/** @typedef {Work & {start: number, end: number}} Span */

/** @param {number} p @param {number} m @returns {Work[][]} */
export function gpipe(p, m) {
  const all = Array.from({ length: m }, (_, i) => i);
  const work = (/** @type {"F" | "B"} */ kind) => (/** @type {number} */ microbatch) => ({
    kind,
    microbatch,
    chunk: 0,
  });
  return Array.from({ length: p }, () => [...all.map(work("F")), ...[...all].reverse().map(work("B"))]);
}

/** 1F1B where v is 1. @param {number} p @param {number} m @param {number} v @returns {Work[][]} */
export function interleaved(p, m, v) {
  /** @param {number} k @param {"F" | "B"} kind @returns {Work} */
  const piece = (k, kind) => {
    if (v === 1) return { kind, microbatch: k, chunk: 0 };
    const chunk = Math.floor(k / p) % v;
    return {
      kind,
      microbatch: Math.floor(k / (p * v)) * p + (k % p),
      chunk: kind === "F" ? chunk : v - 1 - chunk,
    };
  };
  return Array.from({ length: p }, (_, stage) => {
    const ahead = v === 1 ? p - stage - 1 : 2 * (p - stage - 1) + (v - 1) * p;
    const order = [];
    for (let k = 0; k < m * v + ahead; k += 1) {
      if (k < m * v) order.push(piece(k, "F"));
      if (k >= ahead) order.push(piece(k - ahead, "B"));
    }
    return order;
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
