"""The book's search: Chinese words, the words that learners type, and the page first that says most of what
was asked.

Sphinx's index knows which pages hold a word. This adds how often; it counts a page's keywords (in its
metadata, myst: html_meta: keywords) as words of the page; and it cuts Chinese, which has no spaces, into
single signs and pairs, in the text and in the query.
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

PAGES = {}  # of this build, by name: how often each word stands there, the description, the keywords
HAN = "\u3400-\u9fff"
RUN = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")
TAG = re.compile(r"<[^>]+>")
UNREAD = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
KEYWORD = 10  # a keyword counts as a word that stands there so often more
# the same cut as in Search.split, of what is typed
SPLIT = """
var splitQuery = (query) =>
  [...query.matchAll(/[\\u3400-\\u9fff]+|[\\p{Letter}\\p{Number}_\\p{Emoji_Presentation}]+/gu)].flatMap(([run]) =>
    !/[\\u3400-\\u9fff]/.test(run) || run.length < 3 ? [run] : [...run].slice(1).map((sign, i) => run[i] + sign));
"""
# appended to the index: to Sphinx's points for a page (15 for a word of a title, 5 for one of its text), up
# to 10 are added for how often it says what is asked, and 20 where the question is one of its keywords; a
# page that is read from a file cannot fetch the others to quote them, so it shows their descriptions
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
    const whole = own(named, asked.toLowerCase().split(/[\\s-]+/).join(" ").trim(), []).includes(page) ? 20 : 0;
    return points + whole + 10 * shares.reduce((sum, row) => sum + (row[page] ?? 0), 0) / Math.max(1, shares.length);
  };
}
"""


class Search(SearchEnglish):
    """English, and Chinese by signs and pairs of signs."""

    js_splitter_code = SPLIT

    def split(self, input):
        """
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
    """A page's words, as Sphinx collects them, but for raw HTML: there Sphinx takes out the tags, and two
    cells become one word.
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
    """How often each word, cut to its stem as the page's script does it, stands on the page."""
    if doctree is None or app.builder.format != "html":
        return
    lang = app.builder.indexer.lang
    stem = functools.cache(lambda word: lang.stem(word).lower())
    stems = lambda words: [
        w for w in map(stem, words) if lang.word_filter(w) and not w.isdecimal()
    ]  # a number is not looked for
    found = Words(doctree, lang)
    doctree.walk(found)
    words = Counter(stems([*found.found_words, *found.found_title_words]))
    keywords = [n["content"] for n in doctree.findall(nodes.meta) if n.get("name") == "keywords"]
    words.update(dict.fromkeys(stems(lang.split(" ".join(keywords))), KEYWORD))
    whole = [" ".join(re.split(r"[\s-]+", k.strip().lower())) for k in ",".join(keywords).split(",")]
    PAGES[page] = words, described(doctree, page), whole


def write(app, exception):
    """Replace the index's words by these, and put how often a page says them behind it."""
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
    index["terms"] = {
        word: [page for page, _ in row] if len(row) > 1 else row[0][0] for word, row in rows.items()
    }
    times = {
        word: [n for _, n in row] for word, row in rows.items() if len(row) > 1
    }  # a word of one page needs no ranking
    said = {page: text for page, (_, text, _) in PAGES.items()}
    named = {}
    for page, (*_, keywords) in PAGES.items():
        for keyword in filter(None, keywords):
            named.setdefault(keyword, []).append(page)
    compact = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    text = f"{js_index.PREFIX}{compact(index)}{js_index.SUFFIX};{SCORE % (compact(times), compact(named), compact(said))}"
    path.write_text(text, encoding="utf-8")
