"""Modules that take seconds to import, imported while the JVM works."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import ModuleType

# Seconds after which an importing thread hands the interpreter over. A thread that talks to the JVM waits for it at
# every answer, thousands of times a job; with Python's own 5 ms an import would hold that thread up for longer than it
# takes.
HAND_OVER = 0.0002

_LOCK = threading.Lock()
# How many imports go on, and the interval that was there before the first of them.
_going = [0, 0.0]


def import_beside(name: str) -> Future[ModuleType]:
    """Import a module in a thread of its own, and return what will be the module, or the error of importing it. A
    process that ends does not wait for it."""
    imported: Future[ModuleType] = Future()

    def load() -> None:
        try:
            with _handing_over():
                module = importlib.import_module(name)
        except BaseException as error:
            imported.set_exception(error)
        else:
            imported.set_result(module)

    threading.Thread(target=load, name=f"import {name}", daemon=True).start()
    return imported


@contextmanager
def _handing_over() -> Iterator[None]:
    with _LOCK:
        if not _going[0]:
            _going[1] = sys.getswitchinterval()
            sys.setswitchinterval(HAND_OVER)
        _going[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _going[0] -= 1
            if not _going[0]:
                sys.setswitchinterval(_going[1])
