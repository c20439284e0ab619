// VocabularyExplorer: ranks against counts, coverage against
// size, and a table of tokens to search. See vocabulary.py.
import { chart } from "./axes.js";
import { choice, h, unique } from "./dom.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */
/**
 * @typedef {{name: string, total: number, entries: number, tokens: [string, number,
 *   number][], zipf: [number, number][], coverage: [number, number][]}} Method
 */

const ROWS = 12;

/** @param {HTMLElement} root @param {{methods: Method[], note: string}} state @param {Link} link */
export function vocabulary(root, state, link) {
  const zipf = chart({
    describe:
      "Count of each token against its rank, both on logarithmic scales; " +
      "a straight falling line is Zipf's law",
    x: { label: "rank", log: true },
    y: { label: "count", log: true },
    series: state.methods.map((m) => ({ name: m.name, points: m.zipf })),
    cursor: "read at rank",
  });
  const coverage = chart({
    describe:
      "Share of the held-out text's pieces that the most frequent entries cover, against their number",
    x: { label: "entries kept", log: true },
    y: { label: "held-out coverage (%)", from: 0, to: 100 },
    series: state.methods.map((m) => ({ name: m.name, points: m.coverage })),
    cursor: "read at size",
  });

  let chosen = state.methods[0];
  let from = 0;
  const id = unique("search");
  const search = /** @type {HTMLInputElement} */ (
    h("input", { type: "search", id, placeholder: "a part of a token, or an id" })
  );
  const body = h("tbody", {});
  const said = h("div", { class: "ll-readout", role: "status" });
  const back = h("button", { type: "button", class: "ll-button" }, "← before");
  const next = h("button", { type: "button", class: "ll-button" }, "after →");

  function found() {
    const wanted = search.value.toLowerCase();
    return chosen.tokens.filter(
      ([token, tokenId]) => token.toLowerCase().includes(wanted) || String(tokenId) === wanted,
    );
  }

  function show() {
    const rows = found();
    from = Math.max(0, Math.min(from, rows.length - 1));
    const part = rows.slice(from, from + ROWS);
    body.replaceChildren(
      ...part.map(([token, tokenId, n]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, token),
          h("td", {}, String(tokenId)),
          h("td", {}, n.toLocaleString("en")),
          h("td", {}, format((100 * n) / chosen.total, 3)),
        ),
      ),
    );
    said.textContent = rows.length
      ? `${from + 1} to ${from + part.length} of ${rows.length.toLocaleString("en")} tokens`
      : "no token holds this";
    /** @type {HTMLButtonElement} */ (back).disabled = from === 0;
    /** @type {HTMLButtonElement} */ (next).disabled = from + ROWS >= rows.length;
    link.set("found", rows.length);
  }
  search.addEventListener("input", () => {
    from = 0;
    show();
  });
  back.addEventListener("click", () => {
    from -= ROWS;
    show();
  });
  next.addEventListener("click", () => {
    from += ROWS;
    show();
  });

  const heads = ["token", "id", "count", "% of text"].map((t) => h("th", { scope: "col" }, t));
  root.append(
    h("div", { class: "ll-pair" }, zipf.element, coverage.element),
    h(
      "div",
      { class: "ll-tools" },
      choice({
        label: "vocabulary",
        options: state.methods.map(
          (m, i) =>
            /** @type {[string, string]} */ ([
              String(i),
              `${m.name}, ${m.entries.toLocaleString("en")} entries`,
            ]),
        ),
        value: "0",
        onchange: (i) => {
          chosen = state.methods[Number(i)];
          from = 0;
          show();
        },
      }),
      h("div", { class: "ll-control" }, h("label", { for: id }, "search"), search),
    ),
    h(
      "div",
      { class: "ll-scroll", tabindex: 0, role: "region", "aria-label": "Table of tokens" },
      h(
        "table",
        { class: "ll-list", "aria-label": "Tokens, the most frequent first" },
        h("thead", {}, h("tr", {}, ...heads)),
        body,
      ),
    ),
    h("div", { class: "ll-tools" }, back, next, said),
  );
  if (state.note) root.append(h("p", { class: "ll-note" }, state.note));
  show();
}
