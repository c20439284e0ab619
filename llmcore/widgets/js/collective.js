// CollectiveSimulator: the sends of a collective, step by step, on numbers.
// The state and how it changes: simulator.js.
import { button, choice, div, h, listing, meter, note, slider } from "./dom.js";
import { span, status, svg, unique, verdict } from "./dom.js";
import { grid } from "./grid.js";
import { format } from "./number.js";
import { COLLECTIVES, atStep, choosing, duration, initial, message, phase, played } from "./simulator.js";
import { scheduleOf, sent, withBytes, withCollective, withRanks } from "./simulator.js";
import { tooltip } from "./tooltip.js";
import { bytes, seconds } from "./units.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./simulator.js").Send} Send */
/** @typedef {import("./simulator.js").State} State */
/** @typedef {import("./simulator.js").Held} Held */
/** @typedef {import("./simulator.js").Buffers} Buffers */
/** @typedef {ReturnType<typeof grid>} Grid */
/** @typedef {(state: State) => State} Change */
/** @typedef {(change: Change) => void} Act */

const [WIDTH, HEIGHT, DOT] = [320, 300, 17];
const VIEW = `0 0 ${WIDTH} ${HEIGHT}`;

/** @param {HTMLElement} root @param {import("./simulator.js").Shipped} shipped @param {Link} link */
export function collective(root, shipped, link) {
  const tip = tooltip(root);
  const parts = elements();
  let state = initial(shipped, link.get("step") ?? 0);
  let history = played(state);
  const now = () => history[state.step];
  const ended = () => state.step === scheduleOf(state).length;
  const clock = player(root, {
    rewind: () => ended() && become((s) => atStep(s, 0)),
    next: () => become((s) => atStep(s, s.step + 1)),
    ended,
  });
  /** @type {ReturnType<typeof stepSlider>} */
  let control;
  /** @type {Grid} */
  let table;

  /** The one way in which the state changes. @param {Change} change @param {() => void} draw */
  function become(change, draw = show) {
    state = change(state);
    draw();
  }
  /** Of the reader's own doing: what plays stops. @param {Change} change @param {() => void} draw */
  function act(change, draw = show) {
    clock.stop();
    become(change, draw);
  }

  /** What is made anew for another collective or number of ranks. */
  function build() {
    history = played(state);
    control = stepSlider(state, (change) => act(change));
    table = buffersTable(state, tip, now, (r, c) => {
      link.set("selection", [r, c]);
      become((s) => choosing(s, r, c), explain);
    });
    parts.steps.replaceChildren(control.element, span("ll-copying", ...control.buttons, clock.button));
    parts.board.replaceChildren(...boardOf(state, table));
    show();
  }
  const explain = () => void (parts.said.textContent = explanation(state, now()));
  const count = () => parts.ledger.replaceChildren(...ledgerOf(state));

  function show() {
    control.set(state.step);
    link.set("step", state.step);
    fillTable(table, state, now());
    parts.phase.textContent = phase(state);
    drawNetwork(parts.picture, state);
    count();
    explain();
  }

  /** @type {Act} */
  const restart = (change) => act(change, build);
  /** @type {Act} */
  const recount = (change) => become(change, count);
  root.append(settings(state, restart, recount), ...layout(parts));
  build();
  link.on("step", () => {
    const wanted = atStep(state, link.get("step") ?? 0);
    if (wanted.step !== state.step) become(() => wanted);
  });
}

const elements = () => ({
  picture: svg("svg", { viewBox: VIEW, role: "img", class: "ll-chart ll-network", id: unique("network") }),
  steps: div("ll-tools ll-lean"),
  phase: h("p", { class: "ll-step", role: "status" }),
  board: div("ll-plot"),
  said: status(),
  ledger: div("ll-pair ll-top"),
});

/** @param {ReturnType<typeof elements>} parts */
const layout = ({ picture, steps, phase: line, board, said, ledger }) => [
  steps,
  line,
  div("ll-pair", div("ll-plot", picture, legend()), board),
  said,
  ledger,
];

/** Collective, ranks, bytes. @param {State} state @param {Act} restart @param {Act} recount */
function settings({ shipped, name, ranks, n }, restart, recount) {
  const names = Object.keys(shipped.schedules);
  const collectives = choice({
    label: "collective",
    options: names.map((k) => /** @type {[string, string]} */ ([k, k])),
    value: name,
    onchange: (k) => restart((state) => withCollective(state, k)),
  });
  const of = slider({
    label: "ranks",
    min: 2,
    max: shipped.values.length,
    value: ranks,
    oninput: (k) => restart((state) => withRanks(state, k)),
  });
  const buffer = slider({
    label: "buffer n",
    min: 3,
    max: 10,
    step: 0.01,
    value: Math.log10(n),
    format: (x) => bytes(10 ** x),
    oninput: (x) => recount((state) => withBytes(state, 10 ** x)),
  });
  return div("ll-tools ll-lean", collectives, of.element, buffer.element);
}

/** @param {State} state @param {Act} act */
function stepSlider(state, act) {
  const last = scheduleOf(state).length;
  const control = slider({
    label: "step",
    min: 0,
    max: last,
    value: state.step,
    format: (k) => `${k} of ${last}`,
    oninput: (k) => act((s) => atStep(s, k)),
  });
  const buttons = [
    button("←", () => act((s) => atStep(s, s.step - 1))),
    button("→", () => act((s) => atStep(s, s.step + 1))),
  ];
  return { ...control, buttons };
}

/**
 * A button that plays to the end; it stops where the figure leaves the page.
 * @param {HTMLElement} root @param {{rewind: () => void, next: () => void, ended: () => boolean}} tape
 */
function player(root, { rewind, next, ended }) {
  let timer = 0;
  const stop = () => {
    window.clearInterval(timer);
    timer = 0;
    face.textContent = "play";
  };
  const face = button("play", () => {
    if (timer) return stop();
    rewind();
    face.textContent = "pause";
    timer = window.setInterval(() => {
      if (root.isConnected && !ended()) next();
      if (!root.isConnected || ended()) stop();
    }, 1100);
  });
  return { stop, button: face };
}

/**
 * Every rank's buffer.
 * @param {State} state @param {ReturnType<typeof tooltip>} tip
 * @param {() => Buffers} now @param {(r: number, c: number) => void} onChoose
 */
function buffersTable({ ranks, chosen }, tip, now, onChoose) {
  const table = grid({
    label: "Every rank's buffer, a column a chunk",
    rows: Array.from({ length: ranks }, (_, r) => `rank ${r}`),
    cols: Array.from({ length: ranks }, (_, c) => String(c)),
    value: () => 0,
    scale: { kind: "sequential", low: 0, high: ranks },
    compact: false,
    onMove: (r, c, cell) => tip.show(cell, sentence(now(), r, c)),
    onLeave: () => tip.hide(),
    onChoose,
  });
  table.choose(chosen[0], chosen[1], false, true);
  return table;
}

/**
 * @param {Grid} table @param {State} state @param {Buffers} now
 */
function fillTable(table, state, now) {
  const p = state.ranks;
  const whose = (/** @type {number[]} */ from) => (from.length === p ? "all" : from.join("\u2009"));
  const shown = (/** @type {Held | null} */ held) => {
    if (!held) return ["·"];
    const from = [span("ll-hidden", "from "), h("span", {}, whose(held.from))];
    return [format(held.value), h("small", { class: "ll-whose" }, ...from)];
  };
  table.show((r, c) => now[r][c]?.from.length ?? 0, { kind: "sequential", low: 0, high: p });
  now.forEach((row, r) => row.forEach((held, c) => table.cells[r][c].replaceChildren(...shown(held))));
  const chunks = [...now.keys()];
  const step = lastStep(state);
  table.mark(step.flatMap(([, to, chunk]) => (chunk === null ? chunks : [chunk]).map((c) => pair(to, c))));
}

/** @param {Buffers} now @param {number} r @param {number} c */
const sentence = (now, r, c) =>
  `rank ${r}, chunk ${c}: ${now[r][c] ? format(now[r][c].value) : "nothing yet"}`;

/** @param {State} state @param {Grid} table */
const boardOf = ({ ranks }, table) => [
  div("ll-title", `what every rank holds, chunk 0 to ${ranks - 1}`),
  table.element,
  note("Below a value: the ranks whose parts are in it. Dashed: received in this step."),
];

/** @param {number} a @param {number} b @returns {[number, number]} */
const pair = (a, b) => [a, b];

/** The sends of the step that was made last. @param {State} state @returns {Send[]} */
const lastStep = (state) => (state.step ? scheduleOf(state)[state.step - 1] : []);

/**
 * The chosen chunk and the parts in it.
 * @param {State} state @param {Buffers} now
 */
function explanation({ shipped, chosen: [r, c] }, now) {
  const held = now[r][c];
  if (!held) return `rank ${r} has nothing in chunk ${c} yet`;
  const terms = held.from.map((from) => `${format(shipped.values[from][c])} of rank ${from}`);
  const whose = held.from[0] === r ? "its own" : `that of rank ${held.from[0]}`;
  const sum = held.from.length > 1 ? ` = ${terms.join(" + ")}` : `, ${whose}`;
  return `rank ${r}, chunk ${c}: ${format(held.value)}${sum}`;
}

/** Where ranks stand on a ring. @param {number} p @returns {[number, number][]} */
function onRing(p) {
  const angle = (/** @type {number} */ r) => (2 * Math.PI * r) / p - Math.PI / 2;
  const place = (/** @type {number} */ r) =>
    pair(WIDTH / 2 + 112 * Math.cos(angle(r)), HEIGHT / 2 + 112 * Math.sin(angle(r)));
  return Array.from({ length: p }, (_, r) => place(r));
}

/** Where ranks stand in the tree of the broadcast. @param {number} p @param {Send[][]} broadcast */
function inTree(p, broadcast) {
  /** @type {number[][]} */
  const children = Array.from({ length: p }, () => []);
  for (const [source, destination] of broadcast.flat()) children[source].push(destination);
  const found = Array.from({ length: p }, () => pair(0, 0));
  let leaves = 0;
  /** @param {number} r @param {number} depth */
  const walk = (r, depth) => {
    const below = children[r].map((c) => walk(c, depth + 1));
    found[r] = [below.length ? (below[0] + below[below.length - 1]) / 2 : leaves++, depth];
    return found[r][0];
  };
  walk(0, 0);
  const depths = Math.max(1, ...found.map(([, depth]) => depth));
  const across = (/** @type {number} */ x) =>
    leaves > 1 ? 30 + (x * (WIDTH - 60)) / (leaves - 1) : WIDTH / 2;
  return found.map(([x, depth]) => pair(across(x), 30 + (depth * (HEIGHT - 60)) / depths));
}

/**
 * Ranks, their links, and the messages of the last step.
 * @param {SVGElement} picture @param {State} state
 */
function drawNetwork(picture, state) {
  const head = `${picture.id}-arrow`;
  const p = state.ranks;
  const step = lastStep(state);
  const ring = COLLECTIVES[state.name].topology === "ring";
  const broadcast = state.shipped.schedules["tree broadcast"][p];
  const at = ring ? onRing(p) : inTree(p, broadcast);
  const edges = ring ? at.map((_, r) => [r, (r + 1) % p]) : broadcast.flat().map(([a, b]) => [a, b]);
  const sends = step.map(([a, b]) => `${a} to ${b}`).join(", ");
  const idle = `${p} ranks ${ring ? "in a ring" : "in a tree"}, no message yet`;
  picture.setAttribute("aria-label", step.length ? `Messages of step ${state.step}: ${sends}` : idle);
  // two ranks send to each other along one line: each keeps to its right
  const aside = p === 2 && ring ? 16 : 0;
  const outside = p > 2 && ring ? 20 : 0;
  picture.replaceChildren(
    svg("defs", {}, ...[0, 1].map((add) => arrowHead(head, add))),
    ...edges.map(([a, b]) =>
      svg("line", { x1: at[a][0], y1: at[a][1], x2: at[b][0], y2: at[b][1], class: "ll-tick" }),
    ),
    ...step.map((send) => arrow(send, at[send[0]], at[send[1]], { head, aside, outside })),
    ...at.map(([x, y], r) => rankAt(x, y, r)),
  );
}

/** @param {number} x @param {number} y @param {number} r */
function rankAt(x, y, r) {
  const circle = svg("circle", { cx: x, cy: y, r: DOT });
  const text = svg("text", { x, y: y + 5, "text-anchor": "middle" }, String(r));
  return svg("g", { class: "ll-rank" }, circle, text);
}

/** @param {string} head @param {number} add */
function arrowHead(head, add) {
  const size = { viewBox: "0 0 8 8", refX: 4, refY: 4, markerWidth: 4.5, markerHeight: 4.5, orient: "auto" };
  const marker = { id: `${head}-${add}`, ...size, class: add ? "ll-adds" : "ll-copies" };
  return svg("marker", marker, svg("path", { d: "M0 0L8 4L0 8z" }));
}

/**
 * One message. aside: how far its line stands beside that
 * of the two ranks; outside: its text beside the arrow.
 * @param {Send} send @param {[number, number]} from @param {[number, number]} to
 * @param {{head: string, aside: number, outside: number}} drawn
 */
function arrow([, , chunk, add], from, to, { head, aside, outside }) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const [dx, dy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
  const [x1, y1] = [from[0] + dx * (DOT + 2) - dy * aside, from[1] + dy * (DOT + 2) + dx * aside];
  const [x2, y2] = [to[0] - dx * (DOT + 9) - dy * aside, to[1] - dy * (DOT + 9) + dx * aside];
  const [mx, my] = [(x1 + x2) / 2 + dy * outside, (y1 + y2) / 2 - dx * outside];
  const text = `${add ? "+" : "="}${chunk ?? ""}`;
  return svg(
    "g",
    { class: add ? "ll-send ll-adds" : "ll-send ll-copies" },
    svg("line", { x1, y1, x2, y2, "marker-end": `url(#${head}-${add})` }),
    svg("rect", { x: mx - 14, y: my - 10, width: 28, height: 20, rx: 5 }),
    svg("text", { x: mx, y: my + 5, "text-anchor": "middle" }, text),
  );
}

const legend = () =>
  h(
    "p",
    { class: "ll-note ll-key" },
    span("ll-adds", "+2"),
    " chunk 2 is added to the receiver's; ",
    span("ll-copies", "=2"),
    " it replaces the receiver's; without a number: all chunks",
  );

/** Bytes by rank, and the formulas beside the count. @param {State} state */
function ledgerOf(state) {
  const { shipped, name, ranks: p, n, step } = state;
  const { latency, bandwidth } = shipped;
  const schedule = scheduleOf(state);
  const [far, all] = [sent(schedule, step, p, n), sent(schedule, schedule.length, p, n)];
  const most = Math.max(...all);
  const { formula, share, other } = COLLECTIVES[name];
  const right = Math.abs(most - share(p) * n) < 1e-6 * n;
  const time = (/** @type {string} */ kind) =>
    seconds(duration(kind, shipped.schedules[kind][p].length, p, n, latency, bandwidth));
  const one = `${seconds(latency)} + ${bytes(message(name, p, n))} / ${bytes(bandwidth)} a second`;
  const lines = [
    h(
      "div",
      {},
      `busiest rank: ${formula} = ${bytes(share(p) * n)} `,
      verdict(right, "as counted", `${bytes(most)} counted`),
    ),
    h("div", {}, `all ranks together: ${bytes(all.reduce((a, b) => a + b, 0))}`),
    h(
      "div",
      {},
      `time: ${schedule.length} × (${one}) = ${time(name)}`,
      other ? div("ll-note", `as a ${COLLECTIVES[other].topology}: ${time(other)}`) : "",
    ),
  ];
  return [
    div("ll-plot", div("ll-title", "bytes sent"), bytesTable(far, all)),
    div("ll-readout ll-formula", ...lines),
  ];
}

/** @param {number[]} far sent so far @param {number[]} all in all steps */
function bytesTable(far, all) {
  const most = Math.max(...all);
  const rows = all.map((whole, r) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `rank ${r}`),
      h("td", { class: "ll-barcell" }, meter(far[r] / most)),
      h("td", {}, bytes(far[r])),
      h("td", {}, bytes(whole)),
    ),
  );
  const heads = ["", span("ll-hidden", "bar"), "so far", "in all steps"];
  return listing({ region: "Bytes sent by each rank", heads, body: h("tbody", {}, ...rows) });
}
