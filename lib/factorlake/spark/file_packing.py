"""Encoded parts become rating blocks, as files of the workspace: three rounds of tasks, no row passes the JVM.

1. Each logical block gathers its ids from the parts' dictionaries: that numbers them.
2. Each part turns its codes into positions and sorts its pairs by block, both ways.
3. Each block gathers its pairs from the parts and compresses them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import RepeatedPairsError
from factorlake.kernels.packing import compress_rows, join_values, repeated_pair
from factorlake.models.blocks import block_of
from factorlake.models.parameters import AlsParameters
from factorlake.models.problem import AlsProblem, SideLayout
from factorlake.models.weighting import ridge_counts
from factorlake.spark.compat import task_slots
from factorlake.spark.encode import Part, PartFile, PartSide, load_ids, mapped, merge_ids, save_ids
from factorlake.spark.ids import Positions
from factorlake.spark.task_farm import run_tasks
from factorlake.types import RatingBlock, Side

SIDES: tuple[Side, Side] = ("user", "item")
# Tasks per slot: enough that an uneven one does not leave the others idle.
TASKS_PER_SLOT = 2

Weighed = TypeVar("Weighed")


@dataclass(frozen=True)
class StoredBlock:
    """Where one rating block lies."""

    number: int
    path: str
    """The beginning of its files' names."""
    n_obs: int


@dataclass(frozen=True)
class PackedFiles:
    """Rating blocks in files, the problem they make, and the frames that name their rows."""

    problem: AlsProblem
    blocks: dict[Side, list[StoredBlock]]
    users: Positions
    items: Positions


def load_block(path: str) -> RatingBlock:
    """Return a stored block, mapped into memory."""
    values = f"{path}.values.npy"
    return RatingBlock(
        first_row=int(np.load(f"{path}.first_row.npy", allow_pickle=False)),
        row_ptr=mapped(f"{path}.row_ptr.npy"),
        neighbours=mapped(f"{path}.neighbours.npy"),
        values=mapped(values) if os.path.exists(values) else None,
        hashes=mapped(f"{path}.hashes.npy"),
    )


def pack_files(
    spark: SparkSession, parts: Sequence[PartFile], folder: str, n_blocks: int, parameters: AlsParameters
) -> PackedFiles:
    """Pack encoded parts into blocks under ``folder``, which driver and workers see.

    The frames of positions read the folder when they are asked: it must stay as long as they are used.

    Raises
    ------
    RepeatedPairsError : a pair occurs twice.
    """
    n_tasks = TASKS_PER_SLOT * task_slots(spark)
    placed_folder = f"{folder}/placed"
    os.makedirs(placed_folder)
    block_ptr: dict[Side, NDArray[np.int64]] = {}
    for side in SIDES:
        groups = balanced([(number, 1) for number in range(n_blocks)], n_tasks)
        told = run_tasks(spark, groups, _number_ids(parts, folder, n_blocks, side))
        sizes = {int(number): size for group in told for number, size in group.items()}
        block_ptr[side] = np.zeros(n_blocks + 1, np.int64)
        np.cumsum([sizes[number] for number in range(n_blocks)], out=block_ptr[side][1:])
    placed = run_tasks(spark, parts, _place_pairs(folder, placed_folder, block_ptr))
    # What a round has read is given up at once: a log is on the disk twice at most.
    for part in parts:
        part.remove()
    placed_parts = [part["prefix"] for part in placed]
    stored: dict[Side, list[StoredBlock]] = {}
    rating_sum = 0.0
    layouts = {}
    for side in SIDES:
        weights = np.sum([part[side] for part in placed], axis=0)
        filled = [(number, int(weights[number])) for number in range(n_blocks) if weights[number]]
        other: Side = "item" if side == "user" else "user"
        pack = _pack_blocks(placed_parts, folder, side, block_ptr[side], int(block_ptr[other][-1]), parameters)
        told = run_tasks(spark, balanced(filled, n_tasks), pack)
        blocks = sorted((block for group in told for block in group["blocks"]), key=lambda block: block["number"])
        n_repeats = sum(block["n_repeats"] for block in blocks)
        if n_repeats:
            raise RepeatedPairsError(f"{n_repeats} pairs occur more than once; combine their ratings first")
        stored[side] = [StoredBlock(block["number"], block["path"], block["n_obs"]) for block in blocks]
        if side == "user":
            for block in blocks:
                rating_sum += block["rating_sum"]
        layouts[side] = SideLayout.of_blocks(
            [mapped(f"{block.path}.hashes.npy") for block in stored[side]],
            [mapped(f"{block.path}.counts.npy") for block in stored[side]],
        )
    shutil.rmtree(placed_folder)
    problem = AlsProblem(layouts["user"], layouts["item"], sum(block.n_obs for block in stored["user"]), rating_sum)
    users, items = (Positions(_ids_frame(spark, folder, side, block_ptr[side]), block_ptr[side]) for side in SIDES)
    return PackedFiles(problem, stored, users, items)


def balanced(weighed: Sequence[tuple[Weighed, int]], n_groups: int) -> list[list[Weighed]]:
    """Return at most ``n_groups`` groups with even weights: the heaviest first, each to the lightest group."""
    groups: list[list[Weighed]] = [[] for _ in range(max(1, min(n_groups, len(weighed))))]
    weights = [0] * len(groups)
    for one, weight in sorted(weighed, key=lambda pair: -pair[1]):
        lightest = weights.index(min(weights))
        groups[lightest].append(one)
        weights[lightest] += weight + 1
    return groups


@contextmanager
def _whole(path: str) -> Iterator[str]:
    """Name a file to write, which then stands at ``path``, whole where it is seen: tasks that run twice write the
    same."""
    fresh = f"{path}.{uuid.uuid4().hex}"
    yield fresh
    os.replace(fresh, path)


def _save(path: str, array: NDArray[Any]) -> None:
    with _whole(path) as fresh, open(fresh, "wb") as file:
        np.save(file, array)


def _ids_path(folder: str, side: Side, number: int) -> str:
    return f"{folder}/ids-{side}-{number}"


def _number_ids(
    parts: Sequence[PartFile], folder: str, n_blocks: int, side: Side
) -> Callable[[list[int]], dict[str, Any]]:
    def work(numbers: list[int]) -> dict[str, Any]:
        sides = [part.load().side(side) for part in parts]
        ends = [np.searchsorted(block_of(own.hashes, n_blocks), np.arange(n_blocks + 1)) for own in sides]
        sizes = {}
        for number in numbers:
            own = [
                (one.ids.slice(end[number], end[number + 1] - end[number]), one.hashes[end[number] : end[number + 1]])
                for one, end in zip(sides, ends, strict=True)
            ]
            found, _ = merge_ids(own)
            path = _ids_path(folder, side, number)
            with _whole(f"{path}.ids") as fresh:
                save_ids(fresh, found.ids)
            _save(f"{path}.hashes.npy", found.hashes)
            sizes[str(number)] = len(found.ids)
        return sizes

    return work


def _positions_of(own: PartSide, folder: str, side: Side, block_ptr: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the position of each of a part's ids."""
    n_blocks = len(block_ptr) - 1
    positions = np.empty(len(own.ids), np.int32)
    ends = np.searchsorted(block_of(own.hashes, n_blocks), np.arange(n_blocks + 1))
    for number, (first, last) in enumerate(pairwise(ends.tolist())):
        if first == last:
            continue
        path = _ids_path(folder, side, number)
        known = mapped(f"{path}.hashes.npy")
        place = np.searchsorted(known, own.hashes[first:last])
        # Where several ids share a hash they stand in the order of their bytes, and so do the part's.
        following = np.minimum(place + 1, len(known) - 1)
        shared = np.flatnonzero((following > place) & (known[following] == known[place]))
        if len(shared):
            ids = load_ids(f"{path}.ids")
            for one in shared:
                at = int(place[one])
                while ids[at].as_py() != own.ids[first + int(one)].as_py():
                    at += 1
                place[one] = at
        positions[first:last] = block_ptr[number] + place
    return positions


def _place_pairs(
    folder: str, placed_folder: str, block_ptr: dict[Side, NDArray[np.int64]]
) -> Callable[[PartFile], dict[str, Any]]:
    def work(where: PartFile) -> dict[str, Any]:
        part: Part = where.load()
        of = {}
        for side in SIDES:
            own = part.side(side)
            of[side] = _positions_of(own, folder, side, block_ptr[side])[own.codes]
        prefix = f"{placed_folder}/{os.path.basename(where.prefix)}"
        told: dict[str, Any] = {"prefix": prefix}
        for side, other in zip(SIDES, reversed(SIDES), strict=True):
            rows, neighbours, ends = of[side], of[other], block_ptr[side]
            block = (np.searchsorted(ends, rows, side="right") - 1).astype(np.uint16)
            order = np.argsort(block, kind="stable")
            sizes = np.bincount(block, minlength=len(ends) - 1)
            path = f"{prefix}.{side}"
            _save(f"{path}.rows.npy", rows[order])
            _save(f"{path}.neighbours.npy", neighbours[order])
            if part.values is not None:
                _save(f"{path}.values.npy", part.values[order])
            _save(f"{path}.ends.npy", np.concatenate([[0], np.cumsum(sizes)]))
            told[side] = sizes.tolist()
        return told

    return work


def _pack_blocks(
    prefixes: Sequence[str],
    folder: str,
    side: Side,
    block_ptr: NDArray[np.int64],
    n_neighbours: int,
    parameters: AlsParameters,
) -> Callable[[list[int]], dict[str, Any]]:
    def work(numbers: list[int]) -> dict[str, Any]:
        return {"blocks": [pack(number) for number in numbers]}

    def pack(number: int) -> dict[str, Any]:
        rows, neighbours, values = [], [], []
        for prefix in prefixes:
            path = f"{prefix}.{side}"
            ends = mapped(f"{path}.ends.npy")
            own = slice(int(ends[number]), int(ends[number + 1]))
            rows.append(mapped(f"{path}.rows.npy")[own])
            neighbours.append(mapped(f"{path}.neighbours.npy")[own])
            told = mapped(f"{path}.values.npy")[own] if os.path.exists(f"{path}.values.npy") else None
            values.append((own.stop - own.start, told))
        first, last = int(block_ptr[number]), int(block_ptr[number + 1])
        packed = compress_rows(
            np.concatenate(rows) - np.int32(first),
            np.concatenate(neighbours),
            join_values(values),
            last - first,
            n_neighbours,
        )
        repeats = repeated_pair(packed)
        constant = packed.values is None or bool(np.all(packed.values == 1))
        block = RatingBlock(
            first_row=first,
            row_ptr=packed.row_ptr,
            neighbours=packed.neighbours,
            values=None if constant else packed.values,
            hashes=mapped(f"{_ids_path(folder, side, number)}.hashes.npy"),
        )
        path = f"{folder}/block-{side}-{number}"
        _save(f"{path}.first_row.npy", np.array(first))
        _save(f"{path}.row_ptr.npy", block.row_ptr)
        _save(f"{path}.neighbours.npy", block.neighbours)
        if block.values is not None:
            _save(f"{path}.values.npy", block.values)
        _save(f"{path}.hashes.npy", block.hashes)
        _save(f"{path}.counts.npy", ridge_counts(block, parameters))
        ratings = block.n_obs if block.values is None else np.sum(block.values, dtype=np.float64)
        return {
            "number": number,
            "path": path,
            "n_obs": block.n_obs,
            "rating_sum": float(ratings),
            "n_repeats": 0 if repeats is None else repeats[0],
        }

    return work


def _ids_frame(spark: SparkSession, folder: str, side: Side, block_ptr: NDArray[np.int64]) -> DataFrame:
    """Return (id, hash, block, position) of one side; the tasks read the folder."""

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                path = _ids_path(folder, side, number)
                ids = load_ids(f"{path}.ids")
                yield pa.RecordBatch.from_arrays(
                    [
                        ids,
                        pa.array(np.asarray(mapped(f"{path}.hashes.npy"))),
                        pa.array(np.full(len(ids), number, np.int32)),
                        pa.array(np.arange(len(ids), dtype=np.int32) + np.int32(block_ptr[number])),
                    ],
                    names=["id", "hash", "block", "position"],
                )

    n_blocks = len(block_ptr) - 1
    n_tasks = min(n_blocks, TASKS_PER_SLOT * task_slots(spark))
    frame = spark.range(0, n_blocks, 1, n_tasks)
    return frame.mapInArrow(read, "id string, hash bigint, block int, position int")
