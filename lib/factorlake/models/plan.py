"""What a plan must do for the training loop, and the part that plans share whose rows the driver holds.

The loop never touches a row: it says what shall be done with the rows of each logical block, by pure functions, and
adds what they tell in block order. Where rows lie and who calls the functions is the plan's business. So factors are
equal bit for bit in every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, Side

from .half_step import BlockSums, HalfStepTask
from .problem import AlsProblem, RowBlock, SideLayout


class Rows(Protocol):
    """One side's rows as a plan holds them. They never change: a half step makes new ones."""

    def blocks(self) -> Iterator[FloatMatrix]:
        """Yield the rows of each logical block, in block order; one block at a time need be in memory."""

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """Return the rows at some positions."""

    def whole(self) -> FloatMatrix:
        """Return all rows in memory."""


R = TypeVar("R", bound=Rows)
T = TypeVar("T")
NewRows = Callable[..., tuple[FloatMatrix, T]]
"""(block, rows of the block as held, ...) → (its new rows, what to tell of them)."""
Look = Callable[..., T]
"""(block, rows of the block as held, ...) → what to tell of them."""


class Plan(Protocol[R]):
    """How the rows of both sides are held and worked on. All work may run twice, and in any order."""

    problem: AlsProblem

    def map_rows(self, side: Side, work: NewRows[T], *held: R) -> tuple[R, list[T]]:
        """Make new rows of one side, block by block, from none or several of its rows; tell in block order."""

    def look(self, side: Side, work: Look[T], *held: R) -> list[T]:
        """Ask something of one side's rows, block by block; tell in block order."""

    def half_step(self, task: HalfStepTask, fixed: R, own: R | None) -> tuple[R, list[BlockSums]]:
        """Solve the rows of ``task.side`` against the other side's; ``own`` are its present rows, where asked for."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows in one array."""

    array: FloatMatrix
    block_ptr: NDArray[np.int64]
    """(n_blocks + 1,) where logical blocks start."""

    def blocks(self) -> Iterator[FloatMatrix]:
        for first, last in pairwise(self.block_ptr.tolist()):
            yield self.array[first:last]

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        return self.array[positions]

    def whole(self) -> FloatMatrix:
        return self.array


class DriverRows:
    """The part of a plan that works on rows in the driver's memory, one block after the other."""

    def __init__(self, problem: AlsProblem, users: SideLayout, items: SideLayout) -> None:
        self.problem = problem
        self.layouts: dict[Side, SideLayout] = {"user": users, "item": items}

    def hold(self, side: Side, array: FloatMatrix) -> ArrayRows:
        """Return an array (n, columns) of one side as this plan holds rows."""
        return ArrayRows(array, self.layouts[side].block_ptr)

    def map_rows(self, side: Side, work: NewRows[T], *held: ArrayRows) -> tuple[ArrayRows, list[T]]:
        """See ``Plan``."""
        made = self.look(side, work, *held)
        return self.hold(side, joined([rows for rows, _ in made])), [told for _, told in made]

    def look(self, side: Side, work: Look[T], *held: ArrayRows) -> list[T]:
        """See ``Plan``."""

        def ask(block: RowBlock) -> T:
            return work(block, *(rows.array[block.first_row : block.first_row + block.n_rows] for rows in held))

        return self.each(ask, list(self.layouts[side].blocks()))

    def each(self, work: Callable[[RowBlock], T], blocks: Sequence[RowBlock]) -> list[T]:
        """Call ``work`` for each block; tell in block order."""
        return [work(block) for block in blocks]


def joined(parts: Sequence[FloatMatrix]) -> FloatMatrix:
    """Return the rows of one or more blocks as one array."""
    return np.concatenate(parts)
