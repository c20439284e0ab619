"""Texts to train on: fables in two languages, stories of known entropy, any file or address."""

from llmcore.corpus.stories import BEATS, Story, derivations, entropy, log_probability, stories
from llmcore.corpus.texts import DATASETS, END, Dataset, Fable, fables, open_text, read_text, shakespeare
from llmcore.download import cache_dir, download

__all__ = [
    "BEATS", "DATASETS", "END", "Dataset", "Fable", "Story", "cache_dir", "derivations", "download",
    "entropy", "fables", "log_probability", "open_text", "read_text", "shakespeare", "stories",
]  # fmt: skip
