// One small box that follows the cell under the pointer or the
// cursor. What it says is also said by the widget's live line.
import { h } from "./dom.js";

/** @param {HTMLElement} root the widget's figure, which is positioned */
export function tooltip(root) {
  const box = h("div", { class: "ll-tooltip", "aria-hidden": "true", hidden: true });
  root.append(box);
  return {
    /** @param {Element} target @param {string} text */
    show(target, text) {
      const a = target.getBoundingClientRect();
      const b = root.getBoundingClientRect();
      box.textContent = text;
      box.hidden = false;
      const left = a.left - b.left + a.width / 2 - box.offsetWidth / 2;
      box.style.left = `${Math.max(0, Math.min(left, b.width - box.offsetWidth))}px`;
      const above = a.top - b.top - box.offsetHeight - 6;
      box.style.top = `${above < 0 ? a.bottom - b.top + 6 : above}px`;
    },
    hide() {
      box.hidden = true;
    },
  };
}
