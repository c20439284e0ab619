"""Shared by the benchmarks: interleaved rounds, ratios of seconds, the description of the machine."""

import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

import torch

PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "tiktoken", "rustbpe", "sentencepiece")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def interleaved(
    work: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each, round after round, so that a slow minute of the machine meets all of them.

    Each round has an order of its own, drawn from a fixed seed: what one leaves in caches and in the heap
    then meets every other one.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    order = random.Random(0)
    for round_ in range(rounds + 1):
        for name in order.sample(list(work), len(work)):
            s = seconds(work[name], device)
            if round_:  # the first warms up
                taken[name].append(s)
    return taken


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a peer: the median over rounds of its seconds / ours, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> "Ratio":
        each = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0], each[0], each[0])
        return cls(statistics.median(each), low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def describe(device: torch.device) -> dict[str, str]:
    """The machine and the versions, for a reader of the results."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    except OSError:
        pass
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_cuda else f"{cpu}, {torch.get_num_threads()} threads",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
    }
