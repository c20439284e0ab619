"""Shortcuts for generation, one token at a time: the same results as without them, in less time.

Shapes: B batch, T new tokens, S all tokens so far, H heads, Hkv key heads, Dh d_head; W is (I, O).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from llmcore import checks
from llmcore.mask import Mask
from llmcore.quantities import count


class KVCache:
    """Keys and values of the tokens read so far: a new token then costs one row of attention, not all rows.

    Holds 2 * B * Hkv * capacity * Dh numbers. For inference only: the buffers are written in place.
    """

    def __init__(self, capacity: int):
        count(0, capacity=capacity)
        self.capacity = capacity
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(
        self, k: Float[Tensor, "B Hkv T Dh"], v: Float[Tensor, "B Hkv T Dh"]
    ) -> tuple[Float[Tensor, "B Hkv S Dh"], Float[Tensor, "B Hkv S Dh"]]:
        """Store T more keys and values; returns all S = length + T of them."""
        checks.cached(k, v, self.keys, self.length, self.capacity)
        (B, Hkv, _, Dh), end = k.shape, self.length + k.shape[2]
        if self.keys is None or self.values is None:
            size = (B, Hkv, self.capacity, Dh)
            self.keys, self.values = k.new_empty(size), v.new_empty(size)
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass
class BlockCache:
    """The keys and values that one decoder block keeps: its own and, with cross-attention, the source's."""

    own: KVCache
    source: KVCache | None = None


def stack_groups(
    q: Float[Tensor, "B H T Dh"], mask: Mask, n_kv_heads: int
) -> tuple[Float[Tensor, "B _ _ Dh"], Mask]:
    """For a single new token: the query heads of a group as rows of their key head, (B, Hkv, H / Hkv, Dh).

    So no key is copied. The token is the last and has no future, hence the mask without causal. Where there
    are several tokens, or as many key heads as query heads, q and mask come back as they are.
    """
    B, H, T, Dh = q.shape
    if T > 1 or n_kv_heads == H:
        return q, mask
    return q.reshape(B, n_kv_heads, H // n_kv_heads, Dh), replace(mask, causal=False)


def suits_one_row(x: Tensor, W: Tensor) -> bool:
    """Whether one_row_product saves time: x is one row on a CPU, and W large enough to repay the cutting."""
    alone = x.numel() == x.shape[-1] and W.numel() >= 2**17
    return alone and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def one_row_product(x: Float[Tensor, "... I"], W: Float[Tensor, "I O"]) -> Float[Tensor, "... O"]:
    """x @ W where x is a single row: W is cut into one contiguous piece per thread.

    BLAS leaves a product with one row to one thread, which cannot read W as fast as memory allows.
    """
    n, (d_in, d_out) = torch.get_num_threads(), W.shape
    if W.stride(0) == 1 and d_out >= n:
        # stored by columns, like the transposed table of a tied head: each thread computes some entries of y
        even = d_out // n * n  # bmm needs equal pieces; the columns left over follow
        columns = W[:, :even].unflatten(1, (n, -1)).transpose(0, 1)
        pieces = torch.bmm(x.reshape(1, 1, -1).expand(n, -1, -1), columns)
        y = torch.cat([pieces.flatten(), x.reshape(-1) @ W[:, even:]])
    else:  # stored by rows: each thread takes some rows, and their products are added
        n = math.gcd(d_in, n)
        y = torch.bmm(x.reshape(n, 1, -1), W.unflatten(0, (n, -1))).sum(0)
    return y.view(*x.shape[:-1], d_out)
