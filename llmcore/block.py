"""One block: attention, cross-attention if there is an encoder, feed-forward; each with norm and residual.

Shapes: B batch, T tokens, S source tokens, D d_model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from llmcore.attention import Attention, KVCache
from llmcore.config import ModelConfig
from llmcore.feedforward import FEED_FORWARDS
from llmcore.mask import Mask
from llmcore.norm import NORMS
from llmcore.position import Turn

Layer = Callable[[Tensor], Tensor]


def pre_norm(x: Float[Tensor, "B T D"], norm: Layer, sublayer: Layer) -> Float[Tensor, "B T D"]:
    """x + sublayer(norm(x)): the sum has no norm, so gradients pass it unscaled  [Xiong et al. 2020]"""
    return x + sublayer(norm(x))


def post_norm(x: Float[Tensor, "B T D"], norm: Layer, sublayer: Layer) -> Float[Tensor, "B T D"]:
    """norm(x + sublayer(x)): the order of [Vaswani et al. 2017]"""
    return norm(x + sublayer(x))


RESIDUALS = {"pre": pre_norm, "post": post_norm}


@dataclass
class BlockCache:
    """The keys and values that a decoder block keeps: its own and, with cross-attention, the source's."""

    own: KVCache
    source: KVCache | None = None


class Block(nn.Module):
    """Attention, if cross also attention to memory, and feed-forward; config.residual places the norms."""

    def __init__(self, config: ModelConfig, cross: bool = False):
        super().__init__()
        norm = lambda: NORMS[config.norm](config.d_model, config.norm_eps, config.bias)
        self.order = RESIDUALS[config.residual]
        self.attention_norm, self.attention = norm(), Attention(config)
        if cross:
            self.cross_norm, self.cross_attention = norm(), Attention(config)
        self.feed_forward_norm, self.feed_forward = norm(), FEED_FORWARDS[config.feed_forward](config)
        self.dropout = nn.Dropout(config.dropout)
        # Names for trace: the residual stream after each sublayer.
        self.after_attention, self.after_cross, self.after_feed_forward = (
            nn.Identity(),
            nn.Identity(),
            nn.Identity(),
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Mask,
        turn: Turn = lambda q: q,
        memory: Float[Tensor, "B S D"] | None = None,
        memory_mask: Mask = Mask(),  # noqa: B008 - frozen
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        own, source = (cache.own, cache.source) if cache else (None, None)
        attend = lambda h: self.dropout(self.attention(h, mask, turn, cache=own))
        x = self.after_attention(self.order(x, self.attention_norm, attend))
        if memory is not None:
            read = lambda h: self.dropout(self.cross_attention(h, memory_mask, context=memory, cache=source))
            x = self.after_cross(self.order(x, self.cross_norm, read))
        think = lambda h: self.dropout(self.feed_forward(h))
        return self.after_feed_forward(self.order(x, self.feed_forward_norm, think))
