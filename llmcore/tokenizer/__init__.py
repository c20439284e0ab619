"""Text to ids and back: by character, word, byte-pair encoding or WordPiece. Needs no torch."""

import json
from pathlib import Path

from llmcore.files import reading
from llmcore.tokenizer.base import FORMAT, Tokenizer, check_entries, check_text
from llmcore.tokenizer.bpe import BPETokenizer
from llmcore.tokenizer.bpe_train import Merge, count_chunks, learn
from llmcore.tokenizer.cutting import SPLIT_PATTERNS
from llmcore.tokenizer.dictionary import NOTES, UNKNOWN, CharTokenizer, DictionaryTokenizer, WordTokenizer
from llmcore.tokenizer.wordpiece import WordPieceTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "dictionary": DictionaryTokenizer,
    "char": CharTokenizer,
    "word": WordTokenizer,
    "bpe": BPETokenizer,
    "wordpiece": WordPieceTokenizer,
}


def load(path: str | Path) -> Tokenizer:
    """Read a file that Tokenizer.save wrote, for any kind of tokenizer. ValueError if it is damaged."""
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no whole JSON file ({error}): it is cut short or of another kind"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("kind") not in [*TOKENIZERS]:
        raise ValueError(
            f"{path} was not written by Tokenizer.save: other formats are read by llmcore.tokenizer.formats"
        )
    with reading(path):
        tokenizer = TOKENIZERS[state["kind"]]._from_state(state, state["special_tokens"])
        if isinstance(tokenizer, BPETokenizer):
            check_entries(tokenizer.ranks)
            check_text(tokenizer.pattern)
            if type(tokenizer.whole) is not bool:
                raise ValueError(f"whole={tokenizer.whole!r} is neither true nor false")
        return tokenizer


__all__ = [
    "NOTES", "SPLIT_PATTERNS", "TOKENIZERS", "UNKNOWN", "BPETokenizer", "CharTokenizer",
    "DictionaryTokenizer", "Merge", "Tokenizer", "WordPieceTokenizer", "WordTokenizer",
    "count_chunks", "learn", "load",
]  # fmt: skip
