// Elements of the page: no attribute that a browser would
// load or run. The rest of dom.js is tried in a browser.
import assert from "node:assert/strict";
import { test } from "node:test";
import { h, svg } from "../../llmcore/widgets/js/dom.js";

test("an attribute that names an address or a document is refused", () => {
  const set = [];
  const element = { setAttribute: (...given) => set.push(given), append: () => {} };
  globalThis.document = { createElement: () => element, createElementNS: () => element };
  for (const name of ["href", "src", "SRCDOC", "xlink:href", "formaction", "action", "data"]) {
    assert.throws(() => h("a", { [name]: "javascript:run()" }), /could load or run/);
    assert.throws(() => svg("a", { [name]: "javascript:run()" }), /could load or run/);
  }
  assert.deepEqual(set, []);
  h("td", { "data-r": 1, title: "javascript:run()" });
  assert.deepEqual(set, [
    ["data-r", "1"],
    ["title", "javascript:run()"],
  ]);
});
