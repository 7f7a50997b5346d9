"""Ids of any type as numbers in the ids' own order. No Spark is imported here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def sorted_codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Return each value's place among the distinct values in ascending order, −1 for null, and these values.

    Text ascends by its bytes, as in Spark.
    """
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    # The place after the last, which is that of null, is asked for by −1.
    place = np.full(len(order) + 1, -1, np.int64)
    place[order] = np.arange(len(order))
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    return place[codes], encoded.dictionary.take(pa.array(order))
