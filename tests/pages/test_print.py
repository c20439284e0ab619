"""On paper: a page as the browser prints it, and the PDF of the whole book, here of two chapters."""

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pypdf
import pytest
from bs4 import BeautifulSoup

from book.pdf import PAPER, starts

ROOT = Path(__file__).resolve().parents[2]
PDF = [sys.executable, "-m", "book", "pdf"]
CHAPTERS = ["1-2-embedding", "2-1-concepts"]  # widgets, formulas, figures; the second links to the first


@pytest.fixture(scope="module")
def path(html, browser, tmp_path_factory) -> Path:  # browser: skips where there is none
    out = tmp_path_factory.mktemp("pdf") / "two.pdf"
    done = subprocess.run(
        [*PDF, "--html", html, "--out", out, *CHAPTERS], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pdf(path):
    return pypdf.PdfReader(path)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))  # ffi is one sign on paper


def headings(pdf, items=None) -> list[tuple[str, int]]:
    """The outline: each heading and its page."""
    out = []
    for item in pdf.outline if items is None else items:
        out += (
            headings(pdf, item)
            if isinstance(item, list)
            else [(item.title, pdf.get_destination_page_number(item) + 1)]
        )
    return out


def test_every_page_is_of_the_paper_and_has_its_number(pdf):
    assert 18 <= len(pdf.pages) <= 36
    for number, page in enumerate(pdf.pages, 1):
        size = [float(side) / 72 * 25.4 for side in (page.mediabox.width, page.mediabox.height)]
        assert size == pytest.approx(PAPER, abs=0.5)
        if number > 1:
            assert str(number) in page.extract_text().split(), f"page {number} does not say so"


def test_outline_contents_and_pages_agree(pdf, html):
    """Every heading is in the outline, and on the page that the outline and the contents name."""
    outline = headings(pdf)
    wanted = []
    for name in CHAPTERS:
        article = BeautifulSoup(
            (html / f"chapters/{name}.html").read_text(encoding="utf-8"), "html.parser"
        ).article
        wanted += [h.get_text().rstrip("#").strip() for h in article.find_all(["h1", "h2", "h3"])]
    assert [title for title, _ in outline] == wanted
    contents = squeezed(pdf.pages[1].extract_text())
    for title, number in outline:
        assert squeezed(title) in squeezed(pdf.pages[number - 1].extract_text()), (
            f"{title} is not on page {number}"
        )
        assert f"{squeezed(title)}{number}" in contents


def test_links_between_chapters_stay_inside(path, pdf):
    places = starts(path)
    inside, outside = [], []
    for page in pdf.pages[2:]:
        for link in (a.get_object() for a in page.get("/Annots", [])):
            action = link.get("/A", {})
            (outside if "/URI" in action else inside).append(
                action.get("/URI") or str(link.get("/Dest") or action.get("/D")).lstrip("/")
            )
    assert "1-2-embedding" in inside
    assert all(target in places for target in inside)
    assert not [uri for uri in outside if uri.startswith("file:")]
    assert [uri for uri in outside if "/chapters/2-1-concepts.html#exercises" in uri], (
        "a hidden answer is one link away"
    )


def test_formulas_text_and_figures_are_there(pdf):
    text = "\n".join(page.extract_text() for page in pdf.pages)
    fonts = [font.get_object() for page in pdf.pages for font in page["/Resources"].get("/Font", {}).values()]
    names = {str(font["/FontDescriptor"]["/FontName"]) for font in fonts if "/FontDescriptor" in font}
    assert any("MathJax_Math-Italic" in name for name in names), names
    assert sum(len(page.images) for page in pdf.pages[2:]) >= 3
    assert "Rows 100 to 105 of the table" in text  # a widget's caption
    assert "google.colab" not in text
    assert pdf.trailer["/Root"]["/MarkInfo"]["/Marked"]  # its text has tags for a screen reader
    assert str(pdf.trailer["/Root"]["/Lang"]) == "en"


def test_what_cannot_be_printed_is_named(html, tmp_path):
    def run(folder, *names):
        command = [*PDF, "--html", folder, "--out", tmp_path / "x.pdf", *names]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert run("nowhere").stdout.strip() == "nowhere holds no built book: run make book first"
    done = run(html, "1-2-embeding")
    assert done.returncode == 2
    assert done.stdout.startswith(
        "['1-2-embeding'] are no chapters of this book: name some of ['index', '0-0-one-pass'"
    )
    assert not list(tmp_path.iterdir())


# the elements that are wider than their box on a page made ready for paper: cut off, or beyond the margin
CUT = """() => {
  const edge = document.querySelector("article.bd-article").getBoundingClientRect().right + 2;
  return [...document.querySelectorAll("article *")].filter((e) => {
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (e.closest("mjx-assistive-mml, .ll-hidden, [hidden], .cut, th")) return false;
    if (e.parentElement.closest("svg, mjx-math")) return false;
    const scrolls = style.overflowX !== "visible" && style.display !== "inline";
    const clips = scrolls && style.textOverflow !== "ellipsis";
    return box.width > 0 && (box.right > edge || (clips && e.scrollWidth > e.clientWidth * 1.02 + 2));
  }).map((e) => {
    const text = e.textContent.slice(0, 60);
    return `${e.tagName}.${e.className} ${e.scrollWidth}/${e.clientWidth}: ${text}`;
  });
}"""


WIDEST = [
    "2-1-concepts", "2-2-training-process", "2-4-6-putting-it-together", "3-1-train-a-language-model",
    "3-3-real-weights", "appendix-notation", "appendix-checked",
]  # fmt: skip


@pytest.mark.parametrize("name", WIDEST)
def test_a_page_printed_from_the_browser_loses_nothing(browser, html, name):
    """The widest pages of the book, from a dark window, with their widgets alive."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    page.goto((html / f"chapters/{name}.html").as_uri(), wait_until="load")
    if page.locator(".math").count():
        page.wait_for_selector("mjx-container", state="attached")
    page.evaluate("localStorage.clear(); window.dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": 670, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 672
    assert (
        page.locator(".cut").count() <= 2
    )  # matrices of the whole vocabulary: no one could read them if they were made to fit
    shown = page.locator(
        ".bd-header-article, .bd-sidebar-primary, .headerlink, .copybtn, #pst-back-to-top, .prev-next-footer"
    )
    assert [e for e in shown.all() if e.is_visible()] == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.close()
