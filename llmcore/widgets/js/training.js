// TrainingStep: forward, loss, backward and update of the
// toy decoder, computed here; every tensor opens, every
// number explains itself. The state and how it changes: trainer.js.
import { chart } from "./axes.js";
import { scaleOf } from "./color.js";
import { button, choice, div, h, slider, span, status } from "./dom.js";
import { check, formula } from "./formula.js";
import { grid, reveal } from "./grid.js";
import { format } from "./number.js";
import { TAPED } from "./operations.js";
import { at, explained, shares, slope } from "./tape.js";
import { atMoment, choosing, compute, hasGradient, hasValue, initial, opened, phase } from "./trainer.js";
import { reset, sameStep, tokenOf, updated } from "./trainer.js";
import { withOptimizer, withRate, withToken, withWeight } from "./trainer.js";
import { tooltip } from "./tooltip.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./tape.js").Var} Var */
/** @typedef {import("./trainer.js").State} State */
/** @typedef {import("./trainer.js").Step} Step */
/** @typedef {(change: (state: State) => State) => void} Act */

/** @param {HTMLElement} root @param {import("./trainer.js").Shipped} shipped @param {Link} link */
export function training(root, shipped, link) {
  const tip = tooltip(root);
  let state = initial(shipped);
  let step = compute(state);
  const number = weightField();
  const [said, phaseLine, result] = [status(), status("ll-step"), status()];
  const [list, panel] = [div("ll-tree"), div("ll-opened")];
  const plot = lossPlot();

  /**
   * The one way in which the state changes.
   * @param {(state: State) => State} change @param {() => void} draw
   */
  function become(change, draw) {
    const before = state;
    state = change(state);
    if (!sameStep(state, before)) step = compute(state);
    if (state.losses !== before.losses)
      link.set(
        "losses",
        state.losses.map((x) => Number(x.toPrecision(10))),
      );
    draw();
  }
  const act = (/** @type {Parameters<Act>[0]} */ change) => become(change, render);
  const controls = walk(step, act);
  const selects = tokenSelects(shipped, act);

  function render() {
    const shown = openVar(state, step);
    list.replaceChildren(...tree(state, step, act));
    const choose = (/** @type {State["chosen"]} */ c) => become((s) => choosing(s, c), explain);
    const editor = shown.kind === "parameter" ? [weightEditor(number, act)] : [];
    const title = div("ll-title", shown.name, span("ll-shape", ` ${shown.rows} × ${shown.cols}`));
    panel.replaceChildren(title, div("ll-panels", ...tables(state, step, tip, choose)), ...editor);
    explain();
    phaseLine.textContent = phase(step, state.moment);
    controls.set(state.moment);
    selects.set(state.ids);
    const loss = step.loss.data[0];
    plot.element.hidden = state.losses.length < 2;
    plot.update([
      { name: "loss", points: (state.losses.length ? state.losses : [loss]).map((y, i) => [i, y]) },
    ]);
    const places = `${state.ids.length - 1} next tokens`;
    result.textContent = state.said || `loss ${format(loss)} nats a token, over ${places}`;
  }

  function explain() {
    const v = openVar(state, step);
    const { r, c } = state.chosen;
    if (v.kind === "parameter") number.value = String(Number(at(v, r, c).toPrecision(6)));
    said.replaceChildren(...explanation(state, step));
  }

  root.append(
    settings(shipped, act),
    h("details", {}, h("summary", {}, "change the six tokens"), div("ll-tools", ...selects.elements)),
    result,
    controls.element,
    phaseLine,
    div("ll-trace", list, h("div", {}, panel, said)),
    plot.element,
  );
  render();
}

/** The tensor that is open. @param {State} state @param {Step} step @returns {Var} */
const openVar = ({ open }, { made, params }) => [...made, ...params].find((v) => v.name === open) ?? made[0];

const lossPlot = () =>
  chart({
    describe: "Loss against the number of updates",
    x: { label: "updates" },
    y: { label: "loss (nats a token)" },
    series: [{ name: "loss", points: [[0, 0]] }],
  });

/** Rate, optimizer, updates. @param {import("./trainer.js").Shipped} shipped @param {Act} act */
function settings({ lr }, act) {
  const rate = slider({
    label: "learning rate",
    min: -3,
    max: 1,
    step: 0.1,
    value: Math.log10(lr),
    format: (x) => format(10 ** x, 2),
    oninput: (x) => act((state) => withRate(state, 10 ** x)),
  });
  const optimizer = choice({
    label: "optimizer",
    options: [
      ["sgd", "SGD"],
      ["momentum", "SGD, momentum 0.9"],
      ["adamw", "AdamW"],
    ],
    value: "sgd",
    onchange: (kind) => act((state) => withOptimizer(state, kind)),
  });
  return div(
    "ll-tools",
    rate.element,
    optimizer,
    button("one update", () => act((state) => updated(state, 1))),
    button("100 updates", () => act((state) => updated(state, 100))),
    button("reset", () => act(reset)),
  );
}

/** One list of tokens for each place. @param {import("./trainer.js").Shipped} shipped @param {Act} act */
function tokenSelects({ ids, vocabulary }, act) {
  const elements = ids.map((id, place) =>
    choice({
      label: `token ${place}`,
      options: vocabulary.map(([i, text]) => /** @type {[string, string]} */ ([String(i), text])),
      value: String(id),
      onchange: (i) => act((state) => withToken(state, place, Number(i))),
    }),
  );
  return {
    elements,
    /** @param {number[]} now */
    set(now) {
      elements.forEach((element, place) => {
        const select = element.querySelector("select");
        if (select) select.value = String(now[place]);
      });
    },
  };
}

/** The walk through the moments of a step. @param {Step} step @param {Act} act */
function walk({ made }, act) {
  const n = made.length;
  const go = (/** @type {number} */ moment) => act((state) => atMoment(state, moment));
  const by = (/** @type {number} */ d) =>
    act((state) => atMoment(state, Math.max(0, Math.min(2 * n, state.moment + d))));
  const moments = slider({
    label: "moment",
    min: 0,
    max: 2 * n,
    value: n - 1,
    format: (k) => `${k + 1}`,
    oninput: go,
  });
  const element = div(
    "ll-tools",
    button("←", () => by(-1)),
    moments.element,
    button("→", () => by(1)),
    button("after forward", () => go(n - 1)),
    button("after backward", () => go(2 * n - 1)),
    button("update", () => go(2 * n)),
  );
  return { element, set: moments.set };
}

/** Every tensor by stage, as buttons. @param {State} state @param {Step} step @param {Act} act */
function tree({ open, moment }, step, act) {
  const shape = (/** @type {string} */ text) => span("ll-shape", text);
  const leaf = (/** @type {Var} */ v) => {
    const marks = [shape(` ${v.rows} × ${v.cols}`)];
    if (!hasValue(step, moment, v)) marks.push(shape(" not yet"));
    if (hasGradient(step, moment, v)) {
      marks.push(h("span", { class: "ll-shape", "aria-hidden": "true" }, " ∂"));
      marks.push(span("ll-hidden", " has its gradient"));
    }
    const pressed = { "data-name": v.name, "aria-pressed": String(v.name === open) };
    const onclick = () => act((state) => opened(state, v.name));
    return h(
      "li",
      {},
      h("button", { type: "button", class: "ll-leaf", ...pressed, onclick }, v.name, ...marks),
    );
  };
  const stages = [{ title: "parameters", vars: step.params, closed: true }, ...step.stages];
  return stages.map(({ title, vars, ...stage }) => {
    const unfolded = !("closed" in stage) || vars.some((v) => v.name === open);
    return h("details", { open: unfolded }, h("summary", {}, title), h("ul", {}, ...vars.map(leaf)));
  });
}

/**
 * Value, gradient and updated value of the open tensor, as far as they are there.
 * @param {State} state @param {Step} step @param {ReturnType<typeof tooltip>} tip
 * @param {(chosen: State["chosen"]) => void} choose
 */
function tables(state, step, tip, choose) {
  const v = openVar(state, step);
  const value = hasValue(step, state.moment, v);
  const parts = value
    ? [table(state, v, "value", "value", v.data, tip, choose)]
    : [h("p", { class: "ll-note" }, "not yet made at this moment")];
  if (hasGradient(step, state.moment, v))
    parts.push(table(state, v, "gradient dL/d", "gradient", v.grad, tip, choose));
  if (v.kind === "parameter" && isUpdate(state, step))
    parts.push(table(state, v, "after the update", null, step.after[v.name], tip, choose));
  return parts;
}

/** The last moment: the update. @param {State} state @param {Step} step */
const isUpdate = ({ moment }, { made }) => moment === 2 * made.length;

/**
 * @param {State} state @param {Var} v @param {string} title @param {"value" | "gradient" | null} part what a
 *   click explains @param {Float64Array} data @param {ReturnType<typeof tooltip>} tip
 * @param {(chosen: State["chosen"]) => void} choose
 */
function table(state, v, title, part, data, tip, choose) {
  const value = (/** @type {number} */ r, /** @type {number} */ c) => data[r * v.cols + c];
  const probabilities = v.op === TAPED.softmax && part === "value"; // from 0 to 1
  const label = (/** @type {import("./tape.js").Axis} */ axis, /** @type {number} */ i) =>
    axis ? tokenOf(state.shipped, axis === "place" ? state.ids[i] : i) : String(i);
  const made = grid({
    label: `${title} of ${v.name}`,
    rows: Array.from({ length: v.rows }, (_, r) => label(v.axes[0], r)),
    cols: Array.from({ length: v.cols }, (_, c) => label(v.axes[1], c)),
    value,
    scale: scaleOf(probabilities ? "sequential" : "diverging", [...data]),
    compact: v.cols > 24,
    onMove: (r, c, cell) => tip.show(cell, `${v.name}[${r}, ${c}]: ${format(value(r, c))}`),
    onLeave: () => tip.hide(),
    onChoose: (r, c) => part && choose({ part, r, c }),
  });
  const { chosen } = state;
  if (part === chosen.part && chosen.r < v.rows && chosen.c < v.cols) {
    made.choose(chosen.r, chosen.c, false, true);
    requestAnimationFrame(() => reveal(made.element, made.cells[chosen.r][chosen.c]));
  }
  return div("ll-panel", div("ll-title", title), made.element);
}

const weightField = () =>
  /** @type {HTMLInputElement} */ (
    h("input", {
      type: "number",
      step: "0.1",
      class: "ll-number",
      "aria-label": "New value of the chosen weight",
    })
  );

/** Set one weight by hand. @param {HTMLInputElement} field @param {Act} act */
function weightEditor(field, act) {
  const set = () => {
    const x = Number(field.value);
    if (Number.isFinite(x) && field.value !== "") act((state) => withWeight(state, x));
  };
  return div("ll-tools", h("span", {}, "chosen weight"), field, button("set", set));
}

/** How the chosen number came about. @param {State} state @param {Step} step @returns {HTMLElement[]} */
function explanation(state, step) {
  const v = openVar(state, step);
  const { part } = state.chosen;
  const known = part === "gradient" ? hasGradient : hasValue;
  if (!known(step, state.moment, v)) return [];
  return part === "gradient" ? gradientLines(state, step, v) : valueLines(state, step, v);
}

/** @param {State} state @param {Step} step @param {Var} v */
function valueLines(state, step, v) {
  const { r, c } = state.chosen;
  const name = `${v.name}[${r}, ${c}]`;
  const found = explained(v, r, c);
  if (found) return [formula(name, at(v, r, c), found)];
  const moved = v.kind === "parameter" ? ", a weight: training moves it" : "";
  const lines = [div("ll-what", `${name} = ${format(at(v, r, c))}${moved}`)];
  if (v.kind === "parameter" && isUpdate(state, step)) {
    const product = `${format(at(v, r, c))} − ${format(state.lr)} × ${format(slope(v, r, c))} = `;
    const after = format(step.after[v.name][r * v.cols + c], 6);
    lines.push(div("ll-arithmetic", `after the update: ${state.kind === "sgd" ? product : ""}${after}`));
  }
  return lines;
}

/** @param {State} state @param {Step} step @param {Var} v */
function gradientLines(state, step, v) {
  const { r, c } = state.chosen;
  const sent = shares(v, r, c);
  const own = v === step.loss;
  const readers = sent.length === 1 ? "its one reader sends" : `its ${sent.length} readers send`;
  const sum = own ? 1 : sent.reduce((total, x) => total + x.value, 0);
  const of = (/** @type {number} */ x) => (sent.length > 1 ? ` → ${format(x)}` : "");
  return [
    div("ll-what", `dL/d ${v.name}[${r}, ${c}]: ${own ? "the loss itself" : `what ${readers} back`}`),
    ...sent.map((x) => div("ll-arithmetic", `from ${x.out.name}: ${x.text}${of(x.value)}`)),
    check(sum, slope(v, r, c)),
  ];
}
