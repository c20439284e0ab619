// TokenizerExplorer: any text, cut by one or more tokenizers,
// in the page itself. See tokenizers.py for the state.
import { checkbox, choice, div, h, slider, span, status, unique } from "./dom.js";
import { encoder, textOf } from "./encode.js";
import { format } from "./number.js";

/** @typedef {import("./dom.js").Link} Link */
/** @typedef {import("./encode.js").Token} Token */

export const MOST = 4000; // characters that are cut
const CHIPS = 2000; // tokens of one tokenizer that are drawn

/** @typedef {import("./encode.js").ShippedBPE | import("./encode.js").ShippedDictionary} ShippedTokenizer */
/** @typedef {{samples: [string, string][], tokenizers: ShippedTokenizer[]}} State */
/** @typedef {ReturnType<typeof encoder>} Encoder */

/** @param {HTMLElement} root @param {State} state @param {Link} link */
export function tokenizer(root, state, link) {
  const encoders = state.tokenizers.map(encoder);
  const limits = encoders.map((e) => e.steps);
  let special = true;
  const id = unique("text");
  const input = /** @type {HTMLTextAreaElement} */ (
    h("textarea", { id, rows: 3, class: "ll-text", spellcheck: "false", maxlength: MOST })
  );
  const cut = h("p", { class: "ll-note", role: "status" });
  const panels = state.tokenizers.map(({ name }, i) =>
    panel(name, encoders[i], (k) => {
      limits[i] = k;
      show(i);
    }),
  );

  /** @param {number} i */
  function show(i) {
    const tokens = encoders[i].encode(input.value, limits[i], special);
    panels[i].show(input.value, tokens, limits[i]);
    const ids = tokens.map((t) => t.id);
    if (i === 0) link.set("ids", ids);
  }
  function all() {
    cut.textContent = input.value.length >= MOST - 1 ? `only the first ${MOST} characters are taken` : "";
    for (const i of encoders.keys()) show(i);
  }

  input.value = within(link.get("text") ?? "");
  input.addEventListener("input", () => {
    link.set("text", input.value);
    all();
  });
  link.on("text", () => {
    if (link.get("text") === input.value) return;
    input.value = within(link.get("text"));
    all();
  });
  const samples = sampleChoice(state.samples, (text) => {
    input.value = within(text);
    link.set("text", input.value);
    all();
  });
  const specials = checkbox("read special tokens", special, (on) => {
    special = on;
    all();
  });
  const hasSpecials = state.tokenizers.some((t) => Object.keys(t.special).length);
  root.append(
    h("label", { for: id, class: "ll-label" }, "Type any text"),
    input,
    div("ll-tools", ...(state.samples.length ? [samples] : []), ...(hasSpecials ? [specials] : [])),
    cut,
    div("ll-tokenizers", ...panels.map((p) => p.element)),
  );
  all();
}

/**
 * A text that is no longer than one that is typed; a pair of surrogates stays together.
 * @param {string} text
 */
function within(text) {
  const last = text.charCodeAt(MOST - 1);
  const whole = text.length <= MOST || last < 0xd800 || last > 0xdbff;
  return text.slice(0, whole ? MOST : MOST - 1);
}

/** @param {[string, string][]} samples @param {(text: string) => void} take */
const sampleChoice = (samples, take) =>
  choice({
    label: "try",
    options: [
      ["", "a text…"],
      ...samples.map(([name], i) => /** @type {[string, string]} */ ([String(i), name])),
    ],
    value: "",
    onchange: (i) => {
      if (i !== "") take(samples[Number(i)][1]);
    },
  });

/**
 * One tokenizer: its name, its merges, its tokens.
 * @param {string} name @param {Encoder} encoder_ @param {(k: number) => void} setLimit
 */
function panel(name, { size, steps, step: merge }, setLimit) {
  const chips = h("div", { class: "ll-chips", role: "list", "aria-label": `Tokens of ${name}` });
  const counts = div("ll-counts");
  const step = status("ll-step");
  const entries = span("ll-shape", ` ${size.toLocaleString("en")} entries`);
  const merges = slider({ label: "merges", min: 0, max: steps, value: steps, oninput: setLimit });
  const element = h(
    "section",
    { class: "ll-tokenizer" },
    div("ll-title", name, entries),
    ...(steps ? [merges.element, step] : []),
    counts,
    chips,
  );
  return {
    element,
    /** @param {string} text @param {Token[]} tokens @param {number} limit */
    show(text, tokens, limit) {
      counts.textContent = countsOf(text, tokens);
      chips.replaceChildren(...tokens.slice(0, CHIPS).map(chip));
      const more = `… and ${tokens.length - CHIPS} more tokens, counted above`;
      if (tokens.length > CHIPS) chips.append(h("span", { class: "ll-note", role: "listitem" }, more));
      step.textContent = limit ? mergeOf(limit, merge(limit - 1)) : "no merge yet: one token a byte";
    },
  };
}

/** @param {number} k @param {[string, string]} pair */
const mergeOf = (k, [a, b]) => `merge ${k} joined ${quoted(a)} and ${quoted(b)}`;

/** How many tokens a text has, and of what size. @param {string} text @param {Token[]} tokens */
function countsOf(text, tokens) {
  const characters = [...text].length;
  const bytes = new TextEncoder().encode(text).length;
  const unknown = tokens.filter((t) => t.unknown).length;
  const share = (/** @type {number} */ x) => format(x / tokens.length, 3);
  const per = tokens.length ? `: ${share(characters)} characters and ${share(bytes)} bytes a token` : "";
  const odd = unknown ? `; ${unknown} unknown` : "";
  return `${tokens.length} tokens, ${characters} characters, ${bytes} bytes${per}${odd}`;
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
