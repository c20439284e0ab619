"""TraceExplorer: a whole forward pass, foldable, every tensor to be opened."""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from llmcore.widgets.arrays import as_array, rows_table, ship
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, labels, named, whole

BUDGET = 12_000  # numbers of all tensors together
MOST = 1300  # of one tensor
TENSORS = 500


class TraceExplorer(Widget):
    """The tensors of a trace as a tree of module paths with their shapes; each opens as a heat map.

    traced: path -> tensor, as llmcore.trace gives them, in the order in which the modules ran. batch: which
    sequence of the first axis is shown. tokens: names for axes of their length. Tensors of many numbers are
    shown as means of blocks and say so. `path` is the one that is open. Raises ValueError for an empty trace.
    """

    kind = traitlets.Unicode("trace").tag(sync=True)
    path = traitlets.Unicode("").tag(sync=True)
    shared = ("selection", "path")

    def __init__(
        self,
        traced: Mapping[str, Any],
        tokens: Sequence[Any] | None = None,
        batch: int = 0,
        caption: str = "",
        path: str = "",
    ):
        if isinstance(traced, Mapping) and not traced:
            raise ValueError("the trace is empty: run the model inside `with trace(model) as seen`")
        traced = named(traced, "tensors of the trace", TENSORS)
        names = None if tokens is None else labels(tokens, "tokens")
        if not isinstance(path, str) or (path and path not in traced):
            raise ValueError(f"path={brief(path)} was not seen: choose one of {brief(list(traced))}")
        arrays = {name: as_array(values, name) for name, values in traced.items()}
        most = max(64, min(MOST, BUDGET // len(traced)))
        entries = []
        for name, array in arrays.items():
            at = whole(batch, "batch", -len(array), len(array) - 1) if array.ndim > 1 else 0
            shown = array[at] if array.ndim > 1 else array
            called = [
                names if names is not None and n == len(names) and axis >= shown.ndim - 2 else None
                for axis, n in enumerate(shown.shape)
            ]
            if (
                len(called) >= 2
                and called[-1] is not None
                and not name.endswith(("scores", "weights", "attention.dropout"))
            ):
                called[-1] = None  # a width that happens to equal the number of tokens
            shipped = ship(shown, name.split(".")[-1], called, most=most)
            rows, columns = ([1] + shipped["block"])[-2:]
            note = f"each cell is the mean of {rows} x {columns} numbers" if rows * columns > 1 else ""
            entries.append({"path": name, "shape": list(array.shape), "array": shipped, "note": note})
        cells = [[" x ".join(map(str, array.shape))] for array in arrays.values()]
        still = rows_table(cells, list(arrays), ["shape"])
        super().__init__({"entries": entries}, still, f"{len(entries)} tensors", caption, path=path)
