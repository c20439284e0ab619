"""Bytes that a rank of a plan sends in a step, and the rate at which it can send them.

A ring over n ranks sends (n - 1) / n of a tensor in an all-gather or a reduce-scatter, and twice that in an
all-reduce.
"""

import math

from llmcore.config import ModelConfig
from llmcore.planning.hardware import Hardware
from llmcore.planning.plan import BYTES, Plan, check
from llmcore.planning.stages import Stage, microbatch, stages, stream_bytes
from llmcore.quantities import count


def communication(config: ModelConfig, plan: Plan, B: int, T: int) -> dict[str, float]:
    """Bytes that the busiest rank sends in a step, by kind.

    data, tensor: ring collectives over the data-parallel and the tensor-parallel ranks.
    pipeline: activations and their gradients between stages, and the gradient of a tied table.

    Not counted: the norms' gradients that sequence parallelism sums over the tensor ranks, and single numbers
    such as the loss. Raises ValueError where the plan does not fit the model or the batch.

    >>> from llmcore.config import GPT2
    >>> communication(GPT2, Plan(data=4, precision="fp32"), 8, 1024)["data"] == 2 * 3 / 4 * 4 * 124439808
    True
    """
    check(config, plan, B, T)
    m = plan.microbatches
    sent = [
        {
            "data": data_bytes(plan, stage),
            "tensor": m * tensor_bytes(config, plan, stage, B, T),
            "pipeline": m * pipeline_bytes(config, plan, stage, B, T) + table_bytes(config, plan, stage),
        }
        for stage in stages(config, plan)
    ]
    return max(sent, key=lambda kinds: sum(kinds.values()))


def data_bytes(plan: Plan, stage: Stage) -> int:
    """Bytes per step to the other data-parallel ranks.

    A reduce-scatter of the gradients and an all-gather. ZeRO 2 reduces after each microbatch; ZeRO 3 also
    gathers the weights twice in each.
    """
    m, (weight, gradient, _) = plan.microbatches, BYTES[plan.precision]
    per_parameter = {
        0: 2 * gradient,
        1: gradient + weight,
        2: m * gradient + weight,
        3: m * (gradient + 2 * weight),
    }[plan.zero]
    return per_parameter * (plan.data - 1) * math.ceil(stage.parameters / plan.data)


def tensor_bytes(config: ModelConfig, plan: Plan, stage: Stage, B: int, T: int) -> float:
    """Bytes per microbatch to the other tensor-parallel ranks, forward and backward.

    A block has two all-reduces forward and two backward  [Shoeybi et al. 2019], each of them two messages.
    Sequence parallelism sends as many bytes in halves, and gathers two inputs again for the weights'
    gradients  [Korthikanti et al. 2022].
    """
    t = plan.tensor
    message = (t - 1) / t * stream_bytes(config, plan, B, T)
    in_block = (10 if plan.sequence_parallel else 8) + (4 if plan.recompute == "full" else 0)
    at_embedding, at_head = 2 * stage.first, (3 if plan.sequence_parallel else 2) * stage.last
    # cross-entropy over a split vocabulary sums three fp32 numbers per row: maximum, denominator and target
    loss = stage.last * 2 * (t - 1) / t * 3 * microbatch(plan, B) * T * 4
    return message * (in_block * stage.blocks + at_embedding + at_head) + loss


def pipeline_bytes(config: ModelConfig, plan: Plan, stage: Stage, B: int, T: int) -> float:
    """Bytes per microbatch to the next stage and, backward, to the one before."""
    if plan.pipeline == 1:
        return 0.0
    split = plan.tensor if plan.sequence_parallel else 1
    return stream_bytes(config, plan, B, T) / split * (2 * plan.chunks - stage.first - stage.last)


def table_bytes(config: ModelConfig, plan: Plan, stage: Stage) -> int:
    """Bytes per step of a tied table's gradient, which the first and the last stage all-reduce."""
    if not config.tied or plan.pipeline == 1 or not (stage.first or stage.last):
        return 0
    return math.ceil(config.vocab_size / plan.tensor) * config.d_model * BYTES[plan.precision].gradient


def ring_rate(hardware: Hardware, ranks: int, apart: int = 1) -> float:
    """Bytes per second that each rank of a ring collective sends, if its ranks are `apart` numbers apart.

    Inside a node: the rate of its fast links. Across nodes a ring enters and leaves a node once, however many
    of its ranks lie there. So g ranks in a node can run g rings, each over another adapter, and the g
    adapters together carry what one rank sends: g x between, at most what the fast links carry. NCCL does so
    ("multiple rings", nccl-tests issue 277). Real transfers reach less.

    >>> from llmcore.planning.hardware import H100
    >>> [ring_rate(H100, 8) / 1e9, ring_rate(H100, 16) / 1e9, ring_rate(H100, 16, apart=8) / 1e9]
    [450.0, 400.0, 50.0]
    """
    count(ranks=ranks, apart=apart)
    if ranks * apart <= hardware.node_size:
        return hardware.inside
    return min(hardware.inside, max(1, hardware.node_size // apart) * hardware.between)
