"""Checks on numbers that a caller gives: a count of things, an amount of something. Needs no torch.

The ValueError names the number and the rule, and thereby the remedy. NaN breaks every rule.
"""

import math
from numbers import Integral, Real


def count(least: int = 1, **values: float) -> None:
    """Each value must be a whole number of at least `least`.

    >>> count(layers=2.5)
    Traceback (most recent call last):
    ValueError: layers=2.5: must be a whole number, of at least 1
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r}: must be a whole number, of at least {least}")
        if value < least:
            raise ValueError(f"{name}={value!r}: must be at least {least}")


def amount(zero: bool = False, **values: float) -> None:
    """Each value must be a finite number above 0; zero=True allows 0 too.

    >>> amount(seconds=float("nan"))
    Traceback (most recent call last):
    ValueError: seconds=nan: must be a finite number above 0
    """
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, Real)
            or not (0 <= value < math.inf)
            or (value == 0 and not zero)
        ):
            raise ValueError(
                f"{name}={value!r}: must be a finite number {'of at least' if zero else 'above'} 0"
            )
