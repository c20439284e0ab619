"""Arrays for a widget, checked and made small: 1 to 4 axes, as rounded numbers that JSON can hold."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from llmcore.widgets.checks import finite, items, labels, one_of, plain, text
from llmcore.widgets.markup import Markup, element, join

Scale = Literal["diverging", "sequential"]
MOST_SHIPPED = 4096  # numbers of one array in a page; a larger array is reduced to means of blocks
MOST_READ = 2**26  # numbers of an array that is accepted at all
TABLE_SIZE = (12, 10)  # rows and columns of the table for readers without the script
DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # bidi controls
EXACT = 2**53  # float64 holds every whole number up to here


def as_array(values: Any, name: str) -> np.ndarray:
    """An array of 1 to 4 axes, from numpy, lists, or torch tensors on any device, with or without gradient.

    Returns float64 for floats, int64 for integers, and dtype object (Python integers) where one is beyond
    int64, so that no number changes. Raises ValueError for an array that is ragged, empty, masked, sparse,
    not numeric, beyond float64, of more than 2^26 numbers, or without an axis or with more than four.
    """
    name = plain(name)  # used only in messages
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = _from_torch(values, name)
    try:
        array = np.asarray(values)
        if isinstance(values, list | tuple) and array.dtype.kind == "f" and (np.abs(array) >= 2**63).any():
            # numpy makes float64 of a list with integers on both sides of 2^63
            exact = np.asarray(values, dtype=object)
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
    if array.size > MOST_READ:
        raise ValueError(
            f"{name} has {array.size} numbers, more than {MOST_READ}: show a part, such as {name}[:1000]"
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
    """A tensor as numpy: float64 for every float type, an integer type unchanged."""
    if str(tensor.layout) != "torch.strided" or getattr(tensor, "is_nested", False):
        raise ValueError(
            f"{name} is sparse or nested, layout {tensor.layout}: show {name}.to_dense(), or a part of it"
        )
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on the meta device, where a tensor has no numbers: make it on the CPU")
    if tensor.is_quantized:
        raise ValueError(f"{name} is quantized: show {name}.dequantize()")
    if tensor.numel() > MOST_READ:
        raise ValueError(
            f"{name} has {tensor.numel()} numbers, more than {MOST_READ}: show a part, such as {name}[:1000]"
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
    """Whether as_array returned integers."""
    return array.dtype.kind in "iO"


def floats(values: Any, name: str, axes: int, most: float | None = None) -> np.ndarray:
    """An array as float64 with this many axes; if `most` is given, finite and of absolute value <= most."""
    array = as_array(values, name)
    if array.ndim != axes:
        raise ValueError(f"{name} has {array.ndim} axes, shape {array.shape}: give {axes}")
    array = array.astype(np.float64)
    return array if most is None else finite(array, name, most)


def check_labels(given: Any, shape: tuple[int, ...], name: str) -> list[list[str] | None]:
    """For each axis a list of texts or None. Raises ValueError where a length differs from the axis."""
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
    """A label with visible outer white space and the codes of characters that are unseen or turn the text.

    >>> seen(" the"), seen("\u200b"), seen("a\u202eb")
    ('␣the', '⟨200b⟩', 'a⟨202e⟩b')
    """
    if given != given.strip():
        given = given.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    if given.isprintable():
        return given
    alone = all(
        unicodedata.category(c) in ("Cc", "Cf") for c in given
    )  # beside others it may be what joins an emoji
    return "".join(f"⟨{ord(c):02x}⟩" if _unseen(c) or (alone and c not in "\n\t") else c for c in given)


def _unseen(c: str) -> bool:
    """A control character other than a tab or line end, or one that changes the direction of text."""
    return (unicodedata.category(c) == "Cc" and c not in "\n\t\r") or c in DIRECTION


def number(x: Any, digits: int = 4) -> int | float | str:
    """A number rounded to significant digits; NaN and infinities, which JSON lacks, as text.

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
    if math.isinf(rounded):  # rounding up the largest numbers of float64 overflows
        return float(x)
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded


def reduce(array: np.ndarray, most: int = MOST_SHIPPED) -> tuple[np.ndarray, tuple[int, ...]]:
    """Block means over the last two axes, with blocks just large enough that at most `most` numbers remain.

    Returns the reduced array and the block's length on each axis. Raises ValueError where the leading axes
    alone have more than `most` places.
    """
    block = [1] * array.ndim
    blocks_on = lambda axis: math.ceil(array.shape[axis] / block[axis])
    last_two = range(max(0, array.ndim - 2), array.ndim)
    while math.prod(map(blocks_on, range(array.ndim))) > most:
        axis = max(last_two, key=blocks_on)
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
        if np.isinf(means).any():  # the sum may overflow float64 although the mean does not
            apart = np.add.reduceat(array / np.repeat(lengths, lengths).reshape(beside), starts, axis=axis)
            means = np.where(np.isinf(means), apart, means)
    return means


def _exact_means(array: np.ndarray, axis: int, width: int) -> np.ndarray:
    """_means for integers, as fractions: a sum in int64 could overflow, a sum in float64 would be rounded."""
    starts = np.arange(0, array.shape[axis], width)
    lengths = np.diff(np.append(starts, array.shape[axis])).astype(object)
    add = lambda x: np.add.reduceat(x, starts, axis=axis).astype(object)
    sums = add(array) if array.dtype == object else add(array >> 32) * 2**32 + add(array & 0xFFFFFFFF)
    beside = [-1 if a == axis else 1 for a in range(array.ndim)]
    return np.vectorize(Fraction, otypes=[object])(sums, lengths.reshape(beside))


def ship(
    values: Any,
    name: str,
    labels: Sequence[Sequence[Any] | None] | None = None,
    axes: Sequence[str] | None = None,
    scale: Scale | None = None,
    digits: int = 4,
    most: int = MOST_SHIPPED,
) -> dict[str, Any]:
    """An array as tensor.js reads it. scale: by default diverging where both signs occur, else sequential.

    labels: for each axis a list of texts or None; axes: the axes' names; digits: significant digits shipped;
    most: numbers shipped, above which blocks are replaced by their means.
    """
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
    data = [number(x, digits) for x in small.ravel().tolist()]
    return {
        "name": name, "shape": list(small.shape), "full": list(full), "block": list(block),
        "labels": names, "axes": list(axes or usual), "scale": scale, "data": data,
    }  # fmt: skip


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x - max) / sum over the last axis.

    A row of nothing but -inf becomes zeros; a row with NaN or +inf becomes NaN, as in torch.
    """
    top = x.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        e = np.exp(x - np.where(top == -np.inf, 0, top))
        return e / np.where(top == -np.inf, 1, e.sum(-1, keepdims=True))


def table(shipped: dict[str, Any]) -> Markup:
    """A shipped array as an HTML table for readers without the script.

    Of an array of more than two axes it shows the first slice, of a large one the upper left corner.
    """
    shape, labels = shipped["shape"], shipped["labels"]
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    starts = lambda axis, n: [str(i * shipped["block"][axis]) for i in range(n)]  # where each block begins
    row_names = [""] if len(shape) == 1 else labels[-2] or starts(-2, rows)
    column_names = labels[-1] or starts(-1, columns)
    R, C = min(rows, TABLE_SIZE[0]), min(columns, TABLE_SIZE[1])
    more = [] if columns == C else ["…"]
    cells = [[str(x) for x in shipped["data"][r * columns : r * columns + C]] + more for r in range(R)]
    if rows > R:
        cells.append(["…"] * (C + len(more)))
    title = shipped["name"]
    if len(shape) > 2:
        title += f", slice {[0] * (len(shape) - 2)} of shape {tuple(shipped['full'])}"
    return rows_table(cells, [*row_names[:R], "…"][: len(cells)], [*column_names[:C], *more], title)


def rows_table(
    cells: Sequence[Sequence[str]], row_names: Iterable[str], column_names: Iterable[str], title: str = ""
) -> Markup:
    """Texts as an HTML table: one list of cells per row, one name per row and per column."""
    head = [element("th", {"scope": "col"}, name) for name in column_names]
    body = [
        element("tr", {}, element("th", {"scope": "row"}, name), *[element("td", {}, cell) for cell in row])
        for name, row in zip(row_names, cells)
    ]
    caption = element("caption", {}, title) if title else join()
    top = element("thead", {}, element("tr", {}, element("td", {}), *head))
    return element("table", {}, caption, top, element("tbody", {}, *body))
