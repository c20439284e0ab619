"""Files from the network, kept in one folder: whole and checked, or not there at all. A transfer that breaks off goes on later.

A file grows under a name of this process and is renamed when its hash is right. What a broken transfer leaves is kept only where
it can be continued: the server serves ranges, and a SHA-256 will tell whether the joined halves belong together.
"""

import hashlib
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llmcore.files import writing

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


def refuse_offline(what: str) -> None:
    """ConnectionError where LLMCORE_OFFLINE is set."""
    if os.environ.get("LLMCORE_OFFLINE", "") not in ("", "0"):
        raise ConnectionError(f"{what} is not brought while LLMCORE_OFFLINE is set: unset it and connect to a network")


def download(url: str, sha256: str | None = None, size: int | None = None, target: Path | None = None) -> Path:
    """The file of an address, from the cache where it is there; a transfer that broke off is continued. target: keep it there.

    Raises ConnectionError where there is no network, the server refuses or the transfer breaks off, ValueError where what came
    does not have the size or the hash, and another OSError where it cannot be written; all say what to do. LLMCORE_OFFLINE=1 in
    the environment refuses every transfer: for checks, which should not bring hundreds of megabytes each time.
    """
    name = Path(urllib.parse.urlsplit(url).path).name or "index"
    target = target or cache_dir() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if target.exists() and (sha256 is None or file_sha256(target) == sha256):
        return target
    refuse_offline(url)
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, own = tempfile.mkstemp(dir=target.parent, prefix=_growing(target))
        os.close(handle)
    temporary, transfer = Path(own), _Transfer(url, size)
    try:
        if sha256 is not None:
            transfer.ranges = _adopt(target, temporary)  # what was kept can be continued
        with temporary.open("ab", buffering=0) as out:
            transfer.run(out)
            with writing(target.parent):
                os.fsync(out.fileno())
        if not transfer.wrong and sha256 is not None and file_sha256(temporary) != sha256:
            transfer.wrong = f"does not have the SHA-256 expected ({sha256[:12]}...)"
        if transfer.wrong:
            raise ValueError(f"{url} {transfer.wrong}: it has changed or was cut; try again")
        with writing(target):
            os.replace(temporary, target)
    except _BrokenOff as error:
        how = "call again and it goes on from there" if transfer.ranges and sha256 is not None else "try again"
        raise ConnectionError(f"{url} broke off, {error}: {how}") from error
    except _Refused as error:
        raise ConnectionError(f"{url} {error}: check the address, or try again later") from error
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url} answers {error.code} {error.reason}: check the address") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"{url} cannot be reached ({reason}): connect to a network, or put the file at {target}") from error
    finally:
        if temporary.exists():  # not renamed: it broke off, was interrupted, or is not what was expected
            if transfer.ranges and sha256 is not None and not transfer.wrong and temporary.stat().st_size:
                os.replace(temporary, _partial(target))
            else:
                temporary.unlink()
    return target


class _BrokenOff(Exception):
    """A transfer that began and did not end."""


class _Refused(Exception):
    """An answer that holds nothing that could be kept."""


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
    """Appends to a file what its beginning lacks.

    Afterwards `ranges` tells whether the server can go on from the middle, `wrong` what is known to be false without a hash.
    """

    def __init__(self, url: str, size: int | None):
        self.url, self.size, self.ranges, self.wrong = url, size, False, ""

    def run(self, out: FileIO) -> None:
        start = out.seek(0, os.SEEK_END)
        try:
            response = self._open(start)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:  # 416: there is nothing from that place on, so this was no beginning of the file
                raise
            response = self._open(0)
        if start and response.status == 206 and not _is_rest(response, start):  # another part than was asked for
            response.close()
            response = self._open(0)
        with response:
            continued = bool(start) and response.status == 206 and _is_rest(response, start)
            if response.status not in (200, None) and not continued:  # None: a file:// address
                raise _Refused(f"answers {response.status} {response.reason} without the whole file")
            if not continued:  # the whole file comes, asked for or not
                out.truncate(0)
                start = 0
            self.ranges = continued or response.headers.get("Accept-Ranges") == "bytes"
            length = response.headers.get("Content-Length", "")
            told = start + int(length) if length.isdecimal() and len(length) < 19 else None
            if self.size and told not in (self.size, None):
                self.wrong = f"has {told} bytes, not the {self.size} expected"
                return
            done = self._copy(response, out, start, told or self.size)
            if self.size and done > self.size:
                self.wrong = f"has more than the {self.size} bytes expected"
            elif not done:
                raise _Refused("sends nothing")

    def _copy(self, response: Any, out: FileIO, start: int, expected: int | None) -> int:
        """Write what comes, up to a little more than is expected; returns where the file then ends."""
        done = start
        label = f"downloading {self.url.rsplit('/', 1)[-1]}"
        with tqdm(total=expected, initial=start, unit="B", unit_scale=True, desc=label) as bar:
            while not self.size or done <= self.size:  # who sends without end does not fill the disk
                try:
                    block = memoryview(response.read(1 << 16))
                except (OSError, HTTPException) as error:
                    raise _BrokenOff(f"{done} of {expected or '?'} bytes came, then {error or type(error).__name__}") from error
                if not block:
                    break
                bar.update(len(block))
                done += len(block)
                with writing(Path(out.name).parent):
                    while block:
                        block = block[out.write(block) :]
        if expected and done < expected:
            raise _BrokenOff(f"{done} of {expected} bytes came")
        return done

    def _open(self, start: int):
        headers = {"Range": f"bytes={start}-"} if start else {}
        return urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)


def _is_rest(response: Any, start: int) -> bool:
    """Whether a 206 says that it holds all from `start` on: bytes start-end/size with end + 1 = size, or a size that is not told."""
    said = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip())
    return said is not None and int(said[1]) == start and (said[3] == "*" or int(said[2]) + 1 == int(said[3]))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
