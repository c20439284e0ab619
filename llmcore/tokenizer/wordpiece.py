"""WordPiece, BERT's way of cutting words  [Schuster & Nakajima 2012; Devlin et al. 2019, and its code]

A text is normalised (control characters are removed, letters become lower case and lose their accents) and
cut at white space, at punctuation and around each Chinese character. Each word is then cut into the longest
entries, from the left; an entry that continues a word begins with ##. If a part of a word has no entry, the
whole word becomes the unknown token.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from llmcore.tokenizer.base import Tokenizer, check_entries, check_text, whole_numbers

# The blocks that BERT's code calls Chinese: unified ideographs, extensions A to E, compatibility forms.
HAN = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
CONTROL = ("Cc", "Cf", "Co", "Cs")  # without Cn: code points not assigned yet are kept
LONGEST_WORD = 100  # characters; a longer word is unknown, as in BERT's code


def is_han(c: str) -> bool:
    return any(low <= ord(c) <= high for low, high in HAN)


def is_white(c: str) -> bool:
    return c in "\t\n\r" or unicodedata.category(c).startswith("Z")


def is_punctuation(c: str) -> bool:
    """Unicode's punctuation, and every ASCII sign that is no letter, digit or space, so also $+<=>^`|~"""
    return unicodedata.category(c).startswith("P") or (
        c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    )


class WordPieceTokenizer(Tokenizer):
    """vocabulary: entry -> id. Decoding joins words with one space: what normalising removed is lost.

    >>> t = WordPieceTokenizer({"un": 0, "##happy": 1, "!": 2}, {"[UNK]": 3}, "[UNK]")
    >>> t.encode("Unhappy!  unhappily"), t.decode([0, 1, 2])
    ([0, 1, 2, 3], 'unhappy !')
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(
        self,
        vocabulary: dict[str, int],
        special_tokens: dict[str, int],
        unknown: str = "[UNK]",
        lower: bool = True,
    ):
        super().__init__(special_tokens)
        check_entries(vocabulary)
        if type(lower) is not bool:
            raise ValueError(f"lower={lower!r} is neither true nor false: say whether letters are made small")
        all_ids = [*vocabulary.values(), *self.special_tokens.values()]
        if len(set(all_ids)) != len(all_ids):
            raise ValueError(
                f"{len(all_ids)} entries with {len(set(all_ids))} ids: each needs its own id of at least 0"
            )
        if unknown not in self.special_tokens:
            names = list(self.special_tokens)
            raise ValueError(f"unknown={unknown!r} is none of the special tokens {names}: add it to them")
        self.vocabulary, self.unknown, self.lower = dict(vocabulary), unknown, lower
        self._entry = {i: t for t, i in self.vocabulary.items()} | self._special_names
        self._longest = max(map(len, self.vocabulary), default=0)

    def words(self, text: str) -> list[str]:
        """The normalised text, cut into words and marks."""
        plain = []
        for c in text:
            if is_white(c):
                plain.append(" ")
            elif c != "\ufffd" and unicodedata.category(c) not in CONTROL:
                plain.append(f" {c} " if is_han(c) else c)
        text = "".join(plain)
        if self.lower:
            # letter by letter, because str.lower of a whole word gives a final Greek sigma another form
            text = "".join(
                c.lower() for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn"
            )
        return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()

    def pieces(self, word: str) -> list[str]:
        """A word's longest entries, from the left, or the unknown token."""
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        out: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(min(len(word), start + self._longest), start, -1)
            end = next((e for e in ends if mark + word[start:e] in self.vocabulary), None)
            if end is None:
                return [self.unknown]
            out.append(mark + word[start:end])
            start = end
        return out

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        unknown = self.special_tokens[self.unknown]
        return [self.vocabulary.get(p, unknown) for word in self.words(text) for p in self.pieces(word)]

    @property
    def _unknown_id(self) -> int:
        return self.special_tokens[self.unknown]

    def unknown_pieces(self, text: str) -> Counter[str]:
        return Counter(word for word in self.words(text) if self.pieces(word) == [self.unknown])

    def _stable(self, text: str) -> int:
        """The end of the last white space or Chinese character, which no word crosses."""
        return next((i for i in range(len(text), 0, -1) if is_white(text[i - 1]) or is_han(text[i - 1])), 0)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        return " ".join(map(self.entry, whole_numbers(ids))).replace(" ##", "")

    def entry(self, id_: int) -> str:
        """An id as the vocabulary spells it, ## included."""
        if id_ not in self._entry:
            raise self._no_such_id(id_)
        return self._entry[id_]

    def token_bytes(self, id_: int) -> bytes:
        return self.entry(id_).encode("utf-8")

    def ids(self) -> list[int]:
        return sorted(self._entry)

    def _state(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "unknown": self.unknown, "lower": self.lower}

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: dict[str, int]) -> "WordPieceTokenizer":
        return cls(state["vocabulary"], special_tokens, state["unknown"], state["lower"])
