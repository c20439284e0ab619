"""Every shape that a signature of llmcore states is checked while the tests run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers is used with random weights only

import pytest
import torch
from jaxtyping import config, install_import_hook

install_import_hook("llmcore", "checked.check")
torch.set_num_threads(2)


@pytest.fixture
def as_a_reader_calls_it():
    """Shape checks off, as for everyone outside these tests: what is raised is llmcore's own message."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
