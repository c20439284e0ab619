"""A linear map with its parameters. Shapes: ... any leading axes, I in, O out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore import checks
from llmcore.functional import linear
from llmcore.quantities import count


class Linear(nn.Module):
    """y = x @ weight + bias, weight (I, O), bias (O) or None: row vectors, so torch.nn.Linear's weight is the transpose

    The values are left unset: the model that owns the layer draws them (see llmcore.model.initialise). load_state_dict refuses
    a weight that lies the other way, a square one too if it comes from a module of torch (see llmcore.checks.layout).
    """

    _version = 2  # noted in the state dict; torch's own modules note 1

    def __init__(self, d_in: int, d_out: int, bias: bool = True):
        super().__init__()
        count(d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(torch.empty(d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.register_load_state_dict_pre_hook(checks.layout)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return linear(x, self.weight, self.bias)
