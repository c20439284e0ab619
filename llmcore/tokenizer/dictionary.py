"""Tokenizers whose vocabulary is a dictionary from text to id: characters, words, or any pieces."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from llmcore.tokenizer.base import Tokenizer, check_entries, check_text, several

UNKNOWN = "<unk>"


class DictionaryTokenizer(Tokenizer):
    """Reads a text from the left, each time taking the longest entry that fits.

    A piece without an entry becomes the unknown token if `unknown` names one of the special tokens; else it
    raises ValueError. Decoding an unknown token gives its name: the piece itself is lost.

    >>> toy = DictionaryTokenizer(NOTES, {"<eos>": 200})
    >>> toy.encode("hello world<eos>", allowed_special="all")
    [101, 102, 100, 104, 105, 200]
    >>> toy.decode([101, 102, 100, 104, 105])
    'hello world'
    """

    kind: ClassVar[str] = "dictionary"

    def __init__(
        self,
        vocabulary: dict[str, int],
        special_tokens: dict[str, int] | None = None,
        unknown: str | None = None,
    ):
        super().__init__(special_tokens)
        check_entries(vocabulary)
        if "" in vocabulary:
            raise ValueError("the vocabulary holds the empty text: it would match everywhere; remove it")
        all_ids = [*vocabulary.values(), *self.special_tokens.values()]
        if not all_ids or len(set(all_ids)) != len(all_ids):
            raise ValueError(
                f"{len(all_ids)} entries with {len(set(all_ids))} ids: each needs its own id of at least 0"
            )
        if unknown is not None and unknown not in self.special_tokens:
            names = list(self.special_tokens)
            raise ValueError(f"unknown={unknown!r} is none of the special tokens {names}: add it to them")
        self.vocabulary, self.unknown = dict(vocabulary), unknown
        self._text_of = {i: t for t, i in self.vocabulary.items()} | self._special_names
        self._longest = max(map(len, self.vocabulary), default=1)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, special_tokens: Iterable[str] = ()
    ) -> "DictionaryTokenizer":
        """Special tokens first (the unknown one is 0), then the most frequent pieces, ties by code point."""
        counts: Counter[str] = Counter()
        for text in several(texts, "texts"):
            check_text(text)
            counts.update(cls._split(text))
        names = list(dict.fromkeys([UNKNOWN, *several(special_tokens, "special_tokens")]))
        if vocab_size is not None and vocab_size <= len(names):
            raise ValueError(
                f"vocab_size={vocab_size} leaves no room beside {len(names)} special tokens: make it larger"
            )
        pieces = sorted(counts, key=lambda p: (-counts[p], p))[
            : None if vocab_size is None else vocab_size - len(names)
        ]
        special = {name: i for i, name in enumerate(names)}
        return cls({p: i + len(names) for i, p in enumerate(pieces)}, special, UNKNOWN)

    @classmethod
    def _split(cls, text: str) -> list[str]:
        raise ValueError(
            f"{cls.__name__} learns nothing: give it a vocabulary, or train CharTokenizer or WordTokenizer"
        )

    def pieces(self, text: str) -> list[str]:
        """The text cut into entries; a character that begins no entry is a piece of its own."""
        out, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((e for e in ends if text[start:e] in self.vocabulary), start + 1)
            out.append(text[start:end])
            start = end
        return out

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        return [self._id(piece) for piece in self.pieces(text)]

    def _id(self, piece: str) -> int:
        found = self.vocabulary.get(piece)
        if found is None:
            if self.unknown is None:
                raise ValueError(
                    f"{piece!r} is in no entry and there is no unknown token: add one, or use byte-level BPE"
                )
            found = self.special_tokens[self.unknown]
        return found

    @property
    def _unknown_id(self) -> int | None:
        return None if self.unknown is None else self.special_tokens[self.unknown]

    def unknown_pieces(self, text: str) -> Counter[str]:
        return Counter(piece for piece in self.pieces(text) if piece not in self.vocabulary)

    def _stable(self, text: str) -> int:
        """The end of the pieces where even the longest entry had room: later text cannot change them."""
        out = 0
        for piece in self.pieces(text):
            if out + self._longest > len(text):
                break
            out += len(piece)
        return out

    def token_bytes(self, id_: int) -> bytes:
        if id_ not in self._text_of:
            raise self._no_such_id(id_)
        return self._text_of[id_].encode("utf-8")

    def ids(self) -> list[int]:
        return sorted(self._text_of)

    def _state(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "unknown": self.unknown}

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: dict[str, int]) -> "DictionaryTokenizer":
        return cls(state["vocabulary"], special_tokens, state["unknown"])


class CharTokenizer(DictionaryTokenizer):
    """One entry per character (a Unicode code point).

    >>> t = CharTokenizer.train(["abba"])
    >>> t.encode("ab?"), t.decode(t.encode("abba"))
    ([1, 2, 0], 'abba')
    """

    kind: ClassVar[str] = "char"

    @classmethod
    def _split(cls, text: str) -> list[str]:
        return list(text)

    def pieces(self, text: str) -> list[str]:
        return list(text)

    def _stable(self, text: str) -> int:
        return len(text)


class WordTokenizer(DictionaryTokenizer):
    """One entry per word, run of white space, or mark. Chinese has no spaces: each Han character is a word.

    >>> t = WordTokenizer.train(["the cat, the hat"])
    >>> [t.token(i) for i in t.encode("the dog, the cat")]
    ['the', ' ', '<unk>', ',', ' ', 'the', ' ', 'cat']
    """

    kind: ClassVar[str] = "word"
    PATTERN = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|\s+|.", re.DOTALL)

    @classmethod
    def _split(cls, text: str) -> list[str]:
        return cls.PATTERN.findall(text)

    def pieces(self, text: str) -> list[str]:
        return self._split(text)

    def _stable(self, text: str) -> int:
        """The end of all but the last piece, which later text may continue."""
        found = self._split(text)
        return len(text) - len(found[-1]) if found else 0


# Our notes' dictionary, from their table; eos is its special token 200. Their prose has he-l-lo wor-l-d.
NOTES = {" ": 100, "he": 101, "llo": 102, "wor": 104, "ld": 105}
