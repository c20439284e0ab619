// OptimizerRace: SGD, momentum and Adam on one loss of two numbers. See descent.py.
import { chart } from "./axes.js";
import { choice, h, slider } from "./dom.js";
import { LANDSCAPES, path } from "./landscape.js";
import { levels, map } from "./map.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */

const RUNNERS = /** @type {const} */ ([
  ["sgd", "SGD"],
  ["momentum", "momentum 0.9"],
  ["adam", "Adam"],
]);

/**
 * @param {HTMLElement} root @param {{land: string, condition: number,
 *   steps: number, lr: Record<string, number>}} state @param {Link} link
 */
export function race(root, state, link) {
  let land = LANDSCAPES[state.land];
  let k = state.condition;
  let steps = state.steps;
  const lr = { ...state.lr };
  let start = land.start;
  const said = h("div", { class: "ll-readout", role: "status" });
  const picture = map("Contours of the loss with the paths of three optimizers", "x", "y", (x, y) => {
    start = [x, y];
    show();
  });
  const curve = chart({
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

  function show() {
    const f = (/** @type {number} */ x, /** @type {number} */ y) => land.f(x, y, k);
    const paths = RUNNERS.map(([kind], series) => ({
      points: path(kind, land, k, lr[kind], steps, start),
      series,
    }));
    let least = Infinity;
    let most = -Infinity;
    for (let i = 0; i <= 60; i += 1)
      for (let j = 0; j <= 60; j += 1) {
        const z = f(
          land.from[0] + ((land.to[0] - land.from[0]) * i) / 60,
          land.from[1] + ((land.to[1] - land.from[1]) * j) / 60,
        );
        least = Math.min(least, z);
        most = Math.max(most, z);
      }
    for (const p of paths) for (const point of p.points) least = Math.min(least, f(...point));
    picture.draw(f, land.from, land.to, levels(least, most, 11), paths);
    curve.update(
      paths.map((p, i) => ({
        name: RUNNERS[i][1],
        points: p.points.map((point, t) => [t, Math.max(1e-6, Math.min(1e6, f(...point) - least))]),
      })),
    );
    const ends = paths.map(
      (p, i) =>
        `${RUNNERS[i][1]} ${p.points.length <= steps ? "has left the map" : format(f(...p.points[steps]))}`,
    );
    said.textContent = `loss after ${steps} steps: ${ends.join(", ")}`;
    link.set(
      "losses",
      paths.map((p) => (p.points.length <= steps ? null : f(...p.points[steps]))),
    );
  }
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      choice({
        label: "loss",
        options: Object.entries(LANDSCAPES).map(
          ([name, l]) => /** @type {[string, string]} */ ([name, l.name]),
        ),
        value: state.land,
        onchange: (name) => {
          land = LANDSCAPES[name];
          start = land.start;
          show();
        },
      }),
      slider({
        label: "condition number k",
        min: 0,
        max: 2,
        step: 0.05,
        value: Math.log10(k),
        format: (x) => format(10 ** x, 3),
        oninput: (x) => ((k = 10 ** x), show()),
      }).element,
      slider({ label: "steps", min: 1, max: 300, value: steps, oninput: (x) => ((steps = x), show()) })
        .element,
      ...RUNNERS.map(
        ([kind, name]) =>
          slider({
            label: `lr ${name}`,
            min: -3,
            max: 0.5,
            step: 0.05,
            value: Math.log10(lr[kind]),
            format: (x) => format(10 ** x, 3),
            oninput: (x) => ((lr[kind] = 10 ** x), show()),
          }).element,
      ),
    ),
    h("div", { class: "ll-pair" }, picture.element, curve.element),
    said,
    h("p", { class: "ll-note" }, "Click the map to start elsewhere."),
  );
  show();
}
