// Collectives, pipelines and plans in the page equal llmcore's. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { predict } from "../../llmcore/widgets/js/plan.js";
import {
  bubble,
  gpipe,
  holding,
  interleaved,
  name as nameOf,
  timeline,
} from "../../llmcore/widgets/js/schedule.js";
import * as simulator from "../../llmcore/widgets/js/simulator.js";
import { bytes, seconds } from "../../llmcore/widgets/js/units.js";

const { collectives, pipelines, plans } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const close = (a, b, what) =>
  assert.ok(Math.abs(a - b) <= 1e-9 * Math.max(1e-12, Math.abs(b)), `${what}: ${a} is not ${b}`);

test("every collective, played to its end, leaves what its name says", () => {
  const { schedules, values } = collectives.state;
  for (const c of collectives.cases) {
    const schedule = schedules[c.name][c.p];
    const end = schedule.reduce(simulator.advance, simulator.buffers(c.name, c.p, values));
    const what = c.name.split(" ")[1];
    end.forEach((row, r) =>
      row.forEach((held, k) => {
        if (
          what === "all-reduce" ||
          (what === "reduce" && r === 0) ||
          (what === "reduce-scatter" && r === k)
        ) {
          assert.equal(held.value, c.sum[k]);
          assert.deepEqual(held.from, [...Array(c.p).keys()]);
        }
        if (what === "all-gather") assert.equal(held.value, values[k][k]);
        if (what === "broadcast") assert.equal(held.value, values[0][k]);
      }),
    );
  }
});

test("after every step a value is the sum of the parts that are said to be in it, each once", () => {
  const { schedules, values } = collectives.state;
  for (const c of collectives.cases) {
    let buffers = simulator.buffers(c.name, c.p, values);
    for (const step of schedules[c.name][c.p]) {
      buffers = simulator.advance(buffers, step);
      for (const row of buffers) {
        row.forEach((held, k) => {
          if (!held) return;
          assert.equal(
            held.value,
            held.from.reduce((total, r) => total + values[r][k], 0),
          );
          assert.equal(new Set(held.from).size, held.from.length);
        });
      }
    }
  }
});

test("bytes of the busiest rank and the time are Python's", () => {
  for (const c of collectives.cases) {
    const schedule = collectives.state.schedules[c.name][c.p];
    close(Math.max(...simulator.sent(schedule, schedule.length, c.p, 3000)), c.busiest, c.name);
    close(simulator.COLLECTIVES[c.name].share(c.p) * 3000, c.busiest, c.name);
    close(simulator.duration(c.name, schedule.length, c.p, 3000, 1e-3, 1e6), c.seconds, c.name);
  }
});

test("the page knows every collective that Python ships", () => {
  const { schedules } = collectives.state;
  assert.deepEqual(Object.keys(schedules), Object.keys(simulator.COLLECTIVES));
  for (const [name, { halves, other }] of Object.entries(simulator.COLLECTIVES)) {
    assert.equal(halves === undefined, other === undefined, name);
    if (other) assert.equal(simulator.COLLECTIVES[other].other, name);
  }
});

test("the simulator: steps stay inside, a change begins anew, nothing is changed in place", () => {
  const start = simulator.initial(collectives.state, 99);
  assert.equal(start.step, simulator.scheduleOf(start).length);
  const before = structuredClone(start);
  const chosen = simulator.choosing(start, 3, 2);
  const fewer = simulator.withRanks(chosen, 2);
  assert.deepEqual([fewer.ranks, fewer.step, fewer.chosen], [2, 0, [1, 1]]);
  const tree = simulator.withCollective(chosen, "tree reduce");
  assert.deepEqual([tree.name, tree.step, tree.chosen], ["tree reduce", 0, [3, 2]]);
  assert.equal(simulator.withBytes(chosen, 12).step, start.step);
  for (const step of [-1, 0, 2, 1e9]) {
    const found = simulator.atStep(tree, step).step;
    assert.equal(found, Math.max(0, Math.min(simulator.scheduleOf(tree).length, step)));
  }
  assert.deepEqual(start, before);
  assert.equal(simulator.played(start).length, simulator.scheduleOf(start).length + 1);
});

test("a phase says which half of an all-reduce it belongs to", () => {
  const said = (name) => {
    const state = simulator.withCollective(simulator.initial(collectives.state, 0), name);
    const last = simulator.scheduleOf(state).length;
    return [0, 1, last].map((step) => simulator.phase(simulator.atStep(state, step)));
  };
  const [before, first, last] = said("ring all-reduce");
  assert.equal(before, "before the first step; after the last, every rank holds the sum");
  assert.match(first, /^step 1 of 6 — reduce-scatter: 0 → 1 chunk 3 \(added\), /);
  assert.match(last, /^step 6 of 6 — all-gather: .*\(copied\)$/);
  assert.match(said("tree all-reduce")[1], /^step 1 of 4 — reduce: 2 → 0 all \(added\)/);
  assert.match(said("tree broadcast")[1], /^step 1 of 2 — 0 → 1 all \(copied\)$/);
});

test("timelines, bubbles and activations held are Python's", () => {
  for (const c of pipelines) {
    const orders = c.name === "gpipe" ? gpipe(c.p, c.m) : interleaved(c.p, c.m, c.v);
    const spans = timeline(orders, 1, c.backward);
    assert.deepEqual(
      spans.map((stage) => stage.map((s) => [nameOf(s), s.start, s.end])),
      c.spans,
    );
    close(bubble(spans), c.bubble, c.name);
    assert.deepEqual(
      orders.map((order) => Math.max(...holding(order))),
      c.held,
    );
  }
});

test("plans are predicted as Python predicts them, and refused in its words", () => {
  const { models, hardware } = plans.state;
  for (const c of plans.cases) {
    const found = predict(models[c.model], c.path, c.plan, hardware[c.gpu], c.B, c.T, 0.5);
    const what = JSON.stringify([c.model, c.path, c.plan, c.B, c.T]);
    assert.equal(found.error, c.error ?? "", what);
    if (c.error) continue;
    for (const [part, value] of Object.entries(c.memory))
      assert.ok(
        Math.abs(found.memory[part] - value) <= 1,
        `${what} ${part}: ${found.memory[part]} is not ${value}`,
      );
    for (const kind of ["communication", "time"])
      for (const [part, value] of Object.entries(c[kind]))
        close(found[kind][part], value, `${what} ${kind} ${part}`);
    close(found.utilization, c.utilization, `${what} utilization`);
  }
});

test("bytes and seconds are written with their units", () => {
  assert.deepEqual([0, 1, 999, 1500, 1e6, 2.5e9, 8e12].map(bytes), [
    "0 B",
    "1 B",
    "999 B",
    "1.5 kB",
    "1 MB",
    "2.5 GB",
    "8 TB",
  ]);
  assert.deepEqual([0, 5e-6, 0.0015, 1, 90, 7200, 172800].map(seconds), [
    "0 s",
    "5 µs",
    "1.5 ms",
    "1 s",
    "1.5 min",
    "2 h",
    "2 days",
  ]);
});
