"""Cutting ratings into logical blocks on one machine; the Spark layer follows the same rules with columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.initial import hash_ids
from factorlake.types import FloatVector, IntVector, RatingBlock

TOY_OBSERVATIONS = 200_000
TOY_BLOCKS, USUAL_BLOCKS = 8, 64
OBSERVATIONS_PER_BLOCK = 4_000_000


def number_of_blocks(n_observed: int) -> int:
    """Return the number of logical blocks of each side, a power of two fixed by the data alone.

    8 for toys, 64 up to 256 million observations, then as many as keep a block near four million.
    """
    if n_observed < TOY_OBSERVATIONS:
        return TOY_BLOCKS
    needed = -(-n_observed // OBSERVATIONS_PER_BLOCK)
    return max(USUAL_BLOCKS, 1 << (needed - 1).bit_length())


def block_of(hashes: NDArray[np.int64], n_blocks: int) -> NDArray[np.int64]:
    """Return each row's block: the leading bits of its signed 64-bit hash, counted from 0."""
    bits = n_blocks.bit_length() - 1
    if bits == 0:
        return np.zeros(len(hashes), np.int64)
    return (hashes >> np.int64(64 - bits)) + n_blocks // 2


def order_ids(ids: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct ids by (signed xxhash64, id), and their hashes in that order."""
    distinct = sorted(set(ids))
    hashes = hash_ids(distinct)
    order = np.argsort(hashes, kind="stable")  # stable: equal hashes stay in order of id
    return [distinct[place] for place in order], hashes[order]


def blocks_from_arrays(
    rows: IntVector,
    neighbours: IntVector,
    values: FloatVector | None,
    hashes: NDArray[np.int64],
    n_blocks: int,
) -> list[RatingBlock]:
    """Return one side's blocks from ratings in any order.

    Parameters
    ----------
    rows, neighbours : (n_obs,) positions on this side and on the other. Each pair at most once.
    values : (n_obs,) ratings, or None when every rating is 1.
    hashes : (n_rows,) ascending hashes of this side's ids; every row has at least one rating.

    Raises
    ------
    ConfigError : hashes are not ascending.
    """
    if len(hashes) and np.any(np.diff(hashes) < 0):
        raise ConfigError("positions must follow the ids' hashes; number the ids by order_ids")
    order = np.lexsort((neighbours, rows))
    row_ptr = np.zeros(len(hashes) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(hashes)), out=row_ptr[1:])
    sorted_neighbours = np.asarray(neighbours)[order].astype(np.int32)
    sorted_values = None if values is None else np.asarray(values)[order].astype(np.float32)
    ends = np.searchsorted(block_of(hashes, n_blocks), np.arange(n_blocks + 1))
    blocks = []
    for first, last in pairwise(ends.tolist()):
        if first == last:
            continue
        part = slice(row_ptr[first], row_ptr[last])
        own = None if sorted_values is None else sorted_values[part]
        blocks.append(
            RatingBlock(
                first_row=first,
                row_ptr=row_ptr[first : last + 1] - row_ptr[first],
                neighbours=sorted_neighbours[part],
                values=None if own is None or bool(np.all(own == 1)) else own,
                hashes=hashes[first:last],
            )
        )
    return blocks
