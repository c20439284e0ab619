"""AttentionInspector: who reads whom, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import as_array, number, rows_table, seen, ship, softmax
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import flag, items, labels, named, one_of, whole

MOST_NUMBERS_QK = 6000  # numbers of all queries and keys together: about 60 KB of JSON


class AttentionInspector(Widget):
    """Attention weights softmax(q k^T / sqrt(Dh)), queries x keys, of any layer and head.

    A chosen cell shows how it was computed. layers: name -> (q, k), q of shape (H, T, Dh) and k of shape
    (H, S, Dh) as they enter the product (after the rotation, if rotary). tokens: names of the T queries;
    key_tokens: names of the S keys (default: the same). causal: the T queries are the last T of the S keys,
    and none reads a later key. real: (start, stop) of the keys that are not padding. `selection` is [layer,
    head, query, key]. Raises ValueError for shapes that do not fit or more than 6,000 numbers.
    """

    kind = traitlets.Unicode("attention").tag(sync=True)

    def __init__(
        self,
        layers: Mapping[str, tuple[Any, Any]],
        tokens: Sequence[Any],
        key_tokens: Sequence[Any] | None = None,
        causal: bool = False,
        real: tuple[int, int] | None = None,
        caption: str = "",
    ):
        arrays = {}
        for name, both in named(layers, "layers", 200).items():
            q, k = items(both, f"{name}: (q, k)", 2)
            arrays[name] = as_array(q, f"{name}: q"), as_array(k, f"{name}: k")
        q0, k0 = next(iter(arrays.values()))
        for name, (q, k) in arrays.items():
            if q.ndim != 3 or k.ndim != 3 or q.shape[0] != k.shape[0] or q.shape[2] != k.shape[2]:
                raise ValueError(
                    f"{name}: q {q.shape} and k {k.shape} must be "
                    "(heads, queries, d_head) and (heads, keys, d_head)"
                )
            if q.shape != q0.shape or k.shape != k0.shape:
                raise ValueError(
                    f"{name}: q {q.shape}, k {k.shape} differ from the first layer's {q0.shape}, {k0.shape}: "
                    "show them apart"
                )
        size = sum(q.size + k.size for q, k in arrays.values())
        if size > MOST_NUMBERS_QK:
            raise ValueError(
                f"{size} numbers of queries and keys, more than {MOST_NUMBERS_QK}: "
                "show fewer layers, heads or tokens"
            )
        (H, T), S = q0.shape[:2], k0.shape[1]
        queries = labels(tokens, "tokens", T)
        if key_tokens is None:
            keys = labels(tokens, "tokens, which name the keys too,", S)
        else:
            keys = labels(key_tokens, "key_tokens", S)
        start, stop = _part(real, S)
        if flag(causal, "causal") and T > S:
            raise ValueError(
                f"causal with {T} queries and {S} keys: the queries are the last of the keys; "
                "give causal=False"
            )
        rule = {"causal": bool(causal), "before": S - T, "start": start, "stop": stop}
        send = lambda x, name, labels: ship(x, name, [None, labels, None], digits=6, most=MOST_NUMBERS_QK)
        shipped = [
            {"name": name, "q": send(q, "q", queries), "k": send(k, "k", keys)}
            for name, (q, k) in arrays.items()
        ]
        weights = attend(q0[0], k0[0], causal, (start, stop))
        cells = [[str(number(w, 3)) for w in row[:10]] for row in weights[:12].tolist()]
        row_names, column_names = [seen(x) for x in queries[:12]], [seen(x) for x in keys[:10]]
        still = rows_table(cells, row_names, column_names, f"weights of head 0, {next(iter(arrays))}")
        shape = f"{len(arrays)} layer{'s' * (len(arrays) > 1)} x {H} heads x {T} queries x {S} keys"
        super().__init__({"layers": shipped, "rule": rule}, still, shape, caption)

    @classmethod
    def from_trace(
        cls,
        traced: Mapping[str, Any],
        tokens: Sequence[Any],
        key_tokens: Sequence[Any] | None = None,
        stack: str = "decoder",
        cross: bool = False,
        batch: int = 0,
        causal: bool | None = None,
        real: tuple[int, int] | None = None,
        caption: str = "",
    ) -> "AttentionInspector":
        """The attention of every block of a stack, from llmcore.trace.

        causal: by default True for a decoder's self-attention; cross-attention is never causal. Where the
        trace holds weights (attention="explicit"), ValueError if they differ from those of the page.
        """
        traced = named(traced, "traced tensors", 10_000)
        stack = one_of(stack, "stack", ("decoder", "encoder"))
        part = "cross_attention" if flag(cross, "cross") else "attention"
        if causal is None or cross:
            causal = stack == "decoder" and not cross
        take = lambda values, path: _sequence(as_array(values, path), path, batch)
        layers = {}
        for path in traced:
            if not (path.startswith(f"{stack}.blocks.") and path.endswith(f".{part}.q")):
                continue
            base = path.removesuffix("q")
            if base + "k" not in traced:
                raise ValueError(
                    f"the trace has {path} and no {base}k: pass it whole, as llmcore.trace gives it"
                )
            q, k = take(traced[path], path), take(traced[base + "k"], base + "k")
            layers[f"block {path.split('.')[2]}"] = (q, k)
            if base + "weights" in traced:
                given = take(traced[base + "weights"], base + "weights")
                rule = flag(causal, "causal"), _part(real, k.shape[1])
                if not np.allclose(given, np.stack([attend(a, b, *rule) for a, b in zip(q, k)]), atol=1e-4):
                    raise ValueError(
                        f"{base}weights are not softmax of the scores under causal={causal}, real={real}: "
                        "say how it was masked"
                    )
        if not layers:
            raise ValueError(
                f"the trace has no {stack}.blocks.*.{part}.q: choose stack and cross for what the model has"
            )
        return cls(layers, tokens, key_tokens, causal, real, caption)


def attend(q: np.ndarray, k: np.ndarray, causal: bool, real: tuple[int, int]) -> np.ndarray:
    """softmax(q k^T / sqrt(Dh)) over the keys that may be read, (T, S); a row without any key is zeros.

    q (T, Dh), k (S, Dh); causal and real as AttentionInspector takes them.
    """
    T, S = len(q), len(k)
    keys = np.arange(S)
    allowed = np.broadcast_to((keys >= real[0]) & (keys < real[1]), (T, S))
    if causal:
        allowed = allowed & (keys <= np.arange(S - T, S)[:, None])
    with np.errstate(invalid="ignore", over="ignore"):
        return softmax(np.where(allowed, q @ k.T / np.sqrt(q.shape[1]), -np.inf))


def _part(real: Any, S: int) -> tuple[int, int]:
    """(start, stop) of the keys that are not padding; all S for None."""
    if real is None:
        return 0, S
    start, stop = items(real, "real", 2)
    return whole(start, "real: start", 0, S - 1), whole(stop, "real: stop", 1, S)


def _sequence(array: np.ndarray, path: str, batch: int) -> np.ndarray:
    """One sequence (H, T, n) of a traced tensor (B, H, T, n)."""
    if array.ndim != 4:
        raise ValueError(
            f"{path} has shape {array.shape}: a trace of attention has (batch, heads, places, numbers)"
        )
    return array[whole(batch, "batch", -len(array), len(array) - 1)]
