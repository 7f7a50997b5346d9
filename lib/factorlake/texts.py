"""Texts that are read in Python and in Spark's columns alike: what white space is, and what a number is."""

from __future__ import annotations

import math
import re

SECRETS = (
    r"(?i)secret|token|passw|passphrase|credential|signature|bearer"
    r"|(?:access|account|api|private|shared|encryption|subscription|pseudonym)[._-]?key|(?:^|[._-])(?:sas|pwd|auth)(?:$|[._-])"
)
"""Found in names of what nobody may see: a pattern of Python's and of Java's alike."""
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + "\ufeff"
"""Spark's own trim knows the blank only; this is what Python's str.strip takes away, and the mark that files begin
with."""
NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""A whole text that is a number. Spark alone reads 5d, Python alone 1_000 and digits of other scripts. No two parts can
take the same digit: on a field of a million digits and a letter that would take hours."""
_NUMBER = re.compile(NUMBER)


def bare(text: str) -> str:
    """Return ``text`` without white space around it."""
    return text.strip(WHITE_SPACE)


def number_of(text: str) -> float | None:
    """Return the finite number that a text without white space around it is, else None."""
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
