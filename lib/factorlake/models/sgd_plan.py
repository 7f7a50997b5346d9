"""What training by stochastic gradients asks of the place where cells and rows lie, and the plan of one machine.

The loop names the cells of a stratum; a plan brings each cell's rows to it, calls ``train_cell``, and holds the rows
that come out. Rows never depend on who worked on which cell when, so they are equal bit for bit in every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.sgd import (
    CellRatings,
    GradientRows,
    adam_cell,
    bias_column,
    cell_errors,
    draw_key,
    drawn_order,
    first_rows,
    sgd_cell,
)
from factorlake.types import SIDES, FloatMatrix, RatingBlock, Side

from .plan import ArrayRows, Rows
from .sgd_cells import Cell, Scale, SgdProblem, cells_of_group, group_ptr, totals_of
from .sgd_parameters import SgdParameters

T = TypeVar("T")
State = TypeVar("State")
"""The rows of both sides as a plan holds them while they are trained."""
Held = TypeVar("Held", bound=Rows, covariant=True)
"""The rows of one side of the finished model."""


@dataclass(frozen=True)
class CellTask:
    """What is done with cells."""

    parameters: SgdParameters
    scale: Scale
    mean: float
    """μ on the scale of training."""
    bounds: tuple[float, float]
    """What predictions are held within, on that scale."""
    epoch: int


@dataclass(frozen=True)
class CellErrors:
    """Sums of one cell on the scale of training; of ratings to train on, then of those held out."""

    training: NDArray[np.float64]
    """(4,) as `kernels.sgd.cell_errors` tells them."""
    held_out: NDArray[np.float64]


class SgdPlan(Protocol[State, Held]):
    """Where cells and rows lie and who works on them. Work may run twice, and in any order."""

    problem: SgdProblem

    def start(self, parameters: SgdParameters) -> State:
        """Make the rows training starts from (``group_rows`` of each group)."""

    def train(self, task: CellTask, cells: Sequence[tuple[int, int]], state: State) -> State:
        """Train cells that share no row by `train_cell`. The state that was given must not be used again, unless it
        was ``kept``."""

    def errors(self, task: CellTask, state: State) -> list[CellErrors]:
        """Return `errors_of_cell` of each of the problem's cells, in order."""

    def kept(self, state: State) -> State:
        """Return the same rows, which later training does not touch."""

    def finish(self, task: CellTask, state: State) -> tuple[Held, Held]:
        """Return the rows of users and of items as the model has them (``finished_rows`` of each group)."""


def group_rows(side: Side, hashes: NDArray[np.int64], parameters: SgdParameters) -> GradientRows:
    """Return the rows that training of a group starts from."""
    return first_rows(
        side,
        hashes,
        parameters.rank,
        parameters.biases,
        seed=parameters.seed,
        deviation=parameters.deviation,
        moments=parameters.optimizer == "adam",
        dtype=parameters.dtype,
    )


def train_cell(task: CellTask, number: int, ratings: CellRatings, users: GradientRows, items: GradientRows) -> None:
    """Take the steps of one epoch over a cell, in an order drawn from (seed, epoch, number of the cell).

    Parameters
    ----------
    number : of the cell, among all.
    ratings : to train on, on the scale of training.
    users, items : rows of the cell's groups, which are moved in place.
    """
    parameters = task.parameters
    order = drawn_order(len(ratings.values), draw_key(parameters.seed, task.epoch, number))
    rate = parameters.learning_rate_of(task.epoch)
    columns = parameters.columns("user"), parameters.columns("item")
    if parameters.optimizer == "sgd":
        sgd_cell(users, items, ratings, order, task.mean, rate, *columns)
    else:
        adam_cell(users, items, ratings, order, task.mean, parameters.adam._replace(learning_rate=rate), *columns)


def errors_of_cell(task: CellTask, cell: Cell, users: FloatMatrix, items: FloatMatrix) -> CellErrors:
    """Return the sums of a cell, whose ratings are on the scale of training; ``users`` and ``items`` are the parameters
    of its groups' rows."""
    columns = task.parameters.columns("user"), task.parameters.columns("item")
    training, held_out = (
        cell_errors(users, items, ratings, task.mean, task.bounds, *columns)
        for ratings in (cell.training, cell.held_out)
    )
    return CellErrors(training, held_out)


def finished_rows(task: CellTask, side: Side, parameters: FloatMatrix) -> NDArray[np.float32]:
    """Return (factors, then the bias where there is one) in the unit of ratings, rounded to float32 once: products of
    factors, and biases, grow with the range."""
    rank, wide = task.parameters.rank, parameters.astype(np.float64)
    rows = np.empty((len(parameters), task.parameters.width), np.float32)
    rows[:, :rank] = wide[:, :rank] * np.sqrt(task.scale.range)
    if task.parameters.biases:
        rows[:, rank] = wide[:, bias_column(side, rank)] * task.scale.range
    return rows


def epoch_order(parameters: SgdParameters, epoch: int) -> list[int]:
    """Return the strata in the order in which an epoch trains them."""
    return drawn_order(parameters.strata, draw_key(parameters.seed, epoch)).tolist()


@dataclass(frozen=True)
class LocalRows:
    """Rows in memory, by group."""

    users: list[GradientRows]
    items: list[GradientRows]


class LocalSgdPlan:
    """Cells and rows in memory; the cells of a stratum are trained by threads. Use as a context manager, so that the
    threads end with it."""

    def __init__(
        self,
        user_blocks: Sequence[RatingBlock],
        item_hashes: NDArray[np.int64],
        parameters: SgdParameters,
        threads: int = 1,
    ) -> None:
        self._hashes: dict[Side, NDArray[np.int64]] = {
            "user": np.concatenate([block.hashes for block in user_blocks]),
            "item": item_hashes,
        }
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="cell")
        strata = parameters.strata
        user_ptr, item_ptr = (group_ptr(len(self._hashes[side]), strata) for side in SIDES)

        def cut(group: int) -> list[Cell]:
            first, last = int(user_ptr[group]), int(user_ptr[group + 1])
            return cells_of_group(user_blocks, first, last, item_ptr, item_hashes, parameters)

        cells = [cell for of_group in self._pool.map(cut, range(strata)) for cell in of_group]
        self.problem = SgdProblem(user_ptr, item_ptr, tuple(totals_of(cell) for cell in cells))
        scale = self.problem.scale(parameters)
        self._cells = [cell.scaled(scale) for cell in cells]

    def start(self, parameters: SgdParameters) -> LocalRows:
        """See ``SgdPlan``."""

        def rows_of(side: Side) -> list[GradientRows]:
            bounds = pairwise(self.problem.ptr(side).tolist())
            hashes = [self._hashes[side][first:last] for first, last in bounds]
            return list(self._pool.map(lambda own: group_rows(side, own, parameters), hashes))

        return LocalRows(rows_of("user"), rows_of("item"))

    def train(self, task: CellTask, cells: Sequence[tuple[int, int]], state: LocalRows) -> LocalRows:
        """See ``SgdPlan``."""

        def train(cell: tuple[int, int]) -> None:
            number = self.problem.number(cell)
            own, other = state.users[cell[0]], state.items[cell[1]]
            train_cell(task, number, self._cells[number].training, own, other)

        self._each(train, cells)
        return state

    def errors(self, task: CellTask, state: LocalRows) -> list[CellErrors]:
        """See ``SgdPlan``."""

        def ask(cell: tuple[int, int]) -> CellErrors:
            users, items = state.users[cell[0]].parameters, state.items[cell[1]].parameters
            return errors_of_cell(task, self._cells[self.problem.number(cell)], users, items)

        return self._each(ask, list(self.problem.cells()))

    def kept(self, state: LocalRows) -> LocalRows:
        """See ``SgdPlan``. Moments are left out: what is kept is not trained on."""
        users, items = (
            [one._replace(parameters=one.parameters.copy()) for one in side] for side in (state.users, state.items)
        )
        return LocalRows(users, items)

    def finish(self, task: CellTask, state: LocalRows) -> tuple[ArrayRows, ArrayRows]:
        """See ``SgdPlan``."""
        users, items = (
            ArrayRows(
                np.concatenate([finished_rows(task, side, group.parameters) for group in groups]),
                self.problem.ptr(side),
            )
            for side, groups in zip(SIDES, (state.users, state.items), strict=True)
        )
        return users, items

    def _each(self, work: Callable[[tuple[int, int]], T], cells: Sequence[tuple[int, int]]) -> list[T]:
        """Call ``work`` for each cell, the fullest first; tell in order of the cells."""
        totals = self.problem.totals
        order = sorted(range(len(cells)), key=lambda place: -totals[self.problem.number(cells[place])].n_training)
        running = {place: self._pool.submit(work, cells[place]) for place in order}
        return [running[place].result() for place in range(len(cells))]

    def __enter__(self) -> LocalSgdPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
