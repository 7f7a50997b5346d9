"""Judge a candidate on events it has not seen: reads its factors, interactions and the tables handed in, writes
evaluation, calibrations and a models row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from pyspark.sql import Row

from factorlake.errors import NOTHING_TO_DO
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.evaluate_tables import candidate_pairs, contents, held_out_pairs
from factorlake.pipelines.judged_calibration import Calibrated
from factorlake.pipelines.judgement import Others, judge
from factorlake.pipelines.judging import LIVE, MODEL, Figures, Measured, difference, split_pairs, task_of
from factorlake.pipelines.models import chosen_model, of_its_settings
from factorlake.spark.compat import keep, release
from factorlake.spark.exchange import Exchange
from factorlake.tables import registry
from factorlake.tables.schemas import SCHEMAS

GAIN = "gain_over"
RULE = "evaluate_rule"
"""The metric that tells by which settings a model was judged: a hash of them, as a number that a double holds."""
# One user tells nothing of the spread, so a gain needs more.
COMPARED = 2


def judged_users(split: str) -> str:
    """Return the metric that tells how many users a split judged a model on."""
    return f"judged_users:{split}"


def run(
    context: Context,
    model: str | None = None,
    recommendations: Sequence[str] = (),
    names: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> JobResult:
    """Judge a candidate beside baselines and, on the same users, the published model.

    Each model folds every judged user in on the known events and is judged by the held-out ones.

    recommendations : tables (user_id, item_id, rank or score) that are judged beside it; ``names`` are theirs, in the
        same order. compare : "pyspark_ml" trains that one's ALS and judges it too. With either the judgement is made
        also where it has been made before.
    """
    row = chosen_model(context, model)
    context = of_its_settings(context, row)
    spark, lake, settings = context.spark, context.lake, context.settings
    version, split = row["model_version"], settings.evaluate.split
    headline = "rmse" if row["objective"] == "explicit" else f"ndcg@{settings.evaluate.k}"
    others = Others(tuple(recommendations), tuple(names), tuple(compare))
    live = registry.publication(spark, lake, settings.publish.slot)
    if live is not None and live["model_version"] == version:
        live = None
    done, rule = dict(row["metrics"] or {}), _rule(context, row)
    # What the gate decides by is the judgement made last, so only that one counts as made; one of before the rule was
    # noted is taken as it is.
    n_judged = done.get(judged_users(split))
    few = n_judged is not None and n_judged < COMPARED
    settled = live is None or split != "time" or f"{GAIN}:{live['model_version']}:lower" in done
    made = n_judged is not None and (few or (headline in done and settled)) and done.get(RULE, rule) == rule
    if row["state"] != "trained" and made and not others:
        return JobResult(NOTHING_TO_DO, f"model {version} is judged already", model_version=version)
    if split == "time" and row["cutoff"] is None:
        return JobResult(
            NOTHING_TO_DO,
            f"model {version} was trained on all events, so nothing is left to judge it: set train.holdout_days, "
            "or evaluate.split to last_n, per_user, hash or given",
            model_version=version,
        )
    known, held = split_pairs(context, row)
    known = keep(known)
    with ExitStack() as until_done:
        until_done.callback(release, known)
        task = task_of(context, known, held, row["objective"] == "explicit", row["n_observed"])
        until_done.callback(task.release)
        if task.counts["judged_users"] == 0:
            # The gate must be able to tell a model that nobody could judge from one that was not judged.
            _record(context, row, {judged_users(split): 0.0, RULE: rule})
            return JobResult(
                NOTHING_TO_DO, "no held-out event belongs to a known user", counts=task.counts, model_version=version
            )
        context.progress(f"judging {version} on {task.counts['judged_users']} users")
        exchange = until_done.enter_context(Exchange(spark, lake.exchange(version)))
        judgement = judge(context, row, task, live if split == "time" else None, others, exchange)
    figures = judgement.figures
    metrics = {key.metric: figures[key].value for key in figures if key.name == MODEL and key.slice is None}
    metrics[judged_users(split)] = float(task.counts["judged_users"])
    gain = figures.get(Measured(difference(LIVE), headline))
    if live is not None and gain is not None and gain.n >= COMPARED:
        name = f"{GAIN}:{live['model_version']}"
        metrics |= {f"{name}:mean": gain.value, f"{name}:lower": gain.lower}
    # A run killed before its models row judges again; this says what was judged, so it stands once.
    against = None if live is None else live["model_version"]
    judged_by = f"{version}:{split}@{settings.evaluate.k}:{against}:{rule:.0f}:{judgement.others}"
    versions = {"evaluation": _write(context, figures, version, judged_by)}
    if judgement.calibration is not None:
        versions["calibrations"] = _write_calibration(context, judgement.calibration, version, judged_by)
    _record(context, row, {**metrics, RULE: rule})
    return JobResult(counts=task.counts, versions=versions, model_version=version, details={"metrics": metrics})


def _rule(context: Context, row: Row) -> float:
    """Return a hash of all that decides on a judgement beside the models: settings other than their defaults, and the
    tables that it is made by."""
    settings = context.settings.evaluate
    what = settings.model_dump(mode="json", exclude={"margin"}, exclude_defaults=True)
    if settings.split == "given":
        what["held_out"] = contents(held_out_pairs(context, row["objective"] == "explicit"))
    if settings.candidates:
        what["candidates"] = contents(candidate_pairs(context))
    # 48 bits: a double holds every whole number up to 2⁵³.
    return float(int(hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12], 16))


def _record(context: Context, row: Row, metrics: dict[str, float]) -> None:
    """Record a judgement. Lists and a publication that came before stay what they are."""
    state = "evaluated" if row["state"] == "trained" else row["state"]
    context.record_model({**row.asDict(), "state": state, "metrics": metrics})


def _write(context: Context, figures: Figures, version: str, judged_by: str) -> int:
    settings, path = context.settings.evaluate, context.lake.own("evaluation")
    moment = registry.next_moment(context.spark, path)
    rows = [
        {
            "model_version": version,
            # Ranks among a few candidates are no ranks among all items.
            "split": settings.split + ("_sampled" if settings.candidates else ""),
            "name": name,
            "metric": metric,
            **{end: _finite(getattr(interval, end)) for end in ("value", "lower", "upper")},
            "n": interval.n,
            "recorded_at": moment,
            "run_id": context.run_id,
            "slice": part,
        }
        for (name, metric, part), interval in figures.items()
    ]
    return context.append_rows(rows, path, SCHEMAS["evaluation"], app_id=f"evaluate:{judged_by}").version


def _write_calibration(context: Context, found: Calibrated, version: str, judged_by: str) -> int:
    path = context.lake.own("calibrations")
    scores, probabilities = found.calibration.to_lists()
    row = {
        "model_version": version,
        "split": context.settings.evaluate.split,
        "scores": scores,
        "probabilities": probabilities,
        "n": found.n,
        "recorded_at": registry.next_moment(context.spark, path),
        "run_id": context.run_id,
    }
    return context.append_rows([row], path, SCHEMAS["calibrations"], app_id=f"calibrate:{judged_by}").version


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
