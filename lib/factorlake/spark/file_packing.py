"""Encoded parts become rating blocks, as files of the workspace: three rounds of tasks, no row passes the JVM.

1. Each logical block gathers its ids from the parts' dictionaries: that numbers them.
2. Each part turns its codes into positions and sorts its pairs by block, both ways.
3. Each block gathers its pairs from the parts and compresses them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import RepeatedPairsError
from factorlake.kernels.packing import compress_rows, join_values, repeated_pair
from factorlake.models.blocks import block_of
from factorlake.models.parameters import AlsParameters
from factorlake.models.problem import AlsProblem, rating_sum
from factorlake.models.weighting import ridge_counts
from factorlake.spark.encode import Part, PartFile, PartSide, load_ids, merge_ids, save_ids
from factorlake.spark.ids import Positions
from factorlake.spark.stored_blocks import StoredBlock, store_block
from factorlake.spark.task_farm import balanced, mapped, run_balanced, run_tasks, save_array, tasks_of_job, whole_file
from factorlake.types import SIDES, RatingBlock, Side


@dataclass(frozen=True)
class PackedFiles:
    """Rating blocks in files, the problem they make, and the frames that name their rows."""

    problem: AlsProblem
    blocks: dict[Side, list[StoredBlock]]
    users: Positions
    items: Positions


def pack_files(
    spark: SparkSession,
    parts: Sequence[PartFile],
    folder: str,
    n_blocks: int,
    parameters: AlsParameters,
    *,
    localized: bool,
) -> PackedFiles:
    """Pack encoded parts into blocks under ``folder``, which driver and workers see. The parts' files are removed.

    The frames of positions read the folder when they are asked: it must stay as long as they are used. ``localized``
    blocks count the other side's rows among those they see (``StoredBlock.neighbour_rows``).

    Raises
    ------
    RepeatedPairsError : a pair occurs twice.
    """
    placed_folder = f"{folder}/placed"
    os.makedirs(placed_folder)
    groups = balanced([(number, 1) for number in range(n_blocks)], tasks_of_job(spark))
    block_ptr: dict[Side, NDArray[np.int64]] = {}
    for side in SIDES:
        sizes = np.zeros(n_blocks, np.int64)
        for told in run_tasks(spark, groups, _number_ids(parts, folder, n_blocks, side)):
            for number, size in told:
                sizes[number] = size
        block_ptr[side] = np.concatenate([[0], np.cumsum(sizes)])
    placed = run_tasks(spark, parts, _place_pairs(folder, placed_folder, block_ptr))
    # What a round has read is given up at once: a log is on the disk twice at most.
    for part in parts:
        part.remove()
    stored: dict[Side, list[StoredBlock]] = {}
    sums: dict[Side, list[float]] = {}
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        weights = np.sum([part.sizes[side] for part in placed], axis=0)
        filled = [(number, int(weights[number])) for number in range(n_blocks) if weights[number]]
        n_neighbours = int(block_ptr[other][-1])
        pack = _pack_block(
            [part.prefix for part in placed], folder, side, block_ptr[side], n_neighbours, parameters, localized
        )
        packed = run_balanced(spark, filled, pack)
        n_repeats = sum(one.n_repeats for one in packed)
        if n_repeats:
            raise RepeatedPairsError(f"{n_repeats} pairs occur more than once; combine their ratings first")
        stored[side] = [one.block for one in packed]
        sums[side] = [one.rating_sum for one in packed]
    shutil.rmtree(placed_folder, ignore_errors=True)
    total = 0.0
    for of_block in sums["user"]:
        total += of_block
    n_users, n_items = (int(block_ptr[side][-1]) for side in SIDES)
    problem = AlsProblem(n_users, n_items, sum(block.n_obs for block in stored["user"]), total)
    users, items = (
        Positions(partial(_ids_frame, spark, folder, side, block_ptr[side]), block_ptr[side]) for side in SIDES
    )
    return PackedFiles(problem, stored, users, items)


def ids_path(folder: str, side: Side, number: int) -> str:
    """Return the beginning of the names of the files with a block's ids and their hashes."""
    return f"{folder}/ids-{side}-{number}"


def _number_ids(
    parts: Sequence[PartFile], folder: str, n_blocks: int, side: Side
) -> Callable[[list[int]], list[tuple[int, int]]]:
    def work(numbers: list[int]) -> list[tuple[int, int]]:
        sides = [part.load().side(side) for part in parts]
        ends = [np.searchsorted(block_of(own.hashes, n_blocks), np.arange(n_blocks + 1)) for own in sides]
        sizes = []
        for number in numbers:
            own = [
                (one.ids.slice(end[number], end[number + 1] - end[number]), one.hashes[end[number] : end[number + 1]])
                for one, end in zip(sides, ends, strict=True)
            ]
            found, _ = merge_ids(own)
            path = ids_path(folder, side, number)
            with whole_file(f"{path}.ids") as fresh:
                save_ids(fresh, found.ids)
            save_array(f"{path}.hashes.npy", found.hashes)
            sizes.append((number, len(found.ids)))
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
        path = ids_path(folder, side, number)
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


class _Placed(NamedTuple):
    prefix: str
    sizes: dict[Side, NDArray[np.int64]]
    """Ratings of the part in each logical block."""


def _place_pairs(
    folder: str, placed_folder: str, block_ptr: dict[Side, NDArray[np.int64]]
) -> Callable[[PartFile], _Placed]:
    def work(where: PartFile) -> _Placed:
        part: Part = where.load()
        of = {}
        for side in SIDES:
            own = part.side(side)
            of[side] = _positions_of(own, folder, side, block_ptr[side])[own.codes]
        placed = _Placed(f"{placed_folder}/{os.path.basename(where.prefix)}", {})
        for side, other in zip(SIDES, reversed(SIDES), strict=True):
            rows, neighbours, ends = of[side], of[other], block_ptr[side]
            block = (np.searchsorted(ends, rows, side="right") - 1).astype(np.uint16)
            order = np.argsort(block, kind="stable")
            sizes = np.bincount(block, minlength=len(ends) - 1)
            path = f"{placed.prefix}.{side}"
            save_array(f"{path}.rows.npy", rows[order])
            save_array(f"{path}.neighbours.npy", neighbours[order])
            if part.values is not None:
                save_array(f"{path}.values.npy", part.values[order])
            save_array(f"{path}.ends.npy", np.concatenate([[0], np.cumsum(sizes)]))
            placed.sizes[side] = sizes
        return placed

    return work


class _Packed(NamedTuple):
    block: StoredBlock
    rating_sum: float
    n_repeats: int


def _pack_block(
    prefixes: Sequence[str],
    folder: str,
    side: Side,
    block_ptr: NDArray[np.int64],
    n_neighbours: int,
    parameters: AlsParameters,
    localized: bool,
) -> Callable[[int], _Packed]:
    def pack(number: int) -> _Packed:
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
        seen, places, n_places = None, np.concatenate(neighbours), n_neighbours
        if localized:
            # In the same order, so that rows come out as they would by position.
            seen, places = _among_seen(places, n_neighbours)
            n_places = len(seen)
        packed = compress_rows(
            np.concatenate(rows) - np.int32(first), places, join_values(values), last - first, n_places
        )
        repeats = repeated_pair(packed)
        constant = packed.values is None or bool(np.all(packed.values == 1))
        block = RatingBlock(
            first_row=first,
            row_ptr=packed.row_ptr,
            neighbours=packed.neighbours,
            values=None if constant else packed.values,
            hashes=mapped(f"{ids_path(folder, side, number)}.hashes.npy"),
        )
        stored = store_block(number, f"{folder}/block-{side}-{number}", block, ridge_counts(block, parameters), seen)
        return _Packed(stored, rating_sum(block), 0 if repeats is None else repeats[0])

    return pack


def _among_seen(neighbours: NDArray[np.int32], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the distinct neighbours, ascending, and the place of each neighbour among them."""
    is_seen = np.zeros(n, np.bool_)
    is_seen[neighbours] = True
    seen = np.flatnonzero(is_seen).astype(np.int32)
    place = np.empty(n, np.int32)
    place[seen] = np.arange(len(seen), dtype=np.int32)
    return seen, place[neighbours]


def _ids_frame(spark: SparkSession, folder: str, side: Side, block_ptr: NDArray[np.int64]) -> DataFrame:
    """Return (id, hash, block, position) of one side; the tasks read the folder."""

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                path = ids_path(folder, side, number)
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
    n_tasks = min(n_blocks, tasks_of_job(spark))
    frame = spark.range(0, n_blocks, 1, n_tasks)
    return frame.mapInArrow(read, "id string, hash bigint, block int, position int")
