// OptimizerRace: SGD, momentum and Adam on one loss of two numbers. See descent.py.
import { chart } from "./axes.js";
import { choice, div, note, slider, status } from "./dom.js";
import { LANDSCAPES, path } from "./landscape.js";
import { levels, map } from "./map.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */

const RUNNERS = /** @type {const} */ ([
  ["sgd", "SGD"],
  ["momentum", "momentum 0.9"],
  ["adam", "Adam"],
]);

/** @typedef {{points: [number, number][], series: number}} Path */
/** @typedef {(x: number, y: number) => number} Loss */

/**
 * @param {HTMLElement} root @param {{land: string, condition: number,
 *   steps: number, lr: Record<string, number>}} state @param {Link} link
 */
export function race(root, state, link) {
  let { condition: k, steps } = state;
  let land = LANDSCAPES[state.land];
  let start = land.start;
  const lr = { ...state.lr };
  const said = status();
  const picture = map("Contours of the loss with the paths of three optimizers", "x", "y", (x, y) => {
    start = [x, y];
    show();
  });
  const curve = lossCurve();

  function show() {
    /** @type {Loss} */
    const f = (x, y) => land.f(x, y, k);
    const paths = RUNNERS.map(([kind], series) => ({
      points: path(kind, land, k, lr[kind], steps, start),
      series,
    }));
    const [lowest, most] = extent(f, land);
    const least = Math.min(lowest, ...paths.flatMap((p) => p.points.map((point) => f(...point))));
    picture.draw(f, land.from, land.to, levels(least, most, 11), paths);
    curve.update(paths.map((p) => lossSeries(p, f, least)));
    const losses = paths.map((p) => (p.points.length <= steps ? null : f(...p.points[steps])));
    const ends = losses.map(
      (loss, i) => `${RUNNERS[i][1]} ${loss === null ? "has left the map" : format(loss)}`,
    );
    said.textContent = `loss after ${steps} steps: ${ends.join(", ")}`;
    link.set("losses", losses);
  }

  const lands = choice({
    label: "loss",
    options: Object.entries(LANDSCAPES).map(([name, l]) => /** @type {[string, string]} */ ([name, l.name])),
    value: state.land,
    onchange: (name) => {
      land = LANDSCAPES[name];
      start = land.start;
      show();
    },
  });
  const sliders = [
    power("condition number k", k, [0, 2], (x) => ((k = x), show())),
    slider({ label: "steps", min: 1, max: 300, value: steps, oninput: (x) => ((steps = x), show()) }),
    ...RUNNERS.map(([kind, name]) =>
      power(`lr ${name}`, lr[kind], [-3, 0.5], (x) => ((lr[kind] = x), show())),
    ),
  ];
  root.append(
    div("ll-tools", lands, ...sliders.map(({ element }) => element)),
    div("ll-pair", picture.element, curve.element),
    said,
    note("Click the map to start elsewhere."),
  );
  show();
}

/**
 * A slider over powers of ten.
 * @param {string} label @param {number} value
 * @param {[number, number]} range @param {(x: number) => void} oninput
 */
const power = (label, value, [min, max], oninput) =>
  slider({
    label,
    min,
    max,
    step: 0.05,
    value: Math.log10(value),
    format: (x) => format(10 ** x, 3),
    oninput: (x) => oninput(10 ** x),
  });

const lossCurve = () =>
  chart({
    describe: "Loss against step for three optimizers",
    x: { label: "step" },
    y: { label: "loss above the least", log: true, from: 1e-6 },
    series: RUNNERS.map(([, name]) => ({
      name,
      points: [
        [0, 1],
        [1, 1],
      ],
    })),
  });

/** @param {Path} path @param {Loss} f @param {number} least @returns {import("./axes.js").Series} */
const lossSeries = ({ points, series }, f, least) => ({
  name: RUNNERS[series][1],
  points: points.map((point, t) => [t, Math.max(1e-6, Math.min(1e6, f(...point) - least))]),
});

/**
 * Least and largest value on a lattice over a landscape.
 * @param {Loss} f @param {import("./landscape.js").Landscape} land
 */
function extent(f, { from, to }) {
  const at = (/** @type {0 | 1} */ axis, /** @type {number} */ i) =>
    from[axis] + ((to[axis] - from[axis]) * i) / 60;
  let [least, most] = [Infinity, -Infinity];
  for (let i = 0; i <= 60; i += 1)
    for (let j = 0; j <= 60; j += 1) {
      const z = f(at(0, i), at(1, j));
      least = Math.min(least, z);
      most = Math.max(most, z);
    }
  return [least, most];
}
