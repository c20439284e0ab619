"""PipelineSchedule: when each stage of a pipeline works, waits and holds activations."""

import functools
import re
from typing import Any

import traitlets

from llmcore.distributed.schedules import Action, Orders, bubble, gpipe, interleaved, most_held, timeline
from llmcore.widgets.arrays import number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import one_of, real, whole

SCHEDULES = ("gpipe", "1f1b", "interleaved")
MOST = (8, 32)  # stages, microbatches
CHUNKS = (2, 3, 4)  # of layers per stage, where the schedule is interleaved
TIMES = (1e-3, 1e3)  # the page tells moments apart that differ by 1e-9


class PipelineSchedule(Widget):
    """When each stage works, waits and holds activations, under GPipe, 1F1B or interleaved 1F1B.

    stages: 1 to 8; microbatches: 1 to 32; chunks: of layers per stage, 2 to 4 with schedule="interleaved" and
    1 otherwise. forward, backward: time of one microbatch through one stage, from 0.001 to 1,000. `time` is
    the moment chosen. The page plays the orders of llmcore.distributed.schedules, for every number of stages,
    microbatches and chunks that a reader can choose. Raises ValueError where an argument is unknown, out of
    range, or would be ignored.
    """

    kind = traitlets.Unicode("pipeline").tag(sync=True)
    time = traitlets.Float(0.0).tag(sync=True)
    shared = ("selection", "time")

    def __init__(
        self,
        schedule: str = "1f1b",
        stages: int = 4,
        microbatches: int = 8,
        chunks: int = 1,
        forward: float = 1.0,
        backward: float = 2.0,
        caption: str = "",
    ):
        schedule = one_of(schedule, "schedule", SCHEDULES)
        stages = whole(stages, "stages", 1, MOST[0])
        microbatches = whole(microbatches, "microbatches", 1, MOST[1])
        chunks = whole(chunks, "chunks", 1, max(CHUNKS))
        if (schedule == "interleaved") != (chunks > 1):
            raise ValueError(
                f"chunks={chunks} with schedule={schedule!r}: interleaved takes 2 to 4 chunks, the others 1"
            )
        forward, backward = real(forward, "forward", *TIMES), real(backward, "backward", *TIMES)
        orders = make_orders(schedule, stages, microbatches, chunks)
        share = bubble(timeline(orders, forward, backward))
        state = {
            "schedule": schedule, "stages": stages, "microbatches": microbatches, "chunks": chunks,
            "forward": forward, "backward": backward, "orders": ship_schedules(),
        }  # fmt: skip
        lines = [[" ".join(map(str, order)), str(most_held(order))] for order in orders]
        names, columns = [f"stage {s}" for s in range(stages)], ["order of work", "most held"]
        still = rows_table(lines, names, columns, f"{schedule}: idle {number(100 * share, 3)} %")
        super().__init__(state, still, f"{schedule}, {stages} stages, {microbatches} microbatches", caption)


def make_orders(schedule: str, stages: int, microbatches: int, chunks: int) -> Orders:
    """Each stage's order of work under one of SCHEDULES."""
    if schedule == "gpipe":
        return gpipe(stages, microbatches)
    return interleaved(stages, microbatches, chunks)  # one chunk: 1F1B


@functools.cache
def ship_schedules() -> dict[str, dict[str, dict[str, Any]]]:
    """schedule -> chunks -> stages -> orders, for as many microbatches as there can be.

    The orders of m microbatches are these without the microbatches from m on, so the page needs no others.
    """
    shipped: dict[str, dict[str, dict[str, Any]]] = {}
    for schedule in SCHEDULES:
        for chunks in CHUNKS if schedule == "interleaved" else (1,):
            for stages in range(1, MOST[0] + 1):
                group = stages if chunks > 1 else 1  # interleaved microbatches go in groups of p
                most = MOST[1] // group * group
                made = ship_orders(make_orders(schedule, stages, most, chunks))
                shipped.setdefault(schedule, {}).setdefault(str(chunks), {})[str(stages)] = made
    return shipped


def ship_orders(orders: Orders) -> dict[str, Any]:
    """The pieces of work in order, forward and backward, and for each stage how it takes turns between both.

    All stages run the forwards in one order, and the backwards in one. "F1 FB2 B1" reads F, FB FB, B: a stage
    fills, then runs one forward and one backward in turn, then drains.

    >>> ship_orders(interleaved(2, 3, 1))
    {'forwards': '0 1 2', 'backwards': '0 1 2', 'stages': ['F1 FB2 B1', 'FB3']}
    """

    def pieces(order: list[Action], kind: str) -> str:
        return " ".join(str(work)[1:] for work in order if work.kind == kind)

    forwards, backwards = pieces(orders[0], "F"), pieces(orders[0], "B")
    assert all((pieces(order, "F"), pieces(order, "B")) == (forwards, backwards) for order in orders)
    turns = ["".join(work.kind for work in order) for order in orders]
    return {"forwards": forwards, "backwards": backwards, "stages": [run_lengths(turn) for turn in turns]}


def run_lengths(turns: str) -> str:
    """Repeats counted.

    >>> run_lengths("FFFBFBBB")
    'F2 FB2 B2'
    """
    units = [("FB" if "FB" in run else run[0], run) for run in re.findall(r"(?:FB)+|F+(?=FB)|F+|B+", turns)]
    return " ".join(f"{unit}{len(run) // len(unit)}" for unit, run in units)
