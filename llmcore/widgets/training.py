"""TrainingStep: a whole training step of the toy decoder, computed in the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import as_array, floats, number, rows_table, seen
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import BIG, brief, items, label, real, whole

BLOCK = "decoder.blocks.0."
# Every parameter of a decoder of one pre-norm block with layer norm, ReLU, biases, sinusoidal positions and
# an untied head.
PARTS = ("attention_norm", "attention.W_q", "attention.W_k", "attention.W_v", "attention.W_o",
         "feed_forward_norm", "feed_forward.up", "feed_forward.down")  # fmt: skip
NAMES = (
    "embedding.table",
    *(f"{BLOCK}{part}.{kind}" for part in PARTS for kind in ("weight", "bias")),
    "decoder.norm.weight",
    "decoder.norm.bias",
    "head.table",
)
MOST = 6000  # numbers of all parameters together
IDS, WORDS = 64, 1000  # of the sequence, of the vocabulary that is offered


class TrainingStep(Widget):
    """Forward, loss, backward and update of a small decoder; tensors open, and numbers explain themselves.

    parameters: name -> array, those of llmcore.toy.toy_model() (model.state_dict()). ids: the sequence, whose
    next tokens are its targets. vocabulary: id -> text, offered when a token is changed. The page computes in
    float64 and equals llmcore and torch. `losses` are those before each update made so far and after the
    last. Raises ValueError for the parameters of another architecture.
    """

    kind = traitlets.Unicode("training").tag(sync=True)
    losses: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "losses")

    def __init__(
        self,
        parameters: Mapping[str, Any],
        ids: Sequence[int],
        vocabulary: Mapping[int, str],
        n_heads: int = 2,
        norm_eps: float = 1e-5,
        lr: float = 0.5,
        caption: str = "",
    ):
        if not isinstance(parameters, Mapping):
            raise ValueError(f"parameters={brief(parameters)}: pass toy_model().state_dict()")
        missing = [n for n in NAMES if n not in parameters]
        surplus = [n for n in parameters if n not in NAMES]
        if missing or surplus:
            raise ValueError(
                f"missing {missing[:2]}, surplus {brief(surplus[:2])}: the page knows a decoder of one "
                "pre-norm block with layer norm, ReLU, biases, sinusoidal positions and an untied head; "
                "pass toy_model().state_dict()"
            )
        arrays = _parameters(parameters)
        V, D = arrays["embedding.table"].shape
        size = sum(a.size for a in arrays.values())
        n_heads = whole(n_heads, "n_heads", 1, D)
        if size > MOST or D % n_heads or D % 2:
            raise ValueError(
                f"{size} numbers, {n_heads} heads of D={D}: at most {MOST} numbers, an even D, and heads "
                "that divide D"
            )
        words = _words(vocabulary, V)
        tokens = [whole(i, "an id of ids", 0, V - 1) for i in items(ids, "ids", most=IDS)]
        if len(tokens) < 2 or not set(tokens) <= set(words):
            raise ValueError(
                f"ids {tokens}: at least two, each from 0 to {V - 1} and with a text in the vocabulary"
            )
        norm_eps, lr = real(norm_eps, "norm_eps", 0, 1), real(lr, "lr", 0, 1000, above=True)
        weights = {
            name: {"shape": list(a.shape), "data": [number(x, 7) for x in a.ravel().tolist()]}
            for name, a in arrays.items()
        }
        cells = [[" x ".join(map(str, a.shape))] for a in arrays.values()]
        state = {
            "weights": weights, "ids": tokens, "vocabulary": [[i, seen(t)] for i, t in words.items()],
            "config": {"n_heads": n_heads, "norm_eps": norm_eps}, "lr": lr,
        }  # fmt: skip
        still = rows_table(cells, list(arrays), ["shape"])
        super().__init__(state, still, f"{len(tokens)} ids, {size} parameters", caption)


def _parameters(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every parameter with the shape that the first two tables fix."""
    arrays = {name: as_array(given[name], name) for name in NAMES}
    table, up = arrays["embedding.table"], arrays[f"{BLOCK}feed_forward.up.weight"]
    if table.ndim != 2 or up.ndim != 2:
        raise ValueError(
            f"embedding.table {table.shape}, feed_forward.up.weight {up.shape}: give (V, D) and (D, F)"
        )
    (V, D), F = table.shape, up.shape[1]
    wide = {
        "embedding.table": (V, D),
        "head.table": (V, D),
        "up.weight": (D, F),
        "up.bias": (F,),
        "down.weight": (F, D),
    }
    for name, array in arrays.items():
        usual = (D, D) if ".W_" in name and name.endswith("weight") else (D,)
        shape = next((s for end, s in wide.items() if name.endswith(end)), usual)
        if array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}: beside an embedding.table of {table.shape} it needs {shape}"
            )
        floats(array, name, array.ndim, most=BIG)
    return arrays


def _words(vocabulary: Any, V: int) -> dict[int, str]:
    """id -> label, for ids that the tables have."""
    if not isinstance(vocabulary, Mapping) or not 2 <= len(vocabulary) <= WORDS:
        raise ValueError(f"vocabulary={brief(vocabulary)}: give 2 to {WORDS} texts as {{id: text}}")
    return {whole(i, "an id of vocabulary", 0, V - 1): label(t, "vocabulary") for i, t in vocabulary.items()}
