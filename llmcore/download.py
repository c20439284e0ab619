"""Files from the network, kept in one folder: whole and checked, or not there at all. A transfer that breaks off goes on later.

A file grows under a name of this process and is renamed when its hash is right. What a broken transfer leaves is kept only where
it can be continued: the server serves ranges, and a SHA-256 will tell whether the joined halves belong together.
"""

import hashlib
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

TIMEOUT = 30.0  # seconds without a byte before a transfer counts as broken


@dataclass(frozen=True)
class Remote:
    """A file on the network: where it is, what it must hash to, how many bytes it has."""

    url: str
    sha256: str
    size: int


def cache_dir() -> Path:
    """LLMCORE_CACHE, or ~/.cache/llmcore"""
    return Path(os.environ.get("LLMCORE_CACHE") or Path.home() / ".cache" / "llmcore")


def download(url: str, sha256: str | None = None, size: int | None = None, target: Path | None = None) -> Path:
    """The file of an address, from the cache where it is there; a transfer that broke off is continued. target: keep it there.

    Raises ConnectionError where there is no network, the server refuses or the transfer breaks off, and ValueError where what
    came does not have the hash; both say what to do. LLMCORE_OFFLINE=1 in the environment refuses every transfer: for checks, which
    should not bring hundreds of megabytes each time.
    """
    name = Path(urllib.parse.urlsplit(url).path).name or "index"
    target = target or cache_dir() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if target.exists() and (sha256 is None or file_sha256(target) == sha256):
        return target
    if os.environ.get("LLMCORE_OFFLINE", "") not in ("", "0"):
        raise ConnectionError(f"{url} is not brought while LLMCORE_OFFLINE is set: unset it and connect to a network")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, own = tempfile.mkstemp(dir=target.parent, prefix=_growing(target))
    os.close(handle)
    temporary, transfer, wrong = Path(own), _Transfer(url, size), False
    try:
        if sha256 is not None:
            transfer.ranges = _adopt(target, temporary)  # what was kept can be continued
        with temporary.open("ab") as out:
            transfer.run(out)
            out.flush()
            os.fsync(out.fileno())
        wrong = sha256 is not None and file_sha256(temporary) != sha256
        if wrong:
            raise ValueError(f"{url} does not have the SHA-256 expected ({str(sha256)[:12]}...): it has changed or was cut; try again")
        os.replace(temporary, target)
    except _BrokenOff as error:
        how = "call again and it goes on from there" if transfer.ranges and sha256 is not None else "try again"
        raise ConnectionError(f"{url} broke off, {error}: {how}") from error
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url} answers {error.code} {error.reason}: check the address") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"{url} cannot be reached ({reason}): connect to a network, or put the file at {target}") from error
    finally:
        if temporary.exists():  # not renamed: it broke off, was interrupted, or is not what was expected
            if transfer.ranges and sha256 is not None and not wrong:
                os.replace(temporary, _partial(target))
            else:
                temporary.unlink()
    return target


class _BrokenOff(Exception):
    """A transfer that began and did not end."""


def _partial(target: Path) -> Path:
    return target.with_name(f".partial-{target.name}")


def _growing(target: Path) -> str:
    return f".downloading-{target.name}-"


def _adopt(target: Path, temporary: Path) -> bool:
    """Take over the longest beginning of this file that no one writes: one that was kept, or one of a killed process.

    A living process writes at least every TIMEOUT seconds or gives up, so an older file has lost its writer. Of two processes
    that want the same beginning only one can rename it.
    """
    dead = time.time() - 2 * TIMEOUT - 1
    old = [p for p in target.parent.glob(f"{_growing(target)}*") if p != temporary and p.stat().st_mtime < dead]
    for found in sorted([p for p in (_partial(target), *old) if p.exists()], key=lambda p: -p.stat().st_size):
        try:
            os.replace(found, temporary)
            return True
        except FileNotFoundError:
            continue
    return False


class _Transfer:
    """Appends to a file what its beginning lacks; `ranges` tells afterwards whether the server can go on from the middle."""

    def __init__(self, url: str, size: int | None):
        self.url, self.size, self.ranges = url, size, False

    def run(self, out: BinaryIO) -> None:
        start = out.seek(0, os.SEEK_END)
        try:
            response = self._open(start)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:  # 416: there is nothing from that place on, so this was no beginning of the file
                raise
            response = self._open(0)
        with response:
            continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-") and response.status == 206
            if not continued:  # the whole file comes, asked for or not
                out.truncate(0)
                start = 0
            self.ranges = continued or response.headers.get("Accept-Ranges") == "bytes"
            length = response.headers.get("Content-Length")
            expected = start + int(length) if length else (self.size or 0)
            done = start
            label = f"downloading {self.url.rsplit('/', 1)[-1]}"
            with tqdm(total=expected or None, initial=start, unit="B", unit_scale=True, desc=label) as bar:
                try:
                    while block := response.read(1 << 16):
                        out.write(block)
                        done += len(block)
                        bar.update(len(block))
                except (ConnectionError, TimeoutError, HTTPException) as error:
                    raise _BrokenOff(f"{done} of {expected or '?'} bytes came, then {error or type(error).__name__}") from error
            if expected and done < expected:
                raise _BrokenOff(f"{done} of {expected} bytes came")

    def _open(self, start: int):
        headers = {"Range": f"bytes={start}-"} if start else {}
        return urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
