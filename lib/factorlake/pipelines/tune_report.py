"""What a search tells: a line a trial, the comments of the conf file, the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from factorlake.models.held_out import LIST_METRICS
from factorlake.models.parameters import AlsParameters
from factorlake.models.search import Trial, rank_curve
from factorlake.models.trials import Outcome, Searched
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.fit import als_parameters
from factorlake.pipelines.tune_records import BASELINE, GIVEN, SearchRecord
from factorlake.reporting.content import RunReport, Search, SearchTrial, Stage
from factorlake.reporting.search_plots import search_drawings
from factorlake.reporting.text import figure, plural


@dataclass(frozen=True)
class Result:
    """Settings and what they reached, greater being better."""

    parameters: AlsParameters
    value: float
    number: int
    """Of the trial; 0: the settings as given."""


def names_of(metric: str) -> dict[str, str]:
    """Return what a search is compared with, by stage."""
    return {GIVEN: "settings as given", BASELINE: "popularity" if metric in LIST_METRICS else "biases alone"}


def trial_line(record: SearchRecord, trial: Trial, outcome: Outcome, parameters: AlsParameters) -> str:
    """Return what is told of a trial when it has ended."""
    proposal = trial.proposal
    head = f"trial {proposal.number} {proposal.stage}, rank {proposal.rank}, λ {parameters.regularization:.3g}"
    if outcome.failed:
        return f"{head}: failed ({outcome.reason})"
    value = figure(record.natural(outcome.value))
    return f"{head}: {record.metric} {value} at epoch {outcome.best_epoch} ({outcome.seconds:.1f} s)"


def protocol_of(context: Context) -> str:
    """Return what judged the trials, in a few words."""
    tune = context.settings.tune
    if tune.split == "time":
        return f"the last {tune.holdout_days or context.settings.train.holdout_days:g} days"
    if tune.split == "last_n":
        return f"the last {plural(tune.last_n, 'item')} of each user"
    pairs = "each user's pairs" if tune.split == "per_user" else "the pairs"
    if tune.folds > 1:
        return f"{tune.folds} folds of {pairs}, by hash"
    return f"{100 * tune.test_share:g} % of {pairs}, by hash"


def conf_comments(
    record: SearchRecord, trials: Sequence[Trial], result: Result, compared: dict[str, Outcome]
) -> list[str]:
    """Return what stands above the settings in the conf file."""
    value = record.natural(result.value)
    beside = []
    for stage, name in names_of(record.metric.partition("@")[0]).items():
        other = record.natural(compared[stage].value)
        # Of an error the gain is what is taken off.
        gain = (value - other) / abs(other) if other else math.nan
        change = f" ({100 * gain:+.1f} %)" if math.isfinite(gain) else ""
        beside.append(f"{name} {figure(other)}{change}")
    curve = ", ".join(f"{rank}: {figure(record.natural(best))}" for rank, best in rank_curve(trials).items())
    return [
        f"Settings found by factorlake tune, search {record.search_id}, {plural(len(trials), 'trial')}.",
        f"{record.metric} {figure(value)} at rank {result.parameters.rank}; {'; '.join(beside)}",
        f"Judged on {protocol_of(record.context)}, within what train may know of; the test part was not looked at.",
        f"Best {record.metric} at each rank: {curve}.",
        "Lay it over the conf file it was found with: --config THAT --config THIS.",
    ]


def search_of(record: SearchRecord, searched: Searched, facts: tuple[tuple[str, str], ...]) -> Search:
    """Return the trials as the report has them."""
    start = als_parameters(record.context.settings)
    weight_name = "α" if start.alpha is not None else "α0"
    trials = []
    for trial, outcome in zip(searched.trials, searched.outcomes, strict=True):
        proposal = trial.proposal
        parameters = searched.space.parameters(proposal.point, proposal.rank, proposal.epochs)
        weight = parameters.alpha if parameters.alpha is not None else parameters.alpha0
        trials.append(
            SearchTrial(
                proposal.number,
                proposal.stage,
                proposal.rank,
                parameters.regularization,
                weight if start.objective == "implicit" else None,
                record.natural(outcome.value),
                outcome.best_epoch,
                outcome.seconds,
                outcome.reason,
            )
        )
    return Search(
        metric=record.metric,
        larger_is_better=record.metric.partition("@")[0] in LIST_METRICS,
        protocol=protocol_of(record.context),
        weight_name=weight_name,
        trials=tuple(trials),
        compared=(),
        facts=facts,
    )


def search_report(
    record: SearchRecord,
    searched: Searched,
    result: Result,
    compared: dict[str, Outcome],
    job: JobResult,
    seconds: float,
) -> RunReport:
    """Return the report of a search that ended, or stopped."""
    context, p = record.context, result.parameters
    facts = [("rank", str(p.rank)), ("regularization λ", f"{p.regularization:.4g}")]
    if p.objective == "implicit":
        facts.append(("unobserved weight α0", f"{p.alpha0:.4g}"))
        facts.append(("frequency offset κ", f"{p.count_offset:.4g}"))
        facts += [] if p.alpha is None else [("confidence α", f"{p.alpha:.4g}")]
    elif p.has_biases:
        facts.append(("ridge of biases λ_b", f"{p.bias_regularization:.4g}"))
    facts += [("frequency exponent ν", f"{p.nu:.3g}"), ("epochs", str(p.epochs))]
    facts += [(f"{record.metric} of it", figure(record.natural(result.value))), ("conf file", str(job.details["conf"]))]
    names = names_of(record.metric.partition("@")[0])
    found = replace(
        search_of(record, searched, tuple(facts)),
        compared=tuple((names[stage], record.natural(compared[stage].value)) for stage in names),
    )
    return RunReport(
        run_id=context.run_id,
        recommender=context.settings.recommender,
        started=datetime.now(UTC),
        reason=job.reason,
        stages=(Stage("tune", seconds),),
        settings=context.settings.model_dump(by_alias=True, mode="json"),
        versions=job.versions,
        search=replace(found, drawings=search_drawings(found)),
    )
