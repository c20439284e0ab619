// Line and point charts with labelled axes. A range below the chart
// moves a cursor, so that every value can be read by keyboard.
import { h, slider, svg } from "./dom.js";
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

/**
 * A chart. `describe` says what it shows, for a reader who does not see it.
 * @param {{describe: string, x: Axis, y: Axis, series: Series[],
 *   cursor?: string}} options cursor: label of the range
 */
export function chart({ describe, x, y, series, cursor }) {
  let W = 480; // pixels as laid out, so that letters keep their size on a phone
  const picture = svg("svg", { role: "img", "aria-label": describe, class: "ll-chart" });
  const names = h("div", { class: "ll-names" });
  const line = h("div", { class: "ll-readout", role: "status" });
  const element = h("div", { class: "ll-plot" }, picture, names);
  let shown = series;
  /** @type {ReturnType<typeof slider> | null} */
  let control = null;
  /** @type {{at: (x: number) => number}} */
  let across;
  const rule = svg("line", { class: "ll-rule", y1: TOP, y2: H - BOTTOM });

  const allX = () => [...new Set(shown.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);

  function draw() {
    picture.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const points = shown.flatMap((s) => s.points);
    across = ruler(
      x,
      points.map((p) => p[0]),
      LEFT,
      W - RIGHT,
    );
    const up = ruler(
      y,
      points.map((p) => p[1]),
      H - BOTTOM,
      TOP,
    );
    const r = /** @type {{low: number, high: number, at: (x: number) => number}} */ (across);
    const parts = [];
    for (const t of ticks(r.low, r.high, !!x.log)) {
      parts.push(svg("line", { class: "ll-tick", x1: r.at(t), x2: r.at(t), y1: TOP, y2: H - BOTTOM }));
      parts.push(svg("text", { x: r.at(t), y: H - BOTTOM + 16, "text-anchor": "middle" }, short(t)));
    }
    for (const t of ticks(up.low, up.high, !!y.log)) {
      parts.push(svg("line", { class: "ll-tick", x1: LEFT, x2: W - RIGHT, y1: up.at(t), y2: up.at(t) }));
      parts.push(svg("text", { x: LEFT - 6, y: up.at(t) + 4, "text-anchor": "end" }, short(t)));
    }
    parts.push(
      svg(
        "text",
        { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle", class: "ll-axis" },
        x.label,
      ),
    );
    const middle = (TOP + H - BOTTOM) / 2;
    parts.push(
      svg(
        "text",
        {
          x: 14,
          y: middle,
          transform: `rotate(-90 14 ${middle})`,
          "text-anchor": "middle",
          class: "ll-axis",
        },
        y.label,
      ),
    );
    shown.forEach((s, i) => {
      const usable = s.points.filter(
        ([a, b]) => Number.isFinite(b) && (!x.log || a > 0) && (!y.log || b > 0),
      );
      const pixels = usable.map(([a, b]) => [r.at(a), up.at(b)]);
      if (s.marks)
        for (const [px, py] of pixels)
          parts.push(svg("circle", { cx: px, cy: py, r: 4, class: `ll-dot ll-series-${i}` }));
      else
        parts.push(
          svg("polyline", {
            points: pixels.map((p) => p.map((n) => n.toFixed(1)).join(",")).join(" "),
            class: `ll-line ll-series-${i}`,
          }),
        );
    });
    picture.replaceChildren(...parts, ...(cursor ? [rule] : []));
    names.replaceChildren(
      ...shown.map((s, i) =>
        h(
          "span",
          { class: "ll-name" },
          svg(
            "svg",
            { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" },
            s.marks
              ? svg("circle", { cx: 13, cy: 4, r: 3, class: `ll-dot ll-series-${i}` })
              : svg("line", { x1: 1, x2: 25, y1: 4, y2: 4, class: `ll-line ll-series-${i}` }),
          ),
          s.name,
        ),
      ),
    );
  }

  /** @param {number} k which of all x values */
  function read(k) {
    const at = allX()[k];
    rule.setAttribute("x1", String(across.at(at)));
    rule.setAttribute("x2", String(across.at(at)));
    const parts = shown.map((s) => {
      const near = s.points.reduce(
        (best, p) => (Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best),
        s.points[0],
      );
      return `${s.name} ${format(near[1])}`;
    });
    line.textContent = `${x.label} ${format(at)}: ${parts.join(", ")}`;
  }

  draw();
  new ResizeObserver(() => {
    const width = Math.min(640, Math.round(element.clientWidth));
    if (width < 50 || width === W) return;
    W = width;
    draw();
    if (control) read(Number(control.input.value));
  }).observe(element);
  if (cursor && allX().length > 1) {
    control = slider({
      label: cursor,
      min: 0,
      max: allX().length - 1,
      value: 0,
      format: (k) => format(allX()[k]),
      oninput: read,
    });
    element.append(control.element, line);
    read(0);
    const move = (/** @type {PointerEvent} */ event) => {
      const box = picture.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * W;
      const xs = allX();
      const k = xs.reduce(
        (best, value, i) => (Math.abs(across.at(value) - px) < Math.abs(across.at(xs[best]) - px) ? i : best),
        0,
      );
      control?.set(k);
      read(k);
    };
    picture.addEventListener("pointermove", (event) => move(/** @type {PointerEvent} */ (event)));
    picture.addEventListener("pointerdown", (event) => move(/** @type {PointerEvent} */ (event)));
  }
  return {
    element,
    /** @param {Series[]} next the same number of series */
    update(next) {
      shown = next;
      draw();
      if (control) read(Math.min(Number(control.input.value), allX().length - 1));
    },
  };
}

/** @param {number} t */
function short(t) {
  if (Math.abs(t) >= 1e6) return `${format(t / 1e6, 3)}M`;
  if (Math.abs(t) >= 1e4) return `${format(t / 1e3, 3)}k`;
  return format(t, 3);
}
