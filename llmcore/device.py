"""The device on which the book computes, and one seed for every source of randomness."""

import os
import random

import numpy as np
import torch


def pick() -> torch.device:
    """cuda if there is one, else cpu; the environment variable LLMCORE_DEVICE, such as "cuda:1", overrides.

    Raises ValueError if it names no device, RuntimeError if that device is not available.
    """
    name = os.environ.get("LLMCORE_DEVICE", "")
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"LLMCORE_DEVICE={name!r} names no device: use cpu, cuda or cuda:0, or unset it"
        ) from error
    try:  # only a computation shows whether a device that has a name also works
        torch.empty(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RuntimeError(
            f"LLMCORE_DEVICE={name!r} is not available here ({str(error).splitlines()[0]}): use cpu"
        ) from error
    return device


def seed(number: int) -> None:
    """Seed python, numpy and torch (every device) with the same number."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the global state is what a reader's own code may use
    torch.manual_seed(number)
