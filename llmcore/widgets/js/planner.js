// MemoryPlanner: a model, a batch and a plan to bytes, sends and seconds. The formulas are plan.js.
import { checkbox, choice, div, h, listing, note, slider, span, status } from "./dom.js";
import { format } from "./number.js";
import { BYTES, KINDS, PARTS, TIMES, dataSends, layers, predict, ranksOf } from "./plan.js";
import { bytes, seconds, whole } from "./units.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./plan.js").Model} Model */
/** @typedef {import("./plan.js").Plan} Plan */
/** @typedef {import("./plan.js").Hardware} Hardware */

const POWERS = Array.from({ length: 13 }, (_, i) => 2 ** i); // 1 to 4096
/** @type {Record<string, string>} */
const MEANS = {
  parameters: "weights",
  gradients: "gradients",
  optimizer: "Adam's moments, master weights",
  activations: "kept for the backward",
  logits: "of the loss",
  working: "there for a moment",
};
/** @type {Record<string, string>} */
const SPENT = {
  compute: "matrix products",
  tensor: "all-reduces of tensor ranks",
  pipeline: "activations between stages",
  bubble: "waiting in the pipeline",
  data: "gradients, not hidden",
};

/**
 * A number field with its label.
 * @param {string} label @param {number} value @param {number} most @param {(x: number) => void} onchange
 */
function field(label, value, most, onchange) {
  const input = /** @type {HTMLInputElement} */ (
    h("input", { type: "number", class: "ll-number", min: 1, max: most, step: 1, value })
  );
  input.addEventListener("input", () => onchange(Math.floor(Number(input.value))));
  return h("label", { class: "ll-control" }, label, input);
}

/**
 * name, gpu: keys of the models and of the hardware shipped;
 * path: of attention; part: of the memory, explained.
 * @typedef {{name: string, gpu: string, path: string, plan: Plan, B: number, T: number, efficiency: number,
 *   part: string}} State
 * @typedef {{models: Record<string, Model>, hardware: Record<string, Hardware>, model: string, gpu: string,
 *   attention: string, plan: Plan, B: number, T: number, efficiency: number}} Shipped
 * @typedef {Extract<ReturnType<typeof predict>, {seconds: number}>} Found
 */

/** @param {HTMLElement} root @param {Shipped} shipped @param {Link} link */
export function planner(root, shipped, link) {
  const { model: name, gpu, attention: path, plan, B, T, efficiency } = shipped;
  /** @type {State} */
  let state = { name, gpu, path, plan, B, T, efficiency, part: "activations" };
  const form = h("div", {});
  const refused = h("div", { class: "ll-readout ll-refused", role: "alert", hidden: true });
  const shown = h("div", {});

  /** @param {Partial<State>} change */
  function become(change) {
    state = { ...state, ...change };
    update();
  }
  /** @param {Partial<Plan>} change */
  const replan = (change) => become({ plan: { ...state.plan, ...change } });
  /** Another model: the controls are made anew, as it changes what can be chosen. @param {string} next */
  function pick(next) {
    const { paths, context_length } = shipped.models[next];
    const known = paths[state.path] ? state.path : Object.keys(paths)[0];
    state = { ...state, name: next, path: known, T: Math.min(state.T, context_length) };
    controls();
    form.querySelector("select")?.focus();
    update();
  }
  const controls = () =>
    form.replaceChildren(
      batchControls(shipped, state, pick, become, replan),
      planControls(shipped.models[state.name], state, replan),
      gpuControls(shipped, state, become),
    );

  function update() {
    const hardware = shipped.hardware[state.gpu];
    const model = shipped.models[state.name];
    const found = predict(model, state.path, state.plan, hardware, state.B, state.T, state.efficiency);
    refused.hidden = !found.error;
    refused.textContent = found.error ? `This cannot be run. ${found.error}` : "";
    shown.classList.toggle("ll-stale", !!found.error);
    if (found.error || !found.memory) return;
    link.set("plan", { ...state.plan });
    const memory = memoryPart(state, model, hardware, found, (part) => (state = { ...state, part }));
    shown.replaceChildren(
      verdictLine(state, hardware, found),
      div("ll-pair", memory, timePart(state, found)),
    );
  }

  controls();
  root.append(form, refused, shown);
  update();
}

/** @param {string} title @param {...HTMLElement} items */
const group = (title, ...items) =>
  h("fieldset", { class: "ll-group" }, h("legend", {}, title), div("ll-tools", ...items));

/**
 * Numbers as options, the one in use among them.
 * @param {number[]} list @param {number} now @returns {[string, string][]}
 */
const options = (list, now) =>
  [...new Set([...list, now])].sort((a, b) => a - b).map((x) => [String(x), whole(x)]);

/**
 * A list of numbers to choose from.
 * @param {string} label @param {number[]} list @param {number} value @param {(x: number) => void} onchange
 */
const numbers = (label, list, value, onchange) =>
  choice({
    label,
    options: options(list, value),
    value: String(value),
    onchange: (x) => onchange(Number(x)),
  });

/** @param {string[]} names @returns {[string, string][]} */
const plainly = (names) => names.map((name) => [name, name]);

/**
 * @param {Shipped} shipped @param {State} state @param {(name: string) => void} pick
 * @param {(change: Partial<State>) => void} become @param {(change: Partial<Plan>) => void} replan
 */
function batchControls({ models }, { name, path, plan, B, T }, pick, become, replan) {
  const { paths, context_length } = models[name];
  const lengths = POWERS.map((k) => 128 * k).filter((k) => k <= context_length);
  return group(
    "model and batch",
    choice({ label: "model", options: plainly(Object.keys(models)), value: name, onchange: pick }),
    choice({
      label: "attention",
      options: plainly(Object.keys(paths)),
      value: path,
      onchange: (k) => become({ path: k }),
    }),
    field("sequences B", B, 1e6, (x) => become({ B: x })),
    numbers("tokens T", lengths, T, (x) => become({ T: x })),
    choice({
      label: "precision",
      options: [
        ["bf16", "bf16, fp32 master"],
        ["fp32", "fp32"],
      ],
      value: plan.precision,
      onchange: (precision) => replan({ precision }),
    }),
  );
}

/** @param {Model} model @param {State} state @param {(change: Partial<Plan>) => void} replan */
function planControls(model, { path, plan }, replan) {
  const stages = Array.from({ length: Math.min(64, model.n_layers) }, (_, i) => i + 1).filter(
    (pipeline) => layers(model, { ...plan, pipeline, chunks: 1 }).length,
  );
  const ranks = Object.keys(model.paths[path]).map(Number);
  return group(
    "plan",
    numbers("data", POWERS, plan.data, (data) => replan({ data })),
    choice({
      label: "ZeRO stage",
      options: [
        ["0", "0: nothing shared out"],
        ["1", "1: optimizer"],
        ["2", "2: + gradients"],
        ["3", "3: + parameters"],
      ],
      value: String(plan.zero),
      onchange: (zero) => replan({ zero: Number(zero) }),
    }),
    numbers("tensor", ranks, plan.tensor, (tensor) => replan({ tensor })),
    checkbox("sequence parallel", plan.sequence_parallel, (on) => replan({ sequence_parallel: on })),
    numbers("pipeline", stages, plan.pipeline, (pipeline) => replan({ pipeline })),
    field("chunks", plan.chunks, 64, (chunks) => replan({ chunks })),
    field("microbatches", plan.microbatches, 1e5, (microbatches) => replan({ microbatches })),
    choice({
      label: "recompute",
      options: [
        ["none", "nothing"],
        ["selective", "selective"],
        ["full", "full"],
      ],
      value: plan.recompute,
      onchange: (recompute) => replan({ recompute }),
    }),
  );
}

/** @param {Shipped} shipped @param {State} state @param {(change: Partial<State>) => void} become */
function gpuControls({ hardware }, { gpu, efficiency }, become) {
  const reached = slider({
    label: "efficiency of products",
    min: 0.05,
    max: 1,
    step: 0.05,
    value: efficiency,
    format: (x) => `${Math.round(100 * x)} %`,
    oninput: (x) => become({ efficiency: x }),
  });
  const names = choice({
    label: "GPU",
    options: Object.entries(hardware).map(([key, { name }]) => [key, name]),
    value: gpu,
    onchange: (key) => become({ gpu: key }),
  });
  return group("GPUs", names, reached.element);
}

/**
 * A bar of parts beside a limit.
 * @param {string} label @param {[string, number][]} parts @param {number} most @param {number} [limit]
 */
function bar(label, parts, most, limit) {
  const percent = (/** @type {number} */ x) => `${((100 * x) / most).toFixed(3)}%`;
  const pieces = parts.map(([, x], i) =>
    h("span", { class: `ll-piece ll-part-${i}`, style: `width:${percent(x)}` }),
  );
  if (limit !== undefined) pieces.push(h("span", { class: "ll-limit", style: `left:${percent(limit)}` }));
  const described = { role: "img", "aria-label": `${label}: the table below says the same` };
  return h("div", { class: "ll-stack", ...described }, ...pieces);
}

/** A name beside its colour. @param {string} text @param {number} i */
const swatch = (text, i) => [h("span", { class: `ll-swatch ll-part-${i}`, "aria-hidden": "true" }), text];

/** @param {string} label @param {string[]} heads @param {HTMLElement[]} rows */
const table = (label, heads, rows) => listing({ region: label, label, heads, body: h("tbody", {}, ...rows) });

/** @param {(string | Node)[]} name @param {...HTMLElement} cells */
const row = (name, ...cells) => h("tr", {}, h("th", { scope: "row" }, ...name), ...cells);

/** Does the fullest rank fit? @param {State} state @param {Hardware} hardware @param {Found} found */
function verdictLine({ plan }, hardware, found) {
  const gpus = ranksOf(plan);
  const total = sum(found.memory);
  const fits = total <= hardware.memory;
  const room = `${fits ? "fits into" : "too much for"} ${bytes(hardware.memory)}`;
  const line = status();
  line.append(
    h("strong", {}, `${whole(gpus)} ${gpus === 1 ? "GPU" : "GPUs"}: `),
    span(fits ? "ll-ok" : "ll-wrong", `${bytes(total)} on the fullest, ${room}`),
    `; ${seconds(found.seconds)} a step, MFU ${format(100 * found.utilization, 3)} %`,
  );
  return line;
}

/** @param {Record<string, number>} parts */
const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);

/**
 * Memory by part, each explained where it is chosen.
 * @param {State} state @param {Model} model @param {Hardware} hardware @param {Found} found
 * @param {(part: string) => void} onchoose
 */
function memoryPart(state, model, { memory: room }, found, onchoose) {
  const parts = PARTS.map((k) => /** @type {[string, number]} */ ([k, found.memory[k]]));
  const explained = status();
  const explain = (/** @type {string} */ part) =>
    explained.replaceChildren(
      ...why(part, state, model, found).map((text, i) => div(i ? "ll-arithmetic" : "ll-what", text)),
    );
  const buttons = parts.map(([k], i) => {
    const look = { type: "button", class: "ll-leaf", "aria-pressed": String(k === state.part) };
    const onclick = () => {
      onchoose(k);
      buttons.forEach((b, j) => b.setAttribute("aria-pressed", String(j === i)));
      explain(k);
    };
    return h("button", { ...look, onclick }, ...swatch(k, i));
  });
  const rows = parts.map(([k, x], i) =>
    row([buttons[i]], h("td", {}, bytes(x)), h("td", { class: "ll-means" }, MEANS[k])),
  );
  const { pipeline } = state.plan;
  const stage = pipeline > 1 ? ` (a rank of stage ${found.fullest.stage} of ${pipeline})` : "";
  const left_out = "Not counted: the allocator's gaps, buffers, CUDA itself: leave a tenth free.";
  explain(state.part);
  return div(
    "ll-plot",
    div("ll-title", `memory of the fullest rank${stage}`),
    bar("Memory by part", parts, Math.max(sum(found.memory), room), room),
    div("ll-marks", h("span", {}, "0"), h("span", {}, `line: ${bytes(room)} of the GPU`)),
    table("Memory by part", ["part", "bytes", ""], rows),
    explained,
    note(`Choose a part to see how it is made. ${left_out}`),
  );
}

/** Time of a step and bytes sent. @param {State} state @param {Found} found */
function timePart({ B, T }, found) {
  const time = TIMES.map((k) => /** @type {[string, number]} */ ([k, found.time[k]]));
  const spent = time.map(([k, x], i) =>
    row(swatch(k, i), h("td", {}, seconds(x)), h("td", { class: "ll-means" }, SPENT[k])),
  );
  const sends = KINDS.map((k) =>
    row([k], h("td", {}, bytes(found.communication[k])), h("td", {}, `${bytes(found.links[k])}/s`)),
  );
  const tokens = (B * T) / found.seconds;
  return div(
    "ll-plot",
    div("ll-title", "time of a step"),
    bar("Time by what it goes into", time, found.seconds),
    div("ll-marks", h("span", {}, "0"), h("span", {}, seconds(found.seconds))),
    table("Time of a step", ["", "time", ""], spent),
    div("ll-title", "bytes that the busiest rank sends in a step"),
    table("Communication", ["", "bytes", "link"], sends),
    note(`${whole(tokens)} tokens a second: a trillion tokens take ${seconds(1e12 / tokens)}.`),
  );
}

/**
 * How a part of the memory comes about.
 * @param {string} part @param {State} state @param {Model} m @param {Found} found @returns {string[]}
 */
function why(part, { plan, B, T }, m, found) {
  const s = found.fullest;
  const b = B / (plan.data * plan.microbatches);
  const [weight, gradient, moments] = BYTES[plan.precision];
  const { data, zero } = plan;
  const all = `${whole(s.parameters)} parameters, the same on every data rank`;
  const shard = `⌈${whole(s.parameters)} / ${data}⌉ parameters, shared out over ${data} data ranks`;
  const share = (/** @type {number} */ size, /** @type {number} */ stage) =>
    `${size} bytes × ${zero >= stage ? shard : all}`;
  const held = `${format(s.held)} ${s.held === 1 ? "microbatch" : "microbatches"} held`;
  const kept = `${s.layers} blocks × ${whole(s.stays)} bytes × ${held}`;
  const ends = s.activations - Math.round(s.held * s.layers * s.stays);
  const V = `⌈${whole(m.vocab_size)} / ${plan.tensor}⌉ of the vocabulary`;
  const gathered = zero === 3 ? ` + ${weight} bytes × ${whole(s.gathered)} gathered parameters` : "";
  const sends = `${dataSends(plan)} × ${data - 1} / ${data} bytes a parameter and step`;
  /** @type {Record<string, string[]>} */
  const lines = {
    parameters: [share(weight, 3)],
    gradients: [share(gradient, 2), `data ranks send ${sends}`],
    optimizer: [share(moments, 1)],
    activations: [
      `${kept}${ends ? ` + ${whole(ends)} outside the blocks` : ""}`,
      `a microbatch is ${whole(b)} × ${whole(T)} tokens`,
    ],
    logits: [
      s.logits
        ? `2 × 4 bytes × ${whole(b)} × ${whole(T)} tokens × ${V}`
        : "none here: the head is on the last stage",
    ],
    working: [`${whole(s.working)} bytes of the block that is recomputed${gathered}`],
  };
  const [first, ...rest] = lines[part];
  const size = found.memory[/** @type {typeof PARTS[number]} */ (part)];
  return [`${part}: ${first}`, `= ${bytes(size)} (${whole(size)} bytes)`, ...rest];
}
