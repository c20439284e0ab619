"""ZeRO: data parallel without p copies of everything  [Rajbhandari et al. 2020].

p ranks; torch.tensor_split cuts a parameter of n numbers into p shards, so p need not divide n; rank r owns
shard r.

stage 1  optimizer state only of the own shards: gradients are reduce-scattered before the update
stage 2  also gradients: each is reduce-scattered as soon as backward has made it, only the own shard stays
stage 3  also parameters: gathered for the block that computes, forward and again backward, and freed after it

After the update stages 1 and 2 gather the updated shards of all ranks.

Numbers that N parameters cost a rank, with AdamW (its two moments) in fp32:
stage 0  4 N
stage 1  2 N + 2 N / p
stage 2  N + 3 N / p
stage 3  4 N / p, and one block's parameters while it computes
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.optim import Optimizer

from llmcore.block import Block
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


class Zero:
    """Shards the state of training `model` over the ranks of `group`.

    One step: loss.backward(), once per accumulated batch, on all ranks alike; zero.clip(max_norm) if wanted;
    zero.step(). The loss of a rank is its part of the global loss, as for DataParallel.

    make_optimizer gets groups of shards, as llmcore.optim.decay_groups makes them of whole parameters: with
    weight_decay matrices decay by it, gains and biases do not; without (None) the groups name no decay, and
    the optimizer's own holds for all. The optimizer must treat each number alone, as SGD and AdamW do.

    All ranks start from rank 0's parameters and buffers. Frozen parameters (requires_grad=False at the
    start) are never updated: stages 1 and 2 leave them whole on every rank, stage 3 shards them like the
    rest. Buffers stay whole. Raises ValueError for another stage.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        stage: int,
        weight_decay: float | None = None,
        group: Group = None,
    ):
        if stage not in (1, 2, 3):
            stages = "1 (optimizer), 2 (and gradients), 3 (and parameters)"
            raise ValueError(f"stage={stage}: ZeRO has the stages {stages}")
        self.model, self.stage, self.group = model, stage, group
        self.ranks, self.rank = collectives.size(group), collectives.rank(group)
        self.parameters = list(model.parameters())
        self.trained = [p for p in self.parameters if p.requires_grad]
        collectives.share(model, group=group)
        for p in self.parameters:
            p.data = p.data.contiguous()
        # stages 1 and 2: views of the parameters, so the update of a shard updates its part
        # stage 3: their own memory
        cut = lambda p: self._cut(p.data) if stage < 3 else self._cut(p.data).clone()
        sharded = self.parameters if stage == 3 else self.trained
        self.shards = {p: nn.Parameter(cut(p), requires_grad=p.requires_grad) for p in sharded}
        self.optimizer = make_optimizer(self._groups(weight_decay))
        self.most_gathered = 0  # bytes of whole parameters that were there at once, stage 3
        # while a backward pass runs: the parameters whose gradients are still to be summed
        self._to_sum: list[nn.Parameter] | None = None
        self._made: set[Tensor] = set()
        if stage >= 2:
            for p in self.trained:
                p.register_post_accumulate_grad_hook(self._arrived)
        if stage == 3:
            self._shard_parameters()

    def _cut(self, x: Tensor) -> Tensor:
        return x.reshape(-1).tensor_split(self.ranks)[self.rank]

    def _groups(self, weight_decay: float | None) -> list[dict[str, Any]]:
        if weight_decay is None:
            return [{"params": [self.shards[p] for p in self.trained]}]
        return [
            {"params": [self.shards[p] for p in self.trained if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [self.shards[p] for p in self.trained if p.ndim < 2], "weight_decay": 0.0},
        ]

    # Stages 2 and 3: gradients are summed while backward runs, in an order that is the same on all ranks,
    # whatever the order in which this rank makes them: the last parameter first, which is about how backward
    # reaches them.

    def _arrived(self, parameter: Tensor) -> None:
        if self._to_sum is None:
            self._to_sum = list(self.trained)
            Variable._execution_engine.queue_callback(self._after_backward)
        self._made.add(parameter)
        while self._to_sum and self._to_sum[-1] in self._made:
            self._scatter(self._to_sum.pop())
        if self.stage == 3:
            self._need_less(self._unit[parameter], parameter)  # type: ignore[index]

    def _after_backward(self) -> None:
        for p in reversed(self._to_sum or []):  # not used on this rank; on another perhaps
            self._scatter(p)
        self._to_sum, self._made = None, set()
        if self.stage == 3:
            self._free(self.units[-1])

    def _scatter(self, parameter: nn.Parameter) -> None:
        """Replace this rank's whole gradient by its own shard of the sum over ranks."""
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        own = collectives.reduce_scatter(gradient.contiguous(), self.group)
        shard = self.shards[parameter]
        shard.grad = own if shard.grad is None else shard.grad.add_(own)
        parameter.grad = None

    # Stage 3: a unit is a block, or the rest of the model (embedding, last norm, head), which is needed from
    # first to last.

    def _shard_parameters(self) -> None:
        blocks = [m for m in self.model.modules() if isinstance(m, Block)]
        taken = {p for block in blocks for p in block.parameters()}
        self.units: list[list[nn.Parameter]] = [list(block.parameters()) for block in blocks]
        self.units.append([p for p in self.parameters if p not in taken])
        self._unit = {p: unit for unit in self.units for p in unit}
        self._passes_on: set[int] = set()  # units whose input needs a gradient
        # by unit: the gradients for which it is still needed in backward
        self._waiting: dict[int, set[Tensor | str]] = {}
        root = self.units[-1]
        self.model.register_forward_pre_hook(lambda *_: self._gather(root))
        self.model.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else self._free(root))
        for block, unit in zip(blocks, self.units):
            block.register_forward_pre_hook(lambda _, args, unit=unit: self._enter(unit, args[0]))
            block.register_forward_hook(lambda *_, unit=unit: self._free(unit))
            block.register_full_backward_pre_hook(lambda *_, unit=unit: self._gather(unit, backward=True))
        self.model.register_full_backward_pre_hook(lambda *_: self._gather(root))
        for unit in self.units:
            self._free(unit)

    def _enter(self, unit: list[nn.Parameter], x: Tensor) -> None:
        self._gather(unit)
        if torch.is_grad_enabled() and x.requires_grad:
            self._passes_on.add(id(unit))
            x.register_hook(lambda _: self._need_less(unit, "input"))

    def _gather(self, unit: list[nn.Parameter], backward: bool = False) -> None:
        if backward:  # frozen parameters too are needed until the input's gradient is there
            self._waiting[id(unit)] = {p for p in unit if p.requires_grad}
            if id(unit) in self._passes_on:
                self._waiting[id(unit)].add("input")
        for p in unit:
            storage = p.data.untyped_storage()
            if storage.size() == 0:
                storage.resize_(p.numel() * p.element_size())
                # what autograd has saved of p points to this storage: filling it again makes the saved
                # weights whole
                p.data.view(-1).copy_(collectives.all_gather(self.shards[p].data, p.numel(), self.group))
        gathered = sum(p.data.untyped_storage().size() for p in self.parameters)
        self.most_gathered = max(self.most_gathered, gathered)

    def _free(self, unit: list[nn.Parameter]) -> None:
        for p in unit:
            p.data.untyped_storage().resize_(0)

    def _need_less(self, unit: list[nn.Parameter], what: Tensor | str) -> None:
        """Free a block in backward once its parameters' gradients and that of its input are there."""
        waiting = self._waiting.get(id(unit))
        if waiting:
            waiting.discard(what)
            if not waiting:
                self._free(unit)

    @torch.no_grad()
    def finish(self) -> None:
        """After backward: sum over the ranks what stage 1 has left whole. clip and step call it."""
        if self.stage == 1:
            for p in self.trained:
                if self.shards[p].grad is None:
                    self._scatter(p)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients to a global norm of at most max_norm; returns the norm before."""
        self.finish()
        own = [s.grad for s in self.shards.values() if s.grad is not None]
        return collectives.clip(own, own, max_norm, self.group)

    @torch.no_grad()
    def step(self) -> None:
        """Update the own shards, and drop the gradients.

        Stages 1 and 2 then gather the shards of all ranks; stage 3 does so when a block needs them.
        """
        self.finish()
        self.optimizer.step()
        for p in self.trained:
            self.shards[p].grad = p.grad = None
            if self.stage < 3:
                p.data.view(-1).copy_(collectives.all_gather(self.shards[p].data, p.numel(), self.group))
        if self.stage == 3:
            # a forward without a backward has left gathered weights, which are old now
            for unit in self.units:
                self._free(unit)

    @torch.no_grad()
    def whole(self) -> dict[str, Tensor]:
        """A copy of the model's state_dict, whole, frozen parameters too. All ranks must call it."""
        held = self.model.state_dict(keep_vars=True)
        return {name: self._whole(x) for name, x in held.items()}

    def _whole(self, x: Tensor) -> Tensor:
        if x not in self.shards:
            return x.detach().clone()
        return collectives.all_gather(self.shards[x].data, x.numel(), self.group).view(x.shape)  # type: ignore[index]

    def held(self) -> dict[str, int]:
        """Bytes that this rank holds now, by kind; a shard that is a view of a parameter costs nothing."""
        own = self.shards.values()
        states = self.optimizer.state.values()
        seen: dict[str, list[Tensor]] = {
            "parameters": [*(p.data for p in self.parameters), *(s.data for s in own)],
            "gradients": [x.grad for x in (*self.parameters, *own) if x.grad is not None],
            "optimizer": [v for s in states for v in s.values() if isinstance(v, Tensor) and v.ndim],
        }
        return {
            name: sum({t.untyped_storage().data_ptr(): t.untyped_storage().size() for t in ts}.values())
            for name, ts in seen.items()
        }
