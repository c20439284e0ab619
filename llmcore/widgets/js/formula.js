// The arithmetic of one number, line by line, and whether it gives the value that is shown.
import { div, verdict } from "./dom.js";
import { format, lastDigit } from "./number.js";

/**
 * Equal to the rounding of the display: the same four digits, or one unit of the last of them apart.
 * @param {number} total @param {number} value
 */
export function agrees(total, value) {
  if (total === value || (Number.isNaN(total) && Number.isNaN(value))) return true;
  return Math.abs(total - value) <= Math.max(lastDigit(value), 1e-9);
}

/** What the arithmetic gives, and whether that is shown. @param {number} total @param {number} value */
export function check(total, value) {
  const said = verdict(agrees(total, value), "the value shown", `the value shown is ${format(value)}`);
  return div("ll-arithmetic", `= ${format(total)} `, said);
}

/** @param {string} where @param {number} value @param {import("./operations.js").Explanation} explanation */
export function formula(where, value, { formula: what, lines, total }) {
  const isTerm = (/** @type {string} */ line) => /^([-(\d]|max\()/.test(line) && !line.includes(" = ");
  return div(
    "ll-formula",
    div("ll-what", `${where}: ${what}`),
    ...lines.map((line) => div("ll-arithmetic", isTerm(line) ? `= ${line}` : line)),
    check(total, value),
  );
}
