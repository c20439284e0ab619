// PositionExplorer: sinusoids that are added, and pairs that are
// turned. Everything is computed here from D, base and two vectors.
import { chart } from "./axes.js";
import { legend, scaleOf } from "./color.js";
import { choice, h, slider, svg } from "./dom.js";
import { grid } from "./grid.js";
import { dot, format } from "./number.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */

/** base^(-2i/d), in radians a position. @param {number} d @param {number} base */
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
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      choice({
        label: "kind of position",
        options: [
          ["sinusoidal", "sinusoidal: added"],
          ["rotary", "rotary: turned"],
        ],
        value: view,
        onchange: show,
      }),
    ),
    views.sinusoidal,
    views.rotary,
  );
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
  const said = h("div", { class: "ll-readout", role: "status" });
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
  place.append(
    h(
      "p",
      { class: "ll-note" },
      "Rows are positions, columns are dimensions.",
      " Columns on the left change fast, columns on the right slowly.",
    ),
    table.element,
    h("div", { class: "ll-below" }, legend(scale)),
    said,
  );
  said.textContent = "Choose a cell to see its formula.";
}

/**
 * @param {HTMLElement} place
 * @param {{positions: number, base: number, q: number[], k: number[]}} state @param {Link} link
 */
function rotary(place, { positions, base, q, k }, link) {
  let [m, n] = [Math.min(6, positions - 1), Math.min(2, positions - 1)];
  const half = q.length / 2;
  const dials = Array.from({ length: half }, () =>
    svg("svg", { viewBox: "-1.25 -1.25 2.5 2.5", role: "img", class: "ll-dial" }),
  );
  const said = h("div", { class: "ll-readout", role: "status" });
  const offsets = Array.from({ length: 2 * positions - 1 }, (_, i) => i - positions + 1);
  const curve = /** @type {[number, number][]} */ (
    offsets.map((o) => [o, dot(turn(q, Math.max(0, o), base), turn(k, Math.max(0, -o), base))])
  );
  const score = () => dot(turn(q, m, base), turn(k, n, base));
  const plot = chart({
    describe: "Score of the turned vectors against the offset of their positions",
    x: { label: "offset: position of q − position of k" },
    y: { label: "score q · k" },
    series: [
      { name: "every offset", points: curve },
      { name: "your two positions", points: [[m - n, score()]], marks: true },
    ],
  });

  function draw() {
    const [a, b] = [turn(q, m, base), turn(k, n, base)];
    const size =
      Math.max(
        ...[q, k].flatMap((x) => Array.from({ length: half }, (_, i) => Math.hypot(x[i], x[i + half]))),
      ) || 1;
    dials.forEach((dial, i) => {
      const arrow = (/** @type {number[]} */ x, /** @type {string} */ name, /** @type {string} */ label) => {
        const [px, py] = [x[i] / size, -x[i + half] / size];
        return [
          svg("line", { x1: 0, y1: 0, x2: px, y2: py, class: `ll-arrow ${name}` }),
          svg(
            "text",
            { x: px * 1.13, y: py * 1.13 + 0.06, class: `ll-arrow-name ${name}`, "text-anchor": "middle" },
            label,
          ),
        ];
      };
      const tip = (/** @type {number[]} */ turned) =>
        `${format(turned[i], 3)}, ${format(turned[i + half], 3)}`;
      dial.setAttribute("aria-label", `Pair ${i}: q points to ${tip(a)}; k to ${tip(b)}`);
      dial.replaceChildren(
        svg("circle", { r: 1, class: "ll-ring" }),
        ...arrow(a, "ll-q", "q"),
        ...arrow(b, "ll-k", "k"),
      );
    });
    const where = `q at ${m}, k at ${n}, offset ${m - n}: score ${format(score())}`;
    said.textContent = `${where}. Move both by the same amount: the score stays.`;
    plot.update([
      { name: "every offset", points: curve },
      { name: "your two positions", points: [[m - n, score()]], marks: true },
    ]);
    link.set("score", score());
  }
  const first = slider({
    label: "position of q",
    min: 0,
    max: positions - 1,
    value: m,
    oninput: (x) => ((m = x), draw()),
  });
  const second = slider({
    label: "position of k",
    min: 0,
    max: positions - 1,
    value: n,
    oninput: (x) => ((n = x), draw()),
  });
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
  const names = dials.map((dial, i) =>
    h(
      "figure",
      { class: "ll-pairdial" },
      dial,
      h(
        "div",
        { class: "ll-caption" },
        `pair ${i}: ${format(base ** ((-2 * i) / q.length))} radians a position`,
      ),
    ),
  );
  place.append(
    h("div", { class: "ll-tools" }, first.element, second.element, both.element),
    h("div", { class: "ll-dials" }, ...names),
    said,
    plot.element,
  );
  draw();
}
