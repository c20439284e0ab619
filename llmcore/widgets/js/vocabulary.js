// VocabularyExplorer: ranks against counts, coverage against
// size, and a table of tokens to search. See vocabulary.py.
import { chart } from "./axes.js";
import { button, choice, div, h, listing, note, status, unique } from "./dom.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */
/**
 * @typedef {{name: string, total: number, entries: number, tokens: [string, number,
 *   number][], zipf: [number, number][], coverage: [number, number][]}} Method
 */

const ROWS = 12;

/** @param {HTMLElement} root @param {{methods: Method[], note: string}} state @param {Link} link */
export function vocabulary(root, { methods, note: remark }, link) {
  let chosen = methods[0];
  let from = 0;
  const id = unique("search");
  const search = /** @type {HTMLInputElement} */ (
    h("input", { type: "search", id, placeholder: "a part of a token, or an id" })
  );
  const body = h("tbody", {});
  const said = status();
  const turn = (/** @type {number} */ by) => () => showFrom(from + by);
  const back = /** @type {HTMLButtonElement} */ (button("← before", turn(-ROWS)));
  const next = /** @type {HTMLButtonElement} */ (button("after →", turn(ROWS)));

  /** @param {number} wanted the first row of the page */
  function showFrom(wanted) {
    const rows = matching(chosen, search.value);
    from = Math.max(0, Math.min(wanted, rows.length - 1));
    const part = rows.slice(from, from + ROWS);
    body.replaceChildren(...part.map((token) => rowOf(token, chosen.total)));
    said.textContent = rows.length
      ? `${from + 1} to ${from + part.length} of ${rows.length.toLocaleString("en")} tokens`
      : "no token holds this";
    back.disabled = from === 0;
    next.disabled = from + ROWS >= rows.length;
    link.set("found", rows.length);
  }
  search.addEventListener("input", () => showFrom(0));

  const method = choice({
    label: "vocabulary",
    options: methods.map((m, i) => [String(i), `${m.name}, ${m.entries.toLocaleString("en")} entries`]),
    value: "0",
    onchange: (i) => {
      chosen = methods[Number(i)];
      showFrom(0);
    },
  });
  root.append(
    div("ll-pair", ...charts(methods)),
    div("ll-tools", method, div("ll-control", h("label", { for: id }, "search"), search)),
    listing({
      region: "Table of tokens",
      label: "Tokens, the most frequent first",
      heads: ["token", "id", "count", "% of text"],
      body,
    }),
    div("ll-tools", back, next, said),
  );
  if (remark) root.append(note(remark));
  showFrom(0);
}

/** Zipf's law, and coverage. @param {Method[]} methods */
function charts(methods) {
  const zipf = chart({
    describe:
      "Count of each token against its rank, both on logarithmic scales; " +
      "a straight falling line is Zipf's law",
    x: { label: "rank", log: true },
    y: { label: "count", log: true },
    series: methods.map((m) => ({ name: m.name, points: m.zipf })),
    cursor: "read at rank",
  });
  const coverage = chart({
    describe:
      "Share of the held-out text's pieces that the most frequent entries cover, against their number",
    x: { label: "entries kept", log: true },
    y: { label: "held-out coverage (%)", from: 0, to: 100 },
    series: methods.map((m) => ({ name: m.name, points: m.coverage })),
    cursor: "read at size",
  });
  return [zipf.element, coverage.element];
}

/** Tokens that hold a text, or have it as their id. @param {Method} method @param {string} text */
function matching({ tokens }, text) {
  const wanted = text.toLowerCase();
  return tokens.filter(([token, id]) => token.toLowerCase().includes(wanted) || String(id) === wanted);
}

/** @param {Method["tokens"][number]} token @param {number} total */
const rowOf = ([token, id, n], total) =>
  h(
    "tr",
    {},
    h("th", { scope: "row" }, token),
    h("td", {}, String(id)),
    h("td", {}, n.toLocaleString("en")),
    h("td", {}, format((100 * n) / total, 3)),
  );
