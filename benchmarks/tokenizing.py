"""Tokenizers: llmcore's readable Python and its compiled backends beside their peers.

The peers: Hugging Face, tiktoken, rustbpe, sentencepiece and minbpe.
"""

import io
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rustbpe
import tiktoken
import torch
from machine import interleaved
from peers import MinBPE
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, formats

PATTERN = SPLIT_PATTERNS["gpt2"]


def made_text(megabytes: float) -> str:
    """Words of random letters with Zipf frequencies: for a run without a file."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlcumwfgypbvk", k=draw.randint(2, 10))) for _ in range(60_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return " ".join(draw.choices(words, weights, k=int(megabytes * 150_000)))


def hugging_face(text: str, vocab_size: int) -> Tokenizer:
    """Its byte-level BPE with its own compiled form of GPT-2's pattern, given lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(True), trainer)
    return tokenizer


def learning(text: str, vocab_size: int, rounds: int) -> dict[str, Any]:
    """Seconds to learn vocab_size entries.

    minbpe's are those of 10 merges of the first 200 kB, multiplied: a whole run takes hours.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "true"

    def rust() -> dict[bytes, int]:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator([text], vocab_size=vocab_size, pattern=PATTERN)
        return dict(trainer.get_mergeable_ranks())

    ours = lambda **options: BPETokenizer.train([text], vocab_size, pattern="gpt2", **options)
    work: dict[str, Callable[[], object]] = {
        "llmcore": ours,
        "llmcore, backend rustbpe": lambda: ours(ties="ids", backend="rustbpe"),
        "rustbpe": rust,
        "Hugging Face": lambda: hugging_face(text, vocab_size),
    }
    try:
        import sentencepiece

        def sentence_piece() -> None:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(text.splitlines()),
                model_writer=io.BytesIO(),
                vocab_size=vocab_size,
                model_type="bpe",
                minloglevel=2,
            )

        work["sentencepiece (characters, not bytes)"] = sentence_piece
    except ImportError:
        pass
    assert ours(ties="ids", backend="rustbpe").ranks == rust() == ours(ties="ids").ranks
    cpu = torch.device("cpu")
    taken = interleaved(work, rounds, cpu)
    part, merges = text[:200_000], 10
    sample = interleaved({"minbpe": lambda: MinBPE.train(part, merges, PATTERN)}, 1, cpu)["minbpe"][0]
    scale = len(text) / len(part) * (vocab_size - 256) / merges
    seconds = {n: statistics.median(s) for n, s in taken.items()}
    return {"seconds": seconds | {"minbpe (10 merges, multiplied)": sample * scale}}


def encoding(text: str, ranks: Path | None, vocab_size: int, rounds: int) -> dict[str, Any]:
    """MB/s of encoding. llmcore forgets its memory of chunks first; all must give the same ids."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if ranks:
        bpe = formats.read_tiktoken(ranks, "gpt2")
    else:
        bpe = BPETokenizer.train([text], vocab_size, pattern="gpt2")
    fast = bpe.using("tiktoken")
    peer = tiktoken.Encoding("same", pat_str=PATTERN, mergeable_ranks=bpe.ranks, special_tokens={})
    with tempfile.TemporaryDirectory() as folder:
        formats.write_hugging_face(bpe, Path(folder) / "tokenizer.json")
        written = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
    theirs = Tokenizer.from_str(written)
    merges = formats.listed_merges(bpe)
    small = MinBPE({(bpe.ranks[a], bpe.ranks[b]): bpe.ranks[a + b] for a, b in merges}, PATTERN)
    part = text[:200_000]
    ids = bpe.encode(text)
    assert ids == fast.encode(text) == peer.encode_ordinary(text) == theirs.encode(text).ids
    assert small.encode(part) == bpe.encode(part)

    def cold() -> None:
        bpe._cache.clear()
        bpe.encode(text)

    work: dict[str, Callable[[], object]] = {
        "llmcore": cold,
        "llmcore, backend tiktoken": lambda: fast.encode(text),
        "tiktoken": lambda: peer.encode_ordinary(text),
        "Hugging Face": lambda: theirs.encode(text),
    }
    cpu = torch.device("cpu")
    size = len(text.encode()) / 1e6
    taken = {n: statistics.median(s) for n, s in interleaved(work, rounds, cpu).items()}
    naive = interleaved({"minbpe": lambda: small.encode(part)}, 1, cpu)["minbpe"][0]
    return {
        "vocab_size": len(bpe),
        "mb/s": {n: size / s for n, s in taken.items()} | {"minbpe": len(part.encode()) / 1e6 / naive},
    }
