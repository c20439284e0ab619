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
MOST = 6000  # entries of one vocabulary: about 60 KB
TEXT = 4000  # characters of a text, as UTF-16 counts them, which the page cuts (js/tokenizer.js)


class TokenizerExplorer(Widget):
    """Several tokenizers side by side on one text: tokens with ids and bytes, merges one by one, characters
    and bytes a token.

    tokenizers: name -> tokenizer. samples: name -> text, offered in a list. The encoders run in the page
    (js/encode.js) and give the ids that Python gives. `text` is what stands in the box, `ids` what the first
    tokenizer makes of it. Raises ValueError for a vocabulary of more than 6,000 entries or a split pattern
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
        offered = (
            {}
            if samples is None or (isinstance(samples, Mapping) and not samples)
            else named(samples, "samples", 50)
        )
        offered = {name: _sample(sample, f"samples[{name!r}]") for name, sample in offered.items()}
        first = next(iter(tokenizers.values()))
        shipped = [ship_tokenizer(t, name) for name, t in tokenizers.items()]
        rows, lengths = [], []
        for t in tokenizers.values():
            tokens = t.encode(text, "all")
            lengths.append(len(tokens))
            rows.append(
                [f"{label(t.token(i), 'token')} {i}" for i in tokens[:12]]
                + (["…"] if len(tokens) > 12 else [])
            )
        width = max(map(len, rows))
        cells = [[str(n), *row, *[""] * (width - len(row))] for n, row in zip(lengths, rows)]
        still = rows_table(cells, list(tokenizers), ["tokens", *[str(i) for i in range(width)]], text)
        super().__init__(
            {"tokenizers": shipped, "samples": [[k, v] for k, v in offered.items()]}, still, ", ".join(tokenizers), caption,
            text=text, ids=first.encode(text, "all"),
        )  # fmt: skip


def _sample(given: Any, name: str) -> str:
    """A text that the page cuts whole."""
    given = check_text(given, name, TEXT)
    if len(given.encode("utf-16-le")) // 2 > TEXT:
        raise ValueError(
            f"{name}={brief(given)} has more than {TEXT} characters as UTF-16 counts them: shorten it"
        )
    return given


def ship_tokenizer(t: Tokenizer, name: str) -> dict[str, Any]:
    """A tokenizer as encode.js reads it."""
    if not isinstance(t, Tokenizer):
        raise ValueError(
            f"tokenizers[{name!r}]={brief(t)}: give a tokenizer, such as CharTokenizer.train([text])"
        )
    if len(t.ids()) > MOST:
        raise ValueError(
            f"{name} has {len(t.ids())} entries, more than {MOST}: train a smaller one for a page"
        )
    if isinstance(t, BPETokenizer):
        if t.pattern not in PATTERNS:
            raise ValueError(
                f"{name} splits by {t.pattern!r}: the page knows {PATTERNS}; train with one of them"
            )
        ordered = [bytes([b]) for b in sorted(range(256), key=lambda b: t.ranks[bytes([b])])]
        pairs = listed_merges(t)
        place = {token: i for i, token in enumerate([*ordered, *(a + b for a, b in pairs)])}
        ids = [t.ranks[token] for token in place]
        plain = ordered == [bytes([b]) for b in range(256)]
        return {
            "name": name, "kind": "bpe", "pattern": t.pattern, "merges": [[place[a], place[b]] for a, b in pairs],
            "bytes": None if plain else [token[0] for token in ordered], "ids": None if ids == list(range(len(ids))) else ids,
            "by_rank": t.merges is None, "special": t.special_tokens,
        }  # fmt: skip
    if not isinstance(t, DictionaryTokenizer):
        raise ValueError(
            f"{name} is a {type(t).__name__}: "
            "the page knows dictionary, character, word and byte-pair tokenizers"
        )
    kind = (
        "char" if isinstance(t, CharTokenizer) else "word" if isinstance(t, WordTokenizer) else "dictionary"
    )
    unknown = None if t.unknown is None else t.special_tokens[t.unknown]
    return {
        "name": name,
        "kind": kind,
        "entries": list(t.vocabulary.items()),
        "unknown": unknown,
        "special": t.special_tokens,
    }
