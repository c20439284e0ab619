// LossSurface: the squared error of a line on a few points, as a
// map over its two weights; gradient descent on it. See descent.py.
import { chart } from "./axes.js";
import { button, h, slider } from "./dom.js";
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

/**
 * @param {HTMLElement} root @param {{points: [number, number][], from: [number, number],
 *   to: [number, number], start: [number, number], lr: number}} state @param {Link} link
 */
export function surface(root, state, link) {
  const { loss, gradient } = squaredError(state.points);
  let lr = state.lr;
  /** @type {[number, number][]} */
  let walked = [state.start];
  const said = h("div", { class: "ll-readout", role: "status" });
  const here = () => walked[walked.length - 1];
  const picture = map(
    "Contours of the loss over slope and offset, with the path of gradient descent",
    "slope w",
    "b",
    (w, b) => {
      walked = [[w, b]];
      show();
    },
  );
  const data = chart({
    describe: "The data points and the line of the present weights",
    x: { label: "x" },
    y: { label: "y" },
    series: [
      { name: "data", points: state.points, marks: true },
      {
        name: "line",
        points: [
          [0, 0],
          [1, 1],
        ],
      },
    ],
  });
  const corners = [
    loss(...state.from),
    loss(...state.to),
    loss(state.from[0], state.to[1]),
    loss(state.to[0], state.from[1]),
  ];

  function show() {
    const [w, b] = here();
    const g = gradient(w, b);
    picture.draw(
      loss,
      state.from,
      state.to,
      levels(0, Math.max(...corners), 12),
      [{ points: walked, series: 0 }],
      [{ from: [w, b], to: [w - lr * g[0], b - lr * g[1]] }],
    );
    const xs = state.points.map((p) => p[0]);
    data.update([
      { name: "data", points: state.points, marks: true },
      { name: "line", points: [Math.min(...xs), Math.max(...xs)].map((x) => [x, w * x + b]) },
    ]);
    const place = `step ${walked.length - 1}: w ${format(w)}, b ${format(b)}, loss ${format(loss(w, b))}`;
    const next = `next w = ${format(w)} − ${format(lr)} × ${format(g[0])} = ${format(w - lr * g[0])}`;
    said.textContent = `${place}, gradient (${format(g[0])}, ${format(g[1])}); ${next}`;
    link.set("weights", [w, b]);
  }
  /** @param {number} count */
  function steps(count) {
    for (let i = 0; i < count; i += 1) {
      const [w, b] = here();
      const g = gradient(w, b);
      const next = /** @type {[number, number]} */ ([w - lr * g[0], b - lr * g[1]]);
      if (!next.every((x) => Math.abs(x) < 1e9)) break;
      walked.push(next);
    }
    show();
  }
  const put = (/** @type {number} */ i) => (/** @type {number} */ x) => {
    const next = /** @type {[number, number]} */ ([...here()]);
    next[i] = x;
    walked = [next];
    show();
  };
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      slider({
        label: "learning rate",
        min: -3,
        max: 0.3,
        step: 0.05,
        value: Math.log10(lr),
        format: (x) => format(10 ** x, 3),
        oninput: (x) => ((lr = 10 ** x), show()),
      }).element,
      button("one step", () => steps(1)),
      button("20 steps", () => steps(20)),
      button("back to the start", () => ((walked = [state.start]), show())),
    ),
    h(
      "div",
      { class: "ll-pair" },
      h(
        "div",
        {},
        picture.element,
        h(
          "div",
          { class: "ll-tools" },
          slider({
            label: "w",
            min: state.from[0],
            max: state.to[0],
            step: 0.05,
            value: state.start[0],
            oninput: put(0),
          }).element,
          slider({
            label: "b",
            min: state.from[1],
            max: state.to[1],
            step: 0.05,
            value: state.start[1],
            oninput: put(1),
          }).element,
        ),
      ),
      data.element,
    ),
    said,
    h(
      "p",
      { class: "ll-note" },
      "Click the map, or move w and b, to start elsewhere. The arrow is the next step.",
    ),
  );
  show();
}
