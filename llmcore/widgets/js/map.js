// A map of a loss of two numbers: contours, paths, one point to be moved.
import { div, svg } from "./dom.js";
import { contour } from "./landscape.js";

const SIZE = 320;
const EDGE = 34;

/** @typedef {[number, number]} Point */
/** @typedef {{px: (x: number) => number, py: (y: number) => number, from: Point, to: Point}} View */
/** @typedef {{points: Point[], series: number}} Path */

/** From two numbers to pixels. @param {Point} from @param {Point} to @returns {View} */
const viewOf = (from, to) => ({
  from,
  to,
  px: (x) => EDGE + ((x - from[0]) / (to[0] - from[0])) * SIZE,
  py: (y) => SIZE - ((y - from[1]) / (to[1] - from[1])) * SIZE,
});

/**
 * @param {string} describe @param {string} xName @param {string} yName
 * @param {(x: number, y: number) => void} onpoint where the reader clicked
 */
export function map(describe, xName, yName, onpoint) {
  const whole = SIZE + EDGE;
  const picture = svg("svg", {
    viewBox: `0 0 ${whole} ${whole}`,
    role: "img",
    "aria-label": describe,
    class: "ll-map",
  });
  let view = viewOf([0, 0], [1, 1]);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const { clientX, clientY } = /** @type {MouseEvent} */ (event);
    const u = ((clientX - box.left) / box.width) * whole;
    const v = ((clientY - box.top) / box.height) * whole;
    const { from, to } = view;
    if (u >= EDGE && v <= SIZE)
      onpoint(
        from[0] + ((u - EDGE) / SIZE) * (to[0] - from[0]),
        from[1] + ((SIZE - v) / SIZE) * (to[1] - from[1]),
      );
  });
  const clip = `ll-clip-${Math.random().toString(36).slice(2)}`;
  const frame = { x: EDGE, y: 0, width: SIZE, height: SIZE };
  return {
    element: div("ll-mapbox", picture),
    /**
     * @param {(x: number, y: number) => number} f @param {Point} low @param {Point} high
     * @param {number[]} levels_ @param {Path[]} paths @param {{from: Point, to: Point}[]} [arrows]
     */
    draw(f, low, high, levels_, paths, arrows = []) {
      view = viewOf(low, high);
      picture.replaceChildren(
        svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", frame))),
        svg("rect", { ...frame, class: "ll-frame" }),
        svg(
          "g",
          { "clip-path": `url(#${clip})` },
          ...levels_.map((level) => contourLine(contour(f, low, high, level), view)),
          ...paths.flatMap((path) => pathLine(path, view)),
          ...arrows.map((arrow) => arrowLine(arrow, view)),
        ),
        ...axes(view, xName, yName),
      );
    },
  };
}

/** @param {ReturnType<typeof contour>} segments @param {View} view */
function contourLine(segments, { px, py }) {
  const at = (/** @type {Point} */ [x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
  return svg("path", { d: segments.map(([a, b]) => `M${at(a)}L${at(b)}`).join(""), class: "ll-contour" });
}

/** A path and a dot at each of its points. @param {Path} path @param {View} view */
function pathLine({ points, series }, { px, py }) {
  const near = (/** @type {number} */ pixel) => Math.max(-2000, Math.min(2000, pixel));
  const inside = points.map(([x, y]) => [near(px(x)), near(py(y))]);
  const text = inside.map((p) => p.map((c) => c.toFixed(1)).join(",")).join(" ");
  const dot = `ll-dot ll-series-${series}`;
  return [
    svg("polyline", { points: text, class: `ll-line ll-series-${series}` }),
    ...inside.map(([u, v]) => svg("circle", { cx: u, cy: v, r: 2.2, class: dot })),
  ];
}

/** @param {{from: Point, to: Point}} arrow @param {View} view */
const arrowLine = ({ from: [x1, y1], to: [x2, y2] }, { px, py }) =>
  svg("line", { x1: px(x1), y1: py(y1), x2: px(x2), y2: py(y2), class: "ll-gradient" });

/**
 * Three numbers along each side, and its name.
 * @param {View} view @param {string} xName @param {string} yName
 */
function axes({ px, py, from, to }, xName, yName) {
  const ends = (/** @type {0 | 1} */ i) => [from[i], (from[i] + to[i]) / 2, to[i]];
  const short = (/** @type {number} */ x) => String(Number(x.toFixed(2)));
  const across = (/** @type {number} */ x) => ({
    x: px(x),
    y: SIZE + 16,
    "text-anchor": x === to[0] ? "end" : "middle",
  });
  const up = (/** @type {number} */ y) => ({
    x: EDGE - 5,
    y: py(y) + (y === to[1] ? 11 : 4),
    "text-anchor": "end",
  });
  const name = { "text-anchor": "middle", class: "ll-axis" };
  return [
    ...ends(0).map((x) => svg("text", across(x), short(x))),
    ...ends(1).map((y) => svg("text", up(y), short(y))),
    svg("text", { ...name, x: EDGE + SIZE / 2, y: SIZE + 30 }, xName),
    svg("text", { ...name, x: 12, y: SIZE / 2 - 30 }, yName),
  ];
}

/**
 * Levels of a loss that grow by a constant factor above its lowest value.
 * @param {number} lowest @param {number} highest @param {number} count
 */
export const levels = (lowest, highest, count) =>
  Array.from({ length: count }, (_, i) => lowest + (highest - lowest) * 0.5 ** ((count - 1 - i) ** 0.9));
