"""PipelineSchedule: when each stage of a pipeline works, waits and holds activations."""

import traitlets

from llmcore.distributed.schedules import bubble, gpipe, interleaved, most_held, timeline
from llmcore.widgets.arrays import number, rows_table
from llmcore.widgets.base import Widget

SCHEDULES = ("gpipe", "1f1b", "interleaved")
MOST = (8, 32)  # stages, microbatches


class PipelineSchedule(Widget):
    """The timeline of m microbatches over p stages: GPipe, 1F1B or interleaved 1F1B; the bubble counted, activations held counted.

    stages: 1 to 8; microbatches: 1 to 32; chunks: of layers a stage, 2 to 4 where schedule="interleaved". forward, backward: time of
    one microbatch through one stage. The page computes what llmcore.distributed.schedules computes. `time` is the moment chosen.
    Raises ValueError for what is unknown, out of range, or would be ignored.
    """

    kind = traitlets.Unicode("pipeline").tag(sync=True)
    time = traitlets.Float(0.0).tag(sync=True)
    shared = ("selection", "time")

    def __init__(
        self, schedule: str = "1f1b", stages: int = 4, microbatches: int = 8, chunks: int = 1, forward: float = 1.0,
        backward: float = 2.0, caption: str = "",
    ):  # fmt: skip
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} is unknown: choose one of {SCHEDULES}")
        if not 1 <= stages <= MOST[0] or not 1 <= microbatches <= MOST[1]:
            raise ValueError(f"stages={stages}, microbatches={microbatches}: the page draws 1 to {MOST[0]} and 1 to {MOST[1]}")
        if (schedule == "interleaved") != (chunks > 1) or not 1 <= chunks <= 4:
            raise ValueError(f"chunks={chunks} with schedule={schedule!r}: interleaved takes 2 to 4 chunks, the others 1")
        if forward <= 0 or backward <= 0:
            raise ValueError(f"forward={forward}, backward={backward}: both must be above 0")
        orders = gpipe(stages, microbatches) if schedule == "gpipe" else interleaved(stages, microbatches, chunks)
        share = bubble(timeline(orders, forward, backward))
        state = {
            "schedule": schedule, "stages": stages, "microbatches": microbatches, "chunks": chunks, "forward": forward,
            "backward": backward,
        }  # fmt: skip
        lines = [[" ".join(map(str, order)), str(most_held(order))] for order in orders]
        still = rows_table(
            lines,
            [f"stage {s}" for s in range(stages)],
            ["order of work", "most held"],
            f"{schedule}: idle {number(100 * share, 3)} %",
        )
        super().__init__(state, still, f"{schedule}, {stages} stages, {microbatches} microbatches", caption)
