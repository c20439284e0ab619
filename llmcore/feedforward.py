"""The feed-forward network, applied to each position alone: up to d_ff, activation, back down. D d_model.

GELU and SiLU are torch's kernels, equal to those written out in functional but with less kept for backward.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.config import ModelConfig
from llmcore.functional import relu
from llmcore.linear import Linear


class FeedForward(nn.Module):
    """y = act(x @ W_up + b_up) @ W_down + b_down  [Vaswani et al. 2017, 3.3; GELU: Radford et al. 2018]"""

    def __init__(self, config: ModelConfig, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.up = Linear(config.d_model, config.d_ff, config.bias)
        self.activation = activation
        self.hidden = nn.Identity()  # a name for trace: which neurons are active
        self.down = Linear(config.d_ff, config.d_model, config.bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(self.hidden(self.activation(self.up(x))))


class GatedFeedForward(FeedForward):
    """y = (act(x @ W_gate) * (x @ W_up)) @ W_down: SwiGLU with act = SiLU  [Shazeer 2020]"""

    def __init__(self, config: ModelConfig, activation: Callable[[Tensor], Tensor]):
        super().__init__(config, activation)
        self.gate = Linear(config.d_model, config.d_ff, config.bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(self.hidden(self.activation(self.gate(x)) * self.up(x)))


FEED_FORWARDS: dict[str, Callable[[ModelConfig], FeedForward]] = {
    "relu": lambda config: FeedForward(config, relu),
    "gelu": lambda config: FeedForward(config, torch.nn.functional.gelu),
    "gelu_tanh": lambda config: FeedForward(config, partial(torch.nn.functional.gelu, approximate="tanh")),
    "silu": lambda config: FeedForward(config, torch.nn.functional.silu),
    "swiglu": lambda config: GatedFeedForward(config, torch.nn.functional.silu),
}
