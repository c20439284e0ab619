"""Byte-level byte-pair encoding  [Sennrich et al. 2016; on bytes: Radford et al. 2019]

A text is cut into chunks by a pattern. A chunk starts as its UTF-8 bytes; the adjacent pair of lowest rank
is merged until no pair has a rank. All 256 bytes are entries, so no text needs an unknown token.
"""

import heapq
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from llmcore.tokenizer.base import Tokenizer, check_text, several
from llmcore.tokenizer.bpe_train import Merge, count_chunks, count_file, learn
from llmcore.tokenizer.compiled import learn_rustbpe, tiktoken_encoder
from llmcore.tokenizer.cutting import SPLIT_PATTERNS, compiled, cut, decided, decider

CACHE_BYTES = 1 << 25  # memory for chunks whose ids a tokenizer remembers
ENTRY_BYTES = 128  # memory of a dict per entry, at most: while it grows, it has two tables


class BPETokenizer(Tokenizer):
    """ranks: bytes -> id, lower ids merge first, as in tiktoken. merges: pairs of bytes in order, if listed.

    With ranks alone, any two neighbours whose joined bytes have a rank may merge (tiktoken's rule). With
    merges, only the listed pairs may (Hugging Face's rule). Ranks learned here give the same ids by both.

    Some published vocabularies need two options. unknown: the id of bytes that have no entry (SmolLM2 lacks
    21 of the 256). whole: a chunk that is an entry is taken whole, even if merges do not lead there (the
    rule of tiktoken and Llama 3).

    The ids of chunks are remembered in at most cache_bytes, 32 MiB unless it is set; 0 remembers nothing.

    encode_iterable holds back little text if the pattern consists of characters and sets, repeated or not,
    (?:groups) and lookaheads, as all published ones do. With other parts (an anchor, a lookbehind, a
    repeated group) any later character might move a cut: then text is held back up to the next special
    token.
    """

    kind: ClassVar[str] = "bpe"

    def __init__(
        self,
        ranks: dict[bytes, int],
        pattern: str = "gpt4-han",
        special_tokens: dict[str, int] | None = None,
        merges: list[tuple[bytes, bytes]] | None = None,
        unknown: int | None = None,
        whole: bool = False,
    ):
        super().__init__(special_tokens)
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing and unknown is None:
            bytes_ = f"{len(missing)} single bytes have no id, {missing[0]:#04x} first"
            raise ValueError(f"{bytes_}: byte-level BPE needs all 256")
        if unknown is not None and unknown not in self._special_names:
            raise ValueError(
                f"unknown={unknown} is no special token of {self.special_tokens}: add one with that id"
            )
        taken = [*ranks.values(), *self.special_tokens.values()]
        if len(set(taken)) != len(taken) or min(taken) < 0:
            raise ValueError(
                f"{len(taken)} entries with {len(set(taken))} ids: each needs its own id of at least 0"
            )
        self.ranks, self.pattern, self.merges = dict(ranks), pattern, merges
        self.unknown, self.whole = unknown, whole
        self._regex = compiled(pattern)
        self._bytes_of = {i: b for b, i in self.ranks.items()} | {
            i: s.encode() for i, s in self._special_names.items()
        }
        self._first = [self.ranks.get(bytes([b]), -1 if unknown is None else unknown) for b in range(256)]
        self._pairs = self._pair_table()
        self._decider = decider(self._regex)
        self._cache: dict[str, list[int]] = {}
        self._cached_bytes = 0
        self.cache_bytes = CACHE_BYTES
        self._compiled: Callable[[str], list[int]] | None = None

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        pattern: str = "gpt4-han",
        progress: bool = False,
        ties: str = "bytes",
        backend: str = "python",
    ) -> "BPETokenizer":
        """A vocabulary of vocab_size entries: 256 bytes, then merges, then the special tokens.

        Special tokens are cut out of the texts before counting. The most frequent pair is merged next. Ties
        go to the lexicographically greater pair of byte strings or, with ties="ids", to the pair of lower
        ids. If no pair is left, fewer entries are learned than asked for. backend="rustbpe" learns the same
        in compiled code, which has only ties="ids".
        """
        names, split = _names(special_tokens), SPLIT_PATTERNS.get(pattern, pattern)
        if backend == "python":
            return cls._learn(count_chunks(texts, split, names), vocab_size, names, pattern, progress, ties)
        if backend != "rustbpe" or ties != "ids":
            raise ValueError(
                f"backend={backend!r} with ties={ties!r}: choose python, or rustbpe with ties='ids'"
            )
        texts = list(several(texts, "texts"))
        ranks = learn_rustbpe(texts, split, names, cls._room(vocab_size, names))
        if ranks is None:
            return cls.train(texts, vocab_size, names, pattern, progress, ties)
        return cls(ranks, pattern, {name: len(ranks) + i for i, name in enumerate(names)})

    @classmethod
    def train_file(
        cls,
        path: str | Path,
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        pattern: str = "gpt4-han",
        processes: int = 1,
        chunk_bytes: int = 1 << 24,
        progress: bool = False,
    ) -> "BPETokenizer":
        """train on a file larger than memory: several processes count parts that end at special tokens."""
        names = _names(special_tokens)
        counts = count_file(
            path, SPLIT_PATTERNS.get(pattern, pattern), names, processes, chunk_bytes, progress
        )
        return cls._learn(counts, vocab_size, names, pattern, progress)

    @classmethod
    def _learn(
        cls,
        counts: dict[bytes, int],
        vocab_size: int,
        names: list[str],
        pattern: str,
        progress: bool,
        ties: str = "bytes",
    ) -> "BPETokenizer":
        return cls.from_merges(learn(counts, cls._room(vocab_size, names), progress, ties), names, pattern)

    @staticmethod
    def _room(vocab_size: int, names: list[str]) -> int:
        """The number of merges that vocab_size leaves room for."""
        room = vocab_size - 256 - len(names)
        if room < 0:
            raise ValueError(
                f"vocab_size={vocab_size} is below 256 bytes and {len(names)} special tokens: make it larger"
            )
        return room

    @classmethod
    def from_merges(
        cls, merges: Iterable[Merge], special_tokens: Iterable[str] = (), pattern: str = "gpt4-han"
    ) -> "BPETokenizer":
        """ids 0..255 are the bytes; then one id per merge, in the order learned; then the special tokens."""
        ranks = {bytes([b]): b for b in range(256)}
        for merge in merges:
            ranks[merge.left + merge.right] = merge.id
        return cls(ranks, pattern, {name: len(ranks) + i for i, name in enumerate(_names(special_tokens))})

    def _pair_table(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(left id, right id) -> (rank, id of the two joined), for all pairs that may merge."""
        ranks = self.ranks
        if self.merges is not None:
            table = {}
            for rank, (left, right) in enumerate(self.merges):
                if left not in ranks or right not in ranks or left + right not in ranks:
                    rule = "both and their join must be in the vocabulary"
                    raise ValueError(f"merge {rank} joins {left!r} and {right!r}: {rule}")
                table[ranks[left], ranks[right]] = (rank, ranks[left + right])
            return table
        # try only cuts whose two lengths occur among the tokens: a token may be 100,000 bytes long
        lengths = sorted({len(token) for token in ranks})
        present = set(lengths)
        return {
            (ranks[token[:i]], ranks[token[i:]]): (rank, rank)
            for token, rank in ranks.items()
            for i in itertools.takewhile(len(token).__gt__, lengths)
            if len(token) - i in present and token[:i] in ranks and token[i:] in ranks
        }

    def using(self, backend: str) -> "BPETokenizer":
        """The same vocabulary, encoding in compiled code: the same ids in a fraction of the time.

        Raises ValueError if tiktoken's rule would give other ids: with a list of merges, with bytes that
        have no entry, or (unless whole=True) with an entry whose own bytes do not merge into it.
        """
        if backend not in ("python", "tiktoken"):
            raise ValueError(f"backend={backend!r} is unknown: choose python or tiktoken")
        other = BPETokenizer(
            self.ranks, self.pattern, self.special_tokens, self.merges, self.unknown, self.whole
        )
        other.cache_bytes = self.cache_bytes
        if backend == "tiktoken":
            if self.merges is not None or self.unknown is not None:
                raise ValueError(
                    "backend='tiktoken' merges by ranks and has all 256 bytes: "
                    "this vocabulary has merges or an unknown token"
                )
            differing = (t for t, i in self.ranks.items() if self.merge(t) != [i])
            astray = None if self.whole else next(differing, None)
            if astray is not None:
                both = f"takes {astray!r} whole, merging gives {self.merge(astray)}"
                raise ValueError(f"backend='tiktoken' {both}: use whole=True or python")
            other._compiled = tiktoken_encoder(self.ranks, SPLIT_PATTERNS.get(self.pattern, self.pattern))
        return other

    def chunks(self, text: str) -> list[str]:
        """The text cut by the pattern, including what it does not match. No merge crosses a cut."""
        return cut(self._regex, text)

    def encode_ordinary(self, text: str) -> list[int]:
        check_text(text)
        return self._compiled(text) if self._compiled else self._encode_chunks(cut(self._regex, text))

    def _encode_chunks(self, chunks: Iterable[str]) -> list[int]:
        cache, out = self._cache, []
        for chunk in chunks:
            ids = cache.get(chunk)
            if ids is None:
                ids = self.merge(chunk.encode("utf-8"))
                if len(chunk) < 64:  # a long chunk hardly ever comes again
                    self._remember(chunk, ids)
            out.extend(ids)
        return out

    @property
    def cache_bytes(self) -> int:
        """The memory that remembered chunks may take, in bytes."""
        return self._cache_bytes

    @cache_bytes.setter
    def cache_bytes(self, limit: int) -> None:
        if type(limit) is not int or limit < 0:
            raise ValueError(f"cache_bytes={limit!r}: give a whole number of at least 0; 0 remembers nothing")
        self._cache_bytes = limit
        if self._cached_bytes > limit:
            self._forget()

    def _forget(self) -> None:
        self._cache.clear()
        self._cached_bytes = 0

    def _remember(self, chunk: str, ids: list[int]) -> None:
        """Keep the ids of a chunk; if there is no room left, forget all others first."""
        size = sys.getsizeof(chunk) + sys.getsizeof(ids) + ENTRY_BYTES
        if self._cached_bytes + size > self.cache_bytes:
            self._forget()
        if size <= self.cache_bytes:
            self._cache[chunk] = ids
            self._cached_bytes += size

    def merge(self, chunk: bytes) -> list[int]:
        """The ids of one chunk, by a heap of mergeable pairs over a linked list: n log n steps for n bytes.

        >>> t = BPETokenizer.from_merges([Merge(256, b"l", b"o", 2), Merge(257, b"lo", b"w", 2)])
        >>> t.merge(b"lower")
        [257, 101, 114]
        """
        if self.whole and chunk in self.ranks:
            return [self.ranks[chunk]]
        ids, pairs = [self._first[b] for b in chunk], self._pairs
        n = len(ids)
        if n < 2:
            return ids
        after, before = list(range(1, n + 1)), list(range(-1, n - 1))  # each place's neighbours
        heap = []  # (rank, place of the left token, left id, right id, joined id)
        for i in range(n - 1):
            found = pairs.get((ids[i], ids[i + 1]))
            if found:
                heap.append((found[0], i, ids[i], ids[i + 1], found[1]))
        heapq.heapify(heap)
        while heap:
            _, i, left, right, joined = heapq.heappop(heap)  # of equal ranks, the leftmost
            j = after[i]
            if ids[i] != left or j >= n or ids[j] != right:
                continue  # one of the two has been merged since
            ids[i], ids[j] = joined, -1  # the joined token takes the left place
            k = after[i] = after[j]
            if k < n:
                before[k] = i
                found = pairs.get((joined, ids[k]))
                if found:
                    heapq.heappush(heap, (found[0], i, joined, ids[k], found[1]))
            h = before[i]
            if h >= 0:
                found = pairs.get((ids[h], joined))
                if found:
                    heapq.heappush(heap, (found[0], h, ids[h], joined, found[1]))
        return [i for i in ids if i >= 0]

    def _decided(self, text: str) -> tuple[list[int], int]:
        """The ids of the chunks found without looking past the end of text: no continuation changes them.

        Alone, this beginning may be cut otherwise: two spaces are two chunks in "a  b", but one in "a  ".
        """
        chunks = decided(self._regex, self._decider, text) if self._decider else []
        beginning = "".join(chunks)
        check_text(beginning)
        if self._compiled and cut(self._regex, beginning) == chunks:  # compiled code does its own cutting
            return self._compiled(beginning), len(beginning)
        return self._encode_chunks(chunks), len(beginning)

    @property
    def _unknown_id(self) -> int | None:
        return self.unknown

    def unknown_pieces(self, text: str) -> Counter[str]:
        """The characters with a byte that has no entry."""
        return Counter(c for c in text if any(self._first[b] == self.unknown for b in c.encode("utf-8")))

    def token_bytes(self, id_: int) -> bytes:
        if id_ not in self._bytes_of:
            raise self._no_such_id(id_)
        return self._bytes_of[id_]

    def ids(self) -> list[int]:
        return sorted(self._bytes_of)

    def _state(self) -> dict[str, Any]:
        ordered = sorted(self.ranks, key=self.ranks.__getitem__)
        merges = None if self.merges is None else [[a.hex(), b.hex()] for a, b in self.merges]
        return {
            "pattern": self.pattern,
            "tokens": [t.hex() for t in ordered],
            "ids": [self.ranks[t] for t in ordered],
            "merges": merges,
            "unknown": self.unknown,
            "whole": self.whole,
        }

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: dict[str, int]) -> "BPETokenizer":
        merges = state["merges"] and [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in state["merges"]]
        ranks = dict(zip(map(bytes.fromhex, state["tokens"]), state["ids"], strict=True))
        return cls(
            ranks, state["pattern"], special_tokens, merges, state.get("unknown"), state.get("whole", False)
        )


def _names(special_tokens: Iterable[str]) -> list[str]:
    """Special tokens in order, each once."""
    return list(dict.fromkeys(several(special_tokens, "special_tokens")))
