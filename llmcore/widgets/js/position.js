// PositionExplorer: sinusoids that are added, and pairs that are
// turned. Everything is computed here from D, base and two vectors.
import { chart } from "./axes.js";
import { legend, scaleOf } from "./color.js";
import { choice, div, h, note, slider, status, svg } from "./dom.js";
import { grid } from "./grid.js";
import { dot, format } from "./number.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */

/** base^(-2i/d), in radians per position. @param {number} d @param {number} base */
export const frequencies = (d, base) => Array.from({ length: d / 2 }, (_, i) => base ** ((-2 * i) / d));

/**
 * sin and cos of position times frequency, alternating.
 * @param {number} p @param {number} d @param {number} base
 */
export const sinusoid = (p, d, base) =>
  frequencies(d, base).flatMap((theta) => [Math.sin(p * theta), Math.cos(p * theta)]);

/**
 * A vector with each pair (i, i + d/2) turned by p times its frequency: the half-split layout.
 * @param {number[]} x @param {number} p @param {number} base
 */
export function turn(x, p, base) {
  const half = x.length / 2;
  const out = [...x];
  frequencies(x.length, base).forEach((theta, i) => {
    const [c, s] = [Math.cos(p * theta), Math.sin(p * theta)];
    out[i] = x[i] * c - x[i + half] * s;
    out[i + half] = x[i] * s + x[i + half] * c;
  });
  return out;
}

/**
 * @param {HTMLElement} root @param {{d_model: number, positions: number,
 *   base: number, q: number[], k: number[]}} state @param {Link} link
 */
export function position(root, state, link) {
  const views = { sinusoidal: h("div", {}), rotary: h("div", {}) };
  const show = (/** @type {string} */ name) => {
    views.sinusoidal.hidden = name !== "sinusoidal";
    views.rotary.hidden = name !== "rotary";
    link.set("view", name);
  };
  const view = link.get("view") === "rotary" ? "rotary" : "sinusoidal";
  const kind = choice({
    label: "kind of position",
    options: [
      ["sinusoidal", "sinusoidal: added"],
      ["rotary", "rotary: turned"],
    ],
    value: view,
    onchange: show,
  });
  root.append(div("ll-tools", kind), views.sinusoidal, views.rotary);
  sinusoidal(root, views.sinusoidal, state);
  rotary(views.rotary, state, link);
  show(view);
}

/**
 * @param {HTMLElement} root @param {HTMLElement} place
 * @param {{d_model: number, positions: number, base: number}} state
 */
function sinusoidal(root, place, { d_model, positions, base }) {
  const tip = tooltip(root);
  const rows = Array.from({ length: positions }, (_, p) => sinusoid(p, d_model, base));
  const said = status();
  const scale = scaleOf("diverging", rows.flat());
  const say = (/** @type {number} */ p, /** @type {number} */ j) => {
    const theta = base ** ((-2 * Math.floor(j / 2)) / d_model);
    const f = j % 2 ? "cos" : "sin";
    const period = format((2 * Math.PI) / theta);
    const value = `P[${p}, ${j}] = ${f}(${p} × ${format(theta)}) = ${format(rows[p][j])}`;
    said.textContent = `${value}; this pair turns once in ${period} positions`;
  };
  const table = grid({
    label: "Sinusoidal positions: position by dimension",
    rows: rows.map((_, p) => String(p)),
    cols: Array.from({ length: d_model }, (_, j) => String(j)),
    value: (p, j) => rows[p][j],
    scale,
    digits: 2,
    compact: d_model > 12 || positions > 24,
    onMove: (p, j, cell) => {
      tip.show(cell, format(rows[p][j]));
      say(p, j);
    },
    onLeave: () => tip.hide(),
    onChoose: say,
  });
  const how = "Rows are positions, columns are dimensions. Columns on the left change fast, ";
  place.append(
    note(`${how}columns on the right slowly.`),
    table.element,
    div("ll-below", legend(scale)),
    said,
  );
  said.textContent = "Choose a cell to see its formula.";
}

/** @typedef {{positions: number, base: number, q: number[], k: number[]}} Turned */

/** @param {HTMLElement} place @param {Turned} state @param {Link} link */
function rotary(place, { positions, base, q, k }, link) {
  let [m, n] = [Math.min(6, positions - 1), Math.min(2, positions - 1)];
  const dials = Array.from({ length: q.length / 2 }, () =>
    svg("svg", { viewBox: "-1.25 -1.25 2.5 2.5", role: "img", class: "ll-dial" }),
  );
  const said = status();
  const scoreAt = (/** @type {number} */ a, /** @type {number} */ b) =>
    dot(turn(q, a, base), turn(k, b, base));
  const curve = scoresByOffset(positions, scoreAt);
  const series = () => [
    { name: "every offset", points: curve },
    { name: "your two positions", points: [pair(m - n, scoreAt(m, n))], marks: true },
  ];
  const plot = chart({
    describe: "Score of the turned vectors against the offset of their positions",
    x: { label: "offset: position of q − position of k" },
    y: { label: "score q · k" },
    series: series(),
  });

  function draw() {
    const size = longest(q, k);
    dials.forEach((dial, i) => drawDial(dial, i, turn(q, m, base), turn(k, n, base), size));
    const where = `q at ${m}, k at ${n}, offset ${m - n}: score ${format(scoreAt(m, n))}`;
    said.textContent = `${where}. Move both by the same amount: the score stays.`;
    plot.update(series());
    link.set("score", scoreAt(m, n));
  }

  const mover = (
    /** @type {string} */ label,
    /** @type {number} */ value,
    /** @type {(x: number) => void} */ move,
  ) => slider({ label, min: 0, max: positions - 1, value, oninput: (x) => (move(x), draw()) });
  const first = mover("position of q", m, (x) => (m = x));
  const second = mover("position of k", n, (x) => (n = x));
  let before = 0;
  const both = slider({
    label: "move both",
    min: 0,
    max: 20,
    value: 0,
    oninput: (x) => {
      const by = Math.max(-Math.min(m, n), Math.min(x - before, positions - 1 - Math.max(m, n)));
      before = x;
      [m, n] = [m + by, n + by];
      first.set(m);
      second.set(n);
      draw();
    },
  });
  place.append(div("ll-tools", first.element, second.element, both.element));
  place.append(
    div("ll-dials", ...dials.map((dial, i) => named(dial, i, q.length, base))),
    said,
    plot.element,
  );
  draw();
}

/** @param {number} x @param {number} y @returns {[number, number]} */
const pair = (x, y) => [x, y];

/** The score of every offset. @param {number} positions @param {(m: number, n: number) => number} scoreAt */
const scoresByOffset = (positions, scoreAt) =>
  Array.from({ length: 2 * positions - 1 }, (_, i) => {
    const offset = i - positions + 1;
    return pair(offset, scoreAt(Math.max(0, offset), Math.max(0, -offset)));
  });

/** Length of the longest pair of both vectors; 1 where all are 0. @param {...number[]} vectors */
function longest(...vectors) {
  const lengths = vectors.flatMap((x) =>
    Array.from({ length: x.length / 2 }, (_, i) => Math.hypot(x[i], x[i + x.length / 2])),
  );
  return Math.max(...lengths) || 1;
}

/**
 * Pair i of both turned vectors.
 * @param {SVGElement} dial @param {number} i @param {number[]} q @param {number[]} k @param {number} size
 */
function drawDial(dial, i, q, k, size) {
  const half = q.length / 2;
  const arrow = (/** @type {number[]} */ x, /** @type {string} */ name, /** @type {string} */ label) => {
    const [px, py] = [x[i] / size, -x[i + half] / size];
    const text = {
      x: px * 1.13,
      y: py * 1.13 + 0.06,
      class: `ll-arrow-name ${name}`,
      "text-anchor": "middle",
    };
    const line = svg("line", { x1: 0, y1: 0, x2: px, y2: py, class: `ll-arrow ${name}` });
    return [line, svg("text", text, label)];
  };
  const tip = (/** @type {number[]} */ x) => `${format(x[i], 3)}, ${format(x[i + half], 3)}`;
  dial.setAttribute("aria-label", `Pair ${i}: q points to ${tip(q)}; k to ${tip(k)}`);
  dial.replaceChildren(
    svg("circle", { r: 1, class: "ll-ring" }),
    ...arrow(q, "ll-q", "q"),
    ...arrow(k, "ll-k", "k"),
  );
}

/**
 * A dial with the frequency of its pair.
 * @param {SVGElement} dial @param {number} i @param {number} d @param {number} base
 */
function named(dial, i, d, base) {
  const words = `pair ${i}: ${format(frequencies(d, base)[i])} radians a position`;
  return h("figure", { class: "ll-pairdial" }, dial, div("ll-caption", words));
}
