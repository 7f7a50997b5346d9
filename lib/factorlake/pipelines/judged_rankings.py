"""Models judged by their lists, or by how they rank held-out items among given candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.evaluation.intervals import Interval, mean_interval
from factorlake.evaluation.list_rows import compressed_pairs, metric_names
from factorlake.evaluation.sampled import sampled_metrics
from factorlake.pipelines.context import Context
from factorlake.pipelines.holdout import PAIR
from factorlake.pipelines.judged_calibration import Calibrated, calibrate
from factorlake.pipelines.judged_slices import item_labels, user_labels
from factorlake.pipelines.judging import COLD, MODEL, Figures, Measured, Part, Ranker, Task, difference
from factorlake.spark.arrow_codes import sorted_codes
from factorlake.spark.compat import keep, release
from factorlake.spark.ids import logical_block
from factorlake.spark.ranking import KnownPairs, count_known, metric_intervals, per_user_metrics

EVERYONE = "everyone"
# Between a name and its metric in a column of the wide frame; no name holds it.
OF = "|"
AMONG_CANDIDATES = ("hit", "ndcg", "mrr")
GROUPS_OF_USERS = 64
NO_SCORE = -1e300
"""Score of a candidate that someone did not score: below any other."""


@dataclass(frozen=True)
class Rankings:
    """How everyone ranked, and the map from the model's scores to probabilities where one was asked for."""

    figures: Figures
    calibration: Calibrated | None


def judge_rankings(context: Context, rankers: Sequence[Ranker], task: Task) -> Rankings:
    """Return the metrics of everyone, what the model gains over each other, coverage and the slices; of cold users the
    metrics of those who answer them."""
    k = context.settings.evaluate.k
    counted = count_known(task.learnt)
    try:
        found = _of_part(context, rankers, task.warm, counted, k)
        if task.cold is not None:
            answering = [ranker for ranker in rankers if ranker.answers_cold]
            cold = _of_part(context, answering, task.cold, counted, k, sliced=False).figures
            found.figures.update({key._replace(slice=COLD): interval for key, interval in cold.items()})
    finally:
        counted.release()
    return found


def headlines(k: int) -> tuple[str, str]:
    """Return the metrics that are told of slices and differences."""
    return f"ndcg@{k}", f"recall@{k}"


def _of_part(
    context: Context, rankers: Sequence[Ranker], part: Part, counted: KnownPairs, k: int, sliced: bool = True
) -> Rankings:
    """Judge one part; without ``sliced`` there is neither coverage nor gain, slice or calibration."""
    if part.candidates is not None:
        per_user = {ranker.name: _among_candidates(ranker, part, k) for ranker in rankers}
        metrics = [f"{name}@{k}" for name in AMONG_CANDIDATES]
        return Rankings(_intervals(context, per_user, metrics, part, k, sliced), None)
    calibration = None
    lists = {ranker.name: keep(ranker.lists(part, k)) for ranker in rankers}
    try:
        per_user = {name: per_user_metrics(frame, part.truth, k, counted) for name, frame in lists.items()}
        figures = _intervals(context, per_user, metric_names(k, True), part, k, sliced)
        if sliced:
            figures |= _coverage(lists, part, counted, k) | _by_category(context, lists, part, k)
            if context.settings.evaluate.calibration:
                calibration = calibrate(lists[MODEL], part.truth, k)
                figures |= {} if calibration is None else calibration.figures
    finally:
        for frame in lists.values():
            release(frame)
    return Rankings(figures, calibration)


def _intervals(
    context: Context, per_user: Mapping[str, DataFrame], metrics: Sequence[str], part: Part, k: int, sliced: bool
) -> Figures:
    """Return the figures of per-user metrics: one frame with everyone side by side is summed once."""
    told = [metric for metric in headlines(k) if metric in metrics]
    narrow = [
        frame.select("user_id", *(_column(metric).alias(name + OF + metric) for metric in metrics))
        for name, frame in per_user.items()
    ]
    wide = reduce(lambda left, right: left.join(right, on="user_id"), narrow).withColumn(EVERYONE, F.lit(EVERYONE))
    columns, labels = [name + OF + metric for name in per_user for metric in metrics], [EVERYONE]
    if sliced:
        for name in per_user:
            for metric in told if name != MODEL else ():
                gain = _column(MODEL + OF + metric) - _column(name + OF + metric)
                wide = wide.withColumn(difference(name) + OF + metric, gain)
                columns.append(difference(name) + OF + metric)
        users, kinds = user_labels(context, part)
        wide, labels = wide.join(users, on="user_id", how="left"), [*labels, *kinds]
    figures: Figures = {}
    for (label, column), interval in metric_intervals(wide, columns, labels).items():
        name, metric = column.split(OF)
        if label == EVERYONE or metric in told:
            figures[Measured(name, metric, None if label == EVERYONE else label)] = interval
    return figures


def _column(name: str) -> F.Column:
    return F.col(f"`{name}`")


def _coverage(lists: Mapping[str, DataFrame], part: Part, counted: KnownPairs, k: int) -> Figures:
    """Return the share of all items, known or held out, that stands in somebody's list."""
    items = keep(counted.items.select("item_id").unionByName(part.truth.select("item_id")).distinct())
    listed = _named(lists).join(items, on="item_id").groupBy("name").agg(F.countDistinct("item_id").alias("n"))
    found = {row["name"]: row["n"] for row in listed.collect()}
    n_items, n_users = items.count(), part.users().count()
    release(items)
    shares = {name: found.get(name, 0) / n_items for name in lists}
    return {Measured(name, f"coverage@{k}"): Interval(share, share, share, n_users) for name, share in shares.items()}


def _named(lists: Mapping[str, DataFrame]) -> DataFrame:
    return reduce(
        DataFrame.unionByName, (frame.select(F.lit(name).alias("name"), *PAIR) for name, frame in lists.items())
    )


def _by_category(context: Context, lists: Mapping[str, DataFrame], part: Part, k: int) -> Figures:
    """Return the recall of held-out items of each category: of a user, the share of those that are listed.

    Users with equal numbers are counted where they lie, so that the driver gets as many rows as there are different
    recalls.
    """
    categories = item_labels(context, part)
    if categories is None:
        return {}
    names = F.explode(F.array(*(F.lit(name) for name in lists))).alias("name")
    asked = part.truth.join(categories, on="item_id").select(*PAIR, "category", names)
    listed = _named(lists).withColumn("hit", F.lit(1))
    of_user = (
        asked.join(listed, on=["name", *PAIR], how="left")
        .groupBy("name", "category", "user_id")
        .agg(F.count("hit").alias("hits"), F.count(F.lit(1)).alias("n"))
    )
    rows = of_user.groupBy("name", "category", "hits", "n").agg(F.count(F.lit(1)).alias("users")).collect()
    recalls: dict[Measured, list[tuple[float, int]]] = {}
    for row in rows:
        key = Measured(row["name"], f"recall@{k}", row["category"])
        recalls.setdefault(key, []).append((row["hits"] / row["n"], row["users"]))
    # Sorted, so that sums do not depend on the order in which rows arrive.
    columns = {key: np.array(sorted(told)).T for key, told in recalls.items()}
    return {key: mean_interval(np.repeat(values, users.astype(np.int64))) for key, (values, users) in columns.items()}


def _among_candidates(ranker: Ranker, part: Part, k: int) -> DataFrame:
    """Return (user_id, hit@k, ndcg@k, mrr@k): each user's held-out items ranked among them and the user's candidates.

    A candidate without a score comes last.
    """
    asked = part.asked_pairs()
    scored = asked.join(ranker.scores(part).select(*PAIR, "score"), on=PAIR, how="left")
    held = part.truth.select(*PAIR, F.lit(True).alias("held"))
    block = logical_block(F.xxhash64("user_id"), GROUPS_OF_USERS).alias("block")
    is_held = F.coalesce("held", F.lit(False)).alias("held")
    rows = scored.join(held, on=PAIR, how="left").select(*PAIR, "score", is_held, block)

    def judge(table: pa.Table) -> pa.Table:
        return _judge_candidates(table, k)

    schema = "user_id string, " + ", ".join(f"`{name}@{k}` double" for name in AMONG_CANDIDATES)
    return rows.groupBy("block").applyInArrow(judge, schema)


def _judge_candidates(table: pa.Table, k: int) -> pa.Table:
    user, ids = sorted_codes(table["user_id"])
    item, _ = sorted_codes(table["item_id"])
    scores = pc.fill_null(table["score"].cast(pa.float64()), NO_SCORE).to_numpy()
    held = table["held"].to_numpy(zero_copy_only=False)
    order = np.lexsort((item, user))
    ptr, items = compressed_pairs(user, item, len(ids))
    held_ptr, held_items = compressed_pairs(user[held], item[held], len(ids))
    return pa.table({"user_id": ids} | sampled_metrics(ptr, items, scores[order], held_ptr, held_items, k))
