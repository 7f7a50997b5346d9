"""The parts of the known events that `tune` trains and judges its trials on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.config.settings import TuneSettings
from factorlake.errors import ConfigError
from factorlake.models.estimate import DRIVER_MEMORY, GIB, Load, local_memory
from factorlake.models.held_out import LIST_METRICS, HeldOut, HeldOutLists, HeldOutMetric, HeldOutRatings
from factorlake.models.parameters import AlsParameters
from factorlake.models.trials import Fold
from factorlake.pipelines.context import Context
from factorlake.pipelines.holdout import chosen_by_hash, fold_by_user, pair_hash, split_events, without_pairs
from factorlake.pipelines.models import held_out_truth, training_pairs
from factorlake.spark.compat import keep, release
from factorlake.spark.opened_pairs import OpenedPairs, opened_pairs
from factorlake.spark.pairs import newest_time

ROWS_HELD = 6
"""Copies of both sides' factors that a search holds beside training: of the trial that runs, of its best epoch, and of
those that others may start from."""


@dataclass(frozen=True)
class OpenFolds:
    """Every fold, packed, with what stands for it as a whole."""

    folds: tuple[Fold[Any], ...]
    held_out: tuple[HeldOut, ...]
    opened: tuple[OpenedPairs, ...]
    may_refuse: bool
    """Whether the plan was chosen by itself."""

    def refuse(self, rank: int) -> str | None:
        """Return why trials of a rank are not run in a plan that was chosen by itself; None where they are."""
        if not self.may_refuse:
            return None
        first = self.opened[0]
        load = Load(first.users.n_ids, first.items.n_ids, first.n_observed, rank, epochs=1, k=1)
        held = ROWS_HELD * load.factors
        needed = {"local": local_memory(load) + held, "broadcast": load.rows + held, "shuffle": 0}[first.name]
        if needed <= DRIVER_MEMORY:
            return None
        return (
            f"rank {rank} needs {needed / GIB:.1f} GiB in plan {first.name}, and {DRIVER_MEMORY / GIB:.0f} GiB are for "
            "the driver: set train.plan, or a lower tune.max_rank"
        )


def metric_of(tune: TuneSettings, parameters: AlsParameters) -> HeldOutMetric:
    """Return the metric that trials are judged by: `auto` is ndcg of lists and rmse of explicit ratings."""
    if tune.metric != "auto":
        return tune.metric
    return "rmse" if parameters.objective == "explicit" else "ndcg"


def check_split(tune: TuneSettings, holdout_days: float | None) -> None:
    """Raise a ConfigError where a split by time has no length."""
    if tune.split == "time" and not (tune.holdout_days or holdout_days):
        raise ConfigError("tune.split time needs a length: set tune.holdout_days (or train.holdout_days)")


@contextmanager
def open_folds(
    context: Context, events: DataFrame, parameters: AlsParameters, metric: HeldOutMetric, workspace: str
) -> Iterator[OpenFolds]:
    """Split the events, pack what trials learn from and place what judges them; everything stays open for all trials.

    Parameters
    ----------
    events : all that the search may know of.
    parameters : as `opened_pairs` wants them, at the lowest rank.
    workspace : folder that is removed at the end.

    Raises
    ------
    DataRefusedError : nothing to train on, or nothing held out.
    """
    settings, tune = context.settings, context.settings.tune
    folds, held_out, opened = [], [], []
    with ExitStack() as held:
        for number in range(tune.folds):
            known_events, later = fold_of_events(context, events, number)
            known = keep(training_pairs(context, known_events))
            try:
                one = held.enter_context(
                    opened_pairs(
                        context.spark,
                        known,
                        parameters,
                        workspace=f"{workspace}/{number}",
                        plan=settings.train.plan,
                        threads=settings.train.threads or None,
                        progress=context.progress,
                    )
                )
                judged = place_held_out(one, known, held_out_truth(context, later), metric, tune.max_users)
            finally:
                release(known)
            opened.append(one)
            held_out.append(judged)
            folds.append(Fold(one.plan, judged.judge(metric, tune.k, one.threads)))
        yield OpenFolds(tuple(folds), tuple(held_out), tuple(opened), settings.train.plan == "auto")


def fold_of_events(context: Context, events: DataFrame, number: int) -> tuple[DataFrame, DataFrame]:
    """Return (known, held out) events of one fold, from 0.

    Of several folds each pair is held out in one (`factorlake.models.tuning.held_in_fold` is the same rule).
    """
    tune, seed = context.settings.tune, context.settings.seed
    if tune.folds > 1:
        if tune.split == "per_user":
            return fold_by_user(events, seed, number, tune.folds)
        low, high = (bound / tune.folds for bound in (number, number + 1))
        place = pair_hash(seed)
        held = (place >= F.lit(low * 2.0**53)) & (place < F.lit(high * 2.0**53))
        return events.where(~held), events.where(held)
    cutoff = None
    if tune.split == "time":
        newest = newest_time(events)
        if newest is None:
            raise ConfigError("tune.split time needs events with a time; take split per_user")
        cutoff = newest - timedelta(days=tune.holdout_days or context.settings.train.holdout_days or 0.0)
    return split_events(events, tune.split, cutoff, tune.test_share, seed, tune.last_n)


def place_held_out(
    opened: OpenedPairs, known: DataFrame, held: DataFrame, metric: HeldOutMetric, max_users: int
) -> HeldOut:
    """Return held-out pairs (user_id, item_id, value) by position.

    Pairs of users or items without a position are left out, and so are pairs that are known too and, where lists are
    judged, values that are not positive; of more than ``max_users`` users that are left about as many are judged.

    Raises
    ------
    DataRefusedError : nothing is left.
    """
    u = opened.users.frame.select(F.col("id").alias("user_id"), F.col("position").alias("u"))
    i = opened.items.frame.select(F.col("id").alias("item_id"), F.col("position").alias("i"))
    told = held.where(F.col("value") > 0) if metric in LIST_METRICS else held
    placed = keep(without_pairs(told, known).join(u, on="user_id").join(i, on="item_id"))
    try:
        if metric not in LIST_METRICS:
            rows = placed.select("u", "i", "value").toArrow()
            users, items, values = (rows[name].to_numpy() for name in ("u", "i", "value"))
            return HeldOutRatings.of_pairs(users, items, values)
        n_users = placed.agg(F.countDistinct("u")).collect()[0][0]
        chosen = chosen_by_hash(placed, max_users, n_users)
        truth = chosen.select("u", "i").toArrow()
        asked = chosen.select("user_id", "u").distinct()
        seen = known.join(asked, on="user_id").join(i, on="item_id").select("u", "i").toArrow()
    finally:
        release(placed)
    truth_u, truth_i, seen_u, seen_i = (
        table[name].to_numpy().astype(np.int64) for table in (truth, seen) for name in ("u", "i")
    )
    return HeldOutLists.of_pairs(truth_u, truth_i, seen_u, seen_i)
