// A whole training step in the page equals torch's in float64: values, gradients,
// weights after each of three steps. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { LANDSCAPES, contour, path } from "../../llmcore/widgets/js/landscape.js";
import { squaredError } from "../../llmcore/widgets/js/surface.js";
import { backward, order } from "../../llmcore/widgets/js/tape.js";
import { DEFAULTS, NAMES, OPTIMIZERS, forward, parameters } from "../../llmcore/widgets/js/toy.js";

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
    const optimizer = OPTIMIZERS[kind]();
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
      const next = optimizer(
        NAMES.map(([, short]) => w[short]),
        { ...DEFAULTS, lr },
      );
      NAMES.forEach(([, short], i) => (w[short].data = next[i]));
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
        if (v.op) assert.ok(v.op.why(v, r, c).length >= 2, v.name);
        if (v === loss) continue;
        const sum = v.uses.reduce((s, { out, index }) => s + out.op.share(out, index, r, c).value, 0);
        assert.ok(
          Math.abs(sum - v.grad[r * v.cols + c]) < 1e-12,
          `${v.name}[${r}, ${c}]: ${sum} is not ${v.grad[r * v.cols + c]}`,
        );
      }
    }
  }
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
