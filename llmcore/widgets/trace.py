"""TraceExplorer: a whole forward pass, foldable, every tensor to be opened."""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from llmcore.widgets.arrays import as_array, rows_table, ship
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, labels, named, whole

MOST_TOGETHER = 12_000  # numbers of all tensors
MOST_OF_ONE = 1300  # numbers of one tensor
MOST_TENSORS = 500


class TraceExplorer(Widget):
    """The tensors of a trace as a tree of module paths with their shapes; each opens as a heat map.

    traced: path -> tensor, as llmcore.trace returns them, in the order in which the modules ran. batch: which
    sequence of the first axis is shown. tokens: names for the axes of their length. A tensor of many numbers
    is shown as the means of blocks, and the figure says so. `path` is the tensor that is open. Raises
    ValueError for an empty trace.
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
        traced = named(traced, "tensors of the trace", MOST_TENSORS)
        names = None if tokens is None else labels(tokens, "tokens")
        if not isinstance(path, str) or (path and path not in traced):
            raise ValueError(f"path={brief(path)} was not seen: choose one of {brief(list(traced))}")
        arrays = {name: as_array(values, name) for name, values in traced.items()}
        most = max(64, min(MOST_OF_ONE, MOST_TOGETHER // len(traced)))
        entries = []
        for name, array in arrays.items():
            at = whole(batch, "batch", -len(array), len(array) - 1) if array.ndim > 1 else 0
            shown = array[at] if array.ndim > 1 else array
            shipped = ship(shown, name.split(".")[-1], _axis_labels(name, shown.shape, names), most=most)
            rows, columns = ([1] + shipped["block"])[-2:]
            note = f"each cell is the mean of {rows} x {columns} numbers" if rows * columns > 1 else ""
            entries.append({"path": name, "shape": list(array.shape), "array": shipped, "note": note})
        cells = [[" x ".join(map(str, array.shape))] for array in arrays.values()]
        still = rows_table(cells, list(arrays), ["shape"])
        super().__init__({"entries": entries}, still, f"{len(entries)} tensors", caption, path=path)


def _axis_labels(path: str, shape: tuple[int, ...], names: list[str] | None) -> list[list[str] | None]:
    """The tokens' names for those of the last two axes that run over tokens, None for the others.

    An axis runs over tokens if it has their number; the last axis only in scores and weights (queries x
    keys): elsewhere it is a width that happens to equal the number of tokens.
    """
    over_keys = len(shape) < 2 or path.endswith(("scores", "weights", "attention.dropout"))
    last_two = range(max(0, len(shape) - 2), len(shape))
    over_tokens = [
        a for a in last_two if names and shape[a] == len(names) and (a < len(shape) - 1 or over_keys)
    ]
    return [names if axis in over_tokens else None for axis in range(len(shape))]
