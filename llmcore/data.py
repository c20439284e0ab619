"""Tokens on disk and the batches made of them. Shapes: B batch, T context_length."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def write_tokens(path: str | Path, ids: Iterable[int], vocab_size: int, chunk: int = 1 << 16) -> int:
    """Write ids to a file, `chunk` at a time, and return how many there are.

    16 bits an id where the vocabulary fits, else 32. Beside it path.json holds count, type and vocab_size. Both appear
    whole or not at all: they are written under another name and renamed. Raises ValueError for an id outside 0..V-1.
    """
    path = Path(path)
    kind = "uint16" if vocab_size <= 1 << 16 else "uint32"
    buffer: list[int] = []
    count, temporary = 0, path.with_name(path.name + ".tmp")

    def flush(file: Any) -> None:
        block = np.asarray(buffer, dtype=np.int64)
        if len(block) and not (block.min() >= 0 and block.max() < vocab_size):
            bad = block[(block < 0) | (block >= vocab_size)][0]
            raise ValueError(f"id {bad} is outside 0..{vocab_size - 1}: does the tokenizer have this vocab_size?")
        file.write(block.astype(kind).tobytes())
        buffer.clear()

    try:
        with temporary.open("wb") as file:
            for id_ in ids:
                buffer.append(id_)
                count += 1
                if len(buffer) == chunk:
                    flush(file)
            flush(file)
            file.flush()
            os.fsync(file.fileno())
        header = temporary.with_name(path.name + ".json.tmp")
        header.write_text(json.dumps({"count": count, "dtype": kind, "vocab_size": vocab_size}), encoding="utf-8")
        os.replace(temporary, path)
        os.replace(header, path.with_name(path.name + ".json"))
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_tokens(path: str | Path) -> tuple[np.ndarray, int]:
    """The ids of a file as a read-only memory map, and their vocab_size. A file that is not whole raises ValueError."""
    path = Path(path)
    header = path.with_name(path.name + ".json")
    for needed in (path, header):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} does not exist: write_tokens makes the ids and the .json beside them")
    try:
        meta = json.loads(header.read_text(encoding="utf-8"))
        count, kind, vocab_size = meta["count"], np.dtype(meta["dtype"]), meta["vocab_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{header} is no header of a token file ({error}): write the tokens again") from error
    size = path.stat().st_size
    if size != count * kind.itemsize:
        raise ValueError(f"{path} has {size} bytes, {count} ids need {count * kind.itemsize}: it is cut short; write it again")
    if count == 0:
        raise ValueError(f"{path} holds no ids: the text was empty")
    return np.memmap(path, dtype=kind, mode="r"), vocab_size


@dataclass(frozen=True)
class Batch:
    """targets[b, t] is the id that follows ids[b, t]."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


class Windows:
    """Windows of T + 1 ids, cut one after the other, as shuffled batches; epoch e is shuffled by seed + e.

    Window i covers ids i T .. i T + T, so every id but the first is a target once an epoch. A tail shorter than a window, and a
    last batch that is not full, are left out of an epoch. `rank` of `world` takes its own B / world of every batch, so
    that all ranks together read what one process would. The position is a small dict that JSON holds: state(), load().
    """

    def __init__(
        self, tokens: np.ndarray | Sequence[int], context_length: int, batch_size: int, vocab_size: int, seed: int = 0,
        shuffle: bool = True, rank: int = 0, world: int = 1,
    ):  # fmt: skip
        self.tokens = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens, dtype=np.int64)
        if self.tokens.ndim != 1 or not np.issubdtype(self.tokens.dtype, np.integer):
            raise ValueError(f"tokens of shape {self.tokens.shape}, type {self.tokens.dtype}: pass one row of whole numbers")
        if len(self.tokens) <= context_length:
            raise ValueError(
                f"{len(self.tokens)} tokens with context_length={context_length}: a window takes {context_length + 1}; "
                "use a longer text or a shorter context"
            )
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(f"id {low if low < 0 else high} is outside 0..{vocab_size - 1}: does the tokenizer fit the model?")
        self.context_length, self.batch_size, self.seed, self.shuffle = context_length, batch_size, seed, shuffle
        self.count = (len(self.tokens) - 1) // context_length
        if not 1 <= batch_size <= self.count:
            raise ValueError(f"batch_size={batch_size} with {self.count} windows: choose 1..{self.count} or a longer text")
        if world < 1 or not 0 <= rank < world or batch_size % world:
            raise ValueError(f"rank={rank} of world={world} with batch_size={batch_size}: world must divide the batch")
        self.rank, self.world = rank, world
        self.epoch, self.batch = 0, 0
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """ceil would count a part batch; only full ones are read.

        >>> Windows(list(range(100)) * 101, 1, 50, vocab_size=100).batches_per_epoch
        201
        """
        return self.count // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """The order in which an epoch reads the windows; the same on every machine."""
        if self._order is None or self._order[0] != epoch:
            numbers = np.arange(self.count)
            if self.shuffle:
                np.random.Generator(np.random.PCG64(self.seed + epoch)).shuffle(numbers)
            self._order = (epoch, numbers)
        return self._order[1]

    def window(self, i: int) -> np.ndarray:
        start = i * self.context_length
        return self.tokens[start : start + self.context_length + 1].astype(np.int64)

    def take(self, windows: Iterable[int]) -> Batch:
        rows = torch.from_numpy(np.stack([self.window(i) for i in windows]))
        return Batch(rows[:, :-1], rows[:, 1:])

    def next(self) -> Batch:
        """The next batch; after the last of an epoch the next epoch begins."""
        start = self.batch * self.batch_size
        chosen = self.order(self.epoch)[start : start + self.batch_size][self.rank :: self.world]
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        return self.take(chosen.tolist())

    def once(self, limit: int | None = None) -> Iterator[Batch]:
        """Every window once, in order, the last batch perhaps smaller; the position does not move."""
        for start in range(0, self.count, self.batch_size)[:limit]:
            yield self.take(range(start, min(start + self.batch_size, self.count)))

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch, "seed": self.seed, "count": self.count, "batch_size": self.batch_size}

    def load(self, state: dict[str, int]) -> None:
        """Continue where state() was taken; other data, batch size or seed would not be the same run: ValueError."""
        for name in ("seed", "count", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} here, {state[name]} in the saved position: resume with the same data")
        self.epoch, self.batch = state["epoch"], state["batch"]


def collate(
    sequences: Sequence[Sequence[int]], pad: int = 0, ignore: int = -100
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """Sequences of unequal length as (ids, targets, lengths): padded on the right, targets are the next ids, padding ignored.

    >>> ids, targets, lengths = collate([[5, 6, 7], [8, 9]])
    >>> ids.tolist(), targets.tolist(), lengths.tolist()
    ([[5, 6], [8, 0]], [[6, 7], [9, -100]], [2, 1])
    """
    if not sequences or min(len(s) for s in sequences) < 2:
        raise ValueError("a sequence of fewer than 2 ids (or no sequence) has no next token to predict: leave it out")
    width = max(len(s) for s in sequences) - 1
    ids = [[*s[:-1], *[pad] * (width - len(s) + 1)] for s in sequences]
    targets = [[*s[1:], *[ignore] * (width - len(s) + 1)] for s in sequences]
    return torch.tensor(ids), torch.tensor(targets), torch.tensor([len(s) - 1 for s in sequences])
