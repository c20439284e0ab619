// A whole training step in the page equals torch's in float64: values, gradients,
// weights after each of three steps. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { LANDSCAPES, contour, path } from "../../llmcore/widgets/js/landscape.js";
import { TAPED } from "../../llmcore/widgets/js/operations.js";
import { squaredError } from "../../llmcore/widgets/js/surface.js";
import { backward, explained, order, shares } from "../../llmcore/widgets/js/tape.js";
import {
  DEFAULTS,
  NAMES,
  OPTIMIZERS,
  forward,
  parameters,
  remembered,
} from "../../llmcore/widgets/js/toy.js";

const { training, descent } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const { weights, ids, config } = training.widget;
const near = (a, b, what, within = 1e-6) => {
  const [x, y] = [[...a], b.flat(Infinity)];
  assert.equal(x.length, y.length, what);
  x.forEach((v, i) => assert.ok(Math.abs(v - y[i]) <= within, `${what}[${i}]: ${v} is not ${y[i]}`));
};
const B = "decoder.blocks.0.";
// the page's names for what llmcore.trace calls otherwise
const TRACED = {
  "E[ids]": "embedding.tokens",
  x: "embedding",
  "LN(x)": `${B}attention_norm`,
  Q: `${B}attention.W_q`,
  K: `${B}attention.W_k`,
  V: `${B}attention.W_v`,
  attention: `${B}attention`,
  "x + attention": `${B}after_attention`,
  "LN(x + attention)": `${B}feed_forward_norm`,
  up: `${B}feed_forward.up`,
  "relu(up)": `${B}feed_forward.hidden`,
  FFN: `${B}feed_forward`,
  "x + attention + FFN": B.slice(0, -1),
  "last norm": "decoder.norm",
  logits: "head",
};

for (const [kind, lr] of [
  ["sgd", 0.5],
  ["momentum", 0.1],
  ["adamw", 0.1],
]) {
  test(`${kind}: three steps`, () => {
    const w = parameters(weights);
    const params = NAMES.map(([, short]) => w[short]);
    let memory = remembered(params);
    for (const step of training.steps[kind]) {
      const { stages, loss } = forward(w, ids, config);
      backward(loss);
      near(loss.data, [step.loss], "loss");
      const vars = Object.fromEntries(stages.flatMap((s) => s.vars).map((v) => [v.name, v]));
      for (const [mine, theirs] of Object.entries(TRACED)) {
        near(vars[mine].data, step.values[theirs], mine);
        near(vars[mine].grad, step.value_gradients[theirs], `gradient of ${mine}`);
      }
      for (let h = 0; h < config.n_heads; h += 1) {
        near(vars[`weights, head ${h}`].data, step.values[`${B}attention.weights`][h], "weights");
        near(vars[`head ${h}`].data, step.values[`${B}attention.heads`][h], "heads");
      }
      for (const [long, short] of NAMES) near(w[short].grad, step.gradients[long], `gradient of ${short}`);
      const next = OPTIMIZERS[kind](memory, params, { ...DEFAULTS, lr });
      memory = next.memory;
      params.forEach((p, i) => (p.data = next.data[i]));
      for (const [long, short] of NAMES) near(w[short].data, step.after[long], `${short} after the step`);
    }
  });
}

test("every value and every gradient explains itself: the shares of its readers add up to it", () => {
  const w = parameters(weights);
  const { loss } = forward(w, ids, config);
  backward(loss);
  for (const v of order(loss)) {
    for (let r = 0; r < v.rows; r += 1) {
      for (let c = 0; c < v.cols; c += 1) {
        const value = v.data[r * v.cols + c];
        const made = explained(v, r, c);
        assert.equal(made === null, v.op === null, v.name);
        if (made) {
          assert.ok(made.formula && made.lines.length, v.name);
          assert.ok(made.total === value || Math.abs(made.total - value) < 1e-12, `${v.name}[${r}, ${c}]`);
        }
        if (v === loss) continue;
        const sum = shares(v, r, c).reduce((s, x) => s + x.value, 0);
        assert.ok(
          Math.abs(sum - v.grad[r * v.cols + c]) < 1e-12,
          `${v.name}[${r}, ${c}]: ${sum} is not ${v.grad[r * v.cols + c]}`,
        );
      }
    }
  }
});

test("an explanation names operands that exist, and every operation of the tape is met", () => {
  const { loss } = forward(parameters(weights), ids, config);
  const met = new Set();
  for (const v of order(loss).filter((x) => x.op)) {
    met.add(v.op);
    for (const name of Object.keys(explained(v, 0, 0).used)) {
      const index = v.op.operands.length ? v.op.operands.indexOf(name) : Number(name);
      assert.ok(v.inputs[index], `${v.name}: ${name}`);
    }
  }
  assert.deepEqual(met, new Set(Object.values(TAPED)));
});

test("rows and columns know what they stand for: entries of the vocabulary or places", () => {
  const w = parameters(weights);
  const { stages } = forward(w, ids, config);
  const axes = Object.fromEntries(
    [...Object.values(w), ...stages.flatMap((s) => s.vars)].map((v) => [v.name, v.axes]),
  );
  assert.deepEqual(axes.E, ["vocabulary", ""]);
  assert.deepEqual(axes["U^T"], ["", "vocabulary"]);
  assert.deepEqual(axes.logits, ["place", "vocabulary"]);
  for (const name of ["scores, head 0", "weights, head 1"]) assert.deepEqual(axes[name], ["place", "place"]);
  for (const name of ["E[ids]", "P", "x", "Q, head 0", "concat", "FFN"])
    assert.deepEqual(axes[name], ["place", ""]);
  for (const name of ["W_q", "b_up", "gain 1", "loss"]) assert.deepEqual(axes[name], ["", ""]);
});

test("central differences agree with the tape", () => {
  const value = (name, i, d) => {
    const w = parameters(weights);
    w[name].data[i] += d;
    return forward(w, ids, config).loss.data[0];
  };
  const w = parameters(weights);
  const { loss } = forward(w, ids, config);
  backward(loss);
  for (const [, name] of NAMES) {
    const i = name === "E" ? 101 * 4 + 2 : w[name].data.length - 1;
    assert.ok(Math.abs((value(name, i, 1e-5) - value(name, i, -1e-5)) / 2e-5 - w[name].grad[i]) < 1e-7, name);
  }
});

test("paths on the landscapes equal torch's optimizers", () => {
  for (const { land, kind, lr, k, points } of descent)
    path(kind, LANDSCAPES[land], k, lr, points.length - 1, points[0]).forEach((p, t) =>
      near(p, points[t], `${land}, ${kind}, step ${t}`, 1e-9),
    );
});

test("landscapes and the squared error have the gradients of their values", () => {
  const check = (f, g, x, y) =>
    near(
      g,
      [(f(x + 1e-5, y) - f(x - 1e-5, y)) / 2e-5, (f(x, y + 1e-5) - f(x, y - 1e-5)) / 2e-5],
      "gradient",
      1e-6,
    );
  for (const land of Object.values(LANDSCAPES))
    check((x, y) => land.f(x, y, 7), land.gradient(0.4, -0.7, 7), 0.4, -0.7);
  const { loss, gradient } = squaredError([
    [0, 1],
    [1, 3],
    [2, 2],
  ]);
  check(loss, gradient(0.3, -0.2), 0.3, -0.2);
});

test("contour segments lie on their level", () => {
  const f = (x, y) => x * x + y * y;
  const lines = contour(f, [-2, -2], [2, 2], 1);
  assert.ok(lines.length > 30);
  for (const [a, b] of lines) for (const p of [a, b]) assert.ok(Math.abs(Math.hypot(...p) - 1) < 0.01);
});
