"""What a page looks like where its link is shared or found: its description, and a card that is drawn from its title and description.

A page's description is the one in its metadata (myst: html_meta: description); a page without one stops the build.
"""

import html
import re
import textwrap
from pathlib import Path

import numpy as np
from docutils import nodes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from sphinx.util import logging

CARDS = {}  # of this build, by the page's name: its title and description
LOGGER = logging.getLogger(__name__)
FOLDER = "_images/cards"
WIDTH, HEIGHT, COLOURS = 1200, 630, 32
LENGTHS = range(80, 161)  # what a search engine shows of a description
# pages that Sphinx makes itself, and the one for unknown addresses
OWN = {
    "search": "Search the whole book: its text, its code, its formulas and what its cells print. It needs no server and no network.",
    "404": "There is no page at this address. Search the book, or go to one of its chapters, from the text to the update.",
}
LOGO = {"#2166ac": ["00", "01", "02", "03"], "#4393c3": ["11", "12", "13"], "#f4a582": ["22", "23"], "#b2182b": ["33"]}


def setup(app):
    app.connect("html-page-context", describe)
    app.connect("build-finished", draw)
    return {"parallel_read_safe": True}


def described(doctree: nodes.document | None, page: str) -> str:
    """The page's description; empty where it has none."""
    if doctree is None:
        return OWN.get(page, "")
    return next((n["content"] for n in doctree.findall(nodes.meta) if n.get("name") == "description"), "")


def plain(title: str) -> str:
    """A title without markup."""
    return html.unescape(re.sub(r"<[^>]+>", "", title)).strip()


def describe(app, page, template, context, doctree):
    """Put the tags of a page into its head."""
    if app.builder.format != "html":
        return
    said, title = described(doctree, page), plain(context.get("title") or page.capitalize())
    if len(said) not in LENGTHS:
        rule = (
            "%s: its description has %d characters and needs %d to %d: state one in the page's metadata, myst: html_meta: description"
        )
        LOGGER.warning(rule, page, len(said), LENGTHS[0], LENGTHS[-1])
    card = app.config.html_baseurl + f"{FOLDER}/{Path(page).name}.png"
    tags = {
        "og:title": title,
        "og:description": said,
        "og:type": "article" if doctree is not None else "website",
        "og:url": app.config.html_baseurl + app.builder.get_target_uri(page),
        "og:site_name": app.config.html_title,
        "og:image": card,
        "og:image:width": WIDTH,
        "og:image:height": HEIGHT,
        "og:image:alt": f"{title}. {said}",
    }
    lines = [f'<meta property="{name}" content="{html.escape(str(value))}"/>' for name, value in tags.items()]
    lines.append('<meta name="twitter:card" content="summary_large_image"/>')
    if doctree is None:
        lines.append(f'<meta name="description" content="{html.escape(said)}"/>')
    context["metatags"] = context.get("metatags", "") + "".join(f"\n{line}" for line in lines)
    CARDS[Path(page).name] = title, said


def draw(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    address = app.config.html_baseurl.split("//")[-1].rstrip("/")
    for name, (title, said) in CARDS.items():
        card(title, said, app.config.html_title, address).save(folder / f"{name}.png", optimize=True)


def card(title: str, said: str, book: str, address: str) -> Image.Image:
    """1200 x 630 pixels in a palette: the book's name and mark, the page's title, what it says, where it stands."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    axes.add_patch(FancyBboxPatch((0, HEIGHT - 12), WIDTH, 12, boxstyle="square,pad=0", linewidth=0, facecolor="#2166ac"))
    for colour, cells in LOGO.items():
        for column, row in cells:
            corner = (80 + 21 * int(column), 64 + 21 * int(row))
            axes.add_patch(FancyBboxPatch(corner, 16, 16, boxstyle="round,pad=0,rounding_size=3", linewidth=0, facecolor=colour))
    write = {"va": "top", "family": "DejaVu Sans", "parse_math": False}
    axes.text(190, 88, book, fontsize=21, color="#444444", **write)
    lines = textwrap.wrap(title, 32, break_on_hyphens=False)
    size = 40 if len(lines) < 3 else 32
    axes.text(80, 190, "\n".join(lines), fontsize=size, color="#111111", weight="bold", linespacing=1.15, **write)
    axes.text(80, 360, "\n".join(textwrap.wrap(said, 66)), fontsize=21, color="#333333", linespacing=1.4, **write)
    axes.text(80, 552, address, fontsize=18, color="#2166ac", **write)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
