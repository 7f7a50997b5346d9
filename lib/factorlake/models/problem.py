"""What training knows of the data beside the ratings: sizes, and what each block's rows are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorlake.types import RatingBlock, Side

from .parameters import AlsParameters
from .weighting import ridge_counts


@dataclass(frozen=True)
class RowBlock:
    """The rows of one logical block of one side: all that is known of them but their numbers."""

    first_row: int
    hashes: NDArray[np.int64]
    """(n_rows,) 64-bit hashes of the ids, which seed the initial factors."""
    counts: NDArray[np.int64]
    """(n_rows,) n of each row, as ``weighting.ridge_counts`` gives it."""

    @property
    def n_rows(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True)
class SideLayout:
    """One side's rows in memory, cut into logical blocks."""

    block_ptr: NDArray[np.int64]
    """(n_blocks + 1,) positions where blocks start; the last is the number of rows."""
    hashes: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of_blocks(cls, hashes: Sequence[NDArray[np.int64]], counts: Sequence[NDArray[np.int64]]) -> SideLayout:
        """Return the layout of one or more blocks from the hashes and counts of each block's rows."""
        block_ptr = np.zeros(len(hashes) + 1, np.int64)
        np.cumsum([len(part) for part in hashes], out=block_ptr[1:])
        return cls(block_ptr, np.concatenate(hashes), np.concatenate(counts))

    @property
    def n_rows(self) -> int:
        return int(self.block_ptr[-1])

    def blocks(self) -> Iterator[RowBlock]:
        """Yield the blocks in order."""
        for first, last in pairwise(self.block_ptr.tolist()):
            yield RowBlock(first, self.hashes[first:last], self.counts[first:last])


@dataclass(frozen=True)
class AlsProblem:
    """Sizes of one training run."""

    n_users: int
    n_items: int
    n_obs: int
    rating_sum: float
    """Σ r over all observations, the start of μ; used with biases only."""

    def n_rows(self, side: Side) -> int:
        return self.n_users if side == "user" else self.n_items


def layout_of(blocks: Sequence[RatingBlock], parameters: AlsParameters) -> SideLayout:
    """Return the layout of one side's blocks, which are in order of ``first_row`` and cover its rows without a gap."""
    return SideLayout.of_blocks(
        [block.hashes for block in blocks], [ridge_counts(block, parameters) for block in blocks]
    )


def rating_sum(block: RatingBlock) -> float:
    """Return Σ r over one block. The sum of a side is taken over its blocks in block order."""
    return float(block.n_obs if block.values is None else np.sum(block.values, dtype=np.float64))
