"""Fit a model to a frame of pairs: encode them once, choose a plan, run the training loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.models.als import train
from factorlake.models.blocks import block_of, number_of_blocks, pack_positions
from factorlake.models.checkpoints import Checkpoints
from factorlake.models.estimate import Load, choose_plan
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows, R
from factorlake.models.plan import Plan as TrainingPlan
from factorlake.models.prior import Features
from factorlake.models.trained import Snapshot, TraceRow, TrainedModel
from factorlake.spark.arrow_lists import matrix
from factorlake.spark.blocks import pack_blocks, write_blocks
from factorlake.spark.broadcast import FileBroadcastPlan, TaskBroadcastPlan
from factorlake.spark.compat import keep, named_jobs, release, remove_folder, task_slots
from factorlake.spark.encode import (
    Ids,
    Part,
    check_rows,
    count_ids,
    encode_to_files,
    encode_to_rows,
    join_parts,
    parts_of,
)
from factorlake.spark.exchange import Exchange
from factorlake.spark.features import SideFeatures
from factorlake.spark.file_packing import pack_files
from factorlake.spark.ids import Positions, positions
from factorlake.spark.shuffle import ShufflePlan
from factorlake.spark.stored_rows import StoredRows
from factorlake.types import PlanName, Side


@dataclass(frozen=True)
class Validation:
    """A held-out metric of the model after each epoch."""

    metric: Callable[[Positions, Positions], Callable[[int, Snapshot[Any]], float]]
    """Makes (epoch, snapshot) → metric from the positions of users and items."""
    larger_is_better: bool


Start = tuple[DataFrame, DataFrame]
"""(users, items) of an earlier model, each (id, factor)."""


@dataclass(frozen=True)
class FitFeatures:
    """Features of users and of items; None where a side has none."""

    users: SideFeatures | None = None
    items: SideFeatures | None = None

    def of(self, side: Side) -> SideFeatures | None:
        return self.users if side == "user" else self.items

    def n_columns(self, side: Side) -> int:
        own = self.of(side)
        return 0 if own is None else own.vocabulary.n_columns


@dataclass(frozen=True)
class Fitted:
    """A trained model with the frames that give its rows their ids."""

    model: TrainedModel[Any]
    """Its rows lie on the driver, or in files under ``folder`` (plan shuffle)."""
    parameters: AlsParameters
    users: Positions
    items: Positions
    n_observed: int
    plan: str
    folder: str | None = None
    """What the frames of positions and the rows read, where that is files."""

    @property
    def n_blocks(self) -> int:
        return number_of_blocks(self.n_observed)

    def release(self) -> None:
        """Give up the frames of positions, and the rows where they lie in files."""
        release(self.users.frame)
        release(self.items.frame)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def fit_pairs(
    spark: SparkSession,
    pairs: DataFrame,
    parameters: AlsParameters,
    *,
    workspace: str,
    plan: PlanName = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validation: Validation | None = None,
    start: Start | None = None,
    features: FitFeatures | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Train on pairs, which are read once.

    Parameters
    ----------
    pairs : user_id, item_id (of any type that casts to a string) and value, which may be left out where every rating
        is 1; a pair may occur once. For the implicit and the Frobenius objective a value of 0 says nothing and is left
        out.
    workspace : folder that driver and, where they can, workers see. What lay in its ``rating_blocks`` and ``exchange``
        is removed.
    threads : of the local plan; None: as many as Spark has slots on this machine. Changes no number.
    progress : told what is being done, in a few words.
    validation : with it, training keeps the best epoch and stops by the metric instead of the objective.
    start : factors to start from, by id; ids it does not know start as in a new model.
    features : what is known of ids beside their pairs; of others nothing is.
    checkpoints : where training keeps its progress, and goes on from; see ``train``.

    Frames of positions stay for the caller, who gives them up by ``Fitted.release``; until then some of the workspace
    stays too.

    Raises
    ------
    DataRefusedError : nothing to train on, a rating that is not a number, or a pair that occurs twice.
    NumericalError : training went out of bounds.
    """
    known = features or FitFeatures()
    run = _Run(
        spark, parameters, workspace, plan, threads, progress, on_half_step, validation, start, known, checkpoints
    )
    drop_zero = parameters.objective != "explicit"
    with named_jobs(spark, "encode pairs"), Exchange(spark, f"{workspace}/exchange") as exchange:
        if exchange.by_file:
            return run.with_files(pairs, drop_zero, exchange)
        encoded = keep(encode_to_rows(pairs, drop_zero))
        try:
            return run.with_rows(encoded, exchange)
        finally:
            release(encoded)


@dataclass(frozen=True)
class _Run:
    """What every plan is handed."""

    spark: SparkSession
    parameters: AlsParameters
    workspace: str
    plan: PlanName
    threads: int | None
    progress: Callable[[str], None]
    on_half_step: Callable[[TraceRow], None] | None
    validation: Validation | None
    start: Start | None
    features: FitFeatures
    checkpoints: Checkpoints | None

    def with_files(self, pairs: DataFrame, drop_zero: bool, exchange: Exchange) -> Fitted:
        """Fit where driver and workers see the workspace: ratings lie in its files."""
        folder = f"{self.workspace}/rating_blocks"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(f"{folder}/parts", exist_ok=True)
        try:
            parts = encode_to_files(pairs, drop_zero, f"{folder}/parts")
            n_observed = sum(part.n_obs for part in parts)
            chosen = self._choose(True, count_ids(parts, "user"), count_ids(parts, "item"), n_observed)
            if chosen == "local":
                fitted = self._local([part.load() for part in parts])
                shutil.rmtree(folder, ignore_errors=True)
                return fitted
            n_blocks = number_of_blocks(n_observed)
            localized = chosen == "shuffle"
            packed = pack_files(self.spark, parts, folder, n_blocks, self.parameters, localized=localized)
            users, items = packed.users, packed.items
            with _kept(users, items):
                self._packed(n_observed, users, items)
                with named_jobs(self.spark, "half steps"):
                    if chosen == "shuffle":
                        shuffle = ShufflePlan(self.spark, folder, packed.problem, packed.blocks)
                        model: TrainedModel[Any] = self._in_files(shuffle, users, items)
                    else:
                        broadcast = FileBroadcastPlan(self.spark, exchange, packed.problem, packed.blocks)
                        model = self._on_driver(broadcast, users, items)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Fitted(model, self.parameters, users, items, n_observed, chosen, folder)

    def with_rows(self, encoded: DataFrame, exchange: Exchange) -> Fitted:
        """Fit where workers do not see the workspace: ratings travel through Spark, blocks lie in a Delta table."""
        n_observed, most_users, most_items = check_rows(encoded)
        if self._choose(False, most_users, most_items, n_observed) == "local":
            return self._local(parts_of(encoded))
        path = f"{self.workspace}/rating_blocks"
        n_blocks = number_of_blocks(n_observed)
        users, items = (
            positions(encoded.select(F.explode(ids).alias("id")), n_blocks) for ids in ("user_ids", "item_ids")
        )
        try:
            with _kept(users, items):
                self._packed(n_observed, users, items)
                with named_jobs(self.spark, "pack rating blocks"):
                    write_blocks(pack_blocks(encoded, users, items), path)
                    plan = TaskBroadcastPlan(self.spark, exchange, path, self.parameters)
                with named_jobs(self.spark, "half steps"):
                    model = self._on_driver(plan, users, items)
        finally:
            remove_folder(self.spark, path)
        return Fitted(model, self.parameters, users, items, n_observed, "broadcast")

    def _choose(self, by_file: bool, n_users: int, n_items: int, n_observed: int) -> PlanName:
        # Lists and epochs do not weigh in the choice.
        load = Load(
            n_users,
            n_items,
            n_observed,
            self.parameters.rank,
            epochs=1,
            k=1,
            user_columns=self.features.n_columns("user"),
            item_columns=self.features.n_columns("item"),
        )
        is_local = (self.spark.conf.get("spark.master", None) or "local").startswith("local")
        chosen, why = choose_plan(self.plan, is_local, by_file, load)
        self.progress(f"plan {chosen}: {why}")
        return chosen

    def _local(self, parts: Sequence[Part]) -> Fitted:
        threads = self.threads or min(task_slots(self.spark), os.cpu_count() or 1)
        joined = join_parts(parts, threads)
        n_observed = len(joined.user)
        n_blocks = number_of_blocks(n_observed)
        # Few ask for the frames of ids before the end, and to bring ids to Spark takes longer than to pack a small log.
        beside = ThreadPoolExecutor(1)
        try:
            users, items = (_numbered(self.spark, ids, n_blocks, beside) for ids in (joined.users, joined.items))
            user_blocks, item_blocks = pack_positions(
                joined.user, joined.item, joined.values, joined.users.hashes, joined.items.hashes, threads
            )
        except BaseException:
            beside.shutdown(cancel_futures=True)
            raise
        beside.shutdown(wait=False)
        self._packed(n_observed, users, items)
        with LocalPlan(user_blocks, item_blocks, self.parameters, threads) as plan:
            model = self._on_driver(plan, users, items)
        return Fitted(model, self.parameters, users, items, n_observed, "local")

    def _packed(self, n_observed: int, users: Positions, items: Positions) -> None:
        self.progress(f"{n_observed:,} pairs of {users.n_ids:,} users and {items.n_ids:,} items")

    def _on_driver(
        self, plan: LocalPlan | FileBroadcastPlan | TaskBroadcastPlan, users: Positions, items: Positions
    ) -> TrainedModel[ArrayRows]:
        def hold(side: Side, rows: DataFrame, known: Positions, width: int) -> ArrayRows:
            return plan.hold(side, _placed(rows, known, width))

        return self._train(plan, hold, users, items)

    def _in_files(self, plan: ShufflePlan, users: Positions, items: Positions) -> TrainedModel[StoredRows]:
        def hold(side: Side, rows: DataFrame, known: Positions, width: int) -> StoredRows:
            return plan.hold(side, _laid_beside(rows, known), width)

        return self._train(plan, hold, users, items)

    def _train(
        self,
        plan: TrainingPlan[R],
        hold: Callable[[Side, DataFrame, Positions, int], R],
        users: Positions,
        items: Positions,
    ) -> TrainedModel[R]:
        """Train; ``hold`` brings a side's rows (id, factor) of a width to where the plan has them."""
        start = None
        if self.start is not None:
            rank = self.parameters.rank
            start = hold("user", self.start[0], users, rank), hold("item", self.start[1], items, rank)

        def placed(side: Side, known: Positions) -> R | None:
            own = self.features.of(side)
            if own is None:
                return None
            return hold(side, own.among(known.frame.select("id")).rows(), known, own.vocabulary.n_columns)

        return train(
            plan,
            self.parameters,
            self.on_half_step,
            None if self.validation is None else self.validation.metric(users, items),
            larger_is_better=self.validation is None or self.validation.larger_is_better,
            start=start,
            features=Features(placed("user", users), placed("item", items)),
            checkpoints=self.checkpoints,
        )


def _numbered(spark: SparkSession, ids: Ids, n_blocks: int, beside: Executor) -> Positions:
    block = block_of(ids.hashes, n_blocks)

    def frame() -> DataFrame:
        columns = {
            "id": ids.ids,
            "hash": pa.array(ids.hashes),
            "block": pa.array(block.astype(np.int32)),
            "position": pa.array(np.arange(len(block), dtype=np.int32)),
        }
        return spark.createDataFrame(pa.table(columns))

    return Positions(beside.submit(frame).result, np.searchsorted(block, np.arange(n_blocks + 1)))


@contextmanager
def _kept(*sides: Positions) -> Iterator[None]:
    """Keep the frames of positions, which name the rows of factors until those are written; give them up only when
    the fit inside fails."""
    for one in sides:
        keep(one.frame)
    try:
        yield
    except BaseException:
        for one in sides:
            release(one.frame)
        raise


def _laid_beside(factors: DataFrame, known: Positions) -> DataFrame:
    """Return (block, position, factor) of every id of one side; factor is null where ``factors`` (id, factor) has
    none."""
    placed = factors.select(F.col("id").cast("string").alias("id"), "factor")
    return known.frame.select("id", "block", "position").join(placed, on="id", how="left").drop("id")


def _placed(factors: DataFrame, known: Positions, rank: int) -> NDArray[np.float32]:
    """Return the rows (n, rank) of one side by position, NaN where ``factors`` (id, factor) has none."""
    table = _laid_beside(factors, known).where(F.col("factor").isNotNull()).select("position", "factor").toArrow()
    rows = np.full((known.n_ids, rank), np.nan, np.float32)
    if table.num_rows:
        rows[table["position"].to_numpy()] = matrix(table["factor"], rank)
    return rows
