// Losses of two numbers, and the paths that optimizers take on them.

/**
 * @typedef {{name: string, from: [number, number], to: [number, number], start: [number, number],
 *   f: (x: number, y: number, k: number) => number,
 *   gradient: (x: number, y: number, k: number) => [number, number]}} Landscape k: condition number
 */

/** @type {Record<string, Landscape>} */
export const LANDSCAPES = {
  bowl: {
    name: "a bowl: (x² + k y²) / 2",
    from: [-2, -2],
    to: [2, 2],
    start: [-1.8, 1.2],
    f: (x, y, k) => (x * x + k * y * y) / 2,
    gradient: (x, y, k) => [x, k * y],
  },
  valley: {
    name: "a bent valley: (1 − x)² / 2 + k (y − x²)² / 10",
    from: [-2, -1],
    to: [2, 3],
    start: [-1.5, 2.2],
    f: (x, y, k) => (1 - x) ** 2 / 2 + (k * (y - x * x) ** 2) / 10,
    gradient: (x, y, k) => [x - 1 - (4 * k * x * (y - x * x)) / 10, (2 * k * (y - x * x)) / 10],
  },
  saddle: {
    name: "a saddle: x⁴ / 4 − x² / 2 + k y² / 2",
    from: [-2, -1.5],
    to: [2, 1.5],
    start: [0.02, 1.2],
    f: (x, y, k) => x ** 4 / 4 - (x * x) / 2 + (k * y * y) / 2,
    gradient: (x, y, k) => [x ** 3 - x, k * y],
  },
};

/**
 * Points of gradient descent.
 * @param {string} kind sgd, momentum or adam @param {Landscape} land @param {number} k
 * @param {number} lr @param {number} steps @param {[number, number]} start @returns {[number, number][]}
 */
export function path(kind, land, k, lr, steps, start) {
  const out = /** @type {[number, number][]} */ ([start]);
  let [x, y] = start;
  const m = [0, 0];
  const v = [0, 0];
  for (let t = 1; t <= steps; t += 1) {
    const g = land.gradient(x, y, k);
    const move = g.map((d, i) => {
      if (kind === "sgd") return lr * d;
      if (kind === "momentum") {
        m[i] = 0.9 * m[i] + d;
        return lr * m[i];
      }
      m[i] = 0.9 * m[i] + 0.1 * d;
      v[i] = 0.999 * v[i] + 0.001 * d * d;
      return ((lr / (1 - 0.9 ** t)) * m[i]) / (Math.sqrt(v[i]) / Math.sqrt(1 - 0.999 ** t) + 1e-8);
    });
    [x, y] = [x - move[0], y - move[1]];
    if (!Number.isFinite(x) || !Number.isFinite(y) || Math.abs(x) > 1e6 || Math.abs(y) > 1e6) break;
    out.push([x, y]);
  }
  return out;
}

/**
 * Line segments where f crosses a level, by marching over a lattice of cells.
 * @param {(x: number, y: number) => number} f @param {[number, number]} from
 * @param {[number, number]} to @param {number} level @param {number} [cells]
 */
export function contour(f, from, to, level, cells = 48) {
  const at = (/** @type {number} */ i, /** @type {number} */ j) =>
    /** @type {[number, number]} */ ([
      from[0] + (i / cells) * (to[0] - from[0]),
      from[1] + (j / cells) * (to[1] - from[1]),
    ]);
  const values = Array.from({ length: cells + 1 }, (_, i) =>
    Array.from({ length: cells + 1 }, (_unused, j) => f(...at(i, j)) - level),
  );
  /** @type {[[number, number], [number, number]][]} */
  const lines = [];
  for (let i = 0; i < cells; i += 1) {
    for (let j = 0; j < cells; j += 1) {
      const corners = /** @type {[number, number][]} */ ([
        [i, j],
        [i + 1, j],
        [i + 1, j + 1],
        [i, j + 1],
      ]);
      /** @type {[number, number][]} */
      const crossings = [];
      for (let e = 0; e < 4; e += 1) {
        const [a, b] = [corners[e], corners[(e + 1) % 4]];
        const [u, v] = [values[a[0]][a[1]], values[b[0]][b[1]]];
        if (u < 0 !== v < 0) {
          const s = u / (u - v);
          const [p, q] = [at(...a), at(...b)];
          crossings.push([p[0] + s * (q[0] - p[0]), p[1] + s * (q[1] - p[1])]);
        }
      }
      for (let c = 0; c + 1 < crossings.length; c += 2) lines.push([crossings[c], crossings[c + 1]]);
    }
  }
  return lines;
}
