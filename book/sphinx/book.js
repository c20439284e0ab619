"use strict";
// Code and what it prints are wider than the page here and
// there: such a line goes on below itself, deeper than it began.
function wrapLines(pre, shortest = 36) {
  const walker = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT);
  const nodes = [];
  let total = 0;
  while (walker.nextNode()) {
    nodes.push([walker.currentNode, total]);
    total += walker.currentNode.length;
  }
  const place = (at) => {
    const [node, start] = nodes.findLast(([, first]) => first <= at);
    return [node, at - start];
  };
  let end = total; // from the last line to the first: the text nodes before stay as they are
  for (const line of pre.textContent.split("\n").reverse()) {
    if (line.length > shortest) {
      const range = document.createRange();
      range.setStart(...place(end - line.length));
      range.setEnd(...place(end));
      const box = document.createElement("span");
      box.className = "long";
      box.style.setProperty("--indent", `${line.search(/\S|$/)}ch`);
      box.append(range.extractContents());
      range.insertNode(box);
    }
    end -= line.length + 1;
  }
  pre.classList.add("wrapped");
}
for (const pre of document.querySelectorAll("article :is(.highlight, .cell_output .output) pre")) {
  const columns = pre.textContent.split("\n").filter((line) => /\S {2,}\S/.test(line)).length;
  // a printed table keeps its columns, and scrolls
  if (columns < 2 || !pre.closest(".cell_output")) wrapLines(pre);
}
// On paper: what is wider is made smaller, where on the screen it
// scrolls; short code stays on one page; dark pages are printed light.
window.paper = 670; // the text's width on A4 in the screen's pixels
function fitToPaper() {
  const articles = document.querySelectorAll("article.bd-article, .chapter");
  const ours = ".ll-scroll, .ll-still, .ll-tree, .ll-live";
  const theirs = ".pst-scrollable-table-container, .text_html, mjx-container[display]";
  const boxes = document.querySelectorAll(`article :is(${ours}, ${theirs})`);
  boxes.forEach((box) => box.classList.remove("fit", "cut"));
  articles.forEach((article) => (article.style.width = `${window.paper}px`));
  const shares = [...boxes].map((box) => (box.clientWidth - 1) / box.scrollWidth);
  articles.forEach((article) => (article.style.width = ""));
  boxes.forEach((box, i) => {
    box.classList.toggle("fit", shares[i] < 0.995);
    // nobody could read it smaller: the rest stays outside of the paper
    box.classList.toggle("cut", shares[i] < 0.4);
    box.style.setProperty("--fit", Math.max(0.4, shares[i]));
  });
  for (const code of document.querySelectorAll("article pre")) {
    const box = code.closest(".cell_input") ?? code.closest(".highlight") ?? code;
    box.classList.toggle("whole", code.textContent.split("\n").length < 30);
  }
}
{
  let theme;
  window.addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    fitToPaper();
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = theme;
  });
}
// By keyboard: a drawer or the search that closes gives the
// focus back to its button, from which the theme takes it.
for (const [dialog, buttons] of Object.entries({
  "pst-primary-sidebar-modal": ".primary-toggle",
  "pst-secondary-sidebar-modal": ".secondary-toggle",
  "pst-search-dialog": ".search-button__button",
})) {
  document.getElementById(dialog)?.addEventListener("close", () => {
    [...document.querySelectorAll(buttons)].find((button) => button.checkVisibility())?.focus();
  });
}
