"""Ratings cut into cells, user group by item group, and the strata that train cells without shared rows together.

With d groups on each side, stratum s pairs user group g with item group (g + s) mod d: its d cells share no row, so
they may be trained at the same time, by anybody, with the same result. Groups are ranges of positions, which follow the
hashes of ids, so what lies in a cell depends on the data and d alone.

Source: Gemulla, Nijkamp, Haas, Sismanis, KDD 2011, section 4 (stratified SGD).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import DataRefusedError
from factorlake.evaluation.splits import hash_split
from factorlake.kernels.sgd import CellRatings, draw_key
from factorlake.types import RatingBlock, Side

from .sgd_parameters import SgdParameters

_VALIDATION = -1
"""Sets the hash of the validation cells apart from other splits by the same seed."""


class CellTotals(NamedTuple):
    """What the driver knows of a cell. Sums and bounds are of the ratings to train on."""

    n_training: int
    n_held_out: int
    rating_sum: float
    low: float
    high: float


class Scale(NamedTuple):
    """Ratings are trained as (r − low)/range."""

    low: float
    range: float


NO_SCALE = Scale(0.0, 1.0)


@dataclass(frozen=True)
class Cell:
    """The ratings of one user group and one item group, ascending by (user, item)."""

    training: CellRatings
    held_out: CellRatings

    def scaled(self, scale: Scale) -> Cell:
        """Return the cell with its ratings as they are trained."""
        return Cell(_scaled(self.training, scale), _scaled(self.held_out, scale))


def group_ptr(n_rows: int, strata: int) -> NDArray[np.int64]:
    """Return the (strata + 1,) positions where the groups of a side start; the last is the number of rows."""
    return n_rows * np.arange(strata + 1, dtype=np.int64) // strata


def stratum(number: int, strata: int) -> list[tuple[int, int]]:
    """Return the (user group, item group) pairs of one stratum, by user group."""
    return [(group, (group + number) % strata) for group in range(strata)]


@dataclass(frozen=True)
class SgdProblem:
    """Sizes of one training, and what is known of its cells."""

    user_ptr: NDArray[np.int64]
    item_ptr: NDArray[np.int64]
    """(d + 1,) positions where groups start."""
    totals: tuple[CellTotals, ...]
    """Of cell (g, h) at g·d + h."""

    def __post_init__(self) -> None:
        if not self.n_training:
            raise DataRefusedError(
                f"all {self.n_held_out} ratings were drawn for validation, none is left to train on; "
                "lower the validation_share"
            )

    @property
    def strata(self) -> int:
        return len(self.user_ptr) - 1

    @cached_property
    def n_training(self) -> int:
        return sum(one.n_training for one in self.totals)

    @cached_property
    def n_held_out(self) -> int:
        return sum(one.n_held_out for one in self.totals)

    @cached_property
    def mean(self) -> float:
        """Mean rating, of sums added in the order of cells."""
        total = 0.0
        for one in self.totals:
            total += one.rating_sum
        return total / self.n_training

    @cached_property
    def low(self) -> float:
        return min(one.low for one in self.totals)

    @cached_property
    def high(self) -> float:
        return max(one.high for one in self.totals)

    def ptr(self, side: Side) -> NDArray[np.int64]:
        return self.user_ptr if side == "user" else self.item_ptr

    def number(self, cell: tuple[int, int]) -> int:
        """Return a cell's place among all."""
        return cell[0] * self.strata + cell[1]

    def cells(self) -> Iterator[tuple[int, int]]:
        """Yield the cells that have a rating, in order."""
        for number, one in enumerate(self.totals):
            if one.n_training or one.n_held_out:
                yield divmod(number, self.strata)

    def scale(self, parameters: SgdParameters) -> Scale:
        """Return the scale that training takes place on. Where all ratings are equal the range is 1."""
        if parameters.scaling == "none":
            return NO_SCALE
        return Scale(self.low, (self.high - self.low) or 1.0)


def chosen_for_validation(
    user_hashes: NDArray[np.int64], item_hashes: NDArray[np.int64], parameters: SgdParameters
) -> NDArray[np.bool_]:
    """Return which ratings are held out for validation, by the hashes of their users and items, each (n,)."""
    return hash_split(user_hashes, item_hashes, parameters.validation_share, validation_seed(parameters))


def validation_seed(parameters: SgdParameters) -> int:
    """Return the seed by which `hash_split` holds ratings out for validation."""
    return _signed(draw_key(parameters.seed, _VALIDATION))


def cells_of_group(
    blocks: Sequence[RatingBlock],
    first: int,
    last: int,
    item_ptr: NDArray[np.int64],
    item_hashes: NDArray[np.int64],
    parameters: SgdParameters,
) -> list[Cell]:
    """Return the cells of the user group with positions from ``first`` to ``last``, one for each item group.

    Parameters
    ----------
    blocks : user blocks in order, among them all that have a row of the group.
    item_hashes : (n_items,) hashes of the item ids by position.
    """
    rows, columns, values, hashes = [], [], [], []
    for block in blocks:
        begin, end = (min(max(one - block.first_row, 0), block.n_rows) for one in (first, last))
        if begin == end:
            continue
        part = slice(int(block.row_ptr[begin]), int(block.row_ptr[end]))
        own = np.repeat(np.arange(begin, end), np.diff(block.row_ptr[begin : end + 1]))
        rows.append((own + (block.first_row - first)).astype(np.int32))
        columns.append(block.neighbours[part])
        values.append(np.ones(len(own), np.float32) if block.values is None else block.values[part])
        hashes.append(block.hashes[own])
    if not rows:
        nothing = CellRatings(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
        return [Cell(nothing, nothing)] * (len(item_ptr) - 1)
    row, column, value = np.concatenate(rows), np.concatenate(columns), np.concatenate(values)
    group = np.searchsorted(item_ptr, column, side="right") - 1
    held_out = chosen_for_validation(np.concatenate(hashes), item_hashes[column], parameters)
    # Few kinds: a counting sort of 16-bit keys.
    kind = (2 * group + held_out).astype(np.int16)
    order = np.argsort(kind, kind="stable")
    ends = np.searchsorted(kind[order], np.arange(2 * len(item_ptr) - 1))
    own_column = (column - item_ptr[group]).astype(np.int32)
    found = CellRatings(row[order], own_column[order], value[order])
    parts = [
        CellRatings(found.rows[begin:end], found.columns[begin:end], found.values[begin:end])
        for begin, end in pairwise(ends.tolist())
    ]
    return [Cell(training, held) for training, held in zip(parts[::2], parts[1::2], strict=True)]


def totals_of(cell: Cell) -> CellTotals:
    """Return what the driver is told of a cell."""
    values = cell.training.values
    return CellTotals(
        n_training=len(values),
        n_held_out=len(cell.held_out.values),
        rating_sum=float(np.sum(values, dtype=np.float64)),
        low=float(np.min(values, initial=np.inf)),
        high=float(np.max(values, initial=-np.inf)),
    )


def _scaled(ratings: CellRatings, scale: Scale) -> CellRatings:
    if scale == NO_SCALE:
        return ratings
    values = (ratings.values.astype(np.float64) - scale.low) / scale.range
    return ratings._replace(values=values.astype(np.float32))


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits
