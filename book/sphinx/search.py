"""The book's search: Chinese words, the words that learners type, and the most relevant page first.

Sphinx's index knows which pages contain a word. This adds how often; it counts a page's keywords (in its
metadata, myst: html_meta: keywords) as words of the page; and it cuts Chinese, which has no spaces, into
single characters and pairs, both in the text and in the query.
"""

import functools
import html
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

from docutils import nodes
from sphinx.search import SearchEnglish, WordCollector, js_index

from book.sphinx.pages import described

PAGES = {}  # filled during a build: a page's name -> the count of each word, the description, the keywords
HAN = "\u3400-\u9fff"
RUN = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")
TAG = re.compile(r"<[^>]+>")
UNREAD = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
KEYWORD = 10  # occurrences that a keyword adds to the count of each of its words
# cuts the query as Search.split cuts the text; of a Chinese run only pairs are looked for
SPLIT = """
var splitQuery = (query) =>
  [
    ...query.matchAll(/[\\u3400-\\u9fff]+|[\\p{Letter}\\p{Number}_\\p{Emoji_Presentation}]+/gu),
  ].flatMap(([run]) =>
    !/[\\u3400-\\u9fff]/.test(run) || run.length < 3
      ? [run]
      : [...run].slice(1).map((sign, i) => run[i] + sign));
"""
# Appended to the index. Sphinx gives a page 15 points for a word of a title and 5 for one of the text. Up to
# 10 are added for how often the page contains what is asked, and 20 if the query is one of its keywords. A
# page read from a file cannot fetch the other pages to quote them, so it shows their descriptions.
SCORE = """
{
  const times = %s, named = %s, said = %s, asked = new URLSearchParams(location.search).get("q") ?? "";
  const own = (table, key, otherwise) => (Object.hasOwn(table, key) ? table[key] : otherwise);
  let shares;
  const share = (word) => {
    const counts = own(times, word, [1]), most = Math.log1p(Math.max(...counts));
    const pages = [own(Search._index.terms, word, [])].flat().map((page) => Search._index.docnames[page]);
    return Object.fromEntries(pages.map((page, i) => [page, Math.log1p(counts[i]) / most]));
  };
  Scorer.score = (result) => {
    shares ??= [...Search._parseQuery(asked)[1]].map(share);
    const [page, , , , points] = result;
    if (location.protocol === "file:") result[3] ??= said[page] ?? "";
    const query = asked.toLowerCase().split(/[\\s-]+/).join(" ").trim();
    const whole = own(named, query, []).includes(page) ? 20 : 0;
    const total = shares.reduce((sum, row) => sum + (row[page] ?? 0), 0);
    return points + whole + 10 * total / Math.max(1, shares.length);
  };
}
"""


class Search(SearchEnglish):
    """English by words, and Chinese by characters and pairs of characters."""

    js_splitter_code = SPLIT

    def split(self, input):
        """The words of a text that go into the index.

        >>> Search({}).split("KV-cache of n_heads, 词元表: 表")
        ['KV', 'cache', 'of', 'n_heads', '词', '元', '表', '词元', '元表', '表']
        """
        out = []
        for run in RUN.findall(input):
            if "\u3400" <= run[0] <= "\u9fff":
                out += [*run, *(run[i : i + 2] for i in range(len(run) - 1))] if len(run) > 1 else [run]
            else:
                out.append(run)
        return out


class Words(WordCollector):
    """A page's words as Sphinx collects them, except in raw HTML.

    There Sphinx deletes the tags, so that the words of two adjacent cells would become one.
    """

    def dispatch_visit(self, node):
        if isinstance(node, nodes.raw):
            text = html.unescape(TAG.sub(" ", UNREAD.sub(" ", node.astext())))
            self.found_words += self.lang.split(text)
            raise nodes.SkipNode
        if isinstance(node, nodes.meta):
            return
        super().dispatch_visit(node)


def setup(app):
    app.add_search_language(Search)
    app.connect("html-page-context", count)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}


def count(app, page, template, context, doctree):
    """Count how often each word stands on the page, cut to its stem as the page's script does it."""
    if doctree is None or app.builder.format != "html":
        return
    lang = app.builder.indexer.lang
    stem = functools.cache(lambda word: lang.stem(word).lower())
    stems = lambda words: [w for w in map(stem, words) if lang.word_filter(w) and not w.isdecimal()]
    found = Words(doctree, lang)
    doctree.walk(found)
    words = Counter(stems([*found.found_words, *found.found_title_words]))
    keywords = [n["content"] for n in doctree.findall(nodes.meta) if n.get("name") == "keywords"]
    words.update(dict.fromkeys(stems(lang.split(" ".join(keywords))), KEYWORD))
    whole = [" ".join(re.split(r"[\s-]+", k.strip().lower())) for k in ",".join(keywords).split(",")]
    PAGES[page] = words, described(doctree, page), whole


def write(app, exception):
    """Replace the words of the index by the counted ones, and append the counts and the score."""
    if exception is not None or app.builder.format != "html":
        return
    path = Path(app.outdir) / "searchindex.js"
    index = js_index.loads(path.read_text(encoding="utf-8"))
    rows = {}
    for page, (words, *_) in PAGES.items():
        for word, times in words.items():
            rows.setdefault(word, {})[page] = times
    number = {page: i for i, page in enumerate(index["docnames"])}
    rows = {word: sorted((number[page], times) for page, times in row.items()) for word, row in rows.items()}
    index["terms"] = {}
    for word, row in rows.items():
        pages = [page for page, _ in row]
        index["terms"][word] = pages if len(pages) > 1 else pages[0]
    # a word of one page needs no ranking
    times = {word: [n for _, n in row] for word, row in rows.items() if len(row) > 1}
    said = {page: text for page, (_, text, _) in PAGES.items()}
    named = {}
    for page, (*_, keywords) in PAGES.items():
        for keyword in filter(None, keywords):
            named.setdefault(keyword, []).append(page)
    compact = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    score = SCORE % (compact(times), compact(named), compact(said))
    text = f"{js_index.PREFIX}{compact(index)}{js_index.SUFFIX};{score}"
    path.write_text(text, encoding="utf-8")
