"""The roofline: a machine's measured speed, and the limit it sets to a computation  [Williams et al. 2009]

A computation makes some operations and moves some bytes between memory and processor. It takes at least as
long as either does alone. Their ratio, operations per byte, is its arithmetic intensity. Below the machine's
own ratio, the ridge, memory sets the pace.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmcore.accounting import training_flops
from llmcore.config import ModelConfig
from llmcore.quantities import amount, count


@dataclass(frozen=True)
class Cost:
    """A computation's floating-point operations, and the bytes that must at least move to and from memory.

    Raises ValueError for a number below 0, and for no bytes.
    """

    flops: float
    bytes: float

    def __post_init__(self) -> None:
        amount(zero=True, flops=self.flops)
        amount(bytes=self.bytes)

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def product(m: int, k: int, n: int, bytes_per_number: int = 4) -> Cost:
    """(m, k) @ (k, n): 2 m k n operations; both factors are read once, the result is written once.

    With one row there are 2 operations for the 4 bytes of a weight.

    >>> product(6, 4, 4), round(product(1, 768, 3072).intensity, 3)
    (Cost(flops=192, bytes=256), 0.499)
    """
    count(m=m, k=k, n=n, bytes_per_number=bytes_per_number)
    return Cost(2 * m * k * n, bytes_per_number * (m * k + k * n + m * n))


@dataclass(frozen=True)
class Machine:
    """The two roofs: operations per second of a large product, bytes per second read from memory."""

    flops: float
    bandwidth: float

    def __post_init__(self) -> None:
        amount(flops=self.flops, bandwidth=self.bandwidth)

    @property
    def ridge(self) -> float:
        """The intensity, in operations per byte, above which computing takes longer than fetching."""
        return self.flops / self.bandwidth

    def rate(self, intensity: float) -> float:
        """The most operations per second at this intensity: min(flops, intensity * bandwidth)

        >>> Machine(flops=100e9, bandwidth=20e9).rate(0.5) / 1e9
        10.0
        """
        amount(zero=True, intensity=intensity)
        return min(self.flops, intensity * self.bandwidth)

    def seconds(self, cost: Cost) -> float:
        """The least time that a computation of this cost can take: the longer of computing and fetching."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth)


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of several runs, after one that warms up: other load can only make a run slower.

    On CUDA the clock is read when the device has finished. On a CPU with one thread, time is that thread's
    own working time, without other programs; with several threads it is wall-clock time.
    """
    count(repeats=repeats)
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = math.inf
    for run in range(repeats + 1):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run:  # run 0 warms up
            best = min(best, clock() - start)
    return best


def measure(device: torch.device, dtype: torch.dtype = torch.float32) -> Machine:
    """Measure both roofs: by a large square product in this type, and by the sum of a large fp32 tensor."""
    n = 8192 if device.type == "cuda" else 1024 * min(2, torch.get_num_threads())
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    # x, of 256 MiB, or 1 GiB on CUDA, is larger than the usual caches
    out, x = torch.empty_like(a), torch.ones(1 << (28 if device.type == "cuda" else 26), device=device)
    flops = 2 * n**3 / best_seconds(lambda: torch.mm(a, b, out=out), device)
    return Machine(flops, x.nbytes / best_seconds(lambda: x.sum(), device))


def mfu(config: ModelConfig, B: int, T: int, seconds: float, flops_per_second: float) -> float:
    """Model FLOPs utilisation: a training step's operations over those that the machine could do in the time

    Recomputed operations do not count; the whole square of scores does  [Chowdhery et al. 2022, appendix B]
    """
    amount(seconds=seconds, flops_per_second=flops_per_second)
    return training_flops(config, B, T) / seconds / flops_per_second
