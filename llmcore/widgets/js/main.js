// Every widget by name, and the two ways in: a live kernel (render) and a page without one (bringToLife).
// A new widget is one file beside this one and one line in WIDGETS.
import { attention } from "./attention.js";
import { collective } from "./collective.js";
import { h } from "./dom.js";
import { matrix } from "./matrix.js";
import { memory } from "./memory.js";
import { operation } from "./operation.js";
import { pipeline } from "./pipeline.js";
import { planner } from "./planner.js";
import { position } from "./position.js";
import { race } from "./race.js";
import { sampling } from "./sampling.js";
import { surface } from "./surface.js";
import { tokenizer } from "./tokenizer.js";
import { trace } from "./trace.js";
import { training } from "./training.js";
import { vocabulary } from "./vocabulary.js";

/** @typedef {import("./dom.js").Link} Link */

/** @type {Record<string, (root: HTMLElement, state: any, link: Link) => void>} */
export const WIDGETS = {
  attention,
  collective,
  matrix,
  operation,
  pipeline,
  planner,
  position,
  race,
  sampling,
  surface,
  tokenizer,
  trace,
  training,
  vocabulary,
};

/**
 * Draw one widget. Where that fails, what stood there is put
 * back with one line that says so, and the other figures go on.
 * @param {HTMLElement} figure @param {() => void} draw
 */
function attempt(figure, draw) {
  const before = [...figure.childNodes];
  try {
    draw();
    figure.classList.add("ll-live");
  } catch (error) {
    console.error(error);
    const why = error instanceof Error ? error.message : String(error);
    figure.classList.remove("ll-live");
    figure.classList.add("ll-broken");
    figure.replaceChildren(
      ...before,
      h("p", { class: "ll-note", role: "status" }, `This figure cannot be drawn: ${why.slice(0, 200)}`),
    );
  }
}

/** The function that draws a kind. @param {string} kind */
function drawer(kind) {
  if (!Object.hasOwn(WIDGETS, kind)) throw new Error(`no widget is called ${kind}`);
  return WIDGETS[kind];
}

/**
 * anywidget's entry: the model's traits are the link.
 * @param {{model: any, el: HTMLElement}} view
 */
export function render({ model, el }) {
  const root = h("figure", { class: "llmcore ll-live" });
  el.append(root);
  const draw = () => {
    root.replaceChildren();
    const caption = model.get("caption");
    if (caption) root.append(h("figcaption", {}, caption));
    /** @type {Link} */
    const link = {
      get: (name) => model.get(name),
      set(name, value) {
        if (model.get(name) !== undefined && JSON.stringify(model.get(name)) !== JSON.stringify(value)) {
          model.set(name, value);
          model.save_changes();
        }
      },
      on: (name, listener) => model.on(`change:${name}`, listener),
    };
    attempt(root, () => drawer(model.get("kind"))(root, model.get("state"), link));
  };
  draw();
  model.on("change:state", draw);
}

/** Draw every figure of a page from the state that lies in it. @param {ParentNode} page */
export function bringToLife(page) {
  for (const root of page.querySelectorAll("figure.llmcore[data-widget]:not(.ll-live, .ll-broken)")) {
    const figure = /** @type {HTMLElement} */ (root);
    const data = figure.querySelector("script[type='application/json']");
    if (!data) continue;
    attempt(figure, () => {
      const { state, traits } = JSON.parse(data.textContent ?? "");
      figure.classList.add("ll-live"); // its style fixes the sizes that some widgets measure
      for (const still of figure.querySelectorAll(".ll-still")) still.remove();
      drawer(figure.dataset.widget ?? "")(figure, state, memory(traits));
    });
    if (figure.classList.contains("ll-live") && !performance.getEntriesByName("llmcore-alive").length)
      performance.mark("llmcore-alive"); // the first one can be used
  }
}
