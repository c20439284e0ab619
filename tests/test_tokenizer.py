"""decode(encode(s)) == s, updated counts equal recounted ones, and the ids are tiktoken's and Hugging
Face's.
"""

import itertools
import json
import random
import sys
import tracemalloc
import warnings
from array import array
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import regex
import tiktoken
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace

from llmcore.data import read_pieces, read_tokens
from llmcore.run import prepare
from llmcore.tokenizer import (
    NOTES,
    SPLIT_PATTERNS,
    TOKENIZERS,
    UNKNOWN,
    BPETokenizer,
    CharTokenizer,
    DictionaryTokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    bpe_train,
    count_chunks,
    formats,
    learn,
    load,
)  # fmt: skip

ENGLISH = (
    "The low well lowers the lower bucket. 'Twas newer then; they'll be newest, won't they?  12345 times!"
    "\n\n\tEnd. "
) * 3
CHINESE = (
    "低水井把更低的桶放下去。那时它还新；他们会是最新的，不是吗？用GPU训练12345次！\n山高水长，水落石出。" * 3
)
ODD = "naïve café \U0001f469\u200d\U0001f4bb\U0001f44d\U0001f3fd  \u3000\u00a0\r\n\r\n x\ty   z ﷽ e\u0301 ﬁ"
TEXT = ENGLISH + CHINESE + ODD
SPECIAL = ["<|endoftext|>", "<|end|>", "<|end|>!"]
# of code points that Unicode has not assigned (Cn) regular expressions of different programs think
# differently
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.lists(
    st.sampled_from([*TEXT.split(" "), " ", "  ", "\n", "'ll", "12", *SPECIAL, "<|end"]), max_size=20
).map("".join)


@pytest.fixture(scope="module", params=SPLIT_PATTERNS)
def bpe(request) -> BPETokenizer:
    # tiktoken leaves open which of two overlapping special tokens wins, so these two do not overlap
    return BPETokenizer.train([TEXT], 256 + 150 + 2, SPECIAL[:2], request.param)


@pytest.fixture(scope="module")
def trained() -> dict:
    bpe = BPETokenizer.train([TEXT], 400, SPECIAL)
    pieces = [m + c for c in sorted(set(TEXT.lower())) if not c.isspace() for m in ("", "##")] + [
        "the",
        "low",
        "##est",
    ]
    return {
        "dictionary": DictionaryTokenizer(NOTES | {c: i for i, c in enumerate("abcdfgij")}, {"<eos>": 200}),
        "char": CharTokenizer.train([TEXT], special_tokens=SPECIAL),
        "word": WordTokenizer.train([TEXT], special_tokens=SPECIAL),
        "bpe": bpe,
        "wordpiece": WordPieceTokenizer(
            {p: i for i, p in enumerate(pieces)}, {s: 900 + i for i, s in enumerate(["[UNK]", *SPECIAL])}
        ),
    }


def reference(bpe: BPETokenizer) -> tiktoken.Encoding:
    pattern = SPLIT_PATTERNS[bpe.pattern].replace(r"[\p{L}--\p{Han}]", r"(?:(?!\p{Han})\p{L})")
    return tiktoken.Encoding(
        "ours", pat_str=pattern, mergeable_ranks=bpe.ranks, special_tokens=bpe.special_tokens
    )


@settings(max_examples=400)
@given(text=TEXTS)
@example(text=TEXT)
def test_equals_tiktoken_on_every_text(bpe, text):
    theirs = reference(bpe)
    assert bpe.encode(text) == theirs.encode(text, disallowed_special=())
    assert bpe.encode(text, "all") == theirs.encode(text, allowed_special="all")
    some = SPECIAL[:1]
    assert bpe.encode(text, some) == theirs.encode(text, allowed_special=set(some), disallowed_special=())
    assert bpe.decode(bpe.encode(text)) == text


@settings(max_examples=200)
@given(data=st.data())
def test_any_ids_decode_as_tiktoken_decodes_them(bpe, data):
    """Also bytes that are no valid UTF-8."""
    ids = data.draw(st.lists(st.integers(0, len(bpe) - 1), max_size=20))
    assert bpe.decode(ids) == reference(bpe).decode(ids)


@pytest.mark.slow
@settings(max_examples=150)
@given(text=TEXTS)
@example(text=TEXT)
def test_hugging_face_loads_what_is_written_and_agrees(bpe, tmp_path_factory, text):
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    formats.write_hugging_face(bpe, path)
    theirs, back = HuggingFace.from_file(str(path)), formats.read_hugging_face(path)
    assert theirs.encode(text).ids == bpe.encode(text, "all") == back.encode(text, "all")


@pytest.mark.parametrize("ties", ["bytes", "ids"])
@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_updated_counts_equal_recounted_ones(pattern, ties):
    """The whole list of merges, counts included, is that of counting all pairs anew each time."""
    counts = count_chunks([TEXT], SPLIT_PATTERNS[pattern])
    words = {tuple(bytes([b]) for b in chunk): n for chunk, n in counts.items()}
    tokens = {bytes([b]): b for b in range(256)}
    merges = learn(counts, 200, ties=ties)
    while True:
        pairs = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        # ties: the greater pair of byte strings, or the lower ids
        count, _, pair = max(
            (n, p if ties == "bytes" else [-tokens[t] for t in p], p) for p, n in pairs.items()
        )
        if pair[0] + pair[1] not in tokens:
            merge = next(merges, None)
            if merge is None:
                break
            assert (merge.left, merge.right, merge.count) == (*pair, count)
            tokens[pair[0] + pair[1]] = len(tokens)
        merged = Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == pair else 1
                out.append(b"".join(word[i : i + step]))
                i += step
            merged[tuple(out)] += n
        words = merged
    assert next(merges, None) is None


def test_ties_go_to_the_greater_pair_of_byte_strings():
    pairs = [(m.left, m.right) for m in learn({b"ab": 1, b"zy": 1, b"zb": 1, b"z": 9}, 3)]
    assert pairs == [(b"z", b"y"), (b"z", b"b"), (b"a", b"b")]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@settings(max_examples=100)
@given(texts=st.lists(ASSIGNED | st.text("abc ", max_size=40), min_size=1, max_size=6))
@example(texts=["abc abc ab bc abcabc aabbcc"])
def test_compiled_learning_gives_the_same_merges(pattern, texts):
    learned = [
        BPETokenizer.train(texts, 400, SPECIAL, pattern, ties="ids", backend=backend)
        for backend in ("python", "rustbpe")
    ]
    assert learned[0].ranks == learned[1].ranks
    assert learned[0].special_tokens == learned[1].special_tokens


def test_where_compiled_code_gives_bytes_two_ids_the_python_code_learns(monkeypatch):
    """No text is known to make rustbpe do so; its code does not rule it out."""

    class Twice:
        def train_from_iterator(self, texts, vocab_size, pattern):
            self.read = list(texts)

        def get_mergeable_ranks(self):
            return [*((bytes([b]), b) for b in range(256)), (b"abc", 256), (b"abc", 257)]

    monkeypatch.setitem(sys.modules, "rustbpe", SimpleNamespace(Tokenizer=Twice))
    learned = [
        BPETokenizer.train(iter([TEXT]), 300, ties="ids", backend=backend)
        for backend in ("python", "rustbpe")
    ]
    assert learned[0].ranks == learned[1].ranks


@pytest.mark.slow
@settings(max_examples=200)
@given(text=ASSIGNED | st.sampled_from([TEXT, *SPECIAL]))
def test_compiled_encoding_gives_the_same_ids(bpe, text):
    fast = bpe.using("tiktoken")
    assert fast.encode(text) == bpe.encode(text)
    assert fast.encode(text, "all") == bpe.encode(text, "all")
    assert list(fast.encode_iterable([text[:7], text[7:]], "all")) == bpe.encode(text, "all")


def test_compiled_code_refuses_what_it_would_do_otherwise(monkeypatch):
    bpe = BPETokenizer.train([TEXT], 300)
    with pytest.raises(ValueError, match="ties='bytes'"):
        BPETokenizer.train([TEXT], 300, backend="rustbpe")
    with pytest.raises(ValueError, match="choose one of"):
        BPETokenizer.train([TEXT], 300, ties="age")
    with pytest.raises(ValueError, match="backend='c'"):
        bpe.using("c")
    with pytest.raises(ValueError, match="has merges"):
        BPETokenizer(bpe.ranks, merges=[(b"e", b"r")] if b"er" in bpe.ranks else []).using("tiktoken")
    astray = bpe.ranks | {b"xyzzy": 299}
    with pytest.raises(ValueError, match="b'xyzzy' whole"):
        BPETokenizer({t: i for t, i in astray.items() if i != 299 or t == b"xyzzy"}, "gpt2").using("tiktoken")
    assert BPETokenizer(
        {t: i for t, i in astray.items() if i != 299 or t == b"xyzzy"}, "gpt2", whole=True
    ).using("tiktoken").encode("xyzzy") == [299]
    assert bpe.using("tiktoken").using("python").encode(TEXT) == bpe.encode(TEXT)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ValueError, match=r"llmcore\[fast\]"):
        bpe.using("tiktoken")


def test_a_longer_string_is_greater_than_its_own_beginning():
    assert sorted([b"a", b"ab", b"b", b""], key=bpe_train._descending) == [b"b", b"ab", b"a", b""]


def test_merges_are_yielded_one_at_a_time():
    merges = learn(count_chunks([TEXT], SPLIT_PATTERNS["gpt2"]), 10**9)
    assert next(merges).id == 256
    assert next(merges).id == 257


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [1, 64, 1000, 10**6])
def test_a_file_in_parts_by_several_processes_equals_the_whole(tmp_path, processes, chunk_bytes):
    if processes > 1 and chunk_bytes == 1:
        chunk_bytes = 300
    path = tmp_path / "text.txt"
    text = SPECIAL[0].join([TEXT[:200], CHINESE, ODD, ENGLISH] * 3)
    path.write_bytes(text.encode())
    counts = bpe_train.count_file(path, SPLIT_PATTERNS["gpt4"], SPECIAL, processes, chunk_bytes)
    assert counts == count_chunks([text], SPLIT_PATTERNS["gpt4"], SPECIAL)
    whole = BPETokenizer.train([text], 320, SPECIAL)
    parts = BPETokenizer.train_file(path, 320, SPECIAL, processes=processes, chunk_bytes=chunk_bytes)
    assert whole.ranks == parts.ranks


def test_parts_begin_at_special_tokens_and_cover_the_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(
        (("a" * 70_000 + "<|end|>") * 3).encode()
    )  # longer than a block, so a token may be cut by one
    parts = bpe_train.file_parts(path, ["<|end|>"], 65_000)
    assert parts[0][0] == 0
    assert parts[-1][1] == path.stat().st_size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert [start for start, _ in parts[1:]] == [70_000, 140_007, 210_014]


@settings(max_examples=300)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=8), kind=st.sampled_from(list(TOKENIZERS)))
def test_lazy_encoding_equals_encoding_the_whole(trained, text, cuts, kind):
    tokenizer = trained[kind]
    if kind == "dictionary":
        text = "".join(c for c in text if c in "abcdfghijelowr ")
        text = (
            text.replace("h", "he").replace("l", "llo").replace("w", "wor").replace("e", "").replace("o", "")
        )
        text = "".join(c for c in text if c in "abcdfgij ")
    bounds = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    for allowed in ("none", "all"):
        assert list(tokenizer.encode_iterable(pieces, allowed, Counter())) == tokenizer.encode(text, allowed)
        assert list(tokenizer.encode_iterable(list(text), allowed, Counter())) == tokenizer.encode(
            text, allowed
        )


WHITE = [" ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\x0b", "\u2028"]
WORDS = ["x", "low", "12", "1234", "!", "--", "'ll", "'L", "é", "e\u0301", "水", "用GPU", "'", "ſ", "ŉ"]
WHITE_TEXTS = st.lists(
    st.sampled_from([*WHITE * 3, "  ", "   ", "\n\n", *WORDS, *SPECIAL, "<|end"]), max_size=16
).map("".join)
# a look behind, anchors, a word's edge, a kept group, a repeated group, characters in no chunk,
# chunks of no character
OTHERS = [
    r"(?<=x)\s|\S+|\s",
    r"^\s+|\S+|\s",
    r"\s+$|\S+|\s",
    r"\b\w+|\W",
    r"(?:(?:x|12)\s?)+|\S|\s",
    r"\S+(?=\s*x)|\w+",
    r"\d*|x\s+",
]
PATTERNS = {**SPLIT_PATTERNS, **formats.PUBLISHED, **{pattern: pattern for pattern in OTHERS}}


def rich_in_white_space(pattern: str) -> BPETokenizer:
    """Runs of every kind of white space, of one and of two kinds, are tokens of several lengths, and
    words with space before them.
    """
    ranks = {bytes([b]): b for b in range(256)}
    runs = [a * n + b * m for a in WHITE for b in WHITE for n in (1, 2, 5) for m in (0, 1, 3)]
    for text in [*runs, " low", "low", " 12", "1234", "\n!", "!\n", "\t水", "\u3000水"]:
        token = text.encode()
        for end in range(2, len(token) + 1):
            ranks.setdefault(token[:end], len(ranks))
    return BPETokenizer(ranks, pattern, {name: len(ranks) + i for i, name in enumerate(SPECIAL)})


@pytest.fixture(
    scope="module",
    params=[p if p in SPLIT_PATTERNS else pytest.param(p, marks=pytest.mark.slow) for p in PATTERNS],
)
def white(request) -> BPETokenizer:
    return rich_in_white_space(PATTERNS[request.param])


def every_way_of_cutting(text: str, cuts: list[int]):
    """In two at each place, letter by letter, at random places, with empty parts between."""
    for i in range(len(text) + 1):
        yield [text[:i], text[i:]]
    yield list(text)
    bounds = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    parts = [text[a:b] for a, b in itertools.pairwise(bounds)]
    yield parts
    yield ["", *itertools.chain.from_iterable((part, "", "") for part in parts)]


CUTS = st.lists(st.integers(1, 40), max_size=6)


@settings(max_examples=60)
@given(text=WHITE_TEXTS, cuts=CUTS)
@example(text="x  12\n", cuts=[])
@example(text="a\n\nb \n c\r\n\r\nd\u3000\u3000水", cuts=[2])
def test_however_a_text_is_cut_the_ids_are_those_of_the_whole(white, text, cuts):
    for allowed in ("none", "all", SPECIAL[:1]):
        ids = white.encode(text, allowed)
        for parts in every_way_of_cutting(text, cuts):
            assert list(white.encode_iterable(parts, allowed)) == ids, parts


@pytest.mark.slow
@settings(max_examples=60)
@given(text=WHITE_TEXTS, cuts=CUTS)
def test_compiled_code_takes_the_parts_as_the_whole(text, cuts):
    for pattern in ("gpt2", "gpt4"):
        fast = COMPILED.setdefault(pattern, rich_in_white_space(pattern).using("tiktoken"))
        theirs = reference(fast).encode(text, disallowed_special=())
        for parts in every_way_of_cutting(text, cuts):
            assert list(fast.encode_iterable(parts)) == theirs, parts


COMPILED: dict[str, BPETokenizer] = {}


@settings(max_examples=60)
@given(text=WHITE_TEXTS, cuts=CUTS, kind=st.sampled_from(["dictionary", "char", "word", "wordpiece"]))
def test_however_a_text_is_cut_other_kinds_give_the_ids_of_the_whole(trained, text, cuts, kind):
    tokenizer = trained[kind]
    if kind == "dictionary":  # entries of which one begins another, and a name for what is in none
        entries = ["x", "x ", "x  12", " ", "  ", "12", "\n\n", "\n\n\n!", "水"]
        tokenizer = DictionaryTokenizer(
            {t: i for i, t in enumerate(entries)}, {"?": 99, SPECIAL[1]: 98, SPECIAL[2]: 97}, "?"
        )
    for allowed in ("none", "all"):
        ids = tokenizer.encode(text, allowed)
        for parts in every_way_of_cutting(text, cuts):
            assert list(tokenizer.encode_iterable(parts, allowed, Counter())) == ids, parts


def test_one_special_token_may_begin_within_another():
    """In "abc" the special token "ab" is complete; that "bcd" might have begun within it does not undo it."""
    tokenizer = CharTokenizer.train(["abcd"], special_tokens=["ab", "bcd", "abcc", "cabd"])
    for text in map("".join, itertools.product("abcd", repeat=4)):
        for parts in every_way_of_cutting(text, [1, 3]):
            assert list(tokenizer.encode_iterable(parts, "all")) == tokenizer.encode(text, "all"), parts


def patterns_of_known_parts(draw: random.Random, depth: int = 2) -> str:
    """A pattern of which encode_iterable takes it to be known what a chunk depends on."""
    simple = [
        "x",
        "1",
        "'",
        " ",
        r"\n",
        r"\s",
        r"\S",
        r"\d",
        r"\p{L}",
        r"[^\s\p{L}]",
        "[x1]",
        "[^x]",
        ".",
        r"[\w--\d]",
        "ß",
        "(?i:X)",
    ]
    parts = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.random()
        if depth and kind < 0.4:
            within = "|".join(patterns_of_known_parts(draw, depth - 1) for _ in range(draw.randint(1, 3)))
            group = draw.choice(["(?:", "(?>", "(?=", "(?!"])
            parts.append(f"{group}{within})" + (draw.choice(["", "?"]) if group in ("(?:", "(?>") else ""))
        elif kind < 0.5:
            parts.append(draw.choice(["x1", "xx1", "1 x", "(?i:'x|'1x)"]))
        else:
            part = draw.choice(simple)
            repeat = (
                ["", "+", "*", "?", "++", "*+", "?+", "{1,3}", "{2}", "{2,}"]
                if not part.startswith("(")
                else [""]
            )
            parts.append(part + draw.choice(repeat))
    return "".join(parts) + draw.choice(["", "", r"|\s+(?!\S)|\s+|\S+"] if depth == 2 else [""])


@settings(max_examples=400)
@given(draw=st.randoms(use_true_random=False), text=st.text("x1 \n'ßX", max_size=14), cut=st.integers(0, 14))
def test_no_continuation_changes_a_chunk_that_is_decided(draw, text, cut):
    """With any pattern of known parts the chunks of a beginning, and then those of the rest, are the
    chunks of the whole.
    """
    pattern = patterns_of_known_parts(draw)
    tokenizer = BPETokenizer({bytes([b]): b for b in range(256)}, pattern)
    assert tokenizer._decider is not None
    whole = [chunk for chunk in tokenizer.chunks(text) if chunk]
    seen: list[str] = []
    tokenizer._encode_chunks = lambda chunks: seen.extend(chunks) or []
    _, end = tokenizer._decided(text[:cut])
    assert [*seen, *filter(None, tokenizer.chunks(text[end:]))] == whole


@pytest.mark.parametrize("pattern", OTHERS[:5])
def test_where_a_chunk_may_depend_on_more_all_is_held_back(pattern):
    """Up to a special token, which is a cut in any case."""
    tokenizer, fed = rich_in_white_space(pattern), []
    stream = tokenizer.encode_iterable(
        (fed.append(part) or part for part in ["x ", "12", "<|end|>!", "x"]), "all"
    )
    assert next(stream) == tokenizer.encode("x 12")[0]
    assert fed == ["x ", "12", "<|end|>!"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SPLIT_PATTERNS, *formats.PUBLISHED, *TOKENIZERS])
def test_lazy_encoding_holds_back_little(trained, kind):
    """Ids come while the text comes: after 50,000 characters of input no more than a few words are held."""
    tokenizer, fed = trained[kind] if kind in TOKENIZERS else rich_in_white_space(PATTERNS[kind]), 0
    text = "abba fig " if kind == "dictionary" else "The low well "

    def feed():
        nonlocal fed
        for _ in range(4_000):
            fed += 1
            yield text

    for n, _ in enumerate(tokenizer.encode_iterable(feed(), unknown=Counter())):
        assert fed <= n + 4


def test_the_command_line_writes_the_ids_of_encode(tmp_path):
    """A table of right-aligned numbers, blank lines and indented code, in both parts, with a vocabulary
    that has their white space.
    """
    rows = "".join(f"{n:>9}{n * n:>12}\r\n" if n % 3 else f"\n\n    x =\t{n}  \n \n" for n in range(900))
    (tmp_path / "table.txt").write_bytes(rows.encode())
    for pattern in SPLIT_PATTERNS:
        out, tokenizer = tmp_path / f"run-{pattern}", rich_in_white_space(pattern)
        tokenizer.save(tmp_path / "t.json")
        assert prepare(out, str(tmp_path / "table.txt"), tmp_path / "t.json") == []
        cut = int(len(rows) * 0.9)
        for name, text in (("train", rows[:cut]), ("held-out", rows[cut:])):
            assert read_tokens(out / f"{name}.bin")[0].tolist() == tokenizer.encode(text, "all")


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@settings(max_examples=60)
@given(
    text=st.lists(st.sampled_from([*WHITE, "\n", "\n\n", " ", *WORDS]), max_size=60).map("".join),
    size=st.integers(1, 30),
)
def test_a_vocabulary_of_the_pieces_of_a_file_is_that_of_the_whole(tmp_path_factory, pattern, text, size):
    path = tmp_path_factory.mktemp("pieces") / "t.txt"
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path, size))
    assert "".join(pieces) == text
    # a piece without a line end between words, or a space after one, has no place that is a cut in any case
    joined, whole = [""], regex.compile(r"(?<=\S)(?:\n(?=\S)|(?=[ \t]))")
    for piece, following in itertools.zip_longest(pieces, pieces[1:], fillvalue=""):
        joined[-1] += piece
        if whole.search(piece + following, len(piece) - 1, len(piece) + 1):
            joined.append("")
    assert count_chunks(joined, SPLIT_PATTERNS[pattern]) == count_chunks([text], SPLIT_PATTERNS[pattern])


@settings(deadline=None)
@given(text=TEXTS)
def test_what_was_learned_from_a_text_encodes_it_without_loss(text):
    for cls in (CharTokenizer, WordTokenizer):
        tokenizer = cls.train([text])
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert 0 not in tokenizer.encode(text)


def test_the_dictionary_of_the_notes():
    tokenizer = DictionaryTokenizer(NOTES, {"<eos>": 200})
    ids = tokenizer.encode("hello world<eos>", "all")
    assert ids == [101, 102, 100, 104, 105, 200]
    assert tokenizer.decode(ids) == "hello world<eos>"
    assert [tokenizer.token(i) for i in ids] == ["he", "llo", " ", "wor", "ld", "<eos>"]
    assert len(tokenizer) == 201
    with pytest.raises(ValueError, match="'x' is in no entry and there is no unknown token"):
        tokenizer.encode("hex")


@pytest.mark.parametrize("kind", ["char", "word"])
def test_an_unknown_piece_becomes_the_unknown_token(trained, kind):
    tokenizer = trained[kind]
    assert tokenizer.special_tokens[UNKNOWN] == 0
    assert 0 in tokenizer.encode("qqqqΩ")
    assert tokenizer.token(0) == UNKNOWN


def test_a_vocabulary_keeps_the_most_frequent():
    tokenizer = CharTokenizer.train(["aaabbc"], vocab_size=3)
    assert tokenizer.encode("abc") == [1, 2, 0]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_save_and_load(trained, kind, tmp_path):
    tokenizer = trained[kind]
    path = tmp_path / "t.json"
    tokenizer.save(path)
    back = load(path)
    assert type(back) is type(tokenizer)
    assert type(tokenizer).load(path).special_tokens == tokenizer.special_tokens
    assert back.ids() == tokenizer.ids()
    assert [back.token_bytes(i) for i in back.ids()] == [tokenizer.token_bytes(i) for i in tokenizer.ids()]
    assert back.encode("abba hello" if kind != "dictionary" else "abba") is not None
    other = next(
        c
        for k, c in TOKENIZERS.items()
        if k not in (kind, "dictionary") and not issubclass(type(tokenizer), c)
    )
    with pytest.raises(ValueError, match=f"holds a {kind} tokenizer, not"):
        other.load(path)


def test_special_tokens_the_longer_wins_and_nothing_merges_into_them():
    tokenizer = BPETokenizer.train(["a<|end|>b" * 50], 300, SPECIAL)
    end, longer = tokenizer.special_tokens["<|end|>"], tokenizer.special_tokens["<|end|>!"]
    assert tokenizer.encode("<|end|>!<|end|>", "all") == [longer, end]
    assert tokenizer.encode("<|end|>!", ["<|end|>"]) == [end, ord("!")]
    assert tokenizer.encode("<|end|>") == tokenizer.encode_ordinary("<|end|>")
    assert not any(b"<|" in t or b"|>" in t for t in tokenizer.ranks)
    with pytest.raises(ValueError, match="allowed_special names '<x>', which is none of"):
        tokenizer.encode("a", ["<x>"])
    with pytest.raises(ValueError, match="allowed_special='<x>'"):
        tokenizer.encode("a", "<x>")


def test_chinese_is_split_sensibly():
    assert BPETokenizer.train([""], 256).chunks("我用GPU训练，3次。") == [
        "我用",
        "GPU",
        "训练",
        "，",
        "3",
        "次",
        "。",
    ]
    assert regex.findall(SPLIT_PATTERNS["gpt4"], "我用GPU训练", regex.V1) == ["我用GPU训练"]


def test_a_long_chunk_takes_n_log_n():
    tokenizer = BPETokenizer.train(["a" * 64], 260, pattern="gpt2")
    ids = tokenizer.encode("a" * 200_000)
    assert tokenizer.decode(ids) == "a" * 200_000
    assert len(ids) <= 200_000 / 16 + 4


class Row(list):
    """A list, or an array, that counts the places that are read, written or moved."""

    visited = 0

    def __init__(self, *values):
        super().__init__(values[-1] if values else ())
        Row.visited += len(self)

    def __getitem__(self, i):
        Row.visited += 1
        return super().__getitem__(i)

    def __setitem__(self, i, value):
        Row.visited += len(self) - i.start if isinstance(i, slice) else 1
        super().__setitem__(i, value)


LONG = {
    "blank lines": lambda n: "\n" * n,
    "one letter": lambda n: "a" * n,
    "all pairs": lambda n: "".join(random.Random(n).choices("abcdefgh", k=n)),
    "one repeated word": lambda n: "lower " * (n // 6),
}


@pytest.mark.parametrize("name", LONG)
def test_learning_from_one_long_chunk_visits_as_many_places_as_it_has(monkeypatch, name):
    monkeypatch.setattr(bpe_train, "array", lambda code, *values: Row(code, *values) if values else Row())
    monkeypatch.setattr(bpe_train, "list", Row, raising=False)

    def visits(n):
        Row.visited, chunk = 0, LONG[name](n).encode()
        assert b"".join(max((m.left, m.right) for m in learn({chunk: 3}, 10**6)))
        return Row.visited

    few, many = visits(2000), visits(8000)
    assert few > 2000
    assert many < 4.4 * few  # n n would be 16


class Looks(dict):
    """A dict that counts the letters that are looked up."""

    letters = 0

    def __contains__(self, key):
        Looks.letters += len(key)
        return super().__contains__(key)


def test_a_word_is_cut_in_as_many_looks_as_it_has_letters(trained):
    tokenizer = WordPieceTokenizer({"a": 0, "##b": 1, "##bbb": 2}, {"[UNK]": 3})
    tokenizer.vocabulary = Looks(tokenizer.vocabulary)
    Looks.letters = 0
    assert tokenizer.encode("a" + "b" * 99) == [0] + [2] * 33
    assert Looks.letters < 100 * (1 + 2 + 3 + 4 + 5)
    Looks.letters = 0
    assert tokenizer.encode("c" * 20_000) == [3]  # longer than BERT's code reads: unknown without a look
    assert Looks.letters == 0


def test_the_pairs_of_long_tokens_are_found_by_few_looks():
    """Tokens of 2, 4, ... 2^14 letters: each is cut where a token is as long, not at each of its letters."""
    tokenizer = BPETokenizer.train(["a" * (1 << 14)], 270, pattern="gpt2")
    assert max(map(len, tokenizer.ranks)) == 1 << 14
    everywhere = {
        (tokenizer.ranks[t[:i]], tokenizer.ranks[t[i:]]): (rank, rank)
        for t, rank in tokenizer.ranks.items()
        for i in range(1, len(t))
        if t[:i] in tokenizer.ranks and t[i:] in tokenizer.ranks
    }
    tokenizer.ranks, Looks.letters = Looks(tokenizer.ranks), 0
    assert tokenizer._pair_table() == everywhere
    assert Looks.letters < 4 * (1 << 14)


@pytest.mark.parametrize("kind", ["word", "wordpiece", "dictionary", *SPLIT_PATTERNS, OTHERS[0]])
def test_what_is_held_back_is_read_again_only_where_it_has_doubled(trained, kind):
    """Letter by letter, a run of n that is undecided to its end is read as a whole about log n times."""
    tokenizer, read = trained[kind] if kind in TOKENIZERS else rich_in_white_space(kind), 0
    decided = tokenizer._decided

    def counting(text):
        nonlocal read
        read += len(text)
        return decided(text)

    tokenizer._decided = counting
    letter = {"word": "x", "wordpiece": "x", "dictionary": "a"}.get(kind, "\n")
    try:
        ids = list(tokenizer.encode_iterable([letter] * 3000, unknown=Counter()))
    finally:
        del tokenizer._decided
    assert ids == tokenizer.encode(letter * 3000)
    assert read < 10 * 3000


@pytest.mark.usefixtures("as_a_reader_calls_it")
def test_what_is_remembered_stays_within_its_bytes():
    """Of 8,000 different chunks the default remembers all;
    with a limit, all that encoding takes stays below 512 KiB.
    """
    words = [
        " " + "".join(letters)
        for letters in itertools.islice(itertools.product("abcdefghijklmn", repeat=5), 8_000)
    ]
    limit, tokenizer = 1 << 18, BPETokenizer.train([TEXT], 400, pattern="gpt4")
    assert tokenizer.cache_bytes == 1 << 25
    expected = tokenizer.encode("".join(words))
    assert len(tokenizer._cache) == 8_000
    assert sum(map(sys.getsizeof, [*tokenizer._cache, *tokenizer._cache.values()])) > 4 * limit
    small = tokenizer.using("python")
    small.cache_bytes, most, got = limit, 0, []
    small.encode(" warm")
    tracemalloc.start()
    for n, id_ in enumerate(small.encode_iterable(words)):
        got.append(id_)
        if n % 4999 == 0:
            most = max(most, sum(map(sys.getsizeof, [small._cache, *small._cache, *small._cache.values()])))
    peak = tracemalloc.get_traced_memory()[1] - sys.getsizeof(got)
    tracemalloc.stop()
    assert got == expected
    assert 0 < len(small._cache) < 8_000
    assert limit / 2 < most <= limit
    assert peak < 1 << 19
    assert small.using("python").cache_bytes == limit
    small.cache_bytes = 0
    assert small.encode(TEXT) == tokenizer.encode(TEXT)
    assert not small._cache
    for bad in (-1, 0.5, "1 MB", True):
        with pytest.raises(ValueError, match="cache_bytes=.*0 remembers nothing"):
            small.cache_bytes = bad


@pytest.mark.usefixtures("as_a_reader_calls_it")
def test_one_str_is_not_taken_for_several(trained, tmp_path):
    (tmp_path / "t.txt").write_text("abba")
    for call in (
        lambda texts: BPETokenizer.train(texts, 300),
        lambda texts: BPETokenizer.train(texts, 300, ties="ids", backend="rustbpe"),
        lambda texts: CharTokenizer.train(texts),
        lambda texts: WordTokenizer.train(texts),
        lambda texts: count_chunks(texts, SPLIT_PATTERNS["gpt2"]),
        *(t.encode_iterable for t in trained.values()),
    ):
        with pytest.raises(
            ValueError, match=r"texts='abba' is one str: several texts are meant, so pass a list, \[text\]"
        ):
            call("abba")
        with pytest.raises(ValueError, match="texts=7 is one int"):
            call(7)
        with pytest.raises(ValueError, match=r"texts\[1\]=b'b' is of type bytes"):
            list(call(["a", b"b"]))
    for call in (
        lambda names: BPETokenizer.train(["a"], 300, names),
        lambda names: BPETokenizer.train_file(tmp_path / "t.txt", 300, names),
        lambda names: BPETokenizer.from_merges([], names),
        lambda names: CharTokenizer.train(["a"], special_tokens=names),
        lambda names: count_chunks(["a"], SPLIT_PATTERNS["gpt2"], names),
        lambda names: bpe_train.count_file(tmp_path / "t.txt", SPLIT_PATTERNS["gpt2"], names),
    ):
        with pytest.raises(ValueError, match="special_tokens='<s>' is one str"):
            call("<s>")
    for tokenizer in trained.values():
        with pytest.raises(ValueError, match="text is of type list: encode takes one str"):
            tokenizer.encode(["abba"])


def test_what_a_vocabulary_lacks_is_counted_and_said_once(trained, tmp_path, capsys):
    char = CharTokenizer.train(["abc "])
    unknown = Counter()
    assert char.encode("abé½é", unknown=unknown) == [*char.encode("ab"), 0, 0, 0]
    assert unknown == {"é": 2, "½": 1}
    assert Counter(trained["word"].unknown_pieces("low qqq, qqq")) == {"qqq": 2}
    assert Counter(trained["wordpiece"].unknown_pieces("low lowΩ")) == {"lowω": 1}
    assert char.unknown_pieces("abc") == trained["bpe"].unknown_pieces("é½") == {}
    lacking = BPETokenizer({bytes([b]): b for b in range(255)}, "gpt2", {"<unk>": 255}, [], unknown=255)
    ff = BPETokenizer(
        {bytes([b]): b for b in range(256) if b != 0xC3}, "gpt2", {"<unk>": 256}, [], unknown=256
    )
    assert ff.unknown_pieces("aéé½") == {"é": 2}
    assert lacking.unknown_pieces("aé") == {}
    stream = char.encode_iterable(["ab", "é½", "é", "a" * 10_000])
    with pytest.warns(
        UserWarning,
        match="^3 pieces are in no entry of the vocabulary and become the unknown token: 'é' 2, '½' 1$",
    ) as said:
        assert list(stream) == char.encode("abé½é" + "a" * 10_000)
    assert len(said) == 1
    counted = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(char.encode_iterable(["abc"])) == char.encode("abc")
        assert list(char.encode_iterable(["é", "a", "é"], "none", counted)) == [0, *char.encode("a"), 0]
    assert counted == {"é": 2}
    (tmp_path / "t.txt").write_text("abc" * 300 + "abcé½é" * 10, encoding="utf-8")
    assert prepare(tmp_path / "run", str(tmp_path / "t.txt"), level="char") == [
        "held-out part: 30 pieces are in no entry of the vocabulary and become the unknown token: "
        "'é' 20, '½' 10"
    ]


@pytest.mark.usefixtures("as_a_reader_calls_it")
def test_ids_are_read_from_arrays_and_tensors_of_every_integer_type(trained):
    for kind, text in {
        "char": "low well",
        "bpe": "low well",
        "wordpiece": "low the",
        "dictionary": "abba",
    }.items():
        tokenizer = trained[kind]
        ids = tokenizer.encode(text)
        expected = tokenizer.decode(ids)
        kinds = ["int16", "int32", "int64", "uint16", "uint32", "uint64"]
        several = [np.asarray(ids, dtype=name) for name in kinds] + [
            torch.tensor(ids, dtype=torch.int32),
            torch.tensor(ids),
        ]
        for given_ids in [
            *several,
            list(torch.tensor(ids)),
            list(np.asarray(ids)),
            tuple(ids),
            iter(ids),
            array("i", ids),
        ]:
            assert tokenizer.decode(given_ids) == expected
        assert (
            tokenizer.token(torch.tensor(ids[0]))
            == tokenizer.token(np.int16(ids[0]))
            == tokenizer.token(ids[0])
        )
        for bad, message in {
            "a batch": (
                torch.tensor([ids, ids]),
                f"a list of {len(ids)}, so they have several axes: decode one sequence",
            ),
            "a batch of numpy": (np.asarray([ids]), "several axes"),
            "floats": (
                torch.tensor(ids).float(),
                "of type float: an id is a whole number, so pass an integer type",
            ),
            "truth": (torch.tensor(ids) > 0, "of type bool"),
            "text": ("abc", "id 'a' is of type str"),
            "one": (torch.tensor(3), r"ids=tensor\(3\) is no list of ids: pass \[id\]"),
            "int": (5, "ids=5 is no list of ids"),
            "none": (None, "ids=None is no list of ids"),
        }.values():
            with pytest.raises(ValueError, match=message):
                tokenizer.decode(bad)


def test_formats_round_trip(bpe, tmp_path):
    formats.write_gpt2(bpe, tmp_path / "vocab.json", tmp_path / "merges.txt")
    back = formats.read_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt", bpe.pattern, tuple(SPECIAL))
    assert (back.ranks, back.special_tokens) == (bpe.ranks, bpe.special_tokens)
    assert back.encode(TEXT) == bpe.encode(TEXT)
    formats.write_tiktoken(bpe, tmp_path / "ranks.tiktoken")
    back = formats.read_tiktoken(tmp_path / "ranks.tiktoken", bpe.pattern, bpe.special_tokens)
    assert back.ranks == bpe.ranks
    assert back.encode(TEXT, "all") == bpe.encode(TEXT, "all")
    back.save(tmp_path / "t.json")
    assert load(tmp_path / "t.json").encode(TEXT) == bpe.encode(TEXT)


def test_transformers_reads_the_gpt2_files(tmp_path):
    from transformers import GPT2TokenizerFast

    bpe = BPETokenizer.train([TEXT], 400, SPECIAL[:1], "gpt2")
    formats.write_gpt2(bpe, tmp_path / "vocab.json", tmp_path / "merges.txt")
    theirs = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert theirs(TEXT)["input_ids"] == bpe.encode(TEXT)


def test_every_byte_has_a_visible_character():
    assert len(set(formats.VISIBLE.values())) == 256
    assert all(formats.hide(formats.show(bytes([b]))) == bytes([b]) for b in range(256))
    assert (formats.show(b" "), formats.show(b"\n")) == ("Ġ", "Ċ")


def test_damaged_files_are_named(tmp_path):
    bpe = BPETokenizer.train([TEXT], 300)
    path = tmp_path / "t.json"
    bpe.save(path)
    whole = path.read_text()
    for text, message in {
        whole[:-20]: "no whole JSON file",
        "[]": "was not written by Tokenizer.save",
        json.dumps(
            {"format": "llmcore-tokenizer-1", "kind": "bpe", "special_tokens": {}}
        ): "lacks or garbles",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load(path)
    formats.write_tiktoken(bpe, path)
    content = path.read_text()
    path.write_text(content[:-1])
    with pytest.raises(ValueError, match="cut short"):
        formats.read_tiktoken(path)
    path.write_text(content.replace(" 7\n", "\n"))
    with pytest.raises(ValueError, match="line 8: .* is not `base64 rank`"):
        formats.read_tiktoken(path)
    path.write_text("".join(content.splitlines(True)[1:]))
    with pytest.raises(ValueError, match="1 single bytes have no id, 0x00 first"):
        formats.read_tiktoken(path)
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    formats.write_gpt2(bpe, vocab, merges)
    lines = merges.read_text().splitlines()
    merges.write_text("\n".join(lines[:-5]))
    with pytest.raises(ValueError, match="300 entries need 44 merges, there are 39"):
        formats.read_gpt2(vocab, merges)
    merges.write_text("\n".join([*lines, "a b c"]))
    with pytest.raises(ValueError, match="is no pair of two spellings"):
        formats.read_gpt2(vocab, merges)
    vocab.write_text("[1]")
    with pytest.raises(ValueError, match="is no table of spelling -> id"):
        formats.read_gpt2(vocab, merges)
    formats.write_hugging_face(bpe, path)
    state = json.loads(path.read_text())
    for change, message in {
        "model": ({"type": "Unigram"}, "model of type 'Unigram'"),
        "normalizer": ({"type": "NFKC"}, "normalises the text first"),
        "pre_tokenizer": ({"type": "Metaspace"}, r"splits by \['Metaspace'\]"),
    }.items():
        path.write_text(json.dumps(state | {change: message[0]}))
        with pytest.raises(ValueError, match=message[1]):
            formats.read_hugging_face(path)


def test_mistakes_are_named(trained, tmp_path):
    for tokenizer in trained.values():
        assert tokenizer.encode("") == []
        assert tokenizer.decode([]) == ""
        for bad in (10**6, -1):
            with pytest.raises(ValueError, match=f"id {bad} is in no entry"):
                tokenizer.decode([bad])
        with pytest.raises(ValueError, match="half of a pair: it has no UTF-8"):
            tokenizer.encode("a\ud83d")
    with pytest.raises(ValueError, match="vocab_size=256 is below 256 bytes and 1 special"):
        BPETokenizer.train([TEXT], 256, ["<s>"])
    with pytest.raises(ValueError, match="vocab_size=1 leaves no room"):
        CharTokenizer.train([TEXT], 1)
    with pytest.raises(ValueError, match="learns nothing"):
        DictionaryTokenizer.train([TEXT])
    with pytest.raises(ValueError, match="each needs its own id"):
        DictionaryTokenizer({"a": 1, "b": 1})
    with pytest.raises(ValueError, match="the empty text"):
        DictionaryTokenizer({"": 1})
    with pytest.raises(ValueError, match="share an id"):
        DictionaryTokenizer({"a": 1}, {"<a>": 2, "<b>": 2})
    with pytest.raises(ValueError, match="special token '' is empty"):
        DictionaryTokenizer({"a": 1}, {"": 2})
    with pytest.raises(ValueError, match="unknown='<u>' is none of"):
        DictionaryTokenizer({"a": 1}, unknown="<u>")
    path = tmp_path / "bad.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="byte 3: not UTF-8"):
        BPETokenizer.train_file(path, 300)
    with pytest.raises(ValueError, match="processes=0"):
        BPETokenizer.train_file(path, 300, processes=0)
    assert len(BPETokenizer.train(["ab"], 1000)) == 257  # no pair is left
