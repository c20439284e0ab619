"""Careless use, over and over: a right answer, or one line that names the fault.

Never a traceback, a hang, half a file or another answer the second time. `make fuzz` runs the same with more
examples.
"""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import load_file
from test_widget_arguments import attempt, state_of
from widget_cases import EXAMPLES, makers, parameters

from llmcore import checkpoint
from llmcore.__main__ import arguments, main
from llmcore.corpus import END, read_text
from llmcore.data import read_tokens
from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, load
from tools import fuzz as tools
from tools.fuzz import fuzz


@pytest.fixture(autouse=True)
def counted(request, record_property):
    before = tools.RUN.copy()
    yield
    record_property("examples", sum((tools.RUN - before).values()))


@pytest.fixture(autouse=True)
def _reader(as_a_reader_calls_it):
    """llmcore's own errors, not those of the shape checks."""


def test_the_shares_are_all_of_it():
    assert tools.ASKED[__name__] == tools.TOTALS[__name__]


# --------------------------------------------------------------------------------------------------
# encode_iterable

# the kinds of characters at which patterns cut: white space, letters, digits, signs, Han, an apostrophe
PARTS = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "a",
    "B",
    "'s",
    "1",
    "234",
    ".",
    "!?",
    "水",
    "é",
    END,
]


@pytest.fixture(scope="module")
def spaced() -> dict[str, BPETokenizer]:
    """A vocabulary for each pattern; its tokens have white space of several lengths, also before words."""
    text = (
        "".join(f"{' ' * n}a\n{chr(9) * n}1\r\n{' ' * (9 - n)}\n" for n in range(9)) * 3
        + " the  well   and\n\n\nfar\u3000水 " * 9
    )
    return {name: BPETokenizer.train([text], 330, [END], name) for name in SPLIT_PATTERNS}


@fuzz(300)
def test_a_text_in_any_parts_has_the_ids_of_the_whole(data, spaced):
    """Whatever the cut: encode_iterable holds back what the next part may change."""
    tokenizer = spaced[data.draw(st.sampled_from(sorted(spaced)), label="pattern")]
    text = "".join(data.draw(st.lists(st.sampled_from(PARTS), max_size=25), label="text"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12), label="cuts"))
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert list(tokenizer.encode_iterable(parts, "all")) == tokenizer.encode(text, "all")
    assert list(tokenizer.encode_iterable(list(text), "all")) == tokenizer.encode(text, "all")


# ------------------------------------------------------------------------------------------------------ the
# command line

SMALL = ["n_layers=1", "d_model=8", "n_heads=2", "n_kv_heads=2", "d_ff=12", "context_length=8"]
# by the type of an option: what a careless or hostile caller types
WHOLE = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "two",
    "",
    "1e3",
    "inf",
    "3.0",
    "99999999999999999999",
    "-99999999999999999999",
]
NUMBERS = ["0", "-1", "0.5", "1", "1e-39", "1e-400", "1e39", "1e400", "nan", "inf", "-inf", "x", "", "0.1"]
SETTINGS = [
    "n_layers=two", "n_layers=0", "n_layers=-1", "n_heads=3", "n_kv_heads=0", "rotary_base=inf",
    "rotary_base=-1", "rotary_base=nan", "init_std=inf", "init_std=-1", "dropout=1", "dropout=nan",
    "family=encoder", "family=both", "family=encoder-decoder", "bias=maybe", "tied=true", "tied=",
    "norm=batch", "position=learned", "position=none", "rotary_scaling=8", "rotary_scaling={}",
    "vocab_size=3", "context_length=0", "context_length=100000", "=", "d_model", "d_model=", "d_model==8",
    "d_ff=1e3", "水=1", "attention=tiled",
]  # fmt: skip
SLOW = {"steps": ["99999999999999999999"]}  # a run that long is what was asked for


def options_of(command: str) -> dict[str, list[str]]:
    """For each option the values that may be typed after it; none for a flag."""
    parsers = next(a for a in arguments()._actions if a.dest == "command").choices
    out = {}
    for action in parsers[command]._actions:
        if action.option_strings and action.dest not in ("help", "compile"):
            kind = getattr(action.type, "__name__", "str")
            values = {"int": WHOLE, "seed": WHOLE, "float": NUMBERS, "Path": ["PATH"], "str": ["TEXT"]}[kind]
            values = [*map(str, action.choices), "none of these"] if action.choices else values
            values = [] if action.nargs == 0 else SETTINGS if action.dest == "set" else values
            out[action.option_strings[0]] = [v for v in values if v not in SLOW.get(action.dest, [])]
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with texts, vocabularies, a run, and files that are none of these."""
    folder = tmp_path_factory.mktemp("use")
    text = read_text("fables.en")[:3000]
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "other.txt").write_text(text[::-1], encoding="utf-8")
    (folder / "one.txt").write_text("a", encoding="utf-8")
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (folder / "bytes.txt").write_bytes(bytes(range(256)) * 9)
    BPETokenizer.train([text], 280, [END]).save(folder / "t.json")
    (folder / "broken.json").write_text('{"kind": "bpe"', encoding="utf-8")
    (folder / "a folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCORE_DEVICE", "cpu")
        assert call(train(folder / "text.txt", folder / "run"))[0] == 0
    return folder


FILES = [
    "text.txt", "other.txt", "one.txt", "empty.txt", "marked.txt", "bytes.txt", "t.json", "broken.json",
    "a folder", "run", "none", "no/such/folder", "run/train.bin", "run/tokenizer.json",
]  # fmt: skip


def train(corpus: Path, out: Path, *more: str) -> list[str]:
    fixed = [
        "--vocab-size",
        "270",
        "--steps",
        "3",
        "--batch-size",
        "2",
        "--warmup",
        "1",
        "--eval-every",
        "2",
        "--checkpoint-every",
        "2",
    ]
    return ["train", "--corpus", str(corpus), "--out", str(out), *fixed, "--set", *SMALL, *more]


def call(argv: list[str]) -> tuple[int, str, str]:
    """The command's status, standard output and standard error; argparse, too, refuses with status 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoint.latest(run) / "model.safetensors")


@pytest.mark.parametrize("command", ["tokenize", "train", "sample"])
@fuzz(25, times=3)
def test_any_options_give_a_result_or_one_line(data, place, monkeypatch, command):
    """Status 0 and the result, or 2 and one line that says what is wrong; no existing file is harmed."""
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    new = place / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    argv = {
        "tokenize": [
            "tokenize",
            "--corpus",
            str(place / "text.txt"),
            "--vocab-size",
            "270",
            "--out",
            str(new / "t.json"),
        ],
        "train": train(place / "text.txt", new / "run"),
        "sample": ["sample", str(place / "run"), "--tokens", "3"],
    }[command]
    options = options_of(command)
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        name = data.draw(st.sampled_from(sorted(options)), label="option")
        values = options[name]
        if not values:
            argv = [*argv, name]
            continue
        value = data.draw(st.sampled_from(values), label="value")
        if value == "PATH" or name == "--corpus":
            value = str(place / data.draw(st.sampled_from(FILES), label="path"))
        elif value == "TEXT":
            value = data.draw(st.text(max_size=9), label="text")
        argv = [*argv, *([name, *SMALL, value] if name == "--set" else [name, value])]
    status, said, error = call(argv)
    assert status in (0, 2), (argv, error)
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    if status == 2:
        assert lines, argv
        assert lines[-1].startswith(f"llmcore {command}: "), (argv, error)
    elif command == "train":
        out = Path(argv[len(argv) - 1 - argv[::-1].index("--out") + 1])
        assert all(np.isfinite(w).all() for w in weights(out).values()), argv
        assert said
    harmed = [p for p, content in before.items() if not p.is_file() or p.read_bytes() != content]
    assert [p for p in harmed if not allowed(p, argv, place)] == [], argv


def allowed(path: Path, argv: list[str], place: Path) -> bool:
    """A vocabulary may be written over where --out names it, and a run goes on in its folder."""
    return path in (place / "t.json", place / "run/tokenizer.json") or (
        argv[0] == "train" and (place / "run") in path.parents
    )


@pytest.mark.slow
@fuzz(8)
def test_an_interrupted_run_ends_as_the_one_that_was_not(data, place, monkeypatch):
    """After Ctrl-C at any moment the same command goes on, and the weights are equal bit for bit."""
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    more = data.draw(
        st.sampled_from([["--accumulation", "2"], ["--schedule", "constant"], ["--patience", "9"], []]),
        label="options",
    )
    corpus, whole, broken = place / "text.txt", place / "whole", place / "broken"
    for folder in (whole, broken):
        shutil.rmtree(folder, ignore_errors=True)
    assert call(train(corpus, whole, *more))[0] == 0

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        for _ in range(data.draw(st.integers(1, 3), label="times")):
            signal.setitimer(signal.ITIMER_VIRTUAL, data.draw(st.floats(0.001, 0.4), label="after"))
            try:
                status, _, error = call(train(corpus, broken, *more))
            except KeyboardInterrupt:  # it came outside of main
                continue
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            assert status in (0, 130), error
            assert (
                status == 0
                or len(error.strip().splitlines()) == 1
                or "llmcore train: interrupted" in error.splitlines()[-1]
            )
    finally:
        signal.signal(signal.SIGVTALRM, before)
    status, _, error = call(train(corpus, broken, *more))
    assert status == 0, error
    expected, found = weights(whole), weights(broken)
    assert set(expected) == set(found)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.fixture(scope="module")
def two():
    """Two processes that wait for commands."""
    context = multiprocessing.get_context("spawn")
    environment = {"LLMCORE_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with context.Pool(2) as pool:
            pool.map(call, [["tokenize"]] * 8)  # both have imported
            yield pool


@pytest.mark.slow
@fuzz(4)
def test_two_at_once_in_one_folder(data, place, two):
    """Whoever wins, the folder is that of one process: its tokens are those of the winner's corpus."""
    folder = place / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    names = [data.draw(st.sampled_from(["text.txt", "other.txt"]), label="corpus") for _ in range(2)]
    done = two.map(call, [train(place / name, folder) for name in names], chunksize=1)
    for status, _, error in done:
        assert status in (0, 2), error
        assert "Traceback" not in error
    winners = [name for name, (status, *_) in zip(names, done, strict=True) if status == 0]
    assert winners, done
    tokenizer = load(folder / "tokenizer.json")
    tokens, _ = read_tokens(folder / "train.bin")
    text = (place / winners[0]).read_text(encoding="utf-8")
    assert len(set(winners)) == 1
    assert tokenizer.decode(np.asarray(tokens).tolist()) == text[: int(len(text) * 0.9)]
    assert json.loads((checkpoint.latest(folder) / "state.json").read_text())["step"] == 3


# --------------------------------------------------------------------------------------------------
# widgets

NUMBERS_OF_A_WIDGET = (
    st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**53 + 1, 2**63, 2**64, 10**400, 1e308, 5e-324])
)
DTYPES = st.sampled_from(
    ["float64", "float16", "int8", "uint64", "bool", "complex64", "<U3", "object", "datetime64[D]"]
)
ARRAYS = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype), st.lists(st.integers(0, 4), max_size=4), DTYPES
)
LEAVES = (
    st.none() | st.booleans() | NUMBERS_OF_A_WIDGET | st.text(max_size=12) | st.binary(max_size=4) | ARRAYS
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@fuzz(150)
def test_any_arguments_of_any_widget(data):
    """A figure with a small state of valid JSON, or a ValueError of one readable line."""
    make = data.draw(st.sampled_from(makers()), label="widget")
    given = dict(EXAMPLES[make])
    for name in data.draw(
        st.lists(st.sampled_from(parameters(make)), min_size=1, max_size=2), label="arguments"
    ):
        given[name] = data.draw(ANYTHING, label=name)
    widget, error = attempt(make, given, given.keys())
    if widget is None:
        assert 0 < len(str(error)) < 1000
    else:
        state_of(widget.figure())
        assert len(repr(widget)) < 2000
