"""The type checker of the tests: a whole number is a float too, as Python's own typing has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
