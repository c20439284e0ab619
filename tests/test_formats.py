"""Files of other tokenizers: read as their own library reads them, or refused by name;
no text is lost, none takes for ever.
"""

import itertools
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import TEXT
from tokenizers import Tokenizer as HuggingFace

from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, count_chunks, cutting, formats, learn, load
from llmcore.tokenizer.cutting import ANYTHING, PUBLISHED, compiled, cut, portable
from tools.fuzz import bounded, within

# -------------------------------------------------------------------- tokenizer.json, as the library reads it

RICH = (
    "It is 2024 in 日本, 12345 times 1. \n\n  two  spaces\t\ttabs\r\n'll we'RE don't  ß ss ſ a\u0301 aa aab "
    "<s> <s>  <mask> x<s>y\n"
) * 3
# merges over every border that a pattern might draw: of digits, letters, Han, white space
VOCABULARY = BPETokenizer.train([RICH, TEXT], 400, [], ANYTHING)
TEXTS = [
    RICH, "It is 2024 in 日本", "", " ", "  \n ", "\n\n", "a\n", "\n^a$\n\nb\n", "1", "12 3 456 7890",
    " <s> a <mask>  b<s>", "a<mask>a",
    "\t <mask> \n", "日本2024日本 a日b", "'ſ 'LL 's'S", "Straße STRASSE ﬁ", "x   ", "   x", "aab aaab bb a a",
    "ab\r\ncd\r\r\n", "é e\u0301 Å",
    "½ ² Ⅷ ٣ 3", "\u00a0\u2028\u3000 x\x85\x1c", "<s><s>", "< s>", "İi ıI", "<s", "a_b-c.d",
]  # fmt: skip


def whole(**changes) -> dict:
    """The vocabulary's tokenizer.json, changed."""
    spelled = {formats.show(t): i for t, i in VOCABULARY.ranks.items()}
    state = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": sequence(), "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": spelled,
            "merges": [[formats.show(a), formats.show(b)] for a, b in formats.listed_merges(VOCABULARY)],
        },
    }  # fmt: skip
    state["model"] |= {k: changes.pop(k) for k in [*changes] if k in state["model"]}
    return state | changes


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def level(use_regex: bool = False, add_prefix_space: bool = False) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def digits(individual: bool) -> dict:
    return {"type": "Digits", "individual_digits": individual}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": [*(steps or (level(),))]}


def added(content: str, id_: int, **flags) -> dict:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **plain, "special": True, **flags}


def same_or_refused(state: dict, path, texts=TEXTS) -> bool:
    """Whether ours reads the file; then its ids are the library's and every text that the library gives
    back comes back.
    """
    path.write_text(json.dumps(state), encoding="utf-8")
    try:
        ours = formats.read_hugging_face(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return False
    theirs = HuggingFace.from_file(str(path))
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, "all") == ids, text
        if theirs.decode(ids, skip_special_tokens=False) == text:
            assert ours.decode(ids) == text
        assert list(ours.encode_iterable([*text], "all")) == ids, text
    return True


PATTERNS = [
    *SPLIT_PATTERNS.values(), *PUBLISHED.values(), SPLIT_PATTERNS["gpt4-han"].replace(*cutting.HAN), ANYTHING,
    r"\p{N}{1,3}", r"(\p{N})(\p{N})?", r"\s+", r"(\s)+", r"(?<run>\s)\S", r"[一-龥぀-ゟ゠-ヿ]+", "(?:a|(b))+",
    "x*", "a??", "^", "$", r"^\s*a|b$",
    r"\n^|$\n", r"(?i)ss|i", r"(?i:[sdmt]|ll|ve|re)", r"\b", r"\w+|\d", r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"a(?=b)", r"(?<=a)b", r"(?<!\s)\S", ".", r".+",
    r"\S+", r"\W+", r"\p{Lu}\p{Ll}*", r"\p{Han}|\p{Latin}+", r"(?>a+)b", r"a{1,2}", r"a{2,}?", r"a++b?",
    r"\D", r"[^\p{L}\n]+", r"[\d\s]+", r"\-|\.",
    # what the two dialects read otherwise, or one of them does not read
    r"\h", r"\v", r"a{2}?", r"a{2}+", "(?m).", r"\Z", r"a\z", r"\G.", r"\R", r"\X", r"a\K.", r"(a)\1",
    r"[a&&b]", r"[a-z--b]", "[[:alpha:]]+", r"\p{Alnum}+",
    r"\xe9", "a(?i)b|c", "(?x) a b", r"(?#a)b", "(?r)ab", r"(?<a>a)\k<a>", r"\p{Punct}", "a{,2}", "a{e<=1}",
    r"[||a]", r"[]a]", r"[\b]", "(?~a)",
]  # fmt: skip


def theirs_reads(state: dict) -> bool:
    try:
        return bool(HuggingFace.from_str(json.dumps(state)))
    except Exception:
        return False


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_hugging_face_or_is_refused(pattern, tmp_path):
    """Groups, gaps, empty matches, anchors; patterns that the two dialects read otherwise."""
    state = whole(pre_tokenizer=sequence(split(pattern), level()))
    if theirs_reads(state):
        assert same_or_refused(state, tmp_path / "tokenizer.json") == (
            PATTERNS.index(pattern) < PATTERNS.index(r"\h")
        )


BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


@pytest.mark.parametrize("pattern", [r"\p{N}{1,3}", r"(\s)+", SPLIT_PATTERNS["gpt2"], PUBLISHED["llama-bpe"]])
def test_every_behavior_inverted_or_not_is_done_or_refused(pattern, tmp_path):
    covering = pattern in cutting.COVERING
    for behavior, invert, again in itertools.product(BEHAVIORS, (False, True), (False, True)):
        state = whole(pre_tokenizer=sequence(split(pattern, behavior, invert), level(again)))
        same = behavior == "Isolated" or (covering and behavior == "Removed" and invert)
        assert same_or_refused(state, tmp_path / "tokenizer.json", TEXTS[:12]) == (same and not again)


STEPS = [
    level(), level(True), level(False, True), level(True, True), digits(True), digits(False),
    split(r"\p{N}{1,3}"), split(r"\s+", "Removed"),
    split(SPLIT_PATTERNS["gpt2"]), {"type": "Whitespace"}, {"type": "WhitespaceSplit"},
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "BertPreTokenizer"}, {"type": "UnicodeScripts"},
    {"type": "CharDelimiterSplit", "delimiter": " "},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    sequence(digits(True)),
    {"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": False},
]  # fmt: skip
READ = [
    [level()],
    [level(True)],
    [digits(True), level()],
    [digits(True), level(True)],
    [digits(False), level()],
]
READ += [
    [split(r"\p{N}{1,3}"), level()],
    [split(SPLIT_PATTERNS["gpt2"]), level()],
    [sequence(digits(True)), level()],
]
READ += [[sequence(digits(True)), level(True)]]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_row_of_pre_tokenizers_is_done_or_refused(count, tmp_path):
    """All rows of one, two and three; the last of several is not taken for the whole."""
    for steps in map(list, itertools.product(STEPS if count < 3 else STEPS[:8:2], repeat=count)):
        assert same_or_refused(whole(pre_tokenizer=sequence(*steps)), tmp_path / "tokenizer.json") == (
            steps in READ
        ), steps
    assert same_or_refused(whole(pre_tokenizer=level(True)), tmp_path / "tokenizer.json")
    assert not same_or_refused(whole(pre_tokenizer=None), tmp_path / "tokenizer.json")


NORMALIZERS = [
    (None, True), ({"type": "Sequence", "normalizers": []}, True),
    ({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}, True), ({"type": "NFC"},
    False),
    ({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, False), ({"type": "Strip",
    "strip_left": True, "strip_right": True}, False),
    ({"type": "Replace", "pattern": {"String": " "}, "content": ""}, False), ({"type": "Prepend",
    "prepend": " "}, False),
]  # fmt: skip


@pytest.mark.parametrize(("normalizer", "read"), NORMALIZERS)
def test_a_normalizer_that_does_something_is_refused_and_an_empty_one_read(normalizer, read, tmp_path):
    assert same_or_refused(whole(normalizer=normalizer), tmp_path / "tokenizer.json") == read


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({"dropout": 0.5}, False), ({"dropout": 1.0}, False), ({"dropout": 0.0}, True),
        ({"ignore_merges": True}, True),
        ({"continuing_subword_prefix": "##"}, False), ({"end_of_word_suffix": "</w>"}, False),
        ({"byte_fallback": True}, False),
        ({"fuse_unk": True}, True), ({"unk_token": "<s>"}, True),
    ],
)  # fmt: skip
def test_options_of_the_model(change, read, tmp_path):
    assert same_or_refused(whole(**change), tmp_path / "tokenizer.json") == read


@pytest.mark.parametrize("fuse", [False, True])
def test_unknown_bytes_are_one_id_each_or_refused(fuse, tmp_path):
    state = whole(unk_token="<unk>", fuse_unk=fuse, added_tokens=[added("<unk>", 500)])
    state["model"]["vocab"] = {"<unk>": 500} | {
        t: i for t, i in state["model"]["vocab"].items() if t not in ("ì", "Ĺ")
    }
    gone = [m for m in state["model"]["merges"] if any(c in "".join(m) for c in "ìĹ")]
    state["model"]["merges"] = [m for m in state["model"]["merges"] if m not in gone]
    state["model"]["vocab"] = {
        t: i for t, i in state["model"]["vocab"].items() if t not in ["".join(m) for m in gone]
    }
    assert same_or_refused(state, tmp_path / "tokenizer.json") != fuse


NAMES = ["<s>", "<mask>", "a", "aa", "s>", "日本", " <s>", "  ", "<s> ", "2024"]


@pytest.mark.slow
@settings(max_examples=120)
@given(data=st.data())
def test_added_tokens_with_any_flags(data, tmp_path_factory):
    """lstrip, rstrip, single_word and normalized, ids that fit and that do not, names that overlap,
    normalizers, pre-tokenizers.
    """
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=data.draw(st.integers(0, 9)) > 0))
    flags = st.fixed_dictionaries(
        {f: st.integers(0, 7).map(lambda n: n == 7) for f in ("lstrip", "rstrip", "single_word")}
        | {"normalized": st.booleans(), "special": st.booleans()}
    )
    spelled = whole()["model"]["vocab"]
    tokens, free = [], itertools.count(len(spelled))
    for name in names:
        id_ = spelled[name] if name in spelled else next(free)
        tokens.append(added(name, id_ + (data.draw(st.integers(0, 19)) == 19), **data.draw(flags)))
    normalizer = data.draw(st.sampled_from(NORMALIZERS))[0]
    before = data.draw(st.sampled_from([*READ, [level(), level()], [split("a", "Removed"), level()]]))
    texts = [
        *TEXTS,
        *data.draw(st.lists(st.text(st.sampled_from("as<>日本 \n20mk"), max_size=12), max_size=3)),
    ]
    texts += ["".join(data.draw(st.lists(st.sampled_from([*NAMES, " ", "\n", "x"]), max_size=6)))]
    state = whole(added_tokens=tokens, normalizer=normalizer, pre_tokenizer=sequence(*before))
    read = same_or_refused(state, tmp_path_factory.getbasetemp() / "tokenizer.json", texts)
    plain = not any(t["lstrip"] or t["rstrip"] or t["single_word"] or t["normalized"] for t in tokens)
    fits = len(set(names)) == len(names) and all(
        t["id"] == spelled.get(t["content"]) for t in tokens if t["content"] in spelled
    )
    if plain and fits and before in READ and (normalizer, True) in NORMALIZERS and not tokens:
        assert read


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_token_that_takes_in_its_surroundings_is_named(flag, tmp_path):
    path = tmp_path / "tokenizer.json"
    assert same_or_refused(whole(added_tokens=[added("<mask>", 400)]), path)
    path.write_text(json.dumps(whole(added_tokens=[added("<mask>", 400, **{flag: True})])))
    with pytest.raises(
        ValueError, match=f"tokenizer.json: added token '<mask>' has {flag}, which is not done here"
    ):
        formats.read_hugging_face(path)


# ----------------------------------------------------------------------------------------- patterns, anyone's


@pytest.mark.parametrize("pattern", [r"(\p{L})+", r"(a)(b)?", r"\d+", "x*", "(?:)", r"(?<=a)b"])
def test_what_a_pattern_does_not_match_and_what_its_groups_leave_out_is_kept(pattern):
    """In chunks, in what is learned, in ids; learned from a text is what the text needs."""
    learned = BPETokenizer.train([RICH], 300, ["<s>"], pattern)
    assert b"".join(learned.token_bytes(i) for i in range(256)) == bytes(range(256))
    for text in TEXTS:
        assert "".join(learned.chunks(text)) == text
        assert "" not in learned.chunks(text)
        assert learned.decode(learned.encode(text)) == text
        assert list(learned.encode_iterable([*text])) == learned.encode(text)
    with pytest.raises(ValueError, match="backend='tiktoken' leaves out what a pattern does not match"):
        learned.using("tiktoken")
    with pytest.raises(ValueError, match="backend='rustbpe' leaves out what a pattern does not match"):
        BPETokenizer.train([RICH], 300, [], pattern, ties="ids", backend="rustbpe")


def test_what_lies_between_two_matches_is_learned_as_one_chunk():
    assert [(m.left, m.right) for m in learn(count_chunks(["ab1ab22ab"], r"\d"), 9)] == [(b"a", b"b")]


HANGS = "a" * 60 + "b"


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(a|aa)+c", r"(?:a|a)*[^ab]"])
def test_a_pattern_that_would_take_for_ever_is_named(pattern, tmp_path, monkeypatch):
    """However it comes, and wherever it cuts:
    encode, encode_iterable, learning from texts and from a file.
    """
    monkeypatch.setattr(cutting, "SECONDS", 0.2)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole(pre_tokenizer=sequence(split(pattern), level()))))
    read = formats.read_hugging_face(path)
    BPETokenizer(VOCABULARY.ranks, pattern).save(tmp_path / "own.json")
    (tmp_path / "text").write_text(HANGS)
    work = [
        lambda: read.encode(HANGS), lambda: read.chunks(HANGS), lambda: list(read.encode_iterable([HANGS,
        "c" * 9])),
        lambda: load(tmp_path / "own.json").encode(HANGS), lambda: BPETokenizer.train([HANGS], 300, [],
        pattern),
        lambda: BPETokenizer.train_file(tmp_path / "text", 300, [], pattern),
    ]  # fmt: skip
    for attempt in work:
        start = time.process_time()
        with pytest.raises(
            ValueError,
            match=rf"{re.escape(pattern[:5])}.* has not cut \d+ characters within 1 s: .* write it without",
        ):
            attempt()
        assert time.process_time() - start < 10


def test_the_time_allowed_grows_with_the_text(monkeypatch):
    monkeypatch.setattr(cutting, "SECONDS", 0.0)
    text = RICH * 300
    assert "".join(cut(compiled(r"\d+|\p{L}+"), text)) == text


BOMBS = [
    "(?:a{9999}){9999}",
    "(?:" * 25 + "a" + "+)" * 25,
    "(?:" * 400 + "a" + ")" * 400,
    "(?R)?a|b",
    "(?#[)(?R)(?#])",
    "(?r)ab",
    "(",
]


@pytest.mark.parametrize("pattern", BOMBS)
def test_a_pattern_that_no_memory_holds_is_refused_before_it_is_compiled(pattern, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole(pre_tokenizer=sequence(split(pattern), level()))))
    with bounded(1 << 28), within(5):
        for use in (lambda: formats.read_hugging_face(path), lambda: BPETokenizer(VOCABULARY.ranks, pattern)):
            with pytest.raises(ValueError, match="pattern .* (holds|has|is no regular expression)"):
                use()


def test_a_pattern_is_written_where_hugging_face_reads_it_alike(tmp_path):
    for pattern in (*SPLIT_PATTERNS, *PUBLISHED.values(), ANYTHING):
        formats.write_hugging_face(BPETokenizer(VOCABULARY.ranks, pattern), tmp_path / "t.json")
        again = formats.read_hugging_face(tmp_path / "t.json").pattern
        assert SPLIT_PATTERNS.get(again, again) == SPLIT_PATTERNS.get(pattern, pattern)
    for pattern, said in (
        (r"a$", "means something else to Hugging Face: write"),
        (r"\h", "may read otherwise"),
    ):
        with pytest.raises(ValueError, match=said):
            formats.write_hugging_face(BPETokenizer(VOCABULARY.ranks, pattern), tmp_path / "t.json")
    assert cut(compiled(portable("^a$")), "a\na\n\nb") == ["a", "\n", "a", "\n\nb"]


# ------------------------------------------------------------------------------------------ other files' lies


@pytest.mark.parametrize(
    "rank", [b"1_0", b"+7", b"-1", b"1e1", b"9" * 5000, b"4294967296", "٣".encode(), b"0x1", b""]
)
def test_a_rank_is_digits_and_nothing_else(rank, tmp_path):
    formats.write_tiktoken(VOCABULARY, tmp_path / "ranks")
    lines = (tmp_path / "ranks").read_bytes().split(b"\n")
    lines[3] = lines[3].split(b" ")[0] + b" " + rank
    (tmp_path / "ranks").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match="ranks"):
        formats.read_tiktoken(tmp_path / "ranks")
