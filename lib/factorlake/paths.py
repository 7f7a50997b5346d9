"""Paths as people and platforms write them: of this machine, or with a scheme that Spark knows what to do with."""

from __future__ import annotations

import os
import re

# One letter before the colon is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/")


def has_scheme(path: str) -> bool:
    """Whether ``path`` names a store by a scheme (s3://b/a, dbfs:/a, file:/a): Spark's to open, not Python's."""
    return _SCHEME.match(path) is not None


def resolved(path: str) -> str:
    """Return a path made absolute; one with a scheme as it is."""
    return path if has_scheme(path) else os.path.abspath(path)
