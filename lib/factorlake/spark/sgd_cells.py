"""Cells and rows of groups as files of the workspace, and the plan that trains them in Spark tasks, a job a stratum.

A task maps its cell, reads the rows of the cell's two groups, trains them, and writes them whole under new names; the
driver holds sizes, sums and names. What is done with a cell is what the local plan does, on the same numbers, so rows
are equal bit for bit.

Source: Gemulla, Nijkamp, Haas, Sismanis, KDD 2011, section 4 (distributed SGD).
"""

from __future__ import annotations

import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.kernels.sgd import CellRatings, GradientRows
from factorlake.models.sgd_cells import Cell, CellTotals, SgdProblem, cells_of_group, group_ptr, totals_of
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.models.sgd_plan import CellErrors, CellTask, errors_of_cell, finished_rows, group_rows, train_cell
from factorlake.spark.file_packing import PackedFiles, ids_path
from factorlake.spark.stored_blocks import StoredBlock
from factorlake.spark.stored_rows import StoredRows, new_folder, rows_file
from factorlake.spark.task_farm import mapped, run_balanced, save_array, whole_file
from factorlake.types import SIDES, Side


class _GroupFile:
    """A file with the rows of one group. It goes when nothing refers to this object any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        weakref.finalize(self, _remove, path)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredGroups:
    """Rows of both sides while they are trained, a file a group. They never change: training makes new files."""

    users: tuple[_GroupFile, ...]
    items: tuple[_GroupFile, ...]


@dataclass(frozen=True)
class _Group:
    """A group of rows of one side."""

    number: int
    n_rows: int


class SparkSgdPlan:
    """Train cells in Spark tasks that share nothing but files under ``folder``, which must stay as long as the model is
    used."""

    def __init__(
        self, spark: SparkSession, folder: str, problem: SgdProblem, block_ptr: dict[Side, NDArray[np.int64]]
    ) -> None:
        self.spark = spark
        self.folder = folder
        self.problem = problem
        self._block_ptr = block_ptr
        self._rows = new_folder(folder)

    def start(self, parameters: SgdParameters) -> StoredGroups:
        """See ``SgdPlan``."""
        folder, block_ptr = self.folder, self._block_ptr
        made = {side: [self._fresh(side, group) for group in range(self.problem.strata)] for side in SIDES}
        jobs = [
            ((side, int(first), int(last), made[side][group].path), int(last - first))
            for side in SIDES
            for group, (first, last) in enumerate(pairwise(self.problem.ptr(side)))
        ]

        def make(job: tuple[Side, int, int, str]) -> None:
            side, first, last, path = job
            hashes = _hashes(folder, side, block_ptr[side], first, last)
            _save_rows(path, group_rows(side, hashes, parameters))

        run_balanced(self.spark, jobs, make)
        return StoredGroups(tuple(made["user"]), tuple(made["item"]))

    def train(self, task: CellTask, cells: Sequence[tuple[int, int]], state: StoredGroups) -> StoredGroups:
        """See ``SgdPlan``."""
        folder, totals = self.folder, self.problem.totals
        users, items = list(state.users), list(state.items)
        jobs = []
        for group, other in cells:
            read = users[group].path, items[other].path
            users[group], items[other] = self._fresh("user", group), self._fresh("item", other)
            number = self.problem.number((group, other))
            n_training = totals[number].n_training
            jobs.append(((number, n_training, *read, users[group].path, items[other].path), n_training))

        def train(job: tuple[int, int, str, str, str, str]) -> None:
            number, n_training, user_path, item_path, new_users, new_items = job
            own, other = _load_rows(user_path), _load_rows(item_path)
            cell = _load_cell(folder, number, n_training).scaled(task.scale)
            train_cell(task, number, cell.training, own, other)
            _save_rows(new_users, own)
            _save_rows(new_items, other)

        run_balanced(self.spark, jobs, train)
        return StoredGroups(tuple(users), tuple(items))

    def errors(self, task: CellTask, state: StoredGroups) -> list[CellErrors]:
        """See ``SgdPlan``."""
        folder, totals = self.folder, self.problem.totals
        jobs = []
        for group, other in self.problem.cells():
            number = self.problem.number((group, other))
            own = totals[number]
            paths = state.users[group].path, state.items[other].path
            jobs.append(((number, own.n_training, *paths), own.n_training + own.n_held_out))

        def ask(job: tuple[int, int, str, str]) -> CellErrors:
            number, n_training, user_path, item_path = job
            cell = _load_cell(folder, number, n_training).scaled(task.scale)
            return errors_of_cell(task, cell, _load_parameters(user_path), _load_parameters(item_path))

        return run_balanced(self.spark, jobs, ask)

    def kept(self, state: StoredGroups) -> StoredGroups:
        """See ``SgdPlan``."""
        return state

    def finish(self, task: CellTask, state: StoredGroups) -> tuple[StoredRows, StoredRows]:
        """See ``SgdPlan``."""
        made = []
        for side, files in zip(SIDES, (state.users, state.items), strict=True):
            sizes = np.diff(self.problem.ptr(side)).tolist()
            groups = [_Group(number, size) for number, size in enumerate(sizes) if size]
            rows = StoredRows.of(new_folder(self.folder), groups)
            jobs = [
                ((files[group.number].path, rows_file(rows.folder, group.number)), group.n_rows) for group in groups
            ]
            run_balanced(self.spark, jobs, _finisher(task, side))
            made.append(rows)
        # Nothing is trained any more.
        shutil.rmtree(f"{self.folder}/cells", ignore_errors=True)
        return made[0], made[1]

    def _fresh(self, side: Side, group: int) -> _GroupFile:
        return _GroupFile(f"{self._rows}/{side}-{group}-{uuid.uuid4().hex}.npz")


def cut_cells(spark: SparkSession, folder: str, packed: PackedFiles, parameters: SgdParameters) -> SparkSgdPlan:
    """Cut packed ratings into cells under ``folder``, a task a group of users; the packed blocks are removed."""
    block_ptr: dict[Side, NDArray[np.int64]] = {"user": packed.users.block_ptr, "item": packed.items.block_ptr}
    n_users, n_items = packed.problem.n_users, packed.problem.n_items
    user_ptr, item_ptr = (group_ptr(size, parameters.strata) for size in (n_users, n_items))
    os.makedirs(f"{folder}/cells")
    jobs = []
    for group, (first, last) in enumerate(pairwise(user_ptr.tolist())):
        blocks = [one for one in packed.blocks["user"] if one.first_row < last and one.first_row + one.n_rows > first]
        jobs.append(((group, first, last, blocks), sum(block.n_obs for block in blocks)))

    def cut(job: tuple[int, int, int, list[StoredBlock]]) -> list[CellTotals]:
        group, first, last, stored = job
        hashes = _hashes(folder, "item", block_ptr["item"], 0, n_items)
        cells = cells_of_group([one.load() for one in stored], first, last, item_ptr, hashes, parameters)
        for other, cell in enumerate(cells):
            _save_cell(folder, group * parameters.strata + other, cell)
        return [totals_of(cell) for cell in cells]

    told = run_balanced(spark, jobs, cut)
    for side in SIDES:
        for block in packed.blocks[side]:
            for path in Path(folder).glob(f"{Path(block.path).name}.*"):
                path.unlink()
    totals = tuple(one for of_group in told for one in of_group)
    return SparkSgdPlan(spark, folder, SgdProblem(user_ptr, item_ptr, totals), block_ptr)


def _finisher(task: CellTask, side: Side) -> Callable[[tuple[str, str]], None]:
    def finish(job: tuple[str, str]) -> None:
        save_array(job[1], finished_rows(task, side, _load_parameters(job[0])))

    return finish


def _hashes(folder: str, side: Side, block_ptr: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """Return the hashes of the ids at positions from ``first`` to ``last``."""
    parts = [np.empty(0, np.int64)]
    for number, (begin, end) in enumerate(pairwise(block_ptr.tolist())):
        if begin < last and end > first and begin < end:
            known = mapped(f"{ids_path(folder, side, number)}.hashes.npy")
            parts.append(known[max(first - begin, 0) : last - begin])
    return np.concatenate(parts)


def _cell_file(folder: str, number: int) -> str:
    return f"{folder}/cells/{number}.npy"


def _save_cell(folder: str, number: int, cell: Cell) -> None:
    """Write a cell as (3, n) whole numbers: rows, columns and the bits of values, those to train on first."""
    both = [np.concatenate(parts) for parts in zip(cell.training, cell.held_out, strict=True)]
    if len(both[0]):
        save_array(_cell_file(folder, number), np.stack([both[0], both[1], both[2].view(np.int32)]))


def _load_cell(folder: str, number: int, n_training: int) -> Cell:
    stored = mapped(_cell_file(folder, number))
    parts = [
        CellRatings(part[0], part[1], part[2].view(np.float32))
        for part in (stored[:, :n_training], stored[:, n_training:])
    ]
    return Cell(*parts)


def _save_rows(path: str, rows: GradientRows) -> None:
    with whole_file(path) as fresh, open(fresh, "wb") as file:
        np.savez(file, **rows._asdict())


def _load_rows(path: str) -> GradientRows:
    with np.load(path, allow_pickle=False) as stored:
        return GradientRows(*(stored[name] for name in GradientRows._fields))


def _load_parameters(path: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as stored:
        parameters: NDArray[Any] = stored["parameters"]
    return parameters
