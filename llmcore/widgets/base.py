"""One widget class for three homes: a live kernel, a built page without one, a stored notebook that is only
read.

A new widget is a subclass here, which turns its arguments into a state of plain values, and a function of the
same `kind` in js/, which draws that state; matrix.py and js/matrix.js are the shortest example.
"""

import json
from typing import Any, ClassVar

import anywidget
import traitlets
from IPython.display import display

from llmcore.widgets import bundle, markup
from llmcore.widgets.checks import plain, text
from llmcore.widgets.markup import Markup, element

BYTES = 100_000  # of the state of one figure
CAPTION = 2000  # characters


class Widget(anywidget.AnyWidget):
    """state: what the script draws, plain values that JSON holds. selection: the index of the chosen cell, []
    before any choice.

    Traits flow both ways in a live kernel: `widget.observe(f, "selection")` calls f when the reader chooses,
    and setting `widget.selection` moves the cursor on the page.
    """

    _esm: ClassVar[Any] = bundle.for_notebooks()
    _css: ClassVar[Any] = bundle.style()
    kind = traitlets.Unicode("").tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    selection = traitlets.List(traitlets.Int()).tag(sync=True)
    shared: ClassVar[tuple[str, ...]] = ("selection",)  # traits that the script reads and writes

    def __init__(self, state: dict[str, Any], still: Markup, shape: str, caption: str = "", **traits: Any):
        """still: a table that is read where no script runs. shape: what repr says of the content.

        Raises ValueError where the state is no JSON or is longer than 100,000 bytes.
        """
        self._still, self._shape = still, shape
        _json(type(self).__name__, state, traits)
        super().__init__(state=state, caption=text(caption, "caption", CAPTION), **traits)

    def __repr__(self) -> str:
        return plain(f"{type(self).__name__}({self._shape})")

    def figure(self) -> str:
        """The HTML that a page without a kernel holds: caption, a table to be read, the state for the script."""
        payload = _json(type(self).__name__, self.state, {name: getattr(self, name) for name in self.shared})
        return str(element(
            "figure", {"class": "llmcore", "data-widget": self.kind},
            element("figcaption", {}, self.caption), element("div", {"class": "ll-still"}, self._still), markup.data(payload),
        ))  # fmt: skip

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live view of anywidget, and beside it the figure; text/plain is the same in every run."""
        made = super()._repr_mimebundle_(**options)
        data, *rest = made if isinstance(made, tuple) else (made or {},)
        data = {**data, "text/plain": repr(self), "text/html": self.figure()}
        return (data, *rest) if rest else data

    if hasattr(
        anywidget.AnyWidget, "_ipython_display_"
    ):  # ipywidgets 7, which Colab has: it displays itself and asks for no bundle

        def _ipython_display_(self, **options: Any) -> None:
            made = self._repr_mimebundle_()
            data, metadata = made if isinstance(made, tuple) else (made, {})
            display(data, metadata=metadata, raw=True)
            self._handle_displayed(**options)


def _json(name: str, state: dict[str, Any], traits: dict[str, Any]) -> str:
    """What the page reads. The checks of each widget come before; this holds for all: JSON without NaN,
    UTF-8, and not too long.
    """
    try:
        made = json.dumps(
            {"state": state, "traits": traits}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
        size = len(made.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} holds what no page can read ({plain(str(error))}): give finite numbers and whole texts"
        ) from error
    if size > BYTES:
        raise ValueError(
            f"{name} would put {size} bytes into a page, more than {BYTES}: show a part, or shorter names"
        )
    return made
