// A link to nothing but this page: what a widget reads and writes where there is no kernel.

/** @param {Record<string, any>} [values] @returns {import("./dom.js").Link} */
export function memory(values = {}) {
  /** @type {Record<string, (() => void)[]>} */
  const listeners = {};
  return {
    get: (name) => values[name],
    set(name, value) {
      values[name] = value;
      for (const listener of listeners[name] ?? []) listener();
    },
    on: (name, listener) => void (listeners[name] ??= []).push(listener),
  };
}
