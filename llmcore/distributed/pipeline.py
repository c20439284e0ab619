"""Pipeline parallel: each rank holds some of the layers; microbatches go through them as on an assembly line.

p stages, m microbatches. What a stage does in which order is a list of actions from schedules.py (gpipe,
one_forward_one_backward, interleaved); PipelineParallel.run carries it out. Activations go forward and their
gradients back, rank to rank.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.fx.experimental.symbolic_shapes  # else the first backward that is given a gradient imports it
from jaxtyping import Shaped
from torch import Tensor, nn

from llmcore.block import Scope
from llmcore.data import Batch
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group
from llmcore.distributed.schedules import Action, Span
from llmcore.mask import Mask, Padding
from llmcore.model import Transformer

# (logits of the last part, microbatch) -> its part of the global loss
Loss = Callable[[Tensor, Batch], Tensor]


class Part(nn.Module):
    """Part k of n of a decoder: a share of its blocks; the first also embeds, the last has norm and head.

    ids (B, T) -> x (B, T, D) -> ... -> logits (B, T, V). A tied table stands in the first and in the last
    part. All parts must be cut from one model: ranks that have drawn different weights call
    collectives.share(model) first. Raises ValueError for another family and where a part would have no
    block.
    """

    def __init__(self, model: Transformer, part: int, parts: int):
        super().__init__()
        config = model.config
        if config.family != "decoder":
            raise ValueError(
                f"family={config.family!r}: a pipeline is cut from a decoder; "
                "an encoder's output is read by all layers"
            )
        if not 1 <= parts <= config.n_layers or not 0 <= part < parts:
            raise ValueError(
                f"part {part} of {parts} with n_layers={config.n_layers}: "
                "each part needs a block; use at most n_layers"
            )
        assert model.decoder is not None
        numbers = torch.arange(config.n_layers).tensor_split(parts)[part].tolist()
        self.config, self.first, self.last = config, part == 0, part == parts - 1
        self.blocks = nn.ModuleList(model.decoder.blocks[i] for i in numbers)
        self.embedding = model.embedding if self.first else None
        self.norm = model.decoder.norm if self.last else None
        self.head = model.head if self.last else None
        self.table = model.embedding.table if config.tied and (self.first or self.last) else None
        self.turner = model.embedding.position.turner  # all parts turn queries and keys by their positions
        self.dtype = model.embedding.table.dtype  # of activations: who receives them must know it beforehand

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
    """How one batch ran on this rank."""

    loss: float  # of the last stage; 0 on the others
    # when each action ran, in seconds of the machine's clock: the same for all ranks of one machine
    spans: list[Span]
    most_held: int  # microbatches whose activations this rank held at once


class PipelineParallel:
    """This rank's parts of a pipeline: v chunks, of which chunk c on stage s is part c p + s.

    parallel = PipelineParallel([Part(model, s, p)]); ran = parallel.run(order, batches, loss);
    parallel.finish()

    loss gives a microbatch's part of the global loss, and gradients add up in the parameters. Raises
    ValueError for several chunks on one stage that is alone.
    """

    def __init__(self, parts: Sequence[Part], group: Group = None):
        self.parts, self.group = parts, group
        self.p, self.stage = collectives.size(group), collectives.rank(group)
        self.count = self.p * len(parts)  # parts of the model, over all stages
        if self.p == 1 and len(parts) > 1:
            raise ValueError(f"{len(parts)} parts on one rank: chunks are for several stages; use one part")

    def run(self, order: Sequence[Action], batches: Sequence[Batch], loss: Loss) -> Ran:
        """Forward and backward of all microbatches through this rank's parts, in a schedule's order.

        An action receives its input just before it starts, and sends its result at once without waiting: so
        two neighbours never wait for each other to receive.
        """
        self._batches, self._loss, self._total = batches, loss, 0.0
        self._held: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (microbatch, chunk) -> input, output
        self._sending: list[tuple[Tensor, dist.Work]] = []  # a tensor must live until it is sent
        spans: list[Span] = []
        most = 0
        for action in order:
            carry_out = self._forward if action.kind == "F" else self._backward
            start, end = carry_out(action.microbatch, action.chunk)
            spans.append(Span(action, start, end))
            most = max(most, len(self._held))
        for _, message in self._sending:
            message.wait()
        self._sending.clear()
        return Ran(self._total, spans, most)

    def _forward(self, i: int, chunk: int) -> tuple[float, float]:
        """Microbatch i through a chunk; returns when the computation began and ended."""
        part, x = chunk * self.p + self.stage, self._batches[i].ids
        if part > 0:
            shape = (*x.shape, self.parts[0].config.d_model)
            x = self._receive(shape, self.stage - 1, i, part, gradient=False).requires_grad_()
        start = time.monotonic()
        y = self.parts[chunk](x)
        if part == self.count - 1:
            y = self._loss(y, self._batches[i])
            self._total += float(y.detach())
        end = time.monotonic()
        self._held[i, chunk] = x, y
        if part < self.count - 1:
            self._send(y.detach(), self.stage + 1, i, part + 1, gradient=False)
        return start, end

    def _backward(self, i: int, chunk: int) -> tuple[float, float]:
        part, (x, y) = chunk * self.p + self.stage, self._held.pop((i, chunk))
        gradient = None  # of the loss, which the last part makes itself
        if part < self.count - 1:
            gradient = self._receive(y.shape, self.stage + 1, i, part, gradient=True)
        start = time.monotonic()
        if y.requires_grad:  # the first part, where all of it is frozen, has nothing to learn
            torch.autograd.backward(y, gradient)
        end = time.monotonic()
        if part > 0:
            assert x.grad is not None
            self._send(x.grad, self.stage - 1, i, part - 1, gradient=True)
        return start, end

    def _tag(self, i: int, part: int, gradient: bool) -> int:
        """The number of a message: between two neighbours no two messages of a batch bear the same."""
        return 2 * (i * self.count + part) + gradient

    def _send(self, x: Tensor, to: int, i: int, part: int, gradient: bool) -> None:
        kind, tag = "gradients" if gradient else "activations", self._tag(i, part, gradient)
        self._sending.append((x, collectives.send(x, to % self.p, self.group, kind, tag)))

    def _receive(self, shape: Sequence[int], source: int, i: int, part: int, gradient: bool) -> Tensor:
        x = torch.empty(*shape, dtype=self.parts[0].dtype, device=self._batches[i].ids.device)
        collectives.receive(x, source % self.p, self.group, self._tag(i, part, gradient)).wait()
        return x

    def _shared_table(self) -> nn.Parameter | None:
        """The tied table where it stands on two stages, the first and the last."""
        if self.p == 1 or self.stage not in (0, self.p - 1):
            return None
        return (self.parts[0] if self.stage == 0 else self.parts[-1]).table

    @torch.no_grad()
    def finish(self) -> None:
        """After the batch: add up the gradients of a tied table, which the first and the last stage hold."""
        table = self._shared_table()
        if table is None or table.grad is None:  # frozen, and so on both stages
            return
        own, other, there = table.grad.clone(), torch.empty_like(table.grad), self.p - 1 - self.stage
        message = collectives.send(own, there, self.group, "tied table")
        collectives.receive(other, there, self.group).wait()
        message.wait()
        table.grad.add_(other)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients of all stages to a global norm of at most max_norm; returns the norm before."""
        own = {q: q.grad for part in self.parts for q in part.parameters() if q.grad is not None}
        counted_by_first = self._shared_table() if self.stage == self.p - 1 else None
        counted = [g for q, g in own.items() if q is not counted_by_first]
        return collectives.clip(own.values(), counted, max_norm, self.group)
