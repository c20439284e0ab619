// The tokenizers of llmcore.tokenizer in JavaScript, from what a page ships. Byte strings are strings of characters 0 to 255.

/**
 * @typedef {{name: string, kind: "bpe", pattern: string, merges: [number, number][], bytes: number[] | null, ids: number[] | null,
 *   by_rank: boolean, special: Record<string, number>}} ShippedBPE
 * merges: pairs of entries; entry 0 to 255 is byte `bytes[entry]`, entry 256 + k is the join of merge k. ids: entry -> id, null: the same.
 * @typedef {{name: string, kind: "dictionary" | "char" | "word", entries: [string, number][], unknown: number | null,
 *   special: Record<string, number>}} ShippedDictionary
 * @typedef {{id: number | null, bytes: string, name?: string, unknown?: boolean}} Token
 */

const SPACE = "\\p{White_Space}";
/** The split patterns in JavaScript's own regular expressions; see SPLIT_PATTERNS in bpe.py. */
/** @type {Record<string, RegExp>} */
export const PATTERNS = (() => {
  const tails = `\\p{N}{1,3}| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*|${SPACE}*[\\r\\n]|${SPACE}+(?![^${SPACE}])|${SPACE}+`;
  const short = "'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])";
  return {
    gpt2: new RegExp(`'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?![^${SPACE}])|${SPACE}+`, "gv"),
    gpt4: new RegExp(`${short}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${tails}`, "gv"),
    "gpt4-han": new RegExp(`${short}|\\p{Script=Han}+|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}--\\p{Script=Han}]+|${tails}`, "gv"),
  };
})();

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
 * A function text -> tokens. `limit` uses only the first merges; special = false reads special tokens as ordinary text.
 * @param {ShippedBPE | ShippedDictionary} shipped
 * @returns {{encode: (s: string, limit?: number, special?: boolean) => Token[], size: number, steps: number, step: (k: number) => [string, string]}}
 */
export function encoder(shipped) {
  return shipped.kind === "bpe" ? bpe(shipped) : dictionary(shipped);
}

/** @param {ShippedBPE} shipped */
function bpe(shipped) {
  const entries = Array.from({ length: 256 }, (_, i) => String.fromCharCode(shipped.bytes ? shipped.bytes[i] : i));
  /** @type {Map<string, number>} */
  const ranks = new Map();
  for (const [a, b] of shipped.merges) {
    const joined = entries[a] + entries[b];
    // by rank: any two neighbours whose join is an entry; else only the listed pair
    ranks.set(shipped.by_rank ? joined : `${entries[a]}\u0100${entries[b]}`, entries.length - 256);
    entries.push(joined);
  }
  const place = new Map(entries.map((bytes, i) => [bytes, i]));
  const id = (/** @type {string} */ bytes) => {
    const i = /** @type {number} */ (place.get(bytes));
    return shipped.ids ? shipped.ids[i] : i;
  };
  const pattern = PATTERNS[shipped.pattern];

  /** @param {string} chunk @param {number} limit */
  function merge(chunk, limit) {
    const parts = [...chunk];
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < parts.length; i += 1) {
        const rank = ranks.get(shipped.by_rank ? parts[i] + parts[i + 1] : `${parts[i]}\u0100${parts[i + 1]}`);
        if (rank !== undefined && rank < best && rank < limit) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  return {
    size: entries.length + Object.keys(shipped.special).length,
    steps: shipped.merges.length,
    step: (/** @type {number} */ k) => /** @type {[string, string]} */ ([entries[shipped.merges[k][0]], entries[shipped.merges[k][1]]]),
    encode: (/** @type {string} */ s, limit = Infinity, special = true) =>
      segments(s, special ? shipped.special : {}).flatMap(([piece, known]) =>
        known === null
          ? (piece.match(pattern) ?? []).flatMap((chunk) => merge(bytesOf(chunk), limit).map((bytes) => ({ id: id(bytes), bytes })))
          : [{ id: known, bytes: bytesOf(piece), name: piece }],
      ),
  };
}

/** @param {ShippedDictionary} shipped */
function dictionary(shipped) {
  const ids = new Map(shipped.entries);
  const longest = Math.max(1, ...shipped.entries.map(([entry]) => [...entry].length));
  /** @param {string} s @returns {string[]} */
  function pieces(s) {
    if (shipped.kind === "char") return [...s];
    if (shipped.kind === "word") return s.match(WORD) ?? [];
    const all = [...s];
    const out = [];
    for (let start = 0; start < all.length; ) {
      let end = Math.min(all.length, start + longest);
      while (end > start + 1 && !ids.has(all.slice(start, end).join(""))) end -= 1;
      out.push(all.slice(start, end).join(""));
      start = end;
    }
    return out;
  }
  return {
    size: shipped.entries.length + Object.keys(shipped.special).length,
    steps: 0,
    step: () => /** @type {[string, string]} */ (["", ""]),
    encode: (/** @type {string} */ s, _limit = Infinity, special = true) =>
      segments(s, special ? shipped.special : {}).flatMap(([piece, known]) => {
        if (known !== null) return [{ id: known, bytes: bytesOf(piece), name: piece }];
        return pieces(piece).map((p) => {
          const id = ids.get(p);
          return id === undefined ? { id: shipped.unknown, bytes: bytesOf(p), unknown: true } : { id, bytes: bytesOf(p) };
        });
      }),
  };
}

/** The text cut at special tokens, the longer first: [piece, id or null]. @param {string} s @param {Record<string, number>} special */
function segments(s, special) {
  const names = Object.keys(special).sort((a, b) => b.length - a.length);
  /** @type {[string, number | null][]} */
  const out = [];
  let start = 0;
  for (let i = 0; names.length && i < s.length; ) {
    const found = names.find((name) => s.startsWith(name, i));
    if (!found) {
      i += 1;
      continue;
    }
    if (i > start) out.push([s.slice(start, i), null]);
    out.push([found, special[found]]);
    i += found.length;
    start = i;
  }
  if (start < s.length) out.push([s.slice(start), null]);
  return out;
}
