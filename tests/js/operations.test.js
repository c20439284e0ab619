// Every operation of OperationInspector: the arithmetic gives the
// value that Python computed. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { agrees } from "../../llmcore/widgets/js/formula.js";
import { OPERATIONS } from "../../llmcore/widgets/js/operations.js";
import { tensor } from "../../llmcore/widgets/js/tensor.js";

const fixtures = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));
const index = (sizes) =>
  sizes.reduce((all, n) => all.flatMap((head) => Array.from({ length: n }, (_, i) => [...head, i])), [[]]);

// these four are met on the tape of a training step alone: training.test.js
const TAPE_ALONE = ["columns", "concat", "cross_entropy", "lookup"];

test("there is a fixture for every operation that Python ships", () => {
  const shipped = [...new Set(fixtures.operations.map((f) => f.op))];
  assert.deepEqual([...shipped, ...TAPE_ALONE].sort(), Object.keys(OPERATIONS).sort());
});

for (const [k, { op, operands, result, options }] of fixtures.operations.entries()) {
  test(`${op} (${k}): every cell's arithmetic equals the value shown, from cells that exist`, () => {
    const parts = Object.fromEntries(Object.entries(operands).map(([name, s]) => [name, tensor(s)]));
    const out = tensor(result);
    for (const all of index([...out.leading, out.R, out.C])) {
      const [lead, [r, c]] = [all.slice(0, -2), all.slice(-2)];
      const found = OPERATIONS[op].explain({ operands: parts, options, lead, r, c });
      assert.ok(
        agrees(found.total, out.at(lead, r, c)),
        `${out.where(lead, r, c)}: ${found.total} is not ${out.at(lead, r, c)}`,
      );
      assert.ok(found.lines.length > 0);
      for (const [name, used] of Object.entries(found.used))
        for (const [i, j] of used.cells) assert.notEqual(parts[name].at(used.lead, i, j), undefined);
    }
  });
}

test("a wrong result is seen", () => {
  assert.ok(!agrees(0.5, 0.501));
  assert.ok(agrees(0.50001, 0.5));
  assert.ok(agrees(-Infinity, -Infinity));
  assert.ok(!agrees(-Infinity, 0));
});

test("a tensor finds the cell of an index and the index of a cell, reduced or not", () => {
  for (const shipped of fixtures.tensors) {
    const t = tensor(shipped);
    for (const lead of index(t.leading)) {
      for (const [r, c] of index([t.R, t.C])) assert.deepEqual(t.find(t.index(lead, r, c)), [lead, r, c]);
    }
    assert.equal(t.find([9999]), null);
  }
});
