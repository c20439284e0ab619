// The state of TrainingStep: functions from state to state
// that change nothing in place; three updates are torch's.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { NAMES } from "../../llmcore/widgets/js/toy.js";
import * as trainer from "../../llmcore/widgets/js/trainer.js";

const { training } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const start = trainer.initial(training.widget);
const n = trainer.compute(start).made.length;
const rates = { sgd: 0.5, momentum: 0.1, adamw: 0.1 };
const ready = (kind) => trainer.withRate(trainer.withOptimizer(start, kind), rates[kind]);
const within = (a, b, most, what) =>
  [...a].forEach((x, i) => assert.ok(Math.abs(x - b[i]) <= most, `${what}[${i}]: ${x} is not ${b[i]}`));

/** A copy of a state, to see that nothing in it was changed. */
const snapshot = (state) => structuredClone(state);

for (const [kind, steps] of Object.entries(training.steps)) {
  test(`${kind}: updates one by one, or several at once, are torch's`, () => {
    const three = trainer.updated(ready(kind), 3);
    const single = steps.reduce((state) => trainer.updated(state, 1), ready(kind));
    assert.deepEqual({ ...single, said: "" }, { ...three, said: "" });
    for (const [long] of NAMES)
      within(three.weights[long].data, steps[2].after[long].flat(Infinity), 1e-6, long);
    assert.equal(three.losses.length, 4);
    steps.forEach(({ loss }, i) => within([three.losses[i]], [loss], 1e-6, "loss"));
    assert.equal(three.losses[3], trainer.lossOf(three));
  });

  test(`${kind}: the update that is shown is the one that is made`, () => {
    const state = trainer.updated(ready(kind), 2);
    const { after, memory } = trainer.compute(state);
    const next = trainer.updated(state, 1);
    for (const [long, short] of NAMES) assert.deepEqual(next.weights[long].data, after[short]);
    assert.deepEqual(next.memory, memory);
  });
}

test("no function changes the state it is given", () => {
  const state = trainer.updated(ready("adamw"), 2);
  const changes = {
    compute: (s) => trainer.compute(s),
    updated: (s) => trainer.updated(s, 2),
    withOptimizer: (s) => trainer.withOptimizer(s, "momentum"),
    withRate: (s) => trainer.withRate(s, 0.3),
    withToken: (s) => trainer.withToken(s, 1, training.widget.ids[0]),
    withWeight: (s) => trainer.withWeight(trainer.opened(s, "W_q"), 3),
    reset: (s) => trainer.reset(s),
    opened: (s) => trainer.opened(s, "Q"),
    choosing: (s) => trainer.choosing(s, { part: "gradient", r: 1, c: 1 }),
    atMoment: (s) => trainer.atMoment(s, 2 * n),
  };
  const before = snapshot(state);
  for (const [name, change] of Object.entries(changes)) {
    change(state);
    assert.deepEqual(state, before, name);
  }
});

test("a rate that changes on the way leaves the optimizer its memory", () => {
  const once = trainer.updated(ready("momentum"), 1);
  const slower = trainer.withRate(once, 0.01);
  assert.deepEqual(slower.memory, once.memory);
  const [a, b] = [trainer.updated(once, 1), trainer.updated(slower, 1)];
  const moves = (state) =>
    [...state.weights["head.table"].data].map((x, i) => x - once.weights["head.table"].data[i]);
  within(
    moves(a).map((x) => x / 10),
    moves(b),
    1e-12,
    "a tenth of the move",
  );
});

test("another optimizer and a reset forget; a reset brings the shipped weights back", () => {
  const state = trainer.withToken(trainer.updated(ready("adamw"), 2), 0, training.widget.ids[1]);
  const other = trainer.withOptimizer(state, "momentum");
  assert.deepEqual([other.losses, other.memory.steps], [[], 0]);
  assert.deepEqual(other.weights, state.weights);
  const back = trainer.reset(trainer.atMoment(state, 3));
  assert.deepEqual({ ...back, kind: "sgd", lr: start.lr }, start);
  assert.deepEqual([back.kind, back.lr], ["adamw", 0.1]);
});

test("a step is computed anew where something that it is made of changes, and not for a look at it", () => {
  for (const look of [trainer.opened(start, "Q"), trainer.atMoment(start, 3)])
    assert.ok(trainer.sameStep(look, start));
  const changed = [
    trainer.updated(start, 1),
    trainer.withOptimizer(start, "adamw"),
    trainer.withRate(start, 0.3),
    trainer.withToken(start, 1, training.widget.ids[0]),
    trainer.withWeight(trainer.opened(start, "W_q"), 3),
  ];
  for (const state of changed) assert.ok(!trainer.sameStep(state, start));
});

test("one weight set by hand is one weight", () => {
  const chosen = trainer.choosing(trainer.opened(start, "W_up"), { part: "value", r: 1, c: 2 });
  const set = trainer.withWeight(chosen, 3);
  const long = NAMES.find(([, short]) => short === "W_up")[0];
  const { shape, data } = set.weights[long];
  const changed = [...data].flatMap((x, i) => (x === start.weights[long].data[i] ? [] : [i]));
  assert.deepEqual(changed, [shape[1] + 2]);
  assert.match(set.said, /^W_up\[1, 2\] = 3: loss 5.531 → /);
  assert.equal(trainer.withWeight(trainer.opened(start, "Q"), 3).weights, start.weights);
});

test("at each moment of a step one tensor more has its value, or its gradient", () => {
  const step = trainer.compute(start);
  const having = (test_) => step.made.filter(test_).length;
  for (let moment = 0; moment <= 2 * n; moment += 1) {
    const values = having((v) => trainer.hasValue(step, moment, v));
    assert.equal(values, Math.min(moment + 1, n));
    if (moment < n)
      assert.equal(
        having((v) => trainer.hasGradient(step, moment, v)),
        0,
      );
  }
  assert.ok(trainer.hasGradient(step, n, step.loss));
  const given = step.made.filter((v) => v.kind === "constant").length;
  assert.equal(
    having((v) => trainer.hasGradient(step, 2 * n, v)),
    n - given,
  );
  assert.ok(step.params.every((v) => trainer.hasGradient(step, 2 * n, v)));
  assert.equal(trainer.phase(step, 0), `moment 1 of ${2 * n + 1} — forward: E[ids] is made`);
  assert.match(trainer.phase(step, n), /backward: loss sends its gradient/);
  assert.match(trainer.phase(step, 2 * n), /update: every parameter moves$/);
});
