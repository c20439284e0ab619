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
from llmcore.position import Turn, unturned
from llmcore.shortcuts import KVCache, stack_groups
from llmcore.tiled import tiled_attention


def split_heads(x: Float[Tensor, "B T HDh"], n_heads: int) -> Float[Tensor, "B H T Dh"]:
    """Head h gets columns h*Dh .. (h+1)*Dh - 1, by view and transpose: a view alone would mix tokens."""
    checks.heads(x, n_heads)
    B, T, width = x.shape
    return x.view(B, T, n_heads, width // n_heads).transpose(1, 2)


def join_heads(x: Float[Tensor, "B H T Dh"]) -> Float[Tensor, "B T HDh"]:
    """The inverse of split_heads: concat(head_1, ..., head_H)."""
    return x.transpose(1, 2).flatten(2)


def repeat_heads(x: Float[Tensor, "B Hkv S Dh"], n_heads: int) -> Float[Tensor, "B H S Dh"]:
    """Each key head n_heads / Hkv times in a row: one copy for each query head of its group."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


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
        mask: Mask = Mask(),
        turn: Turn = unturned,
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
        shape = q.shape
        if cache is not None:
            q, mask = stack_groups(q, mask, self.n_kv_heads)
        k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
        heads = self.path(q, self.k(k), self.v(v), mask).reshape(shape)  # (B, H, T, Dh)
        return self.W_o(join_heads(self.heads(heads)))

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
