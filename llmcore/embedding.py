"""From ids to vectors. Shapes: B batch, T tokens, V vocabulary, D d_model, N ids in any shape."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from llmcore import checks
from llmcore.config import ModelConfig
from llmcore.norm import make_norm
from llmcore.position import POSITIONS


def one_hot(
    ids: Integer[Tensor, "..."], vocab_size: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "... V"]:
    """Row n is 0 except for a 1 at ids[n].

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    ids = checks.ids(ids, vocab_size)
    return (ids[..., None] == torch.arange(vocab_size, device=ids.device)).to(dtype)


def one_hot_product(ids: Integer[Tensor, "..."], table: Float[Tensor, "V D"]) -> Float[Tensor, "... D"]:
    """one_hot(ids) @ table: (N, V) @ (V, D), 2 N V D operations to copy N rows"""
    return one_hot(ids, table.shape[0], table.dtype) @ table


def lookup(ids: Integer[Tensor, "..."], table: Float[Tensor, "V D"], *names: str) -> Float[Tensor, "... D"]:
    """table[ids]: the same rows, copied. Row i of the table's gradient sums over the places that hold id i.

    torch's embedding takes that sum in a fixed order. Plain indexing takes it in the order its threads come,
    so two runs of one training would differ in their last bits.
    """
    return torch.nn.functional.embedding(checks.rows(ids, table, *names), table)


class Embedding(nn.Module):
    """x = table[ids] (* sqrt D) (+ segments[segment]) + position, then norm and dropout if configured."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.table = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.tokens = nn.Identity()  # a name for trace: the vectors before positions are added
        size = config.n_segments, config.d_model
        self.segments = nn.Parameter(torch.empty(size)) if config.n_segments else None
        self.position = POSITIONS[config.position](config)
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def rows(self, ids: Integer[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return lookup(ids, self.table)

    def forward(
        self,
        ids: Integer[Tensor, "B T"],
        positions: Integer[Tensor, "_ T"],
        segments: Integer[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = self.rows(ids)
        x = self.tokens(x if self.scale == 1 else x * self.scale)
        if self.segments is not None:
            segments = torch.zeros_like(ids) if segments is None else checks.one_for_each(segments, ids)
            x = x + lookup(segments, self.segments, "segment", "a model knows n_segments of them")
        elif segments is not None:
            raise ValueError("segments were given with n_segments=0: they would be ignored; leave them out")
        return self.dropout(self.norm(self.position(x, positions)))
