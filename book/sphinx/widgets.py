"""Ships the widgets' script and style with the book, and book.css and book.js.

A page loads the widgets' files only if it holds a widget; book.css and book.js are on all pages.
"""

from pathlib import Path

from llmcore.widgets import bundle

SCRIPT, STYLE = "llmcore-widgets.js", "llmcore-widgets.css"
BOOK, BOOK_SCRIPT = "llmcore-book.css", "llmcore-book.js"


def setup(app):
    """Files are written after the pages; a page loads the widgets' where its body has a widget's figure."""
    app.add_css_file(BOOK)
    app.add_js_file(BOOK_SCRIPT, loading_method="defer")
    app.connect("html-page-context", ask)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def ask(app, page, template, context, doctree):
    """Let a page with a widget load the widgets' script and style."""
    if 'class="llmcore"' in context.get("body", ""):
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def write(app, exception):
    """Write the files that the pages load."""
    if exception is not None or app.builder.format != "html":
        return
    here = lambda name: (Path(__file__).parent / name).read_text(encoding="utf-8")
    texts = {
        SCRIPT: bundle.for_pages(),
        STYLE: bundle.style(),
        BOOK: here("book.css"),
        BOOK_SCRIPT: here("book.js"),
    }
    for name, text in texts.items():
        (Path(app.outdir) / "_static" / name).write_text(text, encoding="utf-8")
