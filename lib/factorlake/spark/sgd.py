"""Fit a model to a frame of pairs by stochastic gradients: encode them once, choose a plan, run the training loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from factorlake.errors import ConfigError
from factorlake.models.blocks import block_of, number_of_blocks, pack_positions
from factorlake.models.estimate import DRIVER_MEMORY, Load, local_memory
from factorlake.models.parameters import AlsParameters
from factorlake.models.sgd import SgdTraceRow, TrainedSgd, train_sgd
from factorlake.models.sgd_parameters import SgdParameters
from factorlake.models.sgd_plan import LocalSgdPlan
from factorlake.spark.compat import keep, named_jobs, release, task_slots
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
from factorlake.spark.file_packing import pack_files
from factorlake.spark.ids import Positions
from factorlake.spark.sgd_cells import cut_cells

SgdPlanName = Literal["auto", "local", "spark"]

CELL = 12
"""Bytes of a rating in its cell: two places and the value."""
_PACKING = AlsParameters(objective="explicit")
"""What ratings are packed by: none is left out."""


@dataclass(frozen=True)
class FittedSgd:
    """A trained model with the frames that give its rows their ids."""

    model: TrainedSgd[Any]
    """Its rows lie on the driver, or in files under ``folder`` (plan spark)."""
    parameters: SgdParameters
    users: Positions
    items: Positions
    n_observed: int
    """Ratings, those held out for validation among them."""
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


def fit_sgd_pairs(
    spark: SparkSession,
    pairs: DataFrame,
    parameters: SgdParameters,
    *,
    workspace: str,
    plan: SgdPlanName = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[SgdTraceRow], None] | None = None,
) -> FittedSgd:
    """Train on pairs, which are read once.

    Parameters
    ----------
    pairs : user_id, item_id (of any type that casts to a string) and value, which may be left out where every rating
        is 1; a pair may occur once.
    workspace : folder that driver and, where they can, workers see. What lay in its ``rating_cells`` and ``exchange``
        is removed.
    plan : local: threads of the driver, which then holds ratings and rows; spark: tasks, a job a stratum; auto: local
        where that fits the driver. The model is the same.
    threads : of the local plan; None: as many as Spark has slots on this machine. Changes no number.
    progress : told what is being done, in a few words.
    on_epoch : told each row of the trace.

    Frames of positions stay for the caller, who gives them up by ``FittedSgd.release``; until then some of the
    workspace stays too.

    Raises
    ------
    ConfigError : the plan cannot run where workers do not see the workspace.
    DataRefusedError : nothing to train on, a rating that is not a number, or a pair that occurs twice.
    NumericalError : training diverged.
    """
    run = _Run(spark, parameters, workspace, plan, threads, progress, on_epoch)
    with named_jobs(spark, "encode pairs"), Exchange(spark, f"{workspace}/exchange") as exchange:
        if exchange.by_file:
            return run.with_files(pairs)
        encoded = keep(encode_to_rows(pairs, drop_zero=False))
        try:
            return run.with_rows(encoded)
        finally:
            release(encoded)


@dataclass(frozen=True)
class _Run:
    """What both plans are handed."""

    spark: SparkSession
    parameters: SgdParameters
    workspace: str
    plan: SgdPlanName
    threads: int | None
    progress: Callable[[str], None]
    on_epoch: Callable[[SgdTraceRow], None] | None

    def with_files(self, pairs: DataFrame) -> FittedSgd:
        """Fit where driver and workers see the workspace."""
        folder = f"{self.workspace}/rating_cells"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(f"{folder}/parts", exist_ok=True)
        try:
            parts = encode_to_files(pairs, False, f"{folder}/parts")
            n_observed = sum(part.n_obs for part in parts)
            if self._choose(True, count_ids(parts, "user"), count_ids(parts, "item"), n_observed) == "local":
                fitted = self._local([part.load() for part in parts])
                shutil.rmtree(folder, ignore_errors=True)
                return fitted
            n_blocks = number_of_blocks(n_observed)
            packed = pack_files(self.spark, parts, folder, n_blocks, _PACKING, localized=False)
            sides = packed.users, packed.items
            for one in sides:
                keep(one.frame)
            try:
                self._packed(n_observed, *sides)
                with named_jobs(self.spark, "cut cells"):
                    trainer = cut_cells(self.spark, folder, packed, self.parameters)
                with named_jobs(self.spark, "strata"):
                    model = train_sgd(trainer, self.parameters, self.on_epoch)
            except BaseException:
                for one in sides:
                    release(one.frame)
                raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return FittedSgd(model, self.parameters, *sides, n_observed, "spark", folder)

    def with_rows(self, encoded: DataFrame) -> FittedSgd:
        """Fit where workers do not see the workspace: on the driver, where that fits."""
        n_observed, most_users, most_items = check_rows(encoded)
        self._choose(False, most_users, most_items, n_observed)
        return self._local(parts_of(encoded))

    def _choose(self, by_file: bool, n_users: int, n_items: int, n_observed: int) -> SgdPlanName:
        held = needed_memory(n_users, n_items, n_observed, self.parameters)
        estimate = f"{held / 2**20:,.0f} MiB of ratings and rows"
        shared = "a root that driver and workers see as one folder (a shared or mounted file system)"
        if self.plan == "spark" and not by_file:
            raise ConfigError(f"plan spark needs {shared}; give such a root, or take plan local ({estimate})")
        if self.plan != "auto":
            chosen, why = self.plan, f"set in the settings; {estimate}"
        elif held <= DRIVER_MEMORY:
            chosen, why = "local", f"{estimate}, fits the driver"
        elif by_file:
            chosen, why = "spark", f"{estimate}, more than {DRIVER_MEMORY >> 30} GiB for the driver"
        else:
            raise ConfigError(
                f"{estimate} are more than the {DRIVER_MEMORY >> 30} GiB that plan auto gives the driver, and plan "
                f"spark needs {shared}; give such a root, or set plan local where the driver has the memory"
            )
        self.progress(f"plan {chosen}: {why}")
        return chosen

    def _local(self, parts: Sequence[Part]) -> FittedSgd:
        threads = self.threads or min(task_slots(self.spark), os.cpu_count() or 1)
        joined = join_parts(parts, threads)
        n_observed = len(joined.user)
        n_blocks = number_of_blocks(n_observed)
        users, items = (_numbered(self.spark, ids, n_blocks) for ids in (joined.users, joined.items))
        user_blocks, _ = pack_positions(
            joined.user, joined.item, joined.values, joined.users.hashes, joined.items.hashes, threads
        )
        self._packed(n_observed, users, items)
        with LocalSgdPlan(user_blocks, joined.items.hashes, self.parameters, threads) as plan:
            model = train_sgd(plan, self.parameters, self.on_epoch)
        return FittedSgd(model, self.parameters, users, items, n_observed, "local")

    def _packed(self, n_observed: int, users: Positions, items: Positions) -> None:
        self.progress(f"{n_observed:,} pairs of {users.n_ids:,} users and {items.n_ids:,} items")


def needed_memory(n_users: int, n_items: int, n_observed: int, parameters: SgdParameters) -> int:
    """Return the bytes the local plan holds at most: pairs while they are packed and as cells, and the rows of both
    sides, kept beside the present ones, with Adam's moments."""
    load = Load(n_users, n_items, n_observed, parameters.rank, epochs=1, k=1)
    rows = (n_users + n_items) * parameters.columns("user").moves.nbytes
    return round(local_memory(load)) + CELL * n_observed + rows * (4 if parameters.optimizer == "adam" else 2)


def _numbered(spark: SparkSession, ids: Ids, n_blocks: int) -> Positions:
    block = block_of(ids.hashes, n_blocks)

    def frame() -> DataFrame:
        columns = {
            "id": ids.ids,
            "hash": pa.array(ids.hashes),
            "block": pa.array(block.astype(np.int32)),
            "position": pa.array(np.arange(len(block), dtype=np.int32)),
        }
        return spark.createDataFrame(pa.table(columns))

    return Positions(frame, np.searchsorted(block, np.arange(n_blocks + 1)))
