"""PipelineSchedule: when each stage of a pipeline works, waits and holds activations."""

import traitlets

from llmcore.distributed.schedules import bubble, gpipe, interleaved, most_held, timeline
from llmcore.widgets.arrays import number, rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import one_of, real, whole

SCHEDULES = ("gpipe", "1f1b", "interleaved")
MOST = (8, 32)  # stages, microbatches
TIMES = (1e-3, 1e3)  # the page tells moments apart that differ by 1e-9


class PipelineSchedule(Widget):
    """The timeline of m microbatches over p stages: GPipe, 1F1B or interleaved 1F1B; the bubble counted, activations held counted.

    stages: 1 to 8; microbatches: 1 to 32; chunks: of layers a stage, 2 to 4 where schedule="interleaved". forward, backward: time of
    one microbatch through one stage, from 0.001 to 1,000. The page computes what llmcore.distributed.schedules computes. `time` is
    the moment chosen. Raises ValueError for what is unknown, out of range, or would be ignored.
    """

    kind = traitlets.Unicode("pipeline").tag(sync=True)
    time = traitlets.Float(0.0).tag(sync=True)
    shared = ("selection", "time")

    def __init__(
        self, schedule: str = "1f1b", stages: int = 4, microbatches: int = 8, chunks: int = 1, forward: float = 1.0,
        backward: float = 2.0, caption: str = "",
    ):  # fmt: skip
        schedule = one_of(schedule, "schedule", SCHEDULES)
        stages, microbatches = (
            whole(stages, "stages", 1, MOST[0]),
            whole(microbatches, "microbatches", 1, MOST[1]),
        )
        chunks = whole(chunks, "chunks", 1, 4)
        if (schedule == "interleaved") != (chunks > 1):
            raise ValueError(
                f"chunks={chunks} with schedule={schedule!r}: interleaved takes 2 to 4 chunks, the others 1"
            )
        forward, backward = real(forward, "forward", *TIMES), real(backward, "backward", *TIMES)
        orders = (
            gpipe(stages, microbatches) if schedule == "gpipe" else interleaved(stages, microbatches, chunks)
        )
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
