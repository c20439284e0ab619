// Line and point charts with labelled axes. A range below the chart
// moves a cursor, so that every value can be read by keyboard.
import { div, slider, span, status, svg } from "./dom.js";
import { format } from "./number.js";

/** @typedef {{name: string, points: [number, number][], marks?: boolean}} Series */
/** @typedef {{label: string, log?: boolean, from?: number, to?: number}} Axis */

const H = 290;
const LEFT = 62;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 44;

/**
 * Round places between two numbers: 1, 2 or 5 times a power of ten, or whole decades.
 * @param {number} low @param {number} high @param {boolean} log
 */
export function ticks(low, high, log) {
  const out = [];
  if (log) {
    for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p += 1) out.push(10 ** p);
    return out.length > 1 ? out : [low, high];
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw) ?? raw;
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) out.push(k * step + 0);
  return out;
}

/**
 * From data to pixels.
 * @param {Axis} axis @param {number[]} values @param {number} start @param {number} end
 */
function ruler(axis, values, start, end) {
  const usable = values.filter((x) => Number.isFinite(x) && (!axis.log || x > 0));
  let low = axis.from ?? Math.min(...usable);
  let high = axis.to ?? Math.max(...usable);
  if (!(high > low)) [low, high] = axis.log ? [low / 2 || 0.5, low * 2 || 2] : [low - 1, low + 1];
  const f = axis.log ? Math.log10 : (/** @type {number} */ x) => x;
  return {
    low,
    high,
    at: (/** @type {number} */ x) => start + ((f(x) - f(low)) / (f(high) - f(low))) * (end - start),
  };
}

/** @typedef {ReturnType<typeof ruler>} Ruler */

/**
 * A chart. `describe` says what it shows, for a reader who does not see it.
 * @param {{describe: string, x: Axis, y: Axis, series: Series[],
 *   cursor?: string}} options cursor: label of the range
 */
export function chart({ describe, x, y, series, cursor }) {
  let W = 480; // pixels as laid out, so that letters keep their size on a phone
  let shown = series;
  const picture = svg("svg", { role: "img", "aria-label": describe, class: "ll-chart" });
  const names = div("ll-names");
  const element = div("ll-plot", picture, names);
  const rule = svg("line", { class: "ll-rule", y1: TOP, y2: H - BOTTOM });
  let across = rulerOf(x, shown, 0, LEFT, W - RIGHT);

  function draw() {
    picture.setAttribute("viewBox", `0 0 ${W} ${H}`);
    across = rulerOf(x, shown, 0, LEFT, W - RIGHT);
    const up = rulerOf(y, shown, 1, H - BOTTOM, TOP);
    const parts = [
      ...axisLines(x, y, across, up, W),
      ...shown.flatMap((s, i) => line(s, i, x, y, across, up)),
    ];
    picture.replaceChildren(...parts, ...(cursor ? [rule] : []));
    names.replaceChildren(...shown.map(nameOf));
  }

  draw();
  const redraw = () => (draw(), reader?.read());
  const reader = cursor && placesOf(shown).length > 1 ? readerOf(cursor) : null;
  new ResizeObserver(() => {
    const width = Math.min(640, Math.round(element.clientWidth));
    if (width < 50 || width === W) return;
    W = width;
    redraw();
  }).observe(element);

  /** A range below the chart that moves a cursor over all places. @param {string} label */
  function readerOf(label) {
    const said = status();
    const control = slider({
      label,
      min: 0,
      max: placesOf(shown).length - 1,
      value: 0,
      format: (k) => format(placesOf(shown)[k]),
      oninput: read,
    });
    function read(k = Math.min(Number(control.input.value), placesOf(shown).length - 1)) {
      const at = placesOf(shown)[k];
      for (const end of ["x1", "x2"]) rule.setAttribute(end, String(across.at(at)));
      said.textContent = `${x.label} ${format(at)}: ${readings(shown, at).join(", ")}`;
    }
    element.append(control.element, said);
    read(0);
    onPointer(picture, (share) => {
      const k = closest(placesOf(shown), (place) => Math.abs(across.at(place) - share * W));
      control.set(k);
      read(k);
    });
    return { read };
  }

  return {
    element,
    /** @param {Series[]} next the same number of series */
    update(next) {
      shown = next;
      redraw();
    },
  };
}

/**
 * Where a pointer is, as a share of a picture's width.
 * @param {Element} picture @param {(share: number) => void} read
 */
function onPointer(picture, read) {
  const move = (/** @type {Event} */ event) => {
    const { clientX } = /** @type {PointerEvent} */ (event);
    const box = picture.getBoundingClientRect();
    read((clientX - box.left) / box.width);
  };
  picture.addEventListener("pointermove", move);
  picture.addEventListener("pointerdown", move);
}

/** Every x of the series, once, in order. @param {Series[]} series */
const placesOf = (series) =>
  [...new Set(series.flatMap((s) => s.points.map(([x]) => x)))].sort((a, b) => a - b);

/**
 * @param {Axis} axis @param {Series[]} series
 * @param {0 | 1} i x or y @param {number} start @param {number} end
 */
function rulerOf(axis, series, i, start, end) {
  const values = series.flatMap((s) => s.points.map((p) => p[i]));
  return ruler(axis, values, start, end);
}

/**
 * The index of the item of the least distance, the first of several. @template T
 * @param {T[]} items @param {(item: T) => number} distance
 */
const closest = (items, distance) =>
  items.reduce((best, item, i) => (distance(item) < distance(items[best]) ? i : best), 0);

/** Each series at the x nearest to a place. @param {Series[]} series @param {number} at */
const readings = (series, at) =>
  series.map(({ name, points }) => {
    const near = points[closest(points, ([x]) => Math.abs(x - at))];
    return `${name} ${format(near[1])}`;
  });

/**
 * Ticks and names of both axes.
 * @param {Axis} x @param {Axis} y @param {Ruler} across @param {Ruler} up @param {number} W
 */
function axisLines(x, y, across, up, W) {
  const middle = (TOP + H - BOTTOM) / 2;
  const name = { "text-anchor": "middle", class: "ll-axis" };
  const turned = { x: 14, y: middle, transform: `rotate(-90 14 ${middle})` };
  return [
    ...ticks(across.low, across.high, !!x.log).flatMap((t) => {
      const at = across.at(t);
      return [
        svg("line", { class: "ll-tick", x1: at, x2: at, y1: TOP, y2: H - BOTTOM }),
        svg("text", { x: at, y: H - BOTTOM + 16, "text-anchor": "middle" }, short(t)),
      ];
    }),
    ...ticks(up.low, up.high, !!y.log).flatMap((t) => {
      const at = up.at(t);
      return [
        svg("line", { class: "ll-tick", x1: LEFT, x2: W - RIGHT, y1: at, y2: at }),
        svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, short(t)),
      ];
    }),
    svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, ...name }, x.label),
    svg("text", { ...turned, ...name }, y.label),
  ];
}

/**
 * One series, as dots or as a line.
 * @param {Series} s @param {number} i @param {Axis} x @param {Axis} y @param {Ruler} across @param {Ruler} up
 */
function line({ points, marks }, i, x, y, across, up) {
  const usable = points.filter(([a, b]) => Number.isFinite(b) && (!x.log || a > 0) && (!y.log || b > 0));
  const pixels = usable.map(([a, b]) => [across.at(a), up.at(b)]);
  const dot = `ll-dot ll-series-${i}`;
  if (marks) return pixels.map(([cx, cy]) => svg("circle", { cx, cy, r: 4, class: dot }));
  const text = pixels.map((p) => p.map((n) => n.toFixed(1)).join(",")).join(" ");
  return [svg("polyline", { points: text, class: `ll-line ll-series-${i}` })];
}

/** A series in the legend. @param {Series} s @param {number} i */
function nameOf({ name, marks }, i) {
  const sample = marks
    ? svg("circle", { cx: 13, cy: 4, r: 3, class: `ll-dot ll-series-${i}` })
    : svg("line", { x1: 1, x2: 25, y1: 4, y2: 4, class: `ll-line ll-series-${i}` });
  const box = { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" };
  return span("ll-name", svg("svg", box, sample), name);
}

/** @param {number} t */
function short(t) {
  if (Math.abs(t) >= 1e6) return `${format(t / 1e6, 3)}M`;
  if (Math.abs(t) >= 1e4) return `${format(t / 1e3, 3)}k`;
  return format(t, 3);
}
