"""Bytes on the fullest rank of a plan."""

import math
from dataclasses import dataclass

from llmcore.accounting import activation_bytes
from llmcore.config import ModelConfig
from llmcore.planning.plan import BYTES, Plan, check
from llmcore.planning.stages import Stage, microbatch, per_block, stages, stream_bytes, tensor_rank


def microbatches_held(plan: Plan, stage: int) -> float:
    """The most microbatches whose activations a stage holds at once under 1F1B, in units of the whole stage.

    Equal to `schedules.most_held` / chunks.

    >>> [microbatches_held(Plan(pipeline=4, microbatches=8), stage) for stage in range(4)]
    [4, 3, 2, 1]
    """
    ahead = plan.pipeline - stage - 1
    if plan.chunks == 1:
        return min(plan.microbatches, ahead + 1)
    pieces = min(plan.microbatches * plan.chunks, 2 * ahead + (plan.chunks - 1) * plan.pipeline + 1)
    return pieces / plan.chunks


def memory(config: ModelConfig, plan: Plan, B: int, T: int) -> dict[str, int]:
    """Bytes on the fullest rank, by part.

    parameters, gradients, optimizer: 16 bytes per parameter of the rank's stage; ZeRO shares them out among
        the data-parallel ranks  [Rajbhandari et al. 2020].
    activations: kept for the backward pass, of all microbatches in the pipe. In bf16 half of those in fp32,
        the norms' statistics too.
    logits: the exponentials that the loss keeps, and the logits' gradient, both in fp32.
    working: needed for a moment: the block that is being recomputed, the weights that ZeRO 3 has gathered.

    Not counted: a second block where an engine gathers ahead, the allocator's gaps, communication buffers,
    CUDA's context. Raises ValueError where the plan does not fit the model or the batch.

    >>> from llmcore.config import GPT2
    >>> {part: round(size / 1e9, 1) for part, size in memory(GPT2, Plan(precision="fp32"), 8, 1024).items()}
    {'parameters': 0.5, 'gradients': 0.5, 'optimizer': 1.0, 'activations': 4.9, 'logits': 3.3, 'working': 0.0}
    """
    check(config, plan, B, T)
    kept = _kept(config, plan, B, T)
    ranks = [_rank_memory(plan, stage, kept) for stage in stages(config, plan)]
    return max(ranks, key=lambda parts: sum(parts.values()))


@dataclass(frozen=True)
class _Kept:
    """Bytes that a rank keeps of one microbatch from its forward to its backward pass."""

    block: int  # of one block, without recomputation
    stays: int  # of one block, with it
    embedding: int
    head: int  # and the norms outside the blocks
    logits: int


def _kept(config: ModelConfig, plan: Plan, B: int, T: int) -> _Kept:
    rank, b, size = tensor_rank(config, plan.tensor), microbatch(plan, B), BYTES[plan.precision].weight
    block, outside = per_block(lambda c: activation_bytes(c, b, T, size), rank)
    stream = stream_bytes(config, plan, B, T)
    split = plan.tensor if plan.sequence_parallel else 1
    # sequence parallelism cuts along T what every tensor rank would hold alike: the norms, and the inputs of
    # attention, feed-forward and head
    alike = block["norms"] + 2 * stream
    whole = sum(block.values()) - alike + alike // split
    squares = block["attention"] - (stream + 4 * b * T * rank.n_heads * rank.d_head * size)
    return _Kept(
        block=whole,
        stays={"none": whole, "selective": whole - squares, "full": stream // split}[plan.recompute],
        embedding=outside["embedding"],
        head=(outside["norms"] + outside["head"]) // split,
        logits=2 * 4 * b * T * rank.vocab_size,
    )


def _rank_memory(plan: Plan, stage: Stage, kept: _Kept) -> dict[str, int]:
    size, held = BYTES[plan.precision], microbatches_held(plan, stage.index)
    shared = math.ceil(stage.parameters / plan.data)  # ZeRO pads to a whole number
    activations = round(held * stage.blocks * kept.stays)
    if stage.first:
        activations += math.ceil(held) * kept.embedding
    if stage.last:
        activations += kept.head
    gathered = size.weight * stage.gathered if plan.zero == 3 else 0
    return {
        "parameters": size.weight * (shared if plan.zero >= 3 else stage.parameters),
        "gradients": size.gradient * (shared if plan.zero >= 2 else stage.parameters),
        "optimizer": size.optimizer * (shared if plan.zero >= 1 else stage.parameters),
        "activations": activations,
        "logits": kept.logits if stage.last else 0,
        "working": kept.block - kept.stays + gathered,
    }
