// Collectives, pipelines and plans in the page equal llmcore's. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { predict } from "../../llmcore/widgets/js/plan.js";
import { bubble, holding, name as nameOf, ordersOf, timeline } from "../../llmcore/widgets/js/schedule.js";
import * as scheduler from "../../llmcore/widgets/js/scheduler.js";
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

/** The orders of one choice, from what the widget ships. */
const shippedOrders = (kind, p, m, v) => ordersOf(pipelines.state.orders[kind][v][p], m);

test("every order that a reader can choose is the one that Python makes", () => {
  assert.ok(pipelines.orders.length > 600);
  for (const [kind, p, m, v, orders] of pipelines.orders) {
    const found = shippedOrders(kind, p, m, v).map((order) => order.map(nameOf).join(" "));
    assert.deepEqual(found, orders, JSON.stringify([kind, p, m, v]));
  }
});

test("timelines, bubbles and activations held are Python's", () => {
  for (const c of pipelines.cases) {
    const orders = shippedOrders(c.name, c.p, c.m, c.v);
    const spans = timeline(orders, 1, c.backward);
    const found = spans.map((stage) => stage.map((s) => [nameOf(s), s.start, s.end]));
    assert.deepEqual(found, c.spans);
    close(bubble(spans), c.bubble, c.name);
    const held = orders.map((order) => Math.max(...holding(order)));
    assert.deepEqual(held, c.held);
  }
});

test("the scheduler: choices are made to fit each other, and nothing is changed in place", () => {
  const start = scheduler.initial(pipelines.state, 0);
  const before = structuredClone(start);
  const { withChoice } = scheduler;
  const groups = withChoice(withChoice(start, { kind: "interleaved" }), { p: 5 });
  assert.deepEqual([groups.p, groups.m, groups.v], [5, 10, 2]);
  assert.equal(groups.note, "interleaved schedules run microbatches in groups of 5: 8 became 10");
  assert.equal(withChoice(groups, { ratio: 1 }).note, "");
  assert.deepEqual([withChoice(groups, { p: 7, m: 32 }).m, withChoice(groups, { v: 4 }).v], [28, 4]);
  const plain = withChoice(groups, { kind: "gpipe" });
  assert.deepEqual([plain.m, plain.v, plain.note], [10, 1, ""]);
  assert.equal(withChoice(scheduler.following(start, 7), { m: 3 }).followed, 2);
  assert.deepEqual(start, before);
});

test("every choice of the page can be drawn: its idle share is the formula's", () => {
  const start = scheduler.initial(pipelines.state, 0);
  for (const kind of ["gpipe", "1f1b", "interleaved"])
    for (const p of [1, 2, 3, 5, 8])
      for (const m of [1, 7, 32])
        for (const v of [2, 3, 4]) {
          const state = scheduler.withChoice(start, { kind, p, m, v });
          assert.ok(scheduler.results(state, scheduler.run(state)).right, JSON.stringify([kind, p, m, v]));
        }
});

test("the moment is always one at which something happens", () => {
  const start = scheduler.initial(pipelines.state, 3.2);
  assert.equal(start.time, 3);
  const { end, moments, spans } = scheduler.run(start);
  assert.equal(scheduler.atTime(start, 1e9).time, end);
  assert.equal(scheduler.moved(scheduler.atTime(start, -5), -1).time, 0);
  assert.equal(scheduler.moved(start, 1).time, moments[moments.indexOf(3) + 1]);
  const work = spans[1][2];
  const clicked = scheduler.clicked(start, work);
  assert.deepEqual([clicked.time, clicked.followed], [work.start, work.microbatch]);
  assert.equal(scheduler.clicked(clicked, work).followed, -1);
  const last = scheduler.sentence(scheduler.atTime(start, end), scheduler.run(start));
  assert.equal(last.match(/is done, holds 0/g).length, 4);
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
