"""One frozen description of a Transformer: which family, which parts, which sizes.

V vocab_size, D d_model, L n_layers, H n_heads, Hkv n_kv_heads, Dh d_head. In our notes D is embedding_dim,
Dh hidden_dim, d_ff intermediate_size. Impossible configs are refused here, so no other module checks again.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Family = Literal["decoder", "encoder", "encoder-decoder"]
Norm = Literal["layer", "rms"]
FeedForwardKind = Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu"]
Position = Literal["none", "sinusoidal", "sinusoidal_halves", "learned", "rotary", "rotary_interleaved"]
Residual = Literal["pre", "post"]
AttentionPath = Literal["explicit", "fused", "tiled"]

CHOICES = {
    "family": Family, "norm": Norm, "feed_forward": FeedForwardKind, "position": Position,
    "residual": Residual, "attention": AttentionPath,
}  # fmt: skip


@dataclass(frozen=True)
class RotaryScaling:
    """Llama 3.1 slows rotary pairs to reach a longer context  [Grattafiori et al. 2024; factors: its config]

    With wavelength w = 2 pi / frequency, a pair keeps its frequency where w < original / high, divides it by
    factor where w > original / low, and blends the two in between.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self) -> None:
        from_1 = 1 <= self.factor < math.inf and 1 <= self.original < math.inf
        if not (from_1 and 0 < self.low < self.high < math.inf):
            raise ValueError(f"{self}: needs factor >= 1, 0 < low < high, original >= 1; as 8, 1, 4, 8192")


@dataclass(frozen=True)
class ModelConfig:
    """Every choice that shapes a model. The same fields describe encoders, decoders and encoder-decoders.

    >>> TOY.d_head, TOY.n_kv_heads
    (2, 2)
    >>> TOY.with_(n_heads=3)
    Traceback (most recent call last):
    ValueError: n_heads=3 does not divide d_model=4: heads are slices of it; choose a divisor or set d_head
    """

    vocab_size: int
    context_length: int
    d_model: int
    n_layers: int  # per stack; an encoder-decoder has two stacks of this depth
    n_heads: int
    d_ff: int
    n_kv_heads: int = 0  # 0 means n_heads; 1 is multi-query attention
    d_head: int = 0  # 0 means d_model / n_heads
    family: Family = "decoder"
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    feed_forward: FeedForwardKind = "gelu_tanh"
    position: Position = "learned"
    rotary_base: float = 10000.0
    rotary_scaling: RotaryScaling | None = None
    residual: Residual = "pre"
    bias: bool = True  # in LayerNorm and in every linear map except the head
    tied: bool = True  # the head shares the embedding's table
    dropout: float = 0.0
    attention: AttentionPath = "fused"
    init_std: float = 0.02
    scale_embedding: bool = False  # multiply token vectors by sqrt(D)  [Vaswani et al. 2017, 3.4]
    embedding_norm: bool = False  # a norm right after the embedding  [Devlin et al. 2019]
    n_segments: int = 0  # vectors for sentence A, sentence B, added to the embedding  [Devlin et al. 2019]
    head_bias: bool = False  # one bias per vocabulary entry, added to the logits
    head_transform: bool = False  # linear, GELU, norm before the head; implies a bias  [Devlin et al. 2019]

    def __post_init__(self) -> None:
        if isinstance(self.rotary_scaling, dict):  # as read back from JSON
            object.__setattr__(self, "rotary_scaling", RotaryScaling(**self.rotary_scaling))
        self._check_types()
        if not self.d_head:
            if self.d_model % self.n_heads:
                sizes = f"n_heads={self.n_heads} does not divide d_model={self.d_model}"
                raise ValueError(f"{sizes}: heads are slices of it; choose a divisor or set d_head")
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if not self.n_kv_heads:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        self._check_rules()

    def _check_types(self) -> None:
        for name, kind in CHOICES.items():
            value, known = getattr(self, name), list(get_args(kind))
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown: choose one of {known}")
        scaling = self.rotary_scaling
        if not isinstance(scaling, RotaryScaling | None):
            kinds = "a RotaryScaling, its fields as a dict, or None"
            raise ValueError(f"rotary_scaling={scaling!r}: must be {kinds}")
        for f in fields(self):
            value, least = getattr(self, f.name), int(f.default is MISSING)  # fields with a default may be 0
            if f.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{f.name}={value!r}: must be a whole number of at least {least}")
            if f.type == "float" and not (isinstance(value, int | float) and abs(value) < math.inf):
                raise ValueError(f"{f.name}={value!r}: must be a finite number")
            if f.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{f.name}={value!r}: must be True or False")

    def _check_rules(self) -> None:
        position, H, Hkv = self.position, self.n_heads, self.n_kv_heads
        rotary, sinusoidal = position.startswith("rotary"), position.startswith("sinusoidal")
        eps, std = self.norm_eps, self.init_std
        if H % Hkv:
            raise ValueError(f"n_kv_heads={Hkv} does not divide n_heads={H} into groups; choose a divisor")
        if rotary and self.d_head % 2:
            raise ValueError(f"d_head={self.d_head} is odd: rotary turns pairs of numbers; make it even")
        if sinusoidal and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd: sinusoidal pairs sine and cosine; make it even")
        if self.rotary_scaling and not rotary:
            raise ValueError(f"rotary_scaling with {position=} would be ignored: set 'rotary' or remove it")
        if self.rotary_base <= 1:
            raise ValueError(f"rotary_base={self.rotary_base}: must be above 1; 10000 is usual")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: is a probability; choose 0 <= dropout < 1")
        if eps < 0 or std <= 0:
            raise ValueError(f"norm_eps={eps}, init_std={std}: need norm_eps >= 0 and init_std > 0")
        if self.family == "decoder" and self.n_segments:
            raise ValueError(f"n_segments={self.n_segments} in a decoder: segments are for an encoder; set 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ModelConfig(**config.to_dict()) == config."""
        return asdict(self)

    def with_(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; d_head and n_kv_heads, if derived, are derived anew unless given.

        >>> GPT2.with_(n_heads=6).d_head
        128
        """
        if ("d_model" in changes or "n_heads" in changes) and self.d_head * self.n_heads == self.d_model:
            changes = {"d_head": 0, **changes}
        if "n_heads" in changes and self.n_kv_heads == self.n_heads:
            changes = {"n_kv_heads": 0, **changes}
        return replace(self, **changes)


# The book's running example: ids up to 200, D = 4, two heads of 2, d_ff = 16.
TOY = ModelConfig(
    vocab_size=201, context_length=8, d_model=4, n_layers=1, n_heads=2, d_ff=16, position="sinusoidal",
    feed_forward="relu", attention="explicit", tied=False, init_std=0.5,
)  # fmt: skip

# The model of chapter 3.1; it trains in minutes on two cores.
SMALL = ModelConfig(
    vocab_size=512, context_length=128, d_model=128, n_layers=4, n_heads=4, d_ff=384, norm="rms",
    feed_forward="swiglu", position="rotary", bias=False,
)  # fmt: skip

# GPT-2 with 124M parameters, the smallest of the four  [Radford et al. 2019]
GPT2 = ModelConfig(
    vocab_size=50257, context_length=1024, d_model=768, n_layers=12, n_heads=12, d_ff=3072, dropout=0.1
)

# Llama 3.1 8B  [Grattafiori et al. 2024]
LLAMA = ModelConfig(
    vocab_size=128256, context_length=131072, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8,
    d_ff=14336, norm="rms", feed_forward="swiglu", position="rotary", rotary_base=500000.0,
    rotary_scaling=RotaryScaling(), bias=False, tied=False,
)  # fmt: skip

# [Devlin et al. 2019]
BERT_BASE = ModelConfig(
    vocab_size=30522, context_length=512, d_model=768, n_layers=12, n_heads=12, d_ff=3072, family="encoder",
    norm_eps=1e-12, feed_forward="gelu", residual="post", dropout=0.1, embedding_norm=True, n_segments=2,
    head_transform=True,
)  # fmt: skip

# The base model of "Attention is all you need"; its languages share 37,000 byte pairs  [Vaswani et al. 2017]
VASWANI_BASE = ModelConfig(
    vocab_size=37000, context_length=512, d_model=512, n_layers=6, n_heads=8, d_ff=2048,
    family="encoder-decoder", feed_forward="relu", position="sinusoidal", residual="post", dropout=0.1,
    scale_embedding=True,
)  # fmt: skip

PRESETS = {
    "toy": TOY, "small": SMALL, "gpt2": GPT2, "llama": LLAMA,
    "bert-base": BERT_BASE, "vaswani-base": VASWANI_BASE,
}  # fmt: skip
