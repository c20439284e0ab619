// PipelineSchedule: the timeline of a pipeline, its bubble,
// and what each stage holds. See schedule.js for the orders.
import { button, choice, h, slider, svg, unique } from "./dom.js";
import { format } from "./number.js";
import { bubble, gpipe, holding, interleaved, name, timeline } from "./schedule.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./schedule.js").Span} Span */

const [BLOCK, STRIP, GAP, AXIS] = [28, 14, 8, 34];
const LANE = BLOCK + STRIP + GAP;

/**
 * @param {HTMLElement} root
 * @param {{schedule: string, stages: number, microbatches: number,
 *   chunks: number, forward: number, backward: number}} state
 * @param {Link} link
 */
export function pipeline(root, state, link) {
  let { schedule: kind, stages: p, microbatches: m, chunks: v } = state;
  let ratio = state.backward / state.forward;
  let moment = link.get("time") ?? 0;
  let followed = -1;
  /** @type {Span[][]} */
  let spans = [];
  let end = 1;
  /** @type {number[]} */
  let moments = [];
  let width = 0;
  let unit = 1; // pixels of one unit of time
  let moveTo = (/** @type {number} */ _t) => {}; // the slider follows

  const hatch = unique("idle");
  const picture = svg("svg", { role: "img", class: "ll-chart ll-lanes" });
  const names = h("div", { class: "ll-lane-names", "aria-hidden": "true" });
  const box = h(
    "div",
    { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": "Timeline" },
    picture,
  );
  const said = h("div", { class: "ll-readout", role: "status" });
  const result = h("div", { class: "ll-readout", role: "status" });
  const clock = h("div", { class: "ll-tools ll-lean" });
  const follow = h("div", {});
  const orders = h("div", {});
  const note = h("p", { class: "ll-note", role: "status" });
  const cursor = svg("line", { class: "ll-rule" });

  function compute() {
    const forward = state.forward;
    if (kind === "interleaved") {
      v = Math.max(2, v);
      const fit = Math.min(Math.ceil(m / p), Math.floor(32 / p)) * p;
      note.textContent =
        fit === m ? "" : `interleaved schedules run microbatches in groups of ${p}: ${m} became ${fit}`;
      m = fit;
      microbatches.set(m);
    } else {
      v = 1;
      note.textContent = "";
    }
    chunks.element.hidden = kind !== "interleaved";
    paler.hidden = kind !== "interleaved";
    chunks.set(v);
    const list = kind === "gpipe" ? gpipe(p, m) : interleaved(p, m, v);
    spans = timeline(list, forward, forward * ratio);
    end = Math.max(...spans.flat().map((s) => s.end));
    moments = [
      ...new Set([0, ...spans.flat().flatMap((s) => [s.start, s.end])].map((t) => Number(t.toFixed(9)))),
    ].sort((a, b) => a - b);
    followed = Math.min(followed, m - 1);
    const control = slider({
      label: "time",
      min: 0,
      max: moments.length - 1,
      value: nearest(),
      format: (k) => format(moments[k]),
      oninput: (k) => at(moments[k]),
    });
    moveTo = (t) => {
      moment = t;
      control.set(nearest());
      at(moments[nearest()]);
    };
    const jump = (/** @type {number} */ d) =>
      moveTo(moments[Math.max(0, Math.min(moments.length - 1, nearest() + d))]);
    clock.replaceChildren(
      control.element,
      h(
        "span",
        { class: "ll-copying" },
        button("←", () => jump(-1)),
        button("→", () => jump(1)),
      ),
    );
    follow.replaceChildren(
      choice({
        label: "follow microbatch",
        options: [
          ["-1", "none"],
          ...Array.from({ length: m }, (_, i) => /** @type {[string, string]} */ ([String(i), String(i)])),
        ],
        value: String(followed),
        onchange: (i) => ((followed = Number(i)), draw()),
      }),
    );
    orders.replaceChildren(
      ...list.map((order, s) =>
        h("div", { class: "ll-arithmetic" }, h("strong", {}, `stage ${s}: `), order.map(name).join(" ")),
      ),
    );
    const measured = bubble(spans);
    const predicted = (p - 1) / (v * m + p - 1);
    const right = Math.abs(measured - predicted) < 1e-9;
    const most = spans.map((s) => Math.max(...holding(s)) / v);
    result.replaceChildren(
      h(
        "div",
        {},
        `idle: ${format(100 * measured, 3)} % of all stages' time. Formula: (p − 1) / (${v > 1 ? "v m" : "m"} + p − 1) = ${p - 1} / ${v * m + p - 1} = ${format(100 * predicted, 3)} % `,
        h("span", { class: right ? "ll-ok" : "ll-wrong" }, right ? "✓ as counted" : "✗"),
      ),
      h(
        "div",
        {},
        `held at most: ${most.map((x) => format(x)).join(", ")} ${v > 1 ? "microbatches' worth of a stage's activations" : "microbatches"} (stage 0 to ${p - 1}). One step takes ${format(end)}.`,
      ),
    );
    at(moments[nearest()]);
  }

  const nearest = () =>
    moments.reduce((best, t, k) => (Math.abs(t - moment) < Math.abs(moments[best] - moment) ? k : best), 0);

  /** @param {number} t */
  function at(t) {
    moment = t;
    link.set("time", t);
    draw();
    const words = spans.map((list, s) => {
      const work = list.find((w) => w.start <= t + 1e-9 && t + 1e-9 < w.end);
      const held =
        list.filter((w) => w.kind === "F" && w.end <= t + 1e-9).length -
        list.filter((w) => w.kind === "B" && w.end <= t + 1e-9).length;
      return `stage ${s} ${work ? `does ${name(work)}` : t >= list[list.length - 1].end - 1e-9 ? "is done" : "waits"}, holds ${format(held / v)}`;
    });
    said.textContent = `time ${format(t)}: ${words.join("; ")}`;
  }

  function draw() {
    unit = Math.max(
      (m > 10 ? 19 : 15) / Math.min(state.forward / v, (state.forward * ratio) / v),
      (width - 8) / end,
    );
    const W = end * unit + 8;
    const H = p * LANE + AXIS;
    picture.setAttribute("viewBox", `0 0 ${W} ${H}`);
    picture.style.width = `${W}px`;
    picture.style.maxWidth = "none";
    picture.setAttribute(
      "aria-label",
      `Timeline of ${p} stages and ${m} microbatches; the lists below it say the same`,
    );
    names.replaceChildren(...spans.map((_, s) => h("div", { style: `height:${LANE}px` }, `stage ${s}`)));
    const x = (/** @type {number} */ t) => 4 + t * unit;
    const most = Math.max(...spans.map((list) => Math.max(...holding(list))));
    const parts = spans.flatMap((list, s) => {
      const y = s * LANE;
      const waits = [...list, { start: end, end }]
        .map((w, i) => [i ? list[i - 1].end : 0, w.start])
        .filter(([a, b]) => b - a > 1e-9);
      const idle = waits.map(([a, b]) =>
        svg("rect", {
          x: x(a),
          y,
          width: (b - a) * unit,
          height: BLOCK,
          fill: `url(#${hatch})`,
          class: "ll-idle",
        }),
      );
      const works = list.map((w) => {
        const wide = (w.end - w.start) * unit;
        const shape = svg(
          "g",
          {
            class: `ll-work ll-work-${w.kind}${w.chunk ? " ll-later" : ""}${followed >= 0 && followed !== w.microbatch ? " ll-faded" : ""}`,
            "data-work": name(w),
            "data-stage": s,
          },
          svg("rect", {
            x: x(w.start) + 0.75,
            y: y + 0.75,
            width: Math.max(1, wide - 1.5),
            height: BLOCK - 1.5,
            rx: 3,
          }),
          svg(
            "text",
            { x: x(w.start) + wide / 2, y: y + BLOCK / 2 + 4.5, "text-anchor": "middle" },
            String(w.microbatch),
          ),
        );
        shape.addEventListener("click", (event) => {
          event.stopPropagation();
          followed = followed === w.microbatch ? -1 : w.microbatch;
          const select = follow.querySelector("select");
          if (select) select.value = String(followed);
          moveTo(w.start);
        });
        return shape;
      });
      const counts = holding(list);
      const held = list.map((w, i) => {
        const until = i + 1 < list.length ? list[i + 1].end : end;
        const tall = (counts[i] / most) * STRIP;
        return svg("rect", {
          x: x(w.end),
          y: y + BLOCK + 1 + STRIP - tall,
          width: Math.max(0, (until - w.end) * unit),
          height: tall,
          class: "ll-held",
        });
      });
      return [
        ...idle,
        ...works,
        ...held,
        svg("line", {
          x1: x(0),
          x2: x(end),
          y1: y + BLOCK + 1 + STRIP,
          y2: y + BLOCK + 1 + STRIP,
          class: "ll-tick",
        }),
      ];
    });
    const every = [1, 2, 5, 10, 20, 50, 100].find((k) => k * unit >= 34) ?? 100;
    const ticks = Array.from({ length: Math.floor(end / every) + 1 }, (_, i) => i * every);
    cursor.setAttribute("x1", String(x(moment)));
    cursor.setAttribute("x2", String(x(moment)));
    cursor.setAttribute("y1", "0");
    cursor.setAttribute("y2", String(p * LANE));
    picture.replaceChildren(
      svg(
        "defs",
        {},
        svg(
          "pattern",
          { id: hatch, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
          svg("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "ll-hatch" }),
        ),
      ),
      ...parts,
      ...ticks.map((t) =>
        svg("text", { x: x(t), y: p * LANE + 13, "text-anchor": t ? "middle" : "start" }, format(t)),
      ),
      svg("text", { x: x(0), y: p * LANE + 29, class: "ll-axis" }, "time (forwards of one stage)"),
      cursor,
    );
  }

  picture.addEventListener("click", (event) => {
    const px = /** @type {MouseEvent} */ (event).clientX - picture.getBoundingClientRect().left;
    moveTo((px - 4) / unit);
  });

  const microbatches = slider({
    label: "microbatches m",
    min: 1,
    max: 32,
    value: m,
    oninput: (k) => ((m = k), compute()),
  });
  const chunks = slider({
    label: "chunks v",
    min: 2,
    max: 4,
    value: Math.max(2, v),
    oninput: (k) => ((v = k), compute()),
  });
  const paler = h("span", { class: "ll-note" }, "paler: a stage's later chunks");
  const key = (/** @type {string} */ className, /** @type {string} */ text) =>
    h(
      "span",
      { class: "ll-name" },
      h("span", { class: `ll-swatch ${className}`, "aria-hidden": "true" }),
      text,
    );
  root.append(
    h(
      "div",
      { class: "ll-tools ll-lean" },
      choice({
        label: "schedule",
        options: [
          ["gpipe", "GPipe"],
          ["1f1b", "1F1B"],
          ["interleaved", "interleaved 1F1B"],
        ],
        value: kind,
        onchange: (k) => ((kind = k), compute()),
      }),
      slider({ label: "stages p", min: 1, max: 8, value: p, oninput: (k) => ((p = k), compute()) }).element,
      microbatches.element,
      chunks.element,
      slider({
        label: "backward / forward",
        min: 0.5,
        max: 3,
        step: 0.5,
        value: ratio,
        oninput: (k) => ((ratio = k), compute()),
      }).element,
    ),
    note,
    result,
    h("div", { class: "ll-lanes-box" }, names, box),
    h(
      "div",
      { class: "ll-names" },
      key("ll-work-F", "forward"),
      key("ll-work-B", "backward"),
      key("ll-idle", "idle: the bubble"),
      key("ll-held", "below each stage: activations held"),
      paler,
    ),
    clock,
    said,
    h("div", { class: "ll-tools" }, follow, h("span", { class: "ll-note" }, "or click a block")),
    h("details", {}, h("summary", {}, "the lists that each stage runs"), orders),
  );
  new ResizeObserver(() => {
    if (Math.abs(box.clientWidth - width) < 2) return;
    width = box.clientWidth;
    draw();
  }).observe(box);
  width = box.clientWidth || 600;
  compute();
  link.on("time", () => {
    const t = Number(link.get("time") ?? 0);
    if (Math.abs(t - moment) < 1e-9) return;
    moment = Math.max(0, Math.min(end, t));
    compute();
  });
}
