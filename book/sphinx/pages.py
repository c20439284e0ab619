"""All that the pages and the site have besides the text of the chapters.

A page gets a description, a card, alternative texts of its figures, and the version in its footer. The site
gets a page for unknown addresses, a sitemap for search engines, and an index.html that forwards to the first
page and describes it.

A page's description stands in its metadata (myst: html_meta: description); a page without one stops the
build. A figure's alternative text is stated in its cell: display(figure, metadata={"image/png": {"alt":
...}}).
"""

import hashlib
import html
import re
from base64 import b64decode
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import nbformat
from docutils import nodes
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

from book.sphinx.cards import HEIGHT, WIDTH, card
from llmcore.widgets.picture import PARTS, machine

LOGGER = logging.getLogger(__name__)
CARDS = {}  # filled during a build: a page's name -> its title and description
FOLDER = "_images/cards"
LENGTHS = range(80, 161)  # characters of a description that a search engine shows whole
UNKNOWN = "404"
# descriptions of the pages that no chapter makes: Sphinx's own, and the one for unknown addresses
OWN = {
    "search": "Search the whole book: its text, its code, its formulas and what its cells print. "
    "It needs no server and no network.",
    UNKNOWN: "There is no page at this address. "
    "Search the book, or go to one of its chapters, from the text to the update.",
}
LINK = re.compile(r'((?:href|src|action)=")(?!#)([^"]*)(")')
SHARED = re.compile(
    r'<title>.*?</title>|<meta [^>]*"(?:og:|twitter:|description")[^>]*>|<link rel="canonical"[^>]*>'
)
ROOT = re.compile(r'(data-content_root=")[^"]*(")')


def setup(app):
    app.connect("config-inited", one_header)
    app.connect("doctree-read", name_figures)
    app.connect("doctree-read", open_with_the_machine)
    app.connect("html-collect-pages", unknown_address)
    app.connect("html-page-context", foot, priority=400)
    app.connect("html-page-context", describe)
    app.connect("build-finished", draw)
    app.connect("build-finished", finish, priority=900)  # after index.html was written
    return {"parallel_read_safe": True}


# --------------------------------------------------------------------------------------------------
# descriptions and cards


def described(doctree: nodes.document | None, page: str) -> str:
    """The page's description; empty where it has none."""
    if doctree is None:
        return OWN.get(page, "")
    return next((n["content"] for n in doctree.findall(nodes.meta) if n.get("name") == "description"), "")


def plain(title: str) -> str:
    """A title without markup."""
    return html.unescape(re.sub(r"<[^>]+>", "", title)).strip()


def describe(app, page, template, context, doctree):
    """Put the description and the tags for sharing into a page's head."""
    if app.builder.format != "html":
        return
    said, title = described(doctree, page), plain(context.get("title") or page.capitalize())
    if len(said) not in LENGTHS:
        rule = "%s: its description has %d characters and needs %d to %d: "
        rule += "state one in the page's metadata, myst: html_meta: description"
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
    """Draw the card of every page."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    address = app.config.html_baseurl.split("//")[-1].rstrip("/")
    for name, (title, said) in CARDS.items():
        card(title, said, app.config.html_title, address).save(folder / f"{name}.png", optimize=True)


# --------------------------------------------------------------------------------------------------
# figures


def name_figures(app, doctree):
    """Give each figure the alternative text of its output.

    MyST-NB reads only width and height from a figure's metadata and writes the image's file name as its text.
    It names the file by the hash of its bytes, which tells from which output an image came.
    """
    path = Path(app.env.doc2path(app.env.docname))
    images = [node for node in doctree.findall(nodes.image) if not node.get("alt")]
    if path.suffix != ".ipynb" or not images:
        return
    said = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                data = output.data[kind]
                data = "\n".join(data.splitlines()).encode() if kind == "image/svg+xml" else b64decode(data)
                alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
                said[hashlib.sha256(data).hexdigest()] = alt
    for node in images:
        if said.get(Path(node["uri"]).stem):
            node["alt"] = said[Path(node["uri"]).stem]


# the parts of the machine that a chapter is about
FORWARD = PARTS[: PARTS.index("loss")]
LIT = {
    "0-vocabulary": ("text", "ids"),
    "1-1-tokenization": ("text", "ids"),
    "1-2-embedding": ("vectors",),
    "2-1-concepts": ("gradients", "update"),
    "2-2-training-process": FORWARD,
    "2-2-1-1-architecture": ("attention", "feed-forward"),
    "2-2-1-2-1-self-attention": ("attention",),
    "2-2-1-2-2-residual-norm": ("attention", "feed-forward"),
    "2-2-1-2-3-feed-forward": ("feed-forward",),
    "2-2-1-2-4-encoder-block": ("attention", "feed-forward"),
    "2-2-1-3-decoder-block": ("attention", "feed-forward"),
    "2-2-2-output-layer": ("probabilities", "loss"),
    "2-3-1-gradient-descent": ("update",),
    "2-3-2-backpropagation": ("gradients",),
    "2-3-3-one-training-step": PARTS,
    "2-4-1-collectives": ("gradients",),
    "2-4-2-data-parallel": ("gradients",),
    "2-4-3-sharding": ("gradients", "update"),
    "2-4-4-tensor-parallel": ("attention", "feed-forward", "gradients"),
    "2-4-5-pipeline": ("attention", "feed-forward", "gradients"),
    "2-4-6-putting-it-together": PARTS,
    "3-1-train-a-language-model": PARTS,
    "3-2-generation": FORWARD,
    "3-3-real-weights": FORWARD,
    "3-4-how-fast": PARTS,
}


def open_with_the_machine(app, doctree):
    """Below a chapter's title the machine of chapter 0.0, with the parts that this chapter is about lit."""
    lit = LIT.get(Path(app.env.docname).name)
    if lit is None:
        return
    title = next(doctree.findall(nodes.title))
    picture = nodes.raw("", f'<div class="machine">{machine(*lit).html}</div>', format="html")
    title.parent.insert(title.parent.index(title) + 1, picture)


# --------------------------------------------------------------------------------------------------
# the site


def one_header(app, config):
    """Remove the base theme's header over the book's own.

    The theme's script takes the first buttons on the page to open the sidebars; these would be the hidden
    ones of that header.
    """
    config.html_theme_options.setdefault("navbar_persistent", [])


def foot(app, page, template, context, doctree):
    """The book's version, with a link to what changed in it."""
    changes = "chapters/appendix-changes"
    text = f"Version {version('llmcore')}"
    if changes in app.env.all_docs:
        here, there = (app.builder.get_target_uri(name) for name in (page, changes))
        link = relative_uri(here, there) or "#"
        text = f'<a href="{link}">{text}: changes and corrections</a>'
    context["theme_extra_footer"] = f'<p class="version">{text}</p>'


def unknown_address(app):
    """The page that a server sends for an address that the book does not have."""
    parts = [
        "<h1>There is no page here</h1>",
        "<p>The address may have been mistyped, or the page has moved. Nothing is lost: "
        "search the book, or go to a chapter.</p>",
        '<form class="unknown" role="search" action="search.html" method="get">'
        '<label for="unknown-q">Search this book</label> '
        '<input id="unknown-q" type="search" name="q" class="form-control" autocomplete="off"/> '
        '<button type="submit" class="btn btn-primary">Search</button></form>',
        "<h2>The chapters</h2>",
        "<ul>",
    ]
    for page in order(app):
        title = html.escape(app.env.titles[page].astext())
        parts.append(f'<li><a href="{app.builder.get_target_uri(page)}">{title}</a></li>')
    body = '<section id="unknown">' + "\n".join([*parts, "</ul>"]) + "</section>"
    yield UNKNOWN, {"title": "There is no page here", "body": body}, "page.html"


def order(app) -> list[str]:
    """The pages in the order of the table of contents."""
    toc = app.env.toctree_includes
    out, todo = [], [app.config.root_doc]
    while todo:
        page = todo.pop(0)
        out.append(page)
        todo = list(toc.get(page, [])) + todo
    return out


def finish(app, exception):
    """Write what the site has besides its pages."""
    if exception is not None or app.builder.format != "html":
        return
    out, site = Path(app.outdir), app.config.html_baseurl
    base = urlsplit(site).path
    path = out / f"{UNKNOWN}.html"
    path.write_text(absolute(path.read_text(encoding="utf-8"), base), encoding="utf-8")
    addresses = [html.escape(urljoin(site, app.builder.get_target_uri(page))) for page in order(app)]
    rows = "".join(f"  <url><loc>{address}</loc></url>\n" for address in addresses)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'
    )
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site}sitemap.xml\n")
    first = app.builder.get_target_uri(app.config.root_doc)
    # people share the site's own address: it has the first page's description and card
    if first != "index.html":
        head = (out / first).read_text(encoding="utf-8").split("</head>")[0]
        tags = "\n".join(SHARED.findall(head))
        (out / "index.html").write_text(
            f'<!DOCTYPE html>\n<html lang="{app.config.language}"><head><meta charset="utf-8"/>\n{tags}\n'
            f'<meta http-equiv="refresh" content="0; url={first}"/></head>\n'
            f'<body><a href="{first}">{html.escape(app.config.html_title)}</a></body></html>\n',
            encoding="utf-8",
        )


def absolute(text: str, base: str) -> str:
    """The page with links from the site's own folder, which work from an address of any depth.

    >>> page = '<html data-content_root="./"><a href="chapters/a.html#b"><a href="#c"><a href="https://x.y/z">'
    >>> print(absolute(page, "/book/").replace("><", ">\\n<"))
    <html data-content_root="/book/">
    <a href="/book/chapters/a.html#b">
    <a href="#c">
    <a href="https://x.y/z">
    """
    text = ROOT.sub(rf"\g<1>{base}\g<2>", text)
    return LINK.sub(lambda m: f"{m[1]}{urljoin(base, m[2])}{m[3]}", text)
