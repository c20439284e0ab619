"""OperationInspector: explain any number of a result."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import EXACT, as_array, is_whole, ship, softmax, table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, flag, items, named, one_of, real, text, whole
from llmcore.widgets.markup import join

MOST_OPERAND = 2048  # numbers of one operand or result: the arithmetic in the page needs all of them
MOST_TO_SQUARE = 1e150  # the square of a larger number may overflow float64
OPERANDS = {  # of each operation; those that may be missing come last
    "matmul": ("A", "B", "b"), "one_hot": ("A", "B"), "add": ("A", "B"), "softmax": ("A",),
    "layer_norm": ("A", "weight", "bias"), "rms_norm": ("A", "weight"), "scores": ("q", "k"),
    "transpose": ("A",), "split_heads": ("A",), "concat_heads": ("A",), "relu": ("A",),
}  # fmt: skip
OPTIONAL = ("b", "weight", "bias")  # the operands that may be missing
Names = Sequence[Any] | None
Operand = tuple[Any, str, Sequence[Names] | None]  # values, name, labels of each axis


class OperationInspector(Widget):
    """One operation, its operands and its result; a chosen cell shows its operand cells and arithmetic.

    Made by the class methods below, one for each operation. The result is computed here from the operands:
    exactly if they are integers, else in float64. Pass `result` to show numbers from elsewhere instead; the
    page marks a cell with ✗ where the arithmetic does not give its number. rows and columns name the places
    of the result. Raises ValueError for shapes that do not fit, operands of more than 2,048 numbers, and
    whatever the page could not recompute in float64: an overflow, or integers whose differences would be
    rounded away.
    """

    kind = traitlets.Unicode("operation").tag(sync=True)

    def __init__(
        self,
        op: str,
        operands: Mapping[str, Operand],
        result: Operand,
        options: dict[str, Any] | None = None,
        caption: str = "",
    ):
        known = OPERANDS[one_of(op, "op", OPERANDS)]
        given = named(operands, "operands", len(known))
        if not set(known) - set(OPTIONAL) <= set(given) <= set(known):
            raise ValueError(f"op={op!r} with operands {list(given)}: it takes {list(known)}")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options={brief(options)}: give {{name: value}}, or None")
        shipped = {}
        for key, operand in given.items():
            shipped[key] = self._ship(*items(operand, f"operands[{key!r}]", 3))
        out = self._ship(*items(result, "result", 3))
        shape = f"{op}, {' and '.join(_size(s) for s in shipped.values())} -> {_size(out)}"
        still = join(*[table(s) for s in (*shipped.values(), out)])
        state = {"op": op, "operands": shipped, "result": out, "options": dict(options or {})}
        super().__init__(state, still, shape, caption)

    @staticmethod
    def _ship(values: Any, name: str, labels: Sequence[Names] | None) -> dict[str, Any]:
        array = _operand(values, text(name, "a name of operands or result"))
        return ship(array, name, labels, digits=7, most=MOST_OPERAND)

    @classmethod
    def matmul(
        cls,
        A: Any,
        B: Any,
        bias: Any = None,
        *,
        names: Sequence[str] = ("A", "B", "y", "b"),
        rows: Names = None,
        inner: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """y = A @ B (+ bias). A and B have 2 axes, or more if the axes before the last two agree.

        names: of A, B, the result and the bias; without a bias, three are enough.
        """
        names = _names(names, 3 if bias is None and len(names) == 3 else 4)
        a, b = _operand(A, names[0]), _operand(B, names[1])
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(
                f"{names[0]} {a.shape} @ {names[1]} {b.shape}: the inner sizes must agree; "
                "transpose one of them?"
            )
        more, fewer = sorted((a.shape[:-2], b.shape[:-2]), key=len, reverse=True)
        if more[len(more) - len(fewer) :] != fewer:
            raise ValueError(
                f"{names[0]} {a.shape} @ {names[1]} {b.shape}: the axes before the last two must be the same"
            )
        size = math.prod(more) * a.shape[-2] * b.shape[-1]
        if size > MOST_OPERAND:
            raise ValueError(
                f"{names[2]} would have {size} numbers, more than {MOST_OPERAND}: "
                f"explain a part of {names[0]} or {names[1]}"
            )
        operands = {
            "A": (a, names[0], _labels(a, rows, inner)),
            "B": (b, names[1], _labels(b, inner, columns)),
        }
        terms: list[np.ndarray] = []
        if bias is not None:
            c = _operand(bias, names[3])
            if c.shape != (b.shape[-1],):
                raise ValueError(
                    f"{names[3]} has shape {c.shape}: a bias has one number for each column, ({b.shape[-1]},)"
                )
            operands["b"], terms = (c, names[3], [columns]), [c]
        y = _computed(lambda a, b, *c: sum(c, start=a @ b), [a, b, *terms], a.shape[-1] + 1, names[2])
        shown = (_given(result, y), names[2], _labels(y, rows, columns))
        return cls("matmul", operands, shown, caption=caption)

    @classmethod
    def one_hot(
        cls,
        ids: Sequence[int],
        E: Any,
        *,
        names: Sequence[str] = ("one-hot", "E", "x"),
        rows: Names = None,
        entries: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """x = one_hot(ids) @ E: each row of the product is a row of E. entries: names of E's rows."""
        names = _names(names, 3)
        e, i = _operand(E, names[1]), _operand(ids, "ids")
        if e.ndim != 2:
            raise ValueError(f"{names[1]} has shape {e.shape}: give a table of two axes, a row for each id")
        if i.ndim != 1 or i.dtype.kind != "i" or i.min() < 0 or i.max() >= len(e):
            raise ValueError(
                f"ids {brief(i.tolist())} for {len(e)} rows of {names[1]}: "
                f"pass whole numbers from 0 to {len(e) - 1}"
            )
        if len(i) * max(e.shape) > MOST_OPERAND:
            raise ValueError(
                f"{len(i)} ids of {e.shape[0]} x {e.shape[1]} numbers make a matrix of more than "
                f"{MOST_OPERAND}: pass fewer ids"
            )
        hot = (i[:, None] == np.arange(len(e))).astype(np.int64)
        rows = [str(x) for x in i] if rows is None else rows
        operands = {"A": (hot, names[0], [rows, entries]), "B": (e, names[1], [entries, columns])}
        x = _computed(lambda hot, e: hot @ e, [hot, e], len(e), names[2])
        return cls("one_hot", operands, (_given(result, x), names[2], [rows, columns]), caption=caption)

    @classmethod
    def add(
        cls,
        A: Any,
        B: Any,
        *,
        names: Sequence[str] = ("A", "B", "A + B"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """A + B, both of the same shape."""
        names = _names(names, 3)
        a, b = _operand(A, names[0]), _operand(B, names[1])
        if a.shape != b.shape:
            raise ValueError(f"{names[0]} {a.shape} + {names[1]} {b.shape}: the shapes must be equal")
        labels = _labels(a, rows, columns)
        operands = {"A": (a, names[0], labels), "B": (b, names[1], labels)}
        y = _computed(lambda a, b: a + b, [a, b], 1, names[2])
        return cls("add", operands, (_given(result, y), names[2], labels), caption=caption)

    @classmethod
    def softmax(
        cls,
        x: Any,
        *,
        names: Sequence[str] = ("scores", "weights"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """softmax of each row: one of nothing but -inf becomes zeros, one with NaN or +inf becomes NaN."""
        names = _names(names, 2)
        a = _floats(x, names[0])
        labels = _labels(a, rows, columns)
        shown = (_given(result, softmax(a)), names[1], labels)
        return cls("softmax", {"A": (a, names[0], labels)}, shown, caption=caption)

    @classmethod
    def layer_norm(
        cls,
        x: Any,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        *,
        names: Sequence[str] = ("x", "LN(x)"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """(x - mean) / sqrt(var + eps) * weight + bias over each row."""
        names, eps = _names(names, 2), real(eps, "eps", 0, 1e6)
        a = _squared(x, names[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            centred = a - a.mean(-1, keepdims=True)
            y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        gains = {"weight": weight, "bias": bias}
        return cls._norm("layer_norm", a, y, gains, eps, names, rows, columns, result, caption)

    @classmethod
    def rms_norm(
        cls,
        x: Any,
        weight: Any = None,
        eps: float = 1e-5,
        *,
        names: Sequence[str] = ("x", "RMS(x)"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """x / sqrt(mean(x^2) + eps) * weight over each row."""
        names, eps = _names(names, 2), real(eps, "eps", 0, 1e6)
        a = _squared(x, names[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            y = a / np.sqrt((a**2).mean(-1, keepdims=True) + eps)
        return cls._norm("rms_norm", a, y, {"weight": weight}, eps, names, rows, columns, result, caption)

    @classmethod
    def _norm(
        cls,
        op: str,
        a: np.ndarray,
        y: np.ndarray,
        gains: dict[str, Any],
        eps: float,
        names: Sequence[str],
        rows: Names,
        columns: Names,
        result: Any,
        caption: str,
    ) -> "OperationInspector":
        """y, the normalised a, times the weight and plus the bias where they are given."""
        labels = _labels(a, rows, columns)
        operands: dict[str, Operand] = {"A": (a, names[0], labels)}
        for key, values in gains.items():
            if values is None:
                continue
            gain = _squared(values, key)
            if gain.shape != a.shape[-1:]:
                raise ValueError(
                    f"{key} has shape {gain.shape}: a norm over {a.shape[-1]} numbers needs ({a.shape[-1]},)"
                )
            with np.errstate(invalid="ignore"):
                y = y * gain if key == "weight" else y + gain
            operands[key] = (gain, key, [columns])
        return cls(op, operands, (_given(result, y), names[1], labels), {"eps": eps}, caption)

    @classmethod
    def scores(
        cls,
        q: Any,
        k: Any,
        causal: bool = False,
        *,
        names: Sequence[str] = ("Q", "K", "scores"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """q @ k^T / sqrt(Dh); the T queries are the last T of the S keys.

        causal: keys after the query get -inf.
        """
        names, causal = _names(names, 3), flag(causal, "causal")
        a, b = _floats(q, names[0]), _floats(k, names[1])
        if a.ndim < 2 or a.shape[-1] != b.shape[-1] or a.shape[:-2] != b.shape[:-2]:
            raise ValueError(
                f"{names[0]} {a.shape} and {names[1]} {b.shape}: "
                "queries and keys need one width and the same heads"
            )
        T, S = a.shape[-2], b.shape[-2]
        if causal and T > S:
            raise ValueError(
                f"causal with {T} queries and {S} keys: the queries are the last of the keys; "
                "give causal=False"
            )
        if math.prod(a.shape[:-1]) * S > MOST_OPERAND:
            raise ValueError(
                f"{names[2]} would have more than {MOST_OPERAND} numbers: "
                f"explain a part of {names[0]} or {names[1]}"
            )
        scaled = lambda a, b: a @ np.swapaxes(b, -1, -2) / np.sqrt(a.shape[-1])
        y = _computed(scaled, [a, b], a.shape[-1], names[2])
        if causal:
            y = np.where(np.arange(S) > np.arange(S - T, S)[:, None], -np.inf, y)
        columns = columns if columns is not None else rows if T == S else None
        operands = {"q": (a, names[0], _labels(a, rows, None)), "k": (b, names[1], _labels(b, columns, None))}
        shown = (_given(result, y), names[2], _labels(y, rows, columns))
        return cls("scores", operands, shown, {"causal": causal, "before": S - T}, caption)

    @classmethod
    def transpose(
        cls,
        x: Any,
        *,
        names: Sequence[str] = ("x", "x^T"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """The last two axes exchanged; rows and columns name those of x."""
        names = _names(names, 2)
        a = _operand(x, names[0])
        if a.ndim < 2:
            raise ValueError(f"{names[0]} has shape {a.shape}: a transpose needs two axes")
        y = np.swapaxes(a, -1, -2)
        shown = (_given(result, y), names[1], _labels(y, columns, rows))
        return cls("transpose", {"A": (a, names[0], _labels(a, rows, columns))}, shown, caption=caption)

    @classmethod
    def split_heads(
        cls,
        x: Any,
        n_heads: int,
        *,
        names: Sequence[str] = ("Q", "heads"),
        rows: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """(T, H Dh) -> (H, T, Dh): head h is columns h Dh to (h + 1) Dh - 1."""
        names, n_heads = _names(names, 2), whole(n_heads, "n_heads", 1, MOST_OPERAND)
        a = _operand(x, names[0])
        if a.ndim != 2 or a.shape[1] % n_heads:
            raise ValueError(
                f"{names[0]} {a.shape} into {n_heads} heads: "
                "needs two axes, the second a multiple of the heads"
            )
        y = a.reshape(len(a), n_heads, -1).transpose(1, 0, 2)
        heads = [f"head {h}" for h in range(n_heads)]
        operands = {"A": (a, names[0], [rows, None])}
        shown = (_given(result, y), names[1], [heads, rows, None])
        return cls("split_heads", operands, shown, {"d_head": y.shape[-1]}, caption)

    @classmethod
    def concat_heads(
        cls,
        heads: Any,
        *,
        names: Sequence[str] = ("heads", "concat"),
        rows: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """(H, T, Dh) -> (T, H Dh), the inverse of split_heads."""
        names = _names(names, 2)
        a = _operand(heads, names[0])
        if a.ndim != 3:
            raise ValueError(f"{names[0]} has shape {a.shape}: concat takes (heads, tokens, d_head)")
        y = a.transpose(1, 0, 2).reshape(a.shape[1], -1)
        operands = {"A": (a, names[0], [[f"head {h}" for h in range(len(a))], rows, None])}
        shown = (_given(result, y), names[1], [rows, None])
        return cls("concat_heads", operands, shown, {"d_head": a.shape[-1]}, caption)

    @classmethod
    def relu(
        cls,
        x: Any,
        *,
        names: Sequence[str] = ("x", "relu(x)"),
        rows: Names = None,
        columns: Names = None,
        result: Any = None,
        caption: str = "",
    ) -> "OperationInspector":
        """max(x, 0), cell by cell."""
        names = _names(names, 2)
        a = _operand(x, names[0])
        labels = _labels(a, rows, columns)
        shown = (_given(result, np.maximum(a, 0)), names[1], labels)
        return cls("relu", {"A": (a, names[0], labels)}, shown, caption=caption)


def _names(names: Any, n: int) -> list[str]:
    """n texts: the names of the operands and the result."""
    return [text(name, "a name of names") for name in items(names, "names", n)]


def _operand(values: Any, name: str) -> np.ndarray:
    """An array that is small enough to be shipped whole."""
    array = as_array(values, name)
    if array.size > MOST_OPERAND:
        raise ValueError(
            f"{name} has {array.size} numbers, more than {MOST_OPERAND}: "
            f"explain a part, such as {name}[:8, :8]"
        )
    return array


def _floats(values: Any, name: str) -> np.ndarray:
    """An operand in float64, with no number rounded."""
    array = _operand(values, name)
    if is_whole(array) and max(abs(int(array.max())), abs(int(array.min()))) > EXACT:
        raise ValueError(
            f"{name} holds integers beyond 2^53, which float64 rounds: scale them, or convert them yourself"
        )
    return array.astype(np.float64)


def _squared(values: Any, name: str) -> np.ndarray:
    """An operand whose finite numbers have finite squares."""
    array = _floats(values, name)
    if np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max() > MOST_TO_SQUARE:
        raise ValueError(
            f"{name} holds numbers above {MOST_TO_SQUARE:g}, whose squares are beyond float64: "
            "scale them first"
        )
    return array


def _computed(f: Callable[..., np.ndarray], operands: list[np.ndarray], terms: int, name: str) -> np.ndarray:
    """f of the operands, exactly if all are integers, else in float64.

    f adds at most `terms` products for each number of its result. The page does the same in float64, where a
    sum of n products is off by at most (n + 3) 2^-53 times the sum of their absolute values. Raises
    ValueError where that error could be seen in the result, and where finite operands give a number that is
    not finite.
    """
    if not all(map(is_whole, operands)):
        numbers = [_floats(x, name) for x in operands]
        with np.errstate(over="ignore", invalid="ignore"):
            y = f(*numbers)
        if not np.isfinite(y).all() and all(np.isfinite(x).all() for x in numbers):
            raise ValueError(f"{name} would be beyond float64: scale the operands first")
        return y
    y, sizes = f(*[x.astype(object) for x in operands]), f(*[abs(x.astype(object)) for x in operands])
    for value, size in zip(y.flat, sizes.flat):
        if abs(value) >= 2**1023 or (size > EXACT and size * (terms + 3) * 10**5 > abs(value) * 2**53):
            raise ValueError(
                f"{name} is {brief(value)} where terms add up to {brief(size)}: float64 loses it; "
                "scale the operands"
            )
    return as_array(y, name)


def _labels(array: np.ndarray, rows: Names, columns: Names) -> list[Names]:
    """Names for the last two axes, None for those before."""
    return ([None] * (array.ndim - 2) + [rows, columns])[-array.ndim :]


def _given(result: Any, computed: np.ndarray) -> np.ndarray:
    """The given result, whose shape must be that of the computed one; if none is given, the computed one."""
    if result is None:
        return computed
    shown = _operand(result, "result")
    if shown.shape != computed.shape:
        raise ValueError(f"result has shape {shown.shape}, the operation gives {computed.shape}")
    return shown


def _size(shipped: dict[str, Any]) -> str:
    """Name and shape, for the repr."""
    return f"{shipped['name']} {' x '.join(map(str, shipped['full']))}"
