"""Learning byte-pair merges: count chunks once, then keep the pair counts up to date, merge by merge."""

import heapq
import itertools
import multiprocessing
import os
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llmcore.files import not_utf8, text_of
from llmcore.tokenizer.base import check_text, several
from llmcore.tokenizer.cutting import compiled, cut

TIES = ("bytes", "ids")


@dataclass(frozen=True)
class Merge:
    """left + right became the token `id`; the pair was adjacent `count` times."""

    id: int
    left: bytes
    right: bytes
    count: int


def count_chunks(texts: Iterable[str], pattern: str, special_tokens: Iterable[str] = ()) -> dict[bytes, int]:
    """How often each chunk of the pattern occurs; special tokens are cut out and not counted."""
    chunks, special = compiled(pattern), cutter(special_tokens)
    counts: Counter[str] = Counter()
    for text in several(texts, "texts"):
        check_text(text)
        for part in special.split(text) if special else [text]:
            counts.update(cut(chunks, part))
    return {chunk.encode("utf-8"): n for chunk, n in counts.items()}


def cutter(special_tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that finds special tokens, the longer first; None if there are none."""
    names = sorted(several(special_tokens, "special_tokens"), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def file_parts(path: str | Path, special_tokens: Iterable[str], chunk_bytes: int) -> list[tuple[int, int]]:
    """Byte ranges of about chunk_bytes that begin at special tokens, so that no chunk of the pattern is cut.

    A part extends to the first special token after chunk_bytes, or to the end of the file. Without special
    tokens the whole file is one part.
    """
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes={chunk_bytes}: must be at least 1")
    names = [s.encode("utf-8") for s in several(special_tokens, "special_tokens")]
    pattern = re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
    overlap = max(map(len, names), default=1) - 1
    size, bounds = os.path.getsize(path), [0]
    with open(path, "rb") as file:
        while pattern and bounds[-1] + chunk_bytes < size:
            start, tail = bounds[-1] + chunk_bytes, b""
            file.seek(start)
            while block := file.read(1 << 16):
                found = pattern.search(tail + block)
                if found:
                    start += found.start() - len(tail)
                    break
                start += len(block)
                tail = (tail + block)[-overlap:] if overlap else b""  # a special token may span two blocks
            if start >= size or start == bounds[-1]:
                break
            bounds.append(start)
    return list(zip(bounds, [*bounds[1:], size], strict=True))


def _count_part(job: tuple[str, int, int, str, list[str]]) -> dict[bytes, int]:
    path, start, end, pattern, names = job
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(end - start)
    try:
        text = data.decode("utf-8") if start else text_of(data, path)  # a byte order mark begins a file only
    except UnicodeDecodeError as error:
        raise not_utf8(path, b"", start + error.start) from error
    return count_chunks([text], pattern, names)


def count_file(
    path: str | Path,
    pattern: str,
    special_tokens: Iterable[str] = (),
    processes: int = 1,
    chunk_bytes: int = 1 << 24,
    progress: bool = False,
) -> dict[bytes, int]:
    """count_chunks over a file, by several processes. The result is the same for any number of them."""
    if processes < 1:
        raise ValueError(f"processes={processes}: must be at least 1")
    names = list(several(special_tokens, "special_tokens"))
    jobs = [(str(path), a, b, pattern, names) for a, b in file_parts(path, names, chunk_bytes)]
    total: Counter[bytes] = Counter()
    with tqdm(total=len(jobs), desc="counting", unit="part", disable=not progress) as bar:
        if processes == 1 or len(jobs) == 1:
            parts: Iterable[dict[bytes, int]] = map(_count_part, jobs)
            for part in parts:
                total.update(part)
                bar.update()
        else:
            with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
                for part in pool.imap_unordered(_count_part, jobs):
                    total.update(part)
                    bar.update()
    return dict(total)


def learn(
    counts: dict[bytes, int], merges: int, progress: bool = False, ties: str = "bytes"
) -> Iterator[Merge]:
    """Yield merges one at a time, the most frequent pair first.

    Of equally frequent pairs, the lexicographically greater pair of byte strings comes first (ties="bytes")
    or the pair of lower ids, the left id compared first (ties="ids"). Pair counts are updated, not counted
    again: a merge touches only the chunks that hold its pair. Ends early if no pair is left.

    >>> [(m.left, m.right, m.count) for m in learn({b"low": 5, b"lower": 2, b"newer": 6}, 3)]
    [(b'w', b'e', 8), (b'we', b'r', 8), (b'l', b'o', 7)]
    """
    if ties not in TIES:
        raise ValueError(f"ties={ties!r} is unknown: choose one of {list(TIES)}")
    key = _descending if ties == "bytes" else lambda token: ""
    tokens = [bytes([b]) for b in range(256)]
    known = {token: i for i, token in enumerate(tokens)}
    keys = [key(token) for token in tokens]
    chunks = _Chunks(counts)
    totals = chunks.totals
    # (minus the count, keys by which greater bytes come first, the pair): the smallest is the next merge
    heap = [(-n, keys[a], keys[b], a, b) for (a, b), n in totals.items()]
    heapq.heapify(heap)
    done = 0
    with tqdm(total=merges, desc="merging", unit="merge", disable=not progress) as bar:
        while done < merges and heap:
            minus, key_a, key_b, a, b = heapq.heappop(heap)
            count = totals.get((a, b), 0)
            if count != -minus:  # the count has changed since: push the pair back with the present one
                if count:
                    heapq.heappush(heap, (-count, key_a, key_b, a, b))
                continue
            joined = tokens[a] + tokens[b]
            new = known.get(joined)
            fresh = new is None
            if new is None:  # else another pair has already made these bytes: reuse its token
                new = known[joined] = len(tokens)
                tokens.append(joined)
                keys.append(key(joined))
            for a2, b2 in chunks.join(a, b, new):
                heapq.heappush(heap, (-totals[a2, b2], keys[a2], keys[b2], a2, b2))
            if fresh:
                done += 1
                bar.update()
                yield Merge(new, tokens[a], tokens[b], count)


class _Chunks:
    """All chunks in a row, separated by -1, as a linked list: a merge visits only the places of its pair.

    Place i has a token symbols[i] (-1 once joined to the token before it), neighbours before[i] and
    after[i], and times[i], how often its chunk occurs. totals counts each pair; places lists where each
    stands. A place whose tokens have since been joined otherwise stays listed, and is skipped when visited.
    """

    def __init__(self, counts: dict[bytes, int]):
        self.symbols, self.times = array("q", [-1]), array("q", [0])
        for chunk in sorted(counts):  # sorted, so that the result does not depend on the order of counting
            self.symbols.extend([*chunk, -1])
            self.times.extend([counts[chunk]] * (len(chunk) + 1))
        size = len(self.symbols)
        self.before, self.after = array("q", range(-1, size - 1)), array("q", range(1, size + 1))
        self.totals: dict[tuple[int, int], int] = defaultdict(int)
        self.places: dict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
        for i, pair in enumerate(itertools.pairwise(self.symbols)):
            if min(pair) >= 0:
                self.totals[pair] += self.times[i]
                self.places[pair].append(i)

    def join(self, a: int, b: int, new: int) -> set[tuple[int, int]]:
        """Replace each adjacent a, b by `new`; returns the pairs that have become more frequent."""
        symbols, before, after = self.symbols, self.before, self.after
        totals, places = self.totals, self.places
        grown = set()
        for i in sorted(places.pop((a, b))):  # left to right: in a run like aaa the first two are joined
            j = after[i]
            if symbols[i] != a or symbols[j] != b:
                continue
            h, k, n = before[i], after[j], self.times[i]  # left and right neighbour; the chunk's count
            if symbols[h] >= 0:
                totals[symbols[h], a] -= n
                totals[symbols[h], new] += n
                places[symbols[h], new].append(h)
                grown.add((symbols[h], new))
            if symbols[k] >= 0:
                totals[b, symbols[k]] -= n
                totals[new, symbols[k]] += n
                places[new, symbols[k]].append(i)
                grown.add((new, symbols[k]))
            symbols[i], symbols[j] = new, -1
            after[i], before[k] = k, i
        totals.pop((a, b), None)
        return {pair for pair in grown if totals.get(pair, 0) > 0}


_TABLE = {b: chr(256 - b) for b in range(256)}


def _descending(token: bytes) -> str:
    """A key that sorts byte strings in descending order, a longer one before its own beginning."""
    return "".join(_TABLE[b] for b in token) + chr(257)
