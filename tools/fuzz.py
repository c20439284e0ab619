"""Fuzzing: the number of examples per test, bounds of time and memory, and damage to files and values.

python -m tools.fuzz [EXAMPLES]   runs the tests with so many examples in all (100,000) and prints the counts
"""

import contextlib
import copy
import functools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# examples of all tests of a file in `make test`; a test in each file checks the sum
TOTALS = {"test_fuzz": 2910, "test_fuzz_use": 537}
# by how much LLMCORE_FUZZ, the examples of all files, exceeds that
FACTOR = int(os.environ.get("LLMCORE_FUZZ", "0")) / sum(TOTALS.values()) or 1.0
SECONDS = 20  # of processor time, more than any example needs: it ends a hang
MEMORY = 1 << 30  # bytes that an example may allocate beyond what the process has

ASKED: Counter[str] = Counter()
RUN: Counter[str] = Counter()


def fuzz(examples: int, times: int = 1) -> Callable:
    """A decorator: the test gets a DataObject as `data`, and in `make test` this number of examples.

    times: the number of the test's parameters, each of which gets that many.
    """

    def wrap(test: Callable) -> Callable:
        ASKED[test.__module__] += examples * times

        @functools.wraps(test)
        def one(**arguments: Any) -> None:
            RUN[test.__name__] += 1
            with within(SECONDS), bounded():
                test(**arguments)

        plan = settings(
            max_examples=max(1, round(examples * FACTOR)),
            deadline=None,  # only a hang fails, in `within`: speed depends on the machine
            derandomize=FACTOR == 1.0,  # make test repeats the same examples, make fuzz draws new ones
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        return plan(given(data=st.data())(one))

    return wrap


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """AssertionError if the block takes more processor time, or ten times as much time on the clock."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"nothing came back within {seconds} s")

    clocks = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, 10 * seconds),
    )
    before = [signal.signal(number, stop) for number, _, _ in clocks]
    for _, clock, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


@contextlib.contextmanager
def bounded(extra: int = MEMORY) -> Iterator[None]:
    """MemoryError for an allocation of more than `extra` bytes beyond what the process has (Linux only)."""
    if not sys.platform.startswith("linux"):
        yield
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --------------------------------------------------------------------------------------------------
# damage

WEIRD = [
    None, True, False, -1, 0, 1, 3, 7, 255, 2**31, 2**60, 2**64, -(2**63), 1e308, 0.5,
    float("nan"), float("inf"), "", "x", "水", "\ud800", "../../etc/passwd", "(", "a" * 3000,
    [], {}, [[]], [None], {"": None}, [1, 2], {"a": {"a": {}}},
]  # fmt: skip
NUMBERS = [0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**33, 2**40, 2**60, 2**63 - 1, 2**64 - 1]


def changed_bytes(data: st.DataObject, whole: bytes, head: int = 0) -> bytes:
    """One to three kinds of damage to a file's bytes.

    A bit is flipped, a byte set, a piece removed, repeated or inserted, a huge number written, or the end cut
    off. head: half of the damage goes into that many bytes at the beginning.
    """
    out = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        near = data.draw(st.booleans()) if head else False
        end = min(head, len(out)) if near else len(out)
        at = data.draw(st.integers(0, max(0, end - 1)), label="at")
        ways = ["flip", "set", "remove", "repeat", "insert", "number", "cut"]
        how = data.draw(st.sampled_from(ways), label="how")
        n = data.draw(st.integers(1, 40), label="n")
        if how == "flip" and out:
            out[at] ^= 1 << (n % 8)
        elif how == "set" and out:
            out[at] = data.draw(st.integers(0, 255))
        elif how == "remove":
            del out[at : at + n]
        elif how == "repeat":
            out[at:at] = out[at : at + n]
        elif how == "insert":
            out[at:at] = data.draw(st.binary(max_size=40))
        elif how == "number":
            size = data.draw(st.sampled_from([4, 8]))
            value = data.draw(st.sampled_from([v for v in NUMBERS if v < 1 << (8 * size)]))
            out[at : at + size] = value.to_bytes(size, "little")
        elif how == "cut":
            del out[at:]
    return bytes(out)


def changed_tree(data: st.DataObject, whole: Any) -> Any:
    """A copy of a JSON value with one or two places removed, replaced, exchanged or doubled."""
    out = json.loads(json.dumps(whole))
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        box, key = None, None
        inside = out
        while isinstance(inside, dict | list) and inside:
            if box is not None and data.draw(st.integers(0, 2)) == 0:
                break
            keys = sorted(inside) if isinstance(inside, dict) else range(len(inside))
            box, key = inside, keys[data.draw(st.integers(0, len(keys) - 1), label="key")]
            inside = box[key]
        if box is None:
            return copy.deepcopy(data.draw(st.sampled_from(WEIRD), label="all"))
        ways = ["remove", "replace", "replace", "replace", "swap", "twice"]
        how = data.draw(st.sampled_from(ways), label="how")
        if how == "remove":
            del box[key]
        elif how == "replace":
            box[key] = copy.deepcopy(data.draw(st.sampled_from(WEIRD), label="value"))
        elif how == "swap":
            keys = list(box) if isinstance(box, dict) else list(range(len(box)))
            other = keys[data.draw(st.integers(0, len(keys) - 1))]
            box[key], box[other] = box[other], box[key]
        elif isinstance(box, dict):
            box[data.draw(st.sampled_from(["", "x", key + " ", "0"]))] = box[key]
        else:
            box.insert(key, box[key])
    return out


# --------------------------------------------------------------------------------------------------
# the long run


class Summary:
    """A pytest plugin that counts the examples that each test reports."""

    def __init__(self) -> None:
        self.run: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            counts = [n for name, n in report.user_properties if name == "examples"]
            self.run[report.nodeid.split("::")[-1]] += sum(counts)


def main(examples: int) -> int:
    os.environ["LLMCORE_FUZZ"] = str(examples)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    summary, start = Summary(), time.monotonic()
    tests = Path(__file__).resolve().parents[1] / "tests"
    files = [str(tests / f"{name}.py") for name in TOTALS]
    status = pytest.main(["-n", "2", "-q", *files], plugins=[summary])
    for name, n in sorted(summary.run.items()):
        print(f"{n:9,}  {name}")
    total = sum(summary.run.values())
    print(f"{total:9,}  examples in {time.monotonic() - start:,.0f} s; {examples:,} were asked for")
    if not status and total < examples:
        print(f"only {total:,} of {examples:,} examples were run")
        return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
