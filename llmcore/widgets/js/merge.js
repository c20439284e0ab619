// Merging neighbours, the lowest rank first, in n log n: a
// chunk of many thousand bytes answers while one types.

/**
 * A heap of numbers: the smallest is taken first.
 */
export class Heap {
  constructor() {
    /** @type {number[]} */
    this.items = [];
  }

  /** @param {number} x */
  push(x) {
    const { items } = this;
    let at = items.length;
    items.push(x);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (items[up] <= x) break;
      items[at] = items[up];
      at = up;
    }
    items[at] = x;
  }

  /** @returns {number | undefined} */
  pop() {
    const { items } = this;
    const least = items[0];
    const x = items.pop();
    if (x === undefined || !items.length) return x;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= items.length) break;
      if (below + 1 < items.length && items[below + 1] < items[below]) below += 1;
      if (items[below] >= x) break;
      items[at] = items[below];
      at = below;
    }
    items[at] = x;
    return least;
  }
}

/**
 * The parts after all merges: of two neighbours of the lowest rank,
 * the leftmost first, until no two have a rank. Each merge asks for
 * the ranks of two new pairs, so that n parts take at most 3 n ranks and as many steps of the heap.
 * @param {string[]} parts
 * @param {(a: string, b: string) => number} rank -1 where the two do not merge @returns {string[]}
 */
export function joined(parts, rank) {
  const n = parts.length;
  const next = Array.from({ length: n }, (_, i) => i + 1);
  const before = Array.from({ length: n }, (_, i) => i - 1);
  const now = parts.map(() => -1); // of each part, the rank of the pair that it begins
  const heap = new Heap();
  /** @param {number} i */
  const ask = (i) => {
    now[i] = i >= 0 && next[i] < n ? rank(parts[i], parts[next[i]]) : -1;
    if (now[i] >= 0) heap.push(now[i] * n + i); // rank first, then place
  };
  for (let i = 0; i + 1 < n; i += 1) ask(i);
  for (let least = heap.pop(); least !== undefined; least = heap.pop()) {
    const i = least % n;
    if (now[i] !== (least - i) / n) continue; // the pair is no longer there
    const gone = next[i];
    parts[i] += parts[gone];
    parts[gone] = "";
    next[i] = next[gone];
    if (next[i] < n) before[next[i]] = i;
    now[gone] = -1;
    ask(i);
    if (before[i] >= 0) ask(before[i]);
  }
  return parts.filter((part) => part !== "");
}
