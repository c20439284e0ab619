"""One widget class for three homes: a live kernel, a built page without one, a stored notebook.

A new widget is a subclass of Widget, which turns its arguments into a state of plain values, and a function
in js/ named after its `kind`, which draws that state; matrix.py and js/matrix.js are the shortest example.
"""

import json
from typing import Any, ClassVar

import anywidget
import traitlets
from IPython.display import display

from llmcore.widgets import bundle, markup
from llmcore.widgets.checks import plain, text
from llmcore.widgets.markup import Markup, element

MOST_BYTES = 100_000  # of the state of one figure, in UTF-8
MOST_CAPTION = 2000  # characters


class Widget(anywidget.AnyWidget):
    """The base of all widgets; its traits flow both ways in a live kernel.

    state: the plain values, as JSON holds them, that the script draws. selection: the index of the chosen
    cell, [] before any choice. `widget.observe(f, "selection")` calls f when the reader chooses a cell, and
    setting `widget.selection` moves the cursor on the page.
    """

    _esm: ClassVar[Any] = bundle.for_notebooks()
    _css: ClassVar[Any] = bundle.style()
    kind = traitlets.Unicode("").tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    selection = traitlets.List(traitlets.Int()).tag(sync=True)
    shared: ClassVar[tuple[str, ...]] = ("selection",)  # traits that the script reads and writes

    def __init__(self, state: dict[str, Any], still: Markup, shape: str, caption: str = "", **traits: Any):
        """still: the table for readers without the script. shape: what repr says about the content.

        Raises ValueError for a state that JSON cannot hold or that takes more than 100,000 bytes.
        """
        self._still, self._shape = still, shape
        _json(type(self).__name__, state, traits)
        super().__init__(state=state, caption=text(caption, "caption", MOST_CAPTION), **traits)

    def __repr__(self) -> str:
        return plain(f"{type(self).__name__}({self._shape})")

    def figure(self) -> str:
        """The HTML for a page without a kernel: a caption, a table to read, and the state for the script."""
        payload = _json(type(self).__name__, self.state, {name: getattr(self, name) for name in self.shared})
        caption = element("figcaption", {}, self.caption)
        still = element("div", {"class": "ll-still"}, self._still)
        figure = {"class": "llmcore", "data-widget": self.kind}
        return str(element("figure", figure, caption, still, markup.data(payload)))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """anywidget's live view and the HTML figure; text/plain is the same in every run."""
        made = super()._repr_mimebundle_(**options)
        data, *rest = made if isinstance(made, tuple) else (made or {},)
        data = {**data, "text/plain": repr(self), "text/html": self.figure()}
        return (data, *rest) if rest else data

    # Under ipywidgets 7, which Colab has, a widget displays itself and is never asked for a MIME bundle.
    if hasattr(anywidget.AnyWidget, "_ipython_display_"):

        def _ipython_display_(self, **options: Any) -> None:
            made = self._repr_mimebundle_()
            data, metadata = made if isinstance(made, tuple) else (made, {})
            display(data, metadata=metadata, raw=True)
            self._handle_displayed(**options)


def _json(name: str, state: dict[str, Any], traits: dict[str, Any]) -> str:
    """State and traits as compact JSON: no NaN, valid UTF-8, at most MOST_BYTES.

    Each widget has checked its own arguments before; these rules hold for all of them.
    """
    content = {"state": state, "traits": traits}
    try:
        made = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(made.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} holds what no page can read ({plain(str(error))}): give finite numbers and whole texts"
        ) from error
    if size > MOST_BYTES:
        raise ValueError(
            f"{name} would put {size} bytes into a page, more than {MOST_BYTES}: "
            "show a part, or shorter names"
        )
    return made
