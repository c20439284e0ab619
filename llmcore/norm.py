"""Normalisation over the last axis. Shapes: ... any leading axes, D d_model."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore import checks
from llmcore.config import ModelConfig
from llmcore.functional import layer_norm, rms_norm
from llmcore.quantities import amount, count


def _gain(d_model: int, eps: float) -> nn.Parameter:
    count(d_model=d_model)
    amount(zero=True, eps=eps)
    return nn.Parameter(torch.ones(d_model))


class LayerNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis  [Ba et al. 2016]

    Calls torch's kernel: equal to functional.layer_norm, but one pass over memory instead of seven.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = _gain(d_model, eps)
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if x.dtype != self.weight.dtype:  # fp16 x with fp32 parameters: the result must keep x's type
            return layer_norm(x, self.weight, self.bias, self.eps)
        checks.gain(x, weight=self.weight)
        return torch.nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis; `bias` is ignored  [Zhang & Sennrich 2019]

    >>> RMSNorm(2, eps=0.0)(torch.tensor([3.0, 4.0])).detach()  # rms = sqrt(12.5)
    tensor([0.8485, 1.1314])
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = False):
        super().__init__()
        self.eps = eps
        self.weight = _gain(d_model, eps)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return rms_norm(x, self.weight, self.eps)


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(config: ModelConfig) -> nn.Module:
    return NORMS[config.norm](config.d_model, config.norm_eps, config.bias)
