"""Any text comes back; a damaged file gives the same object, another valid one, or a ValueError naming it.

Never another exception, a hang, memory for a forged length, or an opened pickle. `make fuzz` runs the same
with 100,000 examples.
"""

import codecs
import hashlib
import itertools
import json
import pickle
import shutil
import struct
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BASE, model_of
from hypothesis import strategies as st
from test_pretrained import BERT, LLAMA, MARIAN, write_gguf
from test_tokenizer import SPECIAL, TEXT, TEXTS, reference
from tokenizers import Tokenizer as HuggingFace

from llmcore import checkpoint, pretrained
from llmcore.config import ModelConfig
from llmcore.data import Windows, collate, read_pieces, read_tokens, write_tokens
from llmcore.functional import softmax
from llmcore.mask import Mask, Padding
from llmcore.sampling import RULES, left_pad
from llmcore.tokenizer import (
    NOTES,
    SPLIT_PATTERNS,
    TOKENIZERS,
    BPETokenizer,
    CharTokenizer,
    DictionaryTokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    formats,
    load,
)
from llmcore.trainer import TrainConfig, Trainer
from tools import fuzz as tools
from tools.fuzz import bounded, changed_bytes, changed_tree, fuzz

SAMPLE = "The low well, 水井 12345.\n\n"
ANY = st.text(max_size=40)  # surrogates too


@pytest.fixture(autouse=True)
def counted(request, record_property):
    before = tools.RUN.copy()
    yield
    record_property("examples", sum((tools.RUN - before).values()))


@pytest.fixture(autouse=True, scope="module")
def no_pickle():
    """A pickle that anything opens fails the example: what is raised is no documented error."""

    class Refused(pickle.Unpickler):
        def __init__(self, *_, **__):
            raise AssertionError("a pickle was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "Unpickler", Refused)
        for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
            patch.setattr(module, name, Refused)
        yield


@pytest.fixture(autouse=True)
def _reader(as_a_reader_calls_it):
    """llmcore's own errors, not those of the shape checks."""


def small_bpe(pattern: str = "gpt4-han") -> BPETokenizer:
    return BPETokenizer.train([TEXT], 300, SPECIAL[:2], pattern)


def make(kind: str):
    pieces = [m + c for c in sorted(set(TEXT.lower())) if not c.isspace() for m in ("", "##")] + [
        "the",
        "low",
        "##est",
    ]
    special = {s: 900 + i for i, s in enumerate(["[UNK]", *SPECIAL])}
    return {
        "dictionary": lambda: DictionaryTokenizer(
            NOTES | {c: i for i, c in enumerate("abcdfgij")}, {"<eos>": 200, "?": 7_000}, "?"
        ),
        "char": lambda: CharTokenizer.train([TEXT], special_tokens=SPECIAL),
        "word": lambda: WordTokenizer.train([TEXT], special_tokens=SPECIAL),
        "bpe": small_bpe,
        "wordpiece": lambda: WordPieceTokenizer({p: i for i, p in enumerate(pieces)}, special),
    }[kind]()


@pytest.fixture(scope="module")
def trained() -> dict:
    return {kind: make(kind) for kind in TOKENIZERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def same(a, b) -> bool:
    return (
        type(a) is type(b)
        and (a.ids(), a.special_tokens) == (b.ids(), b.special_tokens)
        and a._state() == b._state()
    )


def usable(tokenizer, path: Path) -> None:
    """Check a loaded tokenizer.

    It encodes, or names the character that it lacks; its ids decode; it can be saved and comes back the same.
    """
    try:
        ids = tokenizer.encode(SAMPLE, "all")
        tokenizer.decode(ids)
    except ValueError:
        pass
    assert set(tokenizer.ids()) <= set(range(len(tokenizer)))
    again = path.with_name("again.json")
    tokenizer.save(again)
    assert same(tokenizer, load(again))


def attempt(call, *names):
    """call()'s result, or None if it raises a ValueError (or FileNotFoundError) with one of the names."""
    try:
        return call()
    except (ValueError, FileNotFoundError) as error:
        if not any(str(name) in str(error) for name in names):
            raise AssertionError(f"{error!r} names none of {names}") from error
        return None


# --------------------------------------------------------------------------------------------------
# tokenizers


@pytest.mark.parametrize("kind", TOKENIZERS)
@fuzz(100, times=5)
def test_any_text(data, trained, kind):
    """Ids are in range; parts give the same; lossless text comes back; half a surrogate pair is refused."""
    t, text = trained[kind], data.draw(TEXTS | ANY, label="text")
    allowed = data.draw(st.sampled_from(["none", "all"]))
    ids = attempt(lambda: t.encode(text, allowed), "half of a pair")
    assert (ids is None) == any("\ud800" <= c <= "\udfff" for c in text)
    if ids is None:
        return
    assert set(ids) <= set(t.ids())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6), label="cuts"))
    assert (
        list(
            t.encode_iterable(
                [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])], allowed, Counter()
            )
        )
        == ids
    )
    whole = t.decode(ids)
    stream = codecs.getincrementaldecoder("utf-8")("replace")
    if kind != "wordpiece":  # puts a space between two words
        assert "".join(stream.decode(t.token_bytes(i)) for i in ids) + stream.decode(b"", True) == whole
    if kind == "bpe" or (kind in ("char", "word") and 0 not in ids):
        assert whole == text


@fuzz(120)
def test_what_any_text_teaches(data, folder):
    """A vocabulary from any text, with any special tokens, encodes it, and is the same once loaded again."""
    texts = data.draw(st.lists(TEXTS, max_size=3), label="texts")
    names = data.draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), max_size=3, unique=True
        )
    )
    kind = data.draw(st.sampled_from(["char", "word", "bpe"]))
    pattern = data.draw(st.sampled_from(list(SPLIT_PATTERNS)))
    t = (
        BPETokenizer.train(texts, 300, names, pattern)
        if kind == "bpe"
        else TOKENIZERS[kind].train(texts, None, names)
    )
    for text in texts:
        assert t.decode(t.encode(text)) == text
        if kind != "word" or not any(
            name in text for name in names
        ):  # a name cuts a word in two, and the halves were not learned
            assert t.decode(t.encode(text, "all")) == text
    t.save(folder / "t.json")
    assert same(t, load(folder / "t.json"))


@pytest.fixture(scope="module")
def peers(folder) -> dict:
    """One vocabulary, three programs."""
    out = {}
    for pattern in SPLIT_PATTERNS:
        bpe = small_bpe(pattern)
        formats.write_hugging_face(bpe, folder / "hf.json")
        out[pattern] = (bpe, reference(bpe), HuggingFace.from_file(str(folder / "hf.json")))
    return out


@fuzz(150)
def test_the_ids_are_tiktokens_and_hugging_faces(data, peers):
    bpe, openai, face = peers[data.draw(st.sampled_from(list(peers)))]
    text = data.draw(TEXTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=200), label="text")
    assert bpe.encode(text) == openai.encode(text, disallowed_special=())
    assert bpe.encode(text, "all") == openai.encode(text, allowed_special="all") == face.encode(text).ids


# ----------------------------------------------------------------------------------------------- files of
# tokenizers


@pytest.mark.parametrize("kind", TOKENIZERS)
@fuzz(60, times=5)
def test_a_damaged_vocabulary(data, trained, folder, kind):
    path = folder / "t.json"
    trained[kind].save(path)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(changed_bytes(data, whole))
    else:
        path.write_text(json.dumps(changed_tree(data, json.loads(whole))), encoding="utf-8")
    got = attempt(lambda: load(path), path)
    if got is not None:
        usable(got, path)


@fuzz(80)
def test_damaged_ranks(data, trained, folder):
    path = folder / "ranks.tiktoken"
    formats.write_tiktoken(trained["bpe"], path)
    path.write_bytes(changed_bytes(data, path.read_bytes()))
    got = attempt(lambda: formats.read_tiktoken(path), path)
    if got is not None:
        usable(got, path)


@fuzz(100)
def test_damaged_files_of_gpt2(data, trained, folder):
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    formats.write_gpt2(trained["bpe"], vocab, merges)
    how = data.draw(st.sampled_from(["tree", "bytes", "merges"]))
    if how == "tree":
        vocab.write_text(json.dumps(changed_tree(data, json.loads(vocab.read_text()))))
    else:
        file = vocab if how == "bytes" else merges
        file.write_bytes(changed_bytes(data, file.read_bytes()))
    got = attempt(lambda: formats.read_gpt2(vocab, merges, special=tuple(SPECIAL)), vocab, merges)
    if got is not None:
        usable(got, vocab)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@fuzz(100, times=2)
def test_a_damaged_tokenizer_json(data, trained, folder, kind):
    path, beside = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if kind == "bpe":
        formats.write_hugging_face(trained["bpe"], path)
    else:
        t = trained["wordpiece"]
        state = {
            "added_tokens": [{"id": i, "content": s} for s, i in t.special_tokens.items()],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": t.vocabulary | t.special_tokens},
        }
        path.write_text(json.dumps(state))
    beside.write_text(json.dumps({"unk_token": {"content": SPECIAL[0]}}))
    how = data.draw(st.sampled_from(["tree", "tree", "tree", "bytes", "beside"]))
    if how == "bytes":
        path.write_bytes(changed_bytes(data, path.read_bytes()))
    else:
        file = path if how == "tree" else beside
        file.write_text(json.dumps(changed_tree(data, json.loads(file.read_text()))))
    got = attempt(lambda: formats.read_hugging_face(path), path, beside)
    if got is not None:
        usable(got, path)


# --------------------------------------------------------------------------------------------------
# weights

SIZES = {"vocab_size": 23, "d_model": 8, "n_heads": 2, "d_ff": 12, "n_layers": 1}
MODELS = {
    "gpt2": ("gpt2", replace(BASE, tied=True, **SIZES, n_kv_heads=0, d_head=0)),
    "llama": ("llama", replace(LLAMA, **SIZES, n_kv_heads=0, d_head=0)),
    "bert": ("bert", replace(BERT, **SIZES, n_kv_heads=0, d_head=0)),
    "marian": ("marian", replace(MARIAN, **SIZES, n_kv_heads=0, d_head=0)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: pretrained.save(root / name, model_of(config), kind) for name, (kind, config) in MODELS.items()
    }


def forged(whole: bytes, data) -> bytes:
    """The table at the head of a safetensors file changed, its length made to fit."""
    length = struct.unpack("<Q", whole[:8])[0]
    head = json.dumps(changed_tree(data, json.loads(whole[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(head)) + head + whole[8 + length :]


@pytest.mark.parametrize("name", MODELS)
@fuzz(80, times=4)
def test_a_damaged_folder_of_weights(data, folders, name):
    folder = folders[name]
    how = data.draw(st.sampled_from(["config", "config", "bytes", "head", "index"]))
    config, weights = folder / "config.json", folder / "model.safetensors"
    was = {p: p.read_bytes() for p in (config, weights)}
    extra = [folder / "model.safetensors.index.json", folder / "shard.safetensors"]
    try:
        if how == "config":
            config.write_text(json.dumps(changed_tree(data, json.loads(was[config]))))
        elif how == "bytes":
            file = data.draw(st.sampled_from([config, weights]))
            file.write_bytes(changed_bytes(data, was[file], 200))
        elif how == "head":
            weights.write_bytes(forged(was[weights], data))
        else:
            names = json.loads(was[weights][8 : 8 + struct.unpack("<Q", was[weights][:8])[0]])
            weights.rename(extra[1])
            index = {"metadata": {}, "weight_map": {n: extra[1].name for n in names if n != "__metadata__"}}
            extra[0].write_text(json.dumps(changed_tree(data, index)))
        got = attempt(lambda: pretrained.load(folder), folder)
        assert got is None or all(p.device.type == "cpu" for p in got[0].state_dict().values())
    finally:
        for path in extra:
            path.unlink(missing_ok=True)
        for path, content in was.items():
            path.write_bytes(content)


def gguf_file_of(path: Path) -> None:
    """A small one, with its tokenizer."""
    config = ModelConfig(
        vocab_size=300, context_length=16, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32,
        norm="rms", feed_forward="swiglu", position="rotary", bias=False, tied=True, init_std=0.3,
    )  # fmt: skip
    write_gguf(path, model_of(config), "Q8_0", small_bpe(formats.PUBLISHED["smollm"]))


@pytest.fixture(scope="module")
def gguf_bytes(folder) -> bytes:
    gguf_file_of(folder / "whole.gguf")
    return (folder / "whole.gguf").read_bytes()


@fuzz(200)
def test_a_damaged_gguf_file(data, folder, gguf_bytes):
    path = folder / "m.gguf"
    path.write_bytes(changed_bytes(data, gguf_bytes, data.draw(st.sampled_from([24, 400, 2000, 12000]))))
    attempt(lambda: pretrained.load(path), path)


# --------------------------------------------------------------------------------------------------
# checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    config = TrainConfig(steps=2, lr=0.01, checkpoint_every=1)
    windows = Windows(np.arange(200) % 23, 8, 5, 23)
    torch.manual_seed(0)
    list(
        Trainer(model_of(replace(BASE, **SIZES, n_kv_heads=0, d_head=0)), windows, config, folder=root).run()
    )
    return root / "step-00000001"


def resumed(path: Path) -> Trainer:
    model = model_of(replace(BASE, **SIZES, n_kv_heads=0, d_head=0))
    windows = Windows(np.arange(200) % 23, 8, 5, 23)
    return Trainer(
        model, windows, TrainConfig(steps=2, lr=0.01, checkpoint_every=1), folder=path.parent
    ).resume(path)


@fuzz(200)
def test_a_damaged_checkpoint_is_the_same_or_refused(data, saved):
    file = data.draw(st.sampled_from(sorted(saved.iterdir())), label="file")
    was = file.read_bytes()
    try:
        file.write_bytes(changed_bytes(data, was, 300))
        got = attempt(lambda: checkpoint.load_model(saved), saved)
        if got is not None:
            file.write_bytes(was)
            for a, b in zip(got.parameters(), checkpoint.load_model(saved).parameters(), strict=True):
                assert torch.equal(a, b)
    finally:
        file.write_bytes(was)


@pytest.mark.slow
@fuzz(200)
def test_a_checkpoint_with_hashes_made_to_fit(data, saved):
    """A manifest that agrees with content that is wrong, by malice or another program."""
    was = {p: p.read_bytes() for p in saved.iterdir()}
    state, manifest = saved / "state.json", saved / "manifest.json"
    try:
        how = data.draw(st.sampled_from(["state", "state", "weights", "tensors", "manifest"]))
        if how == "state":
            state.write_text(json.dumps(changed_tree(data, json.loads(was[state]))))
        elif how in ("weights", "tensors"):
            file = saved / ("model.safetensors" if how == "weights" else "state.safetensors")
            file.write_bytes(
                forged(was[file], data) if data.draw(st.booleans()) else changed_bytes(data, was[file], 300)
            )
        now = {p.name: p.read_bytes() for p in was if p != manifest}
        listed = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in now.items()
        }
        manifest.write_text(json.dumps(changed_tree(data, listed) if how == "manifest" else listed))
        attempt(lambda: checkpoint.load_model(saved), saved)
        attempt(lambda: resumed(saved), saved)
    finally:
        for path, content in was.items():
            path.write_bytes(content)


# --------------------------------------------------------------------------------------------------
# data


@fuzz(120)
def test_a_damaged_token_file(data, folder):
    path = folder / "t.bin"
    ids = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=50))
    write_tokens(path, ids, data.draw(st.sampled_from([100, 70_000])))
    header = folder / "t.bin.json"
    if data.draw(st.booleans()):
        header.write_text(json.dumps(changed_tree(data, json.loads(header.read_text()))))
    else:
        file = data.draw(st.sampled_from([path, header]))
        file.write_bytes(changed_bytes(data, file.read_bytes()))
    back = attempt(lambda: read_tokens(path), path, header)
    if back is None:
        return
    got, vocab_size = back
    assert len(got) == json.loads(header.read_text())["count"]
    if len(got) > 1 and int(got.max()) >= vocab_size:
        with pytest.raises(ValueError, match="is outside 0"):
            Windows(got, 1, 1, vocab_size)


@fuzz(120)
def test_any_lengths_of_windows(data):
    """Windows that are refused say so; others read each target once an epoch, in ranks as in one process."""
    n, T = data.draw(st.integers(0, 200)), data.draw(st.integers(-1, 30))
    B, world = data.draw(st.integers(-1, 12)), data.draw(st.integers(0, 4))
    seed = data.draw(st.integers(0, 2**32))
    tokens = np.arange(n)
    try:
        ranks = [Windows(tokens, T, B, max(n, 1), seed, True, r, world) for r in range(max(world, 1))]
    except ValueError:
        assert n <= T or B < 1 or T < 1 or world < 1 or B % world or (n - 1) // T < B
        return
    seen = []
    for _ in range(ranks[0].batches_per_epoch):
        seen += [t for r in ranks for t in r.next().targets.flatten().tolist()]
    assert len(set(seen)) == len(seen) == ranks[0].batches_per_epoch * B * T
    assert all(r.epoch == 1 and r.batch == 0 for r in ranks)
    state = changed_tree(data, ranks[0].state())
    attempt(lambda: ranks[0].load(state), "saved position", "no position")
    assert ranks[0].next().ids.shape == (B // world, T)


@fuzz(80)
def test_any_pieces_of_a_file(data, folder):
    """Joined pieces are the text and have the vocabulary of the whole; bytes that are not UTF-8 are named."""
    path = folder / "text.txt"
    text = data.draw(TEXTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    size = data.draw(st.integers(1, 50))
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path, size))
    assert "".join(pieces) == text
    assert all(pieces)
    content = changed_bytes(data, text.encode())
    path.write_bytes(content)
    try:
        expected = content.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match=r"text.txt.* not UTF-8"):
            list(read_pieces(path, size))
    else:
        assert "".join(read_pieces(path, size)) == expected


@fuzz(100)
def test_any_lengths_of_batches_and_masks(data):
    """collate and left_pad put each id in its place; a mask's tile is a part of its square."""
    rows = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5))
    try:
        ids, targets, lengths = collate(rows)
    except ValueError:
        assert not rows or min(map(len, rows)) < 2
    else:
        for row, i, t, n in zip(rows, ids.tolist(), targets.tolist(), lengths.tolist(), strict=True):
            assert (i[:n], t[:n]) == (row[:-1], row[1:])
            assert set(t[n:]) <= {-100}
    try:
        ids, padding = left_pad(rows)
    except ValueError:
        assert not rows or min(map(len, rows)) == 0
    else:
        real = torch.ones(ids.shape, dtype=torch.bool) if padding.empty else padding.real(ids.shape[1])
        assert [i[r].tolist() for i, r in zip(ids, real, strict=True)] == rows
    T, past = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 4))
    S, B, causal = T + past, data.draw(st.integers(1, 3)), data.draw(st.booleans())
    start = data.draw(st.none() | st.lists(st.integers(0, S), min_size=B, max_size=B))
    stop = data.draw(st.none() | st.lists(st.integers(0, S), min_size=B, max_size=B))
    tensor = lambda v: None if v is None else torch.tensor(v)
    mask = Mask(causal, Padding(tensor(start), tensor(stop)))
    is_real = lambda b, s: (start is None or s >= start[b]) and (stop is None or s < stop[b])
    is_read = lambda b, t, s: (not causal or s <= past + t) and is_real(b, s)
    rule = torch.tensor([[[is_read(b, t, s) for s in range(S)] for t in range(T)] for b in range(B)])
    full = lambda m, t, s: torch.ones(B, t, s, dtype=torch.bool) if m is None else m[:, 0].expand(B, t, s)
    assert torch.equal(full(mask.square(T, S), T, S), rule)
    q0, q1 = sorted(data.draw(st.lists(st.integers(0, T), min_size=2, max_size=2, unique=True)))
    k0, k1 = sorted(data.draw(st.lists(st.integers(0, S), min_size=2, max_size=2, unique=True)))
    tile = mask.tile(range(past + q0, past + q1), range(k0, k1))
    assert torch.equal(full(tile, q1 - q0, k1 - k0), rule[:, q0:q1, k0:k1])


@fuzz(120)
def test_any_options_of_sampling(data):
    """A rule is refused by its name or leaves a distribution.

    The sum is 1, the most probable token stays, and forbidden tokens have probability 0.
    """
    V, B = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    numbers = st.floats(-50, 50, width=32)
    logits = torch.tensor(
        data.draw(st.lists(st.lists(numbers, min_size=V, max_size=V), min_size=B, max_size=B))
    )
    ids = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(-1, V - 1), min_size=3, max_size=3), min_size=B, max_size=B))
    )
    values = st.floats(allow_nan=True) | st.floats(0.01, 4) | st.integers(-3, 20)
    for name in data.draw(st.lists(st.sampled_from(list(RULES)), max_size=4)):
        value = data.draw(values, label=name)
        value = int(value) if name == "top_k" and value == value and abs(value) < 1e9 else value
        rule = attempt(lambda name=name, value=value: RULES[name](value), f"{name}={value}")
        if rule is None:
            continue
        if name in ("temperature", "repetition_penalty") and not 1e-2 <= value <= 1e2:
            continue  # such values take logits out of the range of 32 bits
        before = logits
        logits = rule(logits, ids)
        assert logits.shape == before.shape
        assert torch.isneginf(logits[torch.isneginf(before)]).all()
        probabilities = softmax(logits)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(B))
        if name != "repetition_penalty":
            assert torch.equal(
                before.gather(1, logits.argmax(-1, keepdim=True)), before.amax(-1, keepdim=True)
            )


# ------------------------------------------------------------------------------------------ what was found,
# and mended


def test_found_a_top_p_too_small_for_32_bits_keeps_the_most_probable_token():
    """2e-309 is 0 beside a probability of 32 bits: no token was kept, and the probabilities were NaN."""
    shaped = RULES["top_p"](2e-309)(torch.tensor([[1.0, 3.0]]), torch.tensor([[0]]))
    assert softmax(shaped).tolist() == [[0.0, 1.0]]


def test_found_a_top_k_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="top_k=nan: must keep at least 1 token"):
        RULES["top_k"](float("nan"))


def test_found_windows_of_no_length_are_refused():
    with pytest.raises(ValueError, match="context_length=0: a window has at least 1 id"):
        Windows(np.arange(9), 0, 1, 9)


def test_found_a_position_of_another_shape_is_refused():
    data = Windows(np.arange(9), 2, 2, 9)
    wrong = {"batch": (7, "batch=7 is no position among 2"), "epoch": ("x", "epoch='x'")}
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            data.load(data.state() | {name: value})
    with pytest.raises(ValueError, match="the saved position lacks or garbles 'seed': take it from state"):
        data.load({"epoch": 0, "batch": 0})


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("bpe", ("pattern",), "("), ("bpe", ("pattern",), "\ud800"), ("bpe", ("pattern",), None),
        ("bpe", ("whole",), "\ud800"), ("bpe", ("ids", 3), 0.5), ("bpe", ("ids", 3), 2**64),
        ("bpe", ("unknown",), []), ("bpe", ("special_tokens",), {"a": "b"}),
        ("char", ("vocabulary",), {"a": 2**60}), ("char", ("vocabulary",), {"\ud800": 1}),
        ("char", ("vocabulary",), {"a": True}), ("wordpiece", ("lower",), "\ud800"),
        ("wordpiece", ("unknown",), {}), ("word", ("special_tokens",), [[1, 2]]),
    ],
)  # fmt: skip
def test_found_a_vocabulary_of_other_types_is_refused_by_name(trained, tmp_path, kind, path, value):
    """Each of these once raised another error.

    An invalid regular expression, an id that is no integer or too large, text that UTF-8 cannot hold.
    """
    trained[kind].save(tmp_path / "t.json")
    state = json.loads((tmp_path / "t.json").read_text())
    inside = state
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    (tmp_path / "t.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"t.json.* get or write it again"):
        load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", []),
        ("n_layer", 2**60),
        ("n_embd", 2**60),
        ("n_head", "x"),
        ("n_embd", None),
        ("n_head", 0),
    ],
)
def test_found_settings_that_no_model_can_have_are_refused_by_name(folders, tmp_path, key, value):
    """2^60 blocks were built one by one; other types ended in other errors."""
    shutil.copytree(folders["gpt2"], tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with tools.within(5), pytest.raises(ValueError, match=r"config.json"):
        pretrained.load(tmp_path / "m")


def test_found_an_index_of_shards_names_files_of_its_folder_only(folders, tmp_path):
    folder = Path(shutil.copytree(folders["gpt2"], tmp_path / "m"))
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    for listed in ({"a": "../outside.safetensors"}, {"a": 3}, [], None):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(
            ValueError,
            match="does not list files of this folder that end in .safetensors: get the folder again",
        ):
            pretrained.load(folder)


def test_found_a_manifest_that_lists_nothing_is_refused(saved, tmp_path):
    """An empty manifest agreed with any content."""
    path = Path(shutil.copytree(saved, tmp_path / saved.name))
    for content, message in (
        ("{}", "does not list"),
        ("[]", "cannot be read"),
        ('{"state.json": 3}', "cannot be read"),
    ):
        (path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=f"manifest.json {message}"):
            checkpoint.load_model(path)


# ------------------------------------------------------------------------------------------------------- the
# bounds hold


def test_the_shares_are_all_of_it():
    assert tools.ASKED[__name__] == tools.TOTALS[__name__]


def test_a_forged_length_of_2_to_the_60_takes_no_memory(folder, gguf_bytes, saved, trained):
    """Each number of 8 bytes in a file's head, set to 2^60, is refused within a limit of memory."""
    path = folder / "forged.gguf"
    for at in range(8, 24, 8):
        path.write_bytes(gguf_bytes[:at] + struct.pack("<Q", 1 << 60) + gguf_bytes[at + 8 :])
        with pytest.raises(ValueError, match="forged.gguf"):
            pretrained.load(path)
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    head = {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}}
    for content in (
        struct.pack("<Q", 1 << 60) + whole[8:],
        struct.pack("<Q", len(json.dumps(head))) + json.dumps(head).encode(),
    ):
        target = folder / "forged"
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        (target / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"forged.model.safetensors"):
            pretrained.load(target)
    write_tokens(folder / "f.bin", [1, 2], 9)
    (folder / "f.bin.json").write_text(json.dumps({"count": 1 << 60, "dtype": "uint16", "vocab_size": 9}))
    with pytest.raises(ValueError, match="cut short"):
        read_tokens(folder / "f.bin")


def test_an_example_that_hangs_or_grows_fails():
    """The limits of time and memory work."""
    with pytest.raises(AssertionError, match="within 0.1 s"), tools.within(0.1):
        time.sleep(9)
    if sys.platform.startswith("linux"):
        with bounded(1 << 28), pytest.raises(MemoryError):
            bytearray(1 << 29)
