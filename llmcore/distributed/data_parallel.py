"""Data parallel: every rank has the whole model and a part of the batch; gradients are summed before updates.

The sum of a bucket of gradients starts as soon as its last gradient is there, while backward still computes
the earlier layers: communication hides behind computation  [Li et al. 2020].
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group


@dataclass(frozen=True)
class Event:
    """When something happened, in seconds since the first gradient of this backward pass was there."""

    what: str  # "ready": all gradients of the bucket are there, its sum starts; "summed": the sum has arrived
    bucket: int
    at: float


class DataParallel:
    """Sums the gradients of `model` over the ranks while backward runs.

    parallel = DataParallel(model); loss.backward(); parallel.finish(); now each p.grad is the sum over all
    ranks.

    The loss of a rank must be its part of the global loss (its sum of -log p over the number of targets of
    all ranks), so that the sum of the gradients is the gradient of one process that reads the whole batch.
    All ranks start from rank 0's parameters and buffers, frozen ones too; a frozen parameter has no gradient
    and takes no further part. A buffer that forward changes (running statistics) stays each rank's own from
    then on.

    Buckets are filled in the reverse order of the parameters, which is about the order in which backward
    reaches them, up to bucket_bytes each; a bucket holds parameters of one type. The gradient of a tied
    parameter is complete only when all its uses are done. Raises ValueError unless bucket_bytes >= 1.
    """

    def __init__(self, model: nn.Module, bucket_bytes: int = 1 << 20, group: Group = None):
        if bucket_bytes < 1:
            raise ValueError(f"bucket_bytes={bucket_bytes}: must be at least 1; 25 MB is usual on GPUs")
        self.model, self.group = model, group
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.buckets: list[list[nn.Parameter]] = []
        filling: dict[torch.dtype, list[nn.Parameter]] = {}
        room: dict[torch.dtype, int] = {}
        for parameter in reversed(self.parameters):
            kind, n_bytes = parameter.dtype, parameter.numel() * parameter.element_size()
            if n_bytes > room.get(kind, -1):
                filling[kind], room[kind] = [], bucket_bytes
                self.buckets.append(filling[kind])
            filling[kind].append(parameter)
            room[kind] -= n_bytes
        collectives.share(model, group=group)
        self.events: list[Event] = []
        self._number = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self._active = True
        self._start()
        self._handles = [p.register_post_accumulate_grad_hook(self._arrived) for p in self.parameters]

    def _start(self) -> None:
        self._missing = [set(bucket) for bucket in self.buckets]
        self._running: dict[int, tuple[Tensor, dist.Work]] = {}
        self._began = 0.0

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients only pile up inside: for all but the last of several accumulated batches."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def _arrived(self, parameter: Tensor) -> None:
        if not self._active:
            return
        if not self._began:
            self._began, self.events = time.perf_counter(), []
        self._missing[self._number[parameter]].discard(parameter)  # type: ignore[index]
        # in the order of the buckets, and not of their completion: all ranks must start the same sums in the
        # same order
        while len(self._running) < len(self.buckets) and not self._missing[len(self._running)]:
            self._sum(len(self._running))

    def _sum(self, bucket: int) -> None:
        self.events.append(Event("ready", bucket, time.perf_counter() - self._began))
        for p in self.buckets[bucket]:
            if p.grad is None:  # not used in this batch, here; on another rank perhaps
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in self.buckets[bucket]])  # type: ignore[union-attr]
        ranks = collectives.size(self.group)
        n_bytes = 2 * (ranks - 1) * flat.numel() * flat.element_size() // ranks
        collectives.note("all-reduce", n_bytes, messages=2 * (ranks - 1))
        running = dist.all_reduce(flat, group=self.group, async_op=True)
        assert running is not None
        self._running[bucket] = (flat, running)

    def finish(self) -> None:
        """After the backward of the last accumulated batch: wait for the sums and put them into p.grad."""
        for bucket in range(len(self._running), len(self.buckets)):  # those that lack a gradient here
            self._sum(bucket)
        for bucket, (flat, running) in self._running.items():
            running.wait()
            self.events.append(Event("summed", bucket, time.perf_counter() - self._began))
            sizes = [p.numel() for p in self.buckets[bucket]]
            for p, part in zip(self.buckets[bucket], flat.split(sizes)):
                assert p.grad is not None
                p.grad.copy_(part.view_as(p))
        self._start()

    def remove(self) -> None:
        """Take the hooks off: backward leaves gradients of this rank alone again."""
        for handle in self._handles:
            handle.remove()
