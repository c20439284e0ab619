// Numbers as text and in sum. NaN and infinities arrive as
// the strings "NaN", "Infinity", "-Infinity": JSON has none.

/** @param {number | string} x */
export function decode(x) {
  return typeof x === "number" ? x : Number(x);
}

/**
 * Four significant digits as Python's "%.4g" writes them: 0.1234, 12.5, 1.2e-5, 3.
 * @param {number} x @param {number} [digits]
 */
export function format(x, digits = 4) {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  if (x === 0) return "0";
  const [mantissa, power] = x.toExponential(digits - 1).split("e");
  const exponent = Number(power);
  const trim = (/** @type {string} */ s) => (s.includes(".") ? s.replace(/\.?0+$/, "") : s);
  if (exponent < -4 || exponent >= digits) {
    if (Number.isInteger(x) && Math.abs(x) < 1e9) return String(x);
    return `${trim(mantissa)}e${exponent}`;
  }
  return trim(x.toFixed(digits - 1 - exponent));
}

/** The size of one unit in the last digit that format shows. @param {number} x @param {number} [digits] */
export function lastDigit(x, digits = 4) {
  return x === 0 || !Number.isFinite(x) ? 0 : 10 ** (Math.floor(Math.log10(Math.abs(x))) - digits + 1);
}

/**
 * Mean, deviation and range of the finite values; NaN and infinities are counted.
 * @param {number[]} values
 */
export function statistics(values) {
  const finite = values.filter(Number.isFinite);
  const n = finite.length;
  const mean = finite.reduce((a, b) => a + b, 0) / n;
  const sd = Math.sqrt(finite.reduce((a, b) => a + (b - mean) ** 2, 0) / n);
  let min = Infinity;
  let max = -Infinity;
  for (const x of finite) {
    if (x < min) min = x;
    if (x > max) max = x;
  }
  const nan = values.filter(Number.isNaN).length;
  return {
    n,
    mean: n ? mean : NaN,
    sd: n ? sd : NaN,
    min: n ? min : NaN,
    max: n ? max : NaN,
    nan,
    inf: values.length - n - nan,
  };
}

/** Statistics as one line. @param {number[]} values */
export function summary(values) {
  const s = statistics(values);
  const odd = (s.nan ? `, ${s.nan} NaN` : "") + (s.inf ? `, ${s.inf} infinite` : "");
  return s.n
    ? `mean ${format(s.mean)}, deviation ${format(s.sd)}, from ${format(s.min)} to ${format(s.max)}${odd}`
    : `no finite value${odd}`;
}

/**
 * How many finite values fall into each of `bins` equal parts of their range.
 * @param {number[]} values @param {number} bins
 */
export function histogram(values, bins) {
  const { min, max } = statistics(values);
  const counts = /** @type {number[]} */ (Array(bins).fill(0));
  const width = (max - min) / bins || 1;
  for (const x of values)
    if (Number.isFinite(x)) counts[Math.min(bins - 1, Math.floor((x - min) / width))] += 1;
  return { counts, min, width };
}

/** sum a[i] b[i] @param {number[]} a @param {number[]} b */
export function dot(a, b) {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

/** exp(x - max) / sum; rows that are all masked (-Infinity) give zeros. @param {number[]} row */
export function softmax(row) {
  const top = Math.max(...row);
  if (top === -Infinity) return row.map(() => 0);
  const e = row.map((x) => Math.exp(x - top));
  const total = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / total);
}
