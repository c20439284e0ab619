"""Sources of text: the fables that ship with the package, a file, a URL, tiny Shakespeare."""

import urllib.parse
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from llmcore.download import Remote as Dataset
from llmcore.download import download
from llmcore.files import text_of

END = "<|endoftext|>"
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Fable:
    """A fable; language is "en" or "zh"."""

    title: str
    text: str
    language: str


DATASETS = {
    # Karpathy's char-rnn repository: 40,000 lines of Shakespeare in one file
    "shakespeare": Dataset(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        1_115_394,
    ),
}


def fables(language: str | None = None) -> list[Fable]:
    """The fables of one language ("en", "zh"), or of both; fable i is the same story in both."""
    if language not in (None, *LANGUAGES):
        raise ValueError(f"language={language!r}: there are fables in {LANGUAGES}")
    out = []
    for name in LANGUAGES if language is None else (language,):
        for entry in _packaged(name).split(END):
            if entry.strip():
                title, body = entry.strip().split("\n\n", 1)
                out.append(Fable(title, body, name))
    return out


def _packaged(language: str) -> str:
    """All fables of a language, with END between them."""
    return resources.files("llmcore.corpus").joinpath(f"fables.{language}.txt").read_text(encoding="utf-8")


def read_text(source: str | Path) -> str:
    """The text of "fables", "fables.en", "fables.zh", "shakespeare", a path or a URL (http, https, file).

    A byte order mark is left out. Raises FileNotFoundError, ConnectionError (no network), or ValueError for
    a file that is empty or not UTF-8.
    """
    name = str(source)
    if name == "fables":
        return "\n".join(_packaged(language) for language in LANGUAGES)
    if name.startswith("fables.") and name.removeprefix("fables.") in LANGUAGES:
        return _packaged(name.removeprefix("fables."))
    text = text_of(open_text(source).read_bytes(), source)
    if not text.strip():
        raise ValueError(f"{source} is empty: there is nothing to learn from")
    return text


def open_text(source: str | Path) -> Path:
    """A local file with the source's bytes.

    A file from the network is kept in download.cache_dir(), and downloaded again if the server says that it
    has changed.
    """
    name = str(source)
    if name in DATASETS:
        return download(DATASETS[name].url, DATASETS[name].sha256, DATASETS[name].size)
    if urllib.parse.urlsplit(name).scheme in ("http", "https", "file"):
        return download(name)
    path = Path(source)
    if not path.is_file():
        known = ", ".join(["fables", "fables.en", "fables.zh", *DATASETS])
        raise FileNotFoundError(
            f"{name} is no file and no name of a text ({known}): give a path, a URL or one of them"
        )
    return path


def shakespeare() -> str:
    """Tiny Shakespeare, 1,115,394 characters; downloaded once."""
    return read_text("shakespeare")
