"""Where a token stands: vectors added to the embedding, or angles by which queries and keys are rotated.

Shapes: B batch, T tokens, D d_model, H heads, Dh d_head. positions (B or 1, T) are whole numbers from 0.
forward adds vectors, turner returns the rotation; each kind does one of the two and leaves the other out.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmcore import checks
from llmcore.config import ModelConfig, RotaryScaling

Turn = Callable[[Tensor], Tensor]
unturned: Turn = lambda q: q  # the Turn of every position that is not rotary


class NoPosition(nn.Module):
    """Adds nothing and rotates nothing: without positions, attention treats a sequence as a set."""

    def __init__(self, config: ModelConfig):
        super().__init__()

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "_ T"]) -> Float[Tensor, "B T D"]:
        return x

    def turner(self, positions: Int[Tensor, "_ T"]) -> Turn:
        return unturned


def sinusoids(
    positions: Int[Tensor, "..."], d_model: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "... D"]:
    """P[p, 2i] = sin(p / 10000^(2i/D)), P[p, 2i+1] = cos(p / 10000^(2i/D))  [Vaswani et al. 2017, 3.5]

    Angles are computed in fp64: in fp32 the fast pairs of far positions would be wrong in the fourth digit.

    >>> sinusoids(torch.arange(2), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    angles = positions[..., None].double() * frequencies(d_model, 10000.0, positions.device, torch.float64)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(dtype)


def frequencies(
    d: int, base: float, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " half_d"]:
    """base^(-2i/d) for i = 0 .. d/2 - 1, in radians per position: from 1 down to nearly 1/base"""
    checks.pairs(d, base)
    return torch.exp(torch.arange(0, d, 2, device=device).to(dtype) * (-math.log(base) / d))


class Sinusoidal(NoPosition):
    """x + P[positions]: P is fixed (see sinusoids), so there are no parameters."""

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "_ T"]) -> Float[Tensor, "B T D"]:
        return x + sinusoids(checks.positions(positions, x), x.shape[-1], x.dtype)


class SinusoidalHalves(NoPosition):
    """Sinusoidal with all sines before all cosines, the order that Marian's published weights expect."""

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "_ T"]) -> Float[Tensor, "B T D"]:
        pairs = sinusoids(checks.positions(positions, x), x.shape[-1], x.dtype)
        return x + torch.cat([pairs[..., 0::2], pairs[..., 1::2]], dim=-1)


class Learned(NoPosition):
    """x + table[positions], table (context_length, D) trained like any weight  [Radford et al. 2019]"""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.table = nn.Parameter(torch.empty(config.context_length, config.d_model))

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "_ T"]) -> Float[Tensor, "B T D"]:
        positions = checks.positions(positions, x)
        rows = checks.rows(positions, self.table, "position", "context_length ends there")
        return x + torch.nn.functional.embedding(rows, self.table)


def scale_frequencies(theta: Float[Tensor, " half"], scaling: RotaryScaling) -> Float[Tensor, " half"]:
    """Slow frequencies are divided by scaling.factor, fast ones stay, those between blend (RotaryScaling)."""
    cycles = scaling.original * theta / (2 * math.pi)  # full rotations over the original context
    fast = ((cycles - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)  # 1: stays; 0: divided
    return theta * fast + theta / scaling.factor * (1 - fast)


class Rotary(NoPosition):
    """Rotates pair i of q and k by position * theta_i: q . k depends on their offset alone  [Su et al. 2021]

    (a, b) -> (a cos - b sin, a sin + b cos), theta_i = rotary_base^(-2i/Dh). The layout is half-split, as in
    Llama's published weights: pair i is dimensions (i, i + Dh/2).
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.config = config

    def turner(self, positions: Int[Tensor, "_ T"]) -> Turn:
        theta = frequencies(self.config.d_head, self.config.rotary_base, positions.device)
        if self.config.rotary_scaling is not None:
            theta = scale_frequencies(theta, self.config.rotary_scaling)
        angles = positions[..., None, :, None].float() * theta  # (B or 1, 1, T, Dh/2)
        cos, sin = angles.cos(), angles.sin()

        def turn(q: Float[Tensor, "B H T Dh"]) -> Float[Tensor, "B H T Dh"]:
            checks.positions(positions, q, self.config.d_head)
            a, b = self.split(q)
            c, s = cos.to(q.dtype), sin.to(q.dtype)
            return self.join(a * c - b * s, a * s + b * c)

        return turn

    def split(self, q: Float[Tensor, "... Dh"]) -> tuple[Tensor, Tensor]:
        a, b = q.chunk(2, dim=-1)
        return a, b

    def join(self, a: Float[Tensor, "... half"], b: Float[Tensor, "... half"]) -> Float[Tensor, "... Dh"]:
        return torch.cat([a, b], dim=-1)


class RotaryInterleaved(Rotary):
    """Rotary on neighbours: pair i is dimensions (2i, 2i + 1), as in the paper  [Su et al. 2021]"""

    def split(self, q: Float[Tensor, "... Dh"]) -> tuple[Tensor, Tensor]:
        return q[..., 0::2], q[..., 1::2]

    def join(self, a: Float[Tensor, "... half"], b: Float[Tensor, "... half"]) -> Float[Tensor, "... Dh"]:
        return torch.stack([a, b], dim=-1).flatten(-2)


POSITIONS: dict[str, type[NoPosition]] = {
    "none": NoPosition,
    "sinusoidal": Sinusoidal,
    "sinusoidal_halves": SinusoidalHalves,
    "learned": Learned,
    "rotary": Rotary,
    "rotary_interleaved": RotaryInterleaved,
}
