"""Attention: multi-head, grouped-query and multi-query; self or cross; written out or fused; with a cache.

Shapes: B batch, T queries, S keys, D d_model, H n_heads, Hkv n_kv_heads, Dh d_head.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore import checks
from llmcore.config import ModelConfig
from llmcore.functional import softmax
from llmcore.linear import Linear
from llmcore.mask import Mask
from llmcore.position import Turn
from llmcore.quantities import count
from llmcore.tiled import tiled_attention


def split_heads(x: Float[Tensor, "B T HDh"], n_heads: int) -> Float[Tensor, "B H T Dh"]:
    """Head h gets columns h*Dh .. (h+1)*Dh - 1, by view and transpose: a view alone would mix tokens."""
    checks.heads(x, n_heads)
    B, T, width = x.shape
    return x.view(B, T, n_heads, width // n_heads).transpose(1, 2)


def join_heads(x: Float[Tensor, "B H T Dh"]) -> Float[Tensor, "B T HDh"]:
    """The inverse of split_heads: concat(head_1, ..., head_H)."""
    return x.transpose(1, 2).flatten(2)


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
            self.keys, self.values = (
                k.new_empty(B, Hkv, self.capacity, Dh),
                v.new_empty(B, Hkv, self.capacity, Dh),
            )
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """y = concat_h(softmax(Q_h K_h^T / sqrt(Dh)) V_h) @ W_o  [Vaswani et al. 2017, 3.2]

    Q = x W_q, K = c W_k, V = c W_v; c is x (self) or context (cross). If n_kv_heads < n_heads, each key head
    serves n_heads / n_kv_heads query heads  [Shazeer 2019; Ainslie et al. 2023]. Fully masked queries get 0.

    config.attention picks the path: "explicit" makes every step a tensor that trace can show; "fused" calls
    torch's scaled_dot_product_attention; "tiled" shows how that avoids the square. They agree to 1e-5.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.path = {"explicit": self.explicit, "fused": self.fused, "tiled": self.tiled}[config.attention]
        self.W_q = Linear(config.d_model, self.n_heads * self.d_head, config.bias)
        self.W_k = Linear(config.d_model, self.n_kv_heads * self.d_head, config.bias)
        self.W_v = Linear(config.d_model, self.n_kv_heads * self.d_head, config.bias)
        self.W_o = Linear(self.n_heads * self.d_head, config.d_model, config.bias)
        self.dropout = nn.Dropout(config.dropout)
        # Identities: the names under which trace finds the tensors that pass through them.
        self.q, self.k, self.v, self.heads = nn.Identity(), nn.Identity(), nn.Identity(), nn.Identity()
        self.scores, self.weights = nn.Identity(), nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Mask = Mask(),  # noqa: B008 - frozen
        turn: Turn = lambda q: q,
        context: Float[Tensor, "B S D"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        checks.mask(mask, len(x))
        checks.context(x, context, cache.keys if cache else None)
        q = self.q(turn(split_heads(self.W_q(x), self.n_heads)))  # (B, H, T, Dh)
        if context is not None and cache is not None and cache.keys is not None and cache.values is not None:
            k, v = cache.keys, cache.values  # the source stays the same while the target grows
        else:
            source = x if context is None else context
            k = split_heads(self.W_k(source), self.n_kv_heads)  # (B, Hkv, S, Dh)
            v = split_heads(self.W_v(source), self.n_kv_heads)
            k = turn(k) if context is None else k
            if cache is not None:
                k, v = cache.append(k, v)
        group, (B, H, T, Dh) = self.n_heads // self.n_kv_heads, q.shape
        if group > 1 and T == 1 and cache is not None:
            # a group's queries become rows of its key head: no key is copied; one token needs no causal mask
            q, mask = q.reshape(B, self.n_kv_heads, group, Dh), Mask(padding=mask.padding)
        elif group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        heads = self.heads(self.path(q, self.k(k), self.v(v), mask).reshape(B, H, T, Dh))
        return self.W_o(join_heads(heads))

    def explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Float[Tensor, "B H T Dh"]:
        """softmax(Q K^T / sqrt(Dh)) V, step by step."""
        scores = self.scores(q @ k.transpose(-2, -1) / math.sqrt(self.d_head))  # (B, H, T, S)
        allowed = mask.square(q.shape[-2], k.shape[-2], q.device)
        if allowed is None:
            weights = softmax(scores)
        else:
            # finfo.min, not -inf, which would make a fully masked row NaN; times the mask the row becomes 0
            weights = softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)) * allowed
        return self.dropout(self.weights(weights)) @ v

    def fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Float[Tensor, "B H T Dh"]:
        """The same in one call, which stores no (T, S) square where the hardware allows."""
        T, S = q.shape[-2], k.shape[-2]
        dropout = self.dropout.p if self.training else 0.0
        attend = torch.nn.functional.scaled_dot_product_attention
        # torch's is_causal counts queries and keys both from 0: wrong for queries that follow a cache
        if mask.padding.empty and (not mask.causal or T == S or T == 1):
            return attend(q, k, v, dropout_p=dropout, is_causal=mask.causal and T > 1)
        allowed = mask.square(T, S, q.device)
        assert allowed is not None
        some = allowed.any(-1, keepdim=True)  # a row without keys reads all, to avoid NaN, and is set to 0
        return attend(q, k, v, attn_mask=allowed | ~some, dropout_p=dropout) * some

    def tiled(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Float[Tensor, "B H T Dh"]:
        """The same, written out tile by tile: see llmcore.tiled."""
        return tiled_attention(q, k, v, mask, self.dropout.p if self.training else 0.0)
