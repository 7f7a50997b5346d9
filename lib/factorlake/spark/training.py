"""Fit a model to a frame of pairs: encode them once, choose a plan, run the training loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.kernels.initial import initial_factors
from factorlake.models.als import train
from factorlake.models.blocks import block_of, number_of_blocks, pack_positions
from factorlake.models.half_step import HalfStep, LocalHalfStep
from factorlake.models.parameters import AlsParameters
from factorlake.models.problem import AlsProblem, describe
from factorlake.models.trained import Snapshot, TraceRow, TrainedModel
from factorlake.spark.blocks import pack_blocks, write_blocks
from factorlake.spark.broadcast import BroadcastHalfStep, describe_blocks
from factorlake.spark.compat import keep, named_jobs, release, task_slots
from factorlake.spark.encode import Ids, Part, check_rows, encode_to_files, encode_to_rows, join_parts, parts_of
from factorlake.spark.exchange import Exchange
from factorlake.spark.file_packing import pack_files
from factorlake.spark.ids import Positions, positions
from factorlake.types import FloatMatrix, Plan

LOCAL_MEMORY = 6 << 30
"""Bytes of ratings and factors up to which `auto` trains on the driver."""


@dataclass(frozen=True)
class Validation:
    """A held-out metric of the model after each epoch."""

    metric: Callable[[Positions, Positions], Callable[[int, Snapshot], float]]
    """Makes (epoch, snapshot) → metric from the positions of users and items."""
    larger_is_better: bool


Start = tuple[DataFrame, DataFrame]
"""(users, items) of an earlier model, each (id, factor)."""


@dataclass(frozen=True)
class Fitted:
    """A trained model with the frames that give its rows their ids."""

    model: TrainedModel
    parameters: AlsParameters
    users: Positions
    items: Positions
    n_observed: int
    plan: str
    folder: str | None = None
    """What the frames of positions read, where that is files."""

    @property
    def n_blocks(self) -> int:
        return number_of_blocks(self.n_observed)

    def release(self) -> None:
        """Give up the frames of positions."""
        release(self.users.frame)
        release(self.items.frame)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def memory_estimate(n_users: int, n_items: int, n_observed: int, rank: int) -> int:
    """Return the bytes the local plan holds: ratings both ways and four copies of the factors."""
    return 2 * n_observed * 8 + 4 * (n_users + n_items) * rank * 4


def choose_plan(plan: Plan, master: str, n_users: int, n_items: int, n_observed: int, rank: int) -> tuple[str, str]:
    """Return (plan, why). `auto`: local where Spark itself is local and the data fits the driver, else broadcast."""
    needed = memory_estimate(n_users, n_items, n_observed, rank)
    estimate = f"{needed / 2**20:.0f} MiB of ratings and factors"
    if plan != "auto":
        return plan, f"set in the settings; {estimate}"
    if not master.startswith("local"):
        return "broadcast", f"{estimate}; Spark has workers of its own"
    if needed > LOCAL_MEMORY:
        return "broadcast", f"{estimate}, more than {LOCAL_MEMORY >> 30} GiB for the driver"
    return "local", f"{estimate}, fits the driver"


def fit_pairs(
    spark: SparkSession,
    pairs: DataFrame,
    parameters: AlsParameters,
    *,
    workspace: str,
    plan: Plan = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validation: Validation | None = None,
    start: Start | None = None,
) -> Fitted:
    """Train on pairs, which are read once.

    Parameters
    ----------
    pairs : user_id, item_id (of any type that casts to a string) and value; a pair may occur once. For the implicit
        objective a value of 0 says nothing and is left out.
    workspace : folder that driver and, where they can, workers see. What lay in its ``rating_blocks`` and ``exchange``
        is removed.
    threads : of the local plan; None: as many as Spark has slots on this machine. Changes no number.
    progress : told what is being done, in a few words.
    validation : with it, training keeps the best epoch and stops by the metric instead of the objective.
    start : factors to start from, by id; ids it does not know start as in a new model.

    Frames of positions stay for the caller, who gives them up by ``Fitted.release``; until then some of the workspace
    stays too.

    Raises
    ------
    DataRefusedError : nothing to train on, a rating that is not a number, or a pair that occurs twice.
    NumericalError : training went out of bounds.
    """
    run = _Run(spark, parameters, workspace, plan, threads, progress, on_half_step, validation, start)
    drop_zero = parameters.objective == "implicit"
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
    plan: Plan
    threads: int | None
    progress: Callable[[str], None]
    on_half_step: Callable[[TraceRow], None] | None
    validation: Validation | None
    start: Start | None

    def with_files(self, pairs: DataFrame, drop_zero: bool, exchange: Exchange) -> Fitted:
        """Fit where driver and workers see the workspace: ratings lie in its files."""
        folder = f"{self.workspace}/rating_blocks"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(f"{folder}/parts")
        try:
            parts = encode_to_files(pairs, drop_zero, f"{folder}/parts")
            n_observed = sum(part.n_obs for part in parts)
            most_users, most_items = sum(part.n_users for part in parts), sum(part.n_items for part in parts)
            if self._choose(most_users, most_items, n_observed) == "local":
                fitted = self._local([part.load() for part in parts])
                shutil.rmtree(folder)
                return fitted
            packed = pack_files(self.spark, parts, folder, number_of_blocks(n_observed), self.parameters)
            users, items = _kept(packed.users), _kept(packed.items)
            self._packed(n_observed, users, items)
            half_step = BroadcastHalfStep(self.spark, exchange, packed.blocks, folder)
            with named_jobs(self.spark, "half steps"):
                model = self._train(packed.problem, half_step, users, items)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Fitted(model, self.parameters, users, items, n_observed, "broadcast", folder)

    def with_rows(self, encoded: DataFrame, exchange: Exchange) -> Fitted:
        """Fit where workers do not see the workspace: ratings travel through Spark, blocks lie in a Delta table."""
        n_observed, most_users, most_items = check_rows(encoded)
        if self._choose(most_users, most_items, n_observed) == "local":
            return self._local(parts_of(encoded))
        path = f"{self.workspace}/rating_blocks"
        n_blocks = number_of_blocks(n_observed)
        users = _kept(positions(encoded.select(F.explode("user_ids").alias("id")), n_blocks))
        items = _kept(positions(encoded.select(F.explode("item_ids").alias("id")), n_blocks))
        self._packed(n_observed, users, items)
        try:
            with named_jobs(self.spark, "pack rating blocks"):
                write_blocks(pack_blocks(encoded, users, items), path)
                problem = describe_blocks(self.spark.read.format("delta").load(path), self.parameters)
            half_step = BroadcastHalfStep(self.spark, exchange, None, path)
            with named_jobs(self.spark, "half steps"):
                model = self._train(problem, half_step, users, items)
        finally:
            if "://" not in path:
                shutil.rmtree(path, ignore_errors=True)
        return Fitted(model, self.parameters, users, items, n_observed, "broadcast")

    def _choose(self, most_users: int, most_items: int, n_observed: int) -> str:
        chosen, why = choose_plan(
            self.plan, _master(self.spark), most_users, most_items, n_observed, self.parameters.rank
        )
        self.progress(f"plan {chosen}: {why}")
        return chosen

    def _local(self, parts: Sequence[Part]) -> Fitted:
        joined = join_parts(parts)
        n_observed = len(joined.user)
        user_blocks, item_blocks = pack_positions(
            joined.user, joined.item, joined.values, joined.users.hashes, joined.items.hashes
        )
        n_blocks = number_of_blocks(n_observed)
        users = _numbered(self.spark, joined.users, n_blocks)
        items = _numbered(self.spark, joined.items, n_blocks)
        self._packed(n_observed, users, items)
        threads = self.threads or min(task_slots(self.spark), os.cpu_count() or 1)
        with LocalHalfStep(user_blocks, item_blocks, threads) as half_step:
            model = self._train(describe(user_blocks, item_blocks, self.parameters), half_step, users, items)
        return Fitted(model, self.parameters, users, items, n_observed, "local")

    def _packed(self, n_observed: int, users: Positions, items: Positions) -> None:
        self.progress(f"{n_observed:,} pairs of {users.n_ids:,} users and {items.n_ids:,} items")

    def _train(self, problem: AlsProblem, half_step: HalfStep, users: Positions, items: Positions) -> TrainedModel:
        validate = None if self.validation is None else self.validation.metric(users, items)
        start = None
        if self.start is not None:
            seeded = initial_factors(
                problem.items.hashes, self.parameters.rank, self.parameters.seed, self.parameters.init_scale
            )
            nothing = np.zeros((problem.users.n_rows, self.parameters.rank), np.float32)
            start = (_laid_over(nothing, self.start[0], users), _laid_over(seeded, self.start[1], items))
        return train(
            problem,
            self.parameters,
            half_step,
            self.on_half_step,
            validate,
            larger_is_better=self.validation is None or self.validation.larger_is_better,
            start=start,
        )


def _numbered(spark: SparkSession, ids: Ids, n_blocks: int) -> Positions:
    block = block_of(ids.hashes, n_blocks)
    columns = {
        "id": ids.ids,
        "hash": pa.array(ids.hashes),
        "block": pa.array(block.astype(np.int32)),
        "position": pa.array(np.arange(len(block), dtype=np.int32)),
    }
    frame = spark.createDataFrame(pa.table(columns))
    return Positions(frame, np.searchsorted(block, np.arange(n_blocks + 1)))


def _kept(found: Positions) -> Positions:
    """Return positions whose frame is kept: they name the rows of factors until those are written."""
    return Positions(keep(found.frame), found.block_ptr)


def _laid_over(rows: FloatMatrix, factors: DataFrame, known: Positions) -> NDArray[np.float32]:
    """Return ``rows`` (n, rank) with the rows of ids that ``factors`` (id, factor) holds put in their places."""
    placed = factors.select(F.col("id").cast("string").alias("id"), "factor")
    table = placed.join(known.frame.select("id", "position"), on="id").select("position", "factor").toArrow()
    laid = np.array(rows, np.float32)
    if table.num_rows:
        flat = table["factor"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        laid[table["position"].to_numpy()] = flat.astype(np.float32).reshape(table.num_rows, -1)
    return laid


def _master(spark: SparkSession) -> str:
    return spark.conf.get("spark.master", None) or "local"
