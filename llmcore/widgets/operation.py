"""OperationInspector: explain any number of a result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import as_array, ship, table
from llmcore.widgets.base import Widget

MOST = 2048  # numbers of one operand: all of them are shipped, because the arithmetic needs each
Names = Sequence[Any] | None
Operand = tuple[Any, str, Sequence[Names] | None]  # values, name, labels of each axis


class OperationInspector(Widget):
    """One operation with its operands and its result side by side; a chosen result cell shows its operand cells and its arithmetic.

    Made by the class methods below, one an operation. The result is computed here in float64 from the operands; pass `result` to
    show another's numbers instead: the page says ✗ where the arithmetic does not give them. rows and columns name the places of the
    result. Raises ValueError for shapes that do not fit, or operands of more than 2,048 numbers.
    """

    kind = traitlets.Unicode("operation").tag(sync=True)

    def __init__(
        self, op: str, operands: Mapping[str, Operand], result: Operand, options: dict[str, Any] | None = None, caption: str = "",
    ):  # fmt: skip
        shipped = {key: self._ship(*operand) for key, operand in operands.items()}
        out = self._ship(*result)
        shape = f"{op}, {' and '.join(_size(s) for s in shipped.values())} -> {_size(out)}"
        still = "".join(table(s) for s in (*shipped.values(), out))
        super().__init__({"op": op, "operands": shipped, "result": out, "options": options or {}}, still, shape, caption)

    @staticmethod
    def _ship(values: Any, name: str, labels: Sequence[Names] | None) -> dict[str, Any]:
        array = as_array(values, name)
        if array.size > MOST:
            raise ValueError(f"{name} has {array.size} numbers, more than {MOST}: explain a part, such as {name}[:8, :8]")
        return ship(array, name, labels, digits=7, most=MOST)

    @classmethod
    def matmul(cls, A: Any, B: Any, bias: Any = None, *, names: Sequence[str] = ("A", "B", "y", "b"), rows: Names = None,
               inner: Names = None, columns: Names = None, result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """y = A @ B (+ bias). A and B have 2 axes, or more that agree; names: of A, B, the result and the bias."""
        a, b = as_array(A, names[0]), as_array(B, names[1])
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"{names[0]} {a.shape} @ {names[1]} {b.shape}: the inner sizes must agree; transpose one of them?")
        y = a @ b
        operands = {"A": (a, names[0], _labels(a, rows, inner)), "B": (b, names[1], _labels(b, inner, columns))}
        if bias is not None:
            c = as_array(bias, names[3])
            if c.shape != (b.shape[-1],):
                raise ValueError(f"{names[3]} has shape {c.shape}: a bias has one number a column, ({b.shape[-1]},)")
            y = y + c
            operands["b"] = (c, names[3], [columns])
        return cls("matmul", operands, (_given(result, y), names[2], _labels(y, rows, columns)), caption=caption)

    @classmethod
    def one_hot(
        cls, ids: Sequence[int], E: Any, *, names: Sequence[str] = ("one-hot", "E", "x"), rows: Names = None,
        entries: Names = None, columns: Names = None, result: Any = None, caption: str = "",
    ) -> "OperationInspector":  # fmt: skip
        """x = one_hot(ids) @ E: every row of the product is a row of E. entries: names of E's rows."""
        e, i = as_array(E, names[1]), as_array(ids, "ids")
        if i.ndim != 1 or i.dtype.kind != "i" or i.min() < 0 or i.max() >= len(e):
            raise ValueError(f"ids {i.tolist()} for {len(e)} rows of {names[1]}: pass whole numbers from 0 to {len(e) - 1}")
        hot = (i[:, None] == np.arange(len(e))).astype(np.int64)
        rows = rows or [str(x) for x in i]
        operands = {"A": (hot, names[0], [rows, entries]), "B": (e, names[1], [entries, columns])}
        return cls("one_hot", operands, (_given(result, hot @ e), names[2], [rows, columns]), caption=caption)

    @classmethod
    def add(cls, A: Any, B: Any, *, names: Sequence[str] = ("A", "B", "A + B"), rows: Names = None, columns: Names = None,
            result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """A + B, of one shape."""
        a, b = as_array(A, names[0]), as_array(B, names[1])
        if a.shape != b.shape:
            raise ValueError(f"{names[0]} {a.shape} + {names[1]} {b.shape}: the shapes must be equal")
        labels = _labels(a, rows, columns)
        operands = {"A": (a, names[0], labels), "B": (b, names[1], labels)}
        return cls("add", operands, (_given(result, a + b), names[2], labels), caption=caption)

    @classmethod
    def softmax(cls, x: Any, *, names: Sequence[str] = ("scores", "weights"), rows: Names = None, columns: Names = None,
                result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """Each row of x through softmax; a row of -inf becomes zeros."""
        a = as_array(x, names[0]).astype(float)
        top = a.max(-1, keepdims=True)
        e = np.exp(a - np.where(np.isfinite(top), top, 0))
        total = e.sum(-1, keepdims=True)
        y = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
        labels = _labels(a, rows, columns)
        return cls("softmax", {"A": (a, names[0], labels)}, (_given(result, y), names[1], labels), caption=caption)

    @classmethod
    def layer_norm(
        cls, x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, names: Sequence[str] = ("x", "LN(x)"),
        rows: Names = None, columns: Names = None, result: Any = None, caption: str = "",
    ) -> "OperationInspector":  # fmt: skip
        """(x - mean) / sqrt(var + eps) * weight + bias over each row."""
        a = as_array(x, names[0]).astype(float)
        centred = a - a.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return cls._norm("layer_norm", a, y, {"weight": weight, "bias": bias}, eps, names, rows, columns, result, caption)

    @classmethod
    def rms_norm(cls, x: Any, weight: Any = None, eps: float = 1e-5, *, names: Sequence[str] = ("x", "RMS(x)"), rows: Names = None,
                 columns: Names = None, result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """x / sqrt(mean(x^2) + eps) * weight over each row."""
        a = as_array(x, names[0]).astype(float)
        y = a / np.sqrt((a**2).mean(-1, keepdims=True) + eps)
        return cls._norm("rms_norm", a, y, {"weight": weight}, eps, names, rows, columns, result, caption)

    @classmethod
    def _norm(cls, op: str, a: np.ndarray, y: np.ndarray, gains: dict[str, Any], eps: float, names: Sequence[str], rows: Names,
              columns: Names, result: Any, caption: str) -> "OperationInspector":  # fmt: skip
        labels = _labels(a, rows, columns)
        operands: dict[str, Operand] = {"A": (a, names[0], labels)}
        for key, values in gains.items():
            if values is not None:
                gain = as_array(values, key).astype(float)
                if gain.shape != a.shape[-1:]:
                    raise ValueError(f"{key} has shape {gain.shape}: a norm over {a.shape[-1]} numbers needs ({a.shape[-1]},)")
                y = y * gain if key == "weight" else y + gain
                operands[key] = (gain, key, [columns])
        return cls(op, operands, (_given(result, y), names[1], labels), {"eps": eps}, caption)

    @classmethod
    def scores(cls, q: Any, k: Any, causal: bool = False, *, names: Sequence[str] = ("Q", "K", "scores"), rows: Names = None,
               columns: Names = None, result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """q @ k^T / sqrt(Dh); causal: keys after the query get -inf. The T queries are the last T of the S keys."""
        a, b = as_array(q, names[0]).astype(float), as_array(k, names[1]).astype(float)
        if a.ndim < 2 or a.shape[-1] != b.shape[-1] or a.shape[:-2] != b.shape[:-2]:
            raise ValueError(f"{names[0]} {a.shape} and {names[1]} {b.shape}: queries and keys need one width and the same heads")
        T, S = a.shape[-2], b.shape[-2]
        y = a @ np.swapaxes(b, -1, -2) / np.sqrt(a.shape[-1])
        if causal:
            y = np.where(np.arange(S) > np.arange(S - T, S)[:, None], -np.inf, y)
        columns = columns if columns is not None else rows if T == S else None
        operands = {"q": (a, names[0], _labels(a, rows, None)), "k": (b, names[1], _labels(b, columns, None))}
        shown = (_given(result, y), names[2], _labels(y, rows, columns))
        return cls("scores", operands, shown, {"causal": causal, "before": S - T}, caption)

    @classmethod
    def transpose(cls, x: Any, *, names: Sequence[str] = ("x", "x^T"), rows: Names = None, columns: Names = None,
                  result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """The last two axes exchanged; rows and columns name those of x."""
        a = as_array(x, names[0])
        if a.ndim < 2:
            raise ValueError(f"{names[0]} has shape {a.shape}: a transpose needs two axes")
        y = np.swapaxes(a, -1, -2)
        shown = (_given(result, y), names[1], _labels(y, columns, rows))
        return cls("transpose", {"A": (a, names[0], _labels(a, rows, columns))}, shown, caption=caption)

    @classmethod
    def split_heads(cls, x: Any, n_heads: int, *, names: Sequence[str] = ("Q", "heads"), rows: Names = None,
                    result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """(T, H Dh) -> (H, T, Dh): head h is columns h Dh to (h + 1) Dh - 1."""
        a = as_array(x, names[0])
        if a.ndim != 2 or n_heads < 1 or a.shape[1] % n_heads:
            raise ValueError(f"{names[0]} {a.shape} into {n_heads} heads: needs two axes, the second a multiple of the heads")
        y = a.reshape(len(a), n_heads, -1).transpose(1, 0, 2)
        heads = [f"head {h}" for h in range(n_heads)]
        result_of = (_given(result, y), names[1], [heads, rows, None])
        return cls("split_heads", {"A": (a, names[0], [rows, None])}, result_of, {"d_head": y.shape[-1]}, caption)

    @classmethod
    def concat_heads(cls, heads: Any, *, names: Sequence[str] = ("heads", "concat"), rows: Names = None,
                     result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """(H, T, Dh) -> (T, H Dh), the inverse of split_heads."""
        a = as_array(heads, names[0])
        if a.ndim != 3:
            raise ValueError(f"{names[0]} has shape {a.shape}: concat takes (heads, tokens, d_head)")
        y = a.transpose(1, 0, 2).reshape(a.shape[1], -1)
        operands = {"A": (a, names[0], [[f"head {h}" for h in range(len(a))], rows, None])}
        return cls("concat_heads", operands, (_given(result, y), names[1], [rows, None]), {"d_head": a.shape[-1]}, caption)

    @classmethod
    def relu(cls, x: Any, *, names: Sequence[str] = ("x", "relu(x)"), rows: Names = None, columns: Names = None,
             result: Any = None, caption: str = "") -> "OperationInspector":  # fmt: skip
        """max(x, 0), cell by cell."""
        a = as_array(x, names[0])
        labels = _labels(a, rows, columns)
        return cls("relu", {"A": (a, names[0], labels)}, (_given(result, np.maximum(a, 0)), names[1], labels), caption=caption)


def _labels(array: np.ndarray, rows: Names, columns: Names) -> list[Names]:
    """Names for the last two axes, none for the ones before."""
    return ([None] * (array.ndim - 2) + [rows, columns])[-array.ndim :]


def _given(result: Any, computed: np.ndarray) -> np.ndarray:
    """The result as given, else as computed; a given one must have the shape."""
    if result is None:
        return computed
    shown = as_array(result, "result")
    if shown.shape != computed.shape:
        raise ValueError(f"result has shape {shown.shape}, the operation gives {computed.shape}")
    return shown


def _size(shipped: dict[str, Any]) -> str:
    return f"{shipped['name']} {' x '.join(map(str, shipped['full']))}"
