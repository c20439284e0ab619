// A map of a loss of two numbers: contours, paths, one point to be moved.
import { h, svg } from "./dom.js";
import { contour } from "./landscape.js";

const SIZE = 320;
const EDGE = 34;

/**
 * @param {string} describe @param {string} xName @param {string} yName
 * @param {(x: number, y: number) => void} onpoint where the reader clicked
 */
export function map(describe, xName, yName, onpoint) {
  const picture = svg("svg", {
    viewBox: `0 0 ${SIZE + EDGE} ${SIZE + EDGE}`,
    role: "img",
    "aria-label": describe,
    class: "ll-map",
  });
  let from = [0, 0];
  let to = [1, 1];
  const px = (/** @type {number} */ x) => EDGE + ((x - from[0]) / (to[0] - from[0])) * SIZE;
  const py = (/** @type {number} */ y) => SIZE - ((y - from[1]) / (to[1] - from[1])) * SIZE;
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const mouse = /** @type {MouseEvent} */ (event);
    const [u, v] = [
      ((mouse.clientX - box.left) / box.width) * (SIZE + EDGE),
      ((mouse.clientY - box.top) / box.height) * (SIZE + EDGE),
    ];
    if (u >= EDGE && v <= SIZE)
      onpoint(
        from[0] + ((u - EDGE) / SIZE) * (to[0] - from[0]),
        from[1] + ((SIZE - v) / SIZE) * (to[1] - from[1]),
      );
  });
  const clip = `ll-clip-${Math.random().toString(36).slice(2)}`;
  return {
    element: h("div", { class: "ll-mapbox" }, picture),
    /**
     * @param {(x: number, y: number) => number} f @param {[number, number]} low
     * @param {[number, number]} high @param {number[]} levels
     * @param {{points: [number, number][], series: number}[]} paths
     * @param {{from: [number, number], to: [number, number]}[]} [arrows]
     */
    draw(f, low, high, levels, paths, arrows = []) {
      [from, to] = [low, high];
      const parts = [];
      for (const level of levels) {
        const d = contour(f, low, high, level).map(
          ([a, b]) =>
            `M${px(a[0]).toFixed(1)} ${py(a[1]).toFixed(1)}L${px(b[0]).toFixed(1)} ${py(b[1]).toFixed(1)}`,
        );
        parts.push(svg("path", { d: d.join(""), class: "ll-contour" }));
      }
      for (const { points, series } of paths) {
        const inside = points.map(([x, y]) => [
          Math.max(-2000, Math.min(2000, px(x))),
          Math.max(-2000, Math.min(2000, py(y))),
        ]);
        parts.push(
          svg("polyline", {
            points: inside.map((p) => p.map((c) => c.toFixed(1)).join(",")).join(" "),
            class: `ll-line ll-series-${series}`,
          }),
        );
        for (const [u, v] of inside)
          parts.push(svg("circle", { cx: u, cy: v, r: 2.2, class: `ll-dot ll-series-${series}` }));
      }
      for (const a of arrows)
        parts.push(
          svg("line", {
            x1: px(a.from[0]),
            y1: py(a.from[1]),
            x2: px(a.to[0]),
            y2: py(a.to[1]),
            class: "ll-gradient",
          }),
        );
      const ends = (/** @type {number} */ i) => [from[i], (from[i] + to[i]) / 2, to[i]];
      picture.replaceChildren(
        svg(
          "defs",
          {},
          svg("clipPath", { id: clip }, svg("rect", { x: EDGE, y: 0, width: SIZE, height: SIZE })),
        ),
        svg("rect", { x: EDGE, y: 0, width: SIZE, height: SIZE, class: "ll-frame" }),
        svg("g", { "clip-path": `url(#${clip})` }, ...parts),
        ...ends(0).map((x) =>
          svg(
            "text",
            { x: px(x), y: SIZE + 16, "text-anchor": x === to[0] ? "end" : "middle" },
            String(Number(x.toFixed(2))),
          ),
        ),
        ...ends(1).map((y) =>
          svg(
            "text",
            { x: EDGE - 5, y: py(y) + (y === to[1] ? 11 : 4), "text-anchor": "end" },
            String(Number(y.toFixed(2))),
          ),
        ),
        svg("text", { x: EDGE + SIZE / 2, y: SIZE + 30, "text-anchor": "middle", class: "ll-axis" }, xName),
        svg("text", { x: 12, y: SIZE / 2 - 30, class: "ll-axis", "text-anchor": "middle" }, yName),
      );
    },
  };
}

/**
 * Levels of a loss that grow by a constant factor above its lowest value.
 * @param {number} lowest @param {number} highest @param {number} count
 */
export const levels = (lowest, highest, count) =>
  Array.from({ length: count }, (_, i) => lowest + (highest - lowest) * 0.5 ** ((count - 1 - i) ** 0.9));
