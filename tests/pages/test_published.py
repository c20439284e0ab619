"""All that a published book has besides its chapters.

A search that finds, descriptions and cards, alternatives of figures, a page for unknown addresses, a sitemap,
the list of changes, and the versions that built it.
"""

import contextlib
import functools
import http.server
import importlib.metadata
import re
import subprocess
import threading
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import quote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image

from book.address import ADDRESS, SITE, published

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
AXE = ROOT / "tests/js/node_modules/axe-core/axe.min.js"
# what a reader types, and the page that must be among the first three
ASKED = {
    "softmax": "2-2-2-output-layer", "AdamW": "2-3-1-gradient-descent", "RoPE": "1-2-embedding",
    "rotary": "1-2-embedding", "KV cache": "3-2-generation", "kv-cache": "3-2-generation",
    "BPE": "1-1-tokenization", "byte pair encoding": "1-1-tokenization", "tokenizer": "1-1-tokenization",
    "ZeRO": "2-4-3-sharding", "FSDP": "2-4-3-sharding", "DDP": "2-4-2-data-parallel",
    "perplexity": "2-2-2-output-layer", "cross-entropy": "2-2-2-output-layer",
    "LayerNorm": "2-2-1-2-2-residual-norm", "self-attention": "2-2-1-2-1-self-attention",
    "backprop": "2-3-2-backpropagation", "learning rate": "2-3-1-gradient-descent",
    "gradient checkpointing": "2-3-3-one-training-step", "induction heads": "3-3-real-weights",
    "errata": "appendix-changes",
    # the last stands in the text
    "注意力": "2-2-1-2-1-self-attention", "位置编码": "1-2-embedding", "世界": "1-1-tokenization",
    "n_kv_heads": "3-2-generation",  # in code
    "W_Q": "2-2-1-2-1-self-attention",  # in formulas
    "came back unchanged": "1-1-tokenization",  # printed by a cell
    "Rows 100 to 105 of the table": "1-2-embedding",  # a widget's caption
}  # fmt: skip


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def listed() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


@pytest.fixture(scope="module")
def site(html):
    """A server like GitHub Pages: the book in a folder of the host, 404.html for unknown addresses."""
    base = urlsplit(SITE).path

    class Pages(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked = urlsplit(self.path).path
            path = html / asked.removeprefix(base)
            there = asked.startswith(base) and path.is_file()
            data = (path if there else html / "404.html").read_bytes()
            self.send_response(200 if there else 404)
            self.send_header("Content-Type", self.guess_type(str(path)) if there else "text/html")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # a page that was left before all of it came
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}{base}"
        server.shutdown()


def found(page, address: str, words: str) -> list[str]:
    """The names of the pages that the search lists, in its order."""
    page.goto(f"{address}?q={quote(words)}")
    page.wait_for_function(
        "/finished|did not match/.test(document.querySelector('.search-summary')?.innerText ?? '')"
    )
    links = page.eval_on_selector_all("ul.search > li > a", "all => all.map(a => a.getAttribute('href'))")
    return list(dict.fromkeys(Path(urlsplit(link).path).stem for link in links))


def test_what_a_reader_types_is_found(browser, html):
    """From a file, where a page can read no other, results show the descriptions from the index."""
    page, errors = browser.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    wrong = {}
    for words, name in ASKED.items():
        first = found(page, (html / "search.html").as_uri(), words)[:3]
        if name not in first:
            wrong[words] = first
    assert wrong == {}
    said = page.locator("ul.search > li", has=page.locator("a[href*='1-2-embedding']")).first.inner_text()
    assert "a lookup that equals a matrix product" in said
    assert found(page, (html / "search.html").as_uri(), "zzqx") == []
    assert errors == []
    page.close()


def test_the_search_quotes_its_pages_where_there_is_a_server(browser, site):
    page = browser.new_page()
    page.goto(f"{site}chapters/1-2-embedding.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("perplexity")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=perplexity")
    page.wait_for_selector("ul.search li p.context")
    assert "perplexity" in page.locator("ul.search li").first.inner_text().lower()
    page.locator("ul.search li a").first.click()
    page.wait_for_url("**/chapters/2-2-2-output-layer.html*")
    page.close()


def test_every_page_has_one_description_and_one_card(html, pages):
    descriptions = {}
    for path in pages:
        head, name = soup(path).head, path.relative_to(html).with_suffix("").as_posix()
        if name == "index":  # leads to the first page and carries its tags
            name = "chapters/index"
        said = {}
        for key in ("og:title", "og:description", "og:url", "og:image", "og:image:alt", "og:site_name"):
            (said[key],) = [tag["content"] for tag in head.find_all("meta", property=key)]
        (text,) = [tag["content"] for tag in head.find_all("meta", attrs={"name": "description"})]
        (kind,) = [tag["content"] for tag in head.find_all("meta", attrs={"name": "twitter:card"})]
        assert kind == "summary_large_image"
        assert text == said["og:description"]
        assert 80 <= len(text) <= 160, (name, len(text))
        assert text[0].isupper()
        assert text[-1] == "."
        assert said["og:title"]
        assert said["og:url"] == f"{SITE}{name}.html"
        canonical = [tag["href"] for tag in head.find_all("link", rel="canonical")]
        assert canonical == [said["og:url"]]
        card = html / said["og:image"].removeprefix(SITE)
        assert card.stat().st_size < 40_000
        with Image.open(card) as image:
            assert (image.format, image.size) == ("PNG", (1200, 630))
        if path != html / "index.html":
            descriptions[name] = text
    assert len(set(descriptions.values())) == len(descriptions)
    for name in listed():
        notebook = ROOT / f"{name}.ipynb"
        if notebook.exists():
            assert (
                nbformat.read(notebook, as_version=4).metadata["myst"]["html_meta"]["description"]
                == descriptions[name]
            )


def meaningful(text: str | None, least: int) -> bool:
    """An alternative that says something: no address, no file's name, no hash."""
    return (
        bool(text)
        and len(text) >= least
        and not re.search(r"_images/|\.(png|svg|jpe?g)\b|[0-9a-f]{16}", text)
    )


def test_every_figure_has_an_alternative(pages):
    assert not meaningful(
        "../_images/f6f08fc454cca17cc70c2326cad524658d647b3da287500d4a69da6718c19e3b.png", 1
    )
    outputs = 0
    for path in pages:
        for image in soup(path).find_all("img"):
            of_output = image.find_parent(class_="cell_output") is not None
            outputs += of_output
            assert meaningful(image.get("alt"), 20 if of_output else 5), f"{path.name}: {image}"
        for figure in soup(path).select("figure.llmcore"):
            name = figure.get("aria-label") or (figure.figcaption or figure).get_text(" ").strip()
            assert meaningful(name, 5), f"{path.name}: {str(figure)[:200]}"
        for drawing in soup(path).find_all("svg"):
            name = drawing.get("aria-label") or (drawing.title and drawing.title.get_text())
            hidden = drawing.get("aria-hidden") == "true"
            assert hidden or meaningful(name, 5), f"{path.name}: {str(drawing)[:200]}"
    stored = sum(
        kind.startswith("image/")
        for path in (ROOT / "chapters").glob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    )
    assert outputs == stored  # every stored picture is on a page


@pytest.mark.parametrize("address", ["nothing.html", "chapters/a/b/c/nothing.html?x=1"])
def test_an_unknown_address_leads_back(browser, site, address):
    """At any depth the page has the book's style, and its links and search lead into the book."""
    page, missing = browser.new_page(viewport={"width": 360, "height": 740}), []
    page.on("response", lambda r: missing.append(r.url) if r.status >= 400 else None)
    page.on("pageerror", lambda error: missing.append(str(error)))
    response = page.goto(site + address)
    assert response.status == 404
    assert missing == [site + address]  # and nothing that it loads
    assert page.locator("h1:visible").inner_text() == "There is no page here"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.bd-main')).display") == "flex"
    )  # the style sheets have come
    links = page.eval_on_selector_all("#unknown li a", "all => all.map(a => a.href)")
    assert links == [f"{site}{name}.html" for name in listed()]
    page.get_by_label("Search this book", exact=True).fill("softmax")
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.search li a")
    page.goto(site + address)
    page.locator("#unknown li a", has_text="1.2 Token embedding").click()
    page.wait_for_url("**/chapters/1-2-embedding.html")
    page.close()


def test_the_site_map_lists_every_page_once(html):
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    tree = ElementTree.parse(html / "sitemap.xml").getroot()
    assert tree.tag == f"{space}urlset"
    assert [e.text for e in tree.iter(f"{space}loc")] == [f"{SITE}{name}.html" for name in listed()]
    lines = (html / "robots.txt").read_text().splitlines()
    assert f"Sitemap: {SITE}sitemap.xml" in lines
    assert "Disallow" not in " ".join(lines)


def test_the_sites_address_follows_from_the_repositorys():
    assert PROJECT["urls"]["Documentation"] == SITE == published(ADDRESS)
    assert yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"] == SITE
    assert published("https://github.com/Ann/A-Book.git") == "https://ann.github.io/A-Book/"


def test_changes_and_versions_are_those_of_this_book(html):
    """The page names this version with its date, lists what was corrected, and shows what is installed."""
    page = soup(html / "chapters/appendix-changes.html")
    date = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["date-released"]
    assert f"{PROJECT['version']}, {date}" in [h.get_text().rstrip("#") for h in page.find_all("h3")]
    tables = [
        [[c.get_text(" ").strip() for c in row.find_all(["td", "th"])] for row in t.find_all("tr")]
        for t in page.find_all("table")
    ]
    corrected, _, versions = tables
    assert corrected[0] == ["chapter", "it said", "it says"]
    assert len(corrected) >= 14
    assert all(all(row) for row in corrected)
    shown = {row[0]: row[1] for row in versions[1:]}
    for name in ("llmcore", "torch", "numpy", "jupyter-book", "Sphinx", "matplotlib", "anywidget"):
        assert shown[name] == importlib.metadata.version(name)
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert ("commit" in shown) == (head.returncode == 0)
    if head.returncode == 0:
        assert head.stdout.startswith(shown["commit"].split(",")[0])


def test_each_foot_names_the_version(html):
    for name in listed():
        foot = soup(html / f"{name}.html").select_one(".bd-footer-content .version")
        assert PROJECT["version"] in foot.get_text()
        assert foot.a["href"].endswith("appendix-changes.html") or (
            name.endswith("changes") and foot.a["href"] == "#"
        )


@pytest.mark.parametrize("name", ["404", "search", "chapters/appendix-changes"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_pages_around_the_chapters(browser, site, name, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(f"{site}{name}.html?q=softmax", wait_until="load")
    page.add_script_tag(path=AXE)
    result = page.evaluate(
        "axe.run({include: ['main'], exclude: ['.bd-header-article']}, {resultTypes: ['violations']})"
    )
    assert [
        (v["id"], v["nodes"][0]["html"][:160])
        for v in result["violations"]
        if v["impact"] in ("serious", "critical")
    ] == []
    page.close()
