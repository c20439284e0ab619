"""What a widget is told, checked in one place: numbers, texts, choices. The rest is a ValueError of name,
value, rule and remedy.
"""

import numbers
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np

NAME = 200  # characters of a name
LABEL = 80  # characters of a label; a longer one is cut and ends with …
BIG = 1e100  # squares of such numbers are still finite

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def brief(value: Any) -> str:
    """A value as a message can hold it, however large, in printable characters."""
    try:
        return plain(_SHORT.repr(value))
    except Exception:  # its own __repr__ fails, or an int has too many digits to be written
        return f"<{type(value).__name__}>"


def plain(text: str) -> str:
    """Text for a terminal: what is invisible there, or would steer it, is written as an escape.

    >>> plain("a\\x1b[31m\\u202eb")
    'a\\\\x1b[31m\\\\u202eb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def real(value: Any, name: str, least: float = -BIG, most: float = BIG, above: bool = False) -> int | float:
    """A finite number from least (or above it) to most, from Python, numpy, or a tensor without axes."""
    x = _scalar(value)
    if x is None or not (least < x if above else least <= x) or not x <= most:
        low = f"above {least:g}" if above else f"from {least:g}"
        raise ValueError(
            f"{name}={brief(value)}: give a finite number {low} {'and at most' if above else 'to'} {most:g}"
        )
    return x


def whole(value: Any, name: str, least: int = 0, most: int = 10**15) -> int:
    """An integer from least to most."""
    x = _scalar(value)
    if not isinstance(x, int) or not least <= x <= most:
        raise ValueError(f"{name}={brief(value)}: choose {least} to {most}, a whole number")
    return x


def _scalar(value: Any) -> int | float | None:
    """As Python has it, None where it is no number; bool is none, because True for a size or a rate is a
    slip.
    """
    try:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
            return None
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    except Exception:  # a tensor without numbers, a fraction beyond float
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


def text(value: Any, name: str, most: int = NAME) -> str:
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
    return str(value)  # no subclass, whose methods could do otherwise


def label(value: Any, name: str) -> str:
    """What names one place of an axis: any value as text, cut to LABEL characters."""
    try:
        given = str(value)
    except Exception as error:
        raise ValueError(
            f"{name}: a {type(value).__name__} in it has no text ({type(error).__name__}): pass texts"
        ) from error
    cut = given if len(given) <= LABEL else given[: LABEL - 1] + "…"
    return text(cut, name)


def items(values: Any, name: str, n: int | None = None, most: int = 10_000) -> list[Any]:
    """The items of a sequence: n of them, or 1 to `most`. A set or a mapping has no order and is refused."""
    if (
        isinstance(values, Set | Mapping)
        or not isinstance(values, Iterable)
        or getattr(values, "ndim", 1) == 0
    ):
        raise ValueError(f"{name}={brief(values)}: give a list")
    try:
        given = list(islice(values, (most if n is None else n) + 1))
    except Exception as error:
        raise ValueError(
            f"{name}={brief(values)} cannot be read ({type(error).__name__}): give a list"
        ) from error
    if n is not None and len(given) != n:
        count = (
            len(values)
            if isinstance(values, Sequence)
            else len(given)
            if len(given) < n
            else f"more than {n}"
        )
        raise ValueError(f"{name}={brief(values)} has {count} items: give {n}")
    if not given or len(given) > most:
        raise ValueError(
            f"{name}={brief(values)} has {len(given) or 'no'} items{' or more' * bool(given)}: "
            f"give 1 to {most}"
        )
    return given


def labels(values: Any, name: str, n: int | None = None) -> list[str]:
    """One label for each of n places."""
    return [label(x, name) for x in items(values, name, n)]


def named(values: Any, name: str, most: int) -> dict[str, Any]:
    """A mapping of 1 to `most` names to anything; a number as a name becomes text."""
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
    """Only finite numbers of at most `most` in size."""
    wrong = ~(np.abs(array) <= most)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}{list(at)} is {array[at]:g}: give finite numbers of at most {most:g} in size"
        )
    return array
