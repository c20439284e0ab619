"""Every shape that a signature of llmcore states is checked while the tests run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers is used with random weights only

import pytest
import torch
from jaxtyping import config, install_import_hook

install_import_hook("llmcore", "checked.check")
# one thread where the tests share the machine's cores among workers (pytest -n 2)
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(items):
    """The tests of the built book use one build and one browser: one worker runs them."""
    for item in items:
        if "tests/book" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("book"))


@pytest.fixture
def as_a_reader_calls_it():
    """Shape checks off, as for everyone outside these tests: what is raised is llmcore's own message."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
