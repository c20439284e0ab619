// PipelineSchedule: the timeline of a pipeline, its bubble, and what each stage holds.
// The orders: schedule.js; the state and how it changes: scheduler.js.
import { button, choice, div, h, slider, span, status, svg, unique } from "./dom.js";
import { format } from "./number.js";
import { holding, name } from "./schedule.js";
import { atTime, clicked, following, hasChunks, initial, most, moved, nearest } from "./scheduler.js";
import { results, run, sentence, withChoice } from "./scheduler.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./schedule.js").Span} Span */
/** @typedef {import("./scheduler.js").State} State */
/** @typedef {import("./scheduler.js").Run} Run */
/** @typedef {(change: (state: State) => State) => void} Act */

const [BLOCK, STRIP, GAP, AXIS] = [28, 14, 8, 34];
const LANE = BLOCK + STRIP + GAP;

/** @param {HTMLElement} root @param {import("./scheduler.js").Shipped} shipped @param {Link} link */
export function pipeline(root, shipped, link) {
  let state = initial(shipped, link.get("time") ?? 0);
  let made = run(state);
  let width = 0;
  const parts = elements();
  const controls = settings(state, (choice_) => become((s) => withChoice(s, choice_), build));
  /** @type {ReturnType<typeof clock>} */
  let moments;

  /**
   * The one way in which the state changes.
   * @param {(state: State) => State} change @param {() => void} draw
   */
  function become(change, draw) {
    state = change(state);
    draw();
  }
  /** @type {Act} */
  const act = (change) => become(change, show);

  /** What is made anew where the schedule changes. */
  function build() {
    made = run(state);
    controls.set(state);
    parts.note.textContent = state.note;
    parts.paler.hidden = !hasChunks(state);
    moments = clock(made, state, act);
    parts.clock.replaceChildren(...moments.elements);
    parts.follow.replaceChildren(follow(state, (i) => become((s) => following(s, i), draw)));
    parts.orders.replaceChildren(...made.orders.map((order, s) => orderLine(order, s)));
    parts.result.replaceChildren(...resultLines(state, made));
    show();
  }

  function show() {
    moments.set(state.time);
    link.set("time", state.time);
    const select = parts.follow.querySelector("select");
    if (select) select.value = String(state.followed);
    draw();
    parts.said.textContent = sentence(state, made);
  }

  const draw = () => {
    parts.names.replaceChildren(...laneNames(state));
    drawTimeline(parts.picture, state, made, unitOf(state, made, width), (work) =>
      act((s) => clicked(s, work)),
    );
  };

  parts.picture.addEventListener("click", (event) => {
    const x = /** @type {MouseEvent} */ (event).clientX - parts.picture.getBoundingClientRect().left;
    act((s) => atTime(s, (x - 4) / unitOf(state, made, width)));
  });
  root.append(controls.element, ...layout(parts));
  new ResizeObserver(() => {
    if (Math.abs(parts.box.clientWidth - width) < 2) return;
    width = parts.box.clientWidth;
    draw();
  }).observe(parts.box);
  width = parts.box.clientWidth || 600;
  build();
  link.on("time", () => {
    const time = Number(link.get("time") ?? 0);
    if (Math.abs(time - state.time) >= 1e-9) act((s) => atTime(s, time));
  });
}

function elements() {
  const picture = svg("svg", { role: "img", class: "ll-chart ll-lanes", id: unique("lanes") });
  return {
    picture,
    box: h("div", { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": "Timeline" }, picture),
    names: h("div", { class: "ll-lane-names", "aria-hidden": "true" }),
    note: h("p", { class: "ll-note", role: "status" }),
    result: status(),
    said: status(),
    clock: div("ll-tools ll-lean"),
    follow: h("div", {}),
    orders: h("div", {}),
    paler: span("ll-note", "paler: a stage's later chunks"),
  };
}

/** @param {ReturnType<typeof elements>} parts */
function layout(parts) {
  const key = (/** @type {string} */ className, /** @type {string} */ text) =>
    span("ll-name", h("span", { class: `ll-swatch ${className}`, "aria-hidden": "true" }), text);
  const keys = [
    key("ll-work-F", "forward"),
    key("ll-work-B", "backward"),
    key("ll-idle", "idle: the bubble"),
    key("ll-held", "below each stage: activations held"),
  ];
  return [
    parts.note,
    parts.result,
    div("ll-lanes-box", parts.names, parts.box),
    div("ll-names", ...keys, parts.paler),
    parts.clock,
    parts.said,
    div("ll-tools", parts.follow, span("ll-note", "or click a block")),
    h("details", {}, h("summary", {}, "the lists that each stage runs"), parts.orders),
  ];
}

/** @param {State} state @param {(choice: Partial<State>) => void} choose */
function settings({ kind, p, m, v, ratio }, choose) {
  const schedule = choice({
    label: "schedule",
    options: [
      ["gpipe", "GPipe"],
      ["1f1b", "1F1B"],
      ["interleaved", "interleaved 1F1B"],
    ],
    value: kind,
    onchange: (k) => choose({ kind: k }),
  });
  const stages = slider({ label: "stages p", min: 1, max: 8, value: p, oninput: (k) => choose({ p: k }) });
  const microbatches = slider({
    label: "microbatches m",
    min: 1,
    max: 32,
    value: m,
    oninput: (k) => choose({ m: k }),
  });
  const chunks = slider({
    label: "chunks v",
    min: 2,
    max: 4,
    value: Math.max(2, v),
    oninput: (k) => choose({ v: k }),
  });
  const backward = slider({
    label: "backward / forward",
    min: 0.5,
    max: 3,
    step: 0.5,
    value: ratio,
    oninput: (k) => choose({ ratio: k }),
  });
  const sliders = [stages, microbatches, chunks, backward].map(({ element }) => element);
  return {
    element: div("ll-tools ll-lean", schedule, ...sliders),
    /** What was made to fit. @param {State} now */
    set(now) {
      microbatches.set(now.m);
      chunks.set(now.v);
      chunks.element.hidden = !hasChunks(now);
    },
  };
}

/**
 * The walk through the moments at which something happens.
 * @param {Run} made @param {State} state @param {Act} act
 */
function clock({ moments }, { time }, act) {
  const control = slider({
    label: "time",
    min: 0,
    max: moments.length - 1,
    value: nearest(moments, time),
    format: (k) => format(moments[k]),
    oninput: (k) => act((state) => atTime(state, moments[k])),
  });
  const back = button("←", () => act((state) => moved(state, -1)));
  const on = button("→", () => act((state) => moved(state, 1)));
  return {
    elements: [control.element, span("ll-copying", back, on)],
    /** @param {number} now */
    set: (now) => control.set(nearest(moments, now)),
  };
}

/** @param {State} state @param {(microbatch: number) => void} onchange */
const follow = ({ m, followed }, onchange) =>
  choice({
    label: "follow microbatch",
    options: [["-1", "none"], ...Array.from({ length: m }, (_, i) => option(i))],
    value: String(followed),
    onchange: (i) => onchange(Number(i)),
  });

/** @param {number} i @returns {[string, string]} */
const option = (i) => [String(i), String(i)];

/** @param {import("./schedule.js").Work[]} order @param {number} s */
const orderLine = (order, s) =>
  div("ll-arithmetic", h("strong", {}, `stage ${s}: `), order.map(name).join(" "));

/** @param {State} state @param {Run} made */
function resultLines(state, made) {
  const { p, m, v } = state;
  const { counted, predicted, right, held } = results(state, made);
  const percent = (/** @type {number} */ share) => `${format(100 * share, 3)} %`;
  const fraction = `(p − 1) / (${v > 1 ? "v m" : "m"} + p − 1) = ${p - 1} / ${v * m + p - 1}`;
  const ok = h("span", { class: right ? "ll-ok" : "ll-wrong" }, right ? "✓ as counted" : "✗");
  const idle = `idle: ${percent(counted)} of all stages' time. Formula: ${fraction} = ${percent(predicted)} `;
  const what = v > 1 ? "microbatches' worth of a stage's activations" : "microbatches";
  const most_ = `held at most: ${held.map((x) => format(x)).join(", ")} ${what} (stage 0 to ${p - 1}).`;
  return [h("div", {}, idle, ok), h("div", {}, `${most_} One step takes ${format(made.end)}.`)];
}

/** @param {State} state */
const laneNames = ({ p }) =>
  Array.from({ length: p }, (_, s) => h("div", { style: `height:${LANE}px` }, `stage ${s}`));

/**
 * Pixels of one unit of time: every number can be read, and the box is filled.
 * @param {State} state @param {Run} made @param {number} width
 */
function unitOf({ shipped, m, v, ratio }, { end }, width) {
  const shortest = Math.min(shipped.forward / v, (shipped.forward * ratio) / v);
  return Math.max((m > 10 ? 19 : 15) / shortest, (width - 8) / end);
}

/**
 * @param {SVGElement} picture @param {State} state @param {Run} made @param {number} unit
 * @param {(work: Span) => void} onclick
 */
function drawTimeline(picture, state, made, unit, onclick) {
  const { p, m, time } = state;
  const x = (/** @type {number} */ t) => 4 + t * unit;
  const size = [made.end * unit + 8, p * LANE + AXIS];
  picture.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
  picture.style.width = `${size[0]}px`;
  picture.style.maxWidth = "none";
  const words = `Timeline of ${p} stages and ${m} microbatches; the lists below it say the same`;
  picture.setAttribute("aria-label", words);
  const hatch = `${picture.id}-idle`;
  const fullest = Math.max(...made.spans.map(most));
  const lane = { x, unit, end: made.end, fullest, hatch, followed: state.followed, onclick };
  const every = [1, 2, 5, 10, 20, 50, 100].find((k) => k * unit >= 34) ?? 100;
  const ticks = Array.from({ length: Math.floor(made.end / every) + 1 }, (_, i) => i * every);
  picture.replaceChildren(
    svg("defs", {}, hatching(hatch)),
    ...made.spans.flatMap((list, s) => laneOf(list, s, lane)),
    ...ticks.map((t) =>
      svg("text", { x: x(t), y: p * LANE + 13, "text-anchor": t ? "middle" : "start" }, format(t)),
    ),
    svg("text", { x: x(0), y: p * LANE + 29, class: "ll-axis" }, "time (forwards of one stage)"),
    svg("line", { class: "ll-rule", x1: x(time), x2: x(time), y1: 0, y2: p * LANE }),
  );
}

/** @param {string} id */
function hatching(id) {
  const line = svg("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "ll-hatch" });
  const tile = { width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  return svg("pattern", { id, ...tile }, line);
}

/**
 * @typedef {{x: (t: number) => number, unit: number, end: number, fullest: number, hatch: string,
 *   followed: number, onclick: (work: Span) => void}} Lane
 */

/**
 * One stage: where it waits, what it does, what it holds.
 * @param {Span[]} list @param {number} s @param {Lane} lane
 */
function laneOf(list, s, lane) {
  const { x, unit, end, fullest, hatch } = lane;
  const y = s * LANE;
  const floor = y + BLOCK + 1 + STRIP;
  const waits = [...list, { start: end }].map((w, i) => [i ? list[i - 1].end : 0, w.start]);
  const idle = waits
    .filter(([a, b]) => b - a > 1e-9)
    .map(([a, b]) =>
      svg("rect", {
        x: x(a),
        y,
        width: (b - a) * unit,
        height: BLOCK,
        fill: `url(#${hatch})`,
        class: "ll-idle",
      }),
    );
  const held = holding(list).map((count, i) => {
    const [from, until] = [list[i].end, list[i + 1]?.end ?? end];
    const height = (count / fullest) * STRIP;
    const width = Math.max(0, (until - from) * unit);
    return svg("rect", { x: x(from), y: floor - height, width, height, class: "ll-held" });
  });
  const line = svg("line", { x1: x(0), x2: x(end), y1: floor, y2: floor, class: "ll-tick" });
  return [...idle, ...list.map((w) => block(w, s, lane)), ...held, line];
}

/** One piece of work. @param {Span} w @param {number} s @param {Lane} lane */
function block(w, s, { x, unit, followed, onclick }) {
  const y = s * LANE;
  const wide = (w.end - w.start) * unit;
  const faded = followed >= 0 && followed !== w.microbatch;
  const look = `ll-work ll-work-${w.kind}${w.chunk ? " ll-later" : ""}${faded ? " ll-faded" : ""}`;
  const box = {
    x: x(w.start) + 0.75,
    y: y + 0.75,
    width: Math.max(1, wide - 1.5),
    height: BLOCK - 1.5,
    rx: 3,
  };
  const middle = { x: x(w.start) + wide / 2, y: y + BLOCK / 2 + 4.5, "text-anchor": "middle" };
  const shape = svg(
    "g",
    { class: look, "data-work": name(w), "data-stage": s },
    svg("rect", box),
    svg("text", middle, String(w.microbatch)),
  );
  shape.addEventListener("click", (event) => {
    event.stopPropagation();
    onclick(w);
  });
  return shape;
}
