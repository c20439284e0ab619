// The arithmetic of one number, line by line, and whether it gives the value that is shown.
import { h } from "./dom.js";
import { format, lastDigit } from "./number.js";

/**
 * Equal to the rounding of the display: the same four digits, or one unit of the last of them apart.
 * @param {number} total @param {number} value
 */
export function agrees(total, value) {
  return (
    total === value ||
    (Number.isNaN(total) && Number.isNaN(value)) ||
    Math.abs(total - value) <= Math.max(lastDigit(value), 1e-9)
  );
}

/** @param {string} where @param {number} value @param {import("./explain.js").Explanation} explanation */
export function formula(where, value, explanation) {
  const ok = agrees(explanation.total, value);
  return h(
    "div",
    { class: "ll-formula" },
    h("div", { class: "ll-what" }, `${where}: ${explanation.formula}`),
    ...explanation.lines.map((line) =>
      h(
        "div",
        { class: "ll-arithmetic" },
        /^([-(\d]|max\()/.test(line) && !line.includes(" = ") ? `= ${line}` : line,
      ),
    ),
    h(
      "div",
      { class: "ll-arithmetic" },
      `= ${format(explanation.total)} `,
      h(
        "span",
        { class: ok ? "ll-ok" : "ll-wrong" },
        ok ? "✓ the value shown" : `✗ the value shown is ${format(value)}`,
      ),
    ),
  );
}
