"""BLAS on one thread, so that its results do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import scipy.linalg.cython_blas  # noqa: F401  (compiled kernels call this BLAS; it must be loaded to be limited)
from threadpoolctl import threadpool_limits

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit every loaded BLAS to one thread while the block runs.

    The limit holds for the whole process, and who leaves first would lift it for all: so of several threads of one
    process, such as fits that are tuned in parallel, one at a time is inside; the others wait. A thread that is inside
    may enter again.
    """
    with _ONE_AT_A_TIME, threadpool_limits(limits=1, user_api="blas"):
        yield
