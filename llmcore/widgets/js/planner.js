// MemoryPlanner: a model, a batch and a plan to bytes, sends and seconds. The formulas are plan.js.
import { checkbox, choice, h, slider } from "./dom.js";
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
 * @param {HTMLElement} root
 * @param {{models: Record<string, Model>, hardware: Record<string, Hardware>, model: string,
 *   gpu: string, attention: string, plan: Plan, B: number, T: number, efficiency: number}} state
 * @param {Link} link
 */
export function planner(root, state, link) {
  let name = state.model;
  let gpu = state.gpu;
  let path = state.attention;
  let { B, T, efficiency } = state;
  /** @type {Plan} */
  const plan = { ...state.plan };
  let part = "activations";
  const form = h("div", {});
  const refused = h("div", { class: "ll-readout ll-refused", role: "alert", hidden: true });
  const shown = h("div", {});

  const model = () => state.models[name];
  const hardware = () => state.hardware[gpu];
  /**
   * Options with the value in use among them.
   * @param {number[]} list @param {number} now @returns {[string, string][]}
   */
  const options = (list, now) =>
    [...new Set([...list, now])].sort((a, b) => a - b).map((x) => [String(x), whole(x)]);

  /** The controls; made anew where the model changes what can be chosen. */
  function controls() {
    const m = model();
    const set = (/** @type {Partial<Plan>} */ change) => (Object.assign(plan, change), update());
    const stages = Array.from({ length: m.n_layers }, (_, i) => i + 1).filter(
      (k) => k <= 64 && layers(m, { ...plan, pipeline: k, chunks: 1 }).length,
    );
    const lengths = POWERS.map((k) => 128 * k).filter((k) => k <= m.context_length);
    const group = (/** @type {string} */ title, /** @type {HTMLElement[]} */ ...items) =>
      h("fieldset", { class: "ll-group" }, h("legend", {}, title), h("div", { class: "ll-tools" }, ...items));
    form.replaceChildren(
      group(
        "model and batch",
        choice({
          label: "model",
          options: Object.keys(state.models).map((k) => [k, k]),
          value: name,
          onchange: pick,
        }),
        choice({
          label: "attention",
          options: Object.keys(m.paths).map((k) => [k, k]),
          value: path,
          onchange: (k) => ((path = k), update()),
        }),
        field("sequences B", B, 1e6, (x) => ((B = x), update())),
        choice({
          label: "tokens T",
          options: options(lengths, T),
          value: String(T),
          onchange: (k) => ((T = Number(k)), update()),
        }),
        choice({
          label: "precision",
          options: [
            ["bf16", "bf16, fp32 master"],
            ["fp32", "fp32"],
          ],
          value: plan.precision,
          onchange: (precision) => set({ precision }),
        }),
      ),
      group(
        "plan",
        choice({
          label: "data",
          options: options(POWERS, plan.data),
          value: String(plan.data),
          onchange: (k) => set({ data: Number(k) }),
        }),
        choice({
          label: "ZeRO stage",
          options: [
            ["0", "0: nothing shared out"],
            ["1", "1: optimizer"],
            ["2", "2: + gradients"],
            ["3", "3: + parameters"],
          ],
          value: String(plan.zero),
          onchange: (k) => set({ zero: Number(k) }),
        }),
        choice({
          label: "tensor",
          options: options(Object.keys(m.paths[path]).map(Number), plan.tensor),
          value: String(plan.tensor),
          onchange: (k) => set({ tensor: Number(k) }),
        }),
        checkbox("sequence parallel", plan.sequence_parallel, (on) => set({ sequence_parallel: on })),
        choice({
          label: "pipeline",
          options: options(stages, plan.pipeline),
          value: String(plan.pipeline),
          onchange: (k) => set({ pipeline: Number(k) }),
        }),
        field("chunks", plan.chunks, 64, (x) => set({ chunks: x })),
        field("microbatches", plan.microbatches, 1e5, (x) => set({ microbatches: x })),
        choice({
          label: "recompute",
          options: [
            ["none", "nothing"],
            ["selective", "selective"],
            ["full", "full"],
          ],
          value: plan.recompute,
          onchange: (recompute) => set({ recompute }),
        }),
      ),
      group(
        "GPUs",
        choice({
          label: "GPU",
          options: Object.entries(state.hardware).map(([k, v]) => [k, v.name]),
          value: gpu,
          onchange: (k) => ((gpu = k), update()),
        }),
        slider({
          label: "efficiency of products",
          min: 0.05,
          max: 1,
          step: 0.05,
          value: efficiency,
          format: (x) => `${Math.round(100 * x)} %`,
          oninput: (x) => ((efficiency = x), update()),
        }).element,
      ),
    );
  }

  /** @param {string} next */
  function pick(next) {
    name = next;
    T = Math.min(T, model().context_length);
    if (!model().paths[path]) path = Object.keys(model().paths)[0];
    controls();
    form.querySelector("select")?.focus();
    update();
  }

  /**
   * A bar of parts beside a limit.
   * @param {string} label @param {[string, number][]} parts @param {number} most @param {number} [limit]
   */
  function bar(label, parts, most, limit) {
    const pieces = parts.map(([, x], i) =>
      h("span", { class: `ll-piece ll-part-${i}`, style: `width:${((100 * x) / most).toFixed(3)}%` }),
    );
    const line =
      limit === undefined
        ? []
        : [h("span", { class: "ll-limit", style: `left:${((100 * limit) / most).toFixed(3)}%` })];
    return h(
      "div",
      { class: "ll-stack", role: "img", "aria-label": `${label}: the table below says the same` },
      ...pieces,
      ...line,
    );
  }

  /** @param {string} text @param {number} i */
  const swatch = (text, i) => [h("span", { class: `ll-swatch ll-part-${i}`, "aria-hidden": "true" }), text];

  function update() {
    const found = predict(model(), path, plan, hardware(), B, T, efficiency);
    refused.hidden = !found.error;
    refused.textContent = "";
    shown.classList.toggle("ll-stale", !!found.error);
    if (found.error || !found.memory || !found.time || !found.communication)
      return void (refused.textContent = `This cannot be run. ${found.error}`);
    link.set("plan", { ...plan });
    const gpus = ranksOf(plan);
    const total = Object.values(found.memory).reduce((a, b) => a + b, 0);
    const room = hardware().memory;
    const fits = total <= room;
    const memory = PARTS.map((k) => /** @type {[string, number]} */ ([k, found.memory[k]]));
    const time = TIMES.map((k) => /** @type {[string, number]} */ ([k, found.time[k]]));
    const explained = h("div", { class: "ll-readout", role: "status" });
    const explain = () =>
      explained.replaceChildren(
        ...why(part, found).map((line, i) => h("div", { class: i ? "ll-arithmetic" : "ll-what" }, line)),
      );
    const rows = memory.map(([k, x], i) => {
      const b = h(
        "button",
        { type: "button", class: "ll-leaf", "aria-pressed": String(k === part) },
        ...swatch(k, i),
      );
      b.addEventListener("click", () => {
        part = k;
        for (const other of shown.querySelectorAll(".ll-leaf"))
          other.setAttribute("aria-pressed", String(other === b));
        explain();
      });
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, b),
        h("td", {}, bytes(x)),
        h("td", { class: "ll-means" }, MEANS[k]),
      );
    });
    const tokens = (B * T) / found.seconds;
    const stage = plan.pipeline > 1 ? ` (a rank of stage ${found.fullest.stage} of ${plan.pipeline})` : "";
    const table = (
      /** @type {string} */ label,
      /** @type {string[]} */ heads,
      /** @type {HTMLElement[]} */ body,
    ) =>
      h(
        "div",
        { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": label },
        h(
          "table",
          { class: "ll-list", "aria-label": label },
          h("thead", {}, h("tr", {}, ...heads.map((t) => h(t ? "th" : "td", t ? { scope: "col" } : {}, t)))),
          h("tbody", {}, ...body),
        ),
      );
    shown.replaceChildren(
      h(
        "div",
        { class: "ll-readout", role: "status" },
        h("strong", {}, `${whole(gpus)} ${gpus === 1 ? "GPU" : "GPUs"}: `),
        h(
          "span",
          { class: fits ? "ll-ok" : "ll-wrong" },
          `${bytes(total)} on the fullest, ${fits ? "fits into" : "too much for"} ${bytes(room)}`,
        ),
        `; ${seconds(found.seconds)} a step, MFU ${format(100 * found.utilization, 3)} %`,
      ),
      h(
        "div",
        { class: "ll-pair" },
        h(
          "div",
          { class: "ll-plot" },
          h("div", { class: "ll-title" }, `memory of the fullest rank${stage}`),
          bar("Memory by part", memory, Math.max(total, room), room),
          h(
            "div",
            { class: "ll-marks" },
            h("span", {}, "0"),
            h("span", {}, `line: ${bytes(room)} of the GPU`),
          ),
          table("Memory by part", ["part", "bytes", ""], rows),
          explained,
          h(
            "p",
            { class: "ll-note" },
            "Choose a part to see how it is made. Not counted: the allocator's gaps, buffers, CUDA itself: leave a tenth free.",
          ),
        ),
        h(
          "div",
          { class: "ll-plot" },
          h("div", { class: "ll-title" }, "time of a step"),
          bar("Time by what it goes into", time, found.seconds),
          h("div", { class: "ll-marks" }, h("span", {}, "0"), h("span", {}, seconds(found.seconds))),
          table(
            "Time of a step",
            ["", "time", ""],
            time.map(([k, x], i) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, ...swatch(k, i)),
                h("td", {}, seconds(x)),
                h("td", { class: "ll-means" }, SPENT[k]),
              ),
            ),
          ),
          h("div", { class: "ll-title" }, "bytes that the busiest rank sends in a step"),
          table(
            "Communication",
            ["", "bytes", "link"],
            KINDS.map((k) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, k),
                h("td", {}, bytes(found.communication[k])),
                h("td", {}, `${bytes(found.links[k])}/s`),
              ),
            ),
          ),
          h(
            "p",
            { class: "ll-note" },
            `${whole(tokens)} tokens a second: a trillion tokens take ${seconds(1e12 / tokens)}.`,
          ),
        ),
      ),
    );
    explain();
  }

  /** How a part of the memory comes about. @param {string} k @param {any} found @returns {string[]} */
  function why(k, found) {
    const s = /** @type {import("./plan.js").Stage} */ (found.fullest);
    const m = model();
    const b = B / (plan.data * plan.microbatches);
    const [weight, gradient, moments] = BYTES[plan.precision];
    const value = `= ${bytes(found.memory[k])} (${whole(found.memory[k])} bytes)`;
    const share = (/** @type {number} */ size, /** @type {number} */ from) =>
      plan.zero >= from
        ? `${size} bytes × ⌈${whole(s.parameters)} / ${plan.data}⌉ parameters, shared out over ${plan.data} data ranks`
        : `${size} bytes × ${whole(s.parameters)} parameters, the same on every data rank`;
    const kept = `${s.layers} blocks × ${whole(s.stays)} bytes × ${format(s.held)} ${s.held === 1 ? "microbatch" : "microbatches"} held`;
    const ends = s.activations - Math.round(s.held * s.layers * s.stays);
    /** @type {Record<string, string[]>} */
    const lines = {
      parameters: [share(weight, 3)],
      gradients: [share(gradient, 2)],
      optimizer: [share(moments, 1)],
      activations: [
        `${kept}${ends ? ` + ${whole(ends)} outside the blocks` : ""}`,
        `a microbatch is ${whole(b)} × ${whole(T)} tokens`,
      ],
      logits: s.logits
        ? [
            `2 × 4 bytes × ${whole(b)} × ${whole(T)} tokens × ⌈${whole(m.vocab_size)} / ${plan.tensor}⌉ of the vocabulary`,
          ]
        : ["none here: the head is on the last stage"],
      working: [
        `${whole(s.working)} bytes of the block that is recomputed${plan.zero === 3 ? ` + ${weight} bytes × ${whole(s.gathered)} gathered parameters` : ""}`,
      ],
    };
    const extra =
      k === "gradients"
        ? [`data ranks send ${dataSends(plan)} × ${plan.data - 1} / ${plan.data} bytes a parameter and step`]
        : [];
    return [`${k}: ${lines[k][0]}`, value, ...lines[k].slice(1), ...extra];
  }

  controls();
  root.append(form, refused, shown);
  update();
}
