"""What the training loop knows of the data: sizes and blocks, not the ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorlake.types import RatingBlock, Side

from .parameters import AlsParameters
from .weighting import ridge_counts


@dataclass(frozen=True)
class SideLayout:
    """One side's rows: how they are cut into logical blocks, and what the loop needs of each row."""

    block_ptr: NDArray[np.int64]
    """(n_blocks + 1,) positions where blocks start; the last is the number of rows."""
    hashes: NDArray[np.int64]
    """(n_rows,) 64-bit hashes of the ids, which seed the initial factors."""
    counts: NDArray[np.int64]
    """(n_rows,) n of each row, as ``weighting.ridge_counts`` gives it."""

    @classmethod
    def of_blocks(cls, hashes: Sequence[NDArray[np.int64]], counts: Sequence[NDArray[np.int64]]) -> SideLayout:
        """Return the layout of one or more blocks from the hashes and counts of each block's rows."""
        block_ptr = np.zeros(len(hashes) + 1, np.int64)
        np.cumsum([len(part) for part in hashes], out=block_ptr[1:])
        return cls(block_ptr, np.concatenate(hashes), np.concatenate(counts))

    @property
    def n_rows(self) -> int:
        return int(self.block_ptr[-1])

    def slices(self) -> list[slice]:
        """Return the rows of each block, in block order."""
        return [slice(first, last) for first, last in pairwise(self.block_ptr.tolist())]


@dataclass(frozen=True)
class AlsProblem:
    """Sizes and layouts of one training run."""

    users: SideLayout
    items: SideLayout
    n_obs: int
    rating_sum: float
    """Σ r over all observations, the start of μ; used with biases only."""

    def side(self, side: Side) -> SideLayout:
        return self.users if side == "user" else self.items


def describe(
    user_blocks: Sequence[RatingBlock], item_blocks: Sequence[RatingBlock], parameters: AlsParameters
) -> AlsProblem:
    """Return the problem that blocks held in memory make.

    Blocks must be in order of ``first_row`` and cover each side's rows without a gap.
    """
    rating_sum = 0.0
    for block in user_blocks:
        rating_sum += float(block.n_obs if block.values is None else np.sum(block.values, dtype=np.float64))
    return AlsProblem(
        users=_layout(user_blocks, parameters),
        items=_layout(item_blocks, parameters),
        n_obs=sum(block.n_obs for block in user_blocks),
        rating_sum=rating_sum,
    )


def _layout(blocks: Sequence[RatingBlock], parameters: AlsParameters) -> SideLayout:
    return SideLayout.of_blocks(
        [block.hashes for block in blocks], [ridge_counts(block, parameters) for block in blocks]
    )
