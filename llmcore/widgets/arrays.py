"""What a widget is given, checked and made small: arrays of 1 to 4 axes as rounded numbers that JSON holds."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from llmcore.widgets.checks import finite, items, labels, one_of, plain, text
from llmcore.widgets.markup import Markup, element, join

Scale = Literal["diverging", "sequential"]
MOST = 4096  # numbers shipped of one array; more are reduced to means of blocks
READ = 2**26  # numbers that are read at all
TABLE = (12, 10)  # rows and columns of a table that is read without a script
DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EXACT = 2**53  # float64 holds every whole number up to here


def as_array(values: Any, name: str) -> np.ndarray:
    """An array of 1 to 4 axes, from numpy, lists, or torch tensors on any device, with or without gradient.

    float64, or int64, or Python integers (dtype object) where one is beyond int64: every number is the one
    that was given. Raises ValueError for what is ragged, empty, masked, sparse, not numeric, beyond float64,
    of more than 2^26 numbers, or has no axis or more than four.
    """
    name = plain(name)  # it is only for messages here
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = _from_torch(values, name)
    try:
        array = np.asarray(values)
        if isinstance(values, list | tuple) and array.dtype.kind == "f" and (np.abs(array) >= 2**63).any():
            exact = np.asarray(
                values, dtype=object
            )  # numpy makes floats of a list of integers above and below 2^63
            array = exact if all(isinstance(x, int) for x in exact.flat) else array
    except Exception as error:
        raise ValueError(
            f"{name}: rows of unequal length ({error}); pad them or show them one by one"
        ) from error
    if not 1 <= array.ndim <= 4 and array.dtype.kind in "biufO":
        raise ValueError(
            f"{name} has {array.ndim} axes, shape {array.shape}: 1 to 4 can be shown; "
            "index or reshape it first"
        )
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: it is empty, there is nothing to show")
    if array.size > READ:
        raise ValueError(
            f"{name} has {array.size} numbers, more than {READ}: show a part, such as {name}[:1000]"
        )
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} is masked at {np.ma.count_masked(values)} places: fill them, as {name}.filled(0) does"
        )
    if array.dtype.kind == "O" and all(isinstance(x, int) and not isinstance(x, bool) for x in array.flat):
        largest = max(map(abs, array.flat))
        if largest >= 2**1023:
            raise ValueError(f"{name} holds integers beyond float64: scale them first")
        return array if largest >= 2**63 else array.astype(np.int64)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has dtype {array.dtype}: a widget shows numbers; "
            "convert it with numpy.asarray(..., dtype=float)"
        )
    if array.dtype.kind == "u" and array.max() >= 2**63:
        return array.astype(object)
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    with np.errstate(over="ignore", under="ignore"):
        out = array.astype(np.float64, copy=False)
    if array.dtype.itemsize > 8 and ((np.isinf(out) & ~np.isinf(array)) | ((out == 0) & (array != 0))).any():
        raise ValueError(f"{name} has dtype {array.dtype} and numbers beyond float64: scale them first")
    return out


def _from_torch(tensor: Any, name: str) -> np.ndarray:
    """A tensor's numbers: float64 for every float type, the integer type as it is."""
    if str(tensor.layout) != "torch.strided" or getattr(tensor, "is_nested", False):
        raise ValueError(
            f"{name} is sparse or nested, layout {tensor.layout}: show {name}.to_dense(), or a part of it"
        )
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on the meta device, where a tensor has no numbers: make it on the CPU")
    if tensor.is_quantized:
        raise ValueError(f"{name} is quantized: show {name}.dequantize()")
    if tensor.numel() > READ:
        raise ValueError(
            f"{name} has {tensor.numel()} numbers, more than {READ}: show a part, such as {name}[:1000]"
        )
    if tensor.is_complex():
        raise ValueError(f"{name} has dtype {tensor.dtype}, complex: show {name}.abs(), .real or .imag")
    try:
        tensor = tensor.detach().cpu().resolve_neg()  # numpy() refuses a view with the sign bit pending
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{name} has dtype {tensor.dtype}, which torch cannot hand over ({error}): convert it to float32"
        ) from error


def is_whole(array: np.ndarray) -> bool:
    """Whether as_array gave integers."""
    return array.dtype.kind in "iO"


def floats(values: Any, name: str, axes: int, most: float | None = None) -> np.ndarray:
    """As float64, with so many axes; with `most` only finite numbers of at most that size."""
    array = as_array(values, name)
    if array.ndim != axes:
        raise ValueError(f"{name} has {array.ndim} axes, shape {array.shape}: give {axes}")
    array = array.astype(np.float64)
    return array if most is None else finite(array, name, most)


def check_labels(given: Any, shape: tuple[int, ...], name: str) -> list[list[str] | None]:
    """One list of texts, or None, for each axis; ValueError where a length is wrong."""
    if given is None:
        return [None] * len(shape)
    axes = items(given, f"labels of {name}", most=8)
    if len(axes) != len(shape):
        raise ValueError(
            f"{name} has {len(shape)} axes and labels for {len(axes)}: give one list, or None, for each axis"
        )
    where = [f"labels of {name}, axis {axis}" for axis in range(len(axes))]
    return [None if x is None else [seen(y) for y in labels(x, w, n)] for x, w, n in zip(axes, where, shape)]


def seen(given: str) -> str:
    """A label with its spaces and line ends to be seen, and what has no width or turns the line round as its
    code.

    >>> seen(" the"), seen("\u200b"), seen("a\u202eb")
    ('␣the', '⟨200b⟩', 'a⟨202e⟩b')
    """
    if given != given.strip():
        given = given.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    if given.isprintable():
        return given
    alone = all(unicodedata.category(c) in ("Cc", "Cf") for c in given)  # beside others it may join an emoji
    return "".join(f"⟨{ord(c):02x}⟩" if _unseen(c) or (alone and c not in "\n\t") else c for c in given)


def _unseen(c: str) -> bool:
    """A control character other than a line end, or one that changes the direction of the text after it."""
    return (unicodedata.category(c) == "Cc" and c not in "\n\t\r") or c in DIRECTION


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
    if math.isinf(rounded):  # the largest numbers of float64 have nothing above them to be rounded to
        return float(x)
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded


def reduce(array: np.ndarray, most: int = MOST) -> tuple[np.ndarray, tuple[int, ...]]:
    """The array with its last two axes cut into blocks and each block replaced by its mean, so that at most
    `most` numbers are left.

    Returns the array and the block's length on each axis. ValueError where the leading axes alone are too
    many.
    """
    block = [1] * array.ndim
    size = lambda: math.prod(math.ceil(n / b) for n, b in zip(array.shape, block))
    while size() > most:
        axis = max(
            range(max(0, array.ndim - 2), array.ndim), key=lambda a: math.ceil(array.shape[a] / block[a])
        )
        if array.shape[axis] <= block[axis]:
            raise ValueError(
                f"{array.shape[:-2]} leading places are more than {most}: show a part, such as array[:8]"
            )
        block[axis] *= 2
    exact = is_whole(array) and max(abs(int(array.max())), abs(int(array.min()))) * max(block) >= EXACT
    for axis, width in enumerate(block):
        if width > 1:
            array = _exact_means(array, axis, width) if exact else _means(array, axis, width)
    return array.astype(np.float64) if max(block) > 1 else array, tuple(block)


def _means(array: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Means of blocks of `width` along an axis; the last block may be shorter."""
    starts = np.arange(0, array.shape[axis], width)
    beside = [-1 if a == axis else 1 for a in range(array.ndim)]
    lengths = np.diff(np.append(starts, array.shape[axis]))
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.add.reduceat(array, starts, axis=axis) / lengths.reshape(beside)
        if np.isinf(means).any():  # a sum may be beyond float64 where the mean is not
            apart = np.add.reduceat(array / np.repeat(lengths, lengths).reshape(beside), starts, axis=axis)
            means = np.where(np.isinf(means), apart, means)
    return means


def _exact_means(array: np.ndarray, axis: int, width: int) -> np.ndarray:
    """The same of integers, as fractions: a sum in int64 would wrap round, one in float64 would be rounded."""
    starts = np.arange(0, array.shape[axis], width)
    lengths = np.diff(np.append(starts, array.shape[axis])).astype(object)
    add = lambda x: np.add.reduceat(x, starts, axis=axis).astype(object)
    sums = add(array) if array.dtype == object else add(array >> 32) * 2**32 + add(array & 0xFFFFFFFF)
    beside = [-1 if a == axis else 1 for a in range(array.ndim)]
    return np.vectorize(Fraction, otypes=[object])(sums, lengths.reshape(beside))


def ship(
    values: Any, name: str, labels: Sequence[Sequence[Any] | None] | None = None, axes: Sequence[str] | None = None,
    scale: Scale | None = None, digits: int = 4, most: int = MOST,
) -> dict[str, Any]:  # fmt: skip
    """An array as tensor.js reads it. scale: diverging where both signs occur, else sequential."""
    name = text(name, "name")
    array = as_array(values, name)
    full, names = array.shape, check_labels(labels, array.shape, name)
    if axes is not None:
        axes = [text(x, "a name of axes") for x in items(axes, "axes", most=8)]
        if len(axes) != array.ndim:
            raise ValueError(
                f"{name} has {array.ndim} axes and {len(axes)} names for them: give one for each axis"
            )
    small, block = reduce(array, most)
    for axis, width in enumerate(block):
        if width > 1:
            names[axis] = None  # a block has no label of its own
    if scale is None:
        present = array if is_whole(array) else array[np.isfinite(array)]
        scale = "diverging" if present.size and present.min() < 0 < present.max() else "sequential"
    else:
        one_of(scale, "scale", ("diverging", "sequential"))
    usual = [f"axis {i}" for i in range(array.ndim - 2)] + ["row", "column"][-array.ndim :]
    return {
        "name": name, "shape": list(small.shape), "full": list(full), "block": list(block), "labels": names,
        "axes": list(axes or usual), "scale": scale, "data": [number(x, digits) for x in small.ravel().tolist()],
    }  # fmt: skip


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x - max) / sum over the last axis. A row of -inf alone becomes zeros; one with NaN or +inf becomes
    NaN, as in torch.
    """
    top = x.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        e = np.exp(x - np.where(top == -np.inf, 0, top))
        return e / np.where(top == -np.inf, 1, e.sum(-1, keepdims=True))


def table(shipped: dict[str, Any]) -> Markup:
    """An array as an HTML table, for where no script runs; of more than two axes the first slice, of a large
    one a corner.
    """
    shape, labels = shipped["shape"], shipped["labels"]
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    row_names = (
        [""] if len(shape) == 1 else labels[-2] or [str(i * shipped["block"][-2]) for i in range(rows)]
    )
    column_names = labels[-1] or [str(i * shipped["block"][-1]) for i in range(columns)]
    R, C = min(rows, TABLE[0]), min(columns, TABLE[1])
    more = [] if columns == C else ["…"]
    cells = [[str(x) for x in shipped["data"][r * columns : r * columns + C]] + more for r in range(R)]
    if rows > R:
        cells.append(["…"] * (C + len(more)))
    title = shipped["name"] + (
        f", slice {[0] * (len(shape) - 2)} of shape {tuple(shipped['full'])}" if len(shape) > 2 else ""
    )
    return rows_table(cells, [*row_names[:R], "…"][: len(cells)], [*column_names[:C], *more], title)


def rows_table(
    cells: Sequence[Sequence[str]], row_names: Iterable[str], column_names: Iterable[str], title: str = ""
) -> Markup:  # fmt: skip
    """Any texts as an HTML table."""
    head = [element("th", {"scope": "col"}, name) for name in column_names]
    body = [
        element("tr", {}, element("th", {"scope": "row"}, name), *[element("td", {}, cell) for cell in row])
        for name, row in zip(row_names, cells)
    ]
    caption = element("caption", {}, title) if title else join()
    top = element("thead", {}, element("tr", {}, element("td", {}), *head))
    return element("table", {}, caption, top, element("tbody", {}, *body))
