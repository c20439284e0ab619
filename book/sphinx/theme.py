"""Fewer bytes and no other host: takes out of the theme what no page of this book uses.

Each step states what it saves a reader at the first page, as a server compresses it. Each finds what it is
for or stops the build: a new version of the theme that looks otherwise is noticed when the book is built, not
by a reader.
"""

import re
from pathlib import Path

from PIL import Image
from sphinx.errors import ExtensionError

# Cards and tabs, which no chapter uses: 10 kB.
UNUSED = ("sphinx-design.min.css", "design-tabs.js")
# The search's index and scripts, which only the search's own page reads: 65 kB.
SEARCH = re.compile(
    r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"[^>]*></script>'
)
# One icon of Font Awesome's script, {"name":[width,height,[other names],"code","path"]}. The script holds
# 2,000 icons, the pages show about 15: 520 kB. (book.css keeps the same icons from being loaded a second
# time, as a font.)
ICON = re.compile(r'(?:"([\w-]+)"|([a-z]\w*)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
# Icons that the theme's own script draws later.
DRAWN_LATER = {"sun", "moon", "circle-half-stroke", "lightbulb"}
# Classes of Font Awesome that are no icon.
NO_ICON = {"solid", "regular", "brands", "lg", "fw", "sm", "xs"}
# Colours of a figure's palette: a quarter of the bytes, 95 kB on a page with many figures, and no difference
# to be seen.
COLOURS = 128


def setup(app):
    app.connect("config-inited", remove_thebe, priority=1)
    app.connect("html-page-context", drop, priority=900)
    app.connect("build-finished", thin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def must(found, what: str) -> None:
    if not found:
        raise ExtensionError(
            f"the theme has changed: {what} is not there any more; look at book/sphinx/theme.py"
        )


def remove_thebe(app, config):
    """Jupyter Book loads sphinx-thebe unasked, whose script asks another host on every page.

    The pages run in Colab or on the reader's machine, not through Thebe.
    """
    ours = lambda listener: not getattr(listener.handler, "__module__", "").startswith("sphinx_thebe")
    before = sum(map(len, app.events.listeners.values()))
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = list(filter(ours, listeners))
    must(sum(map(len, app.events.listeners.values())) < before, "sphinx-thebe")
    app.registry.css_files = [
        (name, attributes) for name, attributes in app.registry.css_files if name != "sphinx-thebe.css"
    ]


def drop(app, page, template, context, doctree):
    for kind in ("css_files", "script_files"):
        context[kind] = [
            file for file in context[kind] if not str(getattr(file, "filename", file)).endswith(UNUSED)
        ]


def thin(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    without_search(out)
    without_unused_icons(out)
    for figure in out.glob("_images/*.png"):
        with Image.open(figure) as image:
            image.convert("RGBA").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(figure, optimize=True)


def without_search(out: Path) -> None:
    pages = [page for page in out.rglob("*.html") if page.name != "search.html"]
    removed = 0
    for page in pages:
        text, count = SEARCH.subn("", page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
        removed += count
    must(removed, "the search's scripts on every page")


def without_unused_icons(out: Path) -> None:
    """Keep the icons that some page names."""
    pages = "".join(page.read_text(encoding="utf-8") for page in out.rglob("*.html"))
    named = set(re.findall(r"\bfa-([\w-]+)", " ".join(re.findall(r'class="([^"]*)"', pages))))
    used = (DRAWN_LATER | named) - NO_ICON
    script = out / "_static/scripts/fontawesome.js"
    must(script.exists(), "Font Awesome's script")
    whole, found = script.read_text(encoding="utf-8"), set()

    def keep(match: re.Match) -> str:
        names = {match[1] or match[2], *re.findall(r'"([\w-]+)"', match[3])} & used
        found.update(names)
        return match[0] if names else ""

    script.write_text(ICON.sub(keep, whole), encoding="utf-8")
    must(found >= used, f"the icon {', '.join(sorted(used - found))}")
    must(script.stat().st_size < 0.1 * len(whole), "the form of an icon in Font Awesome's script")
