"""Texts and tokens on disk, of any size, and the batches made of them. Shapes: B batch, T context_length.

Memory does not grow with the text: read_pieces gives it piece by piece, Tokenizer.encode_iterable makes ids
of the pieces, write_tokens puts them on the disk, read_tokens maps them, Windows reads those of one batch.
"""

import codecs
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llmcore.files import not_utf8, reading, temporary_name, write_whole, writing

TYPES = {"uint16": np.uint16, "uint32": np.uint32}
# all up to the last line end between two words; or, without one, up to the last word before a space
PIECES = (re.compile(r"(?s:.*)(?<=\S)\n(?=\S)"), re.compile(r"(?s:.*)(?<=\S)(?=[ \t])"))


def read_pieces(path: str | Path, size: int = 1 << 20) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of about `size` characters, none empty; joined they are the whole.

    A byte order mark at its beginning is left out. Raises ValueError for a file that is not UTF-8.

    A piece ends at a line end between two words, or else before a space that follows a word. The patterns of
    llmcore.tokenizer cut there in any case, and what they find before does not depend on what follows. So a
    vocabulary learned from the pieces is that of the whole text. A piece without such a place is cut where it
    is full.
    """
    if size < 1:
        raise ValueError(f"size={size}: a piece has at least 1 character")
    decoder, held, done, beginning = codecs.getincrementaldecoder("utf-8")(), "", 0, b""
    started = False  # a byte order mark is the first character or none
    with open(path, "rb") as file:
        while block := file.read(size):
            beginning = (beginning + block[:4])[:4]
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                at = done + len(block) - len(error.object) + error.start
                raise not_utf8(path, beginning + file.read(4), at) from error
            held += text if started else text.removeprefix("\ufeff")
            started = started or text != ""
            done += len(block)
            if len(held) >= size:
                found = PIECES[0].match(held) or PIECES[1].match(held)
                cut = found.end() if found else len(held)
                yield held[:cut]
                held = held[cut:]
    try:
        held += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} ends in the middle of a character: it is cut short, or not UTF-8; convert the file first"
        ) from error
    if held:
        yield held


def write_tokens(path: str | Path, ids: Iterable[int], vocab_size: int, chunk: int = 1 << 16) -> int:
    """Write ids to a file, `chunk` at a time, and return how many there are.

    Each id takes 16 bits where the vocabulary fits, else 32. Beside the file, path.json holds count, type and
    vocab_size. Both appear whole or not at all: they are written under another name and renamed. Raises
    ValueError for an id outside 0..V-1, and an OSError that names the file if the disk is full or the folder
    may not be written.
    """
    path = Path(path)
    if not 0 < vocab_size <= 1 << 32:
        raise ValueError(f"vocab_size={vocab_size}: an id takes at most 32 bits; choose 1..2^32")
    kind = "uint16" if vocab_size <= 1 << 16 else "uint32"
    buffer: list[int] = []
    count, temporary, header = 0, temporary_name(path), path.with_name(path.name + ".json")

    def flush(file: Any) -> None:
        block = np.asarray(buffer, dtype=np.int64)
        if len(block) and not (block.min() >= 0 and block.max() < vocab_size):
            bad = block[(block < 0) | (block >= vocab_size)][0]
            raise ValueError(
                f"id {bad} is outside 0..{vocab_size - 1}: does the tokenizer have this vocab_size?"
            )
        data = memoryview(block.astype(kind).tobytes())
        with writing(path):
            while data:
                data = data[file.write(data) :]
        buffer.clear()

    try:
        with writing(path):
            # no buffer: after a failed write, closing the file would try again, and fail again
            file = temporary.open("wb", buffering=0)
        with file:
            for id_ in ids:
                buffer.append(id_)
                count += 1
                if len(buffer) == chunk:
                    flush(file)
            flush(file)
            with writing(path):
                os.fsync(file.fileno())
        with writing(path):
            header.unlink(missing_ok=True)  # ids beside the header of others would be read as theirs
            os.replace(temporary, path)
        write_whole(header, json.dumps({"count": count, "dtype": kind, "vocab_size": vocab_size}))
    finally:
        with contextlib.suppress(OSError):  # where it could not be made it cannot be removed
            temporary.unlink(missing_ok=True)
    return count


def read_tokens(path: str | Path) -> tuple[np.ndarray, int]:
    """The ids of a file as a read-only memory map, and their vocab_size.

    Raises FileNotFoundError if the file or the .json beside it is missing, ValueError if one is not whole.
    """
    path = Path(path)
    header = path.with_name(path.name + ".json")
    for needed in (path, header):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed} does not exist: write_tokens makes the ids and the .json beside them"
            )
    try:
        meta = json.loads(header.read_text(encoding="utf-8"))
        count, kind, vocab_size = meta["count"], np.dtype(TYPES[meta["dtype"]]), meta["vocab_size"]
        if type(count) is not int or type(vocab_size) is not int or not 0 < vocab_size <= 1 << 32:
            raise ValueError(
                f"count={count!r} and vocab_size={vocab_size!r} must be whole numbers, vocab_size at least 1"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{header} is no header of a token file ({error}): write the tokens again"
        ) from error
    size = path.stat().st_size
    if size != count * kind.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, {count} ids need {count * kind.itemsize}: "
            "it is cut short; write it again"
        )
    if count == 0:
        raise ValueError(f"{path} holds no ids: the text was empty")
    return np.memmap(path, dtype=kind, mode="r"), vocab_size


@dataclass(frozen=True)
class Batch:
    """targets[b, t] is the id that follows ids[b, t]."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


# attributes that must be the same where a saved position is loaded, and how an error introduces their value
SAME = {
    "seed": "seed=",
    "count": "count=",
    "batch_size": "batch_size=",
    "context_length": "context_length=",
    "shuffle": "shuffle=",
    "digest": "other ids: their SHA-256 is ",
}


class Windows:
    """Windows of T + 1 ids, cut one after the other, as shuffled batches; epoch e is shuffled by seed + e.

    Window i covers ids i T .. i T + T, so every id but the first is a target once per epoch. A tail shorter
    than a window, and a last batch that is not full, are left out of an epoch. `rank` of `world` takes its
    own B / world of every batch, so that all ranks together read what one process would. The position is a
    small dict that JSON holds: state(), load().
    """

    def __init__(
        self,
        tokens: np.ndarray | Sequence[int],
        context_length: int,
        batch_size: int,
        vocab_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ):
        self.tokens = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens, dtype=np.int64)
        if self.tokens.ndim != 1 or not np.issubdtype(self.tokens.dtype, np.integer):
            raise ValueError(
                f"tokens of shape {self.tokens.shape}, type {self.tokens.dtype}: "
                "pass one row of whole numbers"
            )
        if context_length < 1:
            raise ValueError(f"context_length={context_length}: a window has at least 1 id and its target")
        if len(self.tokens) <= context_length:
            raise ValueError(
                f"{len(self.tokens)} tokens with context_length={context_length}: "
                f"a window takes {context_length + 1}; use a longer text or a shorter context"
            )
        low, high = _range(self.tokens)
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"id {low if low < 0 else high} is outside 0..{vocab_size - 1}: "
                "does the tokenizer fit the model?"
            )
        self.context_length, self.batch_size = context_length, batch_size
        self.seed, self.shuffle = seed, shuffle
        self.count = (len(self.tokens) - 1) // context_length
        if not 1 <= batch_size <= self.count:
            raise ValueError(
                f"batch_size={batch_size} with {self.count} windows: choose 1..{self.count} or a longer text"
            )
        if world < 1 or not 0 <= rank < world or batch_size % world:
            raise ValueError(
                f"rank={rank} of world={world} with batch_size={batch_size}: world must divide the batch"
            )
        self.rank, self.world = rank, world
        self.epoch, self.batch = 0, 0
        self._order: tuple[int, np.ndarray] | None = None
        self._digest: str | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Only full batches count.

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

    @property
    def digest(self) -> str:
        """SHA-256 of all ids, the same in whatever type they are kept; computed once, a block at a time."""
        if self._digest is None:
            kind, digest = np.min_scalar_type(_range(self.tokens)[1]).newbyteorder("<"), hashlib.sha256()
            for block in _blocks(self.tokens):
                digest.update(block.astype(kind).tobytes())
            self._digest = digest.hexdigest()
        return self._digest

    def state(self) -> dict[str, Any]:
        """The position, with all that decides which windows come next: their order and the ids themselves."""
        return {"epoch": self.epoch, "batch": self.batch} | {name: getattr(self, name) for name in SAME}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where state() was taken. ValueError for other ids, another batch size or another seed."""
        with reading("the saved position", remedy="take it from state()"):
            epoch, batch, same = state["epoch"], state["batch"], {name: state[name] for name in SAME}
        whole = type(epoch) is int and type(batch) is int
        if not whole or epoch < 0 or not 0 <= batch < self.batches_per_epoch:
            raise ValueError(
                f"epoch={epoch!r}, batch={batch!r} is no position among {self.batches_per_epoch} batches: "
                "use state()"
            )
        for name, value in same.items():
            if value != getattr(self, name):
                raise ValueError(
                    f"{SAME[name]}{getattr(self, name)} here, {value} in the saved position: "
                    "resume with the same data"
                )
        self.epoch, self.batch = epoch, batch


def _blocks(tokens: np.ndarray, size: int = 1 << 22) -> Iterator[np.ndarray]:
    return (tokens[i : i + size] for i in range(0, len(tokens), size))


def _range(tokens: np.ndarray) -> tuple[int, int]:
    """The least and the greatest id, a block at a time."""
    parts = [(int(p.min()), int(p.max())) for p in _blocks(tokens)]
    return min(low for low, _ in parts), max(high for _, high in parts)


def collate(
    sequences: Sequence[Sequence[int]], pad: int = 0, ignore: int = -100
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """Sequences of unequal length as (ids, targets, lengths), padded on the right.

    targets are the next ids, and `ignore` where there is none. Raises ValueError without a sequence, or for
    one of fewer than 2 ids.

    >>> ids, targets, lengths = collate([[5, 6, 7], [8, 9]])
    >>> ids.tolist(), targets.tolist(), lengths.tolist()
    ([[5, 6], [8, 0]], [[6, 7], [9, -100]], [2, 1])
    """
    if not sequences or min(len(s) for s in sequences) < 2:
        raise ValueError(
            "a sequence of fewer than 2 ids (or no sequence) has no next token to predict: leave it out"
        )
    width = max(len(s) for s in sequences) - 1
    ids = [[*s[:-1], *[pad] * (width - len(s) + 1)] for s in sequences]
    targets = [[*s[1:], *[ignore] * (width - len(s) + 1)] for s in sequences]
    return torch.tensor(ids), torch.tensor(targets), torch.tensor([len(s) - 1 for s in sequences])
