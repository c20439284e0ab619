"""One block: attention, cross-attention if there is an encoder, feed-forward; each with norm and residual.

Shapes: B batch, T tokens, S source tokens, D d_model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from llmcore.attention import Attention
from llmcore.config import ModelConfig
from llmcore.feedforward import FEED_FORWARDS
from llmcore.mask import Mask
from llmcore.norm import make_norm
from llmcore.position import Turn, unturned
from llmcore.shortcuts import BlockCache

Layer = Callable[[Tensor], Tensor]


def pre_norm(x: Float[Tensor, "B T D"], norm: Layer, sublayer: Layer) -> Float[Tensor, "B T D"]:
    """x + sublayer(norm(x)): the sum has no norm, so gradients pass it unscaled  [Xiong et al. 2020]"""
    return x + sublayer(norm(x))


def post_norm(x: Float[Tensor, "B T D"], norm: Layer, sublayer: Layer) -> Float[Tensor, "B T D"]:
    """norm(x + sublayer(x)): the order of [Vaswani et al. 2017]"""
    return norm(x + sublayer(x))


RESIDUALS = {"pre": pre_norm, "post": post_norm}


@dataclass(frozen=True)
class Scope:
    """All that the attention layers of a stack read besides x. Its blocks share one."""

    mask: Mask = Mask()  # which of its own tokens a query may read
    turn: Turn = unturned  # rotates queries and keys to their positions
    memory: Float[Tensor, "B S D"] | None = None  # the encoder's output, for cross-attention
    memory_mask: Mask = Mask()
    cache: list[BlockCache] | None = None  # one entry per block


class Block(nn.Module):
    """Attention, cross-attention to memory if cross, and feed-forward; config.residual places the norms."""

    def __init__(self, config: ModelConfig, cross: bool = False):
        super().__init__()
        self.order = RESIDUALS[config.residual]
        self.attention_norm, self.attention = make_norm(config), Attention(config)
        if cross:
            self.cross_norm, self.cross_attention = make_norm(config), Attention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FEED_FORWARDS[config.feed_forward](config)
        self.dropout = nn.Dropout(config.dropout)
        # Names for trace: the residual stream after each sublayer.
        self.after_attention, self.after_cross = nn.Identity(), nn.Identity()
        self.after_feed_forward = nn.Identity()

    def forward(
        self, x: Float[Tensor, "B T D"], scope: Scope = Scope(), i: int = 0
    ) -> Float[Tensor, "B T D"]:
        """i: the block's place in its stack, and so in scope.cache."""
        cache = scope.cache[i] if scope.cache else None
        own, source = (cache.own, cache.source) if cache else (None, None)
        attend = lambda h: self.dropout(self.attention(h, scope.mask, scope.turn, cache=own))
        x = self.after_attention(self.order(x, self.attention_norm, attend))
        if scope.memory is not None:
            memory, mask = scope.memory, scope.memory_mask
            read = lambda h: self.dropout(self.cross_attention(h, mask, context=memory, cache=source))
            x = self.after_cross(self.order(x, self.cross_norm, read))
        think = lambda h: self.dropout(self.feed_forward(h))
        return self.after_feed_forward(self.order(x, self.feed_forward_norm, think))
