// Colour scales. A cell sets --v in 0..1 and a class; style.css
// mixes the colour with the paper, so dark mode needs no script.
import { h } from "./dom.js";
import { format, statistics } from "./number.js";

/** @typedef {{kind: "diverging" | "sequential", low: number, high: number}} Scale */

/**
 * Diverging: white is 0, both ends as far as the largest
 * size. Sequential: from the smallest value to the largest.
 * @param {"diverging" | "sequential"} kind @param {number[]} values @returns {Scale}
 */
export function scaleOf(kind, values) {
  const { min, max } = statistics(values);
  const reach = Math.max(Math.abs(min), Math.abs(max)) || 1;
  if (Number.isNaN(min)) return { kind, low: kind === "diverging" ? -1 : 0, high: 1 };
  return kind === "diverging"
    ? { kind, low: -reach, high: reach }
    : { kind, low: min, high: max > min ? max : min + 1 };
}

/**
 * Class and strength of a value.
 * @param {Scale} scale @param {number} x @returns {{name: string, v: number}}
 */
export function shade(scale, x) {
  if (Number.isNaN(x)) return { name: "ll-nan", v: 0 };
  if (!Number.isFinite(x)) return { name: x > 0 ? "ll-inf" : "ll-neginf", v: 0 };
  if (scale.kind === "sequential")
    return { name: "ll-seq", v: clamp((x - scale.low) / (scale.high - scale.low)) };
  return { name: x < 0 ? "ll-minus" : "ll-plus", v: clamp(Math.abs(x) / scale.high) };
}

/** @param {number} v */
const clamp = (v) => Math.min(1, Math.max(0, v));

// From which strength on white is easier to read than black:
// the contrast with either is at least 4.5 on both sides of it.
/** @type {Record<string, number>} */
const STRONG = { "ll-plus": 0.765, "ll-minus": 0.875, "ll-seq": 0.7 };

/** Paint an element by a value. @param {HTMLElement} element @param {Scale} scale @param {number} x */
export function paint(element, scale, x) {
  const { name, v } = shade(scale, x);
  element.classList.remove("ll-nan", "ll-inf", "ll-neginf", "ll-seq", "ll-minus", "ll-plus", "ll-strong");
  element.classList.add(name);
  element.classList.toggle("ll-strong", v > (STRONG[name] ?? 1));
  element.style.setProperty("--v", v.toFixed(3));
}

/** A bar of the scale with its ends written. @param {Scale} scale */
export function legend(scale) {
  const marks = scale.kind === "diverging" ? [scale.low, 0, scale.high] : [scale.low, scale.high];
  return h(
    "div",
    { class: "ll-legend" },
    h("div", { class: `ll-bar ll-bar-${scale.kind}`, "aria-hidden": "true" }),
    h("div", { class: "ll-marks" }, ...marks.map((x) => h("span", {}, format(x, 3)))),
  );
}
