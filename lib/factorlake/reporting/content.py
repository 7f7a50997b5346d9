"""What a run report says, as plain data: no Spark, no user ids, no secrets.

The records mirror the tables they are filled from, so that ``records(TraceRow, rows)`` takes the rows of
training_trace as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from factorlake.errors import FactorlakeError
from factorlake.models.spectrum import Spectrum
from factorlake.reporting.markup import Html
from factorlake.reporting.masking import masked_settings
from factorlake.reporting.text import ABSENT, figure
from factorlake.types import FloatVector, IntVector

RANKING_HEADLINES = ("ndcg", "recall", "map", "hit", "precision", "mrr")
RATING_ERRORS = ("rmse", "mae")
PROBABILITY_ERRORS = ("ece", "ece_of_scores", "brier")
BASELINES = ("popularity", "neighbours", "biases", "mean")
CURVE_POINTS = 120

Record = TypeVar("Record")


@dataclass(frozen=True)
class Stage:
    """One stage of the run and its length in seconds."""

    name: str
    seconds: float
    outcome: str = "done"


@dataclass(frozen=True)
class Batch:
    """Where the records of one batch went: input = accepted + quarantined + duplicates + superseded.

    ``reasons`` counts quarantined records by reason; a record with two reasons counts under both.
    ``passed`` is the gate's word: of a refused batch (False) nothing was taken, its figures say what would
    have been.

    Raises FactorlakeError when the figures do not add up: a report never shows an account that does not.
    """

    batch: str
    input: int
    accepted: int
    quarantined: int
    duplicates: int
    superseded: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    passed: bool = True
    gate_reason: str = ""

    def __post_init__(self) -> None:
        total = self.accepted + self.quarantined + self.duplicates + self.superseded
        if self.input != total:
            raise FactorlakeError(
                f"row accounting of batch {self.batch} does not add up: {self.input} records in, "
                f"{total} accepted, quarantined, duplicate or superseded; validate the batch again"
            )


@dataclass(frozen=True)
class Accounting:
    """The batches of a run together: input = accepted + quarantined + duplicates + superseded + held_back."""

    input: int
    accepted: int
    quarantined: int
    duplicates: int
    superseded: int
    held_back: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Expectation:
    """One Great Expectations result. ``success`` None: it did not run. ``value``: rows that broke it."""

    rule: str
    success: bool | None
    value: float | None = None
    batch: str = ""


@dataclass(frozen=True)
class HistoryCheck:
    """What one check said of one batch beside the log's own history. ``sentence`` tells it in words."""

    batch: str
    name: str
    passed: bool
    action: str
    sentence: str


@dataclass(frozen=True)
class TraceRow:
    """One half step, as in training_trace. ``state``: the loss is that before it, after it, or final."""

    epoch: int
    side: str
    state: str
    loss: float
    observed_loss: float
    regularization_loss: float
    seconds: float
    metric_name: str | None = None
    metric: float | None = None
    plan: str = ""
    solver: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One metric of the model or a baseline, as in the table evaluation, with its 95 % interval."""

    split: str
    name: str
    metric: str
    value: float
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    slice: str | None = None
    """Of whom alone it is told: KIND=LABEL, or cold; None: all warm users."""


@dataclass(frozen=True)
class CalibrationCurve:
    """The map from score to the probability of a hit: its knots, scores ascending, and the listed items behind it."""

    split: str
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    n: int


@dataclass(frozen=True)
class Suggestion:
    """One recommended item by name. ``source``: model, or popularity for users the model does not know."""

    item: str
    score: float
    source: str = "model"


@dataclass(frozen=True)
class UserSample:
    """A user without a name: what they already had, and what they are recommended, best first."""

    history: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    history_total: int = 0
    """How many items the user had, where ``history`` shows only some."""


@dataclass(frozen=True)
class PlantedShare:
    """How much of a planted taste the model found, with the one line that says what the figure means."""

    value: float
    definition: str


@dataclass(frozen=True)
class Skew:
    """How unevenly observations fall on one side. ``curve``: (rank, observations), most observed first."""

    side: str
    rows: int
    observations: int
    median: float
    longest: int
    top_share: float
    """Share of the observations that the most observed 1 % of the rows (at least one row) hold."""
    curve: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Publication:
    """Whether the lists went live, where, and why (not)."""

    published: bool
    slot: str
    reason: str
    changed: int | None = None
    unchanged: int | None = None


@dataclass(frozen=True)
class Topic:
    """What stands out in one factor of a non-negative factorization: columns by name, largest first."""

    words: tuple[str, ...]
    weights: tuple[float, ...]
    share: float
    """Of all that the factors together make up."""


@dataclass(frozen=True)
class Drawing:
    """A drawing or picture that is markup already (`plots` and `pictures` make them), and what it shows."""

    markup: Html
    caption: str


@dataclass(frozen=True)
class Decomposition:
    """How a matrix was taken apart."""

    method: str
    source: str
    """What the matrix is, in a few words."""
    facts: tuple[tuple[str, str], ...]
    """(what, figure), in order."""
    drawings: tuple[Drawing, ...] = ()
    topics: tuple[Topic, ...] = ()


@dataclass(frozen=True)
class SearchTrial:
    """One trial of a search for settings."""

    number: int
    stage: str
    rank: int
    regularization: float
    weight: float | None
    """α0, or α where the objective has one; None where it has neither."""
    value: float
    """NaN where the trial failed."""
    best_epoch: int
    seconds: float
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Search:
    """A search for settings: what was tried, and what it is compared with."""

    metric: str
    larger_is_better: bool
    protocol: str
    """What judged the trials, in a few words."""
    weight_name: str
    """What ``SearchTrial.weight`` is."""
    trials: tuple[SearchTrial, ...]
    compared: tuple[tuple[str, float], ...]
    """(name, value) on the same held-out pairs."""
    facts: tuple[tuple[str, str], ...]
    """(what, figure) of the result, in order."""
    drawings: tuple[Drawing, ...] = ()

    @property
    def rank_curve(self) -> tuple[tuple[int, float], ...]:
        """(rank, best value) of each rank that was tried, ranks ascending."""
        best: dict[int, float] = {}
        choose = max if self.larger_is_better else min
        for trial in self.trials:
            if np.isfinite(trial.value):
                best[trial.rank] = choose(best.get(trial.rank, trial.value), trial.value)
        return tuple(sorted(best.items()))


@dataclass(frozen=True)
class RunReport:
    """Everything a run reports. Parts that a run did not reach stay empty, and are then left out of the page.

    ``settings`` are masked on the way in (see masking.py), so that no caller can forget it.
    """

    run_id: str
    recommender: str
    started: datetime
    state: str = "done"
    reason: str = ""
    model_version: str | None = None
    users: int | None = None
    items: int | None = None
    pairs: int | None = None
    stages: tuple[Stage, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[Batch, ...] = ()
    history: tuple[HistoryCheck, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    trace: tuple[TraceRow, ...] = ()
    spectrum: Spectrum | None = None
    evaluation: tuple[MetricRow, ...] = ()
    slices: tuple[MetricRow, ...] = ()
    validation: tuple[MetricRow, ...] = ()
    """Baselines on the ratings that stochastic gradients hold out for themselves."""
    calibration: CalibrationCurve | None = None
    samples: tuple[UserSample, ...] = ()
    planted: PlantedShare | None = None
    skews: tuple[Skew, ...] = ()
    scores: FloatVector | None = None
    """Scores of published lists (or a sample of them), for their distribution."""
    versions: Mapping[str, int] = field(default_factory=dict)
    publication: Publication | None = None
    decomposition: Decomposition | None = None
    search: Search | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", masked_settings(self.settings))

    @property
    def seconds(self) -> float:
        """Seconds of all stages together."""
        return float(sum(stage.seconds for stage in self.stages))

    @property
    def accounting(self) -> Accounting:
        """The batches taken together; what refused batches held is held back."""
        taken = [batch for batch in self.batches if batch.passed]
        reasons: dict[str, int] = {}
        for batch in taken:
            for reason, count in batch.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        return Accounting(
            input=sum(batch.input for batch in self.batches),
            accepted=sum(batch.accepted for batch in taken),
            quarantined=sum(batch.quarantined for batch in taken),
            duplicates=sum(batch.duplicates for batch in taken),
            superseded=sum(batch.superseded for batch in taken),
            held_back=sum(batch.input for batch in self.batches if not batch.passed),
            reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        )

    @property
    def headline(self) -> tuple[MetricRow, MetricRow | None] | None:
        """The model's most telling metric and the first baseline beside it; None when nothing was judged."""
        models = [row for row in self.evaluation if row.name == "model"]
        for wanted in (*RANKING_HEADLINES, *RATING_ERRORS):
            for row in models:
                if row.metric.split("@")[0] == wanted:
                    return row, self._baseline_of(row)
        return None

    def _baseline_of(self, row: MetricRow) -> MetricRow | None:
        for name in BASELINES:
            for other in self.evaluation:
                if (other.split, other.name, other.metric) == (row.split, name, row.metric):
                    return other
        return None


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one (errors of ratings and of probabilities)."""
    return metric.split("@")[0] in (*RATING_ERRORS, *PROBABILITY_ERRORS)


def beside_baseline(report: RunReport) -> str:
    """Return the headline metric against its baseline in words; "–" when there is none to compare with."""
    row, baseline = report.headline or (None, None)
    if row is None or baseline is None:
        return ABSENT
    named = f"{baseline.name} {figure(baseline.value)}"
    if lower_is_better(row.metric) or not baseline.value > 0:
        return f"beside {named}"
    return f"{row.value / baseline.value:.2f} × {baseline.name} ({figure(baseline.value)})"


def records(kind: type[Record], rows: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
    """Return one record per mapping, taking the columns that the record has and leaving the others."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return tuple(kind(**{key: value for key, value in row.items() if key in names}) for row in rows)


def skew_of(side: str, counts: IntVector) -> Skew | None:
    """Return how unevenly observations fall on the rows of one side.

    Parameters
    ----------
    side : user or item.
    counts : (n_rows,) observations of each row, in any order. No rows give None.
    """
    if len(counts) == 0:
        return None
    ordered = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    top = max(1, len(ordered) // 100)
    total = int(ordered.sum())
    ranks = np.unique(np.geomspace(1, len(ordered), CURVE_POINTS).round().astype(np.int64))
    return Skew(
        side=side,
        rows=len(ordered),
        observations=total,
        median=float(np.median(ordered)),
        longest=int(ordered[0]),
        top_share=float(ordered[:top].sum() / total) if total else 0.0,
        curve=tuple((int(rank), int(ordered[rank - 1])) for rank in ranks),
    )
