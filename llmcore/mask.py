"""The rule that says which keys a query may read; it becomes a (T, S) square of booleans only where needed.

Shapes: B batch, T queries, S keys. With a KV cache the T queries are the last T of the S keys.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from llmcore import checks

Device = torch.device | None


@dataclass(frozen=True)
class Padding:
    """Sequence b has real tokens at start[b] <= s < stop[b]; the rest is padding. None means 0 or the end.

    Right padding sets stop (the lengths), left padding sets start.

    >>> Padding(stop=torch.tensor([2, 3])).real(3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """

    start: Int[Tensor, " B"] | None = None
    stop: Int[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        checks.ends(start=self.start, stop=self.stop)

    def real(self, stop: int, start: int = 0) -> Bool[Tensor, "B S"]:
        """For the places start .. stop - 1: True at real tokens. self.start or self.stop must be set."""
        given = self.start if self.start is not None else self.stop
        assert given is not None
        places = torch.arange(start, stop, device=given.device)
        real = torch.ones(len(given), len(places), dtype=torch.bool, device=given.device)
        if self.start is not None:
            real = real & (places >= self.start[:, None])
        if self.stop is not None:
            real = real & (places < self.stop[:, None])
        return real

    @property
    def empty(self) -> bool:
        return self.start is None and self.stop is None

    def positions(self, T: int, offset: int, device: torch.device) -> Int[Tensor, "B_or_1 T"]:
        """Positions of the T tokens from place offset on; a sequence's first real token has position 0."""
        places = torch.arange(offset, offset + T, device=device)[None]
        return places if self.start is None else (places - self.start[:, None]).clamp(min=0)


@dataclass(frozen=True)
class Mask:
    """causal: query t reads only keys s <= t. padding: no query reads a padding key."""

    causal: bool = False
    padding: Padding = Padding()

    def __post_init__(self) -> None:
        checks.rule(self.causal)

    def square(self, T: int, S: int, device: Device = None) -> Bool[Tensor, "B_or_1 1 T S"] | None:
        """True where a query may read a key; None where every query may read every key.

        >>> Mask(causal=True).square(2, 3).int()  # two new queries, one key from before
        tensor([[[[1, 1, 0],
                  [1, 1, 1]]]], dtype=torch.int32)
        """
        return self.tile(range(S - T, S), range(S), device)

    def tile(self, queries: range, keys: range, device: Device = None) -> Bool[Tensor, "B_or_1 1 t s"] | None:
        """The part of the square at these places (query t has place S - T + t); None if all of it is True.

        >>> Mask(causal=True).tile(range(2, 4), range(1, 4)).int()
        tensor([[[[1, 1, 0],
                  [1, 1, 1]]]], dtype=torch.int32)
        """
        checks.last_of_the_keys(self.causal, queries.start)
        causal = self.causal and keys.stop - 1 > queries.start  # else no key here is in a query's future
        if not causal and self.padding.empty:
            return None
        s = torch.arange(keys.start, keys.stop, device=device)
        t = torch.arange(queries.start, queries.stop, device=device)[:, None]
        allowed = s <= t if causal else torch.ones(len(t), len(s), dtype=torch.bool, device=device)
        if self.padding.empty:
            return allowed[None, None]
        return allowed[None, None] & self.padding.real(keys.stop, keys.start)[:, None, None, :]
