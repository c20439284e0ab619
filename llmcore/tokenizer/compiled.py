"""Compiled code behind BPETokenizer, for gigabytes of text: tiktoken encodes, rustbpe learns.

Optional: pip install "llmcore[fast]". Both give what the Python code gives, id for id and merge for merge,
or refuse. There is one exception: their regular expressions may disagree with Python's on whether a code
point that Unicode has not assigned is a letter, and so cut elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llmcore.tokenizer.base import check_text
from llmcore.tokenizer.bpe_train import cutter
from llmcore.tokenizer.cutting import COVERING


def _package(name: str, pattern: str) -> Any:
    if pattern not in COVERING:
        raise ValueError(
            f'backend={name!r} leaves out what a pattern does not match, which {pattern!r} may: use "python"'
        )
    try:
        return __import__(name)
    except ImportError as error:
        raise ValueError(
            f'backend={name!r} needs the package {name}: pip install "llmcore[fast]", or use "python"'
        ) from error


def tiktoken_encoder(ranks: dict[bytes, int], pattern: str) -> Callable[[str], list[int]]:
    """text -> ids by tiktoken, which merges by ranks, without a list of merges; pattern is written out."""
    return (
        _package("tiktoken", pattern)
        .Encoding("llmcore", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        .encode_ordinary
    )


def learn_rustbpe(
    texts: Iterable[str], pattern: str, special_tokens: Iterable[str], merges: int
) -> dict[bytes, int] | None:
    """bytes -> id of 256 bytes and `merges` merges, ties to the lower ids.

    None if two merges made the same bytes: rustbpe gives them two ids and goes on from there, where
    bpe_train.learn gives them one.
    """
    trainer, cut = _package("rustbpe", pattern).Tokenizer(), cutter(special_tokens)

    def parts() -> Iterator[str]:
        for text in texts:
            check_text(text)
            yield from cut.split(text) if cut else [text]

    trainer.train_from_iterator(parts(), vocab_size=256 + merges, pattern=pattern)
    learned = trainer.get_mergeable_ranks()
    ranks = dict(learned)
    return ranks if len(ranks) == len(learned) else None
