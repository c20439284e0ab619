"""Context parallel: a sequence too long for one rank is cut into p parts; keys and values go round a ring.

Rank r holds tokens r t .. (r + 1) t - 1, t = T / p: their queries, keys and values. In each of p steps it
reads the keys and values that are with it, then hands them on  [Liu et al. 2023]. The softmax over all keys
is put together part by part: o = sum_j e^(z_j - m) v_j and l = sum_j e^(z_j - m) are rescaled whenever a
part brings a higher maximum m  [Milakov & Gimelshein 2018]. No rank ever holds the T x T square, or all keys.

Shapes: B batch, H heads, t tokens of this rank, T all tokens, Dh d_head.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.attention import Attention
from llmcore.block import Scope
from llmcore.distributed import collectives
from llmcore.distributed.collectives import Group
from llmcore.functional import softmax_in_parts
from llmcore.mask import Mask, Padding
from llmcore.model import Transformer


def _pass_on(tensors: list[Tensor], group: Group, kind: str) -> tuple[list[Tensor], list]:
    """Start to send tensors to the next rank; returns those that arrive, and messages to wait for."""
    p, r = collectives.size(group), collectives.rank(group)
    arriving = [torch.empty_like(x) for x in tensors]
    messages = []
    for x, y in zip(tensors, arriving):
        collectives.note(kind, x.numel() * x.element_size())
        messages.append(dist.P2POp(dist.isend, x, group=group, group_peer=(r + 1) % p))
        messages.append(dist.P2POp(dist.irecv, y, group=group, group_peer=(r - 1) % p))
    return arriving, dist.batch_isend_irecv(messages)


def _scores(q: Tensor, k: Tensor, r: int, home: int, causal: bool) -> Float[Tensor, "B H t t"] | None:
    """Scores of rank r's queries with the keys of rank `home`; None where causality forbids them all."""
    if causal and home > r:
        return None
    z = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal and home == r:
        t = z.shape[-1]
        later = torch.ones(t, t, dtype=torch.bool, device=z.device).triu(1)
        z = z.masked_fill(later, torch.finfo(z.dtype).min)
    return z


class RingAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(Dh)) V for this rank's queries and the keys of all ranks.

    For backward it saves its own q, k, v, the output and one number per query, log sum_j e^(z_j). Backward
    sends keys and values round once more, computes the weights again from that number, and lets the
    gradients of keys and values travel home with them.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, group: Group
    ) -> Float[Tensor, "B H t Dh"]:
        p, r = collectives.size(group), collectives.rank(group)
        m = q.new_full((*q.shape[:-1], 1), torch.finfo(q.dtype).min)
        total, o = torch.zeros_like(m), torch.zeros_like(q)
        here = [k.contiguous(), v.contiguous()]
        for step in range(p):
            if step < p - 1:  # on their way while this rank computes with them
                arriving, messages = _pass_on(here, group, "keys and values")
            z = _scores(q, here[0], r, (r - step) % p, causal)
            if z is not None:
                m, total, e, shrink = softmax_in_parts(m, total, z)
                o = o * shrink + e @ here[1]
            if step < p - 1:
                for message in messages:
                    message.wait()
                here = arriving
        o = o / total
        ctx.causal, ctx.group = causal, group
        ctx.save_for_backward(q, k, v, o, m + total.log())
        return o

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, o, log_total = ctx.saved_tensors
        p, r = collectives.size(ctx.group), collectives.rank(ctx.group)
        scale = 1 / math.sqrt(q.shape[-1])
        along = (gradient * o).sum(-1, keepdim=True)  # what the softmax's backward subtracts in each row
        dq = torch.zeros_like(q)
        here = [k.contiguous(), v.contiguous(), torch.zeros_like(k), torch.zeros_like(v)]
        for step in range(p):
            k_, v_, dk, dv = here
            z = _scores(q, k_, r, (r - step) % p, ctx.causal)
            if z is not None:
                weights = (z - log_total).exp()
                dz = weights * (gradient @ v_.transpose(-2, -1) - along) * scale
                dq += dz @ k_
                dk, dv = dk + dz.transpose(-2, -1) @ q, dv + weights.transpose(-2, -1) @ gradient
            if p > 1:
                travelling = [k_, v_, dk.contiguous(), dv.contiguous()]
                here, messages = _pass_on(travelling, ctx.group, "keys, values and their gradients")
                for message in messages:
                    message.wait()
            else:
                here = [k_, v_, dk, dv]
        return dq, here[2], here[3], None, None  # after p steps they are home


class ContextParallel:
    """Replaces every attention's path in a decoder by the ring, in place; the model sees own tokens only.

    parallel = ContextParallel(model); logits = parallel(parallel.own(ids)); loss.backward();
    parallel.finish()

    The loss of a rank is its part of the global loss. finish sums the gradients over the ranks, since all
    have the same weights (rank 0's, sent at the start) and different tokens. Raises ValueError for another
    family, for dropout, for padding, and where p does not divide the tokens.
    """

    def __init__(self, model: Transformer, group: Group = None):
        if model.config.family != "decoder":
            family = f"family={model.config.family!r}"
            raise ValueError(f"{family}: the ring is written for a decoder's self-attention")
        if model.config.dropout:
            dropout = f"dropout={model.config.dropout}"
            raise ValueError(f"{dropout}: weights that travel in parts are not dropped; set dropout=0")
        self.model, self.group = model, group
        collectives.share(model, group=group)

        def path(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
            if not mask.padding.empty:
                raise ValueError("padding with context parallelism: cut sequences of equal length")
            return RingAttention.apply(q, k, v, mask.causal, group)

        for module in model.modules():
            if isinstance(module, Attention):
                module.path = path

    def own(self, x: Int[Tensor, "B T"]) -> Int[Tensor, "B t"]:
        """This rank's part of the tokens (or targets)."""
        p = collectives.size(self.group)
        if x.shape[1] % p:
            raise ValueError(f"{x.shape[1]} tokens over {p} ranks: p must divide them")
        return x.tensor_split(p, 1)[collectives.rank(self.group)]

    def __call__(self, ids: Int[Tensor, "B t"]) -> Float[Tensor, "B t V"]:
        """Logits of this rank's tokens; their positions start at rank x t."""
        model = self.model
        assert model.decoder is not None
        x, turn = model.embed(ids, Padding(), collectives.rank(self.group) * ids.shape[1], None)
        return model.head(model.decoder(x, Scope(Mask(causal=True), turn)), model.embedding.table)

    @torch.no_grad()
    def finish(self) -> None:
        """Sum the gradients over the ranks."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:  # a frozen one has none, on any rank
                collectives.ring_all_reduce(parameter.grad, self.group)
