"""Array types and the few records that every layer shares. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.floating]
FloatVector = NDArray[np.floating]
IntVector = NDArray[np.integer]

Side = Literal["user", "item"]
SIDES: tuple[Side, Side] = ("user", "item")
Objective = Literal["implicit", "explicit", "frobenius"]
Solver = Literal["auto", "cg", "subspace", "exact"]
PlanName = Literal["auto", "local", "broadcast", "shuffle"]


@dataclass(frozen=True)
class RatingBlock:
    """The ratings of one logical block of rows (users or items), compressed by row.

    ``row_ptr`` (n_rows + 1, int64) and ``neighbours`` (n_obs, int32: positions on the other side, ascending
    within a row). ``values`` (n_obs, float32) holds r, or is None when every r is 1.
    ``first_row`` is the position of the block's first row on its own side; ``hashes`` (n_rows, int64) are the
    64-bit hashes of the rows' ids, which seed their initial factors.
    """

    first_row: int
    row_ptr: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    values: NDArray[np.float32] | None
    hashes: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        return len(self.row_ptr) - 1

    @property
    def n_obs(self) -> int:
        return len(self.neighbours)
