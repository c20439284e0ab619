"""TokenizerExplorer: type any text and see how tokenizers cut it, with or without a kernel."""

from collections.abc import Mapping
from typing import Any

import traitlets

from llmcore.tokenizer import BPETokenizer, CharTokenizer, DictionaryTokenizer, Tokenizer, WordTokenizer
from llmcore.tokenizer.formats import listed_merges
from llmcore.widgets.arrays import rows_table
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, label, named
from llmcore.widgets.checks import text as check_text

PATTERNS = ("gpt2", "gpt4", "gpt4-han")  # those that encode.js has in JavaScript's own syntax
MOST_ENTRIES = 6000  # of one vocabulary: about 60 KB
MOST_TEXT = 4000  # UTF-16 code units of a text, where the page cuts it (js/tokenizer.js)


class TokenizerExplorer(Widget):
    """Several tokenizers side by side on one text: tokens, ids, bytes, merges, and characters per token.

    tokenizers: name -> tokenizer. samples: name -> text, offered in a list. The encoders run in the page
    (js/encode.js) and return the same ids as in Python. `text` is the text in the box, `ids` are the first
    tokenizer's ids for it. Raises ValueError for a vocabulary of more than 6,000 entries or a split pattern
    that the page does not know.
    """

    kind = traitlets.Unicode("tokenizer").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    ids: Any = traitlets.List().tag(sync=True)
    shared = ("selection", "text", "ids")

    def __init__(
        self,
        tokenizers: Mapping[str, Tokenizer],
        text: str,
        samples: Mapping[str, str] | None = None,
        caption: str = "",
    ):
        tokenizers = named(tokenizers, "tokenizers", 8)
        text = _sample(text, "text")
        none = samples is None or (isinstance(samples, Mapping) and not samples)
        offered = {} if none else named(samples, "samples", 50)
        offered = {name: _sample(sample, f"samples[{name!r}]") for name, sample in offered.items()}
        first = next(iter(tokenizers.values()))
        shipped = [ship_tokenizer(t, name) for name, t in tokenizers.items()]
        rows, lengths = [], []
        for t in tokenizers.values():
            tokens = t.encode(text, "all")
            lengths.append(len(tokens))
            shown = [f"{label(t.token(i), 'token')} {i}" for i in tokens[:12]]
            rows.append(shown + ["…"] * (len(tokens) > 12))
        width = max(map(len, rows))
        cells = [[str(n), *row, *[""] * (width - len(row))] for n, row in zip(lengths, rows)]
        still = rows_table(cells, list(tokenizers), ["tokens", *[str(i) for i in range(width)]], text)
        state = {"tokenizers": shipped, "samples": [[name, sample] for name, sample in offered.items()]}
        ids = first.encode(text, "all")
        super().__init__(state, still, ", ".join(tokenizers), caption, text=text, ids=ids)


def _sample(given: Any, name: str) -> str:
    """A text short enough that the page tokenises all of it."""
    given = check_text(given, name, MOST_TEXT)
    if len(given.encode("utf-16-le")) // 2 > MOST_TEXT:
        raise ValueError(
            f"{name}={brief(given)} has more than {MOST_TEXT} characters as UTF-16 counts them: shorten it"
        )
    return given


def ship_tokenizer(t: Tokenizer, name: str) -> dict[str, Any]:
    """A tokenizer as encode.js reads it."""
    if not isinstance(t, Tokenizer):
        raise ValueError(
            f"tokenizers[{name!r}]={brief(t)}: give a tokenizer, such as CharTokenizer.train([text])"
        )
    if len(t.ids()) > MOST_ENTRIES:
        raise ValueError(
            f"{name} has {len(t.ids())} entries, more than {MOST_ENTRIES}: train a smaller one for a page"
        )
    if isinstance(t, BPETokenizer):
        return _ship_bpe(t, name)
    if not isinstance(t, DictionaryTokenizer):
        raise ValueError(
            f"{name} is a {type(t).__name__}: "
            "the page knows dictionary, character, word and byte-pair tokenizers"
        )
    kinds = (CharTokenizer, "char"), (WordTokenizer, "word"), (DictionaryTokenizer, "dictionary")
    kind = next(kind for made_by, kind in kinds if isinstance(t, made_by))
    unknown = None if t.unknown is None else t.special_tokens[t.unknown]
    return {
        "name": name, "kind": kind, "entries": list(t.vocabulary.items()), "unknown": unknown,
        "special": t.special_tokens,
    }  # fmt: skip


def _ship_bpe(t: BPETokenizer, name: str) -> dict[str, Any]:
    """A byte-pair tokenizer as encode.js reads it.

    A place is an index into [the 256 bytes by rank, then the merged tokens in order]. merges are pairs of
    places; bytes and ids are None where they are simply 0, 1, 2, ...
    """
    if t.pattern not in PATTERNS:
        raise ValueError(f"{name} splits by {t.pattern!r}: the page knows {PATTERNS}; train with one of them")
    ordered = [bytes([b]) for b in sorted(range(256), key=lambda b: t.ranks[bytes([b])])]
    pairs = listed_merges(t)
    place = {token: i for i, token in enumerate([*ordered, *(a + b for a, b in pairs)])}
    ids = [t.ranks[token] for token in place]
    plain = ordered == [bytes([b]) for b in range(256)]
    return {
        "name": name, "kind": "bpe", "pattern": t.pattern,
        "merges": [[place[a], place[b]] for a, b in pairs],
        "bytes": None if plain else [token[0] for token in ordered],
        "ids": None if ids == list(range(len(ids))) else ids,
        "by_rank": t.merges is None, "special": t.special_tokens,
    }  # fmt: skip
