"""Files from the network, kept in one folder: complete and verified, or absent. Broken transfers resume.

A file grows under a name of this process and is renamed once its hash is right. The part that a broken
transfer leaves is kept only if it can be continued: the server must serve ranges, and a SHA-256 must be
there to tell whether the joined parts belong together. A file without a SHA-256 may change at its address,
so the server is asked each time whether it has, by the ETag or the date that it gave.
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
WINDOW, SLOWEST = 60.0, 1024  # nor may WINDOW seconds bring fewer than SLOWEST bytes per second
MAX_BYTES = 4 << 30  # for files of unstated size; the environment variable LLMCORE_MAX_BYTES overrides it
clock = time.monotonic


@dataclass(frozen=True)
class Remote:
    """A file on the network: its address, the SHA-256 of its content, its size in bytes."""

    url: str
    sha256: str
    size: int


def cache_dir() -> Path:
    """The folder that the environment variable LLMCORE_CACHE names, or ~/.cache/llmcore"""
    return Path(os.environ.get("LLMCORE_CACHE") or Path.home() / ".cache" / "llmcore")


def refuse_offline(what: str) -> None:
    """Raise ConnectionError if the environment variable LLMCORE_OFFLINE is set."""
    if os.environ.get("LLMCORE_OFFLINE", "") not in ("", "0"):
        raise ConnectionError(
            f"{what} is not brought while LLMCORE_OFFLINE is set: unset it and connect to a network"
        )


def download(
    url: str,
    sha256: str | None = None,
    size: int | None = None,
    target: Path | None = None,
    max_bytes: int | None = None,
) -> Path:
    """The path of a copy of the file at url: target, or one in the cache. A broken transfer is continued.

    With a SHA-256, a kept copy can be verified. Without one, the server is asked whether the file has
    changed; if it cannot be asked, the kept copy is used, with a UserWarning. A file:// address without
    target is the local file itself, not a copy.

    Raises ConnectionError if there is no network or the server refuses, is too slow or breaks off;
    ValueError if the size or the hash is wrong, or if a file of unstated size exceeds max_bytes (by default
    LLMCORE_MAX_BYTES, or 4 GiB); another OSError if it cannot be written. All say what to do.
    LLMCORE_OFFLINE=1 in the environment refuses every transfer: for tests, which should not download
    hundreds of megabytes each time.
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
        unless = _unchanged_since(target) if kept else {}
        _bring(_Transfer(url, size, _limit(max_bytes), unless), sha256, target)
    except ConnectionError as error:
        if not kept:
            raise
        warnings.warn(
            f"{error}. Whether it has changed is not known: {target}, brought before, is used", stacklevel=2
        )
    return target


def _local(url: str, sha256: str | None, size: int | None) -> Path:
    """The file at a file:// address itself, since a copy would go out of date."""
    address = urllib.parse.urlsplit(url)
    path = Path(urllib.request.url2pathname(address.path))
    if address.netloc not in ("", "localhost") or not path.is_file():
        raise FileNotFoundError(f"{url} is no file of this machine: give the path of one")
    if size not in (None, path.stat().st_size) or sha256 not in (None, file_sha256(path)):
        raise ValueError(f"{url} does not have the size or the SHA-256 expected: it has changed or was cut")
    return path


def _limit(max_bytes: int | None) -> int:
    """max_bytes, or what the environment says; ValueError for anything but a whole number of at least 1."""
    said = os.environ.get("LLMCORE_MAX_BYTES") or str(MAX_BYTES)
    limit = int(said) if max_bytes is None and said.isdecimal() else max_bytes
    if type(limit) is not int or limit < 1:
        raise ValueError(
            f"max_bytes={max_bytes!r}, LLMCORE_MAX_BYTES={said!r}: give a whole number of bytes, at least 1"
        )
    return limit


def _bring(transfer: "_Transfer", sha256: str | None, target: Path) -> None:
    """Replace target by what the address holds. On an error, or if nothing has changed, target stays."""
    url = transfer.url
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, own = tempfile.mkstemp(dir=target.parent, prefix=_growing(target))
        os.close(handle)
    temporary = Path(own)
    try:
        if sha256 is not None:
            transfer.ranges = _adopt(target, temporary)  # what is adopted stays even if no answer comes
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
        goes_on = transfer.ranges and sha256 is not None
        how = "call again and it goes on from there" if goes_on else "try again"
        raise ConnectionError(f"{url} broke off, {error}: {how}") from error
    except _Refused as error:
        raise ConnectionError(f"{url} {error}: check the address, or try again later") from error
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url} answers {error.code} {error.reason}: check the address") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"{url} cannot be reached ({reason}): connect to a network, or put the file at {target}"
        ) from error
    finally:
        if temporary.exists():  # not renamed: it broke off, was interrupted, or is not the expected file
            if transfer.ranges and sha256 is not None and not transfer.wrong and temporary.stat().st_size:
                os.replace(temporary, _partial(target))
            else:
                temporary.unlink()


def _put(temporary: Path, target: Path, tag: dict[str, str]) -> None:
    """Rename; beside the file keep its tag, which asks the server for changes, and its hash."""
    digest = file_sha256(temporary) if tag else ""
    with writing(target):
        _origin(target).unlink(missing_ok=True)
        os.replace(temporary, target)
    with contextlib.suppress(OSError):  # without the tag, the file is downloaded again next time
        if tag:
            write_whole(_origin(target), json.dumps({"sha256": digest, "tag": tag}))


def _unchanged_since(target: Path) -> dict[str, str]:
    """Headers that ask for the file only if it has changed; none if the kept file is not the tagged one."""
    try:
        kept = json.loads(_origin(target).read_text(encoding="utf-8"))
        tag = {str(name): str(value) for name, value in kept["tag"].items()}
        return tag if kept["sha256"] == file_sha256(target) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _tag(headers: Any) -> dict[str, str]:
    """Headers by which a later request refers to this answer: its ETag, or the file's date.

    The date only if the file was then more than a second old: dates count whole seconds, so a file changed
    in the second of the answer may change again within it.
    """
    if headers.get("ETag"):
        return {"If-None-Match": headers["ETag"]}
    try:
        changed, now = (
            email.utils.parsedate_to_datetime(headers.get(name, "")) for name in ("Last-Modified", "Date")
        )
        return {"If-Modified-Since": headers["Last-Modified"]} if (now - changed).total_seconds() > 1 else {}
    except (ValueError, TypeError):  # no date, or one with a time zone and one without
        return {}


class _Unchanged(Exception):
    """The kept file is what the server has."""


class _BrokenOff(Exception):
    """The transfer began and did not end."""


class _Refused(Exception):
    """The answer holds nothing that could be kept."""


def _partial(target: Path) -> Path:
    return target.with_name(f".partial-{target.name}")


def _origin(target: Path) -> Path:
    return target.with_name(f".origin-{target.name}")


def _growing(target: Path) -> str:
    return f".downloading-{target.name}-"


def _adopt(target: Path, temporary: Path) -> bool:
    """Take over the longest beginning of this file that no process writes: kept, or from a killed process.

    A living process writes at least every TIMEOUT seconds or gives up, so an older file has lost its writer.
    Of two processes that want the same beginning, only one can rename it.
    """
    dead = time.time() - 2 * TIMEOUT - 1
    others = [p for p in target.parent.glob(f"{_growing(target)}*") if p != temporary]
    old = [p for p in others if p.stat().st_mtime < dead]
    for found in sorted([p for p in (_partial(target), *old) if p.exists()], key=lambda p: -p.stat().st_size):
        try:
            os.replace(found, temporary)
            return True
        except FileNotFoundError:
            continue
    return False


class _Transfer:
    """Downloads the part of a file that is still missing.

    `unless` holds headers that ask for the file only if it has changed. Afterwards `ranges` tells whether
    the server can continue from the middle, `wrong` any fault found without a hash, `tag` the headers that
    will ask whether the file has changed.
    """

    def __init__(self, url: str, size: int | None, limit: int, unless: dict[str, str]):
        self.url, self.size, self.limit, self.unless = url, size, limit, unless
        self.ranges, self.wrong, self.tag = False, "", {}  # type: bool, str, dict[str, str]
        self._opener = _opener(_Pace())

    def run(self, out: FileIO) -> None:
        start = out.seek(0, os.SEEK_END)
        try:
            response = self._open(start)
        except urllib.error.HTTPError as error:
            if error.code == 304 and self.unless:
                raise _Unchanged from error
            # 416: the file has nothing from `start` on, so what was kept is not its beginning
            if error.code != 416 or not start:
                raise
            response = self._open(0)
        if start and response.status == 206 and not _is_rest(response, start):  # not the part asked for
            response.close()
            response = self._open(0)
        with response:
            continued = bool(start) and response.status == 206 and _is_rest(response, start)
            if response.status not in (200, None) and not continued:  # None: a file:// address
                raise _Refused(f"answers {response.status} {response.reason} without the whole file")
            if not continued:  # the whole file comes, even where a part was asked for
                out.truncate(0)
                start = 0
            self.ranges = continued or response.headers.get("Accept-Ranges") == "bytes"
            length = response.headers.get("Content-Length", "")
            told = start + int(length) if length.isdecimal() and len(length) < 19 else None
            self.tag = _tag(response.headers)
            if self.size and told not in (self.size, None):
                self.wrong = f"has {told} bytes, not the {self.size} expected"
                return
            if not self.size and told and told > self.limit:
                raise self._too_large(f"has {told:,} bytes")
            done = self._copy(response, out, start, told)
            if self.size and done > self.size:
                self.wrong = f"has more than the {self.size} bytes expected"
            elif not done:
                raise _Refused("sends nothing")

    def _copy(self, response: Any, out: FileIO, start: int, told: int | None) -> int:
        """Write what comes, up to a little more than is expected; returns the file's size."""
        done, expected, most = start, told or self.size, self.size or self.limit
        label = f"downloading {self.url.rsplit('/', 1)[-1]}"
        with tqdm(total=expected, initial=start, unit="B", unit_scale=True, desc=label) as bar:
            while done <= most and (told is None or done < told):  # an endless answer must not fill the disk
                try:
                    block = memoryview(response.read1(1 << 16 if told is None else min(1 << 16, told - done)))
                except (OSError, HTTPException) as error:
                    raise _BrokenOff(
                        f"{done} of {expected or '?'} bytes came, then {error or type(error).__name__}"
                    ) from error
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
        self.wrong = what  # so that nothing of it is kept
        return ValueError(
            f"{self.url} {what}, and at most {self.limit:,} bytes are taken where no size is stated: "
            "if that is meant, give download a max_bytes, or set LLMCORE_MAX_BYTES"
        )

    def _open(self, start: int):
        headers = {"Range": f"bytes={start}-"} if start else self.unless
        return self._opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)


class _Pace:
    """Stops a transfer that is too slow anywhere: in headers, chunk lengths, the file.

    TIMEOUT alone would not, because it starts again with every byte.
    """

    def __init__(self) -> None:
        self.since, self.count = clock(), 0

    def more(self, count: int) -> None:
        self.count += count
        seconds = clock() - self.since
        if seconds >= WINDOW:
            if self.count < SLOWEST * seconds:
                raise TimeoutError(
                    f"timed out: {self.count:,} bytes in {seconds:.0f} s, fewer than {SLOWEST:,} a second"
                )
            self.since, self.count = clock(), 0


class _Paced(io.RawIOBase):
    """A socket's bytes, reported to a _Pace as they come."""

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
    """A socket whose answers are read through _Paced."""

    def __init__(self, socket: Any, pace: _Pace):
        self._socket, self._pace = socket, pace

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Paced(self._socket.makefile("rb", buffering=0), self._pace))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _opener(pace: _Pace) -> urllib.request.OpenerDirector:
    """urllib's opener, with its redirects and proxies, over connections watched by a _Pace."""

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
    """Whether a 206 answer holds everything from `start` on.

    Its Content-Range is then bytes start-end/size with end + 1 = size, or * in place of an unknown size.
    """
    content_range = response.headers.get("Content-Range", "").strip()
    said = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content_range)
    return said is not None and int(said[1]) == start and (said[3] == "*" or int(said[2]) + 1 == int(said[3]))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
