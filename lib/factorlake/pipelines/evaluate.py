"""Judge a candidate on events it has not seen: reads its factors and interactions, writes evaluation and a models
row."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.evaluation.baselines import BiasBaseline
from factorlake.evaluation.intervals import Interval, mean_interval, paired_interval
from factorlake.evaluation.ranking import coverage, ranking_metrics
from factorlake.evaluation.rating_error import rating_errors
from factorlake.models.blocks import number_of_blocks
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.fit import als_parameters, fit
from factorlake.pipelines.holdout import chosen_by_hash, split_events
from factorlake.pipelines.models import chosen_model, of_its_settings, selected_events, trainer_of, training_pairs
from factorlake.pipelines.train import item_factors_frame
from factorlake.spark.compat import keep, release
from factorlake.spark.exchange import Exchange
from factorlake.spark.fold_in import fold_in
from factorlake.spark.item_side import LoadedItems, load_items
from factorlake.spark.scorer import score_top_k
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS

GAIN = "gain_over"
DIFFERENCE = "difference"
# One user tells nothing of the spread, so a gain needs more.
COMPARED = 2


def judged_users(split: str) -> str:
    """Return the metric that tells how many users a split judged a model on."""
    return f"judged_users:{split}"


@dataclass(frozen=True)
class Judged:
    """A model ready to be judged: its items with the workers, and the numbers its users fold in with."""

    items: LoadedItems
    gram: NDArray[np.float64]
    parameters: AlsParameters
    n_items: int


@dataclass(frozen=True)
class Task:
    """What the judged models must find: held-out pairs of known users, and what is known of those users."""

    known: DataFrame
    """(user_id, item_id, value) of the judged users."""
    truth: DataFrame
    """(user_id, item_id, value), none of them known."""
    n_blocks: int
    counts: dict[str, int]


def run(context: Context, model: str | None = None) -> JobResult:
    """Judge a candidate beside popularity (or bias) baselines and, on the same users, the published model.

    Each model folds every judged user in on the events before the cut-off and is scored on those after it.
    """
    row = chosen_model(context, model)
    context = of_its_settings(context, row)
    spark, lake, settings = context.spark, context.lake, context.settings
    version, split = row["model_version"], settings.evaluate.split
    explicit = row["objective"] == "explicit"
    headline = "rmse" if explicit else f"ndcg@{settings.evaluate.k}"
    live = registry.publication(spark, lake, settings.publish.slot)
    rival = live["model_version"] if live is not None and live["model_version"] != version else None
    done = dict(row["metrics"] or {})
    # What the gate decides by is the judgement made last, so only that one counts as made.
    n_judged = done.get(judged_users(split))
    few = n_judged is not None and n_judged < COMPARED
    settled = rival is None or split != "time" or f"{GAIN}:{rival}:lower" in done
    if row["state"] != "trained" and n_judged is not None and (few or (headline in done and settled)):
        return JobResult(NOTHING_TO_DO, f"model {version} is judged already", model_version=version)
    if split == "time" and row["cutoff"] is None:
        return JobResult(
            NOTHING_TO_DO,
            f"model {version} was trained on all events, so nothing is left to judge it: set train.holdout_days, "
            "or evaluate.split to leave_last_out or hash",
            model_version=version,
        )
    events = selected_events(context, row["interactions_version"])
    known_events, held_events = split_events(events, split, row["cutoff"], settings.evaluate.test_share, settings.seed)
    known, held = keep(training_pairs(context, known_events)), training_pairs(context, held_events)
    with ExitStack() as open_until_done:
        exchange = open_until_done.enter_context(Exchange(spark, lake.exchange(version)))
        judged = _candidate(context, row, exchange) if split == "time" else _refit(context, row, known, exchange)
        task = _task(context, known, held, explicit, row["n_observed"])
        context.progress(f"judging {version} on {task.counts['judged_users']} users")
        if task.counts["judged_users"] == 0:
            # The gate must be able to tell a model that nobody could judge from one that was not judged.
            _record(context, row, {judged_users(split): 0.0})
            return JobResult(
                NOTHING_TO_DO, "no held-out event belongs to a known user", counts=task.counts, model_version=version
            )
        rivals = {} if rival is None or split != "time" else {"live": _published(context, rival, live, exchange)}
        if explicit:
            figures = _rating_figures(judged, rivals, task)
        else:
            figures = _ranking_figures(context, judged, rivals, task, headline)
        release(task.known)
        release(task.truth)
        release(known)
    metrics = {metric: interval.value for (name, metric), interval in figures.items() if name == "model"}
    metrics[judged_users(split)] = float(task.counts["judged_users"])
    for gain in (interval for (name, _), interval in figures.items() if name == DIFFERENCE and interval.n >= COMPARED):
        metrics |= {f"{GAIN}:{rival}:mean": gain.value, f"{GAIN}:{rival}:lower": gain.lower}
    evaluation = _write(context, figures, version, split, rival)
    _record(context, row, metrics)
    return JobResult(
        counts=task.counts, versions={"evaluation": evaluation}, model_version=version, details={"metrics": metrics}
    )


def _record(context: Context, row: Row, metrics: dict[str, float]) -> None:
    """Record a judgement. Lists and a publication that came before stay what they are."""
    state = "evaluated" if row["state"] == "trained" else row["state"]
    judged = {**row.asDict(), "state": state, "metrics": metrics}
    context.record_model(judged)


def _task(context: Context, known: DataFrame, held: DataFrame, explicit: bool, n_observed: int) -> Task:
    """Keep held-out pairs of known users that are new to them; count cold users apart."""
    key = ["user_id", "item_id"]
    new = held if explicit else held.where(F.col("value") > 0)
    new = new.join(known.select(key), on=key, how="left_anti")
    known_users = known.select("user_id").distinct().withColumn("is_known", F.lit(True))
    users = keep(new.select("user_id").distinct().join(known_users, on="user_id", how="left"))
    n_users, n_warm = users.agg(F.count(F.lit(1)), F.count("is_known")).collect()[0]
    warm = users.where(F.col("is_known")).select("user_id")
    chosen = chosen_by_hash(warm, context.settings.evaluate.max_users, n_warm)
    truth = keep(new.join(chosen, on="user_id", how="left_semi"))
    of_chosen = keep(known.join(chosen, on="user_id", how="left_semi"))
    judged, n_pairs = truth.agg(F.countDistinct("user_id"), F.count(F.lit(1))).collect()[0]
    release(users)
    counts = {"judged_users": judged, "cold_users": n_users - n_warm, "held_out_pairs": n_pairs}
    return Task(of_chosen, truth, number_of_blocks(n_observed), counts)


def _candidate(context: Context, row: Row, exchange: Exchange) -> Judged:
    path = context.lake.candidate(row["model_version"], "factors")
    items = delta_io.read(context.spark, path).where(F.col("side") == "item")
    return _judged(context, items, row, exchange)


def _published(context: Context, version: str, publication: Any, exchange: Exchange) -> Judged:
    """The live model as its publication recorded it."""
    row = registry.model(context.spark, context.lake, version)
    if row is None:
        raise ConfigError(f"the published model {version} has no row in the models table; publish a new one by --force")
    path = context.lake.published("item_factors", context.settings.publish.slot)
    items = delta_io.read(context.spark, path, dict(publication["versions"])["item_factors"])
    return _judged(context, items.withColumnRenamed("item_id", "id"), row, exchange)


def _judged(context: Context, items: DataFrame, row: Row, exchange: Exchange) -> Judged:
    parameters = als_parameters(of_its_settings(context, row).settings)
    gram = np.frombuffer(row["gram"], np.float64).reshape(row["rank"], row["rank"])
    return Judged(load_items(items, exchange, row["mean"]), gram, parameters, row["n_items"])


def _refit(context: Context, row: Row, known: DataFrame, exchange: Exchange) -> Judged:
    """Train a model of its own on the known part of a split that is not by time."""
    fitted = fit(context, known, row["model_version"], trainer_of(row))
    try:
        items = load_items(item_factors_frame(fitted, exchange, known), exchange, fitted.model.mean)
    finally:
        fitted.release()
    return Judged(items, fitted.model.item_gram, fitted.parameters, fitted.items.n_ids)


def _fold(judged: Judged, task: Task) -> DataFrame:
    numbered = judged.items.frame.withColumnRenamed("id", "item_id")
    pairs = task.known.join(numbered, on="item_id", how="left")
    return fold_in(pairs, judged.items.shipped, judged.gram, judged.parameters, judged.n_items, task.n_blocks)


def _lists(judged: Judged, users: DataFrame, task: Task, k: int) -> pd.DataFrame:
    best = score_top_k(users, task.known, judged.items.shipped, k, task.n_blocks)
    return best.select("user_id", "rank", "item_id").toPandas()


def _ranking_figures(
    context: Context, judged: Judged, rivals: dict[str, Judged], task: Task, headline: str
) -> dict[tuple[str, str], Interval]:
    k = context.settings.evaluate.k
    truth = task.truth.select("user_id", "item_id").toPandas()
    folded = keep(_fold(judged, task))
    nobody = folded.withColumn("factor", F.transform("factor", lambda _: F.lit(0.0).cast("float")))
    lists = {"model": _lists(judged, folded, task, k), "popularity": _lists(judged, nobody, task, k)}
    release(folded)
    for name, rival in rivals.items():
        lists[name] = _lists(rival, _fold(rival, task), task, k)
    users = pd.Index(np.sort(truth["user_id"].unique()))
    items = pd.Index(pd.unique(pd.concat([truth["item_id"], *(frame["item_id"] for frame in lists.values())])))
    truth_ptr, truth_items = _compressed(users, items, truth)
    figures: dict[tuple[str, str], Interval] = {}
    per_user = {}
    for name, frame in lists.items():
        matrix = np.full((len(users), k), -1, np.int64)
        matrix[users.get_indexer(pd.Index(frame["user_id"])), frame["rank"].to_numpy() - 1] = items.get_indexer(
            pd.Index(frame["item_id"])
        )
        per_user[name] = ranking_metrics(matrix, truth_ptr, truth_items, k)
        figures |= {(name, metric): mean_interval(values) for metric, values in per_user[name].items()}
        share = coverage(matrix, max(len(items), len(judged.items.factors)), k)
        figures[name, f"coverage@{k}"] = Interval(share, share, share, len(users))
    if "live" in per_user:
        figures[DIFFERENCE, headline] = paired_interval(per_user["model"][headline], per_user["live"][headline])
    return figures


def _compressed(users: pd.Index, items: pd.Index, pairs: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row, item = users.get_indexer(pd.Index(pairs["user_id"])), items.get_indexer(pd.Index(pairs["item_id"]))
    row_ptr = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(users)), out=row_ptr[1:])
    return row_ptr, item[np.argsort(row, kind="stable")]


def _rating_figures(judged: Judged, rivals: dict[str, Judged], task: Task) -> dict[tuple[str, str], Interval]:
    """RMSE and MAE of the held-out ratings, beside the mean and the bias model learnt from the same known ratings."""
    held = _predicted(judged, task)
    known = task.known.select("user_id", "item_id", "value").toPandas()
    user_ids, item_ids = pd.Index(known["user_id"].unique()), pd.Index(known["item_id"].unique())
    ratings = known["value"].to_numpy(np.float64)

    def codes(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        users = user_ids.get_indexer(pd.Index(frame["user_id"]))
        return users, item_ids.get_indexer(pd.Index(frame["item_id"]))

    baseline = BiasBaseline.fit(*codes(known), ratings, len(user_ids), len(item_ids))
    owner = pd.factorize(held["user_id"])[0]
    actual = held["value"].to_numpy(np.float64)
    guesses = {
        "model": held["predicted"].to_numpy(),
        "biases": baseline.predict(*codes(held)),
        "mean": np.full(len(actual), ratings.mean()),
    } | {name: _predicted(rival, task)["predicted"].to_numpy() for name, rival in rivals.items()}
    figures = {
        (name, metric): interval
        for name, guess in guesses.items()
        for metric, interval in rating_errors(owner, guess, actual).items()
    }
    if "live" in guesses:
        of_user = {name: _rmse_by_user(owner, guesses[name] - actual) for name in ("model", "live")}
        # A gain is what the live model errs more.
        figures[DIFFERENCE, "rmse"] = paired_interval(of_user["live"], of_user["model"])
    return figures


def _rmse_by_user(owner: NDArray[np.int64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.bincount(owner, weights=errors**2) / np.bincount(owner))


def _predicted(judged: Judged, task: Task) -> pd.DataFrame:
    """Return the held-out pairs with their predicted ratings, by (user, item), the same rows for every model."""
    numbered = judged.items.frame.withColumnRenamed("id", "item_id")
    users = _fold(judged, task).select("user_id", "factor", "bias")
    held = task.truth.join(numbered, on="item_id", how="left").join(users, on="user_id").toPandas()
    held = held.sort_values(["user_id", "item_id"], ignore_index=True)
    position = held["position"].fillna(-1).to_numpy().astype(np.int64)
    in_model = position >= 0
    predicted = judged.items.shipped.mean + held["bias"].to_numpy(np.float64)
    factors = np.stack(held["factor"].to_list()).astype(np.float64)
    predicted[in_model] += judged.items.biases[position[in_model]]
    predicted[in_model] += np.einsum("nk,nk->n", factors[in_model], judged.items.factors[position[in_model]])
    return held.assign(predicted=predicted)


def _write(
    context: Context, figures: dict[tuple[str, str], Interval], version: str, split: str, rival: str | None
) -> int:
    moment = registry.now()
    rows = [
        {
            "model_version": version,
            "split": split,
            "name": name,
            "metric": metric,
            **{end: _finite(getattr(interval, end)) for end in ("value", "lower", "upper")},
            "n": interval.n,
            "recorded_at": moment,
            "run_id": context.run_id,
        }
        for (name, metric), interval in figures.items()
    ]
    path = context.lake.own("evaluation")
    # A run killed before its models row judges again; the name says what was judged, so it stands once.
    app_id = f"evaluate:{version}:{split}@{context.settings.evaluate.k}:{rival}"
    return context.append_rows(rows, path, SCHEMAS["evaluation"], app_id=app_id).version


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
