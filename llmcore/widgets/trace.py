"""TraceExplorer: a whole forward pass, foldable, every tensor to be opened."""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from llmcore.widgets.arrays import as_array, rows_table, ship
from llmcore.widgets.base import Widget

BUDGET = 12_000  # numbers of all tensors together
MOST = 1300  # of one tensor


class TraceExplorer(Widget):
    """The tensors of a trace as a tree of module paths with their shapes; each opens as a heat map.

    traced: path -> tensor, as llmcore.trace gives them, in the order in which the modules ran. batch: which sequence of the first
    axis is shown. tokens: names for axes of their length. Tensors of many numbers are shown as means of blocks and say so. `path`
    is the one that is open. Raises ValueError for an empty trace.
    """

    kind = traitlets.Unicode("trace").tag(sync=True)
    path = traitlets.Unicode("").tag(sync=True)
    shared = ("selection", "path")

    def __init__(
        self, traced: Mapping[str, Any], tokens: Sequence[Any] | None = None, batch: int = 0, caption: str = "", path: str = ""
    ):
        if not traced:
            raise ValueError("the trace is empty: run the model inside `with trace(model) as seen`")
        if path and path not in traced:
            raise ValueError(f"path={path!r} was not seen: choose one of {list(traced)[:3]}...")
        most = max(64, min(MOST, BUDGET // len(traced)))
        entries = []
        for name, values in traced.items():
            array = as_array(values, name)
            shown = array[batch] if array.ndim > 1 else array
            labels = [
                list(tokens) if tokens is not None and n == len(tokens) and axis >= shown.ndim - 2 else None
                for axis, n in enumerate(shown.shape)
            ]
            if len(labels) >= 2 and labels[-1] is not None and not name.endswith(("scores", "weights", "attention.dropout")):
                labels[-1] = None  # a width that happens to equal the number of tokens
            shipped = ship(shown, name.split(".")[-1], labels, most=most)
            rows, columns = ([1] + shipped["block"])[-2:]
            note = f"each cell is the mean of {rows} x {columns} numbers" if rows * columns > 1 else ""
            entries.append({"path": name, "shape": list(array.shape), "array": shipped, "note": note})
        cells = [[" x ".join(map(str, as_array(values, name).shape))] for name, values in traced.items()]
        still = rows_table(cells, list(traced), ["shape"])
        super().__init__({"entries": entries}, still, f"{len(entries)} tensors", caption, path=path)
