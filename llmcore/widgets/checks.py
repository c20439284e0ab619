"""The checks of a widget's arguments: numbers, texts, choices, lists.

Each returns the checked value as plain Python, or raises a ValueError of name, value, rule and remedy.
"""

import numbers
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np

MOST_NAME = 200  # characters of a name
MOST_LABEL = 80  # characters of a label; a longer one is cut and ends with …
BIG = 1e100  # squares and products of numbers up to here are still finite

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def brief(value: Any) -> str:
    """A value for an error message: cut short, however large it is, and in printable characters."""
    try:
        return plain(_SHORT.repr(value))
    except Exception:  # the value's own __repr__ fails, or an int has more digits than Python writes
        return f"<{type(value).__name__}>"


def plain(text: str) -> str:
    """Text for a terminal: a character that is invisible or would steer the terminal becomes an escape.

    >>> plain("a\\x1b[31m\\u202eb")
    'a\\\\x1b[31m\\\\u202eb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def real(value: Any, name: str, least: float = -BIG, most: float = BIG, above: bool = False) -> int | float:
    """A finite number from least (or above it) to most, from Python, numpy, or a tensor without axes."""
    x = _scalar(value)
    if x is None or not (least < x if above else least <= x) or not x <= most:
        span = f"above {least:g} and at most {most:g}" if above else f"from {least:g} to {most:g}"
        raise ValueError(f"{name}={brief(value)}: give a finite number {span}")
    return x


def whole(value: Any, name: str, least: int = 0, most: int = 10**15) -> int:
    """An integer from least to most."""
    x = _scalar(value)
    if not isinstance(x, int) or not least <= x <= most:
        raise ValueError(f"{name}={brief(value)}: choose {least} to {most}, a whole number")
    return x


def _scalar(value: Any) -> int | float | None:
    """The value as an int or a float, or None for anything else.

    A bool counts as no number: True for a size or a rate is a slip.
    """
    try:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
            return None
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    except Exception:  # a tensor on the meta device, a fraction beyond float64
        return None


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={brief(value)}: give True or False")
    return bool(value)


def one_of(value: Any, name: str, known: Collection[str]) -> str:
    """One of the known names."""
    if not isinstance(value, str) or value not in known:
        names = ", ".join(map(repr, islice(known, 12)))
        raise ValueError(f"{name}={brief(value)} is unknown: choose one of {plain(names)}")
    return value


def text(value: Any, name: str, most: int = MOST_NAME) -> str:
    """A text of at most `most` characters that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"{name}={brief(value)}: give a text, such as str(x)")
    if len(value) > most:
        raise ValueError(f"{name}={brief(value)} has {len(value)} characters, more than {most}: shorten it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name}={brief(value)} holds half of a surrogate pair, which no page can hold: "
            "pass text.encode('utf-8', 'replace').decode()"
        ) from None
    return str(value)  # not a subclass of str, whose methods may do something else


def label(value: Any, name: str) -> str:
    """The name of one place on an axis: any value as text, cut to MOST_LABEL characters."""
    try:
        given = str(value)
    except Exception as error:
        raise ValueError(
            f"{name}: a {type(value).__name__} in it has no text ({type(error).__name__}): pass texts"
        ) from error
    cut = given if len(given) <= MOST_LABEL else given[: MOST_LABEL - 1] + "…"
    return text(cut, name)


def items(values: Any, name: str, n: int | None = None, most: int = 10_000) -> list[Any]:
    """The items of a sequence: n of them, or 1 to `most`. A set or a mapping has no order and is refused."""
    ordered = isinstance(values, Iterable) and not isinstance(values, Set | Mapping)
    if not ordered or getattr(values, "ndim", 1) == 0:
        raise ValueError(f"{name}={brief(values)}: give a list")
    try:
        given = list(islice(values, (most if n is None else n) + 1))
    except Exception as error:
        raise ValueError(
            f"{name}={brief(values)} cannot be read ({type(error).__name__}): give a list"
        ) from error
    if n is not None and len(given) != n:
        count = len(given) if len(given) < n else f"more than {n}"  # of an iterator only n + 1 were read
        count = len(values) if isinstance(values, Sequence) else count
        raise ValueError(f"{name}={brief(values)} has {count} items: give {n}")
    if not given or len(given) > most:
        count = f"{len(given)} items or more" if given else "no items"
        raise ValueError(f"{name}={brief(values)} has {count}: give 1 to {most}")
    return given


def labels(values: Any, name: str, n: int | None = None) -> list[str]:
    """One label for each of n places."""
    return [label(x, name) for x in items(values, name, n)]


def named(values: Any, name: str, most: int) -> dict[str, Any]:
    """A mapping from 1 to `most` names to any values; an integer key becomes text."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"no {name}: {brief(values)} names none; give 1 to {most} as {{name: ...}}")
    if len(values) > most:
        raise ValueError(f"{len(values)} {name} are more than {most}: show fewer")
    out = {text(str(k) if isinstance(k, int) else k, f"a name of {name}"): v for k, v in values.items()}
    if len(out) != len(values):
        raise ValueError(f"{name}={brief(values)}: two names read the same; make them differ")
    return out


def pair(values: Any, name: str) -> tuple[int | float, int | float]:
    """Two finite numbers."""
    a, b = items(values, name, 2)
    return real(a, name), real(b, name)


def finite(array: np.ndarray, name: str, most: float = BIG) -> np.ndarray:
    """The array, all of whose numbers are finite and of absolute value at most `most`."""
    wrong = ~(np.abs(array) <= most)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}{list(at)} is {array[at]:g}: give finite numbers of at most {most:g} in size"
        )
    return array
