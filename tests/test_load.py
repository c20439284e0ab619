"""Memory does not grow with the text: what is read, encoded and trained on goes through piece by piece.
`make load` takes 50 MB."""

import sys

import pytest

from tools.load import MB, grown, measure


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "darwin",
    reason="without Linux's shared pages the process's own memory cannot be told apart",
)
def test_five_times_the_text_takes_no_more_memory():
    assert not grown(measure(10 * MB), measure(50 * MB), 40 * MB)
