"""Attention without its square: scores are computed tile by tile, dropped, and computed again in backward.

Shapes: B batch, H heads, T queries, S keys, Dh d_head; t queries and s keys of one tile. Backward needs only
q, k, v, the result and one number per row, so memory grows with T, not with T S. On a GPU with Triton the
same steps run as the kernels of llmcore.tiled_triton, which reads like this file.
"""

import functools
import importlib.util
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmcore import checks
from llmcore.functional import _wide, softmax_in_parts
from llmcore.mask import Mask

TILE = 128  # the number of queries, and of keys, in a tile


def tiled_attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B H S Dh"],
    v: Float[Tensor, "B H S Dh"],
    mask: Mask = Mask(),
    dropout: float = 0.0,
) -> Float[Tensor, "B H T Dh"]:
    """softmax(q k^T / sqrt(Dh)) v by online softmax; backward recomputes the scores

    [online softmax: Milakov & Gimelshein 2018; recomputation: Dao et al. 2022]

    A query without keys gets zeros. dropout is the share of weights set to 0. It takes one seed from torch's
    CPU generator; forward and backward draw each tile's numbers from that seed. Raises ValueError if a
    second derivative is asked for.
    """
    checks.qkv(q, k, v, dropout)
    checks.mask(mask, len(q))
    checks.last_of_the_keys(mask.causal, k.shape[2] - q.shape[2])
    seed = int(torch.randint(2**40, ())) if dropout else 0
    kernels = _kernels() if _has_kernels(q) else None
    if kernels is not None:
        return kernels.attention(q, k, v, mask.causal, mask.padding.start, mask.padding.stop, dropout, seed)
    return Tiled.apply(q, k, v, mask, dropout, seed)


def _has_kernels(q: Tensor) -> bool:
    """Whether the kernels suit q: they compute in fp32 or narrower types, on GPUs from Ampere (8.0) on."""
    return q.is_cuda and q.dtype != torch.float64 and torch.cuda.get_device_capability(q.device) >= (8, 0)


@functools.cache
def _kernels():
    return importlib.import_module("llmcore.tiled_triton") if importlib.util.find_spec("triton") else None


def tiles(n: int) -> list[range]:
    """0 .. n - 1 in pieces of TILE.

    >>> tiles(300)
    [range(0, 128), range(128, 256), range(256, 300)]
    """
    return [range(i, min(i + TILE, n)) for i in range(0, n, TILE)]


def dropout_factors(
    dropout: float, seed: int, rows: range, keys: range, like: Tensor
) -> Float[Tensor, "B H t s"]:
    """A tile's dropout factors, 0 or 1 / (1 - dropout): always the same for one seed and tile."""
    generator = torch.Generator(like.device).manual_seed(seed + (rows.start << 20) + keys.start)
    drawn = torch.rand(*like.shape[:2], len(rows), len(keys), generator=generator, device=like.device)
    return (drawn >= dropout).to(like.dtype) / (1 - dropout)


class Tiled(torch.autograd.Function):
    """Forward and backward over tiles. For fp16 and bf16, statistics and sums are in fp32."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, seed: int) -> Tensor:
        """Three running results for each tile of queries, updated with each tile of keys:

        largest = m, the largest score so far; total = sum exp(score - m); mixture = sum exp(score - m)
        value. When m grows, the other two shrink by exp(old m - new m).
        """
        ctx.mask, ctx.dropout, ctx.seed = mask, dropout, seed
        (B, H, T, Dh), S = q.shape, k.shape[2]
        out = q.new_zeros(B, T, H, Dh).transpose(1, 2)  # laid out so that joining the heads copies nothing
        # log sum_s exp(score) of each row
        log_sums = torch.empty(B, H, T, 1, dtype=_wide(q[:0]).dtype, device=q.device)
        for rows in tiles(T):
            largest = torch.full_like(_of(log_sums, rows), torch.finfo(log_sums.dtype).min)
            total, mixture = torch.zeros_like(largest), largest.new_zeros(B, H, len(rows), Dh)
            for keys in _readable(mask, rows, T, S):
                scores, allowed = _scores(q, k, mask, rows, keys)  # (B, H, t, s)
                largest, total, powers, shrink = softmax_in_parts(largest, total, scores, allowed)
                if dropout:
                    powers = powers * dropout_factors(dropout, seed, rows, keys, powers)
                mixture = mixture * shrink + _product(powers, _of(v, keys))
            # changes only a row without keys: in every other the largest score has added exp(0) = 1
            total.clamp_(min=1)
            _of(out, rows).copy_(mixture / total)
            _of(log_sums, rows).copy_(largest + total.log())
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute P = exp(score - log_sum) tile by tile:

        dV = P^T dO,  dP = dO V^T,  dS = P (dP - sum(dP P)) / sqrt(Dh),  dQ = dS K,  dK = dS^T Q

        The row sum of dP P needs no complete row of P: it equals dO . O, since O = P V.
        """
        if torch.is_grad_enabled():  # the gradients would silently be taken for constants
            why = "it has no second derivative; use attention='explicit'"
            raise ValueError(f"create_graph=True through tiled attention: {why}")
        q, k, v, out, log_sums = ctx.saved_tensors
        T, S, scale = q.shape[2], k.shape[2], 1 / math.sqrt(q.shape[3])
        dq, dk, dv = (torch.zeros(x.shape, dtype=log_sums.dtype, device=x.device) for x in (q, k, v))
        for rows in tiles(T):
            d_rows = _wide(_of(d_out, rows))
            inner = (d_rows * _of(out, rows)).sum(-1, keepdim=True)  # (B, H, t, 1)
            for keys in _readable(ctx.mask, rows, T, S):
                scores, allowed = _scores(q, k, ctx.mask, rows, keys)
                weights = (scores - _of(log_sums, rows)).exp_()  # (B, H, t, s)
                weights = weights if allowed is None else weights * allowed
                d_weights = _product(d_rows, _of(v, keys).transpose(-2, -1))
                factors = dropout_factors(ctx.dropout, ctx.seed, rows, keys, weights) if ctx.dropout else 1
                d_scores = weights * (d_weights * factors - inner) * scale
                _of(dv, keys).add_(_product((weights * factors).transpose(-2, -1), d_rows))
                _of(dq, rows).add_(_product(d_scores, _of(k, keys)))
                _of(dk, keys).add_(_product(d_scores.transpose(-2, -1), _of(q, rows)))
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _of(x: Float[Tensor, "B H N _"], places: range) -> Float[Tensor, "B H n _"]:
    """The rows of x at these places, a view."""
    return x[:, :, places.start : places.stop]


def _readable(mask: Mask, rows: range, T: int, S: int) -> list[range]:
    """The tiles of keys that these queries may read: under a causal mask, none above the diagonal."""
    return tiles(max(0, min(S, rows.stop + S - T)) if mask.causal else S)


def _scores(
    q: Tensor, k: Tensor, mask: Mask, rows: range, keys: range
) -> tuple[Float[Tensor, "B H t s"], Bool[Tensor, "..."] | None]:
    """A tile's scaled scores, forbidden ones set to the lowest number; and which are allowed, None if all."""
    scores = _product(_of(q, rows) / math.sqrt(q.shape[3]), _of(k, keys).transpose(-2, -1))
    shift = k.shape[2] - q.shape[2]  # the queries are the last of the keys
    allowed = mask.tile(range(rows.start + shift, rows.stop + shift), keys, q.device)
    if allowed is None:
        return scores, None
    return scores.masked_fill_(~allowed, torch.finfo(scores.dtype).min), allowed


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in fp32 for narrower types, even under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return _wide(a) @ _wide(b)
