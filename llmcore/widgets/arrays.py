"""What a widget is given, checked and made small: arrays of 1 to 4 axes as rounded numbers that JSON holds."""

import html
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Scale = Literal["diverging", "sequential"]
MOST = 4096  # numbers shipped of one array; more are reduced to means of blocks
TABLE = (12, 10)  # rows and columns of a table that is read without a script


def as_array(values: Any, name: str) -> np.ndarray:
    """float64 or int64 of 1 to 4 axes, from numpy, lists, or torch tensors on any device, of any type, with or without gradient.

    Raises ValueError for what is ragged, empty, not numeric, or has no axis or more than four.
    """
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: rows of unequal length ({error}); pad them or show them one by one") from error
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}: a widget shows numbers; convert it with numpy.asarray(..., dtype=float)")
    if not 1 <= array.ndim <= 4:
        raise ValueError(f"{name} has {array.ndim} axes, shape {array.shape}: 1 to 4 can be shown; index or reshape it first")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: it is empty, there is nothing to show")
    return array.astype(np.int64 if array.dtype.kind in "biu" else np.float64)


def check_labels(labels: Sequence[Sequence[Any] | None] | None, shape: tuple[int, ...], name: str) -> list[list[str] | None]:
    """One list of texts, or None, for each axis; ValueError where a length is wrong."""
    if labels is None:
        return [None] * len(shape)
    if len(labels) != len(shape):
        raise ValueError(f"{name} has {len(shape)} axes and labels for {len(labels)}: give one list, or None, an axis")
    for axis, (given, n) in enumerate(zip(labels, shape)):
        if given is not None and len(given) != n:
            raise ValueError(f"{name}: {len(given)} labels for axis {axis} of length {n}: give {n}, or None")
    return [None if given is None else [seen(str(x)) for x in given] for given in labels]


def seen(text: str) -> str:
    """A label with its spaces and line ends to be seen.

    >>> seen(" the")
    '␣the'
    """
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") if text != text.strip() else text


def number(x: Any, digits: int = 4) -> int | float | str:
    """A number rounded to significant digits; what JSON has no number for as text.

    >>> number(1 / 3), number(7), number(math.nan), number(-math.inf)
    (0.3333, 7, 'NaN', '-Infinity')
    """
    if isinstance(x, int | np.integer):
        return int(x)
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    rounded = float(f"{x:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded


def reduce(array: np.ndarray, most: int = MOST) -> tuple[np.ndarray, tuple[int, ...]]:
    """The array with its last two axes cut into blocks and each block replaced by its mean, so that at most `most` numbers are left.

    Returns the array and the block's length on each axis. ValueError where the leading axes alone are too many.
    """
    block = [1] * array.ndim
    size = lambda: math.prod(math.ceil(n / b) for n, b in zip(array.shape, block))
    while size() > most:
        axis = max(range(max(0, array.ndim - 2), array.ndim), key=lambda a: math.ceil(array.shape[a] / block[a]))
        if array.shape[axis] <= block[axis]:
            raise ValueError(f"{array.shape[:-2]} leading places are more than {most}: show a part, such as array[:8]")
        block[axis] *= 2
    for axis, width in enumerate(block):
        if width > 1:
            starts = np.arange(0, array.shape[axis], width)
            lengths = np.diff(np.append(starts, array.shape[axis])).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            with np.errstate(invalid="ignore"):
                array = np.add.reduceat(array, starts, axis=axis) / lengths
    return array, tuple(block)


def ship(
    values: Any, name: str, labels: Sequence[Sequence[Any] | None] | None = None, axes: Sequence[str] | None = None,
    scale: Scale | None = None, digits: int = 4, most: int = MOST,
) -> dict[str, Any]:  # fmt: skip
    """An array as tensor.js reads it. scale: diverging where both signs occur, else sequential."""
    array = as_array(values, name)
    full, names = array.shape, check_labels(labels, array.shape, name)
    if axes is not None and len(axes) != array.ndim:
        raise ValueError(f"{name} has {array.ndim} axes and {len(axes)} names for them: give one an axis")
    small, block = reduce(array, most)
    for axis, width in enumerate(block):
        if width > 1:
            names[axis] = None  # a block has no label of its own
    if scale is None:
        finite = array[np.isfinite(array)]
        scale = "diverging" if finite.size and finite.min() < 0 < finite.max() else "sequential"
    elif scale not in ("diverging", "sequential"):
        raise ValueError(f"scale={scale!r} is unknown: choose 'diverging' or 'sequential'")
    usual = [f"axis {i}" for i in range(array.ndim - 2)] + ["row", "column"][-array.ndim :]
    return {
        "name": name, "shape": list(small.shape), "full": list(full), "block": list(block), "labels": names,
        "axes": list(axes or usual), "scale": scale, "data": [number(x, digits) for x in small.ravel().tolist()],
    }  # fmt: skip


def table(shipped: dict[str, Any]) -> str:
    """An array as an HTML table, for where no script runs; of more than two axes the first slice, of a large one a corner."""
    shape, labels = shipped["shape"], shipped["labels"]
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    row_names = [""] if len(shape) == 1 else labels[-2] or [str(i * shipped["block"][-2]) for i in range(rows)]
    column_names = labels[-1] or [str(i * shipped["block"][-1]) for i in range(columns)]
    R, C = min(rows, TABLE[0]), min(columns, TABLE[1])
    more = [] if columns == C else ["…"]
    cells = [[str(x) for x in shipped["data"][r * columns : r * columns + C]] + more for r in range(R)]
    if rows > R:
        cells.append(["…"] * (C + len(more)))
    title = shipped["name"] + (f", slice {[0] * (len(shape) - 2)} of shape {tuple(shipped['full'])}" if len(shape) > 2 else "")
    return rows_table(cells, [*row_names[:R], "…"][: len(cells)], [*column_names[:C], *more], title)


def rows_table(cells: Sequence[Sequence[str]], row_names: Sequence[str], column_names: Sequence[str], title: str = "") -> str:
    """Any texts as an HTML table; all of it escaped."""
    e = html.escape
    head = "".join(f'<th scope="col">{e(name)}</th>' for name in column_names)
    line = lambda row: "".join(f"<td>{e(cell)}</td>" for cell in row)
    body = "".join(f'<tr><th scope="row">{e(name)}</th>{line(row)}</tr>' for name, row in zip(row_names, cells))
    caption = f"<caption>{e(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
