"""Cutting ratings into logical blocks on one machine; the Spark layer follows the same rules with columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, RepeatedPairsError
from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.packing import CompressedRows, compress_rows, repeated_pair, transpose_rows
from factorlake.types import IntVector, RatingBlock

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


def cut_blocks(compressed: CompressedRows, hashes: NDArray[np.int64], n_blocks: int) -> list[RatingBlock]:
    """Return one side's blocks from its compressed ratings.

    Parameters
    ----------
    compressed : rows in the order of ``order_ids``; every row has at least one rating.
    hashes : (n_rows,) ascending hashes of this side's ids.

    The blocks look into the arrays that are given; nothing is copied but row pointers. Logical blocks without a row
    are left out.

    Raises
    ------
    ConfigError : hashes are not ascending.
    """
    # Compared, not subtracted: two hashes may lie further apart than a signed 64-bit number can say.
    if np.any(hashes[1:] < hashes[:-1]):
        raise ConfigError("positions must follow the ids' hashes; number the ids by order_ids")
    row_ptr = compressed.row_ptr
    ends = np.searchsorted(block_of(hashes, n_blocks), np.arange(n_blocks + 1))
    blocks = []
    for first, last in pairwise(ends.tolist()):
        if first == last:
            continue
        part = slice(row_ptr[first], row_ptr[last])
        values = None if compressed.values is None else compressed.values[part]
        blocks.append(
            RatingBlock(
                first_row=first,
                row_ptr=row_ptr[first : last + 1] - row_ptr[first],
                neighbours=compressed.neighbours[part],
                values=None if values is None or bool(np.all(values == 1)) else values,
                hashes=hashes[first:last],
            )
        )
    return blocks


def pack_positions(
    users: IntVector,
    items: IntVector,
    values: NDArray[np.float32] | None,
    user_hashes: NDArray[np.int64],
    item_hashes: NDArray[np.int64],
    threads: int = 1,
) -> tuple[list[RatingBlock], list[RatingBlock]]:
    """Return the user blocks and item blocks of ratings in any order.

    Parameters
    ----------
    users, items : (n_obs,) positions in the order of ``order_ids``; each has at least one rating.
    values : (n_obs,) ratings, or None when every rating is 1.
    threads : how many share the work; changes no number.

    Raises
    ------
    RepeatedPairsError : a pair occurs twice.
    """
    n_blocks = number_of_blocks(len(users))
    by_user = compress_rows(users, items, values, len(user_hashes), len(item_hashes), threads)
    repeats = repeated_pair(by_user)
    if repeats is not None:
        raise RepeatedPairsError(
            f"{repeats[0]} pairs occur more than once, first the one of user row {repeats[1]} and item row "
            f"{repeats[2]}; combine their ratings first"
        )
    by_item = transpose_rows(by_user, len(item_hashes), threads)
    return cut_blocks(by_user, user_hashes, n_blocks), cut_blocks(by_item, item_hashes, n_blocks)
