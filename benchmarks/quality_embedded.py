"""The embedded log beside what was planted in it.

The log goes through `ingest` and `validate` like any other; models learn from all days but the last and are judged on
what listeners found on the last one. Beside them stand the lists of the planted optimum: the tracks' planted tastes
and popularity are known, and each listener's taste is inferred from the listener's own finds, which is the most that a
model can know. Lists by the listeners' planted tastes themselves are told too, as `oracle`: some thirty finds cannot
tell ten numbers exactly.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality_tasks import Task, make_task, mean_figures
from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.demo_log import read_planted

CONF = Path(__file__).parents[1] / "conf" / "base" / "demo.yaml"
K = 10


def embedded_figures(
    given: argparse.Namespace, parameters: AlsParameters, seeds: Sequence[int]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the figures of the embedded log with as many listeners as asked for."""
    with tempfile.TemporaryDirectory() as folder:
        listeners = f"demo.listeners={given.listeners}"
        settings = load_settings([CONF], [f"root={folder}/lake", f"input={folder}/log/events", listeners])
        known, held = _pairs(settings, given.part)
        planted = read_planted(Path(folder) / "log" / "planted.npz")
    task = make_task(known, held, explicit=False, cutoffs=(K,))
    rows = np.unique(task.held_users)
    lists = {"planted": _optimum(task, planted, infer=True), "oracle": _optimum(task, planted, infer=False)}
    figures: dict[str, Any] = {"listeners": given.listeners, "judged": len(rows), "seeds": list(seeds)}
    figures["popularity"] = task.popularity()
    for name, listed in lists.items():
        figures[name] = task.ranked_lists(lambda some, listed=listed: listed[np.searchsorted(rows, some)])  # type: ignore[misc]
    each = [task.judge(task.fit(replace(parameters, seed=seed))) for seed in seeds]
    figures |= mean_figures(each)
    figures[f"planted_ndcg@{K}"] = figures["planted"][f"ndcg@{K}"]
    figures["each"] = [told[f"ndcg@{K}"] for told in each]
    ratios = {
        "ndcg_over_planted": figures[f"ndcg@{K}"] / figures[f"planted_ndcg@{K}"],
        "ndcg_over_oracle": figures[f"ndcg@{K}"] / figures["oracle"][f"ndcg@{K}"],
        "ndcg_over_popularity": figures[f"ndcg@{K}"] / figures["popularity"][f"ndcg@{K}"],
    }
    return figures, ratios


def _pairs(settings: Settings, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return known and held-out (user, item, value) of the accepted events: those before and on the last day, or for
    validation the same of the days before it."""
    from pyspark.sql import functions as F

    from factorlake.pipelines.jobs import execute
    from factorlake.pipelines.models import pair_rule
    from factorlake.spark.pairs import combine_pairs
    from factorlake.spark.session import open_session
    from factorlake.tables import delta_io
    from factorlake.tables.names import Lake

    spark = open_session(settings.spark)
    try:
        line = execute(
            "run",
            settings,
            conf_dir=str(CONF.parents[1]),
            open_session=lambda: spark,
            progress=lambda message: None,
            options={"first": "ingest", "last": "validate"},
        )
        if line["exit_code"]:
            raise SystemExit(f"the embedded log was not taken in: {line['reason']}")
        events = delta_io.read(spark, Lake.at(settings.root, settings.recommender).shared("interactions"))
        newest = events.agg(F.max("event_time")).collect()[0][0]
        if part == "validation":
            newest -= timedelta(days=1)
        cutoff = F.lit(newest - timedelta(days=1))
        rule = pair_rule(settings)
        known = combine_pairs(events.where(F.col("event_time") <= cutoff), rule)
        late = events.where((F.col("event_time") > cutoff) & (F.col("event_time") <= F.lit(newest)))
        held = (
            combine_pairs(late, rule.without_decay())
            .where(F.col("value") > 0)
            .join(known, on=["user_id", "item_id"], how="left_anti")
        )
        names = {"user_id": "user", "item_id": "item"}
        return known.toPandas().rename(columns=names), held.toPandas().rename(columns=names)
    finally:
        spark.stop()


def _optimum(task: Task, planted: Any, infer: bool) -> NDArray[np.integer]:
    """Return the lists of the judged listeners by planted tastes: their own, or what their finds tell of them."""
    taste, listener_at, track_at = planted
    rows = np.unique(task.held_users)
    tracks = np.array([track_at[name] for name in task.packed.item_ids])
    ptr, known = task.known(rows)
    liked = task.known_values(rows) > 0
    if infer:
        owner = np.repeat(np.arange(len(rows)), np.diff(ptr))[liked]
        liked_ptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(rows)))])
        scores = taste.inferred_scores(liked_ptr, tracks[known[liked]])[:, tracks]
    else:
        listeners = np.array([listener_at[task.packed.user_ids[row]] for row in rows])
        scores = taste.scores(listeners)[:, tracks].astype(np.float64)
    scores[np.repeat(np.arange(len(rows)), np.diff(ptr)), known] = -np.inf
    best: NDArray[np.integer] = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return best
