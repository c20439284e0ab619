"""Where texts come from: the fables that ship with the package, a file, an address, tiny Shakespeare. Checked, cached, whole."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tqdm import tqdm

END = "<|endoftext|>"
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Fable:
    title: str
    text: str
    language: str


@dataclass(frozen=True)
class Dataset:
    """A file on the network: where it is, what it must hash to, how large it is."""

    url: str
    sha256: str
    size: int


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
    return resources.files("llmcore.corpus").joinpath(f"fables.{language}.txt").read_text(encoding="utf-8")


def read_text(source: str | Path) -> str:
    """The text of "fables", "fables.en", "fables.zh", "shakespeare", a path or a URL (http, https, file).

    Raises FileNotFoundError, ConnectionError (no network), or ValueError for an empty file or one that is not UTF-8.
    """
    name = str(source)
    if name == "fables":
        return "\n".join(_packaged(language) for language in LANGUAGES)
    if name.startswith("fables.") and name.removeprefix("fables.") in LANGUAGES:
        return _packaged(name.removeprefix("fables."))
    path = open_text(source)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}, byte {error.start}: not UTF-8; convert the file first") from error
    if not text.strip():
        raise ValueError(f"{source} is empty: there is nothing to learn from")
    return text


def open_text(source: str | Path) -> Path:
    """A local file with the source's bytes; what comes from the network is kept in cache_dir()."""
    name = str(source)
    if name in DATASETS:
        return download(DATASETS[name].url, DATASETS[name].sha256, DATASETS[name].size)
    if urllib.parse.urlsplit(name).scheme in ("http", "https", "file"):
        return download(name)
    path = Path(source)
    if not path.is_file():
        known = ", ".join(["fables", "fables.en", "fables.zh", *DATASETS])
        raise FileNotFoundError(f"{name} is no file and no name of a text ({known}): give a path, a URL or one of them")
    return path


def shakespeare() -> str:
    """Tiny Shakespeare, 1,115,394 characters; downloaded once."""
    return read_text("shakespeare")


def cache_dir() -> Path:
    """LLMCORE_CACHE, or ~/.cache/llmcore"""
    return Path(os.environ.get("LLMCORE_CACHE") or Path.home() / ".cache" / "llmcore")


def download(url: str, sha256: str | None = None, size: int | None = None) -> Path:
    """The file of an address, from the cache where it is there. It appears in the cache whole and checked, or not at all."""
    folder = cache_dir()
    name = Path(urllib.parse.urlsplit(url).path).name or "index"
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if target.exists() and (sha256 is None or _sha256(target) == sha256):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".downloading-")
    try:
        with os.fdopen(handle, "wb") as out:
            _fetch(url, out, size)
            out.flush()
            os.fsync(out.fileno())
        if sha256 is not None and _sha256(Path(temporary)) != sha256:
            raise ValueError(f"{url} does not have the SHA-256 expected ({sha256[:12]}...): it has changed or was cut; try again")
        os.replace(temporary, target)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        if isinstance(error, urllib.error.HTTPError):
            raise ConnectionError(f"{url} answers {error.code} {error.reason}: check the address") from error
        raise ConnectionError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}): connect to a network, or put the file at {target}"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _fetch(url: str, out, size: int | None) -> None:
    with urllib.request.urlopen(url, timeout=30) as response:
        expected = int(response.headers.get("Content-Length") or size or 0)
        done = 0
        with tqdm(total=expected or None, unit="B", unit_scale=True, desc=f"downloading {url.rsplit('/', 1)[-1]}") as bar:
            while block := response.read(1 << 16):
                out.write(block)
                done += len(block)
                bar.update(len(block))
        if expected and done < expected:
            raise ConnectionError(f"{done} of {expected} bytes came")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
