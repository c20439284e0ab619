"""Small configs and models that several test files share."""

import torch

from llmcore.config import ModelConfig
from llmcore.model import Transformer

# wide spread: with 0.02 every activation would be nearly linear and many mistakes invisible
BASE = ModelConfig(
    vocab_size=23, context_length=12, d_model=16, n_layers=2, n_heads=4, d_ff=24, init_std=0.3, tied=False
)  # fmt: skip


def model_of(config: ModelConfig, seed: int = 0) -> Transformer:
    """An eval-mode model whose gains and biases are random too, so that a forgotten one shows."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def ids_of(B: int, T: int, V: int = 23, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
