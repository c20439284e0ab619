// The tokenizers of llmcore.tokenizer in JavaScript, from what a
// page ships. Byte strings are strings of characters 0 to 255.
import { joined } from "./merge.js";

/**
 * merges: pairs of entries; entry 0 to 255 is byte `bytes[entry]`, entry 256 + k is the join of merge k.
 * ids: the id of each entry, null where it is the entry's own number.
 * @typedef {{name: string, kind: "bpe", pattern: string, by_rank: boolean, special: Record<string, number>,
 *   merges: [number, number][], bytes: number[] | null, ids: number[] | null}} ShippedBPE
 * @typedef {{name: string, kind: "dictionary" | "char" | "word", special: Record<string, number>,
 *   entries: [string, number][], unknown: number | null}} ShippedDictionary
 * @typedef {{id: number | null, bytes: string, name?: string, unknown?: boolean}} Token
 */

const SPACE = "\\p{White_Space}";
/** The split patterns in JavaScript's own regular expressions; see SPLIT_PATTERNS in bpe.py. */
/** @type {Record<string, RegExp>} */
export const PATTERNS = (() => {
  const blanks = `${SPACE}+(?![^${SPACE}])|${SPACE}+`;
  const tails = `\\p{N}{1,3}| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*|${SPACE}*[\\r\\n]|${blanks}`;
  const short = "'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])";
  return {
    gpt2: new RegExp(`'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${blanks}`, "gv"),
    gpt4: new RegExp(`${short}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${tails}`, "gv"),
    "gpt4-han": new RegExp(
      `${short}|\\p{Script=Han}+|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}--\\p{Script=Han}]+|${tails}`,
      "gv",
    ),
  };
})();

// Python counts the separators \x1c to \x1f as white space, JavaScript does not
// eslint-disable-next-line no-control-regex
const WORD = /[㐀-鿿]|[[\p{L}\p{N}]--[㐀-鿿]]+|[[\s\x1c-\x1f\x85]--[\ufeff]]+|[\s\S]/gv;
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 of a text as a byte string. @param {string} s */
export function bytesOf(s) {
  let out = "";
  for (const b of utf8.encode(s)) out += String.fromCharCode(b);
  return out;
}

/** The text of a byte string, or null where it is no whole UTF-8. @param {string} bytes */
export function textOf(bytes) {
  try {
    return text.decode(Uint8Array.from(bytes, (c) => c.charCodeAt(0)));
  } catch {
    return null;
  }
}

/**
 * A function text -> tokens. `limit` uses only the first merges;
 * special = false reads special tokens as ordinary text.
 * @param {ShippedBPE | ShippedDictionary} shipped
 * @returns {{encode: (s: string, limit?: number, special?: boolean) => Token[],
 *   size: number, steps: number, step: (k: number) => [string, string]}}
 */
export function encoder(shipped) {
  return shipped.kind === "bpe" ? bpe(shipped) : dictionary(shipped);
}

/** @param {ShippedBPE} shipped */
function bpe(shipped) {
  const entries = Array.from({ length: 256 }, (_, i) =>
    String.fromCharCode(shipped.bytes ? shipped.bytes[i] : i),
  );
  /** @type {Map<string, number>} */
  const ranks = new Map();
  for (const [a, b] of shipped.merges) {
    const entry = entries[a] + entries[b];
    // by rank: any two neighbours whose join is an entry; else only the listed pair
    ranks.set(shipped.by_rank ? entry : `${entries[a]}\u0100${entries[b]}`, entries.length - 256);
    entries.push(entry);
  }
  const place = new Map(entries.map((bytes, i) => [bytes, i]));
  const id = (/** @type {string} */ bytes) => {
    const i = /** @type {number} */ (place.get(bytes));
    return shipped.ids ? shipped.ids[i] : i;
  };
  const pattern = PATTERNS[shipped.pattern];
  const cut = segments(shipped.special);

  /** @param {string} chunk @param {number} limit @returns {string[]} */
  const merge = (chunk, limit) =>
    joined([...chunk], (a, b) => {
      const rank = ranks.get(shipped.by_rank ? a + b : `${a}\u0100${b}`);
      return rank !== undefined && rank < limit ? rank : -1;
    });

  return {
    size: entries.length + Object.keys(shipped.special).length,
    steps: shipped.merges.length,
    step: (/** @type {number} */ k) =>
      /** @type {[string, string]} */ ([entries[shipped.merges[k][0]], entries[shipped.merges[k][1]]]),
    encode: (/** @type {string} */ s, limit = Infinity, special = true) =>
      cut(s, special).flatMap(([piece, known]) =>
        known === null
          ? (piece.match(pattern) ?? []).flatMap((chunk) =>
              merge(bytesOf(chunk), limit).map((bytes) => ({ id: id(bytes), bytes })),
            )
          : [{ id: known, bytes: bytesOf(piece), name: piece }],
      ),
  };
}

/** @param {ShippedDictionary} shipped */
function dictionary(shipped) {
  const ids = new Map(shipped.entries);
  const longestAt = prefixes(shipped.entries.map(([entry]) => entry));
  const cut = segments(shipped.special);
  /** @param {string} s @returns {string[]} */
  function pieces(s) {
    if (shipped.kind === "char") return [...s];
    if (shipped.kind === "word") return s.match(WORD) ?? [];
    const out = [];
    for (let start = 0; start < s.length;) {
      const one = s.codePointAt(start) ?? 0;
      const length = longestAt(s, start) || (one > 0xffff ? 2 : 1);
      out.push(s.slice(start, start + length));
      start += length;
    }
    return out;
  }
  return {
    size: shipped.entries.length + Object.keys(shipped.special).length,
    steps: 0,
    step: () => /** @type {[string, string]} */ (["", ""]),
    encode: (/** @type {string} */ s, _limit = Infinity, special = true) =>
      cut(s, special).flatMap(([piece, known]) => {
        if (known !== null) return [{ id: known, bytes: bytesOf(piece), name: piece }];
        return pieces(piece).map((p) => {
          const id = ids.get(p);
          return id === undefined
            ? { id: shipped.unknown, bytes: bytesOf(p), unknown: true }
            : { id, bytes: bytesOf(p) };
        });
      }),
  };
}

/** @typedef {{end: boolean, next: Map<string, Tree>}} Tree */

/**
 * How long the longest of some texts is that begins at a place of
 * another, 0 where none does. One walk down a tree of characters.
 * @param {string[]} texts @returns {(s: string, start: number) => number}
 */
function prefixes(texts) {
  /** @type {Tree} */
  const root = { end: false, next: new Map() };
  for (const one of texts) {
    let node = root;
    for (let i = 0; i < one.length; i += 1) {
      const below = node.next.get(one[i]) ?? { end: false, next: new Map() };
      node.next.set(one[i], below);
      node = below;
    }
    node.end = one.length > 0;
  }
  return (s, start) => {
    let longest = 0;
    /** @type {Tree | undefined} */
    let node = root;
    for (let i = start; i < s.length; i += 1) {
      node = node.next.get(s[i]);
      if (!node) break;
      if (node.end) longest = i + 1 - start;
    }
    return longest;
  };
}

/**
 * A function that cuts a text at special tokens, the longer first: [piece, id or null].
 * @param {Record<string, number>} special
 */
function segments(special) {
  const longestAt = prefixes(Object.keys(special));
  return (/** @type {string} */ s, /** @type {boolean} */ read) => {
    /** @type {[string, number | null][]} */
    const out = [];
    let start = 0;
    for (let i = 0; read && i < s.length;) {
      const length = longestAt(s, i);
      if (!length) {
        i += 1;
        continue;
      }
      const found = s.slice(i, i + length);
      if (i > start) out.push([s.slice(start, i), null]);
      out.push([found, special[found]]);
      i += length;
      start = i;
    }
    if (start < s.length) out.push([s.slice(start), null]);
    return out;
  };
}
