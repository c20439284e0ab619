"""Files from the network, kept in one folder: whole and checked, or not there at all. A transfer that breaks off goes on later.

A file grows under a name of this process and is renamed when its hash is right. What a broken transfer leaves is kept only where
it can be continued: the server serves ranges, and a SHA-256 will tell whether the joined halves belong
together. A file without a SHA-256 may change at its address: the server is asked each time whether it has, by
the tag or the date that it gave.
"""

import contextlib
import email.utils
import hashlib
import io
import json
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from io import FileIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llmcore.files import write_whole, writing

TIMEOUT = 30.0  # seconds without a byte before a transfer counts as broken
WINDOW, SLOWEST = 60.0, 1024  # and seconds in which fewer bytes a second come than this
MAX_BYTES = 4 << 30  # of a file whose size no one has stated; the variable LLMCORE_MAX_BYTES says otherwise
clock = time.monotonic


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


def download(
    url: str, sha256: str | None = None, size: int | None = None, target: Path | None = None, max_bytes: int | None = None
) -> Path:  # fmt: skip
    """The file of an address, from the cache where it is there; a transfer that broke off is continued. target: keep it there.

    With a SHA-256 what is in the cache is known to be right. Without one the server is asked whether it has
    changed; where that cannot be asked the kept one is taken, with a UserWarning. A file:// address without
    target is the local file itself.

    Raises ConnectionError where there is no network, the server refuses, is too slow or breaks off,
    ValueError where what came does not have the size or the hash or has more than max_bytes (4 GiB where
    neither that nor size is given, or what LLMCORE_MAX_BYTES says), and another OSError where it cannot be
    written; all say what to do. LLMCORE_OFFLINE=1 in the environment refuses every transfer: for checks,
    which should not bring hundreds of megabytes each time.
    """
    address = urllib.parse.urlsplit(url)
    if address.scheme == "file" and target is None:
        return _local(url, sha256, size)
    name = Path(address.path).name or "index"
    target = target or cache_dir() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if sha256 is not None and target.exists() and file_sha256(target) == sha256:
        return target
    kept = sha256 is None and target.exists() and address.scheme != "file"
    try:
        refuse_offline(url)
        _bring(_Transfer(url, size, _most(max_bytes), _unchanged_since(target) if kept else {}), sha256, target)
    except ConnectionError as error:
        if not kept:
            raise
        warnings.warn(f"{error}. Whether it has changed is not known: {target}, brought before, is used", stacklevel=2)
    return target


def _local(url: str, sha256: str | None, size: int | None) -> Path:
    """The file of a file:// address itself: a copy of it would grow old."""
    address = urllib.parse.urlsplit(url)
    path = Path(urllib.request.url2pathname(address.path))
    if address.netloc not in ("", "localhost") or not path.is_file():
        raise FileNotFoundError(f"{url} is no file of this machine: give the path of one")
    if size not in (None, path.stat().st_size) or sha256 not in (None, file_sha256(path)):
        raise ValueError(f"{url} does not have the size or the SHA-256 expected: it has changed or was cut")
    return path


def _most(max_bytes: int | None) -> int:
    said = os.environ.get("LLMCORE_MAX_BYTES") or str(MAX_BYTES)
    most = int(said) if max_bytes is None and said.isdecimal() else max_bytes
    if type(most) is not int or most < 1:
        raise ValueError(f"max_bytes={max_bytes!r}, LLMCORE_MAX_BYTES={said!r}: give a whole number of bytes, at least 1")
    return most


def _bring(transfer: "_Transfer", sha256: str | None, target: Path) -> None:
    """Make the target what the address holds. Where that cannot be, or it is that already, it stays as it is."""
    url = transfer.url
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, own = tempfile.mkstemp(dir=target.parent, prefix=_growing(target))
        os.close(handle)
    temporary = Path(own)
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
        _put(temporary, target, {} if sha256 else transfer.tag)
    except _Unchanged:
        pass
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


def _put(temporary: Path, target: Path, tag: dict[str, str]) -> None:
    """Rename, and keep what asks the server for changes, with the hash of the file that it belongs to."""
    digest = file_sha256(temporary) if tag else ""
    with writing(target):
        _origin(target).unlink(missing_ok=True)
        os.replace(temporary, target)
    with contextlib.suppress(OSError):  # without it the file is brought anew
        if tag:
            write_whole(_origin(target), json.dumps({"sha256": digest, "tag": tag}))


def _unchanged_since(target: Path) -> dict[str, str]:
    """The headers that ask for the file only if it has changed; none where the kept one is of no known state."""
    try:
        kept = json.loads(_origin(target).read_text(encoding="utf-8"))
        tag = {str(name): str(value) for name, value in kept["tag"].items()}
        return tag if kept["sha256"] == file_sha256(target) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _tag(headers: Any) -> dict[str, str]:
    """What a later request says of this answer: its ETag, or its date where the file was at least a second
    old then.

    A date counts seconds: a file that changed in the second of the answer may change once more in it.
    """
    if headers.get("ETag"):
        return {"If-None-Match": headers["ETag"]}
    try:
        changed, now = (email.utils.parsedate_to_datetime(headers.get(name, "")) for name in ("Last-Modified", "Date"))
        return {"If-Modified-Since": headers["Last-Modified"]} if (now - changed).total_seconds() > 1 else {}
    except (ValueError, TypeError):  # no date, or one with a zone beside one without
        return {}


class _Unchanged(Exception):
    """What is kept is what the server has."""


class _BrokenOff(Exception):
    """A transfer that began and did not end."""


class _Refused(Exception):
    """An answer that holds nothing that could be kept."""


def _partial(target: Path) -> Path:
    return target.with_name(f".partial-{target.name}")


def _origin(target: Path) -> Path:
    return target.with_name(f".origin-{target.name}")


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
    """Appends to a file what its beginning lacks. `unless` are headers that ask for the file only if it has changed.

    Afterwards `ranges` tells whether the server can go on from the middle, `wrong` what is known to be false
    without a hash, `tag` the headers that ask later whether the file has changed.
    """

    def __init__(self, url: str, size: int | None, most: int, unless: dict[str, str]):
        self.url, self.size, self.most, self.unless = url, size, most, unless
        self.ranges, self.wrong, self.tag = False, "", {}  # type: bool, str, dict[str, str]
        self._opener = _opener(_Pace())

    def run(self, out: FileIO) -> None:
        start = out.seek(0, os.SEEK_END)
        try:
            response = self._open(start)
        except urllib.error.HTTPError as error:
            if error.code == 304 and self.unless:
                raise _Unchanged from error
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
            self.tag = _tag(response.headers)
            if self.size and told not in (self.size, None):
                self.wrong = f"has {told} bytes, not the {self.size} expected"
                return
            if not self.size and told and told > self.most:
                raise self._too_large(f"has {told:,} bytes")
            done = self._copy(response, out, start, told)
            if self.size and done > self.size:
                self.wrong = f"has more than the {self.size} bytes expected"
            elif not done:
                raise _Refused("sends nothing")

    def _copy(self, response: Any, out: FileIO, start: int, told: int | None) -> int:
        """Write what comes, up to a little more than is expected; returns where the file then ends."""
        done, expected, most = start, told or self.size, self.size or self.most
        label = f"downloading {self.url.rsplit('/', 1)[-1]}"
        with tqdm(total=expected, initial=start, unit="B", unit_scale=True, desc=label) as bar:
            while done <= most and (told is None or done < told):  # who sends without end does not fill the disk
                try:
                    block = memoryview(response.read1(1 << 16 if told is None else min(1 << 16, told - done)))
                except (OSError, HTTPException) as error:
                    raise _BrokenOff(f"{done} of {expected or '?'} bytes came, then {error or type(error).__name__}") from error
                if not block:
                    break
                bar.update(len(block))
                done += len(block)
                with writing(Path(out.name).parent):
                    while block:
                        block = block[out.write(block) :]
        if not self.size and done > most:
            raise self._too_large("sends more")
        if expected and done < expected:
            raise _BrokenOff(f"{done} of {expected} bytes came")
        return done

    def _too_large(self, what: str) -> ValueError:
        self.wrong = what  # nothing of it is kept
        return ValueError(
            f"{self.url} {what}, and at most {self.most:,} bytes are taken where no size is stated: if that is meant, give "
            "download a max_bytes, or set LLMCORE_MAX_BYTES"
        )

    def _open(self, start: int):
        headers = {"Range": f"bytes={start}-"} if start else self.unless
        return self._opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)


class _Pace:
    """Breaks off a transfer that is too slow, whatever is being sent: headers, the length of a chunk, the file."""

    def __init__(self) -> None:
        self.since, self.count = clock(), 0

    def more(self, count: int) -> None:
        self.count += count
        seconds = clock() - self.since
        if seconds >= WINDOW:
            if self.count < SLOWEST * seconds:
                raise TimeoutError(f"timed out: {self.count:,} bytes in {seconds:.0f} s, fewer than {SLOWEST:,} a second")
            self.since, self.count = clock(), 0


class _Paced(io.RawIOBase):
    """A socket's bytes, told to a pace as they come."""

    def __init__(self, raw: Any, pace: _Pace):
        self._raw, self._pace = raw, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._pace.more(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Socket:
    """A socket whose answer is read at a pace."""

    def __init__(self, socket: Any, pace: _Pace):
        self._socket, self._pace = socket, pace

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Paced(self._socket.makefile("rb", buffering=0), self._pace))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _opener(pace: _Pace) -> urllib.request.OpenerDirector:
    """urllib's, with its redirects and proxies, over connections that keep to a pace."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock: Any = _Socket(self.sock, pace)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock: Any = _Socket(self.sock, pace)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            return self.do_open(Secure, request)

    return urllib.request.build_opener(PlainHandler, SecureHandler)


def _is_rest(response: Any, start: int) -> bool:
    """Whether a 206 says that it holds all from `start` on: bytes start-end/size with end + 1 = size, or a size that is not told."""
    said = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip())
    return said is not None and int(said[1]) == start and (said[3] == "*" or int(said[2]) + 1 == int(said[3]))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
