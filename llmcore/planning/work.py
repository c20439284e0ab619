"""FLOPs of a planned step, the seconds that they and the messages take, and what follows from those."""

import math

from llmcore.accounting import flops, training_flops
from llmcore.config import ModelConfig
from llmcore.planning.hardware import Hardware
from llmcore.planning.plan import Plan, check
from llmcore.planning.stages import microbatch, per_block, stages, tensor_rank
from llmcore.planning.traffic import data_bytes, pipeline_bytes, ring_rate, table_bytes, tensor_bytes
from llmcore.quantities import amount


def hardware_flops(config: ModelConfig, plan: Plan, B: int, T: int) -> int:
    """FLOPs that all ranks run in a step: training_flops, and those that recomputation runs again."""
    check(config, plan, B, T)
    return training_flops(config, B, T) + _recomputed(plan, flops(config, B, T))


def stage_flops(config: ModelConfig, plan: Plan, B: int, T: int) -> list[int]:
    """FLOPs per microbatch of one rank of each stage: forward, backward and recomputation."""
    block, outside = per_block(lambda c: flops(c, microbatch(plan, B), T), tensor_rank(config, plan.tensor))
    per_layer = 3 * sum(block.values()) + _recomputed(plan, block)
    return [s.blocks * per_layer + s.last * 3 * outside["head"] for s in stages(config, plan)]


def _recomputed(plan: Plan, forward: dict[str, int]) -> int:
    """Those of a forward pass's FLOPs that run again in the backward pass."""
    blocks = sum(forward.values()) - forward["head"]
    return {"none": 0, "selective": forward["scores"], "full": blocks}[plan.recompute]


def step_time(
    config: ModelConfig,
    plan: Plan,
    hardware: Hardware,
    B: int,
    T: int,
    efficiency: float = 0.6,
    overhead: float = 0.0,
) -> dict[str, float]:
    """Seconds of a step, by what they go into; their sum is the step.

    compute: FLOPs / (peak x efficiency) of the slowest stage, and `overhead` for each of its blocks.
    tensor, pipeline: bytes / link, not hidden.
    bubble: (pipeline - 1) / chunks microbatches of waiting  [Narayanan et al. 2021].
    data: what does not hide behind the backward pass of the last microbatch (ZeRO 2 and 3: behind all
        compute).

    efficiency is the share of the peak that kernels reach while they run. overhead is the seconds that a
    block of a microbatch takes, forward and backward, to start kernels and messages, however small it is; a
    third more where it runs again. Both are to be measured or stated.

    Neighbours in rank are first tensor, then pipeline, then data ranks. Collectives go at `ring_rate`,
    activations between stages over one link. Raises ValueError for an efficiency outside (0, 1], for a
    negative overhead, and where the plan does not fit the model or the batch.
    """
    _check_assumptions(efficiency, overhead)
    check(config, plan, B, T)
    rate = hardware.peak(plan.precision) * efficiency
    block_overhead = overhead * (4 / 3 if plan.recompute == "full" else 1)
    ring = ring_rate(hardware, plan.tensor)
    data_ring = ring_rate(hardware, plan.data, plan.tensor * plan.pipeline)
    link = hardware.inside if plan.tensor * plan.pipeline <= hardware.node_size else hardware.between
    parts = stages(config, plan)
    compute, tensor, pipeline = max(  # of one microbatch on the slowest stage
        (
            (
                work / rate + stage.blocks * block_overhead,
                tensor_bytes(config, plan, stage, B, T) / ring,
                pipeline_bytes(config, plan, stage, B, T) / link,
            )
            for stage, work in zip(parts, stage_flops(config, plan, B, T), strict=True)
        ),
        key=sum,
    )
    m = plan.microbatches
    hidden = m * compute if plan.zero >= 2 else compute * 2 / 3
    data = max(data_bytes(plan, stage) for stage in parts) / data_ring
    return {
        "compute": m * compute,
        "tensor": m * tensor,
        "pipeline": m * pipeline + table_bytes(config, plan, parts[0]) / link,
        "bubble": (plan.pipeline - 1) / plan.chunks * (compute + tensor + pipeline),
        "data": max(0.0, data - hidden),
    }


def _check_assumptions(efficiency: float, overhead: float) -> None:
    if not 0 < efficiency <= 1:
        raise ValueError(
            f"efficiency={efficiency}: is the share of the peak that is reached; choose 0 < efficiency <= 1"
        )
    if not 0 <= overhead < math.inf:
        raise ValueError(
            f"overhead={overhead}: is in seconds for each block and microbatch; choose 0 or more"
        )


def utilization(config: ModelConfig, plan: Plan, hardware: Hardware, B: int, T: int, seconds: float) -> float:
    """MFU of a step that takes so many seconds: training_flops / (seconds x ranks x peak).

    FLOPs that are computed again do not count  [Chowdhery et al. 2022].
    """
    amount(seconds=seconds)
    return training_flops(config, B, T) / (seconds * plan.ranks * hardware.peak(plan.precision))


def training_days(
    n_parameters: float, tokens: float, gpus: int, flops_per_gpu: float, recompute: bool = True
) -> float:
    """8 T P / (n X) seconds, in days: T tokens, P parameters, n GPUs of X FLOP/s.

    8 FLOPs per parameter and token with full recomputation, 6 without  [Narayanan et al. 2021, eq. 4]

    >>> round(training_days(175e9, 300e9, 1024, 140e12)), round(training_days(1008e9, 450e9, 3072, 163e12))
    (34, 84)
    """
    amount(n_parameters=n_parameters, tokens=tokens, gpus=gpus, flops_per_gpu=flops_per_gpu)
    return (8 if recompute else 6) * tokens * n_parameters / (gpus * flops_per_gpu) / 86400
