// TokenizerExplorer: any text, cut by one or more tokenizers,
// in the page itself. See tokenizers.py for the state.
import { checkbox, choice, h, slider, unique } from "./dom.js";
import { encoder, textOf } from "./encode.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./encode.js").Token} Token */

export const MOST = 4000; // characters that are cut
const CHIPS = 2000; // tokens of one tokenizer that are drawn

/**
 * @param {HTMLElement} root
 * @param {{samples: [string, string][],
 *   tokenizers: (import("./encode.js").ShippedBPE | import("./encode.js").ShippedDictionary)[]}} state
 * @param {Link} link
 */
export function tokenizer(root, state, link) {
  const encoders = state.tokenizers.map(encoder);
  const limits = encoders.map((e) => e.steps);
  let special = true;
  const id = unique("text");
  const input = /** @type {HTMLTextAreaElement} */ (
    h("textarea", { id, rows: 3, class: "ll-text", spellcheck: "false", maxlength: MOST })
  );
  const note = h("p", { class: "ll-note", role: "status" });
  const panels = state.tokenizers.map((t, i) => {
    const chips = h("div", { class: "ll-chips", role: "list", "aria-label": `Tokens of ${t.name}` });
    const counts = h("div", { class: "ll-counts" });
    const step = h("div", { class: "ll-step", role: "status" });
    const element = h(
      "section",
      { class: "ll-tokenizer" },
      h(
        "div",
        { class: "ll-title" },
        t.name,
        h("span", { class: "ll-shape" }, ` ${encoders[i].size.toLocaleString("en")} entries`),
      ),
    );
    if (encoders[i].steps) {
      const control = slider({
        label: "merges",
        min: 0,
        max: encoders[i].steps,
        value: limits[i],
        oninput: (k) => {
          limits[i] = k;
          show(i);
        },
      });
      element.append(control.element, step);
    }
    element.append(counts, chips);
    return { element, chips, counts, step };
  });

  /** @param {number} i */
  function show(i) {
    const { chips, counts, step } = panels[i];
    const text = input.value;
    const tokens = encoders[i].encode(text, limits[i], special);
    const characters = [...text].length;
    const bytes = new TextEncoder().encode(text).length;
    const unknown = tokens.filter((t) => t.unknown).length;
    const share = (/** @type {number} */ x) => format(x / tokens.length, 3);
    const per = tokens.length ? `: ${share(characters)} characters and ${share(bytes)} bytes a token` : "";
    const odd = unknown ? `; ${unknown} unknown` : "";
    counts.textContent = `${tokens.length} tokens, ${characters} characters, ${bytes} bytes${per}${odd}`;
    chips.replaceChildren(...tokens.slice(0, CHIPS).map((t, k) => chip(t, k)));
    if (tokens.length > CHIPS)
      chips.append(
        h(
          "span",
          { class: "ll-note", role: "listitem" },
          `… and ${tokens.length - CHIPS} more tokens, counted above`,
        ),
      );
    const k = limits[i];
    step.textContent =
      k === 0
        ? "no merge yet: one token a byte"
        : `merge ${k} joined ${quoted(encoders[i].step(k - 1)[0])} and ${quoted(encoders[i].step(k - 1)[1])}`;
    if (i === 0)
      link.set(
        "ids",
        tokens.map((t) => t.id),
      );
  }

  /** A text put into the box from outside: no longer than one that is typed. @param {string} text */
  function put(text) {
    const whole =
      text.length <= MOST || text.charCodeAt(MOST - 1) < 0xd800 || text.charCodeAt(MOST - 1) > 0xdbff;
    input.value = text.slice(0, whole ? MOST : MOST - 1); // a pair of surrogates stays together
  }

  function all() {
    note.textContent = input.value.length >= MOST - 1 ? `only the first ${MOST} characters are taken` : "";
    for (const i of encoders.keys()) show(i);
  }

  put(link.get("text") ?? "");
  input.addEventListener("input", () => {
    link.set("text", input.value);
    all();
  });
  link.on("text", () => {
    if (link.get("text") === input.value) return;
    put(link.get("text"));
    all();
  });
  const tools = h("div", { class: "ll-tools" });
  if (state.samples.length) {
    tools.append(
      choice({
        label: "try",
        options: [
          ["", "a text…"],
          ...state.samples.map(([name], i) => /** @type {[string, string]} */ ([String(i), name])),
        ],
        value: "",
        onchange: (i) => {
          if (i === "") return;
          put(state.samples[Number(i)][1]);
          link.set("text", input.value);
          all();
        },
      }),
    );
  }
  if (state.tokenizers.some((t) => Object.keys(t.special).length)) {
    tools.append(
      checkbox("read special tokens", special, (on) => {
        special = on;
        all();
      }),
    );
  }
  root.append(
    h("label", { for: id, class: "ll-label" }, "Type any text"),
    input,
    tools,
    note,
    h("div", { class: "ll-tokenizers" }, ...panels.map((p) => p.element)),
  );
  all();
}

/** @param {Token} token @param {number} k */
function chip(token, k) {
  const hex = [...token.bytes].map((b) => b.charCodeAt(0).toString(16).padStart(2, "0")).join(" ");
  const title = `id ${token.id ?? "none"}, bytes ${hex}`;
  const kind = token.unknown ? "ll-unknown" : token.name ? "ll-special" : `ll-chip-${k % 6}`;
  return h(
    "span",
    { class: `ll-chip ${kind}`, role: "listitem", title },
    h("span", { class: "ll-token" }, visible(token.bytes)),
    h("small", {}, token.unknown && token.id === null ? "?" : String(token.id)),
  );
}

// control characters, and those that change the direction of the text after them
// eslint-disable-next-line no-control-regex -- they are what is looked for
const STEERS = /[\0-\x08\v\f\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;
const coded = (/** @type {string} */ c) => `⟨${(c.codePointAt(0) ?? 0).toString(16).padStart(2, "0")}⟩`;

/**
 * A token with its spaces to be seen; what has no width as
 * its code, bytes that are no whole character in hexadecimal.
 * @param {string} bytes
 */
export function visible(bytes) {
  const text = textOf(bytes);
  if (text === null)
    return [...bytes]
      .map((b) => (b.charCodeAt(0) < 128 ? b : coded(b)))
      .join("")
      .replace(STEERS, coded);
  if (/^\p{Cf}+$/u.test(text)) return [...text].map(coded).join(""); // beside others it may join an emoji
  return text.replace(STEERS, coded).replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** @param {string} bytes */
const quoted = (bytes) => `“${visible(bytes)}”`;
