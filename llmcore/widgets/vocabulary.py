"""VocabularyExplorer: what a vocabulary holds, how often, and how much of new text it covers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from llmcore.tokenizer import Tokenizer
from llmcore.widgets.arrays import number, rows_table, seen
from llmcore.widgets.base import Widget
from llmcore.widgets.checks import brief, label, named
from llmcore.widgets.checks import text as check_text

CURVE_POINTS = 60  # of each curve
MOST_LISTED = 2000  # tokens of each table
MOST_TEXT = 10**8  # characters of a text that is counted


class VocabularyExplorer(Widget):
    """Count against rank on logarithmic axes, coverage of held-out text, and a table of tokens to search.

    tokenizers: name -> tokenizer, each with its whole vocabulary. Ranks are counted in `text`; the coverage
    of n entries is the share of the tokens of `held_out` that are among the n most frequent tokens of `text`.
    `found` is the number of tokens that the search finds. Raises ValueError for an empty text.
    """

    kind = traitlets.Unicode("vocabulary").tag(sync=True)
    found = traitlets.Int(0).tag(sync=True)
    shared = ("selection", "found")

    def __init__(self, tokenizers: Mapping[str, Tokenizer], text: str, held_out: str, caption: str = ""):
        text = check_text(text, "text", MOST_TEXT)
        held_out = check_text(held_out, "held_out", MOST_TEXT)
        if not text or not held_out:
            raise ValueError(
                "text and held_out must both hold something: "
                "ranks are counted in the first, coverage in the second"
            )
        tokenizers = named(tokenizers, "tokenizers", 8)
        methods = [_method(name, t, text, held_out) for name, t in tokenizers.items()]
        long = any(m["entries"] > MOST_LISTED for m in methods)
        note = f"Of each vocabulary the {MOST_LISTED} most frequent tokens are listed." if long else ""
        cells = [
            [f"{m['entries']:,}", f"{m['total']:,}", " ".join(token for token, *_ in m["tokens"][:8])]
            for m in methods
        ]
        columns = ["different tokens", "tokens in the text", "most frequent"]
        still = rows_table(cells, list(tokenizers), columns)
        super().__init__({"methods": methods, "note": note}, still, ", ".join(tokenizers), caption)


def rank_counts(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """(id, count) of every id in the text, the most frequent first, ties by id."""
    return sorted(Counter(tokenizer.encode(text)).items(), key=lambda item: (-item[1], item[0]))


def coverage(ranked: list[tuple[int, int]], held_out: list[int]) -> np.ndarray:
    """Entry n - 1: the share of the held-out ids that are among the first n of `ranked`."""
    counts = Counter(held_out)
    return np.cumsum([counts[i] for i, _ in ranked]) / len(held_out)


def _method(name: str, t: Tokenizer, text: str, held_out: str) -> dict[str, Any]:
    """The counts, the curves and the listed tokens of one tokenizer, as vocabulary.js reads them."""
    if not isinstance(t, Tokenizer):
        raise ValueError(
            f"tokenizers[{name!r}]={brief(t)}: give a tokenizer, such as CharTokenizer.train([text])"
        )
    unknown = getattr(t, "unknown", None)
    lost = t.special_tokens[unknown] if unknown else None
    ranked = [(i, n) for i, n in rank_counts(t, text) if i != lost]
    if not ranked:
        raise ValueError(f"tokenizers[{name!r}] knows nothing of the text: train it on a text of this kind")
    shares = coverage(ranked, t.encode(held_out))
    ranks = sorted({min(len(ranked), round(x)) for x in np.geomspace(1, len(ranked), CURVE_POINTS)})
    return {
        "name": name, "total": sum(n for _, n in ranked), "entries": len(ranked),
        "tokens": [[_shown(t, i), i, n] for i, n in ranked[:MOST_LISTED]],
        "zipf": [[r, ranked[r - 1][1]] for r in ranks],
        "coverage": [[r, number(100 * shares[r - 1])] for r in ranks],
    }  # fmt: skip


def _shown(t: Tokenizer, id_: int) -> str:
    """A token as text with visible outer white space; bytes that are not whole characters in hexadecimal."""
    token = t.token_bytes(id_)
    try:
        return seen(label(token.decode(), "token"))
    except UnicodeDecodeError:
        return "".join(chr(b) if b < 128 else f"⟨{b:02x}⟩" for b in token)
