"""BPE training and encoding beside peers, interleaved: python benchmarks/bpe.py [--text FILE ...] [--vocab-size 8192]

Peers: Hugging Face tokenizers (Rust), tiktoken (Rust), and the textbook way that counts all pairs anew for every merge. The last is
measured over a few merges of the same text and multiplied by their number, because whole runs take hours.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from llmcore.tokenizer import SPLIT_PATTERNS, BPETokenizer, count_chunks, learn


def made_text(megabytes: float) -> str:
    """Words of random letters with Zipf frequencies: for a run without a file."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlcumwfgypbvk", k=draw.randint(2, 10))) for _ in range(60_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return " ".join(draw.choices(words, weights, k=int(megabytes * 150_000)))


def recounting(counts: dict[bytes, int], merges: int, sample: int) -> float:
    """Seconds that `merges` merges take when every one counts all pairs of all chunks anew, from `sample` of them."""
    words = {tuple(chunk): n for chunk, n in counts.items()}
    start = time.perf_counter()
    for new in range(256, 256 + sample):
        pairs: Counter = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += n
        best = max(pairs, key=pairs.__getitem__)
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if i + 1 < len(word) and (word[i], word[i + 1]) == best:
                    out.append(new)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        words = merged
    return (time.perf_counter() - start) / sample * merges


def timed(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", nargs="*", type=Path, default=[])
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    text = "\n".join(p.read_text(encoding="utf-8") for p in arguments.text) or made_text(5)
    size, pattern = arguments.vocab_size, SPLIT_PATTERNS["gpt2"]

    def ours() -> BPETokenizer:
        return BPETokenizer.train([text], size, pattern="gpt2")

    def rust() -> Tokenizer:
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([text], trainer)
        return tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    seconds: dict[str, list[float]] = {"ours": [], "rust": [], "recounting": []}
    counts = count_chunks([text], pattern)
    for _ in range(arguments.rounds):  # interleaved: a slow minute of the machine meets all of them
        seconds["ours"].append(timed(ours))
        seconds["rust"].append(timed(rust))
        seconds["recounting"].append(recounting(counts, size - 256, 3))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    tokenizer = ours()
    reference = tiktoken.Encoding("same", pat_str=pattern, mergeable_ranks=tokenizer.ranks, special_tokens={})
    assert tokenizer.encode(text) == reference.encode_ordinary(text)
    cold = BPETokenizer(tokenizer.ranks, "gpt2")
    encode = {"ours": timed(cold.encode, text), "tiktoken": timed(reference.encode_ordinary, text)}
    merge_only = timed(lambda: list(learn(counts, size - 256)))
    print(
        json.dumps(
            {
                "bytes": len(text.encode()), "vocab_size": size, "merge_seconds": round(merge_only, 2),
                "train_seconds": {k: round(v, 2) for k, v in median.items()},
                "recounting / ours": round(median["recounting"] / median["ours"], 1),
                "ours / rust, one process each": round(median["ours"] / median["rust"], 2),
                "encode_seconds": {k: round(v, 2) for k, v in encode.items()},
                "ours / tiktoken, encode": round(encode["ours"] / encode["tiktoken"], 2),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
