// Bytes and seconds as people write them. Decimal: 1 kB is 1,000 bytes.
import { format } from "./number.js";

/** @param {number} x @param {[number, string][]} units from large to small */
function scaled(x, units) {
  const [size, name] = units.find(([s]) => x >= s * 0.9995) ?? units[units.length - 1];
  const digits = x / size >= 100 ? 4 : 3;
  return `${format(x / size, digits)} ${name}`;
}

/** 1,500,000 is "1.5 MB". @param {number} x */
export const bytes = (x) =>
  x
    ? scaled(x, [
        [1e15, "PB"],
        [1e12, "TB"],
        [1e9, "GB"],
        [1e6, "MB"],
        [1e3, "kB"],
        [1, "B"],
      ])
    : "0 B";

/** 0.0015 is "1.5 ms". @param {number} x */
export const seconds = (x) =>
  x
    ? scaled(x, [
        [86400, "days"],
        [3600, "h"],
        [60, "min"],
        [1, "s"],
        [1e-3, "ms"],
        [1e-6, "µs"],
      ])
    : "0 s";

/** Whole numbers in groups of three. @param {number} x */
export const whole = (x) => Math.round(x).toLocaleString("en-US");
