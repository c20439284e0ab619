"""Files of others: GPT-2's vocab.json + merges.txt, tiktoken's rank files, Hugging Face's tokenizer.json (byte-level BPE)."""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

from llmcore.tokenizer.base import write_whole
from llmcore.tokenizer.bpe import SPLIT_PATTERNS, BPETokenizer


def _visible() -> dict[int, str]:
    """Each byte as a character that can be printed: itself where it can, else one from U+0100 on  [Radford et al. 2019, code]"""
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
    """A token as GPT-2's files spell it.

    >>> show(b" the")
    'Ġthe'
    """
    return "".join(VISIBLE[b] for b in token)


def hide(text: str) -> bytes:
    """The inverse of show; ValueError for a character that stands for no byte."""
    try:
        return bytes(BYTE[c] for c in text)
    except KeyError as error:
        raise ValueError(f"{text!r} holds {error.args[0]!r}, which stands for no byte: this is no byte-level vocabulary") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no whole JSON file ({error}): download or write it again") from error


def listed_merges(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    """The pairs in order; for ranks alone, the split of each token that the lower ranks themselves would make."""
    if tokenizer.merges is not None:
        return tokenizer.merges
    merges = []
    for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            joined = [(tokenizer.ranks.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
            best, i = min(joined)
            if best >= rank:
                raise ValueError(f"token {token!r} is not the join of two of lower rank: these ranks were not learned by merging")
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def write_gpt2(tokenizer: BPETokenizer, vocab: str | Path, merges: str | Path) -> None:
    """vocab.json: spelling -> id; merges.txt: one pair a line, in order."""
    table = {show(t): i for t, i in tokenizer.ranks.items()} | tokenizer.special_tokens
    lines = [f"{show(a)} {show(b)}" for a, b in listed_merges(tokenizer)]
    write_whole(Path(vocab), json.dumps(table, ensure_ascii=False))
    write_whole(Path(merges), "\n".join(["#version: 0.2", *lines, ""]))


def read_gpt2(vocab: str | Path, merges: str | Path, pattern: str = "gpt2", special: tuple[str, ...] = ("<|endoftext|>",)):
    """The tokenizer of the two files; entries named in `special` become special tokens."""
    table = _json(Path(vocab))
    if not isinstance(table, dict) or not all(isinstance(i, int) for i in table.values()):
        raise ValueError(f"{vocab} is no table of spelling -> id: give GPT-2's vocab.json")
    pairs = []
    for number, line in enumerate(Path(merges).read_text(encoding="utf-8").split("\n"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise ValueError(f"{merges}, line {number}: {line!r} is no pair of two spellings: download it again")
        pairs.append((hide(parts[0]), hide(parts[1])))
    return _build(table, pairs, pattern, {s: table[s] for s in special if s in table}, str(vocab))


def _build(table: dict[str, int], pairs: list[tuple[bytes, bytes]], pattern: str, special: dict[str, int], where: str) -> BPETokenizer:
    ranks = {hide(t): i for t, i in table.items() if t not in special}
    if len(pairs) < len(ranks) - 256:
        raise ValueError(f"{where}: {len(ranks)} entries need {len(ranks) - 256} merges, there are {len(pairs)}: a file is cut short")
    return BPETokenizer(ranks, pattern, special, pairs)


def write_tiktoken(tokenizer: BPETokenizer, path: str | Path) -> None:
    """One line a token: its bytes in base64, a space, its rank. Special tokens and pattern have no place in this format."""
    ordered = sorted(tokenizer.ranks.items(), key=lambda item: item[1])
    write_whole(Path(path), "".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in ordered))


def read_tiktoken(path: str | Path, pattern: str = "gpt4", special_tokens: dict[str, int] | None = None) -> BPETokenizer:
    """The tokenizer of a rank file; pattern and special tokens must be known from elsewhere."""
    ranks: dict[bytes, int] = {}
    content = Path(path).read_bytes()
    if not content.endswith(b"\n"):
        raise ValueError(f"{path} does not end with a line end: it is cut short; download it again")
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line[:40]!r} is not `base64 rank` ({error}): download it again") from error
    return BPETokenizer(ranks, pattern, special_tokens)


def write_hugging_face(tokenizer: BPETokenizer, path: str | Path) -> None:
    """A tokenizer.json that Hugging Face's tokenizers loads: split by the pattern, byte level, BPE."""
    pattern = SPLIT_PATTERNS.get(tokenizer.pattern, tokenizer.pattern)
    if "--" in pattern:  # a set difference, which its regular expressions write with a lookahead
        pattern = pattern.replace(r"[\p{L}--\p{Han}]", r"(?:(?!\p{Han})\p{L})")
    added = [
        {"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for s, i in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    ]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {show(t): i for t, i in sorted(tokenizer.ranks.items(), key=lambda item: item[1])},
            "merges": [[show(a), show(b)] for a, b in listed_merges(tokenizer)],
        },
    }  # fmt: skip
    write_whole(Path(path), json.dumps(state, ensure_ascii=False))


def read_hugging_face(path: str | Path) -> BPETokenizer:
    """The byte-level BPE of a tokenizer.json; ValueError where its model or its way of splitting is another."""
    state = _json(Path(path))
    model = state.get("model", {}) if isinstance(state, dict) else {}
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("ignore_merges"):
        raise ValueError(f"{path} holds a model of type {model.get('type')!r}: only byte-level BPE by merges can be read")
    if state.get("normalizer"):
        raise ValueError(f"{path} normalises the text first ({state['normalizer'].get('type')}): that would be ignored here")
    before = state.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    pattern = None
    for step in steps:
        if step.get("type") == "Split" and "Regex" in step.get("pattern", {}):
            pattern = step["pattern"]["Regex"]
        elif step.get("type") != "ByteLevel" or step.get("add_prefix_space"):
            raise ValueError(f"{path} splits by {step.get('type')!r}: only ByteLevel, and Split by a Regex before it, can be read")
        elif step.get("use_regex", True):
            pattern = SPLIT_PATTERNS["gpt2"]
    if pattern is None:
        raise ValueError(f"{path} has no pattern to split by: only ByteLevel, and Split by a Regex before it, can be read")
    pattern = next((name for name, known in SPLIT_PATTERNS.items() if known == pattern), pattern)
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    special = {t["content"]: t["id"] for t in state.get("added_tokens", [])}
    return _build(model["vocab"], [(hide(a), hide(b)) for a, b in pairs], pattern, special, str(path))
