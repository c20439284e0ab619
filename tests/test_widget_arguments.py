"""Careless, heavy and hostile arguments of each widget: accepted, or refused by a ValueError of ours."""

import json
import re
import traceback

import pytest
from widget_cases import EXAMPLES, called, careless, makers, parameters

import llmcore
from llmcore.widgets.base import MOST_BYTES

# control characters, halves of surrogate pairs, and characters that change the direction of the text
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
HERE = llmcore.__path__[0]
every = pytest.mark.parametrize("make", makers(), ids=called)


def no_constant(name: str):
    raise AssertionError(f"{name} is no JSON")


def state_of(figure: str) -> dict:
    """The state in a figure, read by a strict JSON parser."""
    data = re.search(r'<script type="application/json">(.*)</script></figure>$', figure, re.DOTALL).group(1)
    assert len(data.encode()) <= MOST_BYTES + data.count("\\u003c") * 5
    return json.loads(data, parse_constant=no_constant)


def attempt(make, arguments, what):
    """The widget, or the ValueError that refused it."""
    try:
        return make(**arguments), None
    except ValueError as error:
        return None, error
    except Exception as error:
        raise AssertionError(f"{called(make)}, {what}: {type(error).__name__}: {error}") from error


def test_every_argument_has_an_example():
    assert set(EXAMPLES) == set(makers())
    for make, example in EXAMPLES.items():
        assert list(example) == parameters(make), called(make)
        state_of(make(**example).figure())


@pytest.mark.slow
@every
def test_an_argument_is_right_or_refused(make, as_a_reader_calls_it):
    """Each argument in turn, and a place inside it, gets each odd value."""
    refused = 0
    for what, arguments in careless(make):
        widget, error = attempt(make, arguments, what)
        if widget is not None:
            state_of(widget.figure())
            assert len(repr(widget)) < 2000, what
            assert not UNSEEN.search(repr(widget)), what
        else:
            refused += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            assert last.filename.startswith(HERE), f"{what}: {error} is no message of ours"
            assert 15 < len(str(error)) < 700, f"{what}: {error}"
            assert not UNSEEN.search(str(error)), what
    assert refused > 10 * len(parameters(make))


def test_what_is_set_later_is_checked_when_it_is_shown():
    make = makers()[0]
    widget = make(**EXAMPLES[make])
    widget.state = {**widget.state, "rule": float("nan")}
    with pytest.raises(ValueError, match="no page can read"):
        widget.figure()
