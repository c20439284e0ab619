"""Tokenizer files of other programs.

GPT-2's vocab.json + merges.txt, tiktoken's ranks, Hugging Face's tokenizer.json (byte-level BPE, WordPiece).
"""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

from llmcore.files import reading, write_whole
from llmcore.tokenizer.base import check_entries, check_text
from llmcore.tokenizer.bpe import BPETokenizer
from llmcore.tokenizer.cutting import ANYTHING, COVERING, HAN, PUBLISHED, SPLIT_PATTERNS, portable
from llmcore.tokenizer.wordpiece import WordPieceTokenizer


def _visible() -> dict[int, str]:
    """Each byte as a printable character: itself, or one from U+0100 on  [Radford et al. 2019, code]"""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table, shift = {b: chr(b) for b in kept}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + shift)
            shift += 1
    return table


VISIBLE = _visible()
BYTE = {c: b for b, c in VISIBLE.items()}


def show(token: bytes) -> str:
    """A token's bytes as GPT-2's files spell them.

    >>> show(b" the")
    'Ġthe'
    """
    return "".join(VISIBLE[b] for b in token)


def hide(text: str) -> bytes:
    """The inverse of show. ValueError for a character that stands for no byte."""
    try:
        return bytes(BYTE[c] for c in text)
    except KeyError as error:
        raise ValueError(
            f"{text!r} holds {error.args[0]!r}, which stands for no byte: this is no byte-level vocabulary"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON file ({error}): download or write it again") from error


def listed_merges(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    """The merged pairs in order; for ranks alone, found by merging each token's bytes by lower ranks."""
    if tokenizer.merges is not None:
        return tokenizer.merges
    merges = []
    for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:  # the last two parts are the pair whose merge made the token
            joined = [
                (tokenizer.ranks.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))
            ]
            best, i = min(joined)
            if best >= rank:
                why = "these ranks were not learned by merging"
                raise ValueError(f"token {token!r} is not the join of two of lower rank: {why}")
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def write_gpt2(tokenizer: BPETokenizer, vocab: str | Path, merges: str | Path) -> None:
    """Write vocab.json, spelling -> id, and merges.txt, one pair per line in order."""
    table = {show(t): i for t, i in tokenizer.ranks.items()} | tokenizer.special_tokens
    lines = [f"{show(a)} {show(b)}" for a, b in listed_merges(tokenizer)]
    write_whole(Path(vocab), json.dumps(table, ensure_ascii=False))
    write_whole(Path(merges), "\n".join(["#version: 0.2", *lines, ""]))


def read_gpt2(
    vocab: str | Path,
    merges: str | Path,
    pattern: str = "gpt2",
    special: tuple[str, ...] = ("<|endoftext|>",),
):
    """The tokenizer in the two files; entries named in `special` become special tokens."""
    table = _json(Path(vocab))
    if not isinstance(table, dict):
        raise ValueError(f"{vocab} is no table of spelling -> id: give GPT-2's vocab.json")
    pairs = []
    with reading(merges):
        for number, line in enumerate(Path(merges).read_text(encoding="utf-8").split("\n"), 1):
            if not line or (number == 1 and line.startswith("#version")):
                continue
            parts = line.split(" ")
            if len(parts) != 2:
                raise ValueError(
                    f"{merges}, line {number}: {line!r} is no pair of two spellings: download it again"
                )
            pairs.append((hide(parts[0]), hide(parts[1])))
    with reading(vocab):
        return byte_level(table, pairs, pattern, {s: table[s] for s in special if s in table}, str(vocab))


def byte_level(
    table: dict[str, int],
    pairs: list[tuple[bytes, bytes]],
    pattern: str,
    special: dict[str, int],
    where: str,
    unknown: int | None = None,
    whole: bool = False,
) -> BPETokenizer:
    """The tokenizer of a table spelling -> id and of merges in order; `where` names the file in errors."""
    check_entries(table)
    check_text(pattern)
    ranks = {hide(t): i for t, i in table.items() if t not in special}
    needed = sum(len(t) > 1 for t in ranks)
    if len(pairs) < needed and not whole:
        raise ValueError(
            f"{where}: {len(ranks)} entries need {needed} merges, there are {len(pairs)}: a file is cut short"
        )
    return BPETokenizer(ranks, pattern, special, pairs, unknown, whole)


def write_tiktoken(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write one line per token: its bytes in base64, a space, its rank.

    The format has no place for special tokens or the pattern.
    """
    ordered = sorted(tokenizer.ranks.items(), key=lambda item: item[1])
    write_whole(Path(path), "".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in ordered))


def read_tiktoken(
    path: str | Path, pattern: str = "gpt4", special_tokens: dict[str, int] | None = None
) -> BPETokenizer:
    """The tokenizer in a rank file; pattern and special tokens must be known from elsewhere."""
    ranks: dict[bytes, int] = {}
    content = Path(path).read_bytes()
    if not content.endswith(b"\n"):
        raise ValueError(f"{path} does not end with a line end: it is cut short; download it again")
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split(b" ")
            if not rank.isdigit():  # int() would also read 1_0 and +1
                raise ValueError("a rank is digits")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
            if len(ranks) != number:
                raise ValueError("a second time")
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is not `base64 rank` ({error}): download it again"
            ) from error
    with reading(path):
        check_entries(ranks)
        return BPETokenizer(ranks, pattern, special_tokens)


def write_hugging_face(tokenizer: BPETokenizer, path: str | Path) -> None:
    """Write a tokenizer.json for Hugging Face's tokenizers: split by the pattern, byte level, BPE.

    ValueError for a pattern that Hugging Face's regular expressions read otherwise.
    """
    pattern = SPLIT_PATTERNS.get(tokenizer.pattern, tokenizer.pattern).replace(*HAN)
    if pattern != portable(pattern):
        raise ValueError(
            f"pattern {pattern!r} means something else to Hugging Face: write {portable(pattern)!r}"
        )
    added = [
        {
            "id": i,
            "content": s,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for s, i in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    ]
    # the special tokens are in the vocabulary too, so that they keep their ids
    entries = {show(t): i for t, i in tokenizer.ranks.items()} | tokenizer.special_tokens
    unknown = next((s for s, i in tokenizer.special_tokens.items() if i == tokenizer.unknown), None)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": unknown,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": tokenizer.whole,
            "vocab": dict(sorted(entries.items(), key=lambda item: item[1])),
            "merges": [[show(a), show(b)] for a, b in listed_merges(tokenizer)],
        },
    }  # fmt: skip
    write_whole(Path(path), json.dumps(state, ensure_ascii=False))


def read_hugging_face(path: str | Path) -> BPETokenizer | WordPieceTokenizer:
    """The byte-level BPE or WordPiece of a tokenizer.json, with the ids that Hugging Face's tokenizers give.

    encode gives the text's own ids: padding, truncation and tokens around the text, if the file asks for
    them, are left to the caller. Raises ValueError for what the file asks for and llmcore does not do:
    another model or normalizer, another way of splitting, tokens that take in the white space around them,
    regular expressions that mean something else here.
    """
    with reading(path):
        return _hugging_face(_json(Path(path)), path)


def _hugging_face(state: dict[str, Any], path: str | Path) -> BPETokenizer | WordPieceTokenizer:
    model = state.get("model", {})
    if model.get("type") not in ("BPE", "WordPiece") or model.get("byte_fallback"):
        kind = "BPE with byte_fallback" if model.get("type") == "BPE" else model.get("type")
        can = "only byte-level BPE by merges, and WordPiece, can be read"
        raise ValueError(f"{path} holds a model of type {kind!r}: {can}")
    special = _added_tokens(
        state.get("added_tokens") or [], model["vocab"], _steps(state.get("normalizer"), "normalizers"), path
    )
    if model["type"] == "WordPiece":
        return _word_piece(state, model, special, path)
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ValueError(
                f"{path}: {option}={model[option]!r} is not done here: only BPE without it can be read"
            )
    for step in _steps(state.get("normalizer"), "normalizers"):
        raise ValueError(f"{path} normalises the text first ({step.get('type')}): that would be ignored here")
    pattern = _pattern(_steps(state.get("pre_tokenizer"), "pretokenizers"), path)
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    merges = [(hide(a), hide(b)) for a, b in pairs]
    name = model.get("unk_token") or _beside(Path(path), "unk_token")
    unknown = special.get(name) if name else None
    if model.get("fuse_unk") and any(c not in model["vocab"] for c in BYTE):
        raise ValueError(f"{path}: fuse_unk makes one id of several unknown bytes, which is not done here")
    return byte_level(
        model["vocab"], merges, pattern, special, str(path), unknown, bool(model.get("ignore_merges"))
    )


def _steps(part: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as a list of steps, nested sequences flattened."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [s for step in part[inside] for s in _steps(step, inside)]


def _added_tokens(
    added: list[dict[str, Any]], vocabulary: dict[str, int], normalizers: list[Any], path: str | Path
) -> dict[str, int]:
    """Text -> id. `normalized` tokens are searched for only in what the other tokens leave of a text."""
    found: dict[str, int] = {}
    for token in added:
        content, flags = token["content"], [f for f in ("lstrip", "rstrip", "single_word") if token.get(f)]
        if normalizers and token.get("normalized"):
            flags.append("normalized")
        if flags:
            why = "which is not done here: only plain tokens can be read"
            raise ValueError(f"{path}: added token {content!r} has {flags[0]}, {why}")
        # the id that Hugging Face assigns on loading: the vocabulary's, else the next free one
        last = max(found.values(), default=-1)
        theirs = vocabulary.get(content, last + 1 if last >= len(vocabulary) else len(vocabulary))
        if token["id"] != theirs or content in found:
            where = f"added token {content!r} with id {token['id']!r}"
            raise ValueError(f"{path}: {where} gets id {theirs} where the file is loaded")
        found[content] = theirs
    early = [t["content"] for t in added if not t.get("normalized")]
    late = [t["content"] for t in added if t.get("normalized")]
    clash = next(((a, b) for a in early for b in late if _overlap(a, b)), None)
    if clash:
        raise ValueError(
            f"{path}: added tokens {clash[0]!r} and {clash[1]!r} overlap, and only the second is normalized"
        )
    return found


def _overlap(a: str, b: str) -> bool:
    """Whether a and b can overlap in a text."""
    lengths = range(1, min(len(a), len(b)))
    return a in b or b in a or any(x.endswith(y[:n]) for x, y in ((a, b), (b, a)) for n in lengths)


def _pattern(steps: list[dict[str, Any]], path: str | Path) -> str:
    """The one pattern that cuts as all the pre-tokenizers together do."""
    *before, level = steps or [{}]
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space", True) or len(before) > 1:
        kinds = [s.get("type") for s in steps]
        can = "one Split or Digits, and then ByteLevel without add_prefix_space"
        raise ValueError(f"{path} splits by {kinds}: only {can}, can be read")
    published = level.get("use_regex", True)
    if not before:
        return "gpt2" if published else ANYTHING
    step = before[0]
    if step.get("type") == "Digits":
        single = step.get("individual_digits", False)
        if published and not single:
            raise ValueError(
                f"{path} splits by runs of Digits and then by ByteLevel's own pattern, which is not done here"
            )
        return PUBLISHED["smollm"] if published else r"\p{N}" if single else r"\p{N}+"
    if step.get("type") != "Split" or "Regex" not in step.get("pattern", {}):
        raise ValueError(
            f"{path} splits by {step.get('type')!r}: only Split by a Regex, or Digits, can be read"
        )
    if published:
        can = "only ByteLevel with use_regex=false can be read"
        raise ValueError(f"{path} splits by its own Regex and then by ByteLevel's: {can}")
    pattern, behavior, inverted = step["pattern"]["Regex"], step.get("behavior"), bool(step.get("invert"))
    # "Removed", inverted, removes the gaps between matches, of which a covering pattern leaves none
    if behavior != "Isolated" and not (pattern in COVERING and behavior == "Removed" and inverted):
        raise ValueError(
            f"{path} splits with behavior {behavior!r}, invert={inverted}: only 'Isolated' can be read"
        )
    ours = next((name for name, known in SPLIT_PATTERNS.items() if pattern == known.replace(*HAN)), None)
    return ours or portable(pattern)


def _beside(path: Path, name: str) -> str | None:
    """A special token named by the tokenizer_config.json in the same folder."""
    config = path.with_name("tokenizer_config.json")
    value = _json(config).get(name) if config.exists() else None
    return value.get("content") if isinstance(value, dict) else value


def _word_piece(
    state: dict[str, Any], model: dict[str, Any], special: dict[str, int], path: str | Path
) -> WordPieceTokenizer:
    plain, before = state.get("normalizer") or {}, state.get("pre_tokenizer") or {}
    lower = plain.get("lowercase", True)
    as_bert = (
        plain.get("type") == "BertNormalizer"
        and before.get("type") == "BertPreTokenizer"
        and all(plain.get(option, True) for option in ("clean_text", "handle_chinese_chars"))
        and plain.get("strip_accents") in (None, lower)
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("max_input_chars_per_word", 100) == 100
    )
    if not as_bert:
        why = "that would be ignored here"
        raise ValueError(f"{path} makes text plain or splits it otherwise than BERT does: {why}")
    vocabulary = {t: i for t, i in model["vocab"].items() if t not in special}
    return WordPieceTokenizer(vocabulary, special, model.get("unk_token", "[UNK]"), lower)
