// The page's attention and sampling equal llmcore's. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { allowed, attend } from "../../llmcore/widgets/js/attention.js";
import { pick, shaped, uniform } from "../../llmcore/widgets/js/sampling.js";
import { tensor } from "../../llmcore/widgets/js/tensor.js";
import { tree } from "../../llmcore/widgets/js/trace.js";

const fixtures = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const near = (a, b, within) => assert.ok(Math.abs(a - b) <= within, `${a} is not ${b}`);

test("weights equal llmcore.attention's under causal masks and padding on either side", () => {
  for (const { state, weights } of fixtures.attention) {
    for (const [head, square] of weights.entries()) {
      const now = attend(tensor(state.layers[0].q), tensor(state.layers[0].k), head, state.rule);
      square.forEach((row, t) => row.forEach((w, s) => near(now.weights[t][s], w, 1e-5)));
      square.forEach((row, t) =>
        row.forEach((w, s) => assert.equal(now.scores[t][s] === -Infinity, !allowed(state.rule, t, s))),
      );
    }
  }
});

test("probabilities after temperature, top-k, top-p and min-p equal llmcore.sampling's", () => {
  for (const { logits, rules, probabilities } of fixtures.sampling)
    shaped(logits, rules).forEach((p, i) => near(p, probabilities[i], 1e-9));
});

test("draws follow the probabilities, never a token that was cut, and a seed fixes them", () => {
  const p = [0.5, 0, 0.3, 0.2];
  const next = uniform(1);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < 20000; i += 1) counts[pick(p, next())] += 1;
  p.forEach((q, i) => near(counts[i] / 20000, q, 0.015));
  assert.equal(counts[1], 0);
  assert.equal(pick(p, 1), 3);
  assert.deepEqual(Array.from({ length: 5 }, uniform(7)), Array.from({ length: 5 }, uniform(7)));
});

test("paths become a tree that keeps every tensor", () => {
  const t = tree([{ path: "a.b" }, { path: "a" }, { path: "c.d.e" }]);
  assert.deepEqual([...t.children.keys()], ["a", "c"]);
  assert.equal(t.children.get("a").entry.path, "a");
  assert.equal(t.children.get("c").children.get("d").entry, null);
});
