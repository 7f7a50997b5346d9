"""The embedded log beside what was planted in it.

The log goes through `ingest` and `validate` like any other; models learn from all days but the last and are judged on
what listeners found on the last one. Beside them stand the lists of the planted optimum: the tracks' planted tastes
and popularity are known, and each listener's taste is inferred from the listener's own finds, which is the most that a
model can know. Lists by the listeners' planted tastes themselves are told too, as `oracle`: some thirty finds cannot
tell ten numbers exactly. And so is `family`: what a model learns that is told how the log was made (softmax of taste
and popularity, ten tastes, their strength and spread, skips against the taste) but no taste of anyone: some sixty finds
cannot tell the ten numbers of a track exactly either, so that with few listeners the optimum is out of reach.
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
from scipy.optimize import minimize
from scipy.special import logsumexp

from benchmarks.quality_tasks import Task, make_task, mean_figures
from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.demo_log import TASTE_RANK, read_planted

CONF = Path(__file__).parents[1] / "conf" / "base" / "demo.yaml"
K = 10
SHARPER = 2.0
EVENTS = ("train.event_weights.skip=-0.1", "train.value_scale=0.1")
"""How the log's events are weighed, beside what the demo's conf says. Chosen on the validation part, as SHARPER is."""


def embedded_figures(
    given: argparse.Namespace, parameters: AlsParameters, seeds: Sequence[int]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the figures of the embedded log with as many listeners as asked for."""
    with tempfile.TemporaryDirectory() as folder:
        listeners = f"demo.listeners={given.listeners}"
        settings = load_settings([CONF], [f"root={folder}/lake", f"input={folder}/log/events", listeners, *EVENTS])
        known, held = _pairs(settings, given.part)
        planted = read_planted(Path(folder) / "log" / "planted.npz")
    task = make_task(known, held, explicit=False, cutoffs=(K,))
    rows = np.unique(task.held_users)
    lists = {"planted": _optimum(task, planted, infer=True), "oracle": _optimum(task, planted, infer=False)}
    lists["family"] = _best(task, learnt_scores(task, planted[0].strength, TASTE_RANK)[rows])
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
        "family_over_planted": figures["family"][f"ndcg@{K}"] / figures[f"planted_ndcg@{K}"],
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
    if infer:
        ptr, known = task.known(rows)
        liked = task.known_values(rows) > 0
        owner = np.repeat(np.arange(len(rows)), np.diff(ptr))[liked]
        liked_ptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(rows)))])
        scores = taste.inferred_scores(liked_ptr, tracks[known[liked]])[:, tracks]
    else:
        listeners = np.array([listener_at[task.packed.user_ids[row]] for row in rows])
        scores = taste.scores(listeners)[:, tracks].astype(np.float64)
    return _best(task, scores)


def _best(task: Task, scores: NDArray[np.float64]) -> NDArray[np.integer]:
    """Return the lists of the judged listeners by scores (n_judged, n_items), without what they know."""
    ptr, known = task.known(np.unique(task.held_users))
    open_scores = np.array(scores)
    open_scores[np.repeat(np.arange(len(scores)), np.diff(ptr)), known] = -np.inf
    best: NDArray[np.integer] = np.argsort(-open_scores, axis=1, kind="stable")[:, :K]
    return best


def learnt_scores(task: Task, strength: float, rank: int) -> NDArray[np.float64]:
    """Return the scores (n_users, n_items) of the model that made the log, fitted to what is known.

    Finds are draws in proportion to exp(s p·q + b), skips to exp(−s p·q / 2 + b); L-BFGS looks for the tastes p, q and
    the popularities b of greatest posterior density under the planted priors, N(0, 1) and N(0, 1/rank) an entry, each
    SHARPER times as strong: a single best point knows nothing of its own doubt.
    """
    n_users, n_items = len(task.packed.user_ids), len(task.packed.item_ids)
    ptr, items = task.known(np.arange(n_users))
    owner, liked = np.repeat(np.arange(n_users), np.diff(ptr)), task.known_values(np.arange(n_users)) > 0
    drawn = []
    for chosen, pull in ((liked, strength), (~liked, -strength / 2)):
        counts = np.zeros((n_users, n_items))
        counts[owner[chosen], items[chosen]] = 1
        drawn.append((counts, counts.sum(axis=1, keepdims=True), pull))
    shapes = ((n_users, rank), (n_items, rank), (n_items,))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def parts(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        users, tracks, popularity = parts(flat)
        taste = users @ tracks.T
        told = SHARPER / 2 * (np.sum(users**2) + rank * np.sum(tracks**2))
        to_taste, to_popularity = np.zeros_like(taste), np.zeros(n_items)
        for counts, n, pull in drawn:
            scores = pull * taste + popularity
            logs = scores - logsumexp(scores, axis=1, keepdims=True)
            told -= np.sum(counts * logs)
            surplus = n * np.exp(logs) - counts
            to_taste += pull * surplus
            to_popularity += surplus.sum(axis=0)
        slopes = to_taste @ tracks + SHARPER * users, to_taste.T @ users + SHARPER * rank * tracks, to_popularity
        return float(told), np.concatenate([slope.ravel() for slope in slopes])

    rng = np.random.default_rng(0)
    start = [0.3 * rng.standard_normal(shapes[0]), 0.1 * rng.standard_normal(shapes[1])]
    start.append(np.log1p(drawn[0][0].sum(axis=0)))
    found = minimize(
        loss, np.concatenate([one.ravel() for one in start]), jac=True, method="L-BFGS-B", options={"maxiter": 150}
    )
    users, tracks, popularity = parts(found.x)
    scores: NDArray[np.float64] = strength * users @ tracks.T + popularity
    return scores
