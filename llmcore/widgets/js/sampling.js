// SamplingExplorer: logits to probabilities under temperature,
// top-k, top-p and min-p, and draws. See sampling.py.
import { button, div, h, listing, meter, slider, span, status } from "./dom.js";
import { format, softmax } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {{temperature: number, k: number, p: number, min: number}} Rules */

const ROWS = 20;

/**
 * Probabilities after the rules, in the order of llmcore.sampling:
 * temperature, top-k, top-p, min-p. Tokens that are cut have 0.
 * @param {number[]} logits @param {Rules} rules
 */
export function shaped(logits, { temperature, k, p, min }) {
  let now = logits.map((x) => x / temperature);
  const order = () =>
    now
      .map((x, i) => ({ x, i }))
      .sort((a, b) => b.x - a.x || a.i - b.i)
      .map(({ i }) => i);
  const keep = (/** @type {Set<number>} */ kept) => now.map((x, i) => (kept.has(i) ? x : -Infinity));
  now = keep(new Set(order().slice(0, k)));
  let before = 0;
  const probabilities = softmax(now);
  const kept = new Set();
  for (const i of order()) {
    if (before < p && probabilities[i] > 0) kept.add(i);
    before += probabilities[i];
  }
  now = keep(kept);
  const after = softmax(now);
  const top = Math.max(...after);
  now = now.map((x, i) => (after[i] >= min * top ? x : -Infinity));
  return softmax(now);
}

/** A generator of uniform numbers that a seed fixes (mulberry32). @param {number} seed */
export function uniform(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * The first index whose cumulative probability passes u.
 * @param {number[]} probabilities @param {number} u
 */
export function pick(probabilities, u) {
  let sum = 0;
  let last = 0;
  for (const [i, p] of probabilities.entries()) {
    if (p > 0) last = i;
    sum += p;
    if (u < sum) return i;
  }
  return last;
}

/** @param {HTMLElement} root @param {{logits: number[], tokens: string[]}} state @param {Link} link */
export function sampling(root, { logits, tokens }, link) {
  const V = logits.length;
  const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
  /** @type {Rules} */
  const rules = { temperature: 1, k: V, p: 1, min: 0 };
  let counts = Array(V).fill(0);
  let draws = 0;
  let next = uniform(1);
  const body = h("tbody", {});
  const said = status();

  function show() {
    const now = shaped(logits, rules);
    const drawn = draws ? counts.map((count) => count / draws) : null;
    body.replaceChildren(...rowsOf(order, tokens, logits, now, drawn));
    said.textContent = sentence(order, now, draws);
    const probabilities = now.map((p) => Number(p.toPrecision(6)));
    link.set("probabilities", probabilities);
  }

  /** Other rules: what was drawn under the old ones is forgotten. @param {Partial<Rules>} change */
  function set(change) {
    Object.assign(rules, change);
    counts = Array(V).fill(0);
    draws = 0;
    next = uniform(1);
    show();
  }
  /** @param {number} n */
  function draw(n) {
    const now = shaped(logits, rules);
    for (let i = 0; i < n; i += 1) counts[pick(now, next())] += 1;
    draws += n;
    show();
  }

  root.append(
    div(
      "ll-tools",
      ...ruleSliders(V, set).map(({ element }) => element),
      button("draw once", () => draw(1)),
      button("draw 1,000 times", () => draw(1000)),
    ),
    listing({
      region: "Table of tokens",
      label: "Tokens, the most probable first",
      heads: ["token", "logit", "softmax", span("ll-hidden", "bar"), "now", "drawn"],
      body,
    }),
    said,
  );
  show();
}

/** @param {number} V @param {(change: Partial<Rules>) => void} set */
function ruleSliders(V, set) {
  const written = (/** @type {number} */ x) => x.toFixed(2);
  const share = { max: 1, step: 0.01, format: written };
  return [
    slider({
      label: "temperature",
      min: 0.05,
      max: 3,
      step: 0.05,
      value: 1,
      format: written,
      oninput: (temperature) => set({ temperature }),
    }),
    slider({ label: "top-k", min: 1, max: V, value: V, oninput: (k) => set({ k }) }),
    slider({ label: "top-p", min: 0.01, value: 1, ...share, oninput: (p) => set({ p }) }),
    slider({ label: "min-p", min: 0, value: 0, ...share, oninput: (min) => set({ min }) }),
  ];
}

/**
 * The most probable tokens, one a row.
 * @param {number[]} order @param {string[]} tokens
 * @param {number[]} logits @param {number[]} now probabilities
 *   after the rules @param {number[] | null} drawn share of the draws, null before the first
 */
function rowsOf(order, tokens, logits, now, drawn) {
  const plain = softmax(logits);
  const top = Math.max(...now);
  return order
    .slice(0, ROWS)
    .map((i) =>
      h(
        "tr",
        { class: now[i] > 0 ? "" : "ll-cut" },
        h("th", { scope: "row" }, tokens[i]),
        h("td", {}, format(logits[i])),
        h("td", {}, plain[i].toFixed(4)),
        h("td", { class: "ll-barcell" }, meter(now[i] / top)),
        h("td", {}, now[i] > 0 ? now[i].toFixed(4) : "cut"),
        h("td", {}, drawn ? drawn[i].toFixed(4) : ""),
      ),
    );
}

/** @param {number[]} order @param {number[]} now @param {number} draws */
function sentence(order, now, draws) {
  const V = now.length;
  const left = now.filter((p) => p > 0).length;
  const entropy = now.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
  const rest = order.slice(ROWS).reduce((sum, i) => sum + now[i], 0);
  const unlisted = V > ROWS ? `, the ${V - ROWS} tokens not listed hold ${rest.toFixed(4)}` : "";
  const drawn = draws ? `; drawn ${draws} times` : "";
  return `${left} of ${V} tokens left, entropy ${format(entropy)} nats${unlisted}${drawn}`;
}
