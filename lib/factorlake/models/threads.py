"""BLAS on one thread, so that its results do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy  # noqa: F401  (it and SciPy load the BLAS that is limited here)
import scipy.linalg.cython_blas  # noqa: F401  (compiled kernels call this one)
from threadpoolctl import ThreadpoolController

_ONE_AT_A_TIME = threading.RLock()
# To look through all that the process has loaded takes a millisecond, and tasks come here once for every block.
_BLAS = ThreadpoolController().select(user_api="blas")


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit NumPy's and SciPy's BLAS to one thread while the block runs.

    The limit holds for the whole process, and who leaves first would lift it for all: so of several threads of one
    process, such as fits that are tuned in parallel, one at a time is inside; the others wait. A thread that is inside
    may enter again.
    """
    with _ONE_AT_A_TIME, _BLAS.limit(limits=1):
        yield
