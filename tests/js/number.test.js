import assert from "node:assert/strict";
import { test } from "node:test";
import { scaleOf, shade } from "../../llmcore/widgets/js/color.js";
import {
  decode,
  dot,
  format,
  histogram,
  lastDigit,
  softmax,
  statistics,
} from "../../llmcore/widgets/js/number.js";

test("numbers have four significant digits, as Python's %.4g writes them", () => {
  const written = [
    [0.12344, "0.1234"],
    [-2.5, "-2.5"],
    [1234.6, "1235"],
    [12345.6, "1.235e4"],
    [7, "7"],
    [1e-5, "1e-5"],
    [0, "0"],
    [-0, "0"],
    [NaN, "NaN"],
    [-Infinity, "-inf"],
    [12345, "12345"],
    [0.99996, "1"],
  ];
  for (const [x, text] of written) assert.equal(format(x), text);
});

test("what JSON has no number for comes back from text", () => {
  assert.ok(Number.isNaN(decode("NaN")));
  assert.equal(decode("-Infinity"), -Infinity);
  assert.equal(decode(0.5), 0.5);
});

test("statistics leave out and count what is not finite", () => {
  const s = statistics([1, 3, NaN, Infinity, -Infinity]);
  assert.deepEqual([s.n, s.mean, s.sd, s.min, s.max, s.nan, s.inf], [2, 2, 1, 1, 3, 1, 2]);
  assert.ok(Number.isNaN(statistics([NaN]).mean));
});

test("a histogram counts every finite value once", () => {
  const values = [0, 0.1, 0.5, 0.99, 1, NaN];
  assert.equal(
    histogram(values, 4).counts.reduce((a, b) => a + b, 0),
    5,
  );
  assert.deepEqual(histogram(values, 2).counts, [2, 3]);
});

test("softmax sums to one, is not moved by a constant, and gives zeros for a masked row", () => {
  const p = softmax([1000, 1001, -Infinity]);
  assert.ok(Math.abs(p.reduce((a, b) => a + b, 0) - 1) < 1e-15);
  assert.deepEqual(softmax([0, 1, -Infinity]), p);
  assert.deepEqual(softmax([-Infinity, -Infinity]), [0, 0]);
});

test("one unit of the last digit shown", () => {
  assert.ok(Math.abs(lastDigit(0.1234) - 1e-4) < 1e-12);
  assert.equal(dot([1, 2], [3, 4]), 11);
});

test("a diverging scale is symmetric about zero, a sequential one spans the values", () => {
  assert.deepEqual(scaleOf("diverging", [-1, 3]), { kind: "diverging", low: -3, high: 3 });
  assert.deepEqual(scaleOf("sequential", [2, 5]), { kind: "sequential", low: 2, high: 5 });
  assert.deepEqual(shade(scaleOf("diverging", [-2, 2]), -1), { name: "ll-minus", v: 0.5 });
  assert.equal(shade(scaleOf("diverging", [NaN]), NaN).name, "ll-nan");
});
