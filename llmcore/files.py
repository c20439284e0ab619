"""Files written whole or not at all, and errors that name the file or folder and say what to do."""

import codecs
import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

FULL = "the disk is full: make room there, or choose another folder, and start again"
LARGE = "the file is larger than is allowed there: raise the limit (ulimit -f), or choose another folder"
CLOSED = "it may not be written: give yourself the right to write there, or choose another folder"
REMEDIES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: LARGE,
    errno.EROFS: CLOSED,
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
}
MARKS = {  # longer marks first: UTF-16's is the beginning of UTF-32's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# errors that a parser raises for wrong contents, besides ValueError
GARBLED = (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A disk error in this block becomes an OSError of the same number, which names `path` and a remedy.

    >>> with writing("runs/a"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    OSError: runs/a cannot be written, the disk is full: make room there, or choose another folder,
        and start again
    """
    try:
        yield
    except BaseException as error:  # the error class of torch.distributed.checkpoint is no Exception
        number = _number(error)
        if number is None:
            raise
        kind = type(OSError(number, ""))  # PermissionError for EACCES, and so on
        remedy = REMEDIES.get(number, f"{os.strerror(number)}: choose another folder")
        told = kind(f"{path} cannot be written, {remedy}")
        told.errno = number
        raise told from error


@contextlib.contextmanager
def reading(
    path: str | Path, *also: type[BaseException], remedy: str = "get or write it again"
) -> Iterator[None]:
    """Errors that wrong contents of a file cause in this block become one ValueError that names the file.

    `also`: further errors that the block's libraries raise. A device out of memory is not the file's fault.

    >>> with reading("config.json"):
    ...     {}["d_model"]
    Traceback (most recent call last):
    ValueError: config.json lacks or garbles 'd_model': get or write it again
    """
    try:
        yield
    except (*GARBLED, *also) as error:  # type: ignore[misc]
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ValueError(f"{path} lacks or garbles {error}: {remedy}") from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}; {remedy}") from error


def check_writable(folder: str | Path) -> None:
    """Make the folder and, for a moment, a small file in it; OSError if that fails."""
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses: path.3f2a….tmp. A killed process leaves its file."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Make the folder and lock it against other processes that ask for it; BlockingIOError if one holds it.

    The system releases the lock when the process ends, however it ends; the empty file .lock stays. One
    process may hold the lock several times over.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # one lock object per folder, for all threads of the process: so it can be taken again
        lock = FileLock(folder.resolve() / ".lock", is_singleton=True, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise BlockingIOError(
                f"another process is at work in {folder}: wait until it has ended, or choose another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _number(error: BaseException) -> int | None:
    """The errno of a failed write: safetensors gives it in words, torch.distributed.checkpoint by rank.

    None for any other error, and for one that `writing` has already reworded.
    """
    if isinstance(error, OSError):
        return None if "cannot be written, " in str(error) else error.errno
    for failed, _ in getattr(error, "failures", {}).values():
        if isinstance(failed, OSError):
            return failed.errno
    said = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(said.group(1)) if said else None


def write_whole(path: str | Path, text: str) -> None:
    """Write under another name, then rename: the file is the old one or the new one, never half of it."""
    path = Path(path)
    temporary = temporary_name(path)
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def text_of(content: bytes, where: str | Path) -> str:
    """The text of UTF-8 bytes, without the byte order mark with which some programs begin a file.

    >>> text_of(b"\\xef\\xbb\\xbfab", "a.txt")
    'ab'
    """
    bare = content.removeprefix(codecs.BOM_UTF8)
    try:
        return bare.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(where, content[:4], len(content) - len(bare) + error.start) from error


def not_utf8(where: str | Path, beginning: bytes, at: int) -> ValueError:
    """The error for a text whose byte `at` is not UTF-8; names the encoding that a byte order mark shows."""
    named = next((name for mark, name in MARKS.items() if beginning.startswith(mark)), None)
    if named:
        return ValueError(f"{where} is {named} by its byte order mark, not UTF-8; convert the file first")
    return ValueError(f"{where}, byte {at}: not UTF-8; convert the file first")
