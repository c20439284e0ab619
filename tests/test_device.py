"""The device is the one asked for, or a clear error."""

import random

import numpy as np
import pytest
import torch

from llmcore import device


def test_cpu_can_be_forced(monkeypatch):
    monkeypatch.setenv("LLMCORE_DEVICE", "cpu")
    assert device.pick() == torch.device("cpu")


def test_without_the_variable_it_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.delenv("LLMCORE_DEVICE", raising=False)
    assert device.pick().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_misspelt_or_missing_is_named(monkeypatch):
    monkeypatch.setenv("LLMCORE_DEVICE", "gpu")
    with pytest.raises(ValueError, match="LLMCORE_DEVICE='gpu' names no device"):
        device.pick()
    monkeypatch.setenv("LLMCORE_DEVICE", "cuda:99")
    with pytest.raises(RuntimeError, match="LLMCORE_DEVICE='cuda:99' is not available here"):
        device.pick()


def test_a_seed_repeats_every_draw():
    def draw():
        device.seed(3)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()
