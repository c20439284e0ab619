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

POINTS = 60  # of each curve
MOST = 2000  # tokens of each table
TEXT = 10**8  # characters that are counted


class VocabularyExplorer(Widget):
    """Rank and count on logarithmic axes, coverage of held-out text against the number of entries, a table to
    search.

    tokenizers: name -> tokenizer, each with its whole vocabulary; text is counted for ranks, held_out for
    coverage. Coverage of n entries: the share of the held-out text's tokens that are among the n most
    frequent tokens of `text`. `found` is how many tokens the search has found. Raises ValueError for an empty
    text.
    """

    kind = traitlets.Unicode("vocabulary").tag(sync=True)
    found = traitlets.Int(0).tag(sync=True)
    shared = ("selection", "found")

    def __init__(self, tokenizers: Mapping[str, Tokenizer], text: str, held_out: str, caption: str = ""):
        text, held_out = check_text(text, "text", TEXT), check_text(held_out, "held_out", TEXT)
        if not text or not held_out:
            raise ValueError(
                "text and held_out must both hold something: "
                "ranks are counted in the first, coverage in the second"
            )
        tokenizers = named(tokenizers, "tokenizers", 8)
        methods = [_method(name, t, text, held_out) for name, t in tokenizers.items()]
        note = (
            f"Of each vocabulary the {MOST} most frequent tokens are listed."
            if any(m["entries"] > MOST for m in methods)
            else ""
        )
        cells = [
            [f"{m['entries']:,}", f"{m['total']:,}", " ".join(t[0] for t in m["tokens"][:8])] for m in methods
        ]
        still = rows_table(
            cells, list(tokenizers), ["different tokens", "tokens in the text", "most frequent"]
        )
        super().__init__({"methods": methods, "note": note}, still, ", ".join(tokenizers), caption)


def rank_counts(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """(id, count), the most frequent first, ties by id."""
    return sorted(Counter(tokenizer.encode(text)).items(), key=lambda item: (-item[1], item[0]))


def coverage(ranked: list[tuple[int, int]], held_out: list[int]) -> np.ndarray:
    """Entry n - 1: the share of held-out ids that are among the n first of `ranked`."""
    counts = Counter(held_out)
    return np.cumsum([counts[i] for i, _ in ranked]) / len(held_out)


def _method(name: str, t: Tokenizer, text: str, held_out: str) -> dict[str, Any]:
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
    ranks = sorted({min(len(ranked), round(x)) for x in np.geomspace(1, len(ranked), POINTS)})
    return {
        "name": name, "total": sum(n for _, n in ranked), "entries": len(ranked),
        "tokens": [[_shown(t, i), i, n] for i, n in ranked[:MOST]],
        "zipf": [[r, ranked[r - 1][1]] for r in ranks], "coverage": [[r, number(100 * shares[r - 1])] for r in ranks],
    }  # fmt: skip


def _shown(t: Tokenizer, id_: int) -> str:
    """A token with its spaces to be seen; bytes that are no whole character in hexadecimal."""
    token = t.token_bytes(id_)
    try:
        return seen(label(token.decode(), "token"))
    except UnicodeDecodeError:
        return "".join(chr(b) if b < 128 else f"⟨{b:02x}⟩" for b in token)
