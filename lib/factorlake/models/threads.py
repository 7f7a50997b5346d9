"""BLAS on one thread, so that its results do not depend on the number of cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import scipy.linalg.cython_blas  # noqa: F401  (compiled kernels call this BLAS; it must be loaded to be limited)
from threadpoolctl import threadpool_limits


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit every loaded BLAS to one thread while the block runs. The limit holds for the whole process."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
