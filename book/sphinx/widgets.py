"""Ships the widgets' script and style with the book, on the pages that hold a widget and on no other;
book.css and book.js on all.
"""

from pathlib import Path

from llmcore.widgets import bundle

SCRIPT, STYLE = "llmcore-widgets.js", "llmcore-widgets.css"
BOOK, BOOK_SCRIPT = "llmcore-book.css", "llmcore-book.js"


def setup(app):
    """Write the files once the pages are written; a page asks for them where its body has a widget's figure."""
    app.add_css_file(BOOK)
    app.add_js_file(BOOK_SCRIPT, loading_method="defer")
    app.connect("html-page-context", ask)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def ask(app, page, template, context, doctree):
    if 'class="llmcore"' in context.get("body", ""):
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_css_file(STYLE)


def write(app, exception):
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        (folder / SCRIPT).write_text(bundle.for_pages(), encoding="utf-8")
        for name, source in ((BOOK, "book.css"), (BOOK_SCRIPT, "book.js")):
            (folder / name).write_text(
                (Path(__file__).parent / source).read_text(encoding="utf-8"), encoding="utf-8"
            )
        (folder / STYLE).write_text(bundle.style(), encoding="utf-8")
