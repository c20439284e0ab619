"""CollectiveSimulator: chunks that move round a ring or along a tree."""

from typing import Any

import numpy as np
import traitlets

from llmcore.distributed.schedules import COLLECTIVES, Steps, bytes_per_rank, step_count
from llmcore.widgets.arrays import floats, number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import one_of, real, whole

MOST = 8  # ranks


class CollectiveSimulator(Widget):
    """The sends of llmcore.distributed.schedules, step by step: buffers, whose parts are in them, bytes sent.

    collective: a name of schedules.COLLECTIVES; ranks: 2 to N at the start, N at most 8. values: (N, N)
    numbers; row r is the buffer that rank r starts with, column c its chunk c; by default 10 r + c. n_bytes:
    size of the buffer whose bytes are counted; latency (seconds) and bandwidth (bytes/s) of a link. `step` is
    the number of steps made. Raises ValueError where an argument is unknown or out of range.
    """

    kind = traitlets.Unicode("collective").tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    shared = ("selection", "step")

    def __init__(
        self,
        collective: str = "ring all-reduce",
        ranks: int = 4,
        values: Any = None,
        n_bytes: int = 1_000_000,
        latency: float = 5e-6,
        bandwidth: float = 50e9,
        caption: str = "",
    ):
        rows, columns = np.indices((MOST, MOST))
        start = floats(10 * rows + columns if values is None else values, "values", 2, most=1e15)
        N = len(start)
        collective = one_of(collective, "collective", COLLECTIVES)
        if start.shape != (N, N) or not 2 <= N <= MOST:
            raise ValueError(
                f"values of shape {start.shape}: give (N, N) numbers, a row for each rank and a column for "
                "each chunk, N from 2 to 8"
            )
        ranks = whole(ranks, "ranks", 2, N)  # as many as values has rows at most
        n_bytes = whole(n_bytes, "n_bytes", 1)
        latency = real(latency, "latency", 0, 1e6)
        bandwidth = real(bandwidth, "bandwidth", 0, 1e18, above=True)
        state = {
            "collective": collective,
            "ranks": ranks,
            "values": [[number(x) for x in row] for row in start.tolist()],
            "n_bytes": n_bytes,
            "latency": latency,
            "bandwidth": bandwidth,
            "schedules": ship_schedules(N),
        }
        sent = {name: f"{bytes_per_rank(name, ranks, n_bytes):,.0f}" for name in COLLECTIVES}
        lines = [[str(step_count(name, ranks)), sent[name]] for name in COLLECTIVES]
        heads = ["steps", "bytes sent by the busiest rank"]
        still = rows_table(lines, list(COLLECTIVES), heads, f"{ranks} ranks, a buffer of {n_bytes:,} bytes")
        super().__init__(state, still, f"{collective}, {ranks} ranks", caption)


def ship_schedules(most: int) -> dict[str, dict[str, Any]]:
    """collective -> ranks, from 2 to the most there are -> steps of [source, destination, chunk, added]."""

    def plain(steps: Steps) -> list[Any]:
        return [[[s.source, s.destination, s.chunk, int(s.add)] for s in step] for step in steps]

    return {name: {str(p): plain(make(p)) for p in range(2, most + 1)} for name, make in COLLECTIVES.items()}
