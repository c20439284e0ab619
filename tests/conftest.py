"""Every shape that a signature of llmcore states is checked while the tests run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # transformers is used with random weights only

import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

install_import_hook("llmcore", "checked.check")
# one thread where the tests share the machine's cores among workers (pytest -n 2)
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
# an example that takes longer on a busy machine is no fault
settings.register_profile("llmcore", deadline=None)
settings.load_profile("llmcore")


# tests that make something costly once, run by one worker: the built book, its browser, Colab's environment
TOGETHER = ("tests/pages/", "tests/test_colab.py::test_a_chapter_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Two workers take the tests as they come, each group of TOGETHER to one of them.

    The mark xdist_group says the same, but from pytest 9.2 on pytest-xdist 3.8 no longer sees it
    (its issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return Groups(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture
def as_a_reader_calls_it():
    """Shape checks off, as for everyone outside these tests: what is raised is llmcore's own message."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
