"""PositionExplorer: positions that are added and positions that turn."""

from collections.abc import Sequence

import numpy as np
import traitlets

from llmcore.widgets.arrays import floats, number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import BIG, one_of, real, whole

MOST_CELLS = 4096  # of the table: positions x dimensions
MOST_WIDTH = 32  # numbers of q, and of k


class PositionExplorer(Widget):
    """The sinusoidal table, and two vectors q and k rotated by their positions, with their score.

    Sinusoidal: P[p, 2i] = sin(p / base^(2i/D)), P[p, 2i+1] = cos of the same angle [Vaswani et al. 2017].
    Rotary: the pair (i, i + Dh/2) of q and of k is rotated by position / base^(2i/Dh) [Su et al. 2021].
    `view` is the one shown, "sinusoidal" or "rotary"; `score` is q · k as rotated now. Raises ValueError for
    an odd width.
    """

    kind = traitlets.Unicode("position").tag(sync=True)
    view = traitlets.Unicode("sinusoidal").tag(sync=True)
    score = traitlets.Float(0.0).tag(sync=True)
    shared = ("selection", "view", "score")

    def __init__(
        self,
        d_model: int = 16,
        positions: int = 32,
        base: float = 10000.0,
        q: Sequence[float] = (1.0, 0.6, 0.2, 0.8),
        k: Sequence[float] = (0.9, 0.3, -0.4, 0.5),
        view: str = "sinusoidal",
        caption: str = "",
    ):
        a, b = floats(q, "q", 1, most=BIG), floats(k, "k", 1, most=BIG)
        d_model, positions = (
            whole(d_model, "d_model", 2, MOST_CELLS),
            whole(positions, "positions", 2, MOST_CELLS),
        )
        base = real(base, "base", 1, 1e12, above=True)
        one_of(view, "view", ("sinusoidal", "rotary"))
        if d_model % 2 or a.shape != b.shape or a.size % 2 or a.size > MOST_WIDTH:
            raise ValueError(
                f"d_model={d_model}, q {a.shape}, k {b.shape}: "
                f"pairs need even widths, and q and k one width of at most {MOST_WIDTH}"
            )
        if d_model * positions > MOST_CELLS:
            raise ValueError(
                f"{positions} positions x {d_model} dimensions are more than {MOST_CELLS} cells: "
                "make one of them smaller"
            )
        angles = np.arange(min(positions, 8))[:, None] * base ** (-np.arange(0, min(d_model, 8), 2) / d_model)
        table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(angles), -1)
        cells = [[str(number(x)) for x in row] for row in table.tolist()]
        rows, columns = ([str(i) for i in range(n)] for n in table.shape)
        still = rows_table(cells, rows, columns, "P")
        state = {"d_model": d_model, "positions": positions, "base": base, "q": a.tolist(), "k": b.tolist()}
        shape = f"D={d_model}, {positions} positions, base {base:g}"
        super().__init__(state, still, shape, caption, view=view)
