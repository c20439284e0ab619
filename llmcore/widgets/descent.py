"""LossSurface and OptimizerRace: gradient descent on a loss of two parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

from llmcore.widgets.arrays import floats, number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, one_of, pair, real, whole

MOST_POINTS = 200  # of the line's data
LANDSCAPES = ("bowl", "valley", "saddle")  # as js/landscape.js has them


class LossSurface(Widget):
    """The loss L(w, b) = mean (w x + b - y)^2 of a line on points: a map with steps of gradient descent.

    points: (x, y) pairs, shape (N, 2). start: (w, b) before the first step. around: the (w, b) in the middle
    of the map, by default the least-squares line; span: half the map's width. `weights` is (w, b) now. Raises
    ValueError for fewer than two points.
    """

    kind = traitlets.Unicode("surface").tag(sync=True)
    weights: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "weights")

    def __init__(
        self,
        points: Sequence[tuple[float, float]],
        start: tuple[float, float] = (-1.0, -1.0),
        lr: float = 0.1,
        span: float = 3.0,
        around: tuple[float, float] | None = None,
        caption: str = "",
    ):
        p = floats(points, "points", 2, most=1e6)
        if p.shape[1] != 2 or not 2 <= len(p) <= MOST_POINTS:
            raise ValueError(
                f"points of shape {p.shape}: give at least two finite pairs (x, y), at most {MOST_POINTS}"
            )
        begin, lr = pair(start, "start"), real(lr, "lr", 0, 1000, above=True)
        span = real(span, "span", 1e-3, 1e6)
        line = np.linalg.lstsq(np.stack([p[:, 0], np.ones(len(p))], 1), p[:, 1], rcond=None)[0]
        w, b = line if around is None else pair(around, "around")
        if span < 0.01 * max(abs(w), abs(b)):  # the ends are rounded to 4 digits
            raise ValueError(
                f"span={span} around w={w:g}, b={b:g}: is below a hundredth of them; choose a wider map"
            )
        cells = [[str(number(x)) for x in row] for row in p.tolist()]
        state = {
            "points": p.tolist(), "from": [number(w - span), number(b - span)],
            "to": [number(w + span), number(b + span)], "start": list(begin), "lr": lr,
        }  # fmt: skip
        still = rows_table(cells, [str(i) for i in range(len(p))], ["x", "y"])
        super().__init__(state, still, f"{len(p)} points", caption, weights=list(begin))


class OptimizerRace(Widget):
    """The paths of SGD, SGD with momentum 0.9 and Adam on one loss, with live learning rates and steps.

    land: the loss, "bowl" (x^2 + k y^2) / 2, "valley" (1 - x)^2 / 2 + k (y - x^2)^2 / 10, or "saddle"
    x^4 / 4 - x^2 / 2 + k y^2 / 2, where k is the condition number. lr: optimizer -> learning rate. `losses`
    are those after the steps, None for a path that diverged. Raises ValueError for an unknown land or
    optimizer and for numbers out of range.
    """

    kind = traitlets.Unicode("race").tag(sync=True)
    losses: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "losses")

    def __init__(
        self,
        land: str = "bowl",
        condition: float = 10.0,
        steps: int = 40,
        lr: Mapping[str, float] | None = None,
        caption: str = "",
    ):
        rates = {"sgd": 0.05, "momentum": 0.02, "adam": 0.1}
        if lr is not None and not (isinstance(lr, Mapping) and set(lr) <= set(rates)):
            raise ValueError(f"lr={brief(lr)}: give {{name: rate}} with names of {list(rates)}")
        rates |= {name: real(rate, f"lr of {name}", 0, 1000, above=True) for name, rate in (lr or {}).items()}
        land, condition = one_of(land, "land", LANDSCAPES), real(condition, "condition", 1, 100)
        steps = whole(steps, "steps", 1, 300)
        cells, title = [[str(r)] for r in rates.values()], f"{land}, condition number {condition:g}"
        still = rows_table(cells, list(rates), ["learning rate"], title)
        state = {"land": land, "condition": condition, "steps": steps, "lr": rates}
        super().__init__(state, still, f"{land}, condition {condition:g}, {steps} steps", caption)
