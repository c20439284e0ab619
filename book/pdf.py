"""One PDF of the built book, printed by Chromium: title page, contents with page numbers, every chapter.

python -m book pdf [--html FOLDER] [--out FILE] [CHAPTER ...]

FOLDER is what build has made; without chapters, all are printed. The pages are first joined into one, so that
a link between chapters stays inside the PDF, the outline is the book's, and the text keeps its tags for
screen readers. It is printed twice, because only the first print tells on which page each section begins.
"""

import html
import importlib.metadata
import logging
import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pypdf
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

from tools.browser import ARGUMENTS, find, missing_fonts

SCALE = 0.8  # of the sizes on a screen: the text has 10 points
PAPER = (210, 297)  # mm, A4
LEFT, TOP, BOTTOM = 15, 15, 18  # mm; right as left
WIDTH = round((PAPER[0] - 2 * LEFT) / 25.4 * 96 / SCALE)  # of the text, in the screen's pixels
POINTING = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "aria-owns", "headers")
PRINT = {
    "prefer_css_page_size": True,
    "print_background": True,
    "scale": SCALE,
    "outline": True,
    "tagged": True,
}
STYLE = f"""
@page {{ size: {PAPER[0]}mm {PAPER[1]}mm; margin: {TOP}mm {LEFT}mm {BOTTOM}mm; }}
@page {{ @bottom-center {{ content: counter(page); font: 9pt sans-serif; }} }}
@page cover {{ @bottom-center {{ content: none; }} }}
html {{ font-size: 16px; }}
body {{ background: white; }}
.cover {{ page: cover; height: 60vh; padding-top: 30vh; text-align: center; }}
.cover img {{ width: 96px; }}
.cover .name, .leaves .name {{ font-size: 2em; }}
.leaves, .chapter {{ break-before: page; }}
.leaves ol {{ list-style: none; padding: 0; margin: 0; }}
.leaves ol ol {{ padding-left: 2em; font-size: 0.9em; }}
.leaves a {{ display: flex; gap: 0.5em; color: inherit; }}
.leaves a::before {{ content: ""; order: 1; flex: 1; border-bottom: 1px dotted #999; margin-bottom: 0.4em; }}
.leaves a span {{ order: 2; }}
.leaves > ol > li {{ margin-top: 0.35em; font-weight: 600; }}
.leaves ol ol li {{ font-weight: 400; }}
.chapter h1 {{ display: block !important; margin-top: 0; }}
.elsewhere {{ font-style: italic; }}
"""
MATHJAX = """{"options": {
  "processHtmlClass": "tex2jax_process|mathjax_process|math|output_area", "enableMenu": false
}}"""
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head>
<meta charset="utf-8"><title>{title}</title>
{styles}
<style>{style}</style>
<script>window.MathJax = {mathjax}</script>
<script defer src="{static}/mathjax/tex-chtml.js"></script>
<script defer src="{static}/llmcore-book.js"></script>
</head>
<body>
<div class="cover"><img alt="" src="{static}/logo.svg"><p class="name">{title}</p><p>{said}</p>
<p>Version {version} · <a href="{site}">{site}</a></p></div>
<nav class="leaves"><p class="name">Contents</p><ol>{contents}</ol></nav>
<main class="bd-main"><div class="bd-content"><div class="bd-article-container">
<div class="bd-article">{chapters}</div>
</div></div></main>
</body>
</html>
"""


def soup(path: Path) -> BeautifulSoup:
    """A page, parsed."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def pages(folder: Path) -> list[str]:
    """The chapters' names in the book's order."""
    sitemap = (folder / "sitemap.xml").read_text(encoding="utf-8")
    return re.findall(r"/chapters/([^<>/]+)\.html</loc>", sitemap)


def chapter(folder: Path, name: str, among: set[str], site: str) -> BeautifulSoup:
    """The article of a page, with ids that are unique in the book and links that work from the PDF."""
    path = folder / f"chapters/{name}.html"
    article = soup(path).select_one("article.bd-article")
    for element in article.select("script, .headerlink"):
        element.decompose()
    for hidden in article.select("details"):  # paper cannot be unfolded: say where to find it
        if "google.colab" in hidden.get_text():
            hidden.decompose()
            continue
        is_answer = "tag_hide-cell" in hidden.find_parent("div", class_="cell")["class"]
        what = "worked answer" if is_answer else "code of this cell"
        link = f"{site}chapters/{name}.html#{hidden.find_parent('section')['id']}"
        note = f'<p class="elsewhere"><a href="{link}">The {what} is on the page.</a></p>'
        hidden.replace_with(BeautifulSoup(note, "html.parser"))
    for element in article.find_all(True):
        if element.get("id"):
            element["id"] = f"{name}--{element['id']}"
        for attribute in POINTING:
            if values := element.get(attribute):
                values = values if isinstance(values, list) else values.split()
                element[attribute] = " ".join(f"{name}--{value}" for value in values)
        if element.get("src"):
            element["src"] = (path.parent / unquote(urlsplit(element["src"]).path)).resolve().as_uri()
        if element.name == "a" and element.get("href"):
            element["href"] = leads(element["href"], name, among, site)
    return article


def leads(href: str, name: str, among: set[str], site: str) -> str:
    """The target in the PDF of a link in chapter `name`: in the PDF, the published book or another site.

    >>> links = ("#s", "b.html", "b.html#t", "c.html#u", "https://y.org/")
    >>> [leads(link, "a", {"a", "b"}, "https://x.io/") for link in links]
    ['#a--s', '#b', '#b--t', 'https://x.io/chapters/c.html#u', 'https://y.org/']
    """
    parts = urlsplit(href)
    target = name if not parts.path else parts.path.removesuffix(".html")
    if parts.scheme or target not in among:
        return urljoin(f"{site}chapters/{name}.html", href)
    return f"#{target}--{unquote(parts.fragment)}" if parts.fragment else f"#{target}"


def entry(target: str, text: str) -> str:
    """A line of the contents; the page number is filled in after the first print."""
    return f'<a href="#{target}">{html.escape(text.strip())}<span data-page="{target}">0</span></a>'


def combined(folder: Path, names: list[str]) -> str:
    """The one page that is printed: all chapters with title page and contents."""
    home, first = soup(folder / "chapters/index.html"), soup(folder / f"chapters/{names[0]}.html")
    site = home.find("link", rel="canonical")["href"].rsplit("chapters/", 1)[0]
    title, said = (
        html.escape(home.find("meta", property=f"og:{key}")["content"]) for key in ("title", "description")
    )
    base = (folder / "chapters/x").as_uri()
    sheets = [urljoin(base, link["href"]) for link in first.select("link[rel=stylesheet]")]
    sheets.append((folder / "_static/llmcore-widgets.css").as_uri())
    heads, contents, chapters = [], [], []
    for i, name in enumerate(names):
        article = chapter(folder, name, set(names), site)
        heading = article.find("h1").get_text().strip()
        sections = [s for s in article.find_all("section") if s.find("h2", recursive=False)]
        inner = "".join(f"<li>{entry(s['id'], s.find('h2').get_text())}</li>" for s in sections)
        contents.append(f"<li>{entry(name, heading)}<ol>{inner}</ol></li>")
        quoted = heading.replace("\\", "").replace('"', "'")
        line = f'content: "{quoted}"; font: 8pt sans-serif; color: #555;'
        heads.append(f"@page p{i} {{ @top-left {{ {line} }} }}")
        chapters.append(f'<div class="chapter" style="page: p{i}" id="{name}">{article}</div>')
    return PAGE.format(
        title=title,
        said=said,
        site=site,
        version=importlib.metadata.version("llmcore"),
        static=(folder / "_static").as_uri(),
        mathjax=MATHJAX,
        style=STYLE + "\n".join(heads),
        styles="\n".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets),
        contents="".join(contents),
        chapters="".join(chapters),
    )


def printed(folder: Path, out: Path, names: list[str]) -> Path:
    """Print those chapters, or all where none is named. folder: the built book's html.

    Raises ValueError where there is no book, no such chapter or no browser.
    """
    if not (folder / "sitemap.xml").is_file():
        raise ValueError(f"{folder} holds no built book: run make book first")
    unknown = sorted(set(names) - set(pages(folder)))
    if unknown:
        raise ValueError(f"{unknown} are no chapters of this book: name some of {pages(folder)}")
    executable = find()
    if executable is None:
        raise ValueError("there is no Chromium on this machine: install one, or run python -m tools.browser")
    out.parent.mkdir(parents=True, exist_ok=True)
    source = out.with_suffix(".html")
    source.write_text(combined(folder.resolve(), names or pages(folder)), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.set_default_timeout(600_000)
        page.goto(source.resolve().as_uri(), wait_until="load", timeout=600_000)
        page.evaluate("MathJax.startup.promise")
        page.evaluate("document.fonts.ready")
        page.evaluate(f"window.paper = {WIDTH}; fitToPaper()")
        page.emulate_media(media="print")
        wide = page.evaluate("document.documentElement.scrollWidth")
        page.emulate_media(media="null")  # fitToPaper measures, before each print, where the screen scrolls
        assert wide <= WIDTH + 2, f"something is {wide} px wide on a paper of {WIDTH}"
        page.pdf(path=out, **PRINT)
        entries = "document.querySelectorAll('[data-page]')"
        page.evaluate(f"at => {entries}.forEach(e => e.textContent = at[e.dataset.page])", starts(out))
        page.pdf(path=out, **PRINT)
        say = r"all => all.map(h => h.textContent.replace(/\s+/g, ' ').trim())"
        headings = page.eval_on_selector_all("h1, h2, h3, h4", say)
        browser.close()
    source.unlink()
    name_outline(out, headings)
    return out


def name_outline(path: Path, headings: list[str]) -> None:
    """Give the outline's entries the headings' own words.

    Chromium repeats the words of a heading that it moved to the next page, joins broken lines, and leaves
    formulas out.
    """
    writer = pypdf.PdfWriter(clone_from=path)
    flat = lambda items: [one for item in items for one in (flat(item) if isinstance(item, list) else [item])]
    entries = flat(writer.outline)
    assert len(entries) == len(headings), (len(entries), len(headings))
    for one, heading in zip(entries, headings, strict=True):
        one.node.get_object()[pypdf.generic.NameObject("/Title")] = pypdf.generic.TextStringObject(heading)
    writer.write(path)


def starts(path: Path) -> dict[str, int]:
    """The page, counted from 1, on which each target of a link stands."""
    reader = pypdf.PdfReader(path)
    return {
        name.lstrip("/"): reader.get_destination_page_number(place) + 1
        for name, place in reader.named_destinations.items()
    }


def main(html: Path, out: Path, names: list[str]) -> int:
    # pypdf warns about a wrong count in Chromium's file, and itself writes the right one
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        made = printed(html, out, names)
    except ValueError as error:
        print(error)
        return 2
    for what, package in missing_fonts():
        print(f"no font here has {what}: they are printed as empty boxes; install one, such as {package}")
    print(f"{made}: {len(pypdf.PdfReader(made).pages)} pages, {made.stat().st_size / 1e6:.1f} MB")
    return 0
