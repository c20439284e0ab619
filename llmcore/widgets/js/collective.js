// CollectiveSimulator: the sends of a collective, step by step, on
// numbers. The schedules come from llmcore/distributed/schedules.py.
import { button, choice, h, slider, svg, unique } from "./dom.js";
import { grid } from "./grid.js";
import { format } from "./number.js";
import { bytes, seconds } from "./units.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/**
 * @typedef {[number, number, number | null, number]} Send source,
 *   destination, chunk (null: all of them), 1 to add or 0 to overwrite
 */
/**
 * @typedef {{value: number, from: number[]}} Held a chunk as a
 *   rank holds it: its value, and the ranks whose parts are in it
 */
/** @typedef {(Held | null)[][]} Buffers rank, chunk */

/**
 * Share of the buffer that the busiest rank sends.
 * @type {Record<string, {text: string, share: (p: number) => number}>}
 */
export const BUSIEST = {
  "ring reduce-scatter": { text: "(p − 1) / p × n", share: (p) => (p - 1) / p },
  "ring all-gather": { text: "(p − 1) / p × n", share: (p) => (p - 1) / p },
  "ring all-reduce": { text: "2 (p − 1) / p × n", share: (p) => (2 * (p - 1)) / p },
  "tree broadcast": { text: "⌈log₂ p⌉ × n", share: (p) => Math.ceil(Math.log2(p)) },
  "tree reduce": { text: "n", share: () => 1 },
  "tree all-reduce": { text: "⌈log₂ p⌉ × n", share: (p) => Math.ceil(Math.log2(p)) },
};
const RESULT = {
  "reduce-scatter": "rank r holds chunk r of the sum",
  "all-gather": "every rank holds every chunk",
  "all-reduce": "every rank holds the sum",
  broadcast: "every rank holds what the root had",
  reduce: "rank 0 holds the sum",
};
const what = (/** @type {string} */ name) =>
  /** @type {keyof typeof RESULT} */ (name.slice(name.indexOf(" ") + 1));

/**
 * What every rank holds before the first step.
 * @param {string} name @param {number} p @param {number[][]} values @returns {Buffers}
 */
export function initial(name, p, values) {
  const has = (/** @type {number} */ r, /** @type {number} */ c) =>
    ({ "all-gather": r === c, broadcast: r === 0 })[/** @type {string} */ (what(name))] ?? true;
  return Array.from({ length: p }, (_, r) =>
    Array.from({ length: p }, (_, c) => (has(r, c) ? { value: values[r][c], from: [r] } : null)),
  );
}

/**
 * One step: every send reads what its source held before it.
 * @param {Buffers} buffers @param {Send[]} step @returns {Buffers}
 */
export function advance(buffers, step) {
  const next = buffers.map((row) => [...row]);
  for (const [source, destination, chunk, add] of step) {
    for (let c = 0; c < buffers.length; c += 1) {
      if (chunk !== null && c !== chunk) continue;
      const sent = buffers[source][c];
      const own = next[destination][c];
      if (!sent) continue;
      next[destination][c] =
        add && own
          ? { value: own.value + sent.value, from: [...own.from, ...sent.from].sort((a, b) => a - b) }
          : sent;
    }
  }
  return next;
}

/**
 * Bytes that each rank has sent in the first `steps` steps.
 * @param {Send[][]} schedule @param {number} steps @param {number} p @param {number} n
 */
export function sent(schedule, steps, p, n) {
  const total = Array(p).fill(0);
  for (const step of schedule.slice(0, steps))
    for (const [source, , chunk] of step) total[source] += chunk === null ? n : n / p;
  return total;
}

/**
 * steps x (latency + message / bandwidth)
 * @param {string} name @param {number} steps @param {number} p
 * @param {number} n @param {number} latency @param {number} bandwidth
 */
export function duration(name, steps, p, n, latency, bandwidth) {
  return steps * (latency + (name.startsWith("ring") ? n / p : n) / bandwidth);
}

const [WIDTH, HEIGHT, DOT] = [320, 300, 17];

/**
 * Where ranks stand: on a ring, or as the tree of the broadcast.
 * @param {string} name @param {number} p @param {Send[][]} broadcast @returns {[number, number][]}
 */
function places(name, p, broadcast) {
  if (name.startsWith("ring")) {
    const angle = (/** @type {number} */ r) => (2 * Math.PI * r) / p - Math.PI / 2;
    return Array.from({ length: p }, (_, r) => [
      WIDTH / 2 + 112 * Math.cos(angle(r)),
      HEIGHT / 2 + 112 * Math.sin(angle(r)),
    ]);
  }
  /** @type {number[][]} */
  const children = Array.from({ length: p }, () => []);
  for (const [source, destination] of broadcast.flat()) children[source].push(destination);
  /** @type {[number, number][]} */
  const found = Array.from({ length: p }, () => [0, 0]);
  let leaves = 0;
  /** @param {number} r @param {number} depth */
  const walk = (r, depth) => {
    const below = children[r].map((c) => walk(c, depth + 1));
    found[r] = [below.length ? (below[0] + below[below.length - 1]) / 2 : leaves++, depth];
    return found[r][0];
  };
  walk(0, 0);
  const depths = Math.max(...found.map((f) => f[1]));
  return found.map(([x, depth]) => [
    leaves > 1 ? 30 + (x * (WIDTH - 60)) / (leaves - 1) : WIDTH / 2,
    30 + (depth * (HEIGHT - 60)) / Math.max(1, depths),
  ]);
}

/**
 * @param {HTMLElement} root
 * @param {{collective: string, ranks: number, values: number[][], n_bytes: number, latency: number,
 *   bandwidth: number, schedules: Record<string, Record<string, Send[][]>>}} state
 * @param {Link} link
 */
export function collective(root, state, link) {
  const tip = tooltip(root);
  let name = state.collective;
  let p = state.ranks;
  let n = state.n_bytes;
  /** @type {Send[][]} */
  let schedule = [];
  /** @type {Buffers[]} */
  let history = [];
  let now = 0;
  /** @type {[number, number]} */
  let chosen = [0, 0];
  let timer = 0;

  const head = unique("arrow");
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    class: "ll-chart ll-network",
  });
  const said = h("div", { class: "ll-readout", role: "status" });
  const phase = h("p", { class: "ll-step", role: "status" });
  const ledger = h("div", { class: "ll-pair ll-top" });
  const board = h("div", { class: "ll-plot" });
  const steps = h("div", { class: "ll-tools ll-lean" });
  /** @type {ReturnType<typeof slider>} */
  let control;
  /** @type {ReturnType<typeof grid>} */
  let table;

  /** A new collective or number of ranks. @param {number} at */
  function restart(at) {
    schedule = state.schedules[name][p];
    history = [initial(name, p, state.values)];
    for (const step of schedule) history.push(advance(history[history.length - 1], step));
    chosen = [Math.min(chosen[0], p - 1), Math.min(chosen[1], p - 1)];
    control = slider({
      label: "step",
      min: 0,
      max: schedule.length,
      value: at,
      format: (k) => `${k} of ${schedule.length}`,
      oninput: (k) => (stop(), go(k)),
    });
    steps.replaceChildren(
      control.element,
      h(
        "span",
        { class: "ll-copying" },
        button("←", () => (stop(), go(now - 1))),
        button("→", () => (stop(), go(now + 1))),
        play,
      ),
    );
    table = grid({
      label: "Every rank's buffer, a column a chunk",
      rows: Array.from({ length: p }, (_, r) => `rank ${r}`),
      cols: Array.from({ length: p }, (_, c) => String(c)),
      value: () => 0,
      scale: { kind: "sequential", low: 0, high: p },
      compact: false,
      onMove: (r, c, cell) => tip.show(cell, sentence(r, c)),
      onLeave: () => tip.hide(),
      onChoose: (r, c) => {
        chosen = [r, c];
        link.set("selection", [r, c]);
        explain();
      },
    });
    table.choose(chosen[0], chosen[1], false, true);
    board.replaceChildren(
      h("div", { class: "ll-title" }, `what every rank holds, chunk 0 to ${p - 1}`),
      table.element,
      h(
        "p",
        { class: "ll-note" },
        "Below a value: the ranks whose parts are in it. Dashed: received in this step.",
      ),
    );
    go(at);
  }

  /** @param {number} k */
  function go(k) {
    now = Math.max(0, Math.min(schedule.length, k));
    control.set(now);
    link.set("step", now);
    show();
  }

  const play = button("play", () => {
    if (timer) return stop();
    if (now === schedule.length) go(0);
    play.textContent = "pause";
    timer = window.setInterval(() => {
      if (!root.isConnected || now === schedule.length) return stop();
      go(now + 1);
      if (now === schedule.length) stop();
    }, 1100);
  });
  function stop() {
    window.clearInterval(timer);
    timer = 0;
    play.textContent = "play";
  }

  /** @param {number} r @param {number} c */
  const sentence = (r, c) => {
    const held = history[now][r][c];
    return held ? `rank ${r}, chunk ${c}: ${format(held.value)}` : `rank ${r}, chunk ${c}: nothing yet`;
  };

  function explain() {
    const [r, c] = chosen;
    const held = history[now][r][c];
    if (!held) return void (said.textContent = `rank ${r} has nothing in chunk ${c} yet`);
    const terms = held.from.map((from) => `${format(state.values[from][c])} of rank ${from}`);
    said.textContent = `rank ${r}, chunk ${c}: ${format(held.value)}${held.from.length > 1 ? ` = ${terms.join(" + ")}` : `, ${held.from[0] === r ? "its own" : `that of rank ${held.from[0]}`}`}`;
  }

  function show() {
    const buffers = history[now];
    const step = now ? schedule[now - 1] : [];
    const whose = (/** @type {number[]} */ from) => (from.length === p ? "all" : from.join("\u2009"));
    table.show((r, c) => buffers[r][c]?.from.length ?? 0, { kind: "sequential", low: 0, high: p });
    buffers.forEach((row, r) =>
      row.forEach((held, c) => {
        const parts = held
          ? [
              format(held.value),
              h(
                "small",
                { class: "ll-whose" },
                h("span", { class: "ll-hidden" }, "from "),
                h("span", {}, whose(held.from)),
              ),
            ]
          : ["·"];
        table.cells[r][c].replaceChildren(...parts);
      }),
    );
    table.mark(
      step.flatMap(([, to, chunk]) =>
        chunk === null
          ? buffers.map((_, c) => /** @type {[number, number]} */ ([to, c]))
          : [/** @type {[number, number]} */ ([to, chunk])],
      ),
    );
    const half = name.endsWith("all-reduce")
      ? now <= schedule.length / 2
        ? name.startsWith("ring")
          ? "reduce-scatter: "
          : "reduce: "
        : name.startsWith("ring")
          ? "all-gather: "
          : "broadcast: "
      : "";
    const send = ([a, b, chunk, add] = /** @type {Send} */ ([0, 0, 0, 0])) =>
      `${a} → ${b} ${chunk === null ? "all" : `chunk ${chunk}`} ${add ? "(added)" : "(copied)"}`;
    phase.textContent = now
      ? `step ${now} of ${schedule.length} — ${half}${step.map(send).join(", ")}`
      : `before the first step; after the last, ${RESULT[what(name)]}`;
    draw(step);
    count();
    explain();
  }

  /** @param {Send[]} step */
  function draw(step) {
    const at = places(name, p, state.schedules["tree broadcast"][p]);
    const ring = name.startsWith("ring");
    const edges = ring
      ? at.map((_, r) => [r, (r + 1) % p])
      : state.schedules["tree broadcast"][p].flat().map(([a, b]) => [a, b]);
    picture.setAttribute(
      "aria-label",
      step.length
        ? `Messages of step ${now}: ${step.map(([a, b]) => `${a} to ${b}`).join(", ")}`
        : `${p} ranks ${ring ? "in a ring" : "in a tree"}, no message yet`,
    );
    const arrow = (/** @type {Send} */ [a, b, chunk, add]) => {
      const [from, to] = [at[a], at[b]];
      const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
      const [dx, dy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
      // two ranks send to each other along one line: each keeps to its right
      const off = p === 2 && ring ? 16 : 0;
      const [x1, y1] = [from[0] + dx * (DOT + 2) - dy * off, from[1] + dy * (DOT + 2) + dx * off];
      const [x2, y2] = [to[0] - dx * (DOT + 9) - dy * off, to[1] - dy * (DOT + 9) + dx * off];
      const out = p > 2 && ring ? 20 : 0; // beside the arrow, outside of the ring
      const [mx, my] = [(x1 + x2) / 2 + dy * out, (y1 + y2) / 2 - dx * out];
      const text = chunk === null ? (add ? "+" : "=") : `${add ? "+" : "="}${chunk}`;
      return svg(
        "g",
        { class: add ? "ll-send ll-adds" : "ll-send ll-copies" },
        svg("line", { x1, y1, x2, y2, "marker-end": `url(#${head}-${add})` }),
        svg("rect", { x: mx - 14, y: my - 10, width: 28, height: 20, rx: 5 }),
        svg("text", { x: mx, y: my + 5, "text-anchor": "middle" }, text),
      );
    };
    picture.replaceChildren(
      svg(
        "defs",
        {},
        ...[0, 1].map((add) =>
          svg(
            "marker",
            {
              id: `${head}-${add}`,
              viewBox: "0 0 8 8",
              refX: 4,
              refY: 4,
              markerWidth: 4.5,
              markerHeight: 4.5,
              orient: "auto",
              class: add ? "ll-adds" : "ll-copies",
            },
            svg("path", { d: "M0 0L8 4L0 8z" }),
          ),
        ),
      ),
      ...edges.map(([a, b]) =>
        svg("line", { x1: at[a][0], y1: at[a][1], x2: at[b][0], y2: at[b][1], class: "ll-tick" }),
      ),
      ...step.map(arrow),
      ...at.map(([x, y], r) =>
        svg(
          "g",
          { class: "ll-rank" },
          svg("circle", { cx: x, cy: y, r: DOT }),
          svg("text", { x, y: y + 5, "text-anchor": "middle" }, String(r)),
        ),
      ),
    );
  }

  function count() {
    const far = sent(schedule, now, p, n);
    const all = sent(schedule, schedule.length, p, n);
    const most = Math.max(...all);
    const total = all.reduce((a, b) => a + b, 0);
    const rows = all.map((bytesInAll, r) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, `rank ${r}`),
        h(
          "td",
          { class: "ll-barcell" },
          h("span", { class: "ll-meter", style: `--v:${(far[r] / most).toFixed(4)}`, "aria-hidden": "true" }),
        ),
        h("td", {}, bytes(far[r])),
        h("td", {}, bytes(bytesInAll)),
      ),
    );
    const { text, share } = BUSIEST[name];
    const right = Math.abs(most - share(p) * n) < 1e-6 * n;
    const { latency, bandwidth } = state;
    const time = (/** @type {string} */ kind) =>
      seconds(duration(kind, state.schedules[kind][p].length, p, n, latency, bandwidth));
    const message = bytes(name.startsWith("ring") ? n / p : n);
    const other = name === "ring all-reduce" ? "tree all-reduce" : "ring all-reduce";
    ledger.replaceChildren(
      h(
        "div",
        { class: "ll-plot" },
        h("div", { class: "ll-title" }, "bytes sent"),
        h(
          "div",
          { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": "Bytes sent by each rank" },
          h(
            "table",
            { class: "ll-list" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("td", {}),
                h("th", { scope: "col" }, h("span", { class: "ll-hidden" }, "bar")),
                h("th", { scope: "col" }, "so far"),
                h("th", { scope: "col" }, "in all steps"),
              ),
            ),
            h("tbody", {}, ...rows),
          ),
        ),
      ),
      h(
        "div",
        { class: "ll-readout ll-formula" },
        h(
          "div",
          {},
          `busiest rank: ${text} = ${bytes(share(p) * n)} `,
          h(
            "span",
            { class: right ? "ll-ok" : "ll-wrong" },
            right ? "✓ as counted" : `✗ ${bytes(most)} counted`,
          ),
        ),
        h("div", {}, `all ranks together: ${bytes(total)}`),
        h(
          "div",
          {},
          `time: ${schedule.length} × (${seconds(latency)} + ${message} / ${bytes(bandwidth)} a second) = ${time(name)}`,
          name.endsWith("all-reduce")
            ? h("div", { class: "ll-note" }, `as a ${other.split(" ")[0]}: ${time(other)}`)
            : "",
        ),
      ),
    );
  }

  root.append(
    h(
      "div",
      { class: "ll-tools ll-lean" },
      choice({
        label: "collective",
        options: Object.keys(state.schedules).map((k) => /** @type {[string, string]} */ ([k, k])),
        value: name,
        onchange: (k) => (stop(), (name = k), restart(0)),
      }),
      slider({
        label: "ranks",
        min: 2,
        max: state.values.length,
        value: p,
        oninput: (k) => (stop(), (p = k), restart(0)),
      }).element,
      slider({
        label: "buffer n",
        min: 3,
        max: 10,
        step: 0.01,
        value: Math.log10(n),
        format: (x) => bytes(10 ** x),
        oninput: (x) => ((n = 10 ** x), count()),
      }).element,
    ),
    steps,
    phase,
    h(
      "div",
      { class: "ll-pair" },
      h(
        "div",
        { class: "ll-plot" },
        picture,
        h(
          "p",
          { class: "ll-note ll-key" },
          h("span", { class: "ll-adds" }, "+2"),
          " chunk 2 is added to the receiver's; ",
          h("span", { class: "ll-copies" }, "=2"),
          " it replaces the receiver's; without a number: all chunks",
        ),
      ),
      board,
    ),
    said,
    ledger,
  );
  restart(Math.min(link.get("step") ?? 0, state.schedules[name][p].length));
  link.on("step", () => {
    const wanted = Math.max(0, Math.min(schedule.length, link.get("step") ?? 0));
    if (wanted !== now) go(wanted);
  });
}
