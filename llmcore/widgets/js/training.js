// TrainingStep: forward, loss, backward and update of the toy decoder,
// computed here; every tensor opens, every number explains itself.
import { chart } from "./axes.js";
import { scaleOf } from "./color.js";
import { button, choice, h, slider } from "./dom.js";
import { agrees } from "./formula.js";
import { grid, reveal } from "./grid.js";
import { format } from "./number.js";
import { at, backward } from "./tape.js";
import { DEFAULTS, NAMES, OPTIMIZERS, forward, parameters } from "./toy.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./tape.js").Var} Var */

/**
 * @param {HTMLElement} root
 * @param {{weights: Record<string, {shape: number[], data: number[]}>, ids: number[],
 *   vocabulary: [number, string][], config: import("./toy.js").Config, lr: number}} state
 * @param {Link} link
 */
export function training(root, state, link) {
  const tip = tooltip(root);
  const named = new Map(state.vocabulary);
  const token = (/** @type {number} */ i) => named.get(i) ?? `id ${i}`;
  let ids = [...state.ids];
  let w = parameters(state.weights);
  let lr = state.lr;
  let kind = "sgd";
  let optimizer = OPTIMIZERS[kind]();
  let run = forward(w, ids, state.config);
  let made = run.stages.flatMap((s) => s.vars);
  /** @type {Record<string, Float64Array>} */
  let after = {};
  /** @type {number[]} */
  let losses = [];
  let open = "scores, head 0";
  /** @type {{part: "value" | "gradient", r: number, c: number}} */
  let chosen = { part: "value", r: 0, c: 0 };
  // a moment: 0 .. n - 1 forward, then n .. 2 n - 1 backward (last made first), then the update
  const n = made.length;
  let moment = n - 1;

  const list = h("div", { class: "ll-tree" });
  const panel = h("div", { class: "ll-opened" });
  const said = h("div", { class: "ll-readout", role: "status" });
  const phase = h("div", { class: "ll-step", role: "status" });
  const result = h("div", { class: "ll-readout", role: "status" });
  const plot = chart({
    describe: "Loss against the number of updates",
    x: { label: "updates" },
    y: { label: "loss (nats a token)" },
    series: [{ name: "loss", points: [[0, 0]] }],
  });

  const params = () => NAMES.map(([, short]) => w[short]);
  const all = () => [...made, ...params()];
  const isParameter = (/** @type {Var} */ v) => v.name in w;
  /** @param {Var} v */
  const hasValue = (v) => isParameter(v) || made.indexOf(v) <= moment;
  /** A tensor has its gradient once everything that reads it has sent its share back. @param {Var} v */
  const hasGradient = (v) =>
    v.name !== "P" &&
    moment >= n &&
    (v === run.loss ||
      (v.uses.length > 0 && v.uses.every(({ out }) => 2 * n - 1 - made.indexOf(out) <= moment)));

  function recompute() {
    run = forward(w, ids, state.config);
    made = run.stages.flatMap((s) => s.vars);
    backward(run.loss);
    const next = structuredOptimizer()(params(), { ...DEFAULTS, lr });
    after = Object.fromEntries(params().map((p, i) => [p.name, next[i]]));
  }

  /** What the update would be, without moving the optimizer's own memory. */
  function structuredOptimizer() {
    const trial = OPTIMIZERS[kind]();
    for (const step of history) trial(step.params, { ...DEFAULTS, lr: step.lr });
    return trial;
  }
  /** @type {{params: Var[], lr: number}[]} */
  let history = [];

  /** One whole step: the update is made, and the next forward begins. */
  function step() {
    backward(run.loss);
    if (!losses.length) losses.push(run.loss.data[0]);
    const remembered = params().map((p) => ({ ...p, data: p.data, grad: p.grad.slice() }));
    const next = optimizer(params(), { ...DEFAULTS, lr });
    if (kind !== "sgd") history.push({ params: remembered, lr });
    params().forEach((p, i) => (p.data = next[i]));
    run = forward(w, ids, state.config);
    losses.push(run.loss.data[0]);
  }

  /** @param {number} count */
  function steps(count) {
    const before = run.loss.data[0];
    for (let i = 0; i < count; i += 1) step();
    recompute();
    moment = n - 1;
    result.textContent = `${count} ${count === 1 ? "update" : "updates"}: loss ${format(before)} → ${format(run.loss.data[0])}`;
    link.set(
      "losses",
      losses.map((x) => Number(x.toPrecision(10))),
    );
    show();
  }

  function restart() {
    optimizer = OPTIMIZERS[kind]();
    history = [];
    losses = [];
    recompute();
    link.set("losses", []);
    show();
  }

  function show() {
    list.replaceChildren(...[{ title: "parameters", vars: params() }, ...run.stages].map(group));
    const v = all().find((x) => x.name === open) ?? made[0];
    draw(v);
    const forwardName = made[Math.min(moment, n - 1)].name;
    const words =
      moment < n
        ? `forward: ${forwardName} is made`
        : moment < 2 * n
          ? `backward: ${made[2 * n - 1 - moment].name} sends its gradient to what it read`
          : "update: every parameter moves";
    phase.textContent = `moment ${moment + 1} of ${2 * n + 1} — ${words}`;
    moments.set(moment);
    plot.element.hidden = losses.length < 2;
    plot.update([
      { name: "loss", points: losses.length ? losses.map((y, i) => [i, y]) : [[0, run.loss.data[0]]] },
    ]);
    if (!result.textContent)
      result.textContent = `loss ${format(run.loss.data[0])} nats a token, over ${ids.length - 1} next tokens`;
  }

  /** @param {{title: string, vars: Var[]}} stage */
  function group({ title, vars }) {
    return h(
      "details",
      { open: title !== "parameters" || vars.some((v) => v.name === open) },
      h("summary", {}, title),
      h(
        "ul",
        {},
        ...vars.map((v) => {
          const marks = [h("span", { class: "ll-shape" }, ` ${v.rows} × ${v.cols}`)];
          if (!hasValue(v)) marks.push(h("span", { class: "ll-shape" }, " not yet"));
          if (hasGradient(v))
            marks.push(
              h("span", { class: "ll-shape", "aria-hidden": "true" }, " ∂"),
              h("span", { class: "ll-hidden" }, " has its gradient"),
            );
          const b = h(
            "button",
            {
              type: "button",
              class: "ll-leaf",
              "data-name": v.name,
              "aria-pressed": String(v.name === open),
            },
            v.name,
            ...marks,
          );
          b.addEventListener("click", () => {
            open = v.name;
            chosen = { part: "value", r: 0, c: 0 };
            show();
          });
          return h("li", {}, b);
        }),
      ),
    );
  }

  /** Labels of a tensor's rows and columns. @param {Var} v @returns {[string[], string[]]} */
  function labels(v) {
    const T = ids.length;
    const rows = Array.from({ length: v.rows }, (_, r) =>
      v.name === "E" || v.name === "U"
        ? token(r)
        : v.rows === T && !isParameter(v)
          ? token(ids[r])
          : String(r),
    );
    const cols = Array.from({ length: v.cols }, (_, c) =>
      v.name === "logits" || v.name === "U^T"
        ? token(c)
        : /^(scores|weights)/.test(v.name)
          ? token(ids[c])
          : String(c),
    );
    return [rows, cols];
  }

  /** @param {Var} v */
  function draw(v) {
    const [rows, cols] = labels(v);
    /**
     * @param {string} title @param {Float64Array} data
     * @param {"value" | "gradient" | null} kind_ what a click explains
     */
    const part = (title, data, kind_) => {
      const value = (/** @type {number} */ r, /** @type {number} */ c) => data[r * v.cols + c];
      const scale = scaleOf(/^weights/.test(v.name) && kind_ === "value" ? "sequential" : "diverging", [
        ...data,
      ]);
      const table = grid({
        label: `${title} of ${v.name}`,
        rows,
        cols,
        value,
        scale,
        compact: v.cols > 24,
        onMove: (r, c, cell) => tip.show(cell, `${v.name}[${r}, ${c}]: ${format(value(r, c))}`),
        onLeave: () => tip.hide(),
        onChoose: (r, c) => {
          if (!kind_) return;
          chosen = { part: kind_, r, c };
          explain(v);
        },
      });
      if (kind_ === chosen.part && chosen.r < v.rows && chosen.c < v.cols) {
        table.choose(chosen.r, chosen.c, false, true);
        requestAnimationFrame(() => reveal(table.element, table.cells[chosen.r][chosen.c]));
      }
      return h("div", { class: "ll-panel" }, h("div", { class: "ll-title" }, title), table.element);
    };
    const parts = hasValue(v)
      ? [part("value", v.data, "value")]
      : [h("p", { class: "ll-note" }, "not yet made at this moment")];
    if (hasGradient(v)) parts.push(part("gradient dL/d", v.grad, "gradient"));
    if (isParameter(v) && moment === 2 * n) parts.push(part("after the update", after[v.name], null));
    panel.replaceChildren(
      h("div", { class: "ll-title" }, v.name, h("span", { class: "ll-shape" }, ` ${v.rows} × ${v.cols}`)),
      h("div", { class: "ll-panels" }, ...parts),
      ...(isParameter(v) ? [editor(v)] : []),
    );
    explain(v);
  }

  const input = /** @type {HTMLInputElement} */ (
    h("input", {
      type: "number",
      step: "0.1",
      class: "ll-number",
      "aria-label": "New value of the chosen weight",
    })
  );

  /** Set one weight by hand. @param {Var} v */
  function editor(v) {
    return h(
      "div",
      { class: "ll-tools" },
      h("span", {}, "chosen weight"),
      input,
      button("set", () => {
        const x = Number(input.value);
        if (!Number.isFinite(x) || input.value === "") return;
        const before = run.loss.data[0];
        v.data = v.data.slice();
        v.data[chosen.r * v.cols + chosen.c] = x;
        recompute();
        result.textContent = `${v.name}[${chosen.r}, ${chosen.c}] = ${format(x)}: loss ${format(before)} → ${format(run.loss.data[0])}`;
        show();
      }),
    );
  }

  /** @param {Var} v */
  function explain(v) {
    const { part, r, c } = chosen;
    if (isParameter(v)) input.value = String(Number(at(v, r, c).toPrecision(6)));
    if (part === "gradient" ? !hasGradient(v) : !hasValue(v)) return said.replaceChildren();
    const lines = [];
    const name = `${part === "gradient" ? "dL/d " : ""}${v.name}[${r}, ${c}]`;
    if (part === "value") {
      if (v.op) {
        const [what, ...rest] = v.op.why(v, r, c);
        lines.push(
          h("div", { class: "ll-what" }, `${name}: ${what}`),
          ...rest.map((t) => h("div", { class: "ll-arithmetic" }, `= ${t}`)),
          h("div", { class: "ll-arithmetic" }, `= ${format(at(v, r, c))}`),
        );
      } else
        lines.push(
          h(
            "div",
            { class: "ll-what" },
            `${name} = ${format(at(v, r, c))}${isParameter(v) ? ", a weight: training moves it" : ""}`,
          ),
        );
      if (isParameter(v) && moment === 2 * n) {
        const [x, d] = [at(v, r, c), v.grad[r * v.cols + c]];
        const text = kind === "sgd" ? `${format(x)} − ${format(lr)} × ${format(d)} = ` : "";
        lines.push(
          h(
            "div",
            { class: "ll-arithmetic" },
            `after the update: ${text}${format(after[v.name][r * v.cols + c], 6)}`,
          ),
        );
      }
    } else {
      const value = v.grad[r * v.cols + c];
      const shares = v.uses.map(({ out, index }) => ({
        out,
        ...(out.op ?? { share: () => ({ text: "", value: 0 }) }).share(out, index, r, c),
      }));
      const sum = v === run.loss ? 1 : shares.reduce((s, x) => s + x.value, 0);
      lines.push(
        h(
          "div",
          { class: "ll-what" },
          `${name}: ${v === run.loss ? "the loss itself" : `what ${shares.length === 1 ? "its one reader sends" : `its ${shares.length} readers send`} back`}`,
        ),
        ...shares.map((x) =>
          h(
            "div",
            { class: "ll-arithmetic" },
            `from ${x.out.name}: ${x.text}${shares.length > 1 ? ` → ${format(x.value)}` : ""}`,
          ),
        ),
        h(
          "div",
          { class: "ll-arithmetic" },
          `= ${format(sum)} `,
          h(
            "span",
            { class: agrees(sum, value) ? "ll-ok" : "ll-wrong" },
            agrees(sum, value) ? "✓ the value shown" : `✗ the value shown is ${format(value)}`,
          ),
        ),
      );
    }
    said.replaceChildren(...lines);
  }

  const moments = slider({
    label: "moment",
    min: 0,
    max: 2 * n,
    value: moment,
    format: (k) => `${k + 1}`,
    oninput: (k) => {
      moment = k;
      show();
    },
  });
  const go = (/** @type {number} */ k) => () => {
    moment = Math.max(0, Math.min(2 * n, k));
    show();
  };
  const selects = ids.map((_, t) =>
    choice({
      label: `token ${t}`,
      options: state.vocabulary.map(([i, text]) => /** @type {[string, string]} */ ([String(i), text])),
      value: String(ids[t]),
      onchange: (i) => {
        const before = run.loss.data[0];
        ids[t] = Number(i);
        recompute();
        result.textContent = `token ${t} is now ${token(ids[t])}: loss ${format(before)} → ${format(run.loss.data[0])}`;
        show();
      },
    }),
  );
  root.append(
    h(
      "div",
      { class: "ll-tools" },
      slider({
        label: "learning rate",
        min: -3,
        max: 1,
        step: 0.1,
        value: Math.log10(lr),
        format: (x) => format(10 ** x, 2),
        oninput: (x) => {
          lr = 10 ** x;
          recompute();
          show();
        },
      }).element,
      choice({
        label: "optimizer",
        options: [
          ["sgd", "SGD"],
          ["momentum", "SGD, momentum 0.9"],
          ["adamw", "AdamW"],
        ],
        value: kind,
        onchange: (next) => {
          kind = next;
          restart();
        },
      }),
      button("one update", () => steps(1)),
      button("100 updates", () => steps(100)),
      button("reset", () => {
        w = parameters(state.weights);
        ids = [...state.ids];
        selects.forEach((s, t) => {
          const select = s.querySelector("select");
          if (select) select.value = String(ids[t]);
        });
        result.textContent = "";
        moment = n - 1;
        restart();
      }),
    ),
    h("details", {}, h("summary", {}, "change the six tokens"), h("div", { class: "ll-tools" }, ...selects)),
    result,
    h(
      "div",
      { class: "ll-tools" },
      button("←", () => go(moment - 1)()),
      moments.element,
      button("→", () => go(moment + 1)()),
      button("after forward", go(n - 1)),
      button("after backward", go(2 * n - 1)),
      button("update", go(2 * n)),
    ),
    phase,
    h("div", { class: "ll-trace" }, list, h("div", {}, panel, said)),
    plot.element,
  );
  recompute();
  show();
}
