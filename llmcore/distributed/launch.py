"""A function, written in a notebook cell perhaps, run by several processes of this machine at once.

launch starts one process that imports torch, which then forks into the ranks: a launch costs one import
however many ranks there are. The ranks meet through a file, not a port. What crosses between this process
and the ranks is pickled (cloudpickle, so that functions of a notebook can go): our own values, read from a
folder that only this user can open.
"""

import contextlib
import ctypes
import faulthandler
import io
import json
import math
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

POLL = 0.01  # seconds between two looks at the ranks
GATHER = 0.1  # after the first failure: time for the ranks that fail with it to say so
END = 5.0  # for the server to end what the ranks have started
LONGEST = 10.0 * 365 * 86400  # torch's own timeouts overflow somewhere above


class RankError(RuntimeError):
    """A rank raised, hung or was killed; the message holds its traceback, `rank` its number."""

    def __init__(self, rank: int, message: str):
        super().__init__(message)
        self.rank = rank


def launch(fn: Callable[..., Any], ranks: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Run fn(*args) on every rank: [what rank 0 returned, what rank 1 returned, ...]

    Each rank is a process inside torch.distributed: by gloo, with one thread per rank, or by nccl, with one
    device per rank, where there are as many CUDA devices as ranks (device() says which). What a rank prints
    is printed here when all have ended, rank after rank. Results should lie on the CPU.

    Raises RankError with the traceback of the rank that raised, was killed or exited: the others are ended
    at once. A call that has not returned after `timeout` seconds (math.inf: no limit) is a hang: all are
    ended, and the error shows where each rank stood. ValueError for another number of ranks or timeout,
    OSError on a system without fork.

    No process, port or folder is left behind, also when this process is interrupted or killed: a process
    between it and the ranks sees that, ends them and removes their folder. On Linux that holds for whatever
    the ranks have started, in sessions of its own too; elsewhere a process that has left the ranks' session
    stays. Where the process between is itself killed, the ranks end (on Linux), but processes that left
    their session stay, and if this process is killed with it, so does the folder.
    """
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"ranks={ranks!r}: at least one process must run; pass a whole number from 1")
    if not timeout > 0:  # nan is refused too
        raise ValueError(f"timeout={timeout}: must be above 0 seconds; math.inf waits without limit")
    if not hasattr(os, "fork"):
        raise OSError(
            "launch forks, which this system cannot: use Linux, macOS or WSL, or start a script with torchrun"
        )
    with tempfile.TemporaryDirectory(prefix="llmcore-ranks-") as name:
        folder = Path(name)
        (folder / "task").write_bytes(cloudpickle.dumps((fn, args)))
        (folder / "call.json").write_text(
            json.dumps({"path": sys.path, "ranks": ranks, "timeout": timeout, "caller": os.getpid()})
        )
        code = (
            f"import sys, json; call = json.load(open({str(folder / 'call.json')!r}))\n"
            "sys.path[:] = call.pop('path')\n"
            f"from llmcore.distributed.launch import _serve; _serve({name!r}, **call)"
        )
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}
        with (folder / "noise").open("wb") as noise:
            server = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=noise,
                stderr=noise,
                start_new_session=True,
                env=environment,
            )
        try:
            # the server itself keeps the time; this is for a machine that cannot even import torch
            server.wait(None if math.isinf(timeout) else timeout + 60)
        except subprocess.TimeoutExpired:
            raise RankError(0, f"the ranks could not be started within {timeout + 60:.0f} s") from None
        finally:
            _end(server)
        return _collect(folder, ranks, server.returncode)


def _end(server: subprocess.Popen) -> None:
    """Ask the server to end all that the ranks have started, by closing its input; then make sure of it."""
    assert server.stdin is not None
    server.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(END)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def device() -> torch.device:
    """The device of this rank: its own CUDA device under nccl, else the CPU."""
    on_cuda = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_cuda else torch.device("cpu")


def _collect(folder: Path, ranks: int, status: int) -> list[Any]:
    """Results by rank, with what was printed; or the RankError that the server's verdict describes."""
    verdict = folder / "verdict.json"
    if not verdict.exists():
        how = f"exited with status {status}"
        if status < 0:
            how = f"ended by signal {-status} ({signal.Signals(-status).name})"
        raise RankError(0, f"the process that starts the ranks was {how}:\n{_read(folder / 'noise')[-4000:]}")
    failed = json.loads(verdict.read_text())
    if failed:
        raise RankError(failed["rank"], failed["message"])
    results = []
    for rank in range(ranks):
        result, printed = pickle.loads((folder / f"result-{rank}").read_bytes())
        for line in printed.splitlines():
            print(f"[rank {rank}] {line}")
        results.append(result)
    return results


def _serve(name: str, ranks: int, timeout: float, caller: int) -> None:
    """The process between: forks the ranks, watches them, and writes the verdict: {} or {rank, message}."""
    folder = Path(name)
    # whatever the ranks start, in whatever session, becomes this process's child when its parent ends
    _process_control(PR_SET_CHILD_SUBREAPER, 1)
    # unpickled before the fork: what the function imports is imported once
    task = pickle.loads((folder / "task").read_bytes())
    if "llmcore.optim" in sys.modules:
        import torch._dynamo  # noqa: F401 - an optimizer's first step imports it, on every rank
    server, numbers = os.getpid(), {}
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            _be(folder, rank, ranks, timeout, task, server)
        numbers[child] = rank
    end = time.monotonic() + timeout
    failed: dict[int, str] = {}
    while numbers and not failed:
        time.sleep(POLL)
        failed = _ended(folder, numbers)
        if failed:
            time.sleep(GATHER)
            failed |= _ended(folder, numbers)
        elif time.monotonic() > end:
            failed = _late(folder, numbers, timeout)
        elif os.getppid() != caller or (select.select([0], [], [], 0)[0] and not os.read(0, 1)):
            _end_all(numbers)  # whoever called launch is gone, or was interrupted
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)
    _end_all(numbers)
    verdict = _verdict(folder, failed) if failed else {}
    (folder / "verdict.tmp").write_text(json.dumps(verdict))
    os.rename(folder / "verdict.tmp", folder / "verdict.json")
    if os.getppid() != caller:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _late(folder: Path, numbers: dict[int, int], timeout: float) -> dict[int, str]:
    """Let the ranks that have not returned write where they stand; blames the first of them."""
    first, *others = sorted(numbers.values())
    _signal(numbers, signal.SIGUSR1)  # faulthandler writes the stack
    time.sleep(0.5)
    stacks = "\n".join(f"rank {r} stood at:\n{_read(folder / f'stack-{r}')}" for r in (first, *others))
    late = f"rank {first} had not returned after {timeout:g} s (nor had {others}): all were ended"
    return {first: f"{late}\n\n{stacks}"}


def _ended(folder: Path, numbers: dict[int, int]) -> dict[int, str]:
    """Take the ranks that have ended out of `numbers`; those that failed, with how ("" where they raised)."""
    failed = {}
    for child, rank in list(numbers.items()):
        done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            continue
        del numbers[child]
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            by = f"ended by signal {number} ({signal.Signals(number).name})"
            failed[rank] = f"rank {rank} was {by}; the others were ended"
        elif (folder / f"error-{rank}").exists():
            failed[rank] = ""
        elif not (folder / f"result-{rank}").exists():
            early = f"exited with status {os.WEXITSTATUS(status)} before its function returned"
            failed[rank] = f"rank {rank} {early}; the others were ended"
    return failed


def _end_all(numbers: dict[int, int]) -> None:
    """Kill the ranks and, on Linux, all that they have started: orphans become children of this process."""
    _signal(numbers, signal.SIGKILL)
    until = time.monotonic() + END / 2
    while time.monotonic() < until:
        for child in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # there is none left
        time.sleep(POLL)


def _children() -> list[int]:
    """This process's children as Linux lists them; elsewhere none, and `_end` kills the ranks' session."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, parent = status.read_text().rpartition(")")[2].split()[:2]  # pid (name) state parent ...
            if int(parent) == os.getpid():
                found.append(int(status.parent.name))
    return found


PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def _process_control(option: int, value: int) -> None:
    """Linux's prctl; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, *(ctypes.c_ulong(x) for x in (value, 0, 0, 0)))


def _verdict(folder: Path, failed: dict[int, str]) -> dict[str, Any]:
    """The rank to blame: one that a signal ended, that exited or hung, else the one that raised first."""
    errors = {r: json.loads(_read(folder / f"error-{r}")) for r in failed if not failed[r]}
    told = [r for r in failed if failed[r]]
    rank = told[0] if told else min(errors, key=lambda r: errors[r]["time"])
    message = failed[rank] or f"rank {rank} raised; the others were ended\n\n{errors[rank]['text']}"
    if rank in told and "stood at" not in message:
        message += f"\n\n{_read(folder / f'noise-{rank}')[-2000:]}"
    return {"rank": rank, "message": message}


def _be(
    folder: Path, rank: int, ranks: int, timeout: float, task: tuple[Callable[..., Any], tuple], server: int
) -> None:
    """The life of a rank. It ends by os._exit: the rest of the server's program must not run in the child."""
    status = 1
    try:
        _process_control(PR_SET_PDEATHSIG, signal.SIGKILL)  # a rank does not outlive the server
        if os.getppid() != server:
            os._exit(1)
        noise = os.open(folder / f"noise-{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        faulthandler.register(signal.SIGUSR1, (folder / f"stack-{rank}").open("w"))
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        torch.set_num_threads(1)
        _join(folder, rank, ranks, timeout)
        fn, args = task
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = fn(*args)
        dist.barrier()  # nobody leaves while another still reads from it
        (folder / f"result-{rank}").write_bytes(cloudpickle.dumps((result, printed.getvalue())))
        dist.destroy_process_group()
        status = 0
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        temporary = folder / f"error-{rank}.tmp"
        temporary.write_text(json.dumps({"time": time.monotonic(), "text": text}))
        os.rename(temporary, folder / f"error-{rank}")
    finally:
        os._exit(status)


def _join(folder: Path, rank: int, ranks: int, timeout: float) -> None:
    """Make torch's process group: nccl where each rank has a CUDA device of its own, else gloo."""
    wanted = os.environ.get("LLMCORE_DEVICE", "cuda")
    on_cuda = torch.cuda.device_count() >= ranks and wanted.startswith("cuda")
    if on_cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=dist.FileStore(str(folder / "store"), ranks),
        rank=rank,
        world_size=ranks,
        # longer than the server's own, which says where each rank stood
        timeout=timedelta(seconds=min(timeout + 30, LONGEST)),
    )


def _signal(numbers: dict[int, int], number: int) -> None:
    for child in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
