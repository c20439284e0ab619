// Collectives, pipelines and plans in the page equal llmcore's. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BUSIEST, advance, duration, initial, sent } from "../../llmcore/widgets/js/collective.js";
import { predict } from "../../llmcore/widgets/js/plan.js";
import { bubble, gpipe, holding, interleaved, name, timeline } from "../../llmcore/widgets/js/schedule.js";
import { bytes, seconds } from "../../llmcore/widgets/js/units.js";

const { collectives, pipelines, plans } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const close = (a, b, what) =>
  assert.ok(Math.abs(a - b) <= 1e-9 * Math.max(1e-12, Math.abs(b)), `${what}: ${a} is not ${b}`);

test("every collective, played to its end, leaves what its name says", () => {
  const { schedules, values } = collectives.state;
  for (const c of collectives.cases) {
    const schedule = schedules[c.name][c.p];
    const end = schedule.reduce(advance, initial(c.name, c.p, values));
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
    let buffers = initial(c.name, c.p, values);
    for (const step of schedules[c.name][c.p]) {
      buffers = advance(buffers, step);
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
    close(Math.max(...sent(schedule, schedule.length, c.p, 3000)), c.busiest, c.name);
    close(BUSIEST[c.name].share(c.p) * 3000, c.busiest, c.name);
    close(duration(c.name, schedule.length, c.p, 3000, 1e-3, 1e6), c.seconds, c.name);
  }
});

test("timelines, bubbles and activations held are Python's", () => {
  for (const c of pipelines) {
    const orders = c.name === "gpipe" ? gpipe(c.p, c.m) : interleaved(c.p, c.m, c.v);
    const spans = timeline(orders, 1, c.backward);
    assert.deepEqual(
      spans.map((stage) => stage.map((s) => [name(s), s.start, s.end])),
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
