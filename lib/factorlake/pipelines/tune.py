"""Search settings: reads interactions, writes trials, a conf file and a report.

Trials are trained on a part of the events that `train` may know of and judged on the rest of them. What the holdout of
`train` keeps for `evaluate` is never looked at.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.models.held_out import LIST_METRICS, HeldOutLists, HeldOutMetric
from factorlake.models.parameters import AlsParameters
from factorlake.models.search import Space, Trial, rank_curve
from factorlake.models.trials import Outcome, Searched, TrialRunner, proposed, scales_of, search
from factorlake.models.tuning import check_metric
from factorlake.paths import has_scheme, resolved
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.holdout import cutoff_of
from factorlake.pipelines.models import selected_events
from factorlake.pipelines.report import save_report
from factorlake.pipelines.tune_conf import conf_text, write_conf
from factorlake.pipelines.tune_folds import OpenFolds, check_split, metric_of, open_folds
from factorlake.pipelines.tune_records import BASELINE, CHOSEN, GIVEN, SearchRecord, parameters_of, search_id_of
from factorlake.pipelines.tune_report import Result, conf_comments, names_of, search_report, trial_line
from factorlake.reporting.text import figure, plural
from factorlake.spark.pairs import fingerprint
from factorlake.tables import delta_io

NO_FACTORS = 1e6
"""λ under which factors stay at 0, so that biases are all there is."""
BASELINE_EPOCHS = 10


def run(context: Context) -> JobResult:
    """Search until the budget is spent, or the time is up; a search that was cut off goes on where it stopped.

    A search is named by its events' contents, its settings and the seed: one that is complete is not made again (99).
    """
    spark, settings, tune = context.spark, context.settings, context.settings.tune
    began = time.perf_counter()
    start = als_parameters(settings)
    metric = metric_of(tune, start)
    check_metric(metric, start)
    check_split(tune, settings.train.holdout_days)
    out = _out(context)
    interactions_version = delta_io.version(spark, context.lake.shared("interactions"))
    events = selected_events(context, interactions_version)
    print_of = fingerprint(events)
    newest: Any = print_of["newest"]
    cutoff = cutoff_of(newest, settings.train.holdout_days)
    search_id = search_id_of(context, str(print_of["hash"]))
    name = f"{metric}@{tune.k}" if metric in LIST_METRICS else metric
    record = SearchRecord(context, search_id, name)
    if CHOSEN in record.rows:
        return _complete(record, start, out)
    known = events if cutoff is None else events.where(F.col("event_time") <= F.lit(cutoff))
    lowest = replace(start, rank=tune.base_rank)
    with open_folds(context, known, lowest, metric, context.lake.search_folder(search_id)) as opened:
        problem = opened.folds[0].plan.problem
        # More factors than users or items to tell apart say nothing.
        base_rank = min(tune.base_rank, problem.n_users, problem.n_items)
        space = Space(start, scales_of(opened.folds[0].plan), base_rank, tune.max_rank, tune.max_epochs)
        runner = TrialRunner(opened.folds, space, tune.trials, settings.seed, opened.refuse)
        compared = _compared(record, runner, opened, start, metric)

        def tell(trial: Trial, outcome: Outcome) -> None:
            proposal = trial.proposal
            parameters = space.parameters(proposal.point, proposal.rank, proposal.epochs)
            record.keep_trial(proposal, parameters, outcome)
            context.progress(trial_line(record, trial, outcome, parameters))

        if record.done:
            context.progress(f"search {search_id} goes on after {plural(len(record.done), 'trial')}")
        ran_before = len(record.done)
        searched = search(runner, record.done, tell, lambda: _in_time(tune.max_minutes, began))
        is_complete = proposed(runner, searched.trials) is None
    result = _result(searched, start, compared[GIVEN])
    told = conf_comments(record, searched.trials, result, compared)
    text = conf_text(result.parameters, told)
    if out is not None:
        write_conf(out, text)
    if is_complete:
        best = searched.outcomes[result.number - 1] if result.number else compared[GIVEN]
        record.keep(CHOSEN, result.number, result.parameters, best)
    spent = time.perf_counter() - began
    state = "" if is_complete else f"; stopped after {spent / 60:.1f} minutes, run again to go on"
    job = JobResult(
        reason=f"{told[1]}{state}",
        counts={
            "trials": len(searched.trials),
            "new_trials": len(searched.trials) - ran_before,
            "users": problem.n_users,
        },
        versions={"interactions": interactions_version, "trials": record.version},
        details={
            "search_id": search_id,
            "complete": is_complete,
            "metric": name,
            "value": record.natural(result.value),
            "given": record.natural(compared[GIVEN].value),
            "baseline": record.natural(compared[BASELINE].value),
            "rank_curve": {str(rank): record.natural(one) for rank, one in rank_curve(searched.trials).items()},
            "settings": text,
            "conf": out,
        },
    )
    report = search_report(record, searched, result, compared, job, spent)
    job.details["report"], job.details["summary"] = save_report(context, report)
    return job


def _out(context: Context) -> str | None:
    """Return the path of the conf file; None where none is named and the tables lie in a store."""
    if context.settings.tune.out is None:
        return context.lake.tuned() if context.lake.is_local else None
    if has_scheme(context.settings.tune.out):
        raise ConfigError(f"tune.out {context.settings.tune.out} is in a store: name a file of this machine")
    return resolved(context.settings.tune.out)


def _complete(record: SearchRecord, start: AlsParameters, out: str | None) -> JobResult:
    """Return the end of a job whose search is complete; its conf file is written again where it is gone, or where
    another search has written over it."""
    row = record.rows[CHOSEN]
    result = Result(parameters_of(row, start), record.natural(row["value"]), row["trial"])
    compared = {stage: found for stage in (GIVEN, BASELINE) if (found := record.outcome_of(stage)) is not None}
    told = conf_comments(record, [trial for trial, _ in record.done], result, compared)
    text = conf_text(result.parameters, told)
    if out is not None and not (os.path.exists(out) and Path(out).read_text(encoding="utf-8") == text):
        write_conf(out, text)
    return JobResult(
        NOTHING_TO_DO,
        f"search {record.search_id} is complete: {told[1]}",
        details={"search_id": record.search_id, "complete": True, "settings": text, "conf": out},
    )


def _in_time(max_minutes: float | None, began: float) -> bool:
    return max_minutes is None or time.perf_counter() - began < 60 * max_minutes


def _compared(
    record: SearchRecord, runner: TrialRunner[Any], opened: OpenFolds, start: AlsParameters, metric: HeldOutMetric
) -> dict[str, Outcome]:
    """Return what the search is compared with, measured once: the settings as given, and a baseline without factors:
    popularity, or biases alone."""
    found: dict[str, Outcome] = {}
    for stage in (BASELINE, GIVEN):
        before = record.outcome_of(stage)
        if before is None:
            if stage == GIVEN:
                parameters, outcome = start, runner.run_given(start)
            elif metric in LIST_METRICS:
                parameters, outcome = start, _popularity(opened, metric, record.context.settings.tune.k)
            else:
                parameters = replace(
                    start, rank=1, regularization=NO_FACTORS, biases=True, epochs=BASELINE_EPOCHS, nonnegative=False
                )
                outcome = runner.run_given(parameters)
            record.keep(stage, 0, parameters, outcome)
            before = outcome
        found[stage] = before
        record.context.progress(f"{names_of(metric)[stage]}: {record.metric} {figure(record.natural(before.value))}")
    return found


def _popularity(opened: OpenFolds, metric: HeldOutMetric, k: int) -> Outcome:
    began = time.perf_counter()
    values = []
    for fold, held in zip(opened.folds, opened.held_out, strict=True):
        assert isinstance(held, HeldOutLists)
        values.append(held.popularity(scales_of(fold.plan).item_counts, metric, k))
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan
    return Outcome(float(np.mean(values)), error, 0, 0, math.nan, time.perf_counter() - began)


def _result(searched: Searched, start: AlsParameters, given: Outcome) -> Result:
    """Return the best settings: those found, or those given where nothing found is better."""
    if not given.failed and given.value >= searched.best.value:
        return Result(replace(start, epochs=max(given.best_epoch, 1), tolerance=None), given.value, 0)
    return Result(searched.parameters, searched.best.value, searched.best.proposal.number)
