"""Makes the pages smaller and independent of other hosts, by taking out of the theme what no page uses.

The kB below are what a reader saves on a first visit, compressed as a server sends them. Each step finds its
text in the theme's files or stops the build: that a new version of the theme has another form is noticed when
the book is built, not by a reader.
"""

import re
from pathlib import Path

from PIL import Image
from sphinx.errors import ExtensionError

# Style and script of cards and tabs, which no chapter uses: 10 kB.
UNUSED = ("sphinx-design.min.css", "design-tabs.js")
# The search's index and scripts. The theme loads them on every page, but only the search page runs a search:
# 65 kB.
SEARCH = re.compile(
    r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"[^>]*></script>'
)
# One icon in Font Awesome's script, "name":[width,height,[aliases],"code","path"] and the comma after it. The
# script defines 2,000 icons and the pages show about 15: 520 kB. book.css stops the same icons from being
# loaded a second time, as a font.
ICON = re.compile(r'(?:"([\w-]+)"|([a-z]\w*)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
# Icons that the theme's script inserts while the page is shown, so that no page's HTML names them.
DRAWN_LATER = {"sun", "moon", "circle-half-stroke", "lightbulb"}
# Classes fa-... that choose a style or a size of an icon and name none.
NO_ICON = {"solid", "regular", "brands", "lg", "fw", "sm", "xs"}
# Colours of a figure's palette, which look the same as all of them: a quarter of the bytes, 95 kB on a page
# with many figures.
COLOURS = 128


def setup(app):
    app.connect("config-inited", remove_thebe, priority=1)
    app.connect("html-page-context", drop, priority=900)
    app.connect("build-finished", thin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def must(found, what: str) -> None:
    """Stop the build if a step did not find in the theme what it is for."""
    if not found:
        raise ExtensionError(
            f"the theme has changed: {what} is not there any more; look at book/sphinx/theme.py"
        )


def remove_thebe(app, config):
    """Disconnect sphinx-thebe, which Jupyter Book always loads: its script asks another host on every page.

    Readers run the chapters in Colab or on their own machines, not through Thebe.
    """
    ours = lambda listener: not getattr(listener.handler, "__module__", "").startswith("sphinx_thebe")
    before = sum(map(len, app.events.listeners.values()))
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = list(filter(ours, listeners))
    must(sum(map(len, app.events.listeners.values())) < before, "sphinx-thebe")
    kept = [file for file in app.registry.css_files if file[0] != "sphinx-thebe.css"]
    app.registry.css_files = kept


def drop(app, page, template, context, doctree):
    """Take UNUSED out of a page's styles and scripts."""
    is_used = lambda file: not str(getattr(file, "filename", file)).endswith(UNUSED)
    for kind in ("css_files", "script_files"):
        context[kind] = list(filter(is_used, context[kind]))


def thin(app, exception):
    """Make the files of the built book smaller."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    without_search(out)
    without_unused_icons(out)
    for figure in out.glob("_images/*.png"):
        with Image.open(figure) as image:
            image.convert("RGBA").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(figure, optimize=True)


def without_search(out: Path) -> None:
    """Take the search's scripts out of every page but the search page."""
    pages = [page for page in out.rglob("*.html") if page.name != "search.html"]
    removed = 0
    for page in pages:
        text, count = SEARCH.subn("", page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
        removed += count
    must(removed, "the search's scripts on every page")


def without_unused_icons(out: Path) -> None:
    """Delete from Font Awesome's script the icons that no page names."""
    pages = "".join(page.read_text(encoding="utf-8") for page in out.rglob("*.html"))
    named = set(re.findall(r"\bfa-([\w-]+)", " ".join(re.findall(r'class="([^"]*)"', pages))))
    used = (DRAWN_LATER | named) - NO_ICON
    script = out / "_static/scripts/fontawesome.js"
    must(script.exists(), "Font Awesome's script")
    whole, found = script.read_text(encoding="utf-8"), set()

    def if_used(match: re.Match) -> str:
        names = {match[1] or match[2], *re.findall(r'"([\w-]+)"', match[3])} & used
        found.update(names)
        return match[0] if names else ""

    script.write_text(ICON.sub(if_used, whole), encoding="utf-8")
    must(found >= used, f"the icon {', '.join(sorted(used - found))}")
    must(script.stat().st_size < 0.1 * len(whole), "the form of an icon in Font Awesome's script")
