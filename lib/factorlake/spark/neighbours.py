"""Neighbours of rows by cosine for matrices that fit no one machine: on raw ratings, and on predicted ones.

Rows lie in blocks, as files of a workspace that driver and workers see. A task takes one block and meets the others one
after the other, so it holds two at a time and its own lists. What is done with two blocks is what `models.neighbours`
does on one machine, and results have the same bits. The driver holds sizes, and of predictions a Gram matrix.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape, glob
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.kernels.arrays import distinct
from factorlake.kernels.neighbours import (
    PADDING,
    SparseRows,
    TurnedRows,
    empty_lists,
    held_turned,
    lists_between,
    merge_lists,
    offer_weighted,
    sorted_lists,
    sparse_rows,
    turned_rows,
)
from factorlake.kernels.packing import CompressedRows, compress_rows, join_values
from factorlake.kernels.top_k import best_items, order_items
from factorlake.models.blocks import number_of_blocks
from factorlake.models.neighbours import (
    NeighbourRules,
    blocks_in_reach,
    blocks_of_factors,
    gram_root,
    positive_lists,
    predicted_directions,
    predicted_gram,
)
from factorlake.models.parameters import AlsParameters
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.arrow_lists import matrix
from factorlake.spark.arrow_text import hash_strings
from factorlake.spark.compat import named_jobs
from factorlake.spark.encode import encode_to_files, load_ids, order_by_hash, save_ids
from factorlake.spark.exchange import Exchange
from factorlake.spark.file_packing import PackedFiles, ids_path, pack_files
from factorlake.spark.ids import Positions, logical_block, rank_new_ids
from factorlake.spark.stored_blocks import StoredBlock
from factorlake.spark.task_farm import attempt, mapped, outcome, run_balanced, save_array, tasks_of_job, whole_file
from factorlake.types import SIDES, Side

PREDICTED_SCHEMA = "id string, rank int, neighbour_id string, similarity float"
COSINE_SCHEMA = f"{PREDICTED_SCHEMA}, support int"
RECOMMENDED_SCHEMA = "user_id string, rank int, item_id string, score float, support int"
# Rows of a result that a task hands over at once.
ROWS_AT_ONCE = 100_000
# Users whose neighbours' ratings a task gathers at once.
USERS_AT_ONCE = 64


def cosine_neighbours_frame(
    spark: SparkSession, pairs: DataFrame, side: Side, rules: NeighbourRules, workspace: str
) -> DataFrame:
    """Return the neighbours of each user or item by cosine on the ratings (columns of COSINE_SCHEMA).

    Parameters
    ----------
    pairs : user_id and item_id (of any type that casts to a string) and value, left out where every rating is 1; a pair
        may occur once. A value of 0 means that nothing was observed.
    side : whose neighbours.
    rules : length of the lists and what may stand in them.
    workspace : folder that driver and workers see. What lay in its ``neighbours`` and ``exchange`` is removed.

    The similarities are found by this call. The frame reads ``workspace/neighbours``, which must stay as long as it is
    used. Ranks count from 1; of equal similarities the smaller id goes first; ids without neighbours have no row.

    Raises
    ------
    ConfigError : workers do not see the workspace.
    DataRefusedError : there is no rating, a rating is not a number, or a pair occurs twice.
    """
    with _files(spark, workspace) as folder:
        packed = _pack(spark, pairs, folder)
        _drop(packed.blocks["item" if side == "user" else "user"])
        _find_neighbours(spark, packed, side, rules, folder)
        blocks = packed.blocks[side]
        _drop(blocks)
        _drop_ties(folder)
    block_ptr = _side(packed, side).block_ptr
    return _lists_frame(spark, folder, f"lists-{side}", (side, side), _spans(blocks), block_ptr, COSINE_SCHEMA)


def recommend_by_neighbours_frame(
    spark: SparkSession,
    pairs: DataFrame,
    side: Side,
    rules: NeighbourRules,
    k: int,
    workspace: str,
    *,
    mean: bool = True,
    min_support: int = 1,
) -> DataFrame:
    """Return each user's k best items that the user does not know, weighted by neighbours (RECOMMENDED_SCHEMA).

    Parameters
    ----------
    pairs, rules, workspace : as in `cosine_neighbours_frame`.
    side : "user": by what similar users rated (``models.neighbours.recommend_from_users``); "item": by what the user
        rated of similar items (``recommend_from_items``).
    k : list length, at least 1.
    mean, min_support : as in the functions named, whose lists these are, bit for bit.

    A task holds one block of users and, of what their neighbours are or rated, the part that these users need; and
    three numbers for each item.

    Raises
    ------
    ConfigError, DataRefusedError : as `cosine_neighbours_frame`, and k below 1.
    """
    empty_lists(0, k)  # refuses a k below 1 before anything is read
    with _files(spark, workspace) as folder:
        packed = _pack(spark, pairs, folder)
        _find_neighbours(spark, packed, side, rules, folder)
        if side == "user":
            _save_tie_ranks(packed.items, "item", folder)
        blocks = packed.blocks
        through: _Through = (
            _ThroughUsers(folder, blocks["user"])
            if side == "user"
            else _ThroughItems(folder, _spans(blocks["item"]), packed.problem.n_items)
        )
        item_blocks = [block.number for block in blocks["item"]]

        def offer(block: StoredBlock) -> None:
            ties = np.concatenate([mapped(_ties_path(folder, "item", number)) for number in item_blocks])
            own = _by_position(block)
            lists = empty_lists(block.n_rows, k)
            for first, last, outer, inner in through.steps(block, own):
                part = lists_between(lists, first, last)
                offer_weighted(
                    part, outer, inner, _rows_between(own, first, last), ties,
                    weights_are_outer=side == "user", mean=mean, min_support=min_support,
                )  # fmt: skip
            _save_lists(folder, f"offers-{block.number}", *sorted_lists(lists))

        with named_jobs(spark, f"recommend by neighbours of {side}s"):
            run_balanced(spark, [(block, block.n_obs) for block in blocks["user"]], offer)
        for name in SIDES:
            _drop(blocks[name])
        for block in blocks[side]:
            _remove(f"{folder}/lists-{side}-{block.number}")
        _drop_ties(folder)
    spans, block_ptr = _spans(blocks["user"]), packed.items.block_ptr
    return _lists_frame(spark, folder, "offers", ("user", "item"), spans, block_ptr, RECOMMENDED_SCHEMA)


def predicted_neighbours_frame(
    spark: SparkSession, factors: DataFrame, others: DataFrame, n: int, workspace: str, mean: float = 0.0
) -> DataFrame:
    """Return the neighbours of each row by cosine on the predicted matrix, over all its columns (PREDICTED_SCHEMA).

    Parameters
    ----------
    factors : id, factor (array<float>) and bias of the side that gets lists, one row an id.
    others : id, factor and bias of the other side.
    n : list length, at least 1.
    workspace : as in `cosine_neighbours_frame`; the frame reads its ``neighbours``.
    mean : μ.

    Predictions are μ + b_u + b_i + x_u·y_i; a bias that is null counts as 0. They are never formed: what is needed of
    the other side is its Gram matrix. An id that is predicted to be zero everywhere has no row and stands in none.

    Raises
    ------
    ConfigError : workers do not see the workspace, or n below 1.
    DataRefusedError : factors of several lengths, or an id twice.
    NumericalError : factors that are null or not finite.
    """
    empty_lists(0, n)  # refuses an n below 1 before anything is read
    factors, others = (
        side.select(F.col("id").cast("string").alias("id"), "factor", F.coalesce("bias", F.lit(0.0)).alias("bias"))
        for side in (factors, others)
    )
    with _files(spark, workspace) as folder:
        own, other = _sizes_of(factors, "the side asked for"), _sizes_of(others, "the other side")
        if own.n_rows and other.n_rows and own.rank != other.rank:
            raise DataRefusedError(f"factors of rank {own.rank} and {other.rank} predict nothing: take one model's")
        offsets = mean != 0 or own.has_biases or other.has_biases
        with named_jobs(spark, "neighbours by prediction: Gram matrix and directions"):
            root = _root(others, other.n_rows, own.rank or other.rank, offsets, folder)
            sizes = _write_directions(factors, own, root, mean, folder)
        block_ptr = np.concatenate([[0], np.cumsum(sizes)])
        spans = [_Span(number, int(block_ptr[number])) for number in np.flatnonzero(sizes).tolist()]

        def search(asked: _Span) -> None:
            units = mapped(_units_path(folder, asked.number))
            directed = np.any(units, axis=1)
            lists = empty_lists(len(units), n)
            nothing = np.zeros(len(units) + 1, np.int64), np.empty(0, np.int32)
            themselves = np.arange(len(units) + 1), np.arange(len(units), dtype=np.int32)
            for span in spans:
                met, ties = mapped(_units_path(folder, span.number)), mapped(_ties_path(folder, "user", span.number))
                ordered = order_items(met, ties, allowed=np.any(met, axis=1))
                with single_threaded_blas():
                    near, cosines = best_items(units, ordered, n, *(themselves if span == asked else nothing))
                near[~directed] = PADDING
                positions = np.where(near >= 0, near + np.int32(span.first_row), np.int32(PADDING))
                merge_lists(lists, positions, cosines, 0, ties[near])
            _save_lists(folder, f"lists-user-{asked.number}", *sorted_lists(lists))

        with named_jobs(spark, "neighbours by prediction"):
            run_balanced(spark, [(span, int(sizes[span.number])) for span in spans], search)
        for span in spans:
            os.unlink(_units_path(folder, span.number))
        _drop_ties(folder)
    return _lists_frame(spark, folder, "lists-user", ("user", "user"), spans, block_ptr, PREDICTED_SCHEMA)


@dataclass(frozen=True)
class _Span:
    """A logical block of one side."""

    number: int
    first_row: int


@contextmanager
def _files(spark: SparkSession, workspace: str) -> Iterator[str]:
    """Name an empty folder of the workspace for the files of one call; it goes when the call fails."""
    with Exchange(spark, f"{workspace}/exchange") as exchange:
        if not exchange.by_file:
            raise ConfigError(
                f"workers do not see the workspace {workspace}, through which blocks of rows meet; name a folder "
                "without a scheme that driver and workers share (a mounted one), or find neighbours on one machine "
                "(factorlake.models.neighbours)"
            )
    folder = f"{workspace}/neighbours"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _pack(spark: SparkSession, pairs: DataFrame, folder: str) -> PackedFiles:
    with named_jobs(spark, "neighbours: encode and pack pairs"):
        os.makedirs(f"{folder}/parts")
        parts = encode_to_files(pairs, True, f"{folder}/parts")
        n_blocks = number_of_blocks(sum(part.n_obs for part in parts))
        # The parameters decide about weights of ridges alone, for which nobody asks here.
        return pack_files(spark, parts, folder, n_blocks, AlsParameters(objective="explicit"), localized=True)


def _side(packed: PackedFiles, side: Side) -> Positions:
    return packed.users if side == "user" else packed.items


def _spans(blocks: Sequence[StoredBlock]) -> list[_Span]:
    return [_Span(block.number, block.first_row) for block in blocks]


def _find_neighbours(spark: SparkSession, packed: PackedFiles, side: Side, rules: NeighbourRules, folder: str) -> None:
    """Write the neighbours of each row of one side, and the ranks of its ids, block by block."""
    blocks = packed.blocks[side]
    with named_jobs(spark, f"neighbours of {side}s"):
        _save_tie_ranks(_side(packed, side), side, folder)
        groups = [(group, sum(one.n_obs for one in group)) for group in blocks_in_reach(blocks)]
        turned = run_balanced(spark, groups, _turn(folder, side))

        def search(block: StoredBlock) -> None:
            rows, seen = _rows_of(block), block.neighbour_rows()
            lists = empty_lists(block.n_rows, rules.n)
            for others in turned:
                rules.offer(lists, rows._replace(neighbours=others.places_of(seen, rows.neighbours)), others.load())
            _save_lists(folder, f"lists-{side}-{block.number}", *sorted_lists(lists))

        run_balanced(spark, [(block, block.n_obs) for block in blocks], search)
    for one in turned:
        _remove(one.path)


def _remove(path: str) -> None:
    """Remove the files whose names are ``path`` and a suffix."""
    for file in glob(f"{escape(path)}.*"):
        os.unlink(file)


def _drop(blocks: Iterable[StoredBlock]) -> None:
    for block in blocks:
        _remove(block.path)


def _drop_ties(folder: str) -> None:
    for file in glob(f"{escape(folder)}/ties-*"):
        os.unlink(file)


def _rows_of(block: StoredBlock) -> SparseRows:
    """Return a block's rows; their neighbours are places among those that the block sees."""
    packed = block.load()
    return sparse_rows(CompressedRows(packed.row_ptr, packed.neighbours, packed.values), block.first_row)


def _by_position(block: StoredBlock) -> CompressedRows:
    """Return a block's rows with positions of the other side."""
    rows = _rows_of(block)
    values = rows.values if len(rows.values) else None
    return CompressedRows(rows.row_ptr, block.neighbour_rows()[rows.neighbours], values)


def _rows_between(rows: CompressedRows, first: int, last: int) -> CompressedRows:
    part = slice(int(rows.row_ptr[first]), int(rows.row_ptr[last]))
    values = None if rows.values is None else rows.values[part]
    return CompressedRows(rows.row_ptr[first : last + 1] - rows.row_ptr[first], rows.neighbours[part], values)


_Step = tuple[int, int, CompressedRows, CompressedRows]
"""(first, last, outer, inner) of some rows of a block, as ``offer_weighted`` takes them."""


class _Through(Protocol):
    """What users of a block go through to items."""

    def steps(self, block: StoredBlock, own: CompressedRows) -> Iterator[_Step]:
        """Yield rows of the block, a few at a time; ``own`` are their ratings by position."""


@dataclass(frozen=True)
class _ThroughItems:
    """From what a user rated to the items that count it among their neighbours."""

    folder: str
    spans: Sequence[_Span]
    n_items: int

    def steps(self, block: StoredBlock, own: CompressedRows) -> Iterator[_Step]:
        """See ``_Through``."""
        seen = block.neighbour_rows()
        rated, items, weights = [], [], []
        for span in self.spans:
            path = f"{self.folder}/lists-item-{span.number}"
            near = positive_lists(mapped(f"{path}.entries.npy"), mapped(f"{path}.values.npy"))
            place = np.minimum(np.searchsorted(seen, near.neighbours), len(seen) - 1)
            known = seen[place] == near.neighbours
            rated.append(place[known].astype(np.int32))
            item = np.arange(len(near.row_ptr) - 1, dtype=np.int32) + np.int32(span.first_row)
            items.append(np.repeat(item, np.diff(near.row_ptr))[known])
            weights.append(np.asarray(near.values)[known])
        inner = compress_rows(
            np.concatenate(rated), np.concatenate(items), np.concatenate(weights), len(seen), self.n_items
        )
        outer = own._replace(neighbours=np.searchsorted(seen, own.neighbours).astype(np.int32))
        yield 0, block.n_rows, outer, inner


@dataclass(frozen=True)
class _ThroughUsers:
    """From a user's neighbours to what they rated."""

    folder: str
    blocks: Sequence[StoredBlock]

    def steps(self, block: StoredBlock, own: CompressedRows) -> Iterator[_Step]:
        """See ``_Through``."""
        path = f"{self.folder}/lists-user-{block.number}"
        entries, values = mapped(f"{path}.entries.npy"), mapped(f"{path}.values.npy")
        for first in range(0, block.n_rows, USERS_AT_ONCE):
            last = min(first + USERS_AT_ONCE, block.n_rows)
            near = positive_lists(entries[first:last], values[first:last])
            wanted = distinct(near.neighbours)
            places = np.searchsorted(wanted, near.neighbours).astype(np.int32)
            yield first, last, near._replace(neighbours=places), self._rows_at(wanted)

    def _rows_at(self, positions: NDArray[np.int32]) -> CompressedRows:
        """Return the ratings of the users at positions, ascending."""
        lengths, items, values = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for block in self.blocks:
            ends = np.searchsorted(positions, [block.first_row, block.first_row + block.n_rows])
            rows = positions[ends[0] : ends[1]] - block.first_row
            if not len(rows):
                continue
            held = block.load()
            own = np.diff(held.row_ptr)[rows]
            ptr = np.concatenate([[0], np.cumsum(own)])
            at = np.repeat(held.row_ptr[rows] - ptr[:-1], own) + np.arange(ptr[-1])
            lengths.append(own)
            items.append(block.neighbour_rows()[held.neighbours[at]])
            values.append(np.ones(len(at), np.float32) if held.values is None else held.values[at])
        return CompressedRows(np.cumsum(np.concatenate(lengths)), np.concatenate(items), np.concatenate(values))


def _ties_path(folder: str, side: Side, number: int) -> str:
    return f"{folder}/ties-{side}-{number}.npy"


def _units_path(folder: str, number: int) -> str:
    return f"{folder}/units-{number}.npy"


def _save_tie_ranks(own: Positions, side: Side, folder: str) -> None:
    """Write the rank of each row's id by bytes, block by block."""
    ranked = rank_new_ids(own.frame, 0, own.n_ids)
    placed = own.frame.select("id", "block", "position").join(ranked, on="id", how="inner")

    def write(table: pa.Table) -> pa.Table:
        order = np.argsort(table["position"].to_numpy())
        save_array(_ties_path(folder, side, table["block"][0].as_py()), table["index"].to_numpy()[order])
        return table.select(["block"]).slice(0, 1)

    placed.select("block", "position", "index").groupBy("block").applyInArrow(write, "block int").collect()


@dataclass(frozen=True)
class _TurnedFiles:
    """Where some blocks lie, one after the other, compressed by the other side's rows that they see."""

    path: str
    first_row: int

    def load(self) -> TurnedRows:
        values = f"{self.path}.values.npy"
        turned = CompressedRows(
            mapped(f"{self.path}.ptr.npy"),
            mapped(f"{self.path}.rows.npy"),
            mapped(values) if os.path.exists(values) else None,
        )
        return held_turned(self.first_row, turned, mapped(f"{self.path}.norms.npy"), mapped(f"{self.path}.ties.npy"))

    def places_of(self, seen: NDArray[np.int32], neighbours: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return where neighbours, which are places in ``seen`` (ascending positions), stand here; −1 for nowhere."""
        own = mapped(f"{self.path}.seen.npy")
        place = np.searchsorted(own, seen)
        known = own[np.minimum(place, len(own) - 1)] == seen
        return np.where(known, place, -1).astype(np.int32)[neighbours]


def _turn(folder: str, side: Side) -> Callable[[list[StoredBlock]], _TurnedFiles]:
    def turn(group: list[StoredBlock]) -> _TurnedFiles:
        sees = [block.neighbour_rows() for block in group]
        seen = distinct(np.concatenate(sees))
        parts = [_rows_of(block) for block in group]
        places = [
            np.searchsorted(seen, own).astype(np.int32)[part.neighbours] for own, part in zip(sees, parts, strict=True)
        ]
        values = join_values([(len(part.neighbours), part.values if len(part.values) else None) for part in parts])
        row_ptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.row_ptr) for part in parts]))])
        rows = sparse_rows(CompressedRows(row_ptr, np.concatenate(places), values), group[0].first_row)
        ties = np.concatenate([mapped(_ties_path(folder, side, block.number)) for block in group])
        turned = turned_rows(rows, len(seen), ties)
        made = _TurnedFiles(f"{folder}/turned-{group[0].number}", turned.first_row)
        arrays: dict[str, NDArray] = {"ptr": turned.ptr, "rows": turned.rows, "norms": turned.norms, "seen": seen}
        arrays["ties"] = turned.tie_rank
        if len(turned.values):
            arrays["values"] = turned.values
        for name, array in arrays.items():
            save_array(f"{made.path}.{name}.npy", array)
        return made

    return turn


@dataclass(frozen=True)
class _Sizes:
    n_rows: int
    rank: int
    has_biases: bool


def _sizes_of(factors: DataFrame, whose: str) -> _Sizes:
    """Return what is known of a frame of factors (id, factor, bias) before it is read."""
    infinite = F.lit(float("inf"))
    bad = F.col("id").isNull() | F.col("factor").isNull() | F.isnan("bias") | (F.abs("bias") == infinite)
    bad = bad | F.exists("factor", lambda one: one.isNull() | F.isnan(one) | (F.abs(one) == infinite))
    told = factors.agg(
        F.count(F.lit(1)).alias("n_rows"),
        F.count_if(bad).alias("n_bad"),
        F.min(F.size("factor")).alias("least"),
        F.max(F.size("factor")).alias("most"),
        F.count_if(F.col("bias") != 0).alias("n_biases"),
    ).collect()[0]
    if told["n_bad"]:
        raise NumericalError(
            f"{told['n_bad']} rows of the factors of {whose} are null or not finite; train the model again"
        )
    if told["least"] != told["most"]:
        raise DataRefusedError(
            f"factors of {whose} have from {told['least']} to {told['most']} numbers; take those of one model"
        )
    return _Sizes(told["n_rows"], told["most"] or 0, told["n_biases"] > 0)


def _in_blocks(factors: DataFrame, n_blocks: int) -> DataFrame:
    return factors.withColumn("block", logical_block(F.xxhash64("id"), n_blocks))


def _in_order(table: pa.Table) -> pa.Table:
    """Return the rows of one block by (hash, id)."""
    ids = table["id"].combine_chunks()
    return table.take(pa.array(order_by_hash(ids, hash_strings(ids))))


def _root(others: DataFrame, n_rows: int, rank: int, offsets: bool, folder: str) -> NDArray[np.float64]:
    """Return `gram_root` of the other side, the sum of its blocks' Gram matrices in block order."""
    width = rank + (2 if offsets else 0)
    total = np.zeros((width, width))

    def add_up(table: pa.Table) -> pa.Table:
        number = table["block"][0].as_py()
        rows = _in_order(table)
        biases = rows["bias"].to_numpy().astype(np.float32)

        def write() -> None:
            save_array(f"{folder}/gram-{number}.npy", predicted_gram(matrix(rows["factor"], rank), biases, offsets, 0))

        return _told(number, 0, attempt(write))

    n_blocks = blocks_of_factors(n_rows, rank)
    for number, _ in _answers(_in_blocks(others, n_blocks).groupBy("block").applyInArrow(add_up, _TOLD_SCHEMA)):
        total += np.load(f"{folder}/gram-{number}.npy", allow_pickle=False)
        os.unlink(f"{folder}/gram-{number}.npy")
    return gram_root(total)


def _write_directions(
    factors: DataFrame, sizes: _Sizes, root: NDArray[np.float64], mean: float, folder: str
) -> NDArray[np.int64]:
    """Write each block's ids, their ranks by bytes, and their directions; return the sizes of the blocks."""
    ranked = rank_new_ids(factors, 0, sizes.n_rows)
    rank, n_blocks = sizes.rank, blocks_of_factors(sizes.n_rows, sizes.rank)

    def write(table: pa.Table) -> pa.Table:
        number = table["block"][0].as_py()
        rows = _in_order(table)
        ids = rows["id"].combine_chunks()

        def directions() -> None:
            if len(ids.unique()) < len(ids):
                raise DataRefusedError(
                    f"{len(ids) - len(ids.unique())} ids or more stand twice among the factors; take those of one model"
                )
            biases = rows["bias"].to_numpy().astype(np.float32)
            units = predicted_directions(matrix(rows["factor"], rank), root, biases, mean)
            with whole_file(f"{ids_path(folder, 'user', number)}.ids") as fresh:
                save_ids(fresh, ids)
            save_array(_ties_path(folder, "user", number), rows["index"].to_numpy())
            save_array(_units_path(folder, number), units)

        return _told(number, len(ids), attempt(directions))

    placed = _in_blocks(factors.join(ranked, on="id", how="inner"), n_blocks)
    found = np.zeros(n_blocks, np.int64)
    for number, n_rows in _answers(placed.groupBy("block").applyInArrow(write, _TOLD_SCHEMA)):
        found[number] = n_rows
    return found


_TOLD_SCHEMA = "block int, n_rows bigint, told binary"


def _told(number: int, n_rows: int, told: bytes) -> pa.Table:
    return pa.table(
        {"block": pa.array([number], pa.int32()), "n_rows": [n_rows], "told": pa.array([told], pa.binary())}
    )


def _answers(frame: DataFrame) -> list[tuple[int, int]]:
    """Return (block, number of rows) by block; what a task refused is raised here."""
    rows = sorted(frame.collect(), key=lambda row: row["block"])
    for row in rows:
        outcome(bytes(row["told"]))
    return [(row["block"], row["n_rows"]) for row in rows]


def _save_lists(
    folder: str, name: str, entries: NDArray[np.int32], values: NDArray[np.float32], support: NDArray[np.int32]
) -> None:
    save_array(f"{folder}/{name}.entries.npy", entries)
    save_array(f"{folder}/{name}.values.npy", values)
    save_array(f"{folder}/{name}.support.npy", support)


def _lists_frame(
    spark: SparkSession,
    folder: str,
    name: str,
    sides: tuple[Side, Side],
    spans: Sequence[_Span],
    entry_ptr: NDArray[np.int64],
    schema: str,
) -> DataFrame:
    """Return the lists of all blocks, with ids for positions; the tasks read the folder.

    Parameters
    ----------
    name : of the lists' files; ``spans`` are the blocks of the side that has lists.
    sides : the side that has lists, and that of the entries, whose blocks start at ``entry_ptr``.
    schema : of id, rank, id of the entry and value, and support or not.
    """
    if not spans:
        return spark.createDataFrame([], schema)
    columns = [column.split()[0] for column in schema.split(", ")]
    own, of_entries = sides

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch["id"].to_pylist():
                number = spans[place].number
                ids = load_ids(f"{ids_path(folder, own, number)}.ids")
                entries, values, support = (
                    mapped(f"{folder}/{name}-{number}.{part}.npy") for part in ("entries", "values", "support")
                )
                step = max(1, ROWS_AT_ONCE // entries.shape[1])
                for first in range(0, len(entries), step):
                    row, rank = np.nonzero(entries[first : first + step] >= 0)
                    row += first
                    cells = [
                        ids.take(pa.array(row)),
                        pa.array(rank + 1, pa.int32()),
                        _ids_at(folder, of_entries, entry_ptr, entries[row, rank]),
                        pa.array(values[row, rank]),
                        pa.array(support[row, rank]),
                    ]
                    yield pa.RecordBatch.from_arrays(cells[: len(columns)], columns)

    n_tasks = min(len(spans), tasks_of_job(spark))
    return spark.range(0, len(spans), 1, n_tasks).mapInArrow(read, schema)


def _ids_at(folder: str, side: Side, block_ptr: NDArray[np.int64], positions: NDArray[np.int32]) -> pa.Array:
    """Return the ids at positions, of which each block's come from its file."""
    order = np.argsort(positions, kind="stable")
    ends = np.searchsorted(positions[order], block_ptr)
    found = [
        load_ids(f"{ids_path(folder, side, number)}.ids").take(
            pa.array(positions[order[first:last]] - np.int32(block_ptr[number]))
        )
        for number, (first, last) in enumerate(pairwise(ends.tolist()))
        if first < last
    ]
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_arrays(found).take(pa.array(back)) if found else pa.array([], pa.string())
