// LossSurface: the squared error of a line on a few points, as a
// map over its two weights; gradient descent on it. See descent.py.
import { chart } from "./axes.js";
import { button, div, h, note, slider, status } from "./dom.js";
import { levels, map } from "./map.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */

/** L(w, b) = mean (w x + b - y)^2 and its gradient. @param {[number, number][]} points */
export function squaredError(points) {
  const error = (/** @type {number} */ w, /** @type {number} */ b) => points.map(([x, y]) => w * x + b - y);
  return {
    loss: (/** @type {number} */ w, /** @type {number} */ b) =>
      error(w, b).reduce((s, e) => s + e * e, 0) / points.length,
    gradient: (/** @type {number} */ w, /** @type {number} */ b) => {
      const e = error(w, b);
      return /** @type {[number, number]} */ ([
        (2 * e.reduce((s, d, i) => s + d * points[i][0], 0)) / points.length,
        (2 * e.reduce((s, d) => s + d, 0)) / points.length,
      ]);
    },
  };
}

/** @typedef {[number, number]} Weights slope w and offset b */
/** @typedef {{points: [number, number][], from: Weights, to: Weights, start: Weights, lr: number}} State */

/** @param {HTMLElement} root @param {State} state @param {Link} link */
export function surface(root, state, link) {
  const { loss, gradient } = squaredError(state.points);
  const { from, to } = state;
  let lr = state.lr;
  let walked = [state.start];
  const said = status();
  const here = () => walked[walked.length - 1];
  const describe = "Contours of the loss over slope and offset, with the path of gradient descent";
  const picture = map(describe, "slope w", "b", (w, b) => startAt([w, b]));
  const data = lineChart(state);
  const highest = Math.max(loss(...from), loss(...to), loss(from[0], to[1]), loss(to[0], from[1]));

  function show() {
    const [w, b] = here();
    const g = gradient(w, b);
    const arrow = { from: here(), to: stepped(here(), g, lr) };
    picture.draw(loss, from, to, levels(0, highest, 12), [{ points: walked, series: 0 }], [arrow]);
    data.update(lineSeries(state, [w, b]));
    const place = `step ${walked.length - 1}: w ${format(w)}, b ${format(b)}, loss ${format(loss(w, b))}`;
    const next = `next w = ${format(w)} − ${format(lr)} × ${format(g[0])} = ${format(w - lr * g[0])}`;
    said.textContent = `${place}, gradient (${format(g[0])}, ${format(g[1])}); ${next}`;
    link.set("weights", [w, b]);
  }
  /** @param {Weights} weights */
  function startAt(weights) {
    walked = [weights];
    show();
  }
  /** @param {number} count */
  function steps(count) {
    for (let i = 0; i < count; i += 1) {
      const next = stepped(here(), gradient(...here()), lr);
      if (!next.every((x) => Math.abs(x) < 1e9)) break;
      walked.push(next);
    }
    show();
  }

  const rate = slider({
    label: "learning rate",
    min: -3,
    max: 0.3,
    step: 0.05,
    value: Math.log10(lr),
    format: (x) => format(10 ** x, 3),
    oninput: (x) => ((lr = 10 ** x), show()),
  });
  const weights = [0, 1].map((i) =>
    weightSlider(state, i, (x) => startAt(i ? [here()[0], x] : [x, here()[1]])),
  );
  root.append(
    div(
      "ll-tools",
      rate.element,
      button("one step", () => steps(1)),
      button("20 steps", () => steps(20)),
      button("back to the start", () => startAt(state.start)),
    ),
    div("ll-pair", h("div", {}, picture.element, div("ll-tools", ...weights)), data.element),
    said,
    note("Click the map, or move w and b, to start elsewhere. The arrow is the next step."),
  );
  show();
}

/** @param {Weights} at @param {Weights} gradient @param {number} lr @returns {Weights} */
const stepped = ([w, b], gradient, lr) => [w - lr * gradient[0], b - lr * gradient[1]];

/** @param {State} state @param {number} i w or b @param {(x: number) => void} oninput */
const weightSlider = ({ from, to, start }, i, oninput) =>
  slider({ label: "wb"[i], min: from[i], max: to[i], step: 0.05, value: start[i], oninput }).element;

/**
 * The data, and the line of two weights.
 * @param {State} state @param {Weights} weights @returns {import("./axes.js").Series[]}
 */
function lineSeries({ points }, [w, b]) {
  const xs = points.map(([x]) => x);
  return [
    { name: "data", points, marks: true },
    { name: "line", points: [Math.min(...xs), Math.max(...xs)].map((x) => [x, w * x + b]) },
  ];
}

/** @param {State} state */
const lineChart = (state) =>
  chart({
    describe: "The data points and the line of the present weights",
    x: { label: "x" },
    y: { label: "y" },
    series: lineSeries(state, state.start),
  });
