"""The base of all tokenizers: text to ids and back, special tokens, and a file that says what it holds."""

import json
import operator
import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from llmcore.files import write_whole

FORMAT = "llmcore-tokenizer-1"
Allowed = str | Iterable[str]
WINDOW = 1 << 12  # characters that encode_iterable cuts and encodes at a time


class Tokenizer(ABC):
    """ids lie in 0 .. len - 1, perhaps with gaps (our notes' start at 100); len is the largest id + 1.

    A special token is a text with one id, which is never split and never part of a merge; where two begin at
    the same place, the longer wins. They are recognised only if the caller allows them, because text from
    outside may contain them: allowed_special is "none" (the default: they are ordinary text), "all", or a
    list of their names.
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
        """The ids of a text in which special tokens are ordinary text."""

    @abstractmethod
    def token_bytes(self, id_: int) -> bytes:
        """The bytes that an id stands for. ValueError for an id without an entry."""

    @abstractmethod
    def ids(self) -> list[int]:
        """All ids that have an entry, those of special tokens included, in rising order."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The contents of a saved file, besides kind and special tokens."""

    @classmethod
    @abstractmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: dict[str, int]) -> "Tokenizer": ...

    def __len__(self) -> int:
        return self.ids()[-1] + 1

    def encode(
        self, text: str, allowed_special: Allowed = "none", unknown: Counter[str] | None = None
    ) -> list[int]:
        """The ids of the text; an empty text has none.

        Pieces that become the unknown token are counted in `unknown`.
        """
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(f"text is of type {kind}: encode takes one str, encode_iterable takes several")
        out: list[int] = []
        for piece, special in self._segments(text, self._finder(self._names(allowed_special))):
            out.extend([self.special_tokens[piece]] if special else self._counted(piece, unknown))
        return out

    def encode_iterable(
        self, texts: Iterable[str], allowed_special: Allowed = "none", unknown: Counter[str] | None = None
    ) -> Iterator[int]:
        """The ids of encode("".join(texts)), lazily: only text whose ids may still change is held back.

        Pieces that become the unknown token are counted in `unknown`; without it, a UserWarning at the end
        counts them.
        """
        return self._lazily(several(texts, "texts"), self._names(allowed_special), unknown)

    def _lazily(self, texts: Iterable[str], names: list[str], unknown: Counter[str] | None) -> Iterator[int]:
        lacking: Counter[str] = Counter() if unknown is None else unknown
        held: list[str] = []
        length = undecided = 0  # characters held now, and after the last attempt to encode them
        for piece, special in self._marked(texts, names):
            if special:
                yield from self._counted("".join(held), lacking)
                yield self.special_tokens[piece]
                held, length, undecided = [], 0, 0
                continue
            held.append(piece)
            length += len(piece)
            if length < 2 * undecided:
                continue  # held text is tried again only when it has doubled, so the total time is linear
            text, start, size = "".join(held), 0, WINDOW
            while start < len(text):
                window = text[start : start + size]
                last = start + size >= len(text)
                ids, end = self._decided(window)
                if end:
                    self._count(window[:end], ids, lacking)
                    yield from ids
                    start, size = start + end, WINDOW
                elif not last:  # nothing in this window is decided: look further
                    size *= 2
                if last:  # the rest waits for the next text
                    break
            held, length, undecided = [text[start:]], len(text) - start, len(text) - start
        yield from self._counted("".join(held), lacking)
        if unknown is None and lacking:
            warnings.warn(in_no_entry(lacking), stacklevel=2)

    def _decided(self, text: str) -> tuple[list[int], int]:
        """The ids of a beginning of the text that no continuation can change, and the beginning's length."""
        end = self._stable(text)
        return self.encode_ordinary(text[:end]), end

    def _marked(self, texts: Iterable[str], names: list[str]) -> Iterator[tuple[str, bool]]:
        """(piece, is it special) in order. Text that may begin a special token waits for what follows."""
        finder, longest = self._finder(names), max(map(len, names), default=1)
        begun = {name[:i] for name in names for i in range(1, len(name))}
        held = ""
        for text in texts:
            held += text
            # places where a special token has begun that the next text may complete
            open_at = [i for i in range(max(0, len(held) - longest + 1), len(held)) if held[i:] in begun]
            start = 0
            while True:
                match = finder.search(held, start) if finder else None
                wait = next((i for i in open_at if i >= start), len(held))
                if match is None or wait <= match.start():
                    break  # an earlier special token, or a longer one at this place, may still be completed
                if match.start() > start:
                    yield held[start : match.start()], False
                yield match.group(), True
                start = match.end()
            if wait > start:
                yield held[start:wait], False
            held = held[wait:]
        yield from self._segments(held, finder)

    def _counted(self, text: str, unknown: Counter[str] | None) -> list[int]:
        ids = self.encode_ordinary(text)
        self._count(text, ids, unknown)
        return ids

    def _count(self, text: str, ids: list[int], unknown: Counter[str] | None) -> None:
        """Count in `unknown` the pieces that became the unknown token."""
        if unknown is not None and self._unknown_id is not None and self._unknown_id in ids:
            unknown.update(self.unknown_pieces(text))

    @property
    def _unknown_id(self) -> int | None:
        """The id of the unknown token; None if there is none."""
        return None

    def unknown_pieces(self, text: str) -> Counter[str]:
        """The pieces of an ordinary text that become the unknown token, and how often each does."""
        return Counter()

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of a list, an array or a tensor of ids.

        Bytes that are not UTF-8 (a character cut in two) become U+FFFD, or raise with errors="strict".
        """
        return b"".join(map(self.token_bytes, whole_numbers(ids))).decode("utf-8", errors)

    def token(self, id_: int) -> str:
        """One id as text, for reading."""
        return self.decode([id_])

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        state = {"format": FORMAT, "kind": self.kind, "special_tokens": self.special_tokens, **self._state()}
        write_whole(Path(path), json.dumps(state, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what save wrote. ValueError if the file is damaged or holds another kind of tokenizer."""
        from llmcore.tokenizer import load

        loaded = load(path)
        if not isinstance(loaded, cls):
            kinds = f"a {loaded.kind} tokenizer, not {cls.__name__}"
            raise ValueError(f"{path} holds {kinds}: use llmcore.tokenizer.load")
        return loaded

    def _names(self, allowed: Allowed) -> list[str]:
        if isinstance(allowed, str):
            if allowed not in ("all", "none"):
                choices = '"all", "none" or a list of special tokens'
                raise ValueError(f"allowed_special={allowed!r}: use {choices}")
            return list(self.special_tokens) if allowed == "all" else []
        names = list(allowed)
        foreign = [n for n in names if n not in self.special_tokens]
        if foreign:
            raise ValueError(
                f"allowed_special names {foreign[0]!r}, which is none of {list(self.special_tokens)}"
            )
        return names

    @staticmethod
    def _finder(names: list[str]) -> re.Pattern[str] | None:
        names = sorted(names, key=len, reverse=True)  # a regular expression takes the first that matches
        return re.compile("|".join(map(re.escape, names))) if names else None

    @staticmethod
    def _segments(text: str, pattern: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
        """(piece, is it special) in order, without empty pieces."""
        start = 0
        for match in pattern.finditer(text) if pattern else ():
            if match.start() > start:
                yield text[start : match.start()], False
            yield match.group(), True
            start = match.end()
        if start < len(text):
            yield text[start:], False

    def _stable(self, text: str) -> int:
        """The length of a beginning that has the ids it has on its own, whatever follows."""
        return 0

    def _no_such_id(self, id_: object) -> ValueError:
        where = f"this vocabulary (0..{len(self) - 1})"
        return ValueError(f"id {id_!r} is in no entry of {where}: was it made by another tokenizer?")


def check_entries(vocabulary: Mapping[Any, Any]) -> None:
    """ValueError unless each entry is bytes or text that UTF-8 can encode, and each id lies in [0, 2^31)."""
    for entry, id_ in vocabulary.items():
        if type(id_) is not int or not 0 <= id_ < 1 << 31:
            raise ValueError(f"entry {entry!r} has id {id_!r}: an id is a whole number in 0..2^31 - 1")
        if isinstance(entry, str):
            check_text(entry)
        elif not isinstance(entry, bytes):
            raise ValueError(f"entry {entry!r} is no text: give each id a text")


def check_text(text: str) -> bytes:
    """The UTF-8 bytes of a text. A lone surrogate has none: the ValueError says where it is."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is {text[error.start]!r}, half of a pair: it has no UTF-8; "
            'decode the text again with errors="replace"'
        ) from error


def several(texts: Iterable[str], name: str) -> Iterator[str]:
    """The texts one by one. ValueError for a single str, which Python would iterate letter by letter."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        shown = repr(texts) if len(repr(texts)) <= 40 else f"{repr(texts)[:40]}..."
        kind = type(texts).__name__
        raise ValueError(f"{name}={shown} is one {kind}: several texts are meant, so pass a list, [text]")
    return _each(texts, name)


def _each(texts: Iterable[str], name: str) -> Iterator[str]:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(f"{name}[{i}]={text!r} is of type {kind}, no text: decode or read it first")
        yield text


def whole_numbers(ids: Iterable[int]) -> list[int]:
    """ids as Python ints, from a list or a one-axis array or tensor of any integer type."""
    plain = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors; from a GPU in one copy
    if not isinstance(plain, Iterable):
        raise ValueError(f"ids={ids!r} is no list of ids: pass [id]")
    return [_whole_number(id_) for id_ in plain]


def _whole_number(id_: Any) -> int:
    if isinstance(id_, list):
        raise ValueError(
            f"ids hold a list of {len(id_)}, so they have several axes: decode one sequence, ids[0]"
        )
    try:
        if isinstance(id_, bool):
            raise TypeError("a truth value")
        return operator.index(id_)
    except TypeError as error:
        kind = type(id_).__name__
        message = f"id {id_!r} is of type {kind}: an id is a whole number, so pass an integer type"
        raise ValueError(message) from error


def in_no_entry(unknown: Counter[str], shown: int = 5) -> str:
    """A line that sums up which pieces became the unknown token.

    >>> in_no_entry(Counter({"é": 3, "½": 1}))
    "4 pieces are in no entry of the vocabulary and become the unknown token: 'é' 3, '½' 1"
    """
    total = sum(unknown.values())
    most = ", ".join(f"{piece[:20]!r} {n}" for piece, n in unknown.most_common(shown))
    rest = f", and {len(unknown) - shown} others" if len(unknown) > shown else ""
    subject, verb = ("1 piece is", "becomes") if total == 1 else (f"{total} pieces are", "become")
    return f"{subject} in no entry of the vocabulary and {verb} the unknown token: {most}{rest}"
