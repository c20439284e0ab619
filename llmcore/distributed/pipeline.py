"""Pipeline parallel: rank s holds some of the layers; microbatches go through the ranks like work along an assembly line.

p stages, m microbatches. Which work a stage does in which order is a list from schedules.py (gpipe, one_forward_one_backward,
interleaved); `run` carries one out. Activations go forward and their gradients back, rank to rank.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.fx.experimental.symbolic_shapes  # else the first backward that is given a gradient imports it
from jaxtyping import Shaped
from torch import Tensor, nn

from llmcore.block import Scope
from llmcore.data import Batch
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group
from llmcore.distributed.schedules import Span, Work
from llmcore.mask import Mask, Padding
from llmcore.model import Transformer

# (logits of the last part, batch) -> what is to be made small: this microbatch's part of the global loss
Loss = Callable[[Tensor, Batch], Tensor]


class Part(nn.Module):
    """Part k of n of a decoder: the k-th share of its blocks; the first also embeds, the last also has the norm and the head.

    ids (B, T) -> x (B, T, D) -> ... -> logits (B, T, V). A tied table stands in the first and in the last part. The parts are of one
    model: ranks that have drawn different weights call collectives.share(model) first.
    """

    def __init__(self, model: Transformer, part: int, parts: int):
        super().__init__()
        config = model.config
        if config.family != "decoder":
            raise ValueError(
                f"family={config.family!r}: a pipeline is cut from a decoder; an encoder's output is read by all layers"
            )
        if not 1 <= parts <= config.n_layers or not 0 <= part < parts:
            raise ValueError(
                f"part {part} of {parts} with n_layers={config.n_layers}: each part needs a block; use at most n_layers"
            )
        assert model.decoder is not None
        numbers = torch.arange(config.n_layers).tensor_split(parts)[part].tolist()
        self.config, self.first, self.last = config, part == 0, part == parts - 1
        self.blocks = nn.ModuleList(model.decoder.blocks[i] for i in numbers)
        self.embedding = model.embedding if self.first else None
        self.norm = model.decoder.norm if self.last else None
        self.head = model.head if self.last else None
        self.table = model.embedding.table if config.tied and (self.first or self.last) else None
        self.turner = model.embedding.position.turner  # how queries and keys are turned: all parts do it
        self.dtype = model.embedding.table.dtype  # of what goes from part to part: all of them must know it

    def forward(self, x: Shaped[Tensor, "B T ..."]) -> Shaped[Tensor, "B T _"]:
        positions = Padding().positions(x.shape[1], 0, x.device)
        if self.embedding is not None:
            x = self.embedding(x, positions)
        scope = Scope(Mask(causal=True), self.turner(positions))
        for block in self.blocks:
            x = block(x, scope)
        return x if self.head is None or self.norm is None else self.head(self.norm(x), self.table)


@dataclass(frozen=True)
class Ran:
    """What one batch was on this rank: the loss (last stage; else 0), when each work ran, most microbatches held at once."""

    loss: float
    spans: list[Span]  # seconds of the machine's clock, the same for all ranks of one machine
    most_held: int


def run(
    parts: Sequence[Part], order: Sequence[Work], batches: Sequence[Batch], loss: Loss, group: Group = None
) -> Ran:
    """Forward and backward of all microbatches through this rank's parts (v of them, part c p + s on stage s), in this order.

    Gradients add up in the parameters; call finish afterwards. What a work needs is received just before it; what it makes is
    sent at once and not waited for, so two neighbours never wait for each other to receive.
    """
    p, s = collectives.size(group), collectives.rank(group)
    count = p * len(parts)  # of parts, over all stages
    if p == 1 and len(parts) > 1:
        raise ValueError(f"{len(parts)} parts on one rank: chunks are for several stages; use one part")
    config = parts[0].config
    held: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (microbatch, chunk) -> input, output
    sending: list = []
    spans: list[Span] = []
    total, most = 0.0, 0

    def message(x: Tensor, to: int, microbatch: int, part: int, kind: str) -> None:
        sending.append(
            (
                x,
                collectives.send(
                    x, to % p, group, kind, tag=2 * (microbatch * count + part) + (kind == "gradients")
                ),
            )
        )

    def arrive(like: Sequence[int], source: int, microbatch: int, part: int, gradient: bool) -> Tensor:
        x = torch.empty(*like, dtype=parts[0].dtype, device=batches[microbatch].ids.device)
        collectives.receive(x, source % p, group, tag=2 * (microbatch * count + part) + gradient).wait()
        return x

    for work in order:
        i, part, module = work.microbatch, work.chunk * p + s, parts[work.chunk]
        B, T = batches[i].ids.shape
        if work.kind == "F":
            x = (
                batches[i].ids
                if part == 0
                else arrive((B, T, config.d_model), s - 1, i, part, False).requires_grad_()
            )
            start = time.monotonic()
            y = module(x)
            if part == count - 1:
                y = loss(y, batches[i])
                total += float(y.detach())
            held[i, work.chunk] = x, y
            end = time.monotonic()
            if part < count - 1:
                message(y.detach(), s + 1, i, part + 1, "activations")
            most = max(most, len(held))
        else:
            x, y = held.pop((i, work.chunk))
            gradient = None if part == count - 1 else arrive(y.shape, s + 1, i, part, True)
            start = time.monotonic()
            if y.requires_grad:  # the first part, where all of it is frozen, has nothing to learn
                torch.autograd.backward(y, gradient)
            end = time.monotonic()
            if part > 0:
                assert x.grad is not None
                message(x.grad, s - 1, i, part - 1, "gradients")
        spans.append(Span(work, start, end))
    for _, work_sent in sending:
        work_sent.wait()
    return Ran(total, spans, most)


def _shared_table(parts: Sequence[Part], p: int, s: int) -> nn.Parameter | None:
    """The tied table where it stands on two stages, the first and the last."""
    if p == 1 or s not in (0, p - 1):
        return None
    return (parts[0] if s == 0 else parts[-1]).table


@torch.no_grad()
def finish(parts: Sequence[Part], group: Group = None) -> None:
    """After the batch: a tied table stands on the first and on the last stage, and its gradient is the sum of both."""
    p, s = collectives.size(group), collectives.rank(group)
    table = _shared_table(parts, p, s)
    if table is None:
        return
    if table.grad is None:  # frozen, and so on both stages
        return
    own, other = table.grad.clone(), torch.empty_like(table.grad)
    sent = collectives.send(own, p - 1 - s, group, "tied table")
    collectives.receive(other, p - 1 - s, group).wait()
    sent.wait()
    table.grad.add_(other)


def clip(parts: Sequence[Part], max_norm: float, group: Group = None) -> float:
    """Scale the gradients of all stages to a global norm of at most max_norm; a tied table is counted once. The norm before."""
    p, s = collectives.size(group), collectives.rank(group)
    own = {q: q.grad for part in parts for q in part.parameters() if q.grad is not None}
    counted_there = _shared_table(parts, p, s) if s == p - 1 else None  # by the first stage
    return collectives.clip(
        own.values(), [g for q, g in own.items() if q is not counted_there], max_norm, group
    )
