"""What a published book has besides its pages: a page for unknown addresses, a list of pages for search engines, the version in each
footer, and an index.html that says what it leads to.
"""

import html
import re
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from sphinx.util.osutil import relative_uri

UNKNOWN = "404"
LINK = re.compile(r'((?:href|src|action)=")(?!#)([^"]*)(")')
SHARED = re.compile(r'<title>.*?</title>|<meta [^>]*"(?:og:|twitter:|description")[^>]*>|<link rel="canonical"[^>]*>')
ROOT = re.compile(r'(data-content_root=")[^"]*(")')


def setup(app):
    app.connect("config-inited", one_header)
    app.connect("html-collect-pages", unknown_address)
    app.connect("html-page-context", foot, priority=400)
    app.connect("build-finished", finish, priority=900)  # after index.html was written
    return {"parallel_read_safe": True}


def one_header(app, config):
    """The base theme adds a header over the book's own; its hidden buttons are then the first, and the sidebars open on no other."""
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
    parts = ["<h1>There is no page here</h1>",
             "<p>The address may have been mistyped, or the page has moved. Nothing is lost: search the book, or go to a chapter.</p>",
             '<form class="unknown" role="search" action="search.html" method="get"><label for="unknown-q">Search this book</label> '
             '<input id="unknown-q" type="search" name="q" class="form-control" autocomplete="off"/> '
             '<button type="submit" class="btn btn-primary">Search</button></form>', "<h2>The chapters</h2>", "<ul>"]  # fmt: skip
    for page in order(app):
        parts.append(f'<li><a href="{app.builder.get_target_uri(page)}">{html.escape(app.env.titles[page].astext())}</a></li>')
    body = "\n".join([*parts, "</ul>"])
    yield UNKNOWN, {"title": "There is no page here", "body": f'<section id="unknown">{body}</section>'}, "page.html"


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
    if exception is not None or app.builder.format != "html":
        return
    out, site = Path(app.outdir), app.config.html_baseurl
    base = urlsplit(site).path
    path = out / f"{UNKNOWN}.html"
    path.write_text(absolute(path.read_text(encoding="utf-8"), base), encoding="utf-8")
    rows = "".join(f"  <url><loc>{html.escape(urljoin(site, app.builder.get_target_uri(page)))}</loc></url>\n" for page in order(app))
    (out / "sitemap.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'
    )
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site}sitemap.xml\n")
    first = app.builder.get_target_uri(app.config.root_doc)
    if first != "index.html":  # what is shared is the site's own address: it carries the first page's description and card
        head = (out / first).read_text(encoding="utf-8").split("</head>")[0]
        tags = "\n".join(SHARED.findall(head))
        (out / "index.html").write_text(
            f'<!DOCTYPE html>\n<html lang="{app.config.language}"><head><meta charset="utf-8"/>\n{tags}\n'
            f'<meta http-equiv="refresh" content="0; url={first}"/></head>\n'
            f'<body><a href="{first}">{html.escape(app.config.html_title)}</a></body></html>\n',
            encoding="utf-8",
        )


def absolute(text: str, base: str) -> str:
    """The page with links that start at the site's own folder: they work from an address of any depth.

    >>> absolute('<html data-content_root="./"><a href="chapters/a.html#b"><a href="#c"><a href="https://x.y/z">', "/book/")
    '<html data-content_root="/book/"><a href="/book/chapters/a.html#b"><a href="#c"><a href="https://x.y/z">'
    """
    text = ROOT.sub(rf"\g<1>{base}\g<2>", text)
    return LINK.sub(lambda m: f"{m[1]}{urljoin(base, m[2])}{m[3]}", text)
