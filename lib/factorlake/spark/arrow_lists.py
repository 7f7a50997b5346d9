"""Columns of equally long lists of numbers as matrices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def matrix(lists: pa.Array | pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """Return a column of lists as (n, width) float32. A chunked column may hold more numbers than one array can."""
    flat = pc.list_flatten(lists)
    whole = flat.to_numpy() if isinstance(flat, pa.ChunkedArray) else flat.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(whole, np.float32).reshape(-1, width)
