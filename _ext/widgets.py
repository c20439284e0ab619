"""Ships the widgets' script and style with the book, on the pages that hold a widget and on no other; and book.css on all."""

from pathlib import Path

from llmcore.widgets import bundle

SCRIPT, STYLE, BOOK = "llmcore-widgets.js", "llmcore-widgets.css", "llmcore-book.css"


def setup(app):
    """Write the files once the pages are written; a page asks for them where its body has a widget's figure."""
    app.add_css_file(BOOK)
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
        (folder / BOOK).write_text((Path(__file__).parent / "book.css").read_text(encoding="utf-8"), encoding="utf-8")
        (folder / STYLE).write_text(bundle.style(), encoding="utf-8")
