// An array of 1 to 4 axes as it is shipped: shape, numbers, names.
// The last two axes are a table, the ones before are sliders.
import { slider } from "./dom.js";
import { decode } from "./number.js";

/**
 * @typedef {{name: string, shape: number[], data: (number | string)[], labels: (string[] | null)[],
 *   axes: string[], full: number[], block: number[], scale: "diverging" | "sequential"}} Shipped
 */

/** @param {Shipped} shipped */
export function tensor(shipped) {
  const values = shipped.data.map(decode);
  const shape = shipped.shape.length === 1 ? [1, ...shipped.shape] : shipped.shape;
  const labels = shipped.shape.length === 1 ? [[""], ...shipped.labels] : shipped.labels;
  const axes = shipped.shape.length === 1 ? ["", ...shipped.axes] : shipped.axes;
  const [R, C] = shape.slice(-2);
  const leading = shape.slice(0, -2);
  /** Name of place i on an axis. @param {number} axis @param {number} i */
  const label = (axis, i) => labels[axis]?.[i] ?? place(axis, i);
  /**
   * A place of a reduced axis stands for several of the array's own.
   * @param {number} axis @param {number} i
   */
  const place = (axis, i) => {
    const own = shipped.shape.length === 1 ? axis - 1 : axis;
    const width = shipped.block[own] ?? 1;
    return width === 1 ? String(i) : `${i * width}–${Math.min((i + 1) * width, shipped.full[own]) - 1}`;
  };
  return {
    name: shipped.name,
    scale: shipped.scale,
    R,
    C,
    leading,
    values,
    axes,
    label,
    rows: Array.from({ length: R }, (_, i) => label(shape.length - 2, i)),
    cols: Array.from({ length: C }, (_, i) => label(shape.length - 1, i)),
    /** Where the table of some leading indices begins. @param {number[]} lead */
    base: (lead) => lead.reduce((sum, i, axis) => sum * leading[axis] + i, 0) * R * C,
    /** @param {number[]} lead @param {number} r @param {number} c */
    at(lead, r, c) {
      return values[this.base(lead) + r * C + c];
    },
    /**
     * "E[101, 2]" with the array's own indices.
     * @param {number[]} lead @param {number} r @param {number} c
     */
    where(lead, r, c) {
      const own =
        shipped.shape.length === 1
          ? [place(1, c)]
          : [
              ...lead.map((i, axis) => place(axis, i)),
              place(shape.length - 2, r),
              place(shape.length - 1, c),
            ];
      return `${shipped.name}[${own.join(", ")}]`;
    },
    /**
     * The array's own indices of a cell, the first of a block.
     * @param {number[]} lead @param {number} r @param {number} c
     */
    index(lead, r, c) {
      const all = shipped.shape.length === 1 ? [c] : [...lead, r, c];
      return all.map((i, axis) => i * (shipped.block[axis] ?? 1));
    },
    /**
     * The cell of the array's own indices.
     * @param {number[]} index @returns {[number[], number, number] | null}
     */
    find(index) {
      if (index.length !== shipped.shape.length || index.some((i, axis) => i < 0 || i >= shipped.full[axis]))
        return null;
      const here = index.map((i, axis) => Math.floor(i / (shipped.block[axis] ?? 1)));
      return shipped.shape.length === 1
        ? [[], 0, here[0]]
        : [here.slice(0, -2), here[here.length - 2], here[here.length - 1]];
    },
  };
}

/**
 * One slider for each leading axis.
 * @param {ReturnType<typeof tensor>} t @param {(lead: number[]) => void} onchange
 */
export function leads(t, onchange) {
  const lead = t.leading.map(() => 0);
  const controls = t.leading.map((n, axis) =>
    slider({
      label: t.axes[axis],
      min: 0,
      max: n - 1,
      value: 0,
      format: (i) => t.label(axis, i),
      oninput: (i) => {
        lead[axis] = i;
        onchange(lead);
      },
    }),
  );
  return {
    lead,
    elements: controls.map((c) => c.element),
    /** @param {number[]} to */
    set(to) {
      to.forEach((i, axis) => {
        lead[axis] = i;
        controls[axis].set(i);
      });
    },
  };
}
