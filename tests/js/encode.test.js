// The page's tokenizers give the ids that Python gives. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { bytesOf, encoder, textOf } from "../../llmcore/widgets/js/encode.js";

const { tokenizers } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));

for (const { shipped, cases } of tokenizers) {
  test(`${shipped.name}: ${cases.length} texts`, () => {
    const { encode, size } = encoder(shipped);
    assert.ok(size > 0);
    for (const { text, ids } of cases) {
      const tokens = encode(text);
      assert.deepEqual(tokens.map((t) => t.id), ids, JSON.stringify(text));
      assert.equal(tokens.map((t) => t.bytes).join(""), bytesOf(text));
    }
  });
}

test("without merges there is one token a byte, and each merge makes no text longer", () => {
  const bpe = tokenizers.find((t) => t.shipped.kind === "bpe").shipped;
  const { encode, steps, step } = encoder(bpe);
  let before = bytesOf("the old fox 世界").length;
  assert.equal(encode("the old fox 世界", 0).length, before);
  for (let k = 1; k <= steps; k += 1) {
    const now = encode("the old fox 世界", k).length;
    assert.ok(now <= before);
    before = now;
    assert.equal(step(k - 1).length, 2);
  }
});

test("bytes that are no whole character are no text", () => {
  assert.equal(textOf("\xe4\xb8"), null);
  assert.equal(textOf(bytesOf("世")), "世");
  assert.equal(textOf(bytesOf("\ufeff")), "\ufeff");
});
