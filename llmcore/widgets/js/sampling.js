// SamplingExplorer: logits to probabilities under temperature,
// top-k, top-p and min-p, and draws. See sampling.py.
import { button, h, slider } from "./dom.js";
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
export function sampling(root, state, link) {
  const { logits, tokens } = state;
  const V = logits.length;
  const plain = softmax(logits);
  /** @type {Rules} */
  const rules = { temperature: 1, k: V, p: 1, min: 0 };
  let counts = Array(V).fill(0);
  let draws = 0;
  let next = uniform(1);
  const body = h("tbody", {});
  const said = h("div", { class: "ll-readout", role: "status" });

  function show() {
    const now = shaped(logits, rules);
    const order = logits.map((x, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
    const top = Math.max(...now);
    const left = now.filter((p) => p > 0).length;
    const entropy = now.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
    body.replaceChildren(
      ...order.slice(0, ROWS).map((i) =>
        h(
          "tr",
          { class: now[i] > 0 ? "" : "ll-cut" },
          h("th", { scope: "row" }, tokens[i]),
          h("td", {}, format(logits[i])),
          h("td", {}, plain[i].toFixed(4)),
          h(
            "td",
            { class: "ll-barcell" },
            h("span", {
              class: "ll-meter",
              style: `--v:${(now[i] / top).toFixed(4)}`,
              "aria-hidden": "true",
            }),
          ),
          h("td", {}, now[i] > 0 ? now[i].toFixed(4) : "cut"),
          h("td", {}, draws ? (counts[i] / draws).toFixed(4) : ""),
        ),
      ),
    );
    const rest = order.slice(ROWS).reduce((sum, i) => sum + now[i], 0);
    const unlisted = V > ROWS ? `, the ${V - ROWS} tokens not listed hold ${rest.toFixed(4)}` : "";
    const drawn = draws ? `; drawn ${draws} times` : "";
    said.textContent = `${left} of ${V} tokens left, entropy ${format(entropy)} nats${unlisted}${drawn}`;
    link.set(
      "probabilities",
      now.map((p) => Number(p.toPrecision(6))),
    );
  }

  /** @param {Partial<Rules>} change */
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

  const heads = ["token", "logit", "softmax", "", "now", "drawn"].map((t) =>
    h("th", { scope: "col" }, t || h("span", { class: "ll-hidden" }, "bar")),
  );
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      slider({
        label: "temperature",
        min: 0.05,
        max: 3,
        step: 0.05,
        value: 1,
        format: (x) => x.toFixed(2),
        oninput: (temperature) => set({ temperature }),
      }).element,
      slider({ label: "top-k", min: 1, max: V, value: V, oninput: (k) => set({ k }) }).element,
      slider({
        label: "top-p",
        min: 0.01,
        max: 1,
        step: 0.01,
        value: 1,
        format: (x) => x.toFixed(2),
        oninput: (p) => set({ p }),
      }).element,
      slider({
        label: "min-p",
        min: 0,
        max: 1,
        step: 0.01,
        value: 0,
        format: (x) => x.toFixed(2),
        oninput: (min) => set({ min }),
      }).element,
      button("draw once", () => draw(1)),
      button("draw 1,000 times", () => draw(1000)),
    ),
    h(
      "div",
      { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": "Table of tokens" },
      h(
        "table",
        { class: "ll-list", "aria-label": "Tokens, the most probable first" },
        h("thead", {}, h("tr", {}, ...heads)),
        body,
      ),
    ),
    said,
  );
  show();
}
