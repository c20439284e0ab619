"""SamplingExplorer: from logits to a token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import floats, number, rows_table, seen, softmax
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import labels

MOST_LOGITS = 2000  # entries of the vocabulary


class SamplingExplorer(Widget):
    """One position's logits (V) under temperature, top-k, top-p and min-p: probabilities and draws.

    The rules apply in this order, as in llmcore.sampling, and the page computes the same. tokens: V names.
    `probabilities` are those after the rules as they are set now. Raises ValueError for more than 2,000
    logits, logits that are not finite, or a number of tokens other than V.
    """

    kind = traitlets.Unicode("sampling").tag(sync=True)
    probabilities: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "probabilities")

    def __init__(self, logits: Any, tokens: Sequence[Any], caption: str = ""):
        x = floats(logits, "logits", 1, most=1e300)
        if not 2 <= len(x) <= MOST_LOGITS:
            raise ValueError(
                f"logits of shape {x.shape}: needs one row of 2 to {MOST_LOGITS} finite numbers, "
                "such as logits[0, "
                "-1]"
            )
        names = [seen(t) for t in labels(tokens, "tokens", len(x))]
        p = softmax(x)
        top = np.argsort(-x, kind="stable")[:12]
        cells = [[str(number(x[i])), str(number(p[i]))] for i in top.tolist()]
        title = f"the {len(top)} most probable of {len(x)}"
        still = rows_table(cells, [names[i] for i in top], ["logit", "softmax"], title)
        state = {"logits": [number(v, 6) for v in x.tolist()], "tokens": names}
        probabilities = [number(v, 6) for v in p.tolist()]
        super().__init__(state, still, f"{len(x)} logits", caption, probabilities=probabilities)
