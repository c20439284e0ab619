"""Broadcast, reduce, all-gather, reduce-scatter, all-reduce, written as rings and trees of single messages.

p ranks, n numbers in a buffer; chunk r of a buffer is part r of torch.tensor_split, so p need not divide n.
Who sends what in which step stands in schedules.py; here the lists are run over torch.distributed's send and
receive. Every function works in place or returns a new tensor of its own, blocks until its rank is done, and
is called by all ranks of `group` (None: all).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from llmcore.distributed import schedules
from llmcore.distributed.schedules import Steps

Group = dist.ProcessGroup | None


class Traffic(Counter[str]):
    """Bytes that this rank has sent, by collective; `messages` counts them all.

    >>> t = Traffic(); t["ring all-reduce"] += 12; t.total()
    12
    """

    messages: int = 0


_watching: list[Traffic] = []


@contextmanager
def traffic() -> Iterator[Traffic]:
    """`with traffic() as sent:` counts the bytes that this rank sends inside, by this file or by `note`."""
    counted = Traffic()
    _watching.append(counted)
    try:
        yield counted
    finally:
        _watching.remove(counted)


def note(kind: str, n_bytes: int, messages: int = 1) -> None:
    """Count bytes sent by other means than this file's."""
    for counted in _watching:
        counted[kind] += n_bytes
        counted.messages += messages


def size(group: Group = None) -> int:
    """p, the number of ranks in the group."""
    return dist.get_world_size(group)


def rank(group: Group = None) -> int:
    """This process's number in the group, from 0."""
    return dist.get_rank(group)


def send(
    x: Shaped[Tensor, "..."], to: int, group: Group = None, kind: str = "send", tag: int = 0
) -> dist.Work:
    """Start to send a tensor to a rank of the group; .wait() before its memory is written again."""
    note(kind, x.numel() * x.element_size())
    message = dist.isend(x, group=group, group_dst=to, tag=tag)
    assert message is not None  # None for a process outside the group
    return message


def receive(x: Shaped[Tensor, "..."], source: int, group: Group = None, tag: int = 0) -> dist.Work:
    """Start to receive into x from a rank of the group; .wait() before it is read."""
    message = dist.irecv(x, group=group, group_src=source, tag=tag)
    assert message is not None
    return message


def run(steps: Steps, chunks: list[Tensor], whole: Tensor, group: Group = None, kind: str = "steps") -> None:
    """Carry out this rank's part of a schedule. chunks: contiguous views of `whole`, which chunk=None means.

    In each step a rank first starts what it sends and receives, then waits, then adds or copies: in a ring
    all ranks send at the same time.
    """
    me = rank(group)
    for step in steps:
        messages, received = [], []
        for s in step:
            x = whole if s.chunk is None else chunks[s.chunk]
            if x.numel() and s.source == me:
                note(kind, x.numel() * x.element_size())
                messages.append(dist.P2POp(dist.isend, x, group=group, group_peer=s.destination))
            elif x.numel() and s.destination == me:
                arrived = torch.empty_like(x)
                messages.append(dist.P2POp(dist.irecv, arrived, group=group, group_peer=s.source))
                received.append((s, x, arrived))
        # started together: alone, NCCL's send would wait for a receive that has not been started
        for message in dist.batch_isend_irecv(messages) if messages else []:
            message.wait()
        for s, x, arrived in received:
            x.copy_(x + arrived if s.add else arrived)


def _flat(x: Tensor, name: str) -> Tensor:
    if not x.is_contiguous():
        wrong = f"{name} of a tensor that is not contiguous"
        raise ValueError(f"{wrong}: its chunks would be copies; call .contiguous() first")
    return x.detach().view(-1)


def _collective(make: Callable[[int], Steps], kind: str) -> Callable[[Tensor, Group], Tensor]:
    def collective(x: Shaped[Tensor, "..."], group: Group = None) -> Shaped[Tensor, "..."]:
        flat, p = _flat(x, kind), size(group)
        run(make(p), list(flat.tensor_split(p)), flat, group, kind)
        return x

    return collective


ring_all_reduce = _collective(schedules.ring_all_reduce, "ring all-reduce")
ring_all_reduce.__doc__ = (
    "In place: x becomes its sum over all ranks. 2 (p - 1) steps; each rank sends 2 (p - 1) / p of x."
)
tree_all_reduce = _collective(schedules.tree_all_reduce, "tree all-reduce")
tree_all_reduce.__doc__ = (
    "In place: x becomes its sum over all ranks. 2 ceil(log2 p) steps, each with the whole of x."
)

ALL_REDUCES = {"ring": ring_all_reduce, "tree": tree_all_reduce}


def broadcast(x: Shaped[Tensor, "..."], root: int = 0, group: Group = None) -> Shaped[Tensor, "..."]:
    """In place: x becomes the root's x. ceil(log2 p) steps down a tree."""
    flat = _flat(x, "broadcast")
    run(schedules.tree_broadcast(size(group), root), [], flat, group, "tree broadcast")
    return x


def reduce(x: Shaped[Tensor, "..."], root: int = 0, group: Group = None) -> Shaped[Tensor, "..."]:
    """In place, up a tree: the root's x becomes the sum over all ranks, the others' x parts of that sum."""
    flat = _flat(x, "reduce")
    run(schedules.tree_reduce(size(group), root), [], flat, group, "tree reduce")
    return x


def reduce_scatter(x: Shaped[Tensor, "..."], group: Group = None) -> Shaped[Tensor, " n"]:
    """Chunk r of the sum over all ranks, for rank r: (p - 1) / p of x sent round a ring. x is unchanged."""
    p, flat = size(group), _flat(x, "reduce_scatter").clone()
    chunks = list(flat.tensor_split(p))
    run(schedules.ring_reduce_scatter(p), chunks, flat, group, "ring reduce-scatter")
    return chunks[rank(group)].clone()


def all_gather(chunk: Shaped[Tensor, " n"], total: int, group: Group = None) -> Shaped[Tensor, " total"]:
    """The buffer of `total` numbers whose chunk r rank r gives: (p - 1) / p of it sent round a ring."""
    p = size(group)
    whole = chunk.new_empty(total)
    chunks = list(whole.tensor_split(p))
    mine = chunks[rank(group)]
    if chunk.shape != mine.shape:
        own = f"part {rank(group)} of {total} over {p} ranks"
        raise ValueError(f"chunk of {tuple(chunk.shape)} numbers: {own} has {mine.numel()}")
    mine.copy_(chunk)
    run(schedules.ring_all_gather(p), chunks, whole, group, "ring all-gather")
    return whole


@torch.no_grad()
def share(model: nn.Module, root: int = 0, group: Group = None) -> None:
    """Give all ranks the root's model, in place: its parameters, frozen ones too, and its buffers.

    Every way to split the work calls it at the start: ranks that drew different weights would train
    different models.
    """
    for x in (*model.parameters(), *model.buffers()):
        x.data.copy_(broadcast(x.data.contiguous(), root, group))


@torch.no_grad()
def clip(
    gradients: Iterable[Tensor], counted: Iterable[Tensor], max_norm: float, group: Group = None
) -> float:
    """llmcore.optim.clip_gradients of a model whose gradients lie on several ranks; returns the norm before.

    gradients: what this rank scales; counted: what it adds to the norm. A number that several ranks hold is
    counted by one of them and scaled by all. Squares are summed in float64.
    """
    # not at the top: where optim is imported, launch also imports what an optimizer needs: seconds
    from llmcore.optim import limit_norm

    gradients = list(gradients)
    total = torch.zeros(1, dtype=torch.float64, device=gradients[0].device if gradients else None)
    for g in counted:
        total += g.square().sum()
    norm = ring_all_reduce(total, group).sqrt()[0]
    limit_norm(gradients, norm, max_norm)
    return float(norm)
