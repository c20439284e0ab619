// The page's tokenizers give the ids that Python gives. Fixtures: tests/test_javascript.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { bytesOf, encoder, textOf } from "../../llmcore/widgets/js/encode.js";
import { Heap, joined } from "../../llmcore/widgets/js/merge.js";
import { visible } from "../../llmcore/widgets/js/tokenizer.js";

const { tokenizers } = JSON.parse(readFileSync(process.env.LLMCORE_FIXTURES, "utf8"));

for (const { shipped, cases } of tokenizers) {
  test(`${shipped.name}: ${cases.length} texts`, () => {
    const { encode, size } = encoder(shipped);
    assert.ok(size > 0);
    for (const { text, ids } of cases) {
      const tokens = encode(text);
      assert.deepEqual(
        tokens.map((t) => t.id),
        ids,
        JSON.stringify(text),
      );
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

/**
 * How often `f` reads a map, and how often it moves the end of
 * a list: what grows with the square of a text in a plain loop.
 */
function reads(f) {
  const { get } = Map.prototype;
  const { splice } = Array.prototype;
  let count = 0;
  Map.prototype.get = function (key) {
    count += 1;
    return get.call(this, key);
  };
  Array.prototype.splice = function (...given) {
    count += this.length;
    return splice.apply(this, given);
  };
  try {
    f();
  } finally {
    Map.prototype.get = get;
    Array.prototype.splice = splice;
  }
  return count;
}

for (const { shipped } of tokenizers) {
  test(`${shipped.name}: twice the text is twice the work`, () => {
    const { encode } = encoder(shipped);
    for (const one of ["水", "a", " ", "the", "1", "\n", "é", "🌍"]) {
      const work = (n) => reads(() => encode(one.repeat(n)));
      const bytes = bytesOf(one).length;
      assert.ok(work(4000) <= 2.2 * work(2000) + 100, `${shipped.name}: ${JSON.stringify(one)}`);
      assert.ok(work(4000) <= 4000 * bytes * 40, `${shipped.name}: ${JSON.stringify(one)} ${work(4000)}`);
    }
  });
}

test("a heap gives its numbers in order, in n log n comparisons", () => {
  let compared = 0;
  const counted = (x) => ({ valueOf: () => ((compared += 1), x) });
  const heap = new Heap();
  const n = 5000;
  for (let i = 0; i < n; i += 1) heap.push(counted((i * 7919) % 997));
  const out = [];
  for (let x = heap.pop(); x !== undefined; x = heap.pop()) out.push(Number(x));
  assert.deepEqual(
    out,
    [...out].sort((a, b) => a - b),
  );
  assert.equal(out.length, n);
  assert.ok(compared < 2 * n * 4 * Math.log2(n), String(compared));
});

test("merging is that of the plain loop, on texts of few letters and many ranks", () => {
  let seed = 1;
  const draw = (n) => (seed = (seed * 48271) % 2147483647) % n;
  for (let round = 0; round < 300; round += 1) {
    const ranks = new Map();
    const rank = (a, b) => {
      const key = `${a},${b}`;
      if (!ranks.has(key)) ranks.set(key, a.length + b.length > 9 || draw(3) === 0 ? -1 : draw(6));
      return ranks.get(key);
    };
    const letters = Array.from({ length: draw(40) }, () => "ab"[draw(2)]);
    const plain = [...letters];
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < plain.length; i += 1) {
        const now = rank(plain[i], plain[i + 1]);
        if (now >= 0 && now < best) [best, at] = [now, i];
      }
      if (at < 0) break;
      plain.splice(at, 2, plain[at] + plain[at + 1]);
    }
    assert.deepEqual(joined([...letters], rank), plain, letters.join(""));
  }
});

test("a token without width is seen, an emoji stays whole", () => {
  assert.equal(visible(bytesOf("\u200b")), "⟨200b⟩");
  assert.equal(visible(bytesOf("a\u202eb\0")), "a⟨202e⟩b⟨00⟩");
  assert.equal(visible(bytesOf("👩‍🚀")), "👩‍🚀");
  assert.equal(visible("\xe4\x00"), "⟨e4⟩⟨00⟩");
});
