"""A linear map with its parameters. Shapes: ... any leading axes, I in, O out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore import checks
from llmcore.functional import linear
from llmcore.quantities import count


class Linear(nn.Module):
    """y = x @ weight + bias on row vectors: weight (I, O), torch.nn.Linear's transposed; bias (O) or None

    The weight stays unset until the model draws it (llmcore.model.initialise). load_state_dict refuses a
    transposed weight, even a square one if it comes from a torch module (llmcore.checks.layout).
    """

    _version = 2  # stored in state dicts, where torch's own modules store 1: it tells the layouts apart

    def __init__(self, d_in: int, d_out: int, bias: bool = True):
        super().__init__()
        count(d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(torch.empty(d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.register_load_state_dict_pre_hook(checks.layout)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return linear(x, self.weight, self.bias)
