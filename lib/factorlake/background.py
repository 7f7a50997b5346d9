"""Modules that take seconds to import, imported while the JVM works."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType

# Seconds after which an importing thread hands the interpreter over. A thread that talks to the JVM waits for it at
# every answer, thousands of times a job; with Python's own 5 ms an import would hold that thread up for longer than it
# takes.
HAND_OVER = 0.0002


def import_beside(name: str) -> Future[ModuleType]:
    """Import a module in a thread of its own, and return what will be the module, or the error of importing it."""

    def load() -> ModuleType:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(HAND_OVER)
        try:
            return importlib.import_module(name)
        finally:
            sys.setswitchinterval(interval)

    thread = ThreadPoolExecutor(1, f"import {name}")
    imported = thread.submit(load)
    thread.shutdown(wait=False)
    return imported
