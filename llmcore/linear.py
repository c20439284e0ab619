"""A linear map with its parameters. Shapes: ... any leading axes, I in, O out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.functional import linear


class Linear(nn.Module):
    """y = x @ weight + bias, weight (I, O), bias (O) or None: row vectors, so torch.nn.Linear's weight is the transpose

    The values are left unset: the model that owns the layer draws them (see llmcore.model.initialise).
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = True):
        super().__init__()
        if d_in < 1 or d_out < 1:
            raise ValueError(f"d_in={d_in}, d_out={d_out}: both widths must be at least 1")
        self.weight = nn.Parameter(torch.empty(d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return linear(x, self.weight, self.bias)
