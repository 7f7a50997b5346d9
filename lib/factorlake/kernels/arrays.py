"""One layout for every array that enters a compiled kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Sums may be reordered into vector lanes and products fused; NaN and infinity keep their meaning, so that a
# bad value stays visible in the result. Which order the compiler chose depends on the row alone, not on its
# block.
FAST_SUMS = {"reassoc", "contract", "arcp", "nsz"}


def read_only(array: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return a C-contiguous read-only view (a copy only where dtype or layout differ).

    A compiled kernel is specialised by mutability too: arrays mapped from a file are read-only, arrays from
    memory are not. Through this one door every plan runs the same machine code.
    """
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct integers of an array of any shape, ascending; none of none.

    np.unique hashes where it is only asked for the values (NumPy 2.4), which takes a hundred times as long as sorting
    some millions of integers.
    """
    ordered = np.sort(values, axis=None)
    if not len(ordered):
        return ordered
    return ordered[np.append(True, ordered[1:] != ordered[:-1])]
