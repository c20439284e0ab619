"""The part of a model that one rank has: a tensor rank's share of every matrix, a pipeline stage's blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmcore.accounting import parameters
from llmcore.config import ModelConfig
from llmcore.planning.plan import BYTES, Plan, layers


def tensor_rank(config: ModelConfig, tensor: int) -> ModelConfig:
    """The model that one of `tensor` ranks computes: its share of the heads, of d_ff and of the vocabulary.

    [Shoeybi et al. 2019]

    >>> from llmcore.config import LLAMA
    >>> tensor_rank(LLAMA, 8).n_heads, tensor_rank(LLAMA, 8).d_head, tensor_rank(LLAMA, 8).d_ff
    (4, 128, 1792)
    """
    return replace(
        config,
        n_heads=config.n_heads // tensor,
        n_kv_heads=config.n_kv_heads // tensor,
        d_head=config.d_head,
        d_ff=config.d_ff // tensor,
        vocab_size=math.ceil(config.vocab_size / tensor),
    )


def per_block(
    f: Callable[[ModelConfig], dict[str, int]], config: ModelConfig
) -> tuple[dict[str, int], dict[str, int]]:
    """The counts of f for one block, and for all that stands outside the blocks.

    f's counts are linear in n_layers: two blocks less one block is a block.
    """
    one, two = f(replace(config, n_layers=1)), f(replace(config, n_layers=2))
    block = {part: two[part] - one[part] for part in one}
    return block, {part: one[part] - block[part] for part in one}


@dataclass(frozen=True)
class Stage:
    """A pipeline stage, as one of its tensor ranks has it."""

    index: int
    first: bool
    last: bool
    blocks: int
    parameters: int
    gathered: int  # parameters that ZeRO 3 has whole at once: one block, and what stands outside the blocks


def stages(config: ModelConfig, plan: Plan) -> list[Stage]:
    """The pipeline's stages, from the first to the last."""
    block, outside = per_block(parameters, tensor_rank(config, plan.tensor))
    block_size, norm = sum(block.values()), block["norms"] // 2
    embedding_norm = norm * config.embedding_norm
    at_start = outside["embedding"] + outside["positions"] + outside["segments"] + embedding_norm
    at_end = outside["norms"] - embedding_norm + outside["head"]
    if config.tied and plan.pipeline > 1:  # the table lies on the first stage, and the last needs a copy
        at_end += outside["embedding"]
    found = []
    for index, blocks in enumerate(layers(config, plan)):
        first, last = index == 0, index == plan.pipeline - 1
        ends = first * at_start + last * at_end
        size = blocks * block_size + ends
        found.append(Stage(index, first, last, blocks, parameters=size, gathered=block_size + ends))
    return found


def microbatch(plan: Plan, B: int) -> int:
    """b, the sequences in one microbatch of one data-parallel rank."""
    return B // (plan.data * plan.microbatches)


def stream_bytes(config: ModelConfig, plan: Plan, B: int, T: int) -> int:
    """Bytes of one microbatch's residual stream, (b, T, D)."""
    return microbatch(plan, B) * T * config.d_model * BYTES[plan.precision].weight
