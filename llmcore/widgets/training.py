"""TrainingStep: a whole training step of the toy decoder, computed in the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from llmcore.widgets.arrays import as_array, number, rows_table, seen
from llmcore.widgets.base import Widget

BLOCK = "decoder.blocks.0."
# Every parameter of a decoder of one pre-norm block with layer norm, ReLU, biases, sinusoidal positions and an untied head.
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


class TrainingStep(Widget):
    """Forward, loss, backward and update of a small decoder, step by step; every tensor opens, every number explains itself.

    parameters: name -> array, those of llmcore.toy.toy_model() (model.state_dict()). ids: the sequence, whose next tokens are its
    targets. vocabulary: id -> text, offered when a token is changed. The page computes in float64 and equals llmcore and torch.
    `losses` are those before each update made so far and after the last. Raises ValueError for another architecture's parameters.
    """

    kind = traitlets.Unicode("training").tag(sync=True)
    losses: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "losses")

    def __init__(
        self, parameters: Mapping[str, Any], ids: Sequence[int], vocabulary: Mapping[int, str], n_heads: int = 2,
        norm_eps: float = 1e-5, lr: float = 0.5, caption: str = "",
    ):  # fmt: skip
        missing, surplus = [n for n in NAMES if n not in parameters], [n for n in parameters if n not in NAMES]
        if missing or surplus:
            raise ValueError(
                f"missing {missing[:2]}, surplus {surplus[:2]}: the page knows a decoder of one pre-norm block with layer norm, ReLU, "
                "biases, sinusoidal positions and an untied head; pass toy_model().state_dict()"
            )
        arrays = {name: as_array(parameters[name], name) for name in NAMES}
        V, D = arrays["embedding.table"].shape
        size = sum(a.size for a in arrays.values())
        if size > MOST or D % n_heads:
            raise ValueError(f"{size} numbers, {n_heads} heads of D={D}: at most {MOST} numbers, and heads that divide D")
        if len(ids) < 2 or min(ids) < 0 or max(ids) >= V or not set(ids) <= set(vocabulary):
            raise ValueError(f"ids {list(ids)}: at least two, each from 0 to {V - 1} and with a text in the vocabulary")
        if not lr > 0:
            raise ValueError(f"lr={lr}: must be above 0")
        weights = {name: {"shape": list(a.shape), "data": [number(x, 7) for x in a.ravel().tolist()]} for name, a in arrays.items()}
        cells = [[" x ".join(map(str, a.shape))] for a in arrays.values()]
        state = {
            "weights": weights, "ids": list(ids), "vocabulary": [[i, seen(str(t))] for i, t in vocabulary.items()],
            "config": {"n_heads": n_heads, "norm_eps": norm_eps}, "lr": lr,
        }  # fmt: skip
        super().__init__(state, rows_table(cells, list(arrays), ["shape"]), f"{len(ids)} ids, {size} parameters", caption)
