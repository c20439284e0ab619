"""What every tokenizer does: text to ids and back, special tokens, and a file that says what it holds."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from llmcore.files import write_whole

FORMAT = "llmcore-tokenizer-1"
Allowed = str | Iterable[str]


class Tokenizer(ABC):
    """ids in 0 .. len - 1 or with gaps (our notes' own dictionary starts at 100); len is one more than the largest id.

    Special tokens are text that stands for one id and is never split nor merged into; where two begin at the same place the
    longer wins. They are recognised only where the caller allows them, because text from outside may hold them:
    allowed_special is "none" (the default: they are read as ordinary text), "all", or some of their names.
    """

    kind: ClassVar[str]

    def __init__(self, special_tokens: dict[str, int] | None = None):
        self.special_tokens = dict(special_tokens or {})
        check_entries(self.special_tokens)
        if "" in self.special_tokens:
            raise ValueError("special token '' is empty: it would stand everywhere; give it a name")
        self._special_names = {i: s for s, i in self.special_tokens.items()}
        if len(self._special_names) != len(self.special_tokens):
            raise ValueError(f"special tokens {self.special_tokens} share an id: give each its own")

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """ids of a text without special tokens."""

    @abstractmethod
    def token_bytes(self, id_: int) -> bytes:
        """The bytes that an id stands for. ValueError for an id out of range."""

    @abstractmethod
    def ids(self) -> list[int]:
        """Every id that stands for something, special ones too, in order."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What a file must hold beside kind and special tokens."""

    @classmethod
    @abstractmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: dict[str, int]) -> "Tokenizer": ...

    def __len__(self) -> int:
        return self.ids()[-1] + 1

    def encode(self, text: str, allowed_special: Allowed = "none") -> list[int]:
        """ids of the text; empty text gives no ids."""
        out: list[int] = []
        for piece, special in self._segments(text, self._allowed(allowed_special)):
            out.extend([self.special_tokens[piece]] if special else self.encode_ordinary(piece))
        return out

    def encode_iterable(self, texts: Iterable[str], allowed_special: Allowed = "none") -> Iterator[int]:
        """The ids of the pieces' concatenation, lazily: what is held back is the part that later text may still change."""
        pattern, names = self._allowed(allowed_special), self._names(allowed_special)
        held = ""
        for text in texts:
            held += text
            end = self._possible_special(held, names)
            cut, done = 0, 0
            for piece, special in self._segments(held[:end], pattern):
                done += len(piece)
                if special:
                    yield from self.encode(held[cut:done], names)
                    cut = done
            stable = self._stable(held[cut:end])
            yield from self.encode_ordinary(held[cut : cut + stable])
            held = held[cut + stable :]
        yield from self.encode(held, names)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of the ids. Bytes that are no UTF-8 (a character cut in two) become U+FFFD, or raise with errors="strict"."""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors)

    def token(self, id_: int) -> str:
        """One id as text, for reading."""
        return self.decode([id_])

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        state = {"format": FORMAT, "kind": self.kind, "special_tokens": self.special_tokens, **self._state()}
        write_whole(Path(path), json.dumps(state, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what save wrote. ValueError where the file is damaged or holds another kind."""
        from llmcore.tokenizer import load

        loaded = load(path)
        if not isinstance(loaded, cls):
            raise ValueError(f"{path} holds a {loaded.kind} tokenizer, not {cls.__name__}: use llmcore.tokenizer.load")
        return loaded

    def _names(self, allowed: Allowed) -> list[str]:
        if isinstance(allowed, str):
            if allowed not in ("all", "none"):
                raise ValueError(f'allowed_special={allowed!r}: use "all", "none" or a list of special tokens')
            return list(self.special_tokens) if allowed == "all" else []
        names = list(allowed)
        unknown = [n for n in names if n not in self.special_tokens]
        if unknown:
            raise ValueError(f"allowed_special names {unknown[0]!r}, which is none of {list(self.special_tokens)}")
        return names

    def _allowed(self, allowed: Allowed) -> re.Pattern[str] | None:
        names = sorted(self._names(allowed), key=len, reverse=True)  # the longer is tried first
        return re.compile("|".join(map(re.escape, names))) if names else None

    @staticmethod
    def _segments(text: str, pattern: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
        """(piece, is it special), in order, empty pieces left out."""
        start = 0
        for match in pattern.finditer(text) if pattern else ():
            if match.start() > start:
                yield text[start : match.start()], False
            yield match.group(), True
            start = match.end()
        if start < len(text):
            yield text[start:], False

    @staticmethod
    def _possible_special(text: str, names: list[str]) -> int:
        """Where a special token might have begun that is not complete; len(text) where none might."""
        longest = max(map(len, names), default=0)
        for i in range(max(0, len(text) - longest + 1), len(text)):
            tail = text[i:]
            if any(len(n) > len(tail) and n.startswith(tail) for n in names):
                return i
        return len(text)

    def _stable(self, text: str) -> int:
        """How many characters of a text have ids that no continuation can change."""
        return 0

    def _no_such_id(self, id_: object) -> ValueError:
        return ValueError(f"id {id_!r} is in no entry of this vocabulary (0..{len(self) - 1}): was it made by another tokenizer?")


def check_entries(vocabulary: Mapping[Any, Any]) -> None:
    """ValueError unless each entry is a text that has a UTF-8 (or bytes), and each id a whole number below 2^31."""
    for entry, id_ in vocabulary.items():
        if type(id_) is not int or not 0 <= id_ < 1 << 31:
            raise ValueError(f"entry {entry!r} has id {id_!r}: an id is a whole number in 0..2^31 - 1")
        if isinstance(entry, str):
            check_text(entry)
        elif not isinstance(entry, bytes):
            raise ValueError(f"entry {entry!r} is no text: give each id a text")


def check_text(text: str) -> bytes:
    """UTF-8 of a text; a lone surrogate has none and raises a ValueError that says where."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is {text[error.start]!r}, half of a pair: it has no UTF-8; decode the text again with "
            'errors="replace"'
        ) from error
