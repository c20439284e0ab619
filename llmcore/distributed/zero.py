"""ZeRO: data parallel without p copies of everything  [Rajbhandari et al. 2020].

p ranks; a parameter of n numbers is cut into p shards by torch.tensor_split, so n need not be a multiple of p; rank r owns shard r.

stage 1  optimizer state only of the own shards; gradients are reduce-scattered before the update, updated shards gathered
stage 2  also gradients: each is reduce-scattered as soon as backward has made it, and only the own shard is kept
stage 3  also parameters: gathered for the block that computes, forward and again backward, and freed after it

Numbers that N parameters cost a rank, with AdamW (its two moments) in fp32:
stage 0: 4 N    stage 1: 2 N + 2 N / p    stage 2: N + 3 N / p    stage 3: 4 N / p, and one block's parameters while it computes
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcore.block import Block
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


class Zero:
    """Shards the state of training `model` over the ranks of `group`.

    make_optimizer gets groups of shards (matrices decay, gains and biases do not) and must treat each number alone, as SGD and
    AdamW do. The loss of a rank is its part of the global loss, as for DataParallel. One step:
    loss.backward() (as often as batches are accumulated); zero.clip(max_norm); zero.step().
    """

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, stage: int, weight_decay: float = 0.0, group: Group = None):
        if stage not in (1, 2, 3):
            raise ValueError(f"stage={stage}: ZeRO has the stages 1 (optimizer), 2 (and gradients), 3 (and parameters)")
        self.model, self.stage, self.group = model, stage, group
        self.ranks, self.rank = collectives.size(group), collectives.rank(group)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in self.parameters:
            collectives.broadcast(parameter.data, group=group)
        # stages 1 and 2: views of the parameters, so an update of a shard is an update of its part; stage 3: their own memory
        cut = lambda p: self._cut(p.data) if stage < 3 else self._cut(p.data).clone()
        self.shards = {p: nn.Parameter(cut(p)) for p in self.parameters}
        self.optimizer = make_optimizer(
            [
                {"params": [s for p, s in self.shards.items() if p.ndim >= 2], "weight_decay": weight_decay},
                {"params": [s for p, s in self.shards.items() if p.ndim < 2], "weight_decay": 0.0},
            ]
        )
        self.most_gathered = 0  # bytes of whole parameters that were there at once, stage 3
        if stage >= 2:
            for p in self.parameters:
                p.register_post_accumulate_grad_hook(self._scatter)
        if stage == 3:
            self._shard_parameters()

    def _cut(self, x: Tensor) -> Tensor:
        return x.reshape(-1).tensor_split(self.ranks)[self.rank]

    def _scatter(self, parameter: Tensor) -> None:
        """The whole gradient of this rank becomes the summed gradient of its own shard, and its memory is given back."""
        assert parameter.grad is not None
        own = collectives.reduce_scatter(parameter.grad.contiguous(), self.group)
        shard = self.shards[parameter]  # type: ignore[index]
        shard.grad = own if shard.grad is None else shard.grad.add_(own)
        parameter.grad = None
        if self.stage == 3:
            self._arrived(parameter)

    # Stage 3: a unit is a block, or the rest of the model (embedding, last norm, head), which is needed from first to last.

    def _shard_parameters(self) -> None:
        blocks = [m for m in self.model.modules() if isinstance(m, Block)]
        taken = {p for block in blocks for p in block.parameters()}
        self.units: list[list[nn.Parameter]] = [list(block.parameters()) for block in blocks]
        self.units.append([p for p in self.parameters if p not in taken])
        self._unit = {p: unit for unit in self.units for p in unit}
        self._waiting: dict[int, set[Tensor]] = {}
        root = self.units[-1]
        self.model.register_forward_pre_hook(lambda *_: self._gather(root))
        self.model.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else self._free(root))
        for block, unit in zip(blocks, self.units):
            block.register_forward_pre_hook(lambda *_, unit=unit: self._gather(unit))
            block.register_forward_hook(lambda *_, unit=unit: self._free(unit))
            block.register_full_backward_pre_hook(lambda *_, unit=unit: self._gather(unit, backward=True))
        self.model.register_full_backward_pre_hook(lambda *_: self._gather(root, backward=True))
        for unit in self.units:
            self._free(unit)

    def _gather(self, unit: list[nn.Parameter], backward: bool = False) -> None:
        if backward:
            self._waiting[id(unit)] = set(unit)
        for p in unit:
            storage = p.data.untyped_storage()
            if storage.size() == 0:
                storage.resize_(p.numel() * p.element_size())
                # what autograd has saved of p points to this storage: filling it again makes the saved weights whole
                p.data.view(-1).copy_(collectives.all_gather(self.shards[p].data, p.numel(), self.group))
        self.most_gathered = max(self.most_gathered, sum(p.data.untyped_storage().size() for p in self.parameters))

    def _free(self, unit: list[nn.Parameter]) -> None:
        for p in unit:
            p.data.untyped_storage().resize_(0)

    def _arrived(self, parameter: Tensor) -> None:
        unit = self._unit[parameter]  # type: ignore[index]
        waiting = self._waiting.get(id(unit), set())
        waiting.discard(parameter)
        if not waiting:
            self._free(unit)

    @torch.no_grad()
    def _sum_gradients(self) -> None:
        """Stage 1: whole gradients stay on every rank until now, when each gets the sum of its own shard."""
        if self.stage == 1:
            for p, shard in self.shards.items():
                if shard.grad is None:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                    shard.grad = collectives.reduce_scatter(p.grad, self.group)
                    p.grad = None

    @torch.no_grad()
    def clip(self, max_norm: float) -> float:
        """Scale the gradients to a global norm of at most max_norm; returns the norm before. Each rank adds its shards' squares."""
        self._sum_gradients()
        own = [s.grad.square().sum() for s in self.shards.values() if s.grad is not None]
        total = torch.stack(own).sum()[None] if own else torch.zeros(1)
        norm = float(collectives.ring_all_reduce(total, self.group).sqrt())
        scale = min(1.0, max_norm / (norm + 1e-6))
        for shard in self.shards.values():
            if shard.grad is not None:
                shard.grad.mul_(scale)
        return norm

    @torch.no_grad()
    def step(self) -> None:
        """Update the own shards, give them to all (stages 1 and 2; stage 3 gathers when a block needs them), drop gradients."""
        self._sum_gradients()
        self.optimizer.step()
        for p, shard in self.shards.items():
            shard.grad = p.grad = None
            if self.stage < 3:
                p.data.view(-1).copy_(collectives.all_gather(shard.data, p.numel(), self.group))

    @torch.no_grad()
    def whole(self) -> dict[str, Tensor]:
        """Copies of all parameters, whole, by name: for a look, or a checkpoint. All ranks must call it."""
        names = [(n, p) for n, p in self.model.named_parameters() if p in self.shards]
        return {n: collectives.all_gather(self.shards[p].data.clone(), p.numel(), self.group).view(p.shape) for n, p in names}

    def held(self) -> dict[str, int]:
        """Bytes that this rank holds now: parameters, gradients, optimizer; views of others' memory are counted once."""
        own = self.shards.values()
        seen: dict[str, list[Tensor]] = {
            "parameters": [*(p.data for p in self.parameters), *(s.data for s in own)],
            "gradients": [x.grad for x in (*self.parameters, *own) if x.grad is not None],
            "optimizer": [v for s in self.optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.ndim],
        }
        return {
            name: sum({t.untyped_storage().data_ptr(): t.untyped_storage().size() for t in ts}.values()) for name, ts in seen.items()
        }
