"""The folder of a run of `python -m llmcore train`: vocabulary, tokens, and a file that says what they are.

run.json        what the run was made from (Origin); once they are whole, the SHA-256 of the files below
tokenizer.json  the vocabulary, learned from the part that is trained on, or a copy of the one given
train.bin       ids of the first nine tenths of the corpus (llmcore.data.write_tokens)
held-out.bin    ids of the rest

Only one process at a time may call these functions for a folder: it holds llmcore.files.alone(folder).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcore.checkpoint import checkpoints
from llmcore.corpus import END, open_text, read_text
from llmcore.data import read_pieces, write_tokens
from llmcore.files import check_writable, reading, write_whole
from llmcore.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load
from llmcore.tokenizer.base import in_no_entry

ORIGIN, TOKENIZER, PARTS = "run.json", "tokenizer.json", ("train", "held-out")
FILES = [TOKENIZER, *(f"{part}.bin{end}" for part in PARTS for end in ("", ".json"))]
FORMAT = 1
SHIPPED = ("fables", "fables.en", "fables.zh")
LEVELS: dict[str, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": lambda texts, vocab_size: BPETokenizer.train(texts, vocab_size, [END]),
    "char": lambda texts, vocab_size: CharTokenizer.train(texts, special_tokens=[END]),
}


@dataclass(frozen=True)
class Origin:
    """The corpus and the vocabulary, which decide a run's tokens."""

    corpus: str  # as it was named; only its content is compared
    content: str  # SHA-256 of the corpus
    vocabulary: str  # "bpe of 1024", "char", or the SHA-256 of a given vocabulary's file

    @staticmethod
    def of(corpus: str, text: str, tokenizer: Path | None, level: str, vocab_size: int) -> "Origin":
        """Reads the corpus once, and a given vocabulary. text: where the corpus lies, see located."""
        learned = level if level == "char" else f"{level} of {vocab_size}"
        if tokenizer is not None:
            load(tokenizer)  # so that a bad vocabulary is refused before the corpus is read
        return Origin(corpus, digest(text), learned if tokenizer is None else _sha256(tokenizer))


def located(corpus: str) -> str:
    """Where the text of a corpus lies on this machine, or the name of one that ships with llmcore.

    Asked once for each command: an address might hold another text the next time.
    """
    return corpus if corpus in SHIPPED else str(open_text(corpus))


def digest(text: str) -> str:
    """SHA-256 of a located text, read a block at a time."""
    return hashlib.sha256(read_text(text).encode()).hexdigest() if text in SHIPPED else _sha256(Path(text))


def pieces(text: str) -> Iterator[str]:
    """A located text piece by piece: a file of any size is never in memory as a whole."""
    if text in SHIPPED:
        yield read_text(text)
        return
    empty = True
    for piece in read_pieces(text):
        empty = empty and not piece.strip()
        yield piece
    if empty:
        raise ValueError(f"{text} is empty: there is nothing to learn from")


def between(parts: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Characters start .. stop of the parts' concatenation.

    >>> list(between(["abc", "def", "ghi"], 2, 5))
    ['c', 'de']
    """
    at = 0
    for part in parts:
        if at < stop and at + len(part) > start:
            yield part[max(0, start - at) : stop - at]
        at += len(part)


def prepare(
    folder: Path, corpus: str, tokenizer: Path | None = None, level: str = "bpe", vocab_size: int = 1024
) -> list[str]:
    """Make vocabulary and tokens, unless the folder has them whole. Unfinished or damaged ones are made anew.

    Returns remarks for the user: a sentence for each part that holds what the vocabulary lacks.

    Tokens of another corpus or vocabulary are made anew as long as nothing was trained on them. Where there
    is a checkpoint, they are a ValueError that names the difference.
    """
    check_writable(folder)
    text = located(corpus)
    trained, wanted = bool(checkpoints(folder)), Origin.of(corpus, text, tokenizer, level, vocab_size)
    known = _read(folder)
    if known is None:
        _check_foreign(folder, trained, tokenizer)
        known = {"format": FORMAT, "origin": asdict(wanted), "settings": {}, "files": {}}
    other = _differences(known, wanted)
    if trained and other:
        _refuse(folder, other)
    if not other and all(_is_whole(folder, known, name) for name in FILES):
        return []
    known["origin"]["corpus"] = wanted.corpus  # the same text may lie elsewhere now
    if not trained:  # no checkpoint needs the files made before
        known |= {"origin": asdict(wanted), "files": {}}
    return _make(folder, known, text, tokenizer, level, vocab_size)


def settle(folder: Path, settings: dict[str, Any]) -> None:
    """Keep the other values that decide what is trained: a flat dict that JSON holds.

    Where there is a checkpoint they are compared: ValueError names those with which it was not trained.
    """
    known = _read(folder)
    assert known is not None  # prepare has written it
    plain, before = json.loads(json.dumps(settings)), known["settings"]
    if before == plain:
        return
    if checkpoints(folder):
        names = [name for name in {**before, **plain} if before.get(name) != plain.get(name)]
        _refuse(folder, [f"{name}={before.get(name)!r} there, {plain.get(name)!r} here" for name in names])
    _write(folder, known | {"settings": plain})


def vocabulary(folder: Path) -> Tokenizer:
    """The vocabulary of a run that was trained.

    FileNotFoundError if the folder holds no such run, ValueError if the vocabulary is another one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name the one that train wrote (its --out)")
    if not (folder / TOKENIZER).is_file():
        raise FileNotFoundError(
            f"{folder} is no run: it holds no {TOKENIZER}; name a folder that train wrote (its --out)"
        )
    if not checkpoints(folder):
        raise FileNotFoundError(
            f"{folder} holds no checkpoint yet: train it first, or wait for --checkpoint-every steps"
        )
    known = _read(folder)
    if known and not _is_whole(folder, known, TOKENIZER):
        raise ValueError(
            f"{folder / TOKENIZER} is not the vocabulary that the run was trained with: put that one back"
        )
    return load(folder / TOKENIZER)


def is_run(folder: Path) -> bool:
    """Whether train made, or began to make, a run in this folder."""
    return (folder / ORIGIN).exists()


def _make(
    folder: Path, known: dict[str, Any], text: str, tokenizer: Path | None, level: str, vocab_size: int
) -> list[str]:
    """Vocabulary and tokens of known["origin"]. Those that were made before must come out the same."""
    corpus, expected = known["origin"]["corpus"], known["files"]
    total = sum(map(len, pieces(text)))
    cut = int(total * 0.9)
    if not 0 < cut < total:
        raise ValueError(
            f"{corpus} has {total} characters: "
            "a tenth is held out and the rest learned from; use a longer text"
        )
    given = None if tokenizer is None else tokenizer.read_text(encoding="utf-8")  # it may lie in this folder
    _write(folder, known)
    for left in (path for name in FILES for path in folder.glob(f"{name}.*.tmp")):
        left.unlink()
    if given is not None:
        write_whole(folder / TOKENIZER, given)
    elif TOKENIZER not in expected or not _is_whole(folder, known, TOKENIZER):
        LEVELS[level](between(pieces(text), 0, cut), vocab_size).save(folder / TOKENIZER)
    remarks = _write_parts(folder, text, cut, total)
    if digest(text) != known["origin"]["content"]:
        raise ValueError(f"{corpus} was changed while it was read: start again when it is whole")
    files = {name: _sha256(folder / name) for name in FILES}
    if expected and files != expected:
        raise ValueError(
            f"{folder} had lost its tokens, and those made anew are others: "
            "this version cuts the corpus in another way. Use the version that made the run, "
            "or choose another folder for --out"
        )
    _write(folder, known | {"files": files})
    return remarks


def _write_parts(folder: Path, text: str, cut: int, total: int) -> list[str]:
    """The ids of both parts; returns a remark on each part that holds what the vocabulary lacks."""
    learned, remarks = load(folder / TOKENIZER), []
    for name, start, stop in zip(PARTS, (0, cut), (cut, total), strict=True):
        unknown: Counter[str] = Counter()
        ids = learned.encode_iterable(between(pieces(text), start, stop), "all", unknown)
        write_tokens(folder / f"{name}.bin", ids, len(learned))
        if unknown:
            remarks.append(f"{name} part: {in_no_entry(unknown)}")
    return remarks


def _check_foreign(folder: Path, trained: bool, tokenizer: Path | None) -> None:
    """ValueError where a folder without a run.json holds what a run would write over."""
    own = [] if tokenizer is None else [tokenizer.resolve()]
    foreign = [name for name in FILES if (folder / name).exists() and (folder / name).resolve() not in own]
    if trained or foreign:
        what = "checkpoints" if trained else foreign[0]
        remedy = "choose another folder for --out"
        if what == TOKENIZER:
            remedy += ", or use it by --tokenizer"
        raise ValueError(
            f"{folder} holds {what} and no {ORIGIN}, which says what a run was made from: {remedy}"
        )


def _differences(known: dict[str, Any], wanted: Origin) -> list[str]:
    """How the tokens of a folder differ from those that are wanted, in words."""
    origin, found = known["origin"], []
    if origin["content"] != wanted.content:
        there, here = origin["content"][:12], wanted.content[:12]
        found.append(f"corpus {origin['corpus']} (SHA-256 {there}) there, {wanted.corpus} ({here}) here")
    same = origin["vocabulary"], known["files"].get(TOKENIZER)  # the file that was learned may also be given
    if wanted.vocabulary not in same:
        said = lambda v: v if len(v) < 64 else f"given (SHA-256 {v[:12]})"
        found.append(f"vocabulary {said(origin['vocabulary'])} there, {said(wanted.vocabulary)} here")
    return found


def _refuse(folder: Path, differences: list[str]) -> None:
    raise ValueError(
        f"{folder} was trained with other values: {'; '.join(differences)}. "
        "Use those to go on, or choose another folder for --out"
    )


def _is_whole(folder: Path, known: dict[str, Any], name: str) -> bool:
    """Whether a file is still the one that run.json lists."""
    return (folder / name).is_file() and _sha256(folder / name) == known["files"].get(name)


def _read(folder: Path) -> dict[str, Any] | None:
    """run.json, checked; None where there is none."""
    path = folder / ORIGIN
    if not path.exists():
        return None
    with reading(path, remedy="choose another folder for --out"):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["format"] != FORMAT:
            raise ValueError(f"format {known['format']}, this version reads {FORMAT}")
        Origin(**known["origin"]), dict(known["settings"]), dict(known["files"])
    return known


def _write(folder: Path, known: dict[str, Any]) -> None:
    write_whole(folder / ORIGIN, json.dumps(known, indent=1, ensure_ascii=False))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
