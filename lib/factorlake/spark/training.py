"""Fit a model to a frame of pairs: encode them once, choose a plan, run the training loop."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable
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
from factorlake.spark.compat import keep, name_jobs, release, task_slots
from factorlake.spark.encode import Codes, check_encoded, decode_pairs, encode_pairs
from factorlake.spark.exchange import Exchange
from factorlake.spark.ids import Positions, positions
from factorlake.types import FloatMatrix, Plan

log = logging.getLogger(__name__)

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
    n_blocks: int

    def release(self) -> None:
        """Give up the kept frames of positions."""
        release(self.users.frame)
        release(self.items.frame)


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
    workspace : folder that driver and, where they can, workers see. What lies in its ``rating_blocks`` and ``exchange``
        is removed at the end.
    threads : of the local plan; None: as many as Spark has slots on this machine. Changes no number.
    progress : told what is being done, in a few words.
    validation : with it, training keeps the best epoch and stops by the metric instead of the objective.
    start : factors to start from, by id; ids it does not know start as in a new model.

    Frames of positions stay kept for the caller, who gives them up by ``Fitted.release``.

    Raises
    ------
    DataRefusedError : nothing to train on, a rating that is not a number, or a pair that occurs twice.
    NumericalError : training went out of bounds.
    """
    name_jobs(spark, "encode pairs")
    encoded = keep(encode_pairs(pairs, drop_zero=parameters.objective == "implicit"))
    try:
        sizes = check_encoded(encoded)
        n_observed = sizes.n_obs
        chosen, why = choose_plan(plan, _master(spark), sizes.most_users, sizes.most_items, n_observed, parameters.rank)
        progress(f"plan {chosen}: {why}")
        run = _Run(spark, parameters, workspace, threads, progress, on_half_step, validation, start)
        if chosen == "local":
            model, users, items = run.local(encoded)
        else:
            model, users, items = run.broadcast(encoded, n_observed)
    finally:
        release(encoded)
    return Fitted(model, parameters, users, items, n_observed, chosen, number_of_blocks(n_observed))


@dataclass(frozen=True)
class _Run:
    """What every plan is handed."""

    spark: SparkSession
    parameters: AlsParameters
    workspace: str
    threads: int | None
    progress: Callable[[str], None]
    on_half_step: Callable[[TraceRow], None] | None
    validation: Validation | None
    start: Start | None

    def local(self, encoded: DataFrame) -> tuple[TrainedModel, Positions, Positions]:
        decoded = decode_pairs(encoded)
        self._packing(len(decoded.user), len(decoded.users.ids), len(decoded.items.ids))
        user_blocks, item_blocks = pack_positions(
            decoded.user, decoded.item, decoded.value, decoded.users.hashes, decoded.items.hashes
        )
        n_blocks = number_of_blocks(len(decoded.user))
        users = _known_positions(self.spark, decoded.users, n_blocks)
        items = _known_positions(self.spark, decoded.items, n_blocks)
        threads = self.threads or min(task_slots(self.spark), os.cpu_count() or 1)
        with LocalHalfStep(user_blocks, item_blocks, threads) as half_step:
            model = self._train(describe(user_blocks, item_blocks, self.parameters), half_step, users, items)
        return model, users, items

    def broadcast(self, encoded: DataFrame, n_observed: int) -> tuple[TrainedModel, Positions, Positions]:
        spark, path = self.spark, f"{self.workspace}/rating_blocks"
        n_blocks = number_of_blocks(n_observed)
        users = _kept_positions(encoded.select(F.explode("user_ids").alias("id")), n_blocks)
        items = _kept_positions(encoded.select(F.explode("item_ids").alias("id")), n_blocks)
        self._packing(n_observed, users.n_ids, items.n_ids)
        name_jobs(spark, "pack rating blocks")
        try:
            write_blocks(pack_blocks(encoded, users, items), path)
            name_jobs(spark, "half steps")
            with Exchange(spark, f"{self.workspace}/exchange") as exchange:
                problem = describe_blocks(spark.read.format("delta").load(path), self.parameters)
                half_step = BroadcastHalfStep(spark, path, exchange, uuid.uuid4().hex)
                model = self._train(problem, half_step, users, items)
        finally:
            if "://" not in path:
                shutil.rmtree(path, ignore_errors=True)
        return model, users, items

    def _packing(self, n_observed: int, n_users: int, n_items: int) -> None:
        self.progress(f"packing {n_observed:,} pairs of {n_users:,} users and {n_items:,} items")

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


def _known_positions(spark: SparkSession, codes: Codes, n_blocks: int) -> Positions:
    block = block_of(codes.hashes, n_blocks)
    columns = {
        "id": codes.ids,
        "hash": pa.array(codes.hashes),
        "block": pa.array(block.astype(np.int32)),
        "position": pa.array(np.arange(len(block), dtype=np.int32)),
    }
    frame = spark.createDataFrame(pa.table(columns))
    return Positions(frame, np.searchsorted(block, np.arange(n_blocks + 1)))


def _kept_positions(ids: DataFrame, n_blocks: int) -> Positions:
    """Return positions whose frame is kept: they name the rows of factors until those are written."""
    found = positions(ids, n_blocks)
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
