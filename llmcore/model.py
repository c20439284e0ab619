"""Three families from one config: encoder-only, decoder-only, encoder-decoder.

Shapes: B batch, T tokens, S source tokens, D d_model, V vocabulary.
"""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from llmcore import checks
from llmcore.block import Block, Scope
from llmcore.config import ModelConfig
from llmcore.embedding import Embedding
from llmcore.functional import gelu, linear
from llmcore.linear import Linear
from llmcore.loss import head_loss
from llmcore.mask import Mask, Padding
from llmcore.norm import make_norm
from llmcore.position import Turn
from llmcore.shortcuts import BlockCache, KVCache


class Stack(nn.Module):
    """n_layers blocks in a row, then for pre-norm one more norm: nothing else normalises the sum."""

    def __init__(self, config: ModelConfig, cross: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(config.n_layers))
        self.norm = make_norm(config) if config.residual == "pre" else nn.Identity()

    def forward(self, x: Float[Tensor, "B T D"], scope: Scope = Scope()) -> Float[Tensor, "B T D"]:
        for i, block in enumerate(self.blocks):
            x = block(x, scope, i)
        return self.norm(x)


class Head(nn.Module):
    """logits = x @ table^T (+ bias), one score per vocabulary entry; if tied, table is the embedding's.

    Given targets, returns the sum of their losses instead, never holding all logits at once (llmcore.loss).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.table = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.transform = Linear(config.d_model, config.d_model) if config.head_transform else None
        if config.head_transform:
            self.norm = make_norm(config)
        biased = config.head_transform or config.head_bias
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if biased else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        embedding: Float[Tensor, "V D"],
        targets: Integer[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"] | Float[Tensor, ""]:
        table = embedding if self.table is None else self.table
        if self.transform is not None:
            x = self.norm(gelu(self.transform(x)))
        return linear(x, table.T, self.bias) if targets is None else head_loss(x, table, targets, self.bias)


class Transformer(nn.Module):
    """ids (B, T) -> logits (B, T, V). An encoder-decoder also takes source ids (B, S).

    padding says where the real tokens stand (right: Padding(stop=lengths), left: Padding(start=...)).
    Positions count from the first real token. Outputs at padding places are finite but meaningless.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = Stack(config) if config.family != "decoder" else None
        cross = config.family == "encoder-decoder"
        self.decoder = Stack(config, cross) if config.family != "encoder" else None
        self.head = Head(config)
        initialise(self)

    def forward(
        self,
        ids: Integer[Tensor, "B T"],
        *,
        padding: Padding = Padding(),
        source: Integer[Tensor, "B S"] | None = None,
        source_padding: Padding = Padding(),
        segments: Integer[Tensor, "B T"] | None = None,
        cache: list[BlockCache] | None = None,
        targets: Integer[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"] | Float[Tensor, ""]:
        """Logits; given targets, the sum of their losses in nats, -100 left out, which takes less memory."""
        family = self.config.family
        if (source is not None) != (family == "encoder-decoder"):
            raise ValueError(f"source with {family=}: an encoder-decoder needs one, the others take none")
        if self.decoder is None and cache is not None:
            raise ValueError("cache with family='encoder': every token reads every other, none can be kept")
        if self.decoder is None:
            return self.head(self.encode(ids, padding, segments), self.embedding.table, targets)
        memory = self.encode(source, source_padding) if source is not None else None
        return self.decode(ids, padding, memory, source_padding, segments, cache, targets=targets)

    def encode(
        self,
        ids: Integer[Tensor, "B S"],
        padding: Padding = Padding(),
        segments: Integer[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """The encoder's output vectors, before any head."""
        if self.encoder is None:
            raise ValueError("encode with family='decoder': it has no encoder; use one of the other families")
        x, turn = self.embed(ids, padding, 0, segments)
        return self.encoder(x, Scope(Mask(padding=padding), turn))

    def decode(
        self,
        ids: Integer[Tensor, "B T"],
        padding: Padding = Padding(),
        memory: Float[Tensor, "B S D"] | None = None,
        memory_padding: Padding = Padding(),
        segments: Integer[Tensor, "B T"] | None = None,
        cache: list[BlockCache] | None = None,
        last: bool = False,
        targets: Integer[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T_or_1 V"] | Float[Tensor, ""]:
        """forward's result, with encode's output as memory if there is an encoder; last: last token only."""
        if self.decoder is None:
            raise ValueError("decode with family='encoder': it has no decoder; use encode")
        family = self.config.family
        if (memory is not None) != (family == "encoder-decoder"):
            raise ValueError(f"memory with {family=}: an encoder-decoder needs one, a decoder takes none")
        if memory is not None:
            checks.padding(memory_padding, *memory.shape[:2])
        offset = 0 if cache is None else checks.blocks(cache, self.config.n_layers)[0].own.length
        x, turn = self.embed(ids, padding, offset, segments)
        mask, memory_mask = Mask(causal=True, padding=padding), Mask(padding=memory_padding)
        x = self.decoder(x, Scope(mask, turn, memory, memory_mask, cache))
        return self.head(x[:, -1:] if last else x, self.embedding.table, targets)

    def embed(
        self,
        ids: Integer[Tensor, "B T"],
        padding: Padding,
        offset: int,
        segments: Integer[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Turn]:
        """The vectors of ids whose places start at offset, and the rotation of queries and keys there."""
        ids = checks.tokens(ids, offset, self.config.context_length)
        checks.padding(padding, len(ids), offset + ids.shape[1])
        positions = padding.positions(ids.shape[1], offset, ids.device)
        return self.embedding(ids, positions, segments), self.embedding.position.turner(positions)

    def new_cache(self, capacity: int | None = None, source_length: int = 0) -> list[BlockCache]:
        """An empty cache, one entry per decoder block; capacity defaults to the whole context."""
        capacity = self.config.context_length if capacity is None else capacity  # not `or`: 0 is valid
        source = lambda: KVCache(source_length) if self.config.family == "encoder-decoder" else None
        return [BlockCache(KVCache(capacity), source()) for _ in range(self.config.n_layers)]


def initialise(model: Transformer) -> None:
    """Normal with deviation init_std; biases 0, gains 1. Matrices that write into the residual stream get
    init_std / sqrt(residual sums): the stream starts equally large at any depth  [Radford et al. 2019, 2.3]
    """
    config = model.config
    sums = config.n_layers * (3 if config.family == "encoder-decoder" else 2)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue  # gains and biases are made as 1 and 0
        writes = name.endswith(("W_o.weight", "down.weight"))
        nn.init.normal_(parameter, std=config.init_std / math.sqrt(sums) if writes else config.init_std)
