import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ticks } from "../../llmcore/widgets/js/axes.js";
import { dot } from "../../llmcore/widgets/js/number.js";
import { sinusoid, turn } from "../../llmcore/widgets/js/position.js";

const { positions } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const near = (a, b) => a.forEach((x, i) => assert.ok(Math.abs(x - b[i]) < 1e-5, `${x} ${b[i]}`));

test("sinusoids and turned vectors equal llmcore.position's", () => {
  positions.sinusoids.forEach((row, p) => near(sinusoid(p, row.length, 10000), row));
  positions.turned.forEach((row, p) => near(turn(positions.vector, p, 10000), row));
});

test("a rotary score depends on the offset alone", () => {
  const [q, k] = [
    [1, 0.6, 0.2, 0.8],
    [0.9, 0.3, -0.4, 0.5],
  ];
  for (let shift = 0; shift < 50; shift += 1)
    near(
      [dot(turn(q, 6 + shift, 10000), turn(k, 2 + shift, 10000))],
      [dot(turn(q, 6, 10000), turn(k, 2, 10000))],
    );
});

test("ticks are round and lie inside", () => {
  assert.deepEqual(ticks(0, 100, false), [0, 20, 40, 60, 80, 100]);
  assert.deepEqual(ticks(1, 1000, true), [1, 10, 100, 1000]);
  for (const t of ticks(-0.37, 1.9, false)) assert.ok(t >= -0.37 - 1e-9 && t <= 1.9 + 1e-9);
});
