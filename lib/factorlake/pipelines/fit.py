"""Fit a model to pairs: pack them once, choose a plan, run the training loop."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.config.settings import Settings
from factorlake.errors import DataRefusedError
from factorlake.models.als import train
from factorlake.models.blocks import number_of_blocks
from factorlake.models.half_step import HalfStep, LocalHalfStep
from factorlake.models.parameters import AlsParameters
from factorlake.models.problem import AlsProblem, describe
from factorlake.models.trained import Snapshot, TraceRow, TrainedModel
from factorlake.pipelines.context import Context
from factorlake.spark.blocks import index_pairs, pack_blocks, read_blocks, write_blocks
from factorlake.spark.broadcast import BroadcastHalfStep, describe_blocks
from factorlake.spark.compat import keep, name_jobs, release, task_slots
from factorlake.spark.exchange import Exchange
from factorlake.spark.ids import Positions, positions

log = logging.getLogger(__name__)

LOCAL_MEMORY = 6 << 30
"""Bytes of ratings and factors up to which `auto` trains on the driver."""


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


def als_parameters(settings: Settings) -> AlsParameters:
    """Return the engine's numbers for these settings."""
    t = settings.train
    stop = t.early_stopping
    return AlsParameters(
        objective=t.objective,
        rank=t.rank,
        regularization=t.regularization,
        nu=t.frequency_exponent,
        kappa=t.frequency_offset,
        alpha0=t.unobserved_weight,
        alpha=t.alpha,
        biases=t.biases,
        bias_regularization=t.bias_regularization,
        epochs=t.epochs,
        init_scale=t.init_scale,
        solver=t.solver,
        cg_steps=t.cg_steps,
        seed=settings.seed,
        tolerance=None if stop is None else stop.tolerance,
        patience=1 if stop is None else stop.patience,
    )


def memory_estimate(n_users: int, n_items: int, n_observed: int, rank: int) -> int:
    """Return the bytes the local plan holds: ratings both ways and four copies of the factors."""
    return 2 * n_observed * 8 + 4 * (n_users + n_items) * rank * 4


def choose_plan(settings: Settings, master: str, n_users: int, n_items: int, n_observed: int) -> tuple[str, str]:
    """Return (plan, why). `auto`: local where Spark itself is local and the data fits the driver, else broadcast."""
    needed = memory_estimate(n_users, n_items, n_observed, settings.train.rank)
    estimate = f"{needed / 2**20:.0f} MiB of ratings and factors"
    if settings.train.plan != "auto":
        return settings.train.plan, f"set in the settings; {estimate}"
    if not master.startswith("local"):
        return "broadcast", f"{estimate}; Spark has workers of its own"
    if needed > LOCAL_MEMORY:
        return "broadcast", f"{estimate}, more than {LOCAL_MEMORY >> 30} GiB for the driver"
    return "local", f"{estimate}, fits the driver"


def fit(
    context: Context,
    pairs: DataFrame,
    version: str,
    *,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validation: Callable[[Positions, Positions], Callable[[int, Snapshot], float]] | None = None,
) -> Fitted:
    """Train on (user_id, item_id, value) pairs, which are read several times: hand in a kept frame.

    Rating blocks lie under the candidate's folder and go at the end; the frames of positions stay kept for the caller,
    who gives them up by ``Fitted.release``.

    ``validation`` makes the held-out metric from the positions of users and items.

    Raises DataRefusedError when there is no pair to train on.
    """
    spark, settings = context.spark, context.settings
    parameters = als_parameters(settings)
    path = context.lake.candidate(version, "rating_blocks")
    n_observed = pairs.count()
    if n_observed == 0:
        raise DataRefusedError(
            "there is nothing to train on: no accepted event is left after select, event_weights and the holdout"
        )
    n_blocks = number_of_blocks(n_observed)
    users = kept_positions(pairs.select(F.col("user_id").alias("id")), n_blocks)
    items = kept_positions(pairs.select(F.col("item_id").alias("id")), n_blocks)
    context.progress(f"packing {n_observed:,} pairs of {users.n_ids:,} users and {items.n_ids:,} items")
    name_jobs(spark, "pack rating blocks")
    indexed = keep(index_pairs(pairs, users, items))
    write_blocks(pack_blocks(indexed), path)
    release(indexed)
    plan, why = choose_plan(settings, _master(context), users.n_ids, items.n_ids, n_observed)
    context.progress(f"plan {plan}: {why}")
    validate = validation(users, items) if validation else None
    rmse = settings.train.early_stopping is not None and settings.train.early_stopping.metric == "rmse"

    def loop(problem: AlsProblem, half_step: HalfStep) -> TrainedModel:
        return train(problem, parameters, half_step, on_half_step, validate, larger_is_better=not rmse)

    try:
        if plan == "local":
            user_blocks, item_blocks = read_blocks(spark, path, "user"), read_blocks(spark, path, "item")
            threads = settings.train.threads or min(task_slots(spark), os.cpu_count() or 1)
            with LocalHalfStep(user_blocks, item_blocks, threads) as local:
                model = loop(describe(user_blocks, item_blocks, parameters), local)
        else:
            name_jobs(spark, "half steps")
            with Exchange(spark, context.lake.exchange(version)) as exchange:
                problem = describe_blocks(spark.read.format("delta").load(path), parameters)
                model = loop(problem, BroadcastHalfStep(spark, path, exchange, context.run_id))
    finally:
        if context.lake.is_local:
            shutil.rmtree(path, ignore_errors=True)
    return Fitted(model, parameters, users, items, n_observed, plan, n_blocks)


def kept_positions(ids: DataFrame, n_blocks: int) -> Positions:
    """Return positions whose frame is kept: they name the rows of factors until those are written."""
    found = positions(ids, n_blocks)
    return Positions(keep(found.frame), found.n_ids)


def _master(context: Context) -> str:
    return context.spark.conf.get("spark.master", None) or "local"
