"""LossSurface and OptimizerRace: gradient descent on losses of two numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import as_array, number, rows_table
from llmcore.widgets.base import Widget

LANDSCAPES = ("bowl", "valley", "saddle")  # as js/landscape.js has them


class LossSurface(Widget):
    """The loss L(w, b) = mean (w x + b - y)^2 of a line on a few points: a map, and steps of gradient descent on it.

    points: (x, y) pairs, shape (N, 2). around: w and b of the middle of the map, by default the least-squares line; span: half
    its width. `weights` is (w, b) now. Raises ValueError for fewer than two points.
    """

    kind = traitlets.Unicode("surface").tag(sync=True)
    weights: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "weights")

    def __init__(
        self, points: Sequence[tuple[float, float]], start: tuple[float, float] = (-1.0, -1.0), lr: float = 0.1, span: float = 3.0,
        around: tuple[float, float] | None = None, caption: str = "",
    ):  # fmt: skip
        p = as_array(points, "points").astype(float)
        if p.ndim != 2 or p.shape[1] != 2 or len(p) < 2 or not np.isfinite(p).all():
            raise ValueError(f"points of shape {p.shape}: give at least two finite pairs (x, y)")
        if not lr > 0 or not span > 0:
            raise ValueError(f"lr={lr}, span={span}: both must be above 0")
        w, b = around if around is not None else np.linalg.lstsq(np.stack([p[:, 0], np.ones(len(p))], 1), p[:, 1], rcond=None)[0]
        cells = [[str(number(x)) for x in row] for row in p.tolist()]
        state = {
            "points": p.tolist(), "from": [number(w - span), number(b - span)], "to": [number(w + span), number(b + span)],
            "start": list(start), "lr": lr,
        }  # fmt: skip
        still = rows_table(cells, [str(i) for i in range(len(p))], ["x", "y"])
        super().__init__(state, still, f"{len(p)} points", caption, weights=list(start))


class OptimizerRace(Widget):
    """The paths of SGD, SGD with momentum 0.9 and Adam on one loss: learning rates, condition number and steps live.

    land: "bowl" (x^2 + k y^2) / 2, "valley" (1 - x)^2 / 2 + k (y - x^2)^2 / 10, or "saddle" x^4 / 4 - x^2 / 2 + k y^2 / 2, k
    the condition number. lr: optimizer -> learning rate. `losses` after the steps, None for a path that left.
    Raises ValueError for what is unknown.
    """

    kind = traitlets.Unicode("race").tag(sync=True)
    losses: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "losses")

    def __init__(
        self, land: str = "bowl", condition: float = 10.0, steps: int = 40, lr: Mapping[str, float] | None = None, caption: str = ""
    ):
        rates = {"sgd": 0.05, "momentum": 0.02, "adam": 0.1, **(lr or {})}
        if land not in LANDSCAPES or set(rates) != {"sgd", "momentum", "adam"}:
            raise ValueError(f"land={land!r}, lr for {list(rates)}: choose a land of {LANDSCAPES} and rates for sgd, momentum, adam")
        if not 1 <= condition <= 100 or not 1 <= steps <= 300 or min(rates.values()) <= 0:
            raise ValueError(f"condition={condition}, steps={steps}, lr={rates}: need 1..100, 1..300 and rates above 0")
        still = rows_table(
            [[str(r)] for r in rates.values()], list(rates), ["learning rate"], f"{land}, condition number {condition:g}"
        )
        state = {"land": land, "condition": condition, "steps": steps, "lr": rates}
        super().__init__(state, still, f"{land}, condition {condition:g}, {steps} steps", caption)
